"""Logger: passes everything on and writes the payload, as l7mp does: `prefix: data`, no newline of its own (contract, section 5).

`log_file` "-" is standard output; another one is opened for each session and truncated, in binary. It must be writable when the
cluster is made: a file that is not refuses the configuration (in l7mp the first packet killed the proxy). If it stops being
writable later, the session goes on and its events say so once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.core.spec import check_text
from carrier.core.stream import Stream
from carrier.errors import Error, Problem

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.session import Session


class LoggerCluster(Cluster):
    """`spec: {protocol: Logger, log_file: "-", log_prefix: ""}`."""

    protocol = "Logger"
    privileged = {"protocol": "writes files"}
    virtual = True
    default_policy = "None"
    defaults = {"log_file": "-", "log_prefix": ""}
    fields = {"log_file": 'a path, or "-" for standard output', "log_prefix": "text"}

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        super().__init__(conf, env)
        self.file = str(conf.spec.get("log_file") or "-")
        prefix = str(conf.spec.get("log_prefix") or "")
        self.prefix = f"{prefix}: ".encode() if prefix else b""
        reason = unwritable(self.file)
        if reason:
            raise Error("config", f'Logger "{conf.name}": cannot write to {self.file}: {reason}')

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        found = super().check(spec, path) + check_text(spec, path, "log_file", "log_prefix")
        file = spec.get("log_file", "-")
        reason = unwritable(file) if isinstance(file, str) else ""
        if reason:
            found.append(Problem(f"cannot write to {file!r}: {reason}", f"{path}.log_file", seen=repr(file), allowed="a writable file"))
        return found

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream:
        return LoggerStream(session, self.file, self.prefix)


def unwritable(file: str) -> str:
    """Why a file cannot be written, or nothing."""
    if file == "-":
        return ""
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644))
    except OSError as exc:
        return exc.strerror or str(exc)
    except ValueError as exc:  # a zero byte in the name
        return str(exc)
    return ""


class LoggerStream(Stream):
    """One session's log, in the direction whose chain it stands in."""

    __slots__ = ("file", "out", "prefix", "session")

    def __init__(self, session: Session, file: str, prefix: bytes) -> None:
        super().__init__()
        self.session = session
        self.prefix = prefix
        self.out: BinaryIO | None = None
        try:
            self.out = sys.stdout.buffer if file == "-" else open(file, "wb", buffering=0)  # noqa: SIM115 (closed in _close)
        except OSError as exc:
            raise Error("internal", f"cannot write to {file}: {exc.strerror}") from None

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if self.out is not None:
            try:
                self.out.write(self.prefix + data)
                self.out.flush()
            except (OSError, ValueError) as exc:
                self._close()
                self.session.event("ERROR", "Logger", f"not written any more: {exc}")
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
        if out is not None and out is not sys.stdout.buffer:
            out.close()
