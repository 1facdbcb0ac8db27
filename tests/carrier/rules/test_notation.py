"""The notations: recorded answers of l7mp and Gefyra, what is refused, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

from carrier.errors import ConfigError
from carrier.rules.match import Matcher
from carrier.rules.notation import compile_match
from tests.matching import header, holds, path, problems, request

# What a real l7mp 0.5.7 answered: rule 0 is the predicate and leads to A, rule 1 is the wildcard and leads to B.
RECORDED_REQUEST = request("/api/v1/items?id=7&x=y", src="127.0.0.1", x_user="Alice", x_num="42", cookie="session=abc", x_multi="a")


RECORDED: list[tuple[dict[str, Any], str]] = [
    ({"op": "test", "path": "/HTTP/headers/x-user", "value": "Alice"}, "A"),
    ({"op": "test", "path": "/HTTP/headers/x-user", "value": "alice"}, "B"),
    ({"op": "test", "path": "/HTTP/headers/x-user", "value": "alice", "ignore_case": True}, "A"),
    ({"op": "test", "path": "/HTTP/headers/x-num", "value": 42}, "B"),
    ({"op": "test", "path": "/HTTP/headers/x-num", "value": "42"}, "A"),
    ({"op": "test", "path": "/HTTP/method", "value": "GET"}, "A"),
    ({"op": "test", "path": "/IP/dst_addr", "value": "::ffff:127.0.0.1"}, "A"),
    ({"op": "starts", "path": "/HTTP/url/path", "value": "/api"}, "A"),
    ({"op": "starts", "path": "/HTTP/url/path", "value": "/API"}, "B"),
    ({"op": "ends", "path": "/HTTP/url/path", "value": "x=y"}, "A"),
    ({"op": "ends", "path": "/HTTP/url/path", "value": "/items"}, "B"),
    ({"op": "ends", "path": "/HTTP/headers/x-user", "value": "e"}, "A"),
    ({"op": "contains", "path": "/HTTP/url/path", "value": "items"}, "A"),
    ({"op": "contains", "path": "/HTTP/url/query", "value": "id=7"}, "A"),
    ({"op": "contains", "path": "/HTTP/headers/cookie", "value": "session="}, "A"),
    ({"op": "defined", "path": "/HTTP/headers/nope"}, "B"),
    ({"op": "undefined", "path": "/HTTP/headers/nope"}, "A"),
    ({"op": "undefined", "path": "/HTTP/headers/x-user"}, "B"),
    ({"op": "defined", "path": "/"}, "B"),
    ({"op": "less", "path": "/TCP/src_port", "value": 70000}, "A"),
    ({"op": "more", "path": "/TCP/src_port", "value": 1024}, "A"),
    ({"op": "in", "path": "/HTTP/headers/x-user", "value": ["Bob", "Alice"]}, "A"),
    ({"op": "in", "path": "/HTTP/headers/x-user", "value": "Alice"}, "B"),
    ({"op": "in", "path": "/HTTP/headers/x-user", "value": ["alice"], "ignore_case": True}, "A"),
    ({"op": "matches", "path": "/HTTP/url/path", "value": "("}, "B"),
    ({"op": "matches", "path": "/TCP/dst_port", "value": "1"}, "B"),
    ({"op": "type", "path": "/HTTP/headers", "value": "object"}, "A"),
    ({"op": "type", "path": "/nope", "value": "undefined"}, "A"),
    ({"op": "type", "path": "/HTTP/headers", "value": "array"}, "B"),
    ({"op": "contained", "path": "/HTTP/headers/x-multi", "value": "a"}, "B"),
    (
        {
            "op": "and",
            "apply": [
                {"op": "test", "path": "/HTTP/headers/x-user", "value": "Alice"},
                {"op": "starts", "path": "/HTTP/url/path", "value": "/zzz"},
            ],
        },
        "B",
    ),
    (
        {
            "op": "and",
            "path": "/HTTP/headers",
            "apply": [{"op": "test", "path": "/x-user", "value": "Alice"}, {"op": "test", "path": "/x-num", "value": "42"}],
        },
        "A",
    ),
    (
        {
            "op": "or",
            "apply": [
                {"op": "test", "path": "/HTTP/headers/x-user", "value": "Bob"},
                {"op": "test", "path": "/HTTP/headers/x-num", "value": "42"},
            ],
        },
        "A",
    ),
    ({"op": "not", "apply": []}, "A"),
    ({"op": "not", "apply": [{"op": "test", "path": "/HTTP/headers/x-user", "value": "Bob"}]}, "A"),
    (
        {
            "op": "not",
            "apply": [
                {"op": "test", "path": "/HTTP/headers/x-user", "value": "Bob"},
                {"op": "test", "path": "/HTTP/headers/x-num", "value": "42"},
            ],
        },
        "B",
    ),
    ({"op": "and"}, "B"),
    ({"op": "test", "path": "/HTTP/method"}, "B"),
    ({"op": "test", "value": "GET"}, "B"),
    ({}, "B"),
    ({"foo": 1}, "B"),
    ({"op": "test", "path": "/HTTP/headers", "value": {}}, "B"),
]


# What Gefyra's own component answers: (rules, target, headers, matched). An OR of ANDs.
GEFYRA: list[tuple[list[list[dict[str, Any]]], str, dict[str, str], bool]] = [
    ([[{"matchPath": {"path": "/my-path_123", "type": "exact"}}]], "/my-path_123", {}, True),
    ([[{"matchPath": {"path": "/my-path_123", "type": "exact"}}]], "/my-path_1234", {}, False),
    ([[{"matchPath": {"path": "/my-path_123", "type": "exact"}}]], "/my-path_123?query=1234", {}, False),
    ([[{"matchPath": {"path": "/my-path_123", "type": "prefix"}}]], "/my-path_123", {}, True),
    ([[{"matchPath": {"path": "/my-path_123", "type": "prefix"}}]], "/my-path_1234", {}, True),
    ([[{"matchPath": {"path": "/my-path_123", "type": "prefix"}}]], "/my-path_123?query=1234", {}, True),
    ([[{"matchPath": {"path": "/my-path_123", "type": "prefix"}}]], "/other-path_123", {}, False),
    ([[{"matchPath": {"path": "^/[a-z0-9-.]{2,}/michael", "type": "regex"}}]], "/my-path/michael", {}, True),
    ([[{"matchPath": {"path": "^/[a-z0-9-.]{2,}/michael", "type": "regex"}}]], "/m/michael", {}, False),
    ([[{"matchPath": {"path": "^/[a-z0-9-.]{2,}/michael", "type": "regex"}}]], "/my-path/joe", {}, False),
    ([[{"matchPath": {"path": "^/[a-z0-9-.]{2,}/michael", "type": "regex"}}]], "/", {}, False),
    ([[{"matchPath": {"path": "x-gefyra=michael", "type": "regex"}}]], "/my-path/?x-gefyra=michael", {}, True),
    ([[{"matchPath": {"path": "x-gefyra=michael", "type": "regex"}}]], "/my-path/?x-gefyra=joe", {}, False),
    ([[{"matchPath": {"path": "x-gefyra=michael", "type": "regex"}}]], "/", {}, False),
    ([[{"matchHeader": {"name": "x-gefyra", "value": "michael"}}]], "/", {"x-gefyra": "michael"}, True),
    ([[{"matchHeader": {"name": "x-gefyra", "value": "michael"}}]], "/", {"g-gefyra": "michael"}, False),
    ([[{"matchHeader": {"name": "x-gefyra", "value": "michael"}}]], "/", {"x-gefyra": "michael1"}, False),
    ([[{"matchHeader": {"name": "x-gefyra", "value": "michael", "type": "prefix"}}]], "/", {"x-gefyra": "michael123"}, True),
    ([[{"matchHeader": {"name": "x-gefyra", "value": "michael", "type": "prefix"}}]], "/", {"x-gefyra": "michael"}, True),
    ([[{"matchHeader": {"name": "x-gefyra", "value": "michael", "type": "prefix"}}]], "/", {"g-gefyra": "michael"}, False),
    ([[{"matchHeader": {"name": "x-gefyra", "value": "michael", "type": "prefix"}}]], "/", {"x-gefyra123": "michael"}, False),
    (
        [[{"matchHeader": {"name": "x-gefyra-[a-z0-9]*", "value": "michael[1-9]{0,2}$", "type": "regex"}}]],
        "/",
        {"x-gefyra-from123": "michael"},
        True,
    ),
    (
        [[{"matchHeader": {"name": "x-gefyra-[a-z0-9]*", "value": "michael[1-9]{0,2}$", "type": "regex"}}]],
        "/",
        {"x-gefyra-from123": "michael12"},
        True,
    ),
    (
        [[{"matchHeader": {"name": "x-gefyra-[a-z0-9]*", "value": "michael[1-9]{0,2}$", "type": "regex"}}]],
        "/",
        {"x-gefyra-from123": "michael123"},
        False,
    ),
    (
        [[{"matchHeader": {"name": "x-gefyra-[a-z0-9]*", "value": "michael[1-9]{0,2}$", "type": "regex"}}]],
        "/",
        {"x-gefyra-": "michael"},
        True,
    ),
    (
        [[{"matchHeader": {"name": "x-gefyra-[a-z0-9]*", "value": "michael[1-9]{0,2}$", "type": "regex"}}]],
        "/",
        {"g-gefyra": "michael"},
        False,
    ),
    (
        [[{"matchHeader": {"name": "x-gefyra-[a-z0-9]*", "value": "michael[1-9]{0,2}$", "type": "regex"}}]],
        "/",
        {"x-gefyra": "michael12"},
        False,
    ),
    (
        [[{"matchHeader": {"name": "x-gefyra-[a-z0-9]*", "value": "michael[1-9]{0,2}$", "type": "regex"}}]],
        "/",
        {"x-gefyra123": "michael"},
        False,
    ),
    (
        [
            [{"matchHeader": {"name": "x-gefyra", "value": "jon"}}, {"matchPath": {"path": "/my-path_123", "type": "exact"}}],
            [{"matchPath": {"path": "/always", "type": "exact"}}],
        ],
        "/my-path_123",
        {"x-gefyra": "jon"},
        True,
    ),
    (
        [
            [{"matchHeader": {"name": "x-gefyra", "value": "jon"}}, {"matchPath": {"path": "/my-path_123", "type": "exact"}}],
            [{"matchPath": {"path": "/always", "type": "exact"}}],
        ],
        "/my-path_123",
        {},
        False,
    ),
    (
        [
            [{"matchHeader": {"name": "x-gefyra", "value": "jon"}}, {"matchPath": {"path": "/my-path_123", "type": "exact"}}],
            [{"matchPath": {"path": "/always", "type": "exact"}}],
        ],
        "/always",
        {},
        True,
    ),
    (
        [
            [{"matchHeader": {"name": "x-gefyra", "value": "jon"}}, {"matchPath": {"path": "/my-path_123", "type": "exact"}}],
            [{"matchPath": {"path": "/always", "type": "exact"}}],
        ],
        "/never",
        {"x-gefyra": "balu"},
        False,
    ),
    ([[]], "/", {}, True),
    ([], "/", {}, False),
]


@pytest.mark.parametrize(("predicate", "selected"), RECORDED)
def test_predicates_answer_as_l7mp_was_recorded(predicate: dict[str, Any], selected: str) -> None:
    matcher = Matcher([("predicate", predicate), ("rest", {"match": "*"})])
    assert "AB"[matcher.first(RECORDED_REQUEST) or 0] == selected
    assert [report.matched for report in matcher.explain(RECORDED_REQUEST)] == [selected == "A", True]


@pytest.mark.parametrize(("rules", "target", "headers", "matched"), GEFYRA)
def test_gefyra_rules_answer_as_upstream(rules: list[list[dict[str, Any]]], target: str, headers: dict[str, str], matched: bool) -> None:
    raw = [[{kind: {**body, "raw": True} for kind, body in part.items()} for part in rule] for rule in rules]
    meta = {"HTTP": {"url": {"path": target}, "headers": headers}}
    assert holds({"any": raw}, meta) is matched
    assert holds({"any": [{"match": rule} for rule in raw]}, meta) is matched


def test_gefyra_header_names_have_no_case_and_a_bad_regex_is_refused() -> None:
    assert holds(header("jon", name="X-Gefyra", raw=True), request(x_gefyra="jon"))
    assert holds(header("jon", "regex", name="X-Gef.*", raw=True), request(x_gefyra="jon"))
    assert "missing )" in problems(path("(", "regex", raw=True))


def test_nested_second_order_predicates_add_up_their_paths() -> None:
    inner = {"op": "or", "path": "/headers", "apply": [{"op": "test", "path": "/x-a", "value": "1"}, {"op": "defined", "path": "/x-b"}]}
    predicate = {"op": "and", "path": "/HTTP", "apply": [{"op": "test", "path": "/method", "value": "GET"}, inner]}
    assert holds(predicate, request(x_b=""))
    assert not holds(predicate, request(x_c="1"))
    assert not holds(predicate, request(method="PUT", x_a="1"))


def test_two_standards_for_predicates() -> None:
    loose = {"op": "test", "path": "/HTTP/method", "value": "GET", "comment": "x"}
    assert Matcher([("l7mp lets it pass", loose)]).first(request()) == 0
    assert "unknown key 'comment'" in problems(loose)
    assert "$.match.path: expected text, got []" in problems({"op": "and", "path": [], "apply": []})
    folded = {"op": "test", "path": "/HTTP/method", "value": "get", "ignore_case": "yes"}
    assert Matcher([("so is what counts as true", folded)]).first(request()) == 0
    assert '$.match.ignore_case: expected true or false, got "yes"' in problems(folded)
    assert "did you mean '/HTTP/method'?" in problems({"op": "test", "path": "HTTP/method", "value": "GET"})
    assert "header names are lower case" in problems({"op": "defined", "path": "/HTTP/headers/X-User"})


@pytest.mark.parametrize(
    ("match", "said"),
    [
        ({}, "$.match: an empty match never matches"),
        (7, "a match is an object"),
        ({"matchHeadr": {}}, "did you mean 'matchHeader'?"),
        ({"matchHeader": "x"}, "matchHeader is an object"),
        ({"matchHeader": {"name": "a"}}, "matchHeader needs 'value'"),
        ({"matchHeader": {"name": "a b", "value": "x"}}, "not a header name"),
        ({"matchHeader": {"name": "a", "value": 7}}, "expected text, got 7; quote it"),
        ({"matchHeader": {"name": "a", "value": " x"}}, "never matches"),
        ({"matchHeader": {"name": "a", "value": "x\r\ny"}}, "$.match.matchHeader.value: no header has CR, LF or NUL in its value"),
        ({"matchHeader": {"name": "a", "value": "x\0", "type": "prefix"}}, "this never matches"),
        ({"matchCookie": {"name": "a", "value": "x\n"}}, "$.match.matchCookie.value: no header has CR, LF or NUL"),
        (
            {"matchHeader": {"name": "a", "value": "x", "tipe": "exact"}},
            "$.match.matchHeader.tipe: unknown key 'tipe' (allowed: name, value",
        ),
        ({"matchHeader": {"name": "a", "value": "x", "type": "exakt"}}, "did you mean 'exact'?"),
        (header("(?=x)", "regex"), "no look-around"),
        (header("x" * 2000, "regex"), "at most 1024"),
        (header("(\\pL{1,100}){1,10}", "regex"), "regular expression"),
        (path("admin"), "did you mean '/admin'?"),
        (path("/a?b"), "matchQuery"),
        (path("/a/..", "prefix"), "dot segment"),
        (path("/%zz"), "not a valid path"),
        ({"matchMethod": {"method": "get"}}, "did you mean 'GET'?"),
        ({"matchMethod": {"method": []}}, "expected text"),
        ({"matchHost": {"host": "*.example.org"}}, "suffix"),
        ({"matchHost": {"host": "example.org:80"}}, "without port"),
        ({"matchHost": {"host": "example org"}}, 'not a host name (without port), got "example org"'),
        ({"op": "and", "path": 5, "apply": []}, "$.match.path: expected text, got 5"),
        ({"op": "and", "apply": "x"}, 'needs a list of predicates in apply, got "x"'),
        ({"matchSource": {"cidr": "10.0.0.1/8"}}, "did you mean 10.0.0.0/8?"),
        ({"any": {}}, "expected a list of alternatives"),
        ({"op": "tset", "path": "/a", "value": 1}, "did you mean 'test'?"),
        ({"op": "less", "path": "/a", "value": "1"}, "expected a number"),
        ({"op": "in", "path": "/a", "value": "1"}, "expected a list"),
        ({"op": "type", "path": "/a", "value": "strin"}, "did you mean 'string'?"),
        ({"op": "or"}, "or needs a list of predicates"),
        ({"op": "or", "apply": [{"op": "test"}, {"op": "x"}]}, "$.match.apply[1].op: unknown operator"),
    ],
)
def test_a_bad_match_is_refused_with_place_and_reason(match: object, said: str) -> None:
    assert said in problems(match)
    matcher = Matcher([("bad", match), ("good", None)])
    assert matcher.first(request()) == 1
    if matcher.reasons:
        assert matcher.findings[0].kind == "invalid"
        assert "never matches" in matcher.explain(request())[0].note


def test_a_regex_of_hostile_size_is_refused() -> None:
    assert "at most 2000" in problems(header("(((a{1,30}){1,30})b)" * 4, "regex"))


def test_deep_nesting_is_refused_and_not_followed() -> None:
    deep: Any = {"op": "test", "path": "/a", "value": 1}
    for _ in range(5000):
        deep = {"op": "and", "apply": [deep]}
    assert "nested deeper" in problems(deep)
    value: Any = []
    for _ in range(5000):
        value = [value]
    assert "nested deeper" in problems({"op": "test", "path": "/a", "value": value})


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        compile_match([{"matchHeader": {"nam": "a"}}, path("x")], path="$")
    assert [problem.path for problem in caught.value.problems] == [
        "$[0].matchHeader.nam",
        "$[0].matchHeader",
        "$[0].matchHeader",
        "$[1].matchPath.path",
    ]


@pytest.mark.parametrize(
    "meta",
    [
        *(None, 7, "x", [], {}),
        {"HTTP": 1},
        {"HTTP": {"headers": []}},
        {"HTTP": {"headers": {1: 2, "x-user": {}}}},
        {"HTTP": {"url": {"path": 7}, "headers": {"x-user": [1, None]}}},
        {"HTTP": {"url": {"path": "/\ud800?\ud800=%ff"}, "headers": {"x-user": "\ud800", "cookie": "=;=", "baggage": "%=%"}}},
        {"IP": {"src_addr": 7}, "TLS": {"sni": []}},
        {"IP": {"src_addr": "1.2.3.4\0"}},
        {"IP": {"src_addr": "::ffff:1.2"}},
    ],
)
def test_odd_metadata_never_raises(meta: object) -> None:
    matches: list[Any] = [predicate for predicate, _ in RECORDED]
    matches += [
        header("a"),
        header("a", "prefix"),
        header("a", "regex"),
        header("a", "regex", raw=True),
        path("/a"),
        path("/a", "regex", raw=True),
    ]
    matches += [{f"match{kind}": {"name": "a", "value": "b"}} for kind in ("Query", "Cookie", "Baggage", "Tracestate")]
    matches += [{"matchHost": {"host": "a"}}, {"matchSni": {"sni": "a"}}, {"matchSource": {"cidr": "::/0"}}]
    matcher = Matcher([(str(i), match) for i, match in enumerate(matches)])
    chosen = matcher.first(meta)
    assert chosen == next((report.index for report in matcher.explain(meta) if report.matched), None)


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ({"matchSource": "10.0.0.0/8"}, {"matchSource": {"cidr": "10.0.0.0/8"}}),
        ({"matchSource": ["10.0.0.0/8", "::1/128"]}, {"matchSource": {"cidr": ["10.0.0.0/8", "::1/128"]}}),
        ({"matchHost": "a.test"}, {"matchHost": {"host": "a.test"}}),
        ({"matchSni": "a.test"}, {"matchSni": {"sni": "a.test"}}),
        ({"matchPath": "/api"}, {"matchPath": {"path": "/api"}}),
        ({"matchMethod": ["GET", "HEAD"]}, {"matchMethod": {"method": ["GET", "HEAD"]}}),
    ],
)
def test_a_condition_that_needs_one_thing_may_be_just_that(short, full):
    assert compile_match(short).key == compile_match(full).key
