"""Messages of the domain name system (RFC 1035 section 4): questions written, answers read; bytes in, values out, no sockets.

What is asked for are addresses and services (RFC 3596, RFC 2782); names that stand for others (CNAME) are followed within one answer, as
name servers that look up for others give them. There is no EDNS: what does not fit into 512 bytes is asked for again over TCP.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

A, CNAME, SOA, AAAA, SRV = 1, 5, 6, 28, 33
"""Types of records."""
OK, NO_NAME = 0, 3
"""Codes of an answer: all is well; there is no such name. Any other is a failure of the server."""
LONGEST_NAME = 253
CHAIN = 16
"""Names that stand for others, one after the other, at most."""
JUMPS = 64
"""Pointers within one name."""


class Bad(ValueError):
    """What came is no answer, or a name is none."""


class Service(NamedTuple):
    """Where a service is (RFC 2782): lower priorities first, and among equals more often the heavier."""

    priority: int
    weight: int
    port: int
    target: str


class Reply(NamedTuple):
    """An answer. number: of the question. found: addresses as text, or services; ttl: seconds that they, or that there are none, are
    good for. cut: the rest did not fit."""

    number: int
    code: int
    cut: bool
    name: str
    kind: int
    found: tuple[str | Service, ...]
    ttl: int


def question(number: int, name: str, kind: int) -> bytes:
    """A message that asks for the records of one kind, recursively. Raises Bad: the name is none (a label has 1 to 63 bytes)."""
    return struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + _labels(name) + struct.pack("!2H", kind, 1)


def asked(message: bytes) -> str:
    """The name that a question of ours asks for, as `answer` gives it."""
    return _name(message, 12)[0]


def _labels(name: str) -> bytes:
    try:
        raw = name.encode("ascii") if name.isascii() else name.encode("idna")
    except UnicodeError as exc:
        raise Bad(f"{name!r} is no name: {exc}") from None
    raw = raw.removesuffix(b".")
    labels = raw.split(b".")
    if len(raw) > LONGEST_NAME or not all(0 < len(label) < 64 for label in labels) or b"\0" in raw:
        raise Bad(f"{name!r} is no name: each part has 1 to 63 bytes, all of them up to {LONGEST_NAME}")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def answer(data: bytes) -> Reply:
    """Read what a server says. Raises Bad."""
    try:
        return _answer(data)
    except (struct.error, IndexError, UnicodeError) as exc:
        raise Bad(f"no answer of a name server: {exc}") from None


def _answer(data: bytes) -> Reply:
    number, flags, questions, answers, authorities, _ = struct.unpack_from("!6H", data)
    if not flags & 0x8000 or questions != 1:
        raise Bad("no answer to one question")
    name, at = _name(data, 12)
    kind, _ = struct.unpack_from("!2H", data, at)
    at += 4
    aliases: dict[str, tuple[str, int]] = {}
    records: dict[str, list[tuple[str | Service, int]]] = {}
    for _ in range(answers):
        owner, sort, ttl, value, at = _record(data, at)
        if sort == CNAME:
            aliases[owner] = str(value), ttl
        elif sort == kind and isinstance(value, (str, Service)):
            records.setdefault(owner, []).append((value, ttl))
    owner, ttls = name, []
    for _ in range(CHAIN):
        if owner in records or owner not in aliases:
            break
        owner, ttl = aliases[owner]
        ttls.append(ttl)
    found = records.get(owner, [])
    ttls += [ttl for _, ttl in found]
    if not found:
        ttls = [_negative(data, at, authorities)]
    return Reply(number, flags & 15, bool(flags & 0x0200), name, kind, tuple(value for value, _ in found), min(ttls, default=0))


def _negative(data: bytes, at: int, authorities: int) -> int:
    """Seconds that there is nothing (RFC 2308 section 5); 0 when nobody says so."""
    for _ in range(authorities):
        _, sort, ttl, value, at = _record(data, at)
        if sort == SOA and isinstance(value, int):
            return min(ttl, value)
    return 0


def _record(data: bytes, at: int) -> tuple[str, int, int, str | Service | int | None, int]:
    """Owner, type, ttl, value (of SOA its minimum; None: of no interest, or malformed), and where the next record begins."""
    owner, at = _name(data, at)
    sort, where, ttl, size = struct.unpack_from("!2HIH", data, at)
    at += 10
    end = at + size
    if end > len(data):
        raise IndexError("a record is longer than the message")
    value: str | Service | int | None = None
    if where == 1:
        if sort == A and size == 4:
            value = socket.inet_ntop(socket.AF_INET, data[at:end])
        elif sort == AAAA and size == 16:
            value = socket.inet_ntop(socket.AF_INET6, data[at:end])
        elif sort == CNAME:
            value = _name(data, at)[0]
        elif sort == SRV:
            value = _service(data, at)
        elif sort == SOA and size >= 22:
            (value,) = struct.unpack_from("!I", data, end - 4)
    return owner, sort, ttl if ttl < 1 << 31 else 0, value, end


def _service(data: bytes, at: int) -> Service:
    priority, weight, port = struct.unpack_from("!3H", data, at)
    return Service(priority, weight, port, _name(data, at + 6)[0])


def _name(data: bytes, at: int) -> tuple[str, int]:
    """A name, in lower case and without its last dot, and where what follows begins. Pointers lead backwards only (section 4.1.4)."""
    labels = []
    after = 0
    size = 0
    for _ in range(JUMPS + 128):
        length = data[at]
        if length >= 0xC0:
            target = (length & 0x3F) << 8 | data[at + 1]
            after = after or at + 2
            if target >= at:
                raise IndexError("a pointer that does not lead backwards")
            at = target
        elif length:
            if length > 63:
                raise IndexError("a label of more than 63 bytes")
            label = data[at + 1 : at + 1 + length]
            size += length + 1
            if len(label) < length or size > 255:
                raise IndexError("a name that is too long")
            labels.append(label.decode("latin-1").lower())
            at += 1 + length
        else:
            return ".".join(labels), after or at + 1
    raise IndexError("a name without an end")
