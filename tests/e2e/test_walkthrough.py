"""The walk-through of l7mp's README, played as it is written there: what is typed into socat arrives at a WebSocket.

A carrier in a process of its own, set up over REST with YAML bodies; a sender bound to the port that the listener asks for, a receiver
made with the library websockets; the Logger's standard output; the end of the session by a DELETE. Only the ports differ.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.ports import free_port
from tests.soak.process import exchange, request
from tests.support import PATIENCE, wait_until

pytestmark = pytest.mark.skipif(shutil.which("socat") is None, reason="socat is not here")

CLUSTER = """
cluster:
  name: ws-cluster
  spec: {{ protocol: "WebSocket", port: {ws} }}
  endpoints:
    - spec: {{ address:  "127.0.0.1" }}
"""
LISTENER = """
listener:
  name: udp-listener
  spec: {{ protocol: UDP, port: {udp}, connect: {{port: {source}}} }}
  rules:
    - action:
        route:
          destination: ws-cluster
          ingress:
            - spec: {{ protocol: Logger }}
          retry: {{retry_on: always, num_retries: 3, timeout: 2000}}
"""
CONFIG = """
listeners:
  - name: controller-listener
    spec: {{ protocol: HTTP, port: {api} }}
    rules:
      - action: {{ route: {{ destination: {{ name: l7mp-controller, spec: {{ protocol: L7mpController }} }} }} }}
"""


class Receiver:
    """A WebSocket server on loopback that keeps its connections and what they say."""

    def __init__(self) -> None:
        self.peers: list[ServerConnection] = []
        self.heard: list[str | bytes] = []

    async def __call__(self, ws: ServerConnection) -> None:
        self.peers.append(ws)
        with contextlib.suppress(ConnectionClosed):
            async for message in ws:
                self.heard.append(message)


class Walk:
    """The carrier and its surroundings."""

    def __init__(self, folder: Path) -> None:
        self.api, self.ws = free_port(), free_port()
        self.udp, self.source, self.stranger = (free_port(socket.SOCK_DGRAM) for _ in range(3))
        self.receiver = Receiver()
        self.printed = folder / "stdout"
        file = folder / "l7mp-minimal.yaml"
        file.write_text(CONFIG.format(api=self.api))
        self.command = [sys.executable, "-m", "carrier", "run", "-c", str(file)]

    def call(self, method: str, path: str, body: str = "") -> tuple[int, Any]:
        """A REST call; the body is YAML."""
        with socket.create_connection(("127.0.0.1", self.api), PATIENCE) as sock:
            return exchange(sock, request(method, f"/api/v1/{path}", body.encode(), content_type="text/x-yaml"))

    def post(self, kind: str, template: str) -> None:
        status, answer = self.call("POST", kind, template.format(ws=self.ws, udp=self.udp, source=self.source))
        assert (status, answer) == (200, {"status": 200, "message": "OK"})

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.call("GET", "admin")[0] == 200
        return False

    def sessions(self) -> list[str]:
        return [session["name"] for session in self.call("GET", "sessions")[1] if session["name"].startswith("UDP:")]

    @contextlib.asynccontextmanager
    async def sender(self, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
        """socat, bound to `port`."""
        pipe = asyncio.subprocess.PIPE
        words = ["socat", "-", f"udp4:localhost:{self.udp},sourceport={port}"]
        process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def walk(folder: Path) -> AsyncIterator[Walk]:
    found = Walk(folder)
    with found.printed.open("wb") as out:
        process = subprocess.Popen(found.command, stdout=out, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    try:
        await wait_until(found.answers, "for the carrier")
        async with serve(found.receiver, "127.0.0.1", found.ws, close_timeout=0.2):
            yield found
    finally:
        process.kill()
        process.wait()


def typed(process: asyncio.subprocess.Process, line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line)


async def test_what_is_typed_into_socat_arrives_at_a_websocket_until_the_session_is_deleted(tmp_path: Path) -> None:
    async with walk(tmp_path) as here:
        here.post("clusters", CLUSTER)
        here.post("listeners", LISTENER)
        receiver = here.receiver
        async with here.sender(here.source) as sender:
            for line in (b"hello\n", b"a second line\n"):
                typed(sender, line)
                await wait_until(lambda: receiver.heard and receiver.heard[-1] == line, f"for {line!r}")  # noqa: B023 (awaited here)
            assert receiver.heard == [b"hello\n", b"a second line\n"]

            await receiver.peers[0].send(b"and back\n")
            assert sender.stdout is not None
            assert await asyncio.wait_for(sender.stdout.readline(), PATIENCE) == b"and back\n"
            said = b"hello\na second line\n"  # the Logger, which writes when it has time, stands in the ingress direction only
            await wait_until(lambda: here.printed.read_bytes() == said, "for what the Logger says")

            (name,) = here.sessions()
            assert name == f"UDP:127.0.0.1:{here.source}-0.0.0.0:{here.udp}-0"
            assert here.call("DELETE", f"sessions/{quote(name)}") == (200, {"status": 200, "message": "OK"})
            await asyncio.wait_for(receiver.peers[0].wait_closed(), PATIENCE)
            assert here.sessions() == []

            typed(sender, b"anew\n")
            await wait_until(lambda: len(receiver.heard) == 3, "for a session of its own")
            assert receiver.heard[2] == b"anew\n" and len(receiver.peers) == 2
            assert here.sessions() == [f"UDP:127.0.0.1:{here.source}-0.0.0.0:{here.udp}-1"]


async def test_a_sender_from_another_port_is_not_heard(tmp_path: Path) -> None:
    async with walk(tmp_path) as here:
        here.post("clusters", CLUSTER)
        here.post("listeners", LISTENER)
        async with here.sender(here.stranger) as stranger, here.sender(here.source) as sender:
            typed(stranger, b"let me in\n")
            await asyncio.sleep(0.05)
            typed(sender, b"hello\n")
            await wait_until(lambda: here.receiver.heard, "for the right one")
            assert here.receiver.heard == [b"hello\n"] and len(here.sessions()) == 1


async def test_a_deleted_listener_hears_nobody_new(tmp_path: Path) -> None:
    async with walk(tmp_path) as here:
        here.post("clusters", CLUSTER)
        here.post("listeners", LISTENER)
        async with here.sender(here.source) as sender:
            typed(sender, b"hello\n")
            await wait_until(lambda: here.receiver.heard, "for the first line")
            assert here.call("DELETE", "listeners/udp-listener?recursive=true")[0] == 200
            await asyncio.wait_for(here.receiver.peers[0].wait_closed(), PATIENCE)
            typed(sender, b"again\n")
            status, answer = here.call("DELETE", "listeners/udp-listener")
            assert status == 400 and answer["content"] == 'Cannot delete listener: Unknown listener "udp-listener"'
            assert here.sessions() == [] and here.receiver.heard == [b"hello\n"]
            assert here.call("DELETE", "clusters/ws-cluster")[0] == 200
