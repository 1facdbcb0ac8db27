"""Memory of HTTP/2: so many connections that are idle after a request, then so many streams that are open at once and wait.

`python -m tests.soak.streams [STREAMS]`: an idle connection is resident with at most 12 kB, an open stream with its session and its
upstream side (HTTP/2, too) with at most 6 kB; 10,000 of them are open at once on 100 connections, and all are answered in the end.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, cast

from carrier.wire.h2 import PREFACE, Engine, Limits, Memo, Section, Stream, encode
from carrier.wire.h2.frames import ACK, END_HEADERS, END_STREAM, HEADERS, SETTINGS, frame, settings_frame, window_frame
from tests.ports import free_port
from tests.soak.memory import resident
from tests.soak.process import PATIENCE, carrier, number, report

IDLE, OPEN = 12_000, 6_000
"""Bytes of a connection, and of a stream."""
PER_CONNECTION = 100
SETTLED = 2.5
"""Seconds until what a connection keeps for a next request has been let go."""
BLOCK = {
    path: encode([(b":method", b"GET"), (b":scheme", b"http"), (b":path", path), (b":authority", b"a.example")])
    for path in (b"/", b"/wait")
}
LIMITS = Limits(streams=PER_CONNECTION, budget=1 << 30)


class Upstream(asyncio.Protocol):
    """Answers at once, but for /wait: those are answered by `answer_all`."""

    memo = Memo(LIMITS)
    answer = encode([(b":status", b"200"), (b"content-length", b"2")])
    waiting: list[tuple[Upstream, Stream]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.engine = Engine(self, self.memo, LIMITS)

    def data_received(self, data: bytes) -> None:
        self.engine.feed(data, 0.0)
        self.transport.write(self.engine.take())

    def on_head(self, stream: Stream, section: Section, last: bool) -> None:
        if section.path == b"/wait":
            self.waiting.append((self, stream))
        else:
            stream.send_message(self.answer, b"ok")

    @classmethod
    def answer_all(cls) -> None:
        for _, stream in cls.waiting:
            stream.send_message(cls.answer, b"ok")
        for upstream in {each[0] for each in cls.waiting}:
            upstream.transport.write(upstream.engine.take())
        cls.waiting.clear()

    def on_data(self, stream: Stream, data: bytes, last: bool) -> None: ...
    def on_trailers(self, stream: Stream, section: Section) -> None: ...
    def on_drained(self, stream: Stream) -> None: ...
    def on_reset(self, stream: Stream, code: int, detail: str) -> None: ...
    def on_refused(self, stream: Stream, section: Section, kind: str, detail: str) -> None: ...
    def on_goaway(self, last: int, code: int, detail: str) -> None: ...
    def on_settings(self) -> None: ...


class Client(asyncio.Protocol):
    """One connection that counts the answers that it gets."""

    def __init__(self) -> None:
        self.answers, self.number, self.buffer = 0, 1, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(PREFACE + settings_frame({}) + window_frame(0, 1 << 24) + frame(SETTINGS, ACK, 0))

    def ask(self, path: bytes, times: int = 1) -> None:
        sent = [frame(HEADERS, END_HEADERS | END_STREAM, self.number + 2 * i, BLOCK[path]) for i in range(times)]
        self.number += 2 * times
        self.transport.write(b"".join(sent))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while len(self.buffer) >= 9 and len(self.buffer) >= (end := 9 + int.from_bytes(self.buffer[:3], "big")):
            self.answers += self.buffer[3] == 0 and self.buffer[4] & END_STREAM
            self.buffer = self.buffer[end:]


async def clients(port: int, count: int) -> list[Client]:
    """So many that have been answered once."""
    loop = asyncio.get_running_loop()
    made = [(await loop.create_connection(Client, "127.0.0.1", port))[1] for _ in range(count)]
    for client in made:
        client.ask(b"/")
    await until(lambda: all(client.answers for client in made))
    return made


async def until(true: Callable[[], bool]) -> None:
    """Raises AssertionError when it does not become true."""
    for _ in range(int(6 * PATIENCE * 20)):
        if true():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come to that in time")


async def idle(port: int, pid: int, count: int) -> float:
    """Bytes of one of so many connections that have been answered once."""
    await clients(port, 20)  # what the first ones load
    await asyncio.sleep(SETTLED)
    before = resident(pid)
    await clients(port, count)
    await asyncio.sleep(SETTLED)
    return (resident(pid) - before) / count


async def opened(port: int, pid: int, count: int) -> tuple[int, float]:
    """How many streams were open at once on so many connections, and bytes of one of them. All are answered in the end."""
    waiting = await clients(port, count)
    await asyncio.sleep(SETTLED)
    before = resident(pid)
    for i, client in enumerate(waiting, 1):
        client.ask(b"/wait", PER_CONNECTION)
        if i % 10 == 0 or i == count:  # no more than may be pending at once
            await until(lambda: len(Upstream.waiting) >= i * PER_CONNECTION)  # noqa: B023
    await asyncio.sleep(SETTLED)
    seen = len(Upstream.waiting)
    each = (resident(pid) - before) / seen
    Upstream.answer_all()
    await until(lambda: sum(client.answers - 1 for client in waiting) >= seen)
    return seen, each


async def run(streams: int) -> tuple[dict[str, Any], list[str]]:
    """What was seen, and which claims did not hold."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, backlog=1024)
    upstream = server.sockets[0].getsockname()[1]
    up = {"name": "up", "spec": {"protocol": "HTTP", "port": upstream, "http": 2}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
    patient = {"retry_on": "connect-failure", "num_retries": 1, "timeout": 60_000}  # the load may be slower than the proxy
    listener = {
        "name": "in",
        "spec": {"protocol": "HTTP", "address": "127.0.0.1", "port": (port := free_port())},
        "rules": [{"action": {"route": {"destination": "up", "retry": patient}}}],
        "options": {"keepalive_timeout": 0},
    }
    conf = {"clusters": [up], "listeners": [listener]}
    count = max(1, streams // PER_CONNECTION)
    with carrier(conf, "--limit", "lag=0") as running:
        connection = await idle(port, running.pid, 10 * count)
    with carrier(conf, "--limit", "lag=0") as running:
        seen, stream = await opened(port, running.pid, count)
    server.close()
    figures = {"connections": 10 * count, "bytes of each": round(connection), "streams": seen, "bytes of each stream": round(stream)}
    failures = [] if connection <= IDLE else [f"an idle connection is resident with {connection:.0f} bytes, at most {IDLE}"]
    failures += [] if stream <= OPEN else [f"an open stream is resident with {stream:.0f} bytes, at most {OPEN}"]
    return figures, failures


if __name__ == "__main__":
    sys.exit(report("streams", *asyncio.run(run(number(10_000)))))
