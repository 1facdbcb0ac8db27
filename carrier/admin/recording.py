"""`GET /record`: what passes by one rule or user bridge, and who may have it.

What is recorded is what people say to each other, so more is asked than for events: a token that only reads does not record, one of a user
records that user's bridges only. Secrets are shown to who may have what is privileged, and asks for them (docs/security.md). Each recording
is a line of the process's log.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from carrier.admin.calls import Answer, Call
from carrier.errors import ConfigError, Error, Problem, did_you_mean, shown

if TYPE_CHECKING:
    from carrier.admin.calls import Serving
    from carrier.model import Bridge, Config

RECORDED: dict[str, str] = {
    "bridge": "what passes by this user bridge",
    "rule": "or what passes by this rule",
    "bodies": "bytes that are kept of each direction (default 65536, at most 1048576; 0: none)",
    "secrets": "true: values of secret fields too; for callers who may have what is privileged",
}
"""Parameters of the call."""


async def _may_show(call: Call) -> None:
    if call.standing is not None and (why := await call.standing()):
        raise Error("forbidden", f"secrets are shown to who has shown who it is: {why}", "downstream")


def bridges_of(api: Serving) -> Mapping[str, Bridge]:
    """User bridges, those of the configuration's own format too, by their names."""
    config: Config = api.config
    return {**{bridge.name: bridge for bridge in api.proxy.env.bridges_of_file(config).values()}, **config.bridges}


def _rules(api: Serving, bridge: str) -> Collection[str]:
    """The rules of a bridge, as they are now."""
    found = [rule for rule, of in api.proxy.env.bridges_of_file(api.config).items() if of.name == bridge]
    made = api.config.bridges.get(bridge)
    return [*found, *(made.rules if made is not None else ())]


def _checked(api: Serving, query: Mapping[str, str]) -> int:
    """How many bytes are kept. Raises ConfigError: the query is not good, or names what is not there."""
    from carrier.observe.record import BODIES, MAX_BODIES

    problems = [
        Problem(f"unknown parameter {name!r}", f"?{name}", allowed=", ".join(RECORDED), hint=did_you_mean(name, RECORDED))
        for name in query
        if name not in RECORDED
    ]
    if bool(query.get("bridge")) == bool(query.get("rule")):
        problems.append(Problem("a recording is of one bridge or of one rule", "?bridge", allowed="?bridge=NAME or ?rule=NAME"))
    for name, known in (("bridge", bridges_of(api)), ("rule", {**api.config.rules, **api.proxy.env.bridges_of_file(api.config)})):
        value = query.get(name)
        if value and value not in known:
            problems.append(Problem(f"there is no {name} {value!r}", f"?{name}", seen=shown(value), hint=did_you_mean(value, known)))
    bodies = query.get("bodies", str(BODIES))
    if not bodies.isascii() or not bodies.isdecimal() or int(bodies) > MAX_BODIES:
        problems.append(Problem(f"cannot be {bodies!r}", "?bodies", seen=shown(bodies), allowed=f"a number 0..{MAX_BODIES}"))
    if query.get("secrets", "false") not in ("true", "false"):
        problems.append(Problem("expected true or false", "?secrets", seen=shown(query["secrets"]), allowed="true, false"))
    if problems:
        raise ConfigError(*problems)
    return int(bodies)


def _check_role(api: Serving, call: Call, query: Mapping[str, str]) -> None:
    """Raises Error: this token may not."""
    if call.role == "read":
        raise Error("forbidden", "this token may only read: what people say to each other is more than that", "downstream")
    if call.role.startswith("user="):
        user, bridge = call.role.removeprefix("user="), bridges_of(api).get(query.get("bridge", ""))
        if bridge is None or bridge.user != user:
            raise Error("forbidden", f"this token may only record the bridges of {user}", "downstream")


async def record(api: Serving, call: Call) -> Answer:
    """The recording, until its reader goes."""
    from carrier.observe.record import RECORDINGS, Wanted

    if api.recorder is None:
        raise Error("not-implemented", "this process records nothing")
    query = {name: value for name, value in call.query.items() if name != "format"}
    _check_role(api, call, query)
    bodies = _checked(api, query)
    if secrets := call.flag("secrets"):
        await _may_show(call)
    if len(api.recorder.recordings) >= RECORDINGS:
        raise Error("overload", f"{RECORDINGS} recordings run already")
    bridge, rule = query.get("bridge", ""), query.get("rule", "")
    rules = partial(_rules, api, bridge) if bridge else lambda: (rule,)
    wanted: Any = Wanted(rules, bodies, secrets)
    if api.log is not None:
        more = {"secrets": "yes"} if secrets else {}
        api.log.notice("a recording begins", bridge=bridge or None, rule=rule or None, peer=call.peer or None, **more)
    headers = {"content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no"}
    return Answer(200, headers, b"", watch=lambda viewer: api.recorder.join(viewer, wanted), unwatch=api.recorder.leave)
