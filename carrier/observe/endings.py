"""Lines of the process's log about sessions that have ended.

`Endings` reads the ledger: what is said of a session is made for many at once, and handed to a thread that writes it. No request waits
for a log, and none waits for whoever reads it. What the writer cannot keep up with is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from carrier.core.address import wall
from carrier.core.reuse import recorded
from carrier.log import stamp, tail
from carrier.writer import Writer

if TYPE_CHECKING:
    from carrier.core.session import Session
    from carrier.log import Log

Said = tuple[str, Mapping[str, object]]
"""An event, and named values."""
KEPT = 256
"""Lines that are remembered, without their time."""


class Endings:
    """See the module. say: what is said of a session, or None. same: the same of all of one head, decision and endpoint."""

    def __init__(self, log: Log, level: str, say: Callable[[Session], Said | None], same: bool = False) -> None:
        self.log = log
        self.level = level
        self.say = say
        self.same = same
        self.known: dict[tuple[Any, ...], str] = {}
        self.writer = Writer(sink=lambda batch: log.write(batch.decode("utf-8", "surrogateescape")))
        self.dropped = 0
        """Lines that the writer could not keep up with."""

    def read(self, ended: Sequence[Any]) -> None:
        """A reader of the ledger."""
        if not self.log.shows(self.level):
            return
        lines = []
        offset = wall(0.0)
        for entry in ended:
            if entry.__class__ is tuple:
                at, text = entry[3], self._remembered(entry)
            else:
                at, text = entry.ended_at, self._text(entry)
            if text:
                lines.append(stamp(at + offset) + text)
        if lines and not self.writer.put("".join(lines).encode("utf-8", "surrogateescape"), len(lines)):
            self.dropped += len(lines)

    def _remembered(self, record: Any) -> str:
        if not self.same:
            return self._text(recorded(record))
        key = record[4], record[5], record[6]
        text = self.known.get(key)
        if text is None:
            if len(self.known) >= KEPT:
                self.known.clear()
            text = self.known[key] = self._text(recorded(record))
        return text

    def _text(self, session: Session) -> str:
        said = self.say(session)
        return "" if said is None else tail(self.level, *said)

    def close(self) -> None:
        """Write what is left and end the thread."""
        self.writer.close()
