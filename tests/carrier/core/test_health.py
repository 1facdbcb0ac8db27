"""Health: what takes an endpoint down, and what brings it up; with a cluster whose probes the test answers."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from carrier.core.endpoint import Endpoint
from carrier.core.health import Health, check
from carrier.errors import Error
from tests.ports import free_port
from tests.support import ask, cluster, config, listener, port_of, running, wait_until

REFUSED = Error("refused", "refused", "upstream", "yes")
CLOSED = Error("closed", "closed", "upstream")


class Cluster:
    """What Health sees of one."""

    def __init__(self, **options: Any) -> None:
        self.name = self.label = "laptop"
        self.env = self
        self.lines: list[str] = []
        self.loop = asyncio.get_running_loop()
        self.endpoints = [Endpoint(n, "127.0.0.1", 80, 1) for n in ("one", "two")]
        self.down = False
        for endpoint in self.endpoints:
            endpoint.watcher = self
        self.answers: str | None = None
        self.probed: list[str] = []
        self.health = Health(self, options)  # type: ignore[arg-type]

    def warn(self, event: str, **values: object) -> None:
        self.lines.append(event)

    note = warn

    def turned(self, endpoint: Endpoint) -> None:
        self.down = not any(endpoint.up for endpoint in self.endpoints)

    def eased(self, endpoint: Endpoint) -> None: ...

    async def probe(self, endpoint: Endpoint, health: Health) -> None:
        self.probed.append(endpoint.name)
        if self.answers is not None:
            raise Error("refused", self.answers, "upstream")

    async def tick(self, now: float) -> None:
        self.health.tick(now)
        for _ in range(5):
            await asyncio.sleep(0)


async def test_connections_that_fail_in_a_row_take_an_endpoint_down() -> None:
    cluster = Cluster(failures=3)
    one = cluster.endpoints[0]
    for _ in range(2):
        cluster.health.failed(one, REFUSED)
    assert one.up
    cluster.health.failed(one, REFUSED)
    assert not one.up and not cluster.down
    assert "3 connections failed" in cluster.health.report()[0]["reason"]


async def test_a_connection_in_between_begins_the_count_anew() -> None:
    cluster = Cluster(failures=2)
    one = cluster.endpoints[0]
    for _ in range(3):
        cluster.health.failed(one, REFUSED)
        cluster.health.connected(one)
    assert one.up


async def test_it_comes_back_when_a_probe_connects() -> None:
    cluster = Cluster(failures=1)
    one = cluster.endpoints[0]
    cluster.answers = "still refused"
    cluster.health.failed(one, REFUSED)
    await cluster.tick(10)
    assert cluster.probed == ["one"] and not one.up
    cluster.answers = None
    await cluster.tick(10.5)
    assert cluster.probed == ["one"]  # not before its interval
    await cluster.tick(11.5)
    assert one.up and cluster.health.report()[0] == {"name": "one", "up": True, "reason": ""}
    await cluster.tick(20)
    assert len(cluster.probed) == 2


async def test_the_cluster_is_down_when_all_of_it_is() -> None:
    cluster = Cluster(failures=1)
    for endpoint in cluster.endpoints:
        cluster.health.failed(endpoint, REFUSED)
    assert cluster.down
    await cluster.tick(10)
    assert not cluster.down


async def test_why_all_is_down_is_why_the_first_went_down() -> None:
    cluster = Cluster(failures=1)
    for endpoint, kind in zip(cluster.endpoints, ("timeout", "refused"), strict=True):
        cluster.health.failed(endpoint, Error(kind, f"{kind}!", "upstream", "yes"))
    why = cluster.health.why_down()
    assert (why.kind, why.side, why.retry) == ("timeout", "upstream", "yes")
    assert why.detail.startswith("every endpoint of 'laptop' is down; one: ") and "timeout!" in why.detail and "refused!" in why.detail


async def test_why_all_is_down_is_known_of_probes_and_of_answers_too() -> None:
    probed = Cluster(active="TCP", unhealthy=1)
    probed.answers = "nobody there"
    await probed.tick(10)
    assert probed.health.why_down().kind == "refused"
    answering = Cluster(failures=1)
    for endpoint in answering.endpoints:
        answering.health.failed(endpoint, CLOSED)
    assert answering.health.why_down().kind == "closed"


async def test_answers_that_fail_in_a_row_take_it_down_for_a_while() -> None:
    cluster = Cluster(failures=2, down=30)
    one = cluster.endpoints[0]
    for n in range(2):
        one.total = one.failed = n + 1
        cluster.health.failed(one, CLOSED)
    assert not one.up
    now = cluster.loop.time()
    await cluster.tick(now + 29)
    assert not one.up and cluster.probed == []
    await cluster.tick(now + 31)
    assert one.up


async def test_an_answer_in_between_counts_by_the_endpoint_s_own_counters() -> None:
    cluster = Cluster(failures=2)
    one = cluster.endpoints[0]
    for _ in range(4):
        one.total += 2
        one.failed += 1
        cluster.health.failed(one, CLOSED)
    assert one.up


@pytest.mark.parametrize(
    "error",
    [
        Error("closed", "stale", "upstream", "if_reused"),
        Error("overload", "no descriptors", "upstream", "yes"),
        Error("reset", "the client went", "downstream"),
        Error("no-endpoint", "-", "upstream"),
    ],
)
async def test_what_is_not_the_endpoint_s_fault_does_not_count(error: Error) -> None:
    cluster = Cluster(failures=1)
    cluster.health.failed(cluster.endpoints[0], error)
    assert cluster.endpoints[0].up


async def test_failures_0_switches_passive_health_off() -> None:
    cluster = Cluster(failures=0)
    for _ in range(9):
        cluster.health.failed(cluster.endpoints[0], REFUSED)
    assert cluster.endpoints[0].up


async def test_active_probes_take_down_and_bring_up_after_some_in_a_row() -> None:
    cluster = Cluster(active="TCP", unhealthy=2, healthy=3, interval=1)
    one = cluster.endpoints[0]
    cluster.answers = "nobody there"
    await cluster.tick(10)
    assert one.up
    await cluster.tick(11)
    assert not one.up and cluster.down and "nobody there" in cluster.health.report()[0]["reason"]
    cluster.answers = None
    for now in (12, 13):
        await cluster.tick(now)
    assert not one.up
    await cluster.tick(14)
    assert one.up and not cluster.down


async def test_a_probe_that_hangs_has_failed() -> None:
    cluster = Cluster(active="TCP", unhealthy=1, timeout=0.01)

    async def hang(endpoint: Endpoint, health: Health) -> None:
        await asyncio.sleep(60)

    cluster.probe = hang  # type: ignore[method-assign]
    cluster.health.tick(10)
    await asyncio.sleep(0.05)
    assert not cluster.endpoints[0].up


async def test_endpoints_that_are_gone_are_forgotten_and_not_probed() -> None:
    cluster = Cluster(failures=1)
    gone = cluster.endpoints.pop(0)
    cluster.health.failed(gone, REFUSED)
    await cluster.tick(10)
    assert cluster.probed == [] and cluster.health.states == {}


async def test_options_are_checked() -> None:
    assert check({"failures": 3, "active": "HTTP", "path": "/healthz", "host": "a"}, "x") == []
    wrong: list[Any] = [7, {"failures": -1}, {"interval": "soon"}, {"active": "ICMP"}, {"path": "no"}, {"path": "/a b"}, {"other": 1}]
    assert all(len(check(options, "x")) == 1 for options in wrong)


async def test_down_and_up_are_lines_of_the_log_with_the_reason_and_how_many_sessions_it_cost() -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    async with running(config(clusters=[cluster("up", free_port(), options={"health": {"failures": 2, "interval": 0.05}})])) as proxy:
        up = proxy.clusters["up"]
        up.env.warn = lambda event, **values: said.append((event, values))
        up.env.note = lambda event, **values: said.append((event, values))
        endpoint = up.endpoints[0]
        for _ in range(2):
            up.health.failed(endpoint, Error("refused", "Connection refused", "upstream", "yes"))
        assert said == [
            (
                "endpoint is down",
                {"cluster": "up", "endpoint": endpoint.address, "reason": "2 connections failed: Connection refused", "sessions": 2},
            )
        ]
        up.health._bring_up(endpoint, up.health.states[endpoint])
        event, values = said[-1]
        assert event == "endpoint is up" and values["endpoint"] == endpoint.address and values["after"].endswith("s")


# -- clusters of streams in other streams


@pytest.mark.parametrize("kind", ["framed", "JSONSocket", "UnixDomainSocket", "framed unix"])
@pytest.mark.parametrize("active", [False, True])
async def test_a_cluster_over_another_one_that_went_down_comes_up_again(kind: str, active: bool, tmp_path: Path) -> None:
    port, path = free_port(), str(tmp_path / "s")
    unix = "unix" in kind.lower()
    spec: dict[str, Any] = {"protocol": "UnixDomainSocket"} if unix else {"protocol": "TCP", "port": port}
    if kind == "JSONSocket":
        spec = {"protocol": "JSONSocket", "transport": spec}
    elif kind.startswith("framed"):
        spec["framing"] = "lines"
    health = {"failures": 2, "interval": 0.1, **({"active": "TCP", "unhealthy": 1, "healthy": 1} if active else {})}
    endpoints = [{"name": "e", "spec": {"address": path if unix else "127.0.0.1"}}]
    up = {"name": "up", "spec": spec, "endpoints": endpoints, "options": {"health": health}}
    front = listener("in", "up", spec={} if not kind.startswith("framed") else {"framing": "lines"})
    async with running(config(clusters=[up], listeners=[front])) as proxy:
        for _ in range(0 if active else 3):
            with contextlib.suppress(ConnectionError):
                await ask(port_of(proxy, "in"), b"x\n")
        await wait_until(lambda: proxy.clusters["up"].down, "for it to be noticed")
        if unix:
            server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), path)
        else:
            server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port)
        await wait_until(lambda: not proxy.clusters["up"].down, "for it to come up")
        server.close()
