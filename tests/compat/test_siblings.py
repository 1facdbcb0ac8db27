"""Calls beside the recorded ones: every kind of object with every kind of odd member, in both modes, as the real l7mp answered them.

`siblings.jsonl` was recorded from l7mp 0.5.7 run from its own repository, one fresh process for each scenario. What it answers with a
text of the JavaScript engine, by a defect that the contract lists in section 12, or because it accepts what is no use to anybody (a
name that is a list) was not kept. Lines: `{"scenario": ..., "strict": ...}`, then its calls `[method, path, status, answer, body, type]`,
answers by their number in the list that ends the file.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carrier.admin.api import Api
from carrier.config.source import loads
from carrier.core.env import Env
from carrier.model import Config
from carrier.proxy.proxy import Proxy
from tests.compat.test_replay import normal

CONTROLLER = """
listeners:
  - name: controller-listener
    spec: {protocol: HTTP, port: 0}
    rules:
      - action:
          route:
            destination: {name: l7mp-controller, spec: {protocol: L7mpController}}
"""
PORT = 21234
"""That of the recorded controller."""
LINES = [json.loads(line) for line in (Path(__file__).parent / "siblings.jsonl").read_text().splitlines()]
ENDING = next(i for i, line in enumerate(LINES) if isinstance(line, dict) and "answers" in line)
ANSWERS = LINES[ENDING + 1 :]


def scenarios() -> Iterator[tuple[str, bool, list[Any]]]:
    calls: list[Any] = []
    for line in LINES[:ENDING]:
        if isinstance(line, dict):
            calls = []
            yield line["scenario"], line["strict"], calls
        else:
            calls.append(line)


async def answered(api: Api, method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, Any]:
    data = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    headers = {"content-type": kind} if body is not None else {}
    where, _, query = path.partition("?")
    answer = await api.call(method, where, query, headers, data)
    text = answer.body.decode()
    try:
        return answer.status, json.loads(text)
    except ValueError:
        return answer.status, text


def with_port(value: Any) -> Any:
    """The controller's port as it was recorded: here it is 0, so that none is needed."""
    if isinstance(value, dict):
        if value.get("name") == "controller-listener":
            return {**value, "spec": {"protocol": "HTTP", "port": PORT}}
        return {name: with_port(member) for name, member in value.items()}
    return [with_port(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("name", "strict", "calls"), [pytest.param(*s, id=f"{s[0]}{' strict' if s[1] else ''}") for s in scenarios()])
async def test_siblings_of_the_recorded_calls_are_answered_alike(name: str, strict: bool, calls: list[Any]) -> None:
    config = loads(CONTROLLER).config
    proxy = Proxy(Env(asyncio.get_running_loop()), None)
    proxy.env.api = api = Api(proxy)
    await proxy.apply(msgspec.structs.replace(config, admin=msgspec.structs.replace(config.admin, strict=strict)))
    wrong = []
    try:
        for i, (method, path, status, number, *sent) in enumerate(calls):
            got = await answered(api, method, path, *sent)
            if (got[0], normal(with_port(got[1]))) != (status, normal(ANSWERS[number])):
                wrong.append(f"#{i} {method} {path} {sent}\n  l7mp {status} {ANSWERS[number]}\n  ours {got}")
    finally:
        await proxy.close()
    assert not wrong, "\n".join(wrong)


OBJECTS: dict[str, dict[str, Any]] = {
    "listener": {
        "name": "l",
        "spec": {"protocol": "UDP", "port": 0, "address": "127.0.0.1", "connect": {"address": "127.0.0.1"}, "options": {"mode": "server"}},
        "options": {"track": 5},
        "rules": [
            {
                "name": "r",
                "match": {"op": "and", "path": "/UDP", "apply": [{"op": "in", "path": "/src_port", "value": [1], "ignore_case": True}]},
                "action": {
                    "rewrite": [{"path": "/a", "value": 1}],
                    "route": {
                        "destination": {
                            "spec": {"protocol": "TCP", "port": 8000, "bind": {"address": "127.0.0.1", "port": 0}},
                            "endpoints": [{"name": "e", "spec": {"address": "127.0.0.1", "port": 81}, "weight": 2}],
                            "loadbalancer": {"policy": "HashRing", "key": "/UDP/src_port"},
                            "options": {"max_sessions": 5},
                        },
                        "ingress": [{"spec": {"protocol": "Logger", "log_file": "-", "log_prefix": "p"}}],
                        "retry": {"retry_on": "always", "num_retries": 2, "timeout": 100},
                        "fallback": "f",
                        "options": {"retry_statuses": [503]},
                    },
                },
            },
            {"match": {"any": [[{"matchHeader": {"name": "a", "value": "b"}}]]}, "action": {"apply": "x"}},
        ],
    },
    "cluster": {
        "name": "j",
        "spec": {
            "protocol": "JSONSocket",
            "transport": {"protocol": "UDP", "port": 93},
            "header": [{"path": {"from": "/a", "to": "/b"}}, {"set": {"key": "/a", "value": 1}}],
        },
    },
}
WRONG: tuple[Any, ...] = (None, True, -1, 1.5, 10**30, "", "a b", [], [{}], {}, {"a": [1]})


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for step in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[step], (*path, step))


def changed(value: Any, path: tuple[Any, ...], to: Any) -> Any:
    if not path:
        return to
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], to)
    return copy


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("kind", OBJECTS)
async def test_whatever_stands_at_whichever_member_is_taken_or_refused_whole(
    kind: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # some of it is a path, where files are made
    proxy = Proxy(Env(asyncio.get_running_loop()), None)
    proxy.env.api = api = Api(proxy)
    where = f"/api/v1/{kind}s" + (f"/{OBJECTS[kind]['name']}" if method == "PUT" else "")
    try:
        for path in places(OBJECTS[kind]):
            for wrong in WRONG:
                before = proxy.config
                status, answer = await answered(api, method, where, {kind: changed(OBJECTS[kind], path, wrong)})
                assert status in (200, 400), (path, wrong, answer)
                if status == 400:
                    assert proxy.config is before, (path, wrong)
                    assert answer["content"], (path, wrong)
                elif proxy.config is not before:
                    assert (await answered(api, "GET", "/api/v1/config"))[0] == 200, (path, wrong)
                    await proxy.apply(Config())
    finally:
        await proxy.close()
