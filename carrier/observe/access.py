"""The access log: one line for each session that ends, of any protocol, as JSON or in Envoy's default text format; and one for each
request that was refused before it could become a session, with what is known of it.

    {"time":"2026-11-21T08:00:21.123Z","listener":"web","rule":"bridge/john","why":"rule bridge/john: header x-user is \\"john\\"", ...}

`AccessLog` is told of sessions that have ended (core/ledger.py). Lines are made from parts that are remembered (with the request's head,
by decision and endpoint, by path), and handed in batches to a thread that writes them: the event loop never waits for a disk or a reader.
What the thread cannot keep up with, beyond `MAX_WAITING` bytes, is dropped and counted. `reopen` (SIGUSR1) goes on in a new file after
somebody has moved the old one away. Filters (status, duration, user) leave lines out, and so does sampling, failures apart. Of header
fields only those that are named are written, secrets (`SECRET`) as "(redacted)".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from carrier.errors import ConfigError, Problem
from carrier.observe.lines import Lines
from carrier.writer import Writer, opened

if TYPE_CHECKING:
    from carrier.config.accesslog import Settings
    from carrier.core.ledger import Record, Refusal
    from carrier.core.session import Session

BATCH = 512 << 10
"""Bytes that are handed over at once."""
LOOK = 1.0
"""Seconds after a batch that somebody asks what has become of it."""
DELAY = 0.25
"""Seconds that a line waits at most before it is handed over."""


class AccessLog:
    """See the module. users: rule -> user of its bridge; revision: that of the configuration. Raises ConfigError when the file cannot be
    written."""

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        users: Callable[[str], str] = lambda rule: "",
        revision: Callable[[], int] = lambda: 0,
        say: Callable[..., object] = lambda event, /, **values: None,
    ) -> None:
        self.settings = settings
        self.say = say
        self.told = ""
        """The trouble that was said."""
        self.looks: asyncio.TimerHandle | None = None
        self.carried = (0, 0)
        """Lines that the log before this one has written and dropped."""
        self.loop = loop
        self.revision = revision
        self.seen = revision()
        self.lines = Lines(settings, users)
        self.make: Callable[[Iterable[Session | Record]], bytes] = self.lines.json if settings.format == "json" else self.lines.envoy
        self.filters = settings.status > 0 or settings.duration > 0 or bool(settings.users) or settings.sample < 1
        self.credit = 0.0
        self.batch: list[bytes] = []
        self.size = self.count = 0
        """Bytes and lines of the batch."""
        self.refused = 0
        self.timer: asyncio.TimerHandle | None = None
        self.writer = _writer(settings.path)

    @property
    def written(self) -> int:
        return self.carried[0] + self.writer.written

    @property
    def dropped(self) -> int:
        """Lines that the writer could not keep up with, or could not write."""
        return self.carried[1] + self.refused + self.writer.dropped

    def write(self, ended: Sequence[Session | Record]) -> None:
        """A reader of `Ledger`: the lines of these sessions, as far as they are wanted."""
        wanted = [entry for entry in ended if self._wanted(entry)] if self.filters else ended
        try:
            text, count = self.make(wanted), len(wanted)
        except Exception:
            text, count = self._one_by_one(wanted)
        self._add(text, count)

    def turned_away(self, refusal: Refusal) -> None:
        """A watcher of `Ledger`: the line of a request that became no session, as far as it is wanted. Sampled like those that went well:
        whoever sends nonsense all day does not fill the disk with it."""
        settings, status = self.settings, refusal.status
        if status < settings.status or refusal.ended - refusal.began < settings.duration or settings.users or not self._sampled():
            return
        self._add(self.lines.refusal(refusal), 1)

    def _add(self, text: bytes, count: int) -> None:
        self.batch.append(text)
        self.count += count
        self.size += len(text)
        if self.size >= BATCH:
            self.flush()
        elif self.timer is None and count:
            self.timer = self.loop.call_later(DELAY, self.flush)

    def _one_by_one(self, ended: Iterable[Session | Record]) -> tuple[bytes, int]:
        """A session that no line can be made of, whatever it is, costs its own line alone; it is counted as dropped."""
        lines = []
        for entry in ended:
            try:
                lines.append(self.make((entry,)))
            except Exception as exc:
                self.refused += 1
                self.loop.call_exception_handler({"message": f"no access log line could be made: {exc}", "exception": exc})
        return b"".join(lines), len(lines)

    def _wanted(self, entry: Session | Record) -> bool:
        """By the filters, all of which must let it pass; then by sampling."""
        settings = self.settings
        if isinstance(entry, tuple):
            _, _, started, ended, _, decision, _, answer, *_ = entry
            error = None
        else:
            started, ended, decision, answer, error = entry.started, entry.ended_at, entry.decision, entry.answer, entry.error
        status = answer.status if answer is not None else 0
        failed = error is not None or status >= 500
        if status < settings.status and not (failed and answer is None):
            return False
        if ended - started < settings.duration:
            return False
        if settings.users and self.lines.users(decision.rule) not in settings.users:
            return False
        return failed or self._sampled()

    def _sampled(self) -> bool:
        """Is this one of those that are written?"""
        if self.settings.sample >= 1:
            return True
        self.credit += self.settings.sample
        if self.credit < 1:
            return False
        self.credit -= 1
        return True

    def flush(self) -> None:
        """Hand over what there is."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.revision() != self.seen or self.lines.is_off():
            self.seen = self.revision()
            self.lines.forget()
        if not self.batch:
            return
        text, count = b"".join(self.batch), self.count
        self.batch, self.size, self.count = [], 0, 0
        self.writer.put(text, count)
        if self.looks is None:
            self.looks = self.loop.call_later(LOOK, self._look)

    def _look(self) -> None:
        """Say what has become of what was handed over, once."""
        self.looks = None
        if self.writer.trouble != self.told:
            self.told = self.writer.trouble
            if self.told:
                self.say("lines of the access log are lost", file=self.settings.path, reason=self.told)

    def reopen(self) -> None:
        """Go on in a new file (SIGUSR1); lines of before go to the old one."""
        self.flush()
        self.lines.forget()
        self.writer.reopen()

    def close(self) -> None:
        """Write what is left and end the thread."""
        self.flush()
        self._forget()
        self.writer.close()

    def leave(self) -> None:
        """Another one takes its place: write what is left, without anybody waiting."""
        self.flush()
        self._forget()
        self.writer.leave()

    def _forget(self) -> None:
        if self.looks is not None:
            self.looks.cancel()


def _writer(path: str) -> Writer:
    """Raises ConfigError when the file cannot be written."""
    try:
        return Writer(partial(opened, path))
    except (OSError, ValueError) as exc:
        text = f"cannot write the access log {path!r}: {getattr(exc, 'strerror', None) or exc}"
        allowed = "stdout, stderr or a file that can be written"
        raise ConfigError(Problem(text, "$.admin.access_log", seen=repr(path), allowed=allowed)) from None
