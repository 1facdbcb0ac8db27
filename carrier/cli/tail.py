"""`carrier tail`: what happens, as it happens, one line each."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from urllib.parse import urlencode

from carrier.cli.client import Client, Dict, Refused
from carrier.cli.labels import labels
from carrier.cli.page import Page, complain, stream
from carrier.core.labels import is_implicit

NAMED = ("rule", "cluster")
"""Fields of an event that may have a name which nobody gave."""
GRPC_FAILURES = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
"""As in carrier/wire/grpc.py, which is not loaded for them."""
AGAIN = 1.0
"""Seconds between two attempts to find a carrier that has gone."""
FILTERS = ("user", "rule", "listener", "status", "path", "protocol")


def tail(options: argparse.Namespace, client: Client, page: Page) -> int:
    """Until somebody presses ctrl-c. A carrier that goes is waited for, and what it remembers of the time between is told."""
    wanted = {name: getattr(options, name) for name in FILTERS if getattr(options, name)}
    _hint(wanted, client)
    if options.errors:
        wanted["errors"] = "true"
    lines = Lines(options, client, page)
    path, last = "events" + (f"?{urlencode(wanted)}" if wanted else ""), "0" if options.last else ""
    gone = False
    while True:
        try:
            for line in client.lines(path, last):
                gone = False
                if line.startswith("id: "):
                    last = line[4:]
                elif line.startswith("data: "):
                    lines.show(json.loads(line[6:]))
        except Refused as error:
            if error.status:
                raise
            if not gone:
                complain(options, Refused(0, f"{error.content}; waiting for it to come back"))
            gone = True
            time.sleep(AGAIN)


class Lines:
    """Prints events, with names that people know."""

    def __init__(self, options: argparse.Namespace, client: Client, page: Page) -> None:
        self.options, self.client, self.page = options, client, page
        self.named: Mapping[str, str] = {}

    def show(self, event: Dict) -> None:
        """Print a line."""
        if self.options.json:
            print(json.dumps(event, ensure_ascii=False), flush=True)
            return
        if any(is_implicit(event.get(field) or "") and event[field] not in self.named for field in NAMED):
            self.named = labels(Client(self.client.where, self.client.token).call("GET", "status"))
        said = {field: self.named.get(event[field], event[field]) for field in NAMED if event.get(field)}
        print(shown({**event, **said}, self.page), flush=True)


def _hint(wanted: Mapping[str, str], client: Client) -> None:
    """Say which names nobody has now: they may come, or be misspelt."""
    from carrier.errors import did_you_mean  # what it needs is loaded by nobody else who asks for help

    status = client.call("GET", "status")
    listeners = status["listeners"]
    known = {
        "user": {bridge["user"] for bridge in status["bridges"]},
        "rule": {rule["rule"] for listener in listeners for rule in listener["rules"]},
        "listener": {listener["name"] for listener in listeners},
    }
    for name, names in known.items():
        if (value := wanted.get(name)) and value not in names:
            hint = did_you_mean(value, names)
            print(f"carrier tail: there is no {name} {value!r} now{f'; {hint}' if hint else ''}", file=sys.stderr)


def events(lines: Iterator[str]) -> Iterator[Dict]:
    """The events in a stream of lines (WHATWG HTML section 9.2); ours have their data in one line."""
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line[6:])


def shown(event: Dict, page: Page) -> str:
    """One line for a person."""
    kind = event["event"]
    at = datetime.fromisoformat(event["time"].replace("Z", "+00:00")).astimezone() if event.get("time") else datetime.now()
    clock = f"{at:%H:%M:%S}"
    if kind in ("request", "session", "refused"):
        return f"{clock} {_session(event, page)}"
    if kind == "opened":
        to = f" -> {event['cluster']}" if event.get("cluster") else ""
        return f"{clock} {page.paint('36', 'opened')} {event['session']}{stream(event, ' ')} {event['rule']}{to}"
    if kind == "lost":
        return f"{clock} {page.paint('33', str(event['events']) + ' more events were not told')}"
    values = " ".join(f"{name}={value}" for name, value in event.items() if name not in ("event", "time", "level", "what"))
    code = {"error": "31", "warn": "33"}.get(event.get("level", ""), "36")
    return f"{clock} {page.paint(code, str(event.get('what', kind)))} {values}".rstrip()


def _session(event: Dict, page: Page) -> str:
    status, call = event.get("status") or 0, event.get("grpc") or {}
    word = str(status or event.get("error") or "ended")
    failed = event.get("error") or status >= 500 or call.get("status") in GRPC_FAILURES
    code = "31" if failed else "33" if status >= 400 or call.get("status", "OK") != "OK" else "32"
    who = str(event.get("session") or f"{event.get('protocol', '')} {event.get('client', '')}".strip())
    what = f"{event['method']} {event.get('path', '')}" if event.get("method") else f"{who} {event.get('request', '')}".rstrip()
    to = event.get("endpoint") or event.get("cluster") or ""
    marks = f"  fallback: {event['fallback']}" if event.get("fallback") else ""
    marks += f"  {event['why']}" if event["event"] == "refused" and event.get("why") else ""
    took = f"  {_duration(event['duration_us'] / 1e6)}" if "duration_us" in event else ""
    what += stream(event, " ")
    if call:
        what += f" {call.get('status') or 'no status'}"
    via = "  " + " ".join(filter(None, (event.get("listener"), event.get("user"), event.get("rule"))))
    return f"{page.paint(code, word)} {what}{via}{f' -> {to}' if to else ''}{took}{marks}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.2f} s" if seconds < 60 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"
