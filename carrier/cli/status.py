"""The commands that ask a running carrier: explain, status, sessions, bridges, apply, dump, diff.

Each is one function of the parsed command line, which calls the REST API (`Client`: the unix socket when it is there, else TCP; a token
where one is needed), prints what a person needs and returns an exit status. `--json` prints the API's answer as it is. On a terminal
there are headings and colours; piped there are only lines of fields, so that other programs need not cut them off.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from http.client import HTTPConnection

OK, FAILED, USAGE = 0, 1, 2
TIMEOUT = 30.0
Dict = dict[str, Any]


class Refused(Exception):
    """The API said no, or is not there. content: what it said, a text or a list of problems."""

    def __init__(self, status: int, content: Any) -> None:
        super().__init__(str(content))
        self.status = status
        self.content = content


class Client:
    """Calls the REST API. where: a path of a unix socket, or HOST:PORT; None: where a carrier of this user would listen, which is the
    unix socket if somebody answers there, else the TCP address."""

    def __init__(self, where: str | None = None, token: str | None = None) -> None:
        self.where = where or os.environ.get("CARRIER_ADMIN")
        self.token = token or os.environ.get("CARRIER_TOKEN")

    def call(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
        """The decoded answer. path: after /api/v1, or a whole one. Raises Refused."""
        headers = {"host": "localhost"}
        if body is not None:
            headers["content-type"] = kind
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        from http.client import HTTPException

        connection = self._connection()
        try:
            connection.request(method, path if path.startswith("/") else f"/api/v1/{path}", body, headers)
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
        except (OSError, HTTPException) as exc:
            raise Refused(0, f"no carrier answers at {self.where}: {_reason(exc)}") from None
        finally:
            connection.close()
        return _decoded(answer.status, text)

    def send(self, method: str, path: str, body: object) -> Any:
        """A call with a JSON body. Raises Refused."""
        return self.call(method, path, json.dumps(body).encode())

    def _connection(self) -> HTTPConnection:
        """Connected. Raises Refused."""
        said = []
        for where in [self.where] if self.where else _defaults():
            try:
                connection = _connected(where)
            except OSError as exc:
                said.append(f"{where}: {_reason(exc)}")
            else:
                self.where = where
                return connection
        hint = "" if self.where else f"; {_others()}--admin or CARRIER_ADMIN says where one is"
        raise Refused(0, f"no carrier answers at {', nor at '.join(said)}{hint}")


def _connected(where: str) -> HTTPConnection:
    """Raises OSError."""
    import http.client
    import socket

    if "/" not in where:
        host, _, port = where.rpartition(":")
        tcp = http.client.HTTPConnection(host.strip("[]") or "127.0.0.1", int(port) if port.isdecimal() else 1234, timeout=TIMEOUT)
        tcp.connect()
        return tcp
    unix = http.client.HTTPConnection("localhost", timeout=TIMEOUT)
    unix.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unix.sock.settimeout(TIMEOUT)
    try:
        unix.sock.connect(where)
    except OSError:
        unix.close()
        raise
    return unix


def _defaults() -> list[str]:
    """Where a carrier of this user would listen."""
    from carrier.admin.where import default_socket

    path = default_socket()
    return [*([path] if os.path.exists(path) else []), "127.0.0.1:1234"]


def _others() -> str:
    """The sockets of carriers that found the default one taken (carrier/admin/where.py)."""
    from carrier.admin.where import default_socket

    path = Path(default_socket())
    found = ", ".join(map(str, sorted(path.parent.glob(f"{path.stem}-*.sock"))))
    return f"there is also {found}; " if found else ""


def _reason(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__


def _decoded(status: int, text: str) -> Any:
    try:
        value = json.loads(text) if text else None
    except ValueError:
        value = text
    if status >= 400 or status == 0:
        raise Refused(status, value.get("content", value) if isinstance(value, Mapping) else value)
    return value


# --- how it looks -----------------------------------------------------------------------------------------------------------------------


class Page:
    """Prints tables: padded columns, headings and colours on a terminal; what the reader's alphabet lacks is not used."""

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty()
        self.colours = self.terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        self.width = shutil.get_terminal_size().columns if self.terminal else 0

    def paint(self, code: str, text: str) -> str:
        """The text in a colour, where there are colours."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colours else text

    def table(self, heading: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "") -> None:
        """Rows of fields; None and "" are shown as "-"."""
        cells = [["-" if cell is None or cell == "" else str(cell) for cell in row] for row in rows]
        shown = [list(heading), *cells] if self.terminal else cells
        widths = [max((len(row[i]) for row in shown), default=0) for i in range(len(heading))]
        for number, row in enumerate(shown):
            line = indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            if self.width and len(line) > self.width:
                line = line[: self.width - 1] + ("…" if self.utf8 else "~")
            print(self.paint("1", line) if self.terminal and not number else line)


def ago(moment: str | None) -> str:
    """How long ago a moment (RFC 3339) was, in words."""
    if not moment:
        return "never"
    seconds = max(0, round((datetime.now(UTC) - datetime.fromisoformat(moment.replace("Z", "+00:00"))).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def run(options: argparse.Namespace) -> int:
    """Do what the command line says; the exit status."""
    command: Callable[[argparse.Namespace, Client, Page], int] = COMMANDS[options.command]
    try:
        if options.command == "explain" and options.config:
            return _explain_file(options, Page())
        token = Path(options.token_file).read_text().split()[-1] if options.token_file else None
        return command(options, Client(options.admin, token), Page())
    except Refused as error:
        _complain(options, error)
        return USAGE if options.command == "diff" else FAILED  # 1 says that there is a difference, as with diff(1)
    except BrokenPipeError:  # the reader of our output is gone
        raise
    except (OSError, ValueError, IndexError) as exc:  # a file of the caller's
        where = f"{exc.filename}: " if isinstance(exc, OSError) and exc.filename else ""
        print(f"carrier {options.command}: {where}{_reason(exc)}", file=sys.stderr)
        return USAGE


def _complain(options: argparse.Namespace, error: Refused) -> None:
    problems = error.content if isinstance(error.content, list) else [error.content]
    for problem in problems:
        text = problem
        if isinstance(problem, Mapping):
            own = options.command in ("apply", "diff")  # else the text is ours, and nobody has seen its lines
            at = f"{problem['line']}:{problem.get('column', 0)}: " if own and problem.get("line") else ""
            text = f"{at}{problem.get('path', '')}: {problem.get('message', '')}"
            text += f" (allowed: {problem['allowed']})" if problem.get("allowed") else ""
            text += f"; {problem['hint']}" if problem.get("hint") else ""
        print(f"carrier {options.command}: {text}", file=sys.stderr)


def _show(options: argparse.Namespace, value: Any) -> bool:
    """Print the answer as JSON if that is asked for."""
    if options.json:
        print(json.dumps(value, indent=2, ensure_ascii=False))
    return bool(options.json)


# --- explain ----------------------------------------------------------------------------------------------------------------------------


def _asked(options: argparse.Namespace) -> Dict:
    """The session that the command line describes."""
    body: Dict = {name: value for name in ("listener", "source", "sni") if (value := getattr(options, name)) is not None}
    if options.method is not None and options.path is None and (options.method.startswith("/") or "://" in options.method):
        options.method, options.path = "GET", options.method
    if options.method is not None:
        body["method"] = options.method
    if options.path is not None:
        body["path"] = options.path
    if options.header:
        body["headers"] = [list(pair) for pair in options.header]
    return body


def _explain(options: argparse.Namespace, client: Client, page: Page) -> int:
    return _show_explanation(options, page, client.send("POST", "explain", _asked(options)))


def _explain_file(options: argparse.Namespace, page: Page) -> int:
    """By the tables of a file: nothing runs."""
    import asyncio

    import msgspec

    from carrier.admin.imagine import ask, offline
    from carrier.config.source import load
    from carrier.core.env import Env
    from carrier.errors import ConfigError, Error

    loop = asyncio.new_event_loop()
    try:
        config = load(options.config, allow_dangling=True).config
        said = ask(_asked(options), config, offline(config, Env(loop)))
    except ConfigError as error:
        for problem in error.problems:
            print(f"carrier explain: {problem}", file=sys.stderr)
        return USAGE
    except Error as error:
        print(f"carrier explain: {error.detail}", file=sys.stderr)
        return USAGE
    finally:
        loop.close()
    return _show_explanation(options, page, msgspec.to_builtins(said))


def _show_explanation(options: argparse.Namespace, page: Page, said: Dict) -> int:
    if not _show(options, said):
        import msgspec

        from carrier.cli.explained import render
        from carrier.rules.explain import Explanation

        print(render(msgspec.convert(said, Explanation), page.utf8), end="")
    return OK


# --- status ------------------------------------------------------------------------------------------------------------------------------


def _status(options: argparse.Namespace, client: Client, page: Page) -> int:
    if options.watch is None:
        return _status_once(options, client, page)
    _status_once(options, client, page)  # who is not there at the beginning is somewhere else
    while True:
        sys.stdout.flush()
        time.sleep(options.watch)
        if page.terminal:
            print("\x1b[H\x1b[J", end="")
        try:
            _status_once(options, client, page)
        except Refused as error:
            if error.status:
                raise
            _complain(options, error)  # it may be starting again


def _status_once(options: argparse.Namespace, client: Client, page: Page) -> int:
    found = client.call("GET", "status")
    if _show(options, found):
        return OK
    overloaded = f", overloaded: {found['overloaded']}" if found["overloaded"] else ""
    state = page.paint("32" if found["state"] == "ready" and not overloaded else "33", found["state"])
    print(f"carrier {found['version']}, {state}{overloaded}, revision {found['revision']}, {_count(found['sessions'], 'session')}")
    for listener in found["listeners"]:
        _show_listener(listener, page)
    _show_endpoints(found["clusters"], page)
    if found["bridges"]:
        print()
    _show_bridges(found["bridges"], page)
    return OK


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _show_listener(listener: Dict, page: Page) -> None:
    print()
    live = f"{_count(listener['sessions'], 'session')} now, {listener['total']} ever, {listener['failed']} failed"
    state = "" if listener["state"] == "listening" else f", {listener['state']}"
    print(page.paint("1", f"listener {listener['name']}") + f"  {listener['protocol']} {listener['address']}{state}, {live}")
    rows = []
    for number, rule in enumerate(listener["rules"], 1):
        to = rule["to"] + (f", else {rule['fallback']}" if rule["fallback"] else "")
        wrong = rule["note"] or rule["error"]
        rows.append((number, rule["rule"], rule["user"], rule["when"], to or wrong, rule["hits"], ago(rule["last_hit"])))
    page.table(("#", "rule", "who", "when", "to", "hits", "last hit"), rows, "  ")
    for rule in listener["rules"]:
        if rule["note"] or rule["error"]:
            print(f"  ! {rule['note'] or rule['error']}")


def _show_endpoints(clusters: list[Dict], page: Page) -> None:
    rows = [
        (
            cluster["name"],
            cluster["protocol"],
            endpoint["address"],
            _health(endpoint),
            endpoint["sessions"],
            endpoint["total"],
            endpoint["failed"],
        )
        for cluster in clusters
        for endpoint in cluster["endpoints"]
    ]
    if rows:
        print()
        page.table(("cluster", "protocol", "endpoint", "health", "sessions", "total", "failed"), rows)


def _health(endpoint: Dict) -> str:
    if endpoint["drained"]:
        return "drained"
    return "up" if endpoint["up"] else f"down ({endpoint['reason']})"


def _show_bridges(bridges: list[Dict], page: Page) -> None:
    rows = []
    for bridge in bridges:
        where = ", ".join(f"{endpoint['address']} {_health(endpoint)}" for endpoint in bridge["endpoints"])
        rows.append(
            (
                bridge["name"],
                bridge["user"],
                bridge["listener"],
                where,
                bridge["hits"],
                ago(bridge["last_hit"]),
                bridge["expires"] or "never",
            )
        )
    if rows:
        page.table(("bridge", "user", "listener", "endpoint", "hits", "last hit", "expires"), rows)


# --- sessions ----------------------------------------------------------------------------------------------------------------------------


def _sessions(options: argparse.Namespace, client: Client, page: Page) -> int:
    if options.action == "list":
        return _list_sessions(options, client, page)
    if not options.name:
        print(f"carrier sessions {options.action}: which session?", file=sys.stderr)
        return USAGE
    at = f"sessions/{quote(options.name, safe='')}"
    if options.action == "kill":
        return _done(options, client.call("DELETE", at), f"{options.name} is ended")
    session = client.call("GET", at)
    if not _show(options, session):
        _show_session(session)
    return OK


def _list_sessions(options: argparse.Namespace, client: Client, page: Page) -> int:
    found = [
        session
        for session in client.call("GET", "sessions")
        if options.listener in (None, session["source"]["origin"]) and options.rule in (None, session.get("rule"))
    ]
    if _show(options, found):
        return OK
    rows = []
    for session in found:
        endpoint, counters = session["destination"].get("endpoint"), session["counters"]
        address = endpoint["spec"]["address"] if isinstance(endpoint, Mapping) else None
        to = f"{session['destination'].get('origin', '-')} {address or ''}".strip()
        moved = f"{counters['bytes_in']}/{counters['bytes_out']}"
        rows.append((session["name"], session["status"], session.get("rule"), to, moved, ago(session["events"][0]["timestamp"])))
    page.table(("session", "status", "rule", "to", "bytes in/out", "since"), rows)
    return OK


def _show_session(session: Dict) -> None:
    print(f"{session['name']}  {session['status']}")
    print(f"why   {session['why']}")
    for event in session["events"]:
        more = "  ".join(str(event[part]) for part in ("message", "content") if event[part])
        print(f"  {event['timestamp']}  {event['event']:<16}{more}")
    print("  " + ", ".join(f"{name} {value}" for name, value in session["counters"].items()))


def _done(options: argparse.Namespace, answer: Any, text: str) -> int:
    """Say what was done; nothing when nobody watches."""
    if not _show(options, answer) and sys.stdout.isatty():
        print(text)
    return OK


# --- bridges -----------------------------------------------------------------------------------------------------------------------------


def _bridges(options: argparse.Namespace, client: Client, page: Page) -> int:
    if options.action != "list" and not options.name:
        print(f"carrier bridges {options.action}: which bridge?", file=sys.stderr)
        return USAGE
    at = f"bridges/{quote(options.name or '', safe='')}"
    if options.action == "list":
        found = client.call("GET", "status")["bridges"]
        if not _show(options, found):
            _show_bridges(found, page)
        return OK
    if options.action == "add":
        return _add_bridge(options, client, at)
    if options.action == "rm":
        return _done(options, client.call("DELETE", at), f"bridge {options.name} is gone")
    if options.action == "renew":
        answer = client.send("POST", at, {"expires": options.expires if options.expires is not None else 3600})
        return _done(options, answer, f"bridge {options.name} lives on")
    return _check_bridge(options, client, at)


def _add_bridge(options: argparse.Namespace, client: Client, at: str) -> int:
    match: list[Dict] = []
    for name, value in options.header or ():
        match.append({"matchHeader": {"name": name, "value": value}})
    if options.path:
        match.append({"matchPath": {"path": options.path, "type": "prefix"}})
    body: Dict = {"user": options.user or os.environ.get("USER", ""), "match": match, "endpoint": options.to}
    body |= {"port": int(options.port)} if (options.port or "").isdecimal() else {"listener": options.port} if options.port else {}
    body |= {name: value for name, value in (("expires", options.expires), ("fallback", options.fallback)) if value is not None}
    return _done(options, client.send("PUT", at, body), f"bridge {options.name} is in force")


def _check_bridge(options: argparse.Namespace, client: Client, at: str) -> int:
    """Ask the bridge's endpoint now; 1 when it cannot be reached."""
    found = client.call("POST", f"{at}/probe")
    if not _show(options, found):
        for endpoint in found["endpoints"]:
            said = f"reachable, {endpoint['milliseconds']} ms" if endpoint["reachable"] else f"not reachable: {endpoint['reason']}"
            print(f"{endpoint['address']} is {said}")
    return OK if all(endpoint["reachable"] for endpoint in found["endpoints"]) else FAILED


# --- the configuration -------------------------------------------------------------------------------------------------------------------


def _kind(text: str) -> str:
    return "application/json" if re.match(r"\s*[\[{]", text) else "application/yaml"


def _apply(options: argparse.Namespace, client: Client, page: Page) -> int:
    text = _read(options.file)
    path = "config?" + "&".join(
        f"{name}=true" for name, wanted in (("dryRun", options.dry_run), ("allowDangling", options.allow_dangling)) if wanted
    )
    answer = client.call("POST", path.rstrip("?"), text.encode(), _kind(text))
    return _done(options, answer, "it would be put in force" if options.dry_run else "it is in force")


def _read(file: str) -> str:
    return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")


def _dump(options: argparse.Namespace, client: Client, page: Page) -> int:
    document = client.call("GET", "config?document=true")
    if not _show(options, document):
        print(_yaml(document), end="")
    return OK


def _yaml(document: Any) -> str:
    import yaml

    plain = json.loads(json.dumps(document))  # what is shared is written out each time: YAML would make aliases of it
    return str(yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True))


def _diff(options: argparse.Namespace, client: Client, page: Page) -> int:
    """What `apply FILE` would change; 0 when nothing, 1 otherwise, as diff(1) does."""
    text = _read(options.file)
    found = client.call("POST", "validate", text.encode(), _kind(text))
    if not found["valid"]:
        raise Refused(400, found["problems"])
    if _show(options, found["changes"]):
        return FAILED if found["changes"] else OK
    for section, change in found["changes"].items():
        for what, mark, colour in (("removed", "-", "31"), ("changed", "~", "33"), ("added", "+", "32")):
            for name in change.get(what, ()):
                print(page.paint(colour, f"{mark} {section}/{name}"))
    if found["changes"] and options.lines:
        _show_lines(client, text, page)
    return FAILED if found["changes"] else OK


def _show_lines(client: Client, text: str, page: Page) -> None:
    """The two configurations line by line, both as `carrier dump` writes them."""
    import difflib

    from carrier.config.document import to_document
    from carrier.config.source import loads

    here = _yaml(to_document(loads(text, allow_dangling=True).config) | {"admin": {}})
    there = _yaml(client.call("GET", "config?document=true") | {"admin": {}})
    lines: Iterator[str] = difflib.unified_diff(there.splitlines(), here.splitlines(), "in force", "file", lineterm="")
    for line in lines:
        print(page.paint({"+": "32", "-": "31"}.get(line[:1], "0"), line))


COMMANDS: Mapping[str, Callable[[argparse.Namespace, Client, Page], int]] = {
    "explain": _explain,
    "status": _status,
    "sessions": _sessions,
    "bridges": _bridges,
    "apply": _apply,
    "dump": _dump,
    "diff": _diff,
}


# --- the command line ---------------------------------------------------------------------------------------------------------------------


def field(text: str) -> tuple[str, str]:
    """`NAME: VALUE` as a pair. Raises ArgumentTypeError."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"expected 'NAME: VALUE', got {text!r}")
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


def _pause(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"expected seconds, 0.1..86400, got {text!r}")
    return seconds


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
    bridges.add_argument("--user", metavar="USER", help="whose it is (default: $USER)")
    bridges.add_argument(
        "-H", "--header", metavar="'NAME: VALUE'", type=field, action="append", help="requests with this field; again for more"
    )
    bridges.add_argument("--path", metavar="PREFIX", help="and with paths that begin so")
    bridges.add_argument("--to", metavar="HOST:PORT", help="where they go")
    bridges.add_argument("--expires", metavar="SECONDS", type=float, help="from now (renew: default 3600)")
    bridges.add_argument("--fallback", choices=("shadow", "error"), help="when that cannot be reached (default: shadow)")


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, short: str, description: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=short, description=description)
    parser.add_argument("--admin", metavar="WHERE", help="unix socket or HOST:PORT of the REST API (default: $CARRIER_ADMIN, or found)")
    parser.add_argument("--token-file", metavar="FILE", help="a file with the bearer token (default: $CARRIER_TOKEN)")
    parser.add_argument("--json", action="store_true", help="the API's answer as it is")
    return parser
