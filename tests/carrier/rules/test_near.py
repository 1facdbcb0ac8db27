"""Near misses: why a condition did not hold, in plain words."""

from __future__ import annotations

import pytest

from carrier.rules.match import Matcher
from tests.matching import PREDICATE, header, path, request


def near(match: object, meta: object) -> str:
    (rule,) = Matcher([("rule", match)]).explain(meta)
    return rule.conditions[0].near


@pytest.mark.parametrize(
    ("match", "meta", "said"),
    [
        (header("john"), request(x_user="John"), "differs only in case"),
        (header("john"), request(x_user="jane"), "the header is there with another value"),
        (header("john"), request(), "there is no such header"),
        (header("john"), {"HTTP": {"headers": {"x_user": "john"}}}, "there is no such header, but there is x_user"),
        (header("john"), request(x_user="jane, john"), "the header has several values, one of them is this"),
        (PREDICATE, request(x_user="jane, john"), "the header came twice, or holds a list"),
        (PREDICATE, request(x_user=" john"), "differs only in spaces around it"),
        (PREDICATE, request(x_user="max"), "the header is there with another value"),
        (path("/admin"), request("/admin/"), "path matches without the trailing slash"),
        (path("/admin/"), request("/admin"), "path matches with a trailing slash"),
        (path("/Admin"), request("/admin"), "differs only in case"),
        (path("/admin"), request("/%zz"), "the path has no normal form"),
        (path("/admin", raw=True), request("/admin?x"), "path matches without the query"),
        (path("/admin", raw=True), request("//admin"), "the normal form of the path matches"),
        ({"op": "test", "path": "/TCP/src_port", "value": 1}, {"TCP": {"src_port": "1"}}, "the value is text, a number is wanted"),
        ({"matchQuery": {"name": "a", "value": "b"}}, request("/"), "there is no such query parameter"),
        ({"matchCookie": {"name": "a", "value": "b"}}, request("/", cookie="a=c"), "another value is there"),
        ({"matchSource": {"cidr": "10.0.0.0/8"}}, request(), "the address is outside"),
        ({"matchSni": {"sni": "a"}}, request(), "there is no server name (SNI)"),
        ({"op": "undefined", "path": "/HTTP/method"}, request(), "it is there"),
        (header("john"), request(x_user="john"), ""),
    ],
)
def test_near_misses_are_told_in_plain_words(match: object, meta: object, said: str) -> None:
    assert near(match, meta) == said


def test_explain_tells_value_seen_and_value_wanted() -> None:
    matcher = Matcher(
        [("bad", {"op": "x"}), ("john", [header("john"), path("/a", "prefix")]), ("jane", header("jane")), ("late", header("jane"))]
    )
    bad, john, jane, late = matcher.explain(request("/b", x_user="jane"))
    assert bad.note.startswith("never matches: unknown operator")
    assert [(c.text, c.held, c.seen, c.wanted) for c in john.conditions] == [
        ('header x-user is "john"', False, '"jane"', '"john"'),
        ('path starts with "/a"', False, '"/b"', '"/a"'),
    ]
    assert (john.matched, jane.matched, jane.chosen, late.matched, late.chosen) == (False, True, True, True, False)
    assert "can never fire" in late.note
    assert matcher.text(1) == 'header x-user is "john" and path starts with "/a"'
    (either,) = Matcher([("e", {"any": [header("a"), path("/x")]})]).explain(request("/x"))[0].conditions
    assert either.held
    assert [part.held for part in either.parts] == [False, True]
