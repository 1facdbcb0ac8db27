"""How a connection of HTTP/1.1 ends: what is said last, and what it is for whoever looks for a place."""

from __future__ import annotations

import asyncio

import pytest

from carrier.core.room import IDLE, PATIENCE, UNFINISHED, YOUNG
from carrier.core.wheel import LULL
from carrier.errors import Error
from listeners.http import ending
from tests.conversation import Stage
from tests.listeners.http.test_h1 import GET, OK, Pair


def test_what_is_refused_between_requests_is_answered_and_is_the_last() -> None:
    pair = Pair()
    pair.downstream.refuse(Error("overload", "no place"))
    assert pair.down.writes[0].startswith(b"HTTP/1.1 503 ") and b"connection: close\r\n" in pair.down.writes[0]
    assert pair.downstream.closing and pair.listener.limited["overload"] == 1


def test_what_is_refused_while_a_request_is_served_waits_for_its_answer() -> None:
    pair = Pair()
    pair.downstream.data_received(GET)
    pair.downstream.refuse(Error("protocol-error", "and then nonsense"))
    assert not pair.down.writes
    pair.upstream.data_received(OK)
    assert [text[:12] for text in pair.down.writes] == [b"HTTP/1.1 200", b"HTTP/1.1 400"]


def test_a_place_is_told_by_what_the_client_has_said() -> None:
    pair = Pair()
    assert pair.downstream.standing(pair.downstream.since) == (YOUNG, pair.downstream.since)
    assert pair.downstream.standing(pair.downstream.since + PATIENCE) == (UNFINISHED, pair.downstream.since)
    pair.downstream.data_received(GET)
    assert pair.downstream.standing(1.0) is None
    pair.upstream.data_received(OK)
    assert pair.downstream.standing(1.0) == (IDLE, pair.downstream.since)


@pytest.mark.parametrize("keepalive", [75.0, 0.0])
def test_who_says_nothing_between_requests_is_looked_at_when_its_time_is_over(keepalive: float) -> None:
    pair = Pair()
    pair.listener.keepalive_timeout = keepalive
    pair.exchange()
    until = pair.downstream.tick(pair.downstream.since + LULL)
    assert until is not None and until > pair.downstream.since + LULL
    assert pair.downstream.asleep and not pair.downstream.quiet
    pair.downstream.wake()
    assert pair.downstream.quiet


def test_a_client_that_cannot_be_told_the_end_alone_is_closed_at_once() -> None:
    pair = Pair()
    pair.exchange()
    pair.down.can_write_eof = lambda: False  # type: ignore[attr-defined]  # as over TLS
    pair.downstream.over()
    assert pair.down.calls[-1] == "close"


def test_what_lingers_is_told_the_end_and_closed_after_its_time() -> None:
    pair = Pair()
    pair.exchange()
    pair.down.can_write_eof = lambda: True  # type: ignore[attr-defined]
    pair.downstream.over()
    assert pair.down.calls[-1] == "write_eof"
    pair.downstream.tick(pair.downstream.since + ending.LINGER / 2)
    assert pair.down.calls[-1] == "write_eof"
    pair.downstream.tick(pair.downstream.since + ending.LINGER)
    assert pair.down.calls[-1] == "close"


async def test_a_last_answer_is_followed_by_an_end_and_no_reset_whatever_its_client_still_sends() -> None:
    """What was pipelined behind it is not read; closing would reset the connection, and an answer that ends with it would look cut."""
    async with Stage() as stage:
        client, server, _ = await stage.both(b"GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n")
        sending = asyncio.ensure_future(client.says(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2000000\r\n\r\n" + b"x" * 2_000_000))
        await stage.becomes(lambda: next(iter(stage.listener.connections)).paused)
        await server.says(b"HTTP/1.1 200 OK\r\n\r\n" + b"z" * 200_000)
        server.goes()
        assert (await client.rest()).endswith(b"\r\n\r\n" + b"z" * 200_000)
        await sending
