"""What hops over a descriptor share: whom an end, a failure and the closing are told to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from carrier.core.stream import Stream
from carrier.errors import Error
from carrier.hops.descriptor import Descriptor

FAILED = Error("reset", "the peer has gone")


class Heard(Stream):
    """A neighbour that writes down what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def end(self, trailer: Any = None) -> None:
        self.calls.append("end")

    def reset(self, error: Error) -> None:
        self.calls.append(("reset", error))

    def stop(self, error: Error | None = None) -> None:
        self.calls.append(("stop", error))


class Hop(Descriptor):
    """A hop without a descriptor, which counts how often it is given back."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop(), "upstream")
        self.released = self.pauses = self.ends = 0

    def release(self) -> None:
        self.released += 1

    def pause(self) -> None:
        self.pauses += 1

    def end(self, trailer: Any = None) -> None:
        self.ends += 1


class EndedSession:
    """As much of a session as a source's closing needs."""

    def __init__(self, source: Stream | None) -> None:
        self.source = source
        self.source_done = False
        self.closed: list[Error | None] = []
        self.events: list[str] = []

    def event(self, event: str, message: str = "", content: object = None) -> None:
        self.events.append(event)

    def close(self, error: Error | None = None) -> None:
        self.closed.append(error)


@pytest.fixture
async def ring() -> tuple[Heard, Hop, Heard]:
    """The hop behind, the descriptor, the hop in front."""
    behind, hop, front = Heard(), Hop(), Heard()
    behind.to, hop.back, hop.to, front.back = hop, behind, front, hop
    return behind, hop, front


async def test_a_failure_is_told_to_both_neighbours_once(ring: tuple[Heard, Hop, Heard]) -> None:
    behind, hop, front = ring
    hop.broken(FAILED)
    hop.broken(FAILED)
    assert (front.calls, behind.calls) == ([("reset", FAILED)], [("stop", FAILED)])
    assert (hop.released, hop.status()) == (1, "END")


async def test_the_hop_behind_lives_on_when_the_broken_one_was_replaced(ring: tuple[Heard, Hop, Heard]) -> None:
    behind, hop, _ = ring
    behind.to = Heard()
    hop.broken(FAILED)
    assert behind.calls == []


async def test_a_source_that_closes_ends_its_session_and_hears_nothing_more(ring: tuple[Heard, Hop, Heard]) -> None:
    _, hop, front = ring
    session: Any = EndedSession(hop)
    hop.session = session
    hop.close(FAILED)
    hop.close()
    assert session.closed == [FAILED]
    assert front.calls == [("reset", FAILED)]
    assert hop.to is not front


async def test_another_end_that_closes_leaves_the_session_alone(ring: tuple[Heard, Hop, Heard]) -> None:
    _, hop, front = ring
    session: Any = EndedSession(None)
    hop.session = session
    hop.close(FAILED)
    assert (session.closed, front.calls, hop.released) == ([], [], 1)


async def test_an_end_is_told_and_marks_the_source_as_done(ring: tuple[Heard, Hop, Heard]) -> None:
    _, hop, front = ring
    session: Any = EndedSession(hop)
    hop.session = session
    hop.end_in()
    assert (front.calls, hop.ended_in, session.source_done) == (["end"], True, True)


async def test_a_reader_that_is_gone_pauses_and_one_that_failed_closes(ring: tuple[Heard, Hop, Heard]) -> None:
    _, hop, _ = ring
    hop.stop()
    assert (hop.pauses, hop.released) == (1, 0)
    hop.stop(FAILED)
    assert hop.released == 1


async def test_of_a_head_only_the_end_of_its_message_shows(ring: tuple[Heard, Hop, Heard]) -> None:
    _, hop, front = ring
    hop.head("GET / HTTP/1.1")
    assert hop.ends == 0
    hop.head("GET / HTTP/1.1", last=True)
    assert (hop.ends, front.calls) == (1, [])
