"""Options that are numbers: lenient when read, strict when checked."""

import pytest

from carrier.options import check_numbers, numbers, port_of

DEFAULTS = {"limit": 10, "seconds": 1.5}


@pytest.mark.parametrize("value", ["5", None, True, -1, float("nan"), float("inf"), [], {}])
def test_what_is_no_number_counts_as_not_given_and_is_found(value):
    assert numbers({"limit": value}, DEFAULTS) == DEFAULTS
    assert [problem.path for problem in check_numbers({"limit": value}, DEFAULTS, "$")] == ["$.limit"]


@pytest.mark.parametrize("value", [0, 7, 0.25])
def test_numbers_are_taken(value):
    assert numbers({"limit": value}, DEFAULTS) == {"limit": value, "seconds": 1.5}
    assert check_numbers({"limit": value}, DEFAULTS, "$") == []


def test_an_unknown_option_is_found_with_what_is_allowed():
    (problem,) = check_numbers({"limits": 5}, DEFAULTS, "$.options")
    assert (problem.path, problem.allowed) == ("$.options.limits", "limit, seconds")


@pytest.mark.parametrize("port, found", [(80, 80), (0, 0), (65_536, -1), ("80", -1), (None, -1), (-5, -1)])
def test_a_port_is_a_port_or_minus_one(port, found):
    assert port_of({"port": port}) == found


def test_sessions_are_tracked_for_a_day_at_most():
    assert check_numbers({"track": 86_400}, {"track": 0}, "$") == []
    (problem,) = check_numbers({"track": 86_401}, {"track": 0}, "$.options")
    assert str(problem) == "$.options.track: expected a number, got 86401 (allowed: 0..86400)"
