"""`make docs`: writes deploy/grafana/carrier.json, a dashboard with a panel for each metric of carrier/observe/metrics.py.

How a metric is drawn follows from its kind: counters as rates, histograms as quantiles, gauges as they are; so a metric that is added,
renamed or given another label changes the dashboard with it, and a test holds that the file is what this script writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from carrier.observe.catalogue import METRICS, Metric

FILE = Path(__file__).parent / "carrier.json"
QUANTILES = (0.5, 0.9, 0.99)
WIDTH, HEIGHT = 8, 7
"""Of a panel, in Grafana's grid of 24 columns."""
ROWS = (
    ("Sessions", ("carrier_sessions", "carrier_session_seconds", "carrier_grpc", "carrier_connect", "carrier_received", "carrier_sent")),
    ("Routing", ("carrier_rule", "carrier_retries", "carrier_fallbacks", "carrier_bridges")),
    ("Upstreams", ("carrier_endpoint",)),
    ("Datagrams and limits", ("carrier_datagrams", "carrier_limits")),
    ("Process", ("carrier_", "process_")),
)
"""Title of a row, and how the names of its metrics begin; a metric goes to the first row that fits."""
SELECTOR = 'job=~"$job",instance=~"$instance"'
PROCESS = (
    Metric("process_cpu_seconds", "counter", (), "CPU seconds per second"),
    Metric("process_resident_memory_bytes", "gauge", (), "Resident memory"),
    Metric("process_open_fds", "gauge", (), "Open file descriptors"),
)
"""Metrics of prometheus-client's own that are shown too."""


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    return {
        "title": "Carrier2",
        "uid": "carrier2",
        "tags": ["carrier2"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [_source(), _variable("job", "carrier_build_info"), _variable("instance", 'carrier_build_info{job=~"$job"}')]
        },
        "panels": _panels(),
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(name: str, of: str) -> dict[str, Any]:
    query = {"query": f"label_values({of}, {name})", "refId": name}
    return {
        "name": name,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "query": query,
        "includeAll": True,
        "multi": True,
        "refresh": 2,
    }


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    top = 0
    left = [*METRICS, *PROCESS]
    for title, starts in ROWS:
        metrics = [metric for metric in left if metric.name.startswith(starts)]
        left = [metric for metric in left if metric not in metrics]
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": {"x": 0, "y": top, "w": 24, "h": 1}, "panels": []})
        for i, metric in enumerate(metrics):
            at = {"x": i % 3 * WIDTH, "y": top + 1 + i // 3 * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append(_panel(len(panels) + 1, metric, at))
        top += 1 + (len(metrics) + 2) // 3 * HEIGHT
    return panels


def _panel(number: int, metric: Metric, at: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": metric.help,
        "description": metric.name,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": at,
        "fieldConfig": {"defaults": {"unit": _unit(metric), "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
            "tooltip": {"mode": "multi"},
        },
        "targets": _targets(metric),
    }


def _targets(metric: Metric) -> list[dict[str, Any]]:
    by = ", ".join(metric.labels)
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels) or metric.name
    if metric.kind == "histogram":
        rate = f"sum by ({by}, le) (rate({metric.name}_bucket{{{SELECTOR}}}[$__rate_interval]))"
        return [_target(f"q{q}", f"histogram_quantile({q}, {rate})", f"{legend} p{q * 100:g}") for q in QUANTILES]
    if metric.kind == "counter":
        return [_target("A", f"sum by ({by}) (rate({metric.name}_total{{{SELECTOR}}}[$__rate_interval]))", legend)]
    expression = f"{metric.name}{{{SELECTOR}}}"
    if metric.name.endswith("_timestamp_seconds"):
        expression = f"time() - max by ({by}) ({expression})"
    elif metric.name != "carrier_endpoint_up" and metric.labels:
        expression = f"sum by ({by}) ({expression})"
    return [_target("A", expression, legend)]


def _target(ref: str, expression: str, legend: str) -> dict[str, Any]:
    return {"refId": ref, "expr": expression, "legendFormat": legend}


def _unit(metric: Metric) -> str:
    """Grafana's name of the unit of what is drawn."""
    if "seconds" in metric.name and metric.name != "process_cpu_seconds":
        return "s"
    if "bytes" in metric.name:
        return "Bps" if metric.kind == "counter" else "bytes"
    return "ops" if metric.kind == "counter" and metric.name.startswith("carrier_") else "short"


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


def main() -> int:
    """Write the file, or, with --check, tell whether it is what would be written."""
    if "--check" not in sys.argv:
        FILE.write_text(text(), encoding="utf-8")
        return 0
    fresh = FILE.is_file() and FILE.read_text(encoding="utf-8") == text()
    if not fresh:
        print(f"{FILE.name} is not what the metrics say: run `make docs`", file=sys.stderr)
    return 0 if fresh else 1


if __name__ == "__main__":
    sys.exit(main())
