"""Long work in slices, so that no turn of the event loop waits for all of it.

Whoever may have much to do is a generator that yields now and then, where it could stop for a moment, and returns its result. `whole` runs
it at once; `sliced` runs it on the event loop, and lets that go on after each `SLICE`. What it works on must not change meanwhile: frozen
values, or what a lock holds still.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]
SLICE = 0.004
"""Seconds of a slice; a generator yields well within it."""


def whole(steps: Steps[T]) -> T:
    """The result of all steps, one after the other."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


async def sliced(steps: Steps[T]) -> T:
    """The same; the event loop goes on between slices."""
    while True:
        until = time.perf_counter() + SLICE
        try:
            while time.perf_counter() < until:
                next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await asyncio.sleep(0)
