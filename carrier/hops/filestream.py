"""A stream of bytes over file descriptors as a hop: pipes, named pipes, terminals, files. One to read, one to write, either may be None.

As a `ByteSocket`, with descriptors in place of a socket: one read a wake-up; what cannot be written now waits, and the hop behind is
paused; the two directions end on their own, and the hop closes when both have. Descriptors that belong to others, too (standard input
and output), are left in the mode that they are in: then only so much is written, after the kernel has said that there is room, as can
never block. Regular files, which cannot be waited for, are read in turns of the event loop.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections import deque
from typing import Any

from carrier.core.stream import DESTROYED
from carrier.errors import Side, from_os
from carrier.hops.descriptor import Descriptor

READ = 64 * 1024


class FileStream(Descriptor):
    """See the module. reader, writer: descriptors; owned: close them at the end, and they are in non-blocking mode."""

    __slots__ = ("blocking", "owned", "pending", "reader", "watched", "writer")

    def __init__(self, loop: asyncio.AbstractEventLoop, reader: int | None, writer: int | None, side: Side, *, owned: bool = True) -> None:
        super().__init__(loop, side)
        self.reader = reader
        self.writer = writer
        self.owned = owned
        self.blocking = tuple(fd is not None and os.get_blocking(fd) for fd in (reader, writer))
        self.pending: deque[memoryview] = deque()
        self.watched = True
        """The reader can be waited for."""

    # ------------------------------------------------------------------ reading

    def resume(self) -> None:
        if not self.paused or self.closed or self.ended_in:
            return
        self.paused = False
        if self.reader is None:
            return
        if self.watched:
            try:
                self.loop.add_reader(self.reader, self._readable)
                self._restore(self.reader, self.blocking[0])
                return
            except OSError:  # epoll_ctl(2), EPERM: a regular file, or a device that never waits
                self.watched = False
        self.loop.call_soon(self._turn)

    def _restore(self, fd: int, blocking: bool) -> None:
        """libuv makes every descriptor that it watches non-blocking: give a borrowed one its mode back."""
        if not self.owned:
            os.set_blocking(fd, blocking)

    def pause(self) -> None:
        if not self.paused:
            self.paused = True
            if self.watched and self.reader is not None:
                self.loop.remove_reader(self.reader)

    def _turn(self) -> None:
        """Read a piece of something that cannot be waited for."""
        if not self.paused and not self.closed:
            self._readable()
            if not self.paused and not self.closed:
                self.loop.call_soon(self._turn)

    def _readable(self) -> None:
        assert self.reader is not None
        try:
            data = os.read(self.reader, READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self.broken(from_os(exc, self.side))
            return
        if not data:
            self.pause()
            self.eof()
            return
        self.bytes_in += len(data)
        self.messages_in += 1
        self.to.data(data)
        self.to.flush()

    def eof(self) -> None:
        """No more comes."""
        if self.ended_in or self.closed:
            return
        self.end_in()
        if self.ended_out and not self.pending:
            self.close()

    # ------------------------------------------------------------------ writing

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if self.closed or self.ended_out or self.writer is None:
            if last:
                self.end()
            return
        self.bytes_out += len(data)
        self.messages_out += 1
        rest = memoryview(data)
        if not self.pending and self.owned:
            try:
                rest = rest[os.write(self.writer, rest) :]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as exc:
                self._write_failed(exc)
                return
        if rest:
            self._queue(rest)
        if last:
            self.end()

    def _queue(self, rest: memoryview) -> None:
        if not self.pending:
            self._watch_writer()
        self.pending.append(rest)
        self.queued(len(rest))

    def _watch_writer(self) -> None:
        assert self.writer is not None
        try:
            self.loop.add_writer(self.writer, self._writable)
            self._restore(self.writer, self.blocking[1])
        except OSError:  # as above: it takes whatever it is given
            self.loop.call_soon(self._writable)

    def _writable(self) -> None:
        if self.closed or self.writer is None:
            return
        pending = self.pending
        try:
            while pending:
                piece = pending[0] if self.owned else pending[0][: select.PIPE_BUF]  # pipe(7): room for that much never blocks
                sent = os.write(self.writer, piece)
                self.size -= sent
                if sent < len(pending[0]):
                    pending[0] = pending[0][sent:]
                else:
                    pending.popleft()
                if not self.owned:
                    break
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as exc:
            self._write_failed(exc)
            return
        self.eased(self.back)
        if self.writer is None:
            return
        if not pending:
            self.loop.remove_writer(self.writer)
            if self.ended_out:
                self.shut()
        elif not self.owned:
            self._watch_writer()

    def _write_failed(self, exc: OSError) -> None:
        """Who read what is written has gone: what it has written may still be worth reading."""
        self.ended_out = True
        self.pending.clear()
        self.size = 0
        if self.reader is None or self.ended_in or not isinstance(exc, BrokenPipeError):
            self.broken(from_os(exc, self.side))
        else:
            self.shut()
            self.eased(self.back)

    def end(self, trailer: Any = None) -> None:
        if self.closed or self.ended_out:
            return
        self.ended_out = True
        if not self.pending:
            self.shut()

    def shut(self) -> None:
        """Everything is written: say so by closing that end."""
        session = self.session
        if self.writer is not None:
            self.loop.remove_writer(self.writer)
            if self.owned:
                os.close(self.writer)
            self.writer = None
        if self.reader is None:
            self.eof()
        if self.ended_in or session is None or session.status == DESTROYED:
            self.close()

    # ------------------------------------------------------------------ ends

    def release(self) -> None:
        """Give the descriptors back, those that are our own by closing them."""
        self.pending.clear()
        for fd in {self.reader, self.writer} - {None}:
            assert fd is not None
            self.loop.remove_reader(fd)
            self.loop.remove_writer(fd)
            if self.owned:
                os.close(fd)
        self.reader = self.writer = None
