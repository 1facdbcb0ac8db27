"""Who leaves a full listener: the useless before the idle, the old before the young, the useful never."""

from __future__ import annotations

from dataclasses import dataclass

from carrier.core.room import IDLE, PART, REST, UNFINISHED, YOUNG, Room


@dataclass
class Occupant:
    rank: int
    since: float
    used: bool = False
    asked: int = 0

    def standing(self, now: float) -> tuple[int, float] | None:
        self.asked += 1
        return None if self.used else (self.rank, self.since)


def leave(occupants: list[Occupant], room: Room[Occupant], now: float = 100.0) -> Occupant | None:
    """Choose one, and take it out."""
    chosen = room.choose(occupants, now)
    if chosen is not None:
        occupants.remove(chosen)
    return chosen


def test_unfinished_heads_leave_before_idle_connections_and_these_before_young_ones() -> None:
    young, idle, unfinished = Occupant(YOUNG, 1.0), Occupant(IDLE, 2.0), Occupant(UNFINISHED, 3.0)
    occupants, room = [young, idle, unfinished], Room[Occupant]()
    assert [leave(occupants, room) for _ in range(4)] == [unfinished, idle, young, None]


def test_the_oldest_leave_first() -> None:
    occupants = [Occupant(IDLE, float((i * 37) % 100)) for i in range(100)]
    room = Room[Occupant]()
    left = [one.since for _ in range(100) if (one := leave(occupants, room)) is not None]
    assert left == sorted(left)
    assert len(left) == 100


def test_what_is_being_used_never_leaves() -> None:
    occupants = [Occupant(IDLE, 1.0, used=True), Occupant(IDLE, 2.0), Occupant(IDLE, 3.0, used=True)]
    room = Room[Occupant]()
    chosen = leave(occupants, room)
    assert chosen is not None
    assert chosen.since == 2.0
    assert leave(occupants, room) is None


def test_who_became_useful_after_it_was_chosen_stays() -> None:
    first, second, third = (Occupant(IDLE, float(i)) for i in range(3))
    occupants = [first, second, third] + [Occupant(IDLE, 50.0 + i) for i in range(3 * PART)]
    room = Room[Occupant]()
    assert leave(occupants, room) is first
    second.used = True
    third.since = 99.0  # it served a request and is idle again
    chosen = leave(occupants, room)
    assert chosen is not None
    assert chosen.since == 50.0


def test_a_flood_costs_each_of_its_connections_a_constant() -> None:
    occupants = [Occupant(UNFINISHED, float(i)) for i in range(4000)]
    room = Room[Occupant]()
    everybody = list(occupants)
    for i in range(1000):
        leave(occupants, room)
        occupants.append(Occupant(YOUNG, 1000.0 + i))
        everybody.append(occupants[-1])
    assert sum(one.asked for one in everybody) < 1000 * (PART + 4)


def test_a_listener_whose_connections_are_all_used_is_not_searched_for_each_that_comes() -> None:
    occupants = [Occupant(IDLE, 1.0, used=True) for _ in range(100)]
    room = Room[Occupant]()
    assert [room.choose(occupants, 10.0 + i / 1000) for i in range(50)] == [None] * 50
    assert sum(one.asked for one in occupants) == 100
    occupants[3].used = False
    assert room.choose(occupants, 10.0 + REST) is occupants[3]
