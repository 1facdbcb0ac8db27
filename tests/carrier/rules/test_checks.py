"""Operators: one value, one answer."""

from __future__ import annotations

import pytest

from tests.matching import holds


@pytest.mark.parametrize(
    ("op", "value", "seen", "expected"),
    [
        ("test", True, 1, False),
        ("test", 1, True, False),
        ("test", 1, 1.0, True),
        ("test", None, None, True),
        ("test", {"a": [1, "x"]}, {"a": [1, "x"]}, True),
        ("test", {"a": [1]}, {"a": [True]}, False),
        ("contains", "1", 12, False),
        ("contains", "b", ["a", "b"], True),
        ("contains", 7, "id=7", False),
        ("starts", "a", ["a"], False),
        ("ends", "abc", "bc", False),  # l7mp said True: it used the first occurrence, and one longer passed
        ("ends", "aa", "aaa", True),
        ("less", 5, "4", False),
        ("less", 5, True, False),
        ("more", 5, 5.5, True),
        ("in", [["a"], {"b": 1}], {"b": 1}, True),
        ("matches", "^a.c$", "abc", True),
        ("contained", "a", ["b", "a"], True),
        ("contained", "a", "a", False),
        ("intersects", ["x", 1], [2, 1], True),
        ("intersects", ["x"], ["y"], False),
        ("intersects", ["x"], "x", False),
        ("type", "number", 1.5, True),
        ("type", "number", True, False),
        ("type", "boolean", False, True),
        ("type", "null", None, True),
        ("type", "array", [], True),
        ("type", "string", "", True),
        ("type", "undefined", None, False),
        ("type", "date", "2026-11-21", True),
        ("type", "date", "2026-13-21", False),
        ("type", "time", "19:00:00-05:00", True),
        ("type", "date-time", "2026-11-21T10:00:00.5Z", True),
        ("type", "date-time", "2026-11-21 10:00:00Z", False),
        ("type", "lang", "en-US", True),
        ("type", "lang", "en_US", False),
        ("type", "lang-range", "ch-*", True),
        ("type", "iri", "urn:x:y", True),
        ("type", "iri", "no scheme", False),
        ("type", "absolute-iri", "https://example.org/a", True),
        ("type", "absolute-iri", "urn:x:y", False),
        ("defined", None, None, True),
        ("undefined", None, None, False),
    ],
)
def test_operators(op: str, value: object, seen: object, expected: bool) -> None:
    predicate = {"op": op, "path": "/labels/v"} | ({} if op.endswith("defined") else {"value": value})
    assert holds(predicate, {"labels": {"v": seen}}) is expected


@pytest.mark.parametrize("op", ["test", "starts", "ends", "contains", "matches"])
def test_ignore_case(op: str) -> None:
    meta = {"labels": {"v": "Straße"}}
    assert holds({"op": op, "path": "/labels/v", "value": "sTRASSE".replace("SS", "ß"), "ignore_case": True}, meta)
    assert not holds({"op": op, "path": "/labels/v", "value": "sTRASSE".replace("SS", "ß")}, meta)
    assert holds({"op": "intersects", "path": "/l", "value": ["A"], "ignore_case": True}, {"l": ["a"]})
    assert holds({"op": "test", "path": "/l", "value": ["A"], "ignore_case": True}, {"l": ["a"]})
