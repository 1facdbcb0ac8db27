"""Rules that can never match as they are written: a warning names the spelling that would."""

from __future__ import annotations

from typing import Any

import pytest

from carrier.config.findings import warnings
from carrier.rules.target import normal_path
from tests.matching import holds, path, request
from tests.support import config, echo, listener


def said(match: Any) -> list[str]:
    conf = config(clusters=[echo()], listeners=[listener("in", rules=[{"match": match, "action": {"route": {"destination": "echo"}}}])])
    return [text for text in warnings(conf) if "spelling" in text]


@pytest.mark.parametrize(
    ("match", "spelling"),
    [
        ({"matchHost": {"host": "b\u00fccher.example"}}, "xn--bcher-kva.example"),
        ({"matchHost": {"host": ".b\u00fccher.example", "type": "suffix"}}, ".xn--bcher-kva.example"),
        ({"matchSni": {"sni": "B\u00fccher.example"}}, "xn--bcher-kva.example"),
        ({"matchPath": {"path": "^/my files", "type": "regex"}}, "^/my%20files"),
        ({"matchPath": {"path": "/stra\u00dfe", "type": "prefix"}}, "/stra%C3%9Fe"),
        ({"matchPath": {"path": "/my files"}}, "/my%20files"),
        ({"matchPath": {"path": "/stra\u00dfe", "type": "prefix", "raw": True}}, "/stra%C3%9Fe"),
        ({"op": "starts", "path": "/HTTP/url/path", "value": "/my files"}, "/my%20files"),
        ({"any": [[{"matchPath": {"path": "/a"}}], [{"matchPath": {"path": "/\u00e9"}}]]}, "/%C3%A9"),
    ],
)
def test_the_spelling_that_would_match_is_named(match: Any, spelling: str) -> None:
    (text,) = said(match)
    assert f"write {spelling!r}" in text


@pytest.mark.parametrize(
    "match",
    [
        {"matchHost": {"host": "xn--bcher-kva.example"}},
        {"matchPath": {"path": "^/my%20files", "type": "regex"}},
        {"matchPath": {"path": "^/a[^ ]*$", "type": "regex"}},
        {"matchPath": {"path": "^/(a|b c)$", "type": "regex"}},
        {"matchPath": {"path": "/stra%C3%9Fe", "type": "prefix"}},
        {"matchHeader": {"name": "x-city", "value": "K\u00f6ln"}},
        {"matchQuery": {"name": "q", "value": "my files"}},
        {"op": "not", "apply": [{"op": "test", "path": "/HTTP/url/path", "value": "/my files"}]},
    ],
)
def test_what_can_be_met_is_not_warned_of(match: Any) -> None:
    assert said(match) == []


def text(path: str, value: Any, op: str = "test") -> dict[str, Any]:
    return {"op": op, "path": path, "value": value}


@pytest.mark.parametrize(
    ("match", "hint"),
    [
        ({"matchPath": {"path": "^/caf%c3%a9$", "type": "regex"}}, "write '^/caf%C3%A9$'"),
        ({"matchPath": {"path": "^/%7Euser", "type": "regex"}}, "write '^/~user'"),
        ({"matchPath": {"path": "^//api/.*", "type": "regex"}}, "write '^/api/.*'"),
        ({"matchPath": {"path": "^api/", "type": "regex"}}, "write '^/api/'"),
        ({"matchPath": {"path": r"^/find\?q=.*", "type": "regex"}}, "write '^/find', and matchQuery"),
        ({"matchHost": {"host": r"^Shop\.example$", "type": "regex"}}, r"write '^shop\\.example$'"),
        ({"matchHost": {"host": "shop.example:8080$", "type": "regex"}}, "write 'shop.example$'"),
        ({"matchSni": {"sni": "^A.*", "type": "regex"}}, "write '^a.*'"),
        ({"matchHeader": {"name": "x-user", "value": " john", "type": "prefix"}}, "write 'john'"),
        ({"matchTracestate": {"name": "user", "value": "a,b"}}, "write 'a'"),
        (text("/TCP/dst_port", "8080"), "write 8080"),
        (text("/TCP/dst_port", ["80", "81"], "in"), "write [80, 81]"),
        (text("/TCP/src_port", "80", "starts"), "it is a number"),
        (text("/HTTP/version", 1.1), "write '1.1'"),
        (text("/HTTP/url/port", 80), "write '80'"),
        (text("/HTTP/headers/content-length", 100, "less"), "it is text"),
        (text("/HTTP/headers/x-user", ["john"], "intersects"), "it is no list"),
        (text("/IP/src_addr", "10.0.0.0/8"), "write matchSource"),
        (text("/HTTP/headers/X-User", "john"), "write '/HTTP/headers/x-user'"),
        (text("/http/Headers/x-user", "john"), "write '/HTTP/headers/x-user'"),
        (text("HTTP/headers/x-user", "john"), "write '/HTTP/headers/x-user'"),
        (text("/HTTP/path", "/a"), "write '/HTTP/url/path'"),
        (text("/tcp/src_prot", 80), "write '/TCP/src_port'"),
    ],
)
def test_what_is_asked_of_the_wrong_kind_or_place_is_told(match: Any, hint: str) -> None:
    (found,) = said(match)
    assert hint in found


@pytest.mark.parametrize(
    "match",
    [
        {"matchPath": {"path": "^//?api", "type": "regex"}},
        {"matchPath": {"path": r"^/find(\?.*)?$", "type": "regex"}},
        {"matchPath": {"path": r"^/find\?*", "type": "regex"}},
        {"matchPath": {"path": "^/a%2Fb", "type": "regex"}},
        {"matchPath": {"path": "api|shop", "type": "regex"}},
        {"matchPath": {"path": r"^/find\?q=", "type": "regex", "raw": True}},
        {"matchHost": {"host": "(?i)^Shop", "type": "regex"}},
        {"matchHost": {"host": "^[A-Z]*shop", "type": "regex"}},
        text("/TCP/dst_port", 8080),
        text("/TCP/dst_port", 1024, "less"),
        text("/HTTP/headers/x-n", ["1", 1], "in"),
        text("/IP/src_addr", "::ffff:10.0.0.1"),
        text("/IP/src_addr", "10.", "starts"),
        text("/JSONSocket/n", 1),
        text("/of/somebody/else", 1),
        {"op": "undefined", "path": "/HTTP/headers/X-User"},
        text("/HTTP/headers/authorization", 1),
    ],
)
def test_what_can_be_met_in_some_way_or_is_nobodys_to_know_is_not_told(match: Any) -> None:
    assert said(match) == []


def test_an_escaped_line_feed_within_a_segment_is_a_character_like_others() -> None:
    assert normal_path("/cart/a%0ab") == "/cart/a%0Ab"
    assert holds(path("/cart", "prefix"), request("/cart/a%0Ab"))
    for edge in ("/cart/a%0A", "/cart/%0Aa", "/cart%0A/a", "/cart/a%00b", "/cart%0A%0D;x"):
        assert normal_path(edge) is None
