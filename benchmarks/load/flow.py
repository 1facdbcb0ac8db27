"""One user's connection, whatever its protocol: when it sends, what it counts, how it comes back after a failure.

Closed loop: an answer is followed at once by the next message. Open loop: messages are due at fixed times whether or not the proxy keeps
up; one that finds its connection busy waits, and its latency counts from when it was due, so that a stall shows in full (no "coordinated
omission").
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from time import perf_counter
from typing import cast

from benchmarks.load.tally import Tally

RECONNECT_SECONDS = 0.1


@dataclass(frozen=True)
class User:
    """Who sends what to where, and the name that should answer (None: any).

    `request` is what goes over the wire: a whole HTTP request, or the message of the other protocols. `path` and `headers` (lines with
    CRLF) are for the WebSocket handshake only.
    """

    name: str
    host: str
    port: int
    request: bytes
    expect: str | None = None
    path: str = "/"
    headers: str = ""


@dataclass
class Run:
    """What all flows of a run share."""

    tally: Tally
    closed: bool
    timeout: float
    answer_header: bytes = b"x-backend"  # of HTTP answers: says who answered
    in_flight: int = 1  # of UDP: datagrams of one user under way at once
    stopping: bool = False


class Flow(asyncio.Protocol):
    """Base of the byte-stream protocols: one message under way at a time. A subclass sends in `send` and calls `answered` or `failed`."""

    def __init__(self, user: User, run: Run):
        self.user = user
        self.run = run
        self.transport: asyncio.Transport | None = None
        self.ready = False  # connected, and shaken hands where the protocol does
        self.sent_at = 0.0  # when the message under way was due, 0.0 when none is
        self.due_at: deque[float] = deque()  # open loop: messages that wait for this connection
        self.opening: asyncio.Future[None] | None = None

    def send(self) -> None:
        """Write one message."""
        assert self.transport
        self.transport.write(self.user.request)

    async def open(self) -> None:
        """Connect; a failure is counted and tried again later."""
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self, self.user.host, self.user.port)
        except OSError as error:
            self.failed(f"connect: {error.strerror or error}")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.transport = cast(asyncio.Transport, transport)
        self.begin()

    def begin(self) -> None:
        """Send the first message of this connection."""
        self.ready = True
        self.next()

    def due(self, at: float) -> None:
        """Open loop: a message is due now."""
        self.due_at.append(at)
        if self.ready and not self.sent_at:
            self.next()

    def next(self) -> None:
        """Send what is due, if anything is."""
        if self.run.stopping:
            self.sent_at = 0.0
        elif self.run.closed:
            self.sent_at = perf_counter()
            self.send()
        elif self.due_at:
            self.sent_at = self.due_at.popleft()
            self.send()
        else:
            self.sent_at = 0.0

    def answered(self, who: str) -> None:
        """The message under way was answered by `who`."""
        if not self.sent_at:
            return self.failed("answer without a question")
        self.run.tally.record(self.user.name, self.user.expect, who, perf_counter() - self.sent_at)
        return self.next()

    def failed(self, kind: str) -> None:
        """The connection is of no more use: count it, and come back with a new one."""
        if self.run.stopping:
            return
        self.run.tally.errors[kind] += 1
        self.drop()
        asyncio.get_running_loop().call_later(RECONNECT_SECONDS, self.reopen)

    def drop(self) -> None:
        """Close without a count."""
        self.ready = False
        self.sent_at = 0.0
        if self.transport:
            self.transport.abort()
        self.transport = None

    def reopen(self) -> None:
        """Connect again unless the run is over."""
        if not self.run.stopping:
            self.opening = asyncio.ensure_future(self.open())

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol. A connection that we dropped has been counted."""
        if self.transport is not None:
            self.transport = None
            self.failed("reset" if error else "closed")

    def check(self, now: float) -> None:
        """Called a few times a second: give up what takes too long."""
        if self.sent_at and now - self.sent_at > self.run.timeout:
            self.failed("timeout")

    def finish(self) -> None:
        """The run is over."""
        self.run.tally.unsent += len(self.due_at)
        self.drop()


def message_of(name: str, size: int, end: bytes = b"") -> bytes:
    """A message of `size` bytes that only this user sends, so that an answer to somebody else's shows."""
    return (name.encode() + b" ").ljust(size - len(end), b".") + end


def answerer(data: bytes, message: bytes) -> str | None:
    """Who sent `data` as an answer to `message`: an echo may put its name and a space before it; None when it is no echo of it."""
    if data == message:
        return "echo"
    return data[: -len(message)].decode(errors="replace").strip() if data.endswith(message) else None
