"""What became of the requests of each bridge, for the one who waits for hers: how many came, who answered instead, and which came nearest.

Counts are of the daemon's life. A request that the shadow got is put beside the bridges of its port, at most LOOKS times a second, and
the one that met most of a bridge's conditions is remembered, in words: "GET /cart: x-user is exactly "john": it was "John" (differs only in
case)". kubelet's probes are nobody's requests.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from carrier.core.reuse import recorded
from carrier.errors import shown
from carrier.rules.condition import Condition
from carrier.rules.near import ConditionReport, reports

if TYPE_CHECKING:
    from carrier.core.decision import Decision
    from carrier.core.session import Session
    from carrier.model import Bridge
    from carrier.proxy.proxy import Proxy

LOOKS = 20
"""Requests a second, at most, that are put beside the bridges that did not get them."""
FRESH = 60.0
"""Seconds after which a near miss gives way to one that is as near."""


class Miss(msgspec.Struct):
    """A request that a bridge did not get. score: how much of the bridge's conditions it met; at: monotonic seconds."""

    score: float
    at: float
    text: str


class Tally:
    """See the module."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.requests: dict[str, int] = {}
        """By listener."""
        self.since: dict[str, int] = {}
        """By bridge: how many requests its listener had seen when it was made."""
        self.fallbacks: dict[str, dict[str, int]] = {}
        """By rule: how often somebody else answered, and why."""
        self.misses: dict[str, Miss] = {}
        """By rule."""
        self.looked = 0.0

    def read(self, ended: Sequence[Any]) -> None:
        """A reader of the ledger."""
        for entry in ended:
            if entry.__class__ is not tuple:
                self._count(entry.listener.name, entry.decision, entry.request, entry.fallback, entry)
            else:  # one of many that went as it should; the session is made of it only to be looked at
                self._count(entry[0].name, entry[5], entry[4], None, entry)

    def _count(self, name: str, decision: Decision | None, request: Any, fallback: str | None, entry: Any) -> None:
        if decision is None or request is None or name not in self.proxy.tables or decision.rule.endswith("/probes"):
            return
        self.requests[name] = self.requests.get(name, 0) + 1
        if fallback:
            found = self.fallbacks.setdefault(decision.rule, {})
            found[fallback] = found.get(fallback, 0) + 1
        if decision.rule.endswith("/shadow") and self.proxy.config.bridges:
            now = time.monotonic()
            if now - self.looked >= 1 / LOOKS:
                self.looked = now
                self._compare(recorded(entry) if entry.__class__ is tuple else entry, now)

    def _compare(self, session: Session, now: float) -> None:
        meta = session.metadata
        for rule, condition in self._bridged(session.listener.name):
            score, text = _nearness(condition, meta)
            best = self.misses.get(rule)
            if best is None or score > best.score or (score == best.score and now - best.at > FRESH):
                self.misses[rule] = Miss(score, now, f"{_said(meta)}: {text}")

    def _bridged(self, listener: str) -> Iterator[tuple[str, Condition]]:
        """The rules of a listener's bridges, with what they ask for."""
        own = {rule for bridge in self.proxy.config.bridges.values() if bridge.listener == listener for rule in bridge.rules}
        table = self.proxy.tables.get(listener)
        for _, decisions in table.lists.values() if table is not None else ():
            yield from ((d.rule, d.asked) for d in decisions if d.rule in own and isinstance(d.asked, Condition))

    def made(self, bridge: Bridge) -> None:
        """A bridge is new, or another one than before: its counts begin."""
        self.since[bridge.name] = self.requests.get(bridge.listener, 0)
        for rule in bridge.rules:
            self.fallbacks.pop(rule, None)
            self.misses.pop(rule, None)

    def forget(self, bridges: Mapping[str, Bridge]) -> None:
        """Keep what is said of these bridges only."""
        rules = {rule for bridge in bridges.values() for rule in bridge.rules}
        for kept, named in ((self.since, bridges.keys()), (self.misses, rules), (self.fallbacks, rules)):
            for name in [name for name in kept if name not in named]:
                del kept[name]

    def of(self, bridge: Bridge) -> dict[str, Any]:
        """What is to be said of a bridge. hits: requests that were its; requests: all of its port since it was made."""
        fallbacks: dict[str, int] = {}
        for rule in bridge.rules:
            for reason, count in self.fallbacks.get(rule, {}).items():
                fallbacks[reason] = fallbacks.get(reason, 0) + count
        misses = [self.misses[rule] for rule in bridge.rules if rule in self.misses]
        return {
            "hits": sum(self.proxy.hits[rule].count for rule in bridge.rules if rule in self.proxy.hits),
            "requests": self.requests.get(bridge.listener, 0) - self.since.get(bridge.name, 0),
            "fallbacks": fallbacks,
            "near": max(misses, key=lambda miss: miss.score).text if misses else "",
        }


def _said(meta: Mapping[str, Any]) -> str:
    """The request, in a few words."""
    http = meta.get("HTTP") or {}
    url = http.get("url") or {}
    return f"{http.get('method', '')} {shown(url.get('path', ''), 80)[1:-1]}".strip()


def _nearness(condition: Condition, meta: object) -> tuple[float, str]:
    """How much of a condition a request met, and in words what it lacked."""
    best = (-1.0, "")
    for way in _ways(reports(condition, meta)):
        missed = [one for one in way if not one.held]
        score = (len(way) - len(missed) + sum(0.5 for one in missed if one.seen is not None)) / (len(way) or 1)
        if score > best[0]:
            best = (score, "; ".join(map(_lack, missed)))
    return best


def _ways(found: tuple[ConditionReport, ...]) -> list[tuple[ConditionReport, ...]]:
    """The alternatives of a bridge: its match is one group of them, or conditions that must all hold."""
    if len(found) == 1 and found[0].parts and found[0].text.startswith("any"):
        return [part.parts or (part,) for part in found[0].parts]
    return [found]


def _lack(report: ConditionReport) -> str:
    seen = f"it was {report.seen}" if report.seen is not None else "it was not there"
    return f"{report.text}: {seen}" + (f" ({report.near})" if report.near and report.seen is not None else "")
