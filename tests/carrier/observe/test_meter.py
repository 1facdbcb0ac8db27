"""Counting sessions that have ended: label sets, their cap, histograms."""

from __future__ import annotations

import pytest

from carrier.observe.meter import BOUNDS, MAX_SETS, OTHER, Flow, Meter


class Told:
    """As much of an ended session as the meter looks at."""

    error = fallback = answer = None
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
