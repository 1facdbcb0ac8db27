"""Stdio listener: standard input and output as one session, as pipes, files and a whole process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from listeners.stdio import StdioListener
from tests.ports import free_port
from tests.support import PATIENCE, cluster, config, echo, running, saying, tcp_server, wait_until

STDIO = {"name": "in", "spec": {"protocol": "Stdio"}, "rules": [{"action": {"route": {"destination": "echo"}}}]}


@pytest.fixture
def pipes(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """What stands for the terminal: a descriptor to type on, and one to read what is shown."""
    stdin, typing = os.pipe()
    shown, stdout = os.pipe()
    monkeypatch.setattr(StdioListener, "descriptors", (stdin, stdout))
    yield typing, shown
    for fd in (stdin, typing, shown, stdout):
        try:
            os.close(fd)
        except OSError:
            pass  # the test has closed it


async def test_what_is_typed_comes_back(pipes: tuple[int, int]) -> None:
    typing, shown = pipes
    async with running(config(clusters=[echo()], listeners=[STDIO])) as proxy:
        for text in (b"hello\n", b"world\n"):
            os.write(typing, text)
            assert await asyncio.to_thread(os.read, shown, 100) == text
        (session,) = proxy.sessions()
        assert session.name == "STDIO:in-0"
        os.close(typing)
        await wait_until(lambda: not list(proxy.sessions()), "for the end of input to end the session")
    assert all(map(os.get_blocking, StdioListener.descriptors))


async def test_a_reader_that_is_slow_pauses_and_never_blocks_the_loop(pipes: tuple[int, int]) -> None:
    _, shown = pipes
    data = os.urandom(1000) * 2000
    async with tcp_server(saying(data)) as upstream:
        listening = {**STDIO, "rules": [{"action": {"route": {"destination": "up"}}}]}
        async with running(config(clusters=[cluster("up", upstream.port)], listeners=[listening])) as proxy:
            (session,) = proxy.sessions()
            await wait_until(lambda: session.source.full, "for standard output to be full")  # type: ignore[attr-defined]
            got = b""
            while len(got) < len(data):
                got += await asyncio.to_thread(os.read, shown, 1 << 16)
            assert got == data


async def test_regular_files_are_read_to_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").write_bytes(b"line\n" * 100_000)
    with open(tmp_path / "in", "rb") as stdin, open(tmp_path / "out", "wb") as stdout:
        monkeypatch.setattr(StdioListener, "descriptors", (stdin.fileno(), stdout.fileno()))
        async with running(config(clusters=[echo()], listeners=[STDIO])) as proxy:
            await wait_until(lambda: not list(proxy.sessions()), "for the end of the file")
    assert (tmp_path / "out").read_bytes() == b"line\n" * 100_000


def test_a_whole_process_is_a_filter(tmp_path: Path) -> None:
    file = tmp_path / "pipe.yaml"
    file.write_text(
        "listeners: [{name: in, spec: {protocol: Stdio}, rules: [{action: {route: {destination: up}}}]}]\n"
        "clusters: [{name: up, spec: {protocol: STDIO-fork, command: [tr, a-z, A-Z]}}]\n"
    )
    command = [sys.executable, "-m", "carrier", "run", "-c", str(file), "--admin", f"127.0.0.1:{free_port()}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(b"hello\n")
            process.stdin.close()
            assert process.stdout.read(6) == b"HELLO\n"
        finally:
            process.terminate()
            process.wait(PATIENCE)
