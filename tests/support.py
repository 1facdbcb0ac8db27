"""The words that tests of running parts are written in: a proxy for a configuration, peers on loopback, waiting for something true.

    async with running(config(clusters=[...], listeners=[...])) as proxy:
        async with tcp(port_of(proxy, "in")) as client:
            client.send(b"hello")
            assert await client.read(5) == b"hello"

Everything is bound to a free loopback port (`port: 0` in a listener's spec; `port_of` tells which it became) and closed at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

from carrier.admin.gate import Limits
from carrier.admin.where import Door
from carrier.config.draft import Draft
from carrier.core.env import Env
from carrier.core.stream import Stream
from carrier.errors import Error
from carrier.model import Config
from carrier.proxy.proxy import Proxy

PATIENCE = 5.0
"""Seconds after which a test that waits for something has failed."""
Object = Mapping[str, Any]


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file takes a byte more, as on a disk without room (setrlimit(2): EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- configuration ----------------------------------------------------------------------------------------------------------------


def config(
    *,
    clusters: Iterable[Object] = (),
    routes: Iterable[Object] = (),
    rules: Iterable[Object] = (),
    rulelists: Iterable[Object] = (),
    listeners: Iterable[Object] = (),
    base: Config | None = None,
) -> Config:
    """A configuration with these objects, written as they are posted; added to `base`, or instead of its objects of the same name."""
    draft = Draft(base or Config())
    for kind, objects in (("cluster", clusters), ("route", routes), ("rule", rules), ("rulelist", rulelists), ("listener", listeners)):
        for obj in objects:
            draft.replace(kind, obj["name"], dict(obj))
    return draft.done()


def without(base: Config, kind: str, name: str, recursive: bool = False) -> Config:
    """`base` without one object."""
    draft = Draft(base)
    draft.delete(kind, name, recursive)
    return draft.done()


def cluster(name: str, port: int = 0, *addresses: str, protocol: str = "TCP", **fields: Any) -> dict[str, Any]:
    """A cluster with an endpoint `<name>-<i>` per address (127.0.0.1 by default)."""
    endpoints = [{"name": f"{name}-{i}", "spec": {"address": a}} for i, a in enumerate(addresses or ("127.0.0.1",))]
    return {"name": name, "spec": {"protocol": protocol, "port": port}, "endpoints": endpoints, **fields}


def echo(name: str = "echo") -> dict[str, Any]:
    return {"name": name, "spec": {"protocol": "Echo"}}


def listener(name: str, destination: object = "echo", *, protocol: str = "TCP", port: int = 0, **fields: Any) -> dict[str, Any]:
    """A listener on loopback whose one rule leads to `destination` (a cluster's name or object); retry, fallback, ingress, egress: its
    route's; rules: instead of that rule; what is left are the listener's own fields."""
    route: dict[str, Any] = {"destination": destination}
    for field in ("retry", "fallback", "ingress", "egress"):
        if field in fields:
            route[field] = fields.pop(field)
    rules = fields.pop("rules", [{"action": {"route": route}}])
    spec = {"protocol": protocol, "port": port, "address": "127.0.0.1", **fields.pop("spec", {})}
    return {"name": name, "spec": spec, "rules": rules, **fields}


# --- a running proxy --------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def running(conf: Config | None = None, admin: tuple[str, int] | None = None) -> AsyncIterator[Proxy]:
    """A proxy with this configuration in force. An exception that reached the event loop fails the test."""
    loop = asyncio.get_running_loop()
    stray: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: stray.append(context))
    env = Env(loop)
    proxy = Proxy(env, admin, Door(env, Limits()))
    try:
        await proxy.apply(conf or Config())
        yield proxy
        assert not stray, stray
    finally:
        await proxy.close()
        loop.set_exception_handler(None)


def port_of(proxy: Proxy, name: str) -> int:
    """The port that a listener is bound to."""
    port: int = proxy.listeners[name].port  # type: ignore[attr-defined]
    return port


async def wait_until(true: Callable[[], object], what: str = "") -> None:
    """Let the loop run until `true()`; fails after PATIENCE seconds."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not true():
        assert asyncio.get_running_loop().time() < deadline, f"waited in vain {what}"
        await asyncio.sleep(0.002)


async def looked(proxy: Proxy) -> None:
    """Let what a tick asks to look at be looked at: files of certificates are, in a thread."""
    await wait_until(lambda: not proxy.env.renewing and proxy.env.looking is None, "for files to be looked at")


# --- TCP --------------------------------------------------------------------------------------------------------------------------


class Peer:
    """One end of a TCP connection, seen from outside the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.port: int = writer.get_extra_info("sockname")[1]

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def end(self) -> None:
        """FIN: no more comes from here."""
        self.writer.write_eof()

    def reset(self) -> None:
        """RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()

    async def read(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        return await asyncio.wait_for(self.reader.readexactly(size), PATIENCE)

    async def read_all(self) -> bytes:
        """Everything until the other side's FIN; raises ConnectionResetError after an RST."""
        return await asyncio.wait_for(self.reader.read(), PATIENCE)


@contextlib.asynccontextmanager
async def tcp(port: int, host: str = "127.0.0.1", local: int | None = None) -> AsyncIterator[Peer]:
    """A client's connection; local: from this port."""
    if local is None:
        peer = Peer(*await asyncio.open_connection(host, port))
    else:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # another connection may have that port, too
        sock.bind((host, local))
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
        peer = Peer(*await asyncio.open_connection(sock=sock))
    try:
        yield peer
    finally:
        peer.writer.transport.abort()


async def ask(port: int, data: bytes) -> bytes:
    """Send `data`, half-close, and read the answer to its end."""
    async with tcp(port) as client:
        client.send(data)
        client.end()
        return await client.read_all()


class TcpServer:
    """An upstream: each connection is given to `serve`, or kept in `peers` for the test to play."""

    def __init__(self, serve: Callable[[Peer], Awaitable[None]] | None) -> None:
        self.serve = serve
        self.peers: list[Peer] = []
        self.port = 0
        self.stop: Callable[[], None] = lambda: None
        """Accept no more; the connections that are there stay."""

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        if self.serve is not None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self.serve(peer)
            writer.close()

    async def peer(self, n: int = 0) -> Peer:
        """The n-th connection, as soon as it is there."""
        await wait_until(lambda: len(self.peers) > n, f"for connection {n}")
        return self.peers[n]


@contextlib.asynccontextmanager
async def tcp_server(serve: Callable[[Peer], Awaitable[None]] | None = None, port: int = 0) -> AsyncIterator[TcpServer]:
    """An upstream on loopback."""
    found = TcpServer(serve)
    server = await asyncio.start_server(found.accepted, "127.0.0.1", port)
    found.port = server.sockets[0].getsockname()[1]
    found.stop = server.close
    try:
        yield found
    finally:
        server.close()
        for peer in found.peers:
            peer.writer.transport.abort()
        await asyncio.sleep(0)


def saying(text: bytes) -> Callable[[Peer], Awaitable[None]]:
    """An upstream that says one thing and closes."""

    async def serve(peer: Peer) -> None:
        peer.send(text)

    return serve


async def echoing(peer: Peer) -> None:
    """An upstream that sends back what comes."""
    while data := await peer.reader.read(65536):
        peer.send(data)


# --- UDP --------------------------------------------------------------------------------------------------------------------------


class Datagrams(asyncio.DatagramProtocol):
    """A UDP socket: what came is in `inbox`; `answer` makes the reply to each datagram."""

    transport: asyncio.DatagramTransport

    def __init__(self, answer: Callable[[bytes], bytes | None] | None = None) -> None:
        self.inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self.answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.port: int = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.inbox.put_nowait(data)
        reply = self.answer(data) if self.answer else None
        if reply is not None:
            self.transport.sendto(reply, address)

    def send(self, data: bytes) -> None:
        self.transport.sendto(data)

    async def read(self) -> bytes:
        """The next datagram."""
        return await asyncio.wait_for(self.inbox.get(), PATIENCE)


@contextlib.asynccontextmanager
async def udp(port: int) -> AsyncIterator[Datagrams]:
    """A client of a UDP port."""
    transport, found = await asyncio.get_running_loop().create_datagram_endpoint(Datagrams, remote_addr=("127.0.0.1", port))
    try:
        yield found
    finally:
        transport.abort()


@contextlib.asynccontextmanager
async def udp_server(answer: Callable[[bytes], bytes | None] | None = lambda data: data, port: int = 0) -> AsyncIterator[Datagrams]:
    """A UDP upstream; it echoes by default."""
    loop = asyncio.get_running_loop()
    transport, found = await loop.create_datagram_endpoint(lambda: Datagrams(answer), local_addr=("127.0.0.1", port))
    try:
        yield found
    finally:
        transport.abort()


# --- HTTP -------------------------------------------------------------------------------------------------------------------------


async def http(
    port: int, path: str = "/", method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own: status, header fields (lower case), body."""
    fields = {"host": f"127.0.0.1:{port}", "connection": "close", **(headers or {})}
    if body:
        fields["content-length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    async with tcp(port) as client:
        client.send("\r\n".join(lines).encode() + body)
        answer = await client.read_all()
    head, _, rest = answer.partition(b"\r\n\r\n")
    first, *more = head.decode("latin-1").split("\r\n")
    found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in more)}
    return int(first.split()[1]), found, unchunked(rest) if found.get("transfer-encoding") == "chunked" else rest


def unchunked(data: bytes) -> bytes:
    """A chunked body's content (RFC 9112 section 7.1), without extensions and trailers."""
    content = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        n = int(size, 16)
        content, data = content + data[:n], data[n + 2 :]
        if n == 0:
            break
    return content


# --- hops ------------------------------------------------------------------------------------------------------------------------


class Ear(Stream):
    """A hop that writes down what it hears: payload, "end", the kind of an error."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        self.heard.append(data)

    def end(self, trailer: Any = None) -> None:
        self.heard.append("end")

    def reset(self, error: Error) -> None:
        self.heard.append(error.kind)

    def stop(self, error: Error | None = None) -> None: ...


class Neighbour(Ear):
    """An ear for what travels backwards, too."""

    def flush(self) -> None: ...
    def pause(self) -> None:
        self.heard.append("pause")

    def resume(self) -> None:
        self.heard.append("resume")

    def stop(self, error: Error | None = None) -> None:
        self.heard.append("stop")
