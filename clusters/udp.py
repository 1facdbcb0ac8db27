"""UDP cluster: a connected socket per session, so that only the endpoint's own datagrams come back.

`bind: {address, port}` fixes the local address (two sessions of one bind port to one endpoint cannot be told apart by the kernel:
the second is refused). A refused port (ICMP) breaks the session with "refused"; the route's retry policy decides what follows.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from carrier.cluster import Cluster, Endpoint, first_that_connects
from carrier.errors import Error, from_os
from carrier.resolve import Address, literal
from carrier.session import DESTROYED, Session
from carrier.stream import Socket

MAX_DATAGRAM = 65_535
RECEIVES = 64
BUFFER = 1 << 20
LINGER = 2.0
"""Seconds that answers may still take after a byte-stream source has ended."""


class UdpCluster(Cluster):
    """`spec: {protocol: UDP, port, bind: {address, port}}`."""

    protocol = "UDP"
    kind = "datagram"
    fields = {"port": "1..65535", "bind": "{address, port}"}

    def ready(self, session: Session, endpoint: Endpoint | None) -> Socket | None:
        """A literal address needs no waiting: connect() of a datagram socket only notes the address."""
        assert endpoint is not None
        address = literal(endpoint.host, endpoint.port)
        return None if address is None else self._connect(session, endpoint, address)

    async def open(self, session: Session, endpoint: Endpoint) -> Socket:
        addresses = await self.env.resolver.resolve(endpoint.host, endpoint.port, socket.SOCK_DGRAM)

        async def one(address: Address) -> Socket:
            return self._connect(session, endpoint, address)

        found = await first_that_connects(addresses, one)
        assert isinstance(found, Socket)
        return found

    def _connect(self, session: Session, endpoint: Endpoint, address: Address) -> UdpUpstream:
        if not 0 < endpoint.port < 65536:
            raise Error("no-endpoint", f"{endpoint.name}: {self.spec.get('port')!r} is not a port", "upstream", "yes")
        sock = socket.socket(address[0], socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
            bind = self.spec.get("bind")
            if isinstance(bind, dict):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((str(bind.get("address", "")), int(bind.get("port", 0))))
            sock.connect(address[1])
        except OSError as exc:
            sock.close()
            raise from_os(exc, "upstream", endpoint.address, "yes") from None
        upstream = UdpUpstream(self.env.loop, sock, endpoint.address)
        upstream.session = session
        return upstream


class UdpUpstream(Socket):
    """The connected end of a UDP session."""

    __slots__ = ("closed", "dropped", "loop", "paused", "sock", "where")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, where: str) -> None:
        super().__init__()
        self.loop = loop
        self.sock = sock
        self.where = where
        self.closed = False
        self.paused = False
        self.dropped = 0
        loop.add_reader(sock, self._readable)

    def resume(self) -> None:
        if self.paused and not self.closed:
            self.paused = False
            self.loop.add_reader(self.sock, self._readable)

    def pause(self) -> None:
        """The reader is full: let the kernel's buffer hold, and drop, what comes."""
        if not self.paused and not self.closed:
            self.paused = True
            self.loop.remove_reader(self.sock)

    def _readable(self) -> None:
        recv = self.sock.recv
        for _ in range(RECEIVES):
            if self.paused or self.closed:
                return
            try:
                data = recv(MAX_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                self._broken(exc)
                return
            self.messages_in += 1
            self.bytes_in += len(data)
            self.to.data(data)
            self.to.flush()

    def head(self, head: Any, last: bool = False) -> None:
        if last:
            self.end()

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if self.closed:
            return
        try:
            self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            self.dropped += 1
            return
        except OSError as exc:
            if exc.errno == 90:  # EMSGSIZE: a byte stream's chunk that is no datagram
                self.dropped += 1
            else:
                self._broken(exc)
            return
        self.messages_out += 1
        self.bytes_out += len(data)
        if last:
            self.end()

    def _broken(self, exc: OSError) -> None:
        error = from_os(exc, "upstream", self.where)
        to, back = self.to, self.back
        self.close()
        to.reset(error)
        if back.to is self:  # else the session has replaced this end: the hop behind has another one to write to
            back.stop(error)

    def end(self, trailer: Any = None) -> None:
        """Datagrams have no end to send. A byte-stream source that has only half-closed may still want what is on its way back."""
        session = self.session
        if session is None or session.status == DESTROYED:
            self.close()
        elif not self.closed:
            self.loop.call_later(LINGER, self._ended)

    def _ended(self) -> None:
        if not self.closed:
            self.close()
            self.to.end()

    def reset(self, error: Error) -> None:
        self.close()

    def stop(self, error: Error | None = None) -> None:
        self.close()

    def status(self) -> str:
        return "END" if self.closed else "READY"

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.loop.remove_reader(self.sock)
            self.sock.close()
