"""The REST API's edits and acts: an edit changes a `Draft`, an act does something to what runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from carrier.admin.calls import DONE, Act, Call, Edit, session_named
from carrier.bridges import tokens
from carrier.config.draft import Draft
from carrier.config.given import refused
from carrier.errors import ConfigError, Error, Problem, shown

if TYPE_CHECKING:
    from carrier.admin.calls import Serving
    from carrier.core.slices import Steps
    from carrier.model import Config


def add(kind: str) -> Edit:
    return lambda draft, call: getattr(draft, f"add_{kind}")(call.wrapped(kind))


def put(kind: str) -> Edit:
    return lambda draft, call: draft.replace(kind, call.names[0], call.wrapped(kind))


def delete(kind: str) -> Edit:
    return lambda draft, call: draft.delete(kind, call.names[0], call.flag("recursive"))


def add_endpoint(draft: Draft, call: Call) -> object:
    return draft.add_endpoint(call.names[0], call.wrapped("endpoint"))


def insert_rule(draft: Draft, call: Call) -> object:
    return draft.insert_rule(call.names[0], call.names[1], call.wrapped("rule"))


def delete_rule_from(draft: Draft, call: Call) -> None:
    draft.delete_rule_from(call.names[0], call.names[1], call.flag("recursive"))


def end_session(api: Serving, call: Call) -> Any:
    session = session_named(api, call)
    if not call.flag("dryRun"):
        session.kill()
    return DONE


def drain(api: Serving, call: Call) -> Any:
    """POST /drain: as SIGTERM, but the process stays, to be asked how far it is; with `exit=true` it ends when it is drained."""
    if not call.flag("dryRun"):
        api.life.begin_drain(f"{call.what} of {call.peer}")
        if call.flag("exit"):
            api.life.ending.set()
    return api.life.progress()


def drain_listener(api: Serving, call: Call) -> Any:
    if call.names[0] not in api.config.listeners:
        raise refused(f'Unknown listener "{call.names[0]}"')
    if not call.flag("dryRun"):
        api.proxy.drain_listener(call.names[0])
    return DONE


async def resume_listener(api: Serving, call: Call) -> Any:
    if call.names[0] not in api.proxy.drained:
        raise refused(f'Listener "{call.names[0]}" is not drained')
    if not call.flag("dryRun"):
        async with api.lock:
            await api.proxy.resume_listener(call.names[0])
    return DONE


def drain_endpoint(drained: bool) -> Act:
    def act(api: Serving, call: Call) -> Any:
        if api.config.find_endpoint(call.names[0]) is None:
            raise refused("Not Found")
        if not call.flag("dryRun"):
            api.proxy.drain_endpoint(call.names[0], drained)
        return DONE

    return act


def show_drain(api: Serving, call: Call) -> Any:
    """GET /drain: how far it is, and what was drained on its own."""
    return {**api.life.progress(), "listeners": sorted(api.proxy.drained), "endpoints": sorted(api.proxy.drained_endpoints)}


def put_bridge(api: Serving, call: Call, old: Config) -> Steps[tuple[Config, Iterable[str]]]:
    assert call.decoded is not None
    if call.decoded.problems:
        raise ConfigError(*call.decoded.problems)
    body = call.body
    if isinstance(body, Mapping) and body.get("token") is True:
        fresh = tokens.make()
        body, call.token = {**body, "token": fresh.digest}, fresh.token
    new = yield from api.bridges.putting(old, call.names[0], body)
    return new, api.bridges.warnings(new, call.names[0])


def renew_bridge(api: Serving, call: Call, old: Config) -> tuple[Config, Iterable[str]]:
    """POST /bridges/{name}: it lives on."""
    assert call.decoded is not None
    return api.bridges.renew(old, call.names[0], call.body), ()


def delete_bridge(api: Serving, call: Call, old: Config) -> tuple[Config, Iterable[str]]:
    return api.bridges.delete(old, call.names[0]), ()


def set_log(api: Serving, call: Call) -> Any:
    """PUT /log: `{"level": "debug"}`, until the process ends or the file says something else."""
    from carrier.log import LEVELS

    body = call.body
    level = body.get("level") if isinstance(body, Mapping) else None
    if level not in LEVELS or len(body) != 1:
        raise ConfigError(Problem("expected the level of the log", "$.level", seen=shown(level), allowed=", ".join(LEVELS)))
    if api.log is None:
        raise Error("not-implemented", "this process has no log")
    before = api.log.level
    if not call.flag("dryRun"):
        api.log.set_level(level)
    return {"level": level, "before": before}
