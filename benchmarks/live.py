"""What it costs to see: `python -m benchmarks.live [--rounds N] [--seconds S] [VARIANT ...]`.

The same carrier many times in front of one backend: with nothing on, with each way to see what happens, with all of them, and with fifty
viewers of its events. Requests have a browser's fields and one that never repeats, or (`--repeating`) heads that do. Rounds go A B C
A B C; a difference is taken within a round, against the variant that it is compared with, and the median of the rounds is shown. Then each
runs once more and tells the longest turn of its event loop (benchmarks/turns.py).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import wrk
from benchmarks.http import UNIQUE
from benchmarks.load.http import TRACE
from benchmarks.measure import LOAD_CORE, PROXY_CORE, core_busy, median, tree_cpu
from benchmarks.peers import usual_job
from benchmarks.peers.carrier import START, config
from benchmarks.processes import Child, Children, free_ports, start_backend, wait_for_port, wait_until
from benchmarks.scenario import Load, Target

CONNECTIONS = 64
TRACED = b"traceparent: 00-4bf92f3577b34da6" + TRACE + b"-00f067aa0ba902b7-01"
UNKNOWN = [request.replace(TRACED, b"x-unique: " + TRACE) for request in UNIQUE]
"""Of these the ratio decides which are traced, nobody before us has; and we make their ids."""
KNOWN = [request.replace(TRACED, b"x-request-id: " + TRACE) for request in UNIQUE]
"""These have an id."""
VIEWERS = 50
OFF, USUAL = "off", "usual"
LOG = {"path": "DIR/access.log", "fields": ["trace", "upstream", "first_byte", "retries", "agent"]}
TRACES = {"endpoint": "http://127.0.0.1:COLLECTOR", "ratio": 0.01}
BARE = ("--no-metrics",)

ALL = [
    "&".join(filter(None, parts))
    for parts in product(("", "listener=front"), ("", "protocol=HTTP"), ("", "status=200", "status=2xx"), ("", "path=/"))
]
FILTERS = (*ALL, *(f"user=u{number}" for number in range(VIEWERS - len(ALL))))
"""All different: the first ones let everything pass, the others nothing."""


@dataclass(frozen=True)
class Variant:
    """admin, front: what the configuration says beyond the job, of the process and as options of the listener. options: of the command.
    ids: requests come without one, and get it. kept: somebody has watched, so that the ring is kept. viewers: queries of those who watch.
    beside: what it is compared with."""

    beside: str = OFF
    admin: dict[str, Any] = field(default_factory=dict)
    front: dict[str, Any] = field(default_factory=dict)
    options: Sequence[str] = BARE
    kept: bool = False
    ids: bool = True
    viewers: Sequence[str] = ()


VARIANTS: dict[str, Variant] = {
    OFF: Variant(ids=False),
    "metrics": Variant(options=(), ids=False),
    "log": Variant(admin={"access_log": LOG}, ids=False),
    "ids": Variant(),
    "ring": Variant(kept=True, ids=False),
    "traces 1 %": Variant(admin={"traces": TRACES}, ids=False),
    "everything": Variant(admin={"access_log": LOG, "traces": TRACES}, options=(), kept=True),
    "answer ids": Variant(front={"answer_id": True}),
    USUAL: Variant(options=()),
    "50 viewers": Variant(USUAL, options=(), viewers=("",) * VIEWERS),
    "50 filters": Variant(USUAL, options=(), viewers=FILTERS),
}


@dataclass
class Standing:
    """A variant that runs. watching: its viewers; longest: where the turns are told."""

    name: str
    child: Child
    port: int
    watching: Child | None
    longest: Path


def written(variant: Variant, folder: Path, port: int, admin: int, ports: dict[str, int]) -> Path:
    """The configuration of a variant, in a file. port, admin: where it listens; ports: of the backend."""
    told = config(usual_job("http", port, {name: ports[name] for name in ("A", "B", "D")}), "http", admin)
    told["listeners"][0]["options"] = dict(variant.front)
    told["admin"] = variant.admin
    file = folder / "carrier.json"
    file.write_text(json.dumps(told).replace("DIR", str(folder)).replace("COLLECTOR", str(ports["D"])))
    return file


def start(children: Children, name: str, ports: dict[str, int], measured: bool = False) -> Standing:
    """Start a variant. measured: its turns are."""
    variant = VARIANTS[name]
    folder = children.directory / f"{name.replace(' ', '-')}{'-turns' if measured else ''}"
    folder.mkdir()
    port, admin = free_ports(2)
    file, longest = written(variant, folder, port, admin, ports), folder / "longest"
    first = [sys.executable, "-m", "benchmarks.turns", str(longest)] if measured else [sys.executable, "-c", START]
    command = [*first, "run", "-c", str(file), "-l", "error", "--admin-socket", "off", *variant.options]
    child = children.start(folder.name, command, PROXY_CORE)
    wait_for_port(port, child, 60)
    if variant.kept:
        children.stop(watch(children, folder.name, admin, ("",)))
    watching = watch(children, folder.name, admin, variant.viewers) if variant.viewers else None
    return Standing(name, child, port, watching, longest)


def watch(children: Children, name: str, port: int, queries: Sequence[str]) -> Child:
    """Viewers that have begun."""
    child = children.start(f"{name}-viewers", [sys.executable, "-m", "benchmarks.viewers", str(port), *queries], LOAD_CORE, pipe=True)
    assert child.process.stdout
    if child.process.stdout.readline() != "watching\n":
        raise RuntimeError(f"nobody watches {name}: {child.said()}")
    return child


def seen(children: Children, watching: Child) -> dict[str, int]:
    """End viewers; what they have seen."""
    assert watching.process.stdin and watching.process.stdout
    watching.process.stdin.close()
    found: dict[str, int] = json.loads(watching.process.stdout.readline())
    children.stop(watching)
    return found


def drive(one: Standing, seconds: float, repeating: bool) -> Load:
    """One round of load. Raises RuntimeError when a request has failed."""
    requests = UNKNOWN if VARIANTS[one.name].ids else KNOWN
    if repeating:
        requests = [request.replace(TRACE, b"0" * 16) for request in requests]
    load = wrk.drive(Target(one.port), seconds, requests, CONNECTIONS)
    if load.errors or not load.operations:
        raise RuntimeError(f"{one.name}: {load.errors} errors of {load.operations} requests")
    return load


@dataclass
class Row:
    """What was found of one variant: microseconds a request in each round, requests a second, what its viewers saw, the longest turn."""

    costs: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)
    turn: float = 0.0


def compare(names: Sequence[str], rounds: int, seconds: float, repeating: bool) -> tuple[dict[str, Row], float]:
    """Rows by name; and the largest share of the proxies' core that others had in a round."""
    rows = {name: Row() for name in names}
    worst = 0.0
    with Children() as children:
        ports = start_backend(children, ("A", "B", "D"))
        standing = [start(children, name, ports) for name in names]
        for turn in range(rounds + 1):  # the first warms up
            for one in standing:
                before, busy = tree_cpu(one.child.pid), core_busy(PROXY_CORE)
                load = drive(one, seconds, repeating)
                used = tree_cpu(one.child.pid) - before
                if turn:
                    rows[one.name].costs.append(used / load.operations * 1e6)
                    rows[one.name].rates.append(load.operations / load.seconds)
                    worst = max(worst, (core_busy(PROXY_CORE) - busy - used) / load.seconds)
        for one in standing:
            if one.watching is not None:
                rows[one.name].seen = seen(children, one.watching)
    for name in names:  # each alone: it never rests
        with Children() as children:
            rows[name].turn = longest(start(children, name, start_backend(children, ("A", "B", "D")), True), seconds, repeating)
    return rows, worst


def longest(one: Standing, seconds: float, repeating: bool) -> float:
    """The longest turn of a variant under load, in seconds."""

    def told() -> float:
        with contextlib.suppress(FileNotFoundError):
            one.longest.unlink()
        os.kill(one.child.pid, signal.SIGUSR2)
        wait_until(one.longest.exists, one.child)
        return float(one.longest.read_text())

    drive(one, seconds, repeating)
    time.sleep(1)
    told()
    drive(one, seconds, repeating)
    return told()


def table(rows: dict[str, Row]) -> str:
    """As text."""
    lines = [f"{'':12s} {'us a request':>12s} {'more':>7s} {'ratio':>18s} {'per second':>10s} {'longest turn':>12s}"]
    for name, row in rows.items():
        beside = rows.get(VARIANTS[name].beside)
        line = f"{name:12s} {median(row.costs) or 0:12.1f}"
        if beside is not None and beside is not row:
            pairs = list(zip(row.costs, beside.costs, strict=True))
            ratios = [mine / other for mine, other in pairs]
            more = median(mine - other for mine, other in pairs)
            line += f" {more:+7.1f} {median(ratios):6.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        else:
            line += " " * 27
        line += f" {median(row.rates) or 0:10,.0f} {row.turn * 1000:9.1f} ms"
        if row.seen:
            line += f"   {row.seen['events']:,} events told, {row.seen['lost']:,} lost"
        lines.append(line)
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0, or 1 without wrk."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live", description="What it costs to see what happens.")
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"of {', '.join(VARIANTS).replace('%', '%%')} (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--repeating", action="store_true", help="heads that repeat")
    options = parser.parse_args(argv)
    if unknown := set(options.variants) - set(VARIANTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if not wrk.installed():
        print("wrk is not installed", file=sys.stderr)
        return 1
    os.sched_setaffinity(0, {LOAD_CORE})
    names = [name for name in VARIANTS if not options.variants or name in options.variants]
    rows, worst = compare(names, options.rounds, options.seconds, options.repeating)
    print(table(rows))
    print(f"others had {worst:.0%} of the proxies' core in the worst round")
    return 0


if __name__ == "__main__":
    sys.exit(main())
