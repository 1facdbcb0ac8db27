"""What is true of every HTTP version: the head of a message, and what a proxy may send on of it (RFC 9110).

A `Head` is made once, by a codec or by `request_head` and `answer_head`, and then only read: it can be kept in a memo and shared by
sessions. It says what was asked or answered, what fields came, and how the message is framed. What is sent on is an *encoding* of it, made
by the codec of one version and kept with the head: `text` by HTTP/1.1, `block` by HTTP/2. Whichever codec read the head makes its own
first, the other from what that one has (`sent_on`), when somebody asks. Fields are split out of a text only when somebody asks, too.
`Forwarding` says what an encoding does with Host, `x-forwarded-*`, `forwarded`, `via` and the request id; `extra()` gives the lines that
differ per connection or request, to be put behind `Head.stem`: one concat. This file knows no socket and no clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec

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
OURS = b"x-carrier-"
"""How the fields begin in which we say why: nobody else's answer has them."""
SAYS = frozenset(OURS + name for name in (b"rule", b"cluster", b"endpoint", b"why", b"fallback", b"error"))
"""Those that there are."""
"""Asks for the reason of the routing in the answer's head; heeded from authorised peers (listeners/http/listener.py)."""
ENDURING = frozenset((b"host", b"content-length", b"transfer-encoding"))
"""Fields that a Connection field cannot name away: they say where a message ends and whom it is for."""
UNMERGEABLE = ENDURING | HOP | {b"content-encoding", b"content-type", b"content-range", b"trailer"}
"""Fields that a trailer section must not have (RFC 9110 6.5.1): framing, routing, how to read the content."""

NOBODY: frozenset[bytes] = frozenset()
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


class Bounds(msgspec.Struct, frozen=True):
    """Limits of what is read. options: they are options of who reads, `max_head` and others."""

    options: bool = False

    def named(self, option: str) -> str:
        """How to raise a bound, for the words of an error; nothing where that cannot be done."""
        return f" (options.{option})" if self.options else ""


class Kin:
    """What heads share that differ in their targets, and in the values of some fields, only. varies: the names of those fields, in lower
    case -> how their lines begin, with the CRLF before them; same: the values of all others. told: what the log has made of those
    (carrier/observe/lines.py), and whose it is."""

    __slots__ = ("same", "told", "varies")

    def __init__(self, head: Head, varies: Iterable[bytes]) -> None:
        self.varies = {name.lower(): b"\r\n%b:" % name for name in varies}
        self.same = {name: head.get(name) for name in {name.lower() for name, _ in split_fields(head.raw)} - self.varies.keys()}
        self.told: tuple[object, bytes | None] = (None, None)


class Head:
    """The head of a request or an answer. Immutable by convention, except `decision`, which belongs to the listener: None, or what it wants
    to remember, which is not to refer to the head (that would be a cycle, and a memo's worth of heads would wait for the collector); and
    `log_line`, the same for the access log.

    A request has `method`, `target` (as it came) and `authority`; an answer has `status` and `reason`. `version` is the one it came with
    ("1.1" also for those that we make). `body` is NONE, LENGTH, CHUNKED (of no known length) or CLOSE (the same, to the connection's end),
    `length` the bytes of a LENGTH body. `keep_alive`: the connection it came on may be used again (after a CLOSE body never). `expect`: the
    client waits for 100 (Continue). `upgrade`: the protocols asked for or switched to, lower case. `tunnel`: an answer behind which both
    sides speak another protocol. `has_id`: the request came with a request id, `explain`: with x-carrier-explain; `hops`: through
    so many listeners of ours (x-carrier-hops); `binds`: with credentials that authenticate a connection, not a request. `key`: equal keys
    have equal values in every field that rules look at (Forwarding.interesting), whatever the target; None if that is not known.
    `simple`: a request without body, Upgrade, HEAD, CONNECT, gRPC and x-carrier-explain, behind which an HTTP/1.1 connection stays: its
    reader need not know of it, and any whole answer may follow as it is; `parting`: the same, and its connection ends behind it.
    `family`: of its status, 2 for 2xx, 5 also for those above (RFC 9110 15). `whole`: a final answer of known length, after which the
    connection stays, and which asks for no credentials. `text`: the encoding of HTTP/1.1, b"" until it is made;
    `stem`: that without its last CRLF.
    `block`, `framed`: what HTTP/2 keeps of its own. `never`: names of fields that came as never to be indexed (RFC 7541 7.1.3).
    `claims`: does it say of its way to us (wire/forwarding.py), `trace`: where it stands in one (wire/trace.py), False for nowhere; both
    None until somebody asks. `grpc`: 1 of a call of gRPC, 2 of one with a grpc-timeout. `kin`: what it shares with heads of its shape.
    `raw`: the bytes that HTTP/1.1 read. `onward`: the fields to be sent on without those that frame or route, None until they are split.
    """

    __slots__ = (
        "_fields",
        "authority",
        "binds",
        "block",
        "body",
        "claims",
        "decision",
        "expect",
        "explain",
        "family",
        "framed",
        "grpc",
        "has_id",
        "hops",
        "keep_alive",
        "key",
        "kin",
        "length",
        "log_line",
        "method",
        "never",
        "onward",
        "parting",
        "raw",
        "reason",
        "simple",
        "status",
        "stem",
        "target",
        "text",
        "trace",
        "tunnel",
        "upgrade",
        "version",
        "whole",
    )

    def __init__(
        self,
        text: bytes,
        raw: bytes = b"",
        method: bytes = b"",
        target: bytes = b"",
        authority: bytes = b"",
        status: int = 0,
        reason: bytes = b"",
        version: str = "1.1",
        body: int = NONE,
        length: int = 0,
        keep_alive: bool = True,
        expect: bool = False,
        upgrade: bytes | None = None,
        has_id: bool = False,
        key: object = None,
        fields: Fields | None = None,
        explain: bool = False,
        tunnel: bool = False,
        onward: Fields | None = None,
        hops: int = 0,
        binds: bool = False,
    ) -> None:
        self.text = text
        self.stem = text[:-2]
        self.raw = raw
        self.method = method
        self.target = target
        self.authority = authority
        self.status = status
        self.family = min(status // 100, 5)
        self.reason = reason
        self.version = version
        self.body = body
        self.length = length
        self.keep_alive = keep_alive
        self.expect = expect
        self.upgrade = upgrade
        self.has_id = has_id
        self.explain = explain
        self.key = key
        self._fields = fields
        self.tunnel = tunnel
        self.onward = onward
        self.hops = hops
        self.binds = binds
        self.block: Any = None
        self.framed: Any = None
        self.never: frozenset[bytes] = NOBODY
        self.grpc = 0
        simple = body == NONE and upgrade is None and version != "1.0" and method not in (b"HEAD", b"CONNECT") and not explain
        self.simple = simple and keep_alive
        self.parting = simple and not keep_alive
        self.whole = status >= 200 and status != 401 and keep_alive and body <= LENGTH
        self.decision: Any = None
        self.log_line: Any = None
        self.claims: bool | None = None
        self.trace: Any = None
        self.kin: Kin | None = None

    @property
    def fields(self) -> Fields:
        """All field lines as they came (hop-by-hop ones too): what rules and metadata see. Split on first use."""
        if self._fields is None:
            self._fields = split_fields(self.raw)
        return self._fields

    def set_fields(self, fields: Fields) -> None:
        """Where they are not split out of what HTTP/1.1 read."""
        self._fields = fields

    def get(self, name: bytes) -> bytes | None:
        """The value of field `name` (lower case); several lines joined by ", " (RFC 9110 5.3); None if there is none."""
        if self.kin is not None:
            line = self.kin.varies.get(name)
            if line is None:
                return self.kin.same.get(name)
            raw = self.raw
            begin = raw.rindex(line) + len(line)  # ids are mostly added last
            return raw[begin : raw.index(b"\r\n", begin)].strip(b" \t")
        if self._fields is None:  # mostly one field is wanted, and all of them cost more to split than this to find it
            raw, line = self.raw, b"\r\n%b:" % name
            lower = raw.lower()
            at = lower.find(line)
            if at < 0:
                return None
            if lower.find(line, at + 1) < 0:
                begin = at + len(line)
                return raw[begin : raw.index(b"\r\n", begin)].strip(b" \t")
        if self.version == "2":
            values = [v for n, v in self.fields if n == name]
        else:
            size = len(name)
            values = [v for n, v in self.fields if len(n) == size and n.lower() == name]
        return b", ".join(values) if values else None

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

    def without_body(self) -> Head:
        """The same head where no body follows it: an answer to HEAD."""
        return self._like(body=NONE, length=0)

    def as_chunked(self) -> Head:
        """The same head for a body whose length is not known any more: a transform may change it."""
        if self.body != LENGTH:
            return self
        text = re.sub(rb"\r\ncontent-length:[^\r]*", b"", self.text, count=1, flags=re.IGNORECASE)
        text = text and text[:-2] + framing_field(CHUNKED, 0) + b"\r\n"
        onward = self.onward and tuple(pair for pair in self.onward if pair[0] != b"content-length")
        return self._like(text=text, onward=onward, body=CHUNKED, length=0)

    def as_tunnel(self) -> Head:
        """The same head where another protocol follows it."""
        return self._like(tunnel=True)

    def sent_on(self) -> Fields:
        """The fields to be sent on, names in lower case, without those that frame the message, route it or are for one hop: Host,
        Content-Length, Transfer-Encoding, Connection, Upgrade. What an encoding is made of that was not made by the codec that read it."""
        found = self.onward
        if found is None:
            lower = ((name.lower(), value) for name, value in split_fields(self.text))
            found = self.onward = tuple(pair for pair in lower if pair[0] not in ENDURING and pair[0] not in HOP)
        return found

    def metadata(self) -> dict[str, Any]:
        """The "HTTP" part of a session's metadata, as l7mp lays it out; a new tree at each call.

        `url.path` holds the query too; `protocol`, `host` and `port` are those of an absolute-form target, else empty. Names of headers are
        lower case; repeated ones are joined by ", " (cookies by "; "), so that no rule sees only some of them.
        """
        headers: dict[str, str] = {}
        for name, value in self.fields:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            if key == "x-carrier-explain":  # it may be a bridge's token: neither rules nor whoever lists sessions see it
                continue
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

    def again(self, text: bytes, raw: bytes, target: bytes, length: int) -> Head:
        """The same head with another target, other values in fields that decide nothing, and another length, if its body has one.

        Half the price of a new one: nothing is decided again. No length becomes 0 or ceases to be it: that changes what the rest means.
        """
        head = _new(Head)
        head.text = text
        head.stem = text[:-2]
        head.raw = raw
        head.method = self.method
        head.target = target
        head.authority = self.authority
        head.status = self.status
        head.family = self.family
        head.reason = self.reason
        head.version = self.version
        head.body = self.body
        head.length = length
        head.keep_alive = self.keep_alive
        head.expect = self.expect
        head.upgrade = self.upgrade
        head.has_id = self.has_id
        head.hops = self.hops
        head.binds = self.binds
        head.explain = self.explain
        head.key = self.key
        head._fields = head.onward = head.block = head.framed = None
        head.tunnel = False
        head.grpc = 0
        head.never = NOBODY
        head.simple = self.simple
        head.parting = self.parting
        head.whole = self.whole
        head.decision = head.log_line = head.claims = None
        head.kin = self.kin
        head.trace = False if self.trace is False else None  # the names of its fields are the same
        return head

    def _like(self, **changed: Any) -> Head:
        made = (
            "_fields",
            "block",
            "claims",
            "decision",
            "family",
            "framed",
            "grpc",
            "kin",
            "never",
            "parting",
            "simple",
            "stem",
            "log_line",
            "trace",
            "whole",
        )
        values = {name: getattr(self, name) for name in self.__slots__ if name not in made}
        head = Head(**{**values, "fields": self._fields, **changed})
        head.never, head.grpc = self.never, self.grpc
        head.simple = head.simple and not head.grpc
        return head

    def __repr__(self) -> str:
        what = f"{self.status} {self.reason!r}" if self.status else f"{self.method!r} {self.target!r}"
        return f"Head({what}, body={self.body}, length={self.length})"


def authenticates_connections(values: Iterable[bytes]) -> bool:
    """Is one of these challenges or credentials of NTLM or Negotiate? They authenticate a connection, not a request: whoever came next on
    it would be served as its first user (RFC 4559 section 6)."""
    said = [part.split(None, 1)[:1] for value in values for part in value.lower().split(b",")]
    return [b"negotiate"] in said or [b"ntlm"] in said


def split_fields(raw: bytes) -> Fields:
    """The field lines of a validated HTTP/1.1 head block (start line first, CRLFCRLF last)."""
    pairs = (line.partition(b":") for line in raw.split(b"\r\n")[1:-2])
    return tuple((name, value.strip(b" \t")) for name, _, value in pairs)


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


def hop_lines(protocols: bytes | None, trailers: bool = False) -> bytes:
    """Field lines for the next hop: the protocols to switch to (RFC 9110 7.8), and that trailers are welcome (10.1.4)."""
    if not protocols and not trailers:
        return b""
    options = b", ".join(([b"upgrade"] if protocols else []) + ([b"te"] if trailers else []))
    lines = b"connection: " + options + b"\r\n"
    if protocols:
        lines += b"upgrade: " + protocols + b"\r\n"
    return lines + b"te: trailers\r\n" if trailers else lines
