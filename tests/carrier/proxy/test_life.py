"""The states of the process and the order of a drain, with a proxy that only notes what it is told."""

from __future__ import annotations

import asyncio

from carrier.log import Log
from carrier.proxy.life import Life


class FakeListener:
    def __init__(self, kind: str = "byte", sessions: int = 0) -> None:
        self.kind = kind
        self.listening = True
        self.live = {FakeSession(self) for _ in range(sessions)}


class FakeSession:
    def __init__(self, listener: FakeListener) -> None:
        self.listener = listener
        self.source = self
        self.messages_in = self.messages_out = 0


class FakeProxy:
    def __init__(self, *listeners: FakeListener) -> None:
        self.listeners = {str(i): one for i, one in enumerate(listeners)}
        self.drained: set[str] = set()
        self.told: list[str] = []
        self.shedding = self.unsaved = ""

    def working(self) -> list[FakeListener]:
        return list(self.listeners.values())

    def connections(self) -> int:
        return sum(len(listener.live) for listener in self.working())

    def say_goodbye(self) -> None:
        self.told.append("goodbye")

    def stop_working(self) -> None:
        self.told.append("stop")

    def cut_work(self, detail: str) -> None:
        self.told.append(f"cut {sum(len(one.live) for one in self.working())}")

    def end(self) -> None:
        """Every session ends."""
        for listener in self.working():
            listener.live.clear()


def life(*listeners: FakeListener, delay: float = 0.0, timeout: float = 5.0) -> tuple[Life, FakeProxy]:
    proxy = FakeProxy(*listeners)
    found = Life(proxy, Log(), delay, timeout)  # type: ignore[arg-type]
    found.started = True
    return found, proxy


def test_it_is_starting_then_ready_and_names_listeners_that_are_not_bound() -> None:
    found, proxy = life(FakeListener())
    found.started = False
    assert found.state == "starting" and found.answer("/readyz")[0] == 503
    found.started = True
    assert found.state == "ready" and found.answer("/readyz")[0] == 200
    proxy.listeners["0"].listening = False
    assert found.reasons() == ["listener 0 is not bound"]
    assert found.answer("/healthz")[0] == 200
    proxy.drained.add("0")
    assert found.reasons() == []


def test_while_new_sessions_are_refused_readiness_says_why() -> None:
    found, proxy = life(FakeListener())
    proxy.shedding = "130 MiB of memory are in use (limit 115 MiB)"
    status, shown = found.answer("/readyz")
    assert (status, shown["reasons"]) == (503, ["overloaded: 130 MiB of memory are in use (limit 115 MiB)"])
    assert found.answer("/healthz")[0] == found.answer("/startupz")[0] == 200
    proxy.shedding = ""
    assert found.answer("/readyz")[0] == 200


def test_what_is_not_on_disk_is_said_by_readiness_and_is_no_reason_against_it() -> None:
    found, proxy = life(FakeListener())
    proxy.unsaved = "the change cannot be kept in /state: No space left on device"
    assert found.answer("/readyz") == (200, {"status": "ok", "state": "ready", "reasons": [f"state: {proxy.unsaved}"]})


async def test_a_drain_says_goodbye_waits_the_delay_then_stops_and_ends_with_the_last_session() -> None:
    found, proxy = life(FakeListener(sessions=2), delay=0.05)
    found.begin_drain("a test")
    found.begin_drain("again")
    await asyncio.sleep(0.01)
    assert (found.state, proxy.told) == ("draining", ["goodbye"])
    await asyncio.sleep(0.1)
    assert proxy.told == ["goodbye", "stop"]
    proxy.end()
    assert await asyncio.wait_for(found.drained(), 1) == 0
    assert (found.state, proxy.told) == ("drained", ["goodbye", "stop", "cut 0"])


async def test_what_is_left_is_cut_when_the_time_is_over() -> None:
    found, proxy = life(FakeListener(sessions=3), timeout=0.1)
    found.begin_drain("a test")
    assert await found.drained() == 3
    assert proxy.told[-1] == "cut 3"
    assert found.progress()["cut"] == 3


async def test_without_sessions_the_delay_is_still_waited_for() -> None:
    found, _ = life(FakeListener(), delay=0.1)
    loop = asyncio.get_running_loop()
    began = loop.time()
    found.begin_drain("a test")
    assert await found.drained() == 0
    assert loop.time() - began >= 0.09


async def test_a_hurry_cuts_delay_and_wait_short() -> None:
    found, _ = life(FakeListener(sessions=1), delay=60, timeout=60)
    found.begin_drain("a test")
    await asyncio.sleep(0)
    found.end_at_once()
    assert await asyncio.wait_for(found.drained(), 1) == 1


async def test_datagram_sessions_count_as_cut_only_when_something_still_moves_in_them() -> None:
    busy, quiet = FakeListener("datagram", 1), FakeListener("datagram", 1)
    found, _ = life(busy, quiet, timeout=1.6)
    found.begin_drain("a test")
    (session,) = busy.live
    while not found.task.done():  # type: ignore[union-attr]
        session.messages_in += 1
        await asyncio.sleep(0.05)
    assert await found.drained() == 1
