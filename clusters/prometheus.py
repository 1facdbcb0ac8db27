"""The Prometheus pseudo cluster: a request that is routed here gets the counters, under l7mp's names (contract, section 6).

Nothing is counted here: listeners, clusters and Metric transforms count in plain integers, and prometheus-client writes them down when
somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.core.spec import framed
from carrier.core.stream import Stream
from carrier.hops.joint import OverCluster
from carrier.wire.making import answer_head, date_field
from transforms.metric import MetricCluster

if TYPE_CHECKING:
    from carrier.core.env import Env
    from carrier.core.session import Session


class PrometheusCluster(Cluster):
    """`spec: {protocol: Prometheus}`."""

    protocol = "Prometheus"
    virtual = True
    shows_endpoint = False

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream:
        return PrometheusStream(self.env)


class PrometheusStream(Stream):
    """One scrape: HTTP is answered when the request is complete, any other stream when it says anything or ends."""

    __slots__ = ("answered", "env", "http")

    def __init__(self, env: Env) -> None:
        super().__init__()
        self.env = env
        self.answered = self.http = False

    def head(self, head: Any, last: bool = False) -> None:
        self.http = True
        if last:
            self.end()

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if last or not self.http:
            self.end()

    def flush(self) -> None: ...

    def end(self, trailer: Any = None) -> None:
        if self.answered:
            return
        self.answered = True
        text = exposition(self.env)
        if self.http:
            self.to.head(answer_head(200, [date_field(), (b"content-type", CONTENT_TYPE_LATEST.encode())], text))
        self.to.data(text, None, True)


def exposition(env: Env) -> bytes:
    """Every counter as Prometheus reads it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Counters(env))
    return generate_latest(registry)


class Counters(Collector):
    """The counters of the parts in force."""

    def __init__(self, env: Env) -> None:
        self.env = env

    def collect(self) -> Iterator[CounterMetricFamily]:
        """l7mp's metrics; the transport of a JSONSocket counts as a cluster of its own, as there."""
        requests = CounterMetricFamily("listener_requests", "Total number of requests", labels=["listenerName", "protocol"])
        for listener in self.env.listeners.values():
            requests.add_metric([listener.name, str(listener.spec["protocol"])], listener.counter)
        yield requests
        requests = CounterMetricFamily("cluster_requests", "Total number of requests", labels=["clusterName", "protocol"])
        for cluster in self.env.clusters.values():
            requests.add_metric([cluster.name, str(cluster.spec["protocol"])], cluster.sessions_total)
            if isinstance(cluster, OverCluster) and not framed(cluster.spec):
                requests.add_metric([f"{cluster.name}-transport-cluster", cluster.inner.protocol], cluster.sessions_total)
        yield requests
        labels = ["sessionName", "clusterName"]
        sizes = CounterMetricFamily("session_byte_counter", "Total number of bytes that flow through the cluster", labels=labels)
        counts = CounterMetricFamily("session_packet_counter", "Total number of packets that flow through the cluster", labels=labels)
        for cluster in self.env.clusters.values():
            if isinstance(cluster, MetricCluster):
                for name, size, count in cluster.sessions():
                    sizes.add_metric([name, cluster.name], size)
                    counts.add_metric([name, cluster.name], count)
        yield sizes
        yield counts
