"""The dashboard is what the table of metrics says."""

import importlib.util
import json
import re
from pathlib import Path

import yaml

from carrier.observe.catalogue import METRICS

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
