"""Idle upstream connections of an endpoint: last in, first out, no I/O inside.

The list is the endpoint's own (`Endpoint.idle`); the newest connection is taken first, so that the others age and expire. What the
pool decides is decided at once: a connection is reusable, or its owner closes it.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from carrier.cluster import Endpoint


class Idle(Protocol):
    """What a pool keeps. since: monotonic seconds of its last use. usable: nothing has happened to it meanwhile."""

    since: float
    usable: bool

    def close(self) -> None: ...


T = TypeVar("T", bound=Idle)


def take(endpoint: Endpoint, kind: type[T]) -> T | None:
    """The connection used last, out of the pool; those that have died meanwhile are dropped."""
    idle = endpoint.idle
    while idle:
        found: T = idle.pop()
        if found.usable:
            return found
    return None


def put(endpoint: Endpoint, connection: Idle, most: int) -> bool:
    """Keep a connection; False when the pool is full: its owner closes it."""
    if len(endpoint.idle) >= most:
        return False
    endpoint.idle.append(connection)
    return True


def expire(endpoint: Endpoint, before: float) -> None:
    """Close the connections not used since `before`; they stand first, oldest first."""
    idle: list[Idle] = endpoint.idle
    n = 0
    while n < len(idle) and idle[n].since < before:
        n += 1
    old, endpoint.idle[:n] = idle[:n], []
    for connection in old:
        connection.close()


def drop(endpoint: Endpoint, connection: Idle) -> None:
    """A connection has died: forget it, if it was kept."""
    if connection in endpoint.idle:
        endpoint.idle.remove(connection)
