"""Damaged configurations, one after the other, into a proxy that serves: each is refused with a 4xx that says where and why, nothing
changes, and nobody who is being served notices.

The damages: wrong types, unknown fields, missing fields, names twice, names that lead nowhere, hostile and broken regular expressions, text
cut short, bytes flipped, 10 MB, 10,000 levels, bombs of aliases, keys set twice, numbers that are none.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvloop

from tests.ports import free_port
from tests.soak.process import Load, carrier, exchange, number, report, request, upstream

Doc = dict[str, Any]
TEN_MEGABYTES = json.dumps({"rules": ["x" * 1000] * 10_000}).encode()
ODD: tuple[Any, ...] = (None, True, -1, 1e300, 99_999, "", " ", "ü\u2028", [], {}, [[]], {"a": 1}, "x" * 300, 0.5)


def good(port: int, up: int) -> Doc:
    """The configuration that is in force, and that each damage begins with."""
    rules = [
        {"name": "john", "match": {"matchHeader": {"name": "x-user", "value": "jo.*n", "type": "regex"}}, "action": {"route": "up"}},
        {"name": "rest", "action": {"route": {"name": "up", "destination": "up", "retry": {"retry_on": "never"}}}},
    ]
    return {
        "clusters": [
            {
                "name": "up",
                "spec": {"protocol": "HTTP", "port": up},
                "endpoints": [{"name": "e", "spec": {"address": "127.0.0.1"}, "weight": 1}],
                "loadbalancer": {"policy": "round_robin"},
            }
        ],
        "listeners": [{"name": "web", "spec": {"protocol": "HTTP", "port": port, "address": "127.0.0.1"}, "rules": rules}],
    }


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside another."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(inner, (*path, key))


def at(doc: Doc, path: tuple[Any, ...]) -> Any:
    for key in path:
        doc = doc[key]
    return doc


def wrong_type(doc: Doc, dice: random.Random) -> Any:
    path = dice.choice([path for path in places(doc) if path[-1] != "name"])
    at(doc, path[:-1])[path[-1]] = dice.choice([odd for odd in ODD if type(odd) is not type(at(doc, path))])
    return doc


def unknown_field(doc: Doc, dice: random.Random) -> Any:
    objects = [path for path in places(doc) if isinstance(at(doc, path), dict)]
    at(doc, dice.choice(objects))[dice.choice(["prot", "nmae", "Spec", "x-y", "ü"])] = dice.choice(ODD)
    return doc


def missing_field(doc: Doc, dice: random.Random) -> Any:
    fields = [
        ("clusters", 0, "spec"),
        ("clusters", 0, "name"),
        ("listeners", 0, "spec"),
        ("listeners", 0, "rules"),
        ("listeners", 0, "name"),
    ]
    path = dice.choice(
        [*fields, ("listeners", 0, "spec", "port"), ("clusters", 0, "spec", "protocol"), ("listeners", 0, "rules", 1, "action")]
    )
    del at(doc, path[:-1])[path[-1]]
    return doc


def twice(doc: Doc, dice: random.Random) -> Any:
    section = dice.choice(["clusters", "listeners"])
    doc[section].append(copy.deepcopy(doc[section][0]))
    return doc


def dangling(doc: Doc, dice: random.Random) -> Any:
    rules = doc["listeners"][0]["rules"]
    dice.choice(
        [
            lambda: rules[0]["action"].update(route="nowhere"),
            lambda: rules[1]["action"]["route"].update(destination="nowhere"),
            lambda: rules[1]["action"]["route"].update(fallback="nowhere"),
            lambda: rules[1]["action"]["route"].update(ingress=["up", "nowhere"]),
            lambda: rules.append({"action": {"apply": "nowhere"}}),
            lambda: doc["listeners"][0].update(rules="nowhere"),
        ]
    )()
    return doc


def regex(doc: Doc, dice: random.Random) -> Any:
    bad = ["(", "a{1001}", "((a{1000}){1000}){1000}", "(?=a)", "(a)\\1", "[z-a]", "\\", "*", "(?<=a)b", "x{2,1}", "(" * 2000]
    doc["listeners"][0]["rules"][0]["match"]["matchHeader"]["value"] = dice.choice(bad)
    return doc


def ports(doc: Doc, dice: random.Random) -> Any:
    doc[dice.choice(["listeners", "clusters"])][0]["spec"]["port"] = dice.choice([-1, 65_536, "80", 1.5, 1 << 70])
    return doc


def cut(doc: Doc, dice: random.Random) -> Any:
    text = json.dumps(doc).encode()
    return text[: dice.randrange(1, len(text) - 1)]


def flipped(doc: Doc, dice: random.Random) -> Any:
    text = bytearray(json.dumps(doc).encode())
    text[dice.randrange(len(text))] = dice.choice([0, 0xFF, 0x80])
    return bytes(text)


def huge(doc: Doc, dice: random.Random) -> Any:
    return TEN_MEGABYTES


def deep(doc: Doc, dice: random.Random) -> Any:
    opening, closing = dice.choice([("[", "]"), ('{"a":', "}")])
    return b'{"clusters": ' + opening.encode() * 10_000 + b"1" + closing.encode() * 10_000 + b"}"


def many(doc: Doc, dice: random.Random) -> Any:
    return {**doc, "routes": [{} for _ in range(10_001)]}


def key_twice(doc: Doc, dice: random.Random) -> Any:
    return json.dumps(doc)[:-1].encode() + b', "listeners": []}'


def no_number(doc: Doc, dice: random.Random) -> Any:
    return (
        json.dumps(doc).replace('"weight": 1', f'"weight": {dice.choice(["NaN", "Infinity", "-Infinity", "1e999", "01", "0x1"])}').encode()
    )


def bomb(doc: Doc, dice: random.Random) -> Any:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, dice.randrange(6, 12))]
    return "yaml", "\n".join(lines).encode()


def bad_yaml(doc: Doc, dice: random.Random) -> Any:
    return "yaml", dice.choice(
        [b"a: [", b"a: *nowhere", b"a: &a [*a]", b"!!python/object:os.system {}", b"--- 1\n--- 2", b"\t- a", b"? [a]\n: b"]
    )


DAMAGES: tuple[Callable[[Doc, random.Random], Any], ...] = (
    wrong_type,
    wrong_type,
    unknown_field,
    missing_field,
    twice,
    dangling,
    regex,
    ports,
    cut,
    flipped,
    huge,
    deep,
    many,
    key_twice,
    no_number,
    bomb,
    bad_yaml,
)


def damaged(doc: Doc, i: int) -> tuple[str, str, bytes]:
    """The i-th damage: its name, the content type, the body."""
    damage = DAMAGES[i % len(DAMAGES)]
    found = damage(copy.deepcopy(doc), random.Random(i))
    kind, body = found if isinstance(found, tuple) else ("json", found)
    return damage.__name__, f"application/{kind}", body if isinstance(body, bytes) else json.dumps(body).encode()


def says_why(answer: Any) -> bool:
    """Does a refusal say what is wrong, and of a document that could be read also where?"""
    content = answer.get("content") if isinstance(answer, dict) else None
    if isinstance(content, list):
        return bool(content) and all(problem["message"] and problem.get("path", "").startswith("$") for problem in content)
    return isinstance(content, str) and len(content) > 10


async def soak(count: int) -> tuple[dict[str, Any], list[str]]:
    port = free_port()
    failures: list[str] = []
    statuses: dict[str, int] = {}
    seconds: dict[str, float] = {}
    async with upstream(b"ok", 0.002) as up:
        doc = good(port, up)
        with carrier(doc, "-l", "error") as one:

            def send(kind: str, body: bytes) -> tuple[int, Any]:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.settimeout(20)
                    sock.connect(one.socket)
                    return exchange(sock, request("POST", "/api/v1/config", body, content_type=kind))

            bodies = [damaged(doc, i) for i in range(count)]
            load = Load()
            clients = [asyncio.create_task(load.client(port, b"ok")) for _ in range(10)]
            before = await asyncio.to_thread(one.call, "GET", "/api/v1/config?document=true")
            for i, (name, kind, body) in enumerate(bodies):
                began = time.perf_counter()
                try:
                    status, answer = await asyncio.to_thread(send, kind, body)
                except (OSError, ValueError) as exc:
                    failures.append(f"{i} {name}: {exc!r}")
                    continue
                seconds[name] = max(seconds.get(name, 0.0), time.perf_counter() - began)
                statuses[f"{name} {status}"] = statuses.get(f"{name} {status}", 0) + 1
                if not 400 <= status < 500:
                    failures.append(f"{i} {name}: status {status} for {body[:200]!r}")
                elif not says_why(answer):
                    failures.append(f"{i} {name}: says {str(answer)[:200]}")
            after = await asyncio.to_thread(one.call, "GET", "/api/v1/config?document=true")
            if before != after:
                failures.append("the configuration has changed")
            load.stop = True
            await asyncio.gather(*clients)
    figures = {
        "configurations": count,
        "statuses": dict(sorted(statuses.items())),
        "longest s": {name: round(took, 3) for name, took in seconds.items() if took > 0.05},
        "requests meanwhile": len(load.seconds),
        "p99 ms": round(load.percentile(0.99), 1),
    }
    return figures, failures + load.failures


def run(count: int) -> tuple[dict[str, Any], list[str]]:
    """Send `count` of them; figures and what was wrong."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(soak(count))


if __name__ == "__main__":
    sys.exit(report("damaged", *run(number(500))))
