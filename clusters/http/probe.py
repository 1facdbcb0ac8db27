"""An active health check: one request on a connection of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from carrier.errors import Error
from carrier.wire.h1 import reader as http1

if TYPE_CHECKING:
    from carrier.wire.http import Fields, Head


class Probe(asyncio.Protocol):
    """One health check: a request, and the status of its answer in the future `status`."""

    def __init__(self, limits: http1.Limits, request: Head) -> None:
        self.request = request
        self.reader = http1.AnswerReader(http1.AnswerMemo(), limits, self)
        self.reader.expect(request.method)
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self.request.text)

    def data_received(self, data: bytes) -> None:
        try:
            self.reader.feed(data)
        except Error as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(Error("closed", "the connection was closed before an answer came", "upstream"))

    def _fail(self, error: Error) -> None:
        if not self.status.done():
            self.status.set_exception(error)
            self.status.exception()  # nobody may be waiting any more

    def on_head(self, head: Head) -> None:
        if head.status >= 200 and not self.status.done():
            self.status.set_result(head.status)

    def on_data(self, data: bytes) -> None: ...
    def on_end(self, trailers: Fields) -> None: ...
