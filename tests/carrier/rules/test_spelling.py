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


def test_an_escaped_line_feed_within_a_segment_is_a_character_like_others() -> None:
    assert normal_path("/cart/a%0ab") == "/cart/a%0Ab"
    assert holds(path("/cart", "prefix"), request("/cart/a%0Ab"))
    for edge in ("/cart/a%0A", "/cart/%0Aa", "/cart%0A/a", "/cart/a%00b", "/cart%0A%0D;x"):
        assert normal_path(edge) is None
