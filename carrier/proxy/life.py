"""The life of the process as others see it: starting, ready, draining, ended; and the drain itself.

A drain goes in this order, so that nobody is cut who could be served: readiness says 503 while everything is still accepted, for
`delay` seconds, time for those who route to us to hear of it, and every answer asks its client to leave; then what waits in the kernel's
queues is taken, and nothing new after that; who has said nothing yet gets a second, and what is in flight has the rest of `timeout`
seconds; what is left then is cut and counted. The addresses that lead into the API serve to the end: whoever drains us wants to see it.

A datagram session has no end that it could reach: it may stay to its idle time, and when the time is over it counts as cut only
if something still moved in it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carrier.core.session import Session
    from carrier.log import Log
    from carrier.proxy.proxy import Proxy

LOOK = 0.02
"""Seconds between two looks at what is still in flight."""
NOTE = 0.25
"""Seconds between two looks at datagram sessions."""
QUIET = 1.0
"""A datagram session that nothing came to for so many seconds is not in the middle of something."""


class Life:
    """See the module. delay, timeout: seconds, from the beginning of a drain."""

    def __init__(self, proxy: Proxy, log: Log, delay: float = 1.0, timeout: float = 10.0) -> None:
        self.proxy = proxy
        self.log = log
        self.delay = delay
        self.timeout = timeout
        self.started = False
        self.began = 0.0
        """Monotonic seconds at which the drain began; 0: it has not."""
        self.cut = 0
        self.quiet: dict[Session, tuple[int, float]] = {}
        """Datagram session -> its messages so far, and since when that many."""
        self.task: asyncio.Task[int] | None = None
        self.hurry = asyncio.Event()
        self.ending = asyncio.Event()
        """Somebody wants the process to end when it is drained."""

    # ------------------------------------------------------------------ what is shown

    @property
    def state(self) -> str:
        if self.task is not None:
            return "drained" if self.task.done() else "draining"
        return "ready" if self.started else "starting"

    def reasons(self) -> list[str]:
        """Why no new work should be sent here; none: send it."""
        if self.task is not None:
            return ["draining"]
        if not self.started:
            return ["starting: the configuration is not in force yet"]
        working = {name: one for name, one in self.proxy.listeners.items() if name not in self.proxy.drained}
        unbound = [f"listener {name} is not bound" for name, one in working.items() if not one.listening]
        return [*unbound, f"overloaded: {self.proxy.shedding}"] if self.proxy.shedding else unbound

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and body for /healthz (is the event loop alive: always yes, if it answers), /readyz and /startupz."""
        if path == "/healthz":
            return 200, {"status": "ok", "state": self.state}
        reasons = self.reasons() if path == "/readyz" else [] if self.started else self.reasons()
        found = {"status": "not ready" if reasons else "ok", "state": self.state, "reasons": reasons}
        if path == "/readyz" and self.proxy.unsaved:  # it serves, and would not know all of it after a restart
            found["reasons"] = [*reasons, f"state: {self.proxy.unsaved}"]
        return (503 if reasons else 200), found

    def progress(self) -> Mapping[str, Any]:
        """How far a drain is."""
        gone = time.monotonic() - self.began if self.began else 0.0
        return {"state": self.state, "sessions": self.live(), "seconds": round(gone, 3), "timeout": self.timeout, "cut": self.cut}

    def live(self) -> int:
        """Sessions in flight, the API's own apart."""
        return sum(len(listener.live) for listener in self.proxy.working())

    # ------------------------------------------------------------------ the drain

    def begin_drain(self, why: str, delay: float | None = None) -> None:
        """Drain, if that has not begun yet."""
        if self.task is None:
            self.began = time.monotonic()
            self.log.notice("draining", why=why, sessions=self.live(), delay=self.delay if delay is None else delay, timeout=self.timeout)
            self.task = asyncio.get_running_loop().create_task(self._drain(self.delay if delay is None else delay))

    async def drained(self) -> int:
        """Wait for the end of the drain; returns how many sessions were cut."""
        assert self.task is not None
        return await asyncio.shield(self.task)

    def end_at_once(self) -> None:
        """A drain that is under way waits no longer."""
        self.hurry.set()

    async def _drain(self, delay: float) -> int:
        self.proxy.say_goodbye()
        await self._wait(delay)
        self.proxy.stop_working()
        noted = 0.0
        while self._unfinished() and not self.hurry.is_set() and (now := time.monotonic()) - self.began < max(self.timeout, delay):
            if now - noted >= NOTE:
                self._note_datagrams()
                noted = now
            await self._wait(LOOK)
        self._note_datagrams()
        self.cut = sum(1 for session in self._sessions() if not self._is_quiet(session))
        self.proxy.cut_work("the proxy ends")
        return self.cut

    def _unfinished(self) -> int:
        """Connections that are not gone: also those whose last bytes are being sent, and those that may still ask for something."""
        return self.proxy.connections()

    async def _wait(self, seconds: float) -> None:
        """Until then, or somebody is in a hurry."""
        try:
            async with asyncio.timeout(seconds):
                await self.hurry.wait()
        except TimeoutError:
            pass

    def _sessions(self) -> list[Session]:
        return [session for listener in self.proxy.working() for session in listener.live]

    def _note_datagrams(self) -> None:
        now = time.monotonic()
        for session in self._sessions():
            if session.listener.kind == "datagram":
                count = session.source.messages_in + session.source.messages_out
                if self.quiet.get(session, (-1, now))[0] != count:
                    self.quiet[session] = count, now

    def _is_quiet(self, session: Session) -> bool:
        seen = self.quiet.get(session)
        return session.listener.kind == "datagram" and seen is not None and time.monotonic() - seen[1] >= QUIET
