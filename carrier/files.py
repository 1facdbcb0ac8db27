"""Files that a configuration names, opened in one way: no such file ever holds the process up, whatever is at its name.

What is opened must be a regular file: a named pipe waits for its other end, a device does what opening it does, a terminal asks. It is
looked at first, opened without waiting, looked at again, and read up to a limit in bytes. Who must not wait for a slow disk reads in a
thread: `held` hands over what was read so to whoever asks for the same files a moment later.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar

MOST = 4 * 1024 * 1024
"""Bytes of a certificate, a key or a CA file: those of all public authorities together are a quarter of a megabyte."""
KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
Stamp = tuple[int, int, int, int]
"""What changes when a file does: device, inode, time of change in nanoseconds, size."""
Content = bytes | str
"""What is in a file, or why it could not be read."""
_HELD: ContextVar[Mapping[str, Content]] = ContextVar("held")


class Unreadable(Exception):
    """A file cannot be read; the text says why, without its name."""


def read(path: str, most: int = MOST) -> bytes:
    """The bytes of a regular file of at most `most` bytes; those that are held at the moment, if they are. Raises Unreadable."""
    held = _HELD.get({}).get(path)
    if isinstance(held, str):
        raise Unreadable(held)
    if held is not None and len(held) <= most:
        return held
    return read_now(path, most)[0]


def read_now(path: str, most: int = MOST, alone: bool = False, ours: bool = False) -> tuple[bytes, Stamp]:
    """Bytes and stamp of a regular file. alone: one that only its owner may read, if it is ours, and not everybody in any case, as ssh has
    it of keys. ours: one of our own user or of root, where others may write into its folder. Raises Unreadable."""
    try:
        _check(os.stat(path))
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as exc:
        raise Unreadable(getattr(exc, "strerror", None) or str(exc)) from None
    try:
        found = os.fstat(descriptor)
        _check(found)
        if alone and found.st_mode & (0o077 if found.st_uid == os.geteuid() else 0o007):
            raise Unreadable(f"others may read it (mode {stat.S_IMODE(found.st_mode):04o}): chmod 600")
        if ours and found.st_uid not in (os.geteuid(), 0) and is_shared(path):
            raise Unreadable(f"user {found.st_uid} has put it there, neither ours nor root")
        return _bytes(descriptor, found.st_size, most), stamp_of(found)
    except OSError as exc:
        raise Unreadable(exc.strerror or str(exc)) from None
    finally:
        os.close(descriptor)


def _check(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for test, name in KINDS if test(found.st_mode)), "something else")
        raise Unreadable(f"it is {kind}, no regular file")


def _bytes(descriptor: int, size: int, most: int) -> bytes:
    parts, left = [], most + 1
    if size > most:
        raise Unreadable(f"it has {size} bytes, more than {most}")
    while left > 0 and (part := os.read(descriptor, min(left, 1 << 20))):  # those of /proc say that they have none
        parts.append(part)
        left -= len(part)
    if left <= 0:
        raise Unreadable(f"it has more than {most} bytes")
    return b"".join(parts)


def is_shared(path: str) -> bool:
    """May others put files into the folder of this one? Not its owner: who has the folder has what is in it."""
    try:
        return bool(os.stat(os.path.dirname(path) or ".").st_mode & 0o022)
    except OSError:
        return True


def stamp_of(found: os.stat_result) -> Stamp:
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def stamp(path: str) -> Stamp:
    """Of a file, through links; zeros: it is not there."""
    try:
        return stamp_of(os.stat(path))
    except (OSError, ValueError):
        return 0, 0, 0, 0


def read_all(paths: Iterable[str], most: int = MOST) -> dict[str, Content]:
    """What is in each of these files, or why that cannot be told; for a thread."""
    found: dict[str, Content] = {}
    for path in paths:
        try:
            found[path] = read_now(path, most)[0]
        except Unreadable as exc:
            found[path] = str(exc)
    return found


@contextlib.contextmanager
def held(contents: dict[str, Content]) -> Iterator[None]:
    """Within this block (and this task) these files are what was read of them. Tasks and timers that begin in it have the same context for
    ever: so nothing is in it afterwards."""
    token = _HELD.set(contents)
    try:
        yield
    finally:
        contents.clear()
        _HELD.reset(token)


@contextlib.contextmanager
def in_memory(data: bytes) -> Iterator[str]:
    """A name under which OpenSSL, which takes keys from files only, finds these bytes; no disk ever has them."""
    descriptor = os.memfd_create("carrier", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
