"""`make docs`: writes deploy/grafana/carrier.json, a dashboard with a panel for each metric of carrier/observe/metrics.py.

How a metric is drawn follows from its kind: counters as rates, histograms as quantiles, gauges as they are; so a metric that is added,
renamed or given another label changes the dashboard with it, and a test holds that the file is what this script writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from carrier.observe.catalogue import METRICS, Metric

FILE = Path(__file__).parent / "carrier.json"
RULES = Path(__file__).parent / "alerts.yaml"
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


SESSIONS = f"carrier_sessions_total{{{SELECTOR}}}"
BAD = SESSIONS.replace("}", ',code=~"5xx|failed"}')
RATE = "[$__rate_interval]"
SECONDS = f"sum by (le) (rate(carrier_session_seconds_bucket{{{SELECTOR}}}{RATE}))"
UP = "carrier_endpoint_up{" + SELECTOR + ',cluster%s"bridge/.*"}'
FIRST: tuple[tuple[str, str, str, tuple[float, float]], ...] = (
    ("Requests and sessions a second", f"sum(rate({SESSIONS}{RATE}))", "ops", (0, 0)),
    ("Share that failed (5xx, broken)", f"sum(rate({BAD}{RATE})) / sum(rate({SESSIONS}{RATE}))", "percentunit", (0.01, 0.05)),
    ("Half end within", f"histogram_quantile(0.5, {SECONDS})", "s", (0.25, 1)),
    ("99 of 100 end within", f"histogram_quantile(0.99, {SECONDS})", "s", (1, 5)),
    ("Endpoints down", f"count({UP % '!~'} == 0) or vector(0)", "short", (1, 2)),
    ("Bridges whose laptop is down", f"count({UP % '=~'} == 0) or vector(0)", "short", (1, 3)),
)
"""What is looked at first: title, expression, unit, and from where on it is yellow and red; (0, 0): never."""
BRIDGES = "sum by (rule) (increase(carrier_rule_hits_total{" + SELECTOR + ',rule=~"bridge/.*"}[1h]))'
ALERTS: tuple[tuple[str, str, str, str, str], ...] = (
    (
        "CarrierFails",
        'sum by (instance) (rate(carrier_sessions_total{code=~"5xx|failed"}[5m]))'
        " / sum by (instance) (rate(carrier_sessions_total[5m])) > 0.05",
        "5m",
        "critical",
        "more than one session in twenty fails; `carrier tail --errors` shows which",
    ),
    (
        "CarrierSlow",
        "histogram_quantile(0.99, sum by (instance, le) (rate(carrier_session_seconds_bucket[5m]))) > 5",
        "10m",
        "warning",
        "one session in a hundred takes more than 5 s",
    ),
    (
        "CarrierEndpointDown",
        'carrier_endpoint_up{cluster!~"bridge/.*"} == 0',
        "5m",
        "critical",
        "an endpoint is down; `carrier status` says why",
    ),
    ("CarrierBridgeDown", 'carrier_endpoint_up{cluster=~"bridge/.*"} == 0', "30m", "info", "a laptop has been away for half an hour"),
    ("CarrierOverloaded", "carrier_overloaded == 1", "1m", "critical", "new sessions are refused; `/readyz` says why"),
    (
        "CarrierCertificateExpires",
        "carrier_certificate_expiry_timestamp_seconds - time() < 14 * 86400",
        "1h",
        "warning",
        "a certificate in force expires within two weeks",
    ),
    (
        "CarrierCertificateTrouble",
        "carrier_certificate_trouble == 1",
        "5m",
        "critical",
        "a certificate is no good, or its successor was not taken",
    ),
    (
        "CarrierChangesRefused",
        'increase(carrier_config_changes_total{result="refused"}[15m]) > 0',
        "0m",
        "info",
        "a change was refused; the log says why",
    ),
    (
        "CarrierStateNotSaved",
        'increase(carrier_state_writes_total{outcome="failed"}[15m]) > 0',
        "0m",
        "critical",
        "what is in force is not on the disk",
    ),
    (
        "CarrierLogLost",
        'increase(carrier_access_log_lines_total{outcome="dropped"}[15m]) > 0',
        "0m",
        "warning",
        "lines of the access log are lost",
    ),
)
"""Alert rules for Prometheus: name, expression, how long it holds, severity, what it means."""


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
    panels = _first()
    top = 1 + 4 + HEIGHT
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


def _first() -> list[dict[str, Any]]:
    """The first row: rate, errors, durations, what is down; then the bridges."""
    panels = [{"id": 1, "type": "row", "title": "First of all", "gridPos": {"x": 0, "y": 0, "w": 24, "h": 1}, "panels": []}]
    for i, (title, expression, unit, (yellow, red)) in enumerate(FIRST):
        steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
        if red:
            steps += [{"color": "yellow", "value": yellow}, {"color": "red", "value": red}]
        panel = _drawn(len(panels) + 1, "stat", title, {"x": i * 4, "y": 1, "w": 4, "h": 4}, [_target("A", expression, title)])
        panel["fieldConfig"] = {"defaults": {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}}, "overrides": []}
        panels.append(panel)
    table = _drawn(len(panels) + 1, "table", "Bridges: sessions in the last hour", {"x": 0, "y": 5, "w": 24, "h": HEIGHT}, [])
    table["targets"] = [{**_target("A", BRIDGES, "{{rule}}"), "format": "table", "instant": True}]
    return [*panels, table]


def _drawn(number: int, kind: str, title: str, at: dict[str, int], targets: list[dict[str, Any]]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    return {"id": number, "type": kind, "title": title, "datasource": source, "gridPos": at, "targets": targets}


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
    """The dashboard's file."""
    return json.dumps(dashboard(), indent=1) + "\n"


def alerts() -> str:
    """The file of alert rules, as Prometheus reads it."""
    rules = [
        {"alert": name, "expr": expression, "for": hold, "labels": {"severity": severity}, "annotations": {"summary": means}}
        for name, expression, hold, severity, means in ALERTS
    ]
    head = "# Alert rules for Prometheus (rule_files), made by `make docs` from deploy/grafana/generate.py.\n"
    return head + str(yaml.safe_dump({"groups": [{"name": "carrier2", "rules": rules}]}, sort_keys=False, width=140))


def main() -> int:
    """Write the file, or, with --check, tell whether it is what would be written."""
    files = {FILE: text(), RULES: alerts()}
    if "--check" not in sys.argv:
        for file, content in files.items():
            file.write_text(content, encoding="utf-8")
        return 0
    stale = [file.name for file, content in files.items() if not file.is_file() or file.read_text(encoding="utf-8") != content]
    for name in stale:
        print(f"{name} is not what the metrics say: run `make docs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
