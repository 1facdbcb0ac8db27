"""How sessions end beside what still goes on: whoever is told too little, or too late, stays for ever, or speaks in another's place."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from pathlib import Path

import pytest

from carrier.core.stream import NOWHERE
from carrier.proxy.proxy import Proxy
from carrier.wire.frames import BINARY
from tests.support import (
    PATIENCE,
    Peer,
    cluster,
    config,
    echo,
    echoing,
    listener,
    port_of,
    running,
    tcp,
    tcp_server,
    udp,
    udp_server,
    wait_until,
)
from tests.wire import Wire, websocket, websocket_server

SIZE = 12 << 20
LARGE = {"max_message": 64 << 20, "max_frame": 64 << 20}


def idle(proxy: Proxy) -> None:
    """Let a listener of datagrams see that nobody has said anything for long."""
    now = asyncio.get_running_loop().time()
    for later in (0, 1000):
        proxy.listeners["in"].tick(now + later)
    assert not list(proxy.sessions())


# --- the last write of a full socket ------------------------------------------------------------------------------------------------


async def test_a_websocket_client_behind_a_full_upstream_is_heard_to_its_end() -> None:
    async with tcp_server() as server:
        front = listener("in", "up", protocol="WebSocket", options=LARGE)
        conf = config(clusters=[cluster("up", server.port)], listeners=[front])
        async with running(conf) as proxy, websocket(port_of(proxy, "in")) as client:
            upstream = await server.peer()
            upstream.end()
            await client.hears_close()
            client.says(BINARY, b"x" * SIZE)
            client.closes(1000)
            await client.hears_end()
            client.peer.close()
            (session,) = proxy.sessions()
            assert session.destination.full and session.source.paused  # type: ignore[attr-defined]
            assert len(await upstream.read_all()) == SIZE
            await wait_until(lambda: not list(proxy.sessions()), "for the session to end")


async def test_a_websocket_upstream_behind_a_full_client_is_closed() -> None:
    async def serve(wire: Wire) -> None:
        await wire.hears_close()
        wire.says(BINARY, b"x" * SIZE)
        wire.closes(1000)
        wire.peer.end()
        await wire.peer.reader.read()

    async with websocket_server(serve) as server:
        up = cluster("up", server.port, protocol="WebSocket", options=LARGE)
        async with running(config(clusters=[up], listeners=[listener("in", "up")])) as proxy:
            loop = asyncio.get_running_loop()
            with socket.socket() as client:
                client.setblocking(False)
                await loop.sock_connect(client, ("127.0.0.1", port_of(proxy, "in")))
                client.shutdown(socket.SHUT_WR)
                await wait_until(lambda: any(s.source.ended_out for s in proxy.sessions()), "for the end")  # type: ignore[attr-defined]
                (session,) = proxy.sessions()
                assert session.source.full and session.destination.paused  # type: ignore[attr-defined]
                got = 0
                while data := await asyncio.wait_for(loop.sock_recv(client, 1 << 20), PATIENCE):
                    got += len(data)
            assert got == SIZE
            ends = proxy.clusters["up"].ends  # type: ignore[attr-defined]
            await wait_until(lambda: not ends, "for the upstream's connection to be closed")


@pytest.mark.parametrize("count", range(2, 6))
async def test_a_websocket_client_behind_a_full_socket_of_packets_is_heard_to_its_end(tmp_path: Path, count: int) -> None:
    name = str(tmp_path / "up")
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.setblocking(False)
        server.bind(name)
        server.listen()
        up = {"name": "up", "spec": {"protocol": "UnixDomainSocket", "mode": "seqpacket"}, "endpoints": [{"spec": {"address": name}}]}
        front = listener("in", "up", protocol="WebSocket")
        async with running(config(clusters=[up], listeners=[front])) as proxy, websocket(port_of(proxy, "in")) as client:
            upstream, _ = await loop.sock_accept(server)
            with upstream:
                upstream.setblocking(False)
                upstream.shutdown(socket.SHUT_WR)
                await client.hears_close()
                for _ in range(count):
                    client.says(BINARY, b"x" * 150_000)
                client.closes(1000)
                await asyncio.sleep(0.05)  # how much the kernel holds decides where it becomes full
                for _ in range(count):
                    assert len(await loop.sock_recv(upstream, 1 << 18)) == 150_000
                await client.hears_end()
                client.peer.close()
                await wait_until(lambda: not list(proxy.sessions()), "for the session to end")


# --- a source of datagrams, which has no end of its own -------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [[], ["count"]], ids=["mirror first", "mirror second"])
@pytest.mark.parametrize("side", ["ingress", "egress"])
async def test_the_copy_of_a_udp_session_ends_with_it(before: list[str], side: str) -> None:
    async with tcp_server() as copy, udp_server() as server:
        clusters = [
            cluster("up", server.transport.get_extra_info("sockname")[1], protocol="UDP"),
            echo(),
            cluster("copy", copy.port),
            {"name": "count", "spec": {"protocol": "Metric"}},
            {"name": "mirror", "spec": {"protocol": "Mirror", "cluster": "copy"}},
        ]
        front = listener("in", "up" if side == "ingress" else "echo", protocol="UDP", **{side: [*before, "mirror"]})
        async with running(config(clusters=clusters, listeners=[front])) as proxy, udp(port_of(proxy, "in")) as client:
            client.send(b"hello")
            assert await client.read() == b"hello"
            peer = await copy.peer()
            assert await peer.read(5) == b"hello"
            idle(proxy)
            assert await peer.read_all() == b""


async def test_a_udp_session_through_a_remote_transform_ends_at_its_destination() -> None:
    async with tcp_server(echoing) as transform, tcp_server() as server:
        front = listener("in", "up", protocol="UDP", ingress=["remote"])
        clusters = [cluster("up", server.port), cluster("remote", transform.port)]
        async with running(config(clusters=clusters, listeners=[front])) as proxy, udp(port_of(proxy, "in")) as client:
            client.send(b"hello")
            peer = await server.peer()
            assert await peer.read(5) == b"hello"
            idle(proxy)
            assert await peer.read_all() == b""


async def test_what_comes_after_the_end_links_nothing() -> None:
    async with (
        running(
            config(clusters=[{"name": "gone", "spec": {"protocol": "Discard"}}], listeners=[listener("in", "gone", protocol="UDP")])
        ) as proxy,
        udp(port_of(proxy, "in")) as client,
    ):
        client.send(b"hello")
        await wait_until(lambda: list(proxy.sessions()), "for the session")
        idle(proxy)
    assert NOWHERE.to is NOWHERE and NOWHERE.back is NOWHERE


# --- HTTP ----------------------------------------------------------------------------------------------------------------------------

REQUEST = b"GET /%b HTTP/1.1\r\nhost: h\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"


async def killed(proxy: Proxy, client: Peer) -> None:
    """Kill the one session, and read what its client is told."""
    (session,) = proxy.sessions()
    session.kill()
    head = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE)
    assert head.startswith(b"HTTP/1.1 503 ")
    await client.read(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
    assert session.status == "DESTROYED" and session.error is not None and session.error.kind == "killed"


@pytest.mark.parametrize("protocol", ["HTTP", "TCP"])
async def test_the_answer_to_a_killed_request_is_not_given_to_the_next(protocol: str) -> None:
    async with tcp_server() as server:
        front = listener("in", "up", protocol="HTTP")
        conf = config(clusters=[cluster("up", server.port, protocol=protocol)], listeners=[front])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(REQUEST % b"one")
            first = await server.peer(0)
            await killed(proxy, client)
            client.send(REQUEST % b"two")
            second = await server.peer(1)
            with contextlib.suppress(ConnectionError):
                first.send(ANSWER + b"one")
                await asyncio.sleep(0.05)
            second.send(ANSWER + b"two")
            if protocol == "TCP":
                second.end()
            heard = b""
            while b"two" not in heard:
                heard += await asyncio.wait_for(client.reader.read(1000), PATIENCE)
    assert b"one" not in heard


async def test_a_killed_request_is_not_sent_again() -> None:
    async with tcp_server() as server:
        retry = {"retry_on": "always", "num_retries": 2, "timeout": 1000}
        route = {"destination": "up", "options": {"retry_statuses": [503]}, "retry": retry}
        front = listener("in", rules=[{"action": {"route": route}}], protocol="HTTP")
        conf = config(clusters=[cluster("up", server.port, protocol="HTTP")], listeners=[front])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(REQUEST % b"one")
            first = await server.peer(0)
            await killed(proxy, client)
            with contextlib.suppress(ConnectionError):
                first.send(b"HTTP/1.1 503 Busy\r\ncontent-length: 3\r\n\r\none")
            await asyncio.sleep(0.05)
            assert len(server.peers) == 1 and not list(proxy.sessions())
            assert all(endpoint.active == 0 for endpoint in proxy.clusters["up"].endpoints)


@pytest.mark.parametrize("side", ["ingress", "egress"])
async def test_an_upstream_connection_serves_on_after_a_transformed_request(side: str) -> None:
    async def serve(peer: Peer) -> None:
        while await peer.reader.read(65536):
            peer.send(ANSWER + b"yes")

    async with tcp_server(serve) as server:
        clusters = [cluster("up", server.port, protocol="HTTP"), {"name": "count", "spec": {"protocol": "Metric"}}]
        front = listener("in", "up", protocol="HTTP", **{side: ["count"]})
        async with running(config(clusters=clusters, listeners=[front])) as proxy, tcp(port_of(proxy, "in")) as client:
            for _ in range(5):
                client.send(REQUEST % b"")
                heard = b""
                while not heard.endswith((b"yes", b"0\r\n\r\n")):
                    heard += await asyncio.wait_for(client.reader.read(1000), PATIENCE)
        assert len(server.peers) == 1


# --- Sync -----------------------------------------------------------------------------------------------------------------------------


async def test_a_member_that_leaves_while_it_is_full_lets_the_others_go_on() -> None:
    clusters = [{"name": "s", "spec": {"protocol": "Sync", "query": "/IP/dst_addr"}}]
    async with running(config(clusters=clusters, listeners=[listener("in", "s")])) as proxy:
        port = port_of(proxy, "in")
        loop = asyncio.get_running_loop()
        async with tcp(port) as speaker, tcp(port) as hearer:
            with socket.socket() as slow:
                slow.setblocking(False)
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await loop.sock_connect(slow, ("127.0.0.1", port))
                await wait_until(lambda: len(list(proxy.sessions())) == 3, "for all three")
                await wait_until(lambda: all(s.status == "CONNECTED" for s in proxy.sessions()), "for all to be linked")
                speaker.send(b"x" * SIZE)
                got = 0
                with contextlib.suppress(TimeoutError):
                    while True:
                        got += len(await asyncio.wait_for(hearer.reader.read(1 << 20), 0.2))
                assert got < SIZE
            while got < SIZE:
                got += len(await asyncio.wait_for(hearer.reader.read(1 << 20), PATIENCE))
