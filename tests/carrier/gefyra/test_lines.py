"""Calls in containers through execs that are kept: real processes of `carrierctl -l`, against a real proxy's unix socket."""

import asyncio
import os
import select
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from carrier.cli import carrierctl
from carrier.gefyra import lines
from carrier.gefyra.lines import Lines
from carrier.log import Log
from carrier.model import Config
from carrier.process import serve

WHERE = ("default", "web-0", "web")


class Process:
    """A Line that is a process of carrierctl here."""

    def __init__(self, socket):
        command = [sys.executable, "-ISB", carrierctl.__file__, "-s", socket, "-l"]
        self.process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, bufsize=0)
        self.reason = ""

    def write(self, data):
        self.process.stdin.write(data)

    def read(self, patience):
        if not select.select([self.process.stdout], [], [], patience)[0]:
            return b""
        found = os.read(self.process.stdout.fileno(), 65536)
        if not found:
            self.reason = self.process.stderr.read().decode()
        return found

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.stderr.close()
        self.process.wait(10)


@pytest.fixture
async def made(tmp_path):
    """The lines, and the processes that they made, in order."""
    path = str(tmp_path / "api.sock")
    server = await serve.start(Config(), Log("error"), serve.Settings(admin=None, socket=path))
    processes = []

    def opened(namespace, pod, container):
        assert (namespace, pod, container) == WHERE
        processes.append(Process(path))
        return processes[-1]

    found = Lines(opened)
    try:
        yield found, processes
    finally:
        for process in processes:
            if process.process.poll() is None:
                process.close()
        await server.close()


async def call(found, method="GET", path="listeners", body=b""):
    return await asyncio.to_thread(found.call, WHERE, method, path, body)


async def test_calls_one_after_the_other_share_an_exec(made):
    found, processes = made
    for _ in range(5):
        assert (await call(found))[0] == 200
    status, revision, text = await call(found, "POST", "listeners", b'{"listener": 1, "x": "' + b"x" * 200_000 + b'"}')
    assert status == 400
    assert text
    status, revision, _ = await call(found, "GET", "rules")
    assert (status, revision.isdigit()) == (200, True)
    assert len(processes) == 1


async def test_calls_at_the_same_time_have_an_exec_each(made):
    found, processes = made
    gate = threading.Barrier(3)

    def one(_):
        gate.wait(10)
        return found.call(WHERE, "GET", "listeners", b"")[0]

    with ThreadPoolExecutor(3) as pool:
        assert await asyncio.to_thread(lambda: list(pool.map(one, range(3)))) == [200] * 3
    assert len(processes) <= 3
    await call(found)
    assert len(processes) <= 3


async def test_an_exec_whose_container_ended_is_made_anew_once(made):
    found, processes = made
    await call(found)
    processes[0].process.kill()
    processes[0].process.wait()
    assert (await call(found))[0] == 200
    assert len(processes) == 2


async def test_one_that_was_not_called_for_long_is_ended(made, monkeypatch):
    found, processes = made
    await call(found)
    monkeypatch.setattr(lines, "IDLE", -1.0)
    await call(found)
    assert processes[0].process.returncode == 0
    assert len(processes) == 2


async def test_nobody_behind_the_socket_is_an_answer_with_the_reason(made, tmp_path):
    found, processes = made
    process = Process(str(tmp_path / "none.sock"))
    processes.append(process)
    found.open = lambda *_: process
    status, _, text = await call(found)
    assert (status, text) == (0, b"No such file or directory")


async def test_a_call_waits_for_a_proxy_that_is_just_starting(made, tmp_path):
    """An exec is as quick as the container: it may be there before the proxy."""
    found, processes = made
    path = tmp_path / "late.sock"
    processes.append(Process(str(path)))
    found.open = lambda *_: processes[-1]
    asking = asyncio.create_task(call(found))
    await asyncio.sleep(0.3)
    server = await serve.start(Config(), Log("error"), serve.Settings(admin=None, socket=str(path)))
    try:
        assert (await asking)[0] == 200
    finally:
        await server.close()
    assert (await call(found))[2] == b"No such file or directory"  # whom it has met it does not wait for


async def test_what_is_no_call_ends_it_with_a_sentence(made):
    found, processes = made
    with pytest.raises(OSError, match="expected METHOD PATH BYTES"):
        await call(found, "GET", "a b")
    assert processes[0].process.returncode == 2


async def test_one_that_does_not_answer_is_given_up(made, monkeypatch):
    found, _ = made
    monkeypatch.setattr(lines, "TIMEOUT", 0.2)
    monkeypatch.setattr(Process, "write", lambda self, data: None)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
        await call(found)
    assert time.monotonic() - began < 5


def test_it_ends_by_itself_when_nobody_calls(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(os.path.dirname(carrierctl.__file__))!r}); import carrierctl as c; c.IDLE = 1; c.calls('x')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=-1)
    began = time.monotonic()
    assert process.wait(10) != 0
    assert time.monotonic() - began < 8
    process.stdin.close()
