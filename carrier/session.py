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
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from carrier.errors import Error
from carrier.match import set_at
from carrier.stream import HIGH, NOWHERE, Backlog, Socket, Stream, link

if TYPE_CHECKING:
    from carrier.cluster import Cluster, Endpoint
    from carrier.listener import Listener
    from carrier.table import Decision

INIT, CONNECTED, FINALIZING, DESTROYED = "INIT", "CONNECTED", "FINALIZING", "DESTROYED"
MAX_EVENTS = 64
SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
"""Methods that may be sent again (RFC 9110 section 9.2.1); the other idempotent ones carry bodies that are gone by then."""


class Session(Stream):
    """See the module. No __slots__: most attributes keep their class-level default, which costs nothing per request."""

    status = INIT
    answered = False
    """The first byte of an answer went towards the source: from now on nothing can be replaced."""
    request: Any = None
    """The request's head, kept for a repeat; None for streams without heads."""
    request_last = False
    sent = False
    """Something of the session went to the present destination."""
    decision: Decision
    destination: Stream = NOWHERE
    cluster: Cluster | None = None
    endpoint: Endpoint | None = None
    fallback: str | None = None
    """Why the fallback cluster serves: the kind of error of the destination."""
    fields: bytes = b"\r\n"
    """HTTP: what varies per request and is appended to the memoised head, the final CRLF included."""
    hops: tuple[Stream, ...] = ()
    backlog: Backlog | None = None
    task: asyncio.Task[None] | None = None
    error: Error | None = None
    retries = 0
    connected_at = 0.0
    ended_at = 0.0
    tried: frozenset[str] = frozenset()
    _name: str | None = None
    _metadata: dict[str, Any] | None = None
    _events: list[tuple[str, float, str, Any]] | None = None
    source_done = False
    """The source has sent its end."""

    def __init__(self, listener: Listener, source: Socket) -> None:
        self.to: Stream = source
        self.back: Stream = NOWHERE
        self.listener = listener
        self.source = source
        self.started = time.monotonic()
        listener.counter += 1
        self.number = listener.counter - 1
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
            self._metadata = meta
        return self._metadata

    def event(self, event: str, message: str = "", content: Any = "") -> None:
        """Add to the session's history, as l7mp lists it; bounded."""
        if self._events is None:
            self._events = []
        if len(self._events) < MAX_EVENTS:
            self._events.append((event, time.monotonic(), message, content))

    @property
    def events(self) -> list[tuple[str, float, str, Any]]:
        """(event, monotonic seconds, message, content), oldest first. The first ones are derived, so that they cost nothing."""
        found: list[tuple[str, float, str, Any]] = [("INIT", self.started, "", "")]
        decision = getattr(self, "decision", None)
        if decision is not None and decision.error is None:
            text = f"Successfull lookup on rulelist:{decision.rulelist}/rule:{decision.rule}"
            found.append(("LOOKUP SUCCESS", self.started, text, ""))
        found += self._events or []
        if self.connected_at:
            found.append(("CONNECT", self.connected_at, "All streams successfully connected", ""))
        return sorted(found, key=lambda e: e[1])

    # ------------------------------------------------------------------ its life

    def begin(self, decision: Decision, head: Any = None, last: bool = False) -> None:
        """Route the session as decided and reach the destination; `head` (with `last`: the whole request) goes there first."""
        self.decision = decision
        decision.hits.count += 1
        self.request = head
        self.request_last = last
        if decision.error is not None:
            self.fail(decision.error)
            return
        cluster = decision.cluster
        assert cluster is not None
        if decision.plain:
            try:
                self._try_ready(cluster, head, last)
            except Error as error:
                self._replace(error)
            return
        self._hold()
        self.task = self.listener.env.loop.create_task(self._reach(cluster))

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
        self.cluster = cluster
        cluster.sessions_total += 1
        if endpoint is not None:
            self.endpoint = endpoint
            endpoint.active += 1
            endpoint.total += 1
        source = self.source
        source.to = self.back = self.destination = destination
        destination.back = source
        destination.to = source.back = self
        self.to = source
        self.status = CONNECTED
        self.connected_at = self.started
        if head is not None:
            self.sent = True
            destination.head(head, last)
        else:
            source.resume()

    def _enter(self, cluster: Cluster, endpoint: Endpoint | None) -> None:
        self.cluster = cluster
        cluster.sessions_total += 1
        if endpoint is not None:
            self.endpoint = endpoint
            endpoint.active += 1
            endpoint.total += 1

    def _leave(self) -> None:
        if self.endpoint is not None:
            self.endpoint.active -= 1
            self.endpoint = None

    def _hold(self) -> None:
        """Until the destination is there, what the source sends waits in a backlog."""
        if self.backlog is None:
            self.backlog = Backlog(HIGH, self.listener.kind == "datagram")
        backlog = self.backlog
        self.source.to = backlog
        backlog.back = self.source
        backlog.to = NOWHERE
        self.source.back = self

    async def _reach(self, cluster: Cluster, endpoint: Endpoint | None = None) -> None:
        """Connect every stage, with the retries that the route allows, and link them. Any failure ends in `_replace` or `fail`."""
        decision = self.decision
        try:
            attempts = decision.retry.attempts
            while True:
                attempts -= 1
                try:
                    stages = await self._stages(cluster, endpoint)
                    break
                except Error as error:
                    self.event("ERROR", "Could not connect", error.detail)
                    if attempts <= 0 or self.status == DESTROYED:
                        raise
                    self.retries += 1
                    await asyncio.sleep(decision.retry.timeout)
                    endpoint = None
        except Error as error:
            self.task = None
            self._give_up(error)
            return
        self.task = None
        self._connected(*stages)

    async def _stages(
        self, cluster: Cluster, endpoint: Endpoint | None
    ) -> tuple[Cluster, Endpoint | None, Stream, list[Stream], list[Stream]]:
        """All stages of the route, connected in parallel (contract, section 4)."""
        decision = self.decision
        timeout = decision.retry.timeout
        made = await asyncio.gather(
            self._stage(cluster, timeout, endpoint),
            *(self._stage(c, timeout) for c in (*decision.ingress, *decision.egress)),
            return_exceptions=True,
        )
        failed = [m for m in made if isinstance(m, BaseException)]
        if failed:
            for stage in made:
                if not isinstance(stage, BaseException):
                    stage[0].reset(Error("closed", "another stage failed"))
            raise failed[0]
        first = made[0]
        assert not isinstance(first, BaseException)
        streams = [m[0] for m in made[1:] if not isinstance(m, BaseException)]
        n = len(decision.ingress)
        return cluster, first[1], first[0], streams[:n], streams[n:]

    async def _stage(self, cluster: Cluster, timeout: float, endpoint: Endpoint | None = None) -> tuple[Stream, Endpoint | None]:
        if cluster.virtual:
            ready = cluster.ready(self, None)
            assert ready is not None
            return ready, None
        tried: set[str] = set()
        while True:
            if endpoint is None:
                endpoint = cluster.choose(self, tried)
            ready = cluster.ready(self, endpoint)
            if ready is not None:
                return ready, endpoint
            try:
                async with asyncio.timeout(timeout):
                    return await cluster.open(self, endpoint), endpoint
            except TimeoutError:
                error = Error("timeout", f"{endpoint.address}: no connection within {timeout:g} s", "upstream", "yes")
            except Error as exc:
                error = exc
            endpoint.failed += 1
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
        link([self.source, *ingress, destination, self, *egress])
        self.hops = (*ingress, *egress) if ingress or egress else ()
        for stage in self.hops:
            if isinstance(stage, Socket):
                stage.session = self
        self.status = CONNECTED
        self.connected_at = time.monotonic()
        backlog, self.backlog = self.backlog, None
        to = self.source.to
        if self.request is not None:
            self.sent = True
            to.head(self.request, self.request_last)
        if backlog is not None:
            if backlog.calls:
                self.sent = True
            backlog.replay(to)
        for stage in (*self.hops, destination, self.source):
            if isinstance(stage, Socket) and self.status != DESTROYED:
                stage.resume()

    # ------------------------------------------------------------------ the first hop on the egress side

    def head(self, head: Any, last: bool = False) -> None:
        self._answer()
        self.to.head(head, last)

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if not self.answered:
            self._answer()
        self.to.data(data, kind, last)

    def end(self, trailer: Any = None) -> None:
        if self.decision.retry.on_disconnect and not self.source_done and self._reconnect(None):
            return
        self._answer()
        self.to.end(trailer)

    def reset(self, error: Error) -> None:
        if self.status == DESTROYED:
            return
        if self.decision.retry.on_disconnect and self.status == CONNECTED and self._reconnect(error):
            return
        if self.answered:
            self.to.reset(error)
        else:
            self._replace(error)

    def _answer(self) -> None:
        """The first byte of an answer: step out of the ring, unless the route wants reconnects."""
        self.answered = True
        if not self.decision.retry.on_disconnect:
            back, to = self.back, self.to
            back.to = to
            to.back = back

    def _replace(self, error: Error) -> None:
        """The destination failed before it answered: repeat the request on another connection, use the fallback, or give up."""
        endpoint = self.endpoint
        self._leave()
        self.destination = NOWHERE
        if endpoint is not None:
            endpoint.failed += 1
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
            return
        self._give_up(error)

    def _give_up(self, error: Error) -> None:
        """No destination: the fallback cluster serves if nothing was sent on, else the source is told."""
        fallback = self.decision.fallback
        if fallback is not None and self.fallback is None and not self.sent and error.retry == "yes" and self.status != DESTROYED:
            self.fallback = error.kind
            self.event("FALLBACK", f"fallback cluster {fallback.name}", error.detail)
            self._hold()
            self.task = self.listener.env.loop.create_task(self._reach(fallback))
            return
        self.fail(error)

    def _reconnect(self, error: Error | None) -> bool:
        """The destination went away and the route wants it back (also after an orderly end): the source waits in a backlog."""
        cluster = self.cluster
        if cluster is None or cluster.virtual or self.status != CONNECTED or self.task is not None:
            return False
        self.event("DISCONNECT", "destination", error.detail if error else "closed by the upstream")
        for stage in (self.destination, *self.hops):
            stage.to = stage.back = NOWHERE
            stage.reset(error or Error("closed", "replaced after a disconnect"))
        self.status = INIT
        self._leave()
        self.destination = NOWHERE
        self.back = NOWHERE
        self.hops = ()
        self._hold()
        self.to = self.source
        self.task = self.listener.env.loop.create_task(self._reach_again(cluster))
        return True

    async def _reach_again(self, cluster: Cluster) -> None:
        """First at once, then num_retries - 1 times more, `timeout` apart (contract, section 4)."""
        retry = self.decision.retry
        for n in range(max(1, retry.num_retries)):
            if n:
                await asyncio.sleep(retry.timeout)
            self.retries += 1
            try:
                stages = await self._stages(cluster, None)
            except Error as error:
                self.event("ERROR", "Could not reconnect", error.detail)
                failure = error
                continue
            self.task = None
            self._connected(*stages)
            return
        self.task = None
        self.fail(failure)

    # ------------------------------------------------------------------ its end

    def fail(self, error: Error) -> None:
        """No way to go on: tell the source, which answers in its protocol or closes, and end."""
        if self.status == DESTROYED:
            return
        if "{session}" in error.detail:
            error = Error(error.kind, error.detail.replace("{session}", self.name), error.side, error.retry)
        self.error = error
        self.event("ERROR", "Session failed", error.detail)
        self.source.reset(error)
        self.close(error)

    def kill(self, detail: str = "Session removed from the API") -> None:
        """End the session from outside: both ends close in order."""
        self.event("END", "OK", detail)
        error = Error("killed", detail)
        self.source.reset(error)
        self.close(error)

    def close(self, error: Error | None = None) -> None:
        """The source is done with this session. Idempotent."""
        if self.status == DESTROYED:
            return
        self.status = DESTROYED
        self.error = self.error or error
        self.ended_at = time.monotonic()
        if self.task is not None:
            self.task.cancel()
            self.task = None
        endpoint = self.endpoint
        if endpoint is not None:
            endpoint.active -= 1
            self.endpoint = None
            self.last_endpoint = endpoint
        if error is not None:
            self.destination.reset(error)
        for hop in self.hops:
            hop.reset(error or Error("closed", "the session ended"))
        self.backlog = None
        self.listener.ended(self)

    last_endpoint: Endpoint | None = None

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
                "bytes_in": source.bytes_in,
                "bytes_out": source.bytes_out,
                "messages_in": source.messages_in,
                "messages_out": source.messages_out,
                "retries": self.retries,
            },
        }
        if decision is not None and decision.rule:
            found["rule"] = decision.rule
        if self.fallback:
            found["fallback"] = self.fallback
        return found
