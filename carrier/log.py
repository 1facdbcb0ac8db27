"""The log of the process: one line per event, in l7mp's levels, to stderr or a file.

    2026-11-21T08:00:21.123Z info  listening listener=web protocol=HTTP address=127.0.0.1:8080

With `--log-format json` it is a JSON object a line. A `Log` has one function per level (`log.info("listening", listener="web")`); a level
that is off is a function that does nothing, and whoever would have to build something costly asks `log.shows("verbose")` first. Values
that would break the line or forge a second one (spaces, quotes, control characters) are written as JSON text. A line is written at once
where that goes without waiting, else by a thread (carrier/writer.py): a reader that is gone or full costs lines, not the process.
`silent` writes nothing. The access log is another thing.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Protocol

from carrier.errors import ConfigError, Problem
from carrier.redact import quoted, visible
from carrier.writer import WAITING, Writer, opened, to_descriptor

FORMATS = ("text", "json")
KEPT = 128 * 1024
"""Characters of lines that are kept for who asks for the last ones; those about single sessions, which `-l verbose` adds, are not."""
TAPPED = ("notice", "warn", "error")
"""Lines that are told to `Log.tap` whatever the level is."""
LEVELS = ("silly", "verbose", "debug", "info", "notice", "warn", "error", "silent")
"""From the most talkative; each shows itself and what follows it."""

_BARE = re.compile(r"[^\s\"=\\\x00-\x1f\x7f-\x9f]+").fullmatch


class Line(Protocol):
    """Writes one event: what happened, and what it happened to."""

    def __call__(self, event: str, /, **values: object) -> None: ...


class Log:
    """Lines of `level` and above go to `write`. clock: seconds since 1970. reopen: goes on in a new file of the same name.

    Raises ConfigError when the level is none of LEVELS.
    """

    silly: Line
    verbose: Line
    debug: Line
    info: Line
    notice: Line
    warn: Line
    error: Line

    def __init__(
        self,
        level: str = "info",
        write: Callable[[str], object] = lambda line: None,
        clock: Callable[[], float] = time.time,
        reopen: Callable[[], object] = lambda: None,
        form: str = "text",
    ) -> None:
        if level not in LEVELS:
            raise ConfigError(Problem(f"unknown log level {level!r}", "$.admin.log_level", seen=repr(level), allowed=", ".join(LEVELS)))
        self.write = write
        self.clock = clock
        self.reopen = reopen
        self.line = json_line if form == "json" else line
        self.tap: Callable[[str, str, dict[str, object]], object] | None = None
        """Told of each line of TAPPED levels, written or not: level, event, values."""
        self.kept: deque[str] = deque()
        """The last lines, KEPT of them, also of TAPPED levels that are not written."""
        self.size = 0
        """Of those, in characters."""
        self.set_level(level)

    def set_level(self, level: str) -> None:
        """Show lines of `level` and above from now on."""
        self.level = level
        for name in LEVELS[:-1]:
            setattr(self, name, self._writer(name) if self.shows(name) or name in TAPPED else _off)

    def shows(self, level: str) -> bool:
        """Is a line of this level written?"""
        return LEVELS.index(level) >= LEVELS.index(self.level)

    def _writer(self, level: str) -> Line:
        seen = self.shows(level)

        def write(event: str, /, **values: object) -> None:
            text = self.line(self.clock(), level, event, values)
            self._keep(text)
            if seen:
                self.write(text)
            if self.tap is not None and level in TAPPED:
                self.tap(level, event, values)

        return write

    def _keep(self, text: str) -> None:
        self.kept.append(text)
        self.size += len(text)
        while self.size > KEPT and len(self.kept) > 1:
            self.size -= len(self.kept.popleft())


def _off(event: str, /, **values: object) -> None: ...


def line(at: float, level: str, event: str, values: Mapping[str, object]) -> str:
    """One line of the log, its newline included. at: seconds since 1970."""
    return stamp(at) + tail(level, event, values)


@lru_cache(64)
def _stamp(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z ")


def stamp(at: float) -> str:
    """How a line begins."""
    return _stamp(int(at * 1000))


def rfc3339(at: float, timespec: str = "milliseconds") -> str:
    """A moment (seconds of time.time) as RFC 3339 writes it, of UTC. timespec: as `datetime.isoformat` takes it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def tail(level: str, event: str, values: Mapping[str, object]) -> str:
    """How it goes on."""
    text = "".join(f" {name}={shown(value)}" for name, value in values.items() if value is not None)
    return f"{level:<7} {_plain(event)}{text}\n"


def json_line(at: float, level: str, event: str, values: dict[str, object]) -> str:
    """The same as a JSON object: time, level, event, and the values, which may not be called so."""
    said = {name: _json(value) for name, value in values.items() if value is not None}
    return json.dumps({**said, "time": rfc3339(at), "level": level, "event": visible(event)}) + "\n"


def _json(value: object) -> object:
    if isinstance(value, bool | int | float):
        return value
    return visible(value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value))


def shown(value: object) -> str:
    """A value as it stands in a line: bare when that is safe, else as JSON text."""
    if isinstance(value, float):
        return f"{value:g}"
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return text if _BARE(text) else quoted(text)


def _plain(event: str) -> str:
    return event if event.isprintable() else quoted(event)


def open_log(level: str, file: str | None = None, form: str = "text") -> Log:
    """The log of a process. file: None, "stderr", "stdout" or a path, which is appended to; form: one of FORMATS.

    Raises ConfigError when the file cannot be written or the level is unknown.
    """
    if file in (None, "stderr", "-"):
        return Log(level, to_descriptor(sys.stderr.fileno()), form=form)
    if file == "stdout":
        return Log(level, to_descriptor(sys.stdout.fileno()), form=form)
    assert file is not None
    try:
        found = _File(file)
    except (OSError, ValueError) as exc:
        text = f"cannot write the log file {file!r}: {getattr(exc, 'strerror', None) or exc}"
        raise ConfigError(
            Problem(text, "$.admin.log_file", seen=repr(file), allowed="stdout, stderr or a file that can be written")
        ) from None
    return Log(level, found, reopen=found.reopen, form=form)


class _File:
    """A file that lines are appended to. Raises OSError, ValueError."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.writer = Writer(partial(opened, path), WAITING)

    def __call__(self, text: str) -> None:
        self.writer.write(text.encode("utf-8", "backslashreplace"))

    def reopen(self) -> None:
        """Go on in a new file of the same name, after somebody has moved the old one away. A file that cannot be opened is said in the old
        one, which is better than none."""
        try:
            writer = Writer(partial(opened, self.path), WAITING)
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
            self(line(time.time(), "error", "the log file cannot be opened again", {"file": self.path, "reason": reason}))
            return
        self.writer.leave()
        self.writer = writer
