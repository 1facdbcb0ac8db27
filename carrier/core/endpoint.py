"""One address of a cluster."""

from __future__ import annotations

from typing import Any

from carrier.core.resolve import literal


class Endpoint:
    """One address of a cluster, and what is known of it."""

    __slots__ = ("active", "address", "failed", "host", "idle", "name", "named", "port", "total", "up", "weight")

    def __init__(self, name: str, host: str, port: int, weight: float) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}" if port else host
        self.weight = weight
        self.named = bool(host) and literal(host, 0) is None
        """Its host is looked up."""
        self.up = True
        self.active = 0
        """Sessions at this moment."""
        self.total = 0
        self.failed = 0
        """Sessions ever, and attempts that failed before an answer."""
        self.idle: list[Any] = []
        """Idle upstream connections, last in first out."""
