"""`carrier top` and the rates of `carrier status --watch`, against a running carrier."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
import time

import pytest

from carrier.cli import top as of_top
from tests.carrier.cli.test_status import Pod, add_john, pod
from tests.ports import free_port

__all__ = ["pod"]


@pytest.fixture
def where() -> str:
    return f"127.0.0.1:{free_port()}"


async def busy(pod: Pod, over: asyncio.Event) -> None:
    while not over.is_set():
        await pod.get("/", "x-user: john")
        await pod.get("/")
        await asyncio.sleep(0.01)


async def test_who_gets_how_much_is_shown_once_as_text_and_as_json(pod: Pod) -> None:
    await add_john(pod, f"127.0.0.1:{free_port()}")
    over = asyncio.Event()
    task = asyncio.create_task(busy(pod, over))
    for interval in ("0.5", "2", "8"):  # a busy machine may serve nobody in half a second
        status, text = await pod.carrier("top", "--once", "--interval", interval)
        if "\njohn  0 " not in text:
            break
    assert status == 0 and re.search(r"requests/s, 0.0 % errors, p99 [\d.]+ m?s", text) and "in the last" in text
    assert re.search(r"^bridge/john +john +[\d.]+ +0 +0\.0 % ", text, re.M) and re.search(r"^john +[\d.]+ ", text, re.M)
    assert re.search(r"^127\.0\.0\.1:\d+ +bridge/john ", text, re.M)
    status, text = await pod.carrier("top", "--once", "--json", "--interval", interval, "--sort", "name")
    found = json.loads(text)
    assert status == 0 and [row["name"] for row in found["rules"]] == ["bridge/john", "everybody"]
    assert found["all"]["requests_per_second"] >= 0 and found["users"][0]["name"] == "john" and len(found["endpoints"]) == 2
    over.set()
    await task


async def test_status_has_rates_from_its_second_look_on(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter(range(2))

    def sleep(seconds: float) -> None:
        if next(looks, None) is None:
            raise KeyboardInterrupt
        time.sleep = real  # type: ignore[assignment]
        asyncio.run_coroutine_threadsafe(pod.get("/"), loop).result(10)
        monkeypatch.setattr(time, "sleep", sleep)

    real, loop = time.sleep, asyncio.get_running_loop()
    monkeypatch.setattr(time, "sleep", sleep)
    _, text = await pod.carrier("status", "--watch", "0.1")
    first, second, *_ = text.split("carrier 0")[1:]
    assert "a second" not in first and re.search(r"2 ever|1 ever", second) and re.search(r", [\d.<]+ new a second", second)
    heading = next(line for line in second.splitlines() if line.lstrip().startswith("#"))
    assert heading.split() == ["#", "rule", "who", "when", "to", "hits", "/s", "last", "hit"]


async def test_without_metrics_it_says_so(pod: Pod) -> None:
    pod.server.api.metrics = None
    status, text = await pod.carrier("top", "--once")
    assert status == 1 and text.startswith("carrier top: ")


async def test_on_a_terminal_keys_sort_and_q_ends(pod: Pod) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "carrier", "top", "--interval", "0.3", "--admin", pod.where],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""

    def until(words: bytes) -> None:
        nonlocal seen
        while words not in seen:
            seen += os.read(ours, 65536)

    try:
        async with asyncio.timeout(30):
            await asyncio.to_thread(until, b"by requests; keys: r e p n sort, q ends")
            os.write(ours, b"e")
            await asyncio.to_thread(until, b"by errors; keys")
            os.write(ours, b"q")
            assert await asyncio.to_thread(process.wait, 20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.parametrize(("seconds", "text"), [(None, "-"), (0.00042, "0.4 ms"), (0.25, "250 ms"), (2.5, "2.50 s")])
def test_times_are_written_short(seconds: float | None, text: str) -> None:
    assert of_top._time(seconds) == text
