"""Heads and what a proxy sends on of them: fields in, bytes out."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from carrier.errors import Error
from carrier.wire.forwarding import Forwarding, make_id, trusts
from carrier.wire.h1.text import without_chunked
from carrier.wire.http import CHUNKED, CLOSE, LENGTH, NONE, Head, join_fields
from carrier.wire.making import answer_head, canned, date_field, request_head, rewrite

RAW = b"GET /a/b?x=1&y HTTP/1.1\r\nHost: a.example:8080\r\nX-User: alice\r\nCookie: a=1\r\nx-user:  bob \r\nCookie: b=2\r\n\r\n"


def head(raw: bytes = RAW, target: bytes = b"/a/b?x=1&y") -> Head:
    return Head(raw, raw, b"GET", target, b"a.example:8080")


def test_fields_are_split_on_first_use_and_keep_their_spelling() -> None:
    assert head().fields[:2] == ((b"Host", b"a.example:8080"), (b"X-User", b"alice"))


def test_get_joins_all_lines_of_a_name_whatever_its_case() -> None:
    assert head().get(b"x-user") == b"alice, bob"
    assert head().get(b"x-none") is None


def test_metadata_has_the_layout_of_l7mp() -> None:
    assert head().metadata() == {
        "version": "1.1",
        "method": "GET",
        "url": {
            "url": "/a/b?x=1&y",
            "href": "/a/b?x=1&y",
            "protocol": "",
            "host": "",
            "port": "",
            "path": "/a/b?x=1&y",
            "query": "x=1&y",
        },
        "headers": {"host": "a.example:8080", "x-user": "alice, bob", "cookie": "a=1; b=2"},
    }


def test_metadata_is_a_new_tree_each_time_so_that_rewrites_of_one_session_stay_there() -> None:
    one = head()
    one.metadata()["headers"]["x-user"] = "eve"
    assert one.metadata()["headers"]["x-user"] == "alice, bob"


def test_metadata_of_an_absolute_target_names_its_parts() -> None:
    url = head(target=b"http://[::1]:80/p?q").metadata()["url"]
    assert (url["protocol"], url["host"], url["port"], url["path"], url["query"]) == ("http:", "[::1]:80", "80", "/p?q", "q")


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", b"/", b""),
        (b"*", b"*", b""),
        (b"//a/b?c?d", b"//a/b", b"c?d"),
        (b"http://a.example", b"/", b""),
        (b"http://a.example?q=/x", b"/", b"q=/x"),
        (b"HTTP://A/x?y", b"/x", b"y"),
        (b"a.example:443", b"", b""),
    ],
)
def test_path_and_query_are_those_that_came(target: bytes, path: bytes, query: bytes) -> None:
    assert (head(target=target).path, head(target=target).query) == (path, query)


def test_the_stem_is_what_more_lines_are_put_behind() -> None:
    head = answer_head(204)
    assert head.stem + b"a: 1\r\n\r\n" == b"HTTP/1.1 204 No Content\r\na: 1\r\n\r\n"
    assert head.stem + b"\r\n" == head.text


def test_a_peer_of_http_1_0_never_sees_a_transfer_coding() -> None:
    streamed = answer_head(200, framing=CHUNKED)
    assert b"transfer-encoding: chunked\r\n" in streamed.text
    assert without_chunked(streamed.text) == b"HTTP/1.1 200 OK\r\n\r\n"


def test_without_body_keeps_the_length_that_the_answer_to_head_declares() -> None:
    bare = answer_head(200, body=b"hello").without_body()
    assert (bare.body, bare.length) == (NONE, 0)
    assert b"content-length: 5\r\n" in bare.text


def test_a_request_of_ours_is_written_with_one_host_and_its_framing() -> None:
    made = request_head(b"POST", b"/x", [(b"host", b"a"), (b"x", b"1")], LENGTH, 5)
    assert made.text == b"POST /x HTTP/1.1\r\nhost: a\r\nx: 1\r\ncontent-length: 5\r\n\r\n"
    assert (made.authority, made.body, made.length) == (b"a", LENGTH, 5)


def test_framing_and_hop_by_hop_fields_of_another_version_are_dropped() -> None:
    fields = [(b"host", b"a"), (b"te", b"trailers"), (b"Transfer-Encoding", b"gzip"), (b"Content-Length", b"7"), (b"connection", b"x")]
    assert request_head(b"GET", b"/", fields).text == b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "target", "fields"),
    [
        (b"G ET", b"/", [(b"host", b"a")]),
        (b"GET", b"/ HTTP/1.1\r\nx: y\r\n", [(b"host", b"a")]),
        (b"GET", b"/\x80", [(b"host", b"a")]),
        (b"GET", b"/", [(b"host", b"a"), (b"x", b"1\r\ny: 2")]),
        (b"GET", b"/", [(b"host", b"a"), (b"x", b"1\n")]),
        (b"GET", b"/", [(b"host", b"a"), (b"x", b"\0")]),
        (b"GET", b"/", [(b"host", b"a"), (b"x: y\r\nz", b"1")]),
        (b"GET", b"/", [(b"host", b"a"), (b"", b"1")]),
        (b"GET", b"/", [(b"host", b"a"), (b"Host", b"b")]),
        (b"GET", b"/", []),
    ],
)
def test_nothing_that_would_be_another_message_can_be_written(method: bytes, target: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Error) as caught:
        request_head(method, target, fields)
    assert caught.value.kind == "protocol-error"


def test_an_upgrade_of_ours_names_itself_in_connection() -> None:
    made = request_head(b"GET", b"/", [(b"host", b"a")], upgrade=b"websocket")
    assert made.text.endswith(b"\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")


def test_answers_without_content_carry_no_length() -> None:
    assert answer_head(304, body=b"x").text == b"HTTP/1.1 304 Not Modified\r\n\r\n"
    assert answer_head(200, framing=CLOSE).text == b"HTTP/1.1 200 OK\r\n\r\n"


def test_an_answer_from_upstream_that_cannot_be_written_is_a_bad_answer() -> None:
    with pytest.raises(Error) as caught:
        answer_head(200, [(b"x", b"a\nb")], side="upstream")
    assert caught.value.kind == "bad-answer"


def test_our_own_date_is_an_imf_fixdate_and_written_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 784111777.0
    monkeypatch.setattr("time.time", lambda: now)
    first = date_field()
    assert first == (b"date", b"Sun, 06 Nov 1994 08:49:37 GMT")  # the example of RFC 9110 section 5.6.7
    now += 0.9
    assert date_field() is first
    now += 0.1
    assert date_field()[1] == b"Sun, 06 Nov 1994 08:49:38 GMT"


def test_reason_phrases_are_those_of_rfc_9110() -> None:
    assert [canned(status)[0].reason for status in (413, 414)] == [b"Content Too Large", b"URI Too Long"]


def test_a_canned_answer_says_what_is_wrong() -> None:
    made, body = canned(503, "no endpoint in cluster shop", [(b"retry-after", b"1")])
    assert body == b"503 Service Unavailable: no endpoint in cluster shop\n"
    assert made.text.startswith(b"HTTP/1.1 503 Service Unavailable\r\ndate: ") and b"\r\nretry-after: 1\r\n" in made.text
    assert b"content-length: %d\r\n" % len(body) in made.text


def test_a_rewrite_sets_and_cuts_fields_and_leaves_the_first_head_alone() -> None:
    one = head()
    two = rewrite(one, target=b"/new", fields={b"x-user": b"carol", b"cookie": None})
    assert two.text == b"GET /new HTTP/1.1\r\nHost: a.example:8080\r\nx-user: carol\r\n\r\n"
    assert (two.get(b"x-user"), two.get(b"cookie"), two.path) == (b"carol", None, b"/new")
    assert one.text == RAW


def test_a_rewrite_of_host_and_method_is_seen_in_the_head() -> None:
    two = rewrite(head(), method=b"PUT", fields={b"host": b"b.example"})
    assert two.text.startswith(b"PUT /a/b?x=1&y HTTP/1.1\r\n")
    assert two.text.count(b"b.example") == 1 and b"a.example" not in two.text
    assert (two.authority, two.method) == (b"b.example", b"PUT")


@pytest.mark.parametrize("name", [b"transfer-encoding", b"content-length", b"connection", b"upgrade"])
def test_rules_cannot_touch_framing(name: bytes) -> None:
    with pytest.raises(Error) as caught:
        rewrite(head(), fields={name: b"1"})
    assert caught.value.kind == "config"


@pytest.mark.parametrize("change", [{"target": b"/a b"}, {"target": b"/\r\n"}, {"method": b"A B"}, {"fields": {b"host": None}}])
def test_rules_cannot_write_a_head_that_is_none(change: dict[str, bytes]) -> None:
    with pytest.raises(Error):
        rewrite(head(), **change)  # type: ignore[arg-type]


def test_an_answer_can_be_rewritten_too() -> None:
    assert rewrite(answer_head(200, [(b"server", b"x")]), fields={b"server": None}).text == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


def test_the_way_is_told_by_default_and_claims_of_strangers_are_cut() -> None:
    way = Forwarding()
    assert join_fields(way.standing(b"a", {})) == b"x-forwarded-proto: http\r\nx-forwarded-host: a\r\n"
    assert way.extra(head(), b"10.0.0.1") == b"x-forwarded-for: 10.0.0.1\r\n"
    assert {b"x-forwarded-for", b"forwarded", b"x-forwarded-port"} <= way.cut()


def test_claims_of_trusted_peers_are_kept_and_added_to() -> None:
    way = Forwarding(trusted=True, scheme=b"https")
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\n\r\n"
    assert way.extra(Head(raw, raw, b"GET", b"/"), b"10.0.0.1") == b"x-forwarded-for: 1.1.1.1, 2.2.2.2, 10.0.0.1\r\n"
    assert way.extra(head(), b"10.0.0.1") == b"x-forwarded-for: 10.0.0.1\r\n"
    assert join_fields(way.standing(b"a", {b"x-forwarded-proto": b"http"})) == b"x-forwarded-host: a\r\n"
    assert b"x-forwarded-host" not in way.cut()


def test_forwarded_quotes_what_the_grammar_of_rfc_7239_wants_quoted() -> None:
    way = Forwarding(x_forwarded=False, forwarded=True)
    assert way.extra(head(), b"::1") == b'forwarded: for="[::1]";proto=http;host="a.example:8080"\r\n'


def test_via_and_a_replaced_host_are_standing_lines() -> None:
    way = Forwarding(x_forwarded=False, via=b"carrier", host=b"b")
    assert join_fields(way.standing(b"a", {})) == b"host: b\r\nvia: 1.1 carrier\r\n"
    assert b"host" in way.cut()


def test_a_request_id_is_made_only_for_requests_without_one() -> None:
    way = Forwarding(x_forwarded=False)
    named = Head(RAW, RAW, has_id=True)
    assert way.extra(head(), b"", b"abc") == b"x-request-id: abc\r\n"
    assert way.extra(named, b"", b"abc") == b""


def test_request_ids_differ() -> None:
    assert len({make_id() for _ in range(100)}) == 100
    assert len(make_id()) == 32


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("::ffff:10.1.2.3", True),
        ("fd00::1", True),
        ("fd00::1%eth0", True),
        ("", False),
        ("unix", False),
    ],
)
def test_trust_goes_by_network(peer: str, trusted: bool) -> None:
    assert trusts([ip_network("10.0.0.0/8"), ip_network("fd00::/8")], peer) is trusted


def test_names_that_cgi_would_take_for_a_rule_s_field_are_known() -> None:
    way = Forwarding(interesting=frozenset((b"x-user",)))
    assert way.confusable(b"x_user")
    assert not way.confusable(b"x-user")
    assert not way.confusable(b"y_user")


@pytest.mark.parametrize("name", [b"host", b"x-user", b"cookie", b"x", b"x-us", b"user", b"alice", b"get", b"x-empty", b"x-none"])
def test_a_field_is_the_same_whether_or_not_all_have_been_split(name: bytes) -> None:
    raw = b"GET /x-none:1 HTTP/1.1\r\nHost: a\r\nX-User: alice \r\ncookie: x-user: 1\r\nx-USER:\t bob\r\nx-empty:\r\nx: \r\n\r\n"
    fresh, split = head(raw), head(raw)
    assert split.fields
    assert fresh.get(name) == split.get(name)


def test_a_field_that_comes_once_is_found_without_splitting_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    found = head(b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent:  me \r\n\r\n")
    monkeypatch.setattr("carrier.wire.http.split_fields", lambda raw: pytest.fail("they were split"))
    assert (found.get(b"user-agent"), found.get(b"traceparent")) == (b"me", None)
