"""`carrier bridges`: list, add, remove, renew and check user bridges."""

from __future__ import annotations

import argparse
import os
import sys
from urllib.parse import quote

from carrier.cli.client import FAILED, OK, USAGE, Client, Dict
from carrier.cli.page import Page, ago, done, show


def health(endpoint: Dict) -> str:
    if endpoint["drained"]:
        return "drained"
    return "up" if endpoint["up"] else f"down ({endpoint['reason']})"


def show_bridges(bridges: list[Dict], page: Page) -> None:
    rows = []
    for bridge in bridges:
        where = ", ".join(f"{endpoint['address']} {health(endpoint)}" for endpoint in bridge["endpoints"])
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


def bridges(options: argparse.Namespace, client: Client, page: Page) -> int:
    if options.action != "list" and not options.name:
        print(f"carrier bridges {options.action}: which bridge?", file=sys.stderr)
        return USAGE
    at = f"bridges/{quote(options.name or '', safe='')}"
    if options.action == "list":
        found = client.call("GET", "status")["bridges"]
        if not show(options, found):
            show_bridges(found, page)
        return OK
    if options.action == "add":
        return _add_bridge(options, client, at)
    if options.action == "rm":
        return done(options, client.call("DELETE", at), f"bridge {options.name} is gone")
    if options.action == "renew":
        answer = client.send("POST", at, {"expires": options.expires if options.expires is not None else 3600})
        return done(options, answer, f"bridge {options.name} lives on")
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
    return done(options, client.send("PUT", at, body), f"bridge {options.name} is in force")


def _check_bridge(options: argparse.Namespace, client: Client, at: str) -> int:
    """Ask the bridge's endpoint now; 1 when it cannot be reached."""
    found = client.call("POST", f"{at}/probe")
    if not show(options, found):
        for endpoint in found["endpoints"]:
            said = f"reachable, {endpoint['milliseconds']} ms" if endpoint["reachable"] else f"not reachable: {endpoint['reason']}"
            print(f"{endpoint['address']} is {said}")
    return OK if all(endpoint["reachable"] for endpoint in found["endpoints"]) else FAILED
