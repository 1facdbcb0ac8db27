"""Circuit breakers of a cluster: how many connections, requests and retries it may have at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.errors import Error
from carrier.options import numbers

if TYPE_CHECKING:
    from carrier.core.parts import Cluster


BREAKER: Mapping[str, float] = {"max_connections": 8192, "max_pending": 4096, "max_retries": 1024}
"""Options of every cluster: connections in use, sessions that wait for a connection, sessions that are being retried; 0 means no limit."""


class Breaker:
    """The limits of one cluster and what is in use of them. tripped: refusals, by the name of the limit."""

    __slots__ = ("max_connections", "max_pending", "max_retries", "most", "pending", "retries", "tripped")

    def __init__(self, options: Mapping[str, Any]) -> None:
        found = numbers(options, BREAKER)
        self.max_connections = found["max_connections"] or float("inf")
        self.max_pending = found["max_pending"] or float("inf")
        self.max_retries = found["max_retries"] or float("inf")
        self.pending = 0
        self.most = 0.0
        """Connections in use, at most: so many were counted once, and so many have been made since."""
        self.retries = 0
        self.tripped: dict[str, int] = {}

    def connect(self, cluster: Cluster) -> None:
        """One more session begins to wait for a connection. Raises Error("overload"): nothing was counted then."""
        if self.pending >= self.max_pending:
            raise self._trip(cluster, "max_pending", self.max_pending, "sessions wait for a connection")
        if self.max_connections != float("inf"):
            if self.most >= self.max_connections:  # some have ended since: only now is it worth looking at each endpoint
                self.most = self.pending + sum(endpoint.connections for endpoint in cluster.endpoints)
                if self.most >= self.max_connections:
                    raise self._trip(cluster, "max_connections", self.max_connections, "connections are in use")
            self.most += 1
        self.pending += 1

    def connected(self) -> None:
        """It waits no longer, whatever came of it."""
        self.pending -= 1

    def retry(self) -> bool:
        """May one more session be retried? If so it is counted, until `retried`."""
        if self.retries >= self.max_retries:
            self.tripped["max_retries"] = self.tripped.get("max_retries", 0) + 1
            return False
        self.retries += 1
        return True

    def retried(self) -> None:
        self.retries -= 1

    def _trip(self, cluster: Cluster, name: str, limit: float, what: str) -> Error:
        self.tripped[name] = self.tripped.get(name, 0) + 1
        return Error("overload", f"cluster {cluster.name!r}: {limit:g} {what} already (options.{name})", "carrier", "yes")
