"""WebSocket over TLS (wss), listener and cluster, against the library websockets: messages, ends, refusals; nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from carrier.errors import Error
from carrier.hops.bytesocket import ByteSocket
from carrier.proxy.proxy import Proxy
from listeners.websocket import WebSocketListener
from tests.support import cluster, config, echo, listener, port_of, running, saying, tcp, tcp_server, wait_until

NAME = "ws.test"


class Trust:
    """A certificate of NAME in files, a client's and a server's context."""

    def __init__(self, folder: Path) -> None:
        ca = trustme.CA()
        made = ca.issue_cert(NAME)
        self.ca, chain, key = (str(folder / name) for name in ("ca.pem", "chain.pem", "key.pem"))
        ca.cert_pem.write_to_path(self.ca)
        Path(chain).write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
        made.private_key_pem.write_to_path(key)
        self.certificate = {"certificate": chain, "key": key}
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.configure_cert(self.server)
        self.client = ssl.create_default_context(cafile=self.ca)


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust(tmp_path)


def wss(trust: Trust, destination: str = "echo", **fields: Any) -> dict[str, Any]:
    return listener("in", destination, protocol="WebSocket", spec={"tls": trust.certificate}, **fields)


def upstream(trust: Trust, port: int, **fields: Any) -> dict[str, Any]:
    made = cluster("up", port, protocol="WebSocket")
    made["spec"]["tls"] = {"sni": NAME, "ca": trust.ca, **fields}
    return made


def client(trust: Trust, port: int, **fields: Any) -> connect:
    return connect(f"wss://127.0.0.1:{port}/chat", ssl=trust.client, server_hostname=NAME, proxy=None, compression=None, **fields)


class Echo:
    """A WebSocket server over TLS that sends back what comes, and keeps its connections."""

    def __init__(self) -> None:
        self.peers: list[ServerConnection] = []

    async def __call__(self, ws: ServerConnection) -> None:
        self.peers.append(ws)
        with contextlib.suppress(ConnectionClosed):
            async for message in ws:
                await ws.send(message)


@contextlib.asynccontextmanager
async def between(trust: Trust) -> AsyncIterator[tuple[Proxy, Echo]]:
    """A proxy between TLS and TLS."""
    async with echoing(trust) as (server, port):
        conf = config(clusters=[upstream(trust, port)], listeners=[wss(trust, "up")])
        async with running(conf) as proxy:
            yield proxy, server


@contextlib.asynccontextmanager
async def echoing(trust: Trust) -> AsyncIterator[tuple[Echo, int]]:
    handler = Echo()
    async with serve(handler, "127.0.0.1", 0, ssl=trust.server, compression=None, close_timeout=0.2, max_size=None) as server:
        yield handler, next(iter(server.sockets)).getsockname()[1]


async def converse(ws: ClientConnection) -> None:
    for message in ("text", b"binary", b"", os.urandom(500_000), "last"):
        await ws.send(message)
        assert await asyncio.wait_for(ws.recv(), 5) == message


async def test_a_client_over_tls_is_a_session_like_any_other(trust: Trust) -> None:
    async with running(config(clusters=[echo()], listeners=[wss(trust)])) as proxy:
        async with client(trust, port_of(proxy, "in")) as ws:
            await converse(ws)
            (session,) = proxy.sessions()
            assert session.name.startswith("WS:127.0.0.1:") and session.metadata["HTTP"]["url"]["path"] == "/chat"
            assert session.metadata["TLS"]["sni"] == NAME and session.metadata["IP"]["src_addr"] == "127.0.0.1"
        await wait_until(lambda: not list(proxy.sessions()), "for the session to end")


async def test_from_tls_to_tls_messages_and_close_codes_pass(trust: Trust) -> None:
    async with between(trust) as (proxy, server):
        async with client(trust, port_of(proxy, "in"), additional_headers={"x-own": "kept"}) as ws:
            await converse(ws)
            request = server.peers[0].request
            assert request is not None and request.headers["x-own"] == "kept" and request.headers["x-forwarded-proto"] == "https"
            await ws.close(4001, "enough")
        await asyncio.wait_for(server.peers[0].wait_closed(), 5)
        assert (server.peers[0].close_code, server.peers[0].close_reason) == (4001, "enough")
        await wait_until(lambda: not list(proxy.sessions()), "for the session to end")


async def test_a_source_without_tls_reaches_an_upstream_with(trust: Trust) -> None:
    async with echoing(trust) as (server, port):
        conf = config(clusters=[upstream(trust, port)], listeners=[listener("in", "up")])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as peer:
            peer.send(b"hello")
            assert await peer.read(5) == b"hello"
            await server.peers[0].close(1000)
            assert await peer.read_all() == b""


async def test_an_upstream_whose_certificate_is_not_trusted_is_none(trust: Trust, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Trust(tmp_path / "other")
    async with echoing(other) as (server, port):
        conf = config(clusters=[upstream(trust, port)], listeners=[wss(trust, "up", options={"track": 60})])
        async with running(conf) as proxy:
            async with client(trust, port_of(proxy, "in")) as ws:
                with pytest.raises(ConnectionClosed):
                    await asyncio.wait_for(ws.recv(), 5)
            (session,) = proxy.sessions()
            assert session.error is not None and "its certificate is not good" in session.error.detail and not server.peers


async def test_back_pressure_passes_through(trust: Trust) -> None:
    """More is sent than all the kernel's buffers on the way hold; the proxy itself holds but a little of it."""
    async with running(config(clusters=[echo()], listeners=[wss(trust)])) as proxy:
        port = port_of(proxy, "in")
        async with client(trust, port, max_queue=1, max_size=None) as ws:
            message = os.urandom(1_000_000)
            sending = asyncio.ensure_future(send(ws, message, 40))
            await asyncio.wait([sending], timeout=0.3)
            (session,) = proxy.sessions()
            assert not sending.done() and session.source.size < 2_000_000  # type: ignore[attr-defined]
            for _ in range(40):
                assert await asyncio.wait_for(ws.recv(), 5) == message
            await sending


async def send(ws: ClientConnection, message: bytes, times: int) -> None:
    for _ in range(times):
        await ws.send(message)


@pytest.mark.parametrize("way", ["abort", "close", "killed", "upstream aborts"])
async def test_however_it_ends_no_descriptor_is_left(trust: Trust, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carrier.hops.tls.LINGER", 0.05)
    async with between(trust) as (proxy, server):
        before = open_sockets()
        ws = await client(trust, port_of(proxy, "in"))
        await converse(ws)
        if way == "abort":
            ws.transport.abort()
        elif way == "close":
            await ws.close()
        elif way == "killed":
            next(iter(proxy.sessions())).kill()
        else:
            server.peers[0].transport.abort()
        await asyncio.wait_for(ws.wait_closed(), 5)
        await wait_until(lambda: not list(proxy.sessions()), "for the session to end")
        await asyncio.wait_for(server.peers[0].wait_closed(), 5)
        await wait_until(lambda: open_sockets() <= before, "for the descriptors")


def open_sockets() -> int:
    """Of this process; what waits for the garbage collector does not count."""
    gc.collect()
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    return found


async def test_a_peer_that_stays_when_all_is_said_is_not_waited_for(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carrier.hops.tls.LINGER", 0.05)
    async with running(config(clusters=[echo()], listeners=[wss(trust)])) as proxy:
        sock = socket.create_connection(("127.0.0.1", port_of(proxy, "in")))
        sock.setblocking(False)
        secured = trust.client.wrap_socket(sock, server_hostname=NAME, do_handshake_on_connect=False)
        await wait_until(lambda: shaken(secured), "for TLS")
        secured.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")  # no WebSocket: refused, and closed
        await wait_until(lambda: held_at(port_of(proxy, "in")), "for the proxy's end to be there")
        await wait_until(lambda: not held_at(port_of(proxy, "in")), "for it to be closed, while the client's stays")
        assert not list(proxy.sessions())
        secured.close()


def held_at(port: int) -> int:
    """Connections that somebody has accepted at a port of loopback, and holds (proc_net_tcp(5): an inode)."""
    with open("/proc/net/tcp") as table:
        lines = [line.split() for line in table.readlines()[1:]]
    return sum(line[1].endswith(f":{port:04X}") and line[3] != "0A" and line[9] != "0" for line in lines)


def shaken(sock: ssl.SSLSocket) -> bool:
    with contextlib.suppress(ssl.SSLWantReadError):
        sock.do_handshake()
        return True
    return False


async def test_who_speaks_no_tls_is_told_so_and_the_next_one_is_served(trust: Trust) -> None:
    async with running(config(clusters=[echo()], listeners=[wss(trust)])) as proxy:
        async with tcp(port_of(proxy, "in")) as peer:
            peer.send(b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
            assert b"400 Bad Request: this port speaks TLS" in await peer.read_all()
        async with client(trust, port_of(proxy, "in")) as ws:
            await converse(ws)


async def test_what_is_passed_through_cannot_be_a_websocket(trust: Trust) -> None:
    async with running() as proxy:
        conf = listener("in", protocol="WebSocket", spec={"tls": {"passthrough": True}})
        with pytest.raises(Error, match="pass TLS through a TCP listener"):
            await proxy.apply(config(clusters=[echo()], listeners=[conf]))
    assert not WebSocketListener.check({"protocol": "WebSocket", "port": 1, "tls": trust.certificate})


async def test_what_a_client_has_not_read_is_not_taken_though_it_waits_behind_tls(trust: Trust) -> None:
    """Else who reads slowly would be given up as one who takes nothing, while megabytes wait for him there."""
    said = b"x" * 6_000_000
    async with tcp_server(saying(said)) as server:
        conf = config(clusters=[cluster("up", server.port)], listeners=[wss(trust, "up")])
        async with running(conf) as proxy, client(trust, port_of(proxy, "in"), max_queue=1) as ws:
            await wait_until(lambda: list(proxy.sessions()))
            (session,) = proxy.sessions()
            source: Any = session.source
            await wait_until(lambda: ByteSocket.taken(source) - source.taken() > 200_000)
            found = 0
            with contextlib.suppress(ConnectionClosed):
                while True:
                    found += len(await ws.recv())
            assert (found, ws.close_code) == (len(said), 1000)
