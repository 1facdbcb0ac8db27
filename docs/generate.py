"""`make docs`: writes docs/reference.md from the program itself, so that it cannot drift; `make check` compares the two.

The command comes from its parser, the protocols from their classes, the REST API from its table of operations, statuses from errors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from carrier.admin import operations as api
from carrier.bridges import asked as bridge
from carrier.cli import main as cli
from carrier.config import accesslog, source
from carrier.config.inspector import LOG_LEVELS, RETRY_ON
from carrier.core import registry
from carrier.errors import STATUS
from carrier.observe import catalogue as metrics
from carrier.observe import lines as access

FILE = Path(__file__).parent / "reference.md"


def reference() -> str:
    """The whole text."""
    return "\n".join((*_head(), *_command(), *_protocols(), *_bridges(), *_rest(), *_errors(), *_seen())) + "\n"


def _head() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "Made by `make docs` from the program; edit the program instead."
    yield ""


def _command() -> Iterator[str]:
    """From the parser's actions: how argparse lays its help out differs between versions of Python."""
    top = cli.parser()
    commands = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction)).choices
    yield "## The command"
    yield ""
    yield str(top.epilog)
    for parser in commands.values():
        yield f"\n### {parser.prog}\n\n{parser.description}\n"
        yield "| argument | |\n|---|---|"
        for action in parser._actions:
            if action.help != argparse.SUPPRESS:
                names = ", ".join(action.option_strings) + " " if action.option_strings else ""
                value = action.metavar if action.nargs != 0 and action.metavar else ""
                yield f"| `{f'{names}{value}'.strip()}` | {_cell(str(action.help))} |"
    yield ""
    yield f"Log levels: {_code(LOG_LEVELS)}. Retry policies (`retry_on`): {_code(RETRY_ON)}."
    yield f"A file has at most {source.MAX_FILE:,} bytes, {source.MAX_OBJECTS:,} objects and {source.MAX_DEPTH} levels, aliases expanded."
    yield ""
    yield "A route's `retry` is `{retry_on, num_retries, timeout}` (milliseconds). `connect-failure` and `always`: a destination that is"
    yield "not reached is tried `num_retries` times more, `timeout` apart, which is also the time for a connection. `disconnect` and"
    yield "`always`: one that has gone, orderly or not, is connected again at once, then `num_retries` - 1 times more; what the source"
    yield "says meanwhile waits, 64 KiB of it, then a stream is paused, and of datagrams the later ones are dropped and counted"
    yield "(`dropped` of the session). Sources that connected to us cannot be connected again; the remote of a UDP singleton can: after"
    yield "a datagram that it refused (ICMP) what is said to it waits in the same bounds, the oldest one is tried in the same intervals,"
    yield "and when all tries are refused the session ends. Without such a policy refused datagrams are counted and the session goes on."
    yield "Sessions are named as in l7mp; of two that would have one name, the later gets `_1`, `_2`, …"
    yield ""


def _protocols() -> Iterator[str]:
    for title, names, find in (
        ("Listeners", registry.listener_names(), registry.listener),
        ("Clusters", registry.cluster_names(), registry.cluster),
    ):
        yield f"## {title}"
        yield ""
        yield "| protocol | carries | spec | options and defaults |"
        yield "|---|---|---|---|"
        for name in names:
            cls: Any = find(name)
            fields = "; ".join(f"`{field}`: {allowed}" for field, allowed in cls.fields.items()) or "–"
            options = getattr(sys.modules[cls.__module__], "OPTIONS", {})
            shown = ", ".join(f"`{option}` {int(value) if value == int(value) else value}" for option, value in options.items()) or "–"
            carries = {"byte": "bytes", "datagram": "datagrams", "message": "messages"}[cls.kind_of({})]
            yield f"| {name} | {carries}{', virtual' if getattr(cls, 'virtual', False) else ''} | {_cell(fields)} | {_cell(shown)} |"
        yield ""
    yield "Options are in bytes, seconds or numbers; 0 means no limit."
    yield ""
    yield "A listener without `address` has every address, IPv6 and IPv4 (UDP: every IPv4 address). `0.0.0.0` is IPv4 only. `::` is IPv6"
    yield "only, as in nginx and Envoy, so that a second listener can have the same port on IPv4; of UDP it is both, as nothing else is"
    yield "(IPv4 alone where the kernel has no IPv6), and what UDP ports of Gefyra's file have."
    yield ""


def _bridges() -> Iterator[str]:
    yield "## User bridges"
    yield ""
    yield f"Fields of `PUT /api/v1/bridges/{{name}}`: {_code(bridge.FIELDS)}. See [bridges.md](bridges.md)."
    yield ""


def _rest() -> Iterator[str]:
    yield "## REST API"
    yield ""
    yield "Everything below `/api/v1`. Writes take `dryRun=true`; answers have the revision as ETag, writes honour If-Match."
    yield ""
    yield "| call | body | parameters | standard |"
    yield "|---|---|---|---|"
    for (method, path), operation in sorted(api.OPERATIONS.items(), key=lambda item: (item[0][1], item[0][0])):
        body = (operation.body or "yes") if operation.takes_body else "–"
        parameters = _code(operation.query) if operation.query else "–"
        yield f"| `{method} /{path.replace('*', '{name}')}` | {body} | {parameters} | {'ours' if operation.strict else 'l7mp'} |"
    yield ""


def _errors() -> Iterator[str]:
    yield "## Errors"
    yield ""
    yield "| status | kinds |"
    yield "|---|---|"
    for status in sorted(set(STATUS.values())):
        yield f"| {status} | {_code(kind for kind, its in STATUS.items() if its == status)} |"


def _seen() -> Iterator[str]:
    yield ""
    yield "## Metrics and access log"
    yield ""
    yield "`GET /metrics`, on the API's address and on that of `--health`; OpenMetrics when it is asked for. Counters end in `_total`."
    yield ""
    yield "| metric | kind | labels | |"
    yield "|---|---|---|---|"
    for metric in metrics.METRICS:
        yield f"| `{metric.name}` | {metric.kind} | {_code(metric.labels) or '–'} | {metric.help} |"
    yield ""
    yield "`admin.access_log` is a path, or an object; it is opened at the start, a reload does not change it. SIGUSR1 opens it anew."
    yield ""
    yield "| field | |"
    yield "|---|---|"
    for field, allowed in accesslog.FIELDS.items():
        yield f"| `{field}` | {_cell(allowed)} |"
    yield ""
    yield f"Redacted in any case: {_code(sorted(access.SECRET))}. See [why.md](why.md)."


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Write the file, or, with --check, tell whether it is what would be written."""
    if "--check" not in sys.argv:
        FILE.write_text(reference(), encoding="utf-8")
        return 0
    fresh = FILE.is_file() and FILE.read_text(encoding="utf-8") == reference()
    if not fresh:
        print(f"{FILE.name} is not what the program says: run `make docs`", file=sys.stderr)
    return 0 if fresh else 1


if __name__ == "__main__":
    sys.exit(main())
