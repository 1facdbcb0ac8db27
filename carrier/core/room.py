"""Who leaves when a listener is full: connections that are of no use to anybody give their place to new ones.

nginx closes its oldest idle connections when it runs short, so that whoever opens thousands and says nothing (slowloris) keeps nobody out.
Here heads that are begun and not finished leave too, and first: an honest client sends its head in one piece. What serves a request never
leaves. Candidates are looked for in batches, so that a flood of connections costs each of them a constant.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from heapq import nsmallest
from typing import Generic, Protocol, TypeVar

UNFINISHED, IDLE, YOUNG = range(3)
"""Ranks, the first to leave first: no whole head for PATIENCE seconds; between two requests, or answered for the last time; the others."""
PATIENCE = 1.0
"""Seconds that a head may take before its connection counts as unfinished."""
PART = 8
"""A look at all connections finds so many leavers: one in PART of them."""
REST = 0.1
"""Seconds without a look after one that has found nobody."""


class Occupant(Protocol):
    """What takes a place."""

    def standing(self, now: float) -> tuple[int, float] | None:
        """(rank, monotonic seconds since which it has been of no use); None: it is being used, or gone already."""


T = TypeVar("T", bound=Occupant)


class Room(Generic[T]):
    """The connections of one listener that are to leave next."""

    def __init__(self, young: bool = True) -> None:
        """young: also those may leave that have had no time to be of use."""
        self.young = young
        self.leavers: deque[tuple[T, float]] = deque()
        self.rested = 0.0
        """When it is worth looking again."""

    def choose(self, occupants: Collection[T], now: float) -> T | None:
        """Whose place is to be taken, None: all are being used. `now`: monotonic seconds."""
        found = self._next(now)
        if found is None and now >= self.rested:
            self._look(occupants, now)
            found = self._next(now)
            if found is None:
                self.rested = now + REST
        return found

    def _look(self, occupants: Collection[T], now: float) -> None:
        standings = ((*at, number, one) for number, one in enumerate(occupants) if (at := one.standing(now)) is not None)
        if not self.young:
            standings = (standing for standing in standings if standing[0] != YOUNG)
        oldest = nsmallest(max(1, len(occupants) // PART), standings, key=lambda found: found[:3])
        self.leavers.extend((one, since) for _, since, _, one in oldest)

    def _next(self, now: float) -> T | None:
        while self.leavers:
            one, since = self.leavers.popleft()
            at = one.standing(now)
            if at is not None and at[1] == since:  # it has done nothing since it was chosen
                return one
        return None
