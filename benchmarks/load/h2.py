"""HTTP/2 load in a closed loop: some connections, on each so many streams at once, requests in turn; h2load can send no field that differs.

Who answered is known by the body, which says the backend's name, or is the message of a call of gRPC: fields of answers are not decoded.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from time import perf_counter, time_ns
from typing import cast

import uvloop

from benchmarks.h2wire import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    HELLO,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    STREAMS_MAX,
    TABLE,
    TABLE_SIZE,
    WINDOW,
    WINDOW_UPDATE,
    Blocks,
    Fields,
    Frames,
    Turn,
    frame,
    settings,
    turn_of,
)
from benchmarks.load.tally import Tally

RECONNECT_SECONDS = 0.1


@dataclass(frozen=True)
class Question:
    """One request. message: its content; body: what its answer must hold; who: that answers with it."""

    fields: Fields
    body: bytes
    who: str
    message: bytes = b""


@dataclass(frozen=True)
class Plan:
    """`questions` in turn on each of `connections`, `streams` at once on each."""

    port: int
    questions: Sequence[Question]
    turn: Turn
    connections: int
    streams: int
    seconds: float


def plan(port: int, questions: Sequence[Question], connections: int, streams: int, seconds: float) -> Plan:
    """A plan whose blocks are made."""
    return Plan(port, questions, turn_of([question.fields for question in questions]), connections, streams, seconds)


def run(plan: Plan) -> Tally:
    """Carry it out and return what it saw."""
    return uvloop.run(_run(plan))


async def _run(plan: Plan) -> Tally:
    tally, traces = Tally(), count(time_ns())
    flows = [H2Flow(plan, tally, traces) for _ in range(plan.connections)]
    started = perf_counter()
    await asyncio.gather(*(flow.open() for flow in flows))
    await asyncio.sleep(max(0.0, plan.seconds - (perf_counter() - started)))
    tally.seconds = perf_counter() - started
    for flow in flows:
        flow.finish()
    tally.errors = +tally.errors
    return tally


class H2Flow(asyncio.Protocol):
    """One connection, and those that take its place when it ends."""

    def __init__(self, plan: Plan, tally: Tally, traces: Iterator[int]):
        self.plan, self.tally, self.traces = plan, tally, traces
        self.stopping = False
        self.transport: asyncio.Transport | None = None
        self.opening: asyncio.Future[None] | None = None
        self.begin()

    def begin(self) -> None:
        """The state of a new connection."""
        self.frames = Frames()
        self.blocks = Blocks(self.plan.turn, self.traces)
        self.number = 1
        self.turn = 0
        self.window = WINDOW
        self.owing = 0  # requests that wait for the window
        self.open_streams: dict[int, tuple[Question, float]] = {}
        self.bodies: dict[int, bytes] = {}

    async def open(self) -> None:
        """Connect; a failure is counted and tried again later."""
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self.plan.port)
        except OSError as error:
            self.failed(f"connect: {error.strerror or error}")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.transport = cast(asyncio.Transport, transport)
        self.begin()
        out = [PREFACE, HELLO]
        now = perf_counter()
        for _ in range(self.plan.streams):
            self.ask(out, now)
        self.transport.write(b"".join(out))

    def ask(self, out: list[bytes], now: float) -> None:
        """The next request, if its content may be sent."""
        question = self.plan.questions[self.turn]
        n = len(question.message)
        if n > self.window:
            self.owing += 1
            return
        self.turn = (self.turn + 1) % len(self.plan.questions)
        stream = self.number
        self.number += 2
        self.open_streams[stream] = (question, now)
        block = self.blocks.next()
        if n:
            self.window -= n
            out += (frame(HEADERS, END_HEADERS, stream, block), frame(DATA, END_STREAM, stream, question.message))
        else:
            out.append(frame(HEADERS, END_HEADERS | END_STREAM, stream, block))

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self.stopping or self.transport is None:
            return
        now = perf_counter()
        out: list[bytes] = []
        for kind, flags, stream, payload in self.frames.feed(data):
            if kind in (DATA, HEADERS):
                if kind == DATA:
                    self.bodies[stream] = self.bodies[stream] + payload if stream in self.bodies else payload
                if flags & END_STREAM:
                    self.ended(stream, now)
                    self.ask(out, now)
            elif kind == WINDOW_UPDATE and not stream:
                self.window += int.from_bytes(payload, "big")
                owing, self.owing = self.owing, 0
                for _ in range(owing):
                    self.ask(out, now)
            elif not self.control(out, kind, flags, payload):
                return
        if out:
            self.transport.write(b"".join(out))

    def control(self, out: list[bytes], kind: int, flags: int, payload: bytes) -> bool:
        """Other frames; False: the connection is over."""
        if kind == SETTINGS and not flags & ACK:
            out.append(frame(SETTINGS, ACK, 0))
            said = settings(payload)
            if said.get(TABLE_SIZE, TABLE) < TABLE or said.get(STREAMS_MAX, self.plan.streams) < self.plan.streams:
                self.failed("settings that do not let us do this job")
                return False
        elif kind == PING and not flags & ACK:
            out.append(frame(PING, ACK, 0, payload))
        elif kind in (GOAWAY, RST_STREAM):
            self.failed("GOAWAY" if kind == GOAWAY else "RST_STREAM")
            return False
        return True

    def ended(self, stream: int, now: float) -> None:
        """An answer is whole."""
        question, since = self.open_streams.pop(stream)
        body = self.bodies.pop(stream, b"")
        who = question.who if body == question.body else shown(body)
        self.tally.record("everybody", question.who, who, now - since)

    def failed(self, kind: str) -> None:
        """The connection is of no more use: count what was on it, and come back with a new one."""
        if self.stopping:
            return
        self.tally.errors[kind] += max(1, len(self.open_streams))
        self.drop()
        asyncio.get_running_loop().call_later(RECONNECT_SECONDS, self.reopen)

    def drop(self) -> None:
        """Close without a count."""
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.abort()

    def reopen(self) -> None:
        """Connect again unless the run is over."""
        if not self.stopping:
            self.opening = asyncio.ensure_future(self.open())

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol. A connection that we dropped has been counted."""
        if self.transport is not None:
            self.transport = None
            self.failed("reset" if error else "closed")

    def finish(self) -> None:
        """The run is over."""
        self.stopping = True
        self.drop()


def shown(body: bytes) -> str:
    """Who answered, by a body that is another's, or what it is."""
    return body.removeprefix(b"answered by ").decode(errors="replace").strip()[:40] or "nobody"
