"""Endpoint choice. A policy is a function of a key and the endpoints; it owns no socket and reads no clock.

Weights are honoured by every policy but Trivial and None. Consistent hashing places weight × 100 points per endpoint name on a
ring, so that endpoints of one address do not collapse and a removed endpoint moves only its own share (l7mp's ring had one point
per address: contract, section 12 (19)). An endpoint that is down is chosen only when all that are left are down.
"""

from __future__ import annotations

import bisect
import hashlib
import random
from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

POLICIES = ("Trivial", "None", "HashRing", "ConsistentHash", "round_robin", "random", "least_sessions", "sticky")
"""l7mp's four (ConsistentHash is HashRing's other name), then ours. `sticky` is HashRing by another name that needs a key."""

KEYED = ("HashRing", "ConsistentHash", "sticky")
POINTS = 100
MAX_POINTS = 1 << 16
"""Points of one ring: heavier ones are scaled down, because a weight is only a proportion."""


class Weighted(Protocol):
    """What the ring is made of."""

    @property
    def name(self) -> str: ...
    @property
    def weight(self) -> float: ...


class Candidate(Weighted, Protocol):
    """What a policy sees of an endpoint."""

    @property
    def active(self) -> int: ...
    @property
    def up(self) -> bool: ...


E = TypeVar("E", bound=Candidate)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


class Balancer:
    """The policy of one cluster over one set of endpoints; made anew when the set changes.

    State: `credit` of smooth weighted round robin (nginx's algorithm: no bursts to the heaviest), and the hash ring.
    """

    def __init__(self, policy: str, endpoints: Sequence[Weighted]) -> None:
        self.policy = "HashRing" if policy in KEYED else policy
        self.credit: dict[str, float] = {}
        self.points: list[tuple[int, str]] = []
        if self.policy == "HashRing":
            total = sum(e.weight for e in endpoints)
            scale = min(POINTS, MAX_POINTS / total) if total > 0 else POINTS
            self.points = sorted((_hash(f"{e.name}#{i}"), e.name) for e in endpoints for i in range(max(1, round(e.weight * scale))))

    def choose(self, endpoints: Sequence[E], key: str | None = None, tried: Collection[str] = ()) -> E | None:
        """One of the endpoints not in `tried` (names), or None when there is none to choose."""
        if self.policy == "None":
            return None
        left = [e for e in endpoints if e.name not in tried] if tried else endpoints
        usable = [e for e in left if e.up and e.weight > 0] or left
        if not usable:
            return None
        if len(usable) == 1 or self.policy == "Trivial":
            return usable[0]
        if self.policy == "HashRing" and key is not None:
            return self._on_ring(usable, key)
        if self.policy == "round_robin":
            return self._next(usable)
        if self.policy == "least_sessions":
            return min(usable, key=lambda e: ((e.active + 1) / (e.weight or 1e-9), random.random()))
        return random.choices(usable, [e.weight or 1e-9 for e in usable])[0]

    def _next(self, usable: Sequence[E]) -> E:
        credit = self.credit
        for e in usable:
            credit[e.name] = credit.get(e.name, 0.0) + e.weight
        best = max(usable, key=lambda e: credit[e.name])
        credit[best.name] -= sum(e.weight for e in usable)
        return best

    def _on_ring(self, usable: Sequence[E], key: str) -> E:
        by_name = {e.name: e for e in usable}
        start = bisect.bisect(self.points, (_hash(key), ""))
        for i in range(len(self.points)):
            found = by_name.get(self.points[(start + i) % len(self.points)][1])
            if found is not None:
                return found
        return usable[0]
