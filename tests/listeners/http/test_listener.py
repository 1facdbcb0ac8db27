"""The HTTP listener apart from its connections: its options."""

from __future__ import annotations

import asyncio
import re

from listeners.http.listener import HttpListener
from tests.conversation import Stage
from tests.h2peer import client2


def test_options_are_checked() -> None:
    assert (
        HttpListener.check_options(
            {"max_head": 1000, "trusted": ["10.0.0.0/8"], "via": "edge", "forwarded": True, "half_close": "keep"}, "o"
        )
        == []
    )
    for bad in ({"max_head": -1}, {"idle": 3}, {"trusted": ["300.0.0.0/8"]}, {"trusted": "all"}, {"via": "a b"}, {"half_close": "no"}):
        (problem,) = HttpListener.check_options(bad, "o")
        assert problem.path.startswith("o.")


TELLS = {"answer_id": True, "server_timing": True}


async def test_answers_tell_their_id_and_their_times_by_option() -> None:
    async with Stage(listener=TELLS) as stage:
        client = await stage.client()
        server = None
        for _ in range(2):
            await client.says(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            server = server or await stage.server()
            sent = await server.head()
            await server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            head = await client.head()
            (id_sent,) = [line for line in sent.split(b"\r\n") if line.startswith(b"x-request-id: ")]
            assert id_sent in head.split(b"\r\n")
            assert re.search(rb"\r\nserver-timing: carrier;dur=[\d.]+, connect;dur=[\d.]+, upstream;dur=[\d.]+\r\n", head)
        await client.says(b"GET / HTTP/1.1\r\nhost: a\r\nx-request-id: mine\r\n\r\n")
        await server.head()  # type: ignore[union-attr]
        await server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-request-id: theirs\r\n\r\n")  # type: ignore[union-attr]
        assert (await client.head()).count(b"x-request-id: theirs") == 1
        client.goes()


async def test_answers_of_http2_tell_them_too() -> None:
    async with Stage(listener=TELLS) as stage, client2(stage.port) as client:
        asked = asyncio.ensure_future(client.get("/"))
        server = await stage.server()
        await server.head()
        await server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        fields = (await asked).head
        assert re.fullmatch("[0-9a-f]{32}", fields["x-request-id"]) and "upstream;dur=" in fields["server-timing"]


def test_what_is_told_is_true_or_false() -> None:
    (problem,) = HttpListener.check_options({"answer_id": "yes"}, "o")
    assert (problem.path, problem.allowed) == ("o.answer_id", "true, false")
