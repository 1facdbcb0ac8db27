"""Too much at once: of one cluster, of the whole process.

`Breaker` bounds what one cluster may be asked for: connections, sessions that wait for one, retries. Beyond a limit a session fails at
once with kind "overload" (503, or the fallback), while an upstream that hangs would have taken all of us down with it.

`Watch` looks four times a second at the event loop's lag, the memory and the connections of the process. Over a limit, byte-stream
listeners stop accepting (the kernel's queue holds) and HTTP requests are answered 503 with Retry-After, until all are well under
their limits again. New sessions are shed by another routing table, so that the hot path asks nothing. Lag must last: one long
moment (a large change, another process) is no overload. The API's own addresses are exempt: whoever helps must get in.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from carrier.log import Log

INTERVAL = 0.25
"""Seconds between two looks."""
RELIEF = 0.8
"""What is below this part of its limit is over no more: between the two nothing changes, so that it does not flap."""
ROOM = 16
"""When there are too many connections, one in so many of those allowed makes room for those that come until the next look."""
LASTING = 3
"""Looks in a row that must find the loop late."""

CALM = 20
"""Looks in a row that must find a free descriptor before that is said."""


class Bounds(msgspec.Struct, frozen=True):
    """Limits of the process. lag: seconds that the event loop may be late; memory: bytes resident; connections: of all listeners
    together. 0 means no limit."""

    lag: float = 1.0
    memory: int = 0
    connections: int = 0

    def over(self, lag: float, memory: int, connections: int, part: float = 1.0) -> str:
        """Which limit is exceeded, in words, or nothing. part: of the limits."""
        if self.lag and lag > self.lag * part:
            return f"the event loop is {lag:.2f} s late (limit {self.lag:g} s)"
        if self.memory and memory > self.memory * part:
            return f"{memory >> 20} MiB of memory are in use (limit {self.memory >> 20} MiB)"
        if self.connections and connections > self.connections * part:
            return f"{connections} connections (limit {self.connections})"
        return ""


def own_bounds() -> Bounds:
    """Limits that fit this machine: nine tenths of the container's memory, if it has a limit; half of the descriptors, because a session
    needs two."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return Bounds(memory=_container_memory() * 9 // 10, connections=0 if descriptors < 0 else max(64, (descriptors - 64) // 2))


def _container_memory() -> int:
    """The cgroup's limit in bytes, 0 if it has none (cgroups(7), versions 2 and 1)."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as file:
                text = file.read().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() and int(text) < 1 << 60 else 0
    return 0


class Process:
    """What this process uses. The file is opened once: when descriptors run short is when it matters."""

    def __init__(self) -> None:
        self.statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self.page = resource.getpagesize()

    def resident(self) -> int:
        """Bytes of memory that the process has resident (proc(5))."""
        return int(os.pread(self.statm, 128, 0).split()[1]) * self.page

    def has_descriptors(self) -> bool:
        """Could one more file or socket be opened?"""
        try:
            os.close(os.dup(self.statm))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Idempotent."""
        if self.statm >= 0:
            os.close(self.statm)
            self.statm = -1


class Watch:
    """See the module. connections: counts them; shed: called with the reason when too much comes, with "" when that is over; make_room:
    closes so many connections that are of no use to anybody, as far as there are such."""

    def __init__(
        self,
        bounds: Bounds,
        connections: Callable[[], int],
        shed: Callable[[str], None],
        log: Log,
        make_room: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.bounds = bounds
        self.connections = connections
        self.shed = shed
        self.make_room = make_room
        self.log = log
        self.process: Process | None = None
        self.scarce = 0
        """Looks for which descriptors must be free before they are said to be."""
        self.lag = 0.0
        """Seconds that the loop was late, at the last look."""
        self.late = 0
        self.reason = ""
        self.times = 0
        """How often it was too much."""
        self.timer: asyncio.TimerHandle | None = None
        self.due = 0.0

    def start(self) -> None:
        self.process = Process()
        self._arm()

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.process is not None:
            self.process.close()

    def _arm(self) -> None:
        self.due = time.monotonic() + INTERVAL
        self.timer = asyncio.get_running_loop().call_later(INTERVAL, self._look)

    def _look(self) -> None:
        lag = time.monotonic() - self.due
        self._arm()
        assert self.process is not None
        self.look(max(0.0, lag), self.process.resident(), self._held())
        self.look_for_descriptors(self.process.has_descriptors())

    def _held(self) -> int:
        """Connections, after those of no use have made room where they are too many: before anybody else is refused."""
        held, most = self.connections(), self.bounds.connections
        if 0 < most < held:
            self.make_room(held - most + most // ROOM)
            held = self.connections()
        return held

    def look_for_descriptors(self, free: bool) -> None:
        """Say when they have run out, and when that is over: what is refused then is refused by the kernel, which tells nobody why."""
        if not free:
            if not self.scarce:
                limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
                hint = "raise ulimit -n, or lower --limit connections"
                self.log.error("no file descriptor is free: connections wait or are refused", limit=limit, hint=hint)
            self.scarce = CALM
        elif self.scarce:
            self.scarce -= 1
            if not self.scarce:
                self.log.notice("file descriptors are free again")

    def look(self, lag: float, memory: int, connections: int) -> None:
        """Decide by what was seen. lag: seconds; memory: bytes."""
        self.lag = lag
        self.late = self.late + 1 if self.bounds.lag and lag > self.bounds.lag else 0
        if not self.reason:
            reason = self.bounds.over(lag if self.late >= LASTING else 0.0, memory, connections)
            if reason:
                self.times += 1
                self.log.warn("overloaded: new sessions are refused", reason=reason)
                self._set(reason)
        elif not self.bounds.over(lag, memory, connections, RELIEF):
            self.log.notice("no longer overloaded")
            self._set("")

    def _set(self, reason: str) -> None:
        self.reason = reason
        self.shed(reason)
