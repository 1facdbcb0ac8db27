"""What is remembered of a mount for a moment."""

import asyncio

from carrier.gefyra.known import Known, Remembered


async def test_what_was_read_a_moment_ago_is_not_read_again(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("carrier.gefyra.known.time.monotonic", lambda: now[0])
    read = []

    async def reading():
        read.append(now[0])
        return len(read)

    kept = Remembered(2.0)
    assert [await kept.get(reading), await kept.get(reading)] == [1, 1]
    now[0] = 102.5
    assert await kept.get(reading) == 2
    kept.forget()
    assert await kept.get(reading) == 3


async def test_what_is_forgotten_while_it_is_read_is_read_anew():
    """A pod that was patched meanwhile may be in it, or not."""
    kept, go, read = Remembered(60.0), asyncio.Event(), []

    async def reading():
        read.append(1)
        if len(read) == 1:
            await go.wait()
        return len(read)

    first = asyncio.create_task(kept.get(reading))
    await asyncio.sleep(0)
    kept.forget()
    go.set()
    assert (await first, await kept.get(reading), await kept.get(reading)) == (1, 2, 2)


def test_a_pod_is_hopeless_for_a_while(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("carrier.gefyra.known.time.monotonic", lambda: now[0])
    known = Known()
    known.hopeless["uid"] = (400.0, "no image")
    assert (known.hopeless_of("uid"), known.hopeless_of("other")) == ("no image", "")
    now[0] = 401.0
    assert known.hopeless_of("uid") == ""


def test_who_is_to_look_again_looks_at_every_pod():
    known = Known()
    known.runs["uid"], known.uneven = "run", False
    known.look_again()
    assert (known.runs, known.uneven) == ({}, True)
