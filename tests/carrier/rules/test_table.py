"""Compiled routing: jumps, late names, what a table is made of, and retry policies of any shape."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest

from carrier.core.cluster import Cluster
from carrier.core.decision import DEFAULT_CONNECT_TIMEOUT, MAX_TIMEOUT, Hits, Retry
from carrier.core.env import Env
from carrier.model import Config, same
from carrier.rules.match import Matcher
from carrier.rules.table import Matchers, Table
from clusters.virtual import EchoCluster
from tests.support import config, echo


@pytest.fixture
def env() -> Iterator[Env]:
    loop = asyncio.new_event_loop()
    yield Env(loop)
    loop.close()


def table(
    conf: Config, env: Env, name: str = "rl", matchers: Matchers | None = None, clusters: Mapping[str, Cluster] | None = None
) -> Table:
    """The table of a rule list; every cluster is an echo."""
    if clusters is None:
        clusters = {c.name: EchoCluster(c, env) for c in conf.clusters.values()}
    return Table(conf, name, clusters, matchers or Matchers(), {})


def rule(name: str, path: str = "", value: object = None, **action: Any) -> dict[str, Any]:
    match = {"op": "test", "path": path, "value": value} if path else None
    return {"name": name, "match": match, "action": action}


def to(name: str) -> dict[str, Any]:
    return {"name": f"to-{name}", "destination": name}


def test_the_first_rule_that_matches_decides(env: Env) -> None:
    rules = [rule("a", "/x", 1, route="to-a"), rule("b", "/x", 1, route="to-b"), rule("rest", route="to-c")]
    conf = config(
        clusters=[echo("a"), echo("b"), echo("c")], routes=[to("a"), to("b"), to("c")], rulelists=[{"name": "rl", "rules": rules}]
    )
    one = table(conf, env)
    assert [one.decide(meta).rule for meta in ({"x": 1}, {"x": 2}, {})] == ["a", "rest", "rest"]
    found = one.decide({"x": 1})
    assert found.cluster is not None and found.cluster.name == "a"
    assert (found.route, found.rulelist, found.plain, found.reason) == ("to-a", "rl", True, "rule a: /x is 1")


def test_an_apply_is_a_jump_that_never_returns(env: Env) -> None:
    lists = [
        {"name": "rl", "rules": [rule("jump", "/x", 1, apply="more"), rule("rest", route="to-a")]},
        {"name": "more", "rules": [rule("two", "/y", 2, route="to-a")]},
    ]
    one = table(config(clusters=[echo("a")], routes=[to("a")], rulelists=lists), env)
    assert one.decide({"x": 1, "y": 2}).rule == "two"
    missed = one.decide({"x": 1}).error
    assert missed is not None and missed.detail == 'No route for session "{session}"'
    assert one.decide({}).rule == "rest"


@pytest.mark.parametrize("way", [["rl"], ["b", "rl"], ["b", "c", "b"]])
def test_rule_lists_that_apply_each_other_in_a_circle_end_in_an_error(env: Env, way: list[str]) -> None:
    names = ["rl", *way]
    lists = {name: {"name": name, "rules": [rule(f"r-{name}", apply=after)]} for name, after in itertools.pairwise(names)}
    error = table(config(rulelists=lists.values()), env).decide({}).error
    assert error is not None and error.kind == "no-route" and "applies itself" in error.detail


def test_a_jump_to_a_list_that_is_not_there_says_so(env: Env) -> None:
    error = table(config(rulelists=[{"name": "rl", "rules": [rule("r", apply="gone")]}]), env).decide({}).error
    assert error is not None and error.detail == 'Cannot find RuleList "gone"'


def test_a_dangling_rule_name_fails_those_that_come_as_far_and_no_others(env: Env) -> None:
    lists = [{"name": "rl", "rules": [rule("a", "/x", 1, route="to-a"), "gone"]}]
    one = table(config(clusters=[echo("a")], routes=[to("a")], rulelists=lists), env)
    assert one.decide({"x": 1}).error is None
    error = one.decide({}).error
    assert error is not None and error.detail == 'Cannot find named rule "gone" in RuleList "rl"'


def test_a_match_that_breaks_fails_its_session_and_not_the_listener(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    one = table(config(clusters=[echo("a")], routes=[to("a")], rulelists=[{"name": "rl", "rules": [rule("a", route="to-a")]}]), env)

    def broken(self: Matcher, meta: object) -> int:
        raise TypeError("no such thing")

    monkeypatch.setattr(Matcher, "first", broken)
    error = one.decide({}).error
    assert error is not None and error.kind == "internal" and "no such thing" in error.detail


def test_a_table_is_the_same_while_what_it_needs_is_the_same_and_takes_over_what_stands(env: Env) -> None:
    base = config(
        clusters=[echo("a"), echo("b")], routes=[to("a"), to("b")], rulelists=[{"name": "rl", "rules": [rule("r", route="to-a")]}]
    )
    clusters = {c.name: EchoCluster(c, env) for c in base.clusters.values()}

    matchers, hits = Matchers(), dict[str, Hits]()
    here = Table(base, "rl", clusters, matchers, hits)

    def equal(conf: Config, running: Any = clusters) -> bool:
        return here.equals(Table(conf, "rl", running, matchers, hits, here))

    copied = msgspec.structs.replace(base, rules={"r": msgspec.structs.replace(base.rules["r"])})
    assert equal(base) and equal(copied)
    assert equal(config(routes=[{"name": "to-b", "destination": "a"}], rules=[rule("x", route="y")], base=base))
    for change in (
        config(routes=[{"name": "to-a", "destination": "b"}], base=base),
        config(routes=[{"name": "to-a", "destination": "a", "fallback": "b"}], base=base),
        config(routes=[{"name": "to-a", "destination": "a", "ingress": ["b"]}], base=base),
        config(routes=[{"name": "to-a", "destination": "a", "retry": {"retry_on": "always"}}], base=base),
        config(rules=[rule("r", "/x", 1, route="to-a")], base=base),
        config(rulelists=[{"name": "rl", "rules": []}], base=base),
    ):
        assert not equal(change)
    assert not equal(base, {c.name: EchoCluster(c, env) for c in base.clusters.values()})


def test_of_a_list_of_which_one_rule_changes_the_others_decisions_are_taken_over(env: Env) -> None:
    rules = [rule("r", "/x", 1, route="to-a"), rule("s", "/x", 2, route="to-a"), rule("gone", "/x", 3, route="nowhere")]
    base = config(clusters=[echo("a")], routes=[to("a")], rulelists=[{"name": "rl", "rules": rules}])
    clusters, matchers, hits = {"a": EchoCluster(base.clusters["a"], env)}, Matchers(), dict[str, Hits]()
    old = Table(base, "rl", clusters, matchers, hits)
    old.decide({"x": 1}).hits.count = 7
    new = Table(config(rules=[rule("s", "/x", 5, route="to-a")], base=base), "rl", clusters, matchers, hits, old)
    assert [new.decide({"x": x}) is old.decide({"x": x}) for x in (1, 3)] == [True, True]
    changed = new.decide({"x": 5})
    assert changed is not old.decide({"x": 2}) and "5" in changed.reason and changed.cluster is clusters["a"]
    assert new.decide({"x": 1}).hits.count == 7
    assert new.reaches == {clusters["a"]}


def test_a_name_that_was_missing_changes_the_table_when_it_comes(env: Env) -> None:
    base = config(routes=[to("a")], rulelists=[{"name": "rl", "rules": [rule("r", route="to-a")]}])
    before = table(base, env)
    decision = before.decide({})
    assert (decision.missing and decision.error is not None and not decision.plain) or decision.cluster is None
    after = config(clusters=[echo("a")], base=base)
    clusters = {"a": EchoCluster(after.clusters["a"], env)}
    assert not Table(after, "rl", clusters, Matchers(), {}, before).equals(before)
    again = decision.again(clusters)
    assert again.error is None and again.cluster is clusters["a"] and again.hits is decision.hits


def test_an_unchanged_rule_list_is_not_compiled_again_and_a_changed_one_is(env: Env) -> None:
    matchers = Matchers()
    base = config(rulelists=[{"name": "rl", "rules": [rule("r", "/x", 1, route="y")]}])
    first = matchers.get(base, "rl")
    assert matchers.get(config(rules=[rule("other", route="y")], base=base), "rl") is first
    again = config(rulelists=[{"name": "rl", "rules": [rule("r", "/x", 1, route="y")]}])
    assert matchers.get(again, "rl") is first
    as_bool = config(rulelists=[{"name": "rl", "rules": [rule("r", "/x", True, route="y")]}])
    assert matchers.get(as_bool, "rl") is not first
    matchers.forget_all_but(Config())
    assert not matchers.known


def test_hits_belong_to_the_rule_and_survive_a_new_table(env: Env) -> None:
    conf = config(clusters=[echo("a")], routes=[to("a")], rulelists=[{"name": "rl", "rules": [rule("r", route="to-a")]}])
    hits: dict[str, Hits] = {}
    one = Table(conf, "rl", {}, Matchers(), hits)
    one.decide({}).hits.count += 1
    two = Table(conf, "rl", {}, Matchers(), hits)
    assert two.decide({}).hits.count == hits["r"].count == 1


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (1, 1, True),
        (1, True, False),
        (1, 1.0, False),
        ("1", 1, False),
        ({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}, True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1}, {"b": 1}, False),
        ({"a": None}, {}, False),
        ([1, 2], [1], False),
        ([1], (1,), False),
        ([[True]], [[1]], False),
    ],
)
def test_values_are_the_same_only_as_json_sees_them(a: object, b: object, equal: bool) -> None:
    assert same(a, b) is equal


@pytest.mark.parametrize(
    ("retry", "attempts", "timeout"),
    [
        ({}, 1, DEFAULT_CONNECT_TIMEOUT),
        ({"retry_on": "never", "num_retries": 5, "timeout": 100}, 1, 0.1),
        ({"retry_on": "connect-failure", "num_retries": 5, "timeout": 100}, 6, 0.1),
        ({"retry_on": "always"}, 2, DEFAULT_CONNECT_TIMEOUT),
        ({"retry_on": "disconnect", "num_retries": 5}, 1, DEFAULT_CONNECT_TIMEOUT),
        ({"retry_on": "always", "num_retries": "x", "timeout": "x"}, 2, DEFAULT_CONNECT_TIMEOUT),
        ({"retry_on": "always", "num_retries": -1, "timeout": -1}, 2, DEFAULT_CONNECT_TIMEOUT),
        ({"retry_on": "always", "num_retries": True, "timeout": True}, 2, DEFAULT_CONNECT_TIMEOUT),
        ({"retry_on": "always", "num_retries": 0, "timeout": 0}, 1, DEFAULT_CONNECT_TIMEOUT),
        ({"retry_on": "always", "num_retries": 2.0, "timeout": float("inf")}, 3, MAX_TIMEOUT / 1000),
        ({"retry_on": "always", "num_retries": float("nan"), "timeout": float("nan")}, 2, DEFAULT_CONNECT_TIMEOUT),
        ({"retry_on": ["always"], "num_retries": [], "timeout": {}}, 1, DEFAULT_CONNECT_TIMEOUT),
        ({"timeout": 10**400}, 1, MAX_TIMEOUT / 1000),
    ],
)
def test_a_retry_policy_of_any_shape_is_finite_numbers(retry: dict[str, Any], attempts: int, timeout: float) -> None:
    found = Retry(retry, DEFAULT_CONNECT_TIMEOUT)
    assert (found.attempts, found.timeout) == (attempts, timeout)


def test_a_route_with_transforms_or_reconnects_is_not_plain(env: Env) -> None:
    routes: list[dict[str, Any]] = [
        {"name": "plain", "destination": "a", "retry": {"retry_on": "connect-failure"}},
        {"name": "through", "destination": "a", "egress": ["b"]},
        {"name": "again", "destination": "a", "retry": {"retry_on": "disconnect"}},
    ]
    rules = [rule(r["name"], "/r", r["name"], route=r["name"]) for r in routes]
    one = table(config(clusters=[echo("a"), echo("b")], routes=routes, rulelists=[{"name": "rl", "rules": rules}]), env)
    assert [one.decide({"r": name}).plain for name in ("plain", "through", "again")] == [True, False, False]


def test_a_change_of_one_rule_compiles_only_that_one() -> None:
    matchers = Matchers()
    base = config(rulelists=[{"name": "rl", "rules": [rule("r", "/x", 1, route="y"), rule("s", "/x", 2, route="y")]}])
    before = matchers.get(base, "rl").conditions
    changed = msgspec.structs.replace(base, rules={**base.rules, "s": msgspec.structs.replace(base.rules["s"], match=None)})
    after = matchers.get(changed, "rl").conditions
    assert after[0] is before[0] and after[1] is not before[1]
