"""Child processes that never outlive us: each pinned to a core, in its own process group, ended in order on every way out.

Ctrl-C reaches only the harness (the children have their own sessions), which then leaves its `with Children()` block. A child also asks the
kernel to be killed when its parent dies, for the case that the harness itself is killed.
"""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from benchmarks.measure import LOAD_CORE

PR_SET_PDEATHSIG = 1  # prctl(2)
STOP_SECONDS = 2.0  # what a child has to end after SIGTERM

_libc = ctypes.CDLL(None, use_errno=True)


class StartError(RuntimeError):
    """A child did not come up; the text holds the end of what it printed."""


class Child:
    """One running program and the file that holds what it printed."""

    def __init__(self, name: str, process: subprocess.Popen[str], log: Path):
        self.name = name
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        """The process id; its workers are its descendants."""
        return self.process.pid

    def alive(self) -> bool:
        """Whether it is still running."""
        return self.process.poll() is None

    def said(self) -> str:
        """The last 2,000 characters that it printed."""
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """Ask the whole group to end, wait, then insist."""
        for sign, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
            try:
                os.killpg(self.pid, sign)
                self.process.wait(seconds)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


class Children:
    """A block in which child processes and a scratch directory live, and with which they end."""

    def __init__(self) -> None:
        self.directory = Path()
        self.running: list[Child] = []

    def __enter__(self) -> "Children":
        self.directory = Path(tempfile.mkdtemp(prefix="carrier-bench-"))
        self.directory.chmod(0o755)  # a peer that gives up root still reads its files
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for child in reversed(self.running):
            child.stop()
        self.running.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, name: str, command: Sequence[str], core: int, env: Mapping[str, str] | None = None, pipe: bool = False) -> Child:
        """Start `command` on `core`; with `pipe` its stdin and stdout are ours, otherwise what it prints goes to its log file."""
        log = self.directory / f"{name}-{len(self.running)}.log"
        with log.open("w") as file:
            out: IO[str] | int = subprocess.PIPE if pipe else file
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
                stdout=out,
                stderr=file,
                text=True,
                env={**os.environ, **(env or {})},
                preexec_fn=_settle(core),
                start_new_session=True,
            )
        child = Child(name, process, log)
        self.running.append(child)
        return child

    def stop(self, child: Child) -> None:
        """End one child before the block ends."""
        child.stop()
        self.running.remove(child)


def _settle(core: int) -> Callable[[], None]:
    """What a child does between fork and exec: take its core, and die with its parent."""

    def settle() -> None:
        os.sched_setaffinity(0, {core})
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return settle


def start_backend(children: Children, names: Sequence[str]) -> dict[str, int]:
    """The servers of backend.py, HTTP ones with these names; their ports by name."""
    child = children.start("backend", [sys.executable, "-m", "benchmarks.backend", *names], LOAD_CORE, pipe=True)
    assert child.process.stdout
    line = child.process.stdout.readline()
    if not line:
        raise StartError(f"the backend did not start: {child.said()}")
    return {name: int(port) for name, port in json.loads(line).items()}


def free_ports(count: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> list[int]:
    """`count` different loopback ports that nobody listens on now; another program may still take one before its user binds it."""
    held = [socket.socket(socket.AF_INET, kind) for _ in range(count)]
    try:
        for sock in held:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in held]
    finally:
        for sock in held:
            sock.close()


def wait_for_port(port: int, child: Child, seconds: float = 30.0) -> None:
    """Return once a TCP connection to `port` is accepted; raise `StartError` when `child` ends first or `seconds` pass."""
    wait_until(lambda: _connects(port), child, seconds)


def wait_until(ready: Callable[[], bool], child: Child, seconds: float = 10.0) -> None:
    """Ask `ready` again and again, 20 ms apart, as a program from elsewhere tells in no other way that it is up; raises as above."""
    limit = time.monotonic() + seconds
    while not ready():
        if not child.alive():
            raise StartError(f"{child.name} ended with code {child.process.returncode}: {child.said()}")
        if time.monotonic() > limit:
            raise StartError(f"{child.name} was not ready within {seconds:.0f} s: {child.said()}")
        time.sleep(0.02)


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
