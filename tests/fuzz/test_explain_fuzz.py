"""Explain and routing agree on any configuration and any request, in all three notations of rules.

Routing is the real thing: the bytes of a request through the HTTP codec with its memo, and the listener's remembered decisions.
Explain knows the request only as a person would say it. `CARRIER_FUZZ` multiplies the number of examples, 1,000; without it 100 are tried.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carrier.admin.imagine import ask, offline
from carrier.cli.explained import render
from carrier.core.decision import Decision
from carrier.core.env import Env
from carrier.errors import Error
from carrier.model import Config
from carrier.rules.explain import Explanation
from carrier.wire.h1 import reader as http1
from carrier.wire.http import Head
from listeners.http.listener import HttpListener
from listeners.http.request import Origin
from tests.fuzz.test_match_fuzz import matches
from tests.support import config

EXAMPLES = int(1000 * float(os.environ.get("CARRIER_FUZZ", "0.1")))
fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PEER = ("10.0.0.1", 1234)

routes = st.one_of(
    st.sampled_from(["a", "b", "gone"]).map(lambda name: {"route": {"destination": name}}),
    st.sampled_from(["a", "gone"]).map(lambda name: {"route": {"destination": name, "fallback": "b"}}),
    st.sampled_from(["one", "two", "two", "three"]).map(lambda name: {"apply": name}),
    st.sampled_from([{"route": "nowhere"}, {"rewrite": []}]),
)
rules = st.tuples(matches, routes).map(lambda pair: {"match": pair[0], "action": pair[1]})
lists = st.lists(rules, max_size=4)
orders = st.sampled_from(["first", "first", "specific"])
header_names = st.sampled_from(["x-a", "X-A", "x-b", "cookie", "baggage", "host"])
header_values = st.sampled_from(["", "a", "A", "ab", "abc", "b", "a, b", "b,ab", "a;x", "1", "x-a=a; x-a=ab", "b.a.org", "a.org:80"])
requests = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["GET", "PUT"]),
        "path": st.sampled_from(["/", "/a", "/ab", "/a/b", "//a", "/a/", "/a?x-a=ab", "/%61", "/a;x", "/x/../a", "/A", "http://a.org/ab"]),
        "headers": st.lists(st.tuples(header_names, header_values).map(list), max_size=4),
    }
)


def configuration(one: list[dict[str, Any]], two: list[dict[str, Any]], orders: tuple[str, str]) -> Config:
    """A listener whose rules jump to a second list and perhaps back, or to one that is not there; cluster `gone` is not there either."""
    named = [
        {"name": name, "rules": [{**rule, "name": f"{name}-{i}"} for i, rule in enumerate(rules)], "order": order}
        for name, rules, order in (("one", one, orders[0]), ("two", two, orders[1]))
    ]
    clusters = [{"name": name, "spec": {"protocol": "Echo"}} for name in ("a", "b")]
    spec = {"protocol": "HTTP", "port": 8080, "address": "127.0.0.1"}
    return config(clusters=clusters, rulelists=named, listeners=[{"name": "web", "spec": spec, "rules": "one"}])


class Downstream:
    """Reads a request's bytes as a connection of the listener does, and routes it."""

    def __init__(self, listener: HttpListener) -> None:
        self.listener = listener
        self.origin = Origin(listener, PEER, ("127.0.0.1", 8080), None)
        self.decision: Decision | None = None

    def routed(self, request: dict[str, Any]) -> Decision:
        lines = "".join(f"{name}: {value}\r\n" for name, value in request["headers"])
        raw = f"{request['method']} {request['path']} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
        known = self.listener.routing.memo.heads.get(raw)
        if known is not None:
            self.on_head(known)
        else:
            http1.RequestReader(self.listener.routing.memo, self.listener.limits, self).feed(raw)
        assert self.decision is not None
        return self.decision

    def on_head(self, head: Head) -> None:
        found = head.decision or self.listener.routing.route(self, head)  # type: ignore[arg-type]
        self.decision = found[0]

    def metadata(self, head: Head) -> dict[str, Any]:
        where = {"IP": {"src_addr": PEER[0], "dst_addr": "127.0.0.1"}, "TCP": {"src_port": PEER[1], "dst_port": 8080}}
        return {**where, "HTTP": head.metadata()}

    def on_data(self, data: bytes) -> None: ...
    def on_end(self, trailers: Any) -> None: ...


def check(said: Explanation, decided: Decision) -> None:
    """The answer, and every detail of it that a person would act on, is what routing does."""
    assert (said.rule, said.rulelist, said.why, said.route) == (decided.rule, decided.rulelist, decided.reason, decided.route)
    assert (said.destination.cluster if said.destination else None) == (decided.cluster.name if decided.cluster else None)
    assert (said.fallback.cluster if said.fallback else None) == (decided.fallback.name if decided.fallback else None)
    assert (said.failure.kind if said.failure else None) == (decided.error.kind if decided.error else None)
    chosen = [report.rule for step in said.steps for report in step.rules if report.chosen]
    assert chosen[-1:] == ([decided.rule] if decided.rule else chosen[-1:])
    for step in said.steps:
        for report in step.rules:
            assert report.matched == (not report.note.startswith("never matches") and all(c.held for c in report.conditions)) or report.note
            assert not report.chosen or report.matched
    assert render(said).count("\n  → ") == len(chosen)


@fuzz
@given(one=lists, two=lists, order=st.tuples(orders, orders), asked=st.lists(requests, min_size=1, max_size=3))
def test_explain_says_what_routing_does(
    one: list[dict[str, Any]], two: list[dict[str, Any]], order: tuple[str, str], asked: list[dict[str, Any]]
) -> None:
    conf = configuration(one, two, order)
    env = Env(LOOP)
    tables = offline(conf, env)
    listener = HttpListener(conf.listeners["web"], env)
    listener.use(tables["web"])
    downstream = Downstream(listener)
    for request in [*asked, asked[0]]:  # the first one again: from the memo
        try:
            decided = downstream.routed(request)
        except Error:  # no request that is served
            continue
        check(ask({**request, "source": "10.0.0.1:1234"}, conf, tables), decided)


LOOP = SimpleNamespace(time=lambda: 0.0)
"""All that a listener and clusters that are never started need of an event loop."""


def test_the_strategies_reach_every_kind_of_end() -> None:
    """A property that is only tried on requests that no rule takes says little."""
    seen: set[str] = set()

    @settings(max_examples=400, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(one=lists, two=lists, request=requests)
    def look(one: list[dict[str, Any]], two: list[dict[str, Any]], request: dict[str, Any]) -> None:
        conf = configuration(one, two, ("first", "first"))
        said = ask(request, conf, offline(conf, Env(LOOP)))  # type: ignore[arg-type]
        seen.add(said.failure.kind if said.failure else "fallback" if said.fallback else "routed")
        seen.add(f"{len(said.steps)} lists")

    look()
    assert {"routed", "fallback", "no-route", "1 lists", "2 lists"} <= seen
