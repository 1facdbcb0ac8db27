"""Files that a configuration names: whatever is at the name, nobody waits, and nobody is given more than was agreed."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from carrier import files


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a named pipe": (lambda path: os.mkfifo(path), "it is a named pipe"),
    "a folder": (lambda path: path.mkdir(), "it is a directory"),
    "a socket": (_socket, "it is a socket"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
    "a terminal": (lambda path: path.symlink_to("/dev/tty"), "it is a device"),
    "nothing": (lambda path: None, "No such file"),
    "a link in a circle": (lambda path: path.symlink_to(path), "symbolic links"),
    "more than fits": (lambda path: path.write_bytes(b"x" * 11), "11 bytes, more than 10"),
    "much more": (lambda path: path.open("wb").truncate(1 << 40), "more than 10"),
    "a file without a size": (lambda path: path.symlink_to("/proc/self/environ"), "more than 10"),
}


@pytest.mark.parametrize("what", ODD)
def test_what_is_no_small_regular_file_is_refused_at_once_with_the_reason(what: str, tmp_path: Path) -> None:
    make, said = ODD[what]
    make(tmp_path / "x")
    began = time.monotonic()
    with pytest.raises(files.Unreadable, match=said):
        files.read(str(tmp_path / "x"), 10)
    assert time.monotonic() - began < 1


def test_a_name_with_a_zero_byte_is_a_refusal_too() -> None:
    with pytest.raises(files.Unreadable, match=r"null (byte|character)"):
        files.read("a\0b")


def test_a_file_is_read_through_links_to_its_last_byte_that_fits(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("x")
    assert files.read(str(tmp_path / "link"), 10) == b"0123456789"


async def test_what_is_held_is_held_in_this_task_only(tmp_path: Path) -> None:
    path, gone = str(tmp_path / "x"), str(tmp_path / "gone")
    Path(path).write_bytes(b"new")

    async def another() -> bytes:
        return files.read(path)

    beside = asyncio.ensure_future(another())
    with files.held({path: b"old", gone: "No such file"}):
        assert files.read(path) == b"old"
        assert await beside == b"new"
        with pytest.raises(files.Unreadable, match="No such file"):
            files.read(gone)
    assert files.read(path) == b"new"


def test_many_are_read_at_once_and_each_failure_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    found = files.read_all([str(tmp_path / name) for name in ("x", "pipe")])
    assert list(found.values()) == [b"x", "it is a named pipe, no regular file"]


def test_bytes_in_memory_have_a_name_while_they_are_needed() -> None:
    with files.in_memory(b"secret") as name:
        assert Path(name).read_bytes() == b"secret"
    assert not Path(name).exists()
