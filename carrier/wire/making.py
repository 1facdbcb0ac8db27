"""Heads that are written rather than read: requests and answers of our own, rewrites, dates."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from carrier.errors import Error, Side, shown
from carrier.wire.forwarding import HOPS
from carrier.wire.h1.text import answer_text, request_text, text_of
from carrier.wire.http import (
    EXPLAIN,
    FIELD_BYTES,
    HOP,
    LENGTH,
    NONE,
    REASONS,
    TOKEN,
    Fields,
    Head,
    _bad,
    check_field,
    join_fields,
)

if TYPE_CHECKING:
    from carrier.wire.forwarding import Forwarding


def _own_fields(fields: Iterable[tuple[bytes, bytes]], side: Side) -> Fields:
    """Fields to be sent by us: checked, without those that only this file may write."""
    kept = []
    for name, value in fields:
        check_field(name, value, side)
        if name.lower() not in HOP and name.lower() != b"content-length":
            kept.append((name, value))
    return tuple(kept)


def request_head(
    method: bytes,
    target: bytes,
    fields: Iterable[tuple[bytes, bytes]],
    body: int = NONE,
    length: int = 0,
    *,
    profile: Forwarding | None = None,
    upgrade: bytes | None = None,
    side: Side = "carrier",
) -> Head:
    """The head of a request that did not come over HTTP/1.1: from another version, or our own (health checks).

    Framing and hop-by-hop fields among `fields` are dropped; `body`, `length` and `upgrade` speak for them. Exactly one Host is needed.
    With a profile the fields of the way are treated as in requests that we read.
    Raises Error("protocol-error") on bytes that cannot be written.
    """
    if not TOKEN.fullmatch(method) or not re.fullmatch(rb"[!-~]+", target):
        raise _bad(side, f"method {shown(method[:40])} or target {shown(target)} cannot be written")
    own = _own_fields(fields, side)
    names: dict[bytes, bytes] = {}
    for name, value in own:
        if name.lower() == b"host" and b"host" in names:
            raise _bad(side, "several Host fields")
        names[name.lower()] = value
    host = names.get(b"host", b"")
    if b"host" not in names:
        raise _bad(side, "no Host")
    cut = profile.cut() if profile else HOP
    sent = tuple((n, v) for n, v in own if n.lower() not in cut) + (profile.standing(host, names) if profile else ())
    if upgrade:
        check_field(b"upgrade", upgrade, side)
    text = request_text(method, target, sent, body, length, upgrade)
    named = bool(profile and profile.request_id in names)
    explain = EXPLAIN in names
    return Head(text, b"", method, target, host, body=body, length=length, upgrade=upgrade, has_id=named, fields=own, explain=explain)


def answer_head(
    status: int,
    fields: Iterable[tuple[bytes, bytes]] = (),
    body: bytes = b"",
    *,
    reason: bytes = b"",
    framing: int | None = None,
    length: int = 0,
    side: Side = "carrier",
) -> Head:
    """The head of an answer that did not come over HTTP/1.1, or of our own.

    The length is that of `body`, which is not part of the head; for a body that is streamed give `framing` (and `length`, if LENGTH).
    1xx, 204 and 304 carry no framing. Raises Error on fields that cannot be written.
    """
    own = _own_fields(fields, side)
    reason = reason or REASONS.get(status, b"")
    if reason.translate(None, FIELD_BYTES) or not 100 <= status <= 999:
        raise _bad(side, f"status {status} {shown(reason[:40])} cannot be written")
    kind, size = (LENGTH, len(body)) if framing is None else (framing, length)
    if status < 200 or status in (204, 304):
        kind, size = NONE, 0
    return Head(answer_text(status, reason, own, kind, size), b"", status=status, reason=reason, body=kind, length=size, fields=own)


def date_field() -> tuple[bytes, bytes]:
    """The Date of an answer that we make ourselves (RFC 9110 section 6.6.1), written once a second."""
    return _dated(int(time.time()))


@lru_cache(maxsize=1)
def _dated(second: int) -> tuple[bytes, bytes]:
    day = time.gmtime(second)
    weekday, month = _DAYS[day.tm_wday], _MONTHS[day.tm_mon - 1]  # strftime would write them in the language of the process
    return b"date", time.strftime(f"{weekday}, %d {month} %Y %H:%M:%S GMT", day).encode()


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def canned(status: int, detail: str = "", fields: Iterable[tuple[bytes, bytes]] = ()) -> tuple[Head, bytes]:
    """A short plain-text answer of our own, mostly an error: its head and its body."""
    reason = REASONS.get(status, b"").decode()
    body = f"{status} {reason}: {detail}\n".encode() if detail else f"{status} {reason}\n".encode()
    return answer_head(status, (date_field(), *fields, (b"content-type", b"text/plain; charset=utf-8")), body), body


SETTLED = HOP | {b"content-length", b"expect", b"sec-websocket-key", b"sec-websocket-version", HOPS}
"""Fields that no rule makes or cuts: how a message is framed, what is for one hop, what a client waits for an answer to, who goes round."""


def rewritable(name: bytes, value: bytes | None) -> str:
    """Why a rule cannot set this field (lower-case name) to this value, or with None cut it; "": it can."""
    if name in SETTLED:
        return "the proxy writes it itself"
    if name == b"host" and not value:
        return "no request goes without it"
    if not TOKEN.fullmatch(name):
        return "its name is not a token"
    return "its value has a control byte" if value is not None and value.translate(None, FIELD_BYTES) else ""


def target_of(path: bytes) -> bytes:
    """A path, perhaps with a query, as a request line can carry it: what it cannot is percent-encoded (RFC 3986 2.1)."""
    if path == b"*":
        return path
    return re.sub(rb"[^!-~]", lambda found: b"%%%02X" % found[0][0], path if path.startswith(b"/") else b"/" + path)


def rewrite(
    head: Head,
    *,
    method: bytes | None = None,
    target: bytes | None = None,
    fields: Mapping[bytes, bytes | None] | None = None,
) -> Head:
    """A head as rules want it sent on: another method or target, fields (lower-case names) set, or cut where the value is None.

    Framing, hop-by-hop fields and a missing Host are not for rules to make: Error("config"). `decision` is not copied.
    """
    changes = dict(fields or {})
    if bad := [n for n in changes if n in HOP or n == b"content-length" or (n == b"host" and not changes[n])]:
        raise Error("config", f"field {bad[0].decode('latin-1')!r} cannot be rewritten")
    method, target = method or head.method, target or head.target
    if not head.status and (not TOKEN.fullmatch(method) or not re.fullmatch(rb"[!-~]+", target)):
        raise Error("config", f"method {method[:40]!r} or target {target[:80]!r} cannot be written")
    added = [(n, v) for n, v in changes.items() if v is not None]
    for name, value in added:
        check_field(name, value)
    start, _, block = text_of(head).partition(b"\r\n")
    if not head.status:
        sent = start.split(b" ")[1] if target == head.target else target
        start = method + b" " + sent + b" HTTP/1.1"
    lines = [line for line in block.split(b"\r\n")[:-2] if line.partition(b":")[0].lower() not in changes]
    text = b"\r\n".join([start, *lines]) + b"\r\n" + join_fields(added) + b"\r\n"
    seen = tuple((n, v) for n, v in head.fields if n.lower() not in changes) + tuple(added)
    host = changes.get(b"host") or head.authority
    return head._like(text=text, raw=b"", method=method, target=target, authority=host, fields=seen, key=None, onward=None)
