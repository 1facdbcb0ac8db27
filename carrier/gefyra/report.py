"""What becomes of a bridge's requests, told to its owner without exec: as events and in the status of the GefyraBridge.

The proxies count (carrier/gefyra/tally.py); here the pods' counts are put together, and what is news is told once:
- the first request that was the bridge's;
- the endpoint, when it is not there (in the words of carrier/bridges/shown.py), and when it is again;
- requests that the shadow answered instead, and why;
- that none matched, how many came, and the one that came nearest: after a minute, and after ten.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from carrier.gefyra.access import Access, Fleet, Object, name_of
from carrier.gefyra.mount import CarrierMount
from carrier.gefyra.wanted import in_her_words, is_live, pods_of, waits

OFTEN, SELDOM = 3.0, 15.0
"""Seconds between two looks at what the pods have counted, while a bridge is younger than YOUNG, and later."""
YOUNG = 90.0
BUSY = 15.0
"""Seconds for which a look waits, at most, while bridges are being made."""
WRITTEN = 30.0
"""Seconds between two writings of a status of which only numbers have changed."""
UNMATCHED = (60.0, 600.0)
"""Ages of a bridge at which it is told that nothing matched."""


class Told:
    """What the owner of a bridge has been told. born: when we saw it first."""

    def __init__(self, born: float) -> None:
        self.born = born
        self.first = False
        self.unmatched = 0
        self.health = ""
        self.seen = ""
        self.shadowed = 0
        self.status: Object = {}
        self.written = 0.0


class Reports:
    """Of one mount's bridges."""

    def __init__(self, mount: CarrierMount) -> None:
        self.mount = mount
        self.access: Access = mount.access
        self.told: dict[str, Told] = {}
        self.next = 0.0
        self.busy = 0.0
        """Since when bridges are being made (monotonic seconds); 0: none is."""

    async def look(self, now: float, objects: list[Object]) -> float:
        """Ask the pods, if it is time to; returns the seconds until it is again. now: monotonic seconds; objects: the mount's bridges."""
        if now < self.next:
            return self.next - now
        if any(map(waits, objects)) and now - (self.busy or now) < BUSY:
            self.busy, self.next = self.busy or now, now + OFTEN
            return OFTEN  # what is made now comes first
        self.busy = 0.0
        bridges = {name_of(one): one for one in objects if is_live(one)}
        for name in [name for name in self.told if name not in bridges]:
            del self.told[name]
        if not bridges:
            return SELDOM
        found = await self._counts()
        for name, bridge in bridges.items():
            told = self.told.setdefault(name, Told(now - _age(bridge)))
            if name in found:
                await self._tell(bridge, told, found[name], now)
        pause = OFTEN if any(now - told.born < YOUNG for told in self.told.values()) else SELDOM
        self.next = now + pause
        return pause

    async def _counts(self) -> dict[str, Object]:
        """By object: what all pods have counted, of all its ports."""
        pods = await pods_of(self.access, self.mount.namespace, self.mount.target)
        proxies = [pod for pod in pods if self.mount._runs_proxy(pod)]
        found: dict[str, Object] = {}
        for answer in await Fleet(self.access, proxies, self.mount.container).call("GET", "mount"):
            for one in answer.body.get("bridges", []) if answer.good and isinstance(answer.body, Mapping) else []:
                owner = str(one["name"]).rpartition(".")[0]
                _add(found.setdefault(owner, {"hits": 0, "requests": 0, "fallbacks": {}, "near": "", "health": "", "reached": False}), one)
        return found

    async def _tell(self, bridge: Object, told: Told, counts: Object, now: float) -> None:
        async def event(reason: str, note: str, type: str = "Normal") -> None:
            await self.access.event(bridge, reason, note, type)

        shadowed = sum(counts["fallbacks"].values())
        if counts["hits"] and not told.first:
            told.first = True
            await event("First request", f"the first request matched this bridge ({counts['hits']} by now)")
        trouble = "" if counts["reached"] else in_her_words(counts["health"], bridge)
        lasting, told.seen = trouble == told.seen, trouble  # what is over at the next look is nobody's trouble
        if trouble != told.health and (lasting or not trouble):
            if trouble:
                await event("Endpoint not reached", f"the shadow serves this bridge's requests: {trouble}", "Warning")
            elif told.health:
                await event("Endpoint reached", "the endpoint answers again")
            told.health = trouble
        if shadowed > told.shadowed:
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts["fallbacks"].items()))
            if not told.shadowed or shadowed >= 2 * told.shadowed:
                text = f"{shadowed} of {counts['hits']} requests of this bridge were served by the shadow: {reasons}"
                await event("Served by the shadow", text, "Warning")
                told.shadowed = shadowed
        due = told.unmatched < len(UNMATCHED) and now - told.born >= UNMATCHED[told.unmatched]
        if due and counts["requests"] and not counts["hits"]:
            told.unmatched += 1
            await event("No request matched", _unmatched(counts, now - told.born), "Warning")
        await self._write(bridge, told, counts, shadowed, now)

    async def _write(self, bridge: Object, told: Told, counts: Object, shadowed: int, now: float) -> None:
        """The status: at once when it says something else, seldom when only numbers have changed."""
        said = told.health or ("reached" if counts["reached"] else "not tried yet")
        status: Object = {"requests": counts["requests"], "matched": counts["hits"], "shadow": shadowed, "endpoint": said}
        status["nearest"] = counts["near"] if not counts["hits"] else None
        same = all(told.status.get(name) == status[name] for name in ("endpoint", "nearest"))
        if status == told.status or (same and now - told.written < WRITTEN and told.status.get("matched")):
            return
        told.status, told.written = status, now
        namespace = self.mount.gefyra_namespace
        await self.access.patch("gefyrabridge", namespace, name_of(bridge), {"status": {"carrier2": status}})


def _unmatched(counts: Object, age: float) -> str:
    near = f"; the nearest was {counts['near']}" if counts["near"] else ""
    since = f"{age / 60:.0f} min" if age >= 60 else f"{age:.0f} s"
    return f"none of {counts['requests']} requests matched this bridge in {since}{near}"


def _add(found: Object, one: Mapping[str, Any]) -> None:
    """What one pod has counted of one port."""
    found["hits"] += int(one.get("hits") or 0)
    found["requests"] += int(one.get("requests") or 0)
    for reason, count in (one.get("fallbacks") or {}).items():
        found["fallbacks"][reason] = found["fallbacks"].get(reason, 0) + int(count)
    found["near"] = found["near"] or str(one.get("near") or "")
    if one.get("healthy") and one.get("sessions"):
        found["reached"] = True
    elif not one.get("healthy", True):
        found["health"] = found["health"] or str(one.get("health") or "")


def _age(bridge: Object) -> float:
    """Seconds since the object was made."""
    made = bridge["metadata"].get("creationTimestamp")
    if not made:
        return 0.0
    return max(0.0, time.time() - datetime.fromisoformat(str(made)).astimezone(UTC).timestamp())
