"""What decides about requests: decisions that are remembered within bounds, rewrites of heads."""

from __future__ import annotations

import tracemalloc

import pytest

from carrier.core.decision import Decision, Hits
from carrier.model import Rewrite
from carrier.wire.h1.head import parse_request
from carrier.wire.http import Head
from listeners.http.routing import rewritten
from tests.listeners.http.test_h1 import GET, Pair


def head(raw: bytes = b"GET /a?b HTTP/1.1\r\nhost: h\r\nx-user: john\r\n\r\n") -> Head:
    return parse_request(raw)


def decision(*rewrites: Rewrite) -> Decision:
    made = Decision("r", "rl", Hits())
    made.rewrite = rewrites
    return made


def test_without_rewrites_of_http_the_head_goes_on_as_it_is() -> None:
    came = head()
    assert rewritten(came, decision()) is came
    assert rewritten(came, decision(Rewrite("/TCP/src_port", 1))) is came


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("/HTTP/method", "PUT", b"PUT /a?b HTTP/1.1"),
        ("/HTTP/url/path", "/other", b"GET /other HTTP/1.1"),
        ("/HTTP/headers/x-user", "jane", b"x-user: jane"),
        ("/HTTP/headers/x-new", 7, b"x-new: 7"),
    ],
)
def test_a_rewrite_changes_what_is_sent_on_and_nothing_else(path: str, value: object, line: bytes) -> None:
    wire = rewritten(head(), decision(Rewrite(path, value))).text
    assert line in wire.split(b"\r\n") and b"host: h" in wire


def test_headers_that_a_rewrite_leaves_out_are_not_sent_on() -> None:
    wire = rewritten(head(), decision(Rewrite("/HTTP/headers", {"host": "h"}))).text
    assert b"x-user" not in wire and b"host: h" in wire


@pytest.mark.parametrize("rewrite", [Rewrite("/HTTP", 7), Rewrite("/HTTP/url/path", "a b\r\nx: y"), Rewrite("/HTTP/method", "G ET")])
def test_what_cannot_be_written_is_not_sent_on(rewrite: Rewrite) -> None:
    came = head()
    assert rewritten(came, decision(rewrite)).text == came.text


def test_the_number_of_rules_does_not_change_what_is_done() -> None:
    """Not a measurement: both take the same decision from the memo, so that the rules are never walked."""
    pair = Pair(rules=1000)
    pair.exchange()

    def never(meta: object) -> None:
        raise AssertionError("the rules were walked again")

    pair.listener.table.decide = never  # type: ignore[assignment,method-assign]
    pair.exchange()
    pair.exchange(GET.replace(b"/", b"/other", 1))
    assert len(pair.down.writes) == 3


def test_what_is_remembered_of_long_targets_is_bounded_in_bytes() -> None:
    pair = Pair()
    routing = pair.listener.routing
    routing.by_url = True
    pair.exchange()
    pair.upstream.write = pair.downstream.write = len  # type: ignore[assignment]
    tracemalloc.start()
    try:
        for number in range(8100):
            pair.exchange(b"GET /%d/%b HTTP/1.1\r\nhost: a\r\n\r\n" % (number, b"x" * 7900))
        assert tracemalloc.get_traced_memory()[0] < 4 * 1024 * 1024
        for number in range(20_000):
            pair.exchange(b"GET /%d/%b HTTP/1.1\r\nhost: a\r\n\r\n" % (number, b"x" * 100))
        assert tracemalloc.get_traced_memory()[0] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert routing.decisions
