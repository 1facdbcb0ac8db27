"""Writes lines to a file from a thread that is there while there is something to write: the event loop never waits for a disk."""

from __future__ import annotations

import _thread
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from carrier.errors import ConfigError, Problem

MAX_WAITING = 8 << 20
"""Bytes that may wait for the writer."""


class Writer:
    """Writes batches to a file descriptor in a thread of its own. `put` never blocks; it is the loop's side, `_run` the thread's.

    The thread is there only while there is something to write: while a process has a second one, each system call takes and returns its
    descriptor with atomic operations, which costs more than starting a thread for thousands of lines. put_in, done: bytes that were handed
    over, and that were dealt with; each is written by one side only. failed: what the system said when a batch could not be written.
    """

    def __init__(self, path: str, sink: Callable[[bytes], object] | None = None) -> None:
        """sink: what batches are given to, in the thread, instead of a file."""
        self.path = path
        self.sink = sink
        self.descriptor = _open(path) if sink is None else -1
        self.jobs: deque[Callable[[], None]] = deque()
        self.put_in = self.done = 0
        self.written = self.lost = 0
        """Lines."""
        self.failed = ""
        self.state = threading.Condition()
        """Holds `runs` and who starts or ends the thread together."""
        self.runs = False

    def put(self, batch: bytes, lines: int) -> bool:
        """Hand a batch over; False when too much waits already: then it is not taken."""
        if self.put_in - self.done + len(batch) > MAX_WAITING:
            return False
        self.put_in += len(batch)
        self._add(partial(self._write, batch, lines))
        return True

    def reopen(self) -> None:
        """Go on in a new file of the same name, after what was put until now."""
        self._add(self._reopen)

    def close(self, timeout: float = 2.0) -> None:
        """Write what is left, for `timeout` seconds at most: after that, the thread is left to itself."""
        self._start()
        with self.state:
            if self.state.wait_for(lambda: not self.runs, timeout):
                self._close()

    def _add(self, job: Callable[[], None]) -> None:
        self.jobs.append(job)
        self._start()

    def _start(self) -> None:
        """Have a thread, if there is something to write. One that cannot be had now may be when the next batch comes."""
        with self.state:
            if self.jobs and not self.runs:
                try:
                    _thread.start_new_thread(self._run, ())
                    self.runs = True
                except RuntimeError as exc:
                    self.failed = str(exc)

    def _run(self) -> None:
        try:
            while job := self._next():
                job()
        except BaseException:
            self._ends()  # whatever it was, the next job has another thread
            raise

    def _next(self) -> Callable[[], None] | None:
        """What is to be done; None: nothing, and the thread ends."""
        with self.state:
            if self.jobs:
                return self.jobs.popleft()
            self._ends()
            return None

    def _ends(self) -> None:
        with self.state:
            self.runs = False
            self.state.notify_all()

    def _write(self, batch: bytes, lines: int) -> None:
        rest = memoryview(batch if self.sink is None else b"")
        try:
            if self.sink is not None:
                self.sink(batch)
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
            self.written += lines
        except OSError as exc:  # no room, or the reader is gone: these lines are lost, the next may not be
            self.failed = exc.strerror or str(exc)
            self.lost += lines
        self.done += len(batch)

    def _reopen(self) -> None:
        try:
            new = _open(self.path)
        except ConfigError as error:  # the old file is better than none
            self.failed = error.detail
            return
        self._close()
        self.descriptor = new

    def _close(self) -> None:
        if self.descriptor > 2:
            os.close(self.descriptor)


def _open(path: str) -> int:
    if path in ("stdout", "-", "/dev/stdout"):
        return sys.stdout.fileno()
    if path in ("stderr", "/dev/stderr"):
        return sys.stderr.fileno()
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as exc:
        text = f"cannot write the access log {path!r}: {exc.strerror or exc}"
        raise ConfigError(
            Problem(text, "$.admin.access_log", seen=repr(path), allowed="stdout, stderr or a file that can be written")
        ) from None
