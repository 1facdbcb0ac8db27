"""Sockets that take batches are looked at when they become readable, or, when there is very much to carry, every `INTERVAL`.

A batch costs hardly more when it has more datagrams in it, and a wake-up for each few of them costs as much as to carry them. Usually
the loop watches each socket. While they carry `MANY` datagrams an `INTERVAL`, it watches a timer instead (timerfd_create(2): the loop's
own timers have milliseconds), and each tick looks at those that are ready by an epoll(7) instance of our own; a socket moves there when it
wakes the loop for the first time then. Nobody sleeps: other sessions have the loop meanwhile.

The price is that a datagram waits `INTERVAL` at most. Who has few datagrams under way and waits for their answers would get fewer of
them through, so what the ticks carry is looked at too: when they find only `FEW`, there are none for the next `PAUSE`.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
from collections.abc import Callable
from time import monotonic

from carrier.hops.mmsg import library

INTERVAL = 200e-6
"""Seconds from one tick to the next."""
MANY = 20
"""Datagrams an `INTERVAL` from which on it ticks: 100,000 a second."""
FEW = 14
"""Datagrams a tick below which it ends."""
LOOKS = 32
"""So many wake-ups, or ticks, are judged together."""
PAUSE = 0.25
"""Seconds after ticks that found few in which there are none."""
SOCKETS = 64
"""Sockets looked at in one go; the others are looked at next, after what else the loop has to do."""
CLOCK_MONOTONIC = 1


class Timer:
    """A timerfd: `fd` becomes readable once, `INTERVAL` after `set`. Raises OSError when there is no descriptor left."""

    def __init__(self) -> None:
        self.fd: int = library().timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._set = library().timerfd_settime
        self._after = ctypes.byref((ctypes.c_long * 4)(0, 0, 0, round(INTERVAL * 1e9)))  # struct itimerspec: no repetition; s, ns

    def set(self) -> None:
        """Be readable in `INTERVAL`, and not before."""
        self._set(self.fd, 0, self._after, None)

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self.fd)


class Ticks:
    """The timer, and those who are looked at when it ticks. Raises OSError when there is no descriptor left."""

    def __init__(self) -> None:
        self.timer = Timer()
        try:
            self.epoll = select.epoll()
        except OSError:
            self.timer.close()
            raise
        self.fds: set[int] = set()

    def add(self, fd: int) -> None:
        """Have `ready` look at it."""
        self.epoll.register(fd, select.EPOLLIN)
        self.fds.add(fd)

    def remove(self, fd: int) -> None:
        """No more."""
        self.fds.discard(fd)
        self.epoll.unregister(fd)

    def ready(self) -> list[tuple[int, int]]:
        """Those that are readable, with the events of each; the timer is set anew."""
        self.timer.set()  # before the work, which may take longer: then the next tick comes at once
        return self.epoll.poll(0, SOCKETS)

    def close(self) -> None:
        """Release the descriptors."""
        self.timer.close()
        self.epoll.close()


class Pace:
    """The sockets of one event loop that take batches.

    State: `ticks` while it ticks; since when so many looks have carried so many datagrams; until when not to tick.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.ticks: Ticks | None = None
        self.callbacks: dict[int, Callable[[], int]] = {}
        self.looks = self.carried = 0
        self.since = self.until = 0.0

    def add(self, fd: int, callback: Callable[[], int]) -> None:
        """Call `callback` when `fd` is readable; it returns how many datagrams it took."""
        self.callbacks[fd] = callback
        self.loop.add_reader(fd, self._woken, fd)

    def remove(self, fd: int) -> None:
        """No more; to be said before `fd` is closed."""
        del self.callbacks[fd]
        if self.ticks is not None and fd in self.ticks.fds:
            self.ticks.remove(fd)
        else:
            self.loop.remove_reader(fd)
        if self.ticks is not None and not self.callbacks:
            self._tick_no_more(self.ticks)

    def _woken(self, fd: int) -> None:
        if self.ticks is not None:
            self._move(fd, self.ticks)
        self.carried += self.callbacks[fd]()
        if self.ticks is None:
            self.looks += 1
            if self.looks == LOOKS:
                self._judge_wakes(monotonic())

    def _move(self, fd: int, ticks: Ticks) -> None:
        """From now on it is looked at when it ticks."""
        try:
            ticks.add(fd)
        except OSError:  # too many watches: it goes on waking the loop
            return
        self.loop.remove_reader(fd)

    def _judge_wakes(self, now: float) -> None:
        if now >= self.until and self.carried * INTERVAL >= MANY * (now - self.since):
            self._tick_on(now)
        self._judged(now)

    def _tick(self) -> None:
        ticks = self.ticks
        assert ticks is not None
        for fd, _ in ticks.ready():
            callback = self.callbacks.get(fd)
            if callback is not None:  # else an earlier one has removed it
                self.carried += callback()
        self.looks += 1
        if self.looks >= LOOKS and self.ticks is ticks:
            now = monotonic()
            if self.carried < FEW * LOOKS:
                self._tick_no_more(ticks)
                self.until = now + PAUSE
            self._judged(now)

    def _judged(self, now: float) -> None:
        self.looks = self.carried = 0
        self.since = now

    def _tick_on(self, now: float) -> None:
        try:
            ticks = self.ticks = Ticks()
        except OSError:  # without a descriptor there are none
            self.until = now + PAUSE
            return
        ticks.timer.set()
        self.loop.add_reader(ticks.timer.fd, self._tick)

    def _tick_no_more(self, ticks: Ticks) -> None:
        self.ticks = None
        self.loop.remove_reader(ticks.timer.fd)
        for fd in ticks.fds:
            self.loop.add_reader(fd, self._woken, fd)
        ticks.close()


_paces: dict[asyncio.AbstractEventLoop, Pace] = {}
"""By loop; only while there are such sockets."""


def watch(loop: asyncio.AbstractEventLoop, fd: int, callback: Callable[[], int]) -> None:
    """Call `callback` when `fd` is readable; it returns how many datagrams it took."""
    pace = _paces.get(loop)
    if pace is None:
        pace = _paces[loop] = Pace(loop)
    pace.add(fd, callback)


def unwatch(loop: asyncio.AbstractEventLoop, fd: int) -> None:
    """No more; to be said before `fd` is closed."""
    pace = _paces[loop]
    pace.remove(fd)
    if not pace.callbacks:
        del _paces[loop]
