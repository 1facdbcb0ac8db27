"""Named pipes: made, opened, and carried as a hop."""

from __future__ import annotations

import os
import stat

from carrier.hops.filestream import FileStream


class PipeStream(FileStream):
    """Reads until nothing is left: who has written and gone before the pipe was opened is reported by read(2) and not by epoll."""

    __slots__ = ()

    def _readable(self) -> None:
        before = self.bytes_in
        super()._readable()
        if self.bytes_in != before and not self.paused and not self.closed:
            self.loop.call_soon(self._again)

    def _again(self) -> None:
        if not self.paused and not self.closed:
            self._readable()


def make_pipe(name: str) -> bool:
    """Make a named pipe unless there is one; was it made? Raises OSError."""
    try:
        os.mkfifo(name, 0o600)
    except FileExistsError:
        return False
    return True


def open_pipe(name: str, flags: int) -> int:
    """A non-blocking descriptor of a named pipe. Raises OSError, ValueError."""
    fd = os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError("it is no named pipe")
    return fd
