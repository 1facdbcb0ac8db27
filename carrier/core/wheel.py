"""The connections of a listener, and when the deadlines of each have to be looked at: a timing wheel, one slot a second.

Most connections of most servers say nothing. So one that waits for its client says at its tick until when nothing of it has to be looked
at, and sleeps in the slot of that second. What wakes it is its own matter: it calls `wake` before anything begins on it. Whoever has work
to do is awake and looked at once a second. Nothing is paid for a request, nor a second for who sleeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableSet
from typing import Protocol, TypeVar


class Timed(Protocol):
    """What has deadlines."""

    def tick(self, now: float) -> float | None:
        """Look at them (monotonic seconds). Returns until when nothing has to be looked at, if that is more than a second; else None."""


T = TypeVar("T", bound=Timed)

LULL = 3.0
"""Seconds between two requests after which a connection goes to sleep."""
AWAKE = 0.0
NEVER = float("inf")
"""Sleeps until it is woken."""


class Wheel(MutableSet[T]):
    """See the module. A set of connections, each awake when it comes."""

    __slots__ = ("awake", "slots", "where")

    def __init__(self) -> None:
        self.where: dict[T, float] = {}
        """Connection -> the second that its slot is for, or AWAKE."""
        self.awake: set[T] = set()
        self.slots: dict[float, set[T]] = {}

    def __contains__(self, one: object) -> bool:
        return one in self.where

    def __iter__(self) -> Iterator[T]:
        return iter(self.where)

    def __len__(self) -> int:
        return len(self.where)

    def add(self, one: T) -> None:
        if one not in self.where:
            self.where[one] = AWAKE
            self.awake.add(one)

    def discard(self, one: T) -> None:
        when = self.where.pop(one, None)
        if when is not None:
            self._take_out(one, when)

    def take(self, other: Wheel[T]) -> Iterable[T]:
        """Have all of another wheel, awake; returns them."""
        taken = list(other)
        other.where, other.awake, other.slots = {}, set(), {}
        for one in taken:
            self.add(one)
        return taken

    def wake(self, one: T) -> None:
        """Look at its deadlines again from the next second on. Idempotent."""
        when = self.where.get(one)
        if when:
            self._take_out(one, when)
            self.where[one] = AWAKE
            self.awake.add(one)

    def turn(self, now: float, failed: Callable[[T, Exception], None]) -> None:
        """Once a second (monotonic seconds): `tick` of those that are awake, or whose slot has come. failed: told of one that raised."""
        where = self.where
        for when in [when for when in self.slots if when <= now]:
            for one in self.slots.pop(when):
                where[one] = AWAKE
                self.awake.add(one)
        looked_at, self.awake = self.awake, set()
        for one in looked_at:
            if one not in where:  # gone, because of one before
                continue
            try:
                until = one.tick(now)
            except Exception as exc:
                until = None
                failed(one, exc)
            if one not in where:
                continue
            if until is None or until <= now + 1:
                self.awake.add(one)
            else:
                when = until if until == NEVER else float(int(until) + 1)
                where[one] = when
                self.slots.setdefault(when, set()).add(one)

    def _take_out(self, one: T, when: float) -> None:
        if when == AWAKE:
            self.awake.discard(one)
            return
        slot = self.slots[when]
        slot.discard(one)
        if not slot:
            del self.slots[when]
