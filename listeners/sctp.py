"""SCTP listener, one-to-one style: a connection of messages (RFC 9260; RFC 6458 section 4), one stream of it.

The kernel does it; one without SCTP refuses the configuration, with that reason. Messages keep their limits both ways. SCTP cannot be
half-closed (RFC 9260 section 9): when the destination has ended, so does the association.
"""

from __future__ import annotations

import socket
from typing import Any

from carrier.errors import Error
from carrier.listener import BACKLOG, Key, bind_error, plain
from carrier.options import port_of
from carrier.packetsocket import LONGEST, Idle, PacketSocket
from carrier.resolve import literal
from carrier.session import Session
from listeners.tcp import TcpListener

SCTP_NODELAY = 3
"""linux/sctp.h; without it small messages wait for each other (RFC 6458 section 8.1.5)."""


class SctpListener(TcpListener):
    """`spec: {protocol: SCTP, port, address}`, `options`: as for TCP; half_close_timeout is not used."""

    protocol = "SCTP"
    transport = "sctp"

    @classmethod
    def kind_of(cls, spec: Any) -> Any:
        return "datagram"

    def key(self) -> Key:
        return "sctp", *super().key()[1:]

    async def bind(self) -> None:
        host = "127.0.0.1" if self.loopback else str(self.spec.get("address") or "::")
        address = literal(host, port_of(self.spec))
        if address is None or port_of(self.spec) < 0:
            raise Error("bind", f'"{self.name}": expected an IP address and a port to bind to, got {host!r}')
        reason = missing()
        if reason:
            raise Error("bind", f'"{self.name}": {reason}')
        sock = sctp_socket(address[0])
        try:
            sock.bind(address[1])
            sock.listen(BACKLOG)
        except OSError as exc:
            sock.close()
            raise bind_error(self.name, host, port_of(self.spec), exc) from None
        self.bound = [sock]

    def accepted(self, connection: socket.socket) -> None:
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_SCTP, SCTP_NODELAY, 1)
            source = SctpSocket(self.env.loop, connection, "downstream", half=False)
            source.peer, source.local = connection.getpeername()[:2], connection.getsockname()[:2]
        except OSError:  # it was aborted before it was looked at
            connection.close()
            return
        session = Session(self, source)
        self.live.add(session)
        session.begin(self.table.decide(session.metadata))

    def tick(self, now: float) -> None:
        super(TcpListener, self).tick(now)
        idle: Idle = self.__dict__.setdefault("idle", Idle())
        for session in list(self.live):
            if self.idle_timeout and now - idle.since(session, now) > self.idle_timeout:
                idle.forget(session)
                text = f"nothing moved for more than {self.idle_timeout:g} s (options.idle_timeout)"
                session.fail(Error("timeout", text, "downstream"))

    def session_name(self, session: Session) -> str:
        source = session.source
        assert isinstance(source, SctpSocket)
        return f"SCTP:{plain(source.peer[0])}:{source.peer[1]}-{plain(source.local[0])}:{source.local[1]}"

    def metadata(self, session: Session) -> dict[str, Any]:
        source = session.source
        assert isinstance(source, SctpSocket)
        return {
            "IP": {"src_addr": plain(source.peer[0]), "dst_addr": plain(source.local[0])},
            "SCTP": {"src_port": source.peer[1], "dst_port": source.local[1]},
        }


class SctpSocket(PacketSocket):
    """An association. peer, local: (host, port) of a listener's."""

    __slots__ = ("local", "peer")
    peer: tuple[str, int]
    local: tuple[str, int]

    def receive(self) -> bytes | None:
        """The next message; a long one comes in parts, the last of them marked (RFC 6458 section 5.3.4)."""
        data, _, flags, _ = self.sock.recvmsg(LONGEST)
        if data and not flags & socket.MSG_EOR:
            self.parts += data
            if len(self.parts) <= LONGEST:
                return None
        message, self.parts = self.parts + data, b""
        return message


def sctp_socket(family: int) -> socket.socket:
    """A non-blocking one-to-one socket. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_SCTP)
    sock.setsockopt(socket.IPPROTO_SCTP, SCTP_NODELAY, 1)
    return sock


def missing() -> str:
    """Why there is no SCTP here, or nothing."""
    try:
        sctp_socket(socket.AF_INET).close()
    except OSError as exc:
        return f"SCTP needs a kernel that has it: {exc.strerror}"
    return ""
