"""The table of the REST API's operations: method and path to what serves them."""

from __future__ import annotations

from carrier.admin.calls import Operation
from carrier.admin.documents import _whole
from carrier.admin.reads import (
    _admin,
    _all,
    _bridges,
    _config,
    _endpoint,
    _endpoints,
    _explain,
    _no_admin,
    _one,
    _probe,
    _rule_at,
    _session,
    _sessions,
    _status,
    _validate,
    _validate_bridge,
)
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
)
from carrier.config.inspector import SECTIONS

_SHOWN = ("recursive", "format")


def _operations() -> dict[tuple[str, str], Operation]:
    table = {
        ("GET", "config"): Operation(read=_config, query=("format", "document")),
        ("POST", "config"): Operation(replace=_whole, strict=True, takes_body=True),
        ("POST", "validate"): Operation(act=_validate, strict=True, takes_body=True),
        ("POST", "explain"): Operation(act=_explain, strict=True, takes_body=True),
        ("GET", "status"): Operation(read=_status, query=("format",), strict=True),
        ("POST", "bridges/*/probe"): Operation(act=_probe, strict=True),
        ("GET", "admin"): Operation(read=_admin, query=("format",)),
        ("POST", "admin"): Operation(act=_no_admin, body="admin", takes_body=True),
        ("GET", "clusters/*/endpoints"): Operation(read=_endpoints, query=("format",)),
        ("POST", "clusters/*/endpoints"): Operation(edit=_add_endpoint, body="endpoint", takes_body=True),
        ("GET", "endpoints/*"): Operation(read=_endpoint, query=("format",), kind="endpoint"),
        ("PUT", "endpoints/*"): Operation(edit=_put("endpoint"), body="endpoint", strict=True, takes_body=True, kind="endpoint"),
        ("DELETE", "endpoints/*"): Operation(edit=_delete("endpoint"), query=("recursive",), kind="endpoint"),
        ("GET", "drain"): Operation(read=_drained, query=("format",), strict=True),
        ("POST", "drain"): Operation(act=_drain, strict=True, writes=True),
        ("POST", "listeners/*/drain"): Operation(act=_drain_listener, strict=True, writes=True),
        ("DELETE", "listeners/*/drain"): Operation(act=_resume_listener, strict=True, writes=True),
        ("POST", "endpoints/*/drain"): Operation(act=_drain_endpoint(True), strict=True, writes=True),
        ("DELETE", "endpoints/*/drain"): Operation(act=_drain_endpoint(False), strict=True, writes=True),
        ("GET", "rulelists/*/rules/*"): Operation(read=_rule_at, query=_SHOWN),
        ("POST", "rulelists/*/rules/*"): Operation(edit=_insert_rule, body="inserted rule", takes_body=True),
        ("DELETE", "rulelists/*/rules/*"): Operation(edit=_delete_rule_from, query=("recursive",)),
        ("GET", "sessions"): Operation(read=_sessions, query=("format",)),
        ("GET", "sessions/*"): Operation(read=_session, query=("format",)),
        ("DELETE", "sessions/*"): Operation(act=_end_session, writes=True),
        ("GET", "bridges"): Operation(read=_bridges, query=("format",), strict=True),
        ("GET", "bridges/*"): Operation(read=_bridges, query=("format",), strict=True, kind="bridge"),
        ("PUT", "bridges/*"): Operation(replace=_put_bridge, strict=True, takes_body=True, kind="bridge"),
        ("POST", "bridges/*"): Operation(replace=_renew_bridge, strict=True, takes_body=True, kind="bridge"),
        ("POST", "bridges:validate"): Operation(act=_validate_bridge, strict=True, takes_body=True),
        ("DELETE", "bridges/*"): Operation(replace=_delete_bridge, strict=True, kind="bridge"),
    }
    for section, kind in SECTIONS.items():
        table |= {
            ("GET", section): Operation(read=_all(kind), query=_SHOWN),
            ("POST", section): Operation(edit=_add(kind), body=kind, takes_body=True),
            ("GET", f"{section}/*"): Operation(read=_one(kind), query=_SHOWN, kind=kind),
            ("PUT", f"{section}/*"): Operation(edit=_put(kind), body=kind, strict=True, takes_body=True, kind=kind),
            ("DELETE", f"{section}/*"): Operation(edit=_delete(kind), query=("recursive",), kind=kind),
        }
    return table


OPERATIONS = _operations()
"""(method, path after /api/v1 with `*` for names) -> operation."""
