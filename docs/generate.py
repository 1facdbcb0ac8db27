"""`make docs`: writes reference.md and configuration.md from the program itself, so that they cannot drift; `make check` compares.

The command comes from its parser, the protocols from their classes, the REST API from its table of operations, statuses from errors.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from carrier import redact
from carrier.admin import imagine
from carrier.admin import operations as api
from carrier.bridges import asked as bridge
from carrier.cli import parser as command_line
from carrier.cli import usage
from carrier.config import accesslog, bounds, jsonschema, source
from carrier.config import reference as reference_of
from carrier.config.inspector import LOG_LEVELS, RETRY_ON
from carrier.core import registry
from carrier.errors import STATUS
from carrier.observe import catalogue as metrics
from carrier.rules.notation import FIRST_ORDER, SECOND_ORDER

FILE = Path(__file__).parent / "reference.md"
COMMON = {"--admin", "--token-file", "--json"}
"""Options of every command that asks a running carrier."""
CONFIGURATION = Path(__file__).parent / "configuration.md"


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
    top = command_line.parser()
    commands = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction)).choices
    yield "## The command"
    yield ""
    yield str(top.epilog)
    asking = [parser for parser in commands.values() if set(parser._option_string_actions) >= COMMON]
    yield ""
    yield (
        "`-h, --help` of each command has examples. Commands that ask a running carrier ("
        + _code(p.prog.split()[1] for p in asking)
        + ") have"
    )
    yield "besides:"
    yield ""
    yield "| argument | |\n|---|---|"
    for action in asking[0]._actions:
        if COMMON & set(action.option_strings):
            yield _argument(action)
    for parser in commands.values():
        yield f"\n### {parser.prog}\n\n{parser.description}\n"
        shown = [action for action in parser._actions if not {"--help", *(COMMON if parser in asking else ())} & set(action.option_strings)]
        if shown:
            yield "| argument | |\n|---|---|"
        yield from [_argument(action) for action in shown if action.help != argparse.SUPPRESS]
        examples = usage.EXAMPLES.get(parser.prog.partition(" ")[2], ())
        yield "\n```text\n" + "\n".join(re.sub(r" {3,}", "   # ", line) for line in examples) + "\n```"
    yield ""
    yield f"Log levels: {_code(LOG_LEVELS)}. Retry policies (`retry_on`): {_code(RETRY_ON)}."
    most = f"{bounds.FILE_OBJECTS:,} objects (`--limit config.objects=NUMBER`), {bounds.MAX_DEPTH} levels"
    yield f"A file has at most {source.MAX_FILE:,} bytes, {most}, and {bounds.MAX_VALUES:,} values that stand where an alias does."
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


def _argument(action: argparse.Action) -> str:
    """One row: the names of an option, or of a place; with its value."""
    value = "" if action.nargs == 0 else str(action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper())
    names = f"{', '.join(action.option_strings)} {value}".strip()
    return f"| `{_cell(names)}` | {_cell(str(action.help))} |"


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
            shown = ", ".join(f"`{option}` {_number(value)}" for option, value in options.items()) or "–"
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
    yield "`GET /` lists these calls, `GET /api/v1/openapi.json` describes them as OpenAPI 3.1, `GET /api/v1/schema` a configuration as"
    yield "JSON Schema. A method that a path does not take is 405 with `Allow`. Through a listener of the configuration that leads to"
    yield "L7mpController both are l7mp's 404."
    yield ""
    yield "| call | | body | parameters | standard |"
    yield "|---|---|---|---|---|"
    for (method, path), operation in sorted(api.OPERATIONS.items(), key=lambda item: (item[0][1], item[0][0])):
        cells = (
            f"`{method} /{path.replace('*', '{name}')}`",
            _cell(operation.text),
            (operation.body or "yes") if operation.takes_body else "–",
            _code(operation.query) or "–",
            "ours" if operation.strict else "l7mp",
        )
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield "A body that the table names stands under that name: `POST /listeners` takes"
    yield '`{"listener": {"name": ..., "spec": ..., "rules": ...}}`, an inserted rule is `{"rule": {...}}`; the number at the end of'
    yield "`/rulelists/{name}/rules/0` is its position. Bodies are JSON or YAML (`content-type: application/json`, `application/yaml`)."
    yield ""
    told = "; ".join(f"`{name}`: {text}" for name, text in imagine.FIELDS.items())
    yield f"`POST /explain` takes, all of it optional: {told}."
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
    yield "`admin.access_log` is a path, or an object; it is opened at the start, and by a reload that changes it. SIGUSR1 opens it anew."
    yield ""
    yield "| field | |"
    yield "|---|---|"
    for field, allowed in accesslog.FIELDS.items():
        yield f"| `{field}` | {_cell(allowed)} |"
    yield ""
    yield f"Redacted in any case: {_code(sorted(redact.SECRET))}. See [why.md](why.md)."


def configuration() -> str:
    """docs/configuration.md: every field, from the tables that the schema and the checker's tests use."""
    return "\n".join((*_fields_head(), *_objects(), *_matches(), *_specs(), *_options())) + "\n"


def _fields_head() -> Iterator[str]:
    yield "# Configuration"
    yield ""
    yield "Every field of a configuration file, which is YAML or JSON. Made by `make docs` from the program; edit the program instead."
    yield ""
    yield "- `carrier check FILE` tells everything that is wrong with a file, with its line and what was probably meant."
    yield "- `carrier schema > carrier.schema.json` writes the same as JSON Schema. A file that begins with"
    yield "  `# yaml-language-server: $schema=carrier.schema.json` is completed and checked while it is written, in editors that know YAML."
    yield "- The REST API takes the same objects: [reference.md](reference.md#rest-api)."
    yield "- An object that another one names may stand in its place: a cluster in a route, a route in a rule, rules in a listener."
    yield "- Seconds may be written as durations (`90s`, `1h30m`, `300ms`), bytes as sizes (`64Ki`, `10M`). 0 means no limit."
    yield f"- Fields are there since version {reference_of.SINCE} unless their row says otherwise."
    yield ""


def _objects() -> Iterator[str]:
    for kind, (text, fields) in reference_of.OBJECTS.items():
        yield f"## {kind.replace('_', ' ').capitalize().replace('tls', 'TLS')}"
        yield ""
        yield text
        yield ""
        yield from _table(fields)


def _table(fields: Iterable[reference_of.Field]) -> Iterator[str]:
    yield "| field | type | default | example | |"
    yield "|---|---|---|---|---|"
    for field in fields:
        kind = f"{field.type}{f', {field.unit}' if field.unit else ''}"
        default = "needed" if field.required else field.default or "–"
        since = "" if field.since == reference_of.SINCE else f" Since {field.since}."
        yield f"| `{field.name}` | {kind} | {_cell(default)} | {_example(field.example)} | {_cell(field.text)}.{since} |"
    yield ""


def _example(value: Any) -> str:
    return "–" if value is None else f"`{_cell(json.dumps(value, ensure_ascii=False))}`"


def _matches() -> Iterator[str]:
    yield "## Matches"
    yield ""
    yield 'A match is a condition (`{"matchHeader": {...}}`), several in one object or in a list (all must hold), alternatives'
    yield '(`{"any": [...]}`), a predicate of l7mp\'s (`{"op": "starts", "path": "/HTTP/url/path", "value": "/api"}`), or `"*"` for'
    yield "everything. Names of header fields have no case; values have."
    yield ""
    for name, (text, fields) in reference_of.MATCHES.items():
        yield f"### {name}"
        yield ""
        yield f"Compares {text}."
        yield ""
        yield from _table(fields)
    yield f"Predicates: {_code(FIRST_ORDER)}; of several: {_code(SECOND_ORDER)}."
    yield ""
    yield "Which one to use for a user's requests: [bridges.md](bridges.md#which-key-to-match-on)."
    yield ""


def _specs() -> Iterator[str]:
    for side, title in (("listener", "Listeners by protocol"), ("cluster", "Clusters by protocol")):
        yield f"## {title}"
        yield ""
        yield "| protocol | fields of `spec` | options and defaults |"
        yield "|---|---|---|"
        for name in getattr(registry, f"{side}_names")():
            cls: Any = getattr(registry, side)(name)
            fields = "; ".join(f"`{field}`: {allowed}" for field, allowed in cls.fields.items()) or "–"
            known = jsonschema.options_of(side, name)
            shown = ", ".join(
                f"`{option}`{f' {_number(value)}' if isinstance(value, int | float) else ''}" for option, value in known.items()
            )
            yield f"| {name} | {_cell(fields)} | {shown or '–'} |"
        yield ""


def _options() -> Iterator[str]:
    yield "## Options"
    yield ""
    yield "What an option of `options` means; which protocol has it with which default is told above."
    yield ""
    yield from _table(reference_of.OPTIONS.values())


def _number(value: float) -> str:
    return str(int(value) if value == int(value) else value)


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Write the file, or, with --check, tell whether it is what would be written."""
    pages = {FILE: reference(), CONFIGURATION: configuration()}
    if "--check" not in sys.argv:
        for file, text in pages.items():
            file.write_text(text, encoding="utf-8")
        return 0
    stale = [file.name for file, text in pages.items() if not file.is_file() or file.read_text(encoding="utf-8") != text]
    for name in stale:
        print(f"{name} is not what the program says: run `make docs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
