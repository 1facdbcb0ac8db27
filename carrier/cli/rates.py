"""How often, how badly and how slowly: two looks at /metrics, and what happened between them."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from carrier.cli.client import Client, Dict, Refused
from carrier.cli.labels import labels

Labels = Mapping[str, str]
_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? ([^ ]+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
FAILED = ("5xx", "failed")
"""Codes of carrier_sessions that are errors."""
SORTS: Mapping[str, Callable[[Row], object]]


class Row(NamedTuple):
    """What one rule, user, listener or endpoint has done. about: the user of a rule, the cluster of an endpoint. p99: in seconds, None
    where nothing ended; it is a histogram's, so between two of its bounds it is guessed."""

    name: str
    about: str
    requests: float
    errors: float
    p99: float | None

    @property
    def share(self) -> float:
        """Errors among the requests, 0 to 1."""
        return min(1.0, self.errors / self.requests) if self.requests else 1.0 if self.errors else 0.0


SORTS = {
    "requests": lambda row: (-row.requests, row.name),
    "errors": lambda row: (-row.errors, -row.requests, row.name),
    "p99": lambda row: (-(row.p99 or 0), -row.requests, row.name),
    "name": lambda row: row.name,
}
"""What rows are sorted by: most first, but names from A on."""


class Look(NamedTuple):
    """All counters at one moment (monotonic seconds), and what runs."""

    at: float
    values: Mapping[str, list[tuple[Labels, float]]]
    status: Dict


def look(client: Client) -> Look:
    """Raises Refused."""
    text = client.call("GET", "/metrics")
    at = time.monotonic()
    found = samples(text if isinstance(text, str) else "")
    if "carrier_build_info" not in found:
        raise Refused(0, "no metrics are there to count by")
    return Look(at, found, client.call("GET", "status"))


def samples(text: str) -> dict[str, list[tuple[Labels, float]]]:
    """The samples of an exposition (Prometheus's text format, 0.0.4), by name."""
    found: dict[str, list[tuple[Labels, float]]] = defaultdict(list)
    for line in text.splitlines():
        if (sample := _SAMPLE.match(line)) is not None:
            name, inner, value = sample.groups()
            found[name].append(({key: _ESCAPED.sub(_unescaped, text) for key, text in _LABEL.findall(inner or "")}, float(value)))
    return found


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]


class Between:
    """What happened between two looks, per second."""

    def __init__(self, before: Look, after: Look) -> None:
        self.seconds = max(0.001, after.at - before.at)
        self.status = after.status
        self.named = labels(after.status)
        earlier = {(name, *sorted(tags.items())): value for name, listed in before.values.items() for tags, value in listed}
        self.grown: dict[str, list[tuple[Labels, float]]] = {
            name: [(tags, max(0.0, value - earlier.get((name, *sorted(tags.items())), 0.0))) for tags, value in listed]
            for name, listed in after.values.items()
            if name.endswith(("_total", "_bucket"))
        }
        self.users = {rule["rule"]: rule["user"] for listener in after.status["listeners"] for rule in listener["rules"]}

    def rules(self) -> list[Row]:
        """By rule: sessions that have ended."""
        return [
            self._row(self.named.get(rule, rule), self.users.get(rule, ""), lambda tags, rule=rule: tags["rule"] == rule)  # type: ignore[misc]
            for rule in dict.fromkeys(tags["rule"] for tags, _ in self._sessions() if tags["rule"])
        ]

    def users_(self) -> list[Row]:
        """By the user whose bridges they are."""
        users = dict.fromkeys(user for user in self.users.values() if user)
        return [self._row(user, "", lambda tags, user=user: self.users.get(tags["rule"]) == user) for user in users]  # type: ignore[misc]

    def listeners(self) -> list[Row]:
        """By listener."""
        names = [listener["name"] for listener in self.status["listeners"]]
        return [self._row(name, "", lambda tags, name=name: tags["listener"] == name) for name in names]  # type: ignore[misc]

    def all(self) -> Row:
        """All of them."""
        return self._row("", "", lambda tags: True)

    def endpoints(self) -> list[Row]:
        """By endpoint: sessions that it got, and attempts that failed; p99 is that of its cluster."""
        got, failed = (
            {(tags["cluster"], tags["endpoint"]): value for tags, value in self.grown.get(f"carrier_endpoint_{name}_total", ())}
            for name in ("sessions", "failures")
        )
        found = []
        for cluster in self.status["clusters"]:
            slow = self._p99(lambda tags, name=cluster["name"]: tags["cluster"] == name)  # type: ignore[misc]
            for endpoint in cluster["endpoints"]:
                at = cluster["name"], endpoint["name"]
                about = self.named.get(cluster["name"], cluster["name"])
                found.append(Row(endpoint["address"], about, got.get(at, 0) / self.seconds, failed.get(at, 0) / self.seconds, slow))
        return found

    def _sessions(self) -> list[tuple[Labels, float]]:
        return self.grown.get("carrier_sessions_total", [])

    def _row(self, name: str, about: str, takes: Callable[[Labels], bool]) -> Row:
        mine = [(tags, value) for tags, value in self._sessions() if takes(tags)]
        flows = {(tags["listener"], tags["cluster"]) for tags, value in mine if value}
        requests = sum(value for _, value in mine)
        errors = sum(value for tags, value in mine if tags["code"] in FAILED)
        slow = self._p99(lambda tags: (tags["listener"], tags["cluster"]) in flows)
        return Row(name, about, requests / self.seconds, errors / self.seconds, slow)

    def _p99(self, takes: Callable[[Labels], bool]) -> float | None:
        buckets: dict[float, float] = defaultdict(float)
        for tags, value in self.grown.get("carrier_session_seconds_bucket", ()):
            if takes(tags):
                buckets[float(tags["le"])] += value
        return quantile(0.99, sorted(buckets.items()))


def quantile(part: float, buckets: Iterable[tuple[float, float]]) -> float | None:
    """The value below which this part of all is, of cumulative buckets (upper bound, count); straight between two bounds, as Prometheus's
    histogram_quantile; None when nothing was counted."""
    listed = list(buckets)
    total = listed[-1][1] if listed else 0
    if not total:
        return None
    below, before = 0.0, 0.0
    for bound, count in listed:
        if count >= part * total:
            return below if bound == float("inf") else below + (bound - below) * (part * total - before) / ((count - before) or 1)
        below, before = bound, count
    return below
