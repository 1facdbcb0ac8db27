"""A session: one stream end to end, a connection, a UDP peer, an HTTP request.

It is routed once and keeps that route. `begin` reaches the destination: at once when the cluster has one ready (a virtual stream, an
idle connection), else in a task, the only one a session ever has, with the source's bytes held in a `Backlog`. The session is itself
the first hop on the egress side: a destination that fails before the first byte of an answer is replaced by another endpoint, a
retry or the fallback; at the first byte the session steps out of the ring, unless its route wants reconnects on disconnect.
Every session ends in `close`, once: it counts, tells the observers, releases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from carrier.core.again import Again, Kept
from carrier.core.rare import Rare
from carrier.core.reach import Stages, reach, reach_again
from carrier.core.stream import CONNECTED, DESTROYED, HIGH, INIT, NOWHERE, Backlog, Socket, Stream, link
from carrier.errors import Error
from carrier.wire.trace import handed_on

if TYPE_CHECKING:
    from carrier.core.decision import Decision
    from carrier.core.endpoint import Endpoint
    from carrier.core.parts import Cluster, Listener
    from carrier.core.tape import Tape
    from carrier.core.trace import Trace


class Session(Again):
    """See the module. Slots: most attributes are read for each request; the others are Rare."""

    # fmt: off
    __slots__ = (
        "answer", "answered", "answered_at", "bytes_in", "bytes_out", "cluster", "decision", "destination", "ended_at", "endpoint",
        "error", "fields", "listener", "number", "rare", "request", "request_last", "source", "source_done", "started",
        "status",
    )
    # fmt: on
    status: str
    on_lane: bool
    """Nothing is out of the ordinary: the destination was there at once, no transform, no retry, no status that would be asked again, no
    event, no error, and nobody has asked for its name."""
    decision: Decision
    cluster: Cluster | None
    endpoint: Endpoint | None
    destination: Stream
    request: Any
    """The request's head, kept for a repeat; None for streams without heads."""
    request_last: bool
    """That head is the whole request."""
    fields: bytes
    """What varies per request and is appended to the memoised head, the final CRLF included."""
    sent: bool
    """Something of the session went to the present destination."""
    answer: Any
    """The final head of the answer, if there are heads."""
    answered: bool
    """The first byte of an answer went towards the source: from now on nothing can be replaced."""
    answered_at: float
    """When that was, in monotonic seconds; not set before, nor for a whole answer, which came when it ended."""
    source_done: bool
    """The source has sent its end."""
    error: Error | None
    retries: int
    connected_at: float
    ended_at: float
    """Monotonic seconds; 0: it is not, or has not."""
    bytes_in: int
    bytes_out: int
    """Of its source, set at its end."""
    asks = True
    """It asks itself whether somebody records it; else its source has asked."""
    rare: dict[str, Any] | None
    """The attributes below, as far as they are set."""
    fallback = Rare[str | None](None)
    """Why the fallback cluster serves: the kind of error of the destination."""
    hops = Rare[tuple[Stream, ...]](())
    """The transforms."""
    backlog = Rare["Backlog | None"](None)
    task: Rare[asyncio.Task[None] | None] = Rare(None)
    full = Rare(False)
    """The egress side said `pause`: a destination that is connected again waits for `resume`."""
    dropped = Rare(0)
    """Datagrams that came while there was no destination and no room."""
    last_endpoint = Rare["Endpoint | None"](None)
    tape: Rare[Tape | None] = Rare(None)
    """A copy of what passes, if somebody records it."""
    outcome = Rare("")
    """What was said at its end, where a protocol has a word for how it went."""

    def __init__(self, listener: Listener, source: Socket) -> None:
        self.to: Stream = source
        self.back: Stream = NOWHERE
        self.destination = NOWHERE
        self.listener = listener
        self.source = source
        self.started = monotonic()
        self.number = number = listener.counter
        listener.counter = number + 1
        self.status = INIT
        self.on_lane = True
        self.answered = self.sent = self.source_done = False
        self.request = self.answer = self.cluster = self.endpoint = self.error = self.rare = None
        self.decision = None  # type: ignore[assignment]  # until it begins
        self.fields = b"\r\n"
        self.retries = 0
        self.connected_at = self.ended_at = 0.0
        source.session = self

    # ------------------------------------------------------------------ its life

    def begin(self, decision: Decision, head: Any = None, last: bool = False) -> None:
        """Route the session as decided and reach the destination; `head` (with `last`: the whole request) goes there first."""
        self.decision = decision
        if decision.rewrite:
            self._metadata = None  # it was made to decide by; from now on it is shown rewritten
        hits = decision.hits
        hits.count += 1
        hits.last = self.started
        self.request = head
        self.request_last = last
        if self.listener.env.watched and self.asks:
            self._be_recorded(decision)
        if decision.statuses:
            self.on_lane = False
            if decision.calls and head is not None and head.grpc:
                self.kept = Kept()
        cluster = decision.cluster
        if decision.plain:
            assert cluster is not None
            if cluster.down and decision.fallback is not None:
                self.give_up(cluster.health.why_down())
                return
            try:
                self._try_ready(cluster, head, last)
            except Exception as exc:
                self._not_ready(exc)
            return
        if decision.error is not None:
            if not (decision.missing and decision.retry.on_setup):
                self.fail(decision.error)
                return
            cluster = None
        self._hold()
        self._run(reach(self, cluster))

    def _be_recorded(self, decision: Decision) -> None:
        """Have a tape, if somebody records what is decided so."""
        recorder = self.listener.env.recorder
        if recorder is not None and self.listener.listed and (tape := recorder.tape(self, decision)) is not None:
            self.tape = tape

    def _not_ready(self, exc: Exception) -> None:
        """There is no destination at once, or it failed at once: wait for another, if that may help."""
        if not isinstance(exc, Error) or exc.retry != "yes":
            self.give_up(exc if isinstance(exc, Error) else self.crashed(exc))
        else:
            self._hold()
            self._run(reach(self, self.decision.cluster))

    def _try_ready(self, cluster: Cluster, head: Any, last: bool) -> None:
        """Link a destination that is there at once, or start the task that makes one."""
        endpoint = cluster.only
        if endpoint is None and not cluster.virtual:
            endpoint = cluster.choose(self, self.tried)
        destination = cluster.ready(self, endpoint)
        if destination is None:
            self._hold()
            self.cluster = cluster
            self._run(reach(self, cluster, endpoint))
            return
        self._enter(cluster, endpoint)
        source = self.source
        source.to = self.back = self.destination = destination
        destination.back = source
        destination.to = source.back = self
        if self.decision.calls and self.kept is not None:
            self.kept.stand_behind(source)
        if self.rare is not None and (tape := self.tape) is not None:
            tape.stand_beside(source, head)
        self.status = CONNECTED
        self.connected_at = self.started
        if destination.waits:
            destination.resume()
        if head is not None:
            self.sent = True
            destination.head(head, last)
        else:
            source.resume()

    def _enter(self, cluster: Cluster, endpoint: Endpoint | None) -> None:
        self.cluster = cluster
        self.endpoint = endpoint
        if endpoint is not None:
            endpoint.enter()
        else:
            cluster.sessions_elsewhere += 1
        if endpoint is not None and self.rare is not None and (trace := self.trace) is not None:
            self.fields = trace.attempt(cluster.name, endpoint)

    def traced(self, trace: Trace, head: Any) -> Any:
        """It is traced; the head to send on instead of this one."""
        trace.fields = self.fields
        self.trace = trace
        return handed_on(head)

    def could_not(self, cluster: Cluster, endpoint: Endpoint, error: Error, began: float) -> None:
        """An endpoint could not be connected to; tried since `began`."""
        if cluster is self.decision.cluster or cluster is self.decision.fallback:  # not that of a transform
            self.last_endpoint = endpoint
        trace = self.trace
        if trace is not None:
            trace.attempt(cluster.name, endpoint, began)
            trace.ended(error)

    def _leave(self) -> None:
        if self.endpoint is not None:
            self.endpoint.leave()
            self.last_endpoint, self.endpoint = self.endpoint, None

    def _unlink(self, error: Error) -> None:
        """Take the destination and the transforms out of the ring and end them; the session is as before it was connected."""
        self.on_lane = False
        self._leave()
        if (trace := self.trace) is not None:
            trace.ended(error)
        self.to = self.source
        stages = (self.destination, *self.hops)
        self.destination, self.hops, self.back = NOWHERE, (), NOWHERE
        self.status = INIT
        self._dismiss([stage for stage in stages if stage is not NOWHERE], error)

    def _dismiss(self, stages: Sequence[Stream], error: Error) -> None:
        """End stages that are out of the ring, each for itself: what they stood beside may be another session's by now."""
        for stage in stages:
            stage.to = stage.back = NOWHERE
        for stage in stages:
            self.listener.env.guard(f"a stage of {self.name}", stage.reset, error)
            stage.forget()

    def _no_room(self, count: int) -> None:
        """Datagrams that found no destination in time, nor room to wait for one."""
        if count:
            self.source.drop("no-destination", count)

    def _hold(self) -> None:
        """Until the destination is there, what the source sends waits in a backlog."""
        self.on_lane = False
        if self.backlog is None:
            datagram = self.listener.kind == "datagram"
            self.backlog = Backlog(HIGH, datagram, self.source.drop if datagram else None)
        backlog = self.backlog
        self.source.to = backlog
        backlog.back = self.source
        backlog.to = NOWHERE
        self.source.back = self

    def arrived(self, stages: Stages) -> None:
        """All stages are connected: link them, and play what the source has sent meanwhile."""
        cluster, endpoint, destination, ingress, egress = stages
        if self.status == DESTROYED:  # it was closed while connecting
            for stage in (destination, *ingress, *egress):
                stage.reset(Error("closed", "the session is gone"))
            return
        self._leave()
        self._enter(cluster, endpoint)
        self.destination = destination
        backlog, self.backlog = self.backlog, None
        assert backlog is not None
        link([self.source, *ingress, destination, self, *egress])
        if self.kept is not None:
            self.kept.stand_behind(self.source)
        if (tape := self.tape) is not None:
            tape.stand_beside(self.source, self.request)
        self.hops = (*ingress, *egress) if ingress or egress else ()
        for transform in (*self.decision.ingress, *self.decision.egress):
            transform.sessions_elsewhere += 1
        for stage in self.hops:
            stage.between(self)
        self.status = CONNECTED
        self.connected_at = monotonic()
        for stage in self.hops:
            stage.resume() if isinstance(stage, Socket) else None
        if isinstance(destination, Socket) and not self.full:
            destination.resume()
        if self.resend:
            self._resend(destination)
        to = self.source.to
        if self.request is not None:
            self.sent = True
            to.head(self.request, self.request_last)
        if self.source.to is not to:  # it has failed already; who is tried instead gets what waits
            for name, args in backlog.calls:
                getattr(self.source.to, name)(*args)
            return
        if backlog.calls:
            self.sent = True
        backlog.replay(to)
        if backlog.parting is not None:
            self.close(backlog.parting)

    # ------------------------------------------------------------------ the first hop on the egress side

    def head(self, head: Any, last: bool = False) -> None:
        if self.decision.statuses and self._unwanted(head, last):
            return
        if head.status >= 200 or head.tunnel:  # an interim answer is none: what follows it may still be another's
            self._answer()
        self.to.head(head, last)

    def message(self, head: Any, body: bytes) -> None:
        if self.decision.statuses and self._unwanted(head, not body):
            return
        self.to.message(head, body)

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if not self.answered:
            self._answer()
        self.to.data(data, kind, last)

    def end(self, trailer: Any = None) -> None:
        if self.decision.retry.on_disconnect and not self.source_done and self.request is None and self._reconnect(None):
            return
        self._answer()
        self.to.end(trailer)

    def reset(self, error: Error) -> None:
        if self.status == DESTROYED:
            return
        if self._comes_back(error):
            return
        if self.answered:
            self.to.reset(error)
        else:
            self._replace(error)

    def pause(self) -> None:
        self.full = True
        self.back.pause()

    def resume(self) -> None:
        self.full = False
        self.back.resume()

    @staticmethod
    def resizes(transforms: Sequence[Cluster]) -> bool:
        """May a message be of another length behind these?"""
        return not all(transform.same_length for transform in transforms)

    def _answer(self) -> None:
        """The first byte of an answer: step out of the ring, unless the route wants reconnects."""
        self.answered = True
        self.answered_at = monotonic()
        if self.decision.calls and self.kept is not None:
            self.kept.leave()
        if not self.decision.retry.on_disconnect and self.status != DESTROYED:
            back, to = self.back, self.to
            back.to = to
            to.back = back

    def _start_over(self, decision: Decision) -> None:
        """Nobody knows of it what it has said so far."""
        self.decision, self.sent, self.answered = decision, False, False

    def _try_again(self, cluster: Cluster) -> None:
        """Send the whole request again."""
        self.sent = False
        try:
            self._try_ready(cluster, self.request, self.request_last)
        except Error as error:
            self.give_up(error)
        except Exception as exc:
            self.give_up(self.crashed(exc))

    def _go(self, cluster: Cluster, endpoint: Endpoint | None) -> None:
        self._run(reach(self, cluster, endpoint))

    def _go_again(self, cluster: Cluster) -> None:
        self._run(reach_again(self, cluster))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self.task = self.listener.env.loop.create_task(work)

    def crashed(self, exc: Exception) -> Error:
        """A mistake in a protocol's code: this session fails, the loop's exception handler hears of it."""
        self.listener.env.loop.call_exception_handler({"message": f"session {self.name} failed: {exc}", "exception": exc})
        return Error("internal", f"{type(exc).__name__}: {exc}")

    def give_up(self, error: Error) -> None:
        """No destination: the fallback cluster serves if nothing was sent on, or all of it may be sent again; else the source is told."""
        fallback = self.decision.fallback
        if fallback is not None and self.fallback is None and self.status != DESTROYED and self._may_fall_back(error):
            self.fallback = error.kind
            self.event("FALLBACK", f"fallback cluster {fallback.name}", error.detail)
            self._hold()
            self.source.falls_back(fallback.kind == "message")
            self._run(reach(self, fallback))
            return
        self.fail(error)

    # ------------------------------------------------------------------ its end

    def fail(self, error: Error) -> None:
        """No way to go on: tell the source, which answers in its protocol or closes, and end."""
        if self.status == DESTROYED:
            return
        self.error = error = self.named(error)
        self.event("ERROR", error.phrase, error.detail)
        self.source.reset(error)
        self.close(error)

    def kill(self, detail: str = "Session removed from the API", kind: str = "killed") -> None:
        """End the session from outside: both ends close in order. kind: of the error that they hear, "killed" or "drain"."""
        if self.status == DESTROYED:
            return
        self.event("END", "OK", detail)
        self.error = error = Error(kind, detail)
        self.source.reset(error)
        self.close(error)

    def close(self, error: Error | None = None) -> None:
        """The source is done with this session. Idempotent."""
        if self.status == DESTROYED or (error is not None and self._is_heard_out(error)):
            return
        self.status = DESTROYED
        self.ended_at = monotonic()
        if (endpoint := self.endpoint) is not None:
            endpoint.leave()
        if error is not None and self.error is None:  # nobody here wanted or found that: an end broke
            self.event("DISCONNECT", "destination" if error.side == "upstream" else "source", error.detail)
        if error is None and not self.source_done:  # a source without an end of its own
            self.source_done = True
            to, self.source.to = self.source.to, NOWHERE
            to.end()
        if error is not None or not self.on_lane:
            self._release(error)
        self.on_lane = False
        self.listener.ended(self)
        destination, self.destination, self.back = self.destination, NOWHERE, NOWHERE
        destination.forget()

    def _is_heard_out(self, error: Error) -> bool:
        """The source of a stream broke before there was a destination: what it has said goes there first, then the session is closed."""
        return self.backlog is not None and self.request is None and self.backlog.outlives(error)

    def _release(self, error: Error | None) -> None:
        """What a session that went well does not have: a task, transforms, a backlog, a destination to be told."""
        self.on_lane = False
        if (tape := self.tape) is not None:
            tape.leave()
        self.error = self.error or (error.bare() if error is not None else None)
        if self.task is not None:
            self.task.cancel()
            self.task = None
        if self.kept is not None:
            self.kept.leave()
        guard = self.listener.env.guard
        if error is not None and self.destination is not NOWHERE:
            guard(f"the destination of {self.name}", self.destination.reset, error)
        if hops := self.hops:
            self.to, self.hops = self.source, ()
            self._dismiss(hops, error or Error("closed", "the session ended"))
            if error is None and self.destination.back is not NOWHERE:
                guard(f"the destination of {self.name}", self.destination.end)
        if self.backlog is not None:
            self._no_room(len(self.backlog.calls) + len(self.resend) if self.listener.kind == "datagram" else 0)
            self.backlog = None
