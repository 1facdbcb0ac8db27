from itertools import count

import pytest
from hpack import Decoder

from benchmarks.h2 import CALLS, UNIQUE
from benchmarks.h2wire import AFTER, BEFORE, TRACEPARENT, Blocks, Frames, Turn, frame, huffman_trace, settings, turn_of


def test_frames_are_cut_whatever_pieces_they_come_in():
    wire = frame(0, 1, 3, b"hello") + frame(4, 0, 0) + frame(8, 0, 5, b"abcd")
    for size in (1, 7, 100):
        frames, found = Frames(), []
        for i in range(0, len(wire), size):
            found += frames.feed(wire[i : i + size])
        assert found == [(0, 1, 3, b"hello"), (4, 0, 0, b""), (8, 0, 5, b"abcd")]


def test_settings_are_read():
    assert settings(b"\x00\x03\x00\x00\x00\x08" + b"\x00\x04\x00\x01\x00\x00") == {3: 8, 4: 65536}


@pytest.mark.parametrize("questions", [UNIQUE, CALLS], ids=["unique heads", "calls"])
def test_a_usual_decoder_reads_what_was_meant_also_where_the_turn_begins_again(questions):
    turn = turn_of([question.fields for question in questions])
    blocks, decoder, traces = Blocks(turn, count(1)), Decoder(), count(1)
    for n in range(2 * len(turn.steps) + 10):
        wanted = [list(field) for field in questions[n % 4].fields]
        for field in wanted:
            if field[0] == "traceparent":
                field[1] = f"{BEFORE}{next(traces):016x}{AFTER}"
        assert [list(field) for field in decoder.decode(blocks.next())] == wanted


def test_a_trace_id_of_any_bits_is_written_as_huffman():
    for number in (0, 1, 0xFFFFFFFFFFFFFFFF, 0x123456789ABCDEF0):
        block = b"\x00\x01a" + huffman_trace(number)
        assert Decoder().decode(block) == [("a", f"{BEFORE}{number:016x}{AFTER}")]


def test_no_turn_is_said():
    class Never(list):
        def __iter__(self):
            return iter([(":path", f"/{next(self.numbers)}")])

        numbers = count()

    with pytest.raises(ValueError, match="no turn"):
        turn_of([Never()])
    assert isinstance(turn_of([[(":path", "/"), TRACEPARENT]]), Turn)
