"""The readers of one HTTP/1.1 connection: bytes in, calls out."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from carrier.errors import Error
from carrier.wire.forwarding import Forwarding
from carrier.wire.h1.reader import (
    LAST_CHUNK,
    AnswerMemo,
    AnswerReader,
    Limits,
    RequestMemo,
    RequestReader,
    chunk,
)
from carrier.wire.http import CLOSE, NONE, Fields, Head

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
    [(b"GET /" + b"x" * 17000, "uri-too-long"), (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 6000, "headers-too-large")],
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
    reader, heard = requests()
    reader.feed(part)
    reader.finish()
    assert len(heard.heads) == (GET in part or POST in part)


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


# --- answers ----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 x\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\n\n",
        b" HTTP/1.1 200 OK\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        b"\x00",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 101 x\r\n\r\n",
        b"HTTP/1.1 100 x\r\n\r\n" * 40,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX",
    ],
)
def test_a_bad_answer_is_refused_before_its_final_head_goes_on(raw: bytes) -> None:
    reader, heard = answers()
    with pytest.raises(Error) as caught:
        reader.feed(raw)
    assert (caught.value.kind, caught.value.side) == ("bad-answer", "upstream")
    assert all(head.status < 200 for head in heard.heads)
    assert not reader.reusable


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
BARE = b"HTTP/1.1 %d x\r\n%b\r\n\r\n"


@pytest.mark.parametrize("cut", [0, 1, 25, -3, -1])
@pytest.mark.parametrize(
    ("method", "raw", "surplus", "said"),
    [
        (b"GET", OK, b"X", [200, b"hello", END]),
        (b"GET", OK, b"\r\n", [200, b"hello", END]),
        (b"GET", OK, b"\n", [200, b"hello", END]),
        (b"GET", OK, OK, [200, b"hello", END]),
        (b"GET", CHUNKED, b"\r\n", [200, b"hello", END]),
        (b"HEAD", OK[:-5], b"hello", [200, END]),
        (b"GET", BARE % (304, b"ETag: x"), b"hello", [304, END]),
        (b"GET", BARE % (204, b"Content-Length: 5"), b"hello", [204, END]),
        (b"GET", BARE % (204, b"Transfer-Encoding: chunked"), b"5\r\nhello\r\n0\r\n\r\n", [204, END]),
    ],
)
def test_a_complete_answer_stands_whatever_comes_behind_it(method: bytes, raw: bytes, surplus: bytes, said: list[object], cut: int) -> None:
    """RFC 9112 section 6.3: where a message ends is not the matter of what follows. Only the connection is not used again."""
    reader, heard = answers(method)
    first = raw[: len(raw) + cut] if cut < 0 else raw[:cut] if cut else raw + surplus
    rest = (raw + surplus)[len(first) :]
    for piece in (first, rest):
        if piece:
            reader.feed(piece)
    payload = b"".join(s for s in heard.says if isinstance(s, bytes))
    assert [s for s in heard.says if not isinstance(s, bytes)] == [s for s in said if not isinstance(s, bytes)]
    assert payload == b"".join(s for s in said if isinstance(s, bytes))
    assert reader.complete and not reader.reusable


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Content-Length: 5\r\nTransfer-Encoding: chunked"],
)
@pytest.mark.parametrize("status", [102, 204, 304])
def test_what_ends_with_its_head_does_so_whatever_its_fields_say(status: int, framing: bytes) -> None:
    reader, heard = answers()
    reader.feed(BARE % (status, framing))
    if status < 200:
        reader.feed(OK)
    honest = status == 304 and framing in (b"Content-Length: 5", b"Transfer-Encoding: chunked")
    assert heard.heads[0].status == status and heard.heads[0].body == NONE
    assert b"transfer-encoding" not in heard.heads[0].text.lower()
    assert (b"content-length" in heard.heads[0].text.lower()) == (status == 304 and framing == b"Content-Length: 5")
    assert reader.complete and reader.reusable is honest


def test_a_switch_of_protocols_that_declares_content_is_a_switch() -> None:
    reader, heard = answers(b"GET", b"x")
    reader.feed(b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 3\r\n\r\nraw")
    assert heard.says == [101, b"raw"] and reader.tunnel and b"ontent" not in heard.heads[0].text


def test_bytes_that_nobody_asked_for_are_dropped_with_their_connection() -> None:
    reader, heard = answers()
    reader.feed(OK)
    reader.feed(OK)
    assert len(heard.heads) == 1 and reader.complete and not reader.reusable


def test_a_switch_of_protocols_must_be_one_that_was_asked_for() -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\nraw"
    reader, heard = answers(upgrade=b"websocket")
    reader.feed(switch % b"WebSocket")
    reader.feed(b"more")
    assert heard.says == [101, b"raw", b"more"] and reader.tunnel
    assert heard.heads[0].text.endswith(b"\r\nconnection: upgrade\r\nupgrade: WebSocket\r\n\r\n")
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


def test_a_line_feed_too_many_behind_a_body_is_refused_only_when_something_follows_it() -> None:
    reader, heard = requests()
    reader.feed(POST + b"\n")
    assert (heard.says, reader.pending) == ([b"/x", b"hello", END], 1)
    reader.finish()
    with pytest.raises(Error):
        reader.feed(GET)
    assert len(heard.heads) == 1
