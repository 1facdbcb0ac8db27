"""The HTTP/1.1 codec: bytes in, calls out."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from carrier.errors import Error
from carrier.http import CHUNKED, CLOSE, LENGTH, NONE, Fields, Forwarding, Head
from carrier.http1 import (
    LAST_CHUNK,
    AnswerMemo,
    AnswerReader,
    Chunked,
    Limits,
    RequestMemo,
    RequestReader,
    chunk,
    last_chunk,
    parse_answer,
    parse_request,
)

PLAIN = Forwarding(x_forwarded=False)
GET = b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello"
UPLOAD = b"POST /x HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Heard:
    """A target that writes down what it is told; `then` may answer back."""

    def __init__(self) -> None:
        self.says: list[object] = []
        self.heads: list[Head] = []
        self.then: dict[str, Callable[[], None]] = {}

    def on_head(self, head: Head) -> None:
        self.heads.append(head)
        self.says.append(head.status or head.target)
        self.then.get("head", lambda: None)()

    def on_data(self, data: bytes) -> None:
        self.says.append(data)
        self.then.get("data", lambda: None)()

    def on_end(self, trailers: Fields) -> None:
        self.says.append(("end", *trailers))
        self.then.get("end", lambda: None)()


END = ("end",)


def requests(limits: Limits | None = None) -> tuple[RequestReader, Heard]:
    heard = Heard()
    limits = limits or Limits()
    return RequestReader(RequestMemo(limits, PLAIN), limits, heard), heard


def answers(method: bytes = b"GET", upgrade: bytes | None = None, limits: Limits | None = None) -> tuple[AnswerReader, Heard]:
    heard = Heard()
    limits = limits or Limits()
    reader = AnswerReader(AnswerMemo(limits), limits, heard)
    reader.expect(method, upgrade)
    return reader, heard


def parse(*lines: bytes, profile: Forwarding = PLAIN, limits: Limits | None = None) -> Head:
    return parse_request(b"\r\n".join(lines) + b"\r\n\r\n", limits, profile)


def refusal(*lines: bytes) -> str:
    with pytest.raises(Error) as caught:
        parse(*lines)
    assert caught.value.side == "downstream"
    return caught.value.kind


def answer(*lines: bytes, method: bytes = b"GET") -> Head:
    return parse_answer(b"\r\n".join(lines) + b"\r\n\r\n", method)


# --- request heads ---------------------------------------------------------------------------------------------------------------


def test_a_plain_request_is_sent_on_as_it_came() -> None:
    head = parse_request(GET, profile=PLAIN)
    assert (head.method, head.target, head.host, head.body, head.keep_alive) == (b"GET", b"/x", b"a.example", NONE, True)
    assert head.wire == GET
    assert head.simple


def test_length_and_chunked_frame_a_body() -> None:
    assert (parse_request(POST[:-5]).body, parse_request(POST[:-5]).length) == (LENGTH, 5)
    assert parse_request(UPLOAD).body == CHUNKED
    assert parse_request(POST[:-5].replace(b"5", b"0")).body == NONE


def test_hop_by_hop_fields_are_cut_and_those_that_connection_names() -> None:
    head = parse(
        b"GET / HTTP/1.1", b"Host: a", b"Connection: close, X-Secret", b"X-Secret: 1", b"Keep-Alive: 5", b"TE: trailers", b"X-Public: 2"
    )
    assert head.wire == b"GET / HTTP/1.1\r\nHost: a\r\nX-Public: 2\r\n\r\n"
    assert not head.keep_alive
    assert head.get(b"x-secret") == b"1"  # rules still see it


def test_connection_cannot_name_away_what_frames_or_routes() -> None:
    head = parse(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 5", b"Connection: host, content-length, transfer-encoding")
    assert head.wire == b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


def test_the_way_is_written_into_the_wire_form_and_claims_are_cut() -> None:
    head = parse(b"GET / HTTP/1.1", b"Host: a", b"X-Forwarded-For: 6.6.6.6", b"Forwarded: for=6.6.6.6", profile=Forwarding(via=b"c"))
    assert head.wire == b"GET / HTTP/1.1\r\nHost: a\r\nx-forwarded-proto: http\r\nx-forwarded-host: a\r\nvia: 1.1 c\r\n\r\n"


def test_host_is_replaced_when_the_profile_says_so() -> None:
    head = parse(b"GET / HTTP/1.1", b"Host: a", profile=Forwarding(x_forwarded=False, host=b"inside"))
    assert head.wire == b"GET / HTTP/1.1\r\nhost: inside\r\n\r\n"
    assert head.host == b"a"


def test_an_http_1_0_request_goes_on_as_1_1_with_a_host() -> None:
    head = parse(b"GET / HTTP/1.0")
    assert head.wire == b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
    assert (head.minor, head.keep_alive) == (0, False)
    assert parse(b"GET / HTTP/1.0", b"Host: a", b"Connection: keep-alive").keep_alive


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        (b"http://a.example/x?y", b"/x?y"),
        (b"http://a.example", b"/"),
        (b"http://a.example?y", b"/?y"),
        (b"HTTP://A.EXAMPLE:80/x", b"/x"),
    ],
)
def test_an_absolute_target_is_sent_on_as_path_when_host_agrees(target: bytes, sent: bytes) -> None:
    head = parse(b"GET " + target + b" HTTP/1.1", b"Host: a.example")
    assert head.target == target
    assert head.wire == b"GET " + sent + b" HTTP/1.1\r\nHost: a.example\r\n\r\n"


def test_options_of_a_whole_server_stays_so() -> None:
    assert parse(b"OPTIONS http://a HTTP/1.1", b"Host: a").wire.startswith(b"OPTIONS * HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "target",
    [
        b"/a b",
        b"x",
        b"?x",
        b"*",
        b"/#f",
        b"/%zz",
        b"/%",
        b"/<",
        b'/"',
        b"/\\",
        b"/{}",
        b"/|",
        b"/^",
        b"/`",
        b"/\x80",
        b"/\x7f",
        b"http:/a/",
        b"http://u@a/",
        b"http://b/",
        b"http:///",
        b"ftp://a/",
        b"http://a:80a/",
        b"http://a/#",
        b"a:80",
        b"",
    ],
)
def test_a_target_that_the_grammar_forbids_is_refused(target: bytes) -> None:
    assert refusal(b"GET " + target + b" HTTP/1.1", b"Host: a") == "protocol-error"


def test_raw_bytes_that_browsers_send_pass_when_targets_are_not_strict() -> None:
    loose = Limits(strict_target=False)
    assert parse(b'GET /a?f={x|y}^`<"> HTTP/1.1', b"Host: a", limits=loose).query == b'f={x|y}^`<">'
    assert parse(b"GET /a?x[]=1 HTTP/1.1", b"Host: a").query == b"x[]=1"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"GET /x HTTP/2.0", "version"),
        (b"GET /x HTTP/1.2", "version"),
        (b"GET /x HTTP/0.9", "version"),
        (b"GET /x http/1.1", "protocol-error"),
        (b"GET /x", "protocol-error"),
        (b"GET  /x HTTP/1.1", "protocol-error"),
        (b"GET /x HTTP/1.1 ", "protocol-error"),
        (b"GET\t/x HTTP/1.1", "protocol-error"),
        (b"G(T /x HTTP/1.1", "protocol-error"),
        (b"GET /" + b"x" * 8192 + b" HTTP/1.1", "uri-too-long"),
    ],
)
def test_request_lines_are_refused_by_kind(line: bytes, kind: str) -> None:
    assert refusal(line, b"Host: a") == kind


@pytest.mark.parametrize(
    "field",
    [
        b"X : 1",
        b" X: 1",
        b"X\t: 1",
        b": 1",
        b"X",
        b"X(: 1",
        b"X\xff: 1",
        b"X: a\0",
        b"X: a\rb",
        b"X: a\nb",
        b"X: a\x7f",
        b"X: \x01",
        b"\tX: 1",
    ],
)
def test_field_lines_that_are_none_are_refused(field: bytes) -> None:
    assert refusal(b"GET / HTTP/1.1", b"Host: a", field) == "protocol-error"


@pytest.mark.parametrize("field", [b"X: \xe9\x80", b"X:", b"X:\t1 \t", b"X_Y: 1", b"!#$%&'*+-.^_`|~: 1", b"X: a:b"])
def test_field_lines_that_are_odd_but_good_pass(field: bytes) -> None:
    name = field.partition(b":")[0].lower()
    assert parse(b"GET / HTTP/1.1", b"Host: a", field).get(name) == field.partition(b":")[2].strip(b" \t")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ([b"Content-Length: 5", b"Content-Length: 5"], "protocol-error"),
        ([b"Content-Length: 5", b"Content-Length: 6"], "protocol-error"),
        ([b"Content-Length: 5, 5"], "protocol-error"),
        ([b"Content-Length: +5"], "protocol-error"),
        ([b"Content-Length: -5"], "protocol-error"),
        ([b"Content-Length: 05"], "protocol-error"),
        ([b"Content-Length: 0x5"], "protocol-error"),
        ([b"Content-Length: 5 5"], "protocol-error"),
        ([b"Content-Length:"], "protocol-error"),
        ([b"Content-Length: 9999999999999999999"], "protocol-error"),
        ([b"Content-Length: 5", b"Transfer-Encoding: chunked"], "protocol-error"),
        ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], "protocol-error"),
        ([b"Transfer-Encoding: chunked, chunked"], "protocol-error"),
        ([b"Transfer-Encoding: , chunked"], "protocol-error"),
        ([b"Transfer-Encoding: xchunked"], "protocol-error"),
        ([b"Transfer-Encoding: identity"], "protocol-error"),
        ([b"Transfer-Encoding:"], "protocol-error"),
        ([b"Transfer-Encoding: gzip, chunked"], "not-implemented"),
        ([b"Expect: 200-ok"], "expectation"),
        ([b"Host: a"], "protocol-error"),
        ([b"Connection: a b"], "protocol-error"),
        ([b"Connection: upgrade", b"Upgrade: a b"], "protocol-error"),
    ],
)
def test_what_frames_and_routes_is_refused_unless_it_is_one_plain_value(fields: list[bytes], kind: str) -> None:
    assert refusal(b"POST / HTTP/1.1", b"Host: a", *fields) == kind


@pytest.mark.parametrize(
    "host",
    [b"", b"a b", b"a,b", b"u@a", b"a/", b"a:80a", b"a:99999", b"[::1", b"[::1]x", b"[:::]", b"::1", b"a%zz", b"*", b"\xe9", b"a:-1"],
)
def test_an_invalid_host_is_refused(host: bytes) -> None:
    assert refusal(b"GET / HTTP/1.1", b"Host: " + host) == "protocol-error"


@pytest.mark.parametrize("host", [b"a", b"a.", b"A_b.example:80", b"[::1]", b"[::1]:8080", b"127.0.0.1", b"a%2eb", b"a:"])
def test_a_valid_host_passes(host: bytes) -> None:
    assert parse(b"GET / HTTP/1.1", b"Host: " + host).host == host


def test_http_1_1_needs_a_host_also_with_an_absolute_target() -> None:
    assert refusal(b"GET / HTTP/1.1") == "protocol-error"
    assert refusal(b"GET http://a/ HTTP/1.1") == "protocol-error"


def test_transfer_encoding_in_http_1_0_is_refused() -> None:
    assert refusal(b"POST / HTTP/1.0", b"Host: a", b"Transfer-Encoding: chunked") == "protocol-error"


def test_heads_that_are_too_large_are_refused() -> None:
    assert refusal(b"GET / HTTP/1.1", b"Host: a", *[b"X: 1"] * 100) == "headers-too-large"
    assert refusal(b"GET / HTTP/1.1", b"Host: a", b"X: " + b"1" * 8192) == "headers-too-large"
    assert refusal(b"GET / HTTP/1.1", b"Host: a", *[b"X: " + b"1" * 8000] * 5) == "headers-too-large"


def test_expect_is_kept_only_with_content_and_http_1_1() -> None:
    with_content = parse(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 5", b"Expect: 100-continue")
    assert with_content.expect and b"Expect: 100-continue" in with_content.wire
    for lines in ((b"GET / HTTP/1.1", b"Host: a", b"Expect: 100-continue"), (b"GET / HTTP/1.0", b"Host: a", b"Expect: 100-continue")):
        assert not parse(*lines).expect
        assert b"expect" not in parse(*lines).wire.lower()


def test_an_upgrade_counts_only_when_connection_names_it() -> None:
    named = parse(b"GET / HTTP/1.1", b"Host: a", b"Connection: keep-alive, Upgrade", b"Upgrade: WebSocket")
    assert named.upgrade == b"websocket" and not named.simple
    assert named.wire == b"GET / HTTP/1.1\r\nHost: a\r\nconnection: upgrade\r\nupgrade: WebSocket\r\n\r\n"
    assert parse(b"GET / HTTP/1.1", b"Host: a", b"Upgrade: websocket").upgrade is None
    assert parse(b"GET / HTTP/1.0", b"Host: a", b"Connection: upgrade", b"Upgrade: websocket").upgrade is None


def test_an_upgrade_to_h2c_is_dropped() -> None:
    lines = (b"GET / HTTP/1.1", b"Host: a", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    assert parse(*lines, b"Upgrade: h2c").wire == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert parse(*lines, b"Upgrade: h2c, websocket").upgrade == b"websocket"


def test_an_upgrade_with_content_is_served_as_a_plain_request() -> None:
    head = parse(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 5", b"Connection: upgrade", b"Upgrade: websocket")
    assert head.upgrade is None and b"upgrade" not in head.wire


def test_connect_needs_host_and_port_and_no_content() -> None:
    assert parse(b"CONNECT a.example:443 HTTP/1.1", b"Host: a.example:443").target == b"a.example:443"
    assert refusal(b"CONNECT /x HTTP/1.1", b"Host: a") == "protocol-error"
    assert refusal(b"CONNECT a:1 HTTP/1.1", b"Host: a", b"Content-Length: 1") == "protocol-error"


def test_a_name_that_cgi_takes_for_a_rule_s_field_is_refused() -> None:
    profile = Forwarding(interesting=frozenset((b"x-user",)))
    memo = RequestMemo(profile=profile)
    for field in (b"X_User: alice", b"x_user: bob"):
        with pytest.raises(Error):
            memo.parse(b"GET / HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n")
    assert memo.parse(b"GET / HTTP/1.1\r\nHost: a\r\nY_User: alice\r\n\r\n").get(b"y_user") == b"alice"


# --- the memo --------------------------------------------------------------------------------------------------------------------


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
        for name in ("wire", "method", "target", "host", "body", "length", "keep_alive", "upgrade", "expect", "named", "fields", "simple"):
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


# --- request reader --------------------------------------------------------------------------------------------------------------


def test_a_request_is_told_as_head_data_end() -> None:
    reader, heard = requests()
    reader.feed(POST)
    assert heard.says == [b"/x", b"hello", END]
    assert reader.idle


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_where_reads_are_cut_makes_no_difference(step: int) -> None:
    stream = b"\r\n" + POST + UPLOAD + chunk(b"hello") + b"3;a=b\r\nabc\r\n0\r\nX-T: 1\r\n\r\n" + GET
    reader, heard = requests()
    for i in range(0, len(stream), step):
        reader.feed(stream[i : i + step])
    says = b"".join(s if isinstance(s, bytes) else b"|" for s in heard.says)
    assert says == b"/xhello|/xhelloabc|/x|"
    assert ("end", (b"X-T", b"1")) in heard.says
    assert reader.idle and reader.pending == 0


def test_pipelined_requests_come_in_order() -> None:
    reader, heard = requests()
    reader.feed(GET * 3)
    assert heard.says == [b"/x", END] * 3


def test_a_paused_reader_holds_the_next_request_until_it_is_resumed() -> None:
    reader, heard = requests()
    heard.then["head"] = reader.pause
    reader.feed(POST * 3)
    assert heard.says == [b"/x", b"hello", END]
    assert reader.pending == 2 * len(POST)
    reader.feed(GET)
    reader.resume()
    assert heard.says == [b"/x", b"hello", END] * 2
    reader.resume()
    reader.resume()
    assert heard.says == [b"/x", b"hello", END] * 3 + [b"/x", END]
    assert reader.pending == 0


def test_resume_within_a_call_goes_on_in_the_same_feed() -> None:
    reader, heard = requests()
    heard.then = {"head": reader.pause, "end": reader.resume}
    reader.feed(GET * 3)
    assert heard.says == [b"/x", END] * 3


def test_many_held_requests_cost_time_in_proportion() -> None:
    reader, heard = requests()
    heard.then["head"] = reader.pause
    reader.feed(GET * 14000)
    start = time.process_time()
    while reader.pending:
        reader.resume()
    assert time.process_time() - start < 0.5
    assert len(heard.heads) == 14000


def test_what_is_held_is_bounded() -> None:
    reader, _ = requests()
    reader.pause()
    with pytest.raises(Error) as caught:
        for _ in range(20):
            reader.feed(GET * 1000)
    assert caught.value.kind == "headers-too-large"


def test_a_bad_request_behind_a_good_one_is_found_when_its_turn_comes() -> None:
    reader, heard = requests()
    heard.then["head"] = reader.pause
    reader.feed(GET + b"\0\1\r\n\r\n")
    assert heard.says == [b"/x", END]
    with pytest.raises(Error):
        reader.resume()


def test_after_the_last_request_of_a_connection_bytes_are_dropped() -> None:
    reader, heard = requests()
    reader.feed(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nInvalid\r\n\r\n" + GET)
    reader.feed(GET)
    reader.finish()
    assert heard.says == [b"/x", END]


def test_one_empty_line_before_a_request_is_ignored_and_no_more() -> None:
    reader, heard = requests()
    reader.feed(b"\r\n" + GET + b"\r\n" + GET)
    assert len(heard.heads) == 2
    with pytest.raises(Error):
        reader.feed(b"\r\n\r\n" + GET)


@pytest.mark.parametrize(
    "start", [b"\x16\x03\x01", b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nHost: a\n", b"GET /\rx", b"\0", b"GET / HTTP/1.1\r\n\rX"]
)
def test_a_head_that_cannot_become_good_is_refused_before_it_is_whole(start: bytes) -> None:
    reader, _ = requests()
    with pytest.raises(Error):
        reader.feed(start)


def test_a_cr_at_the_end_of_a_read_may_still_become_a_line_end() -> None:
    reader, heard = requests()
    reader.feed(GET[:-3])
    reader.feed(GET[-3:])
    assert heard.says == [b"/x", END]


@pytest.mark.parametrize(
    ("start", "kind"),
    [(b"GET /" + b"x" * 9000, "uri-too-long"), (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 6000, "headers-too-large")],
)
def test_a_head_that_is_too_large_is_refused_before_it_is_whole(start: bytes, kind: str) -> None:
    reader, _ = requests()
    with pytest.raises(Error) as caught:
        reader.feed(start)
    assert caught.value.kind == kind


def test_a_head_that_comes_byte_by_byte_costs_time_in_proportion() -> None:
    reader, heard = requests()
    raw = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: %b\r\n" % (b"y" * 4000) * 7 + b"\r\n"
    start = time.process_time()
    for i in range(len(raw)):
        reader.feed(raw[i : i + 1])
    assert time.process_time() - start < 1
    assert len(heard.heads) == 1


def test_after_an_upgrade_bytes_are_held_until_the_tunnel_stands() -> None:
    reader, heard = requests()
    reader.feed(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nraw" + GET)
    assert heard.says == [b"/x", END]
    assert reader.held and not reader.idle
    reader.tunnel()
    reader.feed(b"more")
    assert heard.says == [b"/x", END, b"raw" + GET, b"more"]
    reader.finish()
    assert heard.says[-1] == END


def test_after_a_refused_upgrade_requests_go_on() -> None:
    reader, heard = requests()
    reader.feed(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n" + GET)
    reader.resume()
    assert heard.says == [b"/x", END] * 2


@pytest.mark.parametrize("part", [GET[:10], POST[:-1], UPLOAD, UPLOAD + b"5\r\nhel", UPLOAD + b"0\r\n"])
def test_the_end_of_the_connection_inside_a_request_is_an_error(part: bytes) -> None:
    reader, _ = requests()
    reader.feed(part)
    with pytest.raises(Error):
        reader.finish()


@pytest.mark.parametrize("part", [b"", b"\r\n", GET, POST, GET + b"\r\n"])
def test_the_end_of_the_connection_between_requests_is_none(part: bytes) -> None:
    reader, _ = requests()
    reader.feed(part)
    reader.finish()


def test_the_end_of_the_connection_waits_for_held_requests() -> None:
    reader, heard = requests()
    heard.then["head"] = reader.pause
    reader.feed(GET + GET + GET[:5])
    reader.finish()
    reader.resume()
    assert len(heard.heads) == 2
    with pytest.raises(Error):
        reader.resume()


def test_the_end_of_the_connection_inside_a_body_does_not_wait_for_resume() -> None:
    reader, heard = requests()
    heard.then["head"] = reader.pause
    reader.feed(POST[:-1])
    with pytest.raises(Error):
        reader.finish()


def test_stop_drops_what_comes_later_even_when_called_from_within() -> None:
    reader, heard = requests()
    heard.then["head"] = reader.stop
    reader.feed(GET + GET)
    reader.feed(POST)
    assert heard.says == [b"/x"]


def test_after_an_error_nothing_more_is_read() -> None:
    reader, heard = requests()
    with pytest.raises(Error):
        reader.feed(b"BAD\r\n\r\n" + GET)
    reader.feed(GET)
    assert heard.says == []


def test_a_body_over_the_limit_is_refused() -> None:
    for raw in (POST, UPLOAD + b"2\r\nhe\r\n3\r\nllo\r\n"):
        reader, _ = requests(Limits(body=4))
        with pytest.raises(Error) as caught:
            reader.feed(raw)
        assert caught.value.kind == "body-too-large"


def test_heads_are_no_longer_kept_after_eight_straight_misses() -> None:
    reader, _ = requests()
    for n in range(20):
        reader.feed(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n)
    assert len(reader.memo.heads) == 8
    reader.feed(b"GET /0 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert reader.misses == 0


# --- chunked bodies ----------------------------------------------------------------------------------------------------------------


def test_all_chunks_of_a_read_come_as_one() -> None:
    assert Chunked().feed(chunk(b"hello ") + chunk(b"world") + LAST_CHUNK) == (b"hello world", 11 + 10 + 5, ())


def test_the_offset_behind_the_body_counts_in_the_last_read() -> None:
    body = Chunked()
    assert body.feed(b"xx5\r\nhello\r", 2) == (b"hello", -1, ())
    assert body.feed(b"\n0\r\n\r\nrest") == (b"", 6, ())
    cut = Chunked()
    assert cut.feed(b"0\r\nX: 1\r\n\r") == (b"", -1, ())
    assert cut.feed(b"yy\nrest", 2) == (b"", 3, ((b"X", b"1"),))


@pytest.mark.parametrize(
    "body",
    [
        b"5\nhello\r\n",
        b"5\r\nhelloXX",
        b"5\r\nhello\r0",
        b"5\r\nhello\n",
        b"0x5\r\n",
        b"+5\r\n",
        b" 5\r\n",
        b"5 \r\n",
        b"g\r\n",
        b"\r\n",
        b"5\r\r\n",
    ]
    + [
        b"5;\r\n",
        b"5;a\rb\r\n",
        b'5;a="\n"\r\n',
        b"5 ;a\r\n",
        b"5;a= b\r\n",
        b"5;a=\x01\r\n",
        b"0000000000000005\r\n",
        b"-1\r\n",
        b"5\x00\r\n",
    ]
    + [b"5\rhello", b"0\r\nX : 1\r\n\r\n", b"0\r\n X: 1\r\n\r\n", b"0\n\r\n", b"0\r\n\rX", b"0\r\nX: 1\n\r\n", b"5;" + b"a" * 5000]
    + [
        b"0\r\n%b: 1\r\n\r\n" % name
        for name in (b"Content-Length", b"Transfer-Encoding", b"Host", b"Connection", b"content-type", b"Trailer")
    ],
)
def test_bodies_that_servers_read_differently_are_refused(body: bytes) -> None:
    with pytest.raises(Error) as caught:
        Chunked().feed(body)
    assert caught.value.kind == "protocol-error"
    with pytest.raises(Error):
        drip = Chunked(side="upstream")
        for i in range(len(body)):
            drip.feed(body[i : i + 1])


@pytest.mark.parametrize(
    "body", [b"5;a\r\nhello\r\n0;z=1\r\n\r\n", b'5;a=b;c="d;\\"e"\r\nhello\r\n0\r\n\r\n', b"005\r\nhello\r\n000\r\n\r\n"]
)
def test_extensions_and_leading_zeros_are_good_and_dropped(body: bytes) -> None:
    assert Chunked().feed(body) == (b"hello", len(body), ())


def test_extensions_are_bounded_in_all() -> None:
    with pytest.raises(Error):
        Chunked().feed(b"1;a=bbbbbbbbbbbbbbbbbbbbb\r\nZ\r\n" * 1000)


def test_trailers_are_bounded() -> None:
    with pytest.raises(Error):
        Chunked().feed(b"0\r\n" + b"X: y\r\n" * 6000)
    with pytest.raises(Error):
        Chunked().feed(b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n")


def test_trailers_that_nobody_may_trust_are_dropped() -> None:
    assert Chunked().feed(b"0\r\nAuthorization: x\r\nX-T: 1\r\nX-Forwarded-For: y\r\n\r\n")[2] == ((b"X-T", b"1"),)


def test_tiny_chunks_and_tiny_reads_cost_time_in_proportion() -> None:
    stream = chunk(b"a") * 10000 + b"0\r\n" + b"X: %b\r\n" % (b"y" * 4000) * 7 + b"\r\n"
    start = time.process_time()
    whole, drip = Chunked(), Chunked()
    assert whole.feed(stream)[0] == b"a" * 10000
    got = [drip.feed(stream[i : i + 1])[0] for i in range(len(stream))]
    assert b"".join(got) == b"a" * 10000
    assert time.process_time() - start < 1.5


def test_a_body_is_framed_again_by_chunk_and_last_chunk() -> None:
    assert Chunked().feed(chunk(b"x" * 300) + last_chunk([(b"X", b"1")])) == (b"x" * 300, 5 + 302 + 11, ((b"X", b"1"),))


# --- answers -----------------------------------------------------------------------------------------------------------------------


def test_an_answer_is_told_as_head_data_end_and_the_connection_may_be_used_again() -> None:
    reader, heard = answers()
    assert not reader.complete
    reader.feed(OK)
    assert heard.says == [200, b"hello", END]
    assert reader.complete and reader.reusable
    reader.method = b"GET"
    assert not reader.complete
    reader.feed(OK)
    assert heard.says == [200, b"hello", END] * 2


@pytest.mark.parametrize("step", [1, 2, 5])
def test_where_reads_of_an_answer_are_cut_makes_no_difference(step: int) -> None:
    stream = (
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"hello") + LAST_CHUNK
    )
    reader, heard = answers()
    for i in range(0, len(stream), step):
        reader.feed(stream[i : i + step])
    assert b"".join(s for s in heard.says if isinstance(s, bytes)) == b"hello"
    assert [s for s in heard.says if not isinstance(s, bytes)] == [103, 200, END]
    assert reader.reusable


def test_answers_to_head_and_without_content_have_no_body() -> None:
    for method, raw in (
        (b"HEAD", OK[:-5]),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 \r\n\r\n"),
    ):
        reader, heard = answers(method)
        reader.feed(raw)
        assert heard.says[1:] == [END] and heard.heads[0].body == NONE
        assert reader.reusable


def test_an_answer_to_head_without_framing_leaves_the_connection_usable() -> None:
    reader, heard = answers(b"HEAD")
    reader.feed(b"HTTP/1.1 200 OK\r\n\r\n")
    assert heard.says == [200, END] and reader.reusable


def test_a_body_that_ends_with_the_connection() -> None:
    reader, heard = answers()
    reader.feed(b"HTTP/1.1 200 OK\r\n\r\nhel")
    reader.feed(b"lo")
    assert heard.heads[0].body == CLOSE and not reader.complete
    reader.finish()
    assert heard.says == [200, b"hel", b"lo", END]
    assert reader.complete and not reader.reusable


def test_http_1_0_answers_end_with_the_connection_unless_they_say_otherwise() -> None:
    assert not answer(b"HTTP/1.0 200 OK", b"Content-Length: 5").keep_alive
    assert answer(b"HTTP/1.0 200 OK", b"Content-Length: 5", b"Connection: keep-alive").keep_alive
    assert answer(b"HTTP/1.0 200 OK").wire == b"HTTP/1.1 200 OK\r\n\r\n"


def test_hop_by_hop_fields_of_answers_are_cut() -> None:
    head = answer(b"HTTP/1.1 200 OK", b"Connection: X-Secret", b"X-Secret: 1", b"Keep-Alive: 5", b"Content-Length: 0", b"Upgrade: h2c")
    assert head.wire == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def test_a_no_content_answer_may_say_that_its_length_is_zero() -> None:
    assert answer(b"HTTP/1.1 204 No Content", b"Content-Length: 0").wire == b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 x\r\n\r\n",
        b"HTTP/1.1 600 x\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b" HTTP/1.1 200 OK\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
        b"\x00",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 100 x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 x\r\n\r\n",
        OK + b"X",
        OK + OK,
        b"HTTP/1.1 304 x\r\n\r\nX",
        b"HTTP/1.1 100 x\r\n\r\n" * 40,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
    ],
)
def test_a_bad_answer_is_refused_before_its_final_head_goes_on(raw: bytes) -> None:
    reader, heard = answers()
    with pytest.raises(Error) as caught:
        reader.feed(raw)
    assert (caught.value.kind, caught.value.side) == ("bad-answer", "upstream")
    assert all(head.status < 200 for head in heard.heads)
    assert not reader.reusable


def test_surplus_in_a_later_read_cuts_the_answer_visibly() -> None:
    reader, heard = answers()
    reader.feed(OK[:-2])
    with pytest.raises(Error):
        reader.feed(b"loX")
    assert END not in heard.says


def test_bytes_that_nobody_asked_for_are_a_bad_answer() -> None:
    reader, heard = answers()
    reader.feed(OK)
    with pytest.raises(Error) as caught:
        reader.feed(OK)
    assert caught.value.kind == "bad-answer"
    assert len(heard.heads) == 1 and not reader.reusable


def test_a_switch_of_protocols_must_be_one_that_was_asked_for() -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\nraw"
    reader, heard = answers(upgrade=b"websocket")
    reader.feed(switch % b"WebSocket")
    reader.feed(b"more")
    assert heard.says == [101, b"raw", b"more"] and reader.tunnel
    assert heard.heads[0].wire.endswith(b"\r\nconnection: upgrade\r\nupgrade: WebSocket\r\n\r\n")
    reader.finish()
    assert heard.says[-1] == END and not reader.reusable
    for asked, given in ((None, b"websocket"), (b"websocket", b"foo"), (b"websocket", b"")):
        with pytest.raises(Error):
            answers(upgrade=asked)[0].feed(switch % given)


def test_connect_opens_a_tunnel_only_when_it_succeeds() -> None:
    reader, heard = answers(b"CONNECT")
    reader.feed(b"HTTP/1.1 200 OK\r\n\r\nraw")
    assert heard.says == [200, b"raw"] and reader.tunnel
    refused, heard = answers(b"CONNECT")
    refused.feed(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    assert heard.says == [403, b"no", END] and refused.reusable


def test_a_cut_answer_is_an_error_and_tells_whether_anything_had_come() -> None:
    reader, heard = answers()
    reader.feed(OK[:-1])
    with pytest.raises(Error) as caught:
        reader.finish()
    assert (caught.value.kind, caught.value.retry) == ("closed", "no")
    assert END not in heard.says
    silent, _ = answers()
    with pytest.raises(Error) as caught:
        silent.finish()
    assert caught.value.retry == "if_reused"


def test_an_idle_connection_may_end() -> None:
    reader, _ = answers()
    reader.feed(OK)
    reader.finish()
    assert not reader.reusable


def test_stop_in_the_middle_of_an_answer_drops_the_rest() -> None:
    reader, heard = answers()
    heard.then["head"] = reader.stop
    reader.feed(OK)
    assert heard.says == [200] and not reader.reusable
