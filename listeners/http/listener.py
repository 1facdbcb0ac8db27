"""HTTP listener: each request is a session; its connection (listeners/http/h1.py) is the session's source. Here: options, routing, life."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from carrier.core.address import BACKLOG
from carrier.core.stream import DESTROYED
from carrier.errors import Error, Problem, shown
from carrier.hops.certificates import check_server, renew, server_of
from carrier.hops.tls import Welcome
from carrier.hops.tlstransport import TlsTransport
from carrier.options import check_numbers, numbers
from carrier.wire.forwarding import networks
from carrier.wire.h1.head import Limits
from carrier.wire.h2 import Limits as Limits2
from carrier.wire.h2.limits import DEFAULT as DEFAULT2
from listeners.http.answers import told_id, told_timing
from listeners.http.calls import Calls
from listeners.http.h1 import Connection1
from listeners.http.h2 import Both, Connection2
from listeners.http.joining import Joining
from listeners.http.request import Request
from listeners.http.routing import MAX_HOPS, Port, Routing, refused

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.accepting import Arrival
    from carrier.core.decision import Needs, Table
    from carrier.core.env import Env
    from carrier.core.listener import Listener
    from carrier.core.session import Session
    from carrier.core.stream import Socket
    from carrier.wire.http import Head

OPTIONS: Mapping[str, float] = {
    "track": 0,
    "header_timeout": 10,
    "keepalive_timeout": 75,
    "idle_timeout": 300,
    "body_min_rate": 240,
    "body_grace": 10,
    "max_connections": 4096,
    "max_head": 32 * 1024,
    "max_fields": 100,
    "max_line": 16 * 1024,
    "max_heads": 8 * 1024 * 1024,
    "max_body": 0,
    "max_streams": 100,
    "max_hops": MAX_HOPS,
    "strict_target": 1,
    "strict_path": 1,
}
"""Limits (bytes, seconds, bytes per second, numbers) and their defaults (DESIGN section 7); 0 means none. strict_target 0: targets may hold
what RFC 3986 forbids and browsers nevertheless send, as in /find?q={a|b}."""
PROTOCOLS = frozenset(("h1", "h2"))
TEXTS = (
    "answer_id",
    "server_timing",
    "trusted",
    "via",
    "forwarded",
    "insecure",
    "explain",
    "join",
    "half_close",
    "protocols",
    "forwarding",
    "proxy_protocol",
)
"""The other options."""


class HttpListener(Port):
    """`spec: {protocol: HTTP, port, address}`. `options`: see OPTIONS, and `trusted`: CIDRs whose x-forwarded-* are believed,
    `via`: our pseudonym, `forwarded`: send RFC 7239 Forwarded, `explain`: CIDRs of peers whose `x-carrier-explain` is heeded too,
    `join`: links by which browsers join bridges,
    `forwarding: keep`: what requests say of their way goes on as it came, `protocols`: the versions that are spoken, of h1 and h2,
    `half_close: keep`: a client that has sent its end is answered however late (else if the answer begins within a second)."""

    protocol = "HTTP"
    kind = "message"
    waits = False
    gives_names = False
    spoken: ClassVar[Sequence[str]] = ("h2", "http/1.1", "http/1.0")
    """What clients may agree on inside TLS; nothing: anything."""
    fields = {"port": "0..65535", "address": "IP address to bind to", "path": "ignored (l7mp)", "tls": "{certificate, key, ...}"}

    @classmethod
    def keeps_borders(cls, spec: Mapping[str, Any]) -> bool:
        return False  # of a body's bytes

    @classmethod
    def check_tls(cls, spec: Mapping[str, Any], path: str) -> list[Problem]:
        return check_server(spec.get("tls"), f"{path}.tls", cls.spoken) if "tls" in cls.fields else []

    def __init__(self, conf: config.Listener, env: Env) -> None:
        super().__init__(conf, env)
        given, limits = conf.options, numbers(conf.options, OPTIONS)
        head, fields, line, body = (int(limits[name]) for name in ("max_head", "max_fields", "max_line", "max_body"))
        self.limits = Limits(head=head, fields=fields, line=line, body=body, strict_target=limits["strict_target"] != 0, options=True)
        self.header_timeout, self.keepalive_timeout = limits["header_timeout"], limits["keepalive_timeout"]
        self.idle_timeout = limits["idle_timeout"]
        self.body_min_rate, self.body_grace = limits["body_min_rate"], limits["body_grace"]
        self.max_heads = limits["max_heads"] or float("inf")
        self.heads = 0
        self.max_connections = limits["max_connections"] or float("inf")
        self.networks = networks(given.get("trusted"))
        self.explained = networks(given.get("explain"))
        self.joining = Joining(env, conf.name) if given.get("join") is True else None
        self.forwarded = bool(given.get("forwarded"))
        self.answer_id, self.server_timing = bool(given.get("answer_id")), bool(given.get("server_timing"))
        self.tells = self.answer_id or self.server_timing
        self.keeps_claims = given.get("forwarding") == "keep"
        self.keeps_half_closed = given.get("half_close") == "keep"
        spoken = given.get("protocols")
        self.protocols = frozenset(spoken) if isinstance(spoken, list) and spoken else PROTOCOLS
        self.certificates = server_of(conf.spec, self.offered())
        self.both = Both(self.limits2(limits))
        if self.certificates is not None:
            self.tls = self.certificates.entries[0]
        self.calls = Calls()
        self.server: asyncio.Server | None = None
        self.serving: asyncio.Task[None] | None = None
        self.leaving = False
        """The process is about to end: connections are closed after their answer."""
        self.now = env.loop.time()
        """The monotonic time of the last tick: good enough for deadlines, free to read."""

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        found = check_numbers(options, OPTIONS, path, TEXTS)
        if not isinstance(options.get("via", ""), str) or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z:-]*", options.get("via", "")):
            found.append(
                Problem("not a name", f"{path}.via", seen=repr(options["via"]), allowed="a host or pseudonym (RFC 9110 section 7.6.3)")
            )
        spoken = options.get("protocols", ["h1"])
        if not isinstance(spoken, list) or not spoken or not PROTOCOLS.issuperset(map(str, spoken)):
            found.append(Problem("expected a list of protocols", f"{path}.protocols", seen=repr(spoken), allowed="[h1, h2]"))
        for name in ("join", "answer_id", "server_timing"):
            if not isinstance(options.get(name, False), bool):
                seen = shown(options[name])
                found.append(Problem("expected true or false", f"{path}.{name}", seen=seen, allowed="true, false"))
        for name, other in (("half_close", "end"), ("forwarding", "replace")):
            if options.get(name, other) not in (other, "keep"):
                seen = repr(options[name])
                found.append(Problem(f"expected {other} or keep, got {seen}", f"{path}.{name}", seen=seen, allowed=f"{other}, keep"))
        for name in ("trusted", "explain", "proxy_protocol"):
            try:
                networks(options.get(name))
            except (ValueError, TypeError) as exc:
                found.append(Problem(str(exc), f"{path}.{name}", seen=repr(options.get(name)), allowed="a list of CIDRs"))
        return found

    @classmethod
    def refuses(cls, options: Mapping[str, Any], needs: Needs, metadata: Mapping[str, Any]) -> Error | None:
        http = metadata.get("HTTP")
        return refused(options, needs, http) if isinstance(http, dict) else None

    def offered(self) -> tuple[str, ...]:
        """What TLS offers (RFC 7301)."""
        return tuple(name for name, version in (("h2", "h2"), ("http/1.1", "h1")) if version in self.protocols)

    def limits2(self, given: Mapping[str, float]) -> Limits2:
        """The bounds of a connection of HTTP/2."""
        limits = self.limits
        streams = int(given["max_streams"]) or 1 << 30
        block = max(DEFAULT2.block, limits.head)
        return Limits2(
            streams=streams,
            head=limits.head,
            fields=limits.fields,
            line=limits.line,
            block=block,
            strict_target=limits.strict_target,
            options=True,
        )

    # ------------------------------------------------------------------ life

    def use(self, table: Table) -> None:
        """A new routing table: what was memoised under the old one is not asked any more, also on connections that are there."""
        super().use(table)
        self.routing = Routing(table, self.limits, self.options, b"https" if self.tls is not None else b"http", self.joining)
        for connection in self._connections:
            if isinstance(connection, Connection1 | Connection2):
                connection.learn()

    @property
    def loop_accepts(self) -> bool:
        """Does the event loop accept, or we?"""
        return self.tls is None and self.certificates is None and not self.proxies

    def _go(self) -> None:
        """Without TLS the event loop accepts: one connection a wake-up, and nevertheless for 23 us where a loop of ours that takes many
        needs 31, because no socket of Python's is made for each."""
        if not self.loop_accepts:
            super()._go()
        elif self.opened and not self.stopped and not self.accepting:
            self.accepting = True
            self.serving = self.env.loop.create_task(self._serve())
            self.serving.add_done_callback(self._served)

    async def _serve(self) -> None:
        if self.stopped:  # before it began
            return
        server = await self.env.loop.create_server(lambda: Connection1(self), sock=self.bound[0], backlog=BACKLOG)
        if self.stopped:
            server.close()
        else:
            self.server = server

    def _served(self, serving: asyncio.Task[None]) -> None:
        """The loop would not serve: say so, and be seen not to listen."""
        exc = serving.exception() if not serving.cancelled() else None
        if exc is not None:
            self.env.loop.call_exception_handler({"message": f"listener {self.name} cannot accept: {exc}", "exception": exc})
            self.stop()

    def accepted(self, connection: socket.socket) -> Socket | None:
        self.arrive(connection, self._become_http)
        return None

    async def _become_http(self, arrival: Arrival) -> None:
        await self.hand_over(arrival, Connection1(arrival.listener), secure=self.certificates is not None)

    async def hand_over(self, arrival: Arrival, protocol: Any, secure: bool = False) -> None:
        """Give a connection to a transport of the event loop. secure: that shakes hands first, by the entry that the client asks for.
        It is an arrival until then: `protocol` has one, and a listener. Raises Error, OSError."""
        arrival.inner = protocol
        protocol.arrival = arrival
        loop = self.env.loop
        if not secure:
            await loop.connect_accepted_socket(lambda: protocol, arrival.sock)
            return
        assert self.certificates is not None
        channel = await Welcome(loop, arrival.sock, self.certificates).ended()
        TlsTransport(loop, arrival.sock, channel, protocol, "downstream")

    def came(self, connection: Connection1 | Connection2) -> bool:
        """A connection may speak HTTP; False: there are too many, and all are being used."""
        arrival, connection.arrival = connection.arrival, None
        if arrival is not None:
            self._connections.discard(arrival.done())
        allowed = self._has_room()
        self._connections.add(connection)
        return allowed

    def inherit(self, old: Listener) -> None:
        super().inherit(old)
        if isinstance(old, HttpListener) and self.name == old.name:
            self.calls = old.calls

    def farewell(self) -> None:
        """Every answer from now on is the last of its connection; `tick` closes those on which nothing comes any more."""
        self.leaving = True
        for connection in self._connections:
            if isinstance(connection, Connection1 | Connection2):
                connection.farewell()

    def stop(self) -> None:
        """Accept no more; idle connections close, the others after the answer that they are owed."""
        self.leaving = True
        super().stop()

    def release(self) -> None:
        server, self.server = self.server, None
        if self.serving is not None:  # perhaps it has not begun
            self.serving.cancel()
        if server is None:
            super().release()
        else:  # it has the socket
            self.bound = []
            server.close()

    def _pause(self, limit: str = "") -> None:
        if not self.loop_accepts:
            super()._pause(limit)

    def tick(self, now: float) -> None:
        self.now = now
        super().tick(now)
        if self.certificates is not None:
            renew(self.certificates, self.env, f"listener/{self.name}")

    @property
    def live(self) -> set[Session]:
        """Found when somebody asks: connections know their sessions. One of bytes may outlast its connection."""
        found = set(self._live)
        for connection in self._connections:
            if isinstance(connection, Connection2):
                found.update(connection.sessions())
            elif connection.session is not None and connection.session.status != DESTROYED:
                found.add(connection.session)
        return found

    # ------------------------------------------------------------------ sessions

    def told(self, session: Session, head: Head) -> bytes:
        lines = told_id(session, head) if self.answer_id else b""
        return lines + told_timing(session) if self.server_timing else lines

    def find(self, name: str) -> Session | None:
        number = name.rpartition("-")[2]
        return next((session for session in self.sessions() if str(session.number) == number and session.name == name), None)

    def session_name(self, session: Session) -> str:
        source = cast(Request, session.source)
        local = source.origin.local
        return f"HTTP:{source.peer[0]}:{source.peer[1]}-{local[0]}:{local[1]}-{session.number}"

    def metadata(self, session: Session) -> dict[str, Any]:
        source = cast(Request, session.source)
        found = source.metadata(session.request)
        if source.session is session and source.number:
            found["HTTP"]["stream"] = source.number
        return found
