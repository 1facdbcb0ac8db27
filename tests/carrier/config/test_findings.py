"""What is odd about a well-formed configuration."""

from __future__ import annotations

from typing import Any

from carrier.config.draft import Draft
from carrier.config.findings import Finding, findings, warnings
from carrier.model import Config
from carrier.rules.table import Matchers

ECHO = {"protocol": "Echo"}


def found(**sections: list[Any]) -> list[Finding]:
    draft = Draft(Config())
    for section, objects in sections.items():
        for obj in objects:
            getattr(draft, f"add_{section[:-1]}")(obj)
    return list(findings(draft.done(), Matchers()))


def test_names_that_lead_nowhere_are_told_with_a_near_miss() -> None:
    seen = found(clusters=[{"name": "cluster", "spec": ECHO}], routes=[{"name": "r", "destination": "clustr", "ingress": ["gone"]}])
    assert [(f.code, f.kind, f.name, f.at, f.hint) for f in seen] == [
        ("dangling", "route", "r", ".destination", "did you mean 'cluster'?"),
        ("dangling", "route", "r", ".ingress[0]", ""),
    ]
    assert str(seen[0]) == "route 'r' refers to cluster 'clustr', which is not defined (did you mean 'cluster'?)"


def test_the_route_beside_an_apply_is_never_taken_and_may_dangle() -> None:
    seen = found(rulelists=[{"name": "a", "rules": []}], rules=[{"name": "r", "action": {"apply": "a", "route": "gone"}}])
    assert seen == []


def test_a_circle_of_jumps_is_told_once_at_the_rule_that_closes_it() -> None:
    lists = [{"name": n, "rules": [{"name": f"{n}{to}", "action": {"apply": to}}]} for n, to in ("ab", "bc", "cb")]
    seen = [f for f in found(rulelists=lists) if f.code == "loop"]
    assert [f.name for f in seen] == ["cb"]
    assert "b → c → b" in seen[0].text


def test_two_ways_to_one_list_are_no_circle() -> None:
    lists: list[Any] = [
        {"name": "a", "rules": [{"action": {"apply": "b"}}, {"action": {"apply": "c"}}]},
        {"name": "b", "rules": [{"action": {"apply": "c"}}]},
        {"name": "c", "rules": []},
    ]
    assert [f for f in found(rulelists=lists) if f.code == "loop"] == []


def test_a_thousand_jumps_in_a_row_are_no_problem() -> None:
    lists = [{"name": f"n{i}", "rules": [{"action": {"apply": f"n{i + 1}"}}]} for i in range(2000)]
    assert [f.code for f in found(rulelists=lists)] == ["dangling"]


def test_duplicates_and_rules_behind_a_wildcard_are_told() -> None:
    match = {"matchHeader": {"name": "x", "value": "1"}}
    rules: list[Any] = [
        {"name": "a", "match": match, "action": {}},
        {"name": "b", "match": match, "action": {}},
        {"name": "all", "action": {}},
    ]
    rules.append({"name": "late", "match": {"matchPath": {"path": "/"}}, "action": {}})
    seen = found(rulelists=[{"name": "rl", "rules": rules}])
    assert [(f.code, f.name) for f in seen] == [("duplicate", "b"), ("never-fires", "late")]


def test_a_match_that_cannot_be_compiled_is_told() -> None:
    seen = found(
        rulelists=[{"name": "rl", "rules": [{"name": "r", "match": {"op": "matches", "path": "/x", "value": "(?=a)"}, "action": {}}]}]
    )
    assert [(f.code, f.name) for f in seen] == [("invalid", "r")]


def test_datagrams_into_a_stream_of_bytes_are_told_once_also_through_a_jump() -> None:
    seen = found(
        clusters=[{"name": "t", "spec": {"protocol": "TCP", "port": 1}}, {"name": "e", "spec": ECHO}],
        rulelists=[
            {
                "name": "sub",
                "rules": [
                    {"match": {"op": "defined", "path": "/x"}, "action": {"route": {"name": "e", "destination": "e"}}},
                    {"action": {"route": {"name": "r", "destination": "t"}}},
                ],
            }
        ],
        listeners=[{"name": "u", "spec": {"protocol": "UDP", "port": 1}, "rules": [{"action": {"apply": "sub"}}]}],
    )
    assert [(f.code, f.kind, f.name) for f in seen] == [("datagram", "route", "r")]


def test_warnings_are_sentences() -> None:
    draft = Draft(Config())
    draft.add_route({"name": "r", "destination": "x"})
    assert warnings(draft.done()) == ("route 'r' refers to cluster 'x', which is not defined",)


def port(name: str, number: int, to: str, protocol: str = "TCP", **spec: Any) -> dict[str, Any]:
    rules = [{"name": name, "action": {"route": {"name": name, "destination": to}}}]
    return {"name": name, "spec": {"protocol": protocol, "port": number, **spec}, "rules": rules}


def leading(name: str, number: int, address: str = "localhost", protocol: str = "TCP") -> dict[str, Any]:
    return {"name": name, "spec": {"protocol": protocol, "port": number}, "endpoints": [{"name": name, "spec": {"address": address}}]}


def test_a_cluster_that_leads_to_a_listener_of_this_process_is_told_and_whether_it_goes_round() -> None:
    chain = found(clusters=[leading("b", 2), leading("c", 3, "192.0.2.77")], listeners=[port("1", 1, "b"), port("2", 2, "c")])
    assert [(f.code, f.name, f.at, str(f)) for f in chain] == [
        ("itself", "b", ".endpoints[0]", "cluster 'b' leads to listener '2' of this proxy (localhost:2)")
    ]
    circle = found(clusters=[leading("b", 2), leading("c", 1, "::1")], listeners=[port("1", 1, "b"), port("2", 2, "c")])
    assert [(f.name, "leads back" in f.text) for f in circle] == [("b", True), ("c", True)]
    (alone,) = found(clusters=[leading("a", 1, "127.0.0.1", "HTTP")], listeners=[port("1", 1, "a", "HTTP")])
    assert "leads back" in alone.text


def test_one_that_leads_elsewhere_is_not() -> None:
    assert not found(clusters=[leading("a", 1, protocol="UDP")], listeners=[port("1", 1, "a")])  # another transport
    assert not found(clusters=[leading("a", 1, "127.0.0.1")], listeners=[port("1", 1, "a", address="127.0.0.2")])
    assert not found(clusters=[leading("a", 0)], listeners=[port("1", 0, "a")])


def test_rewrites_that_cannot_be_sent_are_told() -> None:
    rewrites = [
        {"path": "/HTTP/headers", "value": {"x": "1", "Content-Length": "5", "host": ""}},
        {"path": "HTTP/headers/connection", "value": None},
        {"path": "/HTTP/headers/x y", "value": "1"},
        {"path": "/HTTP/headers/x", "value": "a\nb"},
        {"path": "/HTTP/method", "value": "G ET"},
        {"path": "/HTTP/url/query", "value": "a=1"},
        {"path": "/HTTP/url", "value": "/a"},
    ]
    good = [
        {"path": "/HTTP/headers", "value": {"x": "ü"}},
        {"path": "/HTTP/headers/x", "value": None},
        {"path": "/HTTP/url/host", "value": "a"},
        {"path": "/HTTP/url/path", "value": "/ü ü"},
        {"path": "/", "value": {"a": 1}},
        {"path": "/JSONSocket/a", "value": "\n"},
    ]
    seen = found(rules=[{"name": "r", "action": {"rewrite": rewrites + good, "route": "t"}}], routes=[{"name": "t", "destination": "c"}])
    told = [(f.at, f.text.partition(": ")[2]) for f in seen if f.code == "rewrite"]
    assert told == [
        (".action.rewrite[0]", "the proxy writes it itself"),
        (".action.rewrite[0]", "no request goes without it"),
        (".action.rewrite[1]", "the proxy writes it itself"),
        (".action.rewrite[2]", "its name is not a token"),
        (".action.rewrite[3]", "its value has a control byte"),
        (".action.rewrite[4]", "'G ET' is not a token"),
        (".action.rewrite[5]", "the path with its query is at /HTTP/url/path"),
        (".action.rewrite[6]", "it is an object; the path with its query is at /HTTP/url/path"),
    ]
