"""Counting sessions that have ended: plain integers in slots, by listener, rule and cluster.

`Meter` is a reader of the ledger. Label values come from the configuration alone, never from requests; `MAX_SETS` label sets are kept
apart, what is beyond is summed up under "(other)", and those of rules that are gone are forgotten.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from carrier.wire.grpc import FAILURES

if TYPE_CHECKING:
    from carrier.core.decision import Decision
    from carrier.core.parts import Cluster, Listener
    from carrier.core.session import Session

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""Upper bounds of the histograms' buckets, in seconds."""
CODES = ("0xx", "1xx", "2xx", "3xx", "4xx", "5xx", "ok", "failed", "left")
"""Status classes of HTTP answers; then what is said of sessions without an answer's head: they ended well, or did not, or their client has
left. Failed are also a call of gRPC that its server has failed, whatever its head said, and an answer that an upstream has broken off."""
OK, FAILED, LEFT = 6, 7, 8
LEAVES = (("downstream", "reset"), ("downstream", "closed"))
"""Clients that went away before the end: no trouble of ours."""
MAX_SETS = 1000
"""Label sets of sessions (listener, rule, cluster) that are kept apart."""
OTHER = "(other)"
MANY = 256
"""Durations of one flow that are put into its histogram at once."""


class Times:
    """A histogram over BOUNDS."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def absorb(self, other: Times) -> None:
        """Count what another one has counted."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


Exemplar = tuple[dict[str, str], float, float]
"""Labels that name a trace, the duration that was seen, when that was (seconds since 1970)."""


class Flow(Times):
    """What is counted by listener and cluster; it is itself the histogram of the sessions' durations.

    exemplars: the last traced session of each bucket.
    recent: durations that are not in the histogram yet; `settle` puts them there, many at once, which costs less than each by itself.
    """

    __slots__ = ("connects", "exemplars", "fallbacks", "received", "recent", "retries", "sent")

    def __init__(self) -> None:
        super().__init__()
        self.connects = Times()
        self.exemplars: dict[int, Exemplar] = {}
        self.recent: list[float] = []
        self.received = self.sent = self.retries = self.fallbacks = 0

    def absorb(self, other: Times) -> None:
        assert isinstance(other, Flow)
        other.settle()
        super().absorb(other)
        self.connects.absorb(other.connects)
        self.received += other.received
        self.sent += other.sent
        self.retries += other.retries
        self.fallbacks += other.fallbacks

    def settle(self) -> None:
        """Count the recent durations."""
        times, self.recent = self.recent, []
        times.sort()
        self.sum += sum(times)
        before = 0
        for n, bound in enumerate((*BOUNDS, math.inf)):
            upto = bisect_right(times, bound, before)
            self.counts[n] += upto - before
            before = upto


class Series:
    """What is counted by listener, rule and cluster: sessions by code; the rest is its flow's."""

    __slots__ = ("codes", "flow")

    def __init__(self, flow: Flow) -> None:
        self.codes = [0] * len(CODES)
        self.flow = flow


def _code(session: Session) -> int:
    """How a session ended."""
    error, answer = session.error, session.answer
    if session.rare is not None and session.outcome in FAILURES:  # gRPC, whose answers are all 200
        return FAILED
    if error is None:
        return OK if answer is None else answer.family
    if answer is None:
        return LEFT if (error.side, error.kind) in LEAVES else FAILED
    return FAILED if error.side == "upstream" and answer.family in (2, 3) else answer.family


class Meter:
    """Counts the sessions that have ended. known: by names of listener, rule and cluster."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str, str], Series] = {}
        self.flows: dict[tuple[str, str], Flow] = {}

    def read(self, ended: Sequence[Any]) -> None:
        """Count a batch of sessions that have ended."""
        for entry in ended:
            if entry.__class__ is not tuple:
                self.count(entry)
                continue
            listener, _, started, at, _, decision, _, answer, got, sent, _, _ = entry
            series = decision.tally or self._series(listener, decision, decision.cluster)
            series.codes[answer.family] += 1
            flow = series.flow
            flow.recent.append(at - started)
            flow.received += got
            flow.sent += sent
        for flow in self.flows.values():
            if len(flow.recent) >= MANY:
                flow.settle()

    def count(self, session: Session) -> None:
        """Count a session that has ended."""
        if session.decision is None:  # it ended before it was routed
            return
        series = self._series(session.listener, session.decision, session.cluster)
        series.codes[_code(session)] += 1
        flow = series.flow
        flow.add(session.ended_at - session.started)
        flow.received += session.bytes_in
        flow.sent += session.bytes_out
        if session.connected_at != session.started:
            self._slow(session, flow)
        if session.rare is not None and (trace := session.trace) is not None:
            seconds = session.ended_at - session.started
            named = {"trace_id": trace.trace.decode(), "span_id": trace.span.decode()}
            flow.exemplars[bisect_left(BOUNDS, seconds)] = named, seconds, time.time()

    def _series(self, listener: Listener, decision: Decision, cluster: Cluster | None) -> Series:
        """Where a session is counted: by names. Its decision remembers it in `tally`, if it is not the fallback that served."""
        series: Series | None = decision.tally
        if series is not None and cluster is decision.cluster:
            return series
        key = (listener.name, decision.rule, cluster.name if cluster is not None else "")
        series = self.known.get(key) or self._new(key)
        if cluster is decision.cluster:
            decision.tally = series
        return series

    def _slow(self, session: Session, flow: Flow) -> None:
        """Of a session whose destination was not there at once."""
        if session.connected_at:
            flow.connects.add(session.connected_at - session.started)
        flow.retries += session.retries
        flow.fallbacks += session.fallback is not None

    def _new(self, key: tuple[str, str, str]) -> Series:
        if len(self.known) >= MAX_SETS:
            return self.known.get((OTHER, OTHER, OTHER)) or self._other()
        at = key[0], key[2]
        flow = self.flows.get(at)
        if flow is None:
            flow = self.flows[at] = Flow()
        series = self.known[key] = Series(flow)
        return series

    def forget(self, rules: Iterable[str], listeners: Iterable[str]) -> None:
        """Keep the series of rules and listeners that are there, and of all others the sum; called when the configuration has changed."""
        keep_rules, keep_listeners = {"", OTHER, *rules}, {OTHER, *listeners}
        gone = [key for key in self.known if key[1] not in keep_rules or key[0] not in keep_listeners]
        if not gone:
            return
        others = self.known.get((OTHER, OTHER, OTHER)) or self._other()
        for key in gone:  # the total of all series never falls: what a bridge carried until it expired is in it
            others.codes = [a + b for a, b in zip(others.codes, self.known.pop(key).codes, strict=True)]
        used = {(key[0], key[2]) for key in self.known}
        for at in [at for at in self.flows if at not in used]:
            others.flow.absorb(self.flows.pop(at))

    def _other(self) -> Series:
        flow = self.flows[OTHER, OTHER] = Flow()
        series = self.known[OTHER, OTHER, OTHER] = Series(flow)
        return series
