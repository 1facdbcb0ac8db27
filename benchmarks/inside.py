"""Requests in one process and without sockets: what our own code costs, and what the interpreter and uvloop cost for it, but no kernel.

    python -m benchmarks.inside TREE CASE VARIANT [--wait]

What runs is `carrier.process.serve` of TREE with a variant of benchmarks/live.py; transports are stand-ins that take what is written and
never refuse. Prints microseconds of a processor a request, the least of `ROUNDS` rounds. With `--wait`: says "ready" and how many requests
there will be, waits for a line, serves them once, says "done", waits for a line, ends (benchmarks/instructions.py counts between the two).
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import uvloop
from hpack import Encoder

REQUESTS, AT_ONCE = 2048, 16
"""Requests of a round; that are served side by side: by as many connections of HTTP/1.1, or on one of HTTP/2."""
WARM, ROUNDS = 3, 15
BODY = b"answered by A\n"
DATE = b"Sat, 28 Nov 2026 05:00:00 GMT"


@dataclass(frozen=True)
class Case:
    """version: of those who ask; upstream: of those who answer. unique, unique_answers: heads never repeat. calls: of gRPC."""

    version: int = 1
    upstream: int = 1
    unique: bool = False
    unique_answers: bool = False
    calls: bool = False


CASES = {
    "repeating": Case(),
    "unique": Case(unique=True),
    "unique, answers too": Case(unique=True, unique_answers=True),
    "h2 to h1": Case(version=2),
    "h2 unique": Case(version=2, unique=True),
    "h2 to h2": Case(version=2, upstream=2),
    "grpc": Case(version=2, upstream=2, calls=True),
}


class Wire:
    """A transport. wrote: called with it when something is written."""

    def __init__(self, wrote: Callable[[Any], object], protocol: Any) -> None:
        self.wrote = wrote
        self.closing = False
        self.set_protocol(protocol)
        protocol.connection_made(self)

    def write(self, data: bytes) -> None:
        self.wrote(self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 5555), "sockname": ("127.0.0.1", 8080)}.get(name, default)

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, *limits: int) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def close(self) -> None:
        self.closing = True

    abort = close


def asked(case: Case, requests: list[bytes], trace: bytes) -> list[bytes]:
    """What clients send: a request each, or what HTTP/2 sends at once."""
    if case.version == 1:
        number = itertools.count(1)
        return [
            r.replace(trace, b"%016x" % (next(number) if case.unique else 1)) for r, _ in zip(itertools.cycle(requests), range(REQUESTS))
        ]
    from benchmarks.h2 import CALL, LIKE_A_BROWSER, MESSAGE
    from carrier.wire.h2.frames import DATA, HEADERS, frame

    encoder, frames = Encoder(), []
    for n in range(REQUESTS):
        pairs = [
            (":method", "POST" if case.calls else "GET"),
            (":scheme", "http"),
            (":path", ("/svc/items", "/")[n % 2]),
            (":authority", "app.example"),
        ]
        if case.calls:
            frames.append(frame(HEADERS, 4, 2 * n + 1, encoder.encode(pairs + CALL)) + frame(DATA, 1, 2 * n + 1, MESSAGE))
            continue
        more = (
            [*LIKE_A_BROWSER, ("traceparent", f"00-4bf92f3577b34da6{n:016x}-00f067aa0ba902b7-01")] if case.unique else [("accept", "*/*")]
        )
        frames.append(frame(HEADERS, 5, 2 * n + 1, encoder.encode(pairs + more)))
    return [b"".join(frames[n : n + AT_ONCE]) for n in range(0, REQUESTS, AT_ONCE)]


def answers(case: Case) -> Iterator[bytes]:
    """What upstreams of HTTP/1.1 send."""
    lines = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n%%bdate: %b\r\n\r\n%b" % (len(BODY), DATE, BODY)
    return (lines % (b"x-trace: %016x\r\n" % n if case.unique_answers else b"") for n in itertools.count())


def answers2(case: Case) -> list[bytes]:
    """What one of two upstreams of HTTP/2 sends at once."""
    from benchmarks.h2 import MESSAGE
    from carrier.wire.h2.frames import DATA, HEADERS, frame

    encoder, frames = Encoder(), []
    pairs = {":status": "200", "content-type": "text/plain", "content-length": str(len(BODY)), "date": DATE.decode()}
    for n in range(1, REQUESTS, 2):
        if case.calls:
            begin = frame(HEADERS, 4, n, encoder.encode([(":status", "200"), ("content-type", "application/grpc")]))
            frames.append(begin + frame(DATA, 0, n, MESSAGE) + frame(HEADERS, 5, n, encoder.encode([("grpc-status", "0")])))
        else:
            frames.append(frame(HEADERS, 4, n, encoder.encode(list(pairs.items()))) + frame(DATA, 1, n, BODY))
    return [b"".join(frames[n : n + AT_ONCE // 2]) for n in range(0, REQUESTS // 2, AT_ONCE // 2)]


class Stage:
    """A server, those who ask it, and those who answer."""

    def __init__(self, case: Case, server: Any, requests: list[bytes], trace: bytes) -> None:
        from carrier.wire.h2 import PREFACE
        from carrier.wire.h2.frames import ACK, SETTINGS, frame, settings_frame, window_frame

        self.case = case
        self.proxy = server.proxy
        self.port = self.proxy.listeners["front"]
        self.hello = settings_frame({3: 1024, 4: 1 << 20}) + window_frame(0, (1 << 30) - 65535) + frame(SETTINGS, ACK, 0)
        self.preface = PREFACE
        self.waiting: list[Wire] = []
        self.asked = asked(case, requests, trace)
        self.halves = answers2(case)
        for name in "ABD" if case.upstream == 1 else "":
            for _ in range(AT_ONCE):
                wire = self.upstream(name, self.waiting.append)
                self.proxy.clusters[name].pool(wire.protocol.endpoint).put(wire.protocol)

    def upstream(self, name: str, wrote: Callable[[Any], object] = id) -> Wire:
        """A connection to an endpoint."""
        cluster = self.proxy.clusters[name]
        return Wire(wrote, cluster._make(cluster.endpoints[0], self.case.upstream, None, None))

    async def serve(self) -> float:
        """One round; microseconds a request. Raises RuntimeError when something was not answered."""
        return await (self._one() if self.case.version == 1 else self._two())

    async def _answer(self, answered: Iterator[bytes]) -> None:
        """Upstreams of HTTP/1.1 answer, and the turn of the loop ends."""
        turn = self.waiting.copy()
        self.waiting.clear()
        for wire in turn:
            wire.protocol.data_received(next(answered))
        await asyncio.sleep(0)

    async def _one(self) -> float:
        from listeners.http.h1 import Connection1

        wrote: list[Wire] = []
        wires = [Wire(wrote.append, Connection1(self.port)) for _ in range(AT_ONCE)]
        await asyncio.sleep(0)
        asked, answered = iter(self.asked), iter(list(itertools.islice(answers(self.case), REQUESTS)))
        begun = time.thread_time()
        for _ in range(REQUESTS // AT_ONCE):
            for wire in wires:
                wire.protocol.data_received(next(asked))
            await self._answer(answered)
        used = time.thread_time() - begun
        for wire in wires:
            wire.protocol.connection_lost(None)
        if len(wrote) != REQUESTS:
            raise RuntimeError(f"{len(wrote)} of {REQUESTS} requests were answered")
        return used / REQUESTS * 1e6

    async def _two(self) -> float:
        from listeners.http.h1 import Connection1

        wire = Wire(id, Connection1(self.port))
        wire.protocol.data_received(self.preface + self.hello)
        behind = [self.upstream(name) for name in "AD"] if self.case.upstream == 2 else []
        for other in behind:
            other.protocol.data_received(self.hello)
        await asyncio.sleep(0)
        answered, halves = iter(list(itertools.islice(answers(self.case), REQUESTS))), self.halves
        begun = time.thread_time()
        for n, data in enumerate(self.asked):
            wire.protocol.data_received(data)
            if behind:
                await asyncio.sleep(0)
            for other in behind:
                other.protocol.data_received(halves[n])
            await self._answer(answered)
        used = time.thread_time() - begun
        left = len(wire.protocol.engine.streams) + sum(len(other.protocol.engine.streams) for other in behind)
        for other in (wire, *behind):
            other.protocol.connection_lost(None)
        if left:
            raise RuntimeError(f"{left} streams were not ended")
        return used / REQUESTS * 1e6


def steady() -> None:
    """Time goes by as requests are served, whatever watches that: how long they take is remembered, the ring of events has its fill, and
    what is done once a second whatever comes, as spans are sent, is not counted."""
    import_module("carrier.core.reuse").__dict__["monotonic"] = itertools.count(time.monotonic(), 1e-6).__next__
    import_module("carrier.observe.live").__dict__["PERIOD"] = 3600.0
    import_module("carrier.observe.spans").__dict__["DELAY"] = 3600.0


async def staged(case: Case, variant: str, folder: Path) -> Stage:
    """Start a server with a variant of benchmarks/live.py."""
    from benchmarks.live import KNOWN, UNKNOWN, VARIANTS, written
    from benchmarks.load.http import TRACE
    from benchmarks.processes import free_ports
    from carrier.config.source import loads
    from carrier.log import Log
    from carrier.process.serve import Settings, start

    steady()
    told = VARIANTS[variant]
    port, admin, closed = free_ports(3)
    text = json.loads(written(told, folder, port, admin, dict.fromkeys("ABD", closed)).read_text())
    for cluster in text["clusters"] if case.upstream == 2 else ():
        if cluster["name"] in "ABD":
            cluster["spec"]["http"] = 2
    server = await start(loads(json.dumps(text)).config, Log("error"), Settings(admin=None, metrics="--no-metrics" not in told.options))
    if told.kept:
        viewer = type("Viewer", (), {"write": lambda self, data: True})()
        server.live.join(viewer, {})
        server.live.leave(viewer)
    return Stage(case, server, UNKNOWN if told.ids else KNOWN, TRACE)


async def main(case: str, variant: str, wait: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stage = await staged(CASES[case], variant, Path(folder))
        for _ in range(WARM):
            await stage.serve()
        gc.collect()
        gc.freeze()
        if wait:
            print("ready", REQUESTS, flush=True)
            sys.stdin.readline()
            await stage.serve()
            print("done", flush=True)
            sys.stdin.readline()
        else:
            print(f"{min([await stage.serve() for _ in range(ROUNDS)]):.2f}", flush=True)
    os._exit(0)  # what is left is nobody's


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    uvloop.install()
    asyncio.run(main(sys.argv[2], sys.argv[3], "--wait" in sys.argv))
