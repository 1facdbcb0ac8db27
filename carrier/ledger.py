"""Sessions that have ended, handed on in batches to those who count them and write lines about them.

At its end a session is only appended to a list (`Env.ledger`): work that is done for many at once finds its code and data in the
processor's caches, and costs half of what it costs in between two requests. A batch is handed on when it is `LARGE`, when `DELAY` seconds
have gone by, or when somebody is about to look (`settle`). What a session says of itself does not change any more by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carrier.session import Session

DELAY = 0.05
"""Seconds that a session that has ended waits at most."""
LARGE = 256

Reader = Callable[[Sequence["Session"]], object]


class Ledger:
    """See the module. readers: called in order with each batch; one that fails is reported to the loop's exception handler."""

    __slots__ = ("ended", "loop", "readers", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.readers: list[Reader] = []
        self.ended: list[Session] = []
        self.timer: asyncio.TimerHandle | None = None

    def due(self) -> None:
        """The first session of a batch, or enough of them, are there."""
        if len(self.ended) >= LARGE:
            self.settle()
        elif self.timer is None:
            self.timer = self.loop.call_later(DELAY, self.settle)

    def settle(self) -> None:
        """Hand on what there is."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        ended, self.ended = self.ended, []
        for reader in self.readers if ended else ():
            try:
                reader(ended)
            except Exception as exc:  # its mistake costs these lines or counts, not the loop's turn
                self.loop.call_exception_handler({"message": f"a reader of ended sessions failed: {exc}", "exception": exc})
