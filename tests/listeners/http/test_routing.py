"""What decides about requests: decisions that are remembered within bounds, rewrites of heads."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest

from carrier.core.decision import Decision, Hits
from carrier.model import Rewrite
from carrier.rules.table import Matchers, Table
from carrier.wire.h1.head import Limits, parse_request
from carrier.wire.http import Head
from listeners.http.routing import Routing, rewritten
from tests.listeners.http.test_h1 import GET, Pair
from tests.support import config, echo, listener


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


POST = (
    b"POST /a HTTP/1.1\r\nhost: h\r\nx-user: john\r\ncontent-length: 2\r\nexpect: 100-continue\r\nconnection: keep-alive, upgrade\r\n"
    b"upgrade: websocket\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.mark.parametrize("value", [{"x-new": "1"}, {"x-new": "1", "connection": "close", "content-length": "7", "host": None, "a b": "c"}])
def test_all_headers_may_be_replaced_and_what_frames_or_routes_the_message_stays(value: dict[str, Any]) -> None:
    """Without Host among them, say: the whole rewrite was dropped in silence."""
    came = head(POST)
    lines = rewritten(came, decision(Rewrite("/HTTP/headers", value))).text.split(b"\r\n")
    assert b"x-new: 1" in lines and b"x-user: john" not in lines
    for kept in (b"host: h", b"content-length: 2", b"expect: 100-continue", b"upgrade: websocket"):
        assert kept in lines
    assert any(line.startswith(b"sec-websocket-key: ") for line in lines)


def test_null_removes_a_header() -> None:
    lines = rewritten(head(), decision(Rewrite("/HTTP/headers/x-user", None), Rewrite("/HTTP/headers/x-other", None))).text.split(b"\r\n")
    assert not [line for line in lines if line.startswith((b"x-user", b"x-other"))]


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("/HTTP/headers/x-user", "Jürgen", b"x-user: J\xc3\xbcrgen"),
        ("/HTTP/headers", {"x-user": "日本"}, b"x-user: " + "日本".encode()),
        ("/", {"HTTP": {"headers": {"x-user": "ü"}}}, b"x-user: \xc3\xbc"),
        ("/HTTP/url/path", "/straße und mehr?q=ü", b"GET /stra%C3%9Fe%20und%20mehr?q=%C3%BC HTTP/1.1"),
        ("/HTTP/url/path", "no/slash", b"GET /no/slash HTTP/1.1"),
        ("/HTTP/url/path", "", b"GET / HTTP/1.1"),
        ("/HTTP/url/path", "/a\r\nx: y", b"GET /a%0D%0Ax:%20y HTTP/1.1"),
    ],
)
def test_what_a_person_writes_is_sent_as_a_browser_would_send_it(path: str, value: object, line: bytes) -> None:
    assert line in rewritten(head(), decision(Rewrite(path, value))).text.split(b"\r\n")


@pytest.mark.parametrize(
    "rewrite",
    [Rewrite("/HTTP", 7), Rewrite("/HTTP/method", "G ET"), Rewrite("/HTTP/headers/x-user", "a\r\nb"), Rewrite("/HTTP/headers/te", "x")],
)
def test_what_cannot_be_written_is_left_as_it_came_and_keeps_nothing_else_back(rewrite: Rewrite) -> None:
    came = head()
    assert rewritten(came, decision(rewrite)).text == came.text
    if rewrite.path != "/HTTP":
        assert b"\r\nx-other: 1\r\n" in rewritten(came, decision(rewrite, Rewrite("/HTTP/headers/x-other", "1"))).text


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
    routing.by_target = True
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


# -- decisions that depend on the connection


class Asking:
    """A request of a connection; `looks`: how often its metadata was asked for."""

    looks = 0

    def __init__(self, address: str, port: int = 1) -> None:
        self.origin = SimpleNamespace(peer=(address, port), place=None, placed_by=None)

    def metadata(self, head: Head | None) -> dict[str, Any]:
        Asking.looks += 1
        address, port = self.origin.peer
        return {"IP": {"src_addr": address}, "TCP": {"src_port": port}, "HTTP": head.metadata() if head is not None else {}}


def routing(*matches: object) -> Routing:
    rules = [{"name": f"r{i}", "match": match, "action": {"route": {"destination": "echo"}}} for i, match in enumerate(matches)]
    conf = config(clusters=[echo()], listeners=[listener("web", protocol="HTTP", rules=rules)])
    return Routing(Table(conf, conf.listeners["web"].rules, {}, Matchers(), {}), Limits(), {}, b"http")


def keyed(found: Routing, raw: bytes = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n") -> Head:
    return found.memo.parse(raw)


def test_where_rules_look_at_networks_the_source_is_asked_once_for_a_connection_and_decisions_hold_for_its_network() -> None:
    found = routing({"matchSource": {"cidr": "10.1.0.0/16"}}, {"matchSource": {"cidr": ["10.0.0.0/8", "2001:db8::/32"]}}, None)
    came = keyed(found)
    Asking.looks = 0
    clients = [Asking(address) for address in ("10.1.2.3", "10.2.3.4", "192.0.2.1", "2001:db8::1", "::ffff:10.1.9.9")]
    for _ in range(10):
        assert [found.route(client, came)[0].rule for client in clients] == ["r0", "r1", "r2", "r1", "r0"]
    assert Asking.looks == 3, "one for each set of networks"
    assert came.decision is None
    others = [Asking(f"10.1.0.{i}") for i in range(100)]
    assert {found.route(client, came)[0].rule for client in others} == {"r0"} and Asking.looks == 3


def test_where_they_look_at_more_of_a_connection_decisions_hold_for_that_connection() -> None:
    found = routing({"op": "test", "path": "/TCP/src_port", "value": 7}, None)
    came = keyed(found)
    Asking.looks = 0
    one, other = Asking("10.0.0.1", 7), Asking("10.0.0.1", 8)
    for _ in range(10):
        assert (found.route(one, came)[0].rule, found.route(other, came)[0].rule) == ("r0", "r1")
    assert Asking.looks == 2


def test_a_new_table_asks_a_connection_again() -> None:
    client = Asking("10.1.2.3")
    before, after = routing({"matchSource": {"cidr": "10.0.0.0/8"}}, None), routing({"matchSource": {"cidr": "11.0.0.0/8"}}, None)
    assert before.route(client, keyed(before))[0].rule == "r0"
    assert after.route(client, keyed(after))[0].rule == "r1"


def test_a_target_is_looked_at_when_it_is_decided_and_not_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    routing = pair.listener.routing
    routing.strict = routing.by_target = True
    looked: list[str] = []
    monkeypatch.setattr("listeners.http.routing.normal_path", lambda path: looked.append(path) or path)
    for number in range(5):
        pair.exchange(b"GET /a?%d HTTP/1.1\r\nhost: a\r\nx-trace: %d\r\n\r\n" % (number % 2, number))
    assert looked == ["/a?0", "/a?1"]


def test_heads_of_one_shape_are_decided_by_what_the_rules_look_at_and_are_found_again_within_bounds() -> None:
    path = {"matchPath": {"path": "/b/", "type": "prefix"}}
    found = routing({"matchHeader": {"name": "x-user", "value": "bob"}}, path, None)
    raw = b"GET %b HTTP/1.1\r\nhost: h\r\nx-user: %b\r\ntrace: %d\r\n\r\n"
    client = Asking("10.1.2.3")
    told: dict[tuple[bytes, bytes], set[str]] = {}
    for number in range(200):
        for target in (b"/a", b"/b/", b"/b/..%2fa"):
            for user in (b"al", b"bob"):
                came = raw % (target, user, number)
                met = found.memo.like(came) or found.memo.parse(came, False)
                told.setdefault((target, user), set()).add(found.route(client, met)[0].rule or "refused")
    assert told == {
        (b"/a", b"al"): {"r2"},
        (b"/a", b"bob"): {"r0"},
        (b"/b/", b"al"): {"r1"},
        (b"/b/", b"bob"): {"r0"},
        (b"/b/..%2fa", b"al"): {"refused"},
        (b"/b/..%2fa", b"bob"): {"refused"},
    }
    assert {target for _, target in found.found} == {b"/a", b"/b/"}
    for number in range(1500):
        for _ in range(3):
            came = found.memo.like(raw % (b"/%d" % number, b"al", number))
            assert came is not None and found.route(client, came)[0].rule == "r2"
    assert 0 < len(found.found) <= 512


def test_who_goes_round_is_refused_whatever_is_remembered_of_its_like() -> None:
    pair = Pair()
    routing = pair.listener.routing
    key = (1, 2)
    for hops, kind in ((0, None), (10, "loop"), (0, None)):
        decided, _ = routing.route(pair.downstream, Head(b"GET / HTTP/1.1\r\n\r\n", method=b"GET", target=b"/", key=key, hops=hops))
        assert (decided.error.kind if decided.error is not None else None) == kind
