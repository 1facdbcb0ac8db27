"""Memory that gets short: sessions that have begun are read only as fast as what they hold is taken.

To refuse new sessions bounds their number, not what those that are there fill: a thousand clients that ask for much and read nothing hold
a piece of an answer each, and a container with a memory limit is killed. So from TIGHT of the limit on, nothing more is read for who has
not taken what is there, and for the others no more than fits, in turns. Whoever reads is served; it goes on for all when memory is free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from carrier.core.stream import DESTROYED, Socket

if TYPE_CHECKING:
    from carrier.core.session import Session

TIGHT = 0.7
"""Part of the memory limit."""
COST = 256 * 1024
"""Bytes that one session may read at once at most: a read of the event loop's."""
TRICKLE = 12
"""Looks after which one session more may read where memory rests at its limit, so that nobody waits for ever."""


class Brake:
    """See the module. sessions: those that are there."""

    def __init__(self, sessions: Callable[[], Iterable[Session]]) -> None:
        self.sessions = sessions
        self.held: dict[Socket, Socket] = {}
        """Destination that is not read -> its session's source."""
        self.looks = 0

    def look(self, memory: int, limit: int) -> None:
        """Decide by what was seen: bytes resident, and allowed, 0 for any number. To be asked often while anything is held."""
        tight = 0 < limit * TIGHT < memory
        if tight:
            self.looks += 1
            self._tighten(max(limit - memory, 0) // COST or not self.looks % TRICKLE)
        elif self.held:
            for destination, source in list(self.held.items()):
                self._release(destination, source)

    def _tighten(self, places: int) -> None:
        """Nobody is read for who has something left to take, and of the others so many, who has waited longest first."""
        there = {
            session.destination: session.source
            for session in self.sessions()
            if session.status != DESTROYED and isinstance(session.destination, Socket)
        }
        before, self.held = self.held, {}
        for destination in [*before, *(one for one in there if one not in before)]:
            source = there.get(destination)
            if source is None:
                continue  # its session has ended
            if places > 0 and not source.untaken():
                places -= 1
                if destination in before:
                    destination.resume()
            else:
                self.held[destination] = source
                if destination not in before:
                    destination.pause()

    def _release(self, destination: Socket, source: Socket) -> None:
        """Read again, as soon as all is taken: until then its own bound may hold it, too, and would not say so again."""
        if destination.session is None or not source.untaken():
            del self.held[destination]
            destination.resume()
