"""A session: one stream end to end, a connection, a UDP peer, an HTTP request.

It is routed once and keeps that route. `begin` reaches the destination: at once when the cluster has one ready (a virtual stream, an
idle connection), else in a task, the only one a session ever has, with the source's bytes held in a `Backlog`. The session is itself
the first hop on the egress side: a destination that fails before the first byte of an answer is replaced by another endpoint, a
retry or the fallback; at the first byte the session steps out of the ring, unless its route wants reconnects on disconnect.
Every session ends in `close`, once: it counts, tells the observers, releases.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from carrier.core.ledger import LARGE, MANY
from carrier.core.metadata import set_at
from carrier.core.stream import CONNECTED, DESTROYED, HIGH, INIT, NOWHERE, Backlog, Socket, Stream, link
from carrier.errors import Error

if TYPE_CHECKING:
    from carrier.core.decision import Decision
    from carrier.core.endpoint import Endpoint
    from carrier.core.ledger import Record
    from carrier.core.parts import Cluster, Listener

MAX_EVENTS = 64
NOBODY: frozenset[str] = frozenset()
CONNECTED_TEXT = "Session successfully connected"
UNANSWERED = frozenset(("reset", "closed", "timeout", "bad-answer"))
"""Failures of a destination that was connected to and has not answered."""
SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
"""Methods that may be sent again (RFC 9110 section 9.2.1); the other idempotent ones carry bodies that are gone by then."""
T = TypeVar("T")


class Rare(Generic[T]):
    """An attribute that most sessions never set, nor ask for while they are `usual`: it takes no slot, and none has to fill it.

    What is set is kept in the session's `rare`, a dictionary that is made for the first of them.
    """

    def __init__(self, default: T) -> None:
        self.default = default

    def __set_name__(self, owner: type[Session], name: str) -> None:
        self.name = name

    def __get__(self, session: Session, owner: type[Session]) -> T:
        rare = session.rare
        return self.default if rare is None else rare.get(self.name, self.default)

    def __set__(self, session: Session, value: T) -> None:
        session.usual = False
        if session.rare is None:
            session.rare = {}
        session.rare[self.name] = value


class Session(Stream):
    """See the module. __slots__: there are more attributes than a dictionary of shared keys takes, and most are read for each request;
    the others are Rare."""

    __slots__ = (
        "answer",
        "answered",
        "bytes_in",
        "bytes_out",
        "cluster",
        "connected_at",
        "decision",
        "destination",
        "ended_at",
        "endpoint",
        "error",
        "fields",
        "listener",
        "number",
        "rare",
        "request",
        "request_last",
        "retries",
        "sent",
        "source",
        "source_done",
        "started",
        "status",
        "usual",
    )
    status: str
    answer: Any
    """HTTP: the final head of the answer."""
    answered: bool
    """The first byte of an answer went towards the source: from now on nothing can be replaced."""
    request: Any
    """The request's head, kept for a repeat; None for streams without heads."""
    request_last: bool
    sent: bool
    """Something of the session went to the present destination."""
    decision: Decision
    destination: Stream
    cluster: Cluster | None
    endpoint: Endpoint | None
    fallback = Rare[str | None](None)
    """Why the fallback cluster serves: the kind of error of the destination."""
    fields: bytes
    """HTTP: what varies per request and is appended to the memoised head, the final CRLF included."""
    hops = Rare[tuple[Stream, ...]](())
    backlog = Rare["Backlog | None"](None)
    task = Rare["asyncio.Task[None] | None"](None)
    error: Error | None
    retries: int
    connected_at: float
    ended_at: float
    tried = Rare(NOBODY)
    rare: dict[str, Any] | None
    _name = Rare[str | None](None)
    _metadata = Rare[dict[str, Any] | None](None)
    _events = Rare[list[tuple[str, float, str, Any]] | None](None)
    usual: bool
    """Nothing is out of the ordinary: the destination was there at once, no transform, no retry, no status that would be asked again, no
    event, no error, and nobody has asked for its name."""
    source_done: bool
    """The source has sent its end."""
    full = Rare(False)
    """The egress side said `pause`: a destination that is connected again waits for `resume`."""
    dropped = Rare(0)
    """Datagrams that came while there was no destination and no room."""
    last_endpoint = Rare["Endpoint | None"](None)
    bytes_in: int
    bytes_out: int
    """Of its source, set at its end, and only when somebody wants to know: an observer, or who asks for ended sessions."""

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
        self.usual = True
        self.answered = self.sent = self.source_done = False
        self.request = self.answer = self.cluster = self.endpoint = self.error = self.rare = None
        self.fields = b"\r\n"
        self.retries = 0
        self.connected_at = self.ended_at = 0.0
        source.session = self

    # ------------------------------------------------------------------ what it is

    @property
    def name(self) -> str:
        """l7mp's session name (contract, section 4), made when somebody asks."""
        if self._name is None:
            self._name = self.listener.session_name(self)
        return self._name

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata tree, with the rule's rewrites once routed; made when somebody asks."""
        if self._metadata is None:
            meta = {"name": self.name, **self.listener.metadata(self)}
            decision = getattr(self, "decision", None)
            if decision is not None:
                for rewrite in decision.rewrite:
                    meta = set_at(meta, rewrite.path, rewrite.value)
                if not isinstance(meta, dict):  # "/" was rewritten to something that is no tree
                    meta = {"name": self.name, "value": meta}
            self._metadata = meta
        return self._metadata

    @property
    def why(self) -> str:
        """The one reason for where it went: rule and conditions, fallback and why, retries, failure. Made when somebody asks."""
        decision = getattr(self, "decision", None)
        if decision is None:
            return "it was not routed"
        said = [decision.reason]
        if self.fallback is not None and decision.fallback is not None:
            detail = next((content for event, _, _, content in self._events or () if event == "FALLBACK"), "")
            said.append(f"fallback {decision.fallback.name}, because {self.fallback}" + (f" ({detail})" if detail else ""))
        if self.retries:
            said.append("1 retry" if self.retries == 1 else f"{self.retries} retries")
        if self.error is not None and decision.error is None:
            said.append(f"failed, {self.error.kind}: {self.error.detail}")
        return "; ".join(said)

    def event(self, event: str, message: str = "", content: Any = "") -> None:
        """Add to the session's history, as l7mp lists it; bounded."""
        self.usual = False
        if self._events is None:
            self._events = []
        if len(self._events) >= MAX_EVENTS:
            del self._events[MAX_EVENTS // 2]  # how it began and how it ended say most
        self._events.append((event, time.monotonic(), message, content))

    @property
    def events(self) -> list[tuple[str, float, str, Any]]:
        """(event, monotonic seconds, message, content), oldest first. The first ones are derived, so that they cost nothing."""
        found: list[tuple[str, float, str, Any]] = [("INIT", self.started, f"Session {self.name} initialized", "")]
        decision = getattr(self, "decision", None)
        if decision is not None and (decision.error is None or decision.missing):
            text = f"Successfull lookup on rulelist:{decision.rulelist}/rule:{decision.rule}"
            found.append(("LOOKUP SUCCESS", self.started, text, decision.reason))
        found += self._events or []
        if self.connected_at:
            found.append(("CONNECT", self.connected_at, CONNECTED_TEXT, ""))
        found.sort(key=lambda e: e[1])
        if self.status == DESTROYED:
            found.append(("DESTROY", self.ended_at, f"Session {self.name} destroyed", self.error.detail if self.error else ""))
        return found

    def _note_connect(self) -> None:
        """Keep the CONNECT of a destination that is gone; the next one gets its own."""
        self.event("CONNECT", CONNECTED_TEXT)
        assert self._events is not None
        self._events[-1] = ("CONNECT", self.connected_at, CONNECTED_TEXT, "")
        self.connected_at = 0.0

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
        if decision.statuses:
            self.usual = False
        cluster = decision.cluster
        if decision.plain:
            assert cluster is not None
            if cluster.down and decision.fallback is not None:
                self._give_up(cluster.health.why_down())
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
        self.task = self.listener.env.loop.create_task(self._reach(cluster))

    def begin_again(self, decision: Decision, head: Any, last: bool, fields: bytes) -> bool:
        """`begin`, of a `blank` one or of one that was `served`: for the next message of the same source, if the cluster's one endpoint has
        an idle connection. Nothing is set that is as it should be. False: nothing was done, this takes a session of its own."""
        if decision is not self.decision and not self._aim(decision):
            return False
        cluster: Cluster = self.cluster  # type: ignore[assignment]  # see _aim
        endpoint: Endpoint = self.endpoint  # type: ignore[assignment]
        if cluster.only is not endpoint or cluster.down:
            return False
        idle = endpoint.idle
        if not idle:
            return False
        source = self.source
        self.back = self.destination = source.to = destination = idle.pop()
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

    def _aim(self, decision: Decision) -> bool:
        """Be ready for `begin_again` by this decision. False: it needs more than an idle connection."""
        cluster = decision.cluster
        if not decision.plain or decision.statuses or cluster is None or cluster.only is None:
            return False
        self.decision, self.cluster, self.endpoint = decision, cluster, cluster.only
        return True

    def _not_ready(self, exc: Exception) -> None:
        """There is no destination at once, or it failed at once: wait for another, if that may help."""
        if not isinstance(exc, Error):
            self._give_up(self._crashed(exc))
        elif exc.retry != "yes":
            self._give_up(exc)
        else:
            self._hold()
            self.task = self.listener.env.loop.create_task(self._reach(self.decision.cluster))

    def _try_ready(self, cluster: Cluster, head: Any, last: bool) -> None:
        """Link a destination that is there at once, or start the task that makes one."""
        endpoint = cluster.only
        if endpoint is None and not cluster.virtual:
            endpoint = cluster.choose(self, self.tried)
        destination = cluster.ready(self, endpoint)
        if destination is None:
            self._hold()
            self.cluster = cluster
            self.task = self.listener.env.loop.create_task(self._reach(cluster, endpoint))
            return
        self._enter(cluster, endpoint)
        source = self.source
        source.to = self.back = self.destination = destination
        destination.back = source
        destination.to = source.back = self
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
            endpoint.active += 1
            endpoint.total += 1
        else:
            cluster.sessions_elsewhere += 1

    def _leave(self) -> None:
        if self.endpoint is not None:
            self.endpoint.active -= 1
            self.last_endpoint, self.endpoint = self.endpoint, None

    def _unlink(self, error: Error) -> None:
        """Take the destination and the transforms out of the ring and end them; the session is as before it was connected."""
        self.usual = False
        self._leave()
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

    def _hold(self) -> None:
        """Until the destination is there, what the source sends waits in a backlog."""
        self.usual = False
        if self.backlog is None:
            self.backlog = Backlog(HIGH, self.listener.kind == "datagram")
        backlog = self.backlog
        self.source.to = backlog
        backlog.back = self.source
        backlog.to = NOWHERE
        self.source.back = self

    async def _reach(self, cluster: Cluster | None, endpoint: Endpoint | None = None) -> None:
        """Connect every stage, with the retries that the route allows, and link them. Any failure ends in `_give_up`.

        cluster None: the route names a cluster that is not there; each attempt looks for it again.
        """
        retry = self.decision.retry
        left = retry.attempts
        with _Retrying(cluster) as retrying:
            while failure := await self._attempt(cluster, endpoint):
                self.event("ERROR", "Could not connect", failure.detail)
                left -= 1
                if left <= 0 or not retrying.allowed():
                    self.task = None
                    self._give_up(failure)
                    return
                self.retries += 1
                await asyncio.sleep(retry.timeout)
                cluster, endpoint = self._look_again(cluster), None

    async def _reach_again(self, cluster: Cluster) -> None:
        """First at once, then num_retries - 1 times more, `timeout` apart (contract, section 4)."""
        retry = self.decision.retry
        self.retries += 1
        left = retry.num_retries
        with _Retrying(cluster) as retrying:
            while failure := await self._attempt(self._look_again(cluster)):
                self.event("ERROR", "Could not reconnect", failure.detail)
                left -= 1
                if left <= 0 or not retrying.allowed():
                    self.task = None
                    self.fail(failure)
                    return
                self.retries += 1
                await asyncio.sleep(retry.timeout)

    async def _attempt(self, cluster: Cluster | None, endpoint: Endpoint | None = None) -> Error | None:
        """Connect and link once; the error if that failed. A protocol's own mistake fails this session and nothing else."""
        try:
            if cluster is None:
                raise self._lost()
            stages = await self._stages(cluster, endpoint)
        except Error as error:
            return self._named(error)
        except Exception as exc:
            return self._crashed(exc)
        self.task = None
        try:
            self._connected(*stages)
        except Exception as exc:
            self.fail(self._crashed(exc))
        return None

    def _look_again(self, cluster: Cluster | None) -> Cluster | None:
        """The route's clusters as they are by now: one that was missing may be there, one that was replaced is another."""
        found = self.listener.env.clusters
        if cluster is not None and self.fallback is not None:
            return found.get(cluster.name, cluster)
        again = self.decision.again(found)
        if again.error is None:
            self.decision = again
            return again.cluster
        return None if cluster is None else cluster

    def _lost(self) -> Error:
        error = self.decision.error
        return Error(error.kind, error.detail, error.side) if error is not None else Error("internal", "the route has no cluster")

    def _named(self, error: Error) -> Error:
        """The error as it is kept, with this session's name where the text leaves room for it."""
        if "{session}" not in error.detail:
            return error.bare()
        return Error(error.kind, error.detail.replace("{session}", self.name), error.side, error.retry)

    def _crashed(self, exc: Exception) -> Error:
        """A mistake in a protocol's code: this session fails, the loop's exception handler hears of it."""
        self.listener.env.loop.call_exception_handler({"message": f"session {self.name} failed: {exc}", "exception": exc})
        return Error("internal", f"{type(exc).__name__}: {exc}")

    async def _stages(
        self, cluster: Cluster, endpoint: Endpoint | None
    ) -> tuple[Cluster, Endpoint | None, Stream, list[Stream], list[Stream]]:
        """All stages of the route, connected in parallel (contract, section 4). Raises Error; then none is left open."""
        decision = self.decision
        timeout = decision.retry.timeout
        if not decision.ingress and not decision.egress:
            stream, endpoint = await self._stage(cluster, timeout, endpoint)
            return cluster, endpoint, stream, [], []
        new = self.listener.env.loop.create_task
        made = [new(self._stage(cluster, timeout, endpoint))]
        made += [new(self._stage(c, timeout)) for c in (*decision.ingress, *decision.egress)]
        try:
            await asyncio.wait(made)
            (first, endpoint), *others = [task.result() for task in made]
        except BaseException:  # one failed, or the session is gone
            for task in made:
                task.cancel()
                task.add_done_callback(_discard)
            raise
        streams = [stream for stream, _ in others]
        n = len(decision.ingress)
        return cluster, endpoint, first, streams[:n], streams[n:]

    async def _stage(self, cluster: Cluster, timeout: float, endpoint: Endpoint | None = None) -> tuple[Stream, Endpoint | None]:
        """One stage, on another endpoint of its cluster if the chosen one cannot be connected to. Raises Error."""
        if cluster.virtual:
            stream = cluster.ready(self, None)
            assert stream is not None
            return stream, None
        tried: set[str] = set()
        while True:
            if endpoint is None:
                endpoint = cluster.choose(self, tried)
            try:
                ready = cluster.ready(self, endpoint)
                if ready is not None:
                    return ready, endpoint
                opened = await cluster.reach(self, endpoint, timeout)
                cluster.health.connected(endpoint)
                return opened, endpoint
            except Error as exc:
                if exc.kind == "overload":  # ours, not the endpoint's: another one would not help
                    raise
                error = exc
            endpoint.failed += 1
            cluster.health.failed(endpoint, error)
            tried.add(endpoint.name)
            if not cluster.failover or error.retry != "yes" or len(tried) >= len(cluster.endpoints):
                raise error
            endpoint = None

    def _connected(
        self, cluster: Cluster, endpoint: Endpoint | None, destination: Stream, ingress: list[Stream], egress: list[Stream]
    ) -> None:
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
        self.hops = (*ingress, *egress) if ingress or egress else ()
        for transform in (*self.decision.ingress, *self.decision.egress):
            transform.sessions_elsewhere += 1
        for stage in self.hops:
            if isinstance(stage, Socket):
                stage.session = self
        self.status = CONNECTED
        self.connected_at = time.monotonic()
        self.dropped += backlog.dropped
        for stage in self.hops:
            stage.resume() if isinstance(stage, Socket) else None
        if isinstance(destination, Socket) and not self.full:
            destination.resume()
        to = self.source.to
        if self.request is not None:
            self.sent = True
            to.head(self.request, self.request_last)
        if self.source.to is not to:  # it has failed already
            return
        if backlog.calls:
            self.sent = True
        backlog.replay(to)

    # ------------------------------------------------------------------ the first hop on the egress side

    def head(self, head: Any, last: bool = False) -> None:
        if self.decision.statuses and head.status in self.decision.statuses and self._ask_again(head.status):
            return
        self._answer()
        self.to.head(head, last)

    def message(self, head: Any, body: bytes) -> None:
        if self.decision.statuses and head.status in self.decision.statuses and self._ask_again(head.status):
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
        if self.decision.retry.on_disconnect and not self.source_done and self._whole() and self._reconnect(error):
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

    def _whole(self) -> bool:
        """Can everything be sent again? Of a request whose answer has begun, or that has a body, only a part is left."""
        return self.request is None or (self.request_last and not self.answered and self.request.method in SAFE)

    def _answer(self) -> None:
        """The first byte of an answer: step out of the ring, unless the route wants reconnects."""
        self.answered = True
        if not self.decision.retry.on_disconnect and self.status != DESTROYED:
            back, to = self.back, self.to
            back.to = to
            to.back = back

    def _replace(self, error: Error) -> None:
        """The destination failed before it answered: repeat the request on another connection, use the fallback, or give up."""
        endpoint = self.endpoint
        self._unlink(error)
        if endpoint is not None and self.cluster is not None:
            endpoint.failed += 1
            self.cluster.health.failed(endpoint, error)
        repeatable = self.request is not None and self.request_last and self.request.method in SAFE
        cluster = self.cluster or self.decision.cluster
        if error.retry == "if_reused" and repeatable and self.retries < 1 and cluster is not None:
            self.retries += 1
            self.event("RETRY", "the kept-alive connection was closed by the upstream", error.detail)
            self.sent = False
            try:
                self._try_ready(cluster, self.request, self.request_last)
            except Error as again:
                self._give_up(again)
            except Exception as exc:
                self._give_up(self._crashed(exc))
            return
        self._give_up(error)

    def _ask_again(self, status: int) -> bool:
        """The route wants this status retried: drop the answer and ask another endpoint, if there is one, or the same."""
        cluster, endpoint = self.cluster, self.endpoint
        if cluster is None or endpoint is None or not self._whole() or self.retries >= self.decision.retry.num_retries:
            return False
        self.retries += 1
        self.event("RETRY", f"{endpoint.address} answered {status}")
        if len(self.tried) + 1 < len(cluster.endpoints):
            self.tried = self.tried | {endpoint.name}
        self._unlink(Error("closed", f"status {status} is retried"))
        self.sent = False
        try:
            self._try_ready(cluster, self.request, self.request_last)
        except Error as error:
            self._give_up(error)
        return True

    def _give_up(self, error: Error) -> None:
        """No destination: the fallback cluster serves if nothing was sent on, or all of it may be sent again; else the source is told."""
        fallback = self.decision.fallback
        if fallback is not None and self.fallback is None and self.status != DESTROYED and self._may_fall_back(error):
            self.fallback = error.kind
            self.event("FALLBACK", f"fallback cluster {fallback.name}", error.detail)
            self._hold()
            self.source.falls_back(fallback.kind == "message")
            self.task = self.listener.env.loop.create_task(self._reach(fallback))
            return
        self.fail(error)

    def _may_fall_back(self, error: Error) -> bool:
        """Nothing reached the destination; or it was reached, failed, and the request is whole and safe (RFC 9110 section 9.2.1)."""
        if not self.sent and error.retry == "yes":
            return True
        return not self.answered and self.request is not None and error.kind in UNANSWERED and self._whole()

    def _reconnect(self, error: Error | None) -> bool:
        """The destination went away and the route wants it back (also after an orderly end): the source waits in a backlog."""
        cluster = self.cluster
        if cluster is None or cluster.virtual or self.status != CONNECTED or self.task is not None:
            return False
        self._note_connect()
        self.event("DISCONNECT", "destination", error.detail if error else "closed by the upstream")
        self._unlink(error or Error("closed", "replaced after a disconnect"))
        self.to = self.source
        self._hold()
        self.task = self.listener.env.loop.create_task(self._reach_again(cluster))
        return True

    # ------------------------------------------------------------------ its end

    def fail(self, error: Error) -> None:
        """No way to go on: tell the source, which answers in its protocol or closes, and end."""
        if self.status == DESTROYED:
            return
        self.error = error = self._named(error)
        self.event("ERROR", "Session failed", error.detail)
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
        if self.status == DESTROYED:
            return
        self.status = DESTROYED
        self.ended_at = monotonic()
        if (endpoint := self.endpoint) is not None:
            endpoint.active -= 1
        if error is None and not self.source_done:  # a source without an end of its own
            self.source_done = True
            to, self.source.to = self.source.to, NOWHERE
            to.end()
        if error is not None or not self.usual:
            self._release(error)
        self.usual = False
        self.listener.ended(self)
        destination, self.destination, self.back = self.destination, NOWHERE, NOWHERE
        destination.forget()

    def served(self, head: Any) -> None:
        """A whole answer has gone out in one piece, and nothing was out of the ordinary: `close` and all that follows from it, written
        flat. `begin_again` may follow, unless somebody keeps what has ended."""
        listener = self.listener
        env = listener.env
        endpoint = self.endpoint
        if endpoint is None or env.on_close or listener.track or not listener.listed:
            self.answer = head
            self.close()
            return
        self.status = DESTROYED
        endpoint.active -= 1
        source = self.source
        meter, ledger = env.meter, env.ledger
        now = monotonic()
        if meter is not None:
            series = self.decision.tally
            if series is None:
                series = meter.series(self)
            series.codes[head.family] += 1
            flow = series.flow
            recent = flow.recent
            recent.append(now - self.started)
            if len(recent) >= MANY:
                flow.settle()
            flow.received += source.bytes_in
            flow.sent += source.bytes_out
        if ledger is not None:
            got, sent = source.bytes_in, source.bytes_out
            record = (listener, source, self.started, now, self.request, self.decision, endpoint, head, got, sent, self.fields)
            ended = ledger.ended
            ended.append(record)
            if ledger.timer is None or len(ended) >= LARGE:
                ledger.due()
        source.bytes_in = source.bytes_out = 0
        self.source_done = False

    def _release(self, error: Error | None) -> None:
        """What a session that went well does not have: a task, transforms, a backlog, a destination to be told."""
        self.usual = False
        self.error = self.error or (error.bare() if error is not None else None)
        if self.task is not None:
            self.task.cancel()
            self.task = None
        guard = self.listener.env.guard
        if error is not None and self.destination is not NOWHERE:
            guard(f"the destination of {self.name}", self.destination.reset, error)
        if hops := self.hops:
            self.to, self.hops = self.source, ()
            self._dismiss(hops, error or Error("closed", "the session ended"))
            if error is None and self.destination.back is not NOWHERE:
                guard(f"the destination of {self.name}", self.destination.end)
        if self.backlog is not None:
            self.dropped += self.backlog.dropped
            self.backlog = None

    # ------------------------------------------------------------------ for people

    def dump(self) -> dict[str, Any]:
        """The session as l7mp lists it (contract, section 4), with counters and the deciding rule beside."""
        offset = time.time() - time.monotonic()

        def stamp(at: float) -> str:
            return datetime.fromtimestamp(at + offset, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

        source, endpoint = self.source, self.endpoint or self.last_endpoint
        decision = getattr(self, "decision", None)
        destination: dict[str, Any] = {"status": "PENDING"}
        if self.cluster is not None and self.status != INIT:
            shown: Any = "<INVALID>"
            if endpoint is not None:
                shown = {"name": endpoint.name, "spec": {"address": endpoint.host}}
            elif self.cluster.virtual:
                shown = {"name": self.cluster.name, "spec": {"address": "<VIRTUAL>"}}
            destination = {"origin": self.cluster.name, "endpoint": shown, "status": "END" if self.status == DESTROYED else "READY"}
        metadata = {k: v for k, v in self.metadata.items() if k != "name"}
        found: dict[str, Any] = {
            "name": self.name,
            "metadata": metadata,
            "source": {"origin": self.listener.name, "listener": self.listener.spec, "status": source.status()},
            "destination": destination,
            "ingress": [{"origin": c.name, "status": "READY"} for c in (decision.ingress if decision else ())],
            "egress": [{"origin": c.name, "status": "READY"} for c in (decision.egress if decision else ())],
            "status": self.status,
            "events": [{"event": e, "timestamp": stamp(t), "message": m, "content": c} for e, t, m, c in self.events],
            "counters": {
                "bytes_in": getattr(self, "bytes_in", source.bytes_in),
                "bytes_out": getattr(self, "bytes_out", source.bytes_out),
                "messages_in": source.messages_in if self.request is None or source.messages_in else 1,
                "messages_out": source.messages_out or int(self.answer is not None),
                "retries": self.retries,
                "dropped": self.dropped + (self.backlog.dropped if self.backlog is not None else 0),
            },
        }
        if decision is not None and decision.rule:
            found["rule"] = decision.rule
        found["why"] = self.why
        if self.fallback:
            found["fallback"] = self.fallback
        return found


def recorded(record: Record) -> Session:
    """The session that a record tells of."""
    listener, source, started, ended, request, decision, endpoint, answer, got, sent, fields = record
    session = blank(listener, source)
    session.started = session.connected_at = started
    session.ended_at = ended
    session.request, session.request_last = request, True
    session.decision, session.cluster, session.endpoint = decision, decision.cluster, endpoint
    session.answer = answer
    session.bytes_in, session.bytes_out = got, sent
    session.fields = fields
    session.usual = False
    return session


def blank(listener: Listener, source: Socket) -> Session:
    """A session for `Session.begin_again`: what that does not set is set."""
    session = object.__new__(Session)
    session.listener = listener
    session.to = session.source = source
    session.status = DESTROYED
    session.usual = session.sent = True
    session.answered = session.source_done = False
    session.decision = session.cluster = session.endpoint = session.answer = session.error = session.rare = None  # type: ignore[assignment]
    session.retries = 0
    session.ended_at = 0.0
    return session


class _Retrying:
    """Counts a session among those of its cluster that are being retried, from the first retry on."""

    def __init__(self, cluster: Cluster | None) -> None:
        self.breaker = cluster.breaker if cluster is not None else None
        self.counted = False

    def allowed(self) -> bool:
        """May it be tried once more, or are too many being retried already?"""
        if self.breaker is not None and not self.counted:
            self.counted = self.breaker.retry()
            return self.counted
        return True

    def __enter__(self) -> _Retrying:
        return self

    def __exit__(self, *_: object) -> None:
        if self.counted and self.breaker is not None:
            self.breaker.retried()


def _discard(task: asyncio.Task[tuple[Stream, Endpoint | None]]) -> None:
    """Close a stage that was made for nothing."""
    if not task.cancelled() and task.exception() is None:
        task.result()[0].reset(Error("closed", "another stage failed, or the session is gone"))
