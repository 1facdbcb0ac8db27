"""All bridges at once: the same as one after the other, and in slices."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carrier.bridges.edits import Bridges
from carrier.bridges.many import bare, carried
from carrier.config.source import loads
from carrier.core.slices import whole
from carrier.errors import Error
from carrier.log import Log
from carrier.model import Config
from carrier.process.serve import Server, Settings, start
from tests.ports import free_port
from tests.support import cluster, config, listener

MANY = 400


def base(port: int = 8080, shadow: int = 9000, **more: Any) -> Config:
    upstream = {"name": "shadow", "spec": {"protocol": "HTTP", "port": shadow}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
    web = {"name": "web", "spec": {"protocol": "HTTP", "port": port, "address": "127.0.0.1"}}
    rules = [*more.get("rules", ()), {"name": "everybody", "action": {"route": {"destination": "shadow"}}}]
    return config(clusters=[upstream], listeners=[{**web, "rules": rules}])


def body(name: str, port: int = 8080, **more: Any) -> dict[str, Any]:
    match = {"matchHeader": {"name": "x-user", "value": name}}
    return {"port": port, "user": f"user-{name}", "match": match, "endpoint": "10.0.0.9:8000", **more}


def one_by_one(bridges: Bridges, old: Config, new: Config) -> tuple[Config, list[str]]:
    """What `carried` does at once."""
    said = []
    for name in old.bridges:
        try:
            new = bridges.put(new, name, bridges.dump(old, name))
        except Error as error:
            said.append(f"bridge {name!r} is gone: {error.detail}")
    return new, said


def same(one: Config, other: Config) -> bool:
    return msgspec.structs.replace(one, revision=0) == msgspec.structs.replace(other, revision=0)


def bodies(rng: random.Random) -> dict[str, dict[str, Any]]:
    """Bridges as people make them: by header, by path, with alternatives, copies, whole ports; some that get in each other's way."""
    found: dict[str, dict[str, Any]] = {}
    for n in range(rng.randint(1, 12)):
        name = f"b{n}"
        who = rng.choice(["ann", "bob", "cid", "dan", name])
        one: dict[str, Any] = {"matchHeader": {"name": "x-user", "value": who}}
        kind = rng.randrange(7)
        if kind == 0:
            found[name] = body(name, match={"matchPath": {"path": rng.choice(["/a", "/a/b", "/c"]), "type": "prefix"}})
        elif kind == 1:
            found[name] = body(name, match={"any": [one, {"matchHeader": {"name": "x-team", "value": who}}]})
        elif kind == 2:
            found[name] = body(name, match=[one, {"matchPath": {"path": "/a", "type": "prefix"}}])
        elif kind == 3:
            found[name] = body(name, match=one, mirror=True)
        elif kind == 4 and rng.random() < 0.4:
            found[name] = {"port": 8080, "user": name, "type": "stream", "endpoint": "10.0.0.9:8000"}
        else:
            found[name] = body(name, match=one, fallback=rng.choice([None, "error"]))
    return found


@pytest.mark.parametrize("seed", range(150))
def test_carried_at_once_or_one_after_the_other_is_the_same(seed: int) -> None:
    rng = random.Random(seed)
    bridges = Bridges()
    old = base()
    for name, asked in bodies(rng).items():
        try:
            old = bridges.put(old, name, asked)
        except Error:
            continue
    rules = []
    if rng.random() < 0.5:
        rules.append(
            {"name": "teams", "match": {"matchHeader": {"name": "x-user", "value": "ann"}}, "action": {"route": {"destination": "shadow"}}}
        )
    if rng.random() < 0.2:
        rules.append(
            {"name": "b1", "match": {"matchPath": {"path": "/a", "type": "prefix"}}, "action": {"route": {"destination": "shadow"}}}
        )
    new = base(port=rng.choice([8080, 8080, 8080, 8081]), shadow=9001, rules=rules)
    found, said = whole(carried(bridges, old, new))
    wanted, lost = one_by_one(bridges, old, new)
    assert sorted(said) == sorted(lost)
    assert same(found, wanted)


def test_what_stands_in_each_other_s_way_is_told_as_of_one_bridge() -> None:
    bridges = Bridges()
    old = base()
    for name in ("ann", "bob", "cid"):
        old = bridges.put(old, name, body(name))
    rules = [{"name": "mine", "match": {"matchHeader": {"name": "x-user", "value": "bob"}}, "action": {"route": {"destination": "shadow"}}}]
    found, (said,) = whole(carried(bridges, old, base(rules=rules)))
    assert list(found.bridges) == ["ann", "cid"] and said.startswith("bridge 'bob' is gone: bridge 'bob' of user user-bob can never fire")


def test_bare_is_as_if_there_had_never_been_one() -> None:
    bridges, old = Bridges(), base()
    for n in range(20):
        old = bridges.put(old, f"b{n}", body(f"b{n}", mirror=n % 3 == 0))
    assert same(whole(bare(bridges, old)), base())
    assert whole(bare(bridges, base())).bridges == {}


# --- in a running carrier ---------------------------------------------------------------------------------------------------------


class Turns:
    """The longest turn of the loop, in seconds of this thread's processor time: what others do on the machine does not count."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def during(self, work: Awaitable[Any]) -> float:
        """Seconds of processor time, of this thread, that the work took."""
        loop, on, last = asyncio.get_running_loop(), True, time.thread_time()

        def turn() -> None:
            nonlocal last
            now = time.thread_time()
            self.longest = max(self.longest, now - last)
            last = now
            if on:
                loop.call_soon(turn)

        loop.call_soon(turn)
        await asyncio.sleep(0)
        gc.disable()  # as of a process that serves: what other tests have left is not looked through (carrier/process/serve.py)
        before, self.longest = time.thread_time(), 0.0
        try:
            await work
        finally:
            gc.enable()
        took = time.thread_time() - before
        await asyncio.sleep(0)
        on = False
        return took


TEXT = """
listeners:
  - name: web
    spec: {protocol: HTTP, port: %d, address: 127.0.0.1}
    rules:
      - name: everybody
        action: {route: {destination: {name: shadow, spec: {protocol: HTTP, port: %d}, endpoints: [{spec: {address: 127.0.0.1}}]}}}
"""


async def started(folder: Path, text: str) -> Server:
    file = folder / "carrier.yaml"
    file.write_text(text)
    settings = Settings(admin=None, file=str(file), text=text, state=str(folder / "state"))
    return await start(loads(text).config, Log(), settings)


async def test_400_bridges_are_reloaded_posted_and_started_with_in_the_time_of_one_after_the_other_and_no_turn_is_long(
    tmp_path: Path,
) -> None:
    port = free_port()
    server = await started(tmp_path, TEXT % (port, 9000))
    try:
        whole = server.proxy.config
        before = time.thread_time()
        for n in range(MANY):
            whole = server.bridges.put(whole, f"b{n}", body(f"b{n}", port, endpoint=f"10.0.{n // 200}.{n % 200 + 1}:8000"))
        each = time.thread_time() - before
        await server.proxy.apply(whole)
        file, turns = tmp_path / "carrier.yaml", Turns()
        file.write_text(TEXT % (port, 9001))
        took = await turns.during(server.base.read_again("it has changed"))
        assert len(server.proxy.config.bridges) == MANY and server.proxy.config.clusters["shadow"].spec["port"] == 9001
        assert took < each and turns.longest < each / 10
        document = json.dumps({"listeners": [{
            "name": "web", "spec": {"protocol": "HTTP", "port": port, "address": "127.0.0.1"},
            "rules": [{"name": "everybody", "action": {"route": {"destination": cluster("other", 9002, protocol="HTTP")}}}],
        }]}).encode()  # fmt: skip

        async def post() -> None:
            answer = await server.api.call("POST", "/api/v1/config", "", {"content-type": "application/json"}, document)
            assert answer.status == 200

        took = await turns.during(post())
        assert len(server.proxy.config.bridges) == MANY and server.proxy.config.routes["bridge/b7"].fallback == "other"
        assert took < each and turns.longest < each / 10
    finally:
        await server.close()
    before = time.thread_time()
    server = await started(tmp_path, TEXT % (port, 9003))
    took = time.thread_time() - before
    assert len(server.proxy.config.bridges) == MANY and took < each
    await server.close()


async def test_other_changes_wait_for_their_turn_and_lose_nothing(tmp_path: Path) -> None:
    port = free_port()
    server = await started(tmp_path, TEXT % (port, 9000))
    try:
        whole = server.proxy.config
        for n in range(60):
            whole = server.bridges.put(whole, f"b{n}", body(f"b{n}", port))
        await server.proxy.apply(whole)
        (tmp_path / "carrier.yaml").write_text(TEXT % (port, 9001))

        async def put(n: int) -> int:
            asked = json.dumps(body(f"c{n}", port)).encode()
            return (await server.api.call("PUT", f"/api/v1/bridges/c{n}", "", {"content-type": "application/json"}, asked)).status

        reload = asyncio.create_task(server.base.read_again("it has changed"))
        assert [*await asyncio.gather(*map(put, range(5)))] == [201] * 5 and await reload
        assert len(server.proxy.config.bridges) == 65 and server.proxy.config.clusters["shadow"].spec["port"] == 9001
    finally:
        await server.close()


def test_a_listener_of_another_kind_is_left_alone() -> None:
    bridges = Bridges()
    old = bridges.put(base(), "ann", body("ann"))
    new = config(clusters=[cluster("up", 1)], listeners=[listener("raw", "up", port=8080)])
    found, (said,) = whole(carried(bridges, old, new))
    assert found is new and "'ann' is gone" in said
