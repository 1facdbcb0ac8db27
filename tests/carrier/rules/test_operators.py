"""What a part of the index does where its table is no help."""

from __future__ import annotations

import pytest

from carrier.rules import checks, operators
from carrier.rules.match import Matcher


def paths(number: int) -> list[tuple[str, object]]:
    return [(f"r{i}", {"matchPath": {"path": f"^/a{i}(b|c)*d", "type": "regex"}}) for i in range(number)]


def at(path: str) -> dict[str, object]:
    return {"HTTP": {"url": {"path": path}, "headers": {}}}


def test_one_automaton_says_which_of_many_expressions_are_found() -> None:
    found = checks.regex_set(["", "^a", "b$", "c"])
    assert found is not None and sorted(found(b"acb")) == [0, 1, 2, 3] and found(b"zz") == [0]
    assert checks.regex_set(["", "HELLO"], fold=True)(b"hello") == [0, 1]  # type: ignore[misc]


def test_an_automaton_without_memory_leaves_the_expressions_to_be_tried_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    matcher = Matcher(paths(100))
    assert matcher.first(at("/a77bcd")) == 77
    monkeypatch.setattr(operators, "regex_set", lambda patterns, fold=False: None)
    assert Matcher(paths(100)).first(at("/a77bcd")) == 77
    monkeypatch.setattr(operators, "regex_set", lambda patterns, fold=False: lambda text: [])  # as RE2 does when it runs out
    assert Matcher(paths(100)).first(at("/a77bcd")) == 77


def test_a_list_of_which_a_text_is_a_member_contains_it_too() -> None:
    matcher = Matcher([(f"r{i}", {"op": "contains", "path": "/labels/l", "value": f"v{i}"}) for i in range(10)])
    assert matcher.first({"labels": {"l": ["x", "v7"]}}) == 7
    assert matcher.first({"labels": {"l": "xv7x"}}) == 7
    assert matcher.first({"labels": {"l": ["xv7x"]}}) is None


def test_of_numbers_the_first_rule_whose_bound_holds_wins() -> None:
    matcher = Matcher([(f"r{i}", {"op": "less", "path": "/TCP/src_port", "value": n}) for i, n in enumerate([10, 500, 100, 1000, 50])])
    assert [matcher.first({"TCP": {"src_port": n}}) for n in (5, 10, 99, 400, 500, 1000, True)] == [0, 1, 1, 1, 3, None, None]
