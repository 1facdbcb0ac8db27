"""What floods a connection of HTTP/2 is ended at once with the reason, and nobody else notices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from carrier import model as c
from carrier.wire.h2 import PREFACE, encode
from carrier.wire.h2.frames import ENHANCE_YOUR_CALM, GOAWAY, frame, settings_frame
from tests.conversation import Stage
from tests.h2peer import client2

HEAD = encode([(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")])
FLOODS: dict[str, Callable[[int], bytes]] = {
    "rapid-reset": lambda n: frame(1, 4, 2 * n + 1, HEAD) + frame(3, 0, 2 * n + 1, b"\0\0\0\x08"),
    "ping-flood": lambda n: frame(6, 0, 0, b"12345678"),
    "settings-flood": lambda n: frame(4, 0, 0, b"\0\x03\0\0\0\x64"),
    "continuation-flood": lambda n: frame(9, 0, 1, b"\0\x01x\x01y") if n else frame(1, 1, 1, HEAD),
    "empty-frame-flood": lambda n: frame(0, 0, 1, b"") if n else frame(1, 4, 1, HEAD),
    "stalled-streams": lambda n: (settings_frame({4: 0}) if n == 0 else b"") + frame(1, 5, 2 * n + 1, HEAD),
    "bad-streams": lambda n: frame(1, 5, 2 * n + 1, HEAD) + frame(8, 0, 2 * n + 1, b"\0\0\0\0"),
    "priority-flood": lambda n: frame(2, 0, 2 * n + 1, b"\0\0\0\0\x10"),
}


@pytest.mark.parametrize("reason", FLOODS)
async def test_a_flood_is_ended_within_a_second_and_counted(reason: str) -> None:
    echo = {"echo": c.Cluster("echo", {"protocol": "Echo"})}
    async with Stage(rules=((None, "echo", ()),), clusters=echo, catch_all=False) as stage:
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
        writer.write(PREFACE + settings_frame({}))
        said = b""
        began = time.process_time()  # of the flood and of the proxy; by the clock it depends on who else works here
        async with asyncio.timeout(20):
            try:
                for n in range(40_000):
                    writer.write(FLOODS[reason](n))
                    if n % 256 == 255:
                        await writer.drain()
            except ConnectionError:
                pass  # it is closed, and what it said is there to be read or was lost with our last frames
            try:
                while data := await reader.read(65536):
                    said += data
            except ConnectionError:
                pass
        writer.close()
        assert time.process_time() - began < 1
        assert stage.listener.limited.get(f"h2_{reason}") == 1
        assert not said or ENHANCE_YOUR_CALM.to_bytes(4, "big") in said[said.rfind(bytes([GOAWAY, 0, 0, 0, 0, 0])) :]
        async with client2(stage.port) as good:
            number = good.ask("/", "POST", end=False)
            good.send(number, b"hello", True)
            assert (await good.answer(number)).body == b"hello"
