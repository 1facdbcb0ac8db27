"""A connection is an object from its accept on: counted, limited, moved to a successor, drained, whatever it has said."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from carrier.model import Config
from carrier.proxy.proxy import Proxy
from tests.support import (
    TcpServer,
    ask,
    cluster,
    config,
    echo,
    echoing,
    listener,
    port_of,
    running,
    tcp,
    tcp_server,
    wait_until,
    without,
)

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
ANSWER = {"name": "answer", "spec": {"protocol": "Echo"}}


@pytest.fixture
def secured(tmp_path: Path) -> tuple[dict[str, str], ssl.SSLContext]:
    """A certificate in files, and a client that trusts it."""
    authority = trustme.CA()
    issued = authority.issue_cert("app.test")
    paths = {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    issued.cert_chain_pems[0].write_to_path(paths["certificate"])
    issued.private_key_pem.write_to_path(paths["key"])
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return paths, client


async def answering(peer: Any) -> None:
    """An upstream of HTTP."""
    while True:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


@contextlib.asynccontextmanager
async def web(protocol: str = "HTTP", **options: Any) -> AsyncIterator[tuple[Proxy, Config, TcpServer]]:
    """A listener of `protocol` before an HTTP upstream, with these options."""
    async with tcp_server(answering) as upstream:
        conf = config(
            clusters=[cluster("up", upstream.port, protocol="HTTP")], listeners=[listener("in", "up", protocol=protocol, options=options)]
        )
        async with running(conf) as proxy:
            yield proxy, conf, upstream


def changed(proxy: Proxy, protocol: str = "HTTP", spec: dict[str, Any] | None = None, destination: str = "up", **options: Any) -> Config:
    """The configuration in force, with other options of its listener."""
    return config(base=proxy.config, listeners=[listener("in", destination, protocol=protocol, spec=spec or {}, options=options)])


# -- a replaced listener hands its connections to its successor


@pytest.mark.parametrize("protocol", ["HTTP", "auto"])
async def test_a_change_of_options_resets_no_busy_client_and_closes_no_idle_one(protocol: str) -> None:
    async with web(protocol) as (proxy, _, _):
        port, ends = port_of(proxy, "in"), 0
        stop = asyncio.Event()

        async def ask_on() -> int:
            served = 0
            async with tcp(port) as client:
                while not stop.is_set():
                    client.send(REQUEST)
                    await client.reader.readuntil(b"\r\n\r\nok")
                    served += 1
            return served

        async with tcp(port) as idle:
            idle.send(REQUEST)
            await idle.reader.readuntil(b"\r\n\r\nok")
            clients = [asyncio.create_task(ask_on()) for _ in range(16)]
            for timeout in range(20, 26):
                await asyncio.sleep(0.02)
                await proxy.apply(changed(proxy, protocol, header_timeout=timeout))
                ends += 1
            stop.set()
            served = await asyncio.gather(*clients)
            assert min(served) > 0 and ends == 6
            idle.send(REQUEST)
            await idle.reader.readuntil(b"\r\n\r\nok")
        assert not proxy.draining or not any(old.connections for old in proxy.draining)
        assert proxy.listeners["in"].counter >= sum(served)


@pytest.mark.parametrize("protocol", ["HTTP", "auto", "WebSocket"])
async def test_a_head_that_is_half_said_is_finished_at_the_successor_or_times_out_there(protocol: str) -> None:
    async with web(protocol, header_timeout=1) as (proxy, _, _):
        port = port_of(proxy, "in")
        async with tcp(port) as stalls, tcp(port) as goes_on:
            for client in (stalls, goes_on):
                client.send(REQUEST[:20])
            await wait_until(lambda: proxy.connections() == 2)
            await proxy.apply(changed(proxy, protocol, header_timeout=1.1))
            assert proxy.connections() == 2 == len(proxy.listeners["in"].connections)
            goes_on.send(REQUEST[20:])
            assert (await goes_on.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 ")
            assert (await stalls.read_all()).startswith(b"HTTP/1.1 408 ")


async def test_a_connection_that_speaks_after_its_listener_was_replaced_is_listed_ticked_and_drained() -> None:
    async with tcp_server() as upstream:
        conf = config(clusters=[cluster("up", upstream.port, protocol="auto")], listeners=[listener("in", "up", protocol="auto")])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            await wait_until(lambda: proxy.connections() == 1)
            await proxy.apply(changed(proxy, "auto", raw_idle_timeout=1))
            client.send(b"raw\n")
            await wait_until(lambda: [s.listener for s in proxy.sessions()] == [proxy.listeners["in"]])
            await wait_until(lambda: not proxy.connections(), "for the new limit")


@pytest.mark.parametrize("protocol", ["TCP", "UnixDomainSocket"])
async def test_sessions_of_bytes_move_and_are_held_to_the_new_limits(protocol: str, tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    def conf(**options: Any) -> Config:
        spec = (
            {"protocol": protocol, "filename": path} if protocol != "TCP" else {"protocol": protocol, "port": port, "address": "127.0.0.1"}
        )
        rules = [{"action": {"route": {"destination": "echo"}}}]
        return config(clusters=[echo()], listeners=[{"name": "in", "spec": spec, "rules": rules, "options": options}])

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with running(conf()) as proxy:
        if protocol == "TCP":
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        else:
            reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"1")
        assert await asyncio.wait_for(reader.readexactly(1), 5) == b"1"
        await proxy.apply(conf(idle_timeout=1))
        writer.write(b"2")
        assert await asyncio.wait_for(reader.readexactly(1), 5) == b"2"
        assert [s.listener for s in proxy.sessions()] == [proxy.listeners["in"]]
        await wait_until(lambda: not proxy.connections(), "for the new limit")
        writer.transport.abort()


async def test_a_changed_tls_entry_lets_requests_finish_and_the_next_ones_shake_hands_anew(
    secured: tuple[dict[str, str], ssl.SSLContext], tmp_path: Path
) -> None:
    tls, client = secured
    waits = asyncio.Event()

    async def slowly(peer: Any) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await waits.wait()
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with tcp_server(slowly) as upstream:
        conf = config(
            clusters=[cluster("up", upstream.port, protocol="HTTP")], listeners=[listener("in", "up", protocol="HTTP", spec={"tls": tls})]
        )
        async with running(conf) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(proxy, "in"), ssl=client, server_hostname="app.test")
            writer.write(REQUEST)
            await wait_until(lambda: upstream.peers)
            await proxy.apply(changed(proxy, spec={"tls": [tls, {**tls, "sni": "other.test"}]}))
            waits.set()
            answer = await asyncio.wait_for(reader.read(), 5)
            assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer
            writer.close()
            await wait_until(lambda: not proxy.draining or not proxy.draining[0].connections)


# -- limits know every connection


@pytest.mark.parametrize("kind", ["TCP", "passthrough", "HTTP", "auto", "WebSocket"])
async def test_handshakes_that_are_not_finished_count_as_connections(kind: str, secured: tuple[dict[str, str], ssl.SSLContext]) -> None:
    tls, _ = secured
    spec: dict[str, Any] = {"tls": {"passthrough": True}} if kind == "passthrough" else {"tls": tls}
    protocol = "TCP" if kind == "passthrough" else kind
    conf = config(clusters=[echo()], listeners=[listener("in", protocol=protocol, spec=spec, options={"max_connections": 10})])
    async with running(conf) as proxy, contextlib.AsyncExitStack() as stack:
        for _ in range(40):
            client = await stack.enter_async_context(tcp(port_of(proxy, "in")))
            client.send(b"\x16\x03\x01")
        await asyncio.sleep(0.3)
        assert 5 <= proxy.connections() <= 10
        assert proxy.listeners["in"].limited


async def test_the_limit_of_the_process_knows_raw_sessions_of_auto_and_handshakes(secured: tuple[dict[str, str], ssl.SSLContext]) -> None:
    tls, _ = secured
    async with tcp_server() as upstream:
        clusters = [cluster("up", upstream.port, protocol="auto")]
        listeners = [listener("in", "up", protocol="auto"), listener("tls", "up", protocol="HTTP", spec={"tls": tls})]
        async with (
            running(config(clusters=clusters, listeners=listeners)) as proxy,
            tcp(port_of(proxy, "in")) as raw,
            tcp(port_of(proxy, "tls")),
        ):
            raw.send(b"raw\n")
            await upstream.peer()
            await wait_until(lambda: proxy.connections() == 2)


@pytest.mark.parametrize("protocol", ["HTTP", "auto"])
async def test_a_head_that_is_said_byte_by_byte_has_its_time_and_not_a_moment_more(protocol: str) -> None:
    async with web(protocol, header_timeout=1.5) as (proxy, _, _), tcp(port_of(proxy, "in")) as client:
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def drip() -> None:
            for byte in REQUEST[:-2] + b"x-a: b\r\n" * 100:
                client.send(bytes([byte]))
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 408 ")
        assert loop.time() - began <= 1.5 + 0.2
        dripping.cancel()


# -- a listener that stops


@pytest.mark.parametrize("protocol", ["HTTP", "auto", "TCP"])
async def test_what_waits_in_the_accept_queue_is_served_when_a_listener_stops(protocol: str) -> None:
    async with tcp_server(answering) as upstream:
        kind = "TCP" if protocol == "TCP" else "HTTP"
        conf = config(clusters=[cluster("up", upstream.port, protocol=kind)], listeners=[listener("in", "up", protocol=protocol)])
        async with running(conf) as proxy:
            port = port_of(proxy, "in")
            await ask(port, REQUEST)
            socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(24)]  # the loop has no turn in between
            for sock in socks[:12]:
                sock.sendall(REQUEST)
            await proxy.apply(without(conf, "listener", "in", recursive=True))
            for sock in socks[12:]:
                sock.sendall(REQUEST)

            async def answer(sock: socket.socket) -> bytes:
                sock.setblocking(False)
                reader, writer = await asyncio.open_connection(sock=sock)
                found = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
                writer.transport.abort()
                return found

            answers = await asyncio.gather(*map(answer, socks))
            assert all(one.startswith(b"HTTP/1.1 200") for one in answers)
        with pytest.raises(ConnectionRefusedError):
            await ask(port, REQUEST)


@pytest.mark.parametrize("protocol", ["HTTP", "auto", "WebSocket"])
async def test_who_has_said_nothing_gets_a_second_and_then_the_listener_is_gone(protocol: str) -> None:
    async with web(protocol) as (proxy, conf, _), tcp(port_of(proxy, "in")) as client:
        await wait_until(lambda: proxy.connections() == 1)
        began = asyncio.get_running_loop().time()
        await proxy.apply(without(conf, "listener", "in", recursive=True))
        assert [len(old.connections) for old in proxy.draining] == [1]
        assert await client.read_all() == b""
        assert asyncio.get_running_loop().time() - began >= 0.9
        await wait_until(lambda: not proxy.draining)


# -- ends that nobody hears of


async def test_a_reset_upstream_behind_a_client_that_does_not_read_is_noticed_in_time() -> None:
    async with tcp_server() as upstream:
        conf = config(
            clusters=[cluster("up", upstream.port)], listeners=[listener("in", "up", options={"half_close_timeout": 1, "idle_timeout": 0})]
        )
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"x")
            peer = await upstream.peer()
            await peer.read(1)
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
            peer.send(b"y" * (32 << 20))
            session = next(iter(proxy.sessions()))
            await wait_until(lambda: session.source.full)  # type: ignore[attr-defined]
            peer.reset()
            await wait_until(lambda: not proxy.connections(), "for half_close_timeout")


async def test_a_tunnels_last_bytes_to_a_peer_that_reads_no_more_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusters.http.h1.GRACE", 0.5)

    async def upgrade(peer: Any) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.reader._transport.pause_reading()
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
        peer.end()
        await asyncio.sleep(20)

    async with tcp_server(upgrade) as upstream:
        conf = config(clusters=[cluster("up", upstream.port, protocol="HTTP")], listeners=[listener("in", "up", protocol="HTTP")])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
            await client.reader.readuntil(b"\r\n\r\n")
            (session,) = proxy.sessions()
            transport = session.destination.transport  # type: ignore[attr-defined]
            while not transport.get_write_buffer_size():
                client.send(b"z" * 16384)
                await asyncio.sleep(0.002)
            client.end()
            await wait_until(lambda: not proxy.connections())
            proxy_side = upstream.peers[0].writer.get_extra_info("peername")
            assert _connected(proxy_side)
            await wait_until(lambda: not _connected(proxy_side), "for the connection to be given up")


def _connected(address: tuple[str, int]) -> bool:
    """Is a connection of TCP still held at this local address, by the kernel's own table?"""
    with open("/proc/net/tcp") as file:
        wanted = f"0100007F:{address[1]:04X}"
        return any(line.split()[1] == wanted and line.split()[3] in ("01", "08") for line in file.readlines()[1:])


async def test_an_error_of_making_a_session_is_not_taken_for_a_broken_connection() -> None:
    async with tcp_server(echoing) as upstream:
        conf = config(clusters=[cluster("up", upstream.port)], listeners=[listener("in", "up")])
        async with running(conf) as proxy:
            told: list[dict[str, Any]] = []
            found = proxy.listeners["in"]

            def broken(source: Any) -> Any:
                raise OSError("a fault of ours")

            found.begin = broken  # type: ignore[method-assign]
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: told.append(context))
            async with tcp(port_of(proxy, "in")):
                await wait_until(lambda: told)
            assert "a fault of ours" in str(told[0])
            told.clear()
