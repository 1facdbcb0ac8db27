"""Tests of a WebSocket end by itself: one side a socket pair, the other a hop that writes down what it is called with."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carrier.core.stream import Stream, link
from carrier.errors import Error
from carrier.hops.bytesocket import ByteSocket
from carrier.hops.lookout import lookout
from carrier.hops.websocket import OPTIONS, Violation, WebSocketEnd, closing_of, reserved_bits
from carrier.wire.frames import BINARY, CLOSE, NO_CODE, PING, PONG, TEXT, Closing, Scanner, build, close_payload
from carrier.wire.making import answer_head
from tests.support import wait_until

MASK = b"\x01\x02\x03\x04"


class Notes(Stream):
    """The other hop of the ring: keeps what it is called with."""

    __slots__ = ("calls",)

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        self.calls.append(("data", data, kind))

    def end(self, trailer: Any = None) -> None:
        self.calls.append(("end", trailer))

    def reset(self, error: Error) -> None:
        self.calls.append(("reset", error.kind))

    def flush(self) -> None: ...

    def pause(self) -> None:
        self.calls.append(("pause",))

    def resume(self) -> None:
        self.calls.append(("resume",))

    def stop(self, error: Error | None = None) -> None:
        self.calls.append(("stop", error and error.kind))


class Far:
    """The peer of the end, as a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)

    def says(self, data: bytes) -> None:
        self.sock.sendall(data)

    def heard(self) -> bytes | None:
        """What has come; b"" at the end of the connection, None for nothing."""
        try:
            return self.sock.recv(1 << 20)
        except BlockingIOError:
            return None

    async def hears(self, size: int) -> bytes:
        data = b""

        def enough() -> bool:
            nonlocal data
            data += self.heard() or b""
            return len(data) >= size

        await wait_until(enough, f"for {size} bytes")
        return data


@contextlib.asynccontextmanager
async def an_end(client: bool = False, limit: int = 1000) -> AsyncIterator[tuple[WebSocketEnd, Notes, Far]]:
    """An end in message mode; client: it is the client of its connection."""
    near, far = socket.socketpair()
    near.setblocking(False)
    ends: set[WebSocketEnd] = set()
    end = WebSocketEnd(asyncio.get_running_loop(), near, "upstream" if client else "downstream", {**OPTIONS, "max_message": limit}, ends)
    notes = Notes()
    link([end, notes])
    end.resume()
    try:
        yield end, notes, Far(far)
    finally:
        end.close()
        far.close()
        assert ends == set()


# --- errors and codes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Error("no-route", "nothing matched"), NO_CODE),
        (Error("killed", "by the API"), 1001),
        (Error("drain"), 1001),
        (Error("closed", "gone", "downstream"), 1001),
        (Error("refused", "no", "upstream", "yes"), 1013),
        (Error("no-endpoint"), 1013),
        (Error("timeout", "late", "upstream"), 1011),
        (Error("reset", "cut", "upstream"), 1011),
        (Error("internal"), 1011),
        (Violation(1007, "no text", "upstream"), 1007),
        (Violation(1009, "too big", "downstream"), 1009),
    ],
)
def test_every_error_has_its_code(error: Error, code: int) -> None:
    assert closing_of(error).code == code


def test_a_limit_is_another_kind_of_error_than_a_broken_rule() -> None:
    assert Violation(1009, "x", "upstream").kind == "body-too-large"
    assert Violation(1002, "x", "upstream").kind == "protocol-error"


@pytest.mark.parametrize(
    ("extensions", "bits"),
    [
        (None, 0),
        (b"", 0),
        (b" , ", 0),
        (b"permessage-deflate", 0x40),
        (b"Permessage-Deflate; server_max_window_bits=10", 0x40),
        (b"permessage-deflate, x-other", 0x70),
        (b"x-other", 0x70),
    ],
)
def test_extensions_bring_their_reserved_bits(extensions: bytes | None, bits: int) -> None:
    assert reserved_bits(extensions) == bits


# --- messages ---------------------------------------------------------------------------------------------------------------------


async def test_frames_become_messages_with_their_kind() -> None:
    async with an_end() as (end, notes, far):
        far.says(build(TEXT, b"text", MASK) + b"\x02\x81" + MASK + b"\x63" + build(PING, b"?", MASK) + b"\x80\x81" + MASK + b"\x63")
        await wait_until(lambda: len(notes.calls) == 2)
        assert notes.calls == [("data", b"text", TEXT), ("data", b"bb", BINARY)]
        assert await far.hears(3) == build(PONG, b"?")
        assert (end.messages_in, end.messages_out) == (2, 0)


async def test_what_is_said_to_it_becomes_frames_of_that_kind() -> None:
    async with an_end() as (end, _, far):
        end.data("é".encode(), TEXT)
        end.data(b"\xff", TEXT)  # a transform has made something else of the text
        end.data(b"x", None)
        assert await far.hears(10) == build(TEXT, "é".encode()) + build(BINARY, b"\xff") + build(BINARY, b"x")


async def test_a_client_masks_and_a_server_does_not() -> None:
    async with an_end(client=True) as (end, notes, far):
        end.data(b"hello", TEXT)
        data = await far.hears(11)
        assert Scanner(True).feed(data) == data
        far.says(build(TEXT, b"hi"))
        await wait_until(lambda: notes.calls)
        assert notes.calls == [("data", b"hi", TEXT)]


@pytest.mark.parametrize("trailer", [None, (), ((b"x-checksum", b"1"),), "?"])
async def test_an_end_without_a_code_is_an_ordinary_one(trailer: Any) -> None:
    async with an_end() as (end, _, far):
        end.end(trailer)
        assert await far.hears(4) == build(CLOSE, close_payload(1000))
        end.data(b"late")
        end.end((4000, "again"))
        assert far.heard() is None


async def test_a_close_goes_on_as_an_end_and_is_answered_when_the_other_side_ends() -> None:
    async with an_end() as (end, notes, far):
        far.says(build(CLOSE, close_payload(3000, "done"), MASK) + build(TEXT, b"too late", MASK))
        await wait_until(lambda: notes.calls)
        assert notes.calls == [("end", Closing(3000, "done"))]
        end.data(b"last")
        end.end(Closing(3001, "so be it"))
        assert await far.hears(18) == build(BINARY, b"last") + build(CLOSE, close_payload(3001, "so be it"))
        await wait_until(lambda: far.heard() == b"", "for the server to close first")
        far.sock.close()
        await wait_until(lambda: end.closed)


async def test_a_connection_that_ends_without_a_close_frame_is_a_failure() -> None:
    async with an_end() as (end, notes, far):
        far.sock.shutdown(socket.SHUT_WR)
        await wait_until(lambda: end.closed)
        assert notes.calls == [("reset", "closed"), ("stop", "closed")]


async def test_a_broken_rule_is_told_to_both_sides_once() -> None:
    async with an_end(limit=10) as (end, notes, far):
        far.says(build(TEXT, b"x" * 11, MASK))
        await wait_until(lambda: notes.calls)
        end.reset(Error("closed"))
        assert notes.calls == [("reset", "body-too-large"), ("stop", "body-too-large")]
        assert await far.hears(4) == build(CLOSE, close_payload(1009, "a message of more than 10 bytes"))
        far.sock.shutdown(socket.SHUT_WR)
        await wait_until(lambda: end.closed)


async def test_nothing_is_read_while_the_hop_in_front_is_full() -> None:
    async with an_end() as (end, notes, far):
        end.pause()
        far.says(build(TEXT, b"a", MASK))
        await asyncio.sleep(0.01)
        assert notes.calls == []
        end.resume()
        await wait_until(lambda: notes.calls)


async def test_a_peer_that_we_do_not_listen_to_is_not_asked_whether_it_is_there() -> None:
    async with an_end() as (end, _, far):
        end.pause()
        for seconds in (0, 40, 80, 120):
            end.tick(end.since + seconds)
        assert far.heard() is None and not end.closed
        end.resume()
        end.tick(end.since + 31)
        assert await far.hears(2) == build(PING, b"")


async def test_what_came_with_the_handshake_is_passed_on_first() -> None:
    async with an_end() as (end, notes, far):
        end.pause()
        end.early = build(TEXT, b"first", MASK)
        far.says(build(TEXT, b"second", MASK))
        end.resume()
        await wait_until(lambda: len(notes.calls) == 2)
        assert [call[1] for call in notes.calls] == [b"first", b"second"]


async def test_the_last_words_of_a_peer_that_reads_no_more_are_passed_on() -> None:
    async with an_end() as (end, notes, far):
        end.pause()
        far.says(build(TEXT, b"bye", MASK) + build(CLOSE, b"", MASK))
        far.sock.close()
        end.data(b"x")
        await wait_until(lambda: notes.calls)
        assert notes.calls[:2] == [("data", b"bye", TEXT), ("end", Closing(NO_CODE, ""))]


async def test_other_streams_are_not_spliced_into_it_in_bulk() -> None:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    async with an_end() as (end, _, far):
        source = ByteSocket(asyncio.get_running_loop(), left, "downstream")
        link([source, end, Stream()])
        source.bulk = True  # as after a read that filled the buffer
        source.resume()
        right.send(b"bytes")
        assert await far.hears(7) == build(BINARY, b"bytes")
        source.close()
        right.close()


# --- raw --------------------------------------------------------------------------------------------------------------------------


async def test_raw_bytes_pass_as_they_are_in_both_directions() -> None:
    async with an_end() as (end, notes, far):
        end.pause()
        end.begin_raw(answer_head(101), None)
        end.resume()
        frames = b"\x01\x81" + MASK + b"x" + build(PING, b"?", MASK) + b"\x80\x80" + MASK
        far.says(frames)
        await wait_until(lambda: notes.calls)
        assert b"".join(call[1] for call in notes.calls) == frames
        end.data(build(PONG, b"?") + build(TEXT, b"down"))
        assert await far.hears(9) == build(PONG, b"?") + build(TEXT, b"down")
        assert (end.messages_in, end.messages_out) == (1, 1)


async def test_no_close_frame_is_put_inside_a_frame_that_is_relayed() -> None:
    async with an_end() as (end, _, far):
        end.pause()
        end.begin_raw(answer_head(101), None)
        end.resume()
        end.data(build(BINARY, b"x" * 50)[:20])
        end.reset(Error("reset", "the other side is gone", "upstream"))
        assert await far.hears(20) == build(BINARY, b"x" * 50)[:20]
        await wait_until(lambda: far.heard() == b"")


async def test_what_the_other_side_of_a_tunnel_does_wrong_ends_both() -> None:
    async with an_end() as (end, notes, far):
        end.pause()
        end.begin_raw(answer_head(101), None)
        end.resume()
        end.data(build(TEXT, b"good") + b"\x83\x00")
        heard = await far.hears(10)
        assert heard.startswith(build(TEXT, b"good") + b"\x88")
        assert notes.calls[0][0] == "data" and Scanner(True).feed(notes.calls[0][1]) == b"", "a masked close frame, and nothing else"
        assert notes.calls[1:] == [("end", None)]


# --- the shortcut -----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def a_relay(answer: bytes | None = None, **limits: float) -> Iterator[tuple[WebSocketEnd, WebSocketEnd, Far, Far, Callable[[], None]]]:
    """A raw relay: a client's end, a server's, their peers, and what the loop calls when the client's is busy and readable."""
    loop = asyncio.new_event_loop()
    (near, left), (far, right) = socket.socketpair(), socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    ends: set[WebSocketEnd] = set()
    options = {**OPTIONS, "max_message": 1000, **limits}
    here, there = (WebSocketEnd(loop, sock, side, options, ends) for sock, side in ((near, "downstream"), (far, "upstream")))  # type: ignore[arg-type]
    head = answer_head(101, [(b"sec-websocket-extensions", answer)] if answer else [])
    link([here, there])
    here.begin_raw(head, there)
    there.begin_raw(head, here)
    readable = here.shortcut_to(here.to)
    assert readable is not None
    try:
        yield here, there, Far(left), Far(right), readable
    finally:
        for one in (here, there, left, right):
            one.close()
        loop.close()


FRAGMENT = b"\x01\x81" + MASK + b"x"
SHORTEST = b"\x82\xfe\x00\x7d" + MASK + b"x" * 125  # a length that should stand in the second byte


@pytest.mark.parametrize("size", [0, 1, 124, 125, 126, 127, 128, 256, 999, 1000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_whole_message_takes_the_shortcut(size: int, opcode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_relay() as (here, there, left, right, readable):
        monkeypatch.setattr(WebSocketEnd, "came", None)  # the long way would fail
        frame = build(opcode, b"x" * size, MASK)
        left.says(frame)
        readable()
        assert right.heard() == frame
        assert (here.messages_in, there.messages_out) == (1, 1)
        assert here.bytes_in == there.bytes_out == len(frame)


@pytest.mark.parametrize(
    ("data", "passed"),
    [
        (build(TEXT, b"a", MASK) * 2, build(TEXT, b"a", MASK) * 2),
        (build(PING, b"?", MASK), build(PING, b"?", MASK)),
        (FRAGMENT, FRAGMENT),
        (build(BINARY, b"x" * 300, MASK)[:200], build(BINARY, b"x" * 300, MASK)[:200]),
        (b"\x82", b""),
        (b"\x82\xfe\x01", b""),
        (build(CLOSE, b"", MASK), build(CLOSE, b"", MASK)),
        (SHORTEST, None),
        (build(TEXT, b"unmasked"), None),
        (build(TEXT, b"u" * 128), None),
        (b"\xc1\x80" + MASK, None),
        (b"\x83\x80" + MASK, None),
        (b"\x80\x80" + MASK, None),
        (build(BINARY, b"x" * 1001, MASK), None),
    ],
)
def test_everything_else_takes_the_long_way(data: bytes, passed: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_relay() as (here, _, left, _, readable):
        took: list[bytes] = []
        monkeypatch.setattr(WebSocketEnd, "came", lambda end, data: took.append(data))
        left.says(data)
        readable()
        assert took == [data]
        monkeypatch.undo()
    with a_relay() as (here, _, left, right, readable):
        left.says(data)
        readable()
        said = right.heard() or b""
        if passed is None:
            assert here.inward.fault is not None and said[:1] == b"\x88", "the other peer hears a close frame only"
        else:
            assert here.inward.fault is None and said == passed


def test_a_message_inside_another_does_not_take_the_shortcut() -> None:
    with a_relay() as (here, _, left, right, readable):
        for data in (FRAGMENT, build(TEXT, b"y", MASK)):
            left.says(data)
            readable()
        assert here.inward.fault is not None and "inside another" in here.inward.fault.reason
        assert (right.heard() or b"").startswith(FRAGMENT)


def test_a_compressed_message_takes_the_shortcut_where_that_was_agreed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with a_relay(b"permessage-deflate") as (here, _, left, right, readable):
        monkeypatch.setattr(WebSocketEnd, "came", None)
        frame = b"\xc1\x83" + MASK + b"abc"
        left.says(frame)
        readable()
        assert right.heard() == frame and here.messages_in == 1


def test_a_frame_limit_holds_on_the_shortcut() -> None:
    for limit in (100, 200):
        with a_relay(max_frame=limit) as (here, _, left, right, readable):
            fits = build(BINARY, b"x" * limit, MASK)
            left.says(fits)
            readable()
            assert right.heard() == fits
            left.says(build(BINARY, b"x" * (limit + 1), MASK))
            readable()
            assert here.inward.fault is not None and here.inward.fault.code == 1009


def test_there_is_no_shortcut_to_anything_but_the_other_end_of_a_raw_relay() -> None:
    with a_relay() as (here, there, _, _, _), a_relay() as (_, stranger, _, _, _):
        assert here.shortcut_to(Stream()) is None
        assert here.shortcut_to(stranger) is None
        here.raw = False
        assert here.shortcut_to(there) is None


FRAMES = st.one_of(
    st.builds(build, st.sampled_from([TEXT, BINARY]), st.binary(max_size=140), st.just(MASK)),
    st.builds(build, st.sampled_from([PING, PONG, CLOSE]), st.binary(max_size=4), st.just(MASK)),
    st.sampled_from([FRAGMENT, b"\x80\x80" + MASK, b"\x00\x80" + MASK, SHORTEST, build(TEXT, b"?"), b"\xc1\x80" + MASK]),
    st.binary(min_size=1, max_size=8),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(1, 200), max_size=12))
def test_the_shortcut_passes_and_counts_what_the_scan_does_however_it_is_cut(frames: list[bytes], cuts: list[int]) -> None:
    data, reads = b"".join(frames), []
    for size in cuts:
        reads.append(data[:size])
        data = data[size:]
    scanner, passed = Scanner(True, 1000), b""
    with a_relay() as (here, _, left, right, readable):
        for part in [read for read in (*reads, *frames) if read]:
            if scanner.over:
                break
            left.says(part)
            readable()
            passed += scanner.feed(part)
        assert (here.inward.fault, here.inward.close, here.messages_in) == (scanner.fault, scanner.close, scanner.messages)
        heard = right.heard() or b""
        assert heard.startswith(passed + scanner.frame)
        assert scanner.fault is not None or heard == passed + scanner.frame


async def test_a_busy_raw_relay_is_read_by_the_shortcut_and_a_quiet_one_is_not() -> None:
    with a_relay() as (here, there, left, right, _):
        here.loop = there.loop = asyncio.get_running_loop()
        here.lookout = there.lookout = lookout(here.loop)
        here.resume()
        there.resume()
        for i in range(4):
            left.says(build(TEXT, b"?", MASK))
            await right.hears(7)
            right.says(build(TEXT, b"!"))
            await left.hears(3)
            assert here.short == there.short == (i > 0)
        await wait_until(lambda: not here.short and not there.short, "for a quiet moment")
