"""What goes wrong, in the process's log at its default level, and never more than a line for each kind in `PERIOD` seconds.

Sessions that fail are told by listener, side and kind of error, with how many there were and the last one's words; TLS handshakes that fail
by listener, once a minute. The first of a kind is told at once: at 3 a.m. nobody wants to wait for a summary. `Troubles` reads the ledger,
so that a session that goes well costs nothing here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from carrier.observe.meter import LEAVES
from carrier.redact import refused

if TYPE_CHECKING:
    from carrier.core import parts
    from carrier.core.listener import Listener
    from carrier.errors import Error
    from carrier.log import Log

PERIOD = 10.0
"""Seconds between two lines about one kind of failure of one listener."""
HANDSHAKES = 60.0
"""Seconds between two lines about the handshakes of one listener."""
KINDS = 1024
"""Kinds of failure that are kept apart at a time; further ones are told together."""
EXPECTED = ("killed", "drain")


class Kind:
    """Failures of one kind: how many are untold, an example of them, and when one was told last (seconds of the loop's clock)."""

    __slots__ = ("cluster", "count", "detail", "told")

    def __init__(self) -> None:
        self.count = 0
        self.detail = self.cluster = ""
        self.told = -PERIOD


class Troubles:
    """See the module. listeners: gives those that run, by name."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: Log, listeners: Callable[[], Mapping[str, Listener]]) -> None:
        self.loop = loop
        self.log = log
        self.listeners = listeners
        self.kinds: dict[tuple[str, str, str], Kind] = {}
        self.timer: asyncio.TimerHandle | None = None
        self.shaken: dict[str, int] = {}
        """Listener -> handshakes that had failed when it was told last."""
        self.looking = loop.call_later(HANDSHAKES, self._look)

    def read(self, ended: Sequence[Any]) -> None:
        """A reader of the ledger. A record is of a session that went well."""
        for entry in ended:
            if entry.__class__ is not tuple and entry.error is not None and entry.error.kind not in EXPECTED:
                self.note(entry.listener, entry.error, entry.cluster.label if entry.cluster is not None else "")

    def note(self, listener: parts.Listener, error: Error, cluster: str = "") -> None:
        """A session failed, or what would have become one."""
        key: tuple[str, str, str] = (listener.name, error.side, error.kind)
        kind = self.kinds.get(key)
        if kind is None:
            if len(self.kinds) >= KINDS:
                key = ("(others)", "", "(others)")
            kind = self.kinds.setdefault(key, Kind())
        kind.count += 1
        kind.detail = refused(error.kind, error.detail)
        kind.cluster = cluster
        now = self.loop.time()
        if now - kind.told >= PERIOD:
            self._tell(key, kind, now)
        elif self.timer is None:
            self.timer = self.loop.call_later(PERIOD, self._late)

    def _tell(self, key: tuple[str, str, str], kind: Kind, now: float) -> None:
        listener, side, name = key
        count = kind.count if kind.count > 1 else None
        say, event = (self.log.info, "clients left") if (side, name) in LEAVES else (self.log.warn, "sessions failed")
        say(event, listener=listener, kind=name, cluster=kind.cluster or None, sessions=count, last=kind.detail)
        kind.count, kind.told = 0, now

    def _late(self) -> None:
        """Tell what was held back; forget what has not come again."""
        self.timer = None
        now = self.loop.time()
        for key, kind in list(self.kinds.items()):
            if kind.count and now - kind.told >= PERIOD:
                self._tell(key, kind, now)
            elif not kind.count and now - kind.told >= PERIOD:
                del self.kinds[key]
        if any(kind.count for kind in self.kinds.values()):
            self.timer = self.loop.call_later(PERIOD, self._late)

    def _look(self) -> None:
        """How many handshakes have failed since the last look."""
        listeners = self.listeners()
        for name, listener in listeners.items():
            failed = listener.limited.get("handshake", 0)
            new = failed - self.shaken.get(name, 0)
            if new > 0:
                self.log.warn("TLS handshakes failed", listener=name, connections=new, seconds=HANDSHAKES)
            self.shaken[name] = failed
        for gone in self.shaken.keys() - listeners.keys():
            del self.shaken[gone]
        self.looking = self.loop.call_later(HANDSHAKES, self._look)

    def close(self) -> None:
        """Tell what is left, and look no more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.looking.cancel()
        now = self.loop.time()
        for key, kind in self.kinds.items():
            if kind.count:
                self._tell(key, kind, now)
        self.kinds.clear()
