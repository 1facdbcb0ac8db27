"""The dashboard is what the table of metrics says."""

import asyncio
import importlib.util
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from carrier.observe.catalogue import METRICS
from carrier.observe.metrics import Metrics
from tests import support as s
from tests.ports import free_port

FILE = Path(__file__).resolve().parent.parent / "deploy" / "grafana" / "generate.py"
spec = importlib.util.spec_from_file_location("grafana", FILE)
grafana = importlib.util.module_from_spec(spec)
spec.loader.exec_module(grafana)
DASHBOARD = json.loads(grafana.FILE.read_text())


def expressions():
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def test_the_file_is_what_the_script_writes():
    assert grafana.FILE.read_text() == grafana.text()


def test_every_metric_has_a_panel_by_its_exposed_name():
    suffix = {"counter": "_total", "histogram": "_bucket", "gauge": ""}
    drawn = {name for expression in expressions() for name in re.findall(r"\b(?:carrier|process)_\w+", expression)}
    assert {metric.name + suffix[metric.kind] for metric in METRICS} <= drawn


def test_only_labels_that_a_metric_has_are_asked_for():
    labels = {metric.name: set(metric.labels) for metric in METRICS}
    for expression in expressions():
        name = re.search(r"\b(carrier_\w+)", expression)
        if name is not None:
            asked = set(", ".join(re.findall(r"by \(([^)]*)\)", expression)).split(", ")) - {"", "le"}
            assert asked <= labels[name[1].removesuffix("_total").removesuffix("_bucket")]


def test_panels_do_not_overlap_and_have_numbers_of_their_own():
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_what_matters_stands_first_with_thresholds():
    first = DASHBOARD["panels"][1:7]
    assert [panel["type"] for panel in first] == ["stat"] * 6
    assert sum(len(panel["fieldConfig"]["defaults"]["thresholds"]["steps"]) == 3 for panel in first) == 5
    assert DASHBOARD["panels"][7]["type"] == "table"


def test_alert_rules_ask_for_metrics_and_labels_that_there_are():
    assert grafana.RULES.read_text() == grafana.alerts()
    exposed = {metric.name + {"counter": "_total", "histogram": "_bucket", "gauge": ""}[metric.kind]: metric for metric in METRICS}
    rules = yaml.safe_load(grafana.RULES.read_text())["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 8
    for rule in rules:
        names = re.findall(r"\bcarrier_\w+", rule["expr"])
        assert names and set(names) <= set(exposed), rule
        for name, label in re.findall(r"(carrier_\w+)\{(\w+)[=!]", rule["expr"]):
            assert label in exposed[name].labels, rule
        assert rule["annotations"]["summary"] and rule["labels"]["severity"] in ("info", "warning", "critical")


# --- as Prometheus itself sees them ---------------------------------------------------------------------------------------------------

EXTRACTED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "carrier2-tools" / "prometheus" / "usr" / "bin" / "promtool"
"""Where .ci/run puts it: the Debian package is only unpacked, because installed it would start a server."""
PROMTOOL = shutil.which("promtool") or (str(EXTRACTED) if EXTRACTED.exists() else None)
by_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: apt-get download prometheus, dpkg-deb -x)")
BAD = {
    "CarrierFails": (
        {'carrier_sessions_total{listener="web",code="5xx"}': "0+10x60", 'carrier_sessions_total{listener="web",code="2xx"}': "0+90x60"},
        "15m",
    ),
    "CarrierSlow": (
        {f'carrier_session_seconds_bucket{{listener="web",le="{le}"}}': f"0+{n}x60" for le, n in (("5.0", 0), ("10.0", 60), ("+Inf", 60))},
        "20m",
    ),
    "CarrierEndpointDown": ({'carrier_endpoint_up{cluster="shadow",endpoint="e"}': "0x60"}, "10m"),
    "CarrierBridgeDown": ({'carrier_endpoint_up{cluster="bridge/john",endpoint="bridge/john"}': "0x60"}, "40m"),
    "CarrierOverloaded": ({"carrier_overloaded": "1x60"}, "5m"),
    "CarrierCertificateExpires": ({'carrier_certificate_expiry_timestamp_seconds{object="listener/web",file="/c"}': "864000x120"}, "90m"),
    "CarrierCertificateTrouble": ({'carrier_certificate_trouble{object="listener/web"}': "1x60"}, "10m"),
    "CarrierChangesRefused": ({'carrier_config_changes_total{result="refused"}': "0x5 1x60"}, "10m"),
    "CarrierStateNotSaved": ({'carrier_state_writes_total{outcome="failed"}': "0x5 1x60"}, "10m"),
    "CarrierLogLost": ({'carrier_access_log_lines_total{outcome="dropped"}': "0x5 9x60"}, "10m"),
}
"""Alert -> series by the minute (Prometheus's notation of tests) that it has to fire on, and by when."""
GOOD = {
    'carrier_sessions_total{listener="web",code="5xx"}': "0+1x120",
    'carrier_sessions_total{listener="web",code="2xx"}': "0+99x120",
    'carrier_session_seconds_bucket{listener="web",le="5.0"}': "0+100x120",
    'carrier_session_seconds_bucket{listener="web",le="+Inf"}': "0+100x120",
    'carrier_endpoint_up{cluster="shadow",endpoint="e"}': "1x120",
    'carrier_endpoint_up{cluster="bridge/john",endpoint="bridge/john"}': "0x20 1x100",
    "carrier_overloaded": "0x120",
    'carrier_certificate_expiry_timestamp_seconds{object="listener/web",file="/c"}': "8640000x120",
    'carrier_certificate_trouble{object="listener/web"}': "0x120",
    'carrier_config_changes_total{result="refused"}': "3x120",
    'carrier_state_writes_total{outcome="failed"}': "0x120",
    'carrier_access_log_lines_total{outcome="dropped"}': "0x120",
}


def judged(*words: str, given: bytes = b"") -> str:
    done = subprocess.run([str(PROMTOOL), *words], input=given, capture_output=True, timeout=60)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


@by_promtool
def test_promtool_takes_the_alert_rules():
    assert f"{len(BAD)} rules found" in judged("check", "rules", str(grafana.RULES))


@by_promtool
def test_each_alert_fires_on_what_it_is_for_and_none_on_a_good_day(tmp_path):
    rules = yaml.safe_load(grafana.RULES.read_text())["groups"][0]["rules"]
    assert {rule["alert"] for rule in rules} == set(BAD)

    def case(series: dict[str, str], expr: str, at: str, samples: list[dict[str, object]]) -> dict[str, object]:
        asked = {"expr": expr, "eval_time": at, "exp_samples": samples}
        given = [{"series": name, "values": values} for name, values in series.items()]
        return {"interval": "1m", "input_series": given, "promql_expr_test": [asked]}

    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'
    cases = [case(series, firing, at, [{"labels": f'{{alertname="{alert}"}}', "value": 1}]) for alert, (series, at) in BAD.items()]
    cases += [case(GOOD, firing, at, []) for at in ("15m", "110m")]
    file = tmp_path / "alerts_test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(grafana.RULES)], "evaluation_interval": "1m", "tests": cases}))
    assert "SUCCESS" in judged("test", "rules", str(file))


@by_promtool
async def test_promtool_finds_nothing_odd_in_what_is_exposed():
    port = free_port()
    async with s.running(s.config(clusters=[s.echo()], listeners=[s.listener("web", protocol="HTTP", port=port)])) as proxy:
        metrics = Metrics(proxy)
        proxy.env.read(metrics.meter.read)
        await s.http(port, headers={"x-user": 'a"b'})
        _, text = await metrics.text()
    assert b"carrier_sessions_total{" in text
    said = await asyncio.to_thread(judged, "check", "metrics", given=text)
    assert said == "", said
