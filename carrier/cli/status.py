"""`carrier status` and `carrier sessions`: what runs."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from carrier.cli.bridges import health, show_bridges
from carrier.cli.client import OK, USAGE, Client, Dict, Refused
from carrier.cli.labels import labels
from carrier.cli.page import Page, ago, complain, count, done, show, stream


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
    print(f"pid {found['pid']}, {found['file'] or 'no file'}, asked at {client.where}")
    named = labels(found)
    for listener in found["listeners"]:
        _show_listener(listener, named, page)
    _show_endpoints(found["clusters"], named, page)
    if found["bridges"]:
        print()
    show_bridges(found["bridges"], page)
    _show_privileged(found, page)
    return OK


def _show_privileged(found: Dict, page: Page) -> None:
    """What takes a caller who has shown who it is, and who that is; nothing where there is nothing of the kind."""
    if not found.get("privileged"):
        return
    print()
    print(page.paint("1", "privileged") + f"  on loopback: {found['trusted'].get('loopback', 'everybody')}")
    for one in found["privileged"]:
        print(f"  {one['kind']} {one['name']}: {one['why']}")


def _show_listener(listener: Dict, named: Mapping[str, str], page: Page) -> None:
    print()
    live = f"{count(listener['sessions'], 'session')} now, {listener['total']} ever, {listener['failed']} failed"
    state = "" if listener["state"] == "listening" else f", {listener['state']}"
    print(page.paint("1", f"listener {listener['name']}") + f"  {listener['protocol']} {listener['address']}{state}, {live}")
    rows = []
    for number, rule in enumerate(listener["rules"], 1):
        to = named.get(rule["to"], rule["to"])
        to += f", else {named.get(rule['fallback'], rule['fallback'])}" if rule["fallback"] else ""
        name = named.get(rule["rule"], rule["rule"])
        rows.append((number, name, rule["user"], rule["when"], to or rule["note"] or rule["error"], rule["hits"], ago(rule["last_hit"])))
    page.table(("#", "rule", "who", "when", "to", "hits", "last hit"), rows, "  ")
    for rule in listener["rules"]:
        if rule["note"] or rule["error"]:
            print(f"  ! {rule['note'] or rule['error']}")
    if trouble := listener.get("tls", {}).get("trouble"):
        print(f"  ! tls: {trouble}")


def _show_endpoints(clusters: list[Dict], named: Mapping[str, str], page: Page) -> None:
    heading = ("cluster", "protocol", "endpoint", "health", "sessions", "total", "failed")
    rows = []
    for cluster in clusters:
        for endpoint in cluster["endpoints"]:
            name, counts = named.get(cluster["name"], cluster["name"]), (endpoint["sessions"], endpoint["total"], endpoint["failed"])
            rows.append((name, cluster["protocol"], endpoint["address"], health(endpoint), *counts))
    if rows:
        print()
    page.table(heading, rows)
    for cluster in clusters:
        if trouble := cluster.get("tls", {}).get("trouble"):
            print(f"  ! cluster {named.get(cluster['name'], cluster['name'])}, tls: {trouble}")


def log_level(options: argparse.Namespace, client: Client, page: Page) -> int:
    """Show the level of the log, or change it."""
    if options.level is None:
        found = client.call("GET", "log")
        return done(options, found, f"the log says {found['level']} and what is graver")
    found = client.send("PUT", "log", {"level": options.level})
    return done(options, found, f"the log says {options.level} and what is graver (before: {found['before']})")


def sessions(options: argparse.Namespace, client: Client, page: Page) -> int:
    if options.action == "list":
        return _list_sessions(options, client, page)
    if not options.name:
        print(f"carrier sessions {options.action}: which session?", file=sys.stderr)
        return USAGE
    at = f"sessions/{quote(options.name, safe='')}"
    if options.action == "kill":
        return done(options, client.call("DELETE", at), f"{options.name} is ended: both sides are closed")
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
    if options.sort is not None:
        found.sort(key=ORDERS[options.sort])
    if show(options, found):
        return OK
    status = client.call("GET", "status")
    named = labels(status)
    users = {rule["rule"]: rule["user"] for listener in status["listeners"] for rule in listener["rules"]}
    rows = []
    for session in found:
        endpoint, counters, rule = session["destination"].get("endpoint"), session["counters"], session.get("rule", "")
        address = endpoint["spec"]["address"] if isinstance(endpoint, Mapping) and endpoint["spec"]["address"] != "<VIRTUAL>" else ""
        to = named.get(session["destination"].get("origin", "-"), session["destination"].get("origin", "-"))
        protocol = session["source"]["listener"].get("protocol") + stream(session["metadata"].get("HTTP") or {}, " ")
        moved = f"{counters['bytes_in']}/{counters['bytes_out']}"
        since = ago(session["events"][0]["timestamp"])
        rows.append(
            (
                session["name"],
                protocol,
                users.get(rule),
                session["status"],
                named.get(rule, rule),
                to if address in to else f"{to} {address}",
                moved,
                since,
            )
        )
    page.table(("session", "protocol", "user", "status", "rule", "to", "bytes in/out", "since"), rows)
    if not rows:
        print("no sessions")
    return OK


def _bytes(session: Dict) -> int:
    return -int(session["counters"]["bytes_in"] + session["counters"]["bytes_out"])


def _age(session: Dict) -> str:
    return str(session["events"][0]["timestamp"])


ORDERS: Mapping[str, Callable[[Dict], Any]] = {"bytes": _bytes, "age": _age}
"""What `--sort` takes: most bytes first, oldest first."""


def _show_session(session: Dict) -> None:
    print(f"{session['name']}{stream(session['metadata'].get('HTTP') or {}, '  ')}  {session['status']}")
    print(f"why   {session['why']}")
    for event in session["events"]:
        more = "  ".join(str(event[part]) for part in ("message", "content") if event[part])
        print(f"  {event['timestamp']}  {event['event']:<16}{more}")
    print("  " + ", ".join(f"{name} {value}" for name, value in session["counters"].items()))
