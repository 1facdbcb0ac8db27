"""Upstream connections of HTTP/2: many exchanges on each, as many connections as their limits of streams ask for.

An `Exchange2` is one stream. It goes to the connection of its endpoint that has least to do and still has a place; when none has, another
connection is made, or, where that may not be, it waits for a place. A stream that the peer says it has not looked at (GOAWAY,
REFUSED_STREAM) is sent again on another connection, its content too, as long as all of it is still here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, cast

from carrier.core.endpoint import Endpoint
from carrier.core.stream import HIGH, NOWHERE, Stream
from carrier.errors import Error
from carrier.hops.h2 import Connection
from carrier.wire.frames import accept_key
from carrier.wire.grpc import timeout_of, timeout_text
from carrier.wire.h2 import Engine, Memo, Section, code_name
from carrier.wire.h2 import Stream as Wire
from carrier.wire.h2.encoder import Encoder
from carrier.wire.h2.frames import CANCEL, NO_ERROR, REFUSED_STREAM
from carrier.wire.h2.heads import answer_of, lines_block, request_block, trailers_block, trailers_of
from carrier.wire.h2.limits import DEFAULT, Limits
from carrier.wire.http import NONE, Head
from clusters.http.exchange import Exchange, Shared

KEPT = 64 * 1024
"""Bytes of a request's content that are kept until its answer begins, to be sent again if the peer has not looked at it."""
MOVES = 3
"""How often one exchange is sent again."""
SILENCE = 15.0
"""Seconds without a byte from a peer that has streams open, after which it is asked for a sign of life; as long again, and it is gone."""


class Way2:
    """What the HTTP/2 connections of one cluster share. scheme: https or http. streams: on one connection, if the peer allows as many."""

    __slots__ = ("encoder", "limits", "memo", "scheme", "shared", "streams")

    def __init__(self, shared: Shared, scheme: bytes, streams: int) -> None:
        self.shared, self.scheme, self.streams = shared, scheme, streams
        of = shared.limits
        self.limits = Limits(
            connect=False,
            connection_window=4 * 1024 * 1024,
            window=256 * 1024,
            budget=20_000,
            refill=4000,
            head=of.head,
            block=max(DEFAULT.block, of.head),
            fields=of.fields,
            line=of.line,
        )
        self.memo = Memo(self.limits, client=True)
        self.encoder = Encoder()


class Pool2:
    """The HTTP/2 connections of one endpoint. connect: makes one more, or gives one of HTTP/1.1 back where that was agreed. most: at most
    so many, 0 for no bound. most_waiting: exchanges that wait for a place. making: one is being made; other: the last one speaks
    HTTP/1.1."""

    __slots__ = ("connect", "connections", "endpoint", "making", "most", "most_waiting", "other", "waiting", "way")

    def __init__(self, way: Way2, endpoint: Endpoint, connect: Callable[[], Awaitable[Any]], most: int, most_waiting: int) -> None:
        self.way, self.endpoint, self.connect, self.most, self.most_waiting = way, endpoint, connect, most, most_waiting
        self.connections: list[Upstream2] = []
        self.making: asyncio.Future[Any] | None = None
        self.waiting: deque[Exchange2] = deque()
        self.other = False

    def free(self) -> Upstream2 | None:
        """The connection that has least to do, of those that have a place."""
        found, least = None, 1 << 30
        for connection in self.connections:
            if connection.places > 0 and connection.busy < least:
                found, least = connection, connection.busy
        return found

    @property
    def full(self) -> bool:
        """May no more connections be made?"""
        return 0 < self.most <= len(self.connections)

    async def open(self) -> Any:
        """An exchange on a connection that is there by now, is being made, or is made for it; or a connection of HTTP/1.1. None: who made
        one before has got such, so it is not for this pool to make more. Raises Error."""
        while self.making is not None:  # others wait for the same: it may have room for all
            await asyncio.wait([self.making])
            if (found := self.free()) is not None:
                return Exchange2(self, self.endpoint, found)
            if self.other:
                return None
        if (found := self.free()) is not None:
            return Exchange2(self, self.endpoint, found)
        if self.full:
            if self.most_waiting and len(self.waiting) >= self.most_waiting:
                detail = (
                    f"{self.endpoint.address}: {self.most} connections (options.max_per_endpoint), {len(self.waiting)} requests waiting"
                )
                raise Error("overload", detail + " (options.max_waiting)", "upstream", "yes")
            return Exchange2(self, self.endpoint, None)
        if any(not connection.told for connection in self.connections):  # soon it will have said how many streams it takes
            return Exchange2(self, self.endpoint, None)
        made = await self._make()
        return Exchange2(self, self.endpoint, made) if isinstance(made, Upstream2) else made

    async def _make(self) -> Any:
        self.making = making = asyncio.get_running_loop().create_future()
        try:
            made = await self.connect()
            self.other = not isinstance(made, Upstream2)
            return made
        finally:
            self.making = None
            making.set_result(None)

    def wait(self, exchange: Exchange2) -> None:
        """It takes the next place."""
        self.waiting.append(exchange)
        self._grow()

    def _grow(self) -> None:
        """Make another connection for those that wait, if that may be, and if there is not one soon."""
        if self.making is None and not self.full and all(connection.told for connection in self.connections):
            task = asyncio.get_running_loop().create_task(self._make())
            task.add_done_callback(self._made)

    def _made(self, task: asyncio.Task[Any]) -> None:
        failure = None if task.cancelled() else task.exception()
        if failure is None and not task.cancelled() and isinstance(task.result(), Upstream2):
            self.place()
            return
        detail = f"{self.endpoint.address}: it speaks no HTTP/2 any more"
        error = failure if isinstance(failure, Error) else Error("closed", detail, "upstream", "yes")
        while self.waiting:
            self.waiting.popleft().broken(error.bare())

    def place(self) -> None:
        """There may be places: those that wait take them."""
        while self.waiting and (connection := self.free()) is not None and connection.suits(self.waiting[0]):
            exchange = self.waiting.popleft()
            exchange.begin(connection)
        if self.waiting:
            self._grow()

    def left(self, connection: Upstream2) -> None:
        if connection in self.connections:
            self.connections.remove(connection)

    def close(self) -> None:
        """No new streams: those that are there end."""
        for connection in list(self.connections):
            connection.drain()

    def tick(self, now: float, idle_timeout: float) -> None:
        for connection in list(self.connections):
            connection.tick(now, idle_timeout)


class SharedEndpoint(Endpoint):
    """An endpoint whose connections carry many sessions. pool: those of HTTP/2, once there are some."""

    __slots__ = ("pool",)

    def __init__(self, name: str, host: str, port: int, weight: float) -> None:
        super().__init__(name, host, port, weight)
        self.pool: Pool2 | None = None

    def take(self, session: Any) -> Any:
        pool = self.pool
        connection = pool.free() if pool is not None else None
        if pool is not None and connection is not None:
            return Exchange2(pool, self, connection)
        return super().take(session)


class MirroringEndpoint(SharedEndpoint):
    """One that gets each request in the version in which it came."""

    __slots__ = ()

    def take(self, session: Any) -> Any:
        asked = session.source.asked
        if asked is None or asked.version != "2":
            idle = self.idle
            return idle.pop() if idle else None
        connection = self.pool.free() if self.pool is not None else None
        return Exchange2(self.pool, self, connection) if self.pool is not None and connection is not None else None


class Exchange2(Exchange):
    """One stream, or one that will be. held: the answer's head, until it is known whether it is all that comes in this wake-up. body: what
    was sent of the request, as long as it may have to be sent again (None: it is too much); trailer: what ended it. moves: how often it
    was. upload: bytes that the request's end is not among."""

    __slots__ = ("body", "connection", "held_head", "moves", "paused", "pool", "size", "stream", "trailer")

    def __init__(self, pool: Pool2, endpoint: Endpoint, connection: Upstream2 | None) -> None:
        super().__init__(pool.way.shared, endpoint)
        self.pool, self.connection = pool, connection
        self.used = connection is not None and connection.served > 0
        self.stream: Wire | None = None
        self.held_head: Head | None = None
        self.body: list[bytes] | None = []
        self.size = self.moves = 0
        self.trailer: Any = None
        self.paused = False

    # ------------------------------------------------------------------ the request

    def head(self, head: Head, last: bool = False) -> None:
        session = self.session
        if session is None or not self.usable:
            self.gone()
            return
        self.request = self.sent(head)
        self.request_done = last
        self.waiting = True
        self.since = self.shared.now
        self.shared.busy.add(self)
        connection = self.connection
        if connection is None or connection.places <= 0 or not connection.suits(self):
            self._again()
        else:
            self.begin(connection)

    def _again(self) -> None:
        """On another connection, or when one has a place."""
        connection = self.pool.free()
        if connection is not None and connection.suits(self):
            self.begin(connection)
        else:
            self.connection = None
            self.pool.wait(self)

    def begin(self, connection: Upstream2) -> None:
        """Open the stream, and send what there is."""
        head, session = self.request, self.session
        if head is None or session is None:
            return
        self.connection = connection
        engine, way = connection.engine, self.pool.way
        if head.upgrade and not engine.peer_connect:
            detail = (
                f"{self.endpoint.address}: it speaks HTTP/2 and offers no extended CONNECT (RFC 8441), which {head.upgrade.decode()} needs"
            )
            self.broken(Error("not-implemented", detail, "upstream"))
            return
        body = self.body or []
        whole = self.request_done and not body and self.trailer is None and not head.upgrade
        block = request_block(head, way.scheme, way.encoder, self._time_left(head)) + lines_block(session.fields)
        connection.served += 1
        stream = self.stream = engine.request(block, whole, self, head_only=head.method == b"HEAD")
        for data in body:
            stream.send_data(data)
        if self.request_done and not whole and not head.upgrade:
            self._end()
        if self.paused:
            stream.pause()
        if stream.held is not None:
            self.back.pause()
        connection.soon()

    def _time_left(self, head: Head) -> bytes:
        """The grpc-timeout less what was used, if that is to be seen."""
        if not head.grpc or self.session is None:
            return b""
        seconds = timeout_of(head.get(b"grpc-timeout"))
        used = monotonic() - self.session.started
        return timeout_text(seconds - used) if seconds is not None and used >= 0.001 else b""

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if self.tunnel:
            self._send(data)
            if last:
                self.end()
            return
        if self.request_done and not self.makes_head():
            return
        if data:
            if self.body is not None:
                self.size += len(data)
                if self.size > KEPT:
                    self.body = None
                else:
                    self.body.append(data)
            if not last or self.stream is None:
                self._send(data)
        if last:
            if data and self.stream is not None:
                self.request_done = True
                self.since = self.shared.now
                if not self.stream.send_data(data, True):
                    self.back.pause()
            else:
                self.end()

    def _send(self, data: bytes) -> None:
        stream = self.stream
        if stream is None:  # it waits for a place; what the source sends meanwhile is bounded
            if self.body is None or self.size >= KEPT // 2:
                self.back.pause()
        elif not stream.send_data(data):
            self.back.pause()

    def end(self, trailer: Any = None) -> None:
        if self.tunnel:
            if self.half:
                self._over()
            elif self.stream is not None:
                self.half = True
                self.stream.end()
                self.flush()
            return
        if self.request_done and not self.makes_head():
            return
        self.request_done = True
        self.trailer = trailer
        self.since = self.shared.now
        self._end()

    def _end(self) -> None:
        stream = self.stream
        if stream is not None:
            block = trailers_block(self.trailer)
            if block:
                stream.send_trailers(block)
            else:
                stream.end()
            self.flush()

    def flush(self) -> None:
        if self.connection is not None:
            self.connection.soon()

    # ------------------------------------------------------------------ the answer

    def came(self, head: Head, last: bool) -> None:
        """A head of an answer; last: there is no more of it."""
        self.body = None
        request = self.request
        if request is not None and request.upgrade and head.family == 2:
            self.tunnel = True
            self.answered(_switched(request, head))
        elif head.status < 200:
            self.answered(head)
        elif last:
            self._ends(head)
        elif request is not None and request.method == b"HEAD":
            self.answered(head)
        else:
            self.held_head = head
            self.connection.touched.append(self)  # type: ignore[union-attr]

    def content(self, data: bytes, last: bool) -> None:
        head = self.held_head
        if head is not None and last and head.whole and not self.plain:
            self.held_head = None
            to = self._done()
            to.message(head, data)
            return
        self.show()
        if self.session is None and not self.tunnel:
            return
        if self.tunnel:
            if data:
                self.to.data(data)
            if last:
                self.ended(())
        elif last and data:
            to = self._done()
            to.data(data, None, True)
        elif last:
            self._done().end()
        elif data:
            self.to.data(data)
        if not last:
            self.connection.touched.append(self)  # type: ignore[union-attr]

    def ended(self, trailers: Any) -> None:
        """The answer is complete, with these trailers."""
        self.show()
        if self.tunnel:
            to = self.to
            if self.half:
                self._over()
            self.half = True
            to.end()
        else:
            self._done().end(trailers or None)

    def show(self) -> None:
        """Pass the head on: more of the answer comes later."""
        head, self.held_head = self.held_head, None
        if head is not None:
            self.answered(head)

    def _ends(self, head: Head) -> None:
        plain = self.plain
        to = self._done()
        if plain:
            to.end()
        elif head.whole:
            to.message(head, b"")
        else:
            to.head(head, True)

    def _done(self) -> Stream:
        """The answer is complete: let go of everything, and give back whom to tell."""
        to, stream = self.to, self.stream
        if stream is not None and not self.request_done:
            stream.reset(NO_ERROR)
        self.session = None
        self.to = self.back = NOWHERE
        self._release()
        return to

    def _release(self) -> None:
        self.shared.busy.discard(self)
        self.waiting = False
        self.usable = False
        stream, self.stream = self.stream, None
        if stream is not None and stream.owner is self:
            stream.owner = None
        self.request = self.body = None
        self.request_done = True
        if self.connection is not None:
            self.connection.freed()

    def _over(self) -> None:
        """Both directions of a tunnel have ended."""
        stream = self.stream
        if stream is not None:
            stream.end()
        self.session = None
        self.to = self.back = NOWHERE
        self._release()

    def lost(self, code: int, detail: str) -> None:
        """The stream is over before its end; with REFUSED_STREAM the peer has not looked at it."""
        self.stream = None
        if code == REFUSED_STREAM and self.body is not None and self.moves < MOVES and self.session is not None:
            self.moves += 1
            self._again()
            return
        self.show()
        where = f"{self.endpoint.address}: "
        connection = self.connection
        if connection is not None and connection.gone:
            error = Error("closed", where + "the connection was closed", "upstream")
        elif code == REFUSED_STREAM:
            error = Error("closed", where + f"the request was refused: {detail}", "upstream", "no")
        else:
            error = Error("reset", where + (detail or f"RST_STREAM {code_name(code)}"), "upstream")
        if self.used and self.waiting:
            error.retry = "if_reused"
        self.broken(error)

    # ------------------------------------------------------------------ ends, flow

    def close(self) -> None:
        if not self.usable and self.session is None:
            return
        stream = self.stream
        super().close()
        if stream is not None:
            stream.reset(CANCEL)
        if self in self.pool.waiting:
            self.pool.waiting.remove(self)
        self._release()

    def pause(self) -> None:
        self.paused = True
        if self.stream is not None:
            self.stream.pause()

    def resume(self) -> None:
        self.waits = False
        if self.paused:
            self.paused = False
            if self.stream is not None:
                self.stream.resume()
                self.flush()

    def status(self) -> str:
        return "READY" if self.usable else "END"


def _switched(request: Head, head: Head) -> Head:
    """The answer to an extended CONNECT, as the one that HTTP/1.1 would have given."""
    key = next((value for name, value in request.sent_on() if name == b"sec-websocket-key"), b"")
    onward = (*head.sent_on(), (b"sec-websocket-accept", accept_key(key)))
    return Head(b"", status=101, version="2", body=NONE, upgrade=request.upgrade, tunnel=True, fields=head.fields, onward=onward)


class Upstream2(Connection):
    """One connection, the target of its engine. served: streams ever. since: when it had its last stream, or byte. gone: it is lost.
    told: its settings have come; before that it gets one stream, because it may not take more, and none for a tunnel."""

    def __init__(self, pool: Pool2, endpoint: Endpoint) -> None:
        super().__init__(asyncio.get_running_loop())
        self.pool, self.endpoint = pool, endpoint
        self.gone = self.told = False
        self.served = 0
        self.since = self.heard = pool.way.shared.now

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(HIGH)
        way = self.pool.way
        self.engine = Engine(self, way.memo, way.limits, client=True, now=self.loop.time())
        self.pool.connections.append(self)
        self.soon()

    @property
    def busy(self) -> int:
        """Streams that are open."""
        return len(self.engine.streams)

    @property
    def places(self) -> int:
        """Streams that may be opened."""
        engine = self.engine
        return 0 if self.gone else min(engine.places, (self.pool.way.streams if self.told else 1) - len(engine.streams))

    def suits(self, exchange: Exchange2) -> bool:
        """Is enough known of it for this exchange?"""
        return self.told or exchange.request is None or not exchange.request.upgrade

    # ------------------------------------------------------------------ what the upstream sends

    def data_received(self, data: bytes) -> None:
        self.heard = self.pool.way.shared.now
        self.fed = True
        more = self.engine.feed(data, self.loop.time())
        self.fed = False
        if self.touched:
            touched, self.touched = self.touched, []
            for exchange in touched:
                exchange.show()
                exchange.to.flush()
        self.write()
        if more:
            self.rest()

    def on_head(self, stream: Wire, section: Section, last: bool) -> None:
        if stream.owner is not None:
            stream.owner.came(answer_of(section, last), last)

    def on_data(self, stream: Wire, data: bytes, last: bool) -> None:
        if stream.owner is not None:
            stream.owner.content(data, last)

    def on_trailers(self, stream: Wire, section: Section) -> None:
        if stream.owner is not None:
            stream.owner.ended(trailers_of(section))

    def on_drained(self, stream: Wire) -> None:
        if stream.owner is not None:
            stream.owner.back.resume()

    def on_reset(self, stream: Wire, code: int, detail: str) -> None:
        if stream.owner is not None:
            owner, stream.owner = stream.owner, None
            owner.lost(code, detail)

    def on_refused(self, stream: Wire, section: Section, kind: str, detail: str) -> None: ...

    def on_goaway(self, last: int, code: int, detail: str) -> None:
        self.pool.left(self)  # it takes nothing new

    def on_settings(self) -> None:
        self.told = True
        self.pool.place()

    # ------------------------------------------------------------------ its life

    def write(self) -> None:
        self.due = False
        engine = self.engine
        if engine.out and not self.transport.is_closing():
            self.transport.write(engine.take())
        if engine.failure is not None or (engine.finished and not self.gone):
            self._close()

    def freed(self) -> None:
        """A stream has ended."""
        self.since = self.pool.way.shared.now
        if self.pool.waiting:
            self.pool.place()
        self.soon()

    def drain(self) -> None:
        """Take no new streams, and close when the last has ended."""
        self.pool.left(self)
        self.engine.drain()
        self.soon()

    def _close(self) -> None:
        self.gone = True
        self.pool.left(self)
        if not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self.pool.left(self)
        self.fed = True
        self.engine.lost(str(exc) if exc else "the connection was closed")
        self.pool.place()

    def tick(self, now: float, idle_timeout: float) -> None:
        engine = self.engine
        engine.now = self.loop.time()
        if engine.streams:
            if now - self.heard >= 2 * SILENCE and engine.pinged_since:
                engine.close(NO_ERROR, f"no sign of life for {2 * SILENCE:g} s")
                self.write()
                self.transport.abort()
            elif now - self.heard >= SILENCE:
                engine.ping()
                self.write()
        elif 0 < idle_timeout <= now - self.since:
            self.drain()
