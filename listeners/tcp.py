"""TCP listener: each accepted connection is a session (carrier/core/accepting.py); it is read once its destination is there.

A connection on which nothing moves may stay `idle_timeout` seconds, and when one of its directions has ended `half_close_timeout` seconds.
With TLS its hands are shaken first, or its hello is looked at.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.accepting import Arrival, AtPort, check_proxies
from carrier.core.address import described, named
from carrier.core.idle import Idle
from carrier.hops.bytesource import TcpSource, TlsSource
from carrier.hops.certificates import check_server, passes_through, renew, server_of
from carrier.hops.tls import first_hello, welcome
from carrier.options import check_numbers, numbers

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.session import Session
    from carrier.core.stream import Socket
    from carrier.errors import Problem

OPTIONS: Mapping[str, float] = {"track": 0, "max_connections": 4096, "half_close_timeout": 300, "idle_timeout": 0}
"""Limits (connections, seconds) and their defaults (DESIGN section 7); 0 means none."""


class TcpListener(AtPort):
    """`spec: {protocol: TCP, port, address, tls}`, `options`: see OPTIONS. address: default every address, IPv6 and IPv4."""

    protocol = "TCP"
    fields = {"port": "0..65535", "address": "IP address to bind to", "tls": "{certificate, key, ...} or {passthrough: true}"}

    @classmethod
    def check_tls(cls, spec: Mapping[str, Any], path: str) -> list[Problem]:
        return check_server(spec.get("tls"), f"{path}.tls") if "tls" in cls.fields else []

    def __init__(self, conf: config.Listener, env: Env) -> None:
        super().__init__(conf, env)
        limits = numbers(conf.options, OPTIONS)
        self.max_connections = limits["max_connections"] or float("inf")
        self.idle = Idle(limits["idle_timeout"], limits["half_close_timeout"])
        self.certificates = server_of(conf.spec, tickets=self.kind == "message")
        self.by_name = passes_through(conf.spec)

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        return check_numbers(options, OPTIONS, path, ("proxy_protocol",)) + check_proxies(options, path)

    # ------------------------------------------------------------------ life

    def tick(self, now: float) -> None:
        super().tick(now)
        if self.certificates is not None:
            renew(self.certificates, self.env, f"listener/{self.name}")

    # ------------------------------------------------------------------ connections

    def accepted(self, connection: socket.socket) -> Socket | None:
        if self.certificates is None and not self.by_name:
            return TcpSource(self, connection)
        self.arrive(connection, self._greet)
        return None

    async def _greet(self, arrival: Arrival) -> None:
        """TLS: read what name is asked for, and shake hands unless that is the destination's part."""
        if self.certificates is None:
            hello = await first_hello(self.env.loop, arrival.sock)
            source = TcpSource(arrival.listener, arrival.sock)
            source.tls = {"sni": hello.sni, "alpn": list(hello.alpn)}
        else:
            channel = await welcome(self.env.loop, arrival.sock, self.certificates)
            source = TlsSource(arrival.listener, arrival.sock, channel)
        arrival.became(source)

    # ------------------------------------------------------------------ sessions

    def session_name(self, session: Session) -> str:
        source = session.source
        assert isinstance(source, TcpSource)
        return self.env.names.give(session, named(source.peer, source.local))

    def metadata(self, session: Session) -> dict[str, Any]:
        source = session.source
        assert isinstance(source, TcpSource)
        return described(source.peer, source.local, source.tls)
