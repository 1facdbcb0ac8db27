"""STDIO-fork: a command of its own for each session; what the session sends is its standard input, what it writes is the answer.

The command runs in a process group of its own, which ends with the session: TERM, and KILL for what is left after `GRACE` seconds. How it
ended is in the session's events. Its standard error is ours. There are no endpoints and no shell: `command` is the list of its words.
The end of its output is passed on when it has exited, too, so that the event is there before the session ends; and when it has exited and
somebody whom it has left behind keeps its output open, `GRACE` seconds after all that was in it was taken. None outlives us: what still
runs when the process ends gets the same grace, and KILL.
"""

from __future__ import annotations

import asyncio
import atexit
import fcntl
import os
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.errors import Error, Problem, from_os
from carrier.hops.filestream import FileStream

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.session import Session

GRACE = 2.0


class ForkCluster(Cluster):
    """`spec: {protocol: STDIO-fork, command: [...]}`."""

    protocol = "STDIO-fork"
    privileged = {"protocol": "runs commands"}
    default_policy = "None"
    fields = {"command": "a list of words"}

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        command = conf.spec.get("command")
        if not is_command(command):
            raise Error("config", f'Cluster "{conf.name}": STDIO-fork needs a command, a list of words, got {command!r}')
        self.command = command
        self.place = Endpoint(conf.name, self.command[0], 0, 1)
        super().__init__(conf, env)

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        found = super().check(spec, path)
        command = spec.get("command")
        if not is_command(command):
            found.append(Problem("needs 'command'", f"{path}.command", seen=repr(command), allowed=cls.fields["command"]))
        return found

    def choose(self, session: Session, tried: Collection[str] = ()) -> Endpoint:
        return self.place

    def ready(self, session: Session, endpoint: Endpoint | None) -> Process:
        try:
            child = subprocess.Popen(  # vfork and exec: a millisecond
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0
            )
        except (OSError, ValueError) as exc:
            error = from_os(exc, "upstream", self.command[0], "yes") if isinstance(exc, OSError) else Error("refused", str(exc), "upstream")
            raise error from None
        return Process(self.env.loop, child, self.command[0], session)


def is_command(command: object) -> TypeGuard[list[str]]:
    """A list of at least one text, the first not empty?"""
    return isinstance(command, list) and bool(command) and all(isinstance(word, str) for word in command) and command[0] != ""


class Process(FileStream):
    """A running command. code: its exit status, negative for a signal, None while it runs."""

    __slots__ = ("child", "code", "command", "drained", "pidfd", "said")

    def __init__(self, loop: asyncio.AbstractEventLoop, child: subprocess.Popen[bytes], command: str, session: Session) -> None:
        assert child.stdin is not None and child.stdout is not None
        reader, writer = os.dup(child.stdout.fileno()), os.dup(child.stdin.fileno())
        child.stdin.close()
        child.stdout.close()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        super().__init__(loop, reader, writer, "upstream")
        self.session = session
        self.child = child
        self.command = command
        self.code: int | None = None
        self.drained = False
        """Its output has ended."""
        self.said = 0
        """Bytes of output until it exited."""
        self.pidfd = os.pidfd_open(child.pid)
        _RUNNING.add(self)
        loop.add_reader(self.pidfd, self._exited)

    def eof(self) -> None:
        """Its output has ended: pass that on when the command has, too, or does not in time."""
        self.drained = True
        if self.code is not None:
            super().eof()
        else:
            self.loop.call_later(GRACE, super().eof)

    def _exited(self) -> None:
        """It is not reaped yet: until then its number is that of its process group and nobody else's."""
        found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return
        self.loop.remove_reader(self.pidfd)
        self.code = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        text = f"exit status {self.code}" if self.code >= 0 else f"killed by {signal.Signals(-self.code).name}"
        assert self.session is not None
        self.session.event("EXIT", f"{self.command}: {text}", self.code)
        if self.closed:
            self.detach()
            self._reap()
        elif self.drained:
            super().eof()
        else:
            assert self.reader is not None
            self.said = self.bytes_in + struct.unpack("i", fcntl.ioctl(self.reader, termios.FIONREAD, bytes(4)))[0]
            self.loop.call_later(GRACE, self._left_open)

    def _left_open(self) -> None:
        """It has exited, and its output has not ended: it has left somebody behind who has it, too, or its last words wait until there is
        room for them."""
        if self.bytes_in < self.said and not self.closed:
            self.loop.call_later(GRACE, self._left_open)
        elif not self.drained and not self.closed:
            self.drained = True
            self.pause()
            super().eof()

    def close(self, error: Error | None = None) -> None:
        if self.closed:
            return
        super().close(error)
        if self.code is not None:
            self._reap()
        else:
            self._signal(signal.SIGTERM)
            self.loop.call_later(GRACE, self._signal, signal.SIGKILL)

    def detach(self) -> None:
        if self.code is not None:  # else the session is still to be told
            super().detach()

    def _signal(self, number: signal.Signals) -> None:
        """To the whole process group."""
        if self.child.returncode is None:
            try:
                os.killpg(self.child.pid, number)
            except (ProcessLookupError, PermissionError):
                pass  # nobody is left in it, or nobody whom we may signal

    def _reap(self) -> None:
        """The command has exited and nobody wants it any more: so do those that it has left behind."""
        _RUNNING.discard(self)
        self._signal(signal.SIGKILL)
        self.child.wait()
        os.close(self.pidfd)


_RUNNING: set[Process] = set()
"""Commands that have not been reaped."""


@atexit.register
def end_all() -> None:
    """The process ends: so do its commands, those that ignore TERM too."""
    left = list(_RUNNING)
    for one in left:
        one._signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while left and time.monotonic() < deadline:
        left = [one for one in left if one.child.poll() is None]
        time.sleep(0.01 if left else 0)
    for one in list(_RUNNING):
        try:
            os.killpg(one.child.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # nobody is left in its group
