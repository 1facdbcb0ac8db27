"""A bounded form of tests/fuzz/soak_http.py."""

from __future__ import annotations

import pytest

from tests.fuzz import soak_http
from tests.fuzz.soak_http import soak


def test_damaged_requests_and_answers_leave_nothing_behind_and_no_exception() -> None:
    tally = soak(1500, seed=7)
    assert tally.inputs == 1500
    assert tally.unforeseen == [] and tally.left == 0
    assert {b"200", b"400", b"502"} <= set(tally.statuses)
    assert tally.growth < 3000


def test_it_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_http, "EVERY", 50)
    said: list[str] = []
    tally = soak(120, 3, said.append)
    assert [line.split(";")[0] for line in said] == ["50 inputs", "100 inputs"]
    assert tally.left == 0
