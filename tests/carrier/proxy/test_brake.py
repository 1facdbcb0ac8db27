"""When memory gets short: who does not take what is there is read for no more, and whoever reads is served."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from carrier.core.stream import CONNECTED, DESTROYED, Socket
from carrier.proxy.brake import COST, TRICKLE, Brake
from tests.conversation import Stage
from tests.e2e.test_http_bodies import GET

LIMIT = 100 * COST
TIGHT, FREE = LIMIT * 8 // 10, LIMIT // 2


class End(Socket):
    """Says what it was told to do."""

    def __init__(self, left: int = 0) -> None:
        super().__init__()
        self.left = left
        self.reading = True
        self.session = object()  # type: ignore[assignment]

    def untaken(self) -> int:
        return self.left

    def pause(self) -> None:
        self.reading = False

    def resume(self) -> None:
        self.reading = True


def braked(*left: int) -> tuple[Brake, list[Any]]:
    """A brake over sessions whose sources hold so much."""
    sessions: list[Any] = [SimpleNamespace(source=End(size), destination=End(), status=CONNECTED) for size in left]
    return Brake(lambda: sessions), sessions


def reading(sessions: list[Any]) -> list[bool]:
    return [session.destination.reading for session in sessions]


def test_with_enough_memory_or_no_limit_nobody_is_held() -> None:
    brake, sessions = braked(0, 50_000)
    brake.look(FREE, LIMIT)
    brake.look(TIGHT, 0)
    assert reading(sessions) == [True, True] and not brake.held


def test_who_has_not_taken_what_is_there_is_held_until_it_has() -> None:
    brake, sessions = braked(0, 50_000)
    brake.look(TIGHT, LIMIT)
    assert reading(sessions) == [True, False]
    brake.look(TIGHT, LIMIT)
    assert reading(sessions) == [True, False]
    sessions[1].source.left = 0
    brake.look(TIGHT, LIMIT)
    assert reading(sessions) == [True, True]


def test_of_the_others_so_many_are_read_as_fit_and_they_take_turns() -> None:
    brake, sessions = braked(*[0] * 50)
    brake.look(LIMIT - 10 * COST, LIMIT)
    had_a_turn = set()
    for _ in range(5):
        assert sum(reading(sessions)) == 10
        had_a_turn |= {i for i, reads in enumerate(reading(sessions)) if reads}
        brake.look(LIMIT - 10 * COST, LIMIT)
    assert len(had_a_turn) == 50
    brake.look(LIMIT + 1, LIMIT)
    assert sum(reading(sessions)) == 0


def test_where_memory_rests_at_its_limit_nobody_waits_for_ever() -> None:
    brake, sessions = braked(0, 0)
    served = 0
    for _ in range(4 * TRICKLE):
        brake.look(LIMIT + 1, LIMIT)
        served += sum(reading(sessions))
    assert 2 <= served <= 8


def test_when_memory_is_free_all_go_on_but_who_is_held_by_its_own_bound_only_when_it_is_empty() -> None:
    brake, sessions = braked(0, 50_000)
    brake.look(LIMIT, LIMIT)
    brake.look(FREE, LIMIT)
    assert reading(sessions) == [True, False] and brake.held
    sessions[1].source.left = 0
    brake.look(FREE, LIMIT)
    assert reading(sessions) == [True, True] and not brake.held


@pytest.mark.parametrize("how", ["it ends", "it loses its session"])
def test_who_has_gone_is_forgotten(how: str) -> None:
    brake, sessions = braked(50_000)
    brake.look(LIMIT, LIMIT)
    destination = sessions[0].destination
    if how == "it ends":
        sessions[0].status = DESTROYED
        brake.look(LIMIT, LIMIT)
    else:
        destination.session = None
        brake.look(FREE, LIMIT)
    assert not brake.held


async def test_a_client_that_reads_nothing_is_not_read_for_and_gets_all_of_it_later() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        brake = Brake(stage.proxy.streams)
        await server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n")
        assert b"3000000" in await client.head()
        brake.look(LIMIT, LIMIT)
        assert len(brake.held) == 1
        await server.says(b"x" * 100_000)
        assert await client.silent(0.05)
        brake.look(FREE, LIMIT)
        assert not brake.held
        assert await client.hears(100_000) == b"x" * 100_000
        server.writer.write(b"x" * 2_900_000)
        assert len(await client.hears(2_900_000)) == 2_900_000
