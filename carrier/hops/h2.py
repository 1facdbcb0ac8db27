"""A connection of HTTP/2 on its socket: how what its engine writes is sent, on either side of the proxy.

The engine (carrier/wire/h2) owns no socket. A subclass makes it and is its target, reads in `data_received`, and writes in `write`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from carrier.wire.h2 import Engine


class Connection(asyncio.Protocol):
    """fed: the engine's calls are under way, and what they write is sent at their end. due: what was written is to be sent in this wake-up.
    touched: exchanges that got content in this wake-up."""

    transport: asyncio.Transport
    engine: Engine

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.fed = self.due = False
        self.touched: list[Any] = []

    def soon(self) -> None:
        """Something is to be sent: with all else of this wake-up."""
        if not self.fed and not self.due:
            self.due = True
            self.loop.call_soon(self.write)

    def write(self) -> None:
        """Send what the engine has written, and close if it has ended."""
        raise NotImplementedError

    def rest(self) -> None:
        """The engine has more of what came at once than one wake-up may handle: the next one goes on, and nothing is read before."""
        if not self.transport.is_closing():
            self.transport.pause_reading()
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()
            self.data_received(b"")

    def pause_writing(self) -> None:
        self.engine.hold()

    def resume_writing(self) -> None:
        self.engine.release()
        self.soon()

    def eof_received(self) -> bool:
        return False
