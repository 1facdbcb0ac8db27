"""The three readers of a head agree, and the fast ones accept nothing that h11 refuses.

Each input is a good or bad head that somebody wrote, changed a little by hypothesis or by a seeded random generator. It is read by the
memo, by the plan parser (one memo for the whole run, so that its tables are full of other inputs' lines), by `parse_request` or
`parse_answer`, and by h11 itself. The corpus of attacks beside the repository is mutated too, when it is there. CARRIER_FUZZ=n makes the
runs n times longer.
"""

from __future__ import annotations

import base64
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import carrier.wire.h1.head
from carrier.errors import Error
from carrier.wire.forwarding import Forwarding
from carrier.wire.h1.reader import AnswerMemo, AnswerReader, Limits, RequestMemo, RequestReader, parse_answer, parse_request
from carrier.wire.http import CHUNKED, CLOSE, LENGTH, NONE, Fields, Head, split_fields

LONGER = int(os.environ.get("CARRIER_FUZZ", "1"))
CORPUS = Path(__file__).parents[3] / "shared" / "data" / "http1"
PROFILE = Forwarding(interesting=frozenset((b"x-user", b"cookie")), via=b"carrier")
SEEN = (
    *("method", "target", "authority", "status", "reason", "version", "body", "length"),
    *("keep_alive", "expect", "upgrade", "has_id", "simple", "fields"),
)

REQUESTS = [
    b"GET /x?y=%41 HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive\r\nUser-Agent: test\r\nX-User: alice\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a.example:80\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 3\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive, x-user\r\nX-User: bob\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\nCookie: b=2\r\nX-Forwarded-For: 1.2.3.4\r\nX-Request-Id: 7\r\nTE: trailers\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: [::1]:8080\r\nX_User: eve\r\n\r\n",
    b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
]
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nServer: test\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nDate: now\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: x\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: close, x-a\r\nX-A: 1\r\n\r\nhello",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
]
PIECES = [
    *(b"\r", b"\n", b"\r\n", b"\r\n ", b"\0", b" ", b"\t", b"\x0b", b"\x7f", b"\x80"),
    *(b":", b",", b";", b"%", b"_", b"0", b"+", b"/", b"#", b"[", b"=", b'"'),
    b"Content-Length: 5\r\n",
    b"content-length:0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"transfer-encoding: gzip\r\n",
    b"Host: b\r\n",
    b"Connection: close\r\n",
    b"Connection: x-user\r\n",
    b"Upgrade: h2c\r\n",
    b"X-User: eve\r\n",
    b"Expect: 100-continue\r\n",
]


def mutate(raw: bytes, choose: random.Random) -> bytes:
    """One to three small changes: a piece put in or over, a stretch cut or doubled, a line moved, a case changed."""
    for _ in range(choose.randint(1, 3)):
        at = choose.randrange(len(raw) + 1)
        kind = choose.randrange(6)
        if kind == 0:
            raw = raw[:at] + choose.choice(PIECES) + raw[at:]
        elif kind == 1:
            raw = raw[:at] + choose.choice(PIECES) + raw[at + 1 :]
        elif kind == 2:
            raw = raw[:at] + raw[at + choose.randint(1, 4) :]
        elif kind == 3:
            raw = raw[:at] + raw[at : at + choose.randint(1, 30)] + raw[at:]
        elif kind == 4:
            lines = raw.split(b"\r\n")
            lines.insert(choose.randrange(len(lines)), choose.choice(lines))
            raw = b"\r\n".join(lines)
        else:
            raw = raw[:at] + raw[at : at + 8].swapcase() + raw[at + 8 :]
    return raw


def head_of(raw: bytes) -> bytes:
    """The first head in the bytes; with an end, if they have none."""
    end = raw.find(b"\r\n\r\n")
    return raw[: end + 4] if end >= 0 else raw.rstrip(b"\r\n") + b"\r\n\r\n"


def outcome(read: object, *args: object) -> Head | None:
    try:
        head = read(*args)  # type: ignore[operator]
    except Error as error:
        assert error.kind in {
            "protocol-error",
            "uri-too-long",
            "headers-too-large",
            "not-implemented",
            "version",
            "expectation",
            "bad-answer",
        }
        return None
    assert isinstance(head, Head)
    return head


def told(head: Head | None) -> object:
    """All of a head that counts; space around the values of its wire form does not."""
    return head and (*(getattr(head, name) for name in SEEN), head.text.partition(b"\r\n")[0], split_fields(head.text))


def ask_h11(raw: bytes, role: type[h11.SERVER] | type[h11.CLIENT]) -> h11.Event | None:
    connection = h11.Connection(role, max_incomplete_event_size=1 << 16)
    if role is h11.CLIENT:
        connection.send(h11.Request(method="GET", target="/", headers=[("host", "x"), ("connection", "upgrade"), ("upgrade", "x")]))
        connection.send(h11.EndOfMessage())
    try:
        connection.receive_data(raw)
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request | h11.Response | h11.InformationalResponse) else None


def framing(event: h11.Request | h11.Response | h11.InformationalResponse) -> tuple[int, int]:
    fields = dict(event.headers)
    if b"transfer-encoding" in fields:
        return CHUNKED, 0
    length = int(fields.get(b"content-length", b"0"))
    return (LENGTH, length) if length else (NONE, 0)


REQUEST_MEMO, ANSWER_MEMO = RequestMemo(Limits(), PROFILE), AnswerMemo(Limits(), PROFILE)


def check_request(raw: bytes) -> bool:
    """Hold that all readers agree on one head; was it accepted?"""
    raw = head_of(raw)
    slow = outcome(parse_request, raw, Limits(), PROFILE)
    plan = outcome(REQUEST_MEMO.parse, raw, True)
    assert told(plan) == told(slow), raw
    again = outcome(REQUEST_MEMO.parse, raw, False)
    assert told(again) == told(slow), raw
    if slow is None:
        return False
    assert raw not in REQUEST_MEMO.heads or told(REQUEST_MEMO.heads[raw]) == told(slow), raw
    event = ask_h11(raw, h11.SERVER)
    assert isinstance(event, h11.Request), raw
    assert (event.method, event.target, event.http_version) == (slow.method, slow.target, slow.version.encode()), raw
    assert framing(event) == (slow.body, slow.length), raw
    assert [(n.lower(), v.lower()) for n, v in event.headers.raw_items()] == [(n.lower(), v.lower()) for n, v in slow.fields], raw
    if slow.method != b"CONNECT":
        check_wire(slow)
    return True


def check_wire(head: Head) -> None:
    """What is sent on is one head with the same meaning, and sending it on again changes nothing more."""
    assert head.text.endswith(b"\r\n\r\n") and head.text.count(b"\r\n\r\n") == 1
    next_hop = parse_request(head.text, Limits(head=1 << 16, fields=200), Forwarding(x_forwarded=False))
    assert (next_hop.method, next_hop.path, next_hop.query) == (head.method, head.path, head.query), head.raw
    assert (next_hop.body, next_hop.length, next_hop.expect, next_hop.upgrade) == (head.body, head.length, head.expect, head.upgrade), (
        head.raw
    )
    assert next_hop.version == "1.1" and next_hop.authority == (head.authority or b"localhost"), head.raw


def check_answer(raw: bytes) -> bool:
    raw = head_of(raw)
    slow = outcome(parse_answer, raw, b"GET", Limits(), PROFILE)
    plan = outcome(ANSWER_MEMO.parse, raw, True)
    assert told(plan) == told(slow), raw
    if slow is None:
        return False
    event = ask_h11(raw, h11.CLIENT)
    assert isinstance(event, h11.Response | h11.InformationalResponse), raw
    assert event.status_code == slow.status, raw
    if slow.status >= 200 and slow.status not in (204, 304):
        kind, length = framing(event)
        assert (kind, length) == ((slow.body, slow.length) if slow.body != CLOSE else (NONE, 0)), raw
    assert slow.text.count(b"\r\n\r\n") == 1
    next_hop = parse_answer(slow.text, b"GET", Limits(head=1 << 16, fields=200))
    assert (next_hop.status, next_hop.body, next_hop.length) == (slow.status, slow.body, slow.length), raw
    return True


class Heard:
    """A target that joins data, so that two ways of cutting the reads can be compared."""

    def __init__(self) -> None:
        self.says: list[object] = []
        self.switch = False  # a request after which h11 holds for good

    def on_head(self, head: Head) -> None:
        self.says.append(told(head))
        self.switch = self.switch or head.upgrade is not None or head.method == b"CONNECT"

    def on_data(self, data: bytes) -> None:
        if self.says and isinstance(self.says[-1], bytes):
            data = self.says.pop() + data  # type: ignore[operator]
        self.says.append(data)

    def on_end(self, trailers: Fields) -> None:
        self.says.append(("end", trailers))


def read_all(raw: bytes, cuts: list[int], answers: bool = False) -> tuple[Heard, bool]:
    """All that a reader says, and whether it refused."""
    heard = Heard()
    reader: RequestReader | AnswerReader
    if answers:
        reader = AnswerReader(ANSWER_MEMO, Limits(), heard)
        reader.expect(b"GET", b"websocket")
    else:
        reader = RequestReader(REQUEST_MEMO, Limits(), heard)
    try:
        for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True):
            if start < stop:
                reader.feed(raw[start:stop])
            while isinstance(reader, RequestReader) and reader.held:
                reader.resume()
        reader.finish()
    except Error:
        return heard, True
    return heard, False


def h11_bodies(raw: bytes) -> list[bytes]:
    """The payloads of the whole requests that h11 reads. It does not know the empty line before a request that RFC 9112 2.2 allows."""
    found: list[bytes] = []
    while True:
        connection, body = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 16), b""
        connection.receive_data(raw.removeprefix(b"\r\n"))
        try:
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif not isinstance(event, h11.Request):
                    return found
        except h11.RemoteProtocolError:
            return found
        found.append(body)
        raw = connection.trailing_data[0]


def check_stream(raw: bytes, cuts: list[int]) -> None:
    """However the reads are cut, the same is said, and every body is the one h11 reads."""
    whole, refused = read_all(raw, [])
    parts, refused_too = read_all(raw, cuts)
    assert refused == refused_too, (raw, cuts)
    if not refused:
        assert whole.says == parts.says, (raw, cuts)
    both = min(len(whole.says), len(parts.says))
    assert without_payload(whole.says[:both]) == without_payload(parts.says[:both]), (raw, cuts)
    read = bodies(whole.says)
    if not whole.switch:
        assert read == h11_bodies(raw)[: len(read)], raw


def without_payload(says: list[object]) -> list[object]:
    """A refusal may come before or after some of the last body."""
    return says[:-1] if says and isinstance(says[-1], bytes) else says


def bodies(says: list[object]) -> list[bytes]:
    found, body = [], b""
    for said in says:
        if isinstance(said, bytes):
            body += said
        elif isinstance(said, tuple) and said[0] == "end":
            found.append(body)
            body = b""
    return found


def cuts_in(raw: bytes, choose: random.Random) -> list[int]:
    return sorted(choose.randrange(len(raw) + 1) for _ in range(choose.randint(1, 6)))


def corpus(name: str) -> Iterator[bytes]:
    path = CORPUS / name
    for line in path.read_text().splitlines() if path.exists() else []:
        raw = base64.b64decode(json.loads(line)["raw"])
        if len(raw) < 3000:
            yield raw


seeds = st.randoms(use_true_random=False)
fuzz = settings(max_examples=300 * LONGER, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@fuzz
@given(base=st.sampled_from(REQUESTS), choose=seeds)
def test_all_readers_of_a_request_head_agree(base: bytes, choose: random.Random) -> None:
    check_request(mutate(base, choose))


@fuzz
@given(base=st.sampled_from(ANSWERS), choose=seeds)
def test_all_readers_of_an_answer_head_agree(base: bytes, choose: random.Random) -> None:
    check_answer(mutate(base, choose))


TRACED = [
    b"GET /%d HTTP/1.1\r\nHost: a.example\r\nX-User: alice\r\nETag:%d\r\nConnection: keep-alive\r\ntraceparent: 00-%d\r\n\r\n",
    b"POST /%d HTTP/1.1\r\nContent-Length: %d\r\nHost: a\r\nCookie: a=1\r\nX-Request-Id: %d\r\n\r\n",
]
DATED = [
    b"HTTP/1.1 20%d OK\r\nContent-Length: %d\r\nETag: %d\r\n\r\n",
    b"HTTP/1.1 30%d Moved\r\nServer: test\r\nConnection: keep-alive\r\nContent-Length: %d\r\nETag: %d\r\n\r\n",
]


def shaped(memo: RequestMemo | AnswerMemo, bases: list[bytes]) -> None:
    """Let a memo learn which values always change."""
    for n in range(50):
        for base in bases:
            memo.parse(base % (n % 3, n, n), False)


def check_shape(raw: bytes, memo: RequestMemo | AnswerMemo, slow: object, *args: object) -> bool:
    """Hold that a head of known shape is one whole head, read as the slow reader reads it; was it of one?"""
    memo._poor = 0
    head = memo.like(raw)
    assert head is None or (head_of(raw) == raw and told(head) == told(outcome(slow, raw, *args))), raw
    return head is not None


@fuzz
@given(base=st.sampled_from(TRACED), numbers=st.tuples(*[st.integers(0, 10**20)] * 3), choose=seeds)
def test_a_request_head_of_known_shape_is_read_as_h11_reads_it_or_not_at_all(
    base: bytes, numbers: tuple[int], choose: random.Random
) -> None:
    memo = RequestMemo(Limits(), PROFILE)
    shaped(memo, TRACED)
    if max(numbers) < 10**18:
        assert check_shape(base % numbers, memo, parse_request, Limits(), PROFILE)
    for _ in range(10):
        check_shape(mutate(base % numbers, choose), memo, parse_request, Limits(), PROFILE)


@fuzz
@given(base=st.sampled_from(DATED), number=st.integers(0, 10**20), choose=seeds)
def test_an_answer_head_of_known_shape_is_read_as_h11_reads_it_or_not_at_all(base: bytes, number: int, choose: random.Random) -> None:
    memo = AnswerMemo(Limits(), PROFILE)
    shaped(memo, DATED)
    if number < 10**18:
        assert check_shape(base % (0, number, number), memo, parse_answer, b"GET", Limits(), PROFILE)
    for _ in range(10):
        check_shape(mutate(base % (0, number, number), choose), memo, parse_answer, b"GET", Limits(), PROFILE)


@fuzz
@given(base=st.sampled_from(REQUESTS), more=st.sampled_from(REQUESTS), choose=seeds)
def test_streams_of_requests_are_read_alike_however_they_are_cut(base: bytes, more: bytes, choose: random.Random) -> None:
    raw = mutate(base + more, choose)
    check_stream(raw, cuts_in(raw, choose))


@fuzz
@given(base=st.sampled_from(ANSWERS), choose=seeds)
def test_answers_are_read_alike_however_they_are_cut(base: bytes, choose: random.Random) -> None:
    raw = mutate(base, choose)
    whole, refused = read_all(raw, [], answers=True)
    parts, refused_too = read_all(raw, cuts_in(raw, choose), answers=True)
    assert refused == refused_too, raw
    if not refused:
        assert whole.says == parts.says, raw


@fuzz
@given(raw=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    check_stream(raw, [len(raw) // 2])
    read_all(raw, [], answers=True)


@pytest.mark.skipif(not CORPUS.exists(), reason="the corpus of attacks lies beside the repository, not in it")
def test_the_readers_agree_on_mutations_of_the_corpus() -> None:
    choose = random.Random(9112)
    accepted = 0
    for raw in corpus("requests.jsonl"):
        for changed in (raw, *(mutate(raw, choose) for _ in range(2 * LONGER))):
            accepted += check_request(changed)
            check_stream(changed, cuts_in(changed, choose))
    for raw in corpus("responses.jsonl"):
        for changed in (raw, *(mutate(raw, choose) for _ in range(5 * LONGER))):
            accepted += check_answer(changed)
    assert accepted > 100


def test_the_mutations_leave_enough_good_heads_to_prove_something() -> None:
    choose = random.Random(1)
    good = sum(check_request(mutate(choose.choice(REQUESTS), choose)) for _ in range(500))
    assert 50 < good < 450


def test_the_plan_parser_reads_canonical_heads_without_h11(monkeypatch: pytest.MonkeyPatch) -> None:
    requests, answers = RequestMemo(Limits(), PROFILE), AnswerMemo(Limits(), PROFILE)

    def no_h11(*_: object) -> None:
        raise AssertionError("h11 was asked")

    monkeypatch.setattr(carrier.wire.h1.head, "_ask_h11", no_h11)
    for raw in (REQUESTS[0], REQUESTS[6], REQUESTS[2]):
        assert requests.parse(head_of(raw)).authority
    for raw in ANSWERS[:4]:
        assert answers.parse(head_of(raw)).status
    with pytest.raises(AssertionError):
        requests.parse(head_of(REQUESTS[5]))
