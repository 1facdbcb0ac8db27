"""JSONSocket.v1: the two headers that precede a stream, as bytes (contract, section 5; l7mp's doc/jsonsocket-spec.org).

The client's first message is a JSON object with `JSONSocketVersion` and any metadata; the server answers with a JSON object of version,
status and message; what follows are the stream's own messages. Status codes and texts are l7mp's, its slips included, because clients
compare them. Over a transport of messages a header is one message. Over a stream of bytes it may come in pieces, or with the first
payload behind it, so its end is looked for (l7mp took what the first read brought).
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeGuard

from carrier.wire.http import REASONS

VERSION = 1
LONGEST = 64 * 1024
"""Bytes of a header at most: as much as a datagram can hold."""
_BLANK = b" \t\n\r\x0b\x0c"
_PIECE = re.compile(rb'[{}"]|\\.', re.S)
_IDENTIFIER = re.compile(r"[A-Za-z_$][\w$]*").fullmatch


class Refused(Exception):
    """A header that is not acceptable: status, and the reason as the other side is told."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class End:
    """Looks for the end of the JSON object that a stream begins with, as bytes come; `held`: all that came. Each is looked at once."""

    __slots__ = ("at", "begun", "depth", "held", "in_text")

    def __init__(self) -> None:
        self.held = bytearray()
        self.at = self.depth = 0
        """How far it was looked at, and how many objects are open there."""
        self.begun = self.in_text = False

    def feed(self, data: bytes) -> int | None:
        """Where the object ends in `held`; None: it is not complete yet. What is no object ends where `held` does."""
        held = self.held
        held += data
        if not self.begun:
            while self.at < len(held) and held[self.at] in _BLANK:
                self.at += 1
            if self.at == len(held):
                return None
            self.begun = True
            if held[self.at] != 0x7B:
                return len(held)
        for found in _PIECE.finditer(held, self.at):
            self.at = found.end()
            sign = found[0]
            if sign == b'"':
                self.in_text = not self.in_text
            elif not self.in_text and sign == b"{":
                self.depth += 1
            elif not self.in_text and sign == b"}":
                self.depth -= 1
                if self.depth <= 0:
                    return self.at
        self.at = max(self.at, len(held) - held.endswith(b"\\"))  # what is behind a backslash may come later
        return None


def end_of(data: bytes) -> int | None:
    """Where the JSON object that `data` begins with ends; None: it is not complete. What is no object ends where `data` does."""
    return End().feed(data)


def request(data: bytes) -> dict[str, Any]:
    """The client's header. Raises Refused."""
    try:
        header = json.loads(data)
    except (ValueError, RecursionError):
        raise Refused(400, "Bad Request: Invalid JSON header") from None
    if not isinstance(header, dict) or "JSONSocketVersion" not in header:
        raise Refused(400, "Bad Request: err")
    version = header["JSONSocketVersion"]
    if not _whole(version):
        raise Refused(400, f"Bad Request: JSONSocket version info is not numeric/integer in header: {inspect(header, 5)}")
    if not 0 <= version <= VERSION:
        raise Refused(505, f"Bad Request: Unsupported JSONSocket version in header: {inspect(header, 5)}")
    return header


def answer(status: int, message: str) -> bytes:
    """The server's header."""
    return compact({"JSONSocketVersion": VERSION, "JSONSocketStatus": status, "JSONSocketMessage": message})


def refusal(status: int, detail: str) -> bytes:
    """The server's header for a session that failed."""
    reason = REASONS.get(status, b"").decode()
    return answer(status, f"{reason}: {detail}" if detail else reason)


def check_answer(data: bytes) -> None:
    """Raises Refused unless the server's header says that the stream may begin."""
    try:
        header = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise Refused(502, f"Invalid JSON response header: {exc}") from None
    if not isinstance(header, dict) or "JSONSocketVersion" not in header:
        raise Refused(502, f"No JSONSocket version info in response header: {inspect(header, 5)}")
    version, status = header["JSONSocketVersion"], header.get("JSONSocketStatus")
    if not _whole(version):
        raise Refused(502, f"JSONSocket version info is not numeric in response header: {inspect(header, 5)}")
    if not 0 <= version <= VERSION:
        raise Refused(502, f'Unsupported JSONSocket version "{version}" in header, dropping connection')
    if not _whole(status) or not 200 <= status <= 299:
        message = header.get("JSONSocketMessage")
        said = f" ({message})" if isinstance(message, str) else ""
        raise Refused(502, f'Server sent invalid status "{status}" in response header, dropping connection{said}')


def compact(value: object) -> bytes:
    """JSON without whitespace, as JavaScript writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _whole(value: object) -> TypeGuard[int]:
    """A number without a fraction; JSON has no integers, so 1.0 is one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value and value % 1 == 0


def inspect(value: object, depth: int) -> str:
    """A value as node's util.inspect writes it on one line: l7mp's error texts quote headers so."""
    if isinstance(value, dict):
        if value and depth < 0:
            return "[Object]"
        members = [f"{k if _IDENTIFIER(k) else _quoted(k)}: {inspect(v, depth - 1)}" for k, v in value.items()]
        return f"{{ {', '.join(members)} }}" if members else "{}"
    if isinstance(value, list):
        if value and depth < 0:
            return "[Array]"
        return f"[ {', '.join(inspect(v, depth - 1) for v in value)} ]" if value else "[]"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, float) and value % 1 == 0 and abs(value) < 1e21:
        return str(int(value))
    return json.dumps(value)


def _quoted(text: str) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    if "'" not in text:
        return f"'{text}'"
    return f'"{text}"' if '"' not in text else "'" + text.replace("'", "\\'") + "'"
