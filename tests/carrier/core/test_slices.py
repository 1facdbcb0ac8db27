"""Long work in slices: the same result, and the event loop goes on."""

from __future__ import annotations

import pytest

from carrier.core.slices import SLICE, Steps, sliced, whole
from tests.turns import TURN, turns


def counting(most: int) -> Steps[int]:
    total = 0
    for number in range(most):
        total += sum(range(100))
        if not number % 100:
            yield
    return total


def failing() -> Steps[None]:
    yield
    raise ValueError("in the middle")


async def test_it_gives_the_same_whole_and_sliced_and_no_turn_is_long() -> None:
    async with turns() as seen:
        found = await sliced(counting(200_000))
    assert found == whole(counting(200_000))
    assert seen.number > 10 and seen.longest < TURN and SLICE < TURN


async def test_what_fails_in_a_slice_fails_for_who_waits() -> None:
    with pytest.raises(ValueError, match="in the middle"):
        await sliced(failing())
    with pytest.raises(ValueError, match="in the middle"):
        whole(failing())
