"""Nothing that somebody asks of the API stops the traffic: no turn of the event loop takes more than `TURN`, whatever is asked."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from carrier.admin.gate import Limits
from carrier.bridges.many import Fitting, placed
from carrier.config.draft import Draft
from carrier.config.source import loads
from carrier.log import Log
from carrier.model import Config
from carrier.process.serve import Server, Settings, start
from tests.ports import free_port
from tests.support import config, echo, listener
from tests.turns import TURN, turns

JSON, YAML = "application/json", "application/yaml"
MIB = 1 << 20


@contextlib.asynccontextmanager
async def serving(conf: Config) -> AsyncIterator[Server]:
    server = await start(conf, Log("error"), Settings(admin=None))
    try:
        yield server
    finally:
        await server.close()


async def call(server: Server, method: str, path: str, body: Any = None, kind: str = JSON) -> tuple[int, bytes, float]:
    """Status, body and the longest turn."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    async with turns() as seen:
        answer = await server.api.call(method, path, "", {"content-type": kind}, data)
    return answer.status, answer.whole(), seen.longest


REFUSED = {
    "fields that nobody knows": (JSON, json.dumps({"clusters": [{f"field{i}": 1 for i in range(60_000)}]})),
    "fields that nobody knows of a spec": (
        JSON,
        json.dumps({"clusters": [{"name": "c", "spec": {"protocol": "HTTP"} | {f"field{i}": 1 for i in range(60_000)}}]}),
    ),
    "options that nobody knows": (
        JSON,
        json.dumps({"clusters": [{"name": "c", "spec": {"protocol": "HTTP"}, "options": {f"field{i}": 1 for i in range(60_000)}}]}),
    ),
    "objects that are none": (JSON, json.dumps({"rules": list(range(90_000))})),
    "objects without a name": (YAML, "listeners:\n" + "".join(f" - {{nme: {i}}}\n" for i in range(9_000))),
    "keys that are set twice": (JSON, '{"clusters": [{' + ", ".join(['"name": "a"'] * 60_000) + "}]}"),
    "a match of many wrong alternatives": (
        JSON,
        json.dumps({"rules": [{"name": "r", "match": {"any": [{"mtach": i} for i in range(9_000)]}, "action": {}}]}),
    ),
    "one long name": (JSON, json.dumps({"clusters": [{"x" * (MIB - 100): 1}]})),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_body_of_a_mebibyte_that_is_refused_stops_nobody_and_is_answered_briefly(what: str) -> None:
    kind, text = REFUSED[what]
    assert len(text) <= MIB
    async with serving(config(clusters=[echo()], listeners=[listener("web", protocol="HTTP")])) as server:
        small = {"clusters": [{"name": "c", "spec": {"protocol": "HTTP", "x": 1}, "options": {"y": 1}}], "listners": []}
        await call(server, "POST", "/api/v1/config", small)  # what the first refusal loads
        longest = []
        for _ in range(3):  # a busy machine makes one of them slow
            status, body, seconds = await call(server, "POST", "/api/v1/config", text.encode(), kind)
            assert status == 400 and len(body) < 100_000
            longest.append(seconds)
            if seconds < TURN:
                break
        assert min(longest) < TURN


async def test_the_whole_configuration_has_a_bound_in_bytes_and_what_makes_it_smaller_is_taken() -> None:
    server = await start(config(clusters=[echo()]), Log("error"), Settings(admin=None, limits=Limits(total=20_000)))
    try:
        large = {"cluster": {"name": "large", "spec": {"protocol": "Answer", "body": "x" * 15_000}}}
        assert (await call(server, "POST", "/api/v1/clusters", large))[0] == 200
        status, body, _ = await call(server, "POST", "/api/v1/clusters", {"cluster": {**large["cluster"], "name": "more"}})
        assert status == 413 and b"more than 20000 (limit api.total)" in body
        assert "more" not in server.proxy.config.clusters
        assert (await call(server, "PUT", "/api/v1/clusters/large", {"cluster": {"name": "large", "spec": {"protocol": "Echo"}}}))[0] == 200
        assert (await call(server, "POST", "/api/v1/clusters", {"cluster": {**large["cluster"], "name": "more"}}))[0] == 200
    finally:
        await server.close()


# -- a thousand of each


def large(rules: int = 0, clusters: int = 0, endpoints: int = 1) -> dict[str, Any]:
    """A document with so many of each."""
    up = [{"name": f"e{i}", "spec": {"address": f"10.0.{i // 250}.{i % 250 + 1}"}} for i in range(endpoints)]
    more = [
        {"name": f"c{i}", "spec": {"protocol": "HTTP", "port": 9}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
        for i in range(clusters)
    ]
    listed = [
        {
            "name": f"r{i}",
            "match": {"matchHeader": {"name": "x-user", "value": f"u{i}"}},
            "action": {"route": {"name": f"rt{i}", "destination": "up"}},
        }
        for i in range(rules)
    ]
    shadow = {"name": "all", "action": {"route": {"name": "shadow", "destination": "up"}}}
    web = {"name": "web", "spec": {"protocol": "HTTP", "port": free_port(), "address": "127.0.0.1"}, "rules": [*listed, shadow]}
    return {"clusters": [{"name": "up", "spec": {"protocol": "HTTP", "port": 9}, "endpoints": up}, *more], "listeners": [web]}


def bridge(name: str) -> dict[str, Any]:
    return {"listener": "web", "user": name, "match": {"matchHeader": {"name": "x-b", "value": name}}, "endpoint": "127.0.0.1:9"}


async def make_bridges(server: Server, number: int) -> None:
    """So many bridges at once, as a reload carries them over."""
    config = server.proxy.config
    fitting = [Fitting(name, *server.bridges.understood(config, name, bridge(name))) for name in (f"b{i}" for i in range(number))]
    draft = Draft(config, server.bridges.protocols)
    for fit, at in placed(fitting):
        server.bridges.insert(draft, fit.name, fit.wanted, fit.place, at)
    await server.proxy.apply(draft.done())


CALLS: dict[str, tuple[str, str, Any]] = {
    "a bridge is made": ("PUT", "/api/v1/bridges/jane", bridge("jane")),
    "bridges are shown": ("GET", "/api/v1/bridges", None),
    "a bridge is replaced": ("PUT", "/api/v1/bridges/john", bridge("john") | {"endpoint": "127.0.0.1:10"}),
    "a bridge is removed": ("DELETE", "/api/v1/bridges/john", None),
    "a rule is added": ("POST", "/api/v1/rules", {"rule": {"name": "new", "action": {"route": {"destination": "up"}}}}),
    "a cluster is put": ("PUT", "/api/v1/clusters/new", {"cluster": {"name": "new", "spec": {"protocol": "Echo"}}}),
    "an endpoint is added": ("POST", "/api/v1/clusters/up/endpoints", {"endpoint": {"name": "new", "spec": {"address": "10.9.9.9"}}}),
    "everything is shown": ("GET", "/api/v1/config", None),
    "the state is shown": ("GET", "/api/v1/status", None),
    "sessions are shown": ("GET", "/api/v1/sessions", None),
    "it is scraped": ("GET", "/metrics", None),
}


@pytest.mark.parametrize("of", ["rules", "clusters", "endpoints", "bridges"])
async def test_with_a_thousand_of_each_no_call_stops_the_traffic(of: str) -> None:
    document = large() if of == "bridges" else large(**{of: 1_000})
    async with serving(loads(json.dumps(document)).config) as server:
        if of == "bridges":
            await make_bridges(server, 1_000)
        await call(server, "PUT", "/api/v1/bridges/john", bridge("john"))  # what a first call loads
        await call(server, "GET", "/metrics")
        calls = dict(CALLS)
        calls["the whole is put in force"] = "POST", "/api/v1/config", {**document, "clusters": [*document["clusters"], echo("more")]}
        long = {}
        for what, (method, path, body) in calls.items():
            status, shown, longest = await call(server, method, path, body)
            assert status < 300, (what, shown[:300])
            if longest >= 2 * TURN:  # on a quiet machine none takes TURN
                long[what] = longest
        assert not long
