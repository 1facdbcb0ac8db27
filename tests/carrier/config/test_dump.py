"""What the API shows of a configuration, and the five ways to write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from carrier.config import dump
from carrier.config.draft import Draft
from carrier.config.dump import View, dumps
from carrier.model import Config

TRANSCRIPTS = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "transcripts"


def config(**sections: list[Any]) -> Config:
    draft = Draft(Config())
    for section, objects in sections.items():
        for obj in objects:
            getattr(draft, f"add_{section[:-1]}")(obj)
    return draft.done()


def test_a_plain_dump_names_what_a_recursive_one_shows() -> None:
    conf = config(listeners=[{"name": "l", "spec": {"protocol": "TCP", "port": 1}, "rules": [{"action": {"route": {"destination": "x"}}}]}])
    assert View(conf).show("listener", "l") == {
        "name": "l",
        "spec": {"protocol": "TCP", "port": 1},
        "rules": "l-RuleList-0",
        "options": {"track": 0},
    }
    shown: Any = View(conf, recursive=True).show("listener", "l")
    route = shown["rules"][0]["action"]["route"]
    assert shown["rules"][0]["match"] == {"match": "*"}
    assert route == {
        "name": "l-RuleList-0-Rule-0-Route-0",
        "destination": "x:<STALE>",
        "ingress": [],
        "egress": [],
        "retry": {"retry_on": "never", "num_retries": 1, "timeout": 2000},
    }


def test_a_rule_list_that_is_not_there_is_stale() -> None:
    conf = config(listeners=[{"name": "l", "spec": {"protocol": "TCP", "port": 1}, "rules": "rl"}])
    shown: Any = View(conf, recursive=True).show("listener", "l")
    assert shown["rules"] == "rl:<STALE>"


def test_an_action_is_shown_in_l7mps_order() -> None:
    conf = config(rules=[{"name": "r", "action": {"route": "t", "apply": "a", "rewrite": [{"path": "/x", "value": [1]}]}}])
    shown: Any = View(conf).show("rule", "r")
    assert list(shown["action"].items()) == [("rewrite", [{"path": "/x", "value": [1]}]), ("apply", "a"), ("route", "t")]


def test_clusters_are_shown_in_l7mps_spellings() -> None:
    conf = config(
        clusters=[
            {"name": "log", "spec": {"protocol": "Logger", "log_file": "-", "zzz": 1}},
            {"name": "echo", "spec": {"protocol": "Echo", "zzz": 1}},
            {"name": "tcp", "spec": {"protocol": "TCP", "port": 1, "zzz": 1}, "endpoints": [{"spec": {"address": "a"}, "weight": 3}]},
            {"name": "ring", "spec": {"protocol": "TCP"}, "loadbalancer": {"policy": "ConsistentHash"}},
        ]
    )
    log, echo, tcp, ring = View(conf, recursive=True).all("cluster")
    assert log["spec"] == {"protocol": "Logger", "log_file": "-", "log_prefix": ""}
    assert echo["spec"] == {"protocol": "Echo"}
    assert echo["endpoints"] == [{"name": "echo", "spec": {"address": "<VIRTUAL>"}}]
    assert tcp["spec"] == {"protocol": "TCP", "port": 1, "zzz": 1}
    assert tcp["endpoints"] == [{"name": "tcp-EndPoint-0", "spec": {"address": "a"}, "weight": 3}]
    assert ring["loadbalancer"] == {"policy": "HashRing", "key": "<RANDOM>"}
    assert list(View(conf).all("cluster"))[2]["endpoints"] == 1


def test_what_l7mp_does_not_have_is_shown_only_when_it_is_set() -> None:
    conf = config(
        rulelists=[{"name": "a", "rules": []}, {"name": "b", "rules": [], "order": "specific"}],
        routes=[{"name": "r", "destination": "x", "fallback": "y", "options": {"o": 1}}],
    )
    assert list(View(conf).all("rulelist")) == [{"name": "a", "rules": []}, {"name": "b", "rules": [], "order": "specific"}]
    shown: Any = View(conf).show("route", "r")
    assert (shown["fallback"], shown["options"]) == ("y", {"o": 1})


def test_options_and_balancers_are_shown_as_posted_and_without_what_l7mp_leaves_out() -> None:
    conf = config(
        listeners=[{"name": "l", "spec": {"protocol": "TCP", "port": 1}, "rules": [], "options": {"max_connections": 5}}],
        clusters=[{"name": "c", "spec": {"protocol": "TCP"}, "loadbalancer": {"policy": "Trivial", "key": "IP/src_addr"}}],
    )
    shown: Any = View(conf).show("listener", "l")
    assert shown["options"] == {"max_connections": 5}
    shown = View(conf).show("cluster", "c")
    assert shown["loadbalancer"] == {"policy": "Trivial"}


def test_the_whole_has_all_of_l7mps_sections() -> None:
    whole = dump.whole(Config(), [])
    assert list(whole) == ["admin", "listeners", "clusters", "rulelists", "rules", "routes", "endpoints", "sessions"]
    assert list(whole["admin"]) == ["log_level", "strict", "offload", "version"]


VALUE = {"a": [], "b": {}, "c": [1, {"d": "é\n"}], "e": None}


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("terse", '{"a":[],"b":{},"c":[1,{"d":"é\\n"}],"e":null}'),
        ("space", '{ "a": [], "b": {}, "c": [ 1, { "d": "é\\n" } ], "e": null }'),
        ("lines", '{ "a": []\n, "b": {}\n, "c": [ 1, { "d": "é\\n" } ]\n, "e": null\n}'),
        ("diffy", '{ "a": []\n, "b": {}\n, "c":\n  [ 1\n  , { "d": "é\\n"\n    }\n  ]\n, "e": null\n}'),
    ],
)
def test_each_format_writes_json_its_own_way(style: str, text: str) -> None:
    assert dumps(VALUE, style) == text
    assert json.loads(text) == VALUE


def test_an_unknown_format_is_the_plain_one() -> None:
    assert dumps([1], "bogus") == dumps([1]) == "[\n  1\n]"


@pytest.mark.skipif(not TRANSCRIPTS.exists(), reason="the recorded transcripts are not part of this repository")
@pytest.mark.parametrize(("step", "style"), [(1, "plain"), (2, "terse"), (3, "space"), (4, "lines"), (5, "diffy")])
def test_formats_are_those_of_the_recorded_answers_to_the_byte(step: int, style: str) -> None:
    body = json.loads((TRANSCRIPTS / "01-read-nonstrict.json").read_text())["steps"][step]["response"]["body"]
    assert dumps(json.loads(body), style) == body
