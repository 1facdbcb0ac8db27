"""Where a request stands in a distributed trace: `traceparent` and `tracestate` (W3C Trace Context, level 1; its flags as in level 2).

What came is looked at once a head and remembered with it. `tracestate` goes on as it came: we have no entry of our own in it.
"""

from __future__ import annotations

import random
import re
from typing import NamedTuple

from carrier.errors import Error
from carrier.wire.http import Head
from carrier.wire.making import rewrite

SAMPLED = 1
"""The flag of a caller who records this trace (section 3.2.2.5.1)."""
_PARENT_LINE = b"\r\ntraceparent:"
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Context(NamedTuple):
    """What `traceparent` says. trace: 32 hex digits; parent: 16, the caller's span; flags: as they came."""

    trace: bytes
    parent: bytes
    flags: int

    @property
    def sampled(self) -> bool:
        return bool(self.flags & SAMPLED)


def read(value: bytes | None) -> Context | None:
    """The value of a traceparent; None when there is none that is good (section 3.2.2.2): then the trace begins anew."""
    found = _PARENT.fullmatch(value) if value is not None else None
    if found is None or found[1] == b"ff" or (found[1] == b"00" and found[5]):
        return None
    if found[2].strip(b"0") == b"" or found[3].strip(b"0") == b"":
        return None
    return Context(found[2], found[3], int(found[4], 16))


def context_of(head: Head) -> Context | None:
    """What a request says; looked at once."""
    found = head.trace
    if found is None:
        found = head.trace = read(head.get(b"traceparent")) or False
    return found or None


def parent_line(trace: bytes, span: bytes, flags: int) -> bytes:
    """The field line that hands a trace on."""
    return b"traceparent: 00-%b-%b-%02x\r\n" % (trace, span, flags & 3)


def handed_on(head: Head) -> Head:
    """The head without the traceparent that ours takes the place of; without its state, too, if there was none that is good."""
    raw = head.raw
    if raw and b"trace" not in raw.lower():
        return head
    if context_of(head) is not None:
        return _without_parent(head)
    gone: dict[bytes, bytes | None] = {b"traceparent": None, b"tracestate": None}
    if not any(name.lower() in gone for name, _ in head.fields):
        return head
    try:
        return rewrite(head, fields=gone)
    except Error:
        return head


def _without_parent(head: Head) -> Head:
    """The head as it goes on without its traceparent, of which it has one; what it said is still known of it."""
    text, onward = head.text, head.onward
    at = text.lower().find(_PARENT_LINE)
    if at >= 0:
        text = text[:at] + text[text.index(b"\r\n", at + 2) :]
    made = head.again(text, head.raw, head.target, head.length)
    if head.raw == b"":
        made.set_fields(head.fields)
    if onward is not None:
        made.onward = tuple([pair for pair in onward if pair[0] != b"traceparent"])
    made.never, made.grpc = head.never, head.grpc
    return made


def new_trace() -> bytes:
    """An id of a trace: not all zeros (section 3.2.2.3)."""
    return b"%032x" % (random.getrandbits(128) or 1)


def new_span() -> bytes:
    """An id of a span (section 3.2.2.4)."""
    return b"%016x" % (random.getrandbits(64) or 1)
