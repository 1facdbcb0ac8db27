"""Circuit breakers: that a limit holds exactly, and that far from it nobody counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from carrier.core.breaker import Breaker
from carrier.core.endpoint import Endpoint
from carrier.errors import Error


class Cluster:
    """As much of a cluster as a breaker looks at. looked: at endpoints."""

    def __init__(self, endpoints: int) -> None:
        self.name = "up"
        self.looked = 0
        self.all = [Endpoint(f"e{n}", "h", 1, 1) for n in range(endpoints)]

    @property
    def endpoints(self) -> list[Endpoint]:
        self.looked += 1
        return self.all


def connect(breaker: Breaker, cluster: Any) -> bool:
    """Make one connection, if that is allowed."""
    try:
        breaker.connect(cluster)
    except Error:
        return False
    breaker.connected()
    return True


def test_as_many_connections_as_are_allowed_and_not_one_more_also_after_some_have_ended() -> None:
    breaker, cluster = Breaker({"max_connections": 5}), Cluster(2)
    one = cluster.all[0]
    for _ in range(5):
        assert connect(breaker, cluster)
        one.enter()
    assert not connect(breaker, cluster) and breaker.tripped == {"max_connections": 1}
    one.leave()
    one.idle.append(SimpleNamespace())  # it is kept: a connection in use all the same
    assert not connect(breaker, cluster)
    one.idle.clear()
    assert connect(breaker, cluster)
    one.enter()
    assert not connect(breaker, cluster)


def test_far_from_the_limit_nobody_looks_at_endpoints() -> None:
    breaker, cluster = Breaker({"max_connections": 1000}), Cluster(1000)
    for n in range(100_000):
        assert connect(breaker, cluster)
        if n % 1000 == 0:
            cluster.all[n // 1000].enter()
    assert cluster.looked <= 112


def test_retries_are_counted_from_the_first_and_given_back() -> None:
    breaker = Breaker({"max_retries": 1})
    assert breaker.retry() and not breaker.retry()
    breaker.retried()
    assert breaker.retry() and breaker.tripped == {"max_retries": 1}


@pytest.mark.parametrize("name", ["max_connections", "max_pending", "max_retries"])
def test_zero_is_no_limit(name: str) -> None:
    assert getattr(Breaker({name: 0}), name) == float("inf")
