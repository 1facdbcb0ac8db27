"""A port is what the app made it: `protocol: auto` looks at the first line of a connection and treats it as what it is.

HTTP/1.x, and HTTP/2 with prior knowledge (gRPC), are served as by the HTTP listener, request by request, and go on in the version in which
they came. Everything else (a database, anything) is one TCP session: routed by the same rules, of which those on headers do not hold, and
relayed untouched. TLS is terminated where the port has certificates, unless the client will not speak HTTP/1.1 inside (ALPN; or HTTP/2,
where `options.protocols` names it): that is relayed too, and a destination that has the same certificates, as a shadow has, answers it.
SNI can be matched in each case.

What begins as a method of HTTP does is waited for, at most `header_timeout` seconds, and so is what nobody can tell, `detect_timeout`
seconds; how that goes on is told in listeners/auto_ends.py.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from carrier.core.address import described, named
from carrier.core.idle import Idle
from carrier.core.listener import Listener
from carrier.errors import Error, Problem
from carrier.hops.certificates import renewed
from carrier.hops.peek import peek
from carrier.hops.tls import HANDSHAKE
from carrier.options import check_numbers, numbers
from carrier.wire.hello import MOST, Hello, parse_hello, wanted
from listeners.auto_ends import AutoPort, AutoSource, SecuredSource
from listeners.http.h1 import Connection1

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.accepting import Arrival
    from carrier.core.decision import Table
    from carrier.core.env import Env
    from carrier.core.session import Session
    from carrier.core.stream import Socket

OPTIONS: Mapping[str, float] = {"detect_timeout": 0.3, "half_close_timeout": 300, "raw_idle_timeout": 0}
"""Seconds: see the module, and the TCP listener. 0 for the latter two means none."""


class AutoListener(AutoPort):
    """`spec: {protocol: auto, port, address, tls}`. `options`: those of HTTP, and OPTIONS."""

    protocol = "auto"
    gives_names = True
    spoken = ()
    takes_h2 = False
    """Does whom most clients are served by take HTTP/2 inside TLS?"""
    telling: asyncio.Task[None] | None = None
    """What is offered instead is put in force."""

    def __init__(self, conf: config.Listener, env: Env) -> None:
        super().__init__(conf, env)
        limits = numbers(conf.options, OPTIONS)
        self.detect_timeout = limits["detect_timeout"]
        self.idle = Idle(limits["raw_idle_timeout"], limits["half_close_timeout"], "raw_idle_timeout")

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        own = {name: value for name, value in options.items() if name in OPTIONS}
        rest = {name: value for name, value in options.items() if name not in OPTIONS}
        return check_numbers(own, OPTIONS, path) + super().check_options(rest, path)

    @property
    def loop_accepts(self) -> bool:
        return False

    def offered(self) -> tuple[str, ...]:
        """HTTP/2 inside TLS only where whoever serves most clients is known to take it, or somebody says so."""
        return super().offered() if "protocols" in self.conf.options or self.takes_h2 else ("http/1.1",)

    def use(self, table: Table) -> None:
        super().use(table)
        self.learn()

    def learn(self) -> None:
        """Ask the destination of those whom no other rule takes whether it takes HTTP/2: clients are offered no more."""
        cluster = self.table.otherwise
        takes = cluster is not None and self.certificates is not None and "h2" in self.protocols and cluster.takes_h2()
        if self.certificates is not None and takes is not self.takes_h2:
            self.takes_h2 = takes
            self.certificates.offer(self.offered())
            self.telling = self.env.loop.create_task(renewed(self.env, [(self.certificates, f"listener/{self.name}")]))
            self.env.note("offers HTTP/2 to clients" if takes else "offers no HTTP/2 to clients", listener=self.name)

    async def _know(self) -> None:
        """Who comes before the destination has said anything waits for it, for as long as for what nobody can tell: it has just started."""
        cluster = self.table.otherwise
        if cluster is not None and (asking := cluster.first_asked()) is not None:
            await asyncio.wait((asking,), timeout=self.detect_timeout)
            self.learn()
        if self.telling is not None and not self.telling.done():
            await asyncio.wait((self.telling,), timeout=self.detect_timeout)

    def tick(self, now: float) -> None:
        self.learn()
        super().tick(now)

    # ------------------------------------------------------------------ connections

    def accepted(self, connection: socket.socket) -> Socket | None:
        return AutoSource(self, connection)

    def enter(self, source: Socket) -> None:
        """It is looked at; or a session of bytes, because it was."""
        self.connections.add(source)
        assert isinstance(source, AutoSource)
        if source.undecided is not None:
            source.resume()
        else:
            self.begin_raw(source)

    def begin_raw(self, source: AutoSource | SecuredSource) -> bool:
        if len(self.connections) > self.max_connections and not self.make_room():
            self.hit("max_connections")
            source.give_up(Error("overload", f"more than {self.max_connections:g} connections (options.max_connections)"))
        elif not source.closed:
            self.begin(source)
        return source.session is not None

    def serve_http(self, connection: socket.socket, first: bytes, since: float) -> None:
        self.arrive(connection, partial(self._become_late, first=first, since=since))

    async def _become_late(self, arrival: Arrival, first: bytes, since: float) -> None:
        connection = LateConnection(arrival.listener, first, since)
        await self.hand_over(arrival, connection)

    def look_at_hello(self, connection: socket.socket) -> None:
        self.arrive(connection, self._hello)

    async def _hello(self, arrival: Arrival) -> None:
        hello = await self._read_hello(arrival.sock)
        if self.certificates is not None and hello is not None:
            await self._know()
        if self.certificates is not None and hello is not None and self.certificates.speaks(hello):
            await self.hand_over(arrival, SecuredSource(arrival.listener, arrival), secure=True)
            return
        raw = AutoSource(arrival.listener, arrival.sock, looks=False)
        if hello is not None:
            raw.tls = {"sni": hello.sni, "alpn": list(hello.alpn)}
        arrival.became(raw)

    async def _read_hello(self, connection: socket.socket) -> Hello | None:
        """The whole ClientHello; None when what begins like one is none, or does not come: that is the destination's to deal with."""
        try:
            async with asyncio.timeout(HANDSHAKE):
                return await peek(self.env.loop, connection, parse_hello, MOST, wanted)
        except (TimeoutError, Error):
            return None

    # ------------------------------------------------------------------ sessions

    find = Listener.find

    def session_name(self, session: Session) -> str:
        source = session.source
        if isinstance(source, (AutoSource, SecuredSource)):
            return self.env.names.give(session, named(source.peer, source.local))
        return super().session_name(session)

    def metadata(self, session: Session) -> dict[str, Any]:
        source = session.source
        if isinstance(source, (AutoSource, SecuredSource)):
            return described(source.peer, source.local, source.tls)
        return super().metadata(session)


class LateConnection(Connection1):
    """A connection of HTTP of which something was read already. first: that. Its head is as old as the connection."""

    __slots__ = ("first",)

    def __init__(self, listener: AutoPort, first: bytes, began: float) -> None:
        super().__init__(listener)
        self.first, self.since = first, began

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        began = self.since
        super().connection_made(transport)
        first, self.first = self.first, b""
        if not self.closing or self.listener.leaving:
            self.data_received(first)
        if self.paused and self.transport.get_protocol() is self:
            self.transport.set_protocol(Pausing(self))
        if self.session is None and self.reader.pending:
            self.since = began
            self.wait_for_head()


class Pausing(asyncio.Protocol):
    """Stands in for a connection that has paused in `connection_made`: uvloop begins to read behind that, whatever was said in it. `pause`
    would not say it again, and more and more requests behind the first one would be held."""

    __slots__ = ("connection",)

    def __init__(self, connection: LateConnection) -> None:
        self.connection = connection

    def _step_aside(self) -> LateConnection:
        connection = self.connection
        connection.transport.set_protocol(connection)
        if connection.paused:
            connection.transport.pause_reading()
        return connection

    def data_received(self, data: bytes) -> None:
        self._step_aside().data_received(data)

    def eof_received(self) -> bool:
        return self._step_aside().eof_received()

    def pause_writing(self) -> None:
        self._step_aside().pause_writing()

    def resume_writing(self) -> None:
        self._step_aside().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.connection.connection_lost(exc)
