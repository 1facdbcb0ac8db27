"""Processes of ours without the start of an interpreter: `run` and `Popen` are subprocess's own, for `python -m carrier ...`.

Most of what `carrier` takes to start is Python reading our modules, a quarter of a second each time. One process of a worker has read
them, and forks for each command. What a test sees of it is what it would see of any other process: its descriptors, environment, working
directory, signals, exit status, network namespace. Tests of the start itself, of memory and of what is imported start Python.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODULES = {"carrier": "carrier.cli.main", "carrier.gefyra": "carrier.gefyra.daemon"}
"""What stands behind -m, and whose `main` it calls."""
READ_BEFORE = (
    *("carrier.cli.commands", "carrier.process.serve", "carrier.process.reload", "carrier.admin.api", "uvloop"),
    *("listeners.http.listener", "clusters.http.cluster", "listeners.auto", "clusters.auto", "listeners.udp", "clusters.udp"),
)
CLONE_NEWNET = 0x4000_0000

# -- what a test has


def is_ours(command: Sequence[Any]) -> bool:
    """Whether it can be forked: our command by this interpreter."""
    return [*map(str, command[:2])] == [sys.executable, "-m"] and command[2] in MODULES


class Popen(subprocess.Popen[Any]):
    """alone: in a network namespace of its own, with loopback."""

    def __init__(self, command: Sequence[Any], *, alone: bool = False, **more: Any) -> None:
        assert is_ours(command), command
        self.alone = alone
        super().__init__([*map(str, command)], **more)

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, *rest: Any) -> None:
        cwd, env, *_ = rest
        ends = rest[5:11]
        given = [number if one == -1 else one for number, one in enumerate((ends[0], ends[3], ends[5]))]
        self._status, theirs = socket.socketpair()
        with theirs:
            asked = {"module": args[2], "argv": args[3:], "env": dict(os.environ if env is None else env), "cwd": str(cwd or os.getcwd())}
            parent().ask({**asked, "alone": self.alone}, [*given, theirs.fileno()])
        self._child_created = True
        self._close_pipe_fds(*ends)  # type: ignore[attr-defined]
        self.pid = struct.unpack("i", _all(self._status, 4))[0]

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._ended()
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self._ended()
        return self.returncode

    def _ended(self) -> None:
        self.returncode = os.waitstatus_to_exitcode(struct.unpack("i", _all(self._status, 4))[0])
        self._status.close()

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)


def run(
    command: Sequence[Any],
    *,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **more: Any,
) -> subprocess.CompletedProcess[Any]:
    """As subprocess.run."""
    if input is not None:
        more["stdin"] = subprocess.PIPE
    if capture_output:
        more |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, **more) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    found = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        found.check_returncode()
    return found


# -- the one that forks


class Parent:
    """The other process, which has read our modules and does nothing but fork."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked", str(theirs.fileno())], pass_fds=[theirs.fileno()], cwd=ROOT, stdin=subprocess.DEVNULL
        )
        theirs.close()

    def ask(self, what: dict[str, Any], descriptors: list[int]) -> None:
        socket.send_fds(self.socket, [json.dumps(what).encode()], descriptors)

    def close(self) -> None:
        self.socket.close()
        self.process.wait()


_parent: list[Parent] = []


def parent() -> Parent:
    """This process's one."""
    if not _parent:
        _parent.append(Parent())
    return _parent[0]


def end() -> None:
    """Nobody of this process wants one any more."""
    if _parent:
        _parent.pop().close()


def _all(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise ChildProcessError("the process that forks has ended")
        data += more
    return data


def serve(sock: socket.socket) -> Callable[[], Any] | None:
    """Fork for everybody who asks, until nobody is there who could. Returns once more in each child, with what it is to call."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(sock, 1 << 20, 4)
        with contextlib.suppress(ChildProcessError):  # what they took counts as what the tests took
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not data:
            return None
        if os.fork() == 0:
            sock.close()
            break
        for one in descriptors:
            os.close(one)
    *standard, status = descriptors
    child = os.fork()
    if child:  # one waits for each: it alone is told the status
        for one in standard:
            os.close(one)
        os.write(status, struct.pack("i", child))
        os.write(status, struct.pack("i", os.waitpid(child, 0)[1]))
        os._exit(0)
    os.close(status)
    return _become(json.loads(data), standard)


def _become(asked: dict[str, Any], standard: list[int]) -> Callable[[], Any]:
    """Be what was asked for; returns its `main`."""
    for number, one in enumerate(standard):
        os.dup2(one, number)
    os.closerange(3, 256)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(asked["env"])
    time.tzset()
    os.chdir(asked["cwd"])
    random.seed()
    sys.argv = [asked["module"], *asked["argv"]]
    if asked["alone"]:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        with socket.socket() as any_socket:
            fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH", b"lo", 0x41))  # SIOCSIFFLAGS: up and running
    called = sys.modules[MODULES[asked["module"]]].main
    return lambda: called(asked["argv"])


def main() -> int:
    import importlib

    for name in (*MODULES.values(), *READ_BEFORE):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    called = serve(socket.socket(fileno=int(sys.argv[1])))
    return 0 if called is None else called()


if __name__ == "__main__":
    sys.exit(main())
