"""The HTTP/1.1 codec: bytes in, calls out (RFC 9112). It owns no socket and reads no clock.

A head is read by the cheapest of three readers that is sure of it:
1. the whole-head memo: a dict from the raw bytes of a head to a finished `Head`;
2. the plan parser: each line known by a small number (0: valid and without consequence); the tuple of the other numbers leads to a ready
   plan: framing, what to cut, what to add. Only lines never seen are looked at, and only the canonical form of each field is known here;
3. `parse_request` and `parse_answer`: h11 decides, and we refuse more than it does wherever servers are known to differ.
Whatever (2) is not sure of goes to (3); (2) never refuses anything itself. tests/fuzz holds that the three agree.

Numbers of lines are never used twice, in any memo: a listener may key its decisions by them. All tables are bounded; full ones are emptied.
`RequestReader` and `AnswerReader` follow one connection; what they read goes to a target: on_head(head), on_data(bytes), on_end(trailers).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from itertools import count
from typing import Protocol

import h11

from carrier.errors import Error, Side
from carrier.http import (
    CHUNKED,
    CLOSE,
    ENDURING,
    FIELD_BYTES,
    HOP,
    LENGTH,
    NONE,
    TOKEN,
    UNMERGEABLE,
    Fields,
    Forwarding,
    Head,
    join_fields,
)


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, except `fields` (lines of a head or trailer section) and `interim` (1xx answers before the final one).

    head: a whole head, also a trailer section. line: one line of it. body: content of a message, 0 for no limit. pipelined: what is held of
    the requests after the one being served. extensions: chunk extensions of one message in all, which are dropped (RFC 9112 7.1.1).
    strict_target: refuse bytes that RFC 3986 forbids but browsers send in queries ({}|\\^`"<>).
    """

    head: int = 32 * 1024
    fields: int = 100
    line: int = 8 * 1024
    body: int = 0
    pipelined: int = 512 * 1024
    extensions: int = 16 * 1024
    interim: int = 32
    strict_target: bool = True


class Target(Protocol):
    """Who is told what a reader reads. A 1xx answer is an on_head without on_end; after a switch of protocols only on_data follows."""

    def on_head(self, head: Head, /) -> None: ...
    def on_data(self, data: bytes, /) -> None: ...
    def on_end(self, trailers: Fields, /) -> None: ...


# --- grammar ---------------------------------------------------------------------------------------------------------------------

_TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# RFC 3986 pchar, and the brackets that it forbids in a path or query but that no server reads differently (?a[]=1).
_PCHAR = rb"!$&'()*+,;=:@\-._~0-9A-Za-z\[\]"
_LOOSE = rb"{}|\\^`\"<>"


def _location(path: bytes, query: bytes) -> bytes:
    escaped = rb"%%[0-9A-Fa-f]{2}[%b]*"
    return rb"/[%b]*(?:%b)*(?:\?[%b]*(?:%b)*)?" % (path, escaped % path, query, escaped % query)


_STRICT = _location(_PCHAR + b"/", _PCHAR + b"/?")
_LAX = _location(_PCHAR + _LOOSE + b"/", _PCHAR + _LOOSE + b"/?")
_REQUEST = {strict: re.compile(rb"(%b) (%b) HTTP/1\.1" % (_TCHAR, body)) for strict, body in ((True, _STRICT), (False, _LAX))}
_LOCATION = {True: re.compile(_STRICT), False: re.compile(_LAX)}
_ANSWER = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")
_LENGTH_LINE = re.compile(rb"[Cc]ontent-[Ll]ength: ?(?:0|[1-9][0-9]{0,17})")
# The sub-delims that RFC 3986 allows in a reg-name are refused: no name has them, and "a,b" is what two joined Host fields look like.
_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|(?:[\-._~0-9A-Za-z]|%[0-9A-Fa-f]{2})+)(?::([0-9]{0,5}))?")
_ABSOLUTE = re.compile(rb"([Hh][Tt][Tt][Pp][Ss]?)://([^/?#]*)(.*)", re.S)
_CONNECT = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[\-._~0-9A-Za-z]+):[0-9]{1,5}")
_ILL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)")
"""What no head may hold: a control byte, LF without CR, CR without LF (which may still be to come)."""


def _refuse(side: Side, detail: str, kind: str = "") -> Error:
    return Error(kind or ("protocol-error" if side == "downstream" else "bad-answer"), detail, side)


def _check_host(host: bytes) -> None:
    match = _HOST.fullmatch(host)
    try:
        if match is None or (match[2] and int(match[2]) > 65535):
            raise ValueError
        if match[1]:
            IPv6Address(match[1].decode())
    except ValueError:
        raise _refuse("downstream", f"Host {host[:80]!r} is no host name or address with an optional port") from None


# --- plans: what the fields of a head decide -------------------------------------------------------------------------------------


class _Plan:
    """What the fields of a head decide, whatever its other fields: the part of a Head that heads share."""

    __slots__ = ("body", "cut", "cut_ids", "expect", "host", "keep_alive", "length", "length_id", "named", "tail", "upgrade")

    def __init__(self) -> None:
        self.body, self.length, self.keep_alive, self.expect = NONE, 0, True, False
        self.upgrade: bytes | None = None
        self.host, self.named = b"", False
        self.cut: frozenset[bytes] = HOP
        self.tail = b""  # lines to add, and the end of the head
        self.length_id = 0
        self.cut_ids: tuple[int, ...] = ()


Pairs = Sequence[tuple[bytes, bytes]]
"""(lower-case name, value)"""


def _gather(pairs: Pairs) -> dict[bytes, list[bytes]]:
    seen: dict[bytes, list[bytes]] = {}
    for name, value in pairs:
        seen.setdefault(name, []).append(value)
    return seen


def _tokens(values: Iterable[bytes]) -> list[bytes]:
    return [token.strip(b" \t").lower() for value in values for token in value.split(b",")]


def _framing(seen: Mapping[bytes, list[bytes]], minor: int, side: Side) -> tuple[int, int]:
    """Body kind and length as the fields declare it, (NONE, 0) if they do not (RFC 9112 6.3). Stricter: one field, one canonical value."""
    codings, lengths = seen.get(b"transfer-encoding"), seen.get(b"content-length")
    if codings:
        if lengths:
            raise _refuse(side, "both Transfer-Encoding and Content-Length")
        if not minor:
            raise _refuse(side, "Transfer-Encoding in HTTP/1.0")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            known = side == "upstream" or _tokens(codings)[-1] != b"chunked" or _tokens(codings).count(b"chunked") > 1
            kind = "" if known or b"" in _tokens(codings) else "not-implemented"
            raise _refuse(side, f"Transfer-Encoding {b', '.join(codings)[:80]!r} is not exactly chunked", kind)
        return CHUNKED, 0
    if lengths:
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
            raise _refuse(side, f"Content-Length {b', '.join(lengths)[:80]!r} is not one decimal number")
        return LENGTH, int(lengths[0])
    return NONE, 0


def _connection(plan: _Plan, seen: Mapping[bytes, list[bytes]], minor: int, side: Side) -> list[bytes]:
    """The options of Connection (RFC 9112 9.3, 9.6); fields that they name are cut."""
    options = [t for t in _tokens(seen.get(b"connection", ())) if t]
    if bad := [t for t in options if not TOKEN.fullmatch(t)]:
        raise _refuse(side, f"Connection option {bad[0][:80]!r} is not a token")
    plan.keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
    plan.cut = plan.cut | (frozenset(options) - ENDURING - {b"close"})
    return options


def _upgrade(seen: Mapping[bytes, list[bytes]], options: Sequence[bytes], side: Side) -> bytes | None:
    """The protocols of an Upgrade that Connection names (RFC 9110 7.8), without h2c, which we never switch to."""
    if b"upgrade" not in options:
        return None
    values = [v.strip(b" \t") for value in seen.get(b"upgrade", ()) for v in value.split(b",")]
    if any(v and not re.fullmatch(rb"%b(?:/%b)?" % (_TCHAR, _TCHAR), v) for v in values):
        raise _refuse(side, f"Upgrade {b', '.join(values)[:80]!r} is not a list of protocols")
    return b", ".join(v for v in values if v and v.lower() != b"h2c") or None


def _plan_request(pairs: Pairs, minor: int, authority: bytes | None, profile: Forwarding) -> _Plan:
    """What a request's fields decide. `authority`: that of an absolute-form target. Raises Error."""
    plan, seen = _Plan(), _gather(pairs)
    plan.cut = profile.cut()
    plan.body, plan.length = _framing(seen, minor, "downstream")
    options = _connection(plan, seen, minor, "downstream")
    plan.host = _host(seen.get(b"host", []), minor, authority)
    expect = [v.lower() for v in seen.get(b"expect", ())] if minor else []
    if expect and expect != [b"100-continue"]:
        raise _refuse("downstream", f"Expect {b', '.join(expect)[:80]!r} is not 100-continue", "expectation")
    plan.expect = bool(expect) and plan.body != NONE and plan.length + (plan.body == CHUNKED) > 0
    if not plan.expect:
        plan.cut = plan.cut | {b"expect"}  # RFC 9110 10.1.1: not in a request without content, and not in HTTP/1.0
    protocols = _upgrade(seen, options, "downstream") if minor and not (plan.body and (plan.length or plan.body == CHUNKED)) else None
    plan.upgrade = protocols.lower() if protocols else None
    plan.named = bool(profile.request_id) and profile.request_id in seen
    plan.tail = profile.standing(plan.host, seen)
    if not plan.host and not profile.host:
        plan.tail += b"host: " + profile.default_host + b"\r\n"
    elif b"host" not in seen and not profile.host:
        plan.tail += b"host: " + plan.host + b"\r\n"
    plan.tail += _framing_tail(plan.body, protocols)
    return plan


def _framing_tail(body: int, protocols: bytes | None) -> bytes:
    """The end of a head: the transfer coding and the upgrade in their one form, and the empty line."""
    lines = b"transfer-encoding: chunked\r\n" if body == CHUNKED else b""
    if protocols:
        lines += b"connection: upgrade\r\nupgrade: " + protocols + b"\r\n"
    return lines + b"\r\n"


def _host(values: Sequence[bytes], minor: int, authority: bytes | None) -> bytes:
    """The one host that a request is for (RFC 9112 3.2); empty for HTTP/1.0 without Host."""
    if len(values) > 1 or (minor and not values):
        raise _refuse("downstream", f"{len(values)} Host fields, exactly one is needed")
    if values:
        _check_host(values[0])
    if authority is None:
        return values[0] if values else b""
    if values and _plain_authority(values[0]) != _plain_authority(authority):
        # RFC 9112 3.2.2 would replace Host; servers that do not would route by another name than we do.
        raise _refuse("downstream", f"Host {values[0][:80]!r} is not the authority of the target, {authority[:80]!r}")
    return values[0] if values else authority


def _plain_authority(authority: bytes) -> bytes:
    return re.sub(rb":(?:80|443)?\Z", b"", authority.lower())


def _plan_answer(pairs: Pairs, status: int, minor: int, profile: Forwarding) -> _Plan:
    """What an answer's fields decide, for a method other than HEAD. Raises Error."""
    plan, seen = _Plan(), _gather(pairs)
    plan.body, plan.length = _framing(seen, minor, "upstream")
    plan.tail = b"via: 1.1 " + profile.via + b"\r\n" if profile.via else b""
    options = _connection(plan, seen, minor, "upstream")
    if status < 200 or status == 204:
        if plan.body == CHUNKED or plan.length or (plan.body and status < 200):
            raise _refuse("upstream", f"an answer {status} declares a body")
        plan.cut = plan.cut | {b"content-length"}  # RFC 9110 8.6: not in 1xx and 204
    if status < 200 or status in (204, 304):
        plan.body, plan.length = NONE, 0
    elif plan.body == NONE:
        plan.body = CLOSE
    protocols = _upgrade(seen, options, "upstream") if status in (101, 426) else None
    plan.upgrade = protocols.lower() if protocols else None
    plan.tail += _framing_tail(plan.body, protocols)
    return plan


# --- the authority: h11, and what we refuse beyond it -----------------------------------------------------------------------------


def _lines(raw: bytes, limits: Limits, side: Side) -> list[bytes]:
    """The lines of a head without its end. Raises Error when it is too large or holds a byte that no head may hold."""
    if match := _ILL.search(raw):
        raise _refuse(side, f"byte {match[0]!r} at offset {match.start()} of the head")
    lines = raw.split(b"\r\n")
    if len(lines) < 3 or lines[-2:] != [b"", b""] or b"" in lines[:-2]:
        raise _refuse(side, "not one whole head")
    del lines[-2:]
    _check_sizes(len(lines[0]), len(raw), limits, side)
    if len(lines) - 1 > limits.fields or max(map(len, lines)) > limits.line:
        raise _large(side, f"more than {limits.fields} fields, or a line of more than {limits.line} bytes")
    return lines


def _check_sizes(first: int, whole: int, limits: Limits, side: Side) -> None:
    if first > limits.line:
        raise _refuse(side, f"start line of more than {limits.line} bytes", "uri-too-long" if side == "downstream" else "")
    if whole > limits.head:
        raise _large(side, f"head of more than {limits.head} bytes")


def _large(side: Side, detail: str) -> Error:
    return _refuse(side, detail, "headers-too-large" if side == "downstream" else "")


def _split(lines: Iterable[bytes], side: Side) -> list[tuple[bytes, bytes]]:
    """Field lines as (name as written, value). Folded lines, empty names and space before the colon do not get past the token."""
    pairs = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not TOKEN.fullmatch(name):
            raise _refuse(side, f"field line {line[:80]!r} does not start with a name and a colon")
        pairs.append((name, value.strip(b" \t")))
    return pairs


def _start_request(line: bytes, limits: Limits) -> tuple[bytes, bytes, int, bytes, bytes | None]:
    """Method, target as it came, minor version, target to send on, authority (of an absolute-form target only)."""
    parts = line.split(b" ")
    if len(parts) != 3 or not TOKEN.fullmatch(parts[0]) or not re.fullmatch(rb"HTTP/[0-9]\.[0-9]", parts[2]):
        raise _refuse("downstream", f"request line {line[:80]!r} is not a method, a target and a version")
    method, target, version = parts
    if version[5:] not in (b"1.1", b"1.0"):
        raise _refuse("downstream", f"version {version.decode()}, we speak HTTP/1.0 and HTTP/1.1", "version")
    sent, authority = _target(method, target, limits)
    return method, target, version[7] - 48, sent, authority


def _target(method: bytes, target: bytes, limits: Limits) -> tuple[bytes, bytes | None]:
    """Target to send on, and authority of an absolute-form target (RFC 9112 3.2). Userinfo and fragments are refused."""
    location = _LOCATION[limits.strict_target]
    if method == b"CONNECT":
        if _CONNECT.fullmatch(target):
            return target, None
    elif location.fullmatch(target) or (target == b"*" and method == b"OPTIONS"):
        return target, None
    elif match := _ABSOLUTE.fullmatch(target):
        _check_host(match[2])
        rest: bytes = match[3]
        sent = rest if rest[:1] == b"/" else b"/" + rest
        if location.fullmatch(sent):
            return (b"*" if method == b"OPTIONS" and not rest else sent), match[2]
    raise _refuse("downstream", f"target {target[:80]!r} of {method[:40]!r} is not one that RFC 9112 3.2 knows")


def parse_request(raw: bytes, limits: Limits | None = None, profile: Forwarding | None = None) -> Head:
    """Read one whole request head, from its method to CRLFCRLF.

    Raises Error, side downstream: protocol-error, uri-too-long, headers-too-large, not-implemented, version, expectation.
    """
    limits, profile = limits or Limits(), profile or Forwarding()
    lines = _lines(raw, limits, "downstream")
    method, target, minor, sent, authority = _start_request(lines[0], limits)
    fields = _split(lines[1:], "downstream")
    pairs = [(name.lower(), value) for name, value in fields]
    if odd := [name for name, _ in pairs if profile.confusable(name)]:
        raise _refuse("downstream", f"field {odd[0][:80]!r} would pass for one that rules look at")
    plan = _plan_request(pairs, minor, authority, profile)
    if method == b"CONNECT" and plan.body != NONE:
        raise _refuse("downstream", "CONNECT with content")
    _ask_h11(h11.SERVER, raw, limits, "downstream")
    wire = method + b" " + sent + b" HTTP/1.1\r\n" + _kept(fields, plan) + plan.tail
    return Head(
        wire,
        raw,
        method,
        target,
        plan.host,
        0,
        b"",
        minor,
        plan.body if plan.length or plan.body != LENGTH else NONE,
        plan.length,
        plan.keep_alive,
        plan.expect,
        plan.upgrade,
        plan.named,
        _key(pairs, minor, profile),
        tuple(fields),
    )


def _kept(fields: Iterable[tuple[bytes, bytes]], plan: _Plan) -> bytes:
    return join_fields((name, value) for name, value in fields if name.lower() not in plan.cut)


def _key(pairs: Pairs, minor: int, profile: Forwarding) -> object:
    names = profile.interesting
    return None if names is None else (minor, *(pair for pair in pairs if pair[0] in names))


def parse_answer(raw: bytes, method: bytes = b"GET", limits: Limits | None = None, profile: Forwarding | None = None) -> Head:
    """Read one whole answer head; `method` is that of the request (an answer to HEAD has no body).

    Raises Error("bad-answer", side upstream).
    """
    limits, profile = limits or Limits(), profile or Forwarding()
    lines = _lines(raw, limits, "upstream")
    match = _ANSWER.fullmatch(lines[0])
    if not match:
        raise _refuse("upstream", f"status line {lines[0][:80]!r}")
    minor, status, reason = int(match[1]), int(match[2]), match[3] or b""
    fields = _split(lines[1:], "upstream")
    plan = _plan_answer([(name.lower(), value) for name, value in fields], status, minor, profile)
    _ask_h11(h11.CLIENT, raw, limits, "upstream")
    wire = b"HTTP/1.1 %d %b\r\n" % (status, reason) + _kept(fields, plan) + plan.tail
    head = Head(
        wire,
        raw,
        b"",
        b"",
        b"",
        status,
        reason,
        minor,
        plan.body if plan.length or plan.body != LENGTH else NONE,
        plan.length,
        plan.keep_alive,
        False,
        plan.upgrade,
        False,
        None,
        tuple(fields),
    )
    return head.without_body() if method == b"HEAD" else head


def _ask_h11(role: type, raw: bytes, limits: Limits, side: Side) -> None:
    """Raise Error unless h11 takes the head too: it is the authority."""
    connection = h11.Connection(role, max_incomplete_event_size=limits.head + 2)
    if role is h11.CLIENT:  # it must have asked for an upgrade, or it would refuse every 101; AnswerReader holds that rule
        connection.send(h11.Request(method="GET", target="/", headers=[("host", "x"), ("connection", "upgrade"), ("upgrade", "x")]))
        connection.send(h11.EndOfMessage())
    try:
        connection.receive_data(raw)
        event = connection.next_event()
    except h11.RemoteProtocolError as exc:
        raise _refuse(side, str(exc)) from None
    if not isinstance(event, h11.Request | h11.Response | h11.InformationalResponse):
        raise _refuse(side, "not one whole head")


# --- the memos --------------------------------------------------------------------------------------------------------------------

_TABLE = 4096  # entries of a table: lines or heads
_PLANS = 1024
_MEMO_BYTES = 2 * 1024 * 1024  # of raw heads in one memo; their wire forms take as much again
_HEAD_MAX = 4096  # bytes of a head that is kept
_LINE_MAX = 256  # bytes of a line that is kept
_NAME_MAX = 64  # bytes of a field name that is kept
_VOLATILE = 32  # different values after which a name is taken for one whose values always change
_SLOW, _BY_LINE = -1, -2  # only h11 may judge; each line has its own number

_OPTIONS = HOP | {b"close"}
"""Connection options that name no field beyond those which are cut anyway."""

_numbers = count(1)


class _Memo:
    """Tables from bytes seen to what they mean, for one side and one Forwarding; see the top of the file.

    A field name is plain (0), or _BY_LINE (its value decides something), or known by its presence (a number: its value decides nothing or
    is read each time, so that values which always differ do not fill the tables), or _SLOW.
    """

    def __init__(self, limits: Limits | None, profile: Forwarding | None, by_line: frozenset[bytes], by_presence: frozenset[bytes]) -> None:
        self.limits, self.profile = limits or Limits(), profile or Forwarding()
        self.heads: dict[bytes, Head] = {}
        self._bytes = 0
        self._by_line = by_line
        self._present = {name: next(_numbers) for name in by_presence - by_line}
        self._length_id = self._present[b"content-length"]
        self._forget()

    def _forget(self) -> None:
        self._ids: dict[bytes, int] = {b"": 0}
        self._pairs: dict[int, tuple[bytes, bytes]] = {number: (name, b"0") for name, number in self._present.items()}
        self._names: dict[bytes, int] = {}
        self._values: dict[bytes, int] = {}
        self._plans: dict[tuple[int, ...], _Plan | None] = {}

    def _learn_all(self, lines: list[bytes], ids: list[int | None]) -> None:
        """Fill in the numbers of lines never seen. Tables are emptied only here, before any of them is learnt."""
        if len(self._ids) >= _TABLE or len(self._names) >= _TABLE:
            self._forget()
            ids[:] = map(self._ids.get, lines)
        at = -1
        for _ in range(ids.count(None)):
            at = ids.index(None, at + 1)
            ids[at] = self._learn(lines[at])

    def _learn(self, line: bytes) -> int:
        name, colon, value = line.partition(b":")
        kind = self._names.get(name)
        if kind is None:
            kind = self._name(name)
        if kind == _SLOW or not colon or len(line) > self.limits.line or value.translate(None, FIELD_BYTES):
            return _SLOW
        if kind == self._length_id and not _LENGTH_LINE.fullmatch(line):
            return _SLOW
        if kind != _BY_LINE:
            seen = self._values.get(name, 0)
            if seen < _VOLATILE and len(line) <= _LINE_MAX:
                self._values[name] = seen + 1
                self._ids[line] = kind
            return kind
        if len(line) > _LINE_MAX:
            return _SLOW
        number = self._ids[line] = next(_numbers)
        self._pairs[number] = (name.lower(), value.strip(b" \t"))
        return number

    def _name(self, name: bytes) -> int:
        lower = name.lower()
        if len(name) > _NAME_MAX or not TOKEN.fullmatch(name) or self.profile.confusable(lower):
            return _SLOW
        kind = self._names[name] = _BY_LINE if lower in self._by_line else self._present.get(lower, 0)
        return kind

    def _find(self, key: tuple[int, ...], numbers: tuple[int, ...], status: int) -> _Plan | None:
        """Make and keep the plan for a key. None where only h11 may judge: an unsure line, a name twice, fields that the plan refuses."""
        plan = None
        if _SLOW not in numbers:
            pairs = [self._pairs[number] for number in numbers]
            if self._sure(pairs):
                try:
                    plan = self._make(pairs, status)
                except Error:
                    plan = None
                else:
                    plan.cut_ids = tuple(n for n, pair in zip(numbers, pairs, strict=True) if pair[0] in plan.cut)
                    plan.length_id = self._length_id if self._length_id in numbers and plan.body == LENGTH else 0
        if len(self._plans) >= _PLANS:
            self._plans.clear()
        self._plans[key] = plan
        return plan

    def _sure(self, pairs: Pairs) -> bool:
        """No name twice; Connection names no field that might be plain; nothing depends on a length that is not known here."""
        values = dict(pairs)
        if len(values) != len(pairs) or not _OPTIONS.issuperset(_tokens([values.get(b"connection", b"close")])):
            return False
        return b"content-length" not in values or not (b"expect" in values or b"upgrade" in values)

    def _make(self, pairs: Pairs, status: int) -> _Plan:
        raise NotImplementedError

    def _cut(self, raw: bytes, lines: list[bytes], ids: list[int | None], plan: _Plan) -> bytes:
        """The wire form: whole lines cut out of the bytes that came, the plan's lines added."""
        for number in plan.cut_ids:
            raw = raw.replace(b"\r\n" + lines[ids.index(number)] + b"\r\n", b"\r\n", 1)
        return raw[:-2] + plan.tail

    def _keep(self, raw: bytes, head: Head) -> Head:
        if len(raw) <= _HEAD_MAX:
            self._bytes += len(raw)
            if len(self.heads) >= _TABLE or self._bytes > _MEMO_BYTES:
                self.heads.clear()
                self._bytes = len(raw)
            self.heads[raw] = head
        return head


class RequestMemo(_Memo):
    """Known request heads for one Limits and one Forwarding. `heads.get(data)` is the whole hot path, when a read is one known head.

    `Head.key` of its heads: equal keys mean equal values of all interesting fields; keys of other heads and other memos never equal them.
    """

    def __init__(self, limits: Limits | None = None, profile: Forwarding | None = None) -> None:
        forwarding = profile or Forwarding()
        by_line = frozenset((b"host", b"connection", b"transfer-encoding", b"upgrade", b"expect")) | (forwarding.interesting or frozenset())
        present = HOP | forwarding.cut() | {b"content-length"} | ({forwarding.request_id} if forwarding.request_id else frozenset())
        # Lengths are read each time; rules that look at them send the head to h11.
        self._slow_length = b"content-length" in by_line
        super().__init__(limits, forwarding, by_line - {b"content-length"}, present | {b"x-forwarded-proto", b"x-forwarded-host"})
        self._starts: dict[bytes, tuple[bytes, bytes] | None] = {}
        self._keyed = forwarding.interesting is not None

    def parse(self, raw: bytes, keep: bool = True) -> Head:
        """The Head of a whole request head that ends with its first CRLFCRLF; kept for `heads` if wished. Raises as parse_request."""
        lines = raw.split(b"\r\n")
        first = lines[0]
        start = self._starts.get(first) or self._start(first)
        lines[0] = b""
        ids: list[int | None] = [*map(self._ids.get, lines)]
        if None in ids:
            self._learn_all(lines, ids)
        key: tuple[int, ...] = tuple(filter(None, ids))
        plan = self._plans[key] if key in self._plans else self._find(key, key, 0)
        if start is None or plan is None or len(ids) - 3 > self.limits.fields or len(raw) > self.limits.head:
            head = parse_request(raw, self.limits, self.profile)
            return self._keep(raw, head) if keep else head
        length = int(lines[ids.index(plan.length_id)][15:]) if plan.length_id else 0
        head = Head(
            self._cut(raw, lines, ids, plan),
            raw,
            start[0],
            start[1],
            plan.host,
            0,
            b"",
            1,
            plan.body if length or not plan.length_id else NONE,
            length,
            plan.keep_alive,
            plan.expect,
            plan.upgrade,
            plan.named,
            key if self._keyed else None,
        )
        return self._keep(raw, head) if keep else head

    def _start(self, line: bytes) -> tuple[bytes, bytes] | None:
        match = _REQUEST[self.limits.strict_target].fullmatch(line)
        if match is None or match[1] == b"CONNECT" or len(line) > self.limits.line:
            return None
        start = match[1], match[2]
        if len(line) <= _LINE_MAX:
            if len(self._starts) >= _TABLE:
                self._starts.clear()
            self._starts[line] = start
        return start

    def _make(self, pairs: Pairs, status: int) -> _Plan:
        if self._slow_length and b"content-length" in dict(pairs):
            raise Error("protocol-error", "a length that rules look at", "downstream")
        return _plan_request(pairs, 1, None, self.profile)


class AnswerMemo(_Memo):
    """Known answer heads. They are those of an answer to GET: whoever asked with HEAD uses `Head.without_body` (AnswerReader does)."""

    def __init__(self, limits: Limits | None = None, profile: Forwarding | None = None) -> None:
        by_line = frozenset((b"connection", b"transfer-encoding", b"upgrade"))
        super().__init__(limits, profile, by_line, HOP | {b"content-length"})
        self._starts: dict[bytes, tuple[int, bytes] | None] = {}

    def parse(self, raw: bytes, keep: bool = True) -> Head:
        """The Head of a whole answer head that ends with its first CRLFCRLF; kept for `heads` if wished. Raises as parse_answer."""
        lines = raw.split(b"\r\n")
        first = lines[0]
        start = self._starts.get(first) or self._start(first)
        if start is None or len(lines) - 3 > self.limits.fields or len(raw) > self.limits.head:
            head = parse_answer(raw, b"GET", self.limits, self.profile)
            return self._keep(raw, head) if keep else head
        lines[0] = b""
        ids: list[int | None] = [*map(self._ids.get, lines)]
        if None in ids:
            self._learn_all(lines, ids)
        numbers: tuple[int, ...] = tuple(filter(None, ids))
        key = (-start[0], *numbers)  # status and numbers never meet: one is negative
        plan = self._plans[key] if key in self._plans else self._find(key, numbers, start[0])
        if plan is None:
            head = parse_answer(raw, b"GET", self.limits, self.profile)
            return self._keep(raw, head) if keep else head
        length = int(lines[ids.index(plan.length_id)][15:]) if plan.length_id else 0
        head = Head(
            self._cut(raw, lines, ids, plan),
            raw,
            b"",
            b"",
            b"",
            start[0],
            start[1],
            1,
            plan.body if length or not plan.length_id else NONE,
            length,
            plan.keep_alive,
            False,
            plan.upgrade,
        )
        return self._keep(raw, head) if keep else head

    def _start(self, line: bytes) -> tuple[int, bytes] | None:
        match = _ANSWER.fullmatch(line)
        if match is None or match[1] == b"0" or match[3] is None or len(line) > _LINE_MAX:
            return None
        if len(self._starts) >= _TABLE:
            self._starts.clear()
        start = self._starts[line] = int(match[2]), match[3]
        return start

    def _make(self, pairs: Pairs, status: int) -> _Plan:
        if (status < 200 or status == 204) and b"content-length" in dict(pairs):
            raise Error("bad-answer", "a length where none belongs", "upstream")
        return _plan_answer(pairs, status, 1, self.profile)


# --- chunked bodies ----------------------------------------------------------------------------------------------------------------

_EXTENSIONS = rb"(?:;%b(?:=(?:%b|\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*\"))?)*" % (_TCHAR, _TCHAR)
_FIRST_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_NEXT_SIZE = re.compile(rb"\r\n([0-9A-Fa-f]{1,15})\r\n")
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(%b)" % _EXTENSIONS)
_SIZE_PREFIX = re.compile(rb"(?:[0-9A-Fa-f]{1,15}(?:;[\t -~\x80-\xff]*)?\r?)?")
_SIZE_MAX = 4096  # bytes of a chunk-size line with its extensions

LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk (RFC 9112 7.1). `data` must not be empty: that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """The end of a chunked body, with trailer fields that have been checked."""
    return b"0\r\n" + join_fields(trailers) + b"\r\n"


class Chunked:
    """Decodes one chunked body (RFC 9112 7.1): exact CRLF, sizes of at most 15 hex digits, extensions checked and dropped.

    What is cut by the end of a read (a size line, the trailers) is kept, bounded, and joined with the next one; payload never is.
    """

    __slots__ = ("_extensions", "_inside", "_left", "_rest", "_scanned", "_trailing", "limits", "side", "size")

    def __init__(self, limits: Limits | None = None, side: Side = "downstream") -> None:
        self.limits, self.side = limits or Limits(), side
        self.size = 0  # payload so far
        self._left = 0  # payload bytes that the current chunk still lacks
        self._inside = False  # a chunk came: CRLF stands before the next size
        self._trailing = False  # the last chunk came
        self._rest = b""
        self._scanned = 0  # bytes of unfinished trailers in which they do not end
        self._extensions = 0

    def feed(self, data: bytes, i: int = 0) -> tuple[bytes, int, Fields]:
        """Decode `data` from offset i: (payload of all chunks in it, offset behind the body or -1 while it goes on, trailers).

        Raises Error("protocol-error" or "bad-answer"; "body-too-large").
        """
        kept = len(self._rest)
        if kept:
            data, i, kept = self._rest + data[i:], 0, kept - i
            self._rest = b""
        parts: list[bytes | memoryview] = []
        at, trailers = self._decode(data, i, parts)
        payload = b"".join(parts)
        self.size += len(payload)
        if self.limits.body and self.size > self.limits.body:
            raise Error("body-too-large", f"a body of more than {self.limits.body} bytes", self.side)
        return payload, (at - kept if at >= 0 else -1), trailers

    def _decode(self, data: bytes, i: int, parts: list[bytes | memoryview]) -> tuple[int, Fields]:
        n = len(data)
        if self._left:
            if n - i < self._left:
                self._left -= n - i
                parts.append(data[i:] if i else data)
                return -1, ()
            parts.append(data[i : i + self._left])
            i += self._left
            self._left = 0
        view = memoryview(data)
        while not self._trailing:
            match = (_NEXT_SIZE if self._inside else _FIRST_SIZE).match(data, i)
            if match:
                i, size = match.end(), int(match[1], 16)
            else:
                i, size = self._odd_line(data, i)
                if i < 0:
                    return -1, ()
            if size == 0:
                self._trailing = True
                break
            self._inside = True
            end = i + size
            if end > n:
                parts.append(view[i:])
                self._left = end - n
                return -1, ()
            parts.append(view[i:end])
            i = end
        return self._trailers(data, i)

    def _odd_line(self, data: bytes, i: int) -> tuple[int, int]:
        """A size line with extensions, cut by the end of the read (-1, and it is kept), or wrong."""
        start = i
        if self._inside:
            if not b"\r\n".startswith(data[i : i + 2]):
                raise _refuse(self.side, f"chunk data is not followed by CRLF but by {data[i : i + 2]!r}")
            i += 2
        end = data.find(b"\r\n", i, i + _SIZE_MAX)
        if end < 0:
            if len(data) - i >= _SIZE_MAX or not _SIZE_PREFIX.fullmatch(data, min(i, len(data))):
                raise _refuse(self.side, f"chunk size {data[i : i + 40]!r}")
            self._rest = data[start:]
            return -1, 0
        match = _SIZE_LINE.fullmatch(data, i, end)
        if not match:
            raise _refuse(self.side, f"chunk size {data[i : min(end, i + 40)]!r}")
        self._extensions += len(match[2])
        if self._extensions > self.limits.extensions:
            raise _refuse(self.side, f"more than {self.limits.extensions} bytes of chunk extensions")
        return end + 2, int(match[1], 16)

    def _trailers(self, data: bytes, i: int) -> tuple[int, Fields]:
        """The trailer section (RFC 9112 7.1.2). Fields that would change what has been decided are refused."""
        if data.startswith(b"\r\n", i):
            return i + 2, ()
        end = data.find(b"\r\n\r\n", i + self._scanned)
        if end < 0:
            if len(data) - i > self.limits.head:
                raise _large(self.side, f"trailers of more than {self.limits.head} bytes")
            if match := _ILL.search(data, i + self._scanned):
                raise _refuse(self.side, f"byte {match[0]!r} in the trailers")
            self._rest, self._scanned = data[i:], max(0, len(data) - i - 3)
            return -1, ()
        lines = _lines(b"0\r\n" + data[i : end + 4], self.limits, self.side)  # the last chunk is their start line
        fields = _split(lines[1:], self.side)
        if bad := [name for name, _ in fields if name.lower() in UNMERGEABLE]:
            raise _refuse(self.side, f"field {bad[0]!r} in the trailers")
        return end + 4, tuple(pair for pair in fields if pair[0].lower() not in _UNTRUSTED)


_UNTRUSTED = frozenset((b"authorization", b"cookie", b"set-cookie", b"expect", b"cache-control", b"max-forwards", b"range")) | frozenset(
    (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"forwarded")
)
"""Trailers that are dropped (RFC 9110 6.5.1 lets us): request modifiers and credentials, which nobody may take from there."""


# --- readers of one connection -------------------------------------------------------------------------------------------------------

_HEAD, _LENGTH_BODY, _CHUNKED_BODY, _CLOSE_BODY, _TUNNEL, _OVER = range(6)
"""What the next bytes are: of a head, of a body of one of three kinds, of another protocol, of nothing (they are dropped)."""
_MISSES = 8  # straight misses of the whole-head memo after which a connection's heads are no longer kept


class _Reader:
    """What both readers share: bytes that wait for more, the body at hand, and a guard against being called from within a call.

    Errors leave the reader over: what comes later is dropped.
    """

    __slots__ = ("_at", "_buffer", "_busy", "_chunked", "_left", "_scanned", "_state", "limits", "misses", "target")
    side: Side

    def __init__(self, limits: Limits, target: Target) -> None:
        self.limits, self.target = limits, target
        self.misses = 0
        self._buffer = b""
        self._at = 0  # where what waits in the buffer begins: many held requests are not copied for each of them
        self._busy = False
        self._state = _HEAD
        self._scanned = 0  # bytes of the buffer in which no head ends
        self._left = 0  # bytes that a LENGTH body still lacks
        self._chunked: Chunked | None = None

    @property
    def pending(self) -> int:
        """Bytes that were fed and not yet read: of a head that is not whole, or held."""
        return len(self._buffer) - self._at

    def _join(self, data: bytes) -> bytes:
        """What waits, and `data` behind it."""
        if self._buffer:
            data = self._buffer[self._at :] + data if self._at else self._buffer + data
            self._buffer, self._at = b"", 0
        return data

    def _find_head(self, data: bytes, i: int) -> int:
        """Where the head that starts at i ends, or -1: it is not whole yet, and kept. Raises Error once it cannot become good."""
        end = data.find(b"\r\n\r\n", i + self._scanned)
        if end >= 0:
            self._scanned = 0
            return end + 4
        rest = data[i:] if i else data
        if match := _ILL.search(rest, self._scanned):
            raise _refuse(self.side, f"byte {match[0]!r} in the head")
        first = rest.find(b"\r\n", 0, self.limits.line + 2)
        _check_sizes(len(rest) if first < 0 else first, len(rest), self.limits, self.side)
        self._buffer, self._at, self._scanned = rest, 0, max(0, len(rest) - 3)
        return -1

    def _start_body(self, head: Head) -> None:
        if head.body == LENGTH:
            if self.limits.body and head.length > self.limits.body:
                raise Error("body-too-large", f"Content-Length {head.length}, at most {self.limits.body}", self.side)
            self._left, self._state = head.length, _LENGTH_BODY
        elif head.body == CHUNKED:
            self._chunked, self._state = Chunked(self.limits, self.side), _CHUNKED_BODY
        elif head.body == CLOSE:
            self._state = _CLOSE_BODY

    def _fail(self) -> None:
        self._state, self._buffer, self._at = _OVER, b"", 0


class RequestReader(_Reader):
    """Reads the requests of one downstream connection, in order.

    pause() holds the next request back (the current one's body still flows), resume() goes on; between them `pending` bytes wait, bounded
    by Limits.pipelined: stop reading from the socket while it is not 0. After a request with `Head.upgrade` and after CONNECT the reader
    holds by itself, until tunnel() or resume(). After a request that ends the connection, later bytes are dropped.
    """

    __slots__ = ("_blank", "_closing", "_ended", "held", "memo")
    side: Side = "downstream"

    def __init__(self, memo: RequestMemo, limits: Limits, target: Target) -> None:
        super().__init__(limits, target)
        self.memo = memo
        self.held = False
        self._closing = False  # the connection ends with the request at hand
        self._blank = False  # the one empty line before a request has come (RFC 9112 2.2)
        self._ended = False

    @property
    def idle(self) -> bool:
        """Between requests, nothing begun and nothing held: when the next read is, as a whole, in `memo.heads`, and that head is `simple`,
        it may be served without telling this reader."""
        return self._state == _HEAD and not self._buffer and not self.held

    def feed(self, data: bytes) -> None:
        """Read on; not to be called from within a call to the target.

        Raises Error (side downstream) when the bytes are no request that we serve; the connection is then to be closed.
        """
        self._run(self._join(data), 0)

    def pause(self) -> None:
        """Start no further request until resume()."""
        self.held = True

    def resume(self) -> None:
        """Go on with what waits. Raises as feed() does. May be called from within on_head, on_data and on_end: feed() goes on then."""
        self.held = False
        if not self._busy:
            data, at, self._buffer, self._at = self._buffer, self._at, b"", 0
            self._run(data, at)
            if self._ended and not self.held:
                self._check_end()

    def tunnel(self) -> None:
        """From here on the bytes are of another protocol: all of them, those that wait first, go to on_data."""
        self._state = _TUNNEL
        self.resume()

    def stop(self) -> None:
        """Read nothing more: later bytes are dropped."""
        self._fail()

    def finish(self) -> None:
        """The peer sends no more. Raises Error if that cuts a request; a tunnel gets on_end."""
        self._ended = True
        if not self.held or self._state != _HEAD:
            self._check_end()

    def _check_end(self) -> None:
        if self._state == _TUNNEL:
            self._state = _OVER
            self.target.on_end(())
        elif self._state in (_LENGTH_BODY, _CHUNKED_BODY) or (self._state == _HEAD and self._buffer[self._at :].strip(b"\r\n")):
            self._fail()
            raise Error("protocol-error", "the connection ended inside a request", "downstream")

    def _run(self, data: bytes, i: int) -> None:
        self._busy = True
        try:
            n = len(data)
            while i < n:
                if self._state == _HEAD:
                    i = self._hold(data, i) if self.held else self._request(data, i)
                else:
                    i = self._body(data, i)
        except BaseException:
            self._fail()
            raise
        finally:
            self._busy = False

    def _hold(self, data: bytes, i: int) -> int:
        if len(data) - i > self.limits.pipelined:
            raise _large("downstream", f"more than {self.limits.pipelined} bytes of pipelined requests")
        self._buffer, self._at = data, i
        return len(data)

    def _request(self, data: bytes, i: int) -> int:
        if not self._blank and data.startswith(b"\r\n", i):
            self._blank = True
            return i + 2
        end = self._find_head(data, i)
        if end < 0:
            return len(data)
        raw = data if i == 0 and end == len(data) else data[i:end]
        head = self.memo.heads.get(raw)
        if head is None:
            self.misses += 1
            head = self.memo.parse(raw, self.misses <= _MISSES)
        else:
            self.misses = 0
        self._start_body(head)
        self._blank = False
        self._closing = not head.keep_alive
        if head.upgrade is not None or head.method == b"CONNECT":
            self.held = True
        self.target.on_head(head)
        if head.body == NONE and self._state != _OVER:
            self._end(())
        return end

    def _body(self, data: bytes, i: int) -> int:
        n = len(data)
        if self._state == _LENGTH_BODY:
            end = min(n, i + self._left)
            self._left -= end - i
            self.target.on_data(data if end - i == n else data[i:end])
            if not self._left and self._state == _LENGTH_BODY:
                self._end(())
            return end
        if self._state == _CHUNKED_BODY and self._chunked:
            payload, end, trailers = self._chunked.feed(data, i)
            if payload:
                self.target.on_data(payload)
            if end >= 0 and self._state == _CHUNKED_BODY:
                self._end(trailers)
            return n if end < 0 else end
        if self._state == _TUNNEL:
            self.target.on_data(data[i:])
        return n

    def _end(self, trailers: Fields) -> None:
        if self._state != _TUNNEL:
            self._state = _OVER if self._closing else _HEAD
        self._chunked = None
        self.target.on_end(trailers)


class AnswerReader(_Reader):
    """Reads the answers of one upstream connection. expect() comes before each of them; bytes that nobody asked for are an error.

    A read that holds more than the rest of the answer is refused before any of it is passed on: a cut that can be seen, or a 502.
    `complete`: the answer has ended (or none is awaited). `reusable`: and the connection may carry another request.
    """

    __slots__ = ("_begun", "_interim", "_keep", "_method", "_upgrade", "complete", "memo")
    side: Side = "upstream"

    def __init__(self, memo: AnswerMemo, limits: Limits, target: Target) -> None:
        super().__init__(limits, target)
        self.memo = memo
        self.complete = True
        self._keep = True
        self._method = b""
        self._upgrade: bytes | None = None
        self._interim = 0
        self._begun = False

    def expect(self, method: bytes, upgrade: bytes | None = None) -> None:
        """A request was sent: its method, and the protocols it asked for (`Head.upgrade`)."""
        self._method, self._upgrade = method, upgrade
        self.complete, self._begun, self._interim = False, False, 0

    @property
    def method(self) -> bytes:
        return self._method

    @method.setter
    def method(self, method: bytes) -> None:
        self.expect(method)

    @property
    def reusable(self) -> bool:
        return self.complete and self._keep and self._state == _HEAD and not self._buffer

    @property
    def tunnel(self) -> bool:
        """Has the connection switched to another protocol (101, or 2xx to CONNECT)?"""
        return self._state == _TUNNEL

    def stop(self) -> None:
        """Read nothing more: later bytes are dropped."""
        self._fail()

    def feed(self, data: bytes) -> None:
        """Read on. Raises Error("bad-answer", side upstream); the connection is then to be closed."""
        data = self._join(data)
        self._begun = True
        try:
            i, n = 0, len(data)
            while i < n:
                i = self._head(data, i) if self._state == _HEAD else self._body(data, i)
        except BaseException:
            self._keep = False
            self._fail()
            raise

    def finish(self) -> None:
        """The peer sends no more: the end of a CLOSE body or of a tunnel. Raises Error("closed") if that cuts the answer; retry is
        "if_reused" when nothing of it had come."""
        self._keep = False
        if self._state in (_CLOSE_BODY, _TUNNEL):
            self._end(())
            self._state = _OVER
        elif not self.complete and self._state != _OVER:
            self._fail()
            where = "inside its answer" if self._begun else "before it answered"
            raise Error("closed", f"the connection ended {where}", "upstream", "no" if self._begun else "if_reused")

    def _head(self, data: bytes, i: int) -> int:
        if self.complete:
            raise _refuse("upstream", f"{len(data) - i} bytes that nobody asked for")
        end = self._find_head(data, i)
        if end < 0:
            return len(data)
        raw = data if i == 0 and end == len(data) else data[i:end]
        head = self.memo.heads.get(raw)
        if head is None:
            self.misses += 1
            head = self.memo.parse(raw, self.misses <= _MISSES)
        else:
            self.misses = 0
        if head.status < 200:
            return self._informational(head, end)
        return self._final(head, data, end)

    def _informational(self, head: Head, end: int) -> int:
        self._interim += 1
        if self._interim > self.limits.interim:
            raise _refuse("upstream", f"more than {self.limits.interim} interim answers")
        if head.status == 101:
            asked = _tokens([self._upgrade or b""])
            if not self._upgrade or not head.upgrade or any(token not in asked for token in _tokens([head.upgrade])):
                raise _refuse("upstream", f"switched to {head.upgrade!r}, asked for {self._upgrade!r}")
            self._state, self._keep = _TUNNEL, False
        self.target.on_head(head)
        return end

    def _final(self, head: Head, data: bytes, end: int) -> int:
        if self._method == b"HEAD" and head.body != NONE:
            head = head.without_body()
        elif self._method == b"CONNECT" and head.status < 300:
            if head.body in (LENGTH, CHUNKED):
                raise _refuse("upstream", "an answer to CONNECT with content")
            self._state, self._keep = _TUNNEL, False
            self.target.on_head(head.without_body())
            return end
        self._keep = head.keep_alive and head.body != CLOSE
        n = len(data)
        surplus = n - end - head.length if head.body in (NONE, LENGTH) else 0
        if surplus > 0:
            raise _refuse("upstream", f"{surplus} bytes after the end of the answer")
        self._start_body(head)
        if head.body == CHUNKED:
            return self._first_chunks(head, data, end)
        self.target.on_head(head)
        if head.body == NONE and self._state != _OVER:
            self._end(())
        return end

    def _first_chunks(self, head: Head, data: bytes, i: int) -> int:
        """Decode before the head goes on, so that an answer which is wrong in its first read becomes a 502."""
        assert self._chunked is not None
        payload, end, trailers = self._chunked.feed(data, i) if i < len(data) else (b"", -1, ())
        if 0 <= end < len(data):
            raise _refuse("upstream", f"{len(data) - end} bytes after the end of the answer")
        self.target.on_head(head)
        self._pass(payload, end, trailers)
        return len(data)

    def _pass(self, payload: bytes, end: int, trailers: Fields) -> None:
        if payload and self._state != _OVER:
            self.target.on_data(payload)
        if end >= 0 and self._state != _OVER:
            self._end(trailers)

    def _body(self, data: bytes, i: int) -> int:
        n = len(data)
        if self._state == _LENGTH_BODY:
            if n - i > self._left:
                raise _refuse("upstream", f"{n - i - self._left} bytes after the end of the answer")
            self._left -= n - i
            self.target.on_data(data[i:] if i else data)
            if not self._left and self._state == _LENGTH_BODY:
                self._end(())
        elif self._state == _CHUNKED_BODY and self._chunked:
            payload, end, trailers = self._chunked.feed(data, i)
            if 0 <= end < n:
                raise _refuse("upstream", f"{n - end} bytes after the end of the answer")
            self._pass(payload, end, trailers)
        elif self._state != _OVER:
            self.target.on_data(data[i:] if i else data)
        return n

    def _end(self, trailers: Fields) -> None:
        self._state, self._chunked = _HEAD, None
        self.complete = True
        self.target.on_end(trailers)
