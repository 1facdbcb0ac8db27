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


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("1h", 3600),
        ("1m30s", 90),
        ("300ms", 0.3),
        ("0.5s", 0.5),
        ("2d", 172_800),
        ("5", None),
        ("h", None),
        ("1h ", None),
        ("-1s", None),
        ("1w", None),
    ],
)
def test_seconds_may_be_written_as_a_duration(text, seconds):
    assert numbers({"idle_timeout": text}, {"idle_timeout": 7})["idle_timeout"] == (7 if seconds is None else pytest.approx(seconds))
    assert bool(check_numbers({"idle_timeout": text}, {"idle_timeout": 7}, "$")) == (seconds is None)


@pytest.mark.parametrize(
    "text, found", [("64Ki", 65_536), ("10M", 10_000_000), ("1.5Ki", 1536), ("100B", 100), ("1GiB", 1 << 30), ("7", None), ("1h", None)]
)
def test_bytes_may_be_written_as_a_size(text, found):
    assert numbers({"max_body": text}, {"max_body": 3})["max_body"] == (3 if found is None else found)
    assert bool(check_numbers({"max_body": text}, {"max_body": 3}, "$")) == (found is None)


def test_a_duration_is_no_size_and_a_count_is_neither():
    for name, text in (("max_body", "10s"), ("idle_timeout", "10Ki"), ("max_connections", "10s"), ("max_connections", "10Ki")):
        (problem,) = check_numbers({name: text}, {name: 1}, "$")
        assert text in problem.message and problem.allowed.startswith("0 or more")


def test_what_was_probably_meant_is_told_also_of_options_that_are_no_numbers():
    (problem,) = check_numbers({"trustd": []}, {"track": 0}, "$", ("trusted", "via"))
    assert (problem.allowed, problem.hint) == ("track, trusted, via", "did you mean 'trusted'?")


@pytest.mark.parametrize("name", ["strict_path", "strict_target"])
def test_what_is_on_or_off_is_no_other_number(name):
    assert [bool(check_numbers({name: value}, {name: 1}, "$")) for value in (0, 1, 2)] == [False, False, True]
