"""Shapes of heads: one that is like another but for what always changes is the same as read line by line."""

from __future__ import annotations

import pytest

from carrier.wire.forwarding import Forwarding
from carrier.wire.h1.reader import AnswerMemo, Limits, RequestMemo, parse_answer, parse_request
from carrier.wire.http import LENGTH, NONE, Head
from carrier.wire.trace import context_of

PROFILE = Forwarding(interesting=frozenset((b"x-user",)), via=b"c")
ALL = ("fields", *(name for name in Head.__slots__ if name not in ("decision", "kin", "_fields")))
TRACED = (
    b"POST /%d?a HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.%d\r\nContent-Length: %d\r\nConnection: keep-alive\r\n"
    b"X-Request-Id: %d\r\nX-User: z\r\ntraceparent: 00-%d-1\r\n\r\n"
)


def traced(n: int) -> bytes:
    return TRACED % (n, n, n, n, n)


def knowing(limits: Limits | None = None) -> RequestMemo:
    """A memo that knows the shape of TRACED."""
    memo = RequestMemo(limits, PROFILE)
    for n in range(60):
        memo.parse(traced(n), False)
    return memo


def same(one: Head | None, other: Head) -> bool:
    return one is not None and all(getattr(one, name) == getattr(other, name) for name in ALL if name != "key")


def test_a_head_that_differs_in_volatile_values_only_is_what_the_plan_parser_and_h11_make_of_it() -> None:
    memo = knowing()
    for n in (0, 7, 1234567):
        found = memo.like(traced(n))
        assert same(found, parse_request(traced(n), profile=PROFILE))
        assert found is not None and found.key == memo.parse(traced(5)).key
        assert found.body == (LENGTH if n else NONE) and found.length == n
    assert not memo.heads or memo.heads.keys() == {traced(5)}


def test_heads_of_one_shape_are_kin_and_know_what_varies_among_them() -> None:
    memo = knowing()
    one, two = memo.like(traced(1)), memo.like(traced(2))
    assert one is not None and two is not None and one.kin is not None and one.kin is two.kin
    assert {b"traceparent", b"x-request-id", b"content-length"} <= one.kin.varies.keys() and b"x-user" not in one.kin.varies
    assert parse_request(traced(1), profile=PROFILE).kin is None
    assert one.trace is None  # what it says of a trace is its own


def test_a_field_of_a_head_of_known_shape_is_what_it_is_among_all_fields() -> None:
    memo = RequestMemo()
    raw = b"GET /x-id:1 HTTP/1.1\r\nHost: a\r\nX-Many: 1\r\nX-ID: \t%b \r\nAccept:\r\nx-many: x-id: 2\r\nX-Id-Not: 1\r\n\r\n"
    for n in range(60):
        memo.parse(raw % b"%d" % n, False)
    for value in (b"7", b"", b"x-id: 9", b"X-ID:9", b"Host: b"):
        found, split = memo.like(raw % value), parse_request(raw % value)
        assert found is not None and found.kin is not None and split.fields
        for name in (b"host", b"x-many", b"x-id", b"accept", b"x-id-not", b"x-none", b"get"):
            assert found.get(name) == split.get(name)


def test_what_all_heads_of_a_shape_have_is_not_searched_in_each() -> None:
    memo = knowing()
    head = memo.like(traced(1))
    assert head is not None
    head.raw = b""
    assert (head.get(b"x-user"), head.get(b"x-none")) == (b"z", None)


def test_heads_without_a_trace_need_not_be_searched_for_one() -> None:
    memo, raw = RequestMemo(), b"GET / HTTP/1.1\r\nHost: a\r\nX-Unique: %d\r\n\r\n"
    for n in range(60):
        head = memo.parse(raw % n, False)
        assert context_of(head) is None
    found = memo.like(raw % 99)
    assert found is not None and found.trace is False


def test_a_head_of_known_shape_is_kept_when_that_is_wished() -> None:
    memo = knowing()
    head = memo.like(traced(99), keep=True)
    assert head is not None and memo.heads[traced(99)] is head and head.decision is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"00-7-1", b"00\r-1"),
        (b"00-7-1", b"00\n-1"),
        (b"00-7-1", b"00\0-1"),
        (b"00-7-1", b"00\r7-1"),
        (b"00-7-1", b"00\n7-1"),
        (b"00-7-1", b"00\0001"),
        (b"00-7-1", b"7\r\nE:1"),
        (b"X-Request-Id: 7", b"X-Request-Ib: 7"),
        (b"\r\n\r\n", b"\r\n\n\n"),
        (b"00-7-1", b"00-7\r\n folded"),
        (b"00-7-1", b"00-7\r\nHost: b"),
        (b"00-7-1", b"00-7\r\n\r\nGET / HTTP/1.1"),
        (b"00-7-1\r\n\r\n", b"00-7-1\r\n"),
        (b"00-7-1\r\n\r\n", b"00-7-1\r\n\r\nbody"),
        (b"00-7-1\r\n\r\n", b"00-7-1\r\n\r\n\r\n\r\n"),
        (b"traceparent:", b"traceparent :"),
        (b"traceparent:", b" traceparent:"),
        (b"X-User: z", b"X-User: y"),
        (b"X-User: z", b"X-User: z\r\ntraceparent: 2"),
        (b"Content-Length: 7", b"Content-Length: 07"),
        (b"Content-Length: 7", b"Content-Length: +7"),
        (b"Content-Length: 7", b"Content-Length: 7, 7"),
        (b"Content-Length: 7", b"Content-Length: "),
        (b"Content-Length: 7", b"Content-Length: 1000000000000000000"),
        (b"Content-Length: 7", b"Content-Length: 7\r\nContent-Length: 7"),
        (b"Content-Length: 7", b"Content-Length: 7\r\nTransfer-Encoding: chunked"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"POST", b"CONNECT"),
        (b"/7?a", b"/7#a"),
        (b"\r\nHost", b"\nHost"),
    ],
)
def test_whatever_else_differs_is_not_of_that_shape(old: bytes, new: bytes) -> None:
    raw = traced(7)
    memo = knowing()
    assert memo.like(raw) is not None and old in raw
    assert memo.like(raw.replace(old, new, 1)) is None


def test_limits_hold_for_heads_of_known_shape() -> None:
    memo = knowing(Limits(line=200))
    assert memo.like(traced(1)) is not None
    assert memo.like(traced(1).replace(b"00-1", b"0" * 200)) is None
    assert memo.like(traced(1).replace(b"/1", b"/" + b"1" * 200)) is None
    memo = knowing(Limits(head=400))
    assert memo.like(traced(1).replace(b"00-1", b"0" * 200)) is not None
    assert memo.like(traced(1).replace(b"00-1", b"0" * 300)) is None


def test_values_that_rules_look_at_are_never_taken_out() -> None:
    memo = RequestMemo(profile=PROFILE)
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nX-User: %d\r\nE: %d\r\n\r\n"
    for n in range(100):
        memo.parse(raw % (n, n), False)
    one, two = memo.like(raw % (98, 500)), memo.like(raw % (99, 500))
    assert one is not None and two is not None and one.key != two.key
    assert memo.like(raw % (100, 500)) is None


def test_a_field_named_by_connection_never_becomes_part_of_a_shape() -> None:
    memo = RequestMemo(profile=PROFILE)
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: e\r\nE: %d\r\n\r\n"
    for n in range(100):
        memo.parse(raw % n, False)
    assert memo.like(raw % 7) is None and b"E: 7" not in memo.parse(raw % 7).text


def test_shapes_are_given_up_while_they_do_not_help_and_learnt_anew_later() -> None:
    memo = knowing()
    odd = b"GET / HTTP/1.1\r\nHost: a%d\r\n\r\n"
    asked = 0
    while memo._shapes.poor >= 0:
        assert memo.like(odd % asked) is None
        asked += 1
    assert asked < 1000 and not memo._shapes.known
    assert memo.like(traced(1)) is None
    for n in range(10_000):
        if memo.like(traced(n)) is None:
            memo.parse(traced(n), False)
    assert same(memo.like(traced(1)), parse_request(traced(1), profile=PROFILE))


def test_shapes_are_bounded() -> None:
    memo = RequestMemo(profile=Forwarding(interesting=frozenset((b"x-user",))))
    for n in range(3000):
        memo.parse(b"GET / HTTP/1.1\r\nHost: a\r\nX-User: %d\r\nX-%d: %d\r\n\r\n" % (n % 2000, n % 20, n), False)
    assert len(memo._shapes.known) <= 256 and len(memo._shapes.needles) <= 4


def test_heads_of_one_size_and_several_shapes_are_told_apart() -> None:
    memo = RequestMemo(profile=PROFILE)
    raws = [
        b"GET / HTTP/1.1\r\nHost: a\r\nE: %d\r\nF: " + end for end in (b"1\r\nG: 22\r\n\r\n", b"1\r\nG: 33\r\n\r\n", b"1\r\nH: 22\r\n\r\n")
    ]
    for n in range(100, 160):
        for raw in raws:
            memo.parse(raw % n, False)
    for n in range(200, 300):
        for raw in raws:
            assert same(memo.like(raw % n), parse_request(raw % n, profile=PROFILE))


def test_sizes_of_heads_that_are_remembered_are_bounded() -> None:
    memo = knowing()
    for n in range(1000):
        raw = traced(7).replace(b"00-7-1", b"0" * n)
        assert same(memo.like(raw), parse_request(raw, profile=PROFILE))
    assert 0 < len(memo._shapes.near) <= 64


def test_answers_have_shapes_too_each_status_its_own() -> None:
    memo = AnswerMemo(profile=Forwarding(via=b"c"))
    raw = b"HTTP/1.1 %d OK\r\nDate: %d\r\nContent-Length: %d\r\nKeep-Alive: %d\r\nServer: x\r\n\r\n"
    for n in range(60):
        memo.parse(raw % (200, n, n, n), False)
        memo.parse(raw % (304, n, n, n), False)
    for status, n in ((200, 0), (200, 700), (304, 700)):
        slow = parse_answer(raw % (status, n, n, n), profile=Forwarding(via=b"c"))
        assert same(memo.like(raw % (status, n, n, n)), slow)
    assert memo.like(raw % (201, 1, 1, 1)) is None
    assert memo.like(raw % (200, 1, 1, 1) + b"x") is None
    assert memo.like((raw % (200, 1, 1, 1)).replace(b"Length: 1", b"Length: 01")) is None
