"""An upstream connection by itself, on fake transports: what it gives back to its pool, and what it never does."""

from __future__ import annotations

import pytest

from carrier.core.session import Session
from carrier.errors import Error
from clusters.http.h1 import LARGE, Upstream1
from tests.conversation import Stage
from tests.e2e.test_http_bodies import answered
from tests.listeners.http.test_h1 import GET, OK, Pair

HEAD = b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n"


def idle(pair: Pair) -> bool:
    return pair.upstream in pair.cluster.endpoints[0].idle


def test_it_is_idle_before_its_answer_goes_on_so_that_a_next_request_may_take_it() -> None:
    pair = Pair()
    seen: list[bool] = []
    pair.down.write = lambda data: seen.append(idle(pair))  # type: ignore[method-assign]
    pair.exchange()
    assert seen == [True]


@pytest.mark.parametrize("end", ["bytes", "eof", "reset"])
def test_an_idle_one_to_which_anything_happens_is_never_taken_again(end: str) -> None:
    pair = Pair()
    pair.exchange()
    assert idle(pair)
    if end == "bytes":
        pair.upstream.data_received(OK)
        assert pair.up.calls == ["abort"]
    elif end == "eof":
        assert pair.upstream.eof_received() is False
    else:
        pair.upstream.connection_lost(ConnectionResetError())
    assert not idle(pair) and not pair.upstream.usable


@pytest.mark.parametrize(
    ("request_", "answer", "kept"),
    [
        (GET, OK, True),
        (HEAD, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", True),
        (GET, b"HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n", True),
        (GET, b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", False),
        (GET, b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", False),
        (GET, OK + b"more", False),
    ],
)
def test_only_one_that_stays_goes_back_to_the_pool(request_: bytes, answer: bytes, kept: bool) -> None:
    for cut in (0, 1, 20, len(answer) - 1):
        pair = Pair()
        pair.downstream.data_received(request_)
        for piece in (answer[:cut], answer[cut:]):
            if piece:
                pair.upstream.data_received(piece)
        assert idle(pair) is kept, cut


def test_answers_that_are_the_same_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    pair.exchange()
    pair.exchange()

    def never(upstream: Upstream1, data: bytes) -> None:
        raise AssertionError("it was looked at again")

    monkeypatch.setattr(Upstream1, "_read_whole", never)
    pair.exchange()
    assert len(pair.down.writes) == 3 and len(set(pair.down.writes)) == 1


def test_an_answer_that_is_late_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    pair.downstream.data_received(GET)
    session = pair.downstream.session
    assert session is not None
    failed: list[Error] = []
    monkeypatch.setattr(Session, "reset", lambda session, error: failed.append(error))
    pair.upstream.tick(session.connected_at + pair.cluster.shared.answer_timeout - 1)
    assert not failed
    pair.upstream.tick(session.connected_at + pair.cluster.shared.answer_timeout + 1)
    assert [error.kind for error in failed] == ["timeout"]


@pytest.mark.parametrize("surplus", [b"\r\n", b"surplus", b"5\r\nhello\r\n0\r\n\r\n"])
async def test_what_comes_behind_an_answer_costs_its_connection_and_nothing_else(surplus: bytes) -> None:
    async with Stage() as stage:
        client = await stage.client()
        for answer in (OK + surplus, b"HTTP/1.1 204 x\r\ncontent-length: 7\r\n\r\n" + surplus):
            await client.says(GET)
            server = await stage.server()
            await server.head()
            await server.says(answer)
            head = await client.head()
            assert await client.hears(2 if head.startswith(b"HTTP/1.1 200") else 0) in (b"ok", b"")
            assert await server.closed()
        await client.says(GET)
        server = await stage.server()
        await server.head()
        await server.says(OK)
        assert (await answered(client))[1] == b"ok"


@pytest.mark.parametrize("late", [b"\r\n", b"HTTP/1.0 this is no status line\r\n\r\n"])
async def test_what_an_idle_connection_still_had_to_say_is_no_answer_to_the_next_request(late: bytes) -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        await server.says(OK)
        await answered(client)
        await client.says(GET)
        await server.head()
        await server.says(late + OK)  # in time for the second request, and meant for the first
        again = await stage.server()
        assert await again.head()
        await again.says(OK)
        assert (await answered(client))[1] == b"ok"


async def test_a_new_connection_that_says_the_same_is_a_bad_answer() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        await server.says(b"\r\n" + OK)
        assert (await answered(client))[0].startswith(b"HTTP/1.1 502 ") and stage.accepted.empty()


@pytest.mark.parametrize(("method", "asked"), [(b"PUT", True), (b"DELETE", True), (b"OPTIONS", True), (b"POST", False), (b"PATCH", False)])
@pytest.mark.parametrize("framing", [b"", b"content-length: 0\r\n"])
async def test_on_a_stale_connection_what_is_idempotent_is_sent_again(method: bytes, asked: bool, framing: bytes) -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        await server.says(OK)
        await answered(client)
        await client.says(method + b" / HTTP/1.1\r\nhost: a\r\n" + framing + b"\r\n")
        await server.head()
        server.breaks()
        if asked:
            again = await stage.server()
            assert (await again.head()).startswith(method + b" / ")
            await again.says(OK)
        assert (await answered(client))[0].startswith(b"HTTP/1.1 200 " if asked else b"HTTP/1.1 502 ")


async def test_what_is_idempotent_and_has_content_is_not_sent_again() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        await server.says(OK)
        await answered(client)
        await client.says(b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello")
        await server.head()
        server.breaks()
        assert (await answered(client))[0].startswith(b"HTTP/1.1 502 ")


async def test_an_interim_answer_shows_life() -> None:
    async with Stage(cluster={"answer_timeout": 5}) as stage:
        client, server, _ = await stage.both(GET)
        for later in (4, 8, 12):
            stage.tick(later)
            await server.says(b"HTTP/1.1 102 Processing\r\n\r\n")
            assert (await client.head()).startswith(b"HTTP/1.1 102 ")
        stage.tick(18)
        assert (await answered(client))[0].startswith(b"HTTP/1.1 504 ")


@pytest.mark.parametrize(("size", "pieces"), [(LARGE, False), (LARGE + 1, True)])
async def test_an_answer_of_64_kib_is_read_as_it_comes_and_a_larger_one_in_pieces(size: int, pieces: bool) -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        (upstream,) = stage.proxy.clusters["up"].shared.busy  # type: ignore[attr-defined]
        await server.says(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + bytes(size))
        await client.head()
        assert len(await client.hears(size)) == size
        assert upstream.bulk is pieces
