"""A change that needs the address that the listener itself has: handed over, or given up, bound, and bound back on failure."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from carrier.errors import Error
from carrier.model import Config
from tests.ports import free_port
from tests.support import ask, config, echo, http, running, tcp, udp, wait_until

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def only(spec: dict[str, Any], **options: Any) -> Config:
    """A configuration with one listener before an echo."""
    rules = [{"action": {"route": {"destination": "echo"}}}]
    return config(clusters=[echo()], listeners=[{"name": "in", "spec": spec, "rules": rules, "options": options}])


def at(port: int, protocol: str = "TCP", **spec: Any) -> dict[str, Any]:
    return {"protocol": protocol, "port": port, **spec}


@pytest.mark.parametrize("protocol", ["TCP", "HTTP", "auto", "WebSocket"])
@pytest.mark.parametrize("address", [("127.0.0.1", None), (None, "127.0.0.1"), ("0.0.0.0", "127.0.0.1")])
async def test_an_address_is_added_or_removed_and_nobody_is_reset(protocol: str, address: tuple[str | None, str | None]) -> None:
    port = free_port()
    before, after = ({"address": one} if one is not None else {} for one in address)
    async with running(only(at(port, protocol, **before))) as proxy, tcp(port) as client:
        if protocol in ("TCP", "auto"):
            client.send(b"raw\n")
            assert await client.read(4) == b"raw\n"
        else:
            await wait_until(lambda: proxy.connections() == 1)
        await proxy.apply(only(at(port, protocol, **after)))
        assert proxy.connections() == 1 == len(proxy.listeners["in"].connections)
        client.send(b"more" if protocol in ("TCP", "auto") else REQUEST)
        assert await client.read(4) in (b"more", b"HTTP")
        if protocol == "HTTP":
            assert (await http(port))[0] == 200
        with contextlib.suppress(ConnectionError):
            async with tcp(port):
                await wait_until(lambda: proxy.connections() >= 1)


@pytest.mark.parametrize("protocol", ["TCP", "HTTP"])
async def test_who_connects_while_the_address_changes_hands_is_served(protocol: str) -> None:
    port = free_port()
    async with running(only(at(port, protocol))) as proxy:
        await ask(port, REQUEST)
        socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]  # the loop has no turn in between
        await proxy.apply(only(at(port, protocol, address="127.0.0.1")))
        for sock in socks:
            sock.sendall(REQUEST)
            sock.setblocking(False)
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 4), 5) in (b"GET ", b"HTTP")
            sock.close()


@pytest.mark.parametrize("protocol", ["TCP", "HTTP", "UDP"])
async def test_what_cannot_be_bound_leaves_the_old_one_as_it_was(protocol: str) -> None:
    port = free_port(socket.SOCK_DGRAM if protocol == "UDP" else socket.SOCK_STREAM)
    async with running(only(at(port, protocol, address="127.0.0.1"))) as proxy:
        old = proxy.listeners["in"]
        with pytest.raises(Error):
            await proxy.apply(only(at(port, protocol, address="192.0.2.1")))
        assert proxy.listeners["in"] is old
        if protocol == "UDP":
            async with udp(port) as peer:
                peer.send(b"1")
                assert await peer.read() == b"1"
        else:
            assert (await ask(port, REQUEST))[:4] in (b"GET ", b"HTTP")


async def test_what_cannot_be_saved_gives_the_address_back() -> None:
    port = free_port()

    async def full(_: Config) -> None:
        raise Error("config", "the disk is full")

    async with running(only(at(port))) as proxy:
        proxy.persist = full
        with pytest.raises(Error, match="disk"):
            await proxy.apply(only(at(port, address="127.0.0.1")))
        assert await ask(port, b"x") == b"x"
        proxy.persist = None
        await proxy.apply(only(at(port, address="127.0.0.1")))
        assert await ask(port, b"x") == b"x"


async def test_a_udp_listener_goes_from_server_to_filter_to_singleton_and_back_on_its_port() -> None:
    port = free_port(socket.SOCK_DGRAM)
    spec = at(port, "UDP", address="127.0.0.1")
    async with running(only(spec)) as proxy, udp(port) as peer, udp(port) as other:
        for one in (peer, other):
            one.send(b"1")
            assert await one.read() == b"1"
        stayed = {session.source.address[1] for session in proxy.sessions()}  # type: ignore[attr-defined]
        assert stayed == {peer.port, other.port}
        await proxy.apply(only({**spec, "connect": {"port": peer.port}}))
        peer.send(b"2")
        assert await peer.read() == b"2"
        assert {s.source.address[1] for s in proxy.sessions()} == {peer.port}  # type: ignore[attr-defined]
        other.send(b"2")
        await wait_until(lambda: proxy.listeners["in"].dropped.get("filtered"))  # type: ignore[attr-defined]
        await proxy.apply(only({**spec, "connect": {"address": "localhost", "port": peer.port}}))
        peer.send(b"3")
        assert await peer.read() == b"3"
        await proxy.apply(only({**spec, "connect": {"address": "localhost", "port": peer.port}}, idle_timeout=7))
        peer.send(b"4")
        assert await peer.read() == b"4"
        await proxy.apply(only(spec))
        for one in (peer, other):
            one.send(b"5")
            assert await one.read() == b"5"
        assert not [old for old in proxy.draining if old.connections]


async def test_jsonsocket_over_a_connected_udp_port_is_changed() -> None:
    port, mine = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    transport = at(port, "UDP", address="127.0.0.1", connect={"port": mine})
    async with running(only({"protocol": "JSONSocket", "transport": transport})) as proxy:
        for timeout in (20, 21):
            await proxy.apply(only({"protocol": "JSONSocket", "transport": transport}, idle_timeout=timeout))
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", mine))
            sock.setblocking(False)
            sock.connect(("127.0.0.1", port))
            sock.send(json.dumps({"JSONSocketVersion": 1}).encode())
            answer = await asyncio.wait_for(loop.sock_recv(sock, 4096), 5)
            assert b"200" in answer
            sock.send(b"hello")
            assert await asyncio.wait_for(loop.sock_recv(sock, 4096), 5) == b"hello"


async def test_a_unix_socket_changes_its_mode_and_its_file_stays_or_comes_back(tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    def unix(mode: str, **options: Any) -> Config:
        return only({"protocol": "UnixDomainSocket", "filename": path, "mode": mode}, **options)

    async def full(_: Config) -> None:
        raise Error("config", "the disk is full")

    async with running(unix("stream")) as proxy:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"1")
        assert await reader.readexactly(1) == b"1"
        proxy.persist = full
        with pytest.raises(Error, match="disk"):
            await proxy.apply(unix("dgram"))
        proxy.persist = None
        _, second = await asyncio.open_unix_connection(path)
        await proxy.apply(unix("dgram"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind("")
            sock.connect(path)
            sock.setblocking(False)
            sock.send(b"message")
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 100), 5) == b"message"
        writer.write(b"2")
        assert await reader.readexactly(1) == b"2"
        writer.close()
        second.close()
        assert [p.name for p in tmp_path.iterdir()] == ["s"]
    assert not list(tmp_path.iterdir())
