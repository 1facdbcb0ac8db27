"""One HTTP/1.1 head: what it means, what is sent on of it, what is refused."""

from __future__ import annotations

import pytest

from carrier.errors import Error
from carrier.wire.forwarding import Forwarding
from carrier.wire.h1.reader import Limits, RequestMemo, parse_answer, parse_request
from carrier.wire.http import CHUNKED, LENGTH, NONE, Head

PLAIN = Forwarding(x_forwarded=False)
GET = b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello"
UPLOAD = b"POST /x HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"


def parse(*lines: bytes, profile: Forwarding = PLAIN, limits: Limits | None = None) -> Head:
    return parse_request(b"\r\n".join(lines) + b"\r\n\r\n", limits, profile)


def refusal(*lines: bytes) -> str:
    with pytest.raises(Error) as caught:
        parse(*lines)
    assert caught.value.side == "downstream"
    return caught.value.kind


def answer(*lines: bytes, method: bytes = b"GET") -> Head:
    return parse_answer(b"\r\n".join(lines) + b"\r\n\r\n", method)


def test_a_plain_request_is_sent_on_as_it_came() -> None:
    head = parse_request(GET, profile=PLAIN)
    assert (head.method, head.target, head.authority, head.body, head.keep_alive) == (b"GET", b"/x", b"a.example", NONE, True)
    assert head.text == GET
    assert head.simple


def test_length_and_chunked_frame_a_body() -> None:
    assert (parse_request(POST[:-5]).body, parse_request(POST[:-5]).length) == (LENGTH, 5)
    assert parse_request(UPLOAD).body == CHUNKED
    assert parse_request(POST[:-5].replace(b"5", b"0")).body == NONE


def test_hop_by_hop_fields_are_cut_and_those_that_connection_names() -> None:
    head = parse(
        b"GET / HTTP/1.1", b"Host: a", b"Connection: close, X-Secret", b"X-Secret: 1", b"Keep-Alive: 5", b"TE: gzip", b"X-Public: 2"
    )
    assert head.text == b"GET / HTTP/1.1\r\nHost: a\r\nX-Public: 2\r\n\r\n"
    assert not head.keep_alive
    assert head.get(b"x-secret") == b"1"  # rules still see it


def test_connection_cannot_name_away_what_frames_or_routes() -> None:
    head = parse(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 5", b"Connection: host, content-length, transfer-encoding")
    assert head.text == b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


def test_the_way_is_written_into_the_wire_form_and_claims_are_cut() -> None:
    head = parse(b"GET / HTTP/1.1", b"Host: a", b"X-Forwarded-For: 6.6.6.6", b"Forwarded: for=6.6.6.6", profile=Forwarding(via=b"c"))
    assert head.text == b"GET / HTTP/1.1\r\nHost: a\r\nx-forwarded-proto: http\r\nx-forwarded-host: a\r\nvia: 1.1 c\r\n\r\n"


def test_host_is_replaced_when_the_profile_says_so() -> None:
    head = parse(b"GET / HTTP/1.1", b"Host: a", profile=Forwarding(x_forwarded=False, host=b"inside"))
    assert head.text == b"GET / HTTP/1.1\r\nhost: inside\r\n\r\n"
    assert head.authority == b"a"


def test_an_http_1_0_request_goes_on_as_1_1_with_a_host() -> None:
    head = parse(b"GET / HTTP/1.0")
    assert head.text == b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
    assert (head.version, head.keep_alive) == ("1.0", False)
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
    assert head.text == b"GET " + sent + b" HTTP/1.1\r\nHost: a.example\r\n\r\n"


def test_options_of_a_whole_server_stays_so() -> None:
    assert parse(b"OPTIONS http://a HTTP/1.1", b"Host: a").text.startswith(b"OPTIONS * HTTP/1.1\r\n")


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
    with pytest.raises(Error, match=r'has "\|", which RFC 3986 forbids and browsers send \(options.strict_target 0 takes it\)'):
        parse(b"GET /css?family=A|B HTTP/1.1", b"Host: a")


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
        (b"GET /" + b"x" * 16384 + b" HTTP/1.1", "uri-too-long"),
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
        ([b"Expect: 100-continue, x"], "expectation"),
    ],
)
def test_what_frames_and_routes_is_refused_unless_it_is_one_plain_value(fields: list[bytes], kind: str) -> None:
    assert refusal(b"POST / HTTP/1.1", b"Host: a", *fields) == kind


@pytest.mark.parametrize("odd", [b"a b", b"close;x", b'"close"', b"a/b", b"\xe9", b"keep-alive; timeout=5"])
def test_what_is_no_connection_option_is_passed_over(odd: bytes) -> None:
    head = parse(b"GET / HTTP/1.1", b"Host: a", b"Connection: %b, x-secret" % odd, b"X-Secret: 1", b"X: 2")
    assert head.keep_alive
    assert head.text == b"GET / HTTP/1.1\r\nHost: a\r\nX: 2\r\n\r\n"
    assert parse(b"GET / HTTP/1.1", b"Host: a", b"Connection: %b, close" % odd).keep_alive is False
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: %b\r\n\r\n" % odd
    assert parse_answer(answer).keep_alive is False  # it may have meant to close


@pytest.mark.parametrize("odd", [b"a b", b"foo/", b"/2", b"a/1/2", b'"foo"', b"foo;bar", b"foo@bar", b"\xff", b"websocket, a b"])
def test_an_upgrade_that_is_no_list_of_protocols_is_ignored(odd: bytes) -> None:
    head = parse(b"GET / HTTP/1.1", b"Host: a", b"Connection: upgrade", b"Upgrade: " + odd)
    assert head.upgrade is None
    assert head.text == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        [b"Expect: 100-continue, 100-Continue"],
        [b"Expect: 100-continue,"],
        [b"Expect: 100-continue", b"Expect: 100-continue"],
        [b"Expect:", b"expect: , 100-CONTINUE"],
    ],
)
def test_an_expectation_said_twice_is_sent_on_once(lines: list[bytes]) -> None:
    head = parse(b"POST / HTTP/1.1", b"Host: a", *lines, b"Content-Length: 5")
    assert head.expect
    assert head.text == b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nexpect: 100-continue\r\n\r\n"


def test_an_empty_expectation_is_none() -> None:
    head = parse(b"POST / HTTP/1.1", b"Host: a", b"Expect: ,", b"Content-Length: 5")
    assert not head.expect
    assert head.text == b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize("host", [b"[v1.a]", b"[vF.a:b]:80", b"a:000080", b"a:", b"[::1]:00000"])
def test_hosts_of_forms_that_are_rare_are_good(host: bytes) -> None:
    assert parse(b"GET / HTTP/1.1", b"Host: " + host).authority == host


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"a b",
        b"a,b",
        b"u@a",
        b"a/",
        b"a:80a",
        b"a:99999",
        b"[::1",
        b"[::1]x",
        b"[:::]",
        b"[v1.]",
        b"[v.a]",
        b"[v1.a,b]",
        b"[1.2.3.4]",
        b"a:065536",
        b"::1",
        b"a%zz",
        b"*",
        b"\xe9",
        b"a:-1",
    ],
)
def test_an_invalid_host_is_refused(host: bytes) -> None:
    assert refusal(b"GET / HTTP/1.1", b"Host: " + host) == "protocol-error"


@pytest.mark.parametrize("host", [b"a", b"a.", b"A_b.example:80", b"[::1]", b"[::1]:8080", b"127.0.0.1", b"a%2eb", b"a:"])
def test_a_valid_host_passes(host: bytes) -> None:
    assert parse(b"GET / HTTP/1.1", b"Host: " + host).authority == host


def test_http_1_1_needs_a_host_also_with_an_absolute_target() -> None:
    assert refusal(b"GET / HTTP/1.1") == "protocol-error"
    assert refusal(b"GET http://a/ HTTP/1.1") == "protocol-error"


def test_transfer_encoding_in_http_1_0_is_refused() -> None:
    assert refusal(b"POST / HTTP/1.0", b"Host: a", b"Transfer-Encoding: chunked") == "protocol-error"


def test_heads_that_are_too_large_are_refused() -> None:
    assert refusal(b"GET / HTTP/1.1", b"Host: a", *[b"X: 1"] * 100) == "headers-too-large"
    assert refusal(b"GET / HTTP/1.1", b"Host: a", b"X: " + b"1" * 16384) == "headers-too-large"
    assert refusal(b"GET / HTTP/1.1", b"Host: a", *[b"X: " + b"1" * 8000] * 5) == "headers-too-large"


def test_expect_is_kept_only_with_content_and_http_1_1() -> None:
    with_content = parse(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 5", b"Expect: 100-continue")
    assert with_content.expect and b"Expect: 100-continue" in with_content.text
    for lines in ((b"GET / HTTP/1.1", b"Host: a", b"Expect: 100-continue"), (b"GET / HTTP/1.0", b"Host: a", b"Expect: 100-continue")):
        assert not parse(*lines).expect
        assert b"expect" not in parse(*lines).text.lower()


def test_an_upgrade_counts_only_when_connection_names_it() -> None:
    named = parse(b"GET / HTTP/1.1", b"Host: a", b"Connection: keep-alive, Upgrade", b"Upgrade: WebSocket")
    assert named.upgrade == b"websocket" and not named.simple
    assert named.text == b"GET / HTTP/1.1\r\nHost: a\r\nconnection: upgrade\r\nupgrade: WebSocket\r\n\r\n"
    assert parse(b"GET / HTTP/1.1", b"Host: a", b"Upgrade: websocket").upgrade is None
    assert parse(b"GET / HTTP/1.0", b"Host: a", b"Connection: upgrade", b"Upgrade: websocket").upgrade is None


def test_an_upgrade_to_h2c_is_dropped() -> None:
    lines = (b"GET / HTTP/1.1", b"Host: a", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    assert parse(*lines, b"Upgrade: h2c").text == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert parse(*lines, b"Upgrade: h2c, websocket").upgrade == b"websocket"


def test_an_upgrade_may_have_content() -> None:
    head = parse(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 5", b"Connection: upgrade", b"Upgrade: tcp")
    assert head.upgrade == b"tcp" and head.length == 5 and head.text.endswith(b"connection: upgrade\r\nupgrade: tcp\r\n\r\n")


def test_trailers_and_an_upgrade_are_one_connection_field() -> None:
    head = parse(b"GET / HTTP/1.1", b"Host: a", b"Connection: upgrade, te", b"Upgrade: x", b"TE: deflate, trailers")
    assert head.text.endswith(b"connection: upgrade, te\r\nupgrade: x\r\nte: trailers\r\n\r\n")


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


def test_http_1_0_answers_end_with_the_connection_unless_they_say_otherwise() -> None:
    assert not answer(b"HTTP/1.0 200 OK", b"Content-Length: 5").keep_alive
    assert answer(b"HTTP/1.0 200 OK", b"Content-Length: 5", b"Connection: keep-alive").keep_alive
    assert answer(b"HTTP/1.0 200 OK").text == b"HTTP/1.1 200 OK\r\n\r\n"


def test_hop_by_hop_fields_of_answers_are_cut() -> None:
    head = answer(b"HTTP/1.1 200 OK", b"Connection: X-Secret", b"X-Secret: 1", b"Keep-Alive: 5", b"Content-Length: 0", b"Upgrade: h2c")
    assert head.text == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def test_a_no_content_answer_may_say_that_its_length_is_zero() -> None:
    assert answer(b"HTTP/1.1 204 No Content", b"Content-Length: 0").text == b"HTTP/1.1 204 No Content\r\n\r\n"


def test_via_is_told_on_answers_too() -> None:
    head = parse_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", profile=Forwarding(via=b"c"))
    assert head.text == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nvia: 1.1 c\r\n\r\n"


def test_a_trusted_peer_s_claims_go_on_and_are_added_to() -> None:
    profile = Forwarding(trusted=True)
    head = parse(b"GET / HTTP/1.1", b"Host: a", b"X-Forwarded-For: 1.1.1.1", b"X-Forwarded-Proto: https", profile=profile)
    assert head.stem + profile.extra(head, b"10.0.0.1") + b"\r\n" == (
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\nx-forwarded-host: a\r\nx-forwarded-for: 1.1.1.1, 10.0.0.1\r\n\r\n"
    )


def test_an_https_port_in_an_absolute_target_must_be_in_host_as_well() -> None:
    assert parse(b"GET https://a:443/ HTTP/1.1", b"Host: a:443").authority == b"a:443"
    assert refusal(b"GET https://a:443/ HTTP/1.1", b"Host: a") == "protocol-error"


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("name", [b"X_Forwarded_For", b"x-forwarded_for", b"X_Forwarded-Proto", b"x_forwarded_host", b"X-Forwarded_Port"])
def test_claims_in_the_spelling_of_cgi_are_never_sent_on(name: bytes, trusted: bool) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a\r\n" + name + b": 6.6.6.6\r\nX_Other: 1\r\n\r\n"
    profile = Forwarding(trusted=trusted)
    for head in (parse_request(raw, None, profile), RequestMemo(None, profile).parse(raw)):
        assert b"6.6.6.6" not in head.text
        assert b"X_Other: 1" in head.text


@pytest.mark.parametrize("status", [600, 783, 999])
def test_an_answer_may_have_a_status_that_nobody_has_defined(status: int) -> None:
    """RFC 9110 section 15: taken for a 5xx. The proxy made 502 of it."""
    found = answer(b"HTTP/1.1 %d Request denied" % status, b"content-length: 2")
    assert (found.status, found.family, found.reason) == (status, 5, b"Request denied")
