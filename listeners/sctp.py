"""SCTP listener, one-to-one style: a connection of messages (RFC 9260; RFC 6458 section 4), one stream of it.

The kernel does it; one without SCTP refuses the configuration, with that reason. Messages keep their limits both ways. SCTP cannot be
half-closed (RFC 9260 section 9): when the destination has ended, so does the association.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.address import described, named, places
from carrier.errors import Error, Problem
from carrier.hops.bytesource import Accepted
from carrier.hops.sctp import SCTP_NODELAY, SctpSocket, missing
from carrier.options import check_numbers
from listeners.tcp import TcpListener

if TYPE_CHECKING:
    from carrier.core.session import Session
    from carrier.core.spec import Kind
    from carrier.core.stream import Socket

OPTIONS: Mapping[str, float] = {"track": 0, "max_connections": 4096, "idle_timeout": 0}
"""Limits (associations, seconds) and their defaults; 0 means none."""


class SctpListener(TcpListener):
    """`spec: {protocol: SCTP, port, address}`, `options`: see OPTIONS."""

    protocol = "SCTP"
    transport = "sctp"
    number = socket.IPPROTO_SCTP
    fields = {name: TcpListener.fields[name] for name in ("port", "address")}

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        return check_numbers(options, OPTIONS, path)

    @classmethod
    def kind_of(cls, spec: Mapping[str, Any]) -> Kind:
        return "datagram"

    async def bind(self) -> None:
        reason = missing()
        if reason:
            raise Error("bind", f'"{self.name}": {reason}')
        await super().bind()

    def accepted(self, connection: socket.socket) -> Socket:
        connection.setsockopt(socket.IPPROTO_SCTP, SCTP_NODELAY, 1)
        return SctpSource(self, connection)

    def session_name(self, session: Session) -> str:
        source = session.source
        assert isinstance(source, SctpSource)
        return self.env.names.give(session, named(source.peer, source.local, "SCTP"))

    def metadata(self, session: Session) -> dict[str, Any]:
        source = session.source
        assert isinstance(source, SctpSource)
        return described(source.peer, source.local, transport="SCTP")


class SctpSource(Accepted, SctpSocket):
    """The accepted end of an association. Raises OSError: it was aborted before it was looked at."""

    __slots__ = ("listener",)

    def __init__(self, listener: SctpListener, sock: socket.socket) -> None:
        self.listener = listener
        super().__init__(listener.env.loop, sock, "downstream", half=False)
        self.peer, self.local = places(sock)
