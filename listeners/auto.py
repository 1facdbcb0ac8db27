"""A port is what the app made it: `protocol: auto` looks at the first bytes of a connection and treats it as what it is.

HTTP/1.x is served as by the HTTP listener, request by request. Everything else (HTTP/2 with prior knowledge, gRPC, a database, anything)
is one TCP session: routed by the same rules, of which those on headers do not hold, and relayed untouched. TLS is
terminated where the port has certificates, unless the client will not speak HTTP/1.1 inside (ALPN): that is relayed too, and a
destination that has the same certificates, as a shadow has, answers it. SNI can be matched in each case.

A client that is silent for `detect_timeout` seconds may be waiting for the server to speak first: it is connected, and looked at again when
its own first bytes come before any of the server's. So a protocol whose server speaks first costs that wait once, and an HTTP client
that connects early and asks later is still routed by its requests.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from carrier.core.accepting import ACCEPT_PAUSE, ACCEPTS
from carrier.core.address import plain
from carrier.core.session import Session
from carrier.core.stream import HIGH, Socket
from carrier.errors import Error, Problem
from carrier.hops.bytesource import TcpSource, overdue
from carrier.hops.certificates import describe
from carrier.hops.peek import fresh, peek
from carrier.hops.tls import HANDSHAKE
from carrier.options import check_numbers, numbers
from carrier.wire.hello import MOST, Hello, parse_hello
from listeners.http.h1 import Connection1
from listeners.http.listener import HttpListener
from listeners.http.request import Request

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env

OPTIONS: Mapping[str, float] = {"detect_timeout": 0.1, "half_close_timeout": 300, "raw_idle_timeout": 0}
"""Seconds: see the module, and the TCP listener. 0 for the latter two means none."""

Seen = Literal["http", "tls", "other"]
_METHOD = re.compile(rb"[A-Z][A-Z-]{0,19}")
_HTTP = re.compile(rb"[A-Z][A-Z-]{0,19} [!-~]+ HTTP/1\.[0-9]\r?\n")
_LINE = 8 * 1024
"""Bytes of a request line, at most, that are waited for."""


def classify(data: bytes) -> Seen | None:
    """What a connection that begins with `data` is; None: that cannot be told yet."""
    data = data.lstrip(b"\r\n")  # RFC 9112 section 2.2
    if not data:
        return None
    if data[0] == 0x16:
        return "tls" if data[1:2] in (b"", b"\x03") else "other"
    line, newline, _ = data.partition(b"\n")
    if newline:
        return "http" if _HTTP.match(data) else "other"
    method, space, target = line.partition(b" ")
    if not (_METHOD.fullmatch(method) and len(method) <= 20) or (space and target[:1] not in (b"", b"/", b"*", b"h")):
        return "other"
    return "http" if len(line) > _LINE else None


class AutoListener(HttpListener):
    """`spec: {protocol: auto, port, address, tls}`. `options`: those of HTTP, and OPTIONS."""

    protocol = "auto"

    def __init__(self, conf: config.Listener, env: Env) -> None:
        super().__init__(conf, env)
        limits = numbers(conf.options, OPTIONS)
        self.detect_timeout = limits["detect_timeout"]
        self.half_close_timeout = limits["half_close_timeout"]
        self.raw_idle_timeout = limits["raw_idle_timeout"]
        self.accepting = False
        self.looking: set[asyncio.Task[None]] = set()
        """Connections of which nobody knows yet what they are."""
        self.raw: set[Session] = set()
        """Sessions that are no HTTP requests."""

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        own = {name: value for name, value in options.items() if name in OPTIONS}
        rest = {name: value for name, value in options.items() if name not in OPTIONS}
        return check_numbers(own, OPTIONS, path) + super().check_options(rest, path)

    # ------------------------------------------------------------------ accepting

    def start(self) -> None:
        if not self.accepting and not self.stopped:
            self.accepting = True
            for sock in self.bound:
                self.env.loop.add_reader(sock, self._accept, sock)

    def _pause(self, limit: str) -> None:
        self.hit(limit)
        self.accepting = False
        for sock in self.bound:
            self.env.loop.remove_reader(sock)

    def stop(self) -> None:
        """Accept no more. Connections that were accepted and have not said what they are yet are still served, once."""
        for sock in self.bound:
            self.env.loop.remove_reader(sock)
        self.leaving = True
        super().stop()

    def _full(self) -> bool:
        return bool(self.max_connections) and len(self.looking) + len(self.raw) >= self.max_connections

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(ACCEPTS):
            if self._full():
                self._pause("max_connections")
                return
            try:
                connection, _address = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:  # gone before we looked at it
                continue
            except OSError:  # out of file descriptors or memory
                self._pause("descriptors")
                self.env.loop.call_later(ACCEPT_PAUSE, self.start)
                return
            connection.setblocking(False)
            self.look(connection)

    def look(self, connection: socket.socket) -> None:
        """Find out what a connection is, and serve it."""
        task = self.env.loop.create_task(self._look(connection))
        self.looking.add(task)
        task.add_done_callback(self._looked)

    def _looked(self, task: asyncio.Task[None]) -> None:
        self.looking.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.env.loop.call_exception_handler({"message": f"looking at a connection failed: {exc}", "exception": exc})
        if not self.accepting and self.bound and not self._full():
            self.start()

    async def _look(self, connection: socket.socket) -> None:
        try:
            await self._serve_as(connection, await self._first(connection))
        except (OSError, Error):  # it was reset, its TLS failed: nobody is there to tell
            self.hit("handshake")
            connection.close()
        except BaseException:
            connection.close()
            raise

    async def _first(self, connection: socket.socket) -> Seen | None:
        """What the first bytes say; None when there are none in time."""
        try:
            return classify(connection.recv(_LINE, socket.MSG_PEEK)) or await self._wait(connection)
        except (BlockingIOError, InterruptedError):
            return await self._wait(connection)

    async def _wait(self, connection: socket.socket) -> Seen | None:
        try:
            async with asyncio.timeout(self.detect_timeout or None):
                return await peek(self.env.loop, connection, classify) or "other"
        except TimeoutError:
            return None

    async def _serve_as(self, connection: socket.socket, seen: Seen | None) -> None:
        hello = await self._hello(connection) if seen == "tls" else None
        if self.certificates is None and seen == "http":
            await self.env.loop.connect_accepted_socket(lambda: Connection1(self), fresh(connection))
        elif self.certificates is not None and hello is not None and self.certificates.speaks(hello):
            await self.secure(connection, lambda: Decrypted(self))
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            source = TcpSource(self.env.loop, connection) if seen is not None else SilentSource(self, connection)
            if hello is not None:
                source.tls = {"sni": hello.sni, "alpn": list(hello.alpn)}
            self.begin(source)

    async def _hello(self, connection: socket.socket) -> Hello | None:
        """The whole ClientHello; None when what begins like one is none, or does not come: that is the destination's to deal with."""
        try:
            async with asyncio.timeout(HANDSHAKE):
                return await peek(self.env.loop, connection, parse_hello, MOST)
        except (TimeoutError, Error):
            return None

    def begin(self, source: TcpSource | SecuredSource) -> Session:
        """A session of bytes."""
        session = Session(self, source)
        self.raw.add(session)
        session.begin(self.table.decide(session.metadata))
        return session

    # ------------------------------------------------------------------ sessions

    @property
    def live(self) -> set[Session]:
        return super().live | self.raw

    def ended(self, session: Session) -> None:
        super().ended(session)
        if session in self.raw:
            self.raw.discard(session)
            if not self.accepting and self.bound and not self._full():
                self.start()

    def session_name(self, session: Session) -> str:
        if isinstance(session.source, Request):
            return super().session_name(session)
        source = cast(TcpSource, session.source)
        return self.env.names.give(session, f"TCP:{source.peer[0]}:{source.peer[1]}-{source.local[0]}:{source.local[1]}")

    def metadata(self, session: Session) -> dict[str, Any]:
        if isinstance(session.source, Request):
            return super().metadata(session)
        source = cast(TcpSource, session.source)
        return {
            "IP": {"src_addr": source.peer[0], "dst_addr": source.local[0]},
            "TCP": {"src_port": source.peer[1], "dst_port": source.local[1]},
            **({"TLS": source.tls} if source.tls is not None else {}),
        }

    def tick(self, now: float) -> None:
        super().tick(now)
        for session in list(self.raw):
            source = session.source
            if (
                isinstance(source, TcpSource)
                and (error := overdue(source, now, self.half_close_timeout, self.raw_idle_timeout)) is not None
            ):
                source.reset(error)


class SilentSource(TcpSource):
    """A client that had said nothing when it was connected: should it be the first to speak, it is looked at again."""

    __slots__ = ("listener",)

    def __init__(self, listener: AutoListener, sock: socket.socket) -> None:
        super().__init__(listener.env.loop, sock)
        self.listener = listener

    def _readable(self) -> None:
        if not self.bytes_in and not self.bytes_out:
            try:
                data = self.sock.recv(_LINE, socket.MSG_PEEK)
            except OSError:
                data = b""  # reading says what it is
            seen = classify(data) if data else "other"
            if seen is None or (seen == "tls" if self.listener.certificates is not None else seen == "http"):
                self._again()
                return
        super()._readable()

    def _again(self) -> None:
        """The destination was connected for nothing."""
        session, sock = self.session, fresh(self.takeover())
        self.detach()
        if session is not None:
            session.close(Error("drain", "its first bytes came late, and are HTTP"))
        self.listener.look(sock)


class Decrypted(asyncio.Protocol):
    """A connection whose TLS is terminated here, until its first bytes have said what is inside."""

    transport: asyncio.Transport

    def __init__(self, listener: AutoListener) -> None:
        self.listener = listener
        self.first = b""
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.timer = self.listener.env.loop.call_later(max(self.listener.header_timeout, HANDSHAKE), self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def data_received(self, data: bytes) -> None:
        self.first += data
        seen = classify(self.first)
        if seen is None:
            return
        self._stop()
        listener, transport = self.listener, self.transport
        if seen == "http":
            connection = Connection1(listener)
            transport.set_protocol(connection)
            connection.connection_made(transport)
            connection.data_received(self.first)
        else:
            source = SecuredSource(transport)
            transport.set_protocol(source)
            listener.begin(source)
            source.data_received(self.first)


class SecuredSource(Socket, asyncio.Protocol):
    """The accepted end of a byte session whose TLS the event loop does. It has no half-close: an end that is passed on closes it."""

    __slots__ = ("local", "paused", "peer", "tls", "transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self.transport = transport
        transport.set_write_buffer_limits(HIGH)
        peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        self.peer, self.local = (plain(peer[0]), peer[1]), (plain(local[0]), local[1])
        self.tls: dict[str, Any] | None = describe(transport.get_extra_info("ssl_object"))
        self.paused = True
        transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self.bytes_in += len(data)
        self.messages_in += 1
        self.to.data(data)
        self.to.flush()

    def eof_received(self) -> bool:
        if self.session is not None:
            self.session.source_done = True
        self.to.end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        session, to = self.session, self.to
        self.detach()
        if session is not None:
            error = Error("reset", "the downstream closed the connection", "downstream") if exc is not None else None
            session.close(error)
            to.reset(error or Error("closed", "the downstream has gone", "downstream"))

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if not self.transport.is_closing():
            self.bytes_out += len(data)
            self.messages_out += 1
            self.transport.write(data)
        if last:
            self.end()

    def end(self, trailer: Any = None) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def reset(self, error: Error) -> None:
        self.transport.abort()

    def stop(self, error: Error | None = None) -> None:
        if error is not None:
            self.reset(error)
        else:
            self.pause()

    def pause(self) -> None:
        if not self.paused and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused and not self.transport.is_closing():
            self.paused = False
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        self.back.pause()

    def resume_writing(self) -> None:
        self.back.resume()

    def status(self) -> str:
        return "END" if self.transport.is_closing() else "READY"
