"""One address of a cluster, and what is known of it."""

from __future__ import annotations

from typing import Any, Protocol

from carrier.core.resolve import literal


class Watcher(Protocol):
    """Who has to know when an endpoint changes: its cluster."""

    def turned(self, endpoint: Endpoint) -> None:
        """It is up or down, which it was not before."""

    def eased(self, endpoint: Endpoint) -> None:
        """A session has left it."""


class Endpoint:
    """One address of a cluster. A protocol that carries many sessions over one connection overrides `take`."""

    __slots__ = ("_up", "active", "address", "eager", "failed", "host", "idle", "name", "named", "port", "total", "watcher", "weight")

    def __init__(self, name: str, host: str, port: int, weight: float) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}" if port else host
        self.weight = weight
        self.named = bool(host) and literal(host, 0) is None
        """Its host is looked up."""
        self._up = True
        self.watcher: Watcher | None = None
        self.eager = False
        """Its watcher hears of each session that leaves it."""
        self.active = 0
        """Sessions at this moment."""
        self.total = 0
        """Sessions ever."""
        self.failed = 0
        """Attempts that failed before an answer."""
        self.idle: list[Any] = []
        """Idle upstream connections, last in first out."""

    @property
    def up(self) -> bool:
        """Is it chosen while another is up, too?"""
        return self._up

    @up.setter
    def up(self, up: bool) -> None:
        if up != self._up:
            self._up = up
            if self.watcher is not None:
                self.watcher.turned(self)

    @property
    def connections(self) -> int:
        """Connections that there are; a protocol that carries many sessions over one overrides it."""
        return self.active + len(self.idle)

    def take(self, session: Any) -> Any:
        """A destination for the session that is there at once, or None: one must be made."""
        idle = self.idle
        return idle.pop() if idle else None

    def enter(self) -> None:
        """A session is here."""
        self.active += 1
        self.total += 1

    def leave(self) -> None:
        """It has ended, or goes elsewhere."""
        self.active -= 1
        if self.eager:
            assert self.watcher is not None
            self.watcher.eased(self)
