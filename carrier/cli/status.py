"""`carrier status` and `carrier sessions`: what runs."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from urllib.parse import quote

from carrier.cli.bridges import health, show_bridges
from carrier.cli.client import OK, USAGE, Client, Dict, Refused
from carrier.cli.page import Page, ago, complain, count, done, show


def status(options: argparse.Namespace, client: Client, page: Page) -> int:
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
            complain(options, error)  # it may be starting again


def _status_once(options: argparse.Namespace, client: Client, page: Page) -> int:
    found = client.call("GET", "status")
    if show(options, found):
        return OK
    overloaded = f", overloaded: {found['overloaded']}" if found["overloaded"] else ""
    state = page.paint("32" if found["state"] == "ready" and not overloaded else "33", found["state"])
    print(f"carrier {found['version']}, {state}{overloaded}, revision {found['revision']}, {count(found['sessions'], 'session')}")
    for listener in found["listeners"]:
        _show_listener(listener, page)
    _show_endpoints(found["clusters"], page)
    if found["bridges"]:
        print()
    show_bridges(found["bridges"], page)
    return OK


def _show_listener(listener: Dict, page: Page) -> None:
    print()
    live = f"{count(listener['sessions'], 'session')} now, {listener['total']} ever, {listener['failed']} failed"
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
    if trouble := listener.get("tls", {}).get("trouble"):
        print(f"  ! tls: {trouble}")


def _show_endpoints(clusters: list[Dict], page: Page) -> None:
    rows = [
        (
            cluster["name"],
            cluster["protocol"],
            endpoint["address"],
            health(endpoint),
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
    for cluster in clusters:
        if trouble := cluster.get("tls", {}).get("trouble"):
            print(f"  ! cluster {cluster['name']}, tls: {trouble}")


def sessions(options: argparse.Namespace, client: Client, page: Page) -> int:
    if options.action == "list":
        return _list_sessions(options, client, page)
    if not options.name:
        print(f"carrier sessions {options.action}: which session?", file=sys.stderr)
        return USAGE
    at = f"sessions/{quote(options.name, safe='')}"
    if options.action == "kill":
        return done(options, client.call("DELETE", at), f"{options.name} is ended")
    session = client.call("GET", at)
    if not show(options, session):
        _show_session(session)
    return OK


def _list_sessions(options: argparse.Namespace, client: Client, page: Page) -> int:
    found = [
        session
        for session in client.call("GET", "sessions")
        if options.listener in (None, session["source"]["origin"]) and options.rule in (None, session.get("rule"))
    ]
    if show(options, found):
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
