"""The upstream connections of one endpoint: idle ones, last in first out, and a bound on all of them with a bounded queue.

No I/O here: the pool decides at once, the cluster connects. `ready()` of a cluster takes from `endpoint.idle` itself (the newest first,
so that the others age and expire). `enter` waits while `most` connections are there or being made: it ends with a connection that
another request has finished with, or with the right to make one, which `entered` gives back whether or not that worked. A connection
counts from `came` to `left`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from carrier.errors import Error

if TYPE_CHECKING:
    from carrier.core.endpoint import Endpoint


class Idle(Protocol):
    """What a pool keeps. since: monotonic seconds of its last use. usable: nothing has happened to it meanwhile."""

    since: float
    usable: bool

    def close(self) -> None: ...


class Pool:
    """See the module. most_idle: idle connections kept. most: connections in all; most_waiting: of the queue; 0 for no bound. idle: where
    they are kept, if that is not with the endpoint."""

    __slots__ = ("endpoint", "idle", "most", "most_idle", "most_waiting", "open", "opening", "roomy", "waiting")

    def __init__(self, endpoint: Endpoint, most_idle: int, most: int = 0, most_waiting: int = 0, idle: list[Any] | None = None) -> None:
        self.endpoint = endpoint
        self.idle: list[Idle] = endpoint.idle if idle is None else idle
        self.most_idle = most_idle
        self.most = most
        self.most_waiting = most_waiting
        self.open = self.opening = 0
        self.waiting: deque[asyncio.Future[Idle | None]] = deque()
        self.roomy = most_idle > 0
        """Nobody waits, and even if all connections were idle they could be kept: who has finished with one may just put it into `idle`."""

    @property
    def full(self) -> bool:
        return 0 < self.most <= self.open + self.opening

    async def enter(self, endpoint: str) -> Idle | None:
        """An idle connection that came free, or None: make one (and call `entered` afterwards). Raises Error("overload")."""
        while self.full:
            if self.most_waiting and len(self.waiting) >= self.most_waiting:
                detail = f"{endpoint}: {self.most} connections (options.max_per_endpoint) and {len(self.waiting)} requests waiting for one"
                raise Error("overload", detail + " (options.max_waiting)", "upstream", "yes")
            found = await self._wait()
            if found is None:
                return None
            if found.usable:
                return found
        self.opening += 1
        return None

    async def _wait(self) -> Idle | None:
        """Wait for one's turn: a connection, or None and the right to make one (already counted in `opening`)."""
        turn: asyncio.Future[Idle | None] = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        self._look()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn in self.waiting:
                self.waiting.remove(turn)
            elif turn.done() and not turn.cancelled():  # it came in the same moment: the next one has it
                given = turn.result()
                if given is None:
                    self.entered()
                elif given.usable and not self.put(given):
                    given.close()
            raise
        finally:
            self._look()

    def _look(self) -> None:
        self.roomy = not self.waiting and self.open <= self.most_idle

    def entered(self) -> None:
        """What `enter` allowed has been done, or has failed."""
        self.opening -= 1
        self._wake()

    def came(self) -> None:
        """A connection is there."""
        self.open += 1
        self._look()

    def left(self, connection: Idle) -> None:
        """A connection is gone: forget it, if it was kept, and let the next one in."""
        self.open -= 1
        self._look()
        self.forget(connection)
        self._wake()

    def close(self) -> None:
        """Keep no connection any more."""
        self.most_idle = 0
        self.roomy = False

    def forget(self, connection: Idle) -> None:
        """A connection is not to be used any more: those that are kept are all as good as one can know."""
        if connection in self.idle:
            self.idle.remove(connection)

    def _wake(self) -> None:
        while self.waiting and not self.full:
            turn = self.waiting.popleft()
            if not turn.done():
                self.opening += 1
                turn.set_result(None)

    def put(self, connection: Idle) -> bool:
        """Keep a connection, or hand it to the first that waits; False when enough are kept: its owner closes it."""
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return True
        if len(self.idle) >= self.most_idle:
            return False
        self.idle.append(connection)
        return True

    def expire(self, before: float) -> None:
        """Close the connections not used since `before`; they stand first, oldest first."""
        idle = self.idle
        n = 0
        while n < len(idle) and idle[n].since < before:
            n += 1
        old, idle[:n] = idle[:n], []
        for connection in old:
            connection.close()
