"""The HTTP/2 connections of one endpoint: as many as their limits of streams ask for, each stream on the one that has least to do.

When none has a place another connection is made, or, where that may not be, a stream waits for a place.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from carrier.core.endpoint import Endpoint
from carrier.errors import Error
from clusters.http.h2 import Upstream2, Way2
from clusters.http.h2_exchange import Connect, Exchange2


class Pool2:
    """The HTTP/2 connections of one endpoint. connect: makes one more for a pool, or gives one of HTTP/1.1 where that was agreed. instead:
    gives one of HTTP/1.1 for what cannot be said in HTTP/2, where that may be spoken too. most: at most so many, 0 for no bound.
    most_waiting: exchanges that wait for a place. making: one is being made; other: the last one speaks HTTP/1.1. closed: the endpoint is
    gone: whom it was chosen for is still served, and then nothing is kept."""

    __slots__ = ("closed", "connect", "connections", "endpoint", "instead", "making", "most", "most_waiting", "other", "waiting", "way")

    def __init__(
        self,
        way: Way2,
        endpoint: Endpoint,
        connect: Callable[[Pool2], Awaitable[Any]],
        most: int,
        most_waiting: int,
        instead: Connect | None = None,
    ) -> None:
        self.way, self.endpoint, self.connect, self.most, self.most_waiting = way, endpoint, connect, most, most_waiting
        self.instead = instead
        self.connections: list[Upstream2] = []
        self.making: asyncio.Future[Any] | None = None
        self.waiting: deque[Exchange2] = deque()
        self.other = self.closed = False

    def free(self) -> Upstream2 | None:
        """The connection that has least to do, of those that have a place."""
        found, least = None, 1 << 30
        for connection in self.connections:
            engine = connection.engine
            busy = len(engine.streams)
            if busy < least and busy < connection.most and busy < engine.most:
                found, least = connection, busy
        return found

    def exchange(self, connection: Upstream2) -> Exchange2:
        """One for the next stream of this connection."""
        return connection.spare.pop() if connection.spare else Exchange2(self, self.endpoint, connection)

    @property
    def full(self) -> bool:
        """May no more connections be made?"""
        return 0 < self.most <= len(self.connections)

    async def open(self) -> Any:
        """An exchange on a connection that is there by now, is being made, or is made for it; or a connection of HTTP/1.1. None: who made
        one before has got such, so it is not for this pool to make more. Raises Error."""
        while self.making is not None:  # others wait for the same: it may have room for all
            await asyncio.wait([self.making])
            if (found := self.free()) is not None:
                return self.exchange(found)
            if self.other:
                return None
        if (found := self.free()) is not None:
            return self.exchange(found)
        if self.full:
            if self.most_waiting and len(self.waiting) >= self.most_waiting:
                detail = (
                    f"{self.endpoint.address}: {self.most} connections (options.max_per_endpoint), {len(self.waiting)} requests waiting"
                )
                raise Error("overload", detail + " (options.max_waiting)", "upstream", "yes")
            return Exchange2(self, self.endpoint, None)
        if any(not connection.told for connection in self.connections):  # soon it will have said how many streams it takes
            return Exchange2(self, self.endpoint, None)
        made = await self._make()
        return Exchange2(self, self.endpoint, made) if isinstance(made, Upstream2) else made

    async def _make(self) -> Any:
        self.making = making = asyncio.get_running_loop().create_future()
        try:
            made = await self.connect(self)
            self.other = not isinstance(made, Upstream2)
            return made
        finally:
            self.making = None
            making.set_result(None)

    def wait(self, exchange: Exchange2) -> None:
        """It takes the next place."""
        self.waiting.append(exchange)
        self.way.shared.busy.add(exchange)
        self._grow()

    def _grow(self) -> None:
        """Make another connection for those that wait, if that may be, and if there is not one soon; another would be no better than one
        that has nothing to do and no place all the same."""
        if self.making is None and not self.full and all(connection.told and connection.busy for connection in self.connections):
            task = asyncio.get_running_loop().create_task(self._make())
            task.add_done_callback(self._made)

    def _made(self, task: asyncio.Task[Any]) -> None:
        failure = None if task.cancelled() else task.exception()
        if failure is None and not task.cancelled() and isinstance(task.result(), Upstream2):
            self.place()
            return
        detail = f"{self.endpoint.address}: it speaks no HTTP/2 any more"
        error = failure if isinstance(failure, Error) else Error("closed", detail, "upstream", "yes")
        while self.waiting:
            self.waiting.popleft().unsent(error.bare())

    def place(self) -> None:
        """There may be places: those that wait take them."""
        while self.waiting and (connection := self.free()) is not None and connection.takes(self.waiting[0]):
            exchange = self.waiting.popleft()
            self.way.shared.busy.discard(exchange)
            exchange.begin(connection)
        if self.waiting:
            self._grow()
        elif self.closed:
            for connection in list(self.connections):
                connection.drain()

    def left(self, connection: Upstream2) -> None:
        if connection in self.connections:
            self.connections.remove(connection)

    def close(self) -> None:
        """The endpoint is gone: streams that are there end, and those that wait are served before."""
        self.closed = True
        self.place()

    def tick(self, now: float, idle_timeout: float) -> None:
        for connection in list(self.connections):
            connection.look(now, idle_timeout)


class SharedEndpoint(Endpoint):
    """An endpoint whose connections carry many sessions. pool: those of HTTP/2, once there are some."""

    __slots__ = ("pool",)

    def __init__(self, name: str, host: str, port: int, weight: float) -> None:
        super().__init__(name, host, port, weight)
        self.pool: Pool2 | None = None

    @property
    def connections(self) -> int:
        pool = self.pool
        if pool is None:
            return super().connections
        shared = sum(len(connection.engine.streams) for connection in pool.connections)
        return max(0, self.active - shared) + len(self.idle) + len(pool.connections)

    def take(self, session: Any) -> Any:
        pool = self.pool
        connection = pool.free() if pool is not None else None
        if pool is not None and connection is not None:
            return pool.exchange(connection)
        return super().take(session)


class MirroringEndpoint(SharedEndpoint):
    """One that gets each request in the version in which it came."""

    __slots__ = ()

    def take(self, session: Any) -> Any:
        asked = session.source.asked
        if asked is None or asked.version != "2":
            idle = self.idle
            return idle.pop() if idle else None
        connection = self.pool.free() if self.pool is not None else None
        return self.pool.exchange(connection) if self.pool is not None and connection is not None else None
