"""How a connection of HTTP/1.1 ends, and what is refused on it: the last answer, the client's own end, deadlines, places that are needed.

No answer may be lost by an end: a client that is still sending would see a reset before it reads (RFC 9112 section 9.6).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from carrier.core.accepting import UNSPOKEN
from carrier.core.ledger import refused
from carrier.core.room import IDLE, PATIENCE, UNFINISHED, YOUNG
from carrier.core.stream import NOWHERE
from carrier.core.wheel import LULL, NEVER
from carrier.errors import Error
from carrier.hops.lookout import unsent
from carrier.wire.http import Head
from listeners.http.answering import Answering1
from listeners.http.answers import refusal_for

if TYPE_CHECKING:
    from carrier.core.session import Session
    from listeners.http.routing import Port

LINGER = 2.0
"""Seconds to let a client read its answer when its request will not be read to the end."""
FLUSH = 30.0
"""Seconds that a client may take nothing of a closed connection's last bytes."""
HALF_CLOSED = 1.0
"""Seconds in which an answer has to begin when its client has sent its end behind the request; or to move on, if it had begun."""


class Ending1(Answering1):
    """The part of a connection of HTTP/1.1 that ends it.

    full: the transport holds enough of what the downstream does not read; no further request is begun then. discard: bytes of a body that
    are read and dropped. ended: the client sends no more; what came whole before is served. refusal: what is said behind the present
    answer. timer: until a head that was begun must be whole. unsent: bytes that the client had not taken at the last look at a closing
    connection. asleep: nothing of it is looked at before its keep-alive is over (`tick`); then it is not `quiet`, so that who has no
    request yet need not ask.
    """

    __slots__ = ("asleep", "discard", "ended", "full", "refusal", "timer", "unsent")

    def __init__(self, listener: Port) -> None:
        super().__init__(listener)
        self.timer: asyncio.TimerHandle | None = None
        self.full = self.ended = self.asleep = False
        self.discard = self.unsent = 0
        self.refusal: Error | None = None

    # ------------------------------------------------------------------ refusals

    def refuse(self, error: Error, begun: bytes = b"") -> None:
        """A request that the codec will not take, or a connection beyond a limit: answer in turn, and close. `begun`: its first bytes, if
        the reader has done with them."""
        if self.tunnel or self.transport.is_closing():
            self.transport.abort()
            return
        if self.session is not None and not self.body_done:
            self.closing = True  # the request that is being served is itself broken
            self.refusal = None
            self.body_done = True
            to, session = self.to, self.session
            if self.sent:
                self.reset(error)
            else:
                self.session = None
                self.to = self.back = NOWHERE
                session.answer = self._say(error, self.asked)
                session.close(error)
                to.reset(error)
                self.over()
            return
        if self.session is not None:
            self.refusal = error
            return
        self._turn_away(error, begun)
        self.over()

    def _turn_away(self, error: Error, begun: bytes = b"") -> None:
        """Answer what became no session, and tell the ledger of it, because no session will."""
        begun = begun or self.reader.begun
        self._say(error)
        refused(self.listener, self, begun, error, self.since)

    def _say(self, error: Error, asked: Head | None = None) -> Head:
        """Answer with an error, as the last thing that is said; returns the head of it. asked: what it answers, if that was read."""
        self.refusal = None
        self.closing = True
        self.reader.stop()
        self.listener.hit(error.kind)
        head, body = refusal_for(asked, error)
        self.out.clear()
        self._write(head.text[:-2] + b"connection: close\r\n\r\n" + body)
        return head

    def standing(self, now: float) -> tuple[int, float] | None:
        """See `Occupant` of carrier/core/room.py."""
        if self.session is not None or self.transport.is_closing():
            return None
        if self.closing:
            return IDLE, self.since  # it lingers, after its last answer
        if self.asked is not None and not self.reader.pending and not self.discard:
            return IDLE, self.since
        return (UNFINISHED if now - self.since >= PATIENCE else YOUNG), self.since

    def wake(self) -> None:
        """Look at its deadlines again, once a second. Idempotent."""
        if self.asleep:
            self.asleep, self.quiet = False, True
            self.listener.connections.wake(self)

    def give_way(self) -> None:
        """Its place is needed. A head that was begun is answered; a client that keeps an idle connection expects that it may close."""
        if self.reader.pending and not self.closing:
            self.listener.hit("max_connections_unfinished")
            self._turn_away(Error("overload", "no whole head, and its place was needed: there are too many connections"))
        else:
            self.listener.hit("max_connections_idle")
        if self.full or self.listener.tls is not None:  # TLS would wait for the peer to say goodbye too, and keep the descriptor
            self.transport.abort()
        else:
            self._close()

    def sessions(self) -> list[Session]:
        """Those that have not ended."""
        return [self.session] if self.session is not None else []

    def farewell(self) -> None:
        """The answer that is owed is the last."""
        self.wake()
        self.closing = self.closing or not self.tunnel

    def leave(self) -> None:
        """The listener is gone: close now if idle, else after the present answer. Who has not said a word yet may still ask."""
        self.wake()
        self.closing = True
        if self.session is None and self.reader.idle:
            if self.asked is not None:
                self.over()  # what comes in this very moment is not answered, and not reset either
            else:
                self.since = self.listener.env.loop.time()

    def over(self) -> None:
        """Close without losing the answer: a client that is still sending would see a reset before it reads it (RFC 9112 section 9.6)."""
        self.closing = True
        self.quiet = False
        self.reader.stop()
        self.discard = 0
        if self.paused:
            self.resume()
        self.since = self.listener.now
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()  # `tick` closes
        else:
            self._close()

    def tick(self, now: float) -> float | None:
        """Deadlines, once a second; but who has been between two requests for a while has only one."""
        self.wake()
        if self.session is not None:
            self.late(now)
            return None
        waited = now - self.since
        if waited >= LULL and self.quiet and self.asked is not None and not self.closing and not self.transport.is_closing():
            keep = self.listener.keepalive_timeout
            until = self.since + keep if keep > 0 else NEVER
            if until > now + 1:
                self.asleep, self.quiet = True, False
                return until
        self._tick_between(waited)
        return None

    def _tick_between(self, waited: float) -> None:
        """No request is being served: one is being read, dropped or waited for, or the connection ends."""
        listener = self.listener
        if self.transport.is_closing():
            if (left := unsent(self.transport)) != self.unsent:  # a client that reads slowly is there
                self.unsent, self.since = left, listener.now
            elif waited >= FLUSH:
                self.transport.abort()
        elif self.asked is None and listener.stopped and not self.reader.pending:
            if waited >= UNSPOKEN:
                self._close()
        elif self.discard or (self.closing and not self.reader.pending):
            if waited >= LINGER and self.reader.idle:  # it was idle when it was told
                self.over()
            elif waited >= LINGER:
                self._close()
        elif self.reader.pending and not self.full:
            if waited >= listener.header_timeout > 0:
                listener.hit("header_timeout")
                self.refuse(
                    Error("request-timeout", f"no whole head within {listener.header_timeout:g} s (options.header_timeout)", "downstream")
                )
        elif self.asked is None and waited >= listener.header_timeout > 0:
            listener.hit("header_timeout")
            self._close()  # it never said a word: it did not ask for an answer
        elif waited >= listener.keepalive_timeout > 0:
            self._close()

    # ------------------------------------------------------------------ the client's end

    def eof_received(self) -> bool:
        """The downstream has sent its end. What it asked for is still served (RFC 9112 section 9.6), if that begins soon: nobody can tell
        who waits for an answer from who has left."""
        self.wake()
        try:
            self.reader.finish()
        except Error:
            return False
        if self.session is None:
            return False
        if self.tunnel:
            self.closing = True
            return True
        self.ended = self.strained = True
        if not self.reader.pending:
            self.closing = True
        if not self.listener.keeps_half_closed:
            self._look_later()
        return True

    def _look_later(self) -> None:
        moved = self.bytes_out if self.sent else -1
        self.listener.env.loop.call_later(HALF_CLOSED, self._still_there, self.session, moved)

    def _still_there(self, session: object, moved: int) -> None:
        """HALF_CLOSED after the client's end. moved: bytes of the answer by then, -1 before the first: what began since is sent to its end,
        because who has left resets what comes. An answer that had begun has to move on, or it would never be known."""
        if session is not self.session or self.session is None or self.transport.is_closing():
            return
        if not self.sent or self.bytes_out == moved:
            self.give_up(Error("closed", f"the downstream has sent its end, and no answer came within {HALF_CLOSED:g} s", "downstream"))
            self.transport.abort()
        elif moved >= 0:
            self._look_later()

    def _tunnel_ended(self) -> None:
        """A tunnel's downstream sends no more."""
        session = self.session
        if session is not None:
            session.source_done = True
            self.to.end()
            if self.closing:
                self._close()
