"""`carrier doctor`: is everything all right? A tick or a cross for each thing that goes wrong in practice, and what to do about it."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote

from carrier.cli.changes import read, summary, validated
from carrier.cli.client import FAILED, OK, Client, Dict, Refused, reason
from carrier.cli.labels import labels
from carrier.cli.page import Page, count

SKEW = 2.0
"""Seconds that two clocks may be apart."""
SOON = 14 * 86_400.0
"""Seconds before its end from which on a certificate is a cross."""
FULL = 0.8
"""Part of a limit from which on it is near."""
DESCRIPTORS = 2048
"""File descriptors that a proxy should have; a session needs two."""
LATE = 0.5
"""Seconds that the event loop may be late."""
PROBES = 200
"""Clusters that are asked, at most."""


_WHO = "--token-file says who you are"
_WHERE = "start it with `carrier run`, or say where it is: --admin, CARRIER_ADMIN"
_BRIDGE = "is the container listening there, and connected to the cluster?"
_SERVER = "does the server run, and is that its address?"


class Check(NamedTuple):
    """One thing that was looked at. ok: None where it could not be; hint: what to do about a cross."""

    what: str
    ok: bool | None
    said: str
    hint: str = ""


def doctor(options: argparse.Namespace, client: Client, page: Page) -> int:
    found = []
    for check in examined(client, options.file):
        found.append(check)
        if not options.json:
            _show(check, page)
    crosses = sum(check.ok is False for check in found)
    if options.json:
        print(json.dumps({"ok": not crosses, "checks": [check._asdict() for check in found]}, indent=2, ensure_ascii=False))
    else:
        print(page.paint("31", f"{count(crosses, 'cross').replace('crosss', 'crosses')}") if crosses else page.paint("32", "all is well"))
    return FAILED if crosses else OK


def _show(check: Check, page: Page) -> None:
    signs = ("✓", "✗", "?") if page.utf8 else ("ok", "NO", "??")
    sign, colour = (signs[0], "32") if check.ok else (signs[1], "31") if check.ok is False else (signs[2], "33")
    print(f"{page.paint(colour, sign)} {check.what}: {check.said}")
    if check.hint and not check.ok:
        print(f"  {page.paint('1', check.hint)}")


def examined(client: Client, file: str | None) -> Iterator[Check]:
    """Everything that is looked at, in order. file: what is to run; None: what the carrier says that it was started with."""
    try:
        status = client.call("GET", "status")
    except Refused as refused:
        hint = (
            "start it with `carrier run`, or say where it is: --admin, CARRIER_ADMIN"
            if not refused.status
            else "--token-file says who you are"
        )
        yield Check("API", False, str(refused), hint)
        return
    yield Check("API", True, f"answers at {client.where}")
    asked = time.time()
    try:
        process: Dict | None = client.call("GET", "process")
    except Refused as refused:
        process = None
        yield Check("process", None, f"tells nothing of itself: {refused}", "it is an older version")
    told = time.time()
    yield _version(status)
    yield _state(status)
    if process is not None:
        yield from _exposed(process)
    yield _file(client, file or status["file"])
    yield from _listeners(status)
    yield from _endpoints(client, status)
    yield from _certificates(status)
    if process is not None:
        yield from _limits(process)
        yield _clock(process, asked, told)
        yield _capabilities(status, process)
        yield from _told(process)
        if process["unsaved"]:
            yield Check("state", False, f"changes are not on the disk: {process['unsaved']}", "make room, or repair the folder of --state")


def _version(status: Dict) -> Check:
    from carrier.config.dump import version

    if status["version"] == version():
        return Check("version", True, status["version"])
    return Check("version", False, f"{status['version']} runs, this command is {version()}", "restart the carrier, or use its own command")


def _state(status: Dict) -> Check:
    if status["overloaded"]:
        return Check("state", False, f"refuses new sessions: {status['overloaded']}", "give it more of that, or raise --limit")
    hint = "it takes nothing new and ends" if status["state"] == "draining" else "look at /readyz"
    return Check("state", status["state"] == "ready", f"{status['state']}, revision {status['revision']}", hint)


def _exposed(process: Dict) -> Iterator[Check]:
    doors = process["api"]
    for door in doors:
        if not door["loopback"] and not door["lock"]:
            said = f"{door['address']} can be reached from other machines and asks nobody who he is"
            yield Check("admin", False, said, "bind it to 127.0.0.1, or lock it: --admin-tokens, --admin-ca")
    if not any(check["loopback"] is False and not check["lock"] for check in doors):
        yield Check("admin", True, "; ".join(f"{door['address']} ({_lock(door)})" for door in doors) or "nowhere")


def _lock(door: Dict) -> str:
    return ", ".join(door["lock"]) or "this machine only"


def _file(client: Client, file: str | None) -> Check:
    what = "file"
    if not file or file == "-":
        return Check(what, None, "it was started without one that could be read again", "--file says what is to run")
    try:
        found = validated(client, read(file))
    except (OSError, ValueError) as exc:
        return Check(what, None, f"{file} cannot be read from here: {reason(exc)}", "--file says where it is")
    except Refused as refused:
        return Check(what, False, f"{file} would not be taken: {refused}", f"carrier check {file}")
    if not found["valid"]:
        return Check(what, False, f"{file} would not be taken: {count(len(found['problems']), 'error')}", f"carrier check {file}")
    changes = summary(found["changes"])
    if changes:
        return Check(what, False, f"{file} is not what runs: it would change {changes}", f"carrier diff {file}; carrier apply {file}")
    return Check(what, True, f"{file} is what runs")


def _listeners(status: Dict) -> Iterator[Check]:
    named, wrong = labels(status), False
    for listener in status["listeners"]:
        if listener["state"] != "listening":
            wrong = True
            hint = "DELETE /api/v1/listeners/NAME/drain takes it up again" if listener["state"] == "drained" else "the log says why"
            yield Check("listener", False, f"{listener['name']} is {listener['state']}", hint)
        for rule in listener["rules"]:
            if trouble := rule["error"] or rule["note"]:
                wrong = True
                yield Check(
                    "rule",
                    False,
                    f"{named.get(rule['rule'], rule['rule'])} of {listener['name']}: {trouble}",
                    "carrier explain shows who takes what",
                )
    if not wrong:
        yield Check("listeners", True, f"{count(len(status['listeners']), 'listener')}, every rule can fire")


def _endpoints(client: Client, status: Dict) -> Iterator[Check]:
    """Each is asked now; those of whom sessions had trouble are told too."""
    named = labels(status)
    users = {f"bridge/{bridge['name']}": bridge["user"] for bridge in status["bridges"]}
    clusters = [cluster for cluster in status["clusters"] if cluster["endpoints"]]

    def probed(cluster: Dict) -> list[Dict]:
        try:
            found: list[Dict] = client.call("POST", f"clusters/{quote(cluster['name'], safe='')}/probe")["endpoints"]
        except Refused as refused:
            return [{**one, "reachable": one["up"], "reason": one["reason"] or str(refused)} for one in cluster["endpoints"]]
        return found

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(probed, clusters[:PROBES]))
    good = 0
    for cluster, found in zip(clusters, answers, strict=False):
        whose = f" (bridge of {users[cluster['name']]})" if cluster["name"] in users else ""
        for endpoint, one in zip(cluster["endpoints"], found, strict=False):
            where = f"{one['address']} of {named.get(cluster['name'], cluster['name'])}{whose}"
            if not one["reachable"]:
                hint = _BRIDGE if whose else _SERVER
                yield Check("endpoint", False, f"{where}: {one['reason'].removeprefix(one['address'] + ': ')}", hint)
            elif not endpoint["up"]:
                said = f"{where} can be reached and is down: {endpoint['reason']}"
                yield Check("endpoint", False, said, "it does not answer as it should: its own log says why")
            else:
                good += 1
    if good or not clusters:
        yield Check("endpoints", True, f"{count(good, 'endpoint')} can be reached")


def _certificates(status: Dict) -> Iterator[Check]:
    seen, soonest = 0, None
    for kind in ("listeners", "clusters"):
        for one in status[kind]:
            tls = one.get("tls") or {}
            if tls.get("trouble"):
                said = f"{kind[:-1]} {one['name']}: {tls['trouble']}"
                yield Check("certificate", False, said, "put a good one in its place: it is read again")
            for certificate in tls.get("certificates", ()):
                seen += 1
                left = _seconds(certificate["expires"]) - time.time() if certificate["expires"] else None
                if left is not None and left < SOON and not tls.get("trouble"):
                    said = f"{certificate['file']} of {one['name']} expires at {certificate['expires']}"
                    yield Check("certificate", False, said, "renew it: the file is read again by itself")
                elif left is not None and not tls.get("trouble"):
                    soonest = min(left, soonest) if soonest is not None else left
    if soonest is not None:
        yield Check("certificates", True, f"{count(seen, 'certificate')}, the first to expire in {soonest / 86_400:.0f} days")


def _limits(process: Dict) -> Iterator[Check]:
    descriptors, connections, memory = process["descriptors"], process["connections"], process["memory"]
    most, said, wrong = descriptors["limit"], [], []
    if most is not None and most < DESCRIPTORS:
        wrong.append((f"only {most} file descriptors, of which a session needs two", "ulimit -n 65536; LimitNOFILE= in a unit"))
    for name, used, limit, hint in (
        ("file descriptors", descriptors["open"], most, "ulimit -n, LimitNOFILE="),
        ("connections", connections["now"], connections["limit"], "--limit connections=N"),
        ("MiB of memory", (memory["resident"] or 0) >> 20, (memory["limit"] or 0) >> 20, "the container's limit, or --limit memory=N"),
    ):
        said.append(f"{used} of {limit} {name}" if limit else f"{used} {name}")
        if limit and used and used > FULL * limit:
            wrong.append((f"{used} of {limit} {name} are used", hint))
    if process["lag"] is not None and process["lag"] > LATE:
        wrong.append((f"the event loop is {process['lag']:.2f} s late", "it wants more processor"))
    yield from (Check("limits", False, *each) for each in wrong)
    if not wrong:
        yield Check("limits", True, ", ".join(said))


def _clock(process: Dict, asked: float, told: float) -> Check:
    """By this machine's clock it was read between the question and the answer."""
    there = _seconds(process["time"])
    apart = max(0.0, there - told) - max(0.0, asked - there)
    if abs(apart) > SKEW:
        said = f"is {abs(apart):.1f} s {'ahead of' if apart > 0 else 'behind'} this machine's"
        return Check("clock", False, said, "let NTP set it: certificates and leases go by it")
    return Check("clock", True, f"{process['time']}, as here")


def _capabilities(status: Dict, process: Dict) -> Check:
    """Of the kernel: what the protocols that are configured need."""
    held = process["capabilities"]
    raw = [one["name"] for kind in ("listeners", "clusters") for one in status[kind] if one["protocol"] == "AF_PACKET"]
    if raw and "net_raw" not in held:
        return Check("capabilities", False, f"AF_PACKET ({', '.join(raw)}) needs CAP_NET_RAW", "docker run --cap-add NET_RAW; setcap")
    return Check("capabilities", True, f"{', '.join(held) or 'none'}; user {process['user']}")


def _told(process: Dict) -> Iterator[Check]:
    """Does what happens reach those who are told?"""
    for name, what, where, hint in (
        ("access_log", "access log", "it is written", "make room on its disk; is its reader there?"),
        ("traces", "traces", "the collector takes them", "does the collector run, and is admin.traces.endpoint its address?"),
    ):
        trouble = process.get("told", {}).get(name)
        if trouble is not None:
            yield Check(what, not trouble, f"lost: {trouble}" if trouble else where, hint)


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).astimezone(UTC).timestamp()
