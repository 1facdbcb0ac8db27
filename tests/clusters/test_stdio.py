"""Stdio cluster: sessions are shown on standard output, and hear what is typed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from clusters.stdio import StdioCluster
from tests.support import config, listener, port_of, running, tcp, wait_until

STDIO = {"name": "out", "spec": {"protocol": "Stdio"}}


@pytest.fixture
def pipes(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """What stands for the terminal: a descriptor to type on, and one to read what is shown."""
    stdin, typing = os.pipe()
    shown, stdout = os.pipe()
    monkeypatch.setattr(StdioCluster, "descriptors", (stdin, stdout))
    yield typing, shown
    for fd in (stdin, typing, shown, stdout):
        try:
            os.close(fd)
        except OSError:
            pass  # the test has closed it


async def test_what_a_session_sends_is_shown_and_what_is_typed_goes_to_all(pipes: tuple[int, int]) -> None:
    typing, shown = pipes
    conf = config(clusters=[STDIO], listeners=[listener("in", "out")])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as one, tcp(port_of(proxy, "in")) as two:
        for client, text in ((one, b"from one\n"), (two, b"from two\n")):
            client.send(text)
            assert await asyncio.to_thread(os.read, shown, 100) == text
        os.write(typing, b"typed\n")
        assert [await one.read(6), await two.read(6)] == [b"typed\n"] * 2
        one.close()
        os.close(typing)
        assert await two.read_all() == b""


async def test_input_is_left_alone_while_nobody_is_there(pipes: tuple[int, int]) -> None:
    typing, _ = pipes
    async with running(config(clusters=[STDIO], listeners=[listener("in", "out")])) as proxy:
        found = proxy.clusters["out"]
        assert isinstance(found, StdioCluster)
        async with tcp(port_of(proxy, "in")):
            await wait_until(lambda: found.reader is not None)
            next(iter(proxy.sessions())).kill()
            assert found.reader is None and not found.seats
        os.write(typing, b"for the next")
        async with tcp(port_of(proxy, "in")) as client:
            assert await client.read(12) == b"for the next"


async def test_a_session_that_does_not_read_pauses_standard_input(pipes: tuple[int, int]) -> None:
    typing, _ = pipes
    data = os.urandom(1000) * 30_000
    async with running(config(clusters=[STDIO], listeners=[listener("in", "out")])) as proxy, tcp(port_of(proxy, "in")) as client:
        writing = asyncio.create_task(asyncio.to_thread(write_all, typing, data))
        await wait_until(lambda: list(proxy.sessions()) and next(iter(proxy.sessions())).source.full)  # type: ignore[attr-defined]
        assert await client.read(len(data)) == data
        await writing


def write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
