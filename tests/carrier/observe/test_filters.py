"""Filters of events: what they may be, and what they let pass."""

from __future__ import annotations

import pytest

from carrier.errors import ConfigError
from carrier.observe.filters import Wanted


@pytest.mark.parametrize("query", [{"usr": "x"}, {"status": "abc"}, {"status": "55"}, {"errors": "yes"}, {"since": "x"}])
def test_a_filter_that_cannot_hold_is_refused_with_what_may(query: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as error:
        Wanted(query)
    assert len(error.value.problems) == 1 and error.value.problems[0].allowed


def test_a_filter_that_is_empty_is_none() -> None:
    assert Wanted({"user": ""}).takes({"event": "request", "user": "john"}) and Wanted({"user": ""}).key == ()


def test_a_call_of_grpc_that_failed_is_an_error_though_its_status_is_200() -> None:
    wanted, event = Wanted({"errors": "true"}), {"event": "request", "status": 200}
    found = {status: wanted.takes({**event, "grpc": {"status": status}}) for status in ("OK", "NOT_FOUND", "UNAVAILABLE")}
    assert found == {"OK": False, "NOT_FOUND": False, "UNAVAILABLE": True}


def test_a_protocol_may_be_written_small() -> None:
    assert Wanted({"protocol": "udp"}).concerns("udp", "UDP", "", "") and not Wanted({"protocol": "udp"}).concerns("tcp", "TCP", "", "")


@pytest.mark.parametrize(
    ("query", "status", "failed", "path", "passes"),
    [
        ({"status": "5xx"}, 503, False, "/", True),
        ({"status": "5"}, 404, False, "/", False),
        ({"status": "404"}, 404, False, "/", True),
        ({"errors": "true"}, 200, True, "/", True),
        ({"errors": "true"}, 499, False, "/", False),
        ({"path": "/a", "status": "2xx"}, 200, False, "/ab", True),
        ({"path": "/a", "status": "2xx"}, 200, False, "/b", False),
    ],
)
def test_status_errors_and_path_all_have_to_hold(query: dict[str, str], status: int, failed: bool, path: str, passes: bool) -> None:
    assert Wanted(query).passes(status, failed, path) is passes and Wanted(query).asks
