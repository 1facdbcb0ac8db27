"""Logger: passes everything on and writes the payload, as l7mp does: `prefix: data`, no newline of its own (contract, section 5).

`log_file` "-" is standard output; another one is opened for each session and truncated, in binary. It must be writable when the
cluster is made: a file that is not refuses the configuration (in l7mp the first packet killed the proxy). If it stops being
writable later, the session goes on and the log says so once.

Nobody waits for it (carrier/writer.py): what is not taken at once is written by a thread, up to a bound; what is beyond it is counted
(`carrier_limits_hit`, "log"). A named pipe that nobody reads costs what would have been written to it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.core.spec import check_text
from carrier.core.stream import Stream
from carrier.errors import Error, Problem
from carrier.writer import STANDARD, Writer, opened, patient

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.session import Session

FLAGS = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
OWN = -1
"""The writer's own place: standard output."""
MOST = 256
"""Files of sessions that may wait to be written and closed; the next sessions are not logged."""


class LoggerCluster(Cluster):
    """`spec: {protocol: Logger, log_file: "-", log_prefix: ""}`."""

    protocol = "Logger"
    privileged = {"protocol": "writes files"}
    virtual = True
    same_length = True
    default_policy = "None"
    defaults = {"log_file": "-", "log_prefix": ""}
    fields = {"log_file": 'a path, or "-" for standard output', "log_prefix": "text"}

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        super().__init__(conf, env)
        self.file = str(conf.spec.get("log_file") or "-")
        prefix = str(conf.spec.get("log_prefix") or "")
        self.prefix = f"{prefix}: ".encode() if prefix else b""
        try:
            if self.file != "-" and (found := opened(self.file, FLAGS, 0o666)) >= 0:
                os.close(found)
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
            raise Error("config", f'Logger "{conf.name}": cannot write to {self.file}: {reason}') from None
        self.writer = Writer(lambda: patient(STANDARD["-"]) if self.file == "-" else -1)
        self.writer.trouble = self.told = ""
        """What the log knows of."""
        self.left = self.ended = 0
        """Files that no session writes to any more, and those of them that the thread has closed."""
        self.live = 0
        """Sessions that write."""
        self.gone = False

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        found = super().check(spec, path) + check_text(spec, path, "log_file", "log_prefix")
        file = spec.get("log_file", "-")
        reason = unwritable(file) if isinstance(file, str) else ""
        if reason:
            found.append(Problem(f"cannot write to {file!r}: {reason}", f"{path}.log_file", seen=repr(file), allowed="a writable file"))
        return found

    @property
    def limited(self) -> dict[str, int]:
        """Messages that were not written."""
        return {"log": self.writer.dropped} if self.writer.dropped else {}

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream:
        return LoggerStream(self, session)

    def begin(self) -> int | None:
        """Where a session writes to; None: nothing of it is written. Raises Error."""
        found = OWN if self.file == "-" else self._open()
        if found is not None:
            self.live += 1
        return found

    def _open(self) -> int | None:
        if self.left - self.ended >= MOST:
            self.writer.trouble = f"{MOST} files wait to be written"
            return None
        try:
            found = opened(self.file, FLAGS, 0o666)
        except (OSError, ValueError) as exc:
            raise Error("internal", f"cannot write to {self.file}: {getattr(exc, 'strerror', None) or exc}") from None
        if found < 0:
            self.writer.trouble = "nobody reads it"
            return None
        self.writer.add(partial(_empty, found))  # behind what sessions before have to write
        return found

    def finish(self, descriptor: int) -> None:
        """A session wants to write no more: its file is closed behind what was put."""
        self.live -= 1
        if descriptor != OWN:
            self.left += 1
            self.writer.add(lambda: self._close(descriptor))
        self._leave()

    def _leave(self) -> None:
        """The cluster is gone, and so is who writes through it."""
        if self.gone and not self.live:
            self.writer.leave()

    def _close(self, descriptor: int) -> None:
        os.close(descriptor)
        self.ended += 1

    def tick(self, now: float) -> None:
        super().tick(now)
        if self.writer.trouble != self.told:
            self.told = self.writer.trouble
            if self.told:
                self.env.warn("what a Logger was to write is lost", of=f"cluster/{self.name}", file=self.file, reason=self.told)

    def close(self) -> None:
        super().close()
        self.gone = True
        self._leave()


def _empty(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # a pipe
        os.ftruncate(descriptor, 0)


def unwritable(file: str) -> str:
    """Why a file could not be written, or nothing. Nothing is made or opened: that is for who has decided to use it."""
    if file == "-":
        return ""
    try:
        try:
            found = os.stat(file)
        except FileNotFoundError:
            folder = os.path.dirname(file) or "."
            kind = os.stat(folder).st_mode
            allowed = os.access(folder, os.W_OK | os.X_OK)
            return "" if stat.S_ISDIR(kind) and allowed else "Permission denied" if stat.S_ISDIR(kind) else "Not a directory"
        if stat.S_ISDIR(found.st_mode):
            return "Is a directory"
        return "" if os.access(file, os.W_OK) else "Permission denied"
    except OSError as exc:
        return exc.strerror or str(exc)
    except ValueError as exc:  # a zero byte in the name
        return str(exc)


class LoggerStream(Stream):
    """One session's log, in the direction whose chain it stands in."""

    __slots__ = ("logger", "out", "said", "session")

    def __init__(self, logger: LoggerCluster, session: Session) -> None:
        super().__init__()
        self.logger = logger
        self.session = session
        self.said = False
        self.out = logger.begin()

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        writer = self.logger.writer
        if self.out is None:
            writer.refused += 1
        else:
            writer.put(self.logger.prefix + data, 1, None if self.out == OWN else self.out)
        if writer.trouble and not self.said:
            self.said = True
            self.session.event("ERROR", "Logger", f"not written: {writer.trouble}")
        self.to.data(data, kind, last)
        if last:
            self._close()

    def end(self, trailer: Any = None) -> None:
        self._close()
        self.to.end(trailer)

    def reset(self, error: Error) -> None:
        self._close()
        self.to.reset(error)

    def _close(self) -> None:
        out, self.out = self.out, None
        if out is not None:
            self.logger.finish(out)
