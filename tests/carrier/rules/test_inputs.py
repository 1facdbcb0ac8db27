"""Inputs: spellings of an address, and what a decision depends on."""

from __future__ import annotations

import pytest

from carrier.core.decision import Needs
from carrier.rules.match import Matcher
from carrier.rules.notation import compile_match
from tests.matching import header, holds, path, request


@pytest.mark.parametrize("seen", ["127.0.0.1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize(
    ("op", "value"),
    [
        ("test", "127.0.0.1"),
        ("test", "::ffff:127.0.0.1"),
        ("in", ["::ffff:127.0.0.1"]),
        ("starts", "127."),
        ("starts", "::ffff:127"),
        ("contains", "ffff:127"),
        ("matches", "^127"),
        ("ends", ".1"),
    ],
)
def test_an_address_matches_in_both_its_spellings(op: str, value: object, seen: str) -> None:
    assert holds({"op": op, "path": "/IP/src_addr", "value": value}, request(src=seen))
    assert holds({"op": "and", "path": "/IP", "apply": [{"op": op, "path": "/src_addr", "value": value}]}, request(src=seen))
    assert not holds({"op": op, "path": "/IP/src_addr", "value": value}, request(src="10.9.8.7"))


def test_needs_name_what_a_decision_depends_on() -> None:
    def needs(*matches: object) -> Needs:
        return Matcher([(str(i), match) for i, match in enumerate(matches)]).needs

    assert needs(None, []) == Needs()
    assert needs(header("x"), {"op": "defined", "path": "/HTTP/headers/x-b"}) == Needs(headers=frozenset({"x-user", "x-b"}))
    assert needs(header("x"), header("x", "regex", raw=True)).headers is None
    assert needs({"op": "type", "path": "/HTTP/headers", "value": "object"}).headers is None
    assert needs({"op": "defined", "path": "/HTTP"}) == Needs(None, True, True, False, True)
    assert needs(path("/"), {"matchMethod": {"method": "GET"}}) == Needs(method=True, url=True, path=True)
    assert needs({"matchCookie": {"name": "a", "value": "b"}}).headers == frozenset({"cookie"})
    assert needs({"matchHost": {"host": "a"}}) == Needs(headers=frozenset({"host"}), url=True)
    assert needs({"matchSource": {"cidr": "::/0"}}, {"matchSni": {"sni": "a"}}) == Needs(peer=True)
    assert needs({"op": "defined", "path": "/labels/x"}) == Needs(other=True)
    assert needs({"op": "defined", "path": "/HTTP/version"}) == Needs(other=True)


def test_what_a_metadata_path_names_is_called_as_the_other_conditions_call_it() -> None:
    """l7mp's predicates, and `raw: true` of Gefyra's file, read metadata paths: people know what is there by another name."""
    path = compile_match({"op": "starts", "path": "/HTTP/url/path", "value": "/m"})
    assert path.text == 'path starts with "/m"'
    assert compile_match({"matchPath": {"path": "/m", "type": "prefix", "raw": True}}).text == path.text
    assert compile_match({"op": "test", "path": "/HTTP/headers/x-user", "value": "john"}).text == 'header x-user is "john"'
    assert compile_match({"op": "test", "path": "/HTTP/method", "value": "GET"}).text == 'method is "GET"'
    assert compile_match({"op": "test", "path": "/JSONSocket/user", "value": "john"}).text == '/JSONSocket/user is "john"'
