"""One address of a cluster."""

from __future__ import annotations

import pytest

from carrier.core.endpoint import Endpoint


class Watcher:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def turned(self, endpoint: Endpoint) -> None:
        self.heard.append("up" if endpoint.up else "down")

    def eased(self, endpoint: Endpoint) -> None:
        self.heard.append(f"{endpoint.active} left")


@pytest.mark.parametrize(("host", "port", "address"), [("::1", 80, "[::1]:80"), ("a.org", 80, "a.org:80"), ("/run/a", 0, "/run/a")])
def test_its_address_is_as_people_write_it(host: str, port: int, address: str) -> None:
    assert Endpoint("e", host, port, 1).address == address


def test_its_watcher_hears_of_each_turn_once_and_of_sessions_that_leave_if_it_wants_to() -> None:
    one, watcher = Endpoint("e", "h", 1, 1), Watcher()
    one.watcher = watcher
    for up in (True, False, False, True):
        one.up = up
    one.enter()
    one.leave()
    assert (watcher.heard, one.active, one.total) == (["down", "up"], 0, 1)
    one.eager = True
    one.enter()
    one.enter()
    one.leave()
    assert watcher.heard[2:] == ["1 left"]


def test_the_connection_that_was_used_last_is_taken_first() -> None:
    one = Endpoint("e", "h", 1, 1)
    one.idle += ["older", "newer"]
    assert [one.take(None) for _ in range(3)] == ["newer", "older", None]
