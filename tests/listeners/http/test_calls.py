"""Calls of gRPC by service and method: those that exist, and no more of them than are kept apart."""

from __future__ import annotations

import pytest

from listeners.http.calls import METHODS, Calls


def counts(calls: Calls) -> dict[tuple[str, str], dict[str, int]]:
    return {name: counted.statuses for name, counted in calls.methods.items()}


def test_a_method_has_its_name_once_its_server_knows_it() -> None:
    calls = Calls()
    calls.count(b"/a.Service/Get", "", 0.1)
    calls.count(b"/a.Service/Get", "UNIMPLEMENTED", 0.1)
    calls.count(b"/a.Service/Get", "OK", 0.1)
    calls.count(b"/a.Service/Get", "UNIMPLEMENTED", 0.2)
    calls.count(b"/a.Service/Get", "", 0.2)
    assert counts(calls) == {
        ("(other)", "(other)"): {"UNKNOWN": 1, "UNIMPLEMENTED": 1},
        ("a.Service", "Get"): {"OK": 1, "UNIMPLEMENTED": 1, "UNKNOWN": 1},
    }
    times = calls.methods["a.Service", "Get"].times
    assert sum(times.counts) == 3 and times.sum == pytest.approx(0.5)


@pytest.mark.parametrize("target", [b"/", b"/a", b"/a/b/c", b"/a/b?c", b"/a\xff/b", b"/a.B/" + b"c" * 200, b"*"])
def test_what_is_no_name_of_a_method_is_one_of_the_others(target: bytes) -> None:
    calls = Calls()
    calls.count(target, "OK", 0.1)
    assert counts(calls) == {("(other)", "(other)"): {"OK": 1}}


def test_callers_cannot_fill_the_table() -> None:
    calls = Calls()
    for number in range(10 * METHODS):
        calls.count(b"/a.Service/Get%d" % number, "OK", 0.1)
        calls.count(b"/a.Service/Get", f"{number}", 0.1)
    assert len(calls.methods) == METHODS + 1
    assert sum(count for statuses in counts(calls).values() for count in statuses.values()) == 20 * METHODS
    assert {status for statuses in counts(calls).values() for status in statuses} == {"OK", "UNKNOWN"}
