"""Who says nothing is not looked at: connections sleep until a deadline of theirs is due, or until they are woken."""

import pytest

from carrier.core.wheel import NEVER, Wheel


class Connection:
    """Has nothing to look at before `until`; at its tick it does `then`."""

    def __init__(self, until: float | None = None) -> None:
        self.until = until
        self.ticks: list[float] = []

    def tick(self, now: float) -> float | None:
        self.ticks.append(now)
        return self.until


def failed(one: Connection, exc: Exception) -> None:
    raise AssertionError(exc)


def turned(wheel: Wheel[Connection], *times: float) -> None:
    for now in times:
        wheel.turn(now, failed)


def test_who_has_work_is_looked_at_each_time() -> None:
    wheel: Wheel[Connection] = Wheel()
    one = Connection()
    wheel.add(one)
    turned(wheel, 10, 11, 12)
    assert one.ticks == [10, 11, 12]


def test_who_sleeps_is_looked_at_when_it_is_due_and_within_a_second_of_that() -> None:
    wheel: Wheel[Connection] = Wheel()
    one = Connection(until=14.3)
    wheel.add(one)
    turned(wheel, *(now + 0.5 for now in range(10, 17)))
    assert one.ticks == [10.5, 15.5, 16.5] and not wheel.awake - {one}


def test_who_is_woken_is_looked_at_from_the_next_second_on() -> None:
    wheel: Wheel[Connection] = Wheel()
    one = Connection(until=NEVER)
    wheel.add(one)
    turned(wheel, 10, 11, 10_000)
    assert one.ticks == [10]
    wheel.wake(one)
    wheel.wake(one)
    one.until = None
    turned(wheel, 10_001, 10_002)
    assert one.ticks == [10, 10_001, 10_002] and not wheel.slots


def test_who_has_gone_leaves_nothing_behind_asleep_or_awake() -> None:
    wheel: Wheel[Connection] = Wheel()
    awake, asleep = Connection(), Connection(until=100)
    wheel.add(awake)
    wheel.add(asleep)
    turned(wheel, 10)
    assert len(wheel) == 2 and set(wheel) == {awake, asleep} and asleep in wheel
    for one in (awake, asleep, asleep):
        wheel.discard(one)
        wheel.wake(one)
    assert not wheel and not wheel.awake and not wheel.slots
    turned(wheel, 101)
    assert asleep.ticks == [10]


def test_whom_another_ends_in_the_same_moment_is_not_looked_at() -> None:
    wheel: Wheel[Connection] = Wheel()

    class Ender(Connection):
        def tick(self, now: float) -> float | None:
            for one in list(wheel):
                if one is not self:
                    wheel.discard(one)
            return super().tick(now)

    both = Ender(), Ender()
    for one in both:
        wheel.add(one)
    turned(wheel, 10, 11)
    assert sorted(len(one.ticks) for one in both) == [0, 2]


def test_one_that_fails_keeps_nobody_else_from_its_deadline() -> None:
    wheel: Wheel[Connection] = Wheel()

    class Broken(Connection):
        def tick(self, now: float) -> float | None:
            raise ValueError("broken")

    others = [Connection() for _ in range(10)]
    broken = Broken()
    for one in (*others[:5], broken, *others[5:]):
        wheel.add(one)
    seen: list[object] = []
    for now in (10, 11):
        wheel.turn(now, lambda one, exc: seen.append((one, str(exc))))
    assert seen == [(broken, "broken")] * 2
    assert all(one.ticks == [10, 11] for one in others)
    with pytest.raises(AssertionError):
        turned(wheel, 12)


def test_all_are_awake_in_another_wheel() -> None:
    old: Wheel[Connection] = Wheel()
    new: Wheel[Connection] = Wheel()
    one = Connection(until=NEVER)
    old.add(one)
    turned(old, 10)
    assert list(new.take(old)) == [one] and not old and one in new
    turned(new, 11)
    assert one.ticks == [10, 11]
