"""Field sections: what a decoded block says, and whether HTTP allows it (RFC 9113 section 8, RFC 8441).

This is the one place where fields of HTTP/2 are refused. Beyond the RFC's rules for HTTP/2 everything is refused that could not be written
in HTTP/1.1: names that are no tokens, controls in values. A section without pseudo-fields is one of trailers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from carrier.errors import Error, shown
from carrier.wire.h1.head import LOCATION, check_host
from carrier.wire.h2.hpack import Pair
from carrier.wire.h2.limits import Limits
from carrier.wire.http import FIELD_BYTES, TOKEN

Pairs = tuple[Pair, ...]

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*")
_STATUS = re.compile(rb"[1-5][0-9][0-9]")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")
_OTHER = bytes(byte not in FIELD_BYTES for byte in range(256))
"""Makes every byte that no field value holds (RFC 9110 5.5) 1, and all others 0."""
_BLANK = b" \t"
_PLAIN, _CONNECTION, _TE, _CONTENT_LENGTH, _COOKIE, _HOST_FIELD, _PSEUDO, _BAD = range(8)
_KNOWN: dict[bytes, int] = {
    b"connection": _CONNECTION,
    b"proxy-connection": _CONNECTION,
    b"keep-alive": _CONNECTION,
    b"transfer-encoding": _CONNECTION,
    b"upgrade": _CONNECTION,
    b"te": _TE,
    b"content-length": _CONTENT_LENGTH,
    b"cookie": _COOKIE,
    b"host": _HOST_FIELD,
}
_KINDS = dict(_KNOWN)  # and names that were met and are plain
_REQUEST = (b":method", b":scheme", b":authority", b":path", b":protocol")
_NAMES = 2048  # that are remembered
_NAME_MAX = 64


class Section:
    """A field section, read once and then only looked at: it may be remembered and shared by streams (memo.py).

    A request has `method`, `scheme`, `authority` (from :authority or Host), `path` and perhaps `protocol` (extended CONNECT); an answer has
    `status`; trailers have neither. `fields`: the regular fields in their order, without Host, the crumbs of Cookie joined at the place of
    the first. `length`: Content-Length, -1 if there is none. `never`: names that came as never indexed, and are to be sent on so.
    `size`: bytes as SETTINGS_MAX_HEADER_LIST_SIZE counts. `problem`: why the message is malformed; `excess`: which bound it exceeds.
    `owner` belongs to whoever reads from the engine: what it wants to find again when the same section comes again; `kept`: it may.
    """

    __slots__ = (
        "authority",
        "excess",
        "fields",
        "kept",
        "length",
        "method",
        "never",
        "owner",
        "path",
        "problem",
        "protocol",
        "scheme",
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
        self.owner: Any = None
        self.kept = False

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


def read(pairs: Sequence[Pair], size: int, never: Sequence[bytes], limits: Limits, client: bool) -> Section:
    """The section that a block means: a request, to a client an answer, or trailers. What is wrong with it stands in `problem`."""
    section = Section(size, frozenset(never) if never else frozenset())
    try:
        _read(section, pairs, limits, client)
    except _Malformed as exc:
        section.problem = str(exc)
    if size > limits.head:
        section.excess = f"a field section of {size} bytes, at most {limits.head}"
    elif len(pairs) > limits.fields:
        section.excess = f"a field section of {len(pairs)} fields, at most {limits.fields}"
    elif size > limits.line and (longest := max(len(name) + len(value) for name, value in pairs)) > limits.line:
        section.excess = f"a field of {longest} bytes, at most {limits.line}"
    return section


def _read(section: Section, pairs: Sequence[Pair], limits: Limits, client: bool) -> None:
    kinds, other = _KINDS, _OTHER
    pseudo: dict[bytes, bytes] = {}
    fields: list[Pair] = []
    crumbs: list[bytes] = []
    crumb_at = 0
    host: bytes | None = None
    for pair in pairs:
        name, value = pair
        kind = kinds.get(name, -1)
        if kind < 0:
            kind = _kind(name)
        if kind == _BAD:
            raise _Malformed(f"field name {shown(name)} is not a token in lower case")
        if b"\x01" in value.translate(other):
            raise _Malformed(f"field {shown(name)} has a control byte in its value")
        if value and (value[0] in _BLANK or value[-1] in _BLANK):
            raise _Malformed(f"field {shown(name)} has a blank at an end of its value")
        if kind == _PLAIN:
            fields.append(pair)
        elif kind == _PSEUDO:
            if fields or crumbs or host is not None or section.length >= 0:
                raise _Malformed(f"pseudo-field {shown(name)} behind a regular field")
            if name in pseudo:
                raise _Malformed(f"pseudo-field {shown(name)} twice")
            pseudo[name] = value
        elif kind == _CONNECTION:
            raise _Malformed(f"field {shown(name)} belongs to a connection of HTTP/1.1")
        elif kind == _TE:
            if value.lower() != b"trailers":
                raise _Malformed(f"te {shown(value)}, allowed is only trailers")
            fields.append(pair)
        elif kind == _CONTENT_LENGTH:
            if section.length >= 0 or not _LENGTH.fullmatch(value):
                raise _Malformed(f"content-length {shown(value)} is not the one decimal number")
            section.length = int(value)
            fields.append(pair)
        elif kind == _COOKIE:
            if not crumbs:
                crumb_at = len(fields)
                fields.append(pair)
            crumbs.append(value)
        else:
            if host is not None:
                raise _Malformed("several Host fields")
            host = value
    if len(crumbs) > 1:  # RFC 9113 8.2.3
        cookie = b"; ".join(crumbs)
        if not crumbs[-1]:  # no value ends with a blank
            raise _Malformed(f"cookie {shown(cookie)} with an empty crumb at its end")
        fields[crumb_at] = (b"cookie", cookie)
    section.fields = tuple(fields)
    if client:
        _answer(section, pseudo, host)
    elif pseudo:
        _request(section, pseudo, host, limits)
    elif host is not None:
        section.fields = (*fields, (b"host", host))


def _kind(name: bytes) -> int:
    """What a name not met before is; plain ones are remembered."""
    if name[:1] == b":":
        return _PSEUDO
    if not _NAME.fullmatch(name):
        return _BAD
    if len(name) <= _NAME_MAX:
        if len(_KINDS) >= _NAMES:
            _KINDS.clear()
            _KINDS.update(_KNOWN)
        _KINDS[name] = _PLAIN
    return _PLAIN


def _answer(section: Section, pseudo: dict[bytes, bytes], host: bytes | None) -> None:
    if host is not None:
        section.fields = (*section.fields, (b"host", host))
    if not pseudo:
        return
    if unknown := [name for name in pseudo if name != b":status"]:
        raise _Malformed(f"pseudo-field {shown(unknown[0])} in an answer")
    status = pseudo[b":status"]
    if not _STATUS.fullmatch(status) or status == b"101":  # RFC 9113 8.6
        raise _Malformed(f":status {shown(status)}, allowed are 100 to 599 without 101")
    section.status = int(status)


def _request(section: Section, pseudo: dict[bytes, bytes], host: bytes | None, limits: Limits) -> None:
    if unknown := [name for name in pseudo if name not in _REQUEST]:
        raise _Malformed(f"pseudo-field {shown(unknown[0])} in a request")
    method = pseudo.get(b":method", b"")
    if not TOKEN.fullmatch(method):
        raise _Malformed(f":method {shown(method)} is not a token" if b":method" in pseudo else "no :method")
    section.method = method
    protocol = pseudo.get(b":protocol")
    authority = pseudo.get(b":authority", host)
    if authority is None:
        raise _Malformed("neither :authority nor Host")
    if host is not None and host != authority:  # RFC 9113 8.3.1
        raise _Malformed(f":authority {shown(authority)} and Host {shown(host)}")
    section.authority = authority
    if protocol is not None and method != b"CONNECT":
        raise _Malformed(f":protocol with {shown(method)}, it belongs to CONNECT")
    if protocol is not None and not limits.connect:
        raise _Malformed(":protocol, but extended CONNECT was not offered")
    if method == b"CONNECT" and protocol is None:
        if b":scheme" in pseudo or b":path" in pseudo:
            raise _Malformed("CONNECT with :scheme or :path")
        _check_authority(authority)
        return
    path, scheme = pseudo.get(b":path"), pseudo.get(b":scheme")
    if path is None or scheme is None:
        raise _Malformed("no :path" if path is None else "no :scheme")
    if not _SCHEME.fullmatch(scheme):
        raise _Malformed(f":scheme {shown(scheme)} is none")
    if not (LOCATION[limits.strict_target].fullmatch(path) or (path == b"*" and method == b"OPTIONS")):
        raise _Malformed(f":path {shown(path)} is not a path with an optional query")
    if protocol is not None and not TOKEN.fullmatch(protocol):
        raise _Malformed(f":protocol {shown(protocol)} is not a token")
    _check_authority(authority)
    section.scheme, section.path, section.protocol = scheme, path, protocol or b""


def _check_authority(authority: bytes) -> None:
    try:
        check_host(authority)
    except Error:
        raise _Malformed(f":authority {shown(authority)} is no host name or address with an optional port") from None
