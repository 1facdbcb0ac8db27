"""Turns of the event loop, measured: how much processor time the longest of them took.

    async with turns() as seen:
        await something()
    assert seen.longest < TURN

Processor time of the loop's own thread, not time on the clock: on a machine that others work on, a turn may wait for a processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator

TURN = 0.02
"""Seconds that a turn may take."""


class Turns:
    """longest: seconds of the longest turn so far; number: how many there were."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.number = 0
        self.loop = asyncio.get_running_loop()
        self.at = time.thread_time()
        self.handle = self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        now = time.thread_time()
        self.longest = max(self.longest, now - self.at)
        self.number += 1
        self.at = now
        self.handle = self.loop.call_soon(self._turn)


@contextlib.asynccontextmanager
async def turns() -> AsyncIterator[Turns]:
    """Measure what happens inside. The garbage of what was before is collected first."""
    gc.collect()
    await asyncio.sleep(0)
    found = Turns()
    try:
        yield found
        await asyncio.sleep(0.01)
    finally:
        found.handle.cancel()
