"""What a rule can look at: inputs, each with the function that reads its values from a session's metadata.

A `Source` names an input (a header, the path, a query parameter, the client's address, any metadata path); `reader` makes the
function that gives its values, of which there may be none or several. `Needs` adds up the inputs of many rules. No metadata, however
odd, makes a reader raise. What was chosen where the sources leave it open:

- A field that came on several lines is one value joined by ", " (RFC 9110 section 5.3). A header's values are the whole *and each
  member of the list*: a second line cannot carry a request past a rule. A metadata path, as l7mp's predicates have it, gives the
  joined value only.
- A query parameter, cookie or baggage member that comes several times has several values.
- An IPv4 address has two spellings, plain and mapped into IPv6.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, reduce
from operator import or_
from urllib.parse import parse_qsl, unquote

import msgspec

from carrier.core.decision import Needs
from carrier.core.metadata import MISSING, readable, walk
from carrier.redact import Hidden
from carrier.rules.checks import compile_regex, searcher
from carrier.rules.target import normal_path

Reader = Callable[[object], Sequence[object]]

OF_BYTES = frozenset({"header", "headers", "cookie", "tracestate"})
"""Kinds of sources whose values are bytes of a request, a character each; what is wanted of them is written so too."""
HEADERS = ("HTTP", "headers")
RAW_PATH = ("HTTP", "url", "path")
METHOD = ("HTTP", "method")
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"))
"""Those that everybody means, however they are written; methods are case-sensitive (RFC 9110 section 9.1)."""
_ADDRESSES = frozenset({("IP", "src_addr"), ("IP", "dst_addr")})


class Source(msgspec.Struct, frozen=True):
    """Where a condition's values come from: a kind of reading, a name within it, and the metadata paths it reads."""

    kind: str
    name: str
    reads: tuple[tuple[str, ...], ...]

    def is_hidden(self, hidden: Hidden) -> bool:
        """Are its values not to be shown?"""
        if self.kind == "headers":
            return any(map(searcher(compile_regex(self.name, True)), hidden.fields))
        if self.kind == "query":
            return not hidden.query
        for path in self.reads:
            if path[:2] == HEADERS and (len(path) < 3 or path[2].lower() in hidden.fields):
                return True
            if path[:2] == ("HTTP", "url") and self.kind == "value" and not hidden.query:
                return True
        return False

    def __str__(self) -> str:
        if self.kind == "value" and self.reads:
            return _plainly(self.reads[0]) or self.name
        return LABELS[self.kind].format(self.name)


LABELS = {
    "value": "{}",
    "address": "{}",
    "header": "header {}",
    "headers": "a header whose name matches {!r}",
    "path": "path",
    "query": "query parameter {}",
    "cookie": "cookie {}",
    "baggage": "baggage member {}",
    "tracestate": "tracestate member {}",
    "host": "host",
    "sni": "server name (SNI)",
    "source": "client address",
}

VALUES = {
    ("HTTP", "url", "path"): "path",
    ("HTTP", "url", "query"): "query",
    ("HTTP", "url", "host"): "host",
    ("HTTP", "method"): "method",
    ("HTTP", "version"): "HTTP version",
}
"""Metadata paths that l7mp's predicates and `raw: true` name, as the other conditions call what is there."""


def _plainly(pieces: tuple[str, ...]) -> str:
    """What is at a metadata path, in words; "" where there are none but the path itself."""
    if pieces[:2] == HEADERS and len(pieces) == 3:
        return f"header {pieces[2]}"
    return VALUES.get(pieces, "")


_NOTHING: tuple[object, ...] = ()

SHARED = 1024
"""How many sources, readers and needs are kept to be shared by the rules that look at the same."""


@lru_cache(SHARED)
def value_at(pieces: tuple[str, ...]) -> Source:
    """The value at a metadata path, as l7mp's predicates see it. "/" alone is undefined, as recorded."""
    kind = "address" if pieces in _ADDRESSES else "value"
    return Source(kind, "/" + "/".join(pieces), (pieces,) if pieces else ())


@lru_cache(SHARED)
def header_source(name: str) -> Source:
    """The header of this lower-case name, as `matchHeader` sees it."""
    return Source("header", name, ((*HEADERS, name),))


def headers_of(meta: object) -> dict[str, object]:
    """The headers by lower-case name; none when there are none or they are no object."""
    http = meta.get("HTTP") if isinstance(meta, dict) else None
    headers = http.get("headers") if isinstance(http, dict) else None
    return headers if isinstance(headers, dict) else {}


def joined(value: object) -> str | None:
    """A header's value as one text; None when there is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and value:
        return ", ".join(item for item in value if isinstance(item, str))
    return None


def members(value: str) -> list[str]:
    """The list of a header's value (RFC 9110 section 5.6.1): blanks around and empty members dropped, each once."""
    return list(dict.fromkeys(filter(None, (member.strip(" \t") for member in value.split(",")))))


def whole_and_members(value: object) -> Sequence[object]:
    """The values of a header: the whole field, and each member when it is a list."""
    text = joined(value)
    if text is None:
        return _NOTHING
    return (text,) if "," not in text else (text, *members(text))


def _mapped(value: object) -> Sequence[object]:
    """Both spellings of an IPv4 address: plain, and mapped into IPv6 (RFC 4291 section 2.5.5.2), as l7mp shows it."""
    if not isinstance(value, str):
        return (value,)
    if value.startswith("::ffff:") and "." in value:
        return (value[7:], value)
    return (value,) if ":" in value or "." not in value else (value, "::ffff:" + value)


def _pairs(text: str, separator: str) -> Iterator[tuple[str, str]]:
    for member in text.split(separator):
        name, equals, value = member.partition("=")
        if equals:
            yield name.strip(" \t"), value.strip(" \t")  # and no byte that is a space in Latin-1


def _host_name(value: object) -> str:
    """A host without its port, lower case, without the dot of the root."""
    if not isinstance(value, str):
        return ""
    host = value.partition("]")[0].lstrip("[") if value.startswith("[") else value.partition(":")[0]
    return host.lower().rstrip(".")


def _query_text(meta: object) -> str:
    raw = walk(meta, RAW_PATH)
    return raw.partition("?")[2] if isinstance(raw, str) else ""


def _address_number(value: object) -> tuple[int, int] | None:
    """(4 or 6, number) of an address; a mapped one is IPv4, a zone is ignored."""
    if not isinstance(value, str):
        return None
    text = value[7:] if value.startswith("::ffff:") and "." in value else value.partition("%")[0]
    version = 6 if ":" in text else 4
    try:
        packed = socket.inet_pton(socket.AF_INET6 if version == 6 else socket.AF_INET, text)
    except (OSError, ValueError):
        return None
    if version == 6 and packed[:12] == b"\0" * 10 + b"\xff\xff":
        version, packed = 4, packed[12:]
    return version, int.from_bytes(packed, "big")


Pairs = Callable[[object], Iterable[tuple[str, str]]]


def _query(meta: object) -> Iterable[tuple[str, str]]:
    text = _query_text(meta)
    return parse_qsl(text, keep_blank_values=True, errors="replace") if text else ()


def _cookies(meta: object) -> Iterable[tuple[str, str]]:
    return _pairs(joined(headers_of(meta).get("cookie")) or "", ";")


def _baggage(meta: object) -> Iterable[tuple[str, str]]:
    text = readable(joined(headers_of(meta).get("baggage")) or "")
    return ((name, unquote(value.partition(";")[0].strip(" \t"), errors="replace")) for name, value in _pairs(text, ","))


def _tracestate(meta: object) -> Iterable[tuple[str, str]]:
    return _pairs(joined(headers_of(meta).get("tracestate")) or "", ",")


PAIRS: dict[str, Pairs] = {"query": _query, "cookie": _cookies, "baggage": _baggage, "tracestate": _tracestate}
"""Kinds of sources that are members of one text: all of its members, with their names."""


@lru_cache(SHARED)
def reader(source: Source) -> Reader:
    """A function from metadata to the values that this source has there; a condition holds when one of them satisfies it."""
    name = source.name
    pieces = source.reads[0] if source.reads else ()

    def value(meta: object) -> Sequence[object]:
        found = walk(meta, pieces) if pieces else MISSING
        return _NOTHING if found is MISSING else (found,)

    def address(meta: object) -> Sequence[object]:
        found = walk(meta, pieces)
        return _NOTHING if found is MISSING else _mapped(found)

    def header(meta: object) -> Sequence[object]:
        return whole_and_members(headers_of(meta).get(name))

    def headers(meta: object) -> Sequence[object]:
        found = [v for n, v in headers_of(meta).items() if isinstance(n, str) and search(n)]
        return [v for values in map(whole_and_members, found) for v in values]

    def path(meta: object) -> Sequence[object]:
        raw = walk(meta, RAW_PATH)
        normal = normal_path(raw) if isinstance(raw, str) else None
        return _NOTHING if normal is None else (normal,)

    def member(meta: object) -> Sequence[object]:
        return [v for n, v in pairs(meta) if n == name]

    def cookie(meta: object) -> Sequence[object]:
        text = joined(headers_of(meta).get("cookie"))
        return member(meta) if text and name in text else _NOTHING

    def host(meta: object) -> Sequence[object]:
        # The target's host comes before the Host field (RFC 9112 section 3.2.2); the listener put it into the url.
        found = _host_name(walk(meta, ("HTTP", "url", "host"))) or _host_name(headers_of(meta).get("host"))
        return (found,) if found else _NOTHING

    def sni(meta: object) -> Sequence[object]:
        found = _host_name(walk(meta, ("TLS", "sni")))
        return (found,) if found else _NOTHING

    def client(meta: object) -> Sequence[object]:
        found = _address_number(walk(meta, ("IP", "src_addr")))
        return (found,) if found else _NOTHING

    pairs = PAIRS.get(source.kind, _query)
    search = searcher(compile_regex(name, fold=True)) if source.kind == "headers" else bool
    readers: dict[str, Reader] = {
        "value": value,
        "address": address,
        "header": header,
        "headers": headers,
        "path": path,
        "query": member,
        "cookie": cookie,
        "baggage": member,
        "tracestate": member,
        "host": host,
        "sni": sni,
        "source": client,
    }
    return readers[source.kind]


# What a decision depends on.

NORMAL = Needs(url=True, path=True)
"""Of a rule on the normal form of paths."""
_PEER = frozenset({"IP", "TCP", "UDP", "UNIX", "TLS"})


def total(parts: Iterable[Needs]) -> Needs:
    """All of them together."""
    return _total(frozenset({id(part): part for part in parts}.values()))


@lru_cache(SHARED)
def _total(parts: frozenset[Needs]) -> Needs:
    return reduce(or_, parts, Needs()) if len(parts) != 1 else next(iter(parts))


@lru_cache(SHARED)
@lru_cache(256)
def needs_of(path: tuple[str, ...]) -> Needs:
    """What reading one metadata path needs."""
    if path[0] in _PEER:
        return Needs(peer=True)
    if path == ("HTTP",):
        return Needs(headers=None, method=True, url=True, other=True)
    if path[0] != "HTTP" or path[1] == "version":
        return Needs(other=True)
    if path[1] == "headers":
        return Needs(headers=frozenset(path[2:3]) or None)
    if path[1] in ("method", "url"):
        return Needs(method=path[1] == "method", url=path[1] == "url")
    return Needs(other=True)
