"""Field sections: what a decoded block says, and whether HTTP allows it (RFC 9113 section 8, RFC 8441).

This is the one place where fields of HTTP/2 are refused. Beyond the RFC's rules for HTTP/2 everything is refused that could not be written
in HTTP/1.1: names that are no tokens, controls in values. Blanks around a value are no part of it in HTTP/1.1, and many programs send what
they were given: they are cut, but for fields that route or frame a message. A section without pseudo-fields is one of trailers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from carrier.errors import Error, shown
from carrier.wire.h1.head import LOCATION, check_host, only_strict
from carrier.wire.h2.hpack import Pair
from carrier.wire.h2.limits import CRUMBS, Limits
from carrier.wire.http import FIELD_BYTES, TOKEN

Pairs = tuple[Pair, ...]

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*")
_STATUS = re.compile(rb"[1-9][0-9][0-9]")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")
_OTHER = bytes(byte not in FIELD_BYTES for byte in range(256))
"""Makes every byte that no field value holds (RFC 9110 5.5) 1, and all others 0."""
_BLANK = b" \t"
_PLAIN, _PSEUDO, _TE, _CONTENT_LENGTH, _COOKIE, _HOST, _PADDED = range(7)
_KINDS = {b"te": _TE, b"content-length": _CONTENT_LENGTH, b"cookie": _COOKIE, b"host": _HOST}
_CONNECTION = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
_MEANT = frozenset((b"content-type", b"expect", b"x-carrier-explain", b"x-carrier-hops", b"authorization", b"grpc-message"))
"""Fields of which heads.py makes more than something to pass on."""
_fine: dict[Pair, int] = {}
"""Fields that were looked at and are valid, whatever stands beside them, and what they are. Full, it is emptied."""
_FINE, _FINE_MAX = 1024, 160  # fields that are remembered, and their bytes


_new = object.__new__


class Section:
    """A field section, read once and then only looked at: it may be remembered and shared by streams (memo.py).

    A request has `method`, `scheme`, `authority` (from :authority or Host), `path` and perhaps `protocol` (extended CONNECT); an answer has
    `status`; trailers have neither. `fields`: the regular fields in their order, without Host, the crumbs of Cookie joined at the place of
    the first. `length`: Content-Length, -1 if there is none. `never`: names that came as never indexed, and are to be sent on so.
    `size`: bytes as SETTINGS_MAX_HEADER_LIST_SIZE counts. `problem`: why the message is malformed; `excess`: which bound it exceeds,
    or what else is answered, as an error of this `kind`.
    `begins`: it is a request, and neither of both. `owner` belongs to whoever reads from the engine: what it wants to find again when the
    same section comes again; `kept`: it may. `shape`: what it shares with sections that differ from it in values that mean nothing here
    (memo.py); None if nobody knows of such.
    """

    __slots__ = (
        "authority",
        "begins",
        "excess",
        "fields",
        "kept",
        "kind",
        "length",
        "method",
        "never",
        "owner",
        "path",
        "problem",
        "protocol",
        "scheme",
        "shape",
        "size",
        "status",
    )

    def __init__(self, size: int = 0, never: frozenset[bytes] = frozenset()) -> None:
        self.method = self.scheme = self.authority = self.path = self.protocol = b""
        self.status = 0
        self.fields: Pairs = ()
        self.length = -1
        self.size, self.never = size, never
        self.problem = self.excess = ""
        self.kind = "headers-too-large"
        self.owner: Any = None
        self.shape: Any = None
        self.begins = self.kept = False

    version = "2"

    def again(self, fields: Pairs, size: int) -> Section:
        """The same with other values in fields that mean nothing here."""
        made: Section = _new(Section)
        made.method, made.scheme, made.authority, made.path, made.protocol = self.method, self.scheme, self.authority, self.path, b""
        made.status, made.length, made.never = self.status, self.length, self.never
        made.fields, made.size = fields, size
        made.problem = made.excess = ""
        made.owner = made.shape = None
        made.begins, made.kept = self.begins, False
        return made

    @property
    def trailers(self) -> bool:
        return not self.method and not self.status

    def get(self, name: bytes) -> bytes | None:
        """The first value of a field, by its lower-case name."""
        return next((value for known, value in self.fields if known == name), None)

    def __repr__(self) -> str:
        what = self.status or (f"{self.method!r} {self.path!r}" if self.method else "trailers")
        return f"Section({what}, {len(self.fields)} fields{', ' + self.problem if self.problem else ''})"


class _Malformed(Exception):
    pass


class _Odd(_Malformed):
    """A browser may send it: it is worth an answer."""


def meaningless(name: bytes) -> bool:
    """Is this the name of a field whose value is of no meaning here, if it `fits`?"""
    return _NAME.fullmatch(name) is not None and name not in _CONNECTION and name not in _KINDS and name not in _MEANT


def fits(value: bytes) -> bool:
    """May a field have this value, if it is of no meaning?"""
    return b"\x01" not in value.translate(_OTHER) and not (value and (value[0] in _BLANK or value[-1] in _BLANK))


def read(pairs: Sequence[Pair], size: int, never: Sequence[bytes], limits: Limits, client: bool) -> Section:
    """The section that a block means: a request, to a client an answer, or trailers. What is wrong with it stands in `problem`."""
    section = Section(size, frozenset(never) if never else frozenset())
    try:
        _read(section, pairs, limits, client)
    except _Malformed as exc:
        section.problem = str(exc)
        if isinstance(exc, _Odd):
            said = dict(pairs)
            section.method, section.path = said.get(b":method", b""), said[b":path"]
            section.kind, section.excess, section.problem = "protocol-error", section.problem, ""
    section.excess = section.excess or _exceeded(pairs, size, limits)
    section.begins = bool(section.method) and not section.problem and not section.excess
    return section


def _exceeded(pairs: Sequence[Pair], size: int, limits: Limits) -> str:
    """Which bound is exceeded. The crumbs of a cookie, which a browser sends for each one that a site has set, have one of their own."""
    if size > limits.head:
        return f"a field section of {size} bytes, at most {limits.head}{limits.named('max_head')}"
    if len(pairs) > limits.fields:
        crumbs = sum(name == b"cookie" for name, _ in pairs)
        fields = len(pairs) - crumbs + (crumbs > 0)
        if fields > limits.fields:
            return f"a field section of {fields} fields, at most {limits.fields}{limits.named('max_fields')}"
        if crumbs > CRUMBS * limits.fields:
            return f"{crumbs} cookies, at most {CRUMBS * limits.fields}{limits.named('max_fields')}"
    if size > limits.line and (longest := max(len(name) + len(value) for name, value in pairs)) > limits.line:
        return f"a field of {longest} bytes, at most {limits.line}{limits.named('max_line')}"
    return ""


def _read(section: Section, pairs: Sequence[Pair], limits: Limits, client: bool) -> None:
    fine = _fine
    pseudo: dict[bytes, bytes] = {}
    fields: list[Pair] = []
    crumbs: list[bytes] = []
    crumb_at = 0
    host: bytes | None = None
    for pair in pairs:
        kind = fine.get(pair)
        if kind is None:
            kind = _look_at(pair, limits.strict_target)
        if kind == _PLAIN:
            fields.append(pair)
        elif kind == _PSEUDO:
            if fields or host is not None:
                raise _Malformed(f"pseudo-field {shown(pair[0])} behind a regular field")
            if pair[0] in pseudo:
                raise _Malformed(f"pseudo-field {shown(pair[0])} twice")
            pseudo[pair[0]] = pair[1]
        elif kind == _COOKIE:
            if not crumbs:
                crumb_at = len(fields)
                fields.append(pair)
            crumbs.append(pair[1])
        elif kind == _CONTENT_LENGTH:
            if section.length >= 0:
                raise _Malformed(f"content-length {shown(pair[1])} is not the one decimal number")
            section.length = int(pair[1])
            fields.append(pair)
        elif kind == _PADDED:
            fields.append((pair[0], pair[1].strip(_BLANK)))
        elif host is not None:
            raise _Malformed("several Host fields")
        else:
            host = pair[1]
    if crumbs and (len(crumbs) > 1 or not fits(crumbs[0])):  # RFC 9113 8.2.3
        fields[crumb_at] = (b"cookie", b"; ".join(crumbs).strip(_BLANK))
    section.fields = tuple(fields)
    if client:
        _answer(section, pseudo, host)
    elif pseudo:
        _request(section, pseudo, host, limits)
    elif host is not None:
        section.fields = (*fields, (b"host", host))


def _look_at(pair: Pair, strict_target: bool) -> int:
    """What a field is that was not met before; it is remembered. Raises _Malformed if it cannot be valid."""
    name, value = pair
    strict = True
    if name[:1] == b":":
        strict = _check_pseudo(name, value, strict_target)
        kind = _PSEUDO
    else:
        if not _NAME.fullmatch(name):
            raise _Malformed(f"field name {shown(name)} is not a token in lower case")
        if name in _CONNECTION:
            raise _Malformed(f"field {shown(name)} belongs to a connection of HTTP/1.1")
        kind = _KINDS.get(name, _PLAIN)
    if b"\x01" in value.translate(_OTHER):
        raise _Malformed(f"field {shown(name)} has a control byte in its value")
    if value and (value[0] in _BLANK or value[-1] in _BLANK):
        if kind == _PLAIN:
            kind = _PADDED
        elif kind != _COOKIE:
            raise _Malformed(f"field {shown(name)} has a blank at an end of its value")
    if kind == _TE:
        if value.lower() != b"trailers":
            raise _Malformed(f"te {shown(value)}, allowed is only trailers")
        kind = _PLAIN
    elif kind == _CONTENT_LENGTH and not _LENGTH.fullmatch(value):
        raise _Malformed(f"content-length {shown(value)} is not the one decimal number")
    if strict and len(name) + len(value) <= _FINE_MAX:
        if len(_fine) >= _FINE:
            _fine.clear()
        _fine[pair] = kind
    return kind


def _check_pseudo(name: bytes, value: bytes, strict_target: bool) -> bool:
    """Raise _Malformed unless a pseudo-field may have this value. False: it may only where targets are not strict."""
    if name == b":path":
        if LOCATION[True].fullmatch(value) or value == b"*":
            return True
        if strict_target and (why := only_strict(value)):
            raise _Odd(why)
        if strict_target or not LOCATION[False].fullmatch(value):
            raise _Malformed(f":path {shown(value)} is not a path with an optional query")
        return False
    if name == b":authority":
        try:
            check_host(value)
        except Error:
            raise _Malformed(f":authority {shown(value)} is no host name or address with an optional port") from None
    elif name == b":status":
        if not _STATUS.fullmatch(value) or value == b"101":  # RFC 9113 8.6
            raise _Malformed(f":status {shown(value)}, allowed are 100 to 999 without 101")
    elif name == b":scheme":
        if not _SCHEME.fullmatch(value):
            raise _Malformed(f":scheme {shown(value)} is none")
    elif name not in (b":method", b":protocol"):
        raise _Malformed(f"pseudo-field {shown(name)} is unknown")
    elif not TOKEN.fullmatch(value):
        raise _Malformed(f"{name.decode()} {shown(value)} is not a token")
    return True


def _answer(section: Section, pseudo: dict[bytes, bytes], host: bytes | None) -> None:
    if host is not None:
        section.fields = (*section.fields, (b"host", host))
    if not pseudo:
        return
    if wrong := [name for name in pseudo if name != b":status"]:
        raise _Malformed(f"pseudo-field {shown(wrong[0])} in an answer")
    section.status = int(pseudo[b":status"])


def _request(section: Section, pseudo: dict[bytes, bytes], host: bytes | None, limits: Limits) -> None:
    if b":status" in pseudo:
        raise _Malformed("pseudo-field :status in a request")
    get = pseudo.get
    method, protocol, authority, path, scheme = get(b":method"), get(b":protocol"), get(b":authority"), get(b":path"), get(b":scheme")
    if method is None:
        raise _Malformed("no :method")
    section.method = method
    if authority is None:
        if host is None:
            raise _Malformed("neither :authority nor Host")
        _check_pseudo(b":authority", host, True)
        authority = host
    elif host is not None and host != authority:  # RFC 9113 8.3.1
        raise _Malformed(f":authority {shown(authority)} and Host {shown(host)}")
    section.authority = authority
    if method == b"CONNECT":
        if protocol is None:
            if scheme is not None or path is not None:
                raise _Malformed("CONNECT with :scheme or :path")
            return
        if not limits.connect:
            raise _Malformed(":protocol, but extended CONNECT was not offered")
        section.protocol = protocol
    elif protocol is not None:
        raise _Malformed(f":protocol with {shown(method)}, it belongs to CONNECT")
    if path is None or scheme is None:
        raise _Malformed("no :path" if path is None else "no :scheme")
    if path == b"*" and method != b"OPTIONS":
        raise _Malformed(f":path {shown(path)} with {shown(method)}, it belongs to OPTIONS")
    section.scheme, section.path = scheme, path
