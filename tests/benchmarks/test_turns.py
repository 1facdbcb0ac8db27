"""Turns of an event loop, as the benchmark measures them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from benchmarks.turns import Turns
from tests.support import wait_until


def work(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def test_the_longest_turn_is_told_and_then_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "longest"
    turns = Turns(asyncio.get_running_loop(), str(file))
    try:
        await asyncio.sleep(0)
        work(0.02)
        await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR2)
        await wait_until(file.exists, "for the file")
        assert 0.02 <= float(file.read_text()) < 0.5
        file.unlink()
        os.kill(os.getpid(), signal.SIGUSR2)
        await wait_until(file.exists, "for the file")
        assert float(file.read_text()) < 0.02
    finally:
        turns.loop.remove_signal_handler(signal.SIGUSR2)
        turns.loop.call_soon(lambda: None)
        turns.turn = lambda: None  # type: ignore[method-assign]
