"""One stream of an upstream connection of HTTP/2, as the exchange that it carries.

It goes to the connection of its endpoint that has least to do and still has a place (clusters/http/h2_pool.py). A stream that the peer says
it has not looked at (GOAWAY, REFUSED_STREAM) is sent again on another connection, its content too, as long as all of it is still here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from carrier.core.stream import NOWHERE, Stream
from carrier.errors import Error
from carrier.wire.frames import accept_key
from carrier.wire.grpc import timeout_of, timeout_text
from carrier.wire.h1.text import text_of
from carrier.wire.h2 import Stream as Wire
from carrier.wire.h2 import code_name
from carrier.wire.h2.frames import CANCEL, NO_ERROR, REFUSED_STREAM
from carrier.wire.h2.heads import lines_block, request_block, trailers_block
from carrier.wire.http import NONE, Head
from clusters.http.exchange import Exchange

if TYPE_CHECKING:
    from carrier.core.endpoint import Endpoint
    from carrier.core.session import Session
    from clusters.http.h2 import Upstream2, Way2

NOTHING: list[bytes] = []
"""What was sent of a request without content; never added to."""
KEPT = 64 * 1024
"""Bytes of a request's content that are kept until its answer begins, to be sent again if the peer has not looked at it."""
SPARE = 64
"""Exchanges that have ended, kept by a connection for its next ones until its cluster's next tick."""
MOVES = 3
"""How often one exchange is sent again."""


Connect = Callable[[], Awaitable[Any]]
"""Makes a connection."""


class Pooled(Protocol):
    """The connections of an endpoint (clusters/http/h2_pool.py), as an exchange knows them."""

    way: Way2
    waiting: deque[Exchange2]
    instead: Connect | None

    def free(self) -> Upstream2 | None: ...
    def wait(self, exchange: Exchange2) -> None: ...


class Exchange2(Exchange):
    """One stream, or one that will be. held_head: the answer's, until it is known whether it is all that comes in this wake-up; held_data:
    the message behind it of a call, as trailers may follow. body: what was sent of the request, as long as it may have to be sent again
    (None: it is too much); trailer: what ended it. moves: how often it was; moving: HTTP/1.1 is about to take its place. spare: its last
    stream, which is over, for the next one."""

    __slots__ = ("body", "connection", "held_data", "held_head", "moves", "moving", "paused", "pool", "size", "spare", "stream", "trailer")

    def __init__(self, pool: Pooled, endpoint: Endpoint, connection: Upstream2 | None) -> None:
        super().__init__(pool.way.shared, endpoint)
        self.pool, self.connection = pool, connection
        self.used = connection is not None and connection.served > 0
        self.stream: Wire | None = None
        self.spare: Wire | None = None
        self.held_head: Head | None = None
        self.held_data = b""
        self.body: list[bytes] | None = NOTHING
        self.size = self.moves = 0
        self.trailer: Any = None
        self.paused = False
        self.moving: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------ the request

    def head(self, head: Head, last: bool = False) -> None:
        session = self.session
        if session is None or not self.usable:
            self.gone()
            return
        self.request = head if session.on_lane else self.sent(head)
        self.request_done = last
        self.waiting = True
        self.since = self.shared.now
        connection = self.connection
        if connection is None or not connection.takes(self):
            self._again()
        else:
            self.begin(connection)

    def _again(self) -> None:
        """On another connection, or when one has a place."""
        connection = self.pool.free()
        if connection is not None and connection.takes(self):
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
            self._no_tunnel(head, session)
            return
        body = self.body
        whole = self.request_done and not body and self.trailer is None and not head.upgrade
        timeout = self._time_left(head) if head.grpc == 2 else b""
        block = request_block(head, way.scheme, way.encoder, timeout) + lines_block(session.fields)
        connection.served += 1
        spare, self.spare = self.spare, None
        if spare is not None and spare.engine is not engine:
            spare = None
        stream = self.stream = engine.request(block, whole, self, head_only=head.method == b"HEAD", used=spare)
        if self.paused:
            stream.pause()
        if not whole:
            for data in body or ():
                stream.send_data(data)
            if self.size > KEPT:
                self.body = None
            if self.request_done and not head.upgrade:
                self._end()
            if stream.held is not None:
                self.back.pause()
            elif body:  # it may have been told to wait for a place
                self.back.resume()
        if not connection.due:
            connection.soon()

    def unsent(self, error: Error) -> None:
        """It waited for a place, and no connection can be made."""
        session = self.session
        if session is None or self.plain or not session.unsent(error, self.body or (), self.request_done, self.trailer):
            self.broken(error)

    def _no_tunnel(self, head: Head, session: Session) -> None:
        """The peer offers no extended CONNECT: a connection of HTTP/1.1 takes the place of this exchange, if that may be spoken with it."""
        upgrade = (head.upgrade or b"").decode("latin-1")
        detail = f"{self.endpoint.address}: it speaks HTTP/2 and offers no extended CONNECT (RFC 8441), which {upgrade} needs"
        instead = self.pool.instead
        if instead is None:
            self.broken(Error("not-implemented", detail, "upstream"))
        else:
            self.moving = asyncio.get_running_loop().create_task(self._become(instead, head, session, detail))

    async def _become(self, instead: Connect, head: Head, session: Session, detail: str) -> None:
        try:
            async with asyncio.timeout(session.decision.retry.timeout):
                found = await instead()
        except (Error, TimeoutError) as exc:
            reason = exc.detail if isinstance(exc, Error) else "no connection in time"
            self.broken(Error("not-implemented", f"{detail}; and HTTP/1.1 cannot be spoken with it ({reason})", "upstream"))
            return
        self.moving = None
        if self.session is not session:  # it has ended meanwhile
            found.spared()
            return
        to, back, last = self.to, self.back, self.request_done
        found.session, found.to, found.back = session, to, back
        back.to = to.back = session.destination = found
        self.session = None
        self.close()
        found.resume()
        found.head(head, last)

    def _time_left(self, head: Head) -> bytes:
        """The grpc-timeout less what was used, if that is to be seen."""
        if self.session is None:
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
                if self.size > KEPT and self.stream is not None:
                    self.body = None
                elif self.body:
                    self.body.append(data)
                else:
                    self.body = [data]
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
            if self.size >= KEPT // 2:
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
            text_of(head)  # while it knows what frames the content that a GET would have
            self.answered(head.without_body())  # its end is still to come, and must not be taken for that of a next request
        else:
            self.held_head = head
            self.connection.touched.append(self)  # type: ignore[union-attr]

    def content(self, data: bytes, last: bool) -> None:
        head = self.held_head
        if head is not None and not self.plain:
            session = self.session
            lane = session is not None and session.on_lane
            if last and head.whole:
                self.held_head = None
                to = self._done()
                if session is not None and lane:
                    to = session.source  # nothing stands between
                to.message(head, data)
                return
            if lane and not last and not self.held_data and self.request is not None and self.request.grpc:
                self.held_data = data
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
        head, data, session = self.held_head, self.held_data, self.session
        if head is not None and data and session is not None and session.on_lane:
            self.held_head, self.held_data = None, b""
            self._done()
            session.source.complete(head, data, trailers)
            return
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
            data, self.held_data = self.held_data, b""
            if data:
                self.to.data(data)

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
        """The answer is complete: let go of everything, and give back whom to tell. The next stream of the connection may have it then."""
        to, stream, connection = self.to, self.stream, self.connection
        self.session = None
        self.to = self.back = NOWHERE
        if stream is None or connection is None or not self.request_done or self.moves or self.paused or self.plain:
            if stream is not None and not self.request_done:
                stream.reset(NO_ERROR)
            self._release()
            return to
        self.waiting = False
        self.used = True
        self.body, self.size = NOTHING, 0
        self.stream = self.request = self.trailer = None
        if stream.ended and stream.over and stream.held is None:
            connection.engine.ended(stream)  # as the engine would, but before it is used again
            self.spare = stream
        else:
            stream.owner = None
        if len(connection.spare) < SPARE:
            connection.spare.append(self)
        connection.freed()
        return to

    def _release(self) -> None:
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
        session = self.session
        if session is not None and session.answer is not None and session.answer.body == NONE and not self.tunnel:
            self._done().end()  # it was complete with its head, whatever came behind that
            return
        where = f"{self.endpoint.address}: "
        connection = self.connection
        if connection is not None and connection.gone:
            error = Error("closed", where + "the connection was closed", "upstream")
        elif code == REFUSED_STREAM:
            error = Error("closed", where + f"the request was refused: {detail}", "upstream", "no")
        else:
            said = f"RST_STREAM {code_name(code)}"
            error = Error("reset", where + (detail or said), "upstream")
            error.reset_code = code if detail == said else None  # else it was reset by us, for what the peer did
        if self.used and self.waiting:
            error.retry = "if_reused"
        self.broken(error)

    # ------------------------------------------------------------------ ends, flow

    def close(self) -> None:
        if self.session is None and (self.stream is None or not self.usable):
            return  # it has ended, and may be among the spare ones
        stream = self.stream
        super().close()
        if stream is not None:
            stream.reset(CANCEL)
        if stream is None and self in self.pool.waiting:
            self.pool.waiting.remove(self)
        if self.moving is not None:
            self.moving.cancel()
            self.moving = None
        self._release()

    def owed(self) -> bool:
        return self.waiting

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
