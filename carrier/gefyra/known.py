"""What is known of a mount beside the cluster's objects, as long as the operator lives: one for all providers of the mount."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from carrier.gefyra.access import Answer, Object

T = TypeVar("T")

PODS = 2.0
"""Seconds for which the pods that run the proxy are remembered."""
BRIDGES = 0.5
"""Seconds for which the objects of a mount's bridges are."""


class Remembered(Generic[T]):
    """What was read a moment ago, so that who makes twenty bridges does not ask for the same pods a hundred times. age: seconds."""

    def __init__(self, age: float) -> None:
        self.age = age
        self.value: T | None = None
        self.read = 0.0
        self.changes = 0

    def forget(self) -> None:
        """It is another one by now."""
        self.value = None
        self.changes += 1

    def put(self, value: T, read: float) -> None:
        """Somebody else has read it, for other reasons. read: when it began to be (monotonic seconds)."""
        self.value, self.read = value, read

    async def get(self, read: Callable[[], Awaitable[T]]) -> T:
        """It, read anew when it is too old. What was forgotten while it was read is given, and not remembered."""
        if self.value is not None and time.monotonic() - self.read <= self.age:
            return self.value
        before, began = self.changes, time.monotonic()
        found = await read()
        if before == self.changes:
            self.value, self.read = found, began
        return found


class Known:
    """See the module. work: held by who changes pods; bridging: by who changes bridges, or says which there are. runs: of containers that
    were configured, by their pods' uids."""

    def __init__(self) -> None:
        self.work = asyncio.Lock()
        self.bridging = asyncio.Lock()
        self.runs: dict[str, str] = {}
        self.routes: set[str] = set()
        """Bridges that were put into the pods in this life of the operator."""
        self.ending = False
        self.detoured = True
        """Services may be led elsewhere: an operator before us may have begun it."""
        self.hopeless: dict[str, tuple[float, str]] = {}
        """Pods, by uid, in which the proxy could not start: until when they are left alone (monotonic seconds), and why."""
        self.told: dict[str, str] = {}
        """Reason of an event -> the kind of trouble that was told with it, for as long as it lasts."""
        self.pods: Remembered[list[Object]] = Remembered(PODS)
        """Those that run the proxy. Who patches one has them forgotten, and so has the keeper's watch: a bridge that is made meanwhile is
        given to each of them, either when it is configured or because it is listed."""
        self.opening: set[asyncio.Task[list[Answer]]] = set()
        """Calls that nobody waits for, but for the execs that they open, and when the last of them was made."""
        self.opened = -1e9
        self.uneven = True
        """Somebody has to look at the pods, although nothing of them has changed."""
        self.asked: dict[str, object] = {}
        """What bridges asked for when they were given to the pods, by the names of their objects: one that asks for something else by now
        was edited."""
        self.bridges: Remembered[list[Object]] = Remembered(BRIDGES)
        """The objects of the mount's bridges."""

    def look_again(self) -> None:
        """Have the keeper ask every pod."""
        self.runs.clear()
        self.uneven = True

    def hopeless_of(self, uid: str) -> str:
        """Why the proxy is not tried in a pod now; "": it may be."""
        until, why = self.hopeless.get(uid, (0.0, ""))
        return why if time.monotonic() < until else ""
