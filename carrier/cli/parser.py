"""The command line of `carrier`: what it takes, of which a man page and completion are made, too.

Only argparse is imported here: `carrier --help` should not wait for what a command needs.
"""

from __future__ import annotations

import argparse
from typing import NoReturn

from carrier.cli.arguments import LEVELS, add_commands, add_replay, between
from carrier.cli.connect import FROM, TO
from carrier.cli.manual import KINDS
from carrier.cli.usage import Parser

DEFAULT_ADMIN = ("127.0.0.1", 1234)
DEFAULT_FILES = ("carrier.yaml", "carrier.yml", "carrier.json", "/etc/carrier/carrier.yaml")
"""Where the configuration is looked for when nobody says where it is."""
API_LIMITS = ("body", "total", "depth", "objects", "request_timeout", "connections", "writes", "burst")
LIMITS = ("memory", "lag", "connections", *(f"api.{name}" for name in API_LIMITS))
"""What --limit takes; a test holds that these are the fields of carrier.admin.gate.Limits and carrier.proxy.overload.Bounds."""
FILE_LIMIT = "config.objects"
"""And this, for the configuration file: objects that it may hold."""
_grace = between(0, 86_400)


def parser() -> argparse.ArgumentParser:
    """The command line; also what a man page and completion are made from."""
    top = Parser(
        prog="carrier",
        description="Carrier2, a Layer-7 multiprotocol proxy.",
        epilog="Exit status: 0 fine, 1 failed, 2 bad usage or configuration, 3 an address is in use, 5 ended with work cut.",
    )
    top.add_argument("-V", "--version", action=_Version, nargs=0, help="show the version and exit")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_run(commands.add_parser("run", help="run the proxy", description="Run the proxy until SIGTERM or SIGINT."))
    check = commands.add_parser("check", help="check a configuration file", description="Tell everything that is wrong with a file.")
    check.add_argument("files", metavar="FILE", nargs="+", help="YAML or JSON; - for standard input")
    check.add_argument("--print", action="store_true", help="show the configuration in our own format, whichever the file has")
    _add_dangling(check)
    demo = commands.add_parser(
        "demo", help="see it work", description="Two laptops, a shadow and Carrier2, in one process, on real sockets."
    )
    demo.add_argument("--once", action="store_true", help="play the story, check every claim, exit 0 or 1")
    connect = commands.add_parser(
        "connect",
        help="carry one thing to another, as socat does",
        description=f"FROM is one of {', '.join(FROM)}. TO is one of {', '.join(TO)}.",
    )
    connect.add_argument("source", metavar="FROM", help="where sessions come from")
    connect.add_argument("destination", metavar="TO", help="where they go")
    connect.add_argument("--print", action="store_true", help="show the configuration that this is, and end")
    connect.add_argument(
        "-l", "--log-level", metavar="LEVEL", choices=LEVELS, default="warn", help=f"one of {', '.join(LEVELS)} (default warn)"
    )
    add_replay(
        commands.add_parser(
            "replay",
            help="send what was recorded again, and show what differs",
            description="Exit status: 0 all the same, 1 something differs or does not answer, 2 no archive.",
        )
    )
    add_commands(commands)
    completion = commands.add_parser("completion", help="completion for a shell", description="Write the completion of a shell.")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), nargs="?", help="for example: source <(carrier completion bash)")
    completion.add_argument("--names", choices=KINDS, help="names of the running carrier's objects, one a line: what completions ask")
    commands.add_parser(
        "schema",
        help="the configuration as JSON Schema",
        description="Write the JSON Schema of a configuration file. In an editor that knows YAML, begin the file with "
        "'# yaml-language-server: $schema=carrier.schema.json' after 'carrier schema > carrier.schema.json'.",
    )
    commands.add_parser("manual", help="the man page", description="Write the man page: carrier manual | man -l -")
    return top


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "-c", "--config", metavar="FILE", help=f"configuration, YAML or JSON; - for standard input (default: {', '.join(DEFAULT_FILES)})"
    )
    run.add_argument("-l", "--log-level", metavar="LEVEL", choices=LEVELS, help=f"one of {', '.join(LEVELS)}; else as the file says")
    run.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="of the process's log: text (default) or a JSON object a line"
    )
    run.add_argument("-s", "--strict", action="store_true", help="check REST calls against the schema (l7mp's strict mode)")
    _add_dangling(run)
    run.add_argument("--state", metavar="DIR", help="keep changes made over REST there, through a crash or a restart")
    run.add_argument("--watch", action="store_true", help="read the configuration again when it changes (SIGHUP does so at once)")
    run.add_argument(
        "--drain",
        metavar="SECONDS",
        type=_grace,
        default=10.0,
        help="SIGTERM lets what is in flight finish for so long (default 10)",
    )
    run.add_argument(
        "--drain-delay",
        metavar="SECONDS",
        type=_grace,
        default=1.0,
        help="and accepts for so long while readiness is off (default 1)",
    )
    run.add_argument(
        "--limit",
        metavar="NAME=NUMBER",
        type=_limit,
        action="append",
        default=[],
        help="memory (bytes, 512Mi), lag (seconds), connections; config.objects in the file; api.body, api.total, api.depth, api.objects, "
        "api.request_timeout, api.connections, api.writes, api.burst; 0 for none",
    )
    run.add_argument("--access-log", metavar="FILE", help="a line for each session; 'stdout', 'stderr' or a file (SIGUSR1 reopens it)")
    run.add_argument("--access-log-format", metavar="FORMAT", choices=("json", "envoy"), help="json (default) or envoy")
    run.add_argument("--no-metrics", action="store_true", help="do not count sessions for /metrics")
    _add_admin(run.add_argument_group("where the REST API listens, and who may call it"))
    run.add_argument("-o", "--offload", metavar="MODE", help=argparse.SUPPRESS)
    run.add_argument("-i", "--offload-ifs", metavar="IFS", help=argparse.SUPPRESS)


def _add_admin(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--admin", metavar="HOST:PORT", type=_address, default=DEFAULT_ADMIN, help="TCP address, or 'off'")
    group.add_argument(
        "--admin-socket", metavar="PATH", default="", help="unix socket, or 'off' (default: carrier.sock in a private folder)"
    )
    group.add_argument(
        "--admin-tokens",
        metavar="FILE",
        help="TCP callers need a bearer token: one a line, NAME TOKEN [privileged|read|user=USER] or TOKEN",
    )
    group.add_argument("--admin-ca", metavar="FILE", help="TCP callers need a certificate of this authority (with --admin-cert)")
    group.add_argument("--admin-cert", metavar="FILE", help="serve the API over TLS with this certificate")
    group.add_argument("--admin-key", metavar="FILE", help="and this key (default: in the same file)")
    group.add_argument("--admin-name", metavar="NAME", action="append", default=[], help="a host name that the API may be called by")
    group.add_argument("--no-page", action="store_true", help="no page for browsers at that address")
    group.add_argument(
        "--trust-loopback", metavar="WHOM", choices=("uid", "none"), help="callers on 127.0.0.1 that may have all: our own user's, or none"
    )
    group.add_argument("--insecure-admin", action="store_true", help="let the REST API be reached from other machines, without any check")
    group.add_argument("--health", metavar="HOST:PORT", type=_address, default=None, help="health and metrics alone, for reading only")


def _add_dangling(command: argparse.ArgumentParser) -> None:
    command.add_argument("--allow-dangling", action="store_true", help="names that lead nowhere are warnings, not errors")


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(f"carrier {version('carrier2')}")
        parser.exit()


def _address(text: str) -> tuple[str, int] | None:
    """HOST:PORT, a port alone (on loopback), or "off"."""
    if text == "off":
        return None
    host, colon, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535 or (colon and not host):
        raise argparse.ArgumentTypeError(f"expected HOST:PORT or 'off', got {text!r}")
    return host.strip("[]") or DEFAULT_ADMIN[0], int(port)


def _limit(text: str) -> tuple[str, float]:
    """NAME=NUMBER; also a duration, or a size."""
    from carrier.options import duration, size

    name, _, number = text.partition("=")
    value: float | None
    try:
        value = float(number)
    except ValueError:
        value = size(number) if duration(number) is None else duration(number)
    if name not in (*LIMITS, FILE_LIMIT) or value is None or not 0 <= value < 1e18:
        raise argparse.ArgumentTypeError(f"expected NAME=NUMBER with one of {', '.join((*LIMITS, FILE_LIMIT))}, got {text!r}")
    return name, value
