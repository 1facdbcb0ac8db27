"""Explain and routing agree, whatever the rules and the request; findings are never wrong; normal forms are stable.

The rules come from a small vocabulary in all three notations, so that they meet, overlap and cover each other. `CARRIER_FUZZ` sets
how many times 500 examples (0.1 without it: `make fuzz` takes its time).
"""

from __future__ import annotations

import os
import re
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carrier.core.metadata import get_at, set_at
from carrier.errors import ConfigError
from carrier.rules.match import Matcher, conflict
from carrier.rules.notation import compile_match
from carrier.rules.target import normal_path

EXAMPLES = int(500 * float(os.environ.get("CARRIER_FUZZ", "0.1")))
fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])

words = st.sampled_from(["", "a", "A", "ab", "abc", "b", "a, b", "b,ab", "a;x", "1", "ß"])
names = st.sampled_from(["x-a", "x-b", "cookie", "baggage", "host"])
paths = st.sampled_from(
    ["/", "/a", "/ab", "/a/b", "//a", "/a/", "/a?x-a=ab", "/a?x-a=a&x-a=b", "/%61", "/a;x", "/x/../a", "/%zz", "*", "/A"]
)
good_paths = st.sampled_from(["/", "/a", "/ab", "/a/b", "/a/", "/%61", "/A"])
patterns = st.sampled_from(["a", "^a", "b$", "^ab?$", ".", "", "(", "^/a", "[0-9]"])
addresses = st.sampled_from(["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2", "2001:db8::1", "", "x"])
hosts = st.sampled_from(["a.org", "b.a.org", "org", "xa.org"])
metadata_paths = st.sampled_from(
    [
        *("/HTTP/headers/x-a", "/HTTP/headers/x-b", "/HTTP/headers/cookie", "/HTTP/headers", "/HTTP/method", "/HTTP/url/path"),
        *("/IP/src_addr", "/TCP/src_port", "/labels/v", "/labels/l", "/labels/l/0", "/"),
    ]
)
operators = st.sampled_from(
    [
        *("test", "starts", "ends", "contains", "in", "less", "more", "matches"),
        *("defined", "undefined", "type", "contained", "intersects"),
    ]
)
scalars = st.one_of(words, addresses, paths, st.sampled_from([None, True, False, 0, 1, 1.0, 80, 0.5]))
values = st.one_of(scalars, st.lists(scalars, max_size=3), st.dictionaries(st.sampled_from(["0", "k"]), scalars, max_size=2))


def typed(kind: str, value: st.SearchStrategy[str], **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """One `matchX` object whose `value` suits its type most of the time."""
    key = {"matchPath": "path", "matchHost": "host", "matchSni": "sni"}.get(kind, "value")
    wide = "suffix" if kind in ("matchHost", "matchSni") else "prefix"
    plain = st.fixed_dictionaries({key: value, "type": st.sampled_from(["exact", wide]), **fixed})
    regex = st.fixed_dictionaries({key: patterns, "type": st.just("regex"), **fixed})
    return st.one_of(plain, plain, regex).map(lambda body: {kind: body})


conditions = st.one_of(
    typed("matchHeader", words, name=names.map(str.upper), raw=st.booleans()),
    typed("matchPath", good_paths),
    typed("matchPath", paths, raw=st.just(True)),
    typed("matchQuery", words, name=names),
    typed("matchCookie", words, name=names),
    typed("matchBaggage", words, key=names),
    typed("matchTracestate", words, name=names),
    typed("matchHost", hosts | hosts.map(".".__add__)),
    typed("matchSni", hosts),
    st.sampled_from(["GET", "PUT", ["GET", "PUT"]]).map(lambda method: {"matchMethod": {"method": method}}),
    st.sampled_from(["10.0.0.0/8", "10.0.0.1", "::/0", ["2001:db8::/32", "10.0.0.0/30"]]).map(lambda cidr: {"matchSource": {"cidr": cidr}}),
)
first_order = st.fixed_dictionaries(
    {
        "op": operators,
        "path": metadata_paths,
        "value": st.one_of(values, words, patterns, st.sampled_from(["string", "object", "array", "undefined", "null", "date"])),
    },
    optional={"ignore_case": st.booleans()},
)
predicates = st.recursive(
    first_order,
    lambda inner: st.fixed_dictionaries(
        {"op": st.sampled_from(["and", "or", "not"]), "apply": st.lists(inner, max_size=3)},
        optional={"path": st.sampled_from(["/", "/HTTP", "/HTTP/headers"])},
    ),
    max_leaves=4,
)
conjunctions = st.lists(conditions, max_size=3)
matches = st.one_of(
    conditions,
    conjunctions,
    predicates,
    st.lists(conjunctions, max_size=3).map(lambda listed: {"any": listed}),
    st.lists(st.one_of(conditions, predicates, st.lists(conjunctions, max_size=2).map(lambda listed: {"any": listed})), max_size=2),
    st.sampled_from([None, "*", {"match": "*"}, {}, {"any": []}, {"op": "nope"}]),
)
metadata = st.fixed_dictionaries(
    {},
    optional={
        "IP": st.fixed_dictionaries({"src_addr": addresses}),
        "TCP": st.fixed_dictionaries({"src_port": st.sampled_from([0, 1, 80])}),
        "TLS": st.fixed_dictionaries({"sni": hosts}),
        "labels": st.fixed_dictionaries({}, optional={"v": values, "l": st.lists(scalars, max_size=3)}),
        "HTTP": st.fixed_dictionaries(
            {
                "method": st.sampled_from(["GET", "PUT"]),
                "url": st.fixed_dictionaries({"path": paths}, optional={"host": hosts}),
                "headers": st.dictionaries(
                    names, st.one_of(words, words.map("x-a=".__add__), hosts, st.lists(words, max_size=2)), max_size=3
                ),
            }
        ),
    },
)
rule_lists = st.lists(matches, min_size=1, max_size=6).map(lambda listed: [(f"r{i}", match) for i, match in enumerate(listed)])


@fuzz
@given(rules=rule_lists, requests=st.lists(metadata, min_size=1, max_size=4))
def test_explain_and_routing_agree_and_findings_are_true(rules: list[tuple[str, object]], requests: list[dict[str, Any]]) -> None:
    matcher = Matcher(rules)
    useless = {finding.index for finding in matcher.findings}
    for meta in requests:
        first = matcher.first(meta)
        reports = matcher.explain(meta)
        assert first == next((report.index for report in reports if report.matched), None)
        assert [report.index for report in reports if report.chosen] == ([] if first is None else [first])
        held = [condition is not None and condition.holds(meta) for condition in matcher.conditions]
        assert held == [report.matched for report in reports]
        assert first not in useless
        assert all(not report.matched for report in reports if matcher.conditions[report.index] is None)


@fuzz
@given(rules=rule_lists, meta=metadata)
def test_specific_order_chooses_a_rule_that_matches(rules: list[tuple[str, object]], meta: dict[str, Any]) -> None:
    matcher = Matcher(rules, order="specific")
    chosen = matcher.first(meta)
    matched = [report.index for report in matcher.explain(meta) if report.matched]
    assert (chosen is None) == (not matched)
    assert chosen is None or (chosen in matched and chosen not in {finding.index for finding in matcher.findings})


# Everything about one header: such rules cover each other often, which random ones seldom do.
texts = st.sampled_from(["a", "A", "ab", "AB", "b", "b, ab", "b,a"])
one_header = st.one_of(
    st.builds(
        lambda v, t, r: {"matchHeader": {"name": "x-a", "value": v, "type": t, "raw": r}},
        texts,
        st.sampled_from(["exact", "prefix"]),
        st.booleans(),
    ),
    st.builds(
        lambda op, v, fold: {"op": op, "path": "/HTTP/headers/x-a", "value": v, "ignore_case": fold},
        st.sampled_from(["test", "starts", "ends", "contains", "undefined", "defined"]),
        texts,
        st.booleans(),
    ),
    st.builds(lambda v: {"op": "in", "path": "/HTTP/headers/x-a", "value": v}, st.lists(texts, min_size=1, max_size=2)),
    st.sampled_from(["undefined", "string"]).map(lambda v: {"op": "type", "path": "/HTTP/headers/x-a", "value": v}),
)


@fuzz
@given(pair=st.lists(one_header, min_size=2, max_size=3))
def test_findings_about_one_header_are_true(pair: list[dict[str, Any]]) -> None:
    matcher = Matcher([(str(i), match) for i, match in enumerate(pair)])
    useless = {finding.index for finding in matcher.findings}
    for value in (None, "", "a", "A", "ab", "AB", "aB", "b", "b, ab", "b,a", "b, A", ["b", "ab"], "x, a", "abc", "bab"):
        meta = {"HTTP": {"headers": {} if value is None else {"x-a": value}}}
        assert matcher.first(meta) not in useless


@fuzz
@given(new=matches, rules=rule_lists, meta=metadata)
def test_a_conflict_means_that_the_new_rule_takes_nothing(new: object, rules: list[tuple[str, object]], meta: dict[str, Any]) -> None:
    try:
        compile_match(new)
        found = conflict(("new", new), rules)
    except ConfigError as error:
        assert error.problems
        return
    if found is not None:
        assert Matcher([*rules, ("new", new)]).first(meta) != len(rules)


json_like = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)


@fuzz
@given(match=json_like, meta=json_like)
def test_anything_may_be_given_as_match_and_as_metadata(match: object, meta: object) -> None:
    try:
        compile_match(match)
    except ConfigError as error:
        assert error.problems
    matcher = Matcher([("any", match), ("x", {"op": "test", "path": "/a", "value": match})])
    matcher.first(meta)
    matcher.explain(meta)


targets = st.lists(
    st.sampled_from(
        ["/", "a", "ad", "min", ".", "..", "%2e", "%2F", "%5c", "%61", "//", ";", "%c3%a9", "%E9", "%00", "%", "?", "[", "http://h", " "]
    )
    | st.text(max_size=2),
    max_size=8,
).map("".join)


@fuzz
@given(raw=st.one_of(targets, targets.map("/".__add__), st.text()))
def test_a_normal_form_is_stable_and_has_no_other_spelling_left(raw: str) -> None:
    normal = normal_path(raw)
    if normal is None:
        return
    assert normal_path(normal) == normal
    assert normal == "*" or normal.startswith("/")
    assert "//" not in normal
    assert normal.isascii()
    assert not {".", ".."} & set(normal.split("/"))
    if raw.startswith("/"):
        assert normal_path("/" + raw) == normal
        assert normal_path("/." + raw) == normal
        assert normal_path("http://example.org" + raw) == normal
        escaped = re.sub("%[0-9A-Fa-f]{2}|a", lambda found: "%61" if found[0] == "a" else found[0], raw.partition("?")[0])
        assert normal_path(escaped) == normal


@fuzz
@given(tree=json_like, pieces=st.lists(st.text("ab01", min_size=1, max_size=2), min_size=1, max_size=4), value=json_like)
def test_what_was_set_at_a_path_is_there(tree: object, pieces: list[str], value: object) -> None:
    path = "/".join(pieces)
    before = repr(tree)
    new = set_at(tree, "/" + path + "/", value)
    assert repr(get_at(new, path)) == repr(value)
    assert repr(tree) == before


many = st.lists(matches, min_size=8, max_size=40).map(lambda listed: [(f"r{i}", match) for i, match in enumerate(listed)])
of_one_kind = st.one_of(
    *(
        st.lists(one, min_size=5, max_size=30)
        for one in (
            st.builds(lambda p, v: {"op": "test", "path": p, "value": v}, metadata_paths, values),
            st.builds(
                lambda op, p, v, fold: {"op": op, "path": p, "value": v, "ignore_case": fold},
                operators,
                metadata_paths,
                values,
                st.booleans(),
            ),
            typed("matchQuery", words, name=names),
            typed("matchCookie", words, name=names),
            typed("matchHeader", words, name=names),
            typed("matchHost", hosts | hosts.map(".".__add__)),
            st.builds(
                lambda a, b, bits: {"matchSource": {"cidr": f"10.{a}.{b}.0/{bits}"}},
                st.integers(0, 2),
                st.integers(0, 2),
                st.sampled_from([0, 8, 22, 24, 32]),
            ),
        )
    )
).map(lambda listed: [(f"r{i}", match) for i, match in enumerate(listed)])


@fuzz
@given(
    rules=st.one_of(many, of_one_kind), requests=st.lists(metadata, min_size=1, max_size=4), order=st.sampled_from(["first", "specific"])
)
def test_the_index_finds_what_a_look_at_each_rule_finds(
    rules: list[tuple[str, object]], requests: list[dict[str, Any]], order: Any
) -> None:
    matcher = Matcher(rules, order)
    for meta in requests:
        held = [rule for rule, (conjunction, _, _) in matcher._ways if all(part.held(meta) for part in conjunction)]
        assert matcher.first(meta) == next(iter(held), None)
