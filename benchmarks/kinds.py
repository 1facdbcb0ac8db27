"""Rules of each kind, few and many of them: `python -m benchmarks.kinds [--rules 1000] [KIND ...]`.

A kind of rules is asked by requests that meet none of them and never repeat, so that nothing is remembered: what a request costs is what
its rules cost. Where nginx (`geo`, `map`) and haproxy (`map_ip`, `map_reg`) have such rules, they stand beside ours in the same run, with
few and with many. Shown are microseconds of a processor for each request; rounds take turns.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import wrk
from benchmarks.http import UNIQUE
from benchmarks.measure import PROXY_CORE, median, tree_cpu
from benchmarks.peers.carrier import START
from benchmarks.processes import Child, Children, free_ports, start_backend, wait_for_port
from benchmarks.scenario import Target

FEW = 3
CONNECTIONS = 64
NGINX = """daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log crit;
worker_rlimit_nofile 20000; events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_requests 1000000000; map_hash_max_size 65536; map_hash_bucket_size 128;
{temporary}
  upstream D {{ server 127.0.0.1:{backend}; keepalive 1024; keepalive_requests 1000000000; }}
  {rules}
  server {{ listen 127.0.0.1:{port} backlog=4096; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
    location / {{ proxy_pass http://$to; }} }} }}
"""
HAPROXY = """global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 3s
  timeout client 300s
  timeout server 300s
frontend front
  bind 127.0.0.1:{port} backlog 4096
  use_backend %[{rules}]
backend D
  http-reuse always
  server s 127.0.0.1:{backend}
"""


@dataclass(frozen=True)
class Kind:
    """match: our rule of a number. nginx: head and line of a block that sets $to; haproxy: the sample and its map, and a line of the map
    file; None: they have no such rules."""

    match: Callable[[int], Any]
    nginx: tuple[str, Callable[[int], str]] | None = None
    haproxy: tuple[str, Callable[[int], str]] | None = None


def net(i: int) -> str:
    return f"10.{i >> 8 & 255}.{i & 255}.0/24"


def predicate(op: str, path: str, value: Callable[[int], Any]) -> Kind:
    """One of l7mp's."""
    return Kind(lambda i: {"op": op, "path": path, "value": value(i)})


KINDS: dict[str, Kind] = {
    "cidr": Kind(
        lambda i: {"matchSource": {"cidr": net(i)}},
        ("geo $to", lambda i: f"{net(i)} D;"),
        ("src,map_ip({file},D)", lambda i: f"{net(i)} D"),
    ),
    "regex": Kind(
        lambda i: {"matchPath": {"path": f"^/a{i}/[a-z]+$", "type": "regex"}},
        ("map $uri $to", lambda i: f'"~^/a{i}/[a-z]+$" D;'),
        ("path,map_reg({file},D)", lambda i: f"^/a{i}/[a-z]+$ D"),
    ),
    "header": Kind(
        lambda i: {"matchHeader": {"name": "x-user", "value": f"u{i}"}},
        ("map $http_x_user $to", lambda i: f"u{i} D;"),
        ("req.hdr(x-user),map_str({file},D)", lambda i: f"u{i} D"),
    ),
    "test": predicate("test", "/HTTP/headers/x-user", lambda i: f"u{i}"),
    "starts": predicate("starts", "/HTTP/url/path", lambda i: f"/a{i}/"),
    "contains": predicate("contains", "/HTTP/url/path", lambda i: f"/a{i}/"),
    "matches": predicate("matches", "/HTTP/url/path", lambda i: f"^/a{i}/[0-9]"),
    "in": predicate("in", "/HTTP/headers/x-user", lambda i: [f"u{i}", f"w{i}"]),
    "less": predicate("less", "/TCP/src_port", lambda i: i),
    "not": Kind(lambda i: {"op": "not", "apply": [{"op": "less", "path": "/TCP/src_port", "value": 65_536 + i}]}),
}


def ours(kind: Kind, rules: int, port: int, backend: int, folder: Path) -> Sequence[str]:
    """Write the configuration; the command."""
    listed = [{"match": kind.match(i), "action": {"route": {"destination": "D"}}} for i in range(rules)]
    web = {
        "name": "web",
        "spec": {"protocol": "HTTP", "address": "127.0.0.1", "port": port},
        "rules": [*listed, {"action": {"route": {"destination": "D"}}}],
    }
    up = {"name": "D", "spec": {"protocol": "HTTP", "port": backend}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
    file = folder / "carrier.json"
    file.write_text(json.dumps({"clusters": [up], "listeners": [web]}))
    return [sys.executable, "-c", START, "run", "-c", str(file), "-l", "error", "--admin", "off", "--admin-socket", "off"]


def nginx(kind: Kind, rules: int, port: int, backend: int, folder: Path) -> Sequence[str]:
    """The same of nginx."""
    assert kind.nginx is not None
    head, line = kind.nginx
    block = f"{head} {{ default D; {' '.join(line(i) for i in range(rules))} }}"
    temporary = " ".join(f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    file = folder / "nginx.conf"
    file.write_text(NGINX.format(folder=folder, temporary=temporary, backend=backend, port=port, rules=block))
    return ["nginx", "-p", str(folder), "-c", str(file), "-e", str(folder / "error.log")]


def haproxy(kind: Kind, rules: int, port: int, backend: int, folder: Path) -> Sequence[str]:
    """The same of haproxy."""
    assert kind.haproxy is not None
    sample, line = kind.haproxy
    table = folder / "rules.map"
    table.write_text("".join(f"{line(i)}\n" for i in range(rules)))
    file = folder / "haproxy.cfg"
    file.write_text(HAPROXY.format(port=port, backend=backend, rules=sample.format(file=table)))
    return ["haproxy", "-db", "-q", "-f", str(file)]


PEERS = {"carrier": ours, "nginx": nginx, "haproxy": haproxy}


def peers_of(kind: Kind) -> list[str]:
    """Who has such rules, and is installed."""
    has = {"carrier": True, "nginx": kind.nginx and shutil.which("nginx"), "haproxy": kind.haproxy and shutil.which("haproxy")}
    return [name for name, there in has.items() if there]


def compare(name: str, rules: int, rounds: int, seconds: float) -> dict[str, dict[int, float]]:
    """Microseconds a request of each peer, with FEW and with `rules` of a kind."""
    kind = KINDS[name]
    found: dict[tuple[str, int], list[float]] = {}
    with Children() as children:
        backend = start_backend(children, ("D",))["D"]
        standing: list[tuple[str, int, Child, int]] = []
        for peer in peers_of(kind):
            for number in (FEW, rules):
                folder = children.directory / f"{peer}-{number}"
                folder.mkdir(mode=0o777)
                folder.chmod(0o777)
                port = free_ports(1)[0]
                child = children.start(folder.name, PEERS[peer](kind, number, port, backend, folder), PROXY_CORE)
                wait_for_port(port, child, 60)
                standing.append((peer, number, child, port))
        for turn in range(rounds + 1):  # the first warms up
            for peer, number, child, port in standing:
                before = tree_cpu(child.pid)
                load = wrk.drive(Target(port), seconds, UNIQUE, CONNECTIONS)
                if load.errors or not load.operations:
                    raise RuntimeError(f"{peer} with {number} rules: {load.errors} errors of {load.operations} requests")
                if turn:
                    found.setdefault((peer, number), []).append((tree_cpu(child.pid) - before) / load.operations * 1e6)
    return {peer: {number: median(found[peer, number]) or 0.0 for number in (FEW, rules)} for peer in peers_of(kind)}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0, or 1 without wrk."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kinds", description="What rules of each kind cost, few and many.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--rules", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args(argv)
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if not wrk.installed():
        print("wrk is not installed", file=sys.stderr)
        return 1
    print(f"{'us a request':12s} {'':8s} {FEW:>8d} {options.rules:>8d}   times")
    for name in options.kinds or KINDS:
        for peer, costs in compare(name, options.rules, options.rounds, options.seconds).items():
            few, many = costs[FEW], costs[options.rules]
            print(f"{name:12s} {peer:8s} {few:8.1f} {many:8.1f}   {many / few:.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
