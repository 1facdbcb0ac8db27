"""Endpoint choice: by policy, and for all policies without looking at every endpoint. It owns no socket and reads no clock.

What a policy needs is prepared once for a list of endpoints, and again when one of them went up or down (`changed`): a cycle, sums of
weights, a heap by sessions, the names on the ring. A choice is then a step, or a few comparisons.

Weights are honoured by every policy but Trivial and None. Consistent hashing places weight × 100 points per endpoint name on a
ring, so that endpoints of one address do not collapse and a removed endpoint moves only its own share (l7mp's ring had one point
per address: contract, section 12 (19)). An endpoint that is down is chosen only when all that are left are down.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
import math
import random
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate
from typing import Any, Protocol, TypeVar, cast

POLICIES = ("Trivial", "None", "HashRing", "ConsistentHash", "round_robin", "random", "least_sessions", "sticky")
"""l7mp's four (ConsistentHash is HashRing's other name), then ours. `sticky` is HashRing by another name that needs a key."""

KEYED = ("HashRing", "ConsistentHash", "sticky")
POINTS = 100
MAX_POINTS = 1 << 16
"""Points of one ring: heavier ones are scaled down, because a weight is only a proportion."""


CYCLE = 20_000
"""Steps that a cycle of turns may take to be made; where weights need more, turns come from a heap."""
SPREAD = (math.sqrt(5) - 1) / 2
"""Where the first turns stand that come from a heap: so that equals do not come in bursts."""
NOTHING = 1e-9
"""The weight of an endpoint that has none, when only such are left."""


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
    """The state of one cluster's policy. kept: a choice that was made and not used: the next one is that."""

    def __init__(self, policy: str, endpoints: Sequence[Weighted]) -> None:
        self.policy = "HashRing" if policy in KEYED else policy
        self.points: list[tuple[int, str]] = []
        self.listed: Sequence[Any] | None = None
        """The endpoints that all below is prepared for; None: not yet, or not any more."""
        self.usable: list[Any] = []
        self.kept: Any = None
        self.step = 0
        self.cycle: list[Any] = []
        """Whose turn it is, one after the other, with `step` turns taken."""
        self.heap: list[tuple[float, float, int, Any]] = []
        """Next turns, or sessions by weight: (place, order among equals, number, endpoint)."""
        self.sums: list[float] = []
        self.names: dict[str, Any] = {}
        if self.policy == "HashRing":
            total = sum(e.weight for e in endpoints)
            scale = min(POINTS, MAX_POINTS / total) if total > 0 else POINTS
            self.points = sorted((_hash(f"{e.name}#{i}"), e.name) for e in endpoints for i in range(max(1, round(e.weight * scale))))

    def choose(self, endpoints: Sequence[E], key: str | None = None, tried: Collection[str] = ()) -> E | None:
        """One of the endpoints not in `tried` (names), or None when there is none to choose."""
        if tried:
            return self._second_choice([e for e in endpoints if e.name not in tried], key)
        if endpoints is not self.listed:
            self._prepare(endpoints)
        found: E | None = self.kept
        if found is not None:
            self.kept = None
            return found
        return cast("E | None", self._pick(key))

    def peek(self, endpoints: Sequence[E], key: str | None = None) -> E | None:
        """What `choose` will say next."""
        self.kept = found = self.choose(endpoints, key)
        return found

    def changed(self) -> None:
        """An endpoint went up or down, or has another weight."""
        self.listed = self.kept = None

    def eased(self, endpoint: Any) -> None:
        """A session has left an endpoint: it may be the one with the fewest by now."""
        if self.listed is not None and self.policy == "least_sessions":
            if len(self.heap) > 4 * len(self.usable) + 16:
                self._prepare(self.listed)
            else:
                heapq.heappush(self.heap, self._load(endpoint))

    # ------------------------------------------------------------------ policies

    _pick: Callable[[str | None], Any]

    def _prepare(self, endpoints: Sequence[Any]) -> None:
        usable = _usable(endpoints)
        self.listed, self.usable, self.kept = endpoints, usable, None
        if not usable or self.policy == "None":
            self._pick = lambda key: None
        elif len(usable) == 1 or self.policy == "Trivial":
            self._pick = lambda key: usable[0]
        elif self.policy == "round_robin":
            self._prepare_turns(usable)
        elif self.policy == "least_sessions":
            self.heap = [(_load(e), random.random(), e.active, e) for e in usable]
            heapq.heapify(self.heap)
            self._pick = self._least
        else:
            self.sums = list(accumulate(e.weight or NOTHING for e in usable))
            self.names = {e.name: e for e in usable}
            self._pick = self._on_ring if self.policy == "HashRing" else self._by_chance

    def _prepare_turns(self, usable: list[Any]) -> None:
        weights = [e.weight or NOTHING for e in usable]
        least = min(weights)
        whole = [w / least for w in weights]
        turns = sum(whole)
        if turns == len(usable):
            self.cycle = usable
        elif all(w.is_integer() for w in whole) and turns * len(usable) <= CYCLE:
            self.cycle = _cycle(usable, whole)
        else:
            self.cycle = []
            self.heap = [((n * SPREAD % 1) / w, 0.0, n, e) for n, (e, w) in enumerate(zip(usable, weights, strict=True))]
            heapq.heapify(self.heap)
        self._pick = self._turn if self.cycle else self._next

    def _turn(self, key: str | None) -> Any:
        cycle, step = self.cycle, self.step
        self.step = step + 1
        return cycle[step % len(cycle)]

    def _next(self, key: str | None) -> Any:
        at, order, number, found = self.heap[0]
        heapq.heapreplace(self.heap, (at + 1 / (found.weight or NOTHING), order, number, found))
        return found

    def _least(self, key: str | None) -> Any:
        """Who has most by now stands too far in front: it is put where it belongs, until one stands right."""
        heap = self.heap
        while True:
            _, _, active, found = heap[0]
            if active == found.active:
                heapq.heapreplace(heap, self._load(found))
                return found
            if active > found.active:  # it stands in front as well, for what it has now
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, self._load(found))
            if not heap:
                self._prepare(self.listed or ())
                heap = self.heap

    def _load(self, endpoint: Any) -> tuple[float, float, int, Any]:
        """Where an endpoint stands among others by its sessions: equals take turns."""
        self.step += 1
        return _load(endpoint), self.step, endpoint.active, endpoint

    def _by_chance(self, key: str | None) -> Any:
        return self.usable[min(bisect.bisect(self.sums, random.random() * self.sums[-1]), len(self.usable) - 1)]

    def _on_ring(self, key: str | None) -> Any:
        return self._by_chance(key) if key is None else _on_ring(self.points, self.names, key) or self.usable[0]

    def _second_choice(self, left: list[E], key: str | None) -> E | None:
        """Of what is left when others have failed; that is rare, and looks at each."""
        usable = _usable(left)
        if not usable or self.policy == "None":
            return None
        if len(usable) == 1 or self.policy == "Trivial":
            return usable[0]
        if self.policy == "HashRing" and key is not None:
            return _on_ring(self.points, {e.name: e for e in usable}, key) or usable[0]
        if self.policy == "least_sessions":
            return min(usable, key=lambda e: (_load(e), random.random()))
        return random.choices(usable, [e.weight or NOTHING for e in usable])[0]


def _usable(endpoints: Sequence[E]) -> list[E]:
    """Those that are up and weigh something, or all."""
    return [e for e in endpoints if e.up and e.weight > 0] or list(endpoints)


def _load(endpoint: Candidate) -> float:
    return (endpoint.active + 1) / (endpoint.weight or NOTHING)


def _cycle(endpoints: Sequence[E], weights: Sequence[float]) -> list[E]:
    """Turns by weight, as evenly as can be: who is owed most is next (nginx's smooth round robin)."""
    owed = [0.0] * len(endpoints)
    total = sum(weights)
    found = []
    for _ in range(round(total)):
        owed = [o + w for o, w in zip(owed, weights, strict=True)]
        best = max(range(len(owed)), key=owed.__getitem__)
        owed[best] -= total
        found.append(endpoints[best])
    return found


def _on_ring(points: list[tuple[int, str]], names: dict[str, E], key: str) -> E | None:
    start = bisect.bisect(points, (_hash(key), ""))
    for n in range(len(points)):
        found = names.get(points[(start + n) % len(points)][1])
        if found is not None:
            return found
    return None
