"""Ours: `carrier run -c FILE` with the same job in our own YAML, and variants of it.

`carrier-ws` ends WebSocket itself (listener and cluster) where `carrier` passes the Upgrade on; `carrier-100` and `carrier-1000` have so
many rules more, `carrier-2` and `carrier-20` so many endpoints in each cluster, round robin; `carrier-bare` counts and logs nothing of
sessions, `carrier-watched` counts them and writes an access log to a file. `carrier-other` is that of another tree, which CARRIER_OTHER
names (a `git worktree` of an older commit, after `make venv` there).
"""

import compileall
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from benchmarks.peers import H2, PROTOCOLS, Command, Job, certificate
from benchmarks.processes import free_ports

SPELLING = dict.fromkeys(("http", "tls", "rules", "large", *H2), "HTTP") | {
    "tcp": "TCP",
    "bulk": "TCP",
    "udp": "UDP",
    "websocket": "WebSocket",
}
START = "import sys; from carrier.cli.main import main; sys.exit(main())"  # the command of this tree, installed or not


class Carrier:
    """Carrier2 of this tree."""

    routes = True
    version_command = (sys.executable, "--version")

    def __init__(
        self,
        name: str = "carrier",
        protocols: Sequence[str] = PROTOCOLS,
        rules: int = 0,
        more: Sequence[str] = (),
        endpoints: int = 1,
        tree: str = "",
    ):
        self.name = name
        self.endpoints = endpoints
        self.tree = tree
        self.apart = bool(more or tree or endpoints > 1)  # only when it is named
        self.protocols = protocols
        self.rules = rules  # exact header rules that no request meets, before the others
        self.more = more  # options of the command; DIR is the directory of this run

    def missing(self, protocol: str) -> str | None:
        """See `Peer`."""
        if importlib.util.find_spec("carrier.cli.main") is None:
            return "carrier.cli.main is not there yet"
        if self.tree and not Path(self.tree, ".venv", "bin", "carrier").exists():
            return f"CARRIER_OTHER: {self.tree} has no .venv"
        return _no_websocket() if self.name == "carrier-ws" else None

    def prepare(self, job: Job, directory: Path) -> Command:
        """See `Peer`."""
        _compile()
        file = directory / "carrier.yaml"
        protocol = "http" if job.protocol == "websocket" and self.name in ("carrier", "carrier-other") else job.protocol
        users = {f"nobody-{number}": job.default for number in range(self.rules)} | dict(job.users)
        told = config(replace(job, users=users), protocol, free_ports(1)[0], self.endpoints)
        if job.protocol == "tls":
            pem = str(certificate(directory))
            told["listeners"][0]["spec"]["tls"] = {"certificate": pem, "key": pem}
        file.write_text(yaml.safe_dump(told, sort_keys=False))
        more = [option.replace("DIR", str(directory)) for option in self.more]
        start = [f"{self.tree}/.venv/bin/carrier"] if self.tree else [sys.executable, "-c", START]
        return Command([*start, "run", "-c", str(file), "-l", "error", *more])


@cache
def _compile() -> None:
    """As pip does when it installs: to compile at each start would count a MiB of the compiler's as ours."""
    for package in ("carrier", "listeners", "clusters", "transforms"):
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            compileall.compile_dir(folder, quiet=2)


def _no_websocket() -> str | None:
    found = importlib.util.find_spec("listeners.websocket") and importlib.util.find_spec("clusters.websocket")
    return None if found else "no WebSocket listener and cluster yet"


def _endpoints(number: int) -> dict[str, Any]:
    """So many of one address: each has its own connections."""
    found: dict[str, Any] = {"endpoints": [{"spec": {"address": "127.0.0.1"}} for _ in range(number)]}
    return found | ({"loadbalancer": {"policy": "round_robin"}} if number > 1 else {})


def config(job: Job, protocol: str, admin_port: int, endpoints: int = 1) -> dict[str, Any]:
    """The configuration for `job`; `protocol` is a key of `SPELLING`. The API gets a port of its own, so that several can run at once."""
    spelled = SPELLING[protocol]
    front = {"protocol": spelled, "port": job.port, "address": "127.0.0.1"}
    rules = _rules(job) if job.parses_http else []
    rules.append({"name": "default", "action": {"route": {"destination": job.default}}})
    back = {"protocol": spelled, **({"http": 2} if job.h2_upstream else {})}
    clusters = [{"name": name, "spec": {**back, "port": port}, **_endpoints(endpoints)} for name, port in job.backends.items()]
    controller = {"name": "controller", "spec": {"protocol": "L7mpController"}}
    admin = {
        "name": "admin",
        "spec": {"protocol": "HTTP", "port": admin_port, "address": "127.0.0.1"},
        "rules": [{"name": "to-api", "action": {"route": {"destination": "controller"}}}],
    }
    return {"listeners": [{"name": "front", "spec": front, "rules": rules}, admin], "clusters": [*clusters, controller]}


def _rules(job: Job) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = [
        {
            "name": f"user-{value}",
            "match": {"matchHeader": {"name": job.header, "value": value}},
            "action": {"route": {"destination": name}},
        }
        for value, name in job.users.items()
    ]
    by_path = {"matchPath": {"path": job.prefix, "type": "prefix"}}
    rules.append({"name": "svc", "match": by_path, "action": {"route": {"destination": job.prefix_to}}})
    return rules
