"""Spans as OpenTelemetry's protocol carries them: protobuf, written as bytes (opentelemetry-proto 1.x: trace/v1, collector/trace/v1).

Only what we send is known here. The official encoder makes an object of each value, which costs 130 us a span; most of what spans say comes
again and again, so attributes are remembered as bytes, and a span is joined from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

SERVER, CLIENT = 2, 3
"""Kinds of spans."""
KEPT, SHORT = 2048, 128
"""Attributes that are remembered, and characters of a text that is."""
Value = str | bool | int | float
_TIMES = Struct("<BQBQ").pack
_DOUBLE = Struct("<Bd").pack
_FLAGS = Struct("<HI").pack
_SAMPLED, _KNOWN, _REMOTE = 1, 0x100, 0x200
"""Flags of a span: of its trace (W3C); it is known whether its parent is remote; it is."""


class Span(NamedTuple):
    """What is to be sent. trace, span, parent: 16, 8 and 8 bytes, parent b"" for none; began, ended: nanoseconds since 1970; failed: why
    it counts as an error; state: its tracestate."""

    name: str
    server: bool
    trace: bytes
    span: bytes
    parent: bytes
    began: int
    ended: int
    attributes: Mapping[str, Value]
    failed: str
    state: str


def export(resource: Mapping[str, Value], scope: tuple[str, str], spans: Iterable[Span]) -> bytes:
    """An ExportTraceServiceRequest. scope: name and version of who has made the spans."""
    name, version = scope
    made = _held(0x0A, _held(0x0A, name.encode()) + _held(0x12, version.encode()))
    made += b"".join([_held(0x12, written(span)) for span in spans])
    of = b"".join([_held(0x0A, _pair(*item)) for item in resource.items()])
    return _held(0x0A, _held(0x0A, of) + _held(0x12, made))


def written(span: Span) -> bytes:
    """A Span."""
    parts = [b"\x0a\x10", span.trace, b"\x12\x08", span.span]
    if span.state:
        parts.append(_held(0x1A, span.state.encode()))
    if span.parent:
        parts += (b"\x22\x08", span.parent)
    parts += (_held(0x2A, span.name.encode()), b"\x30\x02" if span.server else b"\x30\x03", _TIMES(0x39, span.began, 0x41, span.ended))
    for name, value in span.attributes.items():
        parts.append(attribute(name, value) if value.__class__ is not str or len(value) <= SHORT else _attribute(name, value))
    if span.failed:
        parts.append(_held(0x7A, _held(0x12, span.failed.encode()) + b"\x18\x02"))
    parts.append(_FLAGS(0x0185, _SAMPLED | _KNOWN | (_REMOTE if span.server and span.parent else 0)))
    return b"".join(parts)


def _attribute(name: str, value: Value) -> bytes:
    """An attribute of a span."""
    return _held(0x4A, _pair(name, value))


attribute = lru_cache(KEPT, typed=True)(_attribute)


def _pair(name: str, value: Value) -> bytes:
    """A KeyValue."""
    if isinstance(value, str):
        said = _held(0x0A, value.encode())
    elif isinstance(value, bool):
        said = b"\x10\x01" if value else b"\x10\x00"
    elif isinstance(value, int):
        said = b"\x18" + _number(value & 0xFFFFFFFFFFFFFFFF)
    else:
        said = _DOUBLE(0x21, value)
    return _held(0x0A, name.encode()) + _held(0x12, said)


def _held(tag: int, data: bytes) -> bytes:
    """A field that holds bytes; tag: its number and kind, as they are written (one byte)."""
    size = len(data)
    return bytes((tag, size)) + data if size < 128 else bytes((tag,)) + _number(size) + data


def _number(value: int) -> bytes:
    """A varint."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
