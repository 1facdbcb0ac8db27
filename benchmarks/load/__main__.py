"""`python -m benchmarks.load PROTOCOL TARGET...`: many users at once against a running proxy, or with `--through` one started here.

Users are spread over the targets. On each target the first `--bridges` of them have a bridge: their requests carry their name in
`--header` and must be answered by a server of that name; the others must be answered by `--shadow`.
Exit code: 0 all right, 1 errors or wrong answers, 2 usage.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from benchmarks.http import request
from benchmarks.load.flow import User, message_of
from benchmarks.load.http import TRACE
from benchmarks.load.run import FLOWS, Plan, run
from benchmarks.load.tally import Tally
from benchmarks.load.team import PROTOCOLS, SHADOW, start_team
from benchmarks.peers.registry import PEERS
from benchmarks.processes import Children, StartError

LEAST_SIZE = 32
SHOWN = 8  # answerers, wrong answers and errors in the text form


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    about = "Load from many users: who answered, how fast, what failed."
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=about)
    option = parser.add_argument
    option("protocol", choices=sorted(FLOWS))
    option("targets", nargs="*", metavar="HOST:PORT[=NAME]", help="where to; NAME: who must answer users without a bridge there")
    option("--through", choices=[peer.name for peer in PEERS], help="start this proxy here, with a shadow and the bridges")
    option("--users", type=int, default=200, help="connections in all (default 200)")
    option("--bridges", type=int, default=0, help="users with a bridge, on each target (HTTP and WebSocket)")
    option("--seconds", type=float, default=10.0)
    option("--rate", type=float, help="messages a second in all, whether or not the proxy keeps up (default: closed loop)")
    option("--timeout", type=float, default=5.0, help="seconds until a message counts as failed (default 5)")
    option("--in-flight", type=int, default=1, help="UDP: datagrams of one user under way at once")
    option("--header", default="x-user", help="names the user (default x-user)")
    option("--user", default="user-{}", help="what the header says, {} is the user's number on its target (default user-{})")
    option("--answered-by", default="x-backend", help="header of an answer that names who gave it (default x-backend)")
    option("--shadow", help="who must answer users without a bridge (default: not checked)")
    option("--path", default="/")
    option("--size", type=int, help="bytes of a message (default 64), or of the body of a POST (HTTP; default: GET, no body)")
    option("--unique", action="store_true", help="HTTP: a trace id that differs from request to request")
    option("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    _refuse(parser, options)
    return options


def _refuse(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """What argparse cannot say; ends the program with code 2."""
    if bool(options.targets) == bool(options.through):
        parser.error("say either where to (HOST:PORT) or --through PROXY")
    if (options.bridges or options.through) and options.protocol not in PROTOCOLS:
        parser.error(f"--bridges and --through are for {' and '.join(PROTOCOLS)}: elsewhere no header says who the user is")
    if not 1 <= max(options.bridges, 1) <= options.users:
        parser.error(f"{options.bridges} bridges for {options.users} users: expected 1 or more users, at most as many bridges")
    if options.in_flight < 1 or options.seconds <= 0 or options.timeout <= 0 or (options.rate or 1) <= 0:
        parser.error("--in-flight, --seconds, --timeout and --rate: expected more than 0")
    if options.size is not None and not LEAST_SIZE <= options.size <= 65507:
        parser.error(f"--size {options.size}: expected {LEAST_SIZE}..65507 (the user's name has to fit, and a datagram)")
    for target in options.targets:
        try:
            address(target)
        except ValueError:
            parser.error(f"{target}: expected HOST:PORT or HOST:PORT=NAME")


def address(target: str) -> tuple[str, int, str | None]:
    """(host, port, name) of HOST:PORT[=NAME]; an IPv6 host stands in brackets. Raises ValueError."""
    place, _, name = target.partition("=")
    host, colon, port = place.rpartition(":")
    if not colon or not host or not 0 < int(port) < 65536:
        raise ValueError(target)
    return host.strip("[]"), int(port), name or None


def users_of(options: argparse.Namespace, targets: Sequence[str]) -> list[User]:
    """All users, spread over `targets`; on each the first ones have the bridges."""
    users = []
    for number in range(options.users):
        host, port, name = address(targets[number % len(targets)])
        nth_here = number // len(targets) + 1
        bridged = nth_here <= options.bridges
        user = options.user.format(nth_here)
        users.append(_user(options, user, host, port, user if bridged else name or options.shadow))
    return users


def _user(options: argparse.Namespace, name: str, host: str, port: int, expect: str | None) -> User:
    line = f"{options.header}: {name}\r\n"
    if options.protocol == "http":
        message = _http_request(options, f"{host}:{port}", line)
    else:
        message = message_of(name, options.size or 64, b"\n" if options.protocol == "tcp" else b"")
    return User(name, host, port, message, expect, options.path, line)


def _http_request(options: argparse.Namespace, host: str, line: str) -> bytes:
    trace = b"traceparent: 00-4bf92f3577b34da6" + TRACE + b"-00f067aa0ba902b7-01\r\n" if options.unique else b""
    method = b"POST" if options.size else b"GET"
    return request(method, options.path.encode(), line.encode() + trace, b"p" * (options.size or 0), host.encode())


def text(tally: Tally, options: argparse.Namespace) -> str:
    """The report for people."""
    report = tally.report()
    loop = f"{options.rate:g} a second" if options.rate else "closed loop"
    latency = "  ".join(f"{name} {value:g}" for name, value in report["latency_ms"].items())
    lines = [
        f"{options.users} users, {options.protocol}, {loop}, {report['seconds']:.1f} s",
        f"  answers      {report['answers']:,} ({report['per_second']:,.1f} a second)",
        f"  latency ms   {latency}",
        f"  answered by  {_shown(report['answered_by'])}",
        f"  wrong        {_shown(report['wrong'])}",
        f"  errors       {_shown(report['errors'])}",
    ]
    if options.rate:
        lines.append(f"  unsent       {report['unsent']:,}")
    return "\n".join(lines)


def _shown(counts: dict[str, int]) -> str:
    parts = [f"{name} {count:,}" for name, count in list(counts.items())[:SHOWN]]
    more = [f"and {len(counts) - SHOWN} more"] if len(counts) > SHOWN else []
    return ", ".join(parts + more) or "none"


def measured(options: argparse.Namespace) -> Tally:
    """Start what has to be started, and load it."""
    with Children() as children:
        targets = options.targets
        if options.through:
            names = [options.user.format(number + 1) for number in range(options.bridges)]
            port = start_team(children, options.through, options.protocol, options.header, names)
            options.shadow, targets = SHADOW, [f"127.0.0.1:{port}"]
            options.path = "/ws" if options.protocol == "websocket" else options.path
        users = users_of(options, targets)
        return run(Plan(options.protocol, users, options.seconds, options.rate, options.timeout, options.in_flight, options.answered_by))


def main(argv: Sequence[str] | None = None) -> int:
    """Run it."""
    options = arguments(argv)
    try:
        tally = measured(options)
    except StartError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 1
    print(json.dumps(tally.report(), indent=2) if options.json else text(tally, options))
    return 0 if tally.answers and not tally.failures else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
