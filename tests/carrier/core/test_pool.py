"""The pool alone: who gets what, and in which order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from carrier.core.endpoint import Endpoint
from carrier.core.pool import Pool
from carrier.errors import Error


class Connection:
    def __init__(self, since: float = 0.0) -> None:
        self.since, self.usable, self.closed = since, True, False

    def close(self) -> None:
        self.usable, self.closed = False, True


def pool(**limits: int) -> Pool:
    return Pool(Endpoint("one", "127.0.0.1", 80, 1), **{"most_idle": 4, **limits})


async def waits(pool: Pool) -> asyncio.Task[Any]:
    """A request that waits for its turn."""
    task = asyncio.create_task(pool.enter("one"))
    await asyncio.sleep(0)
    return task


async def opens(pool: Pool) -> Connection:
    assert await pool.enter("one") is None
    pool.came()
    pool.entered()
    return Connection()


def test_idle_connections_are_kept_up_to_a_number() -> None:
    some = pool(most_idle=2)
    assert [some.put(Connection()) for _ in range(3)] == [True, True, False]


def test_connections_not_used_for_long_expire_and_younger_ones_stay() -> None:
    some = pool()
    old, young = Connection(1), Connection(5)
    some.put(old)
    some.put(young)
    some.expire(3)
    assert old.closed and not young.closed and some.endpoint.idle == [young]


def test_a_connection_that_dies_while_idle_is_forgotten() -> None:
    some = pool()
    some.came()
    dead = Connection()
    some.put(dead)
    some.left(dead)
    assert some.endpoint.idle == [] and some.open == 0


async def test_without_a_bound_nobody_waits() -> None:
    some = pool()
    for _ in range(50):
        await opens(some)
    assert some.open == 50 and some.opening == 0


async def test_at_the_bound_requests_wait_for_a_connection_in_order() -> None:
    some = pool(most=1)
    used = await opens(some)
    first, second = await waits(some), await waits(some)
    assert some.put(used) and await first is used and not second.done()
    assert some.put(used) and await second is used
    assert some.put(used) and some.endpoint.idle == [used]


async def test_a_connection_that_goes_lets_the_first_make_one() -> None:
    some = pool(most=1)
    used = await opens(some)
    first = await waits(some)
    some.left(used)
    assert await first is None and some.opening == 1 and some.full
    some.entered()  # it failed: the next may try
    assert some.opening == 0 and not some.full


async def test_a_failed_attempt_lets_the_next_try() -> None:
    some = pool(most=1)
    assert await some.enter("one") is None
    second = await waits(some)
    some.entered()
    assert await second is None


async def test_a_full_queue_refuses() -> None:
    some = pool(most=1, most_waiting=1)
    await opens(some)
    await waits(some)
    with pytest.raises(Error, match="max_waiting") as caught:
        await some.enter("one")
    assert caught.value.kind == "overload" and caught.value.retry == "yes"


async def test_who_gives_up_waiting_leaves_the_queue() -> None:
    some = pool(most=1)
    used = await opens(some)
    first, second = await waits(some), await waits(some)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    some.put(used)
    assert await second is used


@pytest.mark.parametrize("what", ["connection", "right"])
async def test_what_comes_to_one_who_has_just_given_up_goes_to_the_next(what: str) -> None:
    some = pool(most=1)
    used = await opens(some)
    first, second = await waits(some), await waits(some)
    some.put(used) if what == "connection" else some.left(used)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert await second is (used if what == "connection" else None)


async def test_a_connection_that_died_on_its_way_is_not_handed_out() -> None:
    some = pool(most=2)
    used = await opens(some)
    await opens(some)
    first = await waits(some)
    some.put(used)
    used.usable = False
    some.left(used)
    assert await first is None and some.opening == 1
