"""Sources of sessions that are connections: of bytes, plain or inside TLS; what they share with those of messages is `Accepted`."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from carrier.core.address import places, secured
from carrier.core.room import IDLE
from carrier.core.stream import DESTROYED
from carrier.hops.bytesocket import ByteSocket
from carrier.hops.certificates import describe
from carrier.hops.descriptor import Descriptor
from carrier.hops.lookout import has_error
from carrier.hops.tls import Channel, Tls

if TYPE_CHECKING:
    from carrier.core.accepting import Acceptor
    from carrier.core.idle import Idle
    from carrier.core.session import Session


def is_broken(session: Session | None) -> bool:
    """Has one end been reset, while nobody reads from it because the other end does not take what is there? The loop does not tell."""
    ends = (session.source, session.destination) if session is not None and session.status != DESTROYED else ()
    return any(isinstance(end, ByteSocket) and end.paused and not end.closed and has_error(end.sock.fileno()) for end in ends)


class Accepted(Descriptor):
    """To be mixed into a descriptor's class: it is a connection of its `listener` until it is closed (carrier/core/accepting.py)."""

    __slots__ = ()
    listener: Any
    session: Session | None
    sock: socket.socket

    def detach(self) -> None:
        super().detach()
        listener: Acceptor = self.listener
        idle: Idle = listener.idle
        idle.forget(self)
        listener.gone(self)

    def moved(self, listener: Acceptor) -> None:
        """See `Connection`."""
        self.listener = listener

    def tick(self, now: float) -> None:
        """See `Connection`: nothing may have moved for too long."""
        idle: Idle = self.listener.idle
        error = idle.overdue(self, now, self.ended_in or self.ended_out or is_broken(self.session))
        if error is not None:
            self.reset(error)

    def standing(self, now: float) -> tuple[int, float] | None:
        """See `Occupant`: only who is sent the last bytes of a session that is over may leave."""
        session = self.session
        return (IDLE, 0.0) if session is None or session.status == DESTROYED else None

    def give_way(self) -> None:
        """See `Connection`."""
        self.close()

    def leave(self) -> None:
        """See `Connection`: its session goes on."""


class TcpSource(Accepted, ByteSocket):
    """The accepted end of a TCP session. peer, local: (host, port). Raises OSError: it is gone already."""

    __slots__ = ("listener", "local", "peer", "tls")

    def __init__(self, listener: Acceptor, sock: socket.socket) -> None:
        self.listener = listener
        self.peer, self.local = places(sock)
        self.tls: dict[str, Any] | None = secured(sock)
        """What the session's metadata says below /TLS."""
        super().__init__(listener.env.loop, sock, "downstream")


class TlsSource(Tls, TcpSource):
    """The accepted end of a TCP session over TLS, its hands shaken."""

    __slots__ = ("channel",)

    def __init__(self, listener: Acceptor, sock: socket.socket, channel: Channel) -> None:
        super().__init__(listener, sock)
        self.channel = channel
        self.tls = describe(channel.tls)
