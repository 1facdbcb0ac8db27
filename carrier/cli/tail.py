"""`carrier tail`: what happens, as it happens, one line each."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from urllib.parse import urlencode

from carrier.cli.client import OK, Client, Dict
from carrier.cli.labels import labels
from carrier.cli.page import Page, stream
from carrier.core.labels import is_implicit

NAMED = ("rule", "cluster")
"""Fields of an event that may have a name which nobody gave."""
FILTERS = ("user", "rule", "listener", "status", "path", "protocol")


def tail(options: argparse.Namespace, client: Client, page: Page) -> int:
    """Until the carrier ends, or somebody presses ctrl-c."""
    wanted = {name: getattr(options, name) for name in FILTERS if getattr(options, name)}
    if options.errors:
        wanted["errors"] = "true"
    if options.last:
        wanted["since"] = "0"
    named: Mapping[str, str] = {}
    for event in events(client.lines("events" + (f"?{urlencode(wanted)}" if wanted else ""))):
        if options.json:
            print(json.dumps(event, ensure_ascii=False), flush=True)
            continue
        if any(is_implicit(event.get(field) or "") and event[field] not in named for field in NAMED):
            named = labels(Client(client.where, client.token).call("GET", "status"))
        said = {field: named.get(event[field], event[field]) for field in NAMED if event.get(field)}
        print(shown({**event, **said}, page), flush=True)
    return OK


def events(lines: Iterator[str]) -> Iterator[Dict]:
    """The events in a stream of lines (WHATWG HTML section 9.2); ours have their data in one line."""
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line[6:])


def shown(event: Dict, page: Page) -> str:
    """One line for a person."""
    kind = event["event"]
    at = event.get("time")
    clock = f"{datetime.fromisoformat(at.replace('Z', '+00:00')).astimezone():%H:%M:%S}" if at else f"{datetime.now():%H:%M:%S}"
    if kind in ("request", "session", "refused"):
        return f"{clock} {_session(event, page)}"
    if kind == "opened":
        to = f" -> {event['cluster']}" if event.get("cluster") else ""
        return f"{clock} {page.paint('36', 'opened')} {event['session']}{stream(event, ' ')} {event['rule']}{to}"
    if kind == "lost":
        return f"{clock} {page.paint('33', str(event['events']) + ' more events were not told')}"
    values = " ".join(f"{name}={value}" for name, value in event.items() if name not in ("event", "level", "what"))
    code = {"error": "31", "warn": "33"}.get(event.get("level", ""), "36")
    return f"{clock} {page.paint(code, str(event.get('what', kind)))} {values}".rstrip()


def _session(event: Dict, page: Page) -> str:
    status = event.get("status")
    word = str(status or event.get("error") or "ended")
    code = "31" if event.get("error") or (status or 0) >= 500 else "33" if (status or 0) >= 400 else "32"
    what = f"{event['method']} {event.get('path', '')}" if event.get("method") else str(event.get("session") or event.get("protocol") or "")
    to = event.get("endpoint") or event.get("cluster") or ""
    marks = f"  fallback: {event['fallback']}" if event.get("fallback") else ""
    marks += f"  {event['reason']}" if event.get("reason") else ""
    took = f"  {event['duration_us'] / 1000:.1f} ms" if "duration_us" in event else ""
    what += stream(event, " ")
    if event.get("grpc"):
        what += f" {event['grpc'].get('status') or 'no status'}"
    via = "  " + " ".join(filter(None, (event.get("listener"), event.get("user"), event.get("rule"))))
    return f"{page.paint(code, word)} {what}{via}{f' -> {to}' if to else ''}{took}{marks}"
