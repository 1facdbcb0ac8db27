"""One downstream connection of HTTP/1.1: its codec, the order of its requests, its life. It serves one request at a time, and is that.

The hot path: one read that is exactly one known head without a body (the memo) becomes a session with a memoised decision, and goes to
an idle upstream connection, all in this wake-up: no task, no future, no timer. Everything else goes through the codec
(wire/h1/reader.py), which calls `on_head`, `on_data`, `on_end`. Requests of one connection are served in order: what comes early waits,
bounded. An answer's pieces of one wake-up leave in one write (listeners/http/answering.py). How it ends is in listeners/http/ending.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from carrier.core.stream import HIGH, Stream
from carrier.errors import Error
from carrier.wire.h1.reader import RequestReader
from carrier.wire.h2.frames import PREFACE
from carrier.wire.http import LENGTH, NONE, Fields, Head
from listeners.http.answering import DISCARD
from listeners.http.ending import Ending1
from listeners.http.h2 import Connection2
from listeners.http.request import origin_of

if TYPE_CHECKING:
    from carrier.core.accepting import Arrival
    from listeners.http.routing import Port

MISSES = 8
"""Straight misses of the memo after which a connection asks for shapes only: its heads differ every time. It begins anew with its ids."""
HEAD_MAX = 4096
"""Bytes of a read that may be a known head: longer ones are not hashed."""
HELLO = 18
"""Bytes of the preface of HTTP/2 that tell it: the head that it looks like."""
UNREAD = HIGH // 2
"""Bytes that wait for a downstream that does not read before the upstream is paused; what it had read by then, a piece, comes on top."""

SERVED = Head(b"GET * HTTP/1.1\r\n\r\n")
"""Stands for a request that was answered, and whose own head is too long to be kept."""


class Connection1(Ending1, asyncio.Protocol):
    """One downstream connection.

    arrival: what it is counted as before it speaks HTTP. ask: what knows heads, misses: how often in a row it did not, missed: the `number`
    of the last time. weight: bytes of heads that are counted at the listener.
    """

    __slots__ = ("arrival", "ask", "missed", "misses", "weight")

    ask: Callable[[bytes], Head | None]

    def __init__(self, listener: Port) -> None:
        super().__init__(listener)
        self.arrival: Arrival | None = None
        self.missed = self.weight = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        listener = self.listener = self.listener.successor()
        self.asked_by(origin_of(listener, transport, self.arrival))
        self.reader = RequestReader(listener.routing.memo, listener.limits, self)
        self.learn()
        self.write = self.transport.write
        self.transport.set_write_buffer_limits(UNREAD)
        self.closing = listener.leaving
        tls = self.origin.tls
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            self._become2(b"")
            return
        if not listener.came(self):
            listener.hit("max_connections")
            self.refuse(Error("overload", f"more than {listener.max_connections:g} connections (options.max_connections)"))

    def moved(self, listener: Port) -> None:
        """Another listener has taken the place of its own, with other options: they hold from now on, for a request from the next one."""
        self.listener.heads -= self.weight
        listener.heads += self.weight
        self.listener = listener
        self.reader.limits = listener.limits
        self.origin.believed_by(listener)
        if self.session is not None:
            self.session.listener = listener
        self.learn()

    def learn(self) -> None:
        """The listener's routing has changed: from the next request on, ask the new memo."""
        routing = self.listener.routing
        self.reader.memo = routing.trusted_memo if self.origin.trusted else routing.memo
        self.spare = None  # it knows the old routes
        self.renewed()

    def renewed(self) -> None:
        """Look for whole heads first."""
        self.ask = self.reader.memo.heads.get
        self.misses = 0

    # ------------------------------------------------------------------ what the downstream sends

    def data_received(self, data: bytes) -> None:
        size = len(data)
        self.bytes_in += size
        if self.quiet and size <= HEAD_MAX:
            head = self.ask(data) or self._missed(data)
            if head is not None:
                if head.simple:
                    self.quiet = False
                    self.begin(head, True)
                    return
                if head.parting:  # as the codec does, which would drop what comes behind it, too
                    self.quiet = False
                    self.strained = self.closing = True
                    self.reader.stop()
                    self.begin(head, True)
                    return
        if self.quiet and self._whole(data):
            return
        if self.asleep:
            self.wake()
            self.bytes_in -= size
            self.data_received(data)
            return
        reader = self.reader
        if self.asked is None and self._is_other(data):
            return
        fresh = self.session is None and not reader.pending
        if self.session is None:
            if fresh:
                self.since = max(self.since, self.listener.now)  # a new connection is not older than it is
        elif self.body_done and not self.tunnel:
            reader.held = True  # the reader does not know of a request that the memo knew
        self.quiet = False
        self.strained = True
        try:
            reader.feed(data)
        except Error as error:
            self.refuse(error)
            return
        if reader.pending or self.weight or size > HEAD_MAX:
            self.weigh(reader.pending)
        if self.session is not None:
            if reader.held and reader.pending:
                self.pause()
            self.to.flush()
        else:
            self._rest()
            if fresh and reader.pending:
                self.wait_for_head()

    def wait_for_head(self) -> None:
        """A head was begun: it has its time, to the moment. (`tick`, once a second, is for those that nobody holds up.)"""
        timeout = self.listener.header_timeout
        if timeout > 0:
            self.timer = self.listener.env.loop.call_at(self.since + timeout, self._head_is_late, self.since)

    def _head_is_late(self, since: float) -> None:
        self.timer = None
        if self.session is None and self.since == since and self.reader.pending and not self.full and not self.transport.is_closing():
            self._tick_between(self.listener.header_timeout)

    def _is_other(self, data: bytes) -> bool:
        """On the first bytes: do they begin HTTP/2 (RFC 9113 3.4), or what this port does not speak?"""
        protocols = self.listener.protocols
        begun = self.reader.begun + data
        if PREFACE.startswith(begun[:HELLO]) and "h2" in protocols:
            if len(begun) < HELLO:
                return False
            self._become2(begun)
            return True
        if "h1" not in protocols:
            if b" HTTP/1." in begun.partition(b"\n")[0]:
                self.refuse(Error("version", "this port speaks HTTP/2 only (options.protocols)", "downstream"), begun)
            else:
                self._become2(begun)
            return True
        return False

    def _become2(self, begun: bytes) -> None:
        """The connection is one of HTTP/2, which begins with these bytes."""
        self.reader.detach()
        self.listener.heads -= self.weight
        self.listener.connections.discard(self)
        other = Connection2(self.listener, self.listener.both, self.origin)
        other.arrival, self.arrival = self.arrival, None
        self.transport.set_protocol(other)
        other.connection_made(self.transport)
        if begun:
            other.data_received(begun)

    def weigh(self, pending: int) -> None:
        """Count what this connection holds of heads: of one that is not whole, or waits for its turn, and of a long one that is served."""
        listener, asked = self.listener, self.asked
        weight = pending
        if self.session is not None and asked is not None and len(asked.raw) > HEAD_MAX:
            weight += len(asked.raw)
        listener.heads += weight - self.weight
        more, self.weight = weight > self.weight, weight
        if more and listener.heads > listener.max_heads and pending:
            self.refuse(listener.too_many_heads())

    def _whole(self, data: bytes) -> bool:
        """If a read is one known head and all of its body, it is served without the codec."""
        end = data.find(b"\r\n\r\n", 0, HEAD_MAX) + 4
        body = len(data) - end
        if end == 3 or not body:
            return False
        raw = data[:end]
        head = self.ask(raw) or self._missed(raw)
        if head is None or head.body != LENGTH or head.length != body or not head.keep_alive or head.version != "1.1":
            return False
        most = self.listener.limits.body
        if head.expect or head.upgrade or head.explain or head.method == b"CONNECT" or 0 < most < body:
            return False
        self.quiet = False
        self.begin(head, False)
        session = self.session
        if session is not None:
            session.source_done = True
            self.to.data(data[end:], None, True)
        return True

    def _missed(self, data: bytes) -> Head | None:
        """The head that a read is, by its shape; None: the codec has to look at it."""
        if self.misses >= MISSES:  # so it was the shapes that did not know it
            return None
        number = self.origin.number
        if number - self.missed > 1:
            self.misses = 0
        self.missed = number
        self.misses += 1
        like = self.reader.memo.like
        if self.misses == MISSES:
            self.ask = like
        return like(data, True)

    def on_head(self, head: Head) -> None:
        """The codec has read a request's head."""
        reader = self.reader
        reader.held = True
        self.body_done = head.body == NONE
        self.body_bytes = 0
        self.since = self.listener.now
        if head.method == b"CONNECT":  # a reverse proxy leads to its clusters, not to where the client says (RFC 9110 section 9.3.6)
            self.body_done = True
            self.refuse(Error("not-implemented", "CONNECT is not served here", "downstream"), head.raw)
            return
        self.quiet = False
        self.begin(head, self.body_done)
        if head.expect:
            self.may_go_ahead(head)

    def on_data(self, data: bytes) -> None:
        """The codec has read a piece of the request's body, or of a tunnel."""
        if self.session is not None:
            self.body_bytes += len(data)
            self.to.data(data)
        elif self.discard:
            self.discard -= len(data)
            if self.discard <= 0:
                self.over()

    def on_end(self, trailers: Fields) -> None:
        """The codec has read the request to its end."""
        if self.tunnel and self.body_done:
            self._tunnel_ended()
            return
        if self.body_done:
            return
        self.body_done = True
        self.since = self.listener.now
        if self.session is not None:
            self.session.source_done = not self.tunnel
            self.to.end(trailers or None)
        elif not self.closing and not self.full:
            self.discard = 0
            self.reader.held = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.listener.heads -= self.weight
        self.weight = 0
        self.origin.gone = True
        self.listener.gone(self)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.reader.detach()
        self.spare = None
        bound, self.bound_to = self.bound_to, None
        if bound is not None:
            bound.close()
        if self.session is not None:
            self.give_up(Error("reset", "the downstream closed the connection", "downstream"))
        else:
            self.detach()

    # ------------------------------------------------------------------ between requests

    def _after(self, to: Stream) -> None:
        """What comes after an answer: the next request, the rest of this one, or the end."""
        self.since = self.listener.now
        if self.weight:
            self.spare, self.asked = None, SERVED  # a long head is not kept for the time between requests
            self.weigh(self.reader.pending)
        if self.refusal is not None:
            self.refuse(self.refusal)
        elif not self.body_done:
            self._early(to)
        elif self.closing and (self.paused or self.reader.pending):
            self.over()  # closed with more unread than the request, a connection is reset behind its last answer
        elif self.closing:
            self._close()
        elif not self.full:
            self._next()

    def _next(self) -> None:
        """Go on with what has come meanwhile."""
        reader = self.reader
        reader.held = False
        if self.paused:
            self.resume()
        if reader.pending:
            try:
                reader.resume()
            except Error as error:
                self.refuse(error)
        if self.session is not None:
            if self.ended and not self.listener.keeps_half_closed:
                self._look_later()
        elif self.ended:
            self._close()
        else:
            self._rest()

    def _rest(self) -> None:
        """Nothing is being served: may the memo be asked for what comes next?"""
        self.quiet = self.reader.idle and not self.closing and not self.full and not self.paused
        self.strained = not self.quiet

    def _early(self, to: Stream) -> None:
        """The answer is out before the request was read: drop the rest of the request, or close if that is too much of it."""
        to.reset(Error("closed", "answered before the request was read", "upstream"))
        if self.closing:
            self.over()
            return
        self.discard = DISCARD
        if self.paused:
            self.resume()

    # ------------------------------------------------------------------ flow

    def pause_writing(self) -> None:
        self.full = self.strained = True
        self.back.pause()

    def resume_writing(self) -> None:
        self.full = False
        if self.session is not None:
            self.back.resume()
        elif self.body_done and not self.closing:
            self._next()
