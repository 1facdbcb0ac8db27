"""One HTTP/1.1 head: its grammar, what its fields decide, and who has the last word (RFC 9112).

`parse_request` and `parse_answer` read a whole head. h11 decides, and we refuse more than it does wherever servers are known to differ:
what frames a message or names its host must be there once, in one plain form. What fields decide is a `Plan`, made from the few that
matter: the memo (carrier/wire/h1/memo.py) makes the same plans with the same functions, for heads in which it is sure of the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv6Address

from carrier.errors import Error, Side, shown
from carrier.wire.forwarding import HOPS, Forwarding, passed
from carrier.wire.http import (
    CHUNKED,
    CLOSE,
    ENDURING,
    EXPLAIN,
    HOP,
    LENGTH,
    NONE,
    OURS,
    TOKEN,
    Bounds,
    Head,
    authenticates_connections,
    hop_lines,
    join_fields,
)


class Limits(Bounds, frozen=True):
    """Sizes in bytes, except `fields` (lines of a head or trailer section) and `interim` (1xx answers before the final one).

    head: a whole head, also a trailer section. line: one line of it. body: content of a message, 0 for no limit. pipelined: what is held of
    the requests after the one being served. extensions: chunk extensions of one message in all, which are dropped (RFC 9112 7.1.1).
    strict_target: refuse bytes that RFC 3986 forbids but browsers send in queries ({}|\\^`"<>).
    """

    head: int = 32 * 1024
    fields: int = 100
    line: int = 16 * 1024
    body: int = 0
    pipelined: int = 512 * 1024
    extensions: int = 16 * 1024
    interim: int = 32
    strict_target: bool = True


TCHARS = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# RFC 3986 pchar, and the brackets that it forbids in a path or query but that no server reads differently (?a[]=1).
_PCHAR = rb"!$&'()*+,;=:@\-._~0-9A-Za-z\[\]"
_LOOSE = rb"{}|\\^`\"<>"


def _location(path: bytes, query: bytes) -> bytes:
    escaped = rb"%%[0-9A-Fa-f]{2}[%b]*"
    return rb"/[%b]*(?:%b)*(?:\?[%b]*(?:%b)*)?" % (path, escaped % path, query, escaped % query)


_STRICT = _location(_PCHAR + b"/", _PCHAR + b"/?")
_LAX = _location(_PCHAR + _LOOSE + b"/", _PCHAR + _LOOSE + b"/?")
REQUEST_LINE = {strict: re.compile(rb"(%b) (%b) HTTP/1\.1" % (TCHARS, body)) for strict, body in ((True, _STRICT), (False, _LAX))}
LOCATION = {True: re.compile(_STRICT), False: re.compile(_LAX)}
"""A path with an optional query, by Limits.strict_target."""
STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")
LENGTH_LINE = re.compile(rb"[Cc]ontent-[Ll]ength: ?(?:0|[1-9][0-9]{0,17})")
# The sub-delims that RFC 3986 allows in a reg-name are refused: no name has them, and "a,b" is what two joined Host fields look like.
_HOST = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]+)\]|\[[Vv][0-9A-Fa-f]+\.[:\-._~0-9A-Za-z]+\]|(?:[\-._~0-9A-Za-z]|%[0-9A-Fa-f]{2})+)(?::0*([0-9]{0,5}))?"
)
_ABSOLUTE = re.compile(rb"([Hh][Tt][Tt][Pp][Ss]?)://([^/?#]*)(.*)", re.S)
_CONNECT = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[\-._~0-9A-Za-z]+):[0-9]{1,5}")
ILL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)")
"""What no head may hold: a control byte, LF without CR, CR without LF (which may still be to come)."""


def refuse(side: Side, detail: str, kind: str = "") -> Error:
    """The Error for bytes that a peer should not have sent: 400 downstream, 502 upstream, unless `kind` says more."""
    return Error(kind or ("protocol-error" if side == "downstream" else "bad-answer"), detail, side)


def check_host(host: bytes) -> None:
    """Raise Error unless the value of Host, or of :authority, is a name or an address with an optional port."""
    match = _HOST.fullmatch(host)
    try:
        if match is None or (match[2] and int(match[2]) > 65535):
            raise ValueError
        if match[1]:
            IPv6Address(match[1].decode())
    except ValueError:
        raise refuse("downstream", f"Host {shown(host)} is no host name or address with an optional port") from None


class Plan:
    """What the fields of a head decide, whatever its other fields: the part of a Head that heads share."""

    __slots__ = (
        "binds",
        "body",
        "cut",
        "cut_ids",
        "expect",
        "explain",
        "has_id",
        "hops",
        "host",
        "keep_alive",
        "length",
        "length_id",
        "tail",
        "upgrade",
    )

    def __init__(self) -> None:
        self.body, self.length, self.keep_alive, self.expect = NONE, 0, True, False
        self.upgrade: bytes | None = None
        self.host, self.has_id, self.explain = b"", False, False
        self.hops, self.binds = 0, False
        self.cut: frozenset[bytes] = HOP
        self.tail = b""  # lines to add, and the end of the head
        self.length_id = 0
        self.cut_ids: tuple[int, ...] = ()


VERSIONS = ("1.0", "1.1")
"""By minor version."""
Pairs = Sequence[tuple[bytes, bytes]]
"""(lower-case name, value)"""


def _gather(pairs: Pairs) -> dict[bytes, list[bytes]]:
    seen: dict[bytes, list[bytes]] = {}
    for name, value in pairs:
        seen.setdefault(name, []).append(value)
    return seen


def tokens(values: Iterable[bytes]) -> list[bytes]:
    """The elements of comma-separated lists, lower case; empty ones too (RFC 9110 5.6.1 lets a reader count them)."""
    return [token.strip(b" \t").lower() for value in values for token in value.split(b",")]


def _framing(seen: Mapping[bytes, list[bytes]], minor: int, side: Side) -> tuple[int, int]:
    """Body kind and length as the fields declare it, (NONE, 0) if they do not (RFC 9112 6.3). Stricter: one field, one canonical value."""
    codings, lengths = seen.get(b"transfer-encoding"), seen.get(b"content-length")
    if codings:
        if lengths:
            raise refuse(side, "both Transfer-Encoding and Content-Length")
        if not minor:
            raise refuse(side, "Transfer-Encoding in HTTP/1.0")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            known = side == "upstream" or tokens(codings)[-1] != b"chunked" or tokens(codings).count(b"chunked") > 1
            kind = "" if known or b"" in tokens(codings) else "not-implemented"
            raise refuse(side, f"Transfer-Encoding {shown(b', '.join(codings))} is not exactly chunked", kind)
        return CHUNKED, 0
    if lengths:
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
            raise refuse(side, f"Content-Length {shown(b', '.join(lengths))} is not one decimal number")
        return LENGTH, int(lengths[0])
    return NONE, 0


def _connection(plan: Plan, seen: Mapping[bytes, list[bytes]], minor: int, side: Side) -> list[bytes]:
    """The options of Connection (RFC 9112 9.3, 9.6); fields that they name are cut.

    What is no token is no option and names no field, and the line is not sent on: it is passed over, as nginx, haproxy and Envoy do. An
    upstream that writes such a thing may have meant "close": its connection is not used again.
    """
    given = [t for t in tokens(seen.get(b"connection", ())) if t]
    options = [t for t in given if TOKEN.fullmatch(t)]
    unclear = side == "upstream" and len(options) < len(given)
    plan.keep_alive = b"close" not in options and not unclear and (minor == 1 or b"keep-alive" in options)
    plan.cut = plan.cut | (frozenset(options) - ENDURING - {b"close"})
    return options


def _upgrade(seen: Mapping[bytes, list[bytes]], options: Sequence[bytes]) -> bytes | None:
    """The protocols of an Upgrade that Connection names (RFC 9110 7.8), without h2c, which we never switch to.

    A server may ignore the field: one that is no list of protocols is not sent on, and nothing is held for it.
    """
    if b"upgrade" not in options:
        return None
    values = [v.strip(b" \t") for value in seen.get(b"upgrade", ()) for v in value.split(b",")]
    if any(v and not re.fullmatch(rb"%b(?:/%b)?" % (TCHARS, TCHARS), v) for v in values):
        return None
    return b", ".join(v for v in values if v and v.lower() != b"h2c") or None


def plan_request(pairs: Pairs, minor: int, authority: bytes | None, profile: Forwarding) -> Plan:
    """What a request's fields decide. `authority`: that of an absolute-form target. Raises Error."""
    plan, seen = Plan(), _gather(pairs)
    plan.cut = profile.cut()
    plan.body, plan.length = _framing(seen, minor, "downstream")
    options = _connection(plan, seen, minor, "downstream")
    plan.host = _host(seen.get(b"host", []), minor, authority)
    plan.expect, again = _expect(seen.get(b"expect", ()) if minor else (), plan)
    if not plan.expect or again:
        plan.cut = plan.cut | {b"expect"}
    protocols = _upgrade(seen, options) if minor else None
    plan.upgrade = protocols.lower() if protocols else None
    plan.has_id = bool(profile.request_id) and profile.request_id in seen
    plan.explain = EXPLAIN in seen
    plan.binds = authenticates_connections(seen.get(b"authorization", ()))
    plan.hops = passed(seen[HOPS]) if profile.counts and HOPS in seen else 0
    plan.tail = join_fields(profile.standing(plan.host, seen, hops=plan.hops)) + again
    if not plan.host and not profile.host:
        plan.tail += b"host: " + profile.default_host + b"\r\n"
    elif b"host" not in seen and not profile.host:
        plan.tail += b"host: " + plan.host + b"\r\n"
    plan.tail += _framing_tail(plan.body, protocols, bool(minor) and b"trailers" in tokens(seen.get(b"te", ())))
    return plan


def _expect(values: Sequence[bytes], plan: Plan) -> tuple[bool, bytes]:
    """Does the client wait for 100 (Continue), and the line to send on where it said so in another form than the usual one.

    RFC 9110 10.1.1: a list, whose elements may be empty or come twice; not in a request without content, and not in HTTP/1.0.
    """
    expected = [t for t in tokens(values) if t]
    if {*expected} - {b"100-continue"}:
        raise refuse("downstream", f"Expect {shown(b', '.join(values))} is not 100-continue", "expectation")
    waits = bool(expected) and plan.body != NONE and plan.length + (plan.body == CHUNKED) > 0
    plain = len(values) == 1 and values[0].lower() == b"100-continue"
    return waits, b"expect: 100-continue\r\n" if waits and not plain else b""


def _framing_tail(body: int, protocols: bytes | None, trailers: bool = False) -> bytes:
    """The end of a head: the transfer coding, the upgrade and the wish for trailers in their one form, and the empty line."""
    lines = b"transfer-encoding: chunked\r\n" if body == CHUNKED else b""
    return lines + hop_lines(protocols, trailers) + b"\r\n"


def _host(values: Sequence[bytes], minor: int, authority: bytes | None) -> bytes:
    """The one host that a request is for (RFC 9112 3.2); empty for HTTP/1.0 without Host."""
    if len(values) > 1 or (minor and not values):
        raise refuse("downstream", f"{len(values)} Host fields, exactly one is needed")
    if values:
        check_host(values[0])
    if authority is None:
        return values[0] if values else b""
    if values and _plain_authority(values[0]) != _plain_authority(authority):
        # RFC 9112 3.2.2 would replace Host; servers that do not would route by another name than we do.
        raise refuse("downstream", f"Host {shown(values[0])} is not the authority of the target, {shown(authority)}")
    return values[0] if values else authority


def _plain_authority(authority: bytes) -> bytes:
    """For comparison: lower case, without the port that http has anyway."""
    return re.sub(rb":(?:80)?\Z", b"", authority.lower())


def plan_answer(pairs: Pairs, status: int, minor: int, profile: Forwarding) -> Plan:
    """What an answer's fields decide, for a method other than HEAD. Raises Error.

    1xx, 204 and 304 end with their head whatever their fields say (RFC 9112 6.3). One that declares content all the same is complete, but
    its sender may believe otherwise, so that its connection is not used again. A 304 may tell the length of what it stands for.
    """
    plan, seen = Plan(), _gather(pairs)
    bare = status < 200 or status == 204
    doubtful = False
    try:
        plan.body, plan.length = _framing(seen, minor, "upstream")
    except Error:
        if not bare and status != 304:
            raise
        doubtful = True
    plan.tail = b"via: 1.1 " + profile.via + b"\r\n" if profile.via else b""
    options = _connection(plan, seen, minor, "upstream")
    forged = [name for name in seen if name.startswith(OURS)]
    if forged:
        plan.cut = plan.cut.union(forged)
    doubtful |= bare and (plan.body == CHUNKED or plan.length > 0)
    if bare or doubtful:
        plan.cut = plan.cut | {b"content-length"}  # RFC 9110 8.6: not in 1xx and 204
    plan.keep_alive &= not doubtful
    if bare or status == 304:
        plan.body, plan.length = NONE, 0
    elif plan.body == NONE:
        plan.body = CLOSE
    named = [*options, b"upgrade"] if status == 101 else options  # a 101 that forgets Connection has switched all the same
    protocols = _upgrade(seen, named) if status in (101, 426) else None
    plan.upgrade = protocols.lower() if protocols else None
    plan.tail += _framing_tail(plan.body, protocols)
    return plan


def split_lines(raw: bytes, limits: Limits, side: Side) -> list[bytes]:
    """The lines of a head without its end. Raises Error when it is too large or holds a byte that no head may hold."""
    if match := ILL.search(raw):
        raise refuse(side, f"byte {shown(match[0])} at offset {match.start()} of the head")
    lines = raw.split(b"\r\n")
    if len(lines) < 3 or lines[-2:] != [b"", b""] or b"" in lines[:-2]:
        raise refuse(side, "not one whole head")
    del lines[-2:]
    check_sizes(len(lines[0]), len(raw), limits, side)
    if len(lines) - 1 > limits.fields:
        raise too_large(side, f"more than {limits.fields} fields{limits.named('max_fields')}")
    if max(map(len, lines)) > limits.line:
        raise too_large(side, f"a line of more than {limits.line} bytes{limits.named('max_line')}")
    return lines


def check_sizes(first: int, whole: int, limits: Limits, side: Side) -> None:
    """Raise Error when the start line (bytes so far) or the head (bytes so far) is over its limit."""
    if first > limits.line:
        raise refuse(
            side, f"start line of more than {limits.line} bytes{limits.named('max_line')}", "uri-too-long" if side == "downstream" else ""
        )
    if whole > limits.head:
        raise too_large(side, f"head of more than {limits.head} bytes{limits.named('max_head')}")


def too_large(side: Side, detail: str) -> Error:
    """The Error for a head or trailer section over its limits: 431 downstream, 502 upstream."""
    return refuse(side, detail, "headers-too-large" if side == "downstream" else "")


def split_pairs(lines: Iterable[bytes], side: Side) -> list[tuple[bytes, bytes]]:
    """Field lines as (name as written, value). Folded lines, empty names and space before the colon do not get past the token."""
    pairs = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not TOKEN.fullmatch(name):
            raise refuse(side, f"field line {shown(line)} does not start with a name and a colon")
        pairs.append((name, value.strip(b" \t")))
    return pairs


def _start_request(line: bytes, limits: Limits) -> tuple[bytes, bytes, int, bytes, bytes | None]:
    """Method, target as it came, minor version, target to send on, authority (of an absolute-form target only)."""
    parts = line.split(b" ")
    if len(parts) != 3 or not TOKEN.fullmatch(parts[0]) or not re.fullmatch(rb"HTTP/[0-9]\.[0-9]", parts[2]):
        raise refuse("downstream", f"request line {shown(line)} is not a method, a target and a version")
    method, target, version = parts
    if version[5:] not in (b"1.1", b"1.0"):
        raise refuse("downstream", f"version {version.decode()}, we speak HTTP/1.0 and HTTP/1.1", "version")
    sent, authority = _target(method, target, limits)
    return method, target, version[7] - 48, sent, authority


def _target(method: bytes, target: bytes, limits: Limits) -> tuple[bytes, bytes | None]:
    """Target to send on, and authority of an absolute-form target (RFC 9112 3.2). Userinfo and fragments are refused."""
    location = LOCATION[limits.strict_target]
    if method == b"CONNECT":
        if _CONNECT.fullmatch(target):
            return target, None
    elif location.fullmatch(target) or (target == b"*" and method == b"OPTIONS"):
        return target, None
    elif match := _ABSOLUTE.fullmatch(target):
        check_host(match[2])
        rest: bytes = match[3]
        sent = rest if rest[:1] == b"/" else b"/" + rest
        if location.fullmatch(sent):
            return (b"*" if method == b"OPTIONS" and not rest else sent), match[2]
    if limits.strict_target and (why := only_strict(target)):
        raise refuse("downstream", why)
    raise refuse("downstream", f"target {shown(target)} of {shown(method[:40])} is not one that RFC 9112 3.2 knows")


def only_strict(target: bytes) -> str:
    """Why a path is refused, if that is only because targets are to be strict; else ""."""
    odd = next((byte for byte in target if byte in _LOOSE), None)
    if odd is None or not LOCATION[False].fullmatch(target):
        return ""
    return f"target {shown(target)} has {shown(bytes((odd,)))}, which RFC 3986 forbids and browsers send (options.strict_target 0 takes it)"


def parse_request(raw: bytes, limits: Limits | None = None, profile: Forwarding | None = None) -> Head:
    """Read one whole request head, from its method to CRLFCRLF.

    Raises Error, side downstream: protocol-error, uri-too-long, headers-too-large, not-implemented, version, expectation.
    """
    limits, profile = limits or Limits(), profile or Forwarding()
    lines = split_lines(raw, limits, "downstream")
    method, target, minor, sent, authority = _start_request(lines[0], limits)
    fields = split_pairs(lines[1:], "downstream")
    pairs = [(name.lower(), value) for name, value in fields]
    if odd := [name for name, _ in pairs if profile.confusable(name)]:
        raise refuse("downstream", f"field {shown(odd[0])} would pass for one that rules look at")
    plan = plan_request(pairs, minor, authority, profile)
    if method == b"CONNECT" and plan.body != NONE:
        raise refuse("downstream", "CONNECT with content")
    _ask_h11(raw, limits, "downstream")
    text = method + b" " + sent + b" HTTP/1.1\r\n" + _kept(fields, plan) + plan.tail
    return Head(
        text,
        raw,
        method,
        target,
        plan.host,
        0,
        b"",
        VERSIONS[minor],
        plan.body if plan.length or plan.body != LENGTH else NONE,
        plan.length,
        plan.keep_alive,
        plan.expect,
        plan.upgrade,
        plan.has_id,
        _key(pairs, minor, profile),
        tuple(fields),
        plan.explain,
        hops=plan.hops,
        binds=plan.binds,
    )


def _kept(fields: Iterable[tuple[bytes, bytes]], plan: Plan) -> bytes:
    return join_fields((name, value) for name, value in fields if name.lower() not in plan.cut)


def _key(pairs: Pairs, minor: int, profile: Forwarding) -> object:
    names = profile.interesting
    return None if names is None else (minor, *(pair for pair in pairs if pair[0] in names))


def parse_answer(raw: bytes, method: bytes = b"GET", limits: Limits | None = None, profile: Forwarding | None = None) -> Head:
    """Read one whole answer head; `method` is that of the request (an answer to HEAD has no body).

    Raises Error("bad-answer", side upstream).
    """
    limits, profile = limits or Limits(), profile or Forwarding()
    lines = split_lines(raw, limits, "upstream")
    match = STATUS_LINE.fullmatch(lines[0])
    if not match:
        raise refuse("upstream", f"status line {shown(lines[0])}")
    minor, status, reason = int(match[1]), int(match[2]), match[3] or b""
    fields = split_pairs(lines[1:], "upstream")
    plan = plan_answer([(name.lower(), value) for name, value in fields], status, minor, profile)
    _ask_h11(raw, limits, "upstream")
    text = b"HTTP/1.1 %d %b\r\n" % (status, reason) + _kept(fields, plan) + plan.tail
    head = Head(
        text,
        raw,
        b"",
        b"",
        b"",
        status,
        reason,
        VERSIONS[minor],
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


def _ask_h11(raw: bytes, limits: Limits, side: Side) -> None:
    """Raise Error unless h11 takes the head too: it is the authority."""
    import h11  # the memo judges nearly all heads: a start does not wait for what few need

    role = h11.SERVER if side == "downstream" else h11.CLIENT
    connection = h11.Connection(role, max_incomplete_event_size=limits.head + 2)
    if side == "upstream":  # it must have asked for an upgrade, or it would refuse every 101; AnswerReader holds that rule
        connection.send(h11.Request(method="GET", target="/", headers=[("host", "x"), ("connection", "upgrade"), ("upgrade", "x")]))
        connection.send(h11.EndOfMessage())
    try:
        connection.receive_data(raw)
        event = connection.next_event()
    except h11.RemoteProtocolError as exc:
        raise refuse(side, str(exc)) from None
    if not isinstance(event, h11.Request | h11.Response | h11.InformationalResponse):
        raise refuse(side, "not one whole head")
