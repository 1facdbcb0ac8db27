"""A bounded form of the soak (tests/fuzz/soak_http.py)."""

from __future__ import annotations

from tests.fuzz.soak_http import soak


def test_damaged_requests_and_answers_leave_nothing_behind_and_no_exception() -> None:
    tally = soak(1500, seed=7)
    assert tally.inputs == 1500
    assert tally.unforeseen == [] and tally.left == 0
    assert {b"200", b"400", b"502"} <= set(tally.statuses)
    assert tally.growth < 3000
