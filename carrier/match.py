"""Rules compiled to an index: which rule takes a session, and why.

A match is compiled once into a small tree of conditions (`Leaf`, `Group`); each leaf reads one thing from the session's metadata
(`Source`) and checks what it read. A `Matcher` writes a rule list as a list of entries, one for each alternative (an AND of conditions),
and hangs every entry on one of its equalities or prefixes in a hash table, so that finding the first rule costs the same for one rule
and for a thousand; entries without such a condition are tried in order. The same conditions answer `explain` and find the rules that
can never fire. Nothing here does I/O, and no metadata, however odd, makes `first` or `explain` raise.

Three notations, one tree: l7mp's JSON predicates (`{"op": ...}`, draft-snell-json-test-07 as l7mp runs it), `matchX: {...}`
conditions, Gefyra's rules (`{"any": [[...], ...]}` with `raw: true`). What was chosen where the sources leave it open:

- `matchPath` sees `normal_path`; exact is equality; prefix is a *plain string* prefix, as Gefyra's is: it is the wider reading, so
  neither `/admin;x` nor `/admin%2F` slips past a rule for the prefix `/admin` (`/administrator` matches too; write `/admin/` to be
  narrow). `;` is an ordinary character of a path (RFC 3986 section 3.3), so exact `/admin` takes neither `/admin;x` nor `/admin/`.
- A field that came on several lines is one value joined by ", " (RFC 9110 section 5.3). `matchHeader` holds when the whole value *or
  any one member of the list* does: a second line cannot carry a request past a rule. l7mp's predicates see the joined value only.
- Regular expressions are RE2 and search anywhere, in all notations; anchor with ^ and $.
- A query parameter, cookie or baggage member that comes several times matches when any of its values does.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import islice
from operator import or_
from typing import Any, Literal, cast
from urllib.parse import parse_qsl, unquote

import msgspec
import re2

from carrier.errors import ConfigError, Problem

MAX_DEPTH = 32  # nesting of a match and of the values in it
MAX_REGEX = 1024  # characters
# RE2 is linear in the text but, out of DFA memory, also in the program: 2,000 instructions and an 8 KiB field stay near 0.1 s.
MAX_PROGRAM = 2000
MAX_REGEX_MEMBERS = 64  # members of one header tried by one regular expression; more than that, only the whole value counts

Held = Callable[[object], bool]


# --- the metadata tree -------------------------------------------------------------------------------------------------------------


class _Missing:
    def __repr__(self) -> str:
        return "undefined"


_MISSING = _Missing()


def _pieces(path: str) -> tuple[str, ...]:
    return tuple(piece for piece in path.split("/") if piece)


def _child(tree: object, piece: str) -> object:
    if isinstance(tree, dict):
        return tree.get(piece, _MISSING)
    if isinstance(tree, list) and piece.isascii() and piece.isdigit() and len(piece) < 10 and int(piece) < len(tree):
        return tree[int(piece)]
    return _MISSING


def _walk(tree: object, pieces: Iterable[str]) -> object:
    for piece in pieces:
        tree = _child(tree, piece)
        if tree is _MISSING:
            return _MISSING
    return tree


def get_at(tree: object, path: str, default: object = None) -> Any:
    """The value at a metadata path (`/HTTP/headers/x-user`), else `default`.

    As l7mp's Rule.getAtPath: with or without a leading or trailing slash; "/" is the whole tree.
    """
    value = _walk(tree, _pieces(path))
    return default if value is _MISSING else value


def set_at(tree: object, path: str, value: object) -> Any:
    """A tree like `tree` with `value` at `path`; the given tree is not changed, untouched branches are shared.

    As l7mp's Rule.setAtPath: objects are made on the way, what is not an object and stands in the way is replaced by one, a numeric
    piece is an ordinary key (an index in an array that has it), and "/" replaces the whole tree.
    """
    return _set(tree, _pieces(path), value)


def _set(tree: object, pieces: tuple[str, ...], value: object) -> object:
    if not pieces:
        return value
    piece, rest = pieces[0], pieces[1:]
    below = _child(tree, piece)
    new = _set(below, rest, value)
    if isinstance(tree, list) and below is not _MISSING:
        return [*tree[: int(piece)], new, *tree[int(piece) + 1 :]]
    return {**tree, piece: new} if isinstance(tree, dict) else {piece: new}


# --- the normal form of a path -----------------------------------------------------------------------------------------------------

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PLAIN = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/]*").fullmatch  # pchar and "/" but no escapes, RFC 3986 section 3.3
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]*(.*)", re.S).fullmatch
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})|([\"<>\[\]^`{|}])|(%|[^!-~]|[\\#])")
# Bytes that only an overlong UTF-8 form has, or begins with (RFC 3629 section 3): lenient decoders make ASCII of them.
_OVERLONG = re.compile(r"%C[01]|%E0%[89]|%F0%8")
_HIDDEN_DOTS = re.compile(r"(?:^|/|%2F|%5C)\.\.?(?:$|/|;|%2F|%5C)")


def normal_path(raw: str, *, merge_slashes: bool = True) -> str | None:
    """The RFC 3986 normal form of a request target's path, without the query; None when it has none that all servers agree on.

    Escapes of unreserved characters are decoded, the others upper case (section 6.2.2); dot segments removed (5.2.4); `%2F` stays
    encoded; characters that only sloppy clients send bare (``"<>[]^`{|}``) become escapes; absolute form gives its path; "*" stays.
    Repeated slashes are one by default: most servers behind a proxy read `//admin` as `/admin`, and a rule must see what they see.

    None: broken escapes, controls (also escaped), spaces, bytes above 127, "#", backslash, overlong UTF-8, neither "/" nor absolute;
    and what servers read differently: dot segments with parameters (`/..;/`) or between encoded slashes (`/x%2F../`), and (when
    merging) `//..`. The query is not looked at.
    """
    path = raw if "?" not in raw else raw[: raw.index("?")]
    # The common case, in four C calls: nothing to decode, to merge or to remove.
    if path[:1] == "/" and "/." not in path and "//" not in path and _PLAIN(path):
        return path
    if path[:1] != "/":
        if path == "*":
            return path
        absolute = _ABSOLUTE(path)
        if absolute is None:
            return None
        path = absolute[1] or "/"
    return _normal(path, merge_slashes)


def _normal(path: str, merge: bool) -> str | None:
    bad = False

    def decoded(found: re.Match[str]) -> str:
        nonlocal bad
        digits, bare, wrong = found.groups()
        if bare:
            return f"%{ord(bare):02X}"
        byte = int(digits, 16) if digits else 0
        bad = bad or wrong is not None or byte < 32 or byte == 127
        return chr(byte) if byte in _UNRESERVED else f"%{byte:02X}"

    path = _ESCAPE.sub(decoded, path)
    if bad or ("%" in path and _OVERLONG.search(path)):
        return None
    if "/." in path or "%2F." in path or "%5C." in path:
        plain = _without_dots(path)
        if _HIDDEN_DOTS.search(plain):
            return None
        if merge and "//" in path and _without_dots(_merged(path)) != _merged(plain):
            return None
        path = plain
    return _merged(path) if merge else path


def _merged(path: str) -> str:
    return re.sub("//+", "/", path) if "//" in path else path


def _without_dots(path: str) -> str:
    """RFC 3986 section 5.2.4 for a path that begins with "/"."""
    out: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del out[-1:]
        elif segment != ".":
            out.append(segment)
    if segments[-1] in (".", ".."):
        out.append("")
    return "/" + "/".join(out)


# --- sources: what a condition looks at --------------------------------------------------------------------------------------------

_HEADERS = ("HTTP", "headers")
_RAW_PATH = ("HTTP", "url", "path")
_ADDRESSES = frozenset({("IP", "src_addr"), ("IP", "dst_addr")})


class Source(msgspec.Struct, frozen=True):
    """Where a condition's values come from: a kind of reading, a name within it, and the metadata paths it reads."""

    kind: str
    name: str
    reads: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        return _LABELS[self.kind].format(self.name)


_LABELS = {
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

_NOTHING: tuple[object, ...] = ()


def _at(pieces: tuple[str, ...]) -> Source:
    """The value at a metadata path, as l7mp's predicates see it. "/" alone is undefined, as recorded."""
    kind = "address" if pieces in _ADDRESSES else "value"
    return Source(kind, "/" + "/".join(pieces), (pieces,) if pieces else ())


def _header_source(name: str) -> Source:
    return Source("header", name, ((*_HEADERS, name),))


def _headers_of(meta: object) -> dict[str, object]:
    http = meta.get("HTTP") if isinstance(meta, dict) else None
    headers = http.get("headers") if isinstance(http, dict) else None
    return headers if isinstance(headers, dict) else {}


def _joined(value: object) -> str | None:
    """A header's value as one text; None when there is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and value:
        return ", ".join(item for item in value if isinstance(item, str))
    return None


def _members(value: str) -> list[str]:
    """The list of a header's value (RFC 9110 section 5.6.1): blanks around and empty members dropped, each once."""
    return list(dict.fromkeys(filter(None, (member.strip(" \t") for member in value.split(",")))))


def _whole_and_members(value: object) -> Sequence[object]:
    text = _joined(value)
    if text is None:
        return _NOTHING
    return (text,) if "," not in text else (text, *_members(text))


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
            yield name.strip(), value.strip()


def _host_name(value: object) -> str:
    """A host without its port, lower case, without the dot of the root."""
    if not isinstance(value, str):
        return ""
    host = value.partition("]")[0].lstrip("[") if value.startswith("[") else value.partition(":")[0]
    return host.lower().rstrip(".")


def _query_text(meta: object) -> str:
    raw = _walk(meta, _RAW_PATH)
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


def _reader(source: Source) -> Callable[[object], Sequence[object]]:
    """A function from metadata to the values that this source has there; a condition holds when one of them satisfies it."""
    name = source.name
    pieces = source.reads[0] if source.reads else ()

    def value(meta: object) -> Sequence[object]:
        found = _walk(meta, pieces) if pieces else _MISSING
        return _NOTHING if found is _MISSING else (found,)

    def address(meta: object) -> Sequence[object]:
        found = _walk(meta, pieces)
        return _NOTHING if found is _MISSING else _mapped(found)

    def header(meta: object) -> Sequence[object]:
        return _whole_and_members(_headers_of(meta).get(name))

    def headers(meta: object) -> Sequence[object]:
        found = [v for n, v in _headers_of(meta).items() if isinstance(n, str) and search(n)]
        return [v for values in map(_whole_and_members, found) for v in values]

    def path(meta: object) -> Sequence[object]:
        raw = _walk(meta, _RAW_PATH)
        normal = normal_path(raw) if isinstance(raw, str) else None
        return _NOTHING if normal is None else (normal,)

    def query(meta: object) -> Sequence[object]:
        text = _query_text(meta)
        return [v for n, v in parse_qsl(text, keep_blank_values=True, errors="replace") if n == name] if text else _NOTHING

    def cookie(meta: object) -> Sequence[object]:
        text = _joined(_headers_of(meta).get("cookie")) or ""
        return [v for n, v in _pairs(text, ";") if n == name] if name in text else _NOTHING

    def baggage(meta: object) -> Sequence[object]:
        text = _joined(_headers_of(meta).get("baggage")) or ""
        return [unquote(v.partition(";")[0].strip(), errors="replace") for n, v in _pairs(text, ",") if n == name]

    def tracestate(meta: object) -> Sequence[object]:
        text = _joined(_headers_of(meta).get("tracestate")) or ""
        return [v for n, v in _pairs(text, ",") if n == name]

    def host(meta: object) -> Sequence[object]:
        # The target's host comes before the Host field (RFC 9112 section 3.2.2); the listener put it into the url.
        found = _host_name(_walk(meta, ("HTTP", "url", "host"))) or _host_name(_headers_of(meta).get("host"))
        return (found,) if found else _NOTHING

    def sni(meta: object) -> Sequence[object]:
        found = _host_name(_walk(meta, ("TLS", "sni")))
        return (found,) if found else _NOTHING

    def client(meta: object) -> Sequence[object]:
        found = _address_number(_walk(meta, ("IP", "src_addr")))
        return (found,) if found else _NOTHING

    search = _searcher(_compiled(name, fold=True)) if source.kind == "headers" else bool
    readers: dict[str, Callable[[object], Sequence[object]]] = {
        "value": value,
        "address": address,
        "header": header,
        "headers": headers,
        "path": path,
        "query": query,
        "cookie": cookie,
        "baggage": baggage,
        "tracestate": tracestate,
        "host": host,
        "sni": sni,
        "source": client,
    }
    return readers[source.kind]


# --- checks: what a condition asks of a value --------------------------------------------------------------------------------------

_ASKS = {
    "test": "is",
    "starts": "starts with",
    "ends": "ends with",
    "contains": "contains",
    "matches": "matches",
    "defined": "is there",
    "undefined": "is not there",
    "less": "is less than",
    "more": "is more than",
    "in": "is one of",
    "type": "is of type",
    "contained": "has the member",
    "intersects": "has a member among",
    "suffix": "is or is below",
    "within": "is in",
}

_TYPES: dict[str, Callable[[object], bool]] = {
    "string": lambda v: isinstance(v, str),
    "number": lambda v: _is_number(v),
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "undefined": lambda v: False,  # a value that is there is defined; absence is seen to by Leaf
}
_DATE, _TIME = r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])", r"[0-2]\d:[0-5]\d:[0-6]\d(?:\.\d+)?(?:Z|[+-][0-2]\d:[0-5]\d)"
_SHAPES = {
    "date": _DATE,  # RFC 3339 section 5.6
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "lang": r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*",  # RFC 5646 section 2.1, without its registry
    "lang-range": r"(?:\*|[A-Za-z]{1,8})(?:-(?:\*|[A-Za-z0-9]{1,8}))*",  # RFC 4647 section 2.2
    "iri": r"[A-Za-z][A-Za-z0-9+.\-]*:[^\s<>\"{}|\\^`]+",  # RFC 3987; l7mp wants a scheme here too
    "absolute-iri": r"(?i:https?)://[^\s<>\"{}|\\^`/?#]+[^\s<>\"{}|\\^`]*",  # l7mp: a web address
}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _folded(value: object, fold: bool) -> object:
    return value.lower() if fold and isinstance(value, str) else value


def _same(a: object, b: object, fold: bool = False) -> bool:
    """Deep equality as JSON has it: no coercion, and True is not 1 as it is in Python."""
    if isinstance(a, str) and isinstance(b, str):
        return a == b or (fold and a.lower() == b.lower())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y, fold) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(v, b[k], fold) for k, v in a.items())
    return bool(a == b) if _is_number(a) and _is_number(b) else a is b


def _frozen(value: object) -> object:
    """Something hashable that is equal for equal JSON values, and only for those."""
    if isinstance(value, dict):
        return "{}", frozenset((name, _frozen(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return "[]", tuple(map(_frozen, value))
    return (type(value).__name__, str(value)) if not _is_number(value) else ("number", value)


def _compiled(pattern: str, fold: bool = False) -> Any:
    """An RE2 object. Raises re2.error, with its reason."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    options.case_sensitive = not fold
    return re2.compile(pattern, options)


def _searcher(regex: Any) -> Callable[[object], bool]:
    search = regex.search  # the compiled object's own method: the module's functions look it up in a cache each time

    def searched(value: object) -> bool:
        # Bytes in, so that RE2 is spared the mapping of offsets; "replace" because a lone surrogate must not raise.
        return isinstance(value, str) and search(value.encode("utf-8", "replace")) is not None

    return searched


def _check(op: str, want: object, fold: bool) -> Callable[[object], bool]:
    """The function that says whether one value satisfies an operator. `want` has been found to be of the right shape."""
    low = _folded(want, fold)
    items = cast("list[object]", want) if isinstance(want, list) else []

    def test(v: object) -> bool:
        return _same(v, want, fold)

    def starts(v: object) -> bool:
        return isinstance(v, str) and isinstance(low, str) and (v.lower() if fold else v).startswith(low)

    def ends(v: object) -> bool:
        return isinstance(v, str) and isinstance(low, str) and (v.lower() if fold else v).endswith(low)

    def contains(v: object) -> bool:
        if isinstance(v, list):
            return any(_same(item, want, fold) for item in v)
        return isinstance(v, str) and isinstance(low, str) and low in (v.lower() if fold else v)

    def defined(v: object) -> bool:
        return True

    def undefined(v: object) -> bool:
        return False

    def less(v: object) -> bool:
        return _is_number(v) and cast(float, v) < cast(float, want)

    def more(v: object) -> bool:
        return _is_number(v) and cast(float, v) > cast(float, want)

    def among(v: object) -> bool:
        return any(_same(v, item, fold) for item in items)

    def contained(v: object) -> bool:
        return isinstance(v, list) and any(_same(item, want, fold) for item in v)

    def intersects(v: object) -> bool:
        return isinstance(v, list) and any(_same(a, b, fold) for a in v for b in items)

    def suffix(v: object) -> bool:
        # ".example.org": hosts below it; "example.org": itself too.
        name = str(want)
        return isinstance(v, str) and (v.endswith(name) and v != name if name[0] == "." else v == name or v.endswith("." + name))

    def within(v: object) -> bool:
        if not isinstance(v, tuple):
            return False
        return any(version == v[0] and number <= v[1] <= last for version, number, last in cast("tuple[_Net, ...]", want))

    if op == "matches":
        return _searcher(_compiled(str(want), fold))
    if op == "type":
        shape = _SHAPES.get(str(want))
        if shape is None:
            return _TYPES[str(want)]
        full = re.compile(shape).fullmatch
        return lambda v: isinstance(v, str) and full(v) is not None
    checks = (test, starts, ends, contains, defined, undefined, less, more, contained, intersects, suffix, within)
    return {"in": among, **{check.__name__: check for check in checks}}[op]


_Net = tuple[int, int, int]


# --- conditions --------------------------------------------------------------------------------------------------------------------


class Leaf:
    """One condition: a source, an operator, the value wanted, and whether case is ignored."""

    __slots__ = ("absent", "check", "fold", "held", "key", "op", "read", "shown", "source", "want")

    def __init__(self, source: Source, op: str, want: object = None, fold: bool = False, shown: str | None = None) -> None:
        self.source = source
        self.op = op
        self.want = want
        self.fold = fold
        self.shown = shown if shown is not None else _shown(want)
        self.key: object = (source, op, _frozen(want), fold)
        self.read = _reader(source)
        self.check = _check(op, want, fold)
        self.absent = op == "undefined" or (op == "type" and want == "undefined")
        self.held: Held = self._held()

    def _held(self) -> Held:
        read, check, want = self.read, self.check, self.want
        if self.absent:
            return lambda meta: not read(meta)
        if self.source.kind == "header" and isinstance(want, str) and not self.fold and self.op in ("test", "starts"):
            return _header_held(self.source.name, want, check)
        if self.op == "matches":
            return lambda meta: any(map(check, islice(read(meta), MAX_REGEX_MEMBERS + 1)))

        return lambda meta: any(map(check, read(meta)))

    @property
    def text(self) -> str:
        """In words: `header x-user is "john"`."""
        wanted = "" if self.op in ("defined", "undefined") else f" {self.shown}"
        return f"{self.source} {_ASKS[self.op]}{wanted}" + (" (in any case)" if self.fold else "")


def _header_held(name: str, want: str, check: Callable[[object], bool]) -> Held:
    """The common header conditions. The list is only taken apart when what is wanted is somewhere in it."""

    def held(meta: object) -> bool:
        value = _joined(_headers_of(meta).get(name))
        if value is None:
            return False
        return check(value) or ("," in value and want in value and any(map(check, _members(value))))

    return held


class Group:
    """Conditions taken together: all of them, any of them, or none of them."""

    __slots__ = ("held", "key", "op", "parts")

    def __init__(self, op: Literal["all", "any", "none"], parts: Sequence[Node]) -> None:
        self.op = op
        self.parts = tuple(parts)
        self.key: object = (op, frozenset(part.key for part in parts))
        self.held: Held = self._held()

    def _held(self) -> Held:
        tests = tuple(part.held for part in self.parts)
        if self.op == "all" and len(tests) == 2:  # by far the most usual, and a generator costs more than both tests
            one, two = tests
            return lambda meta: one(meta) and two(meta)
        if self.op == "all":
            return lambda meta: all(test(meta) for test in tests)
        if self.op == "any":
            return lambda meta: any(test(meta) for test in tests)
        return lambda meta: not any(test(meta) for test in tests)

    @property
    def text(self) -> str:
        if not self.parts:
            return "nothing" if self.op == "any" else "anything"
        if self.op == "none":
            return "not (" + " or ".join(part.text for part in self.parts) + ")"
        texts = [f"({part.text})" if isinstance(part, Group) and part.op != "none" else part.text for part in self.parts]
        return (" and " if self.op == "all" else " or ").join(texts)


Node = Leaf | Group
Conjunction = tuple[Node, ...]


def _all(parts: Iterable[Node]) -> Node:
    flat: list[Node] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Group) and part.op == "all" else (part,))
    return flat[0] if len(flat) == 1 else Group("all", flat)


def _any(parts: Sequence[Node]) -> Node:
    return parts[0] if len(parts) == 1 else Group("any", parts)


def _alternatives(node: Node) -> list[Conjunction]:
    """The ORs at the top of a condition taken apart: a list of ANDs. ORs below an AND stay as they are, so nothing multiplies."""
    if isinstance(node, Group) and node.op == "any":
        return [conjunction for part in node.parts for conjunction in _alternatives(part)]
    if isinstance(node, Group) and node.op == "all":
        return [node.parts]
    return [(node,)]


def _leaves(node: Node) -> Iterator[Leaf]:
    if isinstance(node, Leaf):
        yield node
    else:
        for part in node.parts:
            yield from _leaves(part)


class Needs(msgspec.Struct, frozen=True):
    """Which inputs any rule looks at, so that a listener knows what a remembered decision depends on.

    headers: lower-case names, None for all of them. method; url: the request target (and host). peer: anything below IP, TCP, UDP,
    UNIX or TLS. other: anything else, also the HTTP version: such decisions must not be remembered by head.
    """

    headers: frozenset[str] | None = frozenset()
    method: bool = False
    url: bool = False
    peer: bool = False
    other: bool = False

    def __or__(self, more: Needs) -> Needs:
        headers = None if self.headers is None or more.headers is None else self.headers | more.headers
        return Needs(headers, self.method or more.method, self.url or more.url, self.peer or more.peer, self.other or more.other)


_PEER = frozenset({"IP", "TCP", "UDP", "UNIX", "TLS"})


def _needs(path: tuple[str, ...]) -> Needs:
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


class ConditionReport(msgspec.Struct, frozen=True):
    """One condition against one session: what was asked, what was there, and how near it came.

    seen is None when there was nothing. parts: the conditions inside a group ("any of", "none of").
    """

    text: str
    held: bool
    seen: str | None = None
    wanted: str = ""
    near: str = ""
    parts: tuple[ConditionReport, ...] = ()


class Condition:
    """A compiled match. `holds(meta)` decides; `text` says it in words; `needs` says what it looks at."""

    __slots__ = ("_ways", "alternatives", "holds", "key", "needs", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.holds: Held = node.held
        self.alternatives = _alternatives(node)
        self.key: object = frozenset(frozenset(part.key for part in conjunction) for conjunction in self.alternatives)
        self.needs = Needs()
        for leaf in _leaves(node):
            for path in leaf.source.reads:
                self.needs |= _needs(path)
        self._ways: tuple[_Way, ...] | None = None

    @property
    def ways(self) -> tuple[_Way, ...]:
        """For each alternative: itself, the condition that it is found by, and the others. Made when first asked for, then kept: a rule
        list of which one rule changes is indexed anew as a whole."""
        if self._ways is None:
            self._ways = tuple(map(_way, self.alternatives))
        return self._ways

    @property
    def text(self) -> str:
        return self.node.text

    @property
    def always(self) -> bool:
        """It holds for every session."""
        return any(not conjunction for conjunction in self.alternatives)

    def explain(self, meta: object) -> tuple[ConditionReport, ...]:
        """A report for each condition of the AND that this match is; it holds when all of them do."""
        top = self.node.parts if isinstance(self.node, Group) and self.node.op == "all" else (self.node,)
        return tuple(_report(part, meta) for part in top)


# --- compiling: from what a person wrote to conditions -----------------------------------------------------------------------------


class _Kind(msgspec.Struct, frozen=True):
    """The keys of one `matchX` object: those that must be there, those that may, and the values of `type` (the first is the default)."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    types: tuple[str, ...] = ()


_TEXT_TYPES = ("exact", "prefix", "regex")
_NAME_TYPES = ("exact", "suffix", "regex")
_KINDS = {
    "matchHeader": _Kind(("name", "value"), ("raw",), _TEXT_TYPES),
    "matchPath": _Kind(("path",), ("raw",), _TEXT_TYPES),
    "matchMethod": _Kind(("method",)),
    "matchQuery": _Kind(("name", "value"), (), _TEXT_TYPES),
    "matchCookie": _Kind(("name", "value"), (), _TEXT_TYPES),
    "matchBaggage": _Kind(("name", "value"), (), _TEXT_TYPES),
    "matchTracestate": _Kind(("name", "value"), (), _TEXT_TYPES),
    "matchHost": _Kind(("host",), (), _NAME_TYPES),
    "matchSni": _Kind(("sni",), (), _NAME_TYPES),
    "matchSource": _Kind(("cidr",)),
}
_OPS = {"exact": "test", "prefix": "starts", "suffix": "suffix", "regex": "matches"}
_FIRST_ORDER = (
    "contains",
    "defined",
    "undefined",
    "ends",
    "starts",
    "less",
    "more",
    "in",
    "matches",
    "test",
    "type",
    "contained",
    "intersects",
)
_SECOND_ORDER: dict[str, Literal["all", "any", "none"]] = {"and": "all", "or": "any", "not": "none"}
_PREDICATE_KEYS = ("op", "path", "value", "apply", "ignore_case")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch  # RFC 9110 section 5.6.2


def compile_match(match: object, *, path: str = "", strict: bool = True) -> Condition:
    """Compile a match in any of the three notations.

    path: where the match stands, for the messages. strict: refuse in a predicate also what l7mp lets pass (unknown keys, a path
    without its leading slash, a header name that is not lower case). Raises ConfigError with every problem found.
    """
    compiler = _Compiler(strict)
    node = compiler.match(match, path, 0)
    if compiler.problems:
        raise ConfigError(*compiler.problems)
    return Condition(node)


_WILDCARD = Group("all", ())
_NEVER = Group("any", ())


class _Compiler:
    """Reads one match and collects every problem in it; what has a problem reads as "never" and is thrown away at the end."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.problems: list[Problem] = []

    def refuse(self, path: str, message: str, seen: object = _MISSING, allowed: Sequence[str] | str = (), hint: str = "") -> Node:
        listed = allowed if isinstance(allowed, str) else ", ".join(allowed)
        if not hint and not isinstance(allowed, str) and isinstance(seen, str):
            hint = _did_you_mean(seen, allowed)
        self.problems.append(Problem(message, path, seen="" if seen is _MISSING else _shown(seen), allowed=listed, hint=hint))
        return _NEVER

    def match(self, match: object, path: str, depth: int) -> Node:
        if match is None or (isinstance(match, str) and depth == 0):
            return _WILDCARD
        if depth > MAX_DEPTH or not _shallow(match, MAX_DEPTH):
            return self.refuse(path, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(match, list | tuple):
            return _all([self.match(part, f"{path}[{i}]", depth + 1) for i, part in enumerate(match)])
        if not isinstance(match, Mapping):
            return self.refuse(path, "a match is an object, a list of objects or a wildcard", match)
        if "op" in match:
            return self.predicate(match, path, (), depth)
        if set(match) == {"match"}:
            inner = match["match"]
            return _WILDCARD if isinstance(inner, str) else self.match(inner, f"{path}.match", depth + 1)
        if set(match) == {"any"}:
            return self.alternatives(match["any"], f"{path}.any", depth)
        return self.conditions(match, path)

    def alternatives(self, listed: object, path: str, depth: int) -> Node:
        if not isinstance(listed, list | tuple):
            return self.refuse(path, "expected a list of alternatives", listed)
        return _any([self.match(part, f"{path}[{i}]", depth + 1) for i, part in enumerate(listed)])

    # matchX

    def conditions(self, match: Mapping[str, object], path: str) -> Node:
        if not match:
            return self.refuse(path, "an empty match never matches", allowed=(*_KINDS, "any", "op"), hint='write "*" for a wildcard')
        parts = []
        for name, body in match.items():
            where = f"{path}.{name}"
            if name not in _KINDS:
                parts.append(self.refuse(where, f"unknown condition {name!r}", name, (*_KINDS, "any", "op")))
            elif not isinstance(body, Mapping):
                parts.append(self.refuse(where, f"{name} is an object", body, _KINDS[name].required))
            else:
                parts.append(self.condition(name, dict(body), where))
        return _all(parts)

    def condition(self, kind: str, body: dict[str, object], path: str) -> Node:
        keys = _KINDS[kind]
        if kind in ("matchBaggage", "matchTracestate") and "key" in body and "name" not in body:
            body["name"] = body.pop("key")
        before = len(self.problems)
        allowed = (*keys.required, *keys.optional, *(("type",) if keys.types else ()))
        for key in body:
            if key not in allowed:
                self.refuse(f"{path}.{key}", f"unknown key {key!r}", key, allowed)
        for key in keys.required:
            self.required(kind, key, body, path)
        if keys.types and body.setdefault("type", keys.types[0]) not in keys.types:
            self.refuse(f"{path}.type", "unknown type", body["type"], keys.types)
        if not isinstance(body.setdefault("raw", False), bool):
            self.refuse(f"{path}.raw", "expected true or false", body["raw"])
        if len(self.problems) > before:
            return _NEVER
        return cast(Node, getattr(self, kind)(body, path))

    def required(self, kind: str, key: str, body: dict[str, object], path: str) -> None:
        value = body.get(key)
        listed = key in ("method", "cidr") and isinstance(value, list) and bool(value)
        if key not in body:
            self.refuse(path, f"{kind} needs {key!r}")
        elif not all(isinstance(item, str) for item in (cast("list[object]", value) if listed else [value])):
            self.refuse(f"{path}.{key}", "expected text", value, hint="quote it" if _is_number(value) else "")
        elif not value and key != "value":
            self.refuse(f"{path}.{key}", "must not be empty", value)

    def leaf(self, source: Source, body: dict[str, object], key: str, path: str) -> Node:
        """A condition on text with a `type`."""
        op, want = _OPS[str(body["type"])], str(body[key])
        if op == "matches" and not self.regex(want, f"{path}.{key}"):
            return _NEVER
        return Leaf(source, op, want)

    def regex(self, pattern: str, path: str, fold: bool = False) -> bool:
        if len(pattern) > MAX_REGEX:
            self.refuse(path, f"a regular expression of {len(pattern)} characters", allowed=f"at most {MAX_REGEX}")
            return False
        try:
            size = _compiled(pattern, fold).programsize
        except (re2.error, UnicodeError) as exc:
            hint = "RE2 has no look-around and no backreferences" if re.search(r"\(\?[=!<]|\\[1-9]", pattern) else ""
            self.refuse(path, f"not an RE2 regular expression: {_reason(exc)}", pattern, hint=hint)
            return False
        if size > MAX_PROGRAM:
            self.refuse(path, f"the regular expression compiles to {size} instructions", pattern, f"at most {MAX_PROGRAM}")
            return False
        return True

    def matchHeader(self, body: dict[str, object], path: str) -> Node:
        name, value = str(body["name"]), str(body["value"])
        if body["raw"] and body["type"] == "regex":
            # Gefyra searches its expression in every name as well. Names have no case, whatever upstream does (RFC 9110 section 5.1).
            if not self.regex(name, f"{path}.name", fold=True):
                return _NEVER
            return self.leaf(Source("headers", name, (_HEADERS,)), body, "value", path)
        if not _TOKEN(name):
            return self.refuse(f"{path}.name", "not a header name (RFC 9110 section 5.1)", name)
        if body["type"] == "exact" and value != value.strip(" \t"):
            return self.refuse(f"{path}.value", "a header's value has no spaces around it: this never matches", value)
        return self.leaf(_header_source(name.lower()), body, "value", path)

    def matchPath(self, body: dict[str, object], path: str) -> Node:
        if body["raw"]:
            return self.leaf(_at(_RAW_PATH), body, "path", path)
        source = Source("path", "", (_RAW_PATH,))
        if body["type"] == "regex":
            return self.leaf(source, body, "path", path)
        want = str(body["path"])
        where = f"{path}.path"
        if "?" in want:
            return self.refuse(where, "the path is matched without its query", want, hint="use matchQuery")
        normal = normal_path(want)
        if normal is None or want[0] not in "/*":
            return self.refuse(where, "not a valid path", want, hint=f"did you mean {'/' + want!r}?" if normal_path("/" + want) else "")
        if body["type"] == "prefix" and want.rsplit("/", 1)[-1] in (".", ".."):
            return self.refuse(where, "a prefix cannot end in a dot segment: those are gone from a path when it is matched", want)
        return Leaf(source, _OPS[str(body["type"])], normal)

    def matchMethod(self, body: dict[str, object], path: str) -> Node:
        methods = _texts(body["method"])
        for method in methods:
            if not _TOKEN(method):
                self.refuse(f"{path}.method", "not a method (RFC 9110 section 9.1)", method)
            elif method.upper() != method and method.upper() in (
                "GET",
                "HEAD",
                "POST",
                "PUT",
                "DELETE",
                "PATCH",
                "OPTIONS",
                "TRACE",
                "CONNECT",
            ):
                self.refuse(f"{path}.method", "methods are case-sensitive", method, hint=f"did you mean {method.upper()!r}?")
        source = _at(("HTTP", "method"))
        return Leaf(source, "test", methods[0]) if len(methods) == 1 else Leaf(source, "in", methods)

    def matchQuery(self, body: dict[str, object], path: str) -> Node:
        return self.leaf(Source("query", str(body["name"]), (_RAW_PATH,)), body, "value", path)

    def matchCookie(self, body: dict[str, object], path: str) -> Node:
        return self.leaf(Source("cookie", str(body["name"]), ((*_HEADERS, "cookie"),)), body, "value", path)

    def matchBaggage(self, body: dict[str, object], path: str) -> Node:
        return self.leaf(Source("baggage", str(body["name"]), ((*_HEADERS, "baggage"),)), body, "value", path)

    def matchTracestate(self, body: dict[str, object], path: str) -> Node:
        return self.leaf(Source("tracestate", str(body["name"]), ((*_HEADERS, "tracestate"),)), body, "value", path)

    def matchHost(self, body: dict[str, object], path: str) -> Node:
        return self.host(Source("host", "", (("HTTP", "url", "host"), (*_HEADERS, "host"))), body, "host", path)

    def matchSni(self, body: dict[str, object], path: str) -> Node:
        return self.host(Source("sni", "", (("TLS", "sni"),)), body, "sni", path)

    def host(self, source: Source, body: dict[str, object], key: str, path: str) -> Node:
        if body["type"] == "regex":
            return self.leaf(source, body, key, path)
        want = str(body[key]).lower().rstrip(".")
        if want.startswith("*."):
            return self.refuse(f"{path}.{key}", "no wildcards here", body[key], hint=f'write {want[1:]!r} with type "suffix"')
        if not want.strip(".") or (":" in want and not want.startswith("[") and want.count(":") == 1) or "/" in want:
            return self.refuse(f"{path}.{key}", "not a host name (without port)", body[key])
        return Leaf(source, _OPS[str(body["type"])], want.strip("[]"))

    def matchSource(self, body: dict[str, object], path: str) -> Node:
        listed = _texts(body["cidr"])
        nets = [net for net in (self.network(text, f"{path}.cidr") for text in listed) if net]
        return Leaf(Source("source", "", (("IP", "src_addr"),)), "within", tuple(sorted(nets)), shown=", ".join(listed))

    def network(self, text: str, path: str) -> _Net | None:
        try:
            network = ipaddress.ip_network(text)
        except ValueError as exc:
            hint = ""
            if "host bits" in str(exc):
                hint = f"did you mean {ipaddress.ip_network(text, strict=False)}?"
            self.refuse(path, "not a network in CIDR notation", text, "10.0.0.0/8, 2001:db8::/32, ...", hint)
            return None
        first, last = int(network[0]), int(network[-1])
        mapped = 0xFFFF << 32
        if network.version == 6 and mapped <= first and last <= mapped | 0xFFFFFFFF:
            return 4, first - mapped, last - mapped
        return network.version, first, last

    # l7mp's predicates

    def predicate(self, predicate: object, path: str, base: tuple[str, ...], depth: int) -> Node:
        if not isinstance(predicate, Mapping) or not isinstance(predicate.get("op"), str):
            return self.refuse(path, 'a predicate is an object with "op"', predicate)
        if depth > MAX_DEPTH:
            return self.refuse(path, f"nested deeper than {MAX_DEPTH} levels")
        op = predicate["op"]
        if op not in _FIRST_ORDER and op not in _SECOND_ORDER:
            return self.refuse(f"{path}.op", "unknown operator", op, (*_FIRST_ORDER, *_SECOND_ORDER))
        if self.strict:
            for key in predicate:
                if key not in _PREDICATE_KEYS:
                    self.refuse(f"{path}.{key}", f"unknown key {key!r}", key, _PREDICATE_KEYS)
        if op in _SECOND_ORDER:
            return self.second_order(op, predicate, path, base, depth)
        pieces = self.pieces(predicate, path, base)
        return _NEVER if pieces is None else self.first_order(op, predicate, path, pieces)

    def second_order(self, op: str, predicate: Mapping[str, object], path: str, base: tuple[str, ...], depth: int) -> Node:
        listed = predicate.get("apply")
        if not isinstance(listed, list | tuple):
            return self.refuse(path, f"{op} needs a list of predicates in apply")
        if predicate.get("path"):
            pieces = self.pieces(predicate, path, base)
            if pieces is None:
                return _NEVER
            base = pieces
        parts = [self.predicate(part, f"{path}.apply[{i}]", base, depth + 1) for i, part in enumerate(listed)]
        if not parts:
            return _WILDCARD  # and, or, not of nothing are all true, as recorded
        return _all(parts) if op == "and" else _any(parts) if op == "or" else Group("none", parts)

    def pieces(self, predicate: Mapping[str, object], path: str, base: tuple[str, ...]) -> tuple[str, ...] | None:
        """The absolute metadata path. l7mp throws the first piece away: a path without leading slash loses its first name."""
        written = predicate.get("path")
        if not isinstance(written, str) or not written:
            self.refuse(path, "needs a path, such as /HTTP/method", *(() if written is None else (written,)))
            return None
        if self.strict and not written.startswith("/"):
            self.refuse(f"{path}.path", "a path begins with /", written, hint=f"did you mean {'/' + written!r}?")
        pieces = base + _pieces(written[written.find("/") :] if "/" in written else "")
        if self.strict and pieces[:2] == _HEADERS and pieces[2:3] and pieces[2] != pieces[2].lower():
            self.refuse(f"{path}.path", "header names are lower case in the metadata", written, hint=f"did you mean {written.lower()!r}?")
        return pieces

    def first_order(self, op: str, predicate: Mapping[str, object], path: str, pieces: tuple[str, ...]) -> Node:
        fold = bool(predicate.get("ignore_case"))
        if op in ("defined", "undefined"):
            return Leaf(_at(pieces), op)
        if "value" not in predicate:
            return self.refuse(path, f"{op} needs a value")
        want = predicate["value"]
        where = f"{path}.value"
        if not _shallow(want, MAX_DEPTH):
            return self.refuse(where, f"nested deeper than {MAX_DEPTH} levels")
        if op in ("less", "more") and not _is_number(want):
            return self.refuse(where, "expected a number", want)
        if op in ("in", "intersects") and not isinstance(want, list):
            return self.refuse(where, "expected a list", want)
        if op in ("starts", "ends", "matches", "type") and not isinstance(want, str):
            return self.refuse(where, "expected text", want)
        if op == "type" and want not in _TYPES and want not in _SHAPES:
            return self.refuse(where, "unknown type", want, (*_TYPES, *_SHAPES))
        if op == "matches" and not self.regex(cast(str, want), where, fold):
            return _NEVER
        return Leaf(_at(pieces), op, want, fold)


def _texts(value: object) -> list[str]:
    """A text or a list of texts, as a list."""
    return cast("list[str]", value if isinstance(value, list) else [value])


def _shallow(value: object, depth: int) -> bool:
    if isinstance(value, Mapping):
        return depth > 0 and all(_shallow(item, depth - 1) for item in value.values())
    if isinstance(value, list | tuple):
        return depth > 0 and all(_shallow(item, depth - 1) for item in value)
    return True


def _did_you_mean(seen: str, allowed: Sequence[str]) -> str:
    import difflib  # only for messages

    close = difflib.get_close_matches(seen.lower(), [word.lower() for word in allowed], 1, 0.6)
    found = next((word for word in allowed if close and word.lower() == close[0]), None)
    return f"did you mean {found!r}?" if found else ""


def _reason(exc: Exception) -> str:
    said = exc.args[0] if exc.args else exc
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)


def _shown(value: object) -> str:
    """A value for a person: JSON where it can be, cut where it is long."""
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        text = repr(value) if isinstance(value, str) else f"({type(value).__name__})"
    return text if len(text) <= 200 else text[:197] + "..."


# --- explain: one condition against one session ------------------------------------------------------------------------------------


def _report(node: Node, meta: object) -> ConditionReport:
    if isinstance(node, Group):
        return ConditionReport(node.text, node.held(meta), parts=tuple(_report(part, meta) for part in node.parts))
    held = node.held(meta)
    values = node.read(meta)
    return ConditionReport(node.text, held, _seen(node, values, meta), node.shown, _near(node, values, held, meta))


def _seen(leaf: Leaf, values: Sequence[object], meta: object) -> str | None:
    if leaf.source.kind == "source":
        address = _walk(meta, ("IP", "src_addr"))
        return None if address is _MISSING else _shown(address)
    if not values:
        return None
    if leaf.source.kind in ("value", "address", "header", "path"):
        return _shown(values[0])  # the others are other readings of it
    return ", ".join(map(_shown, values))


def _near(leaf: Leaf, values: Sequence[object], held: bool, meta: object) -> str:
    """In plain words, why a condition did not hold, or that it held by one member of a list; "" when there is nothing to say."""
    if held:
        by_member = leaf.source.kind == "header" and len(values) > 1 and not leaf.check(values[0])
        return "the header has several values, one of them is this" if by_member else ""
    if leaf.absent:
        return "it is there"
    if not values:
        return _near_absence(leaf, meta)
    is_header = leaf.source.kind == "header" or leaf.source.reads[:1] == ((*_HEADERS, leaf.source.name.rpartition("/")[2]),)
    for value in values:
        if isinstance(value, str) and isinstance(leaf.want, str) and (said := _near_text(leaf, value, is_header)):
            return said
    if isinstance(values[0], str) and _is_number(leaf.want):
        return "the value is text, a number is wanted"
    if leaf.source.kind == "source":
        return "the address is outside"
    return "the header is there with another value" if is_header else "another value is there"


def _near_absence(leaf: Leaf, meta: object) -> str:
    kind, name = leaf.source.kind, leaf.source.name
    if kind == "path":
        return "the path has no normal form" if isinstance(_walk(meta, _RAW_PATH), str) else "there is no path"
    if kind == "header" or leaf.source.reads == ((*_HEADERS, name.rpartition("/")[2]),):
        return _near_header(name.rpartition("/")[2], meta)
    if kind in ("query", "cookie", "baggage", "tracestate"):
        return f"there is no such {_LABELS[kind].removesuffix(' {}')}"
    return f"there is no {leaf.source}" if kind != "headers" else "there is no such header"


def _near_header(name: str, meta: object) -> str:
    plain = name.lower().replace("_", "-")
    for other in _headers_of(meta):
        if isinstance(other, str) and other.lower().replace("_", "-") == plain:
            return f"there is no such header, but there is {other}"
    return "there is no such header"


def _near_text(leaf: Leaf, value: str, is_header: bool) -> str:
    """How near one text came to the text wanted."""
    want = leaf.want
    assert isinstance(want, str)
    if leaf.check(value.lower()) or (leaf.op != "matches" and _check(leaf.op, want, True)(value)):
        return "differs only in case"
    if leaf.check(value.strip()) or value.strip() == want.strip():
        return "differs only in spaces around it"
    if leaf.source.reads == (_RAW_PATH,) and leaf.source.kind in ("path", "value") and (said := _near_path(leaf, value, want)):
        return said
    if is_header and "," in value and any(map(leaf.check, _members(value))):
        return "the header came twice, or holds a list"
    return ""


def _near_path(leaf: Leaf, value: str, want: str) -> str:
    path = value.partition("?")[0]
    if path != value and leaf.check(path):
        return "path matches without the query"
    if leaf.op == "test" and path == want + "/":
        return "path matches without the trailing slash"
    if leaf.op in ("test", "starts") and path + "/" == want:
        return "path matches with a trailing slash"
    normal = normal_path(value)
    return "the normal form of the path matches" if normal is not None and normal != value and leaf.check(normal) else ""


class RuleReport(msgspec.Struct, frozen=True):
    """One rule against one session. chosen: it is the rule that takes the session. note: why it can never match, if so."""

    rule: str
    index: int
    matched: bool
    conditions: tuple[ConditionReport, ...] = ()
    chosen: bool = False
    note: str = ""


# --- findings: what is wrong with a rule list --------------------------------------------------------------------------------------


class Finding(msgspec.Struct, frozen=True):
    """A rule that is no use. index, rule: which one; other, other_rule: the earlier rule that is the reason, if one is."""

    kind: Literal["invalid", "duplicate", "never-fires"]
    index: int
    rule: str
    text: str
    other: int | None = None
    other_rule: str = ""

    def __str__(self) -> str:
        return self.text


def _implies(a: Leaf, e: Leaf) -> bool:
    """Whether every session that satisfies `a` satisfies `e`. True is certain; False may also mean "cannot tell"."""
    if a.key == e.key:
        return True
    if a.absent or (e.absent and a.source != e.source):
        return False
    if a.op == "test" and not a.fold and a.source.kind in ("value", "address") and a.source.reads and e.source.reads == a.source.reads:
        # The one field that `e` reads is known to the letter: ask it.
        return e.held(set_at({}, a.source.name, a.want))
    # matchHeader sees all that a predicate on that header sees, and the members of a list besides.
    wider = a.op == "starts" and (a.source.kind, e.source.kind) == ("value", "header") and a.source.reads == e.source.reads
    same = a.source == e.source or wider
    return same and not e.absent and _value_implies(a, e)


def _value_implies(a: Leaf, e: Leaf) -> bool:
    """The same for one value that both look at."""
    if e.op == "defined":
        return True
    folds = not a.fold or (e.fold and e.op in ("test", "starts", "ends", "contains", "in"))
    if a.op == "test":
        return folds and e.check(a.want)
    if a.op == "in":
        listed = cast("list[object]", a.want)
        return folds and bool(listed) and all(map(e.check, listed))
    if a.op in ("starts", "ends") and e.op in (a.op, "contains"):
        return folds and isinstance(e.want, str) and e.check(a.want)
    if a.op == "suffix" and e.op == "suffix":
        wide, narrow = str(e.want), str(a.want)
        # "example.org" is itself and what is below; ".example.org" only what is below.
        below = ("." + narrow.lstrip(".")).endswith("." + wide.lstrip("."))
        return below and (wide[0] != "." or narrow != wide[1:])
    if a.op == "within" and e.op == "within":
        inside, outside = cast("tuple[_Net, ...]", a.want), cast("tuple[_Net, ...]", e.want)
        return all(any(v == w and low >= first and high <= last for w, first, last in outside) for v, low, high in inside)
    if a.op == e.op == "less":
        return cast(float, a.want) <= cast(float, e.want)
    return a.op == e.op == "more" and cast(float, a.want) >= cast(float, e.want)


def _covers(wide: Conjunction, narrow: Conjunction) -> bool:
    """Whether every session that satisfies `narrow` satisfies `wide`: each condition of `wide` follows from one of `narrow`."""
    return all(any(_node_implies(a, e) for a in narrow) for e in wide)


def _node_implies(a: Node, e: Node) -> bool:
    return _implies(a, e) if isinstance(a, Leaf) and isinstance(e, Leaf) else a.key == e.key


def _contradicts(conjunction: Conjunction) -> bool:
    """Two different values wanted of one field."""
    wanted: dict[Source, object] = {}
    for leaf in conjunction:
        if isinstance(leaf, Leaf) and leaf.op == "test" and not leaf.fold and leaf.source.kind in ("value", "path", "host", "sni"):
            wanted.setdefault(leaf.source, leaf.want)
            if not _same(wanted[leaf.source], leaf.want):
                return True
    return False


class _Seen:
    """The alternatives of earlier rules, to be asked which of them covers a new one; indexed so that many rules stay cheap."""

    def __init__(self) -> None:
        self.equal: dict[tuple[Source, object], list[_Entry]] = {}
        self.starts: dict[Source, dict[str, list[_Entry]]] = {}
        self.rest: list[_Entry] = []
        # A regular expression follows only from itself, found by its key, or from known values, found by what both read.
        self.regexes: dict[object, list[_Entry]] = {}
        self.readers: dict[tuple[tuple[str, ...], ...], dict[Source, Callable[[object], Sequence[object]]]] = {}

    def add(self, entry: _Entry) -> None:
        pivot = _pivot(entry.conjunction)
        if pivot is None:
            regex = next((part for part in entry.conjunction if isinstance(part, Leaf) and part.op == "matches"), None)
            if regex is None:
                self.rest.append(entry)
            else:
                self.regexes.setdefault(regex.key, []).append(entry)
                self.regexes.setdefault(regex.source.reads, []).append(entry)
            return
        self.readers.setdefault(pivot.source.reads, {})[pivot.source] = pivot.read
        if pivot.op == "test":
            self.equal.setdefault((pivot.source, pivot.want), []).append(entry)
        else:
            self.starts.setdefault(pivot.source, {}).setdefault(cast(str, pivot.want), []).append(entry)

    def candidates(self, conjunction: Conjunction) -> Iterator[_Entry]:
        """Every earlier alternative that might cover this one, and few others."""
        yield from self.rest
        for leaf in conjunction:
            if isinstance(leaf, Leaf):
                yield from self.regexes.get(leaf.source.reads if leaf.op in ("test", "in") else leaf.key, ())
            if isinstance(leaf, Leaf) and leaf.op in ("test", "starts"):
                for source, value in self.views(leaf):
                    yield from self.equal.get((source, value), ()) if value.__class__ in _HASHED else ()
                    if isinstance(value, str) and source in self.starts:
                        prefixes = self.starts[source]
                        for length in range(len(value) + 1):
                            yield from prefixes.get(value[:length], ())

    def views(self, leaf: Leaf) -> Iterator[tuple[Source, object]]:
        """What earlier rules' sources would read where this condition holds."""
        if leaf.op == "test" and leaf.source.kind in ("value", "address"):
            tree = set_at({}, leaf.source.name, leaf.want)
            for source, read in self.readers.get(leaf.source.reads, {}).items():
                yield from ((source, value) for value in read(tree))
            return
        yield leaf.source, leaf.want
        if leaf.source.kind == "value" and leaf.source.reads and leaf.source.reads[0][:2] == _HEADERS:
            yield from ((source, leaf.want) for source in self.readers.get(leaf.source.reads, ()) if source.kind == "header")

    def covering(self, entry: _Entry) -> _Entry | None:
        """The first earlier alternative of another rule that takes all of this one's sessions."""
        found = [
            other
            for other in self.candidates(entry.conjunction)
            if other.rule != entry.rule and _covers(other.conjunction, entry.conjunction)
        ]
        return min(found, key=lambda other: other.position, default=None)


# --- the matcher -------------------------------------------------------------------------------------------------------------------


class _Entry(msgspec.Struct, frozen=True):
    """One alternative of one rule, at its place in the order of evaluation."""

    position: int
    rule: int
    conjunction: Conjunction


_METHOD = ("HTTP", "method")


def _pivot(conjunction: Conjunction) -> Leaf | None:
    """The condition that an alternative is found by: an equality on a header before other equalities, those before prefixes; an
    equality on the method only if there is nothing better, as half of all requests have the same."""
    best: tuple[int, Leaf] | None = None
    for leaf in conjunction:
        if not isinstance(leaf, Leaf) or leaf.fold:
            continue
        if leaf.op == "test" and (isinstance(leaf.want, str) or _is_number(leaf.want)) and leaf.source.reads:
            is_header = leaf.source.reads[0][:2] == _HEADERS and len(leaf.source.reads[0]) == 3
            rank = 0 if is_header else 3 if leaf.source.reads == (_METHOD,) else 1
        elif leaf.op == "starts" and leaf.source.reads:
            rank = 2
        else:
            continue
        if best is None or rank < best[0]:
            best = rank, leaf
    return best and best[1]


_Way = tuple[Conjunction, Leaf | None, Held | None]


def _way(conjunction: Conjunction) -> _Way:
    pivot = _pivot(conjunction)
    others = [part for part in conjunction if part is not pivot]
    return conjunction, pivot, _all(others).held if others else None


class Conditions:
    """Compiled matches by rule name, kept so that a change of one rule of a thousand compiles one.

    A match that is the same object is taken for unchanged: matches are never mutated.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[object, Condition | str]] = {}

    def get(self, name: str, match: object) -> Condition | str:
        """The condition, or why there is none."""
        known = self._known.get(name)
        if known is not None and known[0] is match:
            return known[1]
        made: Condition | str
        try:
            made = compile_match(match, strict=False)
        except ConfigError as exc:
            made = "; ".join(f"{p.message}; {p.hint}" if p.hint else p.message for p in exc.problems)
        self._known[name] = match, made
        return made

    def forget_all_but(self, names: Container[str]) -> None:
        for name in [name for name in self._known if name not in names]:
            del self._known[name]


_Hit = tuple[int, Held | None]  # a position, and what else must hold
_Table = dict[object, list[_Hit]]


def _earliest(hits: Sequence[_Hit], best: int, meta: object) -> int:
    for position, held in hits:
        if position >= best:
            return best
        if held is None or held(meta):
            return position
    return best


class Matcher:
    """One rule list, compiled. `first` gives the rule that takes a session.

    rules: (name, raw match) pairs. order: "first", the first rule that matches wins; "specific", the Gateway API's precedence (host,
    exact path, longest prefix, method, number of header conditions, of query conditions, then place in the list), which is by
    alternative where a match has several. A match that cannot be compiled never matches and is a finding. conditions: what other matchers
    of these rules have compiled.
    """

    def __init__(
        self,
        rules: Sequence[tuple[str, object]],
        order: Literal["first", "specific"] = "first",
        conditions: Conditions | None = None,
    ) -> None:
        self.names = tuple(name for name, _ in rules)
        self.conditions: list[Condition | None] = []
        self.reasons: dict[int, str] = {}
        known = conditions if conditions is not None else Conditions()
        for index, (name, match) in enumerate(rules):
            found = known.get(name, match)
            if isinstance(found, str):
                self.reasons[index] = found
            self.conditions.append(None if isinstance(found, str) else found)
        self.needs = reduce(or_, {condition.needs for condition in self.conditions if condition}, Needs())
        self._ways = self._ordered(order)
        self._rules: list[int | None] = [*(rule for rule, _ in self._ways), None]
        self._by_header: dict[str, list[tuple[_Table, bool]]] = {}
        self._equal: list[tuple[Callable[[object], Sequence[object]], _Table]] = []
        self._starts: list[tuple[Callable[[object], Sequence[object]], tuple[int, ...], _Table]] = []
        self._rest: list[_Hit] = []
        self._index()
        self._findings: tuple[Finding, ...] | None = None

    def _ordered(self, order: str) -> list[tuple[int, _Way]]:
        ways = [(i, way) for i, condition in enumerate(self.conditions) if condition for way in condition.ways]
        if order == "specific":
            ways.sort(key=lambda way: _specificity(way[1][0]))  # stable: the place in the list decides last
        return ways

    def _index(self) -> None:
        equal: dict[Source, _Table] = {}
        starts: dict[Source, _Table] = {}
        readers: dict[Source, Callable[[object], Sequence[object]]] = {}
        for position, (_, (_, pivot, held)) in enumerate(self._ways):
            hit = position, held
            if pivot is None:
                self._rest.append(hit)
                continue
            readers[pivot.source] = pivot.read
            table = (equal if pivot.op == "test" else starts).setdefault(pivot.source, {})
            table.setdefault(pivot.want, []).append(hit)
        for source, table in equal.items():
            path = source.reads[0]
            if source.kind in ("header", "value") and path[:2] == _HEADERS and len(path) == 3:
                self._by_header.setdefault(path[2], []).append((table, source.kind == "header"))
            else:
                self._equal.append((readers[source], table))
        for source, table in starts.items():
            lengths = sorted({len(cast(str, want)) for want in table})
            self._starts.append((readers[source], tuple(lengths), table))

    def first(self, meta: object) -> int | None:
        """The index of the rule that takes a session with this metadata, None when no rule does. Never raises."""
        best = len(self._ways)
        by_header = self._by_header
        if by_header:
            headers = _headers_of(meta)
            # Whichever is shorter: the names that rules ask for, or those that the request has.
            for name in by_header if len(by_header) <= len(headers) else [n for n in headers if n in by_header]:
                value = headers.get(name)
                if value is not None:
                    best = self._by_value(by_header[name], value, best, meta)
        for read, table in self._equal:
            for value in read(meta):
                if value.__class__ in _HASHED and value in table:
                    best = _earliest(table[value], best, meta)
        for read, lengths, table in self._starts:
            for value in read(meta):
                if isinstance(value, str):
                    for length in lengths:
                        hits = table.get(value[:length])
                        if hits is not None:
                            best = _earliest(hits, best, meta)
        return self._rules[_earliest(self._rest, best, meta)]

    @staticmethod
    def _by_value(tables: Sequence[tuple[_Table, bool]], value: object, best: int, meta: object) -> int:
        for table, members in tables:
            if isinstance(value, str):
                hits = table.get(value)
                if hits is not None:
                    best = _earliest(hits, best, meta)
                if not members or "," not in value:
                    continue
            for one in _whole_and_members(value) if members else (value,):
                if one.__class__ in _HASHED and one in table:
                    best = _earliest(table[one], best, meta)
        return best

    def text(self, index: int) -> str:
        """A rule's conditions in words: the reason given wherever a decision is shown."""
        condition = self.conditions[index]
        return condition.text if condition else f"never matches: {self.reasons[index]}"

    def explain(self, meta: object) -> list[RuleReport]:
        """Every rule in the order of the list: each condition, held or not, what was seen, what was wanted, how near it came."""
        chosen = self.first(meta)
        reports = []
        for index, (name, condition) in enumerate(zip(self.names, self.conditions, strict=True)):
            if condition is None:
                reports.append(RuleReport(name, index, False, note=f"never matches: {self.reasons[index]}"))
                continue
            listed = condition.explain(meta)
            matched = all(report.held for report in listed)
            reports.append(RuleReport(name, index, matched, listed, index == chosen, self._note(index)))
        return reports

    def _note(self, index: int) -> str:
        return next((finding.text for finding in self.findings if finding.index == index), "")

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Rules that are invalid, duplicates of an earlier one, or can never fire; in order. Sound, not complete. Made when first
        asked for, so that a change of the configuration does not wait for it."""
        if self._findings is None:
            self._findings = tuple(sorted(self._find(), key=lambda finding: finding.index))
        return self._findings

    def _find(self) -> Iterator[Finding]:
        for index, reason in self.reasons.items():
            yield Finding("invalid", index, self.names[index], f"rule {self.names[index]!r} never matches: {reason}")
        seen = _Seen()
        covers: dict[int, list[_Entry | None]] = {}
        for position, (rule, (conjunction, _, _)) in enumerate(self._ways):
            entry = _Entry(position, rule, conjunction)
            if not _contradicts(entry.conjunction):
                covers.setdefault(entry.rule, []).append(seen.covering(entry))
                seen.add(entry)
        keys: dict[object, int] = {}
        for index, condition in enumerate(self.conditions):
            if condition is None:
                continue
            same = keys.setdefault(condition.key, index)
            covering = covers.get(index, [])
            if not covering:
                why = "two of its conditions exclude each other" if condition.alternatives else "it has no alternatives"
                yield Finding("invalid", index, self.names[index], f"rule {self.names[index]!r} never matches: {why}")
            elif same != index:
                yield self._finding("duplicate", index, same)
            elif None not in covering:
                yield self._finding("never-fires", index, cast(_Entry, covering[0]).rule)

    def _finding(self, kind: Literal["duplicate", "never-fires"], index: int, other: int) -> Finding:
        name, earlier = self.names[index], self.names[other]
        if kind == "duplicate":
            text = f"rule {name!r} can never fire: rule {earlier!r} has the same conditions ({self.text(other)})"
        else:
            text = f"rule {name!r} ({self.text(index)}) can never fire: rule {earlier!r} ({self.text(other)}) takes all its sessions"
        return Finding(kind, index, name, text, other, earlier)


_HASHED = frozenset({str, int, float})


def _specificity(conjunction: Conjunction) -> tuple[int, ...]:
    """The Gateway API's precedence (HTTPRouteRule) as a sort key: smaller comes first."""
    host = exact = prefix = method = headers = query = 0
    for leaf in conjunction:
        if not isinstance(leaf, Leaf):
            continue
        text = len(leaf.want) if isinstance(leaf.want, str) else 0
        reads = leaf.source.reads[:1]
        if leaf.source.kind == "host":
            host = max(host, text + (1 << 16 if leaf.op == "test" else 0))
        elif leaf.source.kind in ("path", "value") and reads == (_RAW_PATH,):
            exact = max(exact, int(leaf.op == "test"))
            prefix = max(prefix, text if leaf.op == "starts" else 0)
        elif reads == (_METHOD,):
            method = 1
        elif leaf.source.kind == "query":
            query += 1
        elif reads and reads[0][:2] == _HEADERS:
            headers += 1
    return -host, -exact, -prefix, -method, -headers, -query


def conflict(new: tuple[str, object], existing: Sequence[tuple[str, object]]) -> Finding | None:
    """Why a new rule, put after the existing ones, would be of no use: None when it can fire.

    new, existing: (name, match). The finding's index is len(existing), its other the index of the rule that stands in the way.
    Raises ConfigError when the new match cannot be compiled.
    """
    compile_match(new[1], path="match")
    index = len(existing)
    return next((finding for finding in Matcher([*existing, new]).findings if finding.index == index), None)
