"""What a condition asks of one value: the operators, made into functions from a value to yes or no.

Equality is JSON's: no coercion, True is not 1. Regular expressions are RE2 and search anywhere; anchor with ^ and $. The operators are
those of l7mp's predicates (draft-snell-json-test-07 as l7mp runs it), and `suffix` for host names and `within` for addresses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from carrier.core.metadata import readable

Check = Callable[[object], bool]

Net = tuple[int, int, int]  # a network: 4 or 6, its first and last address as numbers

ASKS = {
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

TYPES: dict[str, Check] = {
    "string": lambda v: isinstance(v, str),
    "number": lambda v: is_number(v),
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "undefined": lambda v: False,  # a value that is there is defined; absence is seen to by Leaf
}
_DATE, _TIME = r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])", r"[0-2]\d:[0-5]\d:[0-6]\d(?:\.\d+)?(?:Z|[+-][0-2]\d:[0-5]\d)"
SHAPES = {
    "date": _DATE,  # RFC 3339 section 5.6
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "lang": r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*",  # RFC 5646 section 2.1, without its registry
    "lang-range": r"(?:\*|[A-Za-z]{1,8})(?:-(?:\*|[A-Za-z0-9]{1,8}))*",  # RFC 4647 section 2.2
    "iri": r"[A-Za-z][A-Za-z0-9+.\-]*:[^\s<>\"{}|\\^`]+",  # RFC 3987; l7mp wants a scheme here too
    "absolute-iri": r"(?i:https?)://[^\s<>\"{}|\\^`/?#]+[^\s<>\"{}|\\^`]*",  # l7mp: a web address
}


def is_number(value: object) -> bool:
    """A number as JSON has it; Python counts True among them."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _folded(value: object, fold: bool) -> object:
    return value.lower() if fold and isinstance(value, str) else value


def same(a: object, b: object, fold: bool = False) -> bool:
    """Deep equality as JSON has it: no coercion, and True is not 1 as it is in Python."""
    if isinstance(a, str) and isinstance(b, str):
        return a == b or (fold and a.lower() == b.lower())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y, fold) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(v, b[k], fold) for k, v in a.items())
    return bool(a == b) if is_number(a) and is_number(b) else a is b


def hashable(value: object) -> object:
    """Something hashable that is equal for equal JSON values, and only for those."""
    if isinstance(value, dict):
        return "{}", frozenset((name, hashable(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return "[]", tuple(map(hashable, value))
    return (type(value).__name__, str(value)) if not is_number(value) else ("number", value)


def compile_regex(pattern: str, fold: bool = False) -> Any:
    """An RE2 object. Raises ValueError, with RE2's reason."""
    import re2  # 2.5 MiB, which a proxy without regular expressions does not spend

    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    options.case_sensitive = not fold
    try:
        return re2.compile(pattern, options)
    except re2.error as exc:
        raise ValueError(_reason(exc)) from None


SET_MEMORY = 64 << 20
"""Bytes that the automaton of a set of expressions may grow to; it grows with what it is asked."""


def regex_set(patterns: list[str], fold: bool = False) -> Callable[[bytes], list[int]] | None:
    """Which of these expressions are found in a text, by their numbers. None when RE2 cannot make one automaton of them."""
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = SET_MEMORY
    options.case_sensitive = not fold
    try:
        made = re2.Set.SearchSet(options)
        for pattern in patterns:
            made.Add(pattern)
        made.Compile()
    except re2.error:
        return None
    match: Callable[[bytes], list[int]] = made.Match
    return match


def _reason(exc: Exception) -> str:
    said = exc.args[0] if exc.args else exc
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)


def searcher(regex: Any, of_bytes: bool = False) -> Check:
    """Whether a compiled expression is found anywhere in a text. of_bytes: the text stands for bytes, which are read as UTF-8."""
    search = regex.search  # the compiled object's own method: the module's functions look it up in a cache each time

    def searched(value: object) -> bool:
        # Bytes in, so that RE2 is spared the mapping of offsets; "replace" because a lone surrogate must not raise.
        return isinstance(value, str) and search(value.encode("utf-8", "replace")) is not None

    def read(value: object) -> bool:
        return isinstance(value, str) and searched(readable(value))

    return read if of_bytes else searched


def checker(op: str, want: object, fold: bool) -> Check:
    """The function that says whether one value satisfies an operator. `want` has been found to be of the right shape."""
    low = _folded(want, fold)
    items = cast("list[object]", want) if isinstance(want, list) else []

    def test(v: object) -> bool:
        return same(v, want, fold)

    def starts(v: object) -> bool:
        return isinstance(v, str) and isinstance(low, str) and (v.lower() if fold else v).startswith(low)

    def ends(v: object) -> bool:
        return isinstance(v, str) and isinstance(low, str) and (v.lower() if fold else v).endswith(low)

    def contains(v: object) -> bool:
        if isinstance(v, list):
            return any(same(item, want, fold) for item in v)
        return isinstance(v, str) and isinstance(low, str) and low in (v.lower() if fold else v)

    def defined(v: object) -> bool:
        return True

    def undefined(v: object) -> bool:
        return False

    def less(v: object) -> bool:
        return is_number(v) and cast(float, v) < cast(float, want)

    def more(v: object) -> bool:
        return is_number(v) and cast(float, v) > cast(float, want)

    def among(v: object) -> bool:
        return any(same(v, item, fold) for item in items)

    def contained(v: object) -> bool:
        return isinstance(v, list) and any(same(item, want, fold) for item in v)

    def intersects(v: object) -> bool:
        return isinstance(v, list) and any(same(a, b, fold) for a in v for b in items)

    def suffix(v: object) -> bool:
        # ".example.org": hosts below it; "example.org": itself too.
        name = str(want)
        return isinstance(v, str) and (v.endswith(name) and v != name if name[0] == "." else v == name or v.endswith("." + name))

    def within(v: object) -> bool:
        if not isinstance(v, tuple):
            return False
        return any(version == v[0] and number <= v[1] <= last for version, number, last in cast("tuple[Net, ...]", want))

    if op == "matches":
        return searcher(compile_regex(str(want), fold))
    if op == "type":
        shape = SHAPES.get(str(want))
        if shape is None:
            return TYPES[str(want)]
        full = re.compile(shape).fullmatch
        return lambda v: isinstance(v, str) and full(v) is not None
    checks = (test, starts, ends, contains, defined, undefined, less, more, contained, intersects, suffix, within)
    return {"in": among, **{check.__name__: check for check in checks}}[op]
