"""What is true of every HTTP version: the head of a message, and what a proxy may send on of it (RFC 9110).

A `Head` is made once, by a codec or by `request_head` and `answer_head`, and then only read: it can be kept in a memo and shared by
sessions. It says how the message is framed and carries `wire`, the bytes of the head as HTTP/1.1 must see them on the other side:
hop-by-hop fields cut, framing field in its one canonical form. Fields are split out of the head block only when somebody asks.
`Forwarding` says what the wire form does with Host, `x-forwarded-*`, `forwarded`, `via` and the request id; `extra()` gives the lines that
differ per connection or request, to be put behind `Head.stem`: one concat. This file knows no socket, and the clock
only for the Date of our own answers.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from carrier.errors import Error, Side, shown

Fields = tuple[tuple[bytes, bytes], ...]
"""Field lines in the order they came, names as they were written."""

NONE, LENGTH, CHUNKED, CLOSE = 0, 1, 2, 3
"""How a body ends: there is none; after `Head.length` bytes; with the last chunk; when the connection closes."""

HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    )
)
"""Fields for one hop only (RFC 9110 7.6.1 and 11.7); never sent on."""
EXPLAIN = b"x-carrier-explain"
"""Asks for the reason of the routing in the answer's head; heeded from authorised peers (listeners/http/listener.py)."""
ENDURING = frozenset((b"host", b"content-length", b"transfer-encoding"))
"""Fields that a Connection field cannot name away: they say where a message ends and whom it is for."""
_CLAIMS = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"forwarded")
ALIASES = frozenset(b"x%bforwarded%b%b" % (a, b, name[12:]) for name in _CLAIMS[:4] for a in (b"-", b"_") for b in (b"-", b"_")) - {
    *_CLAIMS
}
"""Names that a server behind CGI or WSGI takes for claims: "-" and "_" are the same to it (RFC 3875 4.1.18). Never sent on: a trusted proxy
that knows only the real names passes its clients' forgeries."""
CLAIMS = ALIASES.union(_CLAIMS)
"""What a peer says about whom it speaks for: believed from trusted peers only."""
UNMERGEABLE = ENDURING | HOP | {b"content-encoding", b"content-type", b"content-range", b"trailer"}
"""Fields that a trailer section must not have (RFC 9110 6.5.1): framing, routing, how to read the content."""

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
FIELD_BYTES = bytes([9, *range(32, 127), *range(128, 256)])
"""Bytes of a field value (RFC 9110 5.5): tab, space, visible, obs-text. No other controls: servers disagree about them."""
_new = object.__new__
REASONS = {s.value: s.phrase.encode() for s in HTTPStatus} | {
    413: b"Content Too Large",
    414: b"URI Too Long",
    416: b"Range Not Satisfiable",
    422: b"Unprocessable Content",
}
"""Reason phrases of RFC 9110 section 15, which the library of this Python does not have yet."""


class Head:
    """The head of a request or an answer. Immutable by convention, except `decision`, which belongs to the listener: None, or what it wants
    to remember, which is not to refer to the head (that would be a cycle, and a memo's worth of heads would wait for the collector); and
    `told`, the same for the access log.

    A request has `method`, `target` (as it came) and `host`; an answer has `status` and `reason`. `minor` is the version it came with
    (1 for HTTP/1.1; 1 as well for requests we make). `body` is NONE, LENGTH, CHUNKED or CLOSE, `length` the bytes of a LENGTH body.
    `keep_alive`: the connection it came on may be used again (after a CLOSE body never). `expect`: the client waits for 100 (Continue).
    `upgrade`: the protocols asked for or switched to, lower case, if Connection names the upgrade. `named`: the request came with a
    request id, `explain`: with x-carrier-explain. `key`: equal keys have equal values in every field that rules look at
    (Forwarding.interesting), whatever the target; None if that is not known.
    `simple`: a request of HTTP/1.1 without body, Upgrade, HEAD, CONNECT and x-carrier-explain, after which the connection stays: its reader
    need not know of it, and any whole answer may follow as it is. `family`: of its status, 2 for 2xx. `whole`: a final answer of known
    length, after which the connection stays. `stem`: `wire` without its last CRLF.
    """

    __slots__ = (
        "_fields",
        "body",
        "decision",
        "expect",
        "explain",
        "family",
        "host",
        "keep_alive",
        "key",
        "length",
        "method",
        "minor",
        "named",
        "raw",
        "reason",
        "simple",
        "status",
        "stem",
        "target",
        "told",
        "upgrade",
        "whole",
        "wire",
    )

    def __init__(
        self,
        wire: bytes,
        raw: bytes = b"",
        method: bytes = b"",
        target: bytes = b"",
        host: bytes = b"",
        status: int = 0,
        reason: bytes = b"",
        minor: int = 1,
        body: int = NONE,
        length: int = 0,
        keep_alive: bool = True,
        expect: bool = False,
        upgrade: bytes | None = None,
        named: bool = False,
        key: object = None,
        fields: Fields | None = None,
        explain: bool = False,
    ) -> None:
        self.wire = wire
        self.stem = wire[:-2]
        self.raw = raw
        self.method = method
        self.target = target
        self.host = host
        self.status = status
        self.family = status // 100
        self.reason = reason
        self.minor = minor
        self.body = body
        self.length = length
        self.keep_alive = keep_alive
        self.expect = expect
        self.upgrade = upgrade
        self.named = named
        self.explain = explain
        self.key = key
        self._fields = fields
        self.simple = body == NONE and keep_alive and upgrade is None and minor == 1 and method not in (b"HEAD", b"CONNECT") and not explain
        self.whole = status >= 200 and keep_alive and body <= LENGTH
        self.decision: Any = None
        self.told: Any = None

    @property
    def fields(self) -> Fields:
        """All field lines as they came (hop-by-hop ones too): what rules and metadata see. Split on first use."""
        if self._fields is None:
            self._fields = split_fields(self.raw)
        return self._fields

    def get(self, name: bytes) -> bytes | None:
        """The value of field `name` (lower case); several lines joined by ", " (RFC 9110 5.3); None if there is none."""
        values = [v for n, v in self.fields if n.lower() == name]
        return b", ".join(values) if values else None

    @property
    def version(self) -> str:
        return f"1.{self.minor}"

    @property
    def location(self) -> bytes:
        """Path and query as they came, also of an absolute-form target; empty for the authority form."""
        if self.target[:1] in b"/*":
            return self.target
        _, scheme, rest = self.target.partition(b"://")
        if not scheme:
            return b""
        at = min((i for i in (rest.find(b"/"), rest.find(b"?")) if i >= 0), default=len(rest))
        return rest[at:] if rest[at : at + 1] == b"/" else b"/" + rest[at:]

    @property
    def path(self) -> bytes:
        return self.location.partition(b"?")[0]

    @property
    def query(self) -> bytes:
        return self.location.partition(b"?")[2]

    @property
    def wire_without_chunked(self) -> bytes:
        """`wire` for an HTTP/1.0 peer, who must not see a transfer coding (RFC 9112 6.1): the body then ends with the connection."""
        return self.wire.replace(b"\r\ntransfer-encoding: chunked\r\n", b"\r\n", 1)

    def without_body(self) -> Head:
        """The same head where no body follows it: an answer to HEAD."""
        return self._like(body=NONE, length=0)

    def as_chunked(self) -> Head:
        """The same head for a body whose length is not known any more: a transform may change it."""
        if self.body != LENGTH:
            return self
        wire = re.sub(rb"\r\ncontent-length:[^\r]*", b"", self.wire, count=1, flags=re.IGNORECASE)
        return self._like(wire=wire[:-2] + framing_field(CHUNKED, 0) + b"\r\n", body=CHUNKED, length=0)

    def metadata(self) -> dict[str, Any]:
        """The "HTTP" part of a session's metadata, as l7mp lays it out; a new tree at each call.

        `url.path` holds the query too; `protocol`, `host` and `port` are those of an absolute-form target, else empty. Names of headers are
        lower case; repeated ones are joined by ", " (cookies by "; "), so that no rule sees only some of them.
        """
        headers: dict[str, str] = {}
        for name, value in self.fields:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            if key in headers:
                text = headers[key] + ("; " if key == "cookie" else ", ") + text
            headers[key] = text
        return {"version": self.version, "method": self.method.decode("latin-1"), "url": self._url(), "headers": headers}

    def _url(self) -> dict[str, str]:
        target = self.target.decode("latin-1")
        scheme, slashes, rest = target.partition("://")
        absolute = bool(slashes) and target[:1] not in "/*"
        host = re.split("[/?]", rest, maxsplit=1)[0] if absolute else ""
        return {
            "url": target,
            "href": target,
            "protocol": scheme.lower() + ":" if absolute else "",
            "host": host,
            "port": host.rpartition(":")[2] if re.search(r":\d+$", host) else "",
            "path": self.location.decode("latin-1"),
            "query": self.query.decode("latin-1"),
        }

    def again(self, wire: bytes, raw: bytes, target: bytes, length: int) -> Head:
        """The same head with another target, other values in fields that decide nothing, and another length, if its body has one.

        Half the price of a new one: nothing is decided again. No length becomes 0 or ceases to be it: that changes what the rest means.
        """
        head = _new(Head)
        head.wire = wire
        head.stem = wire[:-2]
        head.raw = raw
        head.method = self.method
        head.target = target
        head.host = self.host
        head.status = self.status
        head.family = self.family
        head.reason = self.reason
        head.minor = self.minor
        head.body = self.body
        head.length = length
        head.keep_alive = self.keep_alive
        head.expect = self.expect
        head.upgrade = self.upgrade
        head.named = self.named
        head.explain = self.explain
        head.key = self.key
        head._fields = None
        head.simple = self.simple
        head.whole = self.whole
        head.decision = head.told = None
        return head

    def _like(self, **changed: Any) -> Head:
        made = ("_fields", "decision", "family", "simple", "stem", "told", "whole")
        values = {name: getattr(self, name) for name in self.__slots__ if name not in made}
        return Head(**{**values, "fields": self._fields, **changed})

    def __repr__(self) -> str:
        what = f"{self.status} {self.reason!r}" if self.status else f"{self.method!r} {self.target!r}"
        return f"Head({what}, body={self.body}, length={self.length})"


def split_fields(raw: bytes) -> Fields:
    """The field lines of a validated HTTP/1.1 head block (start line first, CRLFCRLF last)."""
    pairs = (line.partition(b":") for line in raw.split(b"\r\n")[1:-2])
    return tuple((name, value.strip(b" \t")) for name, _, value in pairs)


@dataclass(frozen=True)
class Forwarding:
    """What the wire form of a request does with the fields of its way.

    interesting: lower-case names of the fields that rules look at, beside the target; None if they look at all of them (`Head.key` is
    None then). scheme: how the client came, "http" or "https". x_forwarded: cut the client's own claims (CLAIMS) and send
    `x-forwarded-for`, `-proto` and `-host`. forwarded: RFC 7239. via: our pseudonym, or empty for none. request_id: field name, or empty
    for none. host: replaces Host, if set. default_host: sent when an HTTP/1.0 client named none (RFC 9112 3.3). trusted: this peer's
    claims are kept and added to; a listener has one memo for trusted peers and one for the rest.
    """

    interesting: frozenset[bytes] | None = frozenset()
    scheme: bytes = b"http"
    x_forwarded: bool = True
    forwarded: bool = False
    via: bytes = b""
    request_id: bytes = b"x-request-id"
    host: bytes = b""
    default_host: bytes = b"localhost"
    trusted: bool = False

    def confusable(self, name: bytes) -> bool:
        """Would a server that reads "_" as "-" (CGI and WSGI do) take this field (lower case) for one that rules look at?"""
        return bool(self.interesting) and b"_" in name and name.replace(b"_", b"-") in (self.interesting or ())

    def cut(self) -> frozenset[bytes]:
        """Names that never pass, beside those that Connection names."""
        names = HOP | {b"host"} if self.host else HOP
        if self.trusted:
            return names | ALIASES | {b"x-forwarded-for"} if self.x_forwarded else names
        return names | CLAIMS if self.x_forwarded or self.forwarded else names

    def standing(self, host: bytes, seen: Mapping[bytes, object]) -> bytes:
        """Lines that are the same for every request with this Host; `seen` has the lower-case names that came."""
        lines = b"host: " + self.host + b"\r\n" if self.host else b""
        if self.x_forwarded and not (self.trusted and b"x-forwarded-proto" in seen):
            lines += b"x-forwarded-proto: " + self.scheme + b"\r\n"
        if self.x_forwarded and host and not (self.trusted and b"x-forwarded-host" in seen):
            lines += b"x-forwarded-host: " + host + b"\r\n"
        if self.via:
            lines += b"via: 1.1 " + self.via + b"\r\n"
        return lines

    def extra(self, head: Head, peer: bytes, made: bytes = b"") -> bytes:
        """Lines that differ per connection or request, to be put behind `Head.stem`. `peer`: the client's address without port;
        `made`: an id from `make_id()`, sent if the request came without one."""
        lines = b""
        if self.x_forwarded:
            before = head.get(b"x-forwarded-for") if self.trusted else None
            lines = b"x-forwarded-for: " + (before + b", " + peer if before else peer) + b"\r\n"
        if self.forwarded:
            node = b'"[%b]"' % peer if b":" in peer else peer
            lines += b"forwarded: for=%b;proto=%b" % (node, self.scheme)
            lines += b';host="%b"\r\n' % head.host if head.host else b"\r\n"
        if made and self.request_id and not head.named:
            lines += self.request_id + b": " + made + b"\r\n"
        return lines


def trusts(networks: Iterable[IPv4Network | IPv6Network], peer: str) -> bool:
    """Is the client at `peer` in one of the networks? IPv4-mapped IPv6 addresses count as IPv4. What is no address is not trusted."""
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)


def make_id() -> bytes:
    """A new request id: 32 hex digits. Not a secret; it costs no system call."""
    return b"%032x" % random.getrandbits(128)


def check_field(name: bytes, value: bytes, side: Side = "carrier") -> None:
    """Raise Error unless the pair can be written as one field line (RFC 9110 5.1, 5.5)."""
    if not TOKEN.fullmatch(name):
        raise _bad(side, f"field name {shown(name)} is not a token")
    if value.translate(None, FIELD_BYTES):
        raise _bad(side, f"field {name.decode()!r} has a control byte in its value")


def _bad(side: Side, detail: str) -> Error:
    return Error("bad-answer" if side == "upstream" else "protocol-error", detail, side)


def join_fields(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Field lines, each ended with CRLF; the pairs have been checked."""
    return b"".join([name + b": " + value + b"\r\n" for name, value in fields])


def framing_field(body: int, length: int) -> bytes:
    """The one field line that frames a body; none for NONE and CLOSE."""
    if body == CHUNKED:
        return b"transfer-encoding: chunked\r\n"
    return b"content-length: %d\r\n" % length if body == LENGTH else b""


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
    lines = join_fields((n, v) for n, v in own if n.lower() not in cut)
    lines += profile.standing(host, names) if profile else b""
    lines += framing_field(body, length)
    if upgrade:
        check_field(b"upgrade", upgrade, side)
        lines += b"connection: upgrade\r\nupgrade: " + upgrade + b"\r\n"
    wire = method + b" " + target + b" HTTP/1.1\r\n" + lines + b"\r\n"
    named = bool(profile and profile.request_id in names)
    explain = EXPLAIN in names
    return Head(wire, b"", method, target, host, body=body, length=length, upgrade=upgrade, named=named, fields=own, explain=explain)


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
    if reason.translate(None, FIELD_BYTES) or not 100 <= status <= 599:
        raise _bad(side, f"status {status} {shown(reason[:40])} cannot be written")
    kind, size = (LENGTH, len(body)) if framing is None else (framing, length)
    if status < 200 or status in (204, 304):
        kind, size = NONE, 0
    start = b"HTTP/1.1 %d %b\r\n" % (status, reason)
    wire = start + join_fields(own) + framing_field(kind, size) + b"\r\n"
    return Head(wire, b"", status=status, reason=reason, body=kind, length=size, fields=own)


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
    start, _, block = head.wire.partition(b"\r\n")
    if not head.status:
        sent = start.split(b" ")[1] if target == head.target else target
        start = method + b" " + sent + b" HTTP/1.1"
    lines = [line for line in block.split(b"\r\n")[:-2] if line.partition(b":")[0].lower() not in changes]
    wire = b"\r\n".join([start, *lines]) + b"\r\n" + join_fields(added) + b"\r\n"
    seen = tuple((n, v) for n, v in head.fields if n.lower() not in changes) + tuple(added)
    host = changes.get(b"host") or head.host
    return head._like(wire=wire, raw=b"", method=method, target=target, host=host, fields=seen, key=None)
