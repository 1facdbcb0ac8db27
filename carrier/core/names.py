"""The names of sessions, where two could have the same one: the later gets `_1`, `_2`, … (contract, section 4).

A TCP connection has its addresses for a name, and a client may come from the same port again while the session of before is still
remembered (`options.track`); a listener that is deleted and posted again counts from 0, while sessions of the old one live on. A protocol
whose names hold addresses and a number, as HTTP's do, need not ask.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from carrier.core.stream import DESTROYED

if TYPE_CHECKING:
    from carrier.core.parts import Session

TICK = 1.0
"""Seconds that an ended session may be listed after its time: once a second somebody looks."""


class Names:
    """Who has which name. A name is free again when its session is neither live nor remembered."""

    def __init__(self) -> None:
        self.held: WeakValueDictionary[str, Session] = WeakValueDictionary()

    def give(self, session: Session, name: str) -> str:
        """`name`, or the first of `name_1`, `name_2`, … that no listed session has; the session has it from now on."""
        found, n = name, 0
        while (holder := self.held.get(found)) is not None and _listed(holder):
            n += 1
            found = f"{name}_{n}"
        self.held[found] = session
        return found


def _listed(session: Session) -> bool:
    """Is it live, or remembered?"""
    track = session.listener.track
    return session.status != DESTROYED or (track > 0 and monotonic() < session.ended_at + track + TICK)
