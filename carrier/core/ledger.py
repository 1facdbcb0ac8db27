"""Sessions that have ended, handed on in batches to those who count them and write lines about them.

At its end a session is only appended to a list (`Env.ledger`): what is done for many at once (counted, written down) finds code and data
in the processor's caches, and costs half of what it costs in between two requests. A batch is handed on when it is `LARGE`, when `DELAY`
seconds have gone by, or when somebody is about to look (`settle`). What a session says of itself does not change any more by then; one
that is used again leaves a `Record` instead, of which carrier/core/reuse.py can make a session.

What was refused before it could become a session is told as a `Refusal`, at once: that is rare, or an attack.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from carrier.core.decision import Decision
    from carrier.core.endpoint import Endpoint
    from carrier.core.parts import Listener
    from carrier.errors import Error

DELAY = 0.05
"""Seconds that a session that has ended waits at most."""
LARGE = 64

Record = tuple["Listener", Any, float, float, Any, "Decision", "Endpoint", Any, int, int, bytes, int]
"""Listener, source (which knows client and version), when it started and ended (monotonic seconds), request, decision, endpoint, answer,
bytes in and out, fields added (which hold the id), number among the listener's sessions (which makes the name)."""
Reader = Callable[[Sequence[Any]], object]
"""Reads a batch: sessions, and records of those that are used again."""


class Refusal(NamedTuple):
    """A request that was refused before it became a session. begun: the first bytes of its head, as far as they are known.

    source: the hop that read it. began, ended: monotonic seconds. status: what was answered.
    """

    listener: Listener
    source: Any
    begun: bytes
    error: Error
    status: int
    began: float
    ended: float
    bytes_in: int
    bytes_out: int


class Ledger:
    """See the module. readers: called in order with each batch; watchers: with each refusal. One that fails is reported to the loop's
    exception handler."""

    __slots__ = ("ended", "loop", "readers", "timer", "watchers")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.readers: list[Reader] = []
        self.watchers: list[Callable[[Refusal], object]] = []
        self.ended: list[Any] = []
        self.timer: asyncio.TimerHandle | None = None

    def due(self) -> None:
        """Enough sessions for a batch are there, or the first since the timer went off; while they come fast, it goes on by itself."""
        if len(self.ended) >= LARGE:
            self.settle()
        elif self.timer is None:
            self.timer = self.loop.call_later(DELAY, self._late)

    def _late(self) -> None:
        self.timer = None
        self.settle()

    def settle(self) -> None:
        """Hand on what there is."""
        ended, self.ended = self.ended, []
        for reader in self.readers if ended else ():
            try:
                reader(ended)
            except Exception as exc:  # its mistake costs these lines or counts, not the loop's turn
                self.loop.call_exception_handler({"message": f"a reader of ended sessions failed: {exc}", "exception": exc})

    def refused(self, refusal: Refusal) -> None:
        """Hand on what became no session."""
        for watcher in self.watchers:
            try:
                watcher(refusal)
            except Exception as exc:
                self.loop.call_exception_handler({"message": f"a watcher of refused requests failed: {exc}", "exception": exc})


def refused(listener: Listener, source: Any, begun: bytes, error: Error, began: float, status: int = 0) -> None:
    """Tell those who want to know that `source` has refused and answered what it read (see `Refusal`), and count its bytes anew.

    status: what was answered, if it is not the error's.
    """
    ledger = listener.env.ledger
    if ledger is not None and listener.listed:
        ledger.refused(
            Refusal(listener, source, begun, error, status or error.status, began, monotonic(), source.bytes_in, source.bytes_out)
        )
    source.bytes_in = source.bytes_out = 0
