"""Metric: counts the bytes and messages of each session that pass; the cluster Prometheus shows them (contract, section 6).

In l7mp the counters of sessions stay for ever. Here those of the last `KEPT` ended ones do, long enough to be scraped.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.core.spec import check_text
from carrier.core.stream import DESTROYED, Stream

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.session import Session
    from carrier.errors import Problem

KEPT = 1000
IGNORED = ("byteCounterName", "packetCounterName")
"""Fields that l7mp takes, ignores and does not show."""


class Counts:
    """What passed of the sessions of one name."""

    __slots__ = ("bytes", "messages", "session")

    def __init__(self, session: Session) -> None:
        self.bytes = self.messages = 0
        self.session = weakref.ref(session)

    def live(self) -> bool:
        """Is the session there?"""
        session = self.session()
        return session is not None and session.status != DESTROYED


class MetricCluster(Cluster):
    """`spec: {protocol: Metric}`. counts: by session name."""

    protocol = "Metric"
    kind = "datagram"
    virtual = True
    same_length = True

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        super().__init__(conf, env)
        self.counts: dict[str, Counts] = {}

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        return super().check({name: value for name, value in spec.items() if name not in IGNORED}, path) + check_text(spec, path, *IGNORED)

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream:
        counts = self.counts.get(session.name)
        if counts is None:
            counts = self.counts[session.name] = Counts(session)
        else:
            counts.session = weakref.ref(session)
        return MetricStream(counts)

    def tick(self, now: float) -> None:
        """Forget the oldest of those that have ended."""
        if len(self.counts) > KEPT:
            ended = [name for name, counts in self.counts.items() if not counts.live()]
            for name in ended[:-KEPT]:
                del self.counts[name]

    def sessions(self) -> Iterator[tuple[str, int, int]]:
        """(session name, bytes, messages)."""
        for name, counts in self.counts.items():
            yield name, counts.bytes, counts.messages


class MetricStream(Stream):
    """Counts and passes on."""

    __slots__ = ("counts",)

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        self.counts.bytes += len(data)
        self.counts.messages += 1
        self.to.data(data, kind, last)
