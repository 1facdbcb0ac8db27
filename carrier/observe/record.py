"""Who records what passes: `GET /api/v1/record`, whose answer never ends (server-sent events, one entry of an HTTP archive each).

While nobody records nothing is here: `Env.recorder` is None and no session has a tape. While somebody does, sessions of the rules that are
recorded get one (carrier/core/tape.py) and leave the lane; all others are as they were. Everything is bounded: entries a second, sessions
that are recorded at a time, bytes of each and of all; what is beyond, and what a reader who does not read cannot take, is counted as lost
and told. A session that is open for long is told as it is by then, again and again; the last word takes the place of those before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import msgspec

from carrier.core.stream import DESTROYED
from carrier.core.tape import Tape
from carrier.observe import har

if TYPE_CHECKING:
    from carrier.core.decision import Decision
    from carrier.core.env import Env
    from carrier.core.session import Session

PERIOD = 0.1
MOST = 50
"""Sessions of one period that get a tape."""
SESSIONS = 1000
"""Sessions that have one at a time."""
HELD = 32 * 1024 * 1024
"""Bytes of all tapes."""
BODIES = 64 * 1024
"""Bytes of each direction that are kept unless something else is asked for."""
MAX_BODIES = 1024 * 1024
YOUNG, OPEN = 1.0, 10.0
"""Seconds after which an open session is told as it is, and after which again."""
QUIET = 15.0
"""Seconds after which a reader hears a comment."""
RECORDINGS = 8
"""At a time."""


class Viewer(Protocol):
    """One connection that gets a recording. write: False when the reader has enough for now."""

    def write(self, data: bytes) -> bool: ...


class Wanted(msgspec.Struct, frozen=True):
    """What somebody records. rules: names, asked at each revision; bodies: bytes of each direction; secrets: they are shown."""

    rules: Callable[[], Collection[str]]
    bodies: int = BODIES
    secrets: bool = False


class Recording:
    """One viewer's. rules: as they are now; lost: entries that he was not told of yet."""

    def __init__(self, wanted: Wanted, viewer: Viewer) -> None:
        self.wanted = wanted
        self.viewer = viewer
        self.rules = frozenset(wanted.rules())
        self.lost = 0

    def tell(self, data: bytes) -> None:
        """An entry, or what was lost since the last one."""
        if self.lost:
            data += b'event: lost\ndata: {"entries": %d}\n\n' % self.lost
        if self.viewer.write(data):
            self.lost = 0
        else:
            self.lost += 1


class Recorder:
    """See the module. users: rule -> the user whose bridge it is; revision: of the configuration."""

    def __init__(self, env: Env, users: Callable[[str], str] = lambda rule: "", revision: Callable[[], int] = lambda: 0) -> None:
        self.env = env
        self.users = users
        self.revision = revision
        self.seen = -1
        self.recordings: dict[Viewer, Recording] = {}
        self.tapes: WeakKeyDictionary[Session, Tape] = WeakKeyDictionary()
        self.held = 0
        self.left = MOST
        self.told = self.lost = 0
        """Entries, ever."""
        self.timer: asyncio.TimerHandle | None = None
        self.looked = self.spoke = 0.0

    # ------------------------------------------------------------------ who records

    def join(self, viewer: Viewer, wanted: Wanted) -> None:
        """Begin."""
        viewer.write(b": carrier records\n\n")
        self.recordings[viewer] = Recording(wanted, viewer)
        if self.timer is None:
            self.env.read(self.read)
            self.looked = self.spoke = self.env.loop.time()
            self._next()
        self.env.recorder = self

    def leave(self, viewer: Viewer) -> None:
        """He has enough. Idempotent; tapes of sessions that are open stay where they are, and keep nothing more."""
        self.recordings.pop(viewer, None)
        if not self.recordings and self.timer is not None:
            self.timer.cancel()
            self.timer = self.env.recorder = None
            if self.env.ledger is not None:
                self.env.ledger.readers.remove(self.read)
            for tape in self.tapes.values():
                tape.most = 0
            self.tapes.clear()

    # ------------------------------------------------------------------ what happens

    def wants(self, decision: Decision) -> bool:
        """Is a session that was decided so to have a tape? It gets it from `tape`, when it begins."""
        return bool(self._asked(decision))

    def _asked(self, decision: Decision) -> list[Recording]:
        """Who records it; nobody, when there are too many, which is counted."""
        rule = decision.rule
        asked = [recording for recording in self.recordings.values() if rule in recording.rules]
        if asked and (self.left <= 0 or len(self.tapes) >= SESSIONS):
            for recording in asked:
                recording.lost += 1
                self.lost += 1
            return []
        return asked

    def tape(self, session: Session, decision: Decision) -> Tape | None:
        """The tape of a session that begins; None: nobody records it, or there are too many."""
        asked = self._asked(decision)
        if not asked:
            return None
        self.left -= 1
        made = self.tapes[session] = Tape(max(recording.wanted.bodies for recording in asked), self._room)
        return made

    def _room(self, size: int) -> bool:
        self.held += size
        return self.held <= HELD

    def read(self, ended: Sequence[Any]) -> None:
        """A reader of the ledger."""
        for entry in ended:
            if entry.__class__ is not tuple and entry.rare is not None and entry.tape is not None:
                self._tell(entry, entry.tape)
                self.tapes.pop(entry, None)

    def _tell(self, session: Session, tape: Tape) -> None:
        rule = session.decision.rule
        hidden = self.env.hidden
        known: dict[bool, bytes] = {}
        for recording in self.recordings.values():
            if rule not in recording.rules:
                continue
            secrets = recording.wanted.secrets
            if secrets not in known:
                made = har.entry(session, tape, self.users(rule), None if secrets else hidden)
                known[secrets] = b"event: entry\ndata: %b\n\n" % msgspec.json.encode(made)
            before = recording.lost
            recording.tell(known[secrets])
            self.told += recording.lost <= before
            self.lost += recording.lost > before
        self.spoke = self.env.loop.time()

    # ------------------------------------------------------------------ ten times a second, while somebody records

    def _next(self) -> None:
        self.timer = self.env.loop.call_later(PERIOD, self._beat)

    def _beat(self) -> None:
        now = self.env.loop.time()
        self.left = MOST
        self.held = sum(tape.weight for tape in self.tapes.values())
        if self.revision() != self.seen:
            self.seen = self.revision()
            for recording in self.recordings.values():
                recording.rules = frozenset(recording.wanted.rules())
        if now - self.looked >= YOUNG:
            self.looked = now
            for session, tape in list(self.tapes.items()):
                if session.status == DESTROYED:
                    self.tapes.pop(session, None)
                elif now - session.started >= YOUNG and now - tape.told >= OPEN and session.connected_at:
                    tape.told = now
                    self._tell(session, tape)
        if now - self.spoke >= QUIET:
            self.spoke = now
            for recording in self.recordings.values():
                recording.viewer.write(b":\n\n")
        self._next()

    def close(self) -> None:
        """The process ends."""
        for viewer in list(self.recordings):
            self.leave(viewer)
