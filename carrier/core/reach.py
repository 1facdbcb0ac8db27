"""How a session comes to a destination that is not there at once: attempts, in a task, with the retries that its route allows.

A stage (the destination, and each transform before and behind it) is connected in parallel with the others; an endpoint that cannot be
connected to is replaced by another of its cluster, before any retry. The first stage that fails ends the attempt and all the others.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from carrier.core.stream import Stream
from carrier.errors import Error

if TYPE_CHECKING:
    from carrier.core.decision import Decision
    from carrier.core.endpoint import Endpoint
    from carrier.core.parts import Cluster, Listener


class Stages(NamedTuple):
    """Everything of a route, connected."""

    cluster: Cluster
    endpoint: Endpoint | None
    destination: Stream
    ingress: list[Stream]
    egress: list[Stream]


class Traveller(Protocol):
    """What is known here of the session."""

    decision: Decision
    retries: int
    task: Any

    @property
    def listener(self) -> Listener: ...
    @property
    def fallback(self) -> str | None: ...
    def could_not(self, cluster: Cluster, endpoint: Endpoint, error: Error, began: float) -> None: ...
    def event(self, event: str, message: str = "", content: Any = "") -> None: ...
    def arrived(self, stages: Stages) -> None: ...
    def crashed(self, exc: Exception) -> Error: ...
    def fail(self, error: Error) -> None: ...
    def give_up(self, error: Error) -> None: ...
    def named(self, error: Error) -> Error: ...


async def reach(session: Traveller, cluster: Cluster | None, endpoint: Endpoint | None = None) -> None:
    """Connect every stage, with the retries that the route allows, and link them. Any failure ends in `give_up`.

    cluster None: the route names a cluster that is not there; each attempt looks for it again.
    """
    retry = session.decision.retry
    left = retry.attempts
    with _Retrying(cluster) as retrying:
        while failure := await _attempt(session, cluster, endpoint):
            session.event("ERROR", "Could not connect", failure.detail)
            left -= 1
            if left <= 0 or not retrying.allowed():
                session.task = None
                session.give_up(failure)
                return
            session.retries += 1
            await asyncio.sleep(retry.timeout)
            cluster, endpoint = _look_again(session, cluster), None


async def reach_again(session: Traveller, cluster: Cluster) -> None:
    """First at once, then num_retries - 1 times more, `timeout` apart (contract, section 4)."""
    retry = session.decision.retry
    session.retries += 1
    left = retry.num_retries
    with _Retrying(cluster) as retrying:
        while failure := await _attempt(session, _look_again(session, cluster)):
            session.event("ERROR", "Could not reconnect", failure.detail)
            left -= 1
            if left <= 0 or not retrying.allowed():
                session.task = None
                session.fail(failure)
                return
            session.retries += 1
            await asyncio.sleep(retry.timeout)


async def _attempt(session: Traveller, cluster: Cluster | None, endpoint: Endpoint | None = None) -> Error | None:
    """Connect and link once; the error if that failed. A protocol's own mistake fails this session and nothing else."""
    try:
        if cluster is None:
            raise _lost(session.decision)
        stages = await _stages(session, cluster, endpoint)
    except Error as error:
        return session.named(error)
    except Exception as exc:
        return session.crashed(exc)
    session.task = None
    try:
        session.arrived(stages)
    except Exception as exc:
        session.fail(session.crashed(exc))
    return None


def _look_again(session: Traveller, cluster: Cluster | None) -> Cluster | None:
    """The route's clusters as they are by now: one that was missing may be there, one that was replaced is another."""
    found = session.listener.env.clusters
    if cluster is not None and session.fallback is not None:
        return found.get(cluster.name, cluster)
    again = session.decision.again(found)
    if again.error is None:
        session.decision = again
        return again.cluster
    return None if cluster is None else cluster


def _lost(decision: Decision) -> Error:
    error = decision.error
    return Error(error.kind, error.detail, error.side) if error is not None else Error("internal", "the route has no cluster")


async def _stages(session: Traveller, cluster: Cluster, endpoint: Endpoint | None) -> Stages:
    """All stages of the route, connected in parallel (contract, section 4). Raises Error as soon as one fails; then none is left open."""
    decision = session.decision
    timeout = decision.retry.timeout
    if not decision.ingress and not decision.egress:
        stream, endpoint = await _stage(session, cluster, timeout, endpoint)
        return Stages(cluster, endpoint, stream, [], [])
    new = session.listener.env.loop.create_task
    made = [new(_stage(session, cluster, timeout, endpoint))]
    made += [new(_stage(session, c, timeout)) for c in (*decision.ingress, *decision.egress)]
    try:
        done, _ = await asyncio.wait(made, return_when=asyncio.FIRST_EXCEPTION)
        if failed := next((task for task in made if task in done and task.exception() is not None), None):
            failed.result()
        (first, endpoint), *others = [task.result() for task in made]
    except BaseException:  # one failed, or the session is gone
        for task in made:
            task.cancel()
            task.add_done_callback(_discard)
        raise
    streams = [stream for stream, _ in others]
    n = len(decision.ingress)
    return Stages(cluster, endpoint, first, streams[:n], streams[n:])


async def _stage(session: Traveller, cluster: Cluster, timeout: float, endpoint: Endpoint | None = None) -> tuple[Stream, Endpoint | None]:
    """One stage, on another endpoint of its cluster if the chosen one cannot be connected to. Raises Error."""
    if cluster.virtual:
        stream = cluster.ready(session, None)
        assert stream is not None
        return stream, None
    tried: set[str] = set()
    while True:
        if endpoint is None:
            endpoint = cluster.choose(session, tried)
        began = monotonic()
        try:
            ready = cluster.ready(session, endpoint)
            if ready is not None:
                return ready, endpoint
            opened = await cluster.reach(session, endpoint, timeout)
            cluster.health.connected(endpoint)
            return opened, endpoint
        except Error as exc:
            if exc.kind == "overload":  # ours, not the endpoint's: another one would not help
                raise
            error = exc
        endpoint.failed += 1
        session.could_not(cluster, endpoint, error, began)
        cluster.health.failed(endpoint, error)
        tried.add(endpoint.name)
        if not cluster.failover or error.retry != "yes" or len(tried) >= len(cluster.endpoints):
            raise error
        endpoint = None


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
