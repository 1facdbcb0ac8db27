"""Counters as text: prometheus-client writes them, in its own format or as OpenMetrics.

Apart from the counting (carrier/observe/metrics.py), because a proxy that nobody scrapes need not load prometheus-client: 4 MiB and 30 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as TEXT
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

if TYPE_CHECKING:
    from carrier.observe.catalogue import Metric, Sample

OPENMETRICS = openmetrics.CONTENT_TYPE_LATEST
PROCESS = ProcessCollector(registry=None)
"""The figures of this process that prometheus-client knows."""


def writer(content_type: str) -> Callable[[Any], bytes]:
    """What writes a collector in the format of a content type."""
    return openmetrics.generate_latest if content_type == OPENMETRICS else generate_latest


def process_figures(write: Callable[[Any], bytes]) -> bytes:
    """The figures of this process as text."""
    return without_end(write(_Ready(PROCESS.collect())))


class _Ready(Collector):
    """Families that are made already, for prometheus-client to write."""

    def __init__(self, families: Iterable[Family]) -> None:
        self.families = families

    def collect(self) -> Iterable[Family]:
        return self.families


def written(metric: Metric, samples: Iterable[Sample], write: Callable[[Any], bytes], first: bool) -> bytes:
    """A piece of one metric; HELP and TYPE stand before the first."""
    family = Family(metric.name, metric.help, metric.kind)
    for suffix, labels, value, *exemplar in samples:
        seen = Exemplar(*exemplar[0]) if exemplar and exemplar[0] is not None else None
        family.add_sample(metric.name + suffix, labels, float(value), exemplar=seen)
    text = without_end(write(_Ready([family])))
    return text if first else b"".join(line for line in text.splitlines(keepends=True) if line[:1] != b"#")


def without_end(text: bytes) -> bytes:
    return text.removesuffix(b"# EOF\n")


def negotiate(accept: str) -> str:
    """The content type for an Accept header (RFC 9110 section 12.5.1): OpenMetrics when it is asked for at least as much as text."""
    weights = {"application/openmetrics-text": -1.0, "text/plain": 0.0}
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if kind in weights:
            weights[kind] = _weight(parameters)
    wanted = weights["application/openmetrics-text"]
    return OPENMETRICS if wanted > 0 and wanted >= weights["text/plain"] else TEXT


def _weight(parameters: Iterable[str]) -> float:
    given = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
    try:
        return float(given)
    except ValueError:
        return 0.0
