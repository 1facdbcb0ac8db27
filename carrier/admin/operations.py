"""The table of the REST API's operations: method and path to what serves them."""

from __future__ import annotations

from carrier.admin.calls import Operation
from carrier.admin.documents import replace_all
from carrier.admin.reads import (
    events,
    explain,
    probe_bridge,
    probe_cluster,
    refuse_admin,
    show_admin,
    show_all,
    show_audit,
    show_bridges,
    show_config,
    show_endpoint,
    show_endpoints,
    show_event,
    show_log,
    show_one,
    show_openapi,
    show_process,
    show_revision,
    show_rule_at,
    show_schema,
    show_session,
    show_sessions,
    show_status,
    validate,
    validate_bridge,
)
from carrier.admin.recording import RECORDED, record
from carrier.admin.writes import (
    add,
    add_endpoint,
    delete,
    delete_bridge,
    delete_rule_from,
    drain,
    drain_endpoint,
    drain_listener,
    end_session,
    insert_rule,
    put,
    put_bridge,
    renew_bridge,
    resume_listener,
    set_log,
    show_drain,
)
from carrier.config.inspector import SECTIONS
from carrier.observe.filters import FILTERS

_SHOWN = ("recursive", "format")


def _operations() -> dict[tuple[str, str], Operation]:
    table = {
        ("GET", "config"): Operation(
            read=show_config,
            query=("format", "document"),
            text="the configuration in force, with sessions, as l7mp dumps it; `document=true`: as POST takes it",
        ),
        ("POST", "config"): Operation(
            replace=replace_all, strict=True, takes_body=True, text="put a whole configuration in force; user bridges stay"
        ),
        ("POST", "validate"): Operation(act=validate, strict=True, takes_body=True, text="what POST /config would say and change"),
        ("POST", "explain"): Operation(
            act=explain, strict=True, takes_body=True, text="where the session that the body describes would go, and why"
        ),
        ("GET", "status"): Operation(
            read=show_status, query=("format",), strict=True, text="what runs: listeners, rules with hits, endpoints, bridges"
        ),
        ("POST", "bridges/*/probe"): Operation(act=probe_bridge, strict=True, text="ask the bridge's endpoint whether it is there"),
        ("POST", "clusters/*/probe"): Operation(act=probe_cluster, strict=True, text="ask each endpoint of a cluster whether it is there"),
        ("GET", "admin"): Operation(read=show_admin, query=("format",), text="settings of the process"),
        ("POST", "admin"): Operation(act=refuse_admin, body="admin", takes_body=True, text="is refused: settings are the file's"),
        ("GET", "clusters/*/endpoints"): Operation(read=show_endpoints, query=("format",), text="the endpoints of a cluster"),
        ("POST", "clusters/*/endpoints"): Operation(
            edit=add_endpoint, body="endpoint", takes_body=True, text="add an endpoint to a cluster"
        ),
        ("GET", "endpoints/*"): Operation(read=show_endpoint, query=("format",), kind="endpoint", text="one endpoint"),
        ("PUT", "endpoints/*"): Operation(
            edit=put("endpoint"), body="endpoint", strict=True, takes_body=True, kind="endpoint", text="replace an endpoint"
        ),
        ("DELETE", "endpoints/*"): Operation(
            edit=delete("endpoint"),
            query=("recursive",),
            kind="endpoint",
            text="remove an endpoint; `recursive=true`: its sessions end, or go to another one if their route retries on `disconnect`",
        ),
        ("GET", "events"): Operation(
            stream=events, query=tuple(FILTERS), strict=True, text="what happens, as it happens (server-sent events); filters as parameters"
        ),
        ("GET", "audit"): Operation(
            read=show_audit, query=("format",), strict=True, text="the last changes, and those refused: when, by whom, what"
        ),
        ("GET", "revisions/*"): Operation(
            read=show_revision,
            query=("format",),
            strict=True,
            text="the configuration as it was at one of the last revisions, as POST takes it",
        ),
        ("GET", "events/*"): Operation(
            read=show_event, query=("format",), strict=True, text="why the session of an event went where it went, while it is remembered"
        ),
        ("GET", "record"): Operation(
            stream=record,
            query=tuple(RECORDED),
            strict=True,
            text="what passes by one rule or bridge, as entries of an HTTP archive (server-sent events)",
        ),
        ("GET", "log"): Operation(
            read=show_log, query=("lines",), strict=True, text="how much the process's log says; `lines=20`: with its last lines"
        ),
        ("GET", "process"): Operation(
            read=show_process,
            strict=True,
            text="the process: versions, where this API listens and what locks it, descriptors, memory, clock",
        ),
        ("PUT", "log"): Operation(act=set_log, strict=True, takes_body=True, writes=True, text='change that: `{"level": "debug"}`'),
        ("GET", "openapi.json"): Operation(read=show_openapi, strict=True, text="this API as OpenAPI 3.1"),
        ("GET", "schema"): Operation(read=show_schema, strict=True, text="a configuration file as JSON Schema"),
        ("GET", "drain"): Operation(
            read=show_drain, query=("format",), strict=True, text="how far a drain is, and what was drained on its own"
        ),
        ("POST", "drain"): Operation(
            act=drain, strict=True, writes=True, text="take nothing new and let what runs finish; `exit=true`: then end"
        ),
        ("POST", "listeners/*/drain"): Operation(act=drain_listener, strict=True, writes=True, text="a listener takes nothing new"),
        ("DELETE", "listeners/*/drain"): Operation(act=resume_listener, strict=True, writes=True, text="a drained listener listens again"),
        ("POST", "endpoints/*/drain"): Operation(
            act=drain_endpoint(True), strict=True, writes=True, text="an endpoint gets no new sessions"
        ),
        ("DELETE", "endpoints/*/drain"): Operation(
            act=drain_endpoint(False), strict=True, writes=True, text="a drained endpoint gets sessions again"
        ),
        ("GET", "rulelists/*/rules/*"): Operation(read=show_rule_at, query=_SHOWN, text="the rule at a position of a rule list"),
        ("POST", "rulelists/*/rules/*"): Operation(
            edit=insert_rule, body="inserted rule", takes_body=True, text="insert a rule at a position"
        ),
        ("DELETE", "rulelists/*/rules/*"): Operation(
            edit=delete_rule_from, query=("recursive",), text="take the rule at a position out of the list"
        ),
        ("GET", "sessions"): Operation(
            read=show_sessions, query=("format",), text="every session, and those that listeners still remember"
        ),
        ("GET", "sessions/*"): Operation(read=show_session, query=("format",), text="one session, with its events and why it went there"),
        ("DELETE", "sessions/*"): Operation(act=end_session, writes=True, text="end a session"),
        ("GET", "bridges"): Operation(read=show_bridges, query=("format",), strict=True, text="user bridges with their status"),
        ("GET", "bridges/*"): Operation(read=show_bridges, query=("format",), strict=True, kind="bridge", text="one user bridge"),
        ("PUT", "bridges/*"): Operation(
            replace=put_bridge,
            strict=True,
            takes_body=True,
            kind="bridge",
            text="make or replace a user bridge; answers it with its status, 201 when it is new",
        ),
        ("POST", "bridges/*"): Operation(
            replace=renew_bridge, strict=True, takes_body=True, kind="bridge", text='renew a bridge: `{"expires": ...}`'
        ),
        ("POST", "bridges:validate"): Operation(
            act=validate_bridge, strict=True, takes_body=True, text="would PUT take this bridge, and if not why not"
        ),
        ("DELETE", "bridges/*"): Operation(replace=delete_bridge, strict=True, kind="bridge", text="remove a user bridge"),
    }
    for section, kind in SECTIONS.items():
        noun = "rule list" if kind == "rulelist" else kind
        table |= {
            ("GET", section): Operation(read=show_all(kind), query=_SHOWN, text=f"every {noun}"),
            ("POST", section): Operation(edit=add(kind), body=kind, takes_body=True, text=f"add a {noun}"),
            ("GET", f"{section}/*"): Operation(read=show_one(kind), query=_SHOWN, kind=kind, text=f"one {noun}"),
            ("PUT", f"{section}/*"): Operation(
                edit=put(kind), body=kind, strict=True, takes_body=True, kind=kind, text=f"make or replace a {noun}"
            ),
            ("DELETE", f"{section}/*"): Operation(
                edit=delete(kind), query=("recursive",), kind=kind, text=f"remove a {noun}; `recursive=true`: with what it owns"
            ),
        }
    return table


OPERATIONS = _operations()
"""(method, path after /api/v1 with `*` for names) -> operation."""
