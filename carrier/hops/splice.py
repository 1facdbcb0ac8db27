"""Bytes from one socket to another without passing through us: splice(2) through a pipe, both ends of which are ours.

A `Pipe` belongs to the socket that is written to, and is the kernel's twin of a list of pending bytes: `fill` moves what another
socket has received into it, `drain` moves it on, `held` is what lies between. Every byte that `fill` counted is in the pipe until
`drain` counted it out, whatever either call raises. Pipes are pooled, because making one costs as much as ten kilobytes copied, and
counted, because each may hold `SIZE` bytes of kernel memory: when all are out, streams are relayed the ordinary way. Linux only.
"""

from __future__ import annotations

import fcntl
import os

SIZE = 1 << 20
"""Bytes a pipe holds, and the most that one `fill` moves. The kernel may grant less (fs.pipe-user-pages-soft)."""
PIPES = 64
"""Pipes there may be: SIZE times as many bytes of kernel memory at most."""
AVAILABLE = hasattr(os, "splice")
FLAGS = getattr(os, "SPLICE_F_MOVE", 1) | getattr(os, "SPLICE_F_NONBLOCK", 2)
F_SETPIPE_SZ = 1031


class Pipe:
    """See the module."""

    __slots__ = ("held", "reader", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0
        try:
            fcntl.fcntl(self.writer, F_SETPIPE_SZ, SIZE)
        except OSError:
            pass  # the user has too many large pipes: this one works, in smaller steps

    def fill(self, fd: int) -> int:
        """Take what socket `fd` has received; 0 is its end. Call it on an empty pipe: then BlockingIOError means that nothing came."""
        moved = os.splice(fd, self.writer, SIZE, flags=FLAGS)
        self.held += moved
        return moved

    def drain(self, fd: int) -> int:
        """Write as much as socket `fd` takes now. Raises OSError when the socket is broken; a full one is no error."""
        before = self.held
        try:
            while self.held:
                self.held -= os.splice(self.reader, fd, self.held, flags=FLAGS)
        except (BlockingIOError, InterruptedError):
            pass
        return before - self.held

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class Pool:
    """The pipes of a process; `limit` of them at most, made when asked for and kept."""

    def __init__(self, limit: int = PIPES) -> None:
        self.limit = limit
        self.made = 0
        self.idle: list[Pipe] = []

    def take(self) -> Pipe | None:
        """An empty pipe, or None: then bytes must go the ordinary way."""
        if self.idle:
            return self.idle.pop()
        if not AVAILABLE or self.made >= self.limit:
            return None
        try:
            pipe = Pipe()
        except OSError:  # out of file descriptors
            return None
        self.made += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """One that still holds bytes (its session was killed) is closed: the next user must not see them."""
        if pipe.held:
            pipe.close()
            self.made -= 1
        else:
            self.idle.append(pipe)


POOL = Pool()
"""The process's pipes: descriptors are a resource of the process, so is this."""
