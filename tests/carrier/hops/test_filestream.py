"""A stream over file descriptors as a hop, on pipes and files. In sessions: test_pipe.py, test_stdio.py, test_fork.py."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace

from carrier.core.stream import link
from carrier.hops.filestream import FileStream
from tests.support import Neighbour, wait_until


def hop(reader: int | None, writer: int | None, owned: bool = True) -> tuple[Neighbour, FileStream]:
    for fd in (reader, writer):
        if fd is not None and owned:
            os.set_blocking(fd, False)
    made, ear = FileStream(asyncio.get_running_loop(), reader, writer, "upstream", owned=owned), Neighbour()
    link([ear, made])
    return ear, made


class Talking:
    """As much of a session as is looked at."""

    decision = SimpleNamespace(retry=SimpleNamespace(on_disconnect=False))
    status, source, source_done = "CONNECTED", None, False

    def event(self, event: str, message: str = "", content: object = None) -> None: ...


async def test_it_reads_when_it_may_and_ends_with_the_writers() -> None:
    reader, theirs = os.pipe()
    ear, made = hop(reader, None)
    os.write(theirs, b"one")
    await asyncio.sleep(0.01)
    assert ear.heard == []
    made.resume()
    await wait_until(lambda: ear.heard == [b"one"])
    os.close(theirs)
    await wait_until(lambda: ear.heard == [b"one", "end"])
    made.close()
    made.close()


async def test_what_a_full_pipe_does_not_take_waits_and_pauses() -> None:
    theirs, writer = os.pipe()
    ear, made = hop(None, writer)
    data = os.urandom(500_000)
    made.data(data)
    made.end()
    assert ear.heard == ["pause"] and made.size > 64 * 1024
    os.set_blocking(theirs, False)
    got = b""
    while len(got) < len(data):
        try:
            got += os.read(theirs, 1 << 16)
        except BlockingIOError:
            await asyncio.sleep(0)
    assert got == data
    await wait_until(lambda: made.closed)
    assert os.read(theirs, 1) == b"" and ear.heard == ["pause", "resume", "end"]
    os.close(theirs)


async def test_a_borrowed_descriptor_keeps_its_mode_and_stays_open() -> None:
    theirs, writer = os.pipe()
    _, made = hop(None, writer, owned=False)
    data = b"x" * 300_000  # more than the pipe holds: a blocking write of that would never come back
    made.data(data)
    got = b""
    os.set_blocking(theirs, False)
    while len(got) < len(data):
        try:
            got += os.read(theirs, 1 << 16)
        except BlockingIOError:
            await asyncio.sleep(0)
    made.close()
    assert os.get_blocking(writer)
    os.write(writer, b"still open")
    for fd in (theirs, writer):
        os.close(fd)


async def test_a_regular_file_is_read_in_turns(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 200_000)
    ear, made = hop(os.open(tmp_path / "f", os.O_RDONLY), None)
    made.resume()
    await wait_until(lambda: ear.heard and ear.heard[-1] == "end")
    assert b"".join(ear.heard[:-1]) == b"x" * 200_000 and len(ear.heard) > 3
    made.close()


async def test_a_reader_that_has_gone_ends_writing_and_not_reading() -> None:
    reader, theirs = os.pipe()
    gone, writer = os.pipe()
    os.close(gone)
    ear, made = hop(reader, writer)
    made.session = Talking()  # type: ignore[assignment]
    made.data(b"x")
    assert not made.closed and made.writer is None
    made.resume()
    os.write(theirs, b"last words")
    await wait_until(lambda: ear.heard == [b"last words"])
    os.close(theirs)
    await wait_until(lambda: made.closed)
