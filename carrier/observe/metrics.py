"""What is counted, and what it is called outside: one table of metrics, and who writes them down.

Sessions are counted by observe/meter.py; everything else (endpoints, limits, drops, revision) is counted where it happens and only read
here. prometheus-client writes the text, it does not count. A scrape is written in pieces of `PIECE` samples, and the event loop goes on
between them. `METRICS` is also what the dashboard (deploy/grafana) and the reference are made of.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any

from carrier.config.dump import version
from carrier.hops.certificates import ClientTls
from carrier.observe.catalogue import METRICS, Sample
from carrier.observe.meter import BOUNDS, CODES, Exemplar, Flow, Meter, Times

if TYPE_CHECKING:
    from carrier.core.cluster import Cluster
    from carrier.core.listener import Listener
    from carrier.hops.certificates import ServerTls
    from carrier.observe.access import AccessLog
    from carrier.observe.live import Live
    from carrier.observe.record import Recorder
    from carrier.observe.spans import Spans
    from carrier.proxy.overload import Watch
    from carrier.proxy.proxy import Proxy

MAX_SAMPLES = 20_000
"""Samples of one scrape; what is beyond is left out and said to be."""
NONE: Mapping[int, Exemplar] = {}
PIECE = 150
"""Samples that are written before the event loop goes on."""


# --- reading ------------------------------------------------------------------------------------------------------------------------------


class Metrics:
    """Everything that is shown. watch, access: what they count is shown when they are there."""

    def __init__(self, proxy: Proxy, watch: Watch | None = None, access: AccessLog | None = None) -> None:
        self.proxy = proxy
        self.watch = watch
        self.access = access
        self.meter = Meter()
        self.spans: Spans | None = None
        """Who sends spans."""
        self.recorder: Recorder | None = None
        """Who records what passes."""
        self.live: Live | None = None
        """Who tells events."""
        self.revision = -1
        self.left_out = 0
        self.state_writes: Mapping[str, int] = {}
        """Outcome -> revisions written to the state folder; nothing: there is none."""

    def settle(self) -> None:
        """Count what has ended until now."""
        if self.proxy.env.ledger is not None:
            self.proxy.env.ledger.settle()

    async def text(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and text of a scrape, OpenMetrics when the Accept header asks for it. The event loop goes on between pieces."""
        from carrier.observe.exposition import OPENMETRICS, negotiate

        chosen = negotiate(accept)
        pieces = []
        for piece in self.pieces(chosen):
            pieces.append(piece)
            await asyncio.sleep(0)
        return chosen, b"".join(pieces) + (b"# EOF\n" if chosen == OPENMETRICS else b"")

    def pieces(self, content_type: str) -> Iterator[bytes]:
        """The text, piece by piece."""
        from carrier.observe.exposition import process_figures, writer, written

        write = writer(content_type)
        left = MAX_SAMPLES
        self.left_out = 0
        self.settle()
        self._forget()
        for metric in METRICS:
            samples = self._samples(metric.name)
            first = True
            while True:
                piece = list(islice(samples, min(PIECE, left)))
                left -= len(piece)
                if piece or first:
                    yield written(metric, piece, write, first)
                first = False
                if len(piece) < PIECE:
                    break
            self.left_out += sum(1 for _ in samples)
        yield process_figures(write)

    def _forget(self) -> None:
        """The label sets of what is not configured any more go; the configuration says what is."""
        config = self.proxy.config
        if config.revision != self.revision:
            self.revision = config.revision
            self.meter.forget(config.rules, config.listeners)

    def _samples(self, name: str) -> Iterator[Sample]:
        found: Callable[[], Iterable[Sample]] = getattr(self, "_" + name.removeprefix("carrier_"))
        return iter(found())

    # ------------------------------------------------------------------ sessions

    def _sessions(self) -> Iterator[Sample]:
        for (listener, rule, cluster), series in list(self.meter.known.items()):
            for code, count in zip(CODES, series.codes, strict=True):
                if count:
                    yield "_total", {"listener": listener, "rule": rule, "cluster": cluster, "code": code}, count

    def _flows(self) -> Iterator[tuple[dict[str, str], Flow]]:
        for (listener, cluster), flow in list(self.meter.flows.items()):
            flow.settle()
            yield {"listener": listener, "cluster": cluster}, flow

    def _session_seconds(self) -> Iterator[Sample]:
        for labels, flow in self._flows():
            yield from _histogram(labels, flow, flow.exemplars)

    def _connect_seconds(self) -> Iterator[Sample]:
        for labels, flow in self._flows():
            yield from _histogram(labels, flow.connects)

    def _sessions_active(self) -> Iterator[Sample]:
        for listener in self._listeners():
            yield "", {"listener": listener.name}, len(listener.live)

    def _received_bytes(self) -> Iterator[Sample]:
        return self._bytes("bytes_in", "received")

    def _sent_bytes(self) -> Iterator[Sample]:
        return self._bytes("bytes_out", "sent")

    def _bytes(self, of_source: str, of_flow: str) -> Iterator[Sample]:
        """Of sessions that have ended, and so far of connections and peers that are there; requests count when they end."""
        live: dict[tuple[str, str], int] = {}
        for listener in self._listeners():
            for session in listener.live if listener.kind != "message" else ():
                at = listener.name, session.cluster.name if session.cluster is not None else ""
                live[at] = live.get(at, 0) + getattr(session.source, of_source)
        for at in {**self.meter.flows, **live}:
            flow = self.meter.flows.get(at)
            ended = getattr(flow, of_flow) if flow is not None else 0
            yield "_total", {"listener": at[0], "cluster": at[1]}, ended + live.get(at, 0)

    def _retries(self) -> Iterator[Sample]:
        return (("_total", labels, flow.retries) for labels, flow in self._flows())

    def _fallbacks(self) -> Iterator[Sample]:
        return (("_total", labels, flow.fallbacks) for labels, flow in self._flows())

    # ------------------------------------------------------------------ listeners, clusters, rules

    def _listeners(self) -> list[Listener]:
        return list(self.proxy.listeners.values())

    def _datagram_counts(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        for listener in self._listeners():
            counts = listener.datagrams()
            if counts is not None:
                yield listener.name, counts

    def _datagrams(self) -> Iterator[Sample]:
        for name, counts in self._datagram_counts():
            for direction in ("received", "sent"):
                yield "_total", {"listener": name, "direction": direction}, counts.get(direction, 0)

    def _datagrams_dropped(self) -> Iterator[Sample]:
        for name, counts in self._datagram_counts():
            for reason, count in counts.items():
                if reason.startswith("dropped: "):
                    yield "_total", {"listener": name, "reason": reason.removeprefix("dropped: ")}, count

    def _cluster_datagrams_dropped(self) -> Iterator[Sample]:
        for cluster in self._clusters():
            for reason, count in cluster.dropped.items():
                yield "_total", {"cluster": cluster.name, "reason": reason}, count

    def _endpoints(self, suffix: str, value: str) -> Iterator[Sample]:
        for cluster in self._clusters():
            for endpoint in cluster.endpoints:
                yield suffix, {"cluster": cluster.name, "endpoint": endpoint.name}, getattr(endpoint, value)

    def _clusters(self) -> list[Cluster]:
        return list(self.proxy.clusters.values())

    def _endpoint_up(self) -> Iterator[Sample]:
        return self._endpoints("", "up")

    def _endpoint_sessions_active(self) -> Iterator[Sample]:
        return self._endpoints("", "active")

    def _endpoint_sessions(self) -> Iterator[Sample]:
        return self._endpoints("_total", "total")

    def _endpoint_failures(self) -> Iterator[Sample]:
        return self._endpoints("_total", "failed")

    def _rule_hits(self) -> Iterator[Sample]:
        for rule, hits in list(self.proxy.hits.items()):
            yield "_total", {"rule": rule}, hits.count

    def _rule_last_hit_timestamp_seconds(self) -> Iterator[Sample]:
        offset = time.time() - time.monotonic()
        for rule, hits in list(self.proxy.hits.items()):
            if hits.count:
                yield "", {"rule": rule}, round(hits.last + offset, 3)

    def _grpc_calls(self) -> Iterator[Sample]:
        for labels, counted in self._grpc_methods():
            for status, count in list(counted.statuses.items()):
                yield "_total", {**labels, "status": status}, count

    def _grpc_call_seconds(self) -> Iterator[Sample]:
        for labels, counted in self._grpc_methods():
            yield from _histogram(labels, counted.times)

    def _grpc_methods(self) -> Iterator[tuple[dict[str, str], Any]]:
        """What listeners have counted of calls (listeners/http/calls.py)."""
        for listener in self._listeners():
            calls = getattr(listener, "calls", None)
            for (service, method), counted in list(calls.methods.items()) if calls is not None else ():
                yield {"listener": listener.name, "service": service, "method": method}, counted

    def _limits_hit(self) -> Iterator[Sample]:
        for listener in self._listeners():
            for limit, count in listener.limited.items():
                yield "_total", {"object": f"listener/{listener.name}", "limit": limit}, count
        for cluster in self._clusters():
            for limit, count in cluster.breaker.tripped.items():
                yield "_total", {"object": f"cluster/{cluster.name}", "limit": limit}, count
            for limit, count in cluster.limited.items():
                yield "_total", {"object": f"cluster/{cluster.name}", "limit": limit}, count
        gate = self.proxy.env.gate
        for limit, count in gate.refused.items() if gate is not None else ():
            yield "_total", {"object": "api", "limit": limit}, count

    def _secured(self) -> Iterator[tuple[str, ServerTls | ClientTls]]:
        """Who has certificates, and which."""
        for listener in self._listeners():
            if listener.certificates is not None:
                yield f"listener/{listener.name}", listener.certificates
        for cluster in self._clusters():
            if isinstance(cluster.tls, ClientTls):
                yield f"cluster/{cluster.name}", cluster.tls

    def _certificate_trouble(self) -> Iterator[Sample]:
        return (("", {"object": name}, bool(tls.trouble)) for name, tls in self._secured())

    def _certificate_expiry_timestamp_seconds(self) -> Iterator[Sample]:
        for name, tls in self._secured():
            for file, until in {made.file: made.until for made in tls.in_force() if made.file}.items():
                yield "", {"object": name, "file": file}, until

    # ------------------------------------------------------------------ the process

    def _event_viewers(self) -> Iterator[Sample]:
        if self.live is not None:
            yield "", {}, self.live.viewers

    def _events(self) -> Iterator[Sample]:
        if self.live is not None:
            yield "_total", {"outcome": "told"}, self.live.told
            yield "_total", {"outcome": "lost"}, self.live.lost

    def _recordings(self) -> Iterator[Sample]:
        if self.recorder is not None:
            yield "", {}, len(self.recorder.recordings)

    def _recorded_sessions(self) -> Iterator[Sample]:
        if self.recorder is not None:
            yield "_total", {"outcome": "told"}, self.recorder.told
            yield "_total", {"outcome": "lost"}, self.recorder.lost

    def _config_changes(self) -> Iterator[Sample]:
        yield "_total", {"result": "applied"}, self.proxy.config.revision
        yield "_total", {"result": "refused"}, self.proxy.refused

    def _config_revision(self) -> Iterator[Sample]:
        yield "", {}, self.proxy.config.revision

    def _bridges(self) -> Iterator[Sample]:
        yield "", {}, len(self.proxy.config.bridges)

    def _loop_lag_seconds(self) -> Iterator[Sample]:
        if self.watch is not None:
            yield "", {}, self.watch.lag

    def _overloaded(self) -> Iterator[Sample]:
        if self.watch is not None:
            yield "", {}, bool(self.watch.reason)

    def _access_log_lines(self) -> Iterator[Sample]:
        if self.access is not None:
            yield "_total", {"outcome": "written"}, self.access.written
            yield "_total", {"outcome": "dropped"}, self.access.dropped

    def _trace_spans(self) -> Iterator[Sample]:
        if self.spans is not None:
            for outcome in ("sent", "dropped", "failed"):
                yield "_total", {"outcome": outcome}, getattr(self.spans, outcome)

    def _state_writes(self) -> Iterator[Sample]:
        for outcome, count in self.state_writes.items():
            yield "_total", {"outcome": outcome}, count

    def _label_sets(self) -> Iterator[Sample]:
        yield "", {}, len(self.meter.known)

    def _samples_left_out(self) -> Iterator[Sample]:
        yield "", {}, self.left_out

    def _build_info(self) -> Iterator[Sample]:
        yield "", {"version": version()}, 1


def _histogram(labels: dict[str, str], times: Times, exemplars: Mapping[int, Exemplar] = NONE) -> Iterator[Sample]:
    """Buckets are cumulative; nothing is shown of a histogram in which nothing was counted."""
    total = sum(times.counts)
    if not total:
        return
    for n, (bound, count) in enumerate(zip((*map(str, BOUNDS), "+Inf"), accumulate(times.counts), strict=True)):
        yield "_bucket", {**labels, "le": bound}, count, exemplars.get(n)
    yield "_count", labels, total
    yield "_sum", labels, times.sum
