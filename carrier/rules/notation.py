"""From what a person wrote to conditions: three notations, one tree.

l7mp's JSON predicates (`{"op": ...}`, draft-snell-json-test-07 as l7mp runs it), `matchX: {...}` conditions, Gefyra's rules
(`{"any": [[...], ...]}` with `raw: true`). Every problem is found, with its place and a near miss. What was chosen where the sources
leave it open:

- `matchPath` sees `normal_path`; exact is equality; prefix is a *plain string* prefix, as Gefyra's is: it is the wider reading, so
  neither `/admin;x` nor `/admin%2F` slips past a rule for the prefix `/admin` (`/administrator` matches too; write `/admin/` to be
  narrow). `;` is an ordinary character of a path (RFC 3986 section 3.3), so exact `/admin` takes neither `/admin;x` nor `/admin/`.
- Header values (cookies, tracestate members) are bytes. What is wanted of them is written as text and means its UTF-8 bytes, which is what
  clients send; l7mp's predicates see a character for each byte, as l7mp's do.
- Regular expressions are RE2 and search anywhere, in all notations; anchor with ^ and $.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Literal, cast
from urllib.parse import quote

import msgspec

from carrier.core.metadata import MISSING, pieces_of, received
from carrier.errors import ConfigError, Problem, Problems, did_you_mean, shown
from carrier.rules.checks import SHAPES, TYPES, Net, compile_regex, is_number
from carrier.rules.condition import Condition, Group, Leaf, Node, all_of, any_of
from carrier.rules.inputs import HEADERS, METHODS, OF_BYTES, RAW_PATH, Source, header_source, value_at
from carrier.rules.target import normal_path

MAX_DEPTH = 32  # nesting of a match and of the values in it
MAX_REGEX = 1024  # characters
# RE2 is linear in the text but, out of DFA memory, also in the program: 2,000 instructions and an 8 KiB field stay near 0.1 s.
MAX_PROGRAM = 2000


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
FIRST_ORDER = (
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
SECOND_ORDER: dict[str, Literal["all", "any", "none"]] = {"and": "all", "or": "any", "not": "none"}
_PREDICATE_KEYS = ("op", "path", "value", "apply", "ignore_case")
SAFE = "/%:@!$&'()*+,;=~-._"
"""Characters of a path that need no escape."""
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch  # RFC 9110 section 5.6.2
_HOLDERS = (dict, list, tuple)
_ENDS_A_FIELD = re.compile(r"[\r\n\0]").search


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
        self.problems = Problems()

    def refuse(self, path: str, message: str, seen: object = MISSING, allowed: Sequence[str] | str = (), hint: str = "") -> Node:
        listed = allowed if isinstance(allowed, str) else ", ".join(allowed)
        if not hint and not isinstance(allowed, str) and isinstance(seen, str):
            hint = did_you_mean(seen, allowed)
        if seen is not MISSING and repr(seen) not in message:
            message = f"{message}, got {shown(seen)}"
        self.problems.append(Problem(message, path, seen="" if seen is MISSING else shown(seen, 200), allowed=listed, hint=hint))
        return _NEVER

    def match(self, match: object, path: str, depth: int) -> Node:
        if match is None or (isinstance(match, str) and depth == 0):
            return _WILDCARD
        if depth > MAX_DEPTH or (depth == 0 and not _shallow(match, MAX_DEPTH)):
            return self.refuse(path, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(match, list | tuple):
            return all_of([self.match(part, f"{path}[{i}]", depth + 1) for i, part in enumerate(match)])
        if not isinstance(match, dict):
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
        return any_of([self.match(part, f"{path}[{i}]", depth + 1) for i, part in enumerate(listed)])

    # matchX

    def conditions(self, match: Mapping[str, object], path: str) -> Node:
        if not match:
            return self.refuse(path, "an empty match never matches", allowed=(*_KINDS, "any", "op"), hint='write "*" for a wildcard')
        parts = []
        for name, body in match.items():
            where = f"{path}.{name}"
            if name not in _KINDS:
                parts.append(self.refuse(where, f"unknown condition {name!r}", name, (*_KINDS, "any", "op")))
            elif not isinstance(body, dict) and self.is_short(name, body):
                parts.append(self.condition(name, {_KINDS[name].required[0]: body}, where))
            elif not isinstance(body, dict):
                parts.append(self.refuse(where, f"{name} is an object", body, _KINDS[name].required))
            else:
                parts.append(self.condition(name, dict(body), where))
        return all_of(parts)

    @staticmethod
    def is_short(name: str, body: object) -> bool:
        """Is it the one thing that this condition needs, without an object around it: `matchSource: 10.0.0.0/8`?"""
        required = _KINDS[name].required
        return len(required) == 1 and (isinstance(body, str) or (required[0] in ("method", "cidr") and isinstance(body, list)))

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
        if type(value) is str and value:
            return
        listed = key in ("method", "cidr") and isinstance(value, list) and bool(value)
        if key not in body:
            self.refuse(path, f"{kind} needs {key!r}")
        elif not all(isinstance(item, str) for item in (cast("list[object]", value) if listed else [value])):
            self.refuse(f"{path}.{key}", "expected text", value, hint="quote it" if is_number(value) else "")
        elif not value and key != "value":
            self.refuse(f"{path}.{key}", "must not be empty", value)

    def leaf(self, source: Source, body: dict[str, object], key: str, path: str) -> Node:
        """A condition on text with a `type`."""
        op, want = _OPS[str(body["type"])], str(body[key])
        if op == "matches" and not self.regex(want, f"{path}.{key}"):
            return _NEVER
        if source.kind not in OF_BYTES or op == "matches":
            return Leaf(source, op, want)
        if _ENDS_A_FIELD(want):
            return self.refuse(f"{path}.{key}", "no header has CR, LF or NUL in its value (RFC 9110 section 5.5): this never matches", want)
        return Leaf(source, op, received(want), shown=None if want.isascii() else shown(want, 200))

    def regex(self, pattern: str, path: str, fold: bool = False) -> bool:
        if len(pattern) > MAX_REGEX:
            self.refuse(path, f"a regular expression of {len(pattern)} characters", allowed=f"at most {MAX_REGEX}")
            return False
        try:
            size = compile_regex(pattern, fold).programsize
        except ValueError as exc:
            hint = "RE2 has no look-around and no backreferences" if re.search(r"\(\?[=!<]|\\[1-9]", pattern) else ""
            self.refuse(path, f"not an RE2 regular expression: {exc}", pattern, hint=hint)
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
            return self.leaf(Source("headers", name, (HEADERS,)), body, "value", path)
        if not _TOKEN(name):
            return self.refuse(f"{path}.name", "not a header name (RFC 9110 section 5.1)", name)
        if body["type"] == "exact" and value != value.strip(" \t"):
            return self.refuse(f"{path}.value", "a header's value has no spaces around it: this never matches", value)
        return self.leaf(header_source(name.lower()), body, "value", path)

    def matchPath(self, body: dict[str, object], path: str) -> Node:
        if body["raw"]:
            return self.leaf(value_at(RAW_PATH), body, "path", path)
        source = Source("path", "", (RAW_PATH,))
        if body["type"] == "regex":
            return self.leaf(source, body, "path", path)
        want = str(body["path"])
        where = f"{path}.path"
        if "?" in want:
            return self.refuse(where, "the path is matched without its query", want, hint="use matchQuery")
        normal = normal_path(want)
        if normal is None and want[0] == "/" and normal_path(quote(want, safe=SAFE)) is not None:
            return Leaf(source, _OPS[str(body["type"])], want)  # no request has it in this spelling, which is said (rules/spelling.py)
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
            elif method.upper() != method and method.upper() in METHODS:
                self.refuse(f"{path}.method", "methods are case-sensitive", method, hint=f"did you mean {method.upper()!r}?")
        source = value_at(("HTTP", "method"))
        return Leaf(source, "test", methods[0]) if len(methods) == 1 else Leaf(source, "in", methods)

    def matchQuery(self, body: dict[str, object], path: str) -> Node:
        return self.leaf(Source("query", str(body["name"]), (RAW_PATH,)), body, "value", path)

    def matchCookie(self, body: dict[str, object], path: str) -> Node:
        return self.leaf(Source("cookie", str(body["name"]), ((*HEADERS, "cookie"),)), body, "value", path)

    def matchBaggage(self, body: dict[str, object], path: str) -> Node:
        return self.leaf(Source("baggage", str(body["name"]), ((*HEADERS, "baggage"),)), body, "value", path)

    def matchTracestate(self, body: dict[str, object], path: str) -> Node:
        return self.leaf(Source("tracestate", str(body["name"]), ((*HEADERS, "tracestate"),)), body, "value", path)

    def matchHost(self, body: dict[str, object], path: str) -> Node:
        return self.host(Source("host", "", (("HTTP", "url", "host"), (*HEADERS, "host"))), body, "host", path)

    def matchSni(self, body: dict[str, object], path: str) -> Node:
        return self.host(Source("sni", "", (("TLS", "sni"),)), body, "sni", path)

    def host(self, source: Source, body: dict[str, object], key: str, path: str) -> Node:
        if body["type"] == "regex":
            return self.leaf(source, body, key, path)
        want = str(body[key]).lower().rstrip(".")
        if want.startswith("*."):
            return self.refuse(f"{path}.{key}", "no wildcards here", body[key], hint=f'write {want[1:]!r} with type "suffix"')
        if (
            not want.strip(".")
            or re.search(r"[\s?#@]", want)
            or (":" in want and not want.startswith("[") and want.count(":") == 1)
            or "/" in want
        ):
            return self.refuse(f"{path}.{key}", "not a host name (without port)", body[key])
        return Leaf(source, _OPS[str(body["type"])], want.strip("[]"))

    def matchSource(self, body: dict[str, object], path: str) -> Node:
        listed = _texts(body["cidr"])
        nets = [net for net in (self.network(text, f"{path}.cidr") for text in listed) if net]
        return Leaf(Source("source", "", (("IP", "src_addr"),)), "within", tuple(sorted(nets)), shown=", ".join(listed))

    def network(self, text: str, path: str) -> Net | None:
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
        if not isinstance(predicate, dict) or not isinstance(predicate.get("op"), str):
            return self.refuse(path, 'a predicate is an object with "op"', predicate)
        if depth > MAX_DEPTH:
            return self.refuse(path, f"nested deeper than {MAX_DEPTH} levels")
        op = predicate["op"]
        if op not in FIRST_ORDER and op not in SECOND_ORDER:
            return self.refuse(f"{path}.op", "unknown operator", op, (*FIRST_ORDER, *SECOND_ORDER))
        if self.strict:
            for key in predicate:
                if key not in _PREDICATE_KEYS:
                    self.refuse(f"{path}.{key}", f"unknown key {key!r}", key, _PREDICATE_KEYS)
            if not isinstance(predicate.get("ignore_case", False), bool):
                self.refuse(f"{path}.ignore_case", "expected true or false", predicate["ignore_case"])
        if op in SECOND_ORDER:
            return self.second_order(op, predicate, path, base, depth)
        pieces = self.pieces(predicate, path, base)
        return _NEVER if pieces is None else self.first_order(op, predicate, path, pieces)

    def second_order(self, op: str, predicate: Mapping[str, object], path: str, base: tuple[str, ...], depth: int) -> Node:
        listed = predicate.get("apply")
        if not isinstance(listed, list | tuple):
            return self.refuse(path, f"{op} needs a list of predicates in apply", *((listed,) if "apply" in predicate else ()))
        written = predicate.get("path")
        if self.strict and not isinstance(written, str | None):
            return self.refuse(f"{path}.path", "expected text", written)
        if written:
            pieces = self.pieces(predicate, path, base)
            if pieces is None:
                return _NEVER
            base = pieces
        parts = [self.predicate(part, f"{path}.apply[{i}]", base, depth + 1) for i, part in enumerate(listed)]
        if not parts:
            return _WILDCARD  # and, or, not of nothing are all true, as recorded
        return all_of(parts) if op == "and" else any_of(parts) if op == "or" else Group("none", parts)

    def pieces(self, predicate: Mapping[str, object], path: str, base: tuple[str, ...]) -> tuple[str, ...] | None:
        """The absolute metadata path. l7mp throws the first piece away: a path without leading slash loses its first name."""
        written = predicate.get("path")
        if not isinstance(written, str) or not written:
            self.refuse(path, "needs a path, such as /HTTP/method", *(() if written is None else (written,)))
            return None
        if self.strict and not written.startswith("/"):
            self.refuse(f"{path}.path", "a path begins with /", written, hint=f"did you mean {'/' + written!r}?")
        pieces = base + pieces_of(written[written.find("/") :] if "/" in written else "")
        if self.strict and pieces[:2] == HEADERS and pieces[2:3] and pieces[2] != pieces[2].lower():
            self.refuse(f"{path}.path", "header names are lower case in the metadata", written, hint=f"did you mean {written.lower()!r}?")
        return pieces

    def first_order(self, op: str, predicate: Mapping[str, object], path: str, pieces: tuple[str, ...]) -> Node:
        fold = bool(predicate.get("ignore_case"))
        if op in ("defined", "undefined"):
            return Leaf(value_at(pieces), op)
        if "value" not in predicate:
            return self.refuse(path, f"{op} needs a value")
        want = predicate["value"]
        where = f"{path}.value"
        if not _shallow(want, MAX_DEPTH):
            return self.refuse(where, f"nested deeper than {MAX_DEPTH} levels")
        if op in ("less", "more") and not is_number(want):
            return self.refuse(where, "expected a number", want)
        if op in ("in", "intersects") and not isinstance(want, list):
            return self.refuse(where, "expected a list", want)
        if op in ("starts", "ends", "matches", "type") and not isinstance(want, str):
            return self.refuse(where, "expected text", want)
        if op == "type" and want not in TYPES and want not in SHAPES:
            return self.refuse(where, "unknown type", want, (*TYPES, *SHAPES))
        if op == "matches" and not self.regex(cast(str, want), where, fold):
            return _NEVER
        return Leaf(value_at(pieces), op, want, fold)


def _texts(value: object) -> list[str]:
    """A text or a list of texts, as a list."""
    return cast("list[str]", value if isinstance(value, list) else [value])


def _shallow(value: object, depth: int) -> bool:
    """Are no more than so many objects and lists inside one another?"""
    level = [value] if isinstance(value, _HOLDERS) else []
    while level and depth > 0:
        depth -= 1
        inner = (one for here in level for one in (here.values() if isinstance(here, dict) else cast("list[object]", here)))
        level = [one for one in inner if isinstance(one, _HOLDERS)]
    return not level
