"""SCTP listener, one-to-one style: a connection of messages (RFC 9260; RFC 6458 section 4), one stream of it.

The kernel does it; one without SCTP refuses the configuration, with that reason. Messages keep their limits both ways. SCTP cannot be
half-closed (RFC 9260 section 9): when the destination has ended, so does the association.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from typing import Any

from carrier.config import draft as config
from carrier.core.cluster import Env, Kind
from carrier.core.listener import Key, bind_stream, plain
from carrier.core.session import Session
from carrier.errors import Error, Problem
from carrier.hops.bytesocket import LINGER_RST, ORDERLY
from carrier.hops.packetsocket import BUFFER, LONGEST, Idle, PacketSocket
from carrier.options import check_numbers
from listeners.tcp import TcpListener

SCTP_NODELAY = 3
"""linux/sctp.h; without it small messages wait for each other (RFC 6458 section 8.1.5)."""

OPTIONS: Mapping[str, float] = {"track": 0, "max_connections": 4096, "idle_timeout": 0}
"""Limits (associations, seconds) and their defaults; 0 means none."""


class SctpListener(TcpListener):
    """`spec: {protocol: SCTP, port, address}`, `options`: see OPTIONS."""

    protocol = "SCTP"
    transport = "sctp"
    fields = {name: TcpListener.fields[name] for name in ("port", "address")}

    def __init__(self, conf: config.Listener, env: Env) -> None:
        super().__init__(conf, env)
        self.idle = Idle()

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        return check_numbers(options, OPTIONS, path)

    @classmethod
    def kind_of(cls, spec: Mapping[str, Any]) -> Kind:
        return "datagram"

    def key(self) -> Key:
        return "sctp", *super().key()[1:]

    async def bind(self) -> None:
        reason = missing()
        if reason:
            raise Error("bind", f'"{self.name}": {reason}')
        address = self.spec.get("address")
        host = "127.0.0.1" if self.loopback else address if isinstance(address, str) else None
        self.bound = bind_stream(self.name, host, self.spec.get("port"), socket.IPPROTO_SCTP)

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

    def ended(self, session: Session) -> None:
        self.idle.forget(session)
        super().ended(session)

    def tick(self, now: float) -> None:
        super(TcpListener, self).tick(now)
        for session in list(self.live):
            if self.idle_timeout and now - self.idle.since(session, now) > self.idle_timeout:
                text = f"nothing moved for more than {self.idle_timeout:g} s (options.idle_timeout)"
                session.fail(Error("timeout", text, "downstream"))

    def session_name(self, session: Session) -> str:
        source = session.source
        assert isinstance(source, SctpSocket)
        name = f"SCTP:{plain(source.peer[0])}:{source.peer[1]}-{plain(source.local[0])}:{source.local[1]}"
        return self.env.names.give(session, name)

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
        """The next message; a long one comes in parts, the last of them marked (RFC 6458 sections 5.3.4, 8.1.20). Raises OSError."""
        size, _, flags, _ = self.sock.recvmsg_into([BUFFER])
        message = self.parts + BUFFER[:size]
        if len(message) > LONGEST:
            raise OSError(errno.EMSGSIZE, f"a message of more than {LONGEST} bytes")
        if size and not flags & socket.MSG_EOR:
            self.parts = message
            return None
        self.parts = b""
        return message

    def reset(self, error: Error) -> None:
        """Give up: the peer sees an ABORT instead of a SHUTDOWN (RFC 9260 section 9.1), but for an orderly reason."""
        if not self.closed:
            if error.kind not in ORDERLY:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RST)
            self.close(error)


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
