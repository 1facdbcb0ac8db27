"""RFC 6455 case by case, as a client of an echo sees it: each case is bytes that a client sends, the frames that come back, and the code
that the server closes with.

Every case is played against an echo behind a WebSocket listener (messages), through two WebSocket ends in a row (a raw relay in front of
the first), and through an HTTP listener in front of a WebSocket cluster (a tunnel). The numbers are sections of the RFC.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from carrier.proxy.proxy import Proxy
from carrier.wire.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_payload
from tests.ports import free_port
from tests.support import cluster, config, echo, listener, port_of, running
from tests.wire import Frame, Wire, frame, websocket

LIMIT = 100_000
"""options.max_message of these tests."""
MASK = b"\x01\x02\x03\x04"
BYE = frame(0x80 | CLOSE, close_payload(1000))
NONE = 0
"""The close frame has no code."""


@dataclass
class Case:
    """sent: frames in one piece. heard: before the close frame. code: of the close frame that comes; None: the connection stays open."""

    name: str
    sent: bytes
    heard: tuple[Frame, ...] = ()
    code: int | None = None


def text(payload: bytes) -> bytes:
    return frame(0x80 | TEXT, payload)


def binary(payload: bytes) -> bytes:
    return frame(0x80 | BINARY, payload)


def ping(payload: bytes = b"") -> bytes:
    return frame(0x80 | PING, payload)


def fragments(kind: int, *parts: bytes) -> list[bytes]:
    return [frame((kind if i == 0 else CONTINUATION) | (0x80 if i == len(parts) - 1 else 0), part) for i, part in enumerate(parts)]


def close(payload: bytes) -> bytes:
    return frame(0x80 | CLOSE, payload)


SIZES = (0, 1, 125, 126, 127, 128, 65_535, 65_536, LIMIT)
GREEK = "κόσμε".encode()
UTF8 = (b"Hello", GREEK, b"\xf4\x8f\xbf\xbf", b"\xef\xbf\xbf", b"\xee\x80\x80", b"\xf0\x90\x80\x80", b"\x00")
NOT_UTF8 = (
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",  # a surrogate
    b"\xf4\x90\x80\x80",  # beyond U+10FFFF
    b"\xc0\xaf",  # overlong
    b"\x80",  # begins with a continuation
    b"\xfe",
    b"\xce",  # ends too early
)
GOOD_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
BAD_CODES = (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)

CASES = [
    # 5.6 data frames, 5.2 lengths
    *[Case(f"5.2 text of {n} bytes", text(b"x" * n), ((TEXT, b"x" * n),)) for n in SIZES],
    *[Case(f"5.2 binary of {n} bytes", binary(b"\xfe" * n), ((BINARY, b"\xfe" * n),)) for n in SIZES],
    Case("5.2 many in one piece", text(b"a") * 300, ((TEXT, b"a"),) * 300),
    Case("5.2 length 125 in two bytes", frame(0x82, b"x" * 125, MASK, b"\xfe\x00\x7d"), code=1002),
    Case("5.2 length 65535 in eight bytes", frame(0x82, b"x" * 65_535, MASK, b"\xff" + (65_535).to_bytes(8, "big")), code=1002),
    Case("5.2 length with the highest bit", frame(0x82, b"", MASK, b"\xff\x80" + bytes(7)), code=1002),
    # 5.1 masking
    Case("5.1 not masked", frame(0x81, b"hello", b""), code=1002),
    Case("5.1 not masked, empty", frame(0x81, b"", b""), code=1002),
    Case("5.1 a mask of zeros", frame(0x81, b"hello", bytes(4)), ((TEXT, b"hello"),)),
    Case("5.1 good, then not masked", text(b"a") + frame(0x81, b"b", b""), ((TEXT, b"a"),), 1002),
    # 5.2 reserved bits and opcodes
    *[Case(f"5.2 reserved bits {bits:#x}", frame(0x81 | bits, b"x"), code=1002) for bits in (0x40, 0x20, 0x10, 0x70)],
    Case("5.2 reserved bit on a ping", frame(0xC9), code=1002),
    Case("5.2 reserved bit on a close", frame(0xC8), code=1002),
    *[Case(f"5.2 opcode {opcode}", frame(0x80 | opcode), code=1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)],
    Case("5.2 opcode 3 after a message", text(b"a") + frame(0x83), ((TEXT, b"a"),), 1002),
    # 5.5 control frames
    Case("5.5.2 ping", ping(), ((PONG, b""),)),
    Case("5.5.2 ping with data", ping(b"hello"), ((PONG, b"hello"),)),
    Case("5.5.2 ping with bytes that are no text", ping(b"\x00\xff\xfe"), ((PONG, b"\x00\xff\xfe"),)),
    Case("5.5.2 ping of 125 bytes", ping(b"p" * 125), ((PONG, b"p" * 125),)),
    Case("5.5 ping of 126 bytes", ping(b"p" * 126), code=1002),
    Case("5.5 pong of 126 bytes", frame(0x8A, b"p" * 126), code=1002),
    Case("5.5 close of 126 bytes", close(close_payload(1000) + b"r" * 124), code=1002),
    Case("5.5 a fragmented ping", frame(PING, b"p"), code=1002),
    Case("5.5 a fragmented close", frame(CLOSE), code=1002),
    Case("5.5.2 ten pings", b"".join(ping(b"%d" % i) for i in range(10)), tuple((PONG, b"%d" % i) for i in range(10))),
    Case("5.5.3 a pong nobody asked for", frame(0x8A, b"x") + ping(b"y"), ((PONG, b"y"),)),
    # 5.4 fragmentation
    Case("5.4 two fragments", b"".join(fragments(TEXT, b"he", b"llo")), ((TEXT, b"hello"),)),
    Case("5.4 empty fragments", b"".join(fragments(BINARY, b"", b"", b"")), ((BINARY, b""),)),
    Case("5.4 fifty fragments", b"".join(fragments(BINARY, *[b"x"] * 50)), ((BINARY, b"x" * 50),)),
    Case(
        "5.4 a ping between fragments",
        fragments(TEXT, b"he", b"llo")[0] + ping(b"?") + fragments(TEXT, b"he", b"llo")[1],
        ((PONG, b"?"), (TEXT, b"hello")),
    ),
    Case("5.4 a continuation of nothing", frame(0x80, b"x"), code=1002),
    Case("5.4 a continuation of nothing, not final", frame(0x00, b"x"), code=1002),
    Case("5.4 a continuation after a whole message", text(b"a") + frame(0x80, b"b"), ((TEXT, b"a"),), 1002),
    Case("5.4 a message inside another", frame(TEXT, b"a") + text(b"b"), code=1002),
    Case("5.4 a fragmented message inside another", frame(TEXT, b"a") + frame(BINARY, b"b"), code=1002),
    Case("5.4 closed inside a message", frame(TEXT, b"a") + BYE, code=1000),
    Case("5.4 two fragmented messages", b"".join(fragments(TEXT, b"a", b"b") * 2), ((TEXT, b"ab"),) * 2),
    # 8.1 UTF-8
    *[Case(f"8.1 text {payload!r}", text(payload), ((TEXT, payload),)) for payload in UTF8],
    *[Case(f"8.1 no text {payload!r}", text(payload), code=1007) for payload in NOT_UTF8],
    Case("8.1 a character in two fragments", b"".join(fragments(TEXT, GREEK[:1], GREEK[1:])), ((TEXT, GREEK),)),
    Case("8.1 no text in the second fragment", b"".join(fragments(TEXT, GREEK, b"\xff")), code=1007),
    Case("8.1 no text before the last fragment", frame(TEXT, GREEK) + frame(CONTINUATION, b"\xf4\x90\x80\x80"), code=1007),
    Case("8.1 binary may be anything", binary(b"\xff\xfe"), ((BINARY, b"\xff\xfe"),)),
    # 5.5.1, 7.4 closing
    Case("5.5.1 close without a code", close(b""), code=NONE),
    Case("5.5.1 close of one byte", close(b"\x03"), code=1002),
    *[Case(f"7.4 code {code}", close(code.to_bytes(2, "big")), code=code) for code in GOOD_CODES],
    *[Case(f"7.4 code {code}", close(code.to_bytes(2, "big")), code=1002) for code in BAD_CODES],
    Case("5.5.1 a reason of 123 bytes", close(close_payload(1000, "r" * 123)), code=1000),
    Case("5.5.1 a reason that is no text", close(close_payload(1000) + b"\xff"), code=1007),
    Case("5.5.1 nothing after a close is read", BYE + text(b"late"), code=1000),
    Case("5.5.1 two closes", BYE + close(close_payload(1001)), code=1000),
    Case("5.5.1 a message, then a close", text(b"a") + BYE, ((TEXT, b"a"),), 1000),
    # 10.4 limits
    Case("10.4 one byte too many", binary(b"x" * (LIMIT + 1)), code=1009),
    Case("10.4 too long in its header", frame(0x82, b"", MASK, b"\xff" + (1 << 40).to_bytes(8, "big")), code=1009),
    Case("10.4 too many fragments", b"".join(fragments(BINARY, b"x" * 60_000, b"x" * 60_000)), code=1009),
]


@pytest.fixture(params=["messages", "relay", "tunnel"])
async def proxy(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Proxy, str]]:
    limits = {"max_message": LIMIT}
    inner = free_port()
    conf = config(
        clusters=[echo(), cluster("up", inner, protocol="WebSocket", options=limits)],
        listeners=[
            listener("messages", protocol="WebSocket", port=inner, options=limits),
            listener("relay", "up", protocol="WebSocket", options=limits),
            listener("tunnel", "up", protocol="HTTP"),
        ],
    )
    async with running(conf) as found:
        yield found, request.param


async def hears_all(client: Wire, case: Case, path: str) -> int | None:
    """Hear what the case says, and the close frame if there is to be one: its code.

    A relay fails the connection where it sees a fault; what the far echo has not answered by then is lost (7.1.7).
    """
    heard: list[Frame] = []
    while case.code is not None or len(heard) < len(case.heard):
        opcode, payload = await client.hears()
        if opcode == CLOSE:
            assert heard == list(case.heard) or (path != "messages" and heard == list(case.heard)[: len(heard)])
            return int.from_bytes(payload[:2], "big") if payload else NONE
        heard.append((opcode, payload))
    assert heard == list(case.heard)
    return None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_client_of_an_echo_hears_what_the_rfc_says(case: Case, proxy: tuple[Proxy, str]) -> None:
    running_proxy, path = proxy
    async with websocket(port_of(running_proxy, path)) as client:
        client.raw(case.sent)
        code = await hears_all(client, case, path)
        if case.code is None:  # it is still there: an ordinary message and an ordinary end
            client.says(TEXT, b"still here?")
            assert await client.hears() == (TEXT, b"still here?")
            client.closes(1000, "bye")
            assert await client.hears_close() == (1000, "bye")
        else:
            assert code == case.code
        client.peer.end()
        await client.hears_end()


@pytest.mark.parametrize("case", [case for case in CASES if len(case.sent) < 200], ids=lambda case: case.name)
async def test_it_does_not_matter_how_the_bytes_are_cut(case: Case, proxy: tuple[Proxy, str]) -> None:
    running_proxy, path = proxy
    async with websocket(port_of(running_proxy, path)) as client:
        for i in range(len(case.sent)):
            client.raw(case.sent[i : i + 1])
            if i % 7 == 0:
                await client.peer.writer.drain()
        assert await hears_all(client, case, path) == case.code


def test_there_are_enough_cases() -> None:
    assert len(CASES) == len({case.name for case in CASES}) >= 60
