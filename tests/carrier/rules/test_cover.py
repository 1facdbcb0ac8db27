"""Rules that can never fire are found, and no others."""

from __future__ import annotations

import pytest

from carrier.rules.match import Matcher
from tests.matching import PREDICATE, header, path


def finding(earlier: object, later: object) -> str | None:
    found = [f for f in Matcher([("earlier", earlier), ("later", later)]).findings if f.rule == "later"]
    assert all(f.other_rule == "earlier" and "earlier" in f.text for f in found)
    return found[0].kind if found else None


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (None, header("john")),
        ("*", {"any": [header("a"), path("/b")]}),
        (header("john"), [header("john"), path("/a")]),
        (header("jo", "prefix"), header("john")),
        (header("jo", "prefix"), header("john", "prefix")),
        (header("^j.*n$", "regex"), header("john")),
        (path("/a", "prefix"), path("/ab")),
        (path("/a", "prefix"), path("/ab", "prefix")),
        (path("/", "prefix"), [path("/x"), header("john")]),
        (header("john"), PREDICATE),
        ({"op": "in", "path": "/HTTP/headers/x-user", "value": ["john", "jane"]}, PREDICATE),
        ({"op": "defined", "path": "/HTTP/headers/x-user"}, PREDICATE),
        ({"op": "less", "path": "/TCP/src_port", "value": 9}, {"op": "less", "path": "/TCP/src_port", "value": 8}),
        ({"op": "test", "path": "/l", "value": "JOHN", "ignore_case": True}, {"op": "test", "path": "/l", "value": "john"}),
        ({"op": "contains", "path": "/l", "value": "oh"}, {"op": "starts", "path": "/l", "value": "john"}),
        (path("/a", "prefix"), {"op": "test", "path": "/HTTP/url/path", "value": "/ab?c"}),
        ({"matchQuery": {"name": "a", "value": "1"}}, path("/x?a=1", raw=True)),
        ({"matchSource": {"cidr": "10.0.0.0/8"}}, {"matchSource": {"cidr": "10.1.0.0/16"}}),
        ({"matchSource": {"cidr": "10.0.0.0/8"}}, {"op": "test", "path": "/IP/src_addr", "value": "10.1.2.3"}),
        ({"matchHost": {"host": "org", "type": "suffix"}}, {"matchHost": {"host": "a.org"}}),
        ({"matchHost": {"host": ".org", "type": "suffix"}}, {"matchHost": {"host": ".a.org", "type": "suffix"}}),
        ({"matchMethod": {"method": ["PUT", "POST"]}}, {"matchMethod": {"method": "PUT"}}),
        ({"any": [header("john"), header("jane")]}, header("jane")),
    ],
)
def test_a_rule_that_an_earlier_one_covers_never_fires(earlier: object, later: object) -> None:
    assert finding(earlier, later) == "never-fires"
    assert finding(later, earlier) is None


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (header("john"), header("jane")),
        (header("john"), header("john", name="x-other")),
        ([header("john"), path("/a")], header("john")),
        ({"op": "starts", "path": "/HTTP/headers/x-user", "value": "jo"}, header("john", "prefix")),
        ({"op": "undefined", "path": "/HTTP/headers/x-user"}, {"op": "contains", "path": "/HTTP/headers/x-user", "value": "j"}),
        ({"op": "undefined", "path": "/l"}, header("john")),
        (PREDICATE, header("john")),  # the predicate does not see the members of a list
        ({"op": "test", "path": "/l", "value": "john"}, {"op": "test", "path": "/l", "value": "john", "ignore_case": True}),
        ({"matchHost": {"host": ".org", "type": "suffix"}}, {"matchHost": {"host": "org"}}),
        ({"any": [header("john"), path("/a")]}, {"any": [header("john"), path("/b")]}),
        ({"op": "not", "apply": [PREDICATE]}, header("x")),
    ],
)
def test_rules_that_can_fire_are_not_reported(earlier: object, later: object) -> None:
    assert finding(earlier, later) is None


def test_duplicates_are_found_whatever_their_spelling() -> None:
    assert finding([header("john", name="X-User"), path("/%61")], {**path("/a"), **header("john")}) == "duplicate"
    assert finding({"any": [header("a"), header("b")]}, {"any": [header("b"), header("a")]}) == "duplicate"
    assert finding(None, []) == "duplicate"


def test_several_earlier_rules_may_cover_one_together() -> None:
    matcher = Matcher([("a", header("a")), ("b", header("b")), ("both", {"any": [header("b"), header("a")]})])
    assert [(f.kind, f.index) for f in matcher.findings] == [("never-fires", 2)]


def test_a_rule_that_contradicts_itself_is_reported() -> None:
    (found,) = Matcher([("x", [{"matchMethod": {"method": "GET"}}, {"matchMethod": {"method": "PUT"}}])]).findings
    assert found.kind == "invalid"
    assert "exclude each other" in found.text
    (found,) = Matcher([("x", {"any": []})]).findings
    assert "no alternatives" in found.text


def test_findings_cope_with_a_predicate_whose_path_is_only_a_slash() -> None:
    matcher = Matcher([("root", {"op": "starts", "path": "/", "value": ""}), ("all", None)])
    assert matcher.findings is not None
    assert matcher.first({"HTTP": {"headers": {}}}) == 1
