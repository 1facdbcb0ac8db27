"""Turns of the event loop, measured: how much processor time the longest of them took.

    async with turns() as seen:
        await something()
    assert seen.longest < TURN

Processor time of the loop's own thread, not time on the clock: on a machine that others work on, a turn may wait for a processor. Seconds
are those of the machine that `TURN` was chosen on: a slower one, or one whose caches others use, is given more, by what a piece of work
takes it just then.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import statistics
import time
from collections.abc import AsyncIterator

TEXT = json.dumps([{"name": str(number), "values": [number] * 8} for number in range(2000)])
USUAL = 0.0015
"""Seconds that reading TEXT takes on that machine."""
TURN = 0.02
"""Seconds that a turn may take there."""


def pace() -> float:
    """How many times as long this machine takes for the same work now; 1 for a faster one."""
    found = []
    for _ in range(7):
        began = time.thread_time()
        json.loads(TEXT)
        found.append(time.thread_time() - began)
    return max(1.0, statistics.median(found) / USUAL)


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
        found.longest /= pace()
