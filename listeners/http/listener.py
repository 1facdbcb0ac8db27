"""HTTP listener: each request is a session; its connection (listeners/http/h1.py) is the session's source. Here: options, routing, life."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from carrier.core.accepting import ACCEPT_PAUSE, ACCEPTS
from carrier.core.address import bind_stream
from carrier.core.listener import Key
from carrier.core.room import Room
from carrier.errors import Error, Problem
from carrier.hops.certificates import check_server, renew, server_of
from carrier.hops.peek import fresh
from carrier.hops.tls import HANDSHAKE, entry_for
from carrier.options import check_numbers, numbers, port_of
from carrier.wire.h1.head import Limits
from listeners.http.h1 import Connection1
from listeners.http.request import Request
from listeners.http.routing import Port, Routing, networks

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.decision import Table
    from carrier.core.env import Env
    from carrier.core.session import Session

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
    "max_line": 8 * 1024,
    "max_body": 0,
    "strict_target": 1,
}
"""Limits (bytes, seconds, bytes per second, numbers) and their defaults (DESIGN section 7); 0 means none. strict_target 0: targets may hold
what RFC 3986 forbids and browsers nevertheless send, as in /find?q={a|b}."""
TEXTS = ("trusted", "via", "forwarded", "insecure", "explain", "half_close")
"""The other options."""


class HttpListener(Port):
    """`spec: {protocol: HTTP, port, address}`. `options`: see OPTIONS, and `trusted`: CIDRs whose x-forwarded-* are believed,
    `via`: our pseudonym, `forwarded`: send RFC 7239 Forwarded, `explain`: CIDRs of peers whose `x-carrier-explain` is heeded too,
    `half_close: keep`: a client that has sent its end is answered however late (else if the answer begins within a second)."""

    protocol = "HTTP"
    kind = "message"
    fields = {"port": "0..65535", "address": "IP address to bind to", "path": "ignored (l7mp)", "tls": "{certificate, key, ...}"}

    @classmethod
    def keeps_borders(cls, spec: Mapping[str, Any]) -> bool:
        return False  # of a body's bytes

    @classmethod
    def check_tls(cls, spec: Mapping[str, Any], path: str) -> list[Problem]:
        return check_server(spec.get("tls"), f"{path}.tls") if "tls" in cls.fields else []

    def __init__(self, conf: config.Listener, env: Env) -> None:
        super().__init__(conf, env)
        given, limits = conf.options, numbers(conf.options, OPTIONS)
        head, fields, line, body = (int(limits[name]) for name in ("max_head", "max_fields", "max_line", "max_body"))
        self.limits = Limits(head=head, fields=fields, line=line, body=body, strict_target=limits["strict_target"] != 0)
        self.header_timeout, self.keepalive_timeout = limits["header_timeout"], limits["keepalive_timeout"]
        self.idle_timeout = limits["idle_timeout"]
        self.body_min_rate, self.body_grace = limits["body_min_rate"], limits["body_grace"]
        self.max_connections = limits["max_connections"]
        self.networks = networks(given.get("trusted"))
        self.explained = networks(given.get("explain"))
        self.forwarded = bool(given.get("forwarded"))
        self.keeps_half_closed = given.get("half_close") == "keep"
        self.certificates = server_of(conf.spec, ("http/1.1",))
        if self.certificates is not None:
            self.tls = self.certificates.entries[0]
        self.connections: set[Connection1] = set()
        self.room: Room[Connection1] = Room()
        self.server: asyncio.Server | None = None
        self.greeting: set[asyncio.Task[None]] = set()
        """Connections that have not said their TLS hello, or shaken hands, yet."""
        self.stopped = False
        self.leaving = False
        """The process is about to end: connections are closed after their answer."""
        self.now = env.loop.time()
        """The monotonic time of the last tick: good enough for deadlines, free to read."""
        self.limited: dict[str, int] = {}
        """Requests and connections refused, by the limit that did it."""

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        found = check_numbers(options, OPTIONS, path, TEXTS)
        if not isinstance(options.get("via", ""), str) or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z:-]*", options.get("via", "")):
            found.append(
                Problem("not a name", f"{path}.via", seen=repr(options["via"]), allowed="a host or pseudonym (RFC 9110 section 7.6.3)")
            )
        if options.get("half_close", "end") not in ("end", "keep"):
            seen = repr(options["half_close"])
            found.append(Problem(f"expected end or keep, got {seen}", f"{path}.half_close", seen=seen, allowed="end, keep"))
        for name in ("trusted", "explain"):
            try:
                networks(options.get(name))
            except (ValueError, TypeError) as exc:
                found.append(Problem(str(exc), f"{path}.{name}", seen=repr(options.get(name)), allowed="a list of CIDRs"))
        return found

    # ------------------------------------------------------------------ life

    @property
    def port(self) -> int:
        """The bound port (the kernel's choice for port 0)."""
        return int(self.bound[0].getsockname()[1])

    def key(self) -> Key:
        return "tcp", "127.0.0.1" if self.loopback else str(self.spec.get("address") or "*"), port_of(self.spec)

    async def bind(self) -> None:
        address = self.spec.get("address")
        host = "127.0.0.1" if self.loopback else address if isinstance(address, str) else None
        self.bound = bind_stream(self.name, host, self.spec.get("port"))

    def use(self, table: Table) -> None:
        """A new routing table: what was memoised under the old one is not asked any more, also on connections that are there."""
        super().use(table)
        self.routing = Routing(table, self.limits, self.options, b"https" if self.tls is not None else b"http")
        for connection in self.connections:
            connection.learn()

    def start(self) -> None:
        if self.certificates is not None:
            for sock in self.bound:
                self.env.loop.add_reader(sock, self._accept_secure, sock)
        else:
            self.serving = self.env.loop.create_task(self._serve())

    def _accept_secure(self, sock: socket.socket) -> None:
        """Connections whose hello is to be looked at before anybody shakes hands."""
        for _ in range(ACCEPTS):
            try:
                connection, _address = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:  # gone before we looked at it
                continue
            except OSError:  # out of file descriptors or memory: let what is there finish
                self.hit("descriptors")
                self.env.loop.remove_reader(sock)
                self.env.loop.call_later(ACCEPT_PAUSE, self._accept_again, sock)
                return
            if 0 < self.max_connections <= len(self.greeting):
                self.hit("max_connections")
                connection.close()
                continue
            connection.setblocking(False)
            task = self.env.loop.create_task(self._greet(connection))
            self.greeting.add(task)
            task.add_done_callback(self.greeting.discard)

    def _accept_again(self, sock: socket.socket) -> None:
        if not self.stopped:
            self.env.loop.add_reader(sock, self._accept_secure, sock)

    async def _greet(self, connection: socket.socket) -> None:
        """Nobody hears of a handshake that fails: nobody is there to be told."""
        try:
            await self.secure(connection, lambda: Connection1(self))
        except (Error, OSError):
            self.hit("handshake")
            connection.close()
        except BaseException:
            connection.close()
            raise

    async def secure(self, connection: socket.socket, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        """Shake hands with an accepted connection by the entry that it asks for, and hand what is inside to `protocol`. Raises Error,
        OSError."""
        assert self.certificates is not None
        entry = await entry_for(self.env.loop, connection, self.certificates)
        await self.env.loop.connect_accepted_socket(protocol, fresh(connection), ssl=entry, ssl_handshake_timeout=HANDSHAKE)

    async def _serve(self) -> None:
        if self.stopped:  # before it began
            return
        more: dict[str, Any] = {"ssl": self.tls, "ssl_handshake_timeout": HANDSHAKE} if self.tls is not None else {}
        self.server = await self.env.loop.create_server(lambda: Connection1(self), sock=self.bound[0], backlog=4096, **more)
        if self.stopped:
            self.server.close()

    def farewell(self) -> None:
        """Every answer from now on is the last of its connection; `tick` closes those on which nothing comes any more."""
        self.leaving = True
        for connection in self.connections:
            connection.farewell()

    def stop(self) -> None:
        """Accept no more; idle connections close, the others after the answer that they are owed."""
        self.stopped = True
        for sock in self.bound if self.certificates is not None else ():
            self.env.loop.remove_reader(sock)
        if self.server is not None:
            self.server.close()
        else:
            super().stop()
        self.bound = []
        for connection in list(self.connections):
            connection.leave()

    def tick(self, now: float) -> None:
        super().tick(now)
        self.now = now
        if self.certificates is not None:
            renew(self.certificates, self.env, f"listener/{self.name}")
        for connection in list(self.connections):
            connection.tick(now)

    def make_room(self) -> bool:
        """There are too many connections: close the one that is of least use; False: all are being used."""
        leaver = self.room.choose(self.connections, self.env.loop.time())
        if leaver is None:
            return False
        self.connections.discard(leaver)
        leaver.give_way()
        return True

    @property
    def live(self) -> set[Session]:
        """Found when somebody asks: connections know their sessions."""
        return {connection.session for connection in self.connections if connection.session is not None}

    def hit(self, limit: str) -> None:
        """A limit refused something: count it by its name."""
        self.limited[limit] = self.limited.get(limit, 0) + 1

    # ------------------------------------------------------------------ sessions

    def session_name(self, session: Session) -> str:
        source = cast(Request, session.source)
        local = source.origin.local
        return f"HTTP:{source.peer[0]}:{source.peer[1]}-{local[0]}:{local[1]}-{session.number}"

    def metadata(self, session: Session) -> dict[str, Any]:
        return cast(Request, session.source).metadata(session.request)
