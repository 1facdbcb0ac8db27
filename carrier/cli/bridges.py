"""`carrier bridges`: list, add, remove, renew and check user bridges; what was done is told with what comes of it."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from urllib.parse import quote

from carrier.cli.client import FAILED, OK, USAGE, Client, Dict, Refused
from carrier.cli.page import Page, ago, done, moment, show

DAY = 86_400.0
"""Seconds that a bridge lives when nobody says how long."""


def health(endpoint: Dict) -> str:
    if endpoint["drained"]:
        return "drained"
    reason = endpoint["reason"].replace(f"{endpoint['address']}: ", "")  # it stands beside it
    if reason:
        return f"{'failed' if endpoint['up'] else 'down'} ({reason})"
    return "up" if endpoint.get("tried", True) else "not tried yet"


def show_bridges(bridges: list[Dict], page: Page) -> None:
    rows = []
    for bridge in bridges:
        where = ", ".join(f"{endpoint['address']} {health(endpoint)}" for endpoint in bridge["endpoints"])
        if not bridge.get("healthy", True) and all(endpoint["up"] for endpoint in bridge["endpoints"]):
            where = bridge["health"]  # it has not failed often enough to be down
        expires = moment(bridge["expires"]) if bridge["expires"] else "never"
        rows.append((bridge["name"], bridge["user"], bridge["listener"], where, bridge["hits"], ago(bridge["last_hit"]), expires))
    page.table(("bridge", "user", "listener", "endpoint", "hits", "last hit", "expires"), rows)


def bridges(options: argparse.Namespace, client: Client, page: Page) -> int:
    if options.action != "list" and not options.name:
        hint = "give it a name: carrier bridges add NAME ..." if options.action == "add" else "which bridge? carrier bridges lists them"
        print(f"carrier bridges {options.action}: {hint}", file=sys.stderr)
        return USAGE
    at = f"bridges/{quote(options.name or '', safe='')}"
    if options.action == "list":
        found = [bridge for bridge in client.call("GET", "status")["bridges"] if options.user in (None, bridge["user"])]
        if not show(options, found):
            found += _expired(options, client)
            show_bridges(found, page)
            if not found:
                print("no bridges" + (f" of {options.user}" if options.user else ""))
        return OK
    if options.action == "add":
        return _add(options, client, at)
    if options.action == "check":
        return _check(options, client, at)
    try:
        if options.action == "rm":
            return done(options, client.call("DELETE", at), f"bridge {options.name} is gone: its requests go where all others go")
        answer = client.send("POST", at, {"expires": options.expires if options.expires is not None else 3600})
    except Refused as refused:
        if refused.status == 404 and any(bridge["name"] == options.name for bridge in client.call("GET", "status")["bridges"]):
            raise Refused(404, f"bridge {options.name!r} is the configuration file's: change it there") from None
        raise
    return done(options, answer, f"bridge {options.name} lives until {moment(client.call('GET', at)['expires'])}")


def _expired(options: argparse.Namespace, client: Client) -> list[Dict]:
    """Bridges whose time is over, as far as they are still known: who looks for hers sees what became of it."""
    over = [bridge for bridge in client.call("GET", "bridges") if bridge["status"]["state"] == "expired"]
    return [
        {
            **bridge,
            "listener": bridge["status"]["listener"],
            "endpoints": [],
            "healthy": False,
            "health": "expired",
            "hits": "",
            "last_hit": None,
        }
        for bridge in over
        if options.user in (None, bridge["user"])
    ]


def _add(options: argparse.Namespace, client: Client, at: str) -> int:
    user = options.user or os.environ.get("USER", "")
    missing = [
        f"{flag} ({what})"
        for flag, what, value in (
            ("--user", "whose it is; $USER is not set", user),
            ("--port", "the port that is bridged", options.port),
            ("--to", "HOST:PORT of your container", options.to),
        )
        if not value
    ]
    match = _match(options)
    if not match and not options.stream:
        missing.append("-H 'NAME: VALUE', --cookie NAME=VALUE or --path PREFIX (which requests are yours), or --stream (the whole port)")
    if missing:
        print(f"carrier bridges add: needs {', and '.join(missing)}", file=sys.stderr)
        return USAGE
    if match and options.stream:
        print("carrier bridges add: --stream takes the whole port, and no condition beside it", file=sys.stderr)
        return USAGE
    body: Dict = {"user": user, "endpoint": options.to, **({"type": "stream"} if options.stream else {"match": match})}
    body |= {"port": int(options.port)} if options.port.isdecimal() else {"listener": options.port}
    if not options.forever:
        body["expires"] = DAY if options.expires is None else options.expires
    if options.fallback is not None:
        body["fallback"] = options.fallback
    if not options.stream and not options.no_token:
        body["token"] = True
    made = client.send("PUT", at, body)
    if not show(options, made):
        _tell(options, client, at, made)
    return OK


def _match(options: argparse.Namespace) -> list[Dict]:
    """The conditions that were typed, all of which must hold."""
    found: list[Dict] = [{"matchHeader": {"name": name, "value": value}} for name, value in options.header or ()]
    found += [{"matchCookie": {"name": name, "value": value}} for name, value in options.cookie or ()]
    return found + ([{"matchPath": {"path": options.path, "type": "prefix"}}] if options.path else [])


def _tell(options: argparse.Namespace, client: Client, at: str, made: Dict) -> None:
    """Who gets what now, whether the container answers, what to try, and how long it lasts."""
    fields = [*(options.header or ()), *(("cookie", f"{name}={value}") for name, value in options.cookie or ())]
    wanted = [f"{name}: {value}" for name, value in fields] + ([f"a path {options.path}..."] if options.path else [])
    those = f"requests to {made['status']['listener']} with {' and '.join(wanted)} go"
    if options.stream:
        those = f"everything that comes to {made['status']['listener']} goes"
    print(f"bridge {options.name} is in force: {those} to {options.to}")
    probed = client.call("POST", f"{at}/probe")["endpoints"][0]
    otherwise = "the shadow answers until it does" if made["status"].get("fallback") else "what comes is refused (503) until it does"
    print(f"{options.to} answers" if probed["reachable"] else f"{options.to} does not answer yet ({probed['reason']}): {otherwise}")
    listeners = {listener["name"]: listener for listener in client.call("GET", "status")["listeners"]}
    address = listeners.get(made["status"]["listener"], {}).get("address", "")
    port = address.rpartition(":")[2]
    if port.isdecimal() and not options.stream:
        typed = " ".join(f"-H {shlex.quote(f'{name}: {value}')}" for name, value in fields)
        there = f"http://127.0.0.1:{port}"
        print(f"try: curl -i {typed}{' ' if typed else ''}{there}{options.path or '/'}")
        if token := made["status"].get("token"):
            _tell_token(client, made, token, f"curl -i {typed}{' ' if typed else ''}", there, options.path or "/")
    print(
        f"it lives until {moment(made['expires'])}; carrier bridges renew {options.name}"
        if made.get("expires")
        else "it lives until it is removed"
    )


def _tell_token(client: Client, made: Dict, token: str, curl: str, there: str, path: str) -> None:
    """What the bridge's token is good for; it is told this once."""
    print(f"ask why, from anywhere: {curl}-H 'x-carrier-explain: {token}' {there}{path}")
    listener = client.call("GET", f"listeners/{quote(made['status']['listener'], safe='')}")
    if (listener.get("options") or {}).get("join") is True:
        print(f"join in a browser: {there}/.carrier/join/{quote(made['name'], safe='')}?token={token}")
    print("the token in it is told this once, and dies with the bridge")


def _check(options: argparse.Namespace, client: Client, at: str) -> int:
    """Ask the bridge's endpoint now; 1 when it cannot be reached."""
    found = client.call("POST", f"{at}/probe")
    if not show(options, found):
        for endpoint in found["endpoints"]:
            said = f"reachable, {endpoint['milliseconds']} ms" if endpoint["reachable"] else f"not reachable: {endpoint['reason']}"
            print(f"{endpoint['address']} is {said}")
    return OK if all(endpoint["reachable"] for endpoint in found["endpoints"]) else FAILED
