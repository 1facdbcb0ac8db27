"""A second look at sockets on which something was read: uvloop may have stopped watching them.

When epoll reports an error on a descriptor (a peer that sent its last bytes and then an RST), libuv stops watching it and uvloop
calls the reader one last time. That one read finds bytes, not the error behind them, and no other call follows. So every socket
that was read is looked at once more when it has been quiet for a moment: one poll(2) a burst of reads, none while it is busy,
nothing for idle sockets. asyncio's own loop does not need this and is not hurt by it.
"""

from __future__ import annotations

import asyncio
import fcntl
import select
import struct
from functools import lru_cache
from typing import Protocol

PERIOD = 0.1
"""Seconds between two looks."""
SIOCOUTQ = 0x5411


class Watched(Protocol):
    """What is looked at."""

    def look(self) -> bool:
        """Called every PERIOD seconds as long as it returns True."""
        ...


class Lookout:
    """The sockets of one event loop that were read lately."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.recent: list[Watched] = []

    def add(self, watched: Watched) -> None:
        """Look at it in a moment."""
        if not self.recent:
            self.loop.call_later(PERIOD, self._look)
        self.recent.append(watched)

    def _look(self) -> None:
        recent, self.recent = self.recent, []
        for watched in recent:
            if watched.look():
                self.add(watched)


@lru_cache(1)
def lookout(loop: asyncio.AbstractEventLoop) -> Lookout:
    """The one of this loop."""
    return Lookout(loop)


def has_error(fd: int) -> bool:
    """Is an error waiting on this descriptor? It stays there."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def unacknowledged(fd: int) -> int:
    """Bytes that the kernel holds until the other side has acknowledged them (tcp(7), unix(7): SIOCOUTQ); 0 where nobody knows."""
    try:
        found: int = struct.unpack("i", fcntl.ioctl(fd, SIOCOUTQ, bytes(4)))[0]
        return found
    except OSError:
        return 0


def unsent(transport: asyncio.Transport) -> int:
    """Bytes that were written to a transport and that the other side has not acknowledged."""
    sock = transport.get_extra_info("socket")
    return transport.get_write_buffer_size() + (unacknowledged(sock.fileno()) if sock is not None and sock.fileno() >= 0 else 0)
