"""Bridges that expire: one timer for all."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from carrier.core.stream import DESTROYED
from carrier.errors import Error

if TYPE_CHECKING:
    from carrier.bridges.edits import Bridges
    from carrier.log import Log
    from carrier.model import Bridge
    from carrier.proxy.proxy import Proxy


TICK = 1.0
"""Seconds between two looks at the leases, and before one that could not be ended is tried again."""
SOONEST = 0.02
DRAIN = 30.0
"""Seconds that sessions of a bridge that is over may go on."""


class Leases:
    """Takes bridges away when their time is over: one coarse timer, which costs nothing while no bridge expires."""

    def __init__(self, proxy: Proxy, bridges: Bridges, log: Log) -> None:
        self.proxy = proxy
        self.bridges = bridges
        self.log = log
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.said = ""
        """Why a bridge could not be taken away at the last look."""

    def start(self) -> None:
        """Begin to look, once a second, or sooner when a bridge is due sooner."""
        if self.timer is not None:
            self.timer.cancel()
        loop = self.proxy.env.loop
        now = self.bridges.clock()
        soonest = min((b.expires for b in self.proxy.config.bridges.values() if b.expires is not None), default=math.inf)
        due = soonest <= now
        if due and self.task is None:
            self.task = loop.create_task(self._expire())
        self.timer = loop.call_later(TICK if due else min(TICK, max(SOONEST, soonest - now)), self.start)

    def stop(self) -> None:
        """Look no more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.task is not None:
            self.task.cancel()

    async def _expire(self) -> None:
        try:
            async with self.proxy.lock:
                before = self.proxy.config
                after = self.bridges.expire(before, self.bridges.clock())
                if after is not before:
                    await self.proxy.apply(after, unsaved=True)
        except Error as error:  # a bridge whose going breaks the configuration stays, and is tried again
            if error.detail != self.said:
                self.said = error.detail
                self.log.error("a bridge that is over cannot be taken away", reason=error.detail)
            return
        finally:
            self.task = None
        self.said = ""
        for name in before.bridges.keys() - after.bridges.keys():
            self.bridges.remember(before, name)
            running = self._drain(before.bridges[name])
            self.log.notice("bridge is over", bridge=name, user=before.bridges[name].user, sessions=running)
        self.start()  # the next may be due before the next look

    def _drain(self, bridge: Bridge) -> int:
        """Let the sessions of a bridge that is over come to their end, for so long; returns how many there are."""
        own = [s for s in self.proxy.sessions() if s.status != DESTROYED and s.decision is not None and s.decision.rule in bridge.rules]
        for session in own:
            self.proxy.env.loop.call_later(DRAIN, session.kill, f"bridge {bridge.name} is over")
        return len(own)
