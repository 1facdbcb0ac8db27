"""Changes under load: 30 keep-alive clients on one route and 10 on another, while rules and clusters come and go.

Each round adds a rule and a cluster in front of the others, reads them back, sends a request that only they serve over a new connection
and over one that was there before, deletes them, and sees on both that the requests go where they went before. No request
may fail or go astray, and the clients' p99 stays within 1.2 of what it was without changes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import uvloop

from tests.ports import free_port
from tests.soak.process import Client, Load, call, carrier, number, report, upstream

PHASES = 5
"""With and without changes in turn, so that what else the machine does meets both."""
DELAY = 0.005
"""Seconds that an upstream takes: clients are not to fill the machine, which the change has to share."""


def backend(name: str, port: int) -> dict[str, Any]:
    return {"name": name, "spec": {"protocol": "HTTP", "port": port}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}


def to(header: str | None, cluster: str) -> dict[str, Any]:
    match = {"match": {"matchHeader": {"name": "x-to", "value": header}}} if header else {}
    return {**match, "action": {"route": {"destination": cluster}}}


async def rounds(api: str, port: int, extra: int, seconds: float) -> tuple[int, list[str]]:
    """Add, read back, use, delete, until the time is over: how often, and what was wrong. api: the path of its socket."""
    until = time.monotonic() + seconds
    failures: list[str] = []
    old = await Client.to(port, x_to="new")
    count = 0

    def change(method: str, path: str, body: Any = None) -> Any:
        status, answer = call(api, method, f"/api/v1{path}", body)
        if status != 200:
            failures.append(f"{method} {path}: {status} {answer}")
        return answer

    async def both(wanted: bytes, when: str) -> None:
        new = await Client.to(port, x_to="new")
        for client, which in ((old, "an existing"), (new, "a new")):
            status, body, _ = await client.ask()
            if (status, body) != (200, wanted):
                failures.append(f"{when}: {which} connection got {status} {body!r}, wanted {wanted!r}")
        new.close()

    while time.monotonic() < until:
        change("POST", "/clusters", {"cluster": backend("extra", extra)})
        rule = {"name": "extra", **to("new", "extra")}
        change("POST", "/rulelists/web/rules/0", {"rule": rule})
        if change("GET", "/rules/extra")["match"] != rule["match"]:
            failures.append("the rule that was read back is another one")
        await both(b"extra", "after adding")
        change("DELETE", "/rulelists/web/rules/extra?recursive=true")
        change("DELETE", "/clusters/extra?recursive=true")
        await both(b"one", "after deleting")
        count += 1
    old.close()
    return count, failures


def in_a_process(*arguments: Any) -> tuple[int, list[str]]:
    """`rounds` in a process of its own: what it does must not slow the clients that are measured."""
    return asyncio.run(rounds(*arguments))


async def soak(seconds: float) -> tuple[dict[str, Any], list[str]]:
    port = free_port()
    async with upstream(b"one", DELAY) as a, upstream(b"two", DELAY) as b, upstream(b"extra", 0) as c:
        config = {
            "clusters": [backend("one", a), backend("two", b)],
            "rulelists": [{"name": "web", "rules": [to("two", "two"), to(None, "one")]}],
            "listeners": [{"name": "web", "spec": {"protocol": "HTTP", "port": port, "address": "127.0.0.1"}, "rules": "web"}],
        }
        with carrier(config, "-l", "warn") as one, ProcessPoolExecutor(1, get_context("spawn")) as pool:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(pool, in_a_process, one.socket, port, c, 0.1)  # it is to be there before anything is measured
            idle, busy = Load(), Load()
            failures: list[str] = []
            changes = 0
            for load in (idle, busy) * PHASES:
                load.stop = False
                clients = [load.client(port, b"one") for _ in range(30)] + [load.client(port, b"two", x_to="two") for _ in range(10)]
                tasks = [asyncio.create_task(client) for client in clients]
                if load is busy:
                    count, wrong = await loop.run_in_executor(pool, in_a_process, one.socket, port, c, seconds / PHASES)
                    changes += count
                    failures += wrong
                else:
                    await asyncio.sleep(seconds / PHASES)
                load.stop = True
                await asyncio.gather(*tasks)
    figures = {
        "requests": len(busy.seconds),
        "rounds of 4 changes": changes,
        "p50 ms": [round(load.percentile(0.5), 2) for load in (idle, busy)],
        "p99 ms": [round(load.percentile(0.99), 2) for load in (idle, busy)],
        "p99 ratio": round(busy.percentile(0.99) / idle.percentile(0.99), 3),
    }
    return figures, failures + idle.failures + busy.failures


def run(seconds: float) -> tuple[dict[str, Any], list[str]]:
    """Churn for so long; figures and what was wrong, the p99 apart: that is for a quiet machine to judge."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(soak(seconds))


if __name__ == "__main__":
    figures, failures = run(number(5))
    if figures["p99 ratio"] > 1.2:
        failures.append(f"p99 is {figures['p99 ratio']} times that without changes")
    sys.exit(report("churn", figures, failures))
