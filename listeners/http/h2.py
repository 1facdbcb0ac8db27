"""One downstream connection of HTTP/2: each stream is a request, and so a session.

Frames, flow control, limits and the budget are the engine's (carrier/wire/h2). Here a head becomes a `Request2` (h2_request.py), and what
it answers frames again. What is written in one wake-up leaves in one write, that of many streams too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from carrier.core.ledger import refused
from carrier.core.room import IDLE, PATIENCE, UNFINISHED, YOUNG
from carrier.core.stream import DESTROYED, HIGH
from carrier.core.wheel import LULL, NEVER
from carrier.errors import Error
from carrier.hops.h2 import Connection
from carrier.wire.grpc import timeout_of
from carrier.wire.h2 import Engine, Memo, Section, Stream, code_name
from carrier.wire.h2.encoder import Encoder
from carrier.wire.h2.frames import CANCEL, ENHANCE_YOUR_CALM, NO_ERROR, SETTINGS_TIMEOUT
from carrier.wire.h2.heads import answer_block, request_of, trailers_of
from carrier.wire.h2.limits import Limits
from carrier.wire.http import Head
from listeners.http.answers import refusal_for
from listeners.http.h2_request import Request2
from listeners.http.request import Origin

if TYPE_CHECKING:
    from carrier.core.accepting import Arrival
    from carrier.core.session import Session
    from listeners.http.routing import Port

LONG = 4096
"""Bytes of a head that counts while it is served (`options.max_heads`)."""
SPARE = 32
"""Requests of streams that have ended, kept by a connection for its next ones."""
IDLE_SPARE = 1.0
"""Seconds without a stream after which they are let go: an idle connection costs little."""
LINGER = 2.0
"""Seconds that a client has to read an answer, and to stop sending, before it is told that the rest of its request is not wanted."""
DRAINED = 30.0
"""Seconds that the rest of a request is read and dropped that has its answer, as nginx does on a connection of HTTP/1.1."""
FLUSH = 30.0
"""Seconds that the last bytes of a connection may take to be sent."""


class Both:
    """What all connections of one listener share: blocks that were read before, and those that were made."""

    __slots__ = ("encoder", "limits", "memo")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.memo = Memo(limits)
        self.encoder = Encoder()


class Connection2(Connection):
    """One downstream connection, the target of its engine.

    arrival: what it is counted as before it speaks HTTP. since: monotonic seconds (coarse) at which it became idle, or began. weight: bytes
    of a head that is not whole, counted at the listener. asleep: nothing of it is looked at before its keep-alive is over.
    """

    def __init__(self, listener: Port, shared: Both, origin: Origin) -> None:
        super().__init__(listener.env.loop)
        self.listener, self.shared, self.origin = listener, shared, origin
        self.closing = self.asleep = False
        self.arrival: Arrival | None = None
        self.since = self.loop.time()
        self.weight = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        listener = self.listener = self.listener.successor()
        self.transport.set_write_buffer_limits(HIGH)
        self.engine = Engine(self, self.shared.memo, self.shared.limits, now=self.loop.time())
        if not listener.came(self):
            listener.hit("max_connections")
            self._end(ENHANCE_YOUR_CALM, f"more than {listener.max_connections:g} connections (options.max_connections)")
        elif listener.leaving:
            self.farewell()

    def moved(self, listener: Port) -> None:
        """Another listener has taken the place of its own, with other options: they hold from now on, but for those that were agreed on."""
        weight = self.weight + sum(stream.owner.weight for stream in self.engine.streams.values() if stream.owner is not None)
        self.listener.heads -= weight
        listener.heads += weight
        self.listener = listener
        self.origin.believed_by(listener)
        for stream in self.engine.streams.values():
            if stream.owner is not None:
                stream.owner.listener = listener
                if stream.owner.session is not None:
                    stream.owner.session.listener = listener
        self.learn()

    def learn(self) -> None:
        """The listener's routing has changed: sessions that are kept know the old routes. Heads are asked for by revision."""
        self.engine.spare.clear()
        for stream in self.engine.streams.values():
            if stream.owner is not None:
                stream.owner.spare = None

    # ------------------------------------------------------------------ what the downstream sends

    def data_received(self, data: bytes) -> None:
        if self.asleep:
            self.wake()
        engine = self.engine
        self.fed = True
        more = engine.feed(data, self.loop.time())
        self.fed = False
        if engine.begun_since or self.weight:
            self._weigh(engine.begun)
        if self.touched:
            touched, self.touched = self.touched, []
            for request in touched:
                request.to.flush()
        self.write()
        if more:
            self.rest()

    def _weigh(self, begun: int) -> None:
        """Count what there is of a head that is not whole. What has begun cannot be refused alone: what follows is read by it."""
        listener = self.listener
        listener.heads += begun - self.weight
        more, self.weight = begun > self.weight, begun
        if more and listener.heads > listener.max_heads:
            error = listener.too_many_heads()
            listener.hit(error.kind)
            self._end(ENHANCE_YOUR_CALM, error.detail)

    def on_head(self, stream: Stream, section: Section, last: bool) -> None:
        request: Request2 | None = stream.owner
        if request is None:
            request = stream.owner = Request2(self)
            request.stream = stream
        request.used, request.body_done, request.since = True, last, stream.since
        request.body_bytes = request.seen = 0
        request.bytes_in = size = section.size
        listener = self.listener
        if size > LONG:
            if listener.heads + size > listener.max_heads:
                error = listener.too_many_heads()
                listener.hit(error.kind)
                self._turn_away(stream, section, error)
                return
            request.weight = size
            listener.heads += size
        routing = listener.routing
        try:
            head = request_of(section, last, routing.trusting if self.origin.trusted else routing.profile)
        except Error as error:
            self._turn_away(stream, section, error)
            return
        if head.simple:
            request.begin(head, True)
        else:
            self._begin(request, stream, section, head)
            if not last:
                self.touched.append(request)  # its head does not wait for content, which may come late

    def _begin(self, request: Request2, stream: Stream, section: Section, head: Head) -> None:
        """Begin what is not just one head to which any answer may be given."""
        if head.method == b"CONNECT" or (head.upgrade and head.upgrade != b"websocket"):
            what = f"CONNECT for {head.upgrade.decode('latin-1')}" if head.upgrade else "CONNECT"
            self._turn_away(stream, section, Error("not-implemented", f"{what} is not served here", "downstream"))
            return
        if head.upgrade is not None:
            request.body_done = True
        request.begin(head, request.body_done)
        if head.grpc == 2 and request.session is not None and (seconds := timeout_of(head.get(b"grpc-timeout"))) is not None:
            request.waits_for(seconds)
        if head.expect:
            request.may_go_ahead(head)

    def on_data(self, stream: Stream, data: bytes, last: bool) -> None:
        request: Request2 = stream.owner
        if request is None:
            return
        session = request.session
        request.bytes_in += len(data)
        request.body_bytes += len(data)
        if last:
            request.body_done = True
            request.since = self.engine.now
            if session is not None:
                session.source_done = True
        most = self.listener.limits.body
        if 0 < most < request.body_bytes and session is not None and not request.tunnel:
            request.refuse(Error("body-too-large", f"a body of more than {most} bytes (options.max_body)", "downstream"))
        elif session is not None:
            if request.asked is not None and request.asked.upgrade and not request.tunnel:
                request.early += (data,)
            elif request.tunnel:
                if data:
                    request.to.data(data)
                if last:
                    self._tunnel_ended(request)
            else:
                request.to.data(data, None, last)
            self.touched.append(request)

    def _tunnel_ended(self, request: Request2) -> None:
        request.to.end()
        if request.session is not None and request.stream.ended:
            request.session.close()
            request.session = None
            self.free(request)

    def on_trailers(self, stream: Stream, section: Section) -> None:
        request: Request2 = stream.owner
        if request is None:
            return
        request.body_done = True
        request.since = self.engine.now
        if request.session is not None:
            request.session.source_done = True
            request.to.end(trailers_of(section) or None)
            self.touched.append(request)

    def on_drained(self, stream: Stream) -> None:
        if stream.owner is not None:
            stream.owner.back.resume()

    def on_reset(self, stream: Stream, code: int, detail: str) -> None:
        if stream.owner is not None:
            stream.owner.lost(code, detail)

    def on_refused(self, stream: Stream, section: Section, kind: str, detail: str) -> None:
        error = Error(kind, detail, "downstream")
        self.listener.hit(kind)
        if stream.refused:
            self._turn_away(stream, section, error)
        else:
            self._note(section, error)

    def on_goaway(self, last: int, code: int, detail: str) -> None:
        self.closing = True

    def on_settings(self) -> None: ...

    def _turn_away(self, stream: Stream, section: Section, error: Error) -> None:
        """Answer what becomes no session."""
        if stream.owner is not None:
            self.forget(stream.owner)
            stream.owner = None
        self.say(stream, error, section)
        self._note(section, error)

    def _note(self, section: Section, error: Error) -> None:
        request = Request2(self)
        request.bytes_in = section.size
        begun = section.method + b" " + (section.path or section.authority) + b" HTTP/2"
        refused(self.listener, request, begun, error, self.engine.now)

    def say(self, stream: Stream, error: Error, asked: Head | Section | None) -> Head:
        """Answer with an error, and read no more of the request."""
        head, body = refusal_for(asked, error)
        block = answer_block(head, self.shared.encoder)
        if not body or (asked is not None and asked.method == b"HEAD"):
            stream.send_head(block, True)
        else:
            stream.send_message(block, body)
        if not stream.refused:
            self._linger(stream)
        self.soon()
        return head

    def _linger(self, stream: Stream) -> None:
        """The answer is out, the request is not read to its end: RST_STREAM says so (RFC 9113 section 8.1), but not at once. What an answer
        has still to wait for would be lost, and there are clients that look at nothing else once they have seen it (curl 7.88), or that
        look at no answer before they have sent all (httpx). What comes is dropped, for as long as some does and DRAINED lasts."""
        if not stream.over:
            stream.resume()
            self.loop.call_later(LINGER, self._no_more, stream, (stream.room, stream.owed, stream.left), DRAINED)

    def _no_more(self, stream: Stream, seen: tuple[int, int, int], time: float) -> None:
        """seen: what it was when it was looked at last, which changes with what comes."""
        if stream.over:
            return
        now = stream.room, stream.owed, stream.left
        if stream.held is not None:  # tick sees to those that take nothing
            self.loop.call_later(LINGER, self._no_more, stream, now, time)
        elif time > 0 and now != seen:
            self.loop.call_later(LINGER, self._no_more, stream, now, time - LINGER)
        else:
            stream.reset(NO_ERROR)
            self.soon()

    # ------------------------------------------------------------------ writing

    def write(self) -> None:
        self.due = False
        engine = self.engine
        if engine.out and not self.transport.is_closing():
            self.transport.write(engine.take())
        if engine.failure is not None:
            self._failed()
        elif engine.draining and engine.finished:
            self._close()

    def _failed(self) -> None:
        failure = self.engine.failure
        if failure is not None and not self.closing:
            self.closing = True
            self.listener.hit(f"h2_{failure.reason or code_name(failure.code).lower()}")
        self._close()

    def _close(self) -> None:
        self.since = self.listener.now
        if not self.transport.is_closing():
            self.transport.close()

    def free(self, request: Request2) -> None:
        """The answer is complete."""
        stream = request.stream
        self._linger(stream)
        self.forget(request, stream.over and stream.ended and stream.held is None)
        self.soon()

    def free_at_once(self, request: Request2) -> None:
        """The same of one whose stream has ended, and which is as it was."""
        request.used = False
        engine = self.engine
        if len(engine.spare) < SPARE:
            engine.spare.append(request.stream)
        if not engine.streams:
            self.since = self.listener.now
        if not self.due:
            self.soon()

    def forget(self, request: Request2, whole: bool = False) -> None:
        """A request that is used no more: kept for the next stream. whole: its own has ended as it should, and is used again as well."""
        stream, spare = request.stream, self.engine.spare
        if request.weight:
            self.listener.heads -= request.weight
            request.weight = 0
        if request.timer is not None:
            request.timer.cancel()
        request.as_new()
        if request.used:  # the stream may have closed, and let go of it, by now
            request.used = False
            stream.owner = None  # what still comes on it is nobody's: the request is for another stream by then
            if len(spare) < SPARE:
                if not whole:
                    stream = request.stream = Stream(self.engine, 0)
                stream.owner = request
                spare.append(stream)
        if not self.engine.streams:
            self.since = self.listener.now

    # ------------------------------------------------------------------ its life

    def sessions(self) -> list[Session]:
        """Those that have not ended."""
        owners = [stream.owner for stream in self.engine.streams.values() if stream.owner is not None]
        return [owner.session for owner in owners if owner.session is not None and owner.session.status != DESTROYED]

    def connection_lost(self, exc: Exception | None) -> None:
        self.listener.heads -= self.weight
        self.weight = 0
        self.origin.gone = True
        self.listener.gone(self)
        self.fed = True  # nothing is written any more
        self.engine.lost("the downstream closed the connection")

    def standing(self, now: float) -> tuple[int, float] | None:
        """See `Occupant` of carrier/core/room.py."""
        if self.engine.streams or self.transport.is_closing():
            return None
        if self.served:
            return IDLE, self.since
        return (UNFINISHED if now - self.since >= PATIENCE else YOUNG), self.since

    @property
    def served(self) -> bool:
        """Has it ever had a stream?"""
        return self.engine.last > 0

    def wake(self) -> None:
        """Look at its deadlines again, once a second. Idempotent."""
        self.asleep = False
        self.listener.connections.wake(self)

    def give_way(self) -> None:
        """Its place is needed."""
        self.listener.hit("max_connections_idle" if self.served else "max_connections_unfinished")
        self._end(NO_ERROR, "its place is needed")

    def farewell(self) -> None:
        """The process is about to end: take no new streams, once the client knows."""
        self.wake()
        self.engine.drain()
        self.soon()

    def leave(self) -> None:
        """The listener is gone."""
        self.farewell()
        if not self.engine.streams and not self.served:
            self._end(NO_ERROR, "the listener is gone")

    def depart(self) -> None:
        """The process ends: WebSockets are told so."""
        for stream in list(self.engine.streams.values()):
            if stream.owner is not None:
                stream.owner.depart()

    def _end(self, code: int, detail: str) -> None:
        self.wake()
        self.engine.close(code, detail)
        self.write()

    def tick(self, now: float) -> float | None:
        """Deadlines, once a second; but who has had no stream for a while has only one."""
        self.asleep = False
        engine, listener = self.engine, self.listener
        engine.now = now
        if self.transport.is_closing():
            if now - self.since >= FLUSH:
                self.transport.abort()
            return None
        late = listener.header_timeout
        if engine.begun_since and now - engine.begun_since >= late > 0:
            listener.hit("header_timeout")
            self._end(CANCEL, f"no whole head within {late:g} s (options.header_timeout)")
        elif engine.settings_since and now - engine.settings_since >= late > 0:
            listener.hit("settings_timeout")
            self._end(SETTINGS_TIMEOUT, f"SETTINGS not acknowledged within {late:g} s")
        elif not engine.streams:
            return self._tick_idle(now)
        else:
            for stream in list(engine.streams.values()):
                self._tick_stream(stream, now)
            self.soon()
        return None

    def _tick_idle(self, now: float) -> float | None:
        waited, keep = now - self.since, self.listener.keepalive_timeout
        if waited >= IDLE_SPARE:
            self.engine.spare.clear()
        if self.closing or self.engine.draining:
            if waited >= PATIENCE:
                self._end(NO_ERROR, "drained")
        elif waited >= keep > 0:
            self._end(NO_ERROR, "idle")
        elif waited >= LULL and self.served and not self.engine.begun_since and not self.engine.settings_since:
            self.asleep = True
            return self.since + keep if keep > 0 else NEVER
        return None

    def _tick_stream(self, stream: Stream, now: float) -> None:
        owner: Request2 | None = stream.owner
        limit = self.listener.idle_timeout
        if owner is not None and owner.session is not None:
            owner.late(now)
        elif stream.ended and stream.held is None:
            return  # it lingers
        elif limit > 0 and now - (stream.blocked_since or stream.since) >= limit:
            self.listener.hit("idle_timeout")
            stream.reset(CANCEL)
