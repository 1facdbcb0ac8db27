"""The first bytes of an accepted connection, looked at and left where they are, so that whoever gets the connection reads them all.

When what is there does not say enough, the kernel is told how many bytes to wait for (SO_RCVLOWAT, socket(7)). It may wake us with fewer
all the same, where its memory for TCP is short, where the window is small, and on UNIX sockets: only then is it asked again after a while.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from typing import TypeVar

MOST = 16 * 1024 + 5
"""Bytes that are looked at, unless the caller wants more."""

AGAIN = 0.01
"""Seconds between two looks where the kernel does not wait for as many bytes as it was told."""

Found = TypeVar("Found")


async def peek(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    look: Callable[[bytes], Found | None],
    most: int = MOST,
    wanted: Callable[[bytes], int] = lambda data: len(data) + 1,
) -> Found | None:
    """What `look` makes of the first bytes, `most` of them; it is asked again with more while it says None, when `wanted` are there.

    None: the connection ended, or is full, before it was satisfied. No limit in time: that is the caller's. Raises what `look` raises, and
    OSError when the connection is broken.
    """
    least = 1
    try:
        while True:
            try:
                data = sock.recv(most, socket.MSG_PEEK)
            except (BlockingIOError, InterruptedError):
                await readable(loop, sock)
                continue
            if len(data) >= least:
                found = look(data)
                if found is not None or len(data) >= most:
                    return found
            if len(data) < least:  # readable, and yet no more of it
                if has_ended(sock):
                    return None
                await asyncio.sleep(AGAIN)
                continue
            least = min(max(wanted(data), len(data) + 1), most)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
            await readable(loop, sock)
    finally:
        if least > 1 and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def has_ended(sock: socket.socket) -> bool:
    """Will no more come than what is there: has the peer sent its end, or is the connection broken (poll(2), POLLRDHUP)?"""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


async def readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    """Wait until the kernel says that there is something to read, or an end."""
    waiter = asyncio.Event()
    loop.add_reader(sock, waiter.set)
    try:
        await waiter.wait()
    finally:
        loop.remove_reader(sock)
