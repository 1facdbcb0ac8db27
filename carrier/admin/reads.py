"""What the REST API's reads show: functions `(api, call) -> anything that JSON has`."""

from __future__ import annotations

from operator import methodcaller
from typing import TYPE_CHECKING, Any

import msgspec

from carrier.admin import imagine
from carrier.admin.calls import Answer, Call, Read, listed, session_named
from carrier.admin.documents import changes_between, replace_all, without_bridges
from carrier.admin.happened import happened
from carrier.config import dump
from carrier.config.document import to_document
from carrier.config.given import position, refused
from carrier.config.traces import veiled
from carrier.errors import ConfigError, Error, Problem, shown
from carrier.observe import overview, process

if TYPE_CHECKING:
    from carrier.admin.calls import Serving
    from carrier.core.slices import Steps


def _view(api: Serving, call: Call) -> dump.View:
    return dump.View(api.config, call.flag("recursive"), api.protocols)


def show_all(kind: str) -> Read:
    return lambda api, call: _view(api, call).all(kind)


def show_one(kind: str) -> Read:
    def read(api: Serving, call: Call) -> Any:
        if call.names[0] not in getattr(api.config, kind + "s"):
            raise refused("Not Found")
        return _view(api, call).show(kind, call.names[0])

    return read


def show_config(api: Serving, call: Call) -> Any:
    """l7mp's dump; with `document=true` one that POST /config takes. Bridges are no part of it."""
    return _document(api) if call.flag("document") else dump.whole(api.config, show_sessions(api, call), api.protocols)


def _document(api: Serving) -> Steps[Any]:
    return veiled(to_document((yield from without_bridges(api, api.config))))


def show_admin(api: Serving, call: Call) -> Any:
    return dump.admin(api.config.admin)


def show_endpoints(api: Serving, call: Call) -> Any:
    cluster = api.config.clusters.get(call.names[0])
    if cluster is None:
        raise refused(f"No such cluster: {call.names[0]}")
    return dump.Each(dump.endpoint, cluster.endpoints)


def show_endpoint(api: Serving, call: Call) -> Any:
    found = api.config.find_endpoint(call.names[0])
    if found is None:
        raise refused("Not Found")
    return dump.endpoint(found[1])


def show_rule_at(api: Serving, call: Call) -> Any:
    name, which = call.names
    rulelist = api.config.rulelists.get(name)
    if rulelist is None:
        raise refused(f"No such rule list: {name}")
    at = position(which)
    if at is None:
        raise refused("Not Found")
    if not 0 <= at < len(rulelist.rules):
        raise refused(f'No rule at position {at} in RuleList "{name}"')
    if rulelist.rules[at] not in api.config.rules:
        raise refused("Not Found")
    return _view(api, call).show("rule", rulelist.rules[at])


def show_sessions(api: Serving, call: Call) -> dump.Each:
    return dump.Each(methodcaller("dump"), list(api.proxy.sessions()))


def show_session(api: Serving, call: Call) -> Any:
    return session_named(api, call).dump()


def show_bridges(api: Serving, call: Call) -> Any:
    config, clusters = api.config, api.proxy.clusters
    if call.names:
        return api.bridges.dump(config, call.names[0], clusters=clusters)
    there = dict(clusters)  # as they are now: the answer is made in pieces
    return dump.Each(lambda one: one if isinstance(one, dict) else api.bridges.dump(config, one.name, there), api.bridges.listed(config))


def validate_bridge(api: Serving, call: Call) -> Any:
    """POST /bridges:validate: would PUT take it, and if not why not; nothing is changed."""
    assert call.decoded is not None
    if call.decoded.problems:
        raise ConfigError(*call.decoded.problems)
    return api.bridges.validate(api.config, call.body)


def refuse_admin(api: Serving, call: Call) -> Any:
    raise Error("not-implemented", "settings cannot be changed while the proxy runs")


def show_status(api: Serving, call: Call) -> Steps[Any]:
    """GET /status: what runs, for people."""
    watch = api.metrics.watch if api.metrics is not None else None
    state = api.life.state if api.life is not None else "ready"
    found = yield from overview.looking(api.proxy, state, watch.reason if watch is not None else "")
    return {**found, "caller": {"who": call.peer, "role": call.role}}


def probe_bridge(api: Serving, call: Call) -> Any:
    """POST /bridges/NAME/probe: is the user's container there? Nothing is changed."""
    return overview.probe(api.proxy, call.names[0])


def probe_cluster(api: Serving, call: Call) -> Any:
    """POST /clusters/NAME/probe: are its endpoints there? Nothing is changed."""
    cluster = api.proxy.clusters.get(call.names[0])
    if cluster is None:
        raise refused(f"No such cluster: {call.names[0]}")
    return overview.probe_cluster(cluster)


def explain(api: Serving, call: Call) -> Any:
    """POST /explain: where a session that is described in the body would go, and why; nothing is changed."""
    assert call.decoded is not None
    if call.decoded.problems:
        raise ConfigError(*call.decoded.problems)
    return msgspec.to_builtins(imagine.ask(call.body, api.config, api.proxy.tables))


def validate(api: Serving, call: Call) -> Steps[Any]:
    """POST /validate: what POST /config would say and change; nothing is."""
    assert call.decoded is not None
    try:
        new, warnings = yield from replace_all(api, call, api.config)
    except ConfigError as error:
        return {"valid": False, "problems": listed(error, call), "warnings": [], "changes": {}}
    return {"valid": True, "problems": [], "warnings": list(warnings), "changes": changes_between(api.config, new)}


def show_schema(api: Serving, call: Call) -> Any:
    """GET /schema: what a configuration file may say."""
    from carrier.config.jsonschema import schema  # only who asks needs the tables

    return schema(api.protocols)


def show_openapi(api: Serving, call: Call) -> Any:
    """GET /openapi.json: this API, for programs."""
    from carrier.admin.openapi import document

    return document(api.protocols, api.operations)


def show_audit(api: Serving, call: Call) -> Any:
    """GET /audit: what was changed or refused, and which revisions can still be looked at."""
    trail = _trail(api)
    return {"revision": api.config.revision, "kept": trail.revisions(), "entries": trail.audit()}


def show_revision(api: Serving, call: Call) -> Steps[Any]:
    """GET /revisions/NUMBER: the configuration as it was, as POST /config takes it."""
    kept = _trail(api).kept
    config = kept.get(int(call.names[0])) if call.names[0].isdecimal() and len(call.names[0]) < 19 else None
    if config is None:
        raise Error("not-found", f"revision {call.names[0][:40]!r} is not kept; those are: {', '.join(map(str, kept))}")
    return veiled(to_document((yield from without_bridges(api, config))))


def _trail(api: Serving) -> Any:
    if api.trail is None:
        raise Error("not-implemented", "this process keeps no trail of its changes")
    return api.trail


def show_log(api: Serving, call: Call) -> Any:
    """GET /log: how much the log says; with `lines=N` its last lines too."""
    found: dict[str, Any] = {"level": api.log.level if api.log is not None else "silent"}
    wanted = call.query.get("lines")
    if wanted is None:
        return found
    if not wanted.isdecimal() or len(wanted) > 9:
        raise ConfigError(Problem("expected how many lines", "?lines", seen=shown(wanted), allowed="a number"))
    kept = list(api.log.kept) if api.log is not None else []
    return found | {"lines": [line.rstrip("\n") for line in kept[max(0, len(kept) - int(wanted)) :]]}


def show_process(api: Serving, call: Call) -> Any:
    """GET /process: the process itself, for `carrier doctor`."""
    watch = api.metrics.watch if api.metrics is not None else None
    return process.facts(api.proxy, watch, api.metrics)


def show_event(api: Serving, call: Call) -> Any:
    """GET /events/ID: why the session of an event went where it went, by all that it brought; secrets are not shown."""
    number = int(call.names[0]) if call.names[0].isdecimal() and len(call.names[0]) < 19 else 0
    found = api.live.find(number) if api.live is not None else None
    if found is None:
        raise Error("not-found", f"event {call.names[0][:40]!r} is not kept: only the last ones that were told are")
    event, metadata = found
    table = api.proxy.tables.get(event["listener"])
    if table is None:
        raise Error("not-found", f"listener {event['listener']!r} is not there any more")
    return {"event": event, **happened(event["listener"], table, metadata, api.proxy.env.hidden)}


def events(api: Serving, call: Call) -> Answer:
    """GET /events: what happens, as it happens (carrier/observe/live.py)."""
    from carrier.observe.filters import Wanted
    from carrier.observe.live import VIEWERS

    if api.live is None:
        raise Error("not-implemented", "this process has no events")
    if api.live.viewers >= VIEWERS:
        raise Error("overload", f"{VIEWERS} viewers watch already")
    query = {name: value for name, value in call.query.items() if name != "format"}
    Wanted(query)  # what is wrong with it is said before the answer begins
    last = call.headers.get("last-event-id", "")
    headers = {"content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no"}
    return Answer(200, headers, b"", watch=lambda viewer: api.live.join(viewer, query, last), unwatch=api.live.leave)
