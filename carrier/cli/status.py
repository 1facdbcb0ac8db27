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
from carrier.cli.page import Page, ago, complain, count, done, rate, show, stream


class Since:
    """An earlier answer of GET /status, for rates: what was counted then. Without one there are no rates."""

    def __init__(self, at: float, found: Dict) -> None:
        self.at = at
        self.listeners = {listener["name"]: listener for listener in found["listeners"]}
        self.hits = {(listener["name"], rule["rule"]): rule["hits"] for listener in found["listeners"] for rule in listener["rules"]}
        self.endpoints = {(cluster["name"], one["name"]): one for cluster in found["clusters"] for one in cluster["endpoints"]}
        self.seconds = 1.0
        """Until the answer that is shown now."""

    def rate(self, before: int | None, now: int) -> str:
        """Per second; what was not there before began at 0, and so did what was counted anew."""
        return rate(max(0, now - (before if before is not None and before <= now else 0)) / self.seconds)


def status(options: argparse.Namespace, client: Client, page: Page) -> int:
    since = _status_once(options, client, page, None)  # who is not there at the beginning is somewhere else
    while options.watch is not None:
        sys.stdout.flush()
        time.sleep(options.watch)
        try:
            since = _status_once(options, client, page, since)
        except Refused as error:
            if error.status:
                raise
            complain(options, error)  # it may be starting again
    return OK


def _status_once(options: argparse.Namespace, client: Client, page: Page, since: Since | None) -> Since:
    found = client.call("GET", "status")
    now = Since(time.monotonic(), found)
    if since is not None:
        since.seconds = max(0.001, now.at - since.at)
    with page.screen(options.watch is not None and not options.json):
        if not show(options, found):
            _show_all(found, client, page, since)
    return now


def _show_all(found: Dict, client: Client, page: Page, since: Since | None) -> None:
    overloaded = f", overloaded: {found['overloaded']}" if found["overloaded"] else ""
    state = page.paint("32" if found["state"] == "ready" and not overloaded else "33", found["state"])
    print(f"carrier {found['version']}, {state}{overloaded}, revision {found['revision']}, {count(found['sessions'], 'session')}")
    print(f"pid {found['pid']}, {found['file'] or 'no file'}, asked at {client.where}")
    named = labels(found)
    for listener in found["listeners"]:
        _show_listener(listener, named, page, since)
    _show_endpoints(found["clusters"], named, page, since)
    if found["bridges"]:
        print()
    show_bridges(found["bridges"], page)
    _show_privileged(found, page)


def _show_privileged(found: Dict, page: Page) -> None:
    """What takes a caller who has shown who it is, and who that is; nothing where there is nothing of the kind."""
    if not found.get("privileged"):
        return
    print()
    print(page.paint("1", "privileged") + f"  on loopback: {found['trusted'].get('loopback', 'everybody')}")
    for one in found["privileged"]:
        print(f"  {one['kind']} {one['name']}: {one['why']}")


def _show_listener(listener: Dict, named: Mapping[str, str], page: Page, since: Since | None) -> None:
    print()
    live = f"{count(listener['sessions'], 'session')} now, {listener['total']} ever, {listener['failed']} failed"
    if since is not None:
        before = since.listeners.get(listener["name"], {})
        live += f", {since.rate(before.get('total'), listener['total'])} new a second"
    state = "" if listener["state"] == "listening" else f", {listener['state']}"
    print(page.paint("1", f"listener {listener['name']}") + f"  {listener['protocol']} {listener['address']}{state}, {live}")
    rows = []
    for number, rule in enumerate(listener["rules"], 1):
        to = named.get(rule["to"], rule["to"])
        to += f", else {named.get(rule['fallback'], rule['fallback'])}" if rule["fallback"] else ""
        name = named.get(rule["rule"], rule["rule"])
        hits: tuple[object, ...] = (rule["hits"],)
        if since is not None:
            hits = (rule["hits"], since.rate(since.hits.get((listener["name"], rule["rule"])), rule["hits"]))
        rows.append((number, name, rule["user"], rule["when"], to or rule["note"] or rule["error"], *hits, ago(rule["last_hit"])))
    page.table(("#", "rule", "who", "when", "to", "hits", *(() if since is None else ("/s",)), "last hit"), rows, "  ")
    for rule in listener["rules"]:
        if rule["note"] or rule["error"]:
            print(f"  ! {rule['note'] or rule['error']}")
    if trouble := listener.get("tls", {}).get("trouble"):
        print(f"  ! tls: {trouble}")


def _show_endpoints(clusters: list[Dict], named: Mapping[str, str], page: Page, since: Since | None) -> None:
    heading = ("cluster", "protocol", "endpoint", "health", "sessions", "total", *(() if since is None else ("/s",)), "failed")
    rows = []
    for cluster in clusters:
        for endpoint in cluster["endpoints"]:
            name = named.get(cluster["name"], cluster["name"])
            counts: tuple[object, ...] = (endpoint["sessions"], endpoint["total"], endpoint["failed"])
            if since is not None:
                before = since.endpoints.get((cluster["name"], endpoint["name"]), {})
                counts = (*counts[:2], since.rate(before.get("total"), endpoint["total"]), counts[2])
            rows.append((name, cluster["protocol"], endpoint["address"], health(endpoint), *counts))
    if rows:
        print()
    page.table(heading, rows)
    for cluster in clusters:
        if trouble := cluster.get("tls", {}).get("trouble"):
            print(f"  ! cluster {named.get(cluster['name'], cluster['name'])}, tls: {trouble}")


def log_level(options: argparse.Namespace, client: Client, page: Page) -> int:
    """Show the level of the log, or change it; or its last lines."""
    if options.lines is not None:
        found = client.call("GET", f"log?lines={options.lines}")
        return done(options, found, "\n".join(found["lines"]) or "the log has said nothing yet")
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
    try:
        if options.action == "kill":
            return done(options, client.call("DELETE", at), f"{options.name} is ended: both sides are closed")
        session = client.call("GET", at)
    except Refused as refused:
        if str(refused) == "No such session":  # l7mp's words do not say which
            raise Refused(refused.status, f"there is no session {options.name!r}; carrier sessions lists those there are") from None
        raise
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
