"""Which field sections HTTP allows (RFC 9113 section 8)."""

from __future__ import annotations

import pytest

from carrier.wire.h2.fields import Section, read
from carrier.wire.h2.limits import Limits
from tests.h2talk import GET, OK, POST

CONNECT = [(b":method", b"CONNECT"), (b":authority", b"a.example:443")]
CHAT = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"https"), (b":path", b"/chat"), (b":authority", b"a.example")]


def section(pairs: list[tuple[bytes, bytes]], client: bool = False, limits: Limits = Limits()) -> Section:  # noqa: B008
    return read(pairs, sum(len(name) + len(value) + 32 for name, value in pairs), (), limits, client)


def without(pairs: list[tuple[bytes, bytes]], name: bytes) -> list[tuple[bytes, bytes]]:
    return [pair for pair in pairs if pair[0] != name]


def instead(pairs: list[tuple[bytes, bytes]], name: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
    return [(known, value if known == name else old) for known, old in pairs]


@pytest.mark.parametrize(
    ("field", "why"),
    [
        ((b"X-User", b"john"), "lower case"),
        ((b"x user", b"john"), "not a token"),
        ((b"x(", b"john"), "not a token"),
        ((b"", b"john"), "not a token"),
        ((b"a:b", b"john"), "not a token"),
        ((b"x\xc3", b"john"), "not a token"),
        ((b"x-user", b"a\r\nb: c"), "control byte"),
        ((b"x-user", b"a\n"), "control byte"),
        ((b"x-user", b"a\0"), "control byte"),
        ((b"x-user", b"a\x7f"), "control byte"),
        ((b"te", b"trailers "), "blank"),
        ((b"content-length", b" 5"), "blank"),
        ((b"connection", b"close"), "HTTP/1.1"),
        ((b"keep-alive", b"1"), "HTTP/1.1"),
        ((b"proxy-connection", b"close"), "HTTP/1.1"),
        ((b"transfer-encoding", b"chunked"), "HTTP/1.1"),
        ((b"upgrade", b"h2c"), "HTTP/1.1"),
        ((b"te", b"gzip"), "trailers"),
        ((b"te", b"trailers, gzip"), "trailers"),
        ((b"content-length", b"+5"), "decimal"),
        ((b"content-length", b"5, 5"), "decimal"),
        ((b"content-length", b"05"), "decimal"),
        ((b"content-length", b""), "decimal"),
        ((b"content-length", b"1" * 19), "decimal"),
        ((b":path", b"/twice"), "behind a regular field"),
    ],
)
@pytest.mark.parametrize("client", [False, True], ids=["request", "answer"])
def test_a_field_that_http_does_not_allow_makes_a_message_malformed(field, why, client):
    found = section([*(OK if client else GET), (b"a", b"b"), field], client)
    assert why in found.problem
    assert why in section([(b"a", b"b"), field], client).problem, "in trailers, too"


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        (without(GET, b":method"), "no :method"),
        (without(GET, b":path"), "no :path"),
        (without(GET, b":scheme"), "no :scheme"),
        (without(GET, b":authority"), "neither :authority nor Host"),
        ([*GET, GET[0]], "twice"),
        ([*GET, (b":path", b"/twice")], "twice"),
        ([*GET, (b":status", b"200")], "in a request"),
        ([*GET, (b":unknown", b"x")], "is unknown"),
        ([*GET, (b":", b"x")], "is unknown"),
        ([*GET, (b":protocol", b"websocket")], "CONNECT"),
        ([*GET, (b"host", b"b.example")], "b.example"),
        ([*GET, (b"host", b"a.example"), (b"host", b"a.example")], "several Host"),
        (instead(GET, b":path", b""), ":path"),
        (instead(GET, b":path", b"x"), ":path"),
        (instead(GET, b":path", b"/a b"), ":path"),
        (instead(GET, b":path", b"/a#b"), ":path"),
        (instead(GET, b":path", b"/\xc3\xa9"), ":path"),
        (instead(GET, b":path", b"http://a.example/"), ":path"),
        (instead(GET, b":path", b"*"), ":path"),
        (instead(GET, b":method", b"G T"), ":method"),
        (instead(GET, b":method", b""), ":method"),
        (instead(GET, b":scheme", b""), ":scheme"),
        (instead(GET, b":scheme", b"ht tp"), ":scheme"),
        (instead(GET, b":authority", b"a@b"), ":authority"),
        (instead(GET, b":authority", b"a/b"), ":authority"),
        (instead(GET, b":authority", b"a:99999"), ":authority"),
        (instead(GET, b":authority", b""), ":authority"),
        ([*CONNECT, (b":path", b"/")], "CONNECT with"),
        ([*CONNECT, (b":scheme", b"http")], "CONNECT with"),
        (without(CHAT, b":path"), "no :path"),
        (instead(CHAT, b":protocol", b"web socket"), ":protocol"),
        ([*GET[:3], (b"host", b"a.example ")], "blank"),
        ([*GET, (b"content-length", b"5"), (b"content-length", b"5")], "decimal"),
    ],
)
def test_a_request_that_http_does_not_allow_is_malformed(pairs, why):
    assert why in section(pairs).problem


def test_a_request_has_what_its_pseudo_fields_say():
    found = section([*POST, (b"x-user", b"john"), (b"content-length", b"5")])
    assert (found.problem, found.method, found.length) == ("", b"POST", 5)
    assert found.fields == ((b"x-user", b"john"), (b"content-length", b"5"))
    assert found.get(b"x-user") == b"john" and found.get(b"x") is None


def test_host_stands_in_for_authority_and_the_same_one_twice_is_one():
    assert section([*without(GET, b":authority"), (b"host", b"b.example")]).authority == b"b.example"
    same = section([*GET, (b"host", b"a.example")])
    assert (same.problem, same.authority, same.fields) == ("", b"a.example", ())


def test_options_may_ask_for_everything():
    assert section(instead(instead(GET, b":method", b"OPTIONS"), b":path", b"*")).path == b"*"


def test_connect_has_only_an_authority():
    found = section(CONNECT)
    assert (found.problem, found.authority, found.path) == ("", b"a.example:443", b"")


def test_extended_connect_has_a_protocol_where_it_was_offered():
    assert (section(CHAT).problem, section(CHAT).protocol, section(CHAT).path) == ("", b"websocket", b"/chat")
    assert "not offered" in section(CHAT, limits=Limits(connect=False)).problem


def test_crumbs_of_a_cookie_are_joined_where_the_first_one_stood():
    found = section([*GET, (b"a", b"1"), (b"cookie", b"x=1"), (b"b", b"2"), (b"cookie", b"y=2")])
    assert found.fields == ((b"a", b"1"), (b"cookie", b"x=1; y=2"), (b"b", b"2"))


def test_te_may_say_trailers():
    assert section([*GET, (b"te", b"Trailers")]).fields == ((b"te", b"Trailers"),)


def test_an_answer_has_one_status_of_three_digits():
    assert section([(b":status", b"404"), (b"a", b"b")], client=True).status == 404
    for wrong in (b"", b"20", b"2000", b"abc", b"099", b"101", b"+20"):
        assert ":status" in section([(b":status", wrong)], client=True).problem
    assert "twice" in section([*OK, *OK], client=True).problem
    assert "in an answer" in section([*OK, (b":path", b"/")], client=True).problem


def test_a_section_without_pseudo_fields_is_one_of_trailers():
    assert section([(b"grpc-status", b"0")], client=True).trailers
    assert section([]).trailers and not section(GET).trailers


def test_bytes_beyond_ascii_pass_in_values_as_in_http1():
    assert section([*GET, (b"x-user", b"caf\xc3\xa9"), (b"x-empty", b""), (b"x-tab", b"a\tb")]).problem == ""


def test_bounds_count_bytes_fields_and_every_crumb():
    crumbs = [*GET, *[(b"cookie", b"a")] * 20]
    assert section(crumbs, limits=Limits(fields=10)).excess == ""
    assert section(crumbs, limits=Limits(fields=9)).excess == "20 cookies, at most 18"
    assert section(crumbs, limits=Limits(fields=4)).excess == "a field section of 5 fields, at most 4"
    assert "24 fields, at most 23" in section([*GET, *[(b"x", b"a")] * 20], limits=Limits(fields=23)).excess
    assert "at most 500" in section(crumbs, limits=Limits(head=500)).excess
    assert "a field of 206 bytes, at most 100" in section([*GET, (b"x-user", b"v" * 200)], limits=Limits(line=100)).excess


def test_all_cookies_that_a_browser_keeps_of_a_site_pass_and_not_many_more():
    """Chrome keeps 180 of them, Firefox 150, and sends each as a field: 431 from the 96th on, though HTTP/1.1 has one field of them all."""
    assert section([*GET, *[(b"cookie", b"name-%d=%d" % (n, n)) for n in range(180)]]).excess == ""
    assert "at most 200" in section([*GET, *[(b"cookie", b"a=%d" % n) for n in range(201)]]).excess


def test_paths_as_browsers_send_them_pass_where_that_was_chosen():
    loose = instead(GET, b":path", b"/a?b={c}|d")
    assert section(loose).excess and not section(loose, limits=Limits(strict_target=False)).excess
    assert "options.strict_target 0 takes it" in section(loose).excess and section(loose).kind == "protocol-error"
    assert section(instead(GET, b":path", b"/a#b")).problem and section(instead(GET, b":path", b"a")).problem


def test_fields_are_remembered_and_that_is_bounded():
    from carrier.wire.h2.fields import _FINE, _fine

    for n in range(3 * _FINE):
        assert section([*GET, (b"x-%d" % n, b"a")]).problem == ""
    assert len(_fine) <= _FINE
    assert "HTTP/1.1" in section([*GET, (b"connection", b"a")]).problem


def test_what_was_valid_for_one_limit_is_not_for_another():
    loose = instead(GET, b":path", b"/{}")
    for strict in (False, True, False, True):
        assert bool(section(loose, limits=Limits(strict_target=strict)).excess) == strict


@pytest.mark.parametrize("client", [False, True], ids=["request", "answer"])
def test_blanks_around_a_value_are_no_part_of_it(client: bool) -> None:
    """Programs send what they were given: metadata of gRPC, fields set by hand. The whole message was refused."""
    said = [(b"x-a", b" a "), (b"x-b", b"\tb"), (b"x-c", b" "), (b"grpc-message", b"it failed: ")]
    meant = ((b"x-a", b"a"), (b"x-b", b"b"), (b"x-c", b""), (b"grpc-message", b"it failed:"))
    for _ in range(2):
        assert section([*(OK if client else GET), *said], client).fields == meant
        assert section(said, client).fields == meant
    assert section([*GET, (b"cookie", b" a=b "), (b"x", b"y")]).fields == ((b"cookie", b"a=b"), (b"x", b"y"))
    assert section([*GET, (b"cookie", b"a=b"), (b"cookie", b"")]).get(b"cookie") == b"a=b;"
