"""A copy of what passes: both directions, bounded, and in nobody's way."""

from __future__ import annotations

from typing import Any

from carrier.core.stream import Stream, link
from carrier.core.tape import OVERHEAD, PIECES, Tape
from carrier.errors import Error
from carrier.wire.making import answer_head, request_head


class Heard(Stream):
    """A hop that hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, Any]] = []

    def head(self, head: Any, last: bool = False) -> None:
        self.heard.append(("head", head))

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        self.heard.append(("data", data))

    def message(self, head: Any, body: bytes) -> None:
        self.heard.append(("message", body))

    def end(self, trailer: Any = None) -> None:
        self.heard.append(("end", trailer))

    def reset(self, error: Error) -> None:
        self.heard.append(("reset", error.kind))

    def pause(self) -> None:
        self.heard.append(("pause", None))


def ring(tape: Tape) -> tuple[Heard, Heard]:
    source, destination = Heard(), Heard()
    link([source, destination])
    tape.stand_beside(source, None)
    return source, destination


def test_both_directions_pass_and_are_kept() -> None:
    tape = Tape(100)
    source, destination = ring(tape)
    asked, answered = request_head(b"GET", b"/", [(b"host", b"a")]), answer_head(200)
    source.to.head(asked)
    source.to.data(b"ask", 1)
    source.to.end()
    destination.to.head(answer_head(103))
    destination.to.head(answered)
    destination.to.data(b"tell")
    destination.to.end(((b"x", b"y"),))
    assert [what for what, _ in destination.heard] == ["head", "data", "end"]
    assert [what for what, _ in source.heard] == ["head", "head", "data", "end"]
    assert (tape.request, tape.answer, tape.trailer) == (asked, answered, ((b"x", b"y"),))
    assert [(piece.sent, piece.kind, piece.data) for piece in tape.pieces] == [(True, 1, b"ask"), (False, None, b"tell")]
    assert (tape.body(True), tape.body(False), tape.sizes, tape.cut) == (b"ask", b"tell", [3, 4], False)


def test_a_whole_message_stays_one_and_back_pressure_passes() -> None:
    tape = Tape(100)
    source, destination = ring(tape)
    destination.to.message(answer_head(200, body=b"hi"), b"hi")
    destination.back.pause()
    source.back.pause()
    assert source.heard == [("message", b"hi"), ("pause", None)] and destination.heard == [("pause", None)]
    assert tape.body(False) == b"hi"


def test_what_is_beyond_the_bound_passes_and_is_not_kept() -> None:
    tape = Tape(5)
    source, destination = ring(tape)
    for _ in range(3):
        source.to.data(b"abc")
    assert tape.body(True) == b"abcab" and tape.sizes == [9, 0] and tape.cut and len(destination.heard) == 3
    none = Tape(0)
    source, destination = ring(none)
    source.to.data(b"abc")
    assert none.pieces == [] and none.cut and destination.heard == [("data", b"abc")]


def test_pieces_and_the_room_of_all_are_bounded() -> None:
    tape = Tape(1 << 20)
    source, _ = ring(tape)
    for _ in range(PIECES + 10):
        source.to.data(b"x")
    assert len(tape.pieces) == PIECES and tape.cut and tape.weight == PIECES * (1 + OVERHEAD)
    poor = Tape(100, lambda size: False)
    source, destination = ring(poor)
    source.to.data(b"x")
    assert poor.pieces == [] and poor.cut and destination.heard == [("data", b"x")]


def test_what_was_sent_to_who_failed_is_forgotten_when_it_is_sent_again() -> None:
    tape = Tape(100)
    source, first = ring(tape)
    source.to.data(b"ask")
    second = Heard()
    link([source, second])
    asked = request_head(b"GET", b"/", [(b"host", b"a")])
    tape.stand_beside(source, asked)
    source.to.data(b"ask")
    assert tape.body(True) == b"ask" and tape.request is asked and len(first.heard) == len(second.heard) == 1


def test_who_has_left_touches_nobody() -> None:
    tape = Tape(100)
    source, destination = ring(tape)
    tap = source.to
    tape.leave()
    tap.data(b"late")
    tap.reset(Error("closed", "x"))
    assert destination.heard == []
