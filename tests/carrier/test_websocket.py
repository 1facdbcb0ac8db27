"""Tests of a WebSocket end by itself: one side a socket pair, the other a hop that writes down what it is called with."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from carrier.bytesocket import ByteSocket
from carrier.errors import Error
from carrier.frames import BINARY, CLOSE, NO_CODE, PING, PONG, TEXT, Closing, Scanner, build, close_payload
from carrier.http import answer_head
from carrier.stream import Stream, link
from carrier.websocket import OPTIONS, Violation, WebSocketEnd, closing_of, reserved_bits
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
