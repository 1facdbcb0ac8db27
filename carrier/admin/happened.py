"""Why a session that has ended went where it went: `explain` of what it brought, without its secrets.

Rules may look at a cookie or a token, whose value nobody is to read here. So the explanation is made twice, of the session as it was and
of one whose secrets are replaced; what was met, and who takes it, comes from the first, and where the second saw something else, nothing
is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from carrier import redact
from carrier.core.metadata import readable
from carrier.rules.explain import explain

if TYPE_CHECKING:
    from carrier.redact import Hidden
    from carrier.rules.table import Table

Dict = dict[str, Any]


def happened(listener: str, table: Table, metadata: Mapping[str, Any], hidden: Hidden) -> Dict:
    """The explanation of a session with this metadata by the table in force, and its header fields as [name, value] pairs."""
    shown = without_secrets(metadata, hidden)
    found: Dict = msgspec.to_builtins(explain(listener, table, metadata))
    other: Dict = msgspec.to_builtins(explain(listener, table, shown))
    for step, beside in zip(found["steps"], other["steps"], strict=False):
        for report, same in zip(step["rules"], beside["rules"], strict=False):
            _hide(report["conditions"], same["conditions"])
    for part in ("destination", "fallback"):
        if part in found and "why" in found[part] and part in other:
            found[part]["why"] = other[part].get("why", redact.REDACTED)
    found["session"] = shown
    fields = shown.get("HTTP", {}).get("headers", {})
    return {"headers": [[name, readable(value)] for name, value in fields.items()], "explanation": found}


def without_secrets(metadata: Mapping[str, Any], hidden: Hidden) -> Dict:
    """A copy in which values of secret fields, users in targets, and queries where they are not to be seen, are replaced."""
    http = metadata.get("HTTP")
    if not http:
        return dict(metadata)
    fields = {name: redact.REDACTED if name in hidden.fields else redact.visible(value) for name, value in http.get("headers", {}).items()}
    url = {
        name: redact.target(value.encode("latin-1", "replace"), hidden.query or name == "query").decode("latin-1")
        for name, value in http.get("url", {}).items()
        if hidden.query or name not in ("query", "search")
    }
    return {**metadata, "HTTP": {**http, "headers": fields, "url": url}}


def _hide(conditions: list[Dict], others: list[Dict]) -> None:
    """What was seen of a secret is not shown. others: the same conditions, of the session without secrets."""
    for one, other in zip(conditions, others, strict=True):
        if one["seen"] is not None and one["seen"] != other["seen"]:
            one["seen"] = redact.REDACTED
        _hide(one["parts"], other["parts"])
