"""Too much at once: of one cluster, of the whole process.

`Breaker` bounds what one cluster may be asked for: connections, sessions that wait for one, retries. Beyond a limit a session fails at
once with kind "overload" (503, or the fallback), while an upstream that hangs would have taken all of us down with it.

`Watch` looks four times a second at the event loop's lag, the memory and the connections of the process, at memory more often: a
thousand clients that read nothing take 100 MiB in a quarter of a second. Over a limit, byte-stream
listeners stop accepting (the kernel's queue holds) and HTTP requests are answered 503 with Retry-After, until all are well under
their limits again. New sessions are shed by another routing table, so that the hot path asks nothing. Lag must last: one long
moment (a large change, another process) is no overload. The API's own addresses are exempt: whoever helps must get in.

Memory is judged by what is resident, and malloc keeps what sessions gave back: so it is asked to hand that on (`Process.trim`) before
anybody is refused, while somebody is, and after many connections have gone. What is left then is not the sessions'. Where it falls no
more, below the limit, or above it with few connections left, refusing helps nobody: it ends, and begins again when that memory grows.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from carrier.log import Log
    from carrier.proxy.brake import Brake

INTERVAL = 0.25
"""Seconds between two looks."""
GLANCE, CLOSE_GLANCE = 0.1, 0.02
"""Seconds between two readings of memory alone, where it has a limit; the second while half of that is in use."""
RELIEF = 0.8
"""What is below this part of its limit is over no more: between the two nothing changes, so that it does not flap."""
ROOM = 16
"""When there are too many connections, one in so many of those allowed makes room for those that come until the next look."""
LASTING = 3
"""Looks in a row that must find the loop late."""

STILL = 8
"""Looks in a row in which memory fell no more, after which refusing helps nobody."""
FALLS = 1 << 18
"""Bytes that memory must fall by to be falling."""
FEW = 16
"""Connections that hold no memory worth a refusal; so does an eighth of those that there were at the peak."""
AGAIN = 20
"""Where memory rests above its limit, new sessions are refused again when it has grown by one in so many parts of the limit."""
TRIMS = 4
"""Looks between two times that malloc is asked for what it keeps."""
CROWD = 256
"""Connections that must have gone, half of those that there were, for malloc to be asked although memory is not short. It is asked once
more when no more go, be the last of them as few as they may: what they held is given back a moment after they have gone, and pages of
which the first ones gave back a part are free only then."""
LONG = 0.02
"""Seconds that one turn of the event loop may take for the sake of memory."""

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


def _container_memory(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> int:
    """The least limit in bytes of our cgroup and of those around it, 0 if there is none (cgroups(7), versions 2 and 1). A container sees
    its own as the root; a unit of systemd's stands below it."""
    found = []
    for path, name in (*_cgroups(own), ("/", "memory.max"), ("/memory", "memory.limit_in_bytes")):
        while path:
            with contextlib.suppress(OSError), open(f"{root}{path.rstrip('/')}/{name}") as file:
                text = file.read().strip()
                if text.isdigit() and int(text) < 1 << 60:
                    found.append(int(text))
            path = path.rpartition("/")[0]
    return min(found, default=0)


def _cgroups(own: str) -> Iterator[tuple[str, str]]:
    """Where the memory of this process is accounted, and the name of the file that holds the limit."""
    with contextlib.suppress(OSError), open(own) as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if not controllers:
                yield path, "memory.max"
            elif "memory" in controllers.split(","):
                yield f"/memory{path}", "memory.limit_in_bytes"


_trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)


class Process:
    """What this process uses. The file is opened once: when descriptors run short is when it matters."""

    def __init__(self) -> None:
        self.statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self.page = resource.getpagesize()
        self.collects = True
        """Collecting garbage does not take too long for that."""

    def resident(self) -> int:
        """Bytes of memory that the process has resident (proc(5))."""
        return int(os.pread(self.statm, 128, 0).split()[1]) * self.page

    def trim(self) -> None:
        """Have Python drop its free lists, and malloc hand back to the kernel what it keeps of freed memory (malloc_trim(3); musl has
        none, and keeps little)."""
        if self.collects:  # what was there at the start is frozen (process/serve.py), so that this looks at what came since
            began = time.thread_time()  # of the clock, others would take some
            gc.collect()
            self.collects = time.thread_time() - began < LONG
        if _trim is not None:
            _trim(0)

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
    closes so many connections that are of no use to anybody, as far as there are such; brake: is told of memory."""

    def __init__(
        self,
        bounds: Bounds,
        connections: Callable[[], int],
        shed: Callable[[str], None],
        log: Log,
        make_room: Callable[[int], None] = lambda number: None,
        brake: Brake | None = None,
    ) -> None:
        self.bounds = bounds
        self.connections = connections
        self.shed = shed
        self.make_room = make_room
        self.brake = brake
        self.log = log
        self.process: Process | None = None
        self.scarce = 0
        """Looks for which descriptors must be free before they are said to be."""
        self.lag = 0.0
        """Seconds that the loop was late, at the last look."""
        self.late = 0
        self.memory = self.least = 0
        """Bytes resident at the last look; the least since memory fell last, while it is too much."""
        self.still = 0
        """Looks since then."""
        self.floor = 0
        """Bytes that memory rested at with few connections, if that is above its limit; what is not much more is no overload."""
        self.most = 0
        """Connections at most since the overload began."""
        self.crowd = 0
        """Connections at most since malloc was asked last for what it keeps."""
        self.held = 0
        """Connections at the last look."""
        self.leaving = False
        """Malloc was asked last because many went: what those at the end of them held is not back yet."""
        self.since_trim = TRIMS
        self.reason = ""
        self.times = 0
        """How often it was too much."""
        self.timer: asyncio.TimerHandle | None = None
        self.glance: asyncio.TimerHandle | None = None
        self.due = 0.0

    def start(self) -> None:
        self.process = Process()
        self._arm()
        if self.bounds.memory:
            self._glance()

    def stop(self) -> None:
        for timer in (self.timer, self.glance):
            if timer is not None:
                timer.cancel()
        self.timer = self.glance = None
        if self.process is not None:
            self.process.close()

    def _arm(self) -> None:
        self.due = time.monotonic() + INTERVAL
        self.timer = asyncio.get_running_loop().call_later(INTERVAL, self._look)

    def _look(self) -> None:
        lag = time.monotonic() - self.due
        self._arm()
        assert self.process is not None
        held = self._held()
        self.look(max(0.0, lag), self._resident(self.process, held), held)
        self.look_for_descriptors(self.process.has_descriptors())

    def _glance(self) -> None:
        """Is so much memory in use that the next look cannot wait?"""
        assert self.process is not None
        memory, limit = self.process.resident(), self.bounds.memory
        if memory > limit and not self.reason:
            held = self._held()
            self.look(0.0, self._resident(self.process, held), held)
            memory = self.memory
        if self.brake is not None:
            self.brake.look(memory, limit)
        self.glance = asyncio.get_running_loop().call_later(CLOSE_GLANCE if memory > limit // 2 else GLANCE, self._glance)

    def _held(self) -> int:
        """Connections, after those of no use have made room where they are too many: before anybody else is refused."""
        held, most = self.connections(), self.bounds.connections
        if 0 < most < held:
            self.make_room(held - most + most // ROOM)
            held = self.connections()
        return held

    def _resident(self, process: Process, held: int) -> int:
        """Bytes, after malloc has handed back what it keeps, where memory is short or many connections have gone."""
        memory, limit = process.resident(), self.bounds.memory
        self.crowd = max(self.crowd, held)
        self.since_trim += 1
        short = limit and memory > limit * RELIEF and self.since_trim > TRIMS and self.still <= STILL
        halved = self.crowd >= 2 * held
        many = halved and self.crowd - held >= CROWD
        last = self.leaving and held >= self.held and (halved or held == self.crowd)
        if short or many or last:
            process.trim()
            self.crowd, self.since_trim, self.leaving = held, 0, many
            memory = process.resident()
        self.held = held
        return memory

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
        self.lag, self.memory = lag, memory
        self.late = self.late + 1 if self.bounds.lag and lag > self.bounds.lag else 0
        if memory < self.bounds.memory:
            self.floor = 0
        counted = 0 if memory <= self.floor + self.bounds.memory // AGAIN and self.floor else memory
        if not self.reason:
            reason = self.bounds.over(lag if self.late >= LASTING else 0.0, counted, connections)
            if reason:
                self.times += 1
                self.most, self.least, self.still = connections, memory, 0
                self.log.warn("overloaded: new sessions are refused", reason=reason)
                self._set(reason)
            return
        self.most = max(self.most, connections)
        if not self.bounds.over(lag, counted, connections, RELIEF):
            self.log.notice("no longer overloaded")
            self._set("")
        elif self._rests(memory, connections) and not self.bounds.over(lag, 0, connections, RELIEF):
            self.floor = memory
            self.log.notice("no longer overloaded: memory falls no more", memory=f"{memory >> 20} MiB", connections=connections)
            self._set("")

    def _rests(self, memory: int, connections: int) -> bool:
        """Does memory fall no more, although whoever needed it has gone?"""
        if memory < self.least - FALLS:
            self.least, self.still = memory, 0
        self.still += 1
        return self.still > STILL and (memory <= self.bounds.memory or connections <= max(FEW, self.most // 8))

    def _set(self, reason: str) -> None:
        self.reason = reason
        self.shed(reason)
