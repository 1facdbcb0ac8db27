"""The command line of what asks a running carrier."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

LEVELS = ("silly", "verbose", "debug", "info", "notice", "warn", "error", "silent")
"""Of the log; a test holds that they are those of carrier.log."""


def field(text: str) -> tuple[str, str]:
    """`NAME: VALUE` as a pair. Raises ArgumentTypeError."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"expected 'NAME: VALUE', got {text!r}")
    return name.strip(), value.strip()


def cookie(text: str) -> tuple[str, str]:
    """`NAME=VALUE` as a pair. Raises ArgumentTypeError."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name.strip(), value.strip()


def method(text: str) -> str:
    """A method (RFC 9110 section 9.1), or a path or URL, before which it may be left out. Raises ArgumentTypeError."""
    if text.startswith("/") or "://" in text or re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", text):
        return text
    raise argparse.ArgumentTypeError(f"expected a method or a path that begins with /, got {text!r}")


def path(text: str) -> str:
    """What a request may ask for: "/...", a whole URL, or "*". Raises ArgumentTypeError."""
    if not (text.startswith("/") or "://" in text or text == "*"):
        raise argparse.ArgumentTypeError(f"expected a path that begins with / or a whole URL, got {text!r}")
    return text


def between(least: float, most: float) -> Callable[[str], float]:
    """What takes a number of seconds in these bounds, or a duration such as 8h; it raises ArgumentTypeError."""

    def seconds(text: str) -> float:
        from carrier.options import duration

        try:
            found: float | None = float(text)
        except ValueError:
            found = duration(text)
        if found is None or not least <= found <= most:
            raise argparse.ArgumentTypeError(
                f"expected a duration such as 8h, 30m or 3600, {least:g} s at least and {most:g} s at most, got {text!r}"
            )
        return found

    return seconds


seconds = between(0.001, 1e9)
_pause = between(0.1, 86_400)


def size(text: str) -> int:
    """A number of bytes, or one such as 64Ki. Raises ArgumentTypeError."""
    from carrier import options

    found = options.size(text) if len(text) < 16 else None
    if found is None:
        raise argparse.ArgumentTypeError(f"expected bytes such as 4096, 64Ki or 1Mi, got {text!r}")
    return found


def count(text: str) -> int:
    """A number from 1 on. Raises ArgumentTypeError."""
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000_000:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, got {text!r}")
    return int(text)


def add_replay(replay: argparse.ArgumentParser) -> None:
    """Give `carrier replay`, which asks no carrier, its arguments."""
    replay.add_argument("file", metavar="FILE", help="an HTTP archive, as `carrier record` and browsers write it")
    replay.add_argument("--to", metavar="ENDPOINT", required=True, help="HOST:PORT or a URL, whose answers are compared")
    replay.add_argument(
        "--ignore",
        metavar="WHAT",
        action="append",
        help="a field's name, or a place in JSON ($.items[*].id), that may differ; again for more",
    )
    replay.add_argument(
        "-H", "--header", metavar="'NAME: VALUE'", type=field, action="append", help="sent with each request, in place of what was recorded"
    )
    replay.add_argument("--http", choices=("1", "2"), help="version to speak (default: 2 for gRPC, else 1)")
    replay.add_argument("--timeout", metavar="DURATION", type=seconds, default=10.0, help="for each answer (default 10)")
    replay.add_argument("--insecure", action="store_true", help="take any certificate")
    replay.add_argument("--json", action="store_true", help="one object a line for each request")


def add_commands(commands: argparse._SubParsersAction[Any]) -> None:
    """Give the parser these commands."""
    explain = _command(commands, "explain", "why would a request go where it would?", "Show every rule with each condition, met or not.")
    explain.add_argument(
        "method", metavar="METHOD", type=method, nargs="?", help="of an HTTP request; it may be left out before a path or URL"
    )
    explain.add_argument(
        "path", metavar="PATH", type=path, nargs="?", help="with its query; or a whole URL, whose port says which listener"
    )
    explain.add_argument(
        "-H", "--header", metavar="'NAME: VALUE'", type=field, action="append", help="a field of the request; again for more"
    )
    explain.add_argument("--listener", metavar="NAME", help="name or port of the listener, where there are several")
    explain.add_argument("--rule", metavar="NAME", help="show only this rule, and the one that takes the request")
    explain.add_argument("--user", metavar="USER", help="show only the rules of this user's bridges, and the one that takes the request")
    explain.add_argument("--source", metavar="HOST:PORT", help="where the session comes from")
    explain.add_argument("--sni", metavar="NAME", help="the server name that TLS asks for")
    explain.add_argument("-c", "--config", metavar="FILE", help="by a file instead of what runs")
    status = _command(commands, "status", "what runs", "Listeners, rules in order with their hits, endpoints and their health, bridges.")
    status.add_argument("--watch", metavar="SECONDS", type=_pause, nargs="?", const=2.0, help="again and again (default: every 2 seconds)")
    sessions = _command(commands, "sessions", "list, show or kill sessions", "What is being carried.")
    sessions.add_argument(
        "action", nargs="?", choices=("list", "show", "kill"), default="list", help="list (default), show NAME, kill NAME"
    )
    sessions.add_argument("name", metavar="NAME", nargs="?", help="as listed")
    sessions.add_argument("--listener", metavar="NAME", help="only of this listener")
    sessions.add_argument("--rule", metavar="NAME", help="only of this rule")
    sessions.add_argument("--sort", choices=("bytes", "age"), help="most bytes first, or oldest first")
    watch = _command(commands, "tail", "what happens, as it happens", "Requests, sessions, endpoints, bridges and changes, one line each.")
    watch.add_argument("--user", metavar="USER", help="only sessions of this user's bridges")
    watch.add_argument("--rule", metavar="NAME", help="only sessions that this rule decided")
    watch.add_argument("--listener", metavar="NAME", help="only of this listener")
    watch.add_argument("--status", metavar="STATUS", help="only answers of this status, or class of them: 404, 5xx")
    watch.add_argument("--path", metavar="PREFIX", help="only requests whose path begins so")
    watch.add_argument("--protocol", metavar="NAME", help="only of listeners of this protocol")
    watch.add_argument("--errors", action="store_true", help="only what failed")
    watch.add_argument("--last", action="store_true", help="first what has happened, as far as it is still known")
    record = _command(commands, "record", "record what passes, as an HTTP archive", "What passes by a bridge or a rule, as HAR 1.2.")
    record.add_argument("--bridge", metavar="NAME", help="what passes by this user bridge")
    record.add_argument("--rule", metavar="NAME", help="or what passes by this rule")
    record.add_argument("--bodies", metavar="BYTES", type=size, help="that are kept of each direction (default 64Ki; 0: none)")
    record.add_argument("--out", metavar="FILE", help="write there (default: standard output); a whole archive at every moment")
    record.add_argument("--size", metavar="BYTES", type=size, default=64 << 20, help="of a file, then a new one begins (default 64Mi)")
    record.add_argument("--files", metavar="N", type=count, default=4, help="that are kept: FILE, FILE.1, ... (default 4)")
    record.add_argument("--count", metavar="N", type=count, help="end after so many entries")
    record.add_argument("--secrets", action="store_true", help="with the values of secret fields, for who may have what is privileged")
    level = _command(commands, "log", "how much the log says", "Show the level of the running carrier's log, or change it.")
    level.add_argument("level", metavar="LEVEL", nargs="?", choices=LEVELS, help=f"one of {', '.join(LEVELS)}")
    level.add_argument("-n", "--lines", metavar="N", type=count, nargs="?", const=20, help="instead: its last lines (default: 20)")
    top = _command(commands, "top", "who gets how much, and how fast", "Rules, users and endpoints by requests, errors and p99, now.")
    top.add_argument("--sort", choices=("requests", "errors", "p99", "name"), default="requests", help="by what (default: requests)")
    top.add_argument("--interval", metavar="SECONDS", type=_pause, default=2.0, help="between two looks (default: 2)")
    top.add_argument("--once", action="store_true", help="two looks, one answer")
    top.add_argument("--rows", metavar="N", type=count, help="so many of each (default: as the terminal has room)")
    doctor = _command(commands, "doctor", "is everything all right?", "Ticks and crosses, with a hint each. Exit status: 1 with a cross.")
    doctor.add_argument("--file", metavar="FILE", help="what is to run (default: the file that the carrier was started with)")
    gather = _command(commands, "gather", "one file for a bug report", "Status, configuration, log, metrics, last requests; no secrets.")
    gather.add_argument("-o", "--output", metavar="FILE", help="where to (default: carrier-gather-TIME.tar.gz here; - for standard output)")
    gather.add_argument("--seconds", metavar="SECONDS", type=_pause, default=3.0, help="that requests are listened to (default: 3)")
    _add_bridges(_command(commands, "bridges", "user bridges: list, add, rm, renew, check", "User bridges (docs/bridges.md)."))
    apply = _command(commands, "apply", "put a configuration in force", "All of it or nothing; user bridges stay.")
    apply.add_argument("file", metavar="FILE", help="YAML or JSON; - for standard input")
    apply.add_argument("--dry-run", action="store_true", help="only say whether it would be")
    apply.add_argument("--allow-dangling", action="store_true", help="names that lead nowhere are warnings, not errors")
    _command(commands, "dump", "show the configuration in force", "As YAML that `carrier apply` takes.")
    diff = _command(commands, "diff", "what would apply change?", "Exit status: 0 nothing, 1 something.")
    diff.add_argument("file", metavar="FILE", help="YAML or JSON; - for standard input")
    diff.add_argument("--lines", action="store_true", help="line by line as well")


def _add_bridges(bridges: argparse.ArgumentParser) -> None:
    actions = ("list", "add", "rm", "renew", "check")
    bridges.add_argument("action", nargs="?", choices=actions, default="list", help="list (default), add, rm, renew, check NAME")
    bridges.add_argument("name", metavar="NAME", nargs="?", help="the bridge's")
    bridges.add_argument("--port", metavar="PORT", help="the port that is bridged, or its listener's name")
    bridges.add_argument("--user", metavar="USER", help="whose it is (default: $USER); list: only this user's")
    bridges.add_argument(
        "-H", "--header", metavar="'NAME: VALUE'", type=field, action="append", help="requests with this field; again for more"
    )
    bridges.add_argument("--cookie", metavar="NAME=VALUE", type=cookie, action="append", help="with this cookie, whatever others there are")
    bridges.add_argument("--path", metavar="PREFIX", help="and with paths that begin so")
    bridges.add_argument("--stream", action="store_true", help="instead: the whole port, whatever it speaks (TCP, UDP)")
    bridges.add_argument("--to", metavar="HOST:PORT", help="where they go")
    bridges.add_argument("--expires", metavar="DURATION", type=seconds, help="such as 8h or 3600, from now (default 24h; renew: 1h)")
    bridges.add_argument("--forever", action="store_true", help="it does not expire")
    bridges.add_argument("--no-token", action="store_true", help="make no token, by which who has it asks why, and joins by a link")
    bridges.add_argument("--fallback", choices=("shadow", "error"), help="when that cannot be reached (default: shadow)")


def _command(commands: argparse._SubParsersAction[Any], name: str, short: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=short, description=description)
    parser.add_argument(
        "--admin", metavar="WHERE", help="unix socket, HOST:PORT or URL of the REST API (default: $CARRIER_ADMIN, or found)"
    )
    parser.add_argument("--token-file", metavar="FILE", help="a file with the bearer token (default: $CARRIER_TOKEN)")
    parser.add_argument("--json", action="store_true", help="the API's answer as it is")
    return parser
