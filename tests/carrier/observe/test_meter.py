"""Counting sessions that have ended: label sets, their cap, histograms."""

from __future__ import annotations

import time

import pytest

from carrier.core.trace import Trace
from carrier.observe.meter import BOUNDS, MAX_SETS, OTHER, Flow, Meter


class Told:
    """As much of an ended session as the meter looks at."""

    error = fallback = answer = rare = trace = None
    outcome = ""
    retries = 0
    started = connected_at = 1.0
    ended_at = 1.003
    bytes_in = bytes_out = 10

    def __init__(self, listener: str, rule: str, cluster: str) -> None:
        self.listener = type("L", (), {"name": listener})
        self.decision = type("D", (), {"rule": rule, "tally": None})()
        self.cluster = self.decision.cluster = type("C", (), {"name": cluster})


def meter(sets: int) -> Meter:
    found = Meter()
    for i in range(sets):
        found.count(Told("web", f"rule-{i}", "a"))  # type: ignore[arg-type]
    return found


def test_a_session_that_was_never_routed_is_not_counted() -> None:
    odd = Told("web", "r", "a")
    odd.decision = None
    found = Meter()
    for told in (odd, Told("web", "r", "a")):
        found.count(told)  # type: ignore[arg-type]
    assert sum(found.known["web", "r", "a"].codes) == 1


def test_label_sets_are_capped_and_the_rest_is_summed_up() -> None:
    found = meter(MAX_SETS + 7)
    assert len(found.known) == MAX_SETS + 1
    other = found.known[(OTHER, OTHER, OTHER)]
    assert sum(other.codes) == 7


def test_durations_fall_into_the_buckets_of_their_bounds() -> None:
    found = meter(1)
    flow = found.flows["web", "a"]
    assert flow.counts[BOUNDS.index(0.005)] == 1 and sum(flow.counts) == 1 and flow.sum == pytest.approx(0.003)


def test_durations_counted_at_once_fall_into_the_same_buckets_as_each_by_itself() -> None:
    one, many = Flow(), Flow()
    for seconds in (0.0, 0.0005, 0.0006, 0.25, 60.0, 61.0, 0.0004, 5.5):
        one.add(seconds)
        many.recent.append(seconds)
    many.settle()
    many.settle()
    assert many.counts == one.counts and many.sum == pytest.approx(one.sum) and not many.recent


def test_what_is_forgotten_stays_in_the_sum_of_all() -> None:
    found = Meter()
    for listener, rule, cluster, status in (("web", "bridge/john", "john", 2), ("web", "everybody", "shadow", 2), ("gone", "r", "c", 5)):
        series = found._new((listener, rule, cluster))
        series.codes[status] += 3
        series.flow.add(0.25)
        series.flow.recent.append(0.5)
        series.flow.received += 100
        series.flow.retries += 1
    found.forget(["everybody"], ["web"])
    assert set(found.known) == {("web", "everybody", "shadow"), (OTHER, OTHER, OTHER)}
    others = found.known[OTHER, OTHER, OTHER]
    assert (others.codes[2], others.codes[5]) == (3, 3)
    assert (sum(others.flow.counts), others.flow.sum, others.flow.received, others.flow.retries) == (4, 1.5, 200, 2)
    found.forget(["everybody"], ["web"])
    assert found.known[OTHER, OTHER, OTHER] is others


def test_the_last_traced_session_of_a_bucket_is_its_exemplar() -> None:
    found = Meter()
    session = Told("web", "r", "a")
    session.rare, session.trace = {}, Trace(None)  # type: ignore[assignment]
    found.count(session)  # type: ignore[arg-type]
    ((number, (labels, seconds, when)),) = found.flows["web", "a"].exemplars.items()
    assert BOUNDS[number - 1] < seconds < BOUNDS[number] and abs(when - time.time()) < 5
    assert labels == {"trace_id": session.trace.trace.decode(), "span_id": session.trace.span.decode()}  # type: ignore[attr-defined]
