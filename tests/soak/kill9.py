"""`kill -9` at a random moment of a writer, again and again: what was acknowledged is there after the restart, and nothing is half.

Each change sets two clusters to the same number in one `POST /config`. After the kill the process is started again on the same state:
both numbers must be equal, and at least the one that was acknowledged last; so must the revision.
"""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import time
from typing import Any

from tests.soak.process import Carrier, carrier, number, report


def document(n: int) -> dict[str, Any]:
    """A configuration whose two clusters say `n`."""
    return {"clusters": [{"name": name, "spec": {"protocol": "Echo"}, "options": {"max_connections": n}} for name in ("left", "right")]}


class Writer(threading.Thread):
    """Changes the configuration until the process is gone. acknowledged: the last number that was answered 200, revision: and its own."""

    def __init__(self, to: Carrier, first: int) -> None:
        super().__init__()
        self.to = to
        self.acknowledged, self.first = first - 1, first
        self.writes = 0

    def run(self) -> None:
        n = self.first
        with contextlib.suppress(OSError):
            while self.to.call("POST", "/api/v1/config", document(n))[0] == 200:
                self.acknowledged = n
                self.writes += 1
                n += 1


def numbers(of: Carrier) -> list[int]:
    return [
        of.call("GET", f"/api/v1/clusters/{name}")[1].get("options", {"max_connections": 0})["max_connections"]
        for name in ("left", "right")
    ]


def run(times: int, seed: int = 1) -> tuple[dict[str, Any], list[str]]:
    """Kill `times` times; figures and what was wrong."""
    failures: list[str] = []
    dice = random.Random(seed)
    writes, found = 0, 0
    with carrier(document(0), "-l", "warn") as one:
        one.kill()
        one.arguments += ["--state", str(one.folder / "state")]
        one.start()
        for i in range(times):
            writer = Writer(one, found + 1)
            writer.start()
            time.sleep(dice.uniform(0.002, 0.15))
            one.kill()
            writer.join()
            writes += writer.writes
            one.start()
            left, right = numbers(one)
            if left != right:
                failures.append(f"kill {i}: half a change: {left} and {right}")
            if left < writer.acknowledged:
                failures.append(f"kill {i}: {writer.acknowledged} was acknowledged, {left} is there")
            found = left
        damaged = [path.name for path in (one.folder / "state").iterdir() if path.suffix == ".damaged"]
        failures += [f"a damaged file: {name}" for name in damaged]
    return {"kills": times, "acknowledged writes": writes}, failures


if __name__ == "__main__":
    sys.exit(report("kill9", *run(number(100))))
