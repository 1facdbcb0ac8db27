"""Ended sessions in batches: by number, by time, and when somebody looks."""

from __future__ import annotations

import asyncio
from typing import Any

from carrier.core.ledger import LARGE, Ledger
from tests.support import config, echo, listener, port_of, running, tcp, wait_until


def ledger() -> tuple[Ledger, list[int]]:
    """A ledger, and the sizes of the batches that came out of it."""
    made = Ledger(asyncio.get_running_loop())
    sizes: list[int] = []
    made.readers.append(lambda sessions: sizes.append(len(sessions)))
    return made, sizes


def end(made: Ledger, number: int) -> None:
    """As `Listener.ended` does it."""
    for _ in range(number):
        made.ended.append(object())  # type: ignore[arg-type]
        if not 1 < len(made.ended) < LARGE:
            made.due()


async def test_a_large_batch_is_handed_on_at_once() -> None:
    made, sizes = ledger()
    end(made, 2 * LARGE + 1)
    assert sizes == [LARGE, LARGE] and len(made.ended) == 1
    made.settle()


async def test_a_small_one_is_handed_on_soon() -> None:
    made, sizes = ledger()
    end(made, 3)
    assert sizes == []
    await wait_until(lambda: sizes)
    assert sizes == [3] and made.timer is None


async def test_looking_settles_and_nothing_is_handed_on_twice() -> None:
    made, sizes = ledger()
    end(made, 3)
    made.settle()
    made.settle()
    assert sizes == [3]
    await wait_until(lambda: made.timer is None)
    assert sizes == [3]


async def test_a_reader_that_fails_costs_nothing_but_its_lines() -> None:
    async with running(config(clusters=[echo()], listeners=[listener("in", port=0)])) as proxy:
        stray: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: stray.append(str(context["message"])))
        seen: list[Any] = []
        proxy.env.ledger = Ledger(proxy.env.loop)
        proxy.env.ledger.readers += [lambda sessions: 1 / 0, seen.extend]
        async with tcp(port_of(proxy, "in")) as client:
            client.send(b"x")
            await client.read(1)
        await wait_until(lambda: seen)  # by its timer
        assert len(seen) == 1 and stray == ["a reader of ended sessions failed: division by zero"]
        assert (seen[0].bytes_in, seen[0].bytes_out) == (1, 1)


async def test_without_readers_nothing_is_kept() -> None:
    async with running(config(clusters=[echo()], listeners=[listener("in", port=0)])) as proxy:
        async with tcp(port_of(proxy, "in")) as client:
            client.send(b"x")
            await client.read(1)
        await wait_until(lambda: not proxy.listeners["in"].live)
        assert proxy.env.ledger is None
