"""The source of a session that is a connection of bytes, plain or inside TLS."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from carrier.core.address import plain
from carrier.errors import Error
from carrier.hops.bytesocket import ByteSocket
from carrier.hops.certificates import describe
from carrier.hops.tls import Channel, Tls


def overdue(source: TcpSource, now: float, half_close_timeout: float, idle_timeout: float) -> Error | None:
    """Why a session that has not moved for too long (seconds; 0: no limit) is to end, or None. Called once a second."""
    moved = source.bytes_in + source.bytes_out
    if moved != source.moved:
        source.moved, source.moved_at = moved, now
    half = source.ended_in or source.ended_out
    limit = half_close_timeout if half else idle_timeout
    if not limit or now - max(source.moved_at, source.active_at) <= limit:
        return None
    what = "half-closed and idle (options.half_close_timeout)" if half else "idle (options.idle_timeout)"
    return Error("timeout", f"{what} for more than {limit:g} s", "downstream")


class TcpSource(ByteSocket):
    """The accepted end of a TCP session. peer, local: (host, port). moved, moved_at: bytes both ways, and since when that many."""

    __slots__ = ("local", "moved", "moved_at", "peer", "tls")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        super().__init__(loop, sock, "downstream")
        peer, local = sock.getpeername(), sock.getsockname()
        self.peer = plain(peer[0]), peer[1]
        self.local = plain(local[0]), local[1]
        self.tls: dict[str, Any] | None = None
        """What the session's metadata says below /TLS."""
        self.moved = 0
        self.moved_at = self.active_at


class TlsSource(Tls, TcpSource):
    """The accepted end of a TCP session over TLS, its hands shaken."""

    __slots__ = ("channel",)

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, channel: Channel) -> None:
        super().__init__(loop, sock)
        self.channel = channel
        self.tls = describe(channel.tls)
