"""How long a stream may be still: the limits `idle_timeout` and `half_close_timeout` of all protocols whose sessions are streams.

A listener has one `Idle` and asks it for each of its sources, every `rest` seconds at most. What counts as moving is a byte or a message
that was read, or given to the kernel: what only waits to be written does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from carrier.core.wheel import NEVER
from carrier.errors import Error

if TYPE_CHECKING:
    from carrier.core.stream import Socket


PARTS, RARELY = 16, 8.0
"""A source is looked at so many times within its shortest limit, and at least every so many seconds."""


class Idle:
    """See the module. idle, half_close: seconds, 0 for no limit. option: how the first is called in the options."""

    __slots__ = ("half_close", "idle", "option", "rest", "seen")

    def __init__(self, idle: float, half_close: float = 0.0, option: str = "idle_timeout") -> None:
        self.idle, self.half_close, self.option = idle, half_close, option
        shortest = min((limit for limit in (idle, half_close) if limit), default=NEVER)
        self.rest = NEVER if shortest == NEVER else min(RARELY, shortest / PARTS)
        """Seconds for which a source of which both directions are open need not be looked at: by so much it may stay longer."""
        self.seen: dict[Any, tuple[int, float]] = {}
        """Source -> what it had moved when it was last seen moving, and when that was."""

    def overdue(self, source: Socket, now: float, half: bool = False) -> Error | None:
        """Why a source must end, or None. half: one of its directions has ended. now: monotonic seconds."""
        limit = self.half_close if half else self.idle
        if not limit:
            return None
        if now - self.since(source, now) <= limit:
            return None
        what = "half-closed and idle (options.half_close_timeout)" if half else f"idle (options.{self.option})"
        return Error("timeout", f"{what} for more than {limit:g} s", "downstream")

    def since(self, source: Socket, now: float) -> float:
        """When the source was last seen moving."""
        moved = source.bytes_in + source.bytes_out + source.messages_in + source.messages_out - source.size
        known = self.seen.get(source)
        if known is None or known[0] != moved:
            known = self.seen[source] = moved, now
        return known[1]

    def forget(self, source: Any) -> None:
        """It has ended. Idempotent."""
        self.seen.pop(source, None)

    def inherit(self, old: Idle) -> None:
        """Go on with what another one has seen: a new limit counts from when a source last moved."""
        self.seen |= old.seen
