"""The ceiling: a uvloop relay that parses nothing, `python -m benchmarks.ceiling tcp|udp PORT BACKEND-PORT`, on 127.0.0.1. With
`tls PORT BACKEND-PORT PEM` it ends TLS, and answers each request itself.

It does what no proxy written on uvloop's transports can do without: take bytes from one socket and write them to another. What a proxy
costs above it is parsing, routing and bookkeeping; what it costs below it was won by leaving those transports (splice, batches of
datagrams).
"""

import asyncio
import ssl
import sys
from collections.abc import Callable
from typing import Any, cast

import uvloop

HOST = "127.0.0.1"


class Relay(asyncio.Protocol):
    """One end of a pair of connections; `other` is the transport of the other end, None until it is there."""

    def __init__(self, other: asyncio.Transport | None = None):
        self.other = other
        self.early: list[bytes] = []
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self.other:
            self.other.write(data)
        else:
            self.early.append(data)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        if self.other:
            self.other.pause_reading()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        if self.other:
            self.other.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self.other:
            self.other.close()


class Front(Relay):
    """The downstream end: opens its upstream. Early bytes wait (uvloop reads after `connection_made`, paused or not)."""

    def __init__(self, backend: int):
        super().__init__()
        self.backend = backend

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self.opening = asyncio.ensure_future(self.open())

    async def open(self) -> None:
        """Connect to the backend; a refused connection closes this one."""
        loop = asyncio.get_running_loop()
        try:
            self.other, _ = await loop.create_connection(lambda: Relay(self.transport), HOST, self.backend)
        except OSError:
            self.transport.abort()
        else:
            self.other.writelines(self.early)


class UdpFront(asyncio.DatagramProtocol):
    """The downstream socket: a connected upstream socket for each peer, for ever."""

    def __init__(self, backend: int):
        self.backend = backend
        self.upstreams: dict[tuple[str, int], UdpBack] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.DatagramProtocol."""
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        """See asyncio.DatagramProtocol."""
        back = self.upstreams.get(peer)
        if back is None:
            back = self.upstreams[peer] = UdpBack(self.transport, peer)
            loop = asyncio.get_running_loop()
            back.opening = asyncio.ensure_future(loop.create_datagram_endpoint(lambda: back, remote_addr=(HOST, self.backend)))
        back.send(data)


class UdpBack(asyncio.DatagramProtocol):
    """The upstream socket of one peer."""

    def __init__(self, front: asyncio.DatagramTransport, peer: tuple[str, int]):
        self.front = front
        self.peer = peer
        self.waiting: list[bytes] = []
        self.send: Callable[[bytes], None] = self.waiting.append
        self.opening: asyncio.Future[Any] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.DatagramProtocol."""
        self.send = cast(asyncio.DatagramTransport, transport).sendto
        for data in self.waiting:
            self.send(data)

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        """See asyncio.DatagramProtocol."""
        self.front.sendto(data, self.peer)


class Answer(asyncio.Protocol):
    """Answers what comes as the backend would."""

    said = b"HTTP/1.1 200 OK\r\nx-backend: D\r\ncontent-length: 14\r\n\r\nanswered by D\n"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self.transport.write(self.said)
        if b"\r\nConnection: close\r\n" in data:
            self.transport.close()


async def main(kind: str, port: int, backend: int, pem: str = "") -> None:
    """Relay until the process is ended."""
    loop = asyncio.get_running_loop()
    if kind == "tls":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem)
        await loop.create_server(Answer, HOST, port, backlog=4096, ssl=context)
        await loop.create_future()
    if kind == "udp":
        await loop.create_datagram_endpoint(lambda: UdpFront(backend), local_addr=(HOST, port))
    else:
        await loop.create_server(lambda: Front(backend), HOST, port, backlog=4096)
    await loop.create_future()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]))
