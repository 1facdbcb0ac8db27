"""Writes without ever waiting: what a pipe, a terminal or a disk does not take at once is written by a thread, up to a bound; what is
beyond it is dropped and counted. The access log, Logger and the process's own log all write through this.

The thread is there only while there is something to write: while a process has a second one, each system call takes and returns its
descriptor with atomic operations, which costs more than starting a thread for thousands of lines.
"""

from __future__ import annotations

import _thread
import errno
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

MAX_WAITING = 8 << 20
"""Bytes that may wait for the thread."""
WAITING = 1 << 20
"""The same of the process's own log."""
PIECE = 4096
"""Bytes that a pipe takes whole if it takes any (pipe(7), PIPE_BUF)."""
PATIENCE = 0.5
"""Seconds between two looks whether anybody still wants what waits for a reader."""
APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
STANDARD = {"stdout": 1, "-": 1, "/dev/stdout": 1, "stderr": 2, "/dev/stderr": 2}


def opened(path: str, flags: int = APPEND, mode: int = 0o640) -> int:
    """A descriptor to write to, which never waits if the kernel can do that; -1: a named pipe that nobody reads at the moment. Standard
    output and error by their names. Raises OSError, ValueError."""
    if path in STANDARD:
        return patient(STANDARD[path])
    try:
        return os.open(path, flags, mode)
    except OSError as exc:
        if exc.errno == errno.ENXIO and stat.S_ISFIFO(os.stat(path).st_mode):
            return -1
        raise


def patient(descriptor: int) -> int:
    """The same pipe or terminal by a descriptor of our own that does not wait: whoever else has the given one must not notice. Of
    anything else, and where the kernel gives none, the given one."""
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
            return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        pass
    return descriptor


class Writer:
    """One place to write to. open: gives a descriptor, or -1 where there is no reader yet. `put` and `write` never block and are the loop's
    side, `_run` is the thread's.

    put_in, done: bytes that were handed over, and that were dealt with; each is written by one side only. trouble: why the last of them
    could not be written, "" when it could. Raises what `open` raises.
    """

    def __init__(
        self, open: Callable[[], int] = lambda: -1, most: int = MAX_WAITING, sink: Callable[[bytes], object] | None = None
    ) -> None:
        """sink: what batches are given to, in the thread, instead of a descriptor."""
        self.open = open
        self.sink = sink
        self.most = most
        self.descriptor = open()
        self.jobs: deque[Callable[[], None]] = deque()
        self.put_in = self.done = 0
        self.written = self.lost = self.refused = 0
        """Lines: written; that could not be; that found no room."""
        self.trouble = "" if self.descriptor >= 0 or sink is not None else "nobody reads it"
        self.leaving = False
        """Nobody waits any more for what does not go at once."""
        self.state = threading.Condition()
        """Holds `runs` and who starts or ends the thread together."""
        self.runs = False

    @property
    def dropped(self) -> int:
        return self.lost + self.refused

    def put(self, batch: bytes, lines: int, descriptor: int | None = None) -> bool:
        """Hand a batch over; False when too much waits already: then it is not taken. descriptor: another place than this writer's."""
        if self.put_in - self.done + len(batch) > self.most:
            self.refused += lines
            self.trouble = f"more than {self.most} bytes wait to be written"
            return False
        self.put_in += len(batch)
        self.add(partial(self._write, batch, lines, descriptor))
        return True

    def write(self, data: bytes) -> None:
        """Write a line now as far as it goes without waiting; the rest, and whatever comes while something waits, goes to the thread."""
        with self.state:  # threads of ours say something, too
            self._write_now(data)

    def _write_now(self, data: bytes) -> None:
        if self.put_in == self.done and self.descriptor >= 0:
            try:
                while data and _takes(self.descriptor):
                    data = data[os.write(self.descriptor, data[:PIECE]) :]
            except BlockingIOError:
                pass
            except OSError as exc:
                self.trouble = exc.strerror or str(exc)
                self.lost += data.count(b"\n")
                return
            if not data:
                self.written += 1
                return
        self.put(data, data.count(b"\n"))

    def add(self, job: Callable[[], None]) -> None:
        """Do this in the thread, after what was put until now."""
        self.jobs.append(job)
        self._start()

    def reopen(self) -> None:
        """Go on in a new file of the same name, after what was put until now."""
        self.add(self._reopen)

    def leave(self) -> None:
        """Write what can be written without waiting, then close; nobody waits for it."""
        self.leaving = True
        self.add(self._close)

    def close(self, timeout: float = 2.0) -> None:
        """Write what is left, for `timeout` seconds at most: after that, the thread is left to itself."""
        self._start()
        with self.state:
            if self.state.wait_for(lambda: not self.runs, timeout):
                self._close()
            self.leaving = True

    def _start(self) -> None:
        """Have a thread, if there is something to write. One that cannot be had now may be when the next batch comes."""
        with self.state:
            if self.jobs and not self.runs:
                try:
                    _thread.start_new_thread(self._run, ())
                    self.runs = True
                except RuntimeError as exc:
                    self.trouble = str(exc)

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

    def _write(self, batch: bytes, lines: int, descriptor: int | None = None) -> None:
        rest = memoryview(batch if self.sink is None else b"")
        try:
            if self.sink is not None:
                self.sink(batch)
            to = -1 if self.sink is not None else self._place() if descriptor is None else descriptor
            while rest:
                try:
                    rest = rest[os.write(to, rest) :]
                except BlockingIOError:
                    self._wait(to)
            self.written += lines
            self.trouble = ""
        except (OSError, ValueError) as exc:  # no room, or the reader is gone: these lines are lost, the next may not be
            self.trouble = getattr(exc, "strerror", None) or str(exc)
            self.lost += lines
        self.done += len(batch)

    def _place(self) -> int:
        """The descriptor; a named pipe may have a reader by now. Raises OSError."""
        if self.descriptor < 0:
            self.descriptor = self.open()
        if self.descriptor < 0:
            raise OSError(errno.ENXIO, "nobody reads it")
        return self.descriptor

    def _wait(self, descriptor: int) -> None:
        """Until it takes something, for as long as somebody wants that. Raises OSError."""
        while not _takes(descriptor, 0 if self.leaving else PATIENCE):
            if self.leaving:
                raise OSError(errno.EAGAIN, "its reader does not read")
            self.trouble = "its reader does not read"

    def _reopen(self) -> None:
        try:
            new = self.open()
        except (OSError, ValueError) as exc:  # the old file is better than none
            self.trouble = getattr(exc, "strerror", None) or str(exc)
            return
        self._close()
        self.descriptor = new

    def _close(self) -> None:
        if self.descriptor > 2:
            os.close(self.descriptor)
            self.descriptor = -1


def _takes(descriptor: int, seconds: float = 0) -> bool:
    """Can it be written to, within so many seconds?"""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))


class to_descriptor:
    """Writes lines of text to an open descriptor, at once where that goes. A reader that is gone or full costs lines, nobody waits."""

    def __init__(self, descriptor: int) -> None:
        self.writer = Writer(partial(patient, descriptor), WAITING)

    def __call__(self, text: str) -> None:
        self.writer.write(text.encode("utf-8", "backslashreplace"))
