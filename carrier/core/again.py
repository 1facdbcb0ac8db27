"""What a session does when its destination fails, or answers what its route does not want: ask again, reconnect, or let the fallback serve.

`options.retry_statuses` names statuses of HTTP, and of gRPC, whose calls have content: that is `Kept` on its way to the destination until
the first byte of an answer goes on. A call is asked again after an answer that is only a status, and after a failure that its caller would
be told as one of these.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from carrier.core.rare import Rare
from carrier.core.shown import Shown
from carrier.core.stream import CONNECTED, HIGH, NOWHERE, Backlog, Socket, Stream
from carrier.errors import Error
from carrier.wire import grpc

if TYPE_CHECKING:
    from carrier.core.decision import Decision
    from carrier.core.endpoint import Endpoint
    from carrier.core.parts import Cluster
    from carrier.core.tape import Tape
    from carrier.core.trace import Trace

UNANSWERED = frozenset(("reset", "closed", "timeout"))
"""Failures of a destination that has not answered. What has answered, and not in its protocol, has a fault that its developer is to see."""
SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
"""Methods that may be sent again, to another server too (RFC 9110 section 9.2.1)."""
IDEMPOTENT = SAFE | {b"PUT", b"DELETE"}
"""Methods that may be sent again to the same one (section 9.2.2), where the head is all of the request: content is gone by then."""
NOBODY: frozenset[str] = frozenset()


class Kept(Stream):
    """Stands before the destination of a call and keeps what passes, HIGH bytes at most; `whole`: that is all of it so far. counted: the
    call is among those of its cluster that are being tried again."""

    __slots__ = ("calls", "cluster", "counted", "size", "whole")

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.size = 0
        self.whole = True
        self.cluster: Cluster | None = None
        self.counted = False

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        self.size += len(data)
        if self.size > HIGH:
            self.whole = False
            self.calls.clear()
        else:
            self.calls.append(("data", (data, kind, last)))
        self.to.data(data, kind, last)

    def end(self, trailer: Any = None) -> None:
        self.calls.append(("end", (trailer,)))
        self.to.end(trailer)

    def reset(self, error: Error) -> None:
        to = self.to
        self.leave()
        to.reset(error)

    def stand_behind(self, source: Stream) -> None:
        """Between a hop and the one that follows it."""
        to = source.to
        source.to = to.back = self
        self.back, self.to = source, to

    def replay(self, backlog: Stream) -> None:
        """All that was sent waits to be sent again, through here, to another destination."""
        self.back = self.to = NOWHERE
        calls, self.calls, self.size = self.calls, [], 0
        for name, args in calls:
            getattr(backlog, name)(*args)

    def retry(self, cluster: Cluster) -> bool:
        """May the call be tried again, or are too many of its cluster's being tried already (`options.max_retries`)?"""
        if not self.counted:
            self.counted = cluster.breaker.retry()
            self.cluster = cluster
        return self.counted

    def leave(self) -> None:
        """The answer has begun, or there will be none: nothing is sent again."""
        self.whole = False
        self.calls.clear()
        if self.counted and self.cluster is not None:
            self.counted = False
            self.cluster.breaker.retried()
        back, to = self.back, self.to
        if back.to is self:
            back.to = to
        if to.back is self:
            to.back = back
        self.back = self.to = NOWHERE


class Again(Shown):
    """A session, as far as it may have another destination, or ask the same one again."""

    __slots__ = ("retries", "sent")
    # of core/session.py
    status: str
    cluster: Cluster | None
    endpoint: Endpoint | None
    request: Any
    request_last: bool
    sent: bool
    answered: bool
    retries: int
    source: Socket
    destination: Stream
    source_done: bool
    fallback: Rare[str | None]
    task: Rare[asyncio.Task[None] | None]
    backlog: Rare[Backlog | None]
    hops: Rare[tuple[Stream, ...]]
    tape: Rare[Tape | None]
    kept = Rare[Kept | None](None)
    """What was sent of a call that may be sent again."""
    resend: Rare[tuple[bytes, ...]] = Rare(())
    """Datagrams that a destination has refused."""
    tried = Rare(NOBODY)
    """Names of endpoints that a status was not accepted of."""
    trace: Rare[Trace | None] = Rare(None)
    """Where it stands in a trace, if it is traced."""

    def _unwanted(self, head: Any, last: bool) -> bool:
        """Is this an answer that the route wants dropped, and is the request asked again?"""
        decision = self.decision
        if head.status in decision.statuses:
            return self._ask_again(str(head.status))
        if not last or self.kept is None:
            return False
        said = grpc.said(head.fields)
        return said in decision.calls and self._ask_again(said)

    def _call_failed(self, error: Error) -> bool:
        """A call got no answer. Is it asked again, because of what its caller would be told?"""
        cluster, endpoint, status = self.cluster, self.endpoint, grpc.NAMES[grpc.status_of(error)]
        if self.kept is None or status not in self.decision.calls or not self._ask_again(status, error):
            return False
        if cluster is not None and endpoint is not None:
            endpoint.failed += 1
            cluster.health.failed(endpoint, error)
        return True

    def _ask_again(self, status: str, error: Error | None = None) -> bool:
        """Drop the answer, if there is one, and ask another endpoint, if there is one, or the same. False: it must not be."""
        cluster, endpoint, kept = self.cluster, self.endpoint, self.kept
        if cluster is None or endpoint is None or self.retries >= self.decision.retry.num_retries:
            return False
        if kept is None and not self._whole():
            return False
        if kept is not None and (self.answered or not kept.whole or not kept.retry(cluster)):
            return False
        self.retries += 1
        self.event("RETRY", f"{endpoint.address}: {error.detail}" if error is not None else f"{endpoint.address} answered {status}")
        if (trace := self.trace) is not None:
            trace.ended(error, int(status) if error is None and status.isdecimal() else 0)
        if len(self.tried) + 1 < len(cluster.endpoints):
            self.tried = self.tried | {endpoint.name}
        self._unlink(error or Error("closed", f"status {status} is retried"))
        if kept is None:
            self._try_again(cluster)
        else:
            self._send_again(cluster, kept)
        return True

    def _send_again(self, cluster: Cluster, kept: Kept) -> None:
        """Send a call again, and what was sent of its content: it waits for its new destination as it would for the first."""
        self._hold()
        assert self.backlog is not None
        kept.replay(self.backlog)
        try:
            endpoint = cluster.only or cluster.choose(self, self.tried)
        except Error as error:
            self.give_up(error)
        else:
            self._go(cluster, endpoint)

    def _whole(self) -> bool:
        """Can everything be sent again? Of a request whose answer has begun, or that has a body, only a part is left."""
        return self.request is None or (self.request_last and not self.answered and self.request.method in SAFE)

    def _may_fall_back(self, error: Error) -> bool:
        """Nothing reached the destination; or it was reached, failed, and the request is whole and safe (RFC 9110 section 9.2.1)."""
        if not self.sent and error.retry == "yes":
            return True
        return not self.answered and self.request is not None and error.kind in UNANSWERED and self._whole()

    def _replace(self, error: Error) -> None:
        """The destination failed before it answered: repeat the request on another connection, use the fallback, or give up."""
        if self.decision.calls and self._call_failed(error):
            return
        if error.kind in ("reset", "closed"):
            self.event("DISCONNECT", "destination", error.detail)
        endpoint = self.endpoint
        self._unlink(error)
        if endpoint is not None and self.cluster is not None:
            endpoint.failed += 1
            self.cluster.health.failed(endpoint, error)
        repeatable = self.request is not None and self.request_last and self.request.method in IDEMPOTENT
        cluster = self.cluster or self.decision.cluster
        if error.retry == "if_reused" and repeatable and self.retries < 1 and cluster is not None:
            self.retries += 1
            self.event("RETRY", "the kept-alive connection was closed by the upstream", error.detail)
            self._try_again(cluster)
            return
        self.give_up(error)

    def unsent(self, error: Error, content: Iterable[bytes], ended: bool, trailer: Any) -> bool:
        """The destination found nobody to send anything to, and gives back what it was given of the request: it waits for who is next.
        False: this way is not for it, and nothing was done."""
        tied = self.hops or self.kept is not None or self.tape is not None or self.decision.retry.on_disconnect
        if tied or self.answered or self.request is None or self.status != CONNECTED:
            return False
        self.sent = False
        self._hold()
        assert self.backlog is not None
        for data in content:
            self.backlog.data(data)
        if ended and not self.request_last:
            self.backlog.end(trailer)
        self._replace(error)
        return True

    def _comes_back(self, error: Error) -> bool:
        """The destination broke, or is taken away: does the route want it back, and is there anything left to say to it?"""
        return self.decision.retry.on_disconnect and not self.source_done and self._whole() and self._reconnect(error)

    def disconnect(self, why: str) -> None:
        """Its endpoint has been removed: the session goes to another one if its route wants to be connected again, else it ends."""
        if self.task is None and not self._comes_back(Error("killed", why)):
            self.kill(why)

    def moves_on(self, why: str) -> bool:
        """Nothing more is to go to its endpoint: what its source says from now on goes where its route leads by now. That is for
        datagrams, which nobody misses who is new to them. False: there is nowhere to go, and nothing was done."""
        if self.status != CONNECTED or self.task is not None or self.source_done or not self._whole():
            return False
        again = self.decision.again(self.listener.env.clusters)
        if again.error is not None and self.request is None:  # what it led to is no more
            again = self.listener.table.decide({"name": self.name, **self.listener.metadata(self)})
        if again.error is not None or again.cluster is None:
            return False
        self.note_connect()
        self.event("DISCONNECT", "destination", why)
        self._unlink(Error("closed", why))
        self.fallback = None
        self._start_over(again)
        self._hold()
        self._go(again.cluster, None)
        return True

    def once_more(self, error: Error, datagrams: Sequence[bytes], here: str = "", whole: bool = False) -> bool:
        """The destination refuses datagrams, perhaps after it has taken others: another endpoint gets these, or the fallback. False: there
        is nobody else, and nothing was done. here: what `tried` has of it, if its endpoint has another address, which gets them. whole:
        they are all that the session has said, so that a stream, which may not lose some, can begin anew."""
        cluster, endpoint = self.cluster, self.endpoint
        if cluster is None or endpoint is None or self.status != CONNECTED:
            return False
        if self.listener.kind != "datagram" and (not whole or self.answered or self.source_done or self.request is not None):
            return False
        tried = self.tried | {here or endpoint.name}
        others = [other for other in cluster.endpoints if other.name not in tried and other.name not in cluster.drained]
        fallback = self.decision.fallback
        if not (here or others) and (fallback is None or self.fallback is not None):
            return False
        if not here:
            endpoint.failed += 1
            cluster.health.failed(endpoint, error)
        self.tried = tried
        self.note_connect()
        self._unlink(error)
        self._start_over(self.decision)
        self._hold()
        self.resend = tuple(datagrams)
        if here or others:
            self.event("RETRY", f"{endpoint.address} refuses datagrams", error.detail)
            self.retries += 1
            self._go(cluster, endpoint if here else cluster.choose(self, tried))
        else:
            self.tried = NOBODY
            self.give_up(error)
        return True

    def _resend(self, destination: Stream) -> None:
        """What another destination has refused had passed the transforms before it: it goes to this one as it is."""
        datagrams, self.resend, self.sent = self.resend, (), True
        for i, data in enumerate(datagrams, 1):
            destination.data(data)
            if self.destination is not destination:  # it refuses them, too: who is next gets all of them
                self.resend += datagrams[i:]
                return

    def _reconnect(self, error: Error | None) -> bool:
        """The destination went away and the route wants it back (also after an orderly end): the source waits in a backlog."""
        cluster = self.cluster
        if cluster is None or cluster.virtual or self.status != CONNECTED or self.task is not None:
            return False
        self.note_connect()
        self.event("DISCONNECT", "destination", error.detail if error else "closed by the upstream")
        self._unlink(error or Error("closed", "replaced after a disconnect"))
        self.to = self.source
        self._hold()
        self._go_again(cluster)
        return True

    def named(self, error: Error) -> Error:
        """The error as it is kept, with this session's name where the text leaves room for it."""
        if "{session}" not in error.detail:
            return error.bare()
        return Error(error.kind, error.detail.replace("{session}", self.name), error.side, error.retry)

    # ------------------------------------------------------------------ given by the session

    def _unlink(self, error: Error) -> None:
        raise NotImplementedError

    def _start_over(self, decision: Decision) -> None:
        raise NotImplementedError

    def _try_again(self, cluster: Cluster) -> None:
        raise NotImplementedError

    def _hold(self) -> None:
        raise NotImplementedError

    def _go(self, cluster: Cluster, endpoint: Endpoint | None) -> None:
        raise NotImplementedError

    def kill(self, detail: str, kind: str = "") -> None:
        raise NotImplementedError

    def give_up(self, error: Error) -> None:
        raise NotImplementedError

    def _go_again(self, cluster: Cluster) -> None:
        raise NotImplementedError
