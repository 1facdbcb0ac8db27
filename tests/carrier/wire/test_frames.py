"""Tests of the frame scan: bytes in, bytes that may go on out; and that wsproto agrees with it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from carrier.wire.frames import (
    ANY_RSV,
    BINARY,
    CLOSE,
    CONTINUATION,
    DEFLATE_RSV,
    NO_CODE,
    PING,
    TEXT,
    Closing,
    Fault,
    Scanner,
    accept_key,
    build,
    close_payload,
    masked,
    read_close,
    sendable,
    valid_key,
)

MASK = b"\x11\x22\x33\x44"


def scanned(data: bytes, *, client: bool = True, limit: int = 1000, rsv: int = 0, cut: int = 0) -> tuple[Scanner, bytes]:
    """What a scanner lets pass of these bytes, read in pieces of `cut` bytes (0: in one)."""
    scanner = Scanner(client, limit, rsv)
    size = cut or len(data) or 1
    passed = b""
    for i in range(0, len(data), size):
        if not scanner.over:
            passed += scanner.feed(data[i : i + size])
    return scanner, passed


# --- what passes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 200, 65_535, 65_536, 70_000])
@pytest.mark.parametrize("client", [True, False])
def test_whole_frames_pass_as_they_are_and_are_counted(size: int, client: bool) -> None:
    data = build(BINARY, b"x" * size, MASK if client else b"") * 3
    scanner, passed = scanned(data, client=client, limit=100_000)
    assert (passed, scanner.messages, scanner.at, scanner.over) == (data, 3, 0, False)


def test_the_same_object_comes_back_when_all_of_it_passes() -> None:
    data = build(TEXT, b"hello", MASK)
    assert Scanner(True).feed(data) is data


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 7])
def test_it_does_not_matter_how_bytes_are_cut(cut: int) -> None:
    data = build(TEXT, b"a" * 200, MASK) + build(PING, b"?", MASK) + build(BINARY, b"b" * 70_000, MASK)
    scanner, passed = scanned(data, limit=100_000, cut=cut)
    assert passed == data
    assert scanner.messages == 2


@pytest.mark.parametrize(
    ("data", "between"),
    [
        (build(TEXT, b"x", MASK), True),
        (build(TEXT, b"x", MASK) * 2 + build(PING, b"", MASK), True),
        (build(TEXT, b"x", MASK)[:1], False),
        (build(TEXT, b"x", MASK)[:3], False),
        (build(BINARY, b"x" * 200, MASK)[:3], False),
        (b"\x01\x80" + MASK, False),
        (b"\x01\x80" + MASK + build(PING, b"", MASK), False),
        (b"\x01\x80" + MASK + b"\x80\x80" + MASK, True),
        (build(CLOSE, b"", MASK), False),
        (build(CLOSE, b"", MASK)[:4], False),
        (b"\x83\x80" + MASK, False),
    ],
)
def test_it_knows_when_a_whole_message_could_begin_with_nothing_before_it(data: bytes, between: bool) -> None:
    assert Scanner(True).between
    assert scanned(data)[0].between == between


def test_half_a_header_is_held_back_and_half_a_payload_is_not() -> None:
    data = build(BINARY, b"x" * 200, MASK)
    scanner = Scanner(True)
    assert scanner.feed(data[:1]) == b""
    assert scanner.feed(data[1:3]) == b""
    assert scanner.at == 0, "nothing has gone on yet: a frame of our own may go between"
    assert scanner.feed(data[3:50]) == data[:50]
    assert scanner.at == len(data) - 50
    assert scanner.feed(data[50:]) == data[50:]


def test_a_close_frame_is_taken_out_whole_and_read() -> None:
    before, frame = build(TEXT, b"a", MASK), build(CLOSE, close_payload(3000, "so long"), MASK)
    for cut in (0, 1, 9):
        scanner, passed = scanned(before + frame + b"rest", cut=cut)
        assert (passed, scanner.frame, scanner.close, scanner.over) == (before, frame, Closing(3000, "so long"), True)


def test_fragments_are_one_message() -> None:
    data = bytes((TEXT, 0x81)) + MASK + b"a" + build(PING, b"", MASK) + bytes((0x80, 0x80)) + MASK
    scanner, passed = scanned(data)
    assert (passed, scanner.messages, scanner.open) == (data, 1, False)


@pytest.mark.parametrize(
    ("first", "rsv", "passes"),
    [
        (0xC1, DEFLATE_RSV, True),
        (0x41, DEFLATE_RSV, True),
        (0xC1, 0, False),
        (0xA1, DEFLATE_RSV, False),
        (0xC9, DEFLATE_RSV, False),
        (0xF1, ANY_RSV, True),
        (0xF9, ANY_RSV, True),
    ],
)
def test_reserved_bits_are_for_the_extensions_agreed_on(first: int, rsv: int, passes: bool) -> None:
    scanner, _ = scanned(bytes((first, 0x80)) + MASK, rsv=rsv)
    assert (scanner.fault is None) == passes


def test_permessage_deflate_marks_the_first_frame_only() -> None:
    scanner, _ = scanned(bytes((0x41, 0x80)) + MASK + bytes((0xC0, 0x80)) + MASK, rsv=DEFLATE_RSV)
    assert scanner.fault is not None


# --- what does not ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (build(TEXT, b"a"), 1002, "not masked"),
        (b"\x83\x80" + MASK, 1002, "0x3 is reserved"),
        (b"\x8b\x80" + MASK, 1002, "0xb is reserved"),
        (b"\x09\x80" + MASK, 1002, "fragmented"),
        (b"\x89\xfe", 1002, "125"),
        (b"\x80\x80" + MASK, 1002, "continuation of nothing"),
        (b"\x01\x80" + MASK + b"\x81\x80" + MASK, 1002, "inside another"),
        (b"\x82\xfe\x00\x7d", 1002, "shortest form"),
        (b"\x82\xff" + struct.pack("!Q", 65_535), 1002, "shortest form"),
        (b"\x82\xff" + struct.pack("!Q", 1 << 63), 1002, "most significant bit"),
        (b"\x82\xfe\x03\xe9", 1009, "more than 1000 bytes"),
        (b"\x02\xfe\x03\xe8" + MASK + bytes(1000) + b"\x80\x81", 1009, "more than 1000 bytes"),
        (build(CLOSE, b"\x03", MASK), 1002, "valid code"),
        (build(CLOSE, b"\x03\xec", MASK), 1002, "valid code"),
        (build(CLOSE, b"\x03\xe8\xff", MASK), 1007, "not UTF-8"),
    ],
)
def test_a_fault_is_named_and_what_stands_before_it_passes(data: bytes, code: int, words: str) -> None:
    good = build(TEXT, b"good", MASK)
    for cut in (0, 1):
        scanner, passed = scanned(good + data, cut=cut)
        assert scanner.over and scanner.fault is not None
        assert scanner.fault.code == code
        assert words in scanner.fault.reason
        assert passed.startswith(good) and good + data != passed


def test_a_server_does_not_mask() -> None:
    scanner, _ = scanned(build(TEXT, b"a", MASK), client=False)
    assert scanner.fault == Fault(1002, "a frame of a server is masked")


def test_a_limit_below_the_shortest_lengths_holds_too() -> None:
    assert scanned(build(TEXT, b"x" * 10, MASK), limit=10)[0].fault is None
    assert scanned(build(TEXT, b"x" * 11, MASK), limit=10)[0].fault == Fault(1009, "a message of more than 10 bytes")


@pytest.mark.parametrize("size", [11, 200, 70_000])
def test_a_frame_has_a_limit_of_its_own(size: int) -> None:
    scanner = Scanner(True, 100_000, 0, size - 1)
    scanner.feed(build(BINARY, b"x" * size, MASK))
    assert scanner.fault == Fault(1009, f"a frame of more than {size - 1} bytes")
    scanner = Scanner(True, 100_000, 0, size)
    fragments = bytes((BINARY,)) + build(BINARY, b"x" * size, MASK)[1:] + bytes((0x80,)) + build(BINARY, b"x" * size, MASK)[1:]
    if 2 * size < 100_000:
        assert scanner.feed(fragments) == fragments, "together they may be more"


# --- frames and codes -------------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_masking_twice_changes_nothing(payload: bytes, mask: bytes) -> None:
    once = masked(payload, mask)
    assert masked(once, mask) == payload
    assert once == bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def test_the_accept_value_is_that_of_the_rfc() -> None:
    assert accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # section 1.3


@pytest.mark.parametrize("key", [None, b"", b"x", b"dGhlIHNhbXBsZSBub25jZQ", b"AAAA", b"dGhlIHNhbXBsZSBub25jZQ==\n", b"\xff" * 24])
def test_a_key_is_sixteen_bytes_in_base64(key: bytes | None) -> None:
    assert not valid_key(key)
    assert valid_key(b"dGhlIHNhbXBsZSBub25jZQ==")


@given(st.integers(0, 70_000), st.text(max_size=200))
def test_a_close_frame_that_we_write_can_be_read(code: int, reason: str) -> None:
    payload = close_payload(code, reason)
    assert len(payload) <= 125
    found = read_close(payload)
    assert isinstance(found, Closing)
    if sendable(code):
        assert found.code == code
        assert reason.encode("utf-8", "replace").decode().startswith(found.reason)
    else:
        assert found == Closing(NO_CODE, "")


# --- wsproto agrees ---------------------------------------------------------------------------------------------------------------


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A frame as a client sends it, mostly right, with something wrong now and then."""
    first = draw(st.sampled_from([0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x88, 0x89, 0x8A, 0x09, 0x83, 0xC1, 0x8F]))
    payload = draw(st.binary(max_size=130) | st.text(max_size=40).map(str.encode) | st.just(close_payload(1000, "bye")))
    frame = build(first & 0x0F, payload, draw(st.sampled_from([MASK, MASK, MASK, b"\0\0\0\0", b""])))
    return bytes((first,)) + frame[1:]


def told(data: bytes) -> tuple[list[str | bytes], int | None]:
    """What wsproto makes of a client's bytes: whole messages, and the code it ends with."""
    server = Connection(ConnectionType.SERVER)
    server.receive_data(data)
    messages: list[str | bytes] = []
    parts: list[str | bytes] = []
    for event in server.events():
        if isinstance(event, CloseConnection):
            return messages, int(event.code)
        if isinstance(event, (TextMessage, BytesMessage)):
            parts.append(bytes(event.data) if isinstance(event, BytesMessage) else event.data)
            if event.message_finished:
                messages.append("".join(parts) if isinstance(parts[0], str) else b"".join(parts))  # type: ignore[arg-type]
                parts = []
    return messages, None


@given(st.lists(frames(), max_size=6).map(b"".join), st.integers(0, 40))
@example(build(CLOSE, b"", MASK), 0)
@example(bytes((CONTINUATION, 0x80)) + MASK, 0)
def test_wsproto_ends_where_the_scan_ends_and_reads_what_it_lets_pass(data: bytes, cut: int) -> None:
    scanner, passed = scanned(data, limit=1 << 30, cut=cut)
    messages, code = told(data)
    assert told(passed)[0] == messages, "what the scan lets pass is all that wsproto needs"
    if code == 1007:  # only the payload shows it, unless it is the reason of a close frame
        return
    if scanner.fault is not None:
        assert code == scanner.fault.code
    elif scanner.close is not None:
        assert code == scanner.close.code or 1012 <= scanner.close.code <= 1014
    else:
        assert code is None
        assert scanner.messages == len(messages)


@given(st.binary(max_size=400), st.integers(0, 50), st.booleans())
def test_no_bytes_raise_and_nothing_is_made_up(data: bytes, cut: int, client: bool) -> None:
    scanner, passed = scanned(data, client=client, cut=cut)
    assert data.startswith(passed)
    assert scanner.over or len(scanner.part) <= 139
    assert scanner.over == (scanner.fault is not None or scanner.close is not None)
