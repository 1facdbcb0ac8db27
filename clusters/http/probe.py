"""Active health checks: one request on a connection of its own, in HTTP/1.1 or HTTP/2; a call of gRPC's health service.

`said` is a future: the status of the answer as a number; of a call the name of the serving status, or of the status of gRPC.
(grpc/grpc, doc/health-checking.md.)
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, cast

from carrier.errors import Error
from carrier.hops.h2 import Connection
from carrier.wire import grpc
from carrier.wire.h1 import reader as http1
from carrier.wire.h2 import Engine, Memo, Section, Stream, code_name, encode
from carrier.wire.making import request_head

if TYPE_CHECKING:
    from carrier.wire.http import Fields, Head
    from clusters.http.h2 import Way2

AGENT = (b"user-agent", b"carrier2-health")
CHECK = b"/grpc.health.v1.Health/Check"
STATES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
"""What the health service says, by number."""
GOOD = frozenset((*map(str, range(200, 400)), "SERVING"))
MOST = 4096
"""Bytes that the answer of a health service may have."""


Pairs = list[tuple[bytes, bytes]]


def message(service: str) -> bytes:
    """A HealthCheckRequest with its prefix: field 1 is the name of the service, nothing means the server as a whole."""
    name = service.encode()  # at most 127 bytes: carrier/core/health.py
    body = b"\x0a%c%b" % (len(name), name) if name else b""
    return struct.pack(">BI", 0, len(body)) + body


class Probe1(asyncio.Protocol):
    """A request of HTTP/1.1."""

    transport: asyncio.Transport

    def __init__(self, limits: http1.Limits, host: bytes, path: bytes) -> None:
        self.request = request_head(b"GET", path, [(b"host", host), AGENT])
        self.reader = http1.AnswerReader(http1.AnswerMemo(), limits, self)
        self.reader.expect(b"GET")
        self.said: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.request.text)

    def data_received(self, data: bytes) -> None:
        try:
            self.reader.feed(data)
        except Error as error:
            fail(self.said, error)

    def connection_lost(self, exc: Exception | None) -> None:
        fail(self.said, Error("closed", "the connection was closed before an answer came", "upstream"))

    def close(self) -> None:
        """It is known, or nobody wants to know any more."""
        self.transport.abort()

    def on_head(self, head: Head) -> None:
        if head.status >= 200 and not self.said.done():
            self.said.set_result(str(head.status))

    def on_data(self, data: bytes) -> None: ...
    def on_end(self, trailers: Fields) -> None: ...


class Probe2(Connection):
    """A request of HTTP/2: a GET of `path`, or where `service` is no None a call. It is the target of its engine. body: of the answer."""

    def __init__(self, way: Way2, host: bytes, path: bytes, service: str | None = None) -> None:
        super().__init__(asyncio.get_running_loop())
        self.way, self.host, self.path, self.service = way, host, path, service
        self.said: asyncio.Future[str] = self.loop.create_future()
        self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        limits = self.way.limits
        self.engine = Engine(self, Memo(limits, client=True), limits, client=True, now=self.loop.time())
        head: Pairs = [(b":scheme", self.way.scheme), (b":authority", self.host), AGENT]
        if self.service is None:
            self.engine.request(encode([(b":method", b"GET"), (b":path", self.path), *head]), True, self)
        else:
            head += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
            stream = self.engine.request(encode([(b":method", b"POST"), (b":path", CHECK), *head]), False, self)
            stream.send_data(message(self.service), True)
        self.soon()

    def data_received(self, data: bytes) -> None:
        self.fed = True
        more = self.engine.feed(data, self.loop.time())
        self.fed = False
        self.write()
        if more:
            self.rest()

    def write(self) -> None:
        self.due = False
        if self.engine.out and not self.transport.is_closing():
            self.transport.write(self.engine.take())
        if self.engine.failure is not None:
            fail(self.said, Error("bad-answer", f"it speaks no HTTP/2: {self.engine.failure}", "upstream"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.fed = True
        fail(self.said, Error("closed", "the connection was closed before an answer came", "upstream"))

    def close(self) -> None:
        """It is known, or nobody wants to know any more."""
        self.transport.abort()

    def on_head(self, stream: Stream, section: Section, last: bool) -> None:
        if section.status < 200 or self.said.done():
            return
        if self.service is None or section.status != 200:
            self.said.set_result(str(section.status))
        elif last:
            self._told(section)

    def on_data(self, stream: Stream, data: bytes, last: bool) -> None:
        self.body += data[: MOST - len(self.body)]

    def on_trailers(self, stream: Stream, section: Section) -> None:
        if self.service is not None and not self.said.done():
            self._told(section)

    def _told(self, section: Section) -> None:
        """What the health service says: field 1 of its message, behind the prefix of five bytes; none means 0."""
        status = grpc.said(section.fields) or "UNKNOWN"
        if status == "OK":
            state = self.body[6] if self.body[5:6] == b"\x08" and len(self.body) > 6 else 0
            status = STATES[state] if state < len(STATES) else str(state)
        self.said.set_result(status)

    def on_reset(self, stream: Stream, code: int, detail: str) -> None:
        fail(self.said, Error("reset", detail or f"RST_STREAM {code_name(code)}", "upstream"))

    def on_goaway(self, last: int, code: int, detail: str) -> None: ...
    def on_drained(self, stream: Stream) -> None: ...
    def on_refused(self, stream: Stream, section: Section, kind: str, detail: str) -> None: ...
    def on_settings(self) -> None: ...


def fail(said: asyncio.Future[str], error: Error) -> None:
    """The probe has failed, if it has not been answered."""
    if not said.done():
        said.set_exception(error)
        said.exception()  # nobody may be waiting any more
