"""Clusters: endpoints that stay keep what is known of them, plans that change nothing until they are carried out, sticky keys."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from carrier import model as cfg
from carrier.core.cluster import Cluster, first_that_connects
from carrier.core.endpoint import Endpoint
from carrier.core.env import Env
from carrier.errors import ConfigError, Error
from tests.support import ask, cluster, config, listener, port_of, running, saying, tcp_server


@pytest.fixture
def env() -> Iterator[Env]:
    loop = asyncio.new_event_loop()
    yield Env(loop)
    loop.close()


def conf(*addresses: str, port: Any = 80, policy: str = "Trivial", key: str | None = None, weights: tuple[float, ...] = ()) -> cfg.Cluster:
    endpoints = tuple(cfg.EndPoint(f"e{i}", {"address": address}, weights[i] if weights else 1) for i, address in enumerate(addresses))
    return cfg.Cluster("c", {"protocol": "TCP", "port": port}, endpoints, cfg.LoadBalancer(policy, key))


class Caller:
    """What a cluster sees of a session."""

    def __init__(self, **metadata: Any) -> None:
        self.metadata = metadata


class Connection:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("host", "port", "address"),
    [("1.2.3.4", 5, "1.2.3.4:5"), ("::1", 5, "[::1]:5"), ("a.b", 5, "a.b:5"), ("/tmp/s", 0, "/tmp/s")],
)
def test_an_endpoints_address_is_spelled_for_people(host: str, port: int, address: str) -> None:
    assert Endpoint("e", host, port, 1).address == address


def test_the_port_of_an_endpoint_is_its_own_or_the_clusters(env: Env) -> None:
    endpoints = (
        cfg.EndPoint("a", {"address": "h", "port": 1}),
        cfg.EndPoint("b", {"address": "h"}),
        cfg.EndPoint("c", {"address": "h", "port": "x"}),
    )
    one = Cluster(cfg.Cluster("c", {"port": 2}, endpoints), env)
    assert [e.port for e in one.endpoints] == [1, 2, 0]


def test_an_endpoint_that_stays_keeps_its_counters_and_idle_connections_and_one_that_goes_closes_them(env: Env) -> None:
    one = Cluster(conf("a", "b"), env)
    stays, goes = one.endpoints
    stays.active, stays.idle = 3, [Connection()]
    goes.idle = [connection := Connection()]
    one.update(conf("a", "x", weights=(5, 1)))
    assert one.endpoints[0] is stays and (stays.active, stays.weight, len(stays.idle)) == (3, 5, 1)
    assert one.endpoints[1] is not goes
    assert connection.closed and not stays.idle[0].closed and not goes.idle


def test_a_plan_changes_nothing_until_it_is_adopted(env: Env) -> None:
    one = Cluster(conf("a", "b"), env)
    before = list(one.endpoints)
    plan = one.plan(conf("a", policy="HashRing", weights=(7,)))
    assert one.endpoints == before and before[0].weight == 1 and one.policy == "Trivial"
    one.adopt(plan)
    assert one.endpoints == before[:1] and before[0].weight == 7 and one.policy == "HashRing"
    assert one.only is before[0]


@pytest.mark.parametrize("weight", ["1", -0.5, None, True, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused_with_its_place(env: Env, weight: Any) -> None:
    with pytest.raises(ConfigError, match=r"clusters\[c\].endpoints\[0\].weight: expected a number"):
        Cluster(conf("a", weights=(weight,)), env)


def test_closing_gives_up_every_idle_connection_also_when_one_will_not_close(env: Env) -> None:
    class Stuck(Connection):
        def close(self) -> None:
            raise RuntimeError("stuck")

    stray: list[Any] = []
    env.loop.set_exception_handler(lambda _, context: stray.append(context))
    one = Cluster(conf("a"), env)
    last = Connection()
    one.endpoints[0].idle = [Stuck(), last]
    one.close()
    assert last.closed and len(stray) == 1


def test_a_cluster_without_endpoints_or_without_a_choice_says_so(env: Env) -> None:
    for odd in (conf(), conf("a", policy="None"), conf("a", "b", policy="None")):
        with pytest.raises(Error, match="No endpoint in cluster 'c'") as error:
            Cluster(odd, env).choose(Caller())  # type: ignore[arg-type]
        assert (error.value.kind, error.value.retry, error.value.status) == ("no-endpoint", "yes", 503)


def test_a_sticky_key_is_read_from_the_metadata_with_and_without_a_leading_slash(env: Env) -> None:
    names = [f"10.0.0.{n}" for n in range(10)]
    a = Cluster(conf(*names, policy="sticky", key="/HTTP/headers/x-user"), env)
    b = Cluster(conf(*names, policy="HashRing", key="HTTP/headers/x-user"), env)

    def by(one: Cluster, user: Any) -> str:
        return one.choose(Caller(HTTP={"headers": {"x-user": user}})).name  # type: ignore[arg-type]

    users: tuple[Any, ...] = ("john", "jane", 5, {"odd": []})
    for user in users:
        assert len({by(a, user) for _ in range(5)} | {by(b, user)}) == 1
    assert len({by(a, f"u{n}") for n in range(50)}) > 5
    assert len({a.choose(Caller()).name for _ in range(50)}) > 1  # type: ignore[arg-type]


async def test_the_first_address_that_connects_is_taken_and_the_last_failure_told() -> None:
    tried: list[str] = []

    async def connect(address: str) -> str:
        tried.append(address)
        if address != "good":
            raise Error("refused", address)
        return address

    assert await first_that_connects(["bad", "good", "never"], connect) == "good"
    assert tried == ["bad", "good"]

    slow: list[str] = []
    assert await first_that_connects(["bad", "good"], connect, slow.append) == "good"
    assert slow == ["bad"]
    with pytest.raises(Error, match="worse"):
        await first_that_connects(["bad", "worse"], connect)
    with pytest.raises(Error, match="no address"):
        await first_that_connects([], connect)


async def test_round_robin_serves_by_weight_over_real_connections() -> None:
    async with tcp_server(saying(b"a")) as a, tcp_server(saying(b"b")) as b:
        endpoints = [
            {"name": "a", "spec": {"address": "127.0.0.1", "port": a.port}, "weight": 2},
            {"name": "b", "spec": {"address": "127.0.0.1", "port": b.port}, "weight": 1},
        ]
        balanced = {"name": "c", "spec": {"protocol": "TCP", "port": 1}, "endpoints": endpoints, "loadbalancer": {"policy": "round_robin"}}
        async with running(config(clusters=[balanced], listeners=[listener("in", "c")])) as proxy:
            answers = [await ask(port_of(proxy, "in"), b"") for _ in range(9)]
            assert (answers.count(b"a"), answers.count(b"b")) == (6, 3)
            assert [e.total for e in proxy.clusters["c"].endpoints] == [6, 3]


async def test_a_sticky_source_address_goes_to_one_endpoint() -> None:
    async with tcp_server(saying(b"x")) as upstream:
        sticky = cluster("c", upstream.port, "127.0.0.1", "127.0.0.1", "127.0.0.1", loadbalancer={"policy": "sticky", "key": "IP/src_addr"})
        async with running(config(clusters=[sticky], listeners=[listener("in", "c")])) as proxy:
            for _ in range(10):
                assert await ask(port_of(proxy, "in"), b"") == b"x"
            assert sorted(e.total for e in proxy.clusters["c"].endpoints) == [0, 0, 10]
