"""Metric: counted by session name, shown by Prometheus, forgotten in time."""

from __future__ import annotations

from typing import Any

from tests.support import config, echo, listener, port_of, running, tcp
from transforms.metric import KEPT, MetricCluster

METRIC = {"name": "metric", "spec": {"protocol": "Metric", "byteCounterName": "b", "packetCounterName": "p"}}


async def test_bytes_and_messages_are_counted_on_the_way() -> None:
    conf = config(clusters=[echo(), METRIC], listeners=[listener("in", ingress=["metric"])])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        for _ in range(3):
            client.send(b"12345")
            assert await client.read(5) == b"12345"
        metric: Any = proxy.clusters["metric"]
        (session,) = proxy.sessions()
        assert list(metric.sessions()) == [(session.name, 15, 3)]


async def test_only_so_many_ended_sessions_are_remembered_and_every_live_one_is() -> None:
    class Dead:
        """As much of a session as is counted."""

        status = "DESTROYED"

        def __init__(self, name: str) -> None:
            self.name = name

    async with running(config(clusters=[METRIC])) as proxy:
        metric = proxy.clusters["metric"]
        assert isinstance(metric, MetricCluster)
        live = Dead("live")
        live.status = "CONNECTED"
        kept: list[Any] = [live, *(Dead(str(i)) for i in range(KEPT + 50))]
        for one in kept:
            metric.ready(one, None)
        metric.tick(0)
        names = [name for name, _, _ in metric.sessions()]
        assert names == ["live", *(str(i) for i in range(50, KEPT + 50))]


def test_the_ignored_fields_are_taken_and_others_are_not() -> None:
    assert not MetricCluster.check(METRIC["spec"])  # type: ignore[arg-type]
    assert "unknown field" in str(MetricCluster.check({"protocol": "Metric", "x": 1})[0])
    (problem,) = MetricCluster.check({"protocol": "Metric", "byteCounterName": ["a"], "packetCounterName": "b"}, "$")
    assert str(problem) == "$.byteCounterName: expected text, got ['a'] (allowed: text)"
