"""The demo: its claims hold, it says so, it can tell when they do not, and it leaves nothing running."""

import asyncio
import io
import re
import signal
import subprocess
import sys

import pytest

from carrier.cli import demo
from carrier.cli.demo_peers import HOST
from carrier.cli.demo_stage import free_ports

COMMAND = [sys.executable, "-m", "carrier", "demo"]


@pytest.fixture(scope="module")
def once():
    """`carrier demo --once`, run once for all tests."""
    return subprocess.run([*COMMAND, "--once"], capture_output=True, text=True, timeout=50)


def test_every_claim_holds(once):
    assert once.returncode == 0, once.stdout + once.stderr
    assert once.stderr == ""
    held, told = map(int, re.search(r"(\d+) of (\d+) claims held", once.stdout).groups())
    assert held == told >= 16


@pytest.mark.parametrize(
    "words",
    [
        r"GET /  +→ shadow +everybody-web",
        r"x-user: john +→ john's laptop +bridge/john: header x-user is \"john\"",
        r"GET /cart/7  x-user: jane +→ jane's laptop +bridge/jane",
        r"jane's rule +→ 409, refused",
        r"bridge 'jane' of user jane has the same rule",
        r"laptop is down.*→ shadow, x-carrier-fallback: refused",
        r"2,000 requests .*→ 0 lost",
        r"TCP, .*→ shadow, echoed",
        r"UDP, .*→ shadow, echoed",
        r"WebSocket, .*→ 101, john's laptop",
        r"john's GET / in HTTP/2 +→ john's laptop, in HTTP/1.1 +bridge/john: header x-user",
        r"gRPC /demo.Cart/Get.*→ john's laptop, shadow +bridge/john-grpc",
    ],
)
def test_the_story_tells(once, words):
    assert re.search(words, once.stdout), once.stdout


def test_a_pipe_gets_no_colours(once):
    assert "\x1b" not in once.stdout


def test_it_stays_below_45_mebibytes(once):
    assert float(re.search(r"([\d.]+) MiB resident", once.stdout)[1]) < 45


def test_without_once_traffic_goes_on_until_a_signal_and_the_lines_to_try_work():
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True)
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if " status --admin " in line:
                break
        text = "".join(lines)
        tries = re.findall(r"^  ((?:.*\\\n)?.*)$", text.partition("in another terminal:\n\n")[2], re.M)
        answers = [subprocess.run(line, shell=True, capture_output=True, text=True, timeout=10).stdout for line in tries]
        assert [answer.partition(":")[0] for answer in answers[:2]] == ["shadow", "john's laptop"]
        assert '"bridge/john"' in answers[2]
        assert '"state": "in force"' in answers[3]
        assert answers[4].startswith("jane's laptop: GET /")
        assert '"OK"' in answers[5]
        assert "→ bridge/jane: takes it" in answers[7]
        assert ", ready, revision " in answers[8]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


class Broken(demo.Story):
    """A story whose promises are false, in two ways."""

    async def nobody_has_a_bridge(self):
        return await self._get("GET /", "/", {}, "john's laptop", "everybody-web")

    async def tcp(self):
        raise ConnectionResetError("it broke")


async def test_a_claim_that_does_not_hold_is_told():
    stage, out = demo.Stage(), io.StringIO()
    await stage.set_up()
    try:
        story = Broken(stage, demo.Page(out))
        await story.tell()
    finally:
        await stage.tear_down()
    assert story.held.count(False) == 2
    assert not story.held[0]
    assert "ConnectionResetError: it broke" in out.getvalue()
    assert "NO GET /" in out.getvalue()


async def test_nothing_is_left_running():
    stage = demo.Stage()
    await stage.set_up()
    ports = [stage.web, stage.tcp, stage.api, stage.shadow.port, stage.john.port, stage.jane.port]
    await stage.tear_down()
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(HOST, port)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_free_ports_are_different_and_free():
    ports = free_ports(20)
    assert len(set(ports)) == 20
