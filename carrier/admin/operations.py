"""The table of the REST API's operations: method and path to what serves them."""

from __future__ import annotations

from carrier.admin.calls import Operation
from carrier.admin.documents import _whole
from carrier.admin.reads import (
    _admin,
    _all,
    _audit,
    _bridges,
    _config,
    _endpoint,
    _endpoints,
    _event,
    _explain,
    _log,
    _no_admin,
    _one,
    _openapi,
    _probe,
    _probe_cluster,
    _process,
    _revision,
    _rule_at,
    _schema,
    _session,
    _sessions,
    _status,
    _validate,
    _validate_bridge,
    events,
)
from carrier.admin.recording import RECORDED, record
from carrier.admin.writes import (
    _add,
    _add_endpoint,
    _delete,
    _delete_bridge,
    _delete_rule_from,
    _drain,
    _drain_endpoint,
    _drain_listener,
    _drained,
    _end_session,
    _insert_rule,
    _put,
    _put_bridge,
    _renew_bridge,
    _resume_listener,
    _set_log,
)
from carrier.config.inspector import SECTIONS
from carrier.observe.live import FILTERS

_SHOWN = ("recursive", "format")


def _operations() -> dict[tuple[str, str], Operation]:
    table = {
        ("GET", "config"): Operation(
            read=_config,
            query=("format", "document"),
            text="the configuration in force, with sessions, as l7mp dumps it; `document=true`: as POST takes it",
        ),
        ("POST", "config"): Operation(
            replace=_whole, strict=True, takes_body=True, text="put a whole configuration in force; user bridges stay"
        ),
        ("POST", "validate"): Operation(act=_validate, strict=True, takes_body=True, text="what POST /config would say and change"),
        ("POST", "explain"): Operation(
            act=_explain, strict=True, takes_body=True, text="where the session that the body describes would go, and why"
        ),
        ("GET", "status"): Operation(
            read=_status, query=("format",), strict=True, text="what runs: listeners, rules with hits, endpoints, bridges"
        ),
        ("POST", "bridges/*/probe"): Operation(act=_probe, strict=True, text="ask the bridge's endpoint whether it is there"),
        ("POST", "clusters/*/probe"): Operation(act=_probe_cluster, strict=True, text="ask each endpoint of a cluster whether it is there"),
        ("GET", "admin"): Operation(read=_admin, query=("format",), text="settings of the process"),
        ("POST", "admin"): Operation(act=_no_admin, body="admin", takes_body=True, text="is refused: settings are the file's"),
        ("GET", "clusters/*/endpoints"): Operation(read=_endpoints, query=("format",), text="the endpoints of a cluster"),
        ("POST", "clusters/*/endpoints"): Operation(
            edit=_add_endpoint, body="endpoint", takes_body=True, text="add an endpoint to a cluster"
        ),
        ("GET", "endpoints/*"): Operation(read=_endpoint, query=("format",), kind="endpoint", text="one endpoint"),
        ("PUT", "endpoints/*"): Operation(
            edit=_put("endpoint"), body="endpoint", strict=True, takes_body=True, kind="endpoint", text="replace an endpoint"
        ),
        ("DELETE", "endpoints/*"): Operation(edit=_delete("endpoint"), query=("recursive",), kind="endpoint", text="remove an endpoint"),
        ("GET", "events"): Operation(
            stream=events, query=tuple(FILTERS), strict=True, text="what happens, as it happens (server-sent events); filters as parameters"
        ),
        ("GET", "audit"): Operation(
            read=_audit, query=("format",), strict=True, text="the last changes, and those refused: when, by whom, what"
        ),
        ("GET", "revisions/*"): Operation(
            read=_revision,
            query=("format",),
            strict=True,
            text="the configuration as it was at one of the last revisions, as POST takes it",
        ),
        ("GET", "events/*"): Operation(
            read=_event, query=("format",), strict=True, text="why the session of an event went where it went, while it is remembered"
        ),
        ("GET", "record"): Operation(
            stream=record,
            query=tuple(RECORDED),
            strict=True,
            text="what passes by one rule or bridge, as entries of an HTTP archive (server-sent events)",
        ),
        ("GET", "log"): Operation(
            read=_log, query=("lines",), strict=True, text="how much the process's log says; `lines=20`: with its last lines"
        ),
        ("GET", "process"): Operation(
            read=_process, strict=True, text="the process: versions, where this API listens and what locks it, descriptors, memory, clock"
        ),
        ("PUT", "log"): Operation(act=_set_log, strict=True, takes_body=True, writes=True, text='change that: `{"level": "debug"}`'),
        ("GET", "openapi.json"): Operation(read=_openapi, strict=True, text="this API as OpenAPI 3.1"),
        ("GET", "schema"): Operation(read=_schema, strict=True, text="a configuration file as JSON Schema"),
        ("GET", "drain"): Operation(
            read=_drained, query=("format",), strict=True, text="how far a drain is, and what was drained on its own"
        ),
        ("POST", "drain"): Operation(
            act=_drain, strict=True, writes=True, text="take nothing new and let what runs finish; `exit=true`: then end"
        ),
        ("POST", "listeners/*/drain"): Operation(act=_drain_listener, strict=True, writes=True, text="a listener takes nothing new"),
        ("DELETE", "listeners/*/drain"): Operation(act=_resume_listener, strict=True, writes=True, text="a drained listener listens again"),
        ("POST", "endpoints/*/drain"): Operation(
            act=_drain_endpoint(True), strict=True, writes=True, text="an endpoint gets no new sessions"
        ),
        ("DELETE", "endpoints/*/drain"): Operation(
            act=_drain_endpoint(False), strict=True, writes=True, text="a drained endpoint gets sessions again"
        ),
        ("GET", "rulelists/*/rules/*"): Operation(read=_rule_at, query=_SHOWN, text="the rule at a position of a rule list"),
        ("POST", "rulelists/*/rules/*"): Operation(
            edit=_insert_rule, body="inserted rule", takes_body=True, text="insert a rule at a position"
        ),
        ("DELETE", "rulelists/*/rules/*"): Operation(
            edit=_delete_rule_from, query=("recursive",), text="take the rule at a position out of the list"
        ),
        ("GET", "sessions"): Operation(read=_sessions, query=("format",), text="every session, and those that listeners still remember"),
        ("GET", "sessions/*"): Operation(read=_session, query=("format",), text="one session, with its events and why it went there"),
        ("DELETE", "sessions/*"): Operation(act=_end_session, writes=True, text="end a session"),
        ("GET", "bridges"): Operation(read=_bridges, query=("format",), strict=True, text="user bridges with their status"),
        ("GET", "bridges/*"): Operation(read=_bridges, query=("format",), strict=True, kind="bridge", text="one user bridge"),
        ("PUT", "bridges/*"): Operation(
            replace=_put_bridge,
            strict=True,
            takes_body=True,
            kind="bridge",
            text="make or replace a user bridge; answers it with its status, 201 when it is new",
        ),
        ("POST", "bridges/*"): Operation(
            replace=_renew_bridge, strict=True, takes_body=True, kind="bridge", text='renew a bridge: `{"expires": ...}`'
        ),
        ("POST", "bridges:validate"): Operation(
            act=_validate_bridge, strict=True, takes_body=True, text="would PUT take this bridge, and if not why not"
        ),
        ("DELETE", "bridges/*"): Operation(replace=_delete_bridge, strict=True, kind="bridge", text="remove a user bridge"),
    }
    for section, kind in SECTIONS.items():
        noun = "rule list" if kind == "rulelist" else kind
        table |= {
            ("GET", section): Operation(read=_all(kind), query=_SHOWN, text=f"every {noun}"),
            ("POST", section): Operation(edit=_add(kind), body=kind, takes_body=True, text=f"add a {noun}"),
            ("GET", f"{section}/*"): Operation(read=_one(kind), query=_SHOWN, kind=kind, text=f"one {noun}"),
            ("PUT", f"{section}/*"): Operation(
                edit=_put(kind), body=kind, strict=True, takes_body=True, kind=kind, text=f"make or replace a {noun}"
            ),
            ("DELETE", f"{section}/*"): Operation(
                edit=_delete(kind), query=("recursive",), kind=kind, text=f"remove a {noun}; `recursive=true`: with what it owns"
            ),
        }
    return table


OPERATIONS = _operations()
"""(method, path after /api/v1 with `*` for names) -> operation."""
