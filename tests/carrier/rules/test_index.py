"""The index of a rule list: a thousand rules of any kind cost what three cost, and the first in the list wins, whatever found it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis.strategies import DataObject, data, integers, lists, sampled_from

from carrier.rules.match import Matcher

KINDS: dict[str, Callable[[int], Any]] = {
    "header": lambda i: {"matchHeader": {"name": "x-user", "value": f"u{i}"}},
    "headers of many names": lambda i: {"matchHeader": {"name": f"x-u{i}", "value": "v"}},
    "prefix": lambda i: {"matchPath": {"path": f"/a{i}/", "type": "prefix"}},
    "regex": lambda i: {"matchPath": {"path": f"^/a{i}/[a-z]+$", "type": "regex"}},
    "regex of many headers": lambda i: {"matchHeader": {"name": f"x-u{i}", "value": "^v", "type": "regex"}},
    "network": lambda i: {"matchSource": {"cidr": f"10.{i >> 8}.{i & 255}.0/24"}},
    "networks of many lengths": lambda i: {"matchSource": {"cidr": f"{11 + i // 256}.{i & 255}.0.0/{16 + i % 4}"}},
    "host": lambda i: {"matchHost": {"host": f"h{i}.example.org", "type": "suffix"}},
    "query": lambda i: {"matchQuery": {"name": f"q{i}", "value": "v"}},
    "cookie": lambda i: {"matchCookie": {"name": f"c{i}", "value": "v"}},
    "baggage": lambda i: {"matchBaggage": {"key": f"c{i}", "value": "v"}},
    "method": lambda i: {"matchMethod": {"method": f"M{i}"}},
    "test": lambda i: {"op": "test", "path": "/HTTP/headers/x-user", "value": f"u{i}"},
    "test in any case": lambda i: {"op": "test", "path": "/HTTP/headers/x-user", "value": f"U{i}", "ignore_case": True},
    "test of many paths": lambda i: {"op": "test", "path": f"/labels/l{i}", "value": "x"},
    "starts": lambda i: {"op": "starts", "path": "/HTTP/url/path", "value": f"/a{i}/"},
    "ends": lambda i: {"op": "ends", "path": "/HTTP/url/path", "value": f"/a{i}"},
    "contains": lambda i: {"op": "contains", "path": "/HTTP/url/path", "value": f"/a{i}/"},
    "matches": lambda i: {"op": "matches", "path": "/HTTP/url/path", "value": f"^/a{i}/[0-9]"},
    "in": lambda i: {"op": "in", "path": "/HTTP/headers/x-user", "value": [f"u{i}", f"w{i}"]},
    "less": lambda i: {"op": "less", "path": "/TCP/src_port", "value": i},
    "more": lambda i: {"op": "more", "path": "/TCP/src_port", "value": 60_000 + i},
    "defined": lambda i: {"op": "defined", "path": f"/HTTP/headers/x-{i}"},
    "contained": lambda i: {"op": "contained", "path": "/labels/list", "value": f"u{i}"},
    "intersects": lambda i: {"op": "intersects", "path": "/labels/list", "value": [f"u{i}", f"w{i}"]},
    "one host and a path each": lambda i: [
        {"matchHeader": {"name": "host", "value": "a.b.example.org"}},
        {"matchPath": {"path": f"^/a{i}", "type": "regex"}},
    ],
    "one header and a header each": lambda i: [
        {"matchHeader": {"name": "host", "value": "a.b.example.org"}},
        {"matchHeader": {"name": "x-user", "value": f"u{i}"}},
    ],
    "not in": lambda i: unless({"op": "in", "path": "/HTTP/headers/accept", "value": ["*/*", f"u{i}"]}),
    "not less": lambda i: unless({"op": "less", "path": "/TCP/src_port", "value": 60_000 + i}),
    "not more": lambda i: unless({"op": "more", "path": "/TCP/src_port", "value": i}),
    "not and not": lambda i: {
        "op": "and",
        "apply": [
            unless({"op": "intersects", "path": "/labels/list", "value": ["a", f"w{i}"]}),
            unless({"op": "test", "path": "/HTTP/method", "value": f"M{i}"}),
        ],
    },
    "and": lambda i: {
        "op": "and",
        "apply": [{"op": "test", "path": "/HTTP/method", "value": "GET"}, {"op": "contains", "path": "/HTTP/url/path", "value": f"/a{i}/"}],
    },
}


def unless(what: Any) -> Any:
    """Holds for none of METAS, as `what` holds for all of them."""
    return {"op": "not", "apply": [what]}


def meta(i: int) -> dict[str, Any]:
    headers = {"host": "a.b.example.org", "x-user": f"zz{i}", "cookie": "a=1; b=2", "accept": "*/*", "baggage": "a=1,b=2"}
    url = {"path": f"/zz/{i}?q=1&r=2"}
    labels = {"list": ["a", "b"]}
    http = {"method": "GET", "url": url, "headers": headers}
    return {"IP": {"src_addr": f"192.0.2.{i % 256}"}, "TCP": {"src_port": 50_000}, "labels": labels, "HTTP": http}


METAS = [meta(i) for i in range(300)]


def cost(matcher: Matcher) -> float:
    """Processor seconds for all of METAS, at best."""
    found = []
    for _ in range(7):
        began = time.process_time()
        for one in METAS:
            matcher.first(one)
        found.append(time.process_time() - began)
    return min(found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_rules_of_any_kind_cost_what_three_cost(kind: str) -> None:
    few, many = (Matcher([(f"r{i}", KINDS[kind](i)) for i in range(number)]) for number in (3, 1_000))
    assert not few.reasons
    assert many.first(METAS[0]) is None
    assert any(cost(many) / cost(few) < 2 for _ in range(3)), "1.3 on a quiet machine"


def test_the_first_in_the_list_wins_whatever_finds_it() -> None:
    rules = [
        {"matchPath": {"path": "/never", "type": "prefix"}},
        {"matchSource": {"cidr": "192.0.2.0/25"}},
        {"matchPath": {"path": "^/zz/[0-9]+", "type": "regex"}},
        {"matchSource": {"cidr": "192.0.2.0/24"}},
        {"op": "contains", "path": "/HTTP/url/path", "value": "zz"},
        {"matchHeader": {"name": "host", "value": "a.b.example.org"}},
    ]
    for rotation in range(len(rules)):
        listed = [*rules[rotation:], *rules[:rotation]]
        matcher = Matcher([(f"r{i}", rule) for i, rule in enumerate(listed)])
        assert matcher.first(meta(5)) == (1 if rotation == 0 else 0)


def test_the_longest_network_does_not_win_the_first_does() -> None:
    nets = ["10.0.0.0/8", "10.1.0.0/16", "::/0", "2001:db8::/32", "10.1.2.3"]
    matcher = Matcher([(net, {"matchSource": {"cidr": net}}) for net in nets])
    found = {
        address: matcher.first({"IP": {"src_addr": address}}) for address in ("10.1.2.3", "::ffff:10.9.9.9", "2001:db8::1", "11.0.0.1")
    }
    assert found == {"10.1.2.3": 0, "::ffff:10.9.9.9": 0, "2001:db8::1": 2, "11.0.0.1": None}


INNER: dict[str, Callable[[int], Any]] = {
    kind: make for kind, make in KINDS.items() if isinstance(make(0), dict) and make(0).get("op") not in (None, "and", "not")
}


@settings(deadline=None)
@given(data())
def test_an_opposite_is_found_as_if_all_were_tried(drawn: DataObject) -> None:
    """Lists of rules of which most ask that something does not hold, beside the same conditions one by one."""
    kind = drawn.draw(sampled_from(sorted(INNER)))
    numbers = drawn.draw(lists(integers(0, 8), min_size=1, max_size=12))
    rules: list[tuple[str, object]] = []
    for i, number in enumerate(numbers):
        inner = INNER[kind](number)
        shapes: list[Any] = [
            unless(inner),
            unless({"op": "or", "apply": [inner, INNER[kind](number + 1)]}),
            {"op": "and", "apply": [unless(inner), unless({"op": "contains", "path": "/HTTP/url/path", "value": "zz"})]},
            {"op": "and", "apply": [unless(inner), {"op": "undefined", "path": "/HTTP/headers/x-3"}]},
            inner,
        ]
        rules.append((f"r{i}", drawn.draw(sampled_from(shapes))))
    user, path = drawn.draw(sampled_from(["u1", "U2", "w3", "zz", "u4,u5"])), drawn.draw(sampled_from(["/a1/x", "/a2/3", "/x/a4", "/"]))
    headers: dict[str, Any] = {"x-user": user, "x-1": "1", "x-3": ""}
    seen = {
        "IP": {"src_addr": "10.0.1.9"},
        "TCP": {"src_port": drawn.draw(sampled_from([0, 3, 5, 60_003, 60_008, True, "7"]))},
        "labels": {"list": ["u1", "w2"], "l3": "x"},
        "HTTP": {"method": "GET", "url": {"path": path}, "headers": drawn.draw(sampled_from([headers, {}]))},
    }
    matcher = Matcher(rules)
    conditions = [condition for condition in matcher.conditions if condition is not None]
    assert len(conditions) == len(rules)
    expected = next((i for i, condition in enumerate(conditions) if condition.holds(seen)), None)
    assert matcher.first(seen) == expected == matcher.first(seen)
