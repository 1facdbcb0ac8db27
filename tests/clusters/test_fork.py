"""STDIO-fork: a command per session, its exit in the events, nothing of it left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from carrier.errors import Error
from clusters.fork import ForkCluster
from tests.sockets import is_reset
from tests.support import ask, config, http, listener, port_of, running, tcp, udp, wait_until


def fork(*command: str, **spec: Any) -> dict[str, Any]:
    return {"name": "cmd", "spec": {"protocol": "STDIO-fork", "command": list(command), **spec}}


def events(proxy: Any) -> list[Any]:
    return [event for session in proxy.sessions() for event in session.events if event[0] == "EXIT"]


def members(group: int) -> list[str]:
    """The processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, pgrp = stat.read_text().rsplit(")", 1)[1].split()[:3]
            if int(pgrp) == group and state not in "ZX":
                found.append(stat.parent.name)
    return found


async def test_the_session_is_the_commands_input_and_its_output_the_answer() -> None:
    conf = config(clusters=[fork("tr", "a-z", "A-Z")], listeners=[listener("in", "cmd", options={"track": 60})])
    async with running(conf) as proxy:
        data = b"hello " * 100_000
        assert await ask(port_of(proxy, "in"), data) == data.upper()
        await wait_until(lambda: events(proxy))
        assert events(proxy)[0][2:] == ("tr: exit status 0", 0)
        (session,) = proxy.sessions()
        assert session.status == "DESTROYED" and session.error is None


@pytest.mark.parametrize(("script", "text", "code"), [("exit 3", "sh: exit status 3", 3), ("kill -9 $$", "sh: killed by SIGKILL", -9)])
async def test_how_the_command_ended_is_in_the_events(script: str, text: str, code: int) -> None:
    conf = config(clusters=[fork("sh", "-c", f"echo out; {script}")], listeners=[listener("in", "cmd", options={"track": 60})])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        assert await client.read_all() == b"out\n"
        assert events(proxy)[0][2:] == (text, code)


@pytest.mark.parametrize("script", ["echo $$; sleep 60", "trap '' TERM; echo $$; sleep 60 & wait; sleep 60"])
async def test_the_command_and_its_children_end_with_the_session(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusters.fork.GRACE", 0.05)
    conf = config(clusters=[fork("sh", "-c", script)], listeners=[listener("in", "cmd", options={"track": 60})])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        pid = int(await client.reader.readline())
        assert members(pid)
        next(iter(proxy.sessions())).kill()
        assert await client.read_all() == b""
        await wait_until(lambda: not Path(f"/proc/{pid}").exists(), "for the command to be reaped")
        await wait_until(lambda: events(proxy))
        await wait_until(lambda: not members(pid), "for its children to end")


async def test_a_command_that_reads_nothing_can_still_be_heard() -> None:
    script = "import os, time; os.close(0); time.sleep(0.05); print('heard')"
    conf = config(clusters=[fork(sys.executable, "-c", script)], listeners=[listener("in", "cmd")])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"x" * 3_000_000)
        assert await client.read(6) == b"heard\n"


async def test_a_slow_command_pauses_the_session() -> None:
    conf = config(clusters=[fork("sh", "-c", "sleep 0.2; cat")], listeners=[listener("in", "cmd")])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        data = os.urandom(10_000) * 1000
        client.send(data)
        await wait_until(lambda: list(proxy.sessions()) and next(iter(proxy.sessions())).destination.full)  # type: ignore[attr-defined]
        assert next(iter(proxy.sessions())).destination.size < 300_000  # type: ignore[attr-defined]
        client.end()
        assert await client.read_all() == data


async def test_datagrams_become_lines_with_framing() -> None:
    script = 'while read line; do echo "<$line>"; done'
    conf = config(clusters=[fork("sh", "-c", script, framing="lines")], listeners=[listener("in", "cmd", protocol="UDP")])
    async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
        for i in range(20):
            client.send(b"m%d" % i)
        assert [await client.read() for _ in range(20)] == [b"<m%d>" % i for i in range(20)]


async def test_a_request_is_answered_by_a_command() -> None:
    conf = config(clusters=[fork("sort")], listeners=[listener("in", "cmd", protocol="HTTP")])
    async with running(conf) as proxy:
        status, _, body = await http(port_of(proxy, "in"), method="POST", body=b"b\na\n")
        assert (status, body) == (200, b"a\nb\n")


async def test_a_command_that_is_not_there_is_a_refused_upstream() -> None:
    conf = config(clusters=[fork("/no/such/command")], listeners=[listener("in", "cmd", options={"track": 60})])
    async with running(conf) as proxy:
        await is_reset(port_of(proxy, "in"))
        (session,) = proxy.sessions()
        assert session.error is not None and (session.error.kind, session.error.status) == ("refused", 503)


async def test_a_command_that_ends_is_started_again_when_the_route_says_so() -> None:
    retry = {"retry_on": "disconnect", "num_retries": 3, "timeout": 2000}
    conf = config(clusters=[fork("head", "-c", "2")], listeners=[listener("in", "cmd", retry=retry, options={"track": 60})])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        for n, text in enumerate((b"ab", b"cd", b"ef")):
            client.send(text)
            assert await client.read(2) == text
            (session,) = proxy.sessions()
            await wait_until(lambda n=n, session=session: session.retries == n + 1 and session.task is None, "for the next one")


@pytest.mark.parametrize("command", [None, "ls", [], [""], ["ls", 5]])
async def test_what_is_no_command_is_refused(command: Any) -> None:
    assert ForkCluster.check({"protocol": "STDIO-fork", "command": command})
    with pytest.raises(Error, match="needs a command"):
        async with running(config(clusters=[{"name": "c", "spec": {"protocol": "STDIO-fork", "command": command}}])):
            pass


async def test_a_child_that_keeps_the_output_open_does_not_keep_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusters.fork.GRACE", 0.2)
    conf = config(clusters=[fork("sh", "-c", "sleep 60 & echo out")], listeners=[listener("in", "cmd")])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        assert await client.read_all() == b"out\n"


def test_a_command_that_ignores_term_does_not_outlive_the_process() -> None:
    code = """
import asyncio, sys
sys.path.insert(0, ".")
import clusters.fork
clusters.fork.GRACE = 0.2
from tests.support import config, listener, port_of, running, tcp

async def main():
    command = ["sh", "-c", "trap '' TERM; echo $$; while :; do sleep 1; done"]
    cluster = {"name": "cmd", "spec": {"protocol": "STDIO-fork", "command": command}}
    async with running(config(clusters=[cluster], listeners=[listener("in", "cmd")])) as proxy, tcp(port_of(proxy, "in")) as client:
        print((await client.reader.readline()).decode().strip(), flush=True)

asyncio.run(main())
"""
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=30).stdout)
    deadline = time.monotonic() + 3
    while members(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not members(pid)


async def test_the_last_words_of_a_command_wait_for_a_client_that_is_slow_to_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusters.fork.GRACE", 0.02)
    conf = config(clusters=[fork("sh", "-c", "read x; echo last words; sleep 60 &")], listeners=[listener("in", "cmd")])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        await wait_until(lambda: list(proxy.sessions()))
        (session,) = proxy.sessions()
        session.destination.pause()  # as a client that takes nothing makes it, when megabytes wait for it
        client.send(b"\n")
        await wait_until(lambda: events(proxy))
        await asyncio.sleep(0.2)
        session.destination.resume()
        assert await client.read_all() == b"last words\n"
