"""A client that sends its end behind a whole request: it waits for the answer, or it has left, and nobody can tell which."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time

import pytest

from carrier import model as c
from tests.conversation import Peer, Stage
from tests.e2e.test_http_bodies import GET, OK, answered
from tests.pki import Pki, pki

__all__ = ["pki"]

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PIECE = b"5\r\nhello\r\n"


async def gone_within(server: Peer, seconds: float) -> float:
    """How long until the server hears that its connection is gone."""
    since = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            while await server.reader.read(1024):
                pass
    except ConnectionError:
        pass
    return time.monotonic() - since


async def test_an_answer_that_begins_within_a_second_is_delivered() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        client.ends()
        await asyncio.sleep(0.6)
        await server.says(OK)
        assert (await client.rest()).endswith(b"\r\n\r\nok")


async def test_one_that_began_in_time_may_take_as_long_as_it_likes() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        client.ends()
        await asyncio.sleep(0.1)
        await server.says(STREAM + PIECE)
        await asyncio.sleep(1.6)
        await server.says(PIECE + b"0\r\n\r\n")
        assert (await client.rest()).endswith(PIECE * 2 + b"0\r\n\r\n")


async def test_without_an_answer_the_upstream_is_told_that_nobody_waits() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        client.ends()
        assert 0.9 < await gone_within(server, 2) < 1.8
        assert not stage.listener.live


async def test_who_leaves_a_stream_of_events_is_missed_by_its_server_within_two_seconds() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        await server.says(STREAM + PIECE)
        await client.until(PIECE)
        client.goes()
        assert await gone_within(server, 3) < 2


async def test_a_stream_that_moves_on_is_sent_on() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        await server.says(STREAM + PIECE)
        await client.until(PIECE)
        client.ends()
        for _ in range(6):
            await asyncio.sleep(0.4)
            await server.says(PIECE)
        await server.says(b"0\r\n\r\n")
        assert (await client.rest()).count(PIECE) == 6


async def test_pipelined_requests_before_the_end_are_all_answered() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET * 3)
        client.ends()
        for n in range(3):
            if n:
                await server.head()
            await asyncio.sleep(0.4)
            await server.says(OK)
        assert (await client.rest()).count(b"\r\n\r\nok") == 3


@pytest.mark.parametrize("when", ["before", "behind"])
async def test_by_option_it_is_waited_for(when: str) -> None:
    async with Stage(listener={"half_close": "keep"}) as stage:
        client, server, _ = await stage.both(GET)
        if when == "behind":
            await server.says(STREAM)
            await client.head()
        client.ends()
        await asyncio.sleep(1.5)
        if when == "before":
            await server.says(OK)
            assert (await answered(client))[1] == b"ok"
        else:
            await server.says(PIECE + b"0\r\n\r\n")
            assert await client.rest() == PIECE + b"0\r\n\r\n"


class Secure:
    """A TLS client whose records are in our hands, so that it can say close_notify and listen on."""

    def __init__(self, peer: Peer, context: ssl.SSLContext) -> None:
        self.peer = peer
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, False, "localhost")

    async def turn(self) -> bool:
        """Send what there is, and read more; False at the end."""
        if self.outgoing.pending:
            await self.peer.says(self.outgoing.read())
        data = await asyncio.wait_for(self.peer.reader.read(65536), 5)
        self.incoming.write(data)
        return bool(data)

    async def hello(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self.turn()
        await self.peer.says(self.outgoing.read())

    async def says(self, data: bytes) -> None:
        self.tls.write(data)
        await self.peer.says(self.outgoing.read())

    async def ends(self) -> None:
        """Sends close_notify."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        await self.peer.says(self.outgoing.read())

    async def rest(self) -> bytes:
        """What still comes."""
        found = b""
        while await self.turn():
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                while part := self.tls.read(65536):
                    found += part
        return found


@pytest.mark.parametrize("fin", [False, True])
async def test_a_client_of_tls_that_says_close_notify_is_answered_too(pki: Pki, fin: bool) -> None:
    async with Stage() as stage:
        tls = pki("server", "localhost")
        front = stage.config().listeners["front"]
        spec = {**front.spec, "tls": tls}
        await stage.proxy.apply(stage.config(listeners={"front": c.Listener("front", spec, "rl", {})}))
        client = Secure(await stage.client(), pki.client())
        await client.hello()
        await client.says(GET)
        server = await stage.server()
        await server.head()
        await client.ends()
        if fin:
            client.peer.ends()
        await asyncio.sleep(0.4)
        await server.says(OK)
        assert (await client.rest()).endswith(b"\r\n\r\nok")
        again = Secure(await stage.client(), pki.client())
        await again.hello()
        await again.says(GET)
        await server.head()
        await again.ends()
        assert await gone_within(server, 2) < 1.8
