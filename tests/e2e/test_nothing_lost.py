"""Nothing is lost in silence: what a peer has said before it left, however it left, arrives before the end does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from carrier.config.source import loads
from tests.pki import Pki, pki
from tests.ports import free_port
from tests.support import Peer, cluster, config, listener, port_of, running, tcp, tcp_server, udp, udp_server, wait_until

__all__ = ["pki"]
MUCH = 2_000_000


class Sink:
    """An upstream that reads, slowly at first, to the end. heard: all of it; ended: in order."""

    def __init__(self, wait: float = 0.3) -> None:
        self.heard = bytearray()
        self.ended = asyncio.Event()
        self.error: OSError | None = None
        self.wait = wait

    async def __call__(self, peer: Peer) -> None:
        await asyncio.sleep(self.wait)
        try:
            while data := await peer.reader.read(65536):
                self.heard += data
        except OSError as exc:
            self.error = exc
        self.ended.set()


def leave_without_goodbye(port: int, context: ssl.SSLContext, data: bytes, reset: bool = False) -> None:
    """Send `data` inside TLS, and close TCP without close_notify."""
    sock = socket.create_connection(("127.0.0.1", port), 10)
    tls = context.wrap_socket(sock, server_hostname="a.test", suppress_ragged_eofs=False)
    tls.sendall(data)
    raw = socket.socket(fileno=tls.detach())
    raw.shutdown(socket.SHUT_WR)
    with contextlib.suppress(OSError):
        while raw.recv(65536):
            pass
    raw.close()


async def test_what_came_inside_tls_is_delivered_before_an_end_without_goodbye_is_told(pki: Pki) -> None:
    sink = Sink()
    data = os.urandom(MUCH)
    async with tcp_server(sink) as backend:
        conf = config(clusters=[cluster("up", backend.port)], listeners=[listener("in", "up", spec={"tls": pki("a", "a.test")})])
        async with running(conf) as proxy:
            await asyncio.to_thread(leave_without_goodbye, port_of(proxy, "in"), pki.client(), data)
            await asyncio.wait_for(sink.ended.wait(), 10)
    assert (len(sink.heard), bytes(sink.heard) == data, sink.error) == (MUCH, True, None)


@contextlib.asynccontextmanager
async def rude(pki: Pki, data: bytes) -> AsyncIterator[int]:
    """A TLS server that says `data` and closes TCP without close_notify."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made = pki("up", "up.test")
    context.load_cert_chain(made["certificate"], made["key"])
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listening.accept()
                with contextlib.suppress(OSError):
                    tls = context.wrap_socket(sock, server_side=True)
                    tls.recv(65536)
                    tls.sendall(data)
                    raw = socket.socket(fileno=tls.detach())
                    raw.shutdown(socket.SHUT_WR)
                    raw.settimeout(5)
                    while raw.recv(65536):
                        pass
                    raw.close()

    task = asyncio.create_task(asyncio.to_thread(serve))
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        await task


def secured(pki: Pki, port: int, protocol: str = "TCP") -> dict[str, object]:
    return {**cluster("up", port), "spec": {"protocol": protocol, "port": port, "tls": {"sni": "up.test", "ca": pki.ca}}}


async def test_what_an_upstream_said_inside_tls_is_delivered_before_its_end_without_goodbye(pki: Pki) -> None:
    data = os.urandom(MUCH)
    async with (
        rude(pki, data) as port,
        running(config(clusters=[secured(pki, port)], listeners=[listener("in", "up")])) as proxy,
        tcp(port_of(proxy, "in")) as client,
    ):
        client.send(b"go")
        await asyncio.sleep(0.3)
        assert await client.read_all() == data


@pytest.mark.parametrize("minor", [0, 1])
async def test_an_http_answer_that_ends_with_its_connection_is_whole_without_a_goodbye_of_tls(pki: Pki, minor: int) -> None:
    body = os.urandom(MUCH)
    async with rude(pki, b"HTTP/1.1 200 OK\r\ncontent-type: x/y\r\n\r\n" + body) as port:
        conf = config(clusters=[secured(pki, port, "HTTP")], listeners=[listener("in", "up", protocol="HTTP")])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"GET / HTTP/1.%d\r\nhost: x\r\nconnection: close\r\n\r\n" % minor)
            await asyncio.sleep(0.3)
            answer = await client.read_all()
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert body in answer if not minor else answer.endswith(b"\r\n0\r\n\r\n")


async def test_an_http_answer_that_is_shorter_than_it_says_is_still_cut(pki: Pki) -> None:
    async with rude(pki, b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nshort") as port:
        conf = config(clusters=[secured(pki, port, "HTTP")], listeners=[listener("in", "up", protocol="HTTP")])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                await client.read_all()


# -- who writes and leaves


def write_and_leave(port: int, data: bytes, context: ssl.SSLContext | None = None, reset: bool = True) -> None:
    """Connect, say one thing, be gone. reset: with an RST (SO_LINGER 0)."""
    sock: socket.socket = socket.create_connection(("127.0.0.1", port), 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else the client's own kernel would keep it, and drop it with the reset
    if context is not None:
        sock = context.wrap_socket(sock, server_hostname="a.test")
    sock.sendall(data)
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Counter:
    """An upstream that keeps what each connection has said."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    async def __call__(self, peer: Peer) -> None:
        data = b""
        with contextlib.suppress(OSError):
            while more := await peer.reader.read(65536):
                data += more
        self.heard.append(data)


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("secured", [False, True])
async def test_what_clients_that_write_and_leave_have_said_arrives(pki: Pki, secured: bool, reset: bool) -> None:
    """40 of 40, also when they are gone before they are accepted."""
    counter = Counter()
    async with tcp_server(counter) as backend:
        spec = {"tls": pki("a", "a.test")} if secured else {}
        async with running(config(clusters=[cluster("up", backend.port)], listeners=[listener("in", "up", spec=spec)])) as proxy:
            port = port_of(proxy, "in")
            context = pki.client() if secured else None
            said = [b"message %d" % n for n in range(40)]
            if secured:
                await asyncio.gather(*(asyncio.to_thread(write_and_leave, port, data, context, reset) for data in said))
            else:
                for data in said:  # the loop stands still meanwhile: all are gone before the first is accepted
                    write_and_leave(port, data, None, reset)
            await wait_until(lambda: len(counter.heard) == 40)
            assert sorted(counter.heard) == sorted(said)


@pytest.mark.parametrize("secured", [False, True])
@pytest.mark.parametrize("kind", ["auto", "framed", "gefyra"])
async def test_what_they_have_said_arrives_where_it_has_to_be_looked_at_first(pki: Pki, kind: str, secured: bool) -> None:
    """Before it is known what it is, or whole, nobody is connected to, and by then they have gone."""
    counter = Counter()
    said = [b"message %d" % n for n in range(20)]
    tls = pki("a", "a.test") if secured else None
    async with tcp_server(counter) as backend:
        up = cluster("up", backend.port, protocol="auto" if kind == "auto" else "TCP")
        spec: dict[str, Any] = {"framing": "length32"} if kind == "framed" else {}
        front = listener("in", "up", protocol="auto" if kind == "auto" else "TCP", spec=spec | ({"tls": tls} if tls else {}))
        conf, port = config(clusters=[up], listeners=[front]), 0
        if kind == "gefyra":
            port = free_port()
            mounted = {"port": port, "clusterUpstream": [f"127.0.0.1:{backend.port}"]}
            conf = loads(json.dumps({"version": 1, "proxy": [mounted]})).config
            if tls:  # its shadow has the same certificates, and this one has none
                conf.listeners[f"port/{port}"].spec["tls"] = tls  # type: ignore[index]
        async with running(conf) as proxy:
            port = port or port_of(proxy, "in")
            before = (lambda data: struct.pack("!I", len(data)) + data) if kind == "framed" else bytes
            context = pki.client() if secured else None
            await asyncio.gather(*(asyncio.to_thread(write_and_leave, port, before(data), context) for data in said))
            await wait_until(lambda: len(counter.heard) == len(said), f"{len(counter.heard)} of them")
            assert sorted(counter.heard) == sorted(map(before, said) if kind == "gefyra" else said)
            await wait_until(lambda: not list(proxy.sessions()), "for the sessions to end")


async def test_what_they_have_said_waits_for_a_destination_that_is_tried_again_and_is_let_go_with_it() -> None:
    """The session of somebody who is gone lasts as long as its route tries, and no longer."""
    counter = Counter()
    port = free_port()
    retry = {"retry_on": "always", "num_retries": 20, "timeout": 100}
    conf = config(clusters=[cluster("up", port, protocol="auto")], listeners=[listener("in", "up", protocol="auto", retry=retry)])
    async with running(conf) as proxy:
        write_and_leave(port_of(proxy, "in"), b"waits")
        await wait_until(lambda: [s for s in proxy.sessions() if s.retries])
        async with tcp_server(counter, port):
            await wait_until(lambda: counter.heard == [b"waits"])
        await wait_until(lambda: not list(proxy.sessions()))
        write_and_leave(port_of(proxy, "in"), b"in vain")
        await wait_until(lambda: [s for s in proxy.sessions() if s.retries])
        next(iter(proxy.sessions())).kill()
        assert not list(proxy.sessions())


async def test_what_they_have_said_arrives_through_framing_and_jsonsocket_too() -> None:
    header = b'{"JSONSocketVersion":1}'
    for spec, before in (({"protocol": "TCP", "framing": "length32"}, b""), ({"protocol": "JSONSocket"}, header)):
        transport = {"transport": {"protocol": "TCP", "port": 0, "address": "127.0.0.1"}} if before else {"port": 0, "address": "127.0.0.1"}
        async with udp_server(None) as server:
            front = {"name": "in", "spec": {**spec, **transport}, "rules": [{"action": {"route": {"destination": "up"}}}]}
            conf = config(clusters=[cluster("up", server.port, protocol="UDP")], listeners=[front])
            async with running(conf) as proxy:
                for _ in range(40):
                    write_and_leave(port_of(proxy, "in"), before or struct.pack("!I", 6) + b"framed")
                    if before:
                        await asyncio.sleep(0)
                found = [await server.read() for _ in range(40 if not before else 0)]
                assert found == [b"framed"] * len(found)
                await wait_until(lambda: proxy.listeners["in"].counter == 40)


# -- what is told of an end


def said(session: Any) -> list[tuple[str, str]]:
    return [(event, message) for event, _, message, _ in session.events if event in ("END", "DISCONNECT")]


async def test_who_has_ended_and_how_stands_in_the_events() -> None:
    async with tcp_server() as backend:
        conf = config(clusters=[cluster("up", backend.port)], listeners=[listener("in", "up", options={"track": 60})])
        async with running(conf) as proxy:
            tracked = proxy.listeners["in"].tracked
            for how in ("client", "upstream", "client resets", "upstream resets"):
                async with tcp(port_of(proxy, "in")) as client:
                    client.send(b"x")
                    peer = await backend.peer(len(tracked))
                    peer.send(b"y")
                    assert await client.read(1) == b"y"
                    first, second = (client, peer) if how.startswith("client") else (peer, client)
                    if how.endswith("resets"):
                        first.reset()
                    else:
                        first.end()
                        await asyncio.sleep(0.01)
                        second.end()
                    number = len(tracked)
                    await wait_until(lambda number=number: len(tracked) == number + 1)
            assert [said(session)[0] for session in tracked] == [
                ("END", "source"),
                ("END", "destination"),
                ("DISCONNECT", "source"),
                ("DISCONNECT", "destination"),
            ]


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "auto", "HTTP"])
@pytest.mark.parametrize("resets", [False, True])
async def test_an_upstream_that_leaves_without_a_word_is_named_too(protocol: str, resets: bool) -> None:
    """Also where the session is over with it: a peer of datagrams has no end of its own."""
    async with tcp_server() as backend:
        up = cluster("up", backend.port, protocol="HTTP" if protocol == "HTTP" else "TCP")
        conf = config(clusters=[up], listeners=[listener("in", "up", protocol=protocol, options={"track": 60})])
        async with running(conf) as proxy, contextlib.AsyncExitStack() as stack:
            client: Any = await stack.enter_async_context(udp(port_of(proxy, "in")) if protocol == "UDP" else tcp(port_of(proxy, "in")))
            client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" if protocol == "HTTP" else b"\x01x\n")
            peer = await backend.peer()
            await peer.read(3)
            peer.reset() if resets else peer.close()
            if protocol in ("TCP", "auto") and not resets:
                assert await client.read_all() == b""
                client.end()
            await wait_until(lambda: proxy.listeners["in"].tracked, "for the end")
            what = "END" if not resets and protocol != "HTTP" else "DISCONNECT"
            assert (what, "destination") in said(proxy.listeners["in"].tracked[0])


async def test_a_session_that_is_being_retried_names_its_cluster() -> None:
    retry = {"retry_on": "connect-failure", "num_retries": 5, "timeout": 300}
    conf = config(clusters=[cluster("up", free_port())], listeners=[listener("in", "up", retry=retry)])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")):
        await wait_until(lambda: [s for s in proxy.sessions() if s.retries])
        shown = next(iter(proxy.sessions())).dump()["destination"]
        assert (shown["origin"], shown["status"]) == ("up", "RETRYING")


async def test_connections_ask_who_is_silent_whether_he_is_there(pki: Pki) -> None:
    """On both sides, whatever the protocol: a laptop that sleeps says no goodbye."""
    for protocol in ("TCP", "HTTP", "auto", "WebSocket"):
        async with tcp_server() as backend:
            up = cluster("up", backend.port, protocol=protocol if protocol != "auto" else "TCP")
            conf = config(clusters=[up], listeners=[listener("in", "up", protocol=protocol)])
            async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
                fields = b"host: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: "
                client.send(b"GET / HTTP/1.1\r\n" + fields + b"A" * 22 + b"==\r\n\r\n")
                await backend.peer()
                ports = {client.port, backend.port}
                found = [alive(fd, ports) for fd in map(int, os.listdir("/proc/self/fd"))]
                assert [asked for asked in found if asked is not None] == [(1, 60, 10, 6)] * 2, protocol


def alive(fd: int, ports: set[int]) -> tuple[int, ...] | None:
    """How a descriptor asks, if it is ours and connected to one of these ports."""
    try:
        sock = socket.socket(fileno=os.dup(fd))
    except OSError:
        return None
    with sock:
        try:
            if sock.type != socket.SOCK_STREAM or sock.getpeername()[1] not in ports:
                return None
            if sock.getsockname()[1] in ports:
                return None
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            idle = [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options]
            return (sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), *idle)
        except (OSError, IndexError):
            return None
