"""Connections that belong to one client each, because they begin by saying who it is (`spec.proxy_protocol`).

A client is a downstream connection: its requests share connections, of HTTP/1.1 or HTTP/2, to an endpoint, and nobody else's use them. When
it is gone they close.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from carrier.core.pool import Pool
from clusters.http.h2_pool import Pool2, SharedEndpoint

if TYPE_CHECKING:
    from carrier.core.endpoint import Endpoint

Who = Any
"""The `Origin` of a request (listeners/http/request.py), or the source of another session."""


class PrivateEndpoint(SharedEndpoint):
    """One whose connections are not anybody's."""

    __slots__ = ()

    def take(self, session: Any) -> Any:
        return None


class Client:
    """What one client has of one endpoint. who: it; header: what its connections begin with; idle: those of HTTP/1.1 that wait."""

    __slots__ = ("endpoint", "header", "idle", "pool", "pool2", "who")

    def __init__(self, endpoint: Endpoint, who: Who, header: bytes, most_idle: int) -> None:
        self.endpoint, self.who, self.header = endpoint, who, header
        self.idle: list[Any] = []
        self.pool = Pool(endpoint, most_idle, idle=self.idle)
        self.pool2: Pool2 | None = None

    @property
    def gone(self) -> bool:
        """Nothing of it comes any more."""
        gone = getattr(self.who, "gone", None)
        return self.who.session is None if gone is None else bool(gone)

    @property
    def connections(self) -> int:
        """Those that are there, or are being made."""
        pool, pool2 = self.pool, self.pool2
        return pool.open + pool.opening + (len(pool2.connections) + (pool2.making is not None) if pool2 is not None else 0)

    def tick(self, now: float, idle_timeout: float) -> None:
        if idle_timeout:
            self.pool.expire(now - idle_timeout)
        if self.pool2 is not None:
            self.pool2.tick(now, idle_timeout)

    def rest(self) -> bool:
        """Close one that waits, if there is one: another client needs its place."""
        if self.idle:
            self.idle[0].close()
            return True
        for connection in self.pool2.connections if self.pool2 is not None else ():
            if not connection.busy:
                connection.close()
                return True
        return False

    def close(self) -> None:
        """Close what waits, and each of the others when it has served."""
        self.pool.close()
        for connection in list(self.idle):
            connection.close()
        if self.pool2 is not None:
            self.pool2.close()


def who(session: Any) -> Who:
    """Whose a session is."""
    source = session.source
    return getattr(source, "origin", None) or source
