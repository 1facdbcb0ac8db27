"""What gRPC is beside HTTP/2: how its requests are known, what its errors are called, how long a caller waits.

A request is one of gRPC by its content type. An error is said in trailers behind status 200 (`Trailers-Only`), with a number and a text; so
it is for errors of ours, because a caller of gRPC makes little of HTTP's. (PROTOCOL-HTTP2.md of grpc/grpc.) gRPC-Web is HTTP of any
version, and passes as such; only errors of ours are said in its words.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from carrier.wire.http import Head
from carrier.wire.making import answer_head

if TYPE_CHECKING:
    from carrier.errors import Error

OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED = range(9)
FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED = range(9, 17)
NAMES = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
]
"""By number."""
FAILURES = frozenset(("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"))
"""Those that are a server's failure, as 500 and above are of HTTP (OpenTelemetry's semantic conventions for gRPC)."""
STATUS = {
    "timeout": DEADLINE_EXCEEDED,
    "request-timeout": DEADLINE_EXCEEDED,
    "overload": RESOURCE_EXHAUSTED,
    "too-many-requests": RESOURCE_EXHAUSTED,
    "body-too-large": RESOURCE_EXHAUSTED,
    "headers-too-large": RESOURCE_EXHAUSTED,
    "not-implemented": UNIMPLEMENTED,
    "no-route": UNIMPLEMENTED,
    "unauthorized": UNAUTHENTICATED,
    "forbidden": PERMISSION_DENIED,
    "protocol-error": INTERNAL,
    "internal": INTERNAL,
}
"""Kind of an error -> status; UNAVAILABLE for the others: nobody is there, or breaks off."""
RESETS = {
    **dict.fromkeys((0, 1, 2, 3, 4, 6, 9, 10), INTERNAL),
    8: CANCELLED,
    11: RESOURCE_EXHAUSTED,
    12: PERMISSION_DENIED,
}
"""Code of an upstream's RST_STREAM -> status, as a caller would take it (PROTOCOL-HTTP2.md, "HTTP2 Transport Mapping")."""
_TYPE = re.compile(rb"application/grpc(?:\+[^;]*)?(?:[ \t]*;.*)?", re.IGNORECASE | re.DOTALL)
_WEB = re.compile(rb"application/grpc-web(?:-text)?(?:\+[^;]*)?(?:[ \t]*;.*)?", re.IGNORECASE | re.DOTALL)
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PLAIN = frozenset(range(0x20, 0x7F)) - {0x25}
MESSAGE = 1024
"""Bytes of a reason that are said at most."""


def is_type(value: bytes) -> bool:
    """Is this content type gRPC's?"""
    return _TYPE.fullmatch(value) is not None


def is_web_type(value: bytes | None) -> bool:
    """Is this content type gRPC-Web's, as bytes or as text?"""
    return value is not None and _WEB.fullmatch(value) is not None


def timeout_of(value: bytes | None) -> float | None:
    """Seconds that a caller waits, by its grpc-timeout; None: for ever, or nobody knows."""
    found = _TIMEOUT.fullmatch(value or b"")
    return None if found is None else int(found[1]) * _UNITS[found[2]]


def timeout_text(seconds: float) -> bytes:
    """grpc-timeout for so many seconds, at least a millisecond: in the finest unit that takes it in eight digits."""
    milliseconds = max(1, int(seconds * 1000))
    if milliseconds < 10**8:
        return b"%dm" % milliseconds
    return b"%dS" % (milliseconds // 1000) if milliseconds < 10**11 else b"%dH" % min(milliseconds // 3_600_000, 10**8 - 1)


def status_of(error: Error) -> int:
    """The status that an error of ours is."""
    if error.reset_code is not None and error.reset_code in RESETS:
        return RESETS[error.reset_code]
    return STATUS.get(error.kind, UNAVAILABLE)


def message_of(text: str) -> bytes:
    """A reason as grpc-message has it: UTF-8, percent-encoded."""
    return b"".join(b"%c" % byte if byte in _PLAIN else b"%%%02X" % byte for byte in text.encode("utf-8", "replace")[:MESSAGE])


def refusal(error: Error, content_type: bytes, date: tuple[bytes, bytes]) -> Head:
    """The whole answer that says an error."""
    fields = _refusal(error, content_type or b"application/grpc", date)
    return Head(b"", status=200, version="2", fields=fields, onward=fields)


def web_refusal(error: Error, content_type: bytes, date: tuple[bytes, bytes]) -> Head:
    """The same for a caller of gRPC-Web, in any version of HTTP: the status stands in the head, and there is no content
    (PROTOCOL-WEB.md of grpc/grpc)."""
    return answer_head(200, _refusal(error, content_type, date), b"")


def _refusal(error: Error, content_type: bytes, date: tuple[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"content-type", content_type), *said_of(error), (b"x-carrier-error", error.kind.encode()), date)


def said_of(error: Error) -> tuple[tuple[bytes, bytes], ...]:
    """The fields that tell an error of ours to a caller: of a head, or of trailers."""
    return (b"grpc-status", b"%d" % status_of(error)), (b"grpc-message", message_of(error.detail))


def said(fields: object) -> str:
    """The name of the status that these fields say (of trailers, or of a head that is all of an answer); "" if they say none."""
    for name, value in fields if isinstance(fields, tuple) else ():
        if name == b"grpc-status":
            number = int(value) if value.isdigit() and len(value) < 4 else UNKNOWN
            return NAMES[number] if number < len(NAMES) else f"{number}"
    return ""


def call_of(target: bytes) -> tuple[str, str]:
    """Service and method of a path."""
    service, _, method = target.partition(b"?")[0].strip(b"/").rpartition(b"/")
    return service.decode("latin-1"), method.decode("latin-1")
