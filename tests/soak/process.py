"""A carrier in a process of its own, its API over the unix socket, and the load that a soak puts on it.

The scripts of this folder are the heavy runs; each has a bounded form in tests/soak/test_soaks.py, which calls the same function with
a small number. `python -m tests.soak.NAME [NUMBER]` prints what was measured and exits 1 when a claim does not hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import tests.forked

PATIENCE = 20.0
"""Seconds for a process to start or to end."""


class Carrier:
    """`carrier run` with a configuration; `arguments` are added to the command line. Its files are in `folder`."""

    def __init__(self, folder: Path, config: dict[str, Any], *arguments: str) -> None:
        self.folder = folder
        self.file = folder / "carrier.json"
        self.file.write_text(json.dumps(config))
        self.socket = str(folder / "api.sock")
        self.arguments = ["--admin", "off", "--admin-socket", self.socket, *arguments]
        self.log = folder / "carrier.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.cgroup: Path | None = None
        """What it is to run in."""
        self.popen: type[subprocess.Popen[Any]] = subprocess.Popen

    def start(self) -> None:
        """Start and wait until it is ready. Raises AssertionError with its log when it does not."""
        command = [sys.executable, "-m", "carrier", "run", "-c", str(self.file), *self.arguments]
        if self.cgroup is not None:
            command = ["sh", "-c", f'echo $$ >"{self.cgroup}/cgroup.procs" && exec "$@"', "sh", *command]
        with self.log.open("ab") as log:
            self.process = self.popen(command, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(OSError):
                if self.call("GET", "/readyz")[0] == 200:
                    return
            time.sleep(0.01)
        raise AssertionError(self.log.read_text())

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One call of the API on a connection of its own. Raises OSError when nobody answers, or not to the end."""
        return call(self.socket, method, path, body)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit status."""
        assert self.process is not None
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """kill -9, if it lives."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def call(path_of_socket: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One call of the API at a unix socket: status and decoded body. Raises OSError."""
    encoded = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(path_of_socket)
        return exchange(sock, request(method, path, encoded))


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """A request that asks for the connection to be closed."""
    fields = {"host": "localhost", "connection": "close"} | {k.replace("_", "-"): v for k, v in headers.items()}
    if body:
        fields |= {"content-type": fields.get("content-type", "application/json"), "content-length": str(len(body))}
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def exchange(sock: socket.socket, data: bytes) -> tuple[int, Any]:
    """Send, read to the end; status and decoded body. Raises OSError when the answer is not whole."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent: the answer is there
        sock.sendall(data)
    answer = b""
    while chunk := sock.recv(65536):
        answer += chunk
    head, end, rest = answer.partition(b"\r\n\r\n")
    if not end:
        raise ConnectionError("the answer is not whole")
    return int(head.split()[1]), json.loads(rest) if rest else None


@contextlib.contextmanager
def carrier(
    config: dict[str, Any], *arguments: str, cgroup: Path | None = None, popen: type[subprocess.Popen[Any]] = subprocess.Popen
) -> Iterator[Carrier]:
    """A carrier that runs, in a folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="carrier-soak-") as folder:
        found = Carrier(Path(folder), config, *arguments)
        found.cgroup, found.popen = cgroup, popen
        try:
            found.start()
            yield found
        finally:
            found.kill()


forked = functools.partial(carrier, popen=tests.forked.Popen)
"""The same without the start of an interpreter, for tests of what it does and not of what it takes."""


# -- an upstream and its clients --------------------------------------------------------------------------------------------------------


class Upstream(asyncio.Protocol):
    """Answers each GET with its name after `delay` seconds; echoes after an Upgrade."""

    def __init__(self, name: bytes, delay: float) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name)
        self.delay = delay
        self.upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        write = self.transport.write  # type: ignore[attr-defined]
        if self.upgraded:
            write(data)
        elif b"\r\nUpgrade:" in data or b"\r\nupgrade:" in data:
            self.upgraded = True
            write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        else:
            asyncio.get_running_loop().call_later(self.delay, write, self.answer)


@contextlib.asynccontextmanager
async def upstream(name: bytes, delay: float) -> AsyncIterator[int]:
    """An upstream on loopback; its port."""
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(name, delay), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class Client(asyncio.Protocol):
    """A keep-alive connection with one request at a time: `await ask()` gives status, body and seconds."""

    def __init__(self, head: bytes) -> None:
        self.head = head
        self.waiting: asyncio.Future[tuple[int, bytes]] | None = None
        self.buffer = b""
        self.closed = False

    @classmethod
    async def to(cls, port: int, **headers: str) -> Client:
        fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        head = f"GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode()
        _, client = await asyncio.get_running_loop().create_connection(lambda: cls(head), "127.0.0.1", port)
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length:")[2].split()[0]) if end else -1
        if end and len(body) >= size and self.waiting is not None:
            self.buffer = b""
            self.waiting.set_result((int(head.split()[1]), body))
            self.waiting = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.waiting is not None:
            self.waiting.set_exception(exc or ConnectionError("closed without an answer"))

    async def ask(self) -> tuple[int, bytes, float]:
        began = time.perf_counter()
        self.waiting = asyncio.get_running_loop().create_future()
        self.transport.write(self.head)  # type: ignore[attr-defined]
        status, body = await asyncio.wait_for(self.waiting, PATIENCE)
        return status, body, time.perf_counter() - began

    def close(self) -> None:
        self.transport.close()


class Load:
    """Keep-alive clients that ask again and again and want one answer. failures: what else they got; seconds: of each request."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.seconds: list[float] = []
        self.stop = False

    async def client(self, port: int, wanted: bytes, **headers: str) -> None:
        client = await Client.to(port, **headers)
        while not self.stop:
            try:
                status, body, seconds = await client.ask()
            except (OSError, TimeoutError) as exc:
                self.failures.append(repr(exc))
                client = await Client.to(port, **headers)
                continue
            self.seconds.append(seconds)
            if (status, body) != (200, wanted):
                self.failures.append(f"{status} {body[:80]!r}, wanted {wanted!r}")
        client.close()

    def percentile(self, part: float) -> float:
        """Milliseconds."""
        return sorted(self.seconds)[int(len(self.seconds) * part)] * 1000


def report(name: str, figures: dict[str, Any], failures: list[str]) -> int:
    """Print what was measured; the exit status."""
    print(json.dumps({"soak": name, **figures, "failures": failures[:10]}, indent=2))
    return 1 if failures else 0


def number(default: int) -> int:
    return int(sys.argv[1]) if len(sys.argv) > 1 else default
