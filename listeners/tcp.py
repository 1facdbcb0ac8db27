"""TCP listener: each accepted connection is a session; it is accepted paused and read once its destination is there.

When descriptors run short, or `max_connections` are there, accepting pauses: what comes waits in the kernel's queue, and what is
served goes on. A connection on which nothing moves may stay `idle_timeout` seconds, and when one of its directions has ended
`half_close_timeout` seconds.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.accepting import ACCEPT_PAUSE, ACCEPTS
from carrier.core.address import bind_stream
from carrier.core.listener import Key, Listener
from carrier.core.session import Session
from carrier.errors import Error, Problem
from carrier.hops.bytesource import TcpSource, TlsSource, overdue
from carrier.hops.certificates import check_server, passes_through, renew, server_of
from carrier.hops.tls import first_hello, welcome
from carrier.options import check_numbers, numbers, port_of

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env

OPTIONS: Mapping[str, float] = {"track": 0, "max_connections": 4096, "half_close_timeout": 300, "idle_timeout": 0}
"""Limits (connections, seconds) and their defaults (DESIGN section 7); 0 means none."""


class TcpListener(Listener):
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
        self.half_close_timeout = limits["half_close_timeout"]
        self.idle_timeout = limits["idle_timeout"]
        self.certificates = server_of(conf.spec, tickets=self.kind == "message")
        self.by_name = passes_through(conf.spec)
        self.greeting: set[asyncio.Task[None]] = set()
        """Connections that have not said their TLS hello, or shaken hands, yet."""
        self.accepting = False
        self.held = False
        """There is too much in the whole process: accept nothing."""
        self.limited: dict[str, int] = {}
        """How often accepting paused, by the limit that did it."""

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        return check_numbers(options, OPTIONS, path)

    # ------------------------------------------------------------------ accepting

    def key(self) -> Key:
        return "tcp", "127.0.0.1" if self.loopback else str(self.spec.get("address") or "*"), port_of(self.spec)

    async def bind(self) -> None:
        address = self.spec.get("address")
        host = "127.0.0.1" if self.loopback else address if isinstance(address, str) else None
        self.bound = bind_stream(self.name, host, self.spec.get("port"))

    @property
    def port(self) -> int:
        """The bound port (the kernel's choice for port 0)."""
        return int(self.bound[0].getsockname()[1])

    def start(self) -> None:
        if not self.accepting and not self.held:
            self.accepting = True
            for sock in self.bound:
                self.env.loop.add_reader(sock, self._accept, sock)

    def _pause(self, limit: str) -> None:
        """Accept no more for now; `limit` says why."""
        self.limited[limit] = self.limited.get(limit, 0) + 1
        self.accepting = False
        for sock in self.bound:
            self.env.loop.remove_reader(sock)

    def hold(self) -> None:
        if not self.held:
            self.held = True
            self._pause("overload")

    def go_on(self) -> None:
        self.held = False
        if self.bound and len(self.live) < self.max_connections:
            self.start()

    def stop(self) -> None:
        for sock in self.bound:
            self.env.loop.remove_reader(sock)
        super().stop()

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(ACCEPTS):
            if len(self.live) >= self.max_connections:
                self._pause("max_connections")
                return
            try:
                connection, _address = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:  # gone before we looked at it
                continue
            except OSError:  # out of file descriptors or memory: let what is there finish
                self._pause("descriptors")
                self.env.loop.call_later(ACCEPT_PAUSE, self.start)
                return
            self.accepted(connection)

    def accepted(self, connection: socket.socket) -> None:
        """Make the session of a connection."""
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.certificates is None and not self.by_name:
                self.begin(TcpSource(self.env.loop, connection))
                return
        except OSError:  # it was reset before it was looked at
            connection.close()
            return
        task = self.env.loop.create_task(self._greet(connection))
        self.greeting.add(task)
        task.add_done_callback(self.greeting.discard)

    async def _greet(self, connection: socket.socket) -> None:
        """TLS: read what name is asked for, and shake hands unless that is the destination's part. Nobody hears of one that fails."""
        try:
            if self.certificates is None:
                hello = await first_hello(self.env.loop, connection)
                source = TcpSource(self.env.loop, connection)
                source.tls = {"sni": hello.sni, "alpn": list(hello.alpn)}
            else:
                source = TlsSource(self.env.loop, connection, await welcome(self.env.loop, connection, self.certificates))
        except (Error, OSError):
            self.limited["handshake"] = self.limited.get("handshake", 0) + 1
            connection.close()
            return
        except BaseException:
            connection.close()
            raise
        self.begin(source)

    def begin(self, source: TcpSource) -> None:
        """Make the session of an accepted end."""
        session = Session(self, source)
        self.live.add(session)
        session.begin(self.table.decide(session.metadata))

    # ------------------------------------------------------------------ sessions

    def ended(self, session: Session) -> None:
        super().ended(session)
        if not self.accepting and self.bound and len(self.live) < self.max_connections:
            self.start()

    def session_name(self, session: Session) -> str:
        source = session.source
        assert isinstance(source, TcpSource)
        return self.env.names.give(session, f"TCP:{source.peer[0]}:{source.peer[1]}-{source.local[0]}:{source.local[1]}")

    def metadata(self, session: Session) -> dict[str, Any]:
        source = session.source
        assert isinstance(source, TcpSource)
        return {
            "IP": {"src_addr": source.peer[0], "dst_addr": source.local[0]},
            "TCP": {"src_port": source.peer[1], "dst_port": source.local[1]},
            **({"TLS": source.tls} if source.tls is not None else {}),
        }

    def tick(self, now: float) -> None:
        super().tick(now)
        if self.certificates is not None:
            renew(self.certificates, self.env, f"listener/{self.name}")
        for session in list(self.live):
            source = session.source
            assert isinstance(source, TcpSource)
            error = overdue(source, now, self.half_close_timeout, self.idle_timeout)
            if error is not None:
                source.reset(error)
