"""SCTP listener, one-to-one style: a connection of messages (RFC 9260; RFC 6458 section 4), one stream of it.

The kernel does it; one without SCTP refuses the configuration, with that reason. Messages keep their limits both ways. SCTP cannot be
half-closed (RFC 9260 section 9): when the destination has ended, so does the association.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.address import bind_stream, plain
from carrier.core.session import Session
from carrier.errors import Error, Problem
from carrier.hops.packetsocket import Idle
from carrier.hops.sctp import SCTP_NODELAY, SctpSocket, missing
from carrier.options import check_numbers
from listeners.tcp import TcpListener

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.listener import Key
    from carrier.core.spec import Kind

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
