"""PIPE listener: a named pipe (fifo(7)) that programs write to, and another one, `reply`, where they may read answers.

A pipe has no connections: a session begins with the first bytes and ends when all who wrote have closed the pipe; what is written after
that is the next session's. Pipes are made when they are not there, and removed again. `reply` must be open for reading before an answer
is complete, because what is left in a pipe that nobody holds is gone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.address import Key
from carrier.core.idle import Idle
from carrier.core.listener import Listener
from carrier.errors import Error, Problem
from carrier.hops.pipe import PipeStream, make_pipe, open_pipe
from carrier.hops.unixsocket import identity
from carrier.options import check_numbers, numbers

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.session import Session

OPTIONS: Mapping[str, float] = {"track": 0, "idle_timeout": 0}
"""Seconds; 0 means none."""


class PipeListener(Listener):
    """`spec: {protocol: PIPE, filename, reply}`, `options`: see OPTIONS."""

    protocol = "PIPE"
    privileged = {"protocol": "reads and writes files"}
    fields = {"filename": "a named pipe to read", "reply": "a named pipe to write answers to"}

    def __init__(self, conf: config.Listener, env: Env) -> None:
        super().__init__(conf, env)
        self.filename = str(conf.spec.get("filename") or "")
        self.reply = str(conf.spec.get("reply") or "")
        self.idle = Idle(numbers(conf.options, OPTIONS)["idle_timeout"])
        self.fd: int | None = None
        """Held open while the listener lives, so that what is written between two sessions stays in the pipe."""
        self.made: list[tuple[str, tuple[int, int] | None]] = []
        """Pipes that this listener has made, with device and inode."""
        self.started = False

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        found = super().check(spec, path)
        name = spec.get("filename")
        if not isinstance(name, str) or not name:
            found.append(Problem("needs 'filename'", f"{path}.filename", seen=repr(name), allowed=cls.fields["filename"]))
        reply = spec.get("reply", "x")
        if not isinstance(reply, str) or not reply:
            found.append(Problem(f"expected a path, got {reply!r}", f"{path}.reply", seen=repr(reply), allowed=cls.fields["reply"]))
        return found

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        return check_numbers(options, OPTIONS, path)

    # ------------------------------------------------------------------ life

    def key(self) -> Key:
        return "pipe", self.filename, -1

    def local(self) -> bool:
        return True

    @property
    def listening(self) -> bool:
        return self.fd is not None

    async def bind(self) -> None:
        try:
            for name in filter(None, (self.filename, self.reply)):
                if make_pipe(name):
                    self.made.append((name, identity(name)))
            self.fd = open_pipe(self.filename, os.O_RDONLY)
        except (OSError, ValueError) as exc:
            self.stop()
            reason = exc.strerror if isinstance(exc, OSError) else str(exc)
            raise Error("bind", f'"{self.name}": Could not open {self.filename!r}: {reason}') from None

    def take_over(self, old: Listener) -> bool:
        """The pipe stays; a session that is there goes on, and what comes is for whoever reads first."""
        if not isinstance(old, PipeListener) or (old.filename, old.reply) != (self.filename, self.reply) or old.fd is None:
            return False
        self.fd = open_pipe(self.filename, os.O_RDONLY)
        self.before = old
        return True

    def inherit(self, old: Listener) -> None:
        super().inherit(old)
        assert isinstance(old, PipeListener)
        self.made, old.made = old.made, []
        self.idle.inherit(old.idle)
        if self.live and self.fd is not None:  # its end starts the next one
            self.env.loop.remove_reader(self.fd)

    def start(self) -> None:
        self.started = True
        assert self.fd is not None
        self.env.loop.add_reader(self.fd, self._came)

    def stop(self) -> None:
        self.started = False
        if self.fd is not None:
            self.env.loop.remove_reader(self.fd)
            os.close(self.fd)
            self.fd = None
        self.env.loop.call_soon(self._unlink)

    def _unlink(self) -> None:
        for name, inode in self.made:
            if inode is not None and identity(name) == inode:  # else somebody has removed it, and what is there now is not ours
                with contextlib.suppress(OSError):
                    os.unlink(name)
        self.made = []

    # ------------------------------------------------------------------ sessions

    def _came(self) -> None:
        """Somebody writes: a session of its own description of the pipe, which knows only the writers of now."""
        assert self.fd is not None
        self.env.loop.remove_reader(self.fd)
        try:
            reader = open_pipe(self.filename, os.O_RDONLY)
            os.close(self.fd)
            self.fd = open_pipe(self.filename, os.O_RDONLY)
            writer = open_pipe(self.reply, os.O_RDWR) if self.reply else None
        except (OSError, ValueError):  # the file is gone, or descriptors are short: look again at the next tick
            return
        self.begin(PipeStream(self.env.loop, reader, writer, "downstream"))

    def ended(self, session: Session) -> None:
        """After a failure the next session begins at a tick: what was not read is still in the pipe, and is tried again then."""
        self.idle.forget(session.source)
        super().ended(session)
        if session.error is None:
            self._watch()

    def _watch(self) -> None:
        """Wait for the next writer, with a description that has not seen those of before leave."""
        if not self.started or self.fd is None or self.live:
            return
        self.env.loop.remove_reader(self.fd)
        try:
            fresh = open_pipe(self.filename, os.O_RDONLY)
        except (OSError, ValueError):
            return
        os.close(self.fd)
        self.fd = fresh
        self.env.loop.add_reader(self.fd, self._came)

    def tick(self, now: float) -> None:
        super().tick(now)
        for session in list(self.live):
            error = self.idle.overdue(session.source, now)
            if error is not None:
                session.fail(error)
        self._watch()

    def session_name(self, session: Session) -> str:
        return self.env.names.give(session, f"PIPE:{self.name}-{session.number}")

    def metadata(self, session: Session) -> dict[str, Any]:
        return {"PIPE": {"filename": self.filename, **({"reply": self.reply} if self.reply else {})}}
