"""Heads that were seen before: found by their bytes, or planned by their lines, the same as h11 would have it."""

from __future__ import annotations

import itertools

import pytest

from carrier.errors import Error
from carrier.wire.forwarding import Forwarding
from carrier.wire.h1.reader import AnswerMemo, RequestMemo, parse_answer, parse_request
from carrier.wire.http import NONE

GET = b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n"


def test_a_head_seen_once_is_found_by_its_bytes() -> None:
    memo = RequestMemo()
    head = memo.parse(GET)
    assert memo.heads.get(bytes(bytearray(GET))) is head


def test_a_head_is_not_kept_when_that_is_not_wished_or_it_is_large() -> None:
    memo = RequestMemo()
    memo.parse(GET, keep=False)
    memo.parse(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"1" * 5000 + b"\r\n\r\n")
    assert not memo.heads


def test_the_plan_parser_gives_what_h11_s_path_gives() -> None:
    profile = Forwarding(interesting=frozenset((b"x-user",)), via=b"c")
    memo = RequestMemo(profile=profile)
    raw = (
        b"POST /a?b HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nX-Request-Id: %d\r\nContent-Length: %d\r\n"
        b"X-Forwarded-For: 1\r\nX: y\r\nX-User: z\r\n\r\n"
    )
    for n in range(60):
        fast, slow = memo.parse(raw % (n, n)), parse_request(raw % (n, n), profile=profile)
        for name in (
            "text",
            "method",
            "target",
            "authority",
            "body",
            "length",
            "keep_alive",
            "upgrade",
            "expect",
            "has_id",
            "fields",
            "simple",
        ):
            assert getattr(fast, name) == getattr(slow, name), name


def test_equal_keys_mean_equal_fields_of_interest() -> None:
    memo = RequestMemo(profile=Forwarding(interesting=frozenset((b"x-user",))))
    raw = b"GET /%d HTTP/1.1\r\nHost: a\r\ntraceparent: %d\r\nX-User: %b\r\n\r\n"
    one, two, three = memo.parse(raw % (1, 1, b"alice")), memo.parse(raw % (2, 2, b"alice")), memo.parse(raw % (1, 1, b"bob"))
    assert one.key == two.key != three.key
    double = memo.parse(raw % (1, 1, b"alice") + b"")
    assert double.key == one.key
    joined = memo.parse(b"GET /1 HTTP/1.1\r\nHost: a\r\nX-User: alice\r\nX-User: bob\r\n\r\n")
    assert joined.key not in (one.key, three.key)
    assert joined.get(b"x-user") == b"alice, bob"


def test_there_is_no_key_when_rules_look_at_everything() -> None:
    assert RequestMemo(profile=Forwarding(interesting=None)).parse(GET).key is None


def test_keys_are_never_used_twice_even_when_tables_were_emptied() -> None:
    memo = RequestMemo(profile=Forwarding(interesting=frozenset((b"x-user",))))
    keys = {memo.parse(b"GET / HTTP/1.1\r\nHost: a\r\nX-User: %d\r\n\r\n" % n, keep=False).key for n in range(9000)}
    assert len(keys) == 9000
    other = RequestMemo(profile=Forwarding(interesting=frozenset((b"x-user",))))
    assert other.parse(b"GET / HTTP/1.1\r\nHost: a\r\nX-User: 0\r\n\r\n").key not in keys


def test_tables_stay_bounded_whatever_comes() -> None:
    memo = RequestMemo(profile=Forwarding(interesting=frozenset((b"x-user",))))
    for n in range(9000):
        memo.parse(b"GET /%d HTTP/1.1\r\nHost: a%d\r\nX-%d: y\r\nX-User: %d\r\nConnection: x%d\r\n\r\n" % (n, n, n, n, n % 50))
    for table in (memo.heads, memo._ids, memo._names, memo._values, memo._plans, memo._starts, memo._pairs):
        assert len(table) <= 4096 + 100
    assert memo._bytes <= 2 * 1024 * 1024


def test_known_lines_in_ever_new_orders_do_not_fill_the_plans() -> None:
    memo = RequestMemo(profile=Forwarding(interesting=frozenset(b"x%d" % n for n in range(12))))
    for n in range(3000):
        fields = b"".join(b"x%d: 1\r\n" % i for i in range(12) if n >> i & 1)
        memo.parse(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n", keep=False)
    assert len(memo._plans) <= 1024


def test_an_answer_seen_once_is_found_by_its_bytes_and_lengths_are_read_each_time() -> None:
    memo = AnswerMemo()
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nDate: %d\r\n\r\n"
    for n in range(100):
        assert memo.parse(raw % (n, n)).length == n
    assert memo.heads[raw % (7, 7)].length == 7
    assert memo.heads[raw % (0, 0)].body == NONE


FRAMING = [
    b"content-length: 0",
    b"content-length: 5",
    b"content-length: +5",
    b"transfer-encoding: chunked",
    b"transfer-encoding: gzip",
    b"transfer-encoding: gzip, chunked",
    b"connection: close",
    b"connection: upgrade",
    b"upgrade: websocket",
]


@pytest.mark.parametrize("status", [100, 101, 103, 200, 204, 205, 304, 426])
def test_whatever_an_answer_says_of_its_framing_it_is_the_same_head_as_read_line_by_line(status: int) -> None:
    for minor, fields in itertools.product((0, 1), itertools.combinations_with_replacement((b"", *FRAMING), 3)):
        raw = b"".join((b"HTTP/1.%d %d x\r\n" % (minor, status), *(field + b"\r\n" for field in fields if field), b"a: b\r\n\r\n"))
        read: list[object] = []
        memo = AnswerMemo()
        for parse in (parse_answer, memo.parse, memo.parse):  # the second time it is remembered
            try:
                head = parse(raw)
                read.append(
                    [head.status, head.version, head.body, head.length, head.keep_alive, head.upgrade, sorted(head.text.split(b"\r\n"))]
                )
            except Error as error:
                read.append(error.kind)
        assert read[0] == read[1] == read[2], raw
