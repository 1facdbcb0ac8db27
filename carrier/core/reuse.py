"""The lane: sessions that are used again, one request of a connection after the other.

A session of a message that nothing out of the ordinary happens to costs little but what it counts. So `begin_again` and `served` are
`Session.begin` and `Session.close` written flat, for one that is `on_lane` and whose destination is there at once: nothing is set that is
as it should be, and instead of the session a `Record` goes to the ledger. tests/carrier/core/test_reuse.py tells in a table what is on
the lane.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from carrier.core.ledger import LARGE
from carrier.core.session import Session
from carrier.core.stream import CONNECTED, DESTROYED
from carrier.wire.grpc import NAMES, OK

if TYPE_CHECKING:
    from carrier.core.decision import Decision
    from carrier.core.ledger import Record
    from carrier.core.parts import Listener
    from carrier.core.stream import Socket


class ReusedSession(Session):
    """A session of a source that has many, one after the other."""

    __slots__ = ()
    asks = False

    def begin_again(self, decision: Decision, head: Any, last: bool, fields: bytes) -> bool:
        """`begin`, of a `blank` one or of one that was `served`, if an endpoint has a destination ready. False: nothing was done, this
        takes a session of its own."""
        cluster = decision.lane
        if cluster is None or cluster.down:
            return False
        endpoint = cluster.only
        if endpoint is None:
            endpoint = cluster.whose_turn()
            if endpoint is None:
                return False
            destination = endpoint.take(self)
            if destination is None:
                return False
            cluster.turn_taken()
        else:
            destination = endpoint.take(self)
            if destination is None:
                return False
        if decision is not self.decision:
            self.decision, self.cluster = decision, cluster
        self.endpoint = endpoint
        source = self.source
        self.back = self.destination = source.to = destination
        listener = self.listener
        self.number = number = listener.counter
        listener.counter = number + 1
        self.started = self.connected_at = started = monotonic()
        self.status = CONNECTED
        self.request = head
        self.request_last = last
        self.fields = fields
        hits = decision.hits
        hits.count += 1
        hits.last = started
        endpoint.active += 1
        endpoint.total += 1
        source.session = source.back = destination.session = destination.to = self
        destination.back = source
        try:
            destination.head(head, last)
        except Exception as exc:
            self._not_ready(exc)
        return True

    def served(self, head: Any) -> None:
        """A whole answer has gone out in one piece, and nothing was out of the ordinary: `close` and all that follows from it, written
        flat. `begin_again` may follow, unless somebody keeps what has ended."""
        listener = self.listener
        endpoint = self.endpoint
        if endpoint is None or listener.track or not listener.listed:
            self.answer = head
            self.close()
            return
        self.status = DESTROYED
        if endpoint.eager:
            endpoint.leave()
        else:
            endpoint.active -= 1
        source = self.source
        ledger = listener.env.ledger
        if ledger is not None:
            got, sent = source.bytes_in, source.bytes_out
            ended = ledger.ended
            ended.append(
                (
                    listener,
                    source,
                    self.started,
                    monotonic(),
                    self.request,
                    self.decision,
                    endpoint,
                    head,
                    got,
                    sent,
                    self.fields,
                    self.number,
                )
            )
            if ledger.timer is None or len(ended) >= LARGE:
                ledger.due()
        source.bytes_in = source.bytes_out = 0
        self.source_done = False


def blank(listener: Listener, source: Socket) -> ReusedSession:
    """A session for `begin_again`: what that does not set is set."""
    session = object.__new__(ReusedSession)
    session.listener = listener
    session.to = session.source = source
    session.status = DESTROYED
    session.on_lane = session.sent = True
    session.answered = session.source_done = False
    session.decision = session.cluster = session.endpoint = session.answer = session.error = session.rare = None  # type: ignore[assignment]
    session.retries = 0
    session.ended_at = 0.0
    return session


def recorded(record: Record) -> Session:
    """The session that a record tells of."""
    listener, source, started, ended, request, decision, endpoint, answer, got, sent, fields, number = record
    session = blank(listener, source)
    session.started = session.connected_at = started
    session.ended_at = ended
    session.request, session.request_last = request, True
    session.decision, session.cluster, session.endpoint = decision, decision.cluster, endpoint
    session.answer = answer
    session.bytes_in, session.bytes_out = got, sent
    session.fields, session.number = fields, number
    if request.grpc:
        session.outcome = NAMES[OK]  # the others are not on the lane
    session.on_lane = False
    return session
