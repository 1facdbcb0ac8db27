"""`carrier gather`: one file for a bug report: what runs, how it is configured, what it said, what came last. No secrets are in it."""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from carrier.cli.client import FAILED, OK, Client, Refused
from carrier.cli.doctor import examined
from carrier.cli.page import Page, count
from carrier.cli.tail import events
from carrier.redact import REDACTED, document, is_secretive, text

LINES = 10_000
EVENTS = 1000
"""Lines of the log, and events, that are taken at most."""
ABOUT = """\
What `carrier gather` wrote at {time} on {host}, of the carrier at {where}.

{parts}

Not in it: bodies, header fields but user-agent, queries of paths; values that rules compare with cookies, or with fields
and parameters whose names sound like secrets (token, password, authorization, ...); words of commands behind the first; bodies of
fixed answers; what certificates and keys hold. Names, addresses of clients, paths and users are in it: look before you publish it.
"""


def gather(options: argparse.Namespace, client: Client, page: Page) -> int:
    """Write the bundle; 1 when a part of it is missing."""
    import tarfile

    client.call("GET", "status")  # who is not there at all is no bug report
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    parts, missing = _parts(options, client)
    folder = f"carrier-gather-{stamp}"
    listed = [*((name, about) for name, (about, _) in parts.items()), *((name, f"MISSING: {why}") for name, why in missing.items())]
    told = "\n".join(f"{name:<14} {about}" for name, about in listed)
    about = ABOUT.format(time=datetime.now(UTC).isoformat(timespec="seconds"), host=platform.node(), where=client.where, parts=told)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as bundle:
        for name, content in (("README.txt", about), *((name, content) for name, (_, content) in parts.items())):
            data = content.encode("utf-8", "backslashreplace")
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size, member.mtime, member.mode = len(data), int(time.time()), 0o600
            bundle.addfile(member, io.BytesIO(data))
    path = options.output or f"{folder}.tar.gz"
    if path == "-":
        sys.stdout.buffer.write(packed.getvalue())
        sys.stdout.flush()
    else:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(packed.getvalue())
    said = {"file": path, "bytes": packed.tell(), "parts": {name: about for name, (about, _) in parts.items()}, "missing": missing}
    out = sys.stderr if path == "-" else sys.stdout
    if options.json:
        print(json.dumps(said, indent=2), file=out)
        return FAILED if missing else OK
    print(f"{path}: {count(len(parts), 'part')}, {packed.tell() / 1024:.0f} KiB", file=out)
    for name, (about, _) in parts.items():
        print(f"  {name:<14} {about}", file=out)
    for name, why in missing.items():
        print(f"  {name:<14} missing: {why}", file=out)
    print("secrets are left out; names, addresses of clients and paths are in it: look before you publish it", file=out)
    return FAILED if missing else OK


def _parts(options: argparse.Namespace, client: Client) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """Name -> what it is, and its content; and name -> why it is not there."""
    last = _Events(client)
    last.start()
    time.sleep(options.seconds)
    table: dict[str, tuple[str, Callable[[], str]]] = {
        "process.json": ("versions, limits, where the API listens", lambda: _json({**_get(client, "process"), "command": _own()})),
        "status.json": ("listeners, rules, endpoints, bridges", lambda: _json(document(_get(client, "status")))),
        "config.json": ("the configuration in force, without secrets", lambda: _json(document(_get(client, "config?document=true")))),
        "bridges.json": ("user bridges", lambda: _json(document(_get(client, "bridges")))),
        "sessions.json": ("what is being carried, without its metadata", lambda: _json(_sessions(_get(client, "sessions")))),
        "metrics.txt": ("all counters", lambda: str(_get(client, "/metrics"))),
        "log.txt": ("the last lines of the log", lambda: _log(client)),
        "requests.json": ("the last requests, as far as they were watched", lambda: _json(last.found())),
        "doctor.json": ("what `carrier doctor` finds", lambda: _json([check._asdict() for check in examined(client, None)])),
    }
    parts, missing = {}, {}
    for name, (about, make) in table.items():
        try:
            parts[name] = about, make()
        except Refused as refused:
            missing[name] = f"{refused}"
    return parts, missing


def _get(client: Client, path: str) -> Any:
    return client.call("GET", path)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _own() -> dict[str, Any]:
    """Of the command itself, which need not be the version that runs."""
    from carrier.config.dump import version

    return {"version": version(), "python": platform.python_version(), "system": platform.platform()}


def _log(client: Client) -> str:
    found = _get(client, f"log?lines={LINES}")
    return "".join(f"{text(line)}\n" for line in found["lines"]) or "(the log has said nothing)\n"


def _sessions(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without metadata, which has all header fields."""
    return [document({name: value for name, value in session.items() if name not in ("metadata", "source")}) for session in listed]


class _Events(threading.Thread):
    """Listens to what happens, and to what is still known."""

    def __init__(self, client: Client) -> None:
        super().__init__(daemon=True)
        self.client = Client(client.where, client.token)
        self.heard: list[dict[str, Any]] = []
        self.refused: Refused | None = None

    def run(self) -> None:
        try:
            for event in events(self.client.lines("events?since=0")):
                self.heard.append(event)
                del self.heard[:-EVENTS]
        except Refused as refused:
            self.refused = refused

    def found(self) -> list[dict[str, Any]]:
        """What was heard, without queries and secrets. Raises Refused: nothing could be."""
        if self.refused is not None and not self.heard:
            raise self.refused
        return [{name: _shown(name, value) for name, value in event.items()} for event in list(self.heard)]


def _shown(name: str, value: Any) -> Any:
    if name == "path" and isinstance(value, str):
        path, mark, _ = value.partition("?")
        return path + (f"?{REDACTED}" if mark else "")
    if name == "headers" and isinstance(value, Mapping):
        return {field: REDACTED if is_secretive(field) else inner for field, inner in value.items()}
    return document(value)
