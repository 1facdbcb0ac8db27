"""TCP listener: each accepted connection is a session; it is accepted paused and read once its destination is there."""

from __future__ import annotations

import socket
import time
from typing import Any

from carrier.bytesocket import ByteSocket
from carrier.errors import Error
from carrier.listener import Key, Listener, bind_stream, plain
from carrier.session import Session

ACCEPTS = 64
"""Connections taken in one wake-up, so that a flood of them does not starve those that are there."""
ACCEPT_PAUSE = 0.05
"""Seconds without accepting when file descriptors run short."""


class TcpListener(Listener):
    """`spec: {protocol: TCP, port, address}`. address: default every address, IPv6 and IPv4."""

    protocol = "TCP"
    fields = {"port": "0..65535", "address": "IP address to bind to"}

    def key(self) -> Key:
        return "tcp", "127.0.0.1" if self.loopback else str(self.spec.get("address") or "*"), int(self.spec["port"])

    async def bind(self) -> None:
        address = self.spec.get("address")
        self.bound = bind_stream(
            self.name, "127.0.0.1" if self.loopback else address if isinstance(address, str) else None, self.spec["port"]
        )

    @property
    def port(self) -> int:
        """The bound port (the kernel's choice for port 0)."""
        return int(self.bound[0].getsockname()[1])

    def start(self) -> None:
        for sock in self.bound:
            self.env.loop.add_reader(sock, self._accept, sock)

    def stop(self) -> None:
        for sock in self.bound:
            self.env.loop.remove_reader(sock)
        super().stop()

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(ACCEPTS):
            try:
                connection, _address = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # out of file descriptors or memory: let what is there finish
                self.env.loop.remove_reader(sock)
                self.env.loop.call_later(ACCEPT_PAUSE, self._accept_again, sock)
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.accepted(connection)

    def _accept_again(self, sock: socket.socket) -> None:
        if sock in self.bound:
            self.env.loop.add_reader(sock, self._accept, sock)

    def accepted(self, connection: socket.socket) -> None:
        """Make the session of a connection."""
        try:
            source = TcpSource(self.env.loop, connection)
        except OSError:  # it was reset before it was looked at
            connection.close()
            return
        session = Session(self, source)
        self.live.add(session)
        session.begin(self.table.decide(session.metadata))

    def session_name(self, session: Session) -> str:
        source = session.source
        assert isinstance(source, TcpSource)
        return f"TCP:{source.peer[0]}:{source.peer[1]}-{source.local[0]}:{source.local[1]}"

    def metadata(self, session: Session) -> dict[str, Any]:
        source = session.source
        assert isinstance(source, TcpSource)
        return {
            "IP": {"src_addr": source.peer[0], "dst_addr": source.local[0]},
            "TCP": {"src_port": source.peer[1], "dst_port": source.local[1]},
        }

    def tick(self, now: float) -> None:
        super().tick(now)
        half_closed = self.options.get("half_close_timeout", 300)
        for session in list(self.live):
            source = session.source
            if isinstance(source, ByteSocket) and (source.ended_in or source.ended_out) and now - source.active_at > half_closed:
                error = Error("timeout", f"half-closed for more than {half_closed} s (options.half_close_timeout)", "downstream")
                source.reset(error)


class TcpSource(ByteSocket):
    """The accepted end of a TCP session. peer, local: (host, port)."""

    __slots__ = ("local", "peer")

    def __init__(self, loop: Any, sock: socket.socket) -> None:
        super().__init__(loop, sock, "downstream")
        peer, local = sock.getpeername(), sock.getsockname()
        self.peer = plain(peer[0]), peer[1]
        self.local = plain(local[0]), local[1]
        self.active_at = time.monotonic()
