"""HTTP/2 frames as bytes."""

from __future__ import annotations

import pytest
from hyperframe.frame import Frame as Reference
from hyperframe.frame import GoAwayFrame, SettingsFrame

from carrier.wire.h2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    HEADERS,
    PADDED,
    PING,
    PROTOCOL_ERROR,
    Fault,
    code_name,
    frame,
    frame_name,
    goaway_frame,
    header_frames,
    read_goaway,
    read_settings,
    settings_frame,
    unpadded,
)
from tests.h2talk import frames


def parsed(wire: bytes) -> Reference:
    made, length = Reference.parse_frame_header(memoryview(wire[:9]))
    made.parse_body(memoryview(wire[9 : 9 + length]))
    return made


def test_frames_are_what_hyperframe_reads():
    settings = parsed(settings_frame({3: 100, 4: 65535}))
    assert isinstance(settings, SettingsFrame) and settings.settings == {3: 100, 4: 65535}
    last = parsed(goaway_frame(7, 11, "why"))
    assert isinstance(last, GoAwayFrame) and (last.last_stream_id, last.error_code, last.additional_data) == (7, 11, b"why")


def test_a_block_larger_than_a_frame_is_continued():
    block = bytes(range(256)) * 10
    found = frames(header_frames(3, block, True, 1000))
    assert [(kind, flags) for kind, flags, *_ in found] == [(HEADERS, END_STREAM), (CONTINUATION, 0), (CONTINUATION, END_HEADERS)]
    assert b"".join(payload for *_, payload in found) == block
    assert frames(header_frames(3, block[:1000], False, 1000)) == [(HEADERS, END_HEADERS, 3, block[:1000])]
    assert [flags for _, flags, *_ in frames(header_frames(3, block[:2000], False, 1000))] == [0, END_HEADERS]


def test_padding_is_cut_and_may_not_be_all():
    assert unpadded(b"\x02abc\0\0", PADDED, DATA) == b"abc"
    assert unpadded(b"\x00", PADDED, DATA) == b""
    assert unpadded(b"\x02abc", 0, DATA) == b"\x02abc"
    with pytest.raises(Fault) as caught:
        unpadded(b"\x03abc"[:3], PADDED, DATA)
    assert caught.value.code == PROTOCOL_ERROR
    with pytest.raises(Fault) as caught:
        unpadded(b"", PADDED, DATA)
    assert caught.value.code == FRAME_SIZE_ERROR


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\0\4\0\0", FRAME_SIZE_ERROR),
        (b"\0\4\x80\0\0\0", FLOW_CONTROL_ERROR),
        (b"\0\5\0\0\x3f\xff", PROTOCOL_ERROR),
        (b"\0\5\1\0\0\0", PROTOCOL_ERROR),
        (b"\0\2\0\0\0\2", PROTOCOL_ERROR),
        (b"\0\x08\0\0\0\2", PROTOCOL_ERROR),
    ],
)
def test_settings_out_of_range_are_refused(payload, code):
    with pytest.raises(Fault) as caught:
        read_settings(payload)
    assert caught.value.code == code


def test_settings_are_read_in_order_and_unknown_ones_pass():
    assert read_settings(b"\0\4\0\0\0\1" + b"\0\4\0\0\0\2" + b"\x12\x34\xff\xff\xff\xff") == [(4, 1), (4, 2), (0x1234, 0xFFFFFFFF)]


def test_goaway_is_read_with_the_peers_words():
    assert read_goaway(goaway_frame(5, 2, "no")[9:]) == (5, 2, '"no"')
    assert read_goaway(b"\x80\0\0\5\0\0\0\0") == (5, 0, "")
    with pytest.raises(Fault):
        read_goaway(b"\0\0\0\5")


def test_codes_and_types_have_names_and_unknown_ones_numbers():
    assert (code_name(8), code_name(77)) == ("CANCEL", "code 77")
    assert (frame_name(PING), frame_name(200)) == ("PING", "frame of type 200")


def test_a_fault_is_counted_by_its_code_unless_it_says_better():
    assert Fault(PROTOCOL_ERROR, "x").reason == "protocol-error"
    assert Fault(PROTOCOL_ERROR, "x", "ping-flood").reason == "ping-flood"


def test_a_frame_is_its_head_and_its_payload():
    assert frame(PING, 0, 0, b"12345678") == b"\0\0\x08\6\0\0\0\0\x00" + b"12345678"
