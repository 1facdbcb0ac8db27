"""Large configurations: how long a process takes to start with so many rules, and how much memory is resident then.

`python -m tests.soak.size [RULES]`; 10,000 rules start within 2 s and 120 MiB, 100,000 within 20 s and 700 MiB.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from tests.ports import free_port
from tests.soak import process
from tests.soak.memory import resident
from tests.soak.process import carrier, number, report

LIMITS = {10_000: (2.0, 120), 100_000: (20.0, 700)}
"""Rules -> seconds and MiB."""


def document(rules: int) -> dict[str, Any]:
    """One port with so many rules, each with a route of its own."""
    listed = [
        {
            "name": f"rule-{i}",
            "match": {"matchHeader": {"name": "x-user", "value": f"user-{i}"}},
            "action": {"route": {"destination": "echo"}},
        }
        for i in range(rules)
    ]
    web = {"name": "web", "spec": {"protocol": "HTTP", "address": "127.0.0.1", "port": free_port()}, "rules": listed}
    return {"clusters": [{"name": "echo", "spec": {"protocol": "Echo"}}], "listeners": [web]}


def used(pid: int) -> float:
    """Processor seconds of a process (proc(5)): on a machine that others work on, the clock says little."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(rules: int) -> tuple[dict[str, Any], list[str]]:
    """Start with so many rules: seconds until it is ready, MiB then."""
    process.PATIENCE = 300.0
    began = time.monotonic()
    with carrier(document(rules)) as running:
        seconds = time.monotonic() - began
        memory = resident(running.pid) >> 20
        processor = used(running.pid)
    most = LIMITS.get(rules, (float("inf"), 1 << 20))
    seen_most = (("s", processor, most[0]), ("MiB", memory, most[1]))
    failures = [f"{what}: {seen}, at most {limit}" for what, seen, limit in seen_most if seen > limit]
    return {"rules": rules, "seconds": round(seconds, 2), "of a processor": processor, "MiB": memory}, failures


if __name__ == "__main__":
    sys.exit(report("size", *run(number(10_000))))
