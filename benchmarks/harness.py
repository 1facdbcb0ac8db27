"""The benchmark: start the peers, check that each does the job, time them in turns, print ratios first. `python -m benchmarks --help`.

For each scenario all peers stand side by side in front of one backend. Rounds go A B C A B C, so that what changes on the machine in the
meantime touches all of them; the ratio compares within a round. The proxy has one core, load and backend have the other.
"""

import argparse
import json
import os
import platform
import signal
import socket
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import check, report
from benchmarks.h2 import H2
from benchmarks.http import HTTP, RULES, TLS
from benchmarks.measure import LOAD_CORE, PROXY_CORE, core_busy, tree_cpu, tree_rss
from benchmarks.peers import Job, Peer, usual_job, version
from benchmarks.peers.registry import DIRECT, OURS, PEERS
from benchmarks.processes import Child, Children, StartError, free_ports, start_backend, wait_for_port
from benchmarks.report import Result, Sample
from benchmarks.scenario import Scenario, Target
from benchmarks.tcp import TCP
from benchmarks.udp import UDP
from benchmarks.websocket import WEBSOCKET

SCENARIOS: dict[str, tuple[Scenario, ...]] = {
    "http": HTTP,
    "h2": H2,
    "tls": TLS,
    "rules": RULES,
    "tcp": TCP,
    "udp": UDP,
    "websocket": WEBSOCKET,
}
WARM_UP_SECONDS = 0.5


class Standing:
    """A peer that is up and was checked; `child` is None for the row without a proxy."""

    def __init__(self, name: str, target: Target, child: Child | None):
        self.name = name
        self.target = target
        self.child = child

    def measure(self, scenario: Scenario, seconds: float) -> Sample:
        """One round. Raises `StartError` when the proxy has died of it."""
        pid = self.child.pid if self.child else 0
        cpu, busy = (tree_cpu(pid) if pid else 0.0), core_busy(PROXY_CORE)
        load = scenario.drive(self.target, seconds)
        used = tree_cpu(pid) - cpu if pid else 0.0
        others = max(0.0, core_busy(PROXY_CORE) - busy - used) / load.seconds
        if self.child and not self.child.alive():
            raise StartError(f"{self.name} ended under load: {self.child.said()}")
        rss = tree_rss(pid) if pid else 0
        return Sample(load.operations, load.seconds, used if pid else None, load.p50, load.p99, load.errors, rss, others)


def start_peer(children: Children, peer: Peer, scenario: Scenario, ports: dict[str, int]) -> Standing:
    """Start and check one peer. Raises `StartError` or `WrongRoute`."""
    kind = socket.SOCK_DGRAM if scenario.protocol == "udp" else socket.SOCK_STREAM
    job = job_of(scenario, free_ports(1, kind)[0], ports)
    directory = children.directory / f"{peer.name}-{job.port}"
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)  # nginx's worker gives up root
    command = peer.prepare(job, directory)
    child = children.start(peer.name, command.arguments, PROXY_CORE, command.env)
    if kind == socket.SOCK_STREAM:
        wait_for_port(job.port, child)
    if scenario.backend == "sink":
        check.wait_for_sink(job.port, ports["sink"])
    else:
        check.check(job, peer.routes)
    return Standing(peer.name, Target(job.port, ports["sink"]), child)


def job_of(scenario: Scenario, port: int, ports: dict[str, int]) -> Job:
    """The job of a scenario: all HTTP backends, or the one server behind a relay."""
    names = ("A", "B", "D") if scenario.backend == "D" else (scenario.backend,)
    backends = {name: ports[name] for name in names} if scenario.backend == "D" else {"D": ports[scenario.backend]}
    return usual_job(scenario.protocol, port, backends)


def run_scenario(scenario: Scenario, peers: Sequence[Peer], rounds: int, seconds: float) -> Result:
    """Start all peers that can, time them in turns, end them."""
    result = Result(scenario.name, scenario.unit, "")
    with Children() as children:
        ports = start_backend(children, ("A", "B", "D"))
        standing = list(_start_all(children, scenario, peers, ports, result))
        for each in standing:
            each.measure(scenario, WARM_UP_SECONDS)
        for _ in range(rounds):
            for each in standing:
                result.samples.setdefault(each.name, []).append(each.measure(scenario, seconds))
    names = [name for name in result.samples if name != DIRECT]
    result.reference = OURS if OURS in names else next(iter(names), "")
    return result


def _start_all(children: Children, scenario: Scenario, peers: Sequence[Peer], ports: dict[str, int], result: Result) -> Iterable[Standing]:
    """All peers that do the job; why the others do not is noted in `result`."""
    for peer in peers:
        if scenario.protocol not in peer.protocols:
            continue
        why = peer.missing(scenario.protocol)
        try:
            if why is None:
                yield start_peer(children, peer, scenario, ports)
        except (StartError, check.WrongRoute, OSError) as error:
            why = str(error)
        if why:
            result.skipped[peer.name] = why
    if scenario.direct:
        yield Standing(DIRECT, Target(ports[scenario.backend], ports["sink"]), None)


def machine(peers: Sequence[Peer]) -> dict[str, Any]:
    """What the figures depend on."""
    with open("/proc/cpuinfo") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    present = [peer for peer in peers if peer.missing(peer.protocols[0]) is None]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {peer.name: version(peer) for peer in present},
    }


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="CPU per request of Carrier2 and its peers, side by side.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--short", action="store_true", help="the main scenarios, 3 rounds of 1 s each")
    parser.add_argument("--peers", help="comma-separated names (default: all that are installed; some only when named)")
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--rounds", type=int, help="rounds of each scenario (default 5)")
    parser.add_argument("--seconds", type=float, help="length of one round (default 3; wrk takes whole seconds)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, with the single samples, to FILE")
    options = parser.parse_args(argv)
    unknown = [group for group in options.groups if group not in SCENARIOS]
    names = {peer.name for peer in PEERS}
    unknown += [name for name in (options.peers or "").split(",") if name and name not in names]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; groups are {', '.join(SCENARIOS)}; peers are {', '.join(sorted(names))}")
    return options


def chosen(options: argparse.Namespace) -> list[Scenario]:
    """The scenarios that the command line asks for."""
    found = [scenario for group in options.groups or SCENARIOS for scenario in SCENARIOS[group] if options.only in scenario.name]
    return [scenario for scenario in found if scenario.short or not options.short or options.only]


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 when every scenario had somebody to measure, 1 otherwise, 130 after Ctrl-C."""
    options = arguments(argv)
    rounds = options.rounds or (3 if options.short else 5)
    seconds = options.seconds or (1.0 if options.short else 3.0)
    wanted = options.peers.split(",") if options.peers else None
    peers = [
        peer for peer in PEERS if (peer.name in wanted if wanted is not None else not getattr(peer, "apart", getattr(peer, "more", ())))
    ]
    results: list[Result] = []
    with ExitStack() as restore:
        _settle(restore)
        try:
            for scenario in chosen(options):
                results.append(run_scenario(scenario, peers, rounds, seconds))
                print(report.table(results[-1]), flush=True)
        except KeyboardInterrupt:
            print("interrupted; what was measured until then:", file=sys.stderr)
        known = machine(peers)
    print(report.summary(results) + f"\n{known['cpu']}, {known['cores']} cores, Linux {known['kernel']}, Python {known['python']}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report.as_json(results, known), indent=1))
    if len(results) < len(chosen(options)):
        return 130
    return 0 if results and all(result.samples for result in results) else 1


def _settle(restore: ExitStack) -> None:
    """Take the load's core, and let SIGTERM end us as Ctrl-C does, for the time of the run."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CORE})
    restore.callback(os.sched_setaffinity, 0, cores)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    restore.callback(signal.signal, signal.SIGTERM, before)
