"""How the requests of one listener are decided: memos of heads and of decisions, bounded."""

from __future__ import annotations

import json
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Any

from carrier.core.metadata import set_at
from carrier.errors import Error
from carrier.wire.making import rewrite

if TYPE_CHECKING:
    from carrier.core.decision import Decision
    from carrier.wire.http import Head

DECISIONS = 8192
"""Decisions remembered per listener for heads that are not."""


def _networks(value: object) -> list[IPv4Network | IPv6Network]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise TypeError(f"expected a list of CIDRs, got {value!r}")
    return [ip_network(str(item), strict=False) for item in value]


def rewritten(head: Head, decision: Decision) -> Head:
    """The head with the rule's rewrites of /HTTP/method, /HTTP/url/path and /HTTP/headers applied to what is sent on."""
    if not decision.rewrite or not any(rewrite.path.strip("/").startswith("HTTP") for rewrite in decision.rewrite):
        return head
    before: dict[str, Any] = {"HTTP": head.metadata()}
    after = before
    for change in decision.rewrite:
        after = set_at(after, change.path, change.value)
    old, new = before["HTTP"], after.get("HTTP") if isinstance(after, dict) else None
    if not isinstance(new, dict):
        return head
    headers, wanted = old["headers"], new.get("headers")
    fields: dict[bytes, bytes | None] = {}
    if isinstance(wanted, dict):
        fields = {_bytes(n).lower(): _bytes(v) for n, v in wanted.items() if headers.get(n) != v}
        fields.update({_bytes(n): None for n in headers if n not in wanted})
    url = new.get("url")
    path = url.get("path") if isinstance(url, dict) else None
    target = _bytes(path) if path is not None and path != old["url"]["path"] else None
    method = _bytes(new.get("method")) if new.get("method") != old["method"] else None
    try:
        return rewrite(head, method=method, target=target, fields=fields) if fields or target or method else head
    except Error:
        return head  # what cannot be written is not sent on; `carrier check` says which rewrites those are


def _bytes(value: object) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("latin-1", "replace")
