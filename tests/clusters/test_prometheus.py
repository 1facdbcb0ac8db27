"""The Prometheus cluster: l7mp's metric names, readable by prometheus-client's own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.clusters.test_jsonsocket import js_cluster
from tests.support import config, echo, http, listener, port_of, running, tcp, udp


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of an exposition by name and labels."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "counter"
        for sample in family.samples:
            found[sample.name, frozenset(sample.labels.items())] = sample.value
    return found


async def test_a_scrape_has_listeners_clusters_and_sessions() -> None:
    clusters = [echo(), {"name": "prom", "spec": {"protocol": "Prometheus"}}, {"name": "count", "spec": {"protocol": "Metric"}}]
    rules = [{"match": {"op": "starts", "path": "/HTTP/url/path", "value": "/metrics"}, "action": {"route": {"destination": "prom"}}}]
    listeners = [listener("in", ingress=["count"]), listener("web", protocol="HTTP", rules=rules)]
    async with running(config(clusters=[*clusters, js_cluster("js", 1, "UDP")], listeners=listeners)) as proxy:
        async with tcp(port_of(proxy, "in")) as client:
            client.send(b"hello")
            assert await client.read(5) == b"hello"
            (session,) = proxy.sessions()
        for n in (1, 2):
            status, headers, body = await http(port_of(proxy, "web"), "/metrics")
            assert status == 200 and headers["content-type"].startswith("text/plain")
            found = samples(body.decode())

            def value(metric: str, found: dict[tuple[str, frozenset[tuple[str, str]]], float] = found, **labels: str) -> float:
                return found[metric, frozenset(labels.items())]

            assert value("listener_requests_total", listenerName="in", protocol="TCP") == 1
            assert value("listener_requests_total", listenerName="web", protocol="HTTP") == n
            assert value("cluster_requests_total", clusterName="echo", protocol="Echo") == 1
            assert value("cluster_requests_total", clusterName="count", protocol="Metric") == 1
            assert value("cluster_requests_total", clusterName="js-transport-cluster", protocol="UDP") == 0
            assert value("session_byte_counter_total", sessionName=session.name, clusterName="count") == 5
            assert value("session_packet_counter_total", sessionName=session.name, clusterName="count") == 1


async def test_a_stream_that_is_not_http_is_answered_too() -> None:
    conf = config(
        clusters=[{"name": "prom", "spec": {"protocol": "Prometheus"}}],
        listeners=[listener("in", "prom", protocol="UDP"), listener("t", "prom")],
    )
    async with running(conf) as proxy:
        async with udp(port_of(proxy, "in")) as client:
            client.send(b"?")
            assert b"listener_requests_total" in await client.read()
        async with tcp(port_of(proxy, "t")) as stream:
            stream.end()
            assert b"listener_requests_total" in await stream.read_all()
