"""A port of Gefyra's is what the app made it: fields of the way, time, sizes, bytes of a target."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from carrier.config.source import loads
from carrier.wire.h2.frames import HEADERS, frame
from tests.conversation import Peer, Stage
from tests.h2peer import Peer2, Server2, client2
from tests.h2talk import HELLO as HELLO2
from tests.ports import free_port
from tests.support import running, tcp, tcp_server, wait_until

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def port(number: int, *upstream: int, **more: Any) -> Any:
    proxy = [{"port": number, "clusterUpstream": [f"127.0.0.1:{one}" for one in upstream], **more}]
    return loads(json.dumps({"version": 1, "proxy": proxy})).config


async def heard(request: bytes, **more: Any) -> tuple[bytes, bytes]:
    """What the app gets of a request, and what the client gets of its answer."""
    heads: list[bytes] = []

    async def app(peer: Any) -> None:
        heads.append(await peer.reader.readuntil(b"\r\n\r\n"))
        peer.send(OK)

    number = free_port()
    async with tcp_server(app) as server, running(port(number, server.port, **more)), tcp(number) as client:
        client.send(request)
        client.end()
        said = await client.read_all()
        return (heads or [b""])[0], said


CLAIMS = [
    b"x-forwarded-for: 203.0.113.7",
    b"x-forwarded-proto: https",
    b"x-forwarded-host: shop.example",
    b"x-forwarded-port: 443",
    b"x-forwarded-prefix: /shop",
    b"x-real-ip: 203.0.113.7",
    b"forwarded: for=203.0.113.7;proto=https",
]


@pytest.mark.parametrize("identity", [b"", b"x-request-id: 7\r\n"])
@pytest.mark.parametrize("said", [CLAIMS, *([one] for one in CLAIMS)])
async def test_what_a_request_says_of_its_way_reaches_the_app_as_it_came_and_nothing_is_added(said: list[bytes], identity: bytes) -> None:
    head, _ = await heard(b"GET / HTTP/1.1\r\nhost: a\r\n" + identity + b"\r\n".join(said) + b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert [line for line in lines if line.lower().startswith((b"x-forwarded", b"forwarded", b"x-real"))] == said
    assert sum(line.startswith(b"x-request-id: ") for line in lines) == 1


async def test_a_request_that_says_nothing_of_its_way_gets_what_is_known() -> None:
    head, _ = await heard(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert b"x-forwarded-for: 127.0.0.1\r\n" in head and b"x-forwarded-proto: http\r\n" in head


async def test_heads_are_wide_both_ways_and_targets_go_on_as_they_came() -> None:
    fields = b"".join(b"x-%d: %b\r\n" % (n, b"y" * 120) for n in range(200))
    head, said = await heard(
        b"GET /a|b?{c}=" + b"d" * 9000 + b" HTTP/1.1\r\nhost: a\r\ncookie: " + b"s" * 15000 + b"\r\n" + fields + b"\r\n"
    )
    assert (
        said.startswith(b"HTTP/1.1 200 ")
        and head.startswith(b"GET /a|b?{c}=dddd")
        and b"s" * 15000 in head
        and head.count(b"yy\r\n") == 200
    )

    async def wide(peer: Any) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 200 OK\r\nset-cookie: " + b"s" * 15000 + b"\r\n" + fields + b"content-length: 2\r\n\r\nok")

    number = free_port()
    async with tcp_server(wide) as server, running(port(number, server.port)), tcp(number) as client:
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert (await client.read_all()).startswith(b"HTTP/1.1 200 ")


async def test_options_of_a_port_hold_for_it_and_its_clusters() -> None:
    conf = port(8080, 9, options={"max_line": 20000, "idle_timeout": 7, "answer_timeout": 8}, bridges={})
    listener, cluster = conf.listeners["port/8080"], conf.clusters["8080/shadow"]
    assert listener.options["max_line"] == cluster.options["max_line"] == 20000
    assert listener.options["idle_timeout"] == 7 and cluster.options["answer_timeout"] == 8
    assert "answer_timeout" not in listener.options and "idle_timeout" not in cluster.options
    assert listener.options["header_timeout"] == 60 and port(8080, 9).clusters["8080/shadow"].options["answer_timeout"] == 0


# ------------------------------------------------------------------ bodies and time

POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n"


async def test_a_client_that_waits_for_leave_to_send_is_not_too_slow_before_it_has_it() -> None:
    async with Stage(listener={"body_grace": 2}) as stage:
        client, server, _ = await stage.both(POST + b"expect: 100-continue\r\n\r\n")
        stage.tick(200)
        await server.says(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 100 ")
        stage.tick(201)
        await client.says(b"123456789")
        assert await server.hears(9) == b"123456789"
        await server.says(OK)
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def test_no_rate_is_asked_of_a_body_whose_answer_has_begun() -> None:
    async with Stage(listener={"body_grace": 1}) as stage:
        client, server, _ = await stage.both(POST + b"\r\n1")
        await server.says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n1\r\n")
        assert await client.until(b"1\r\n1\r\n")
        for later in (100, 200, 290):
            stage.tick(later)
            await client.says(b"2")
            await server.hears(1 if later > 100 else 2)
        await client.says(b"34567")
        await server.says(b"0\r\n\r\n")
        assert await client.until(b"0\r\n\r\n")


async def test_without_a_rate_a_body_may_rest_for_the_idle_time_and_no_longer() -> None:
    async with Stage(listener={"body_min_rate": 0, "idle_timeout": 30}) as stage:
        client, server, _ = await stage.both(POST + b"\r\n")
        for n in range(3):
            stage.tick(n * 29)
            await client.says(b"x")
            await server.hears(1)
        stage.tick(58)
        stage.tick(100)
        assert (await client.head()).startswith(b"HTTP/1.1 504 ")


# ------------------------------------------------------------------ heads together


async def part(stage: Stage, size: int) -> Peer:
    client = await stage.client()
    await client.says(b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * size)
    return client


async def test_heads_of_a_listener_are_bounded_together() -> None:
    async with Stage(listener={"max_heads": 30000}) as stage:
        listener: Any = stage.listener
        first = [await part(stage, 9000) for _ in range(3)]
        await stage.becomes(lambda: listener.heads > 27000)
        fourth = await part(stage, 9000)
        said = await fourth.head()
        assert said.startswith(b"HTTP/1.1 431 ") and b"max_heads" in await fourth.rest()
        short, server, _ = await stage.both(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await server.says(OK)
        assert (await short.head()).startswith(b"HTTP/1.1 200 "), "a head that is whole and short is no burden"
        first[0].breaks()
        await stage.becomes(lambda: listener.heads < 20000)
        await first[1].says(b"\r\n\r\n")
        server = await stage.server() if stage.accepted.qsize() else server
        assert b"yyy" in await server.head()
        assert listener.heads > 17000, "a long one counts while it is served"
        await server.says(OK)
        assert (await first[1].head()).startswith(b"HTTP/1.1 200 ")
        await stage.becomes(lambda: listener.heads < 10000)
        await asyncio.sleep(0)


async def test_heads_of_http_2_are_among_them() -> None:
    long = [(f"x-{n}", "y" * 3000) for n in range(3)]
    async with Stage(listener={"max_heads": 30000}) as stage, client2(stage.port) as client:
        listener: Any = stage.listener
        numbers = [client.ask("/", fields=long) for _ in range(3)]
        servers = [await stage.server() for _ in numbers]
        assert 27000 < listener.heads <= 30000
        refused = await client.answer(client.ask("/", fields=long))
        assert refused.status == 431 and b"max_heads" in refused.body
        one = await part(stage, 9000)
        assert (await one.head()).startswith(b"HTTP/1.1 431 ")
        short = client.ask("/")
        servers.append(await stage.server())
        for server in servers:
            await server.head()
            await server.says(OK)
        for number in (*numbers, short):
            assert (await client.answer(number)).status == 200
        one.breaks()
        await stage.becomes(lambda: listener.heads == 0)
        assert listener.limited["headers-too-large"] == 2
        client.ask("/", fields=long)
        await stage.becomes(lambda: listener.heads > 9000)
    await asyncio.sleep(0)
    assert listener.heads == 0


async def test_a_head_of_http_2_that_does_not_end_counts_and_is_given_up_when_there_is_no_room() -> None:
    async with Stage(listener={"max_heads": 29000}) as stage:
        listener: Any = stage.listener
        clients = []
        for n in range(4):
            client = await stage.client()
            await client.says(HELLO2 + frame(HEADERS, 0, 1, b"\0" * 8000)[: 9000 if n % 2 else 7000])  # whole, or in the middle
            clients.append(client)
            await stage.becomes(lambda n=n: listener.heads >= min(n + 1, 3) * 7000)
        assert (await clients[-1].rest()).endswith(b"\0\0\0\x0bclosed")  # GOAWAY with ENHANCE_YOUR_CALM
        assert listener.limited["headers-too-large"] == 1
        for client in clients:
            client.breaks()
        await stage.becomes(lambda: listener.heads == 0)


async def test_wide_heads_pass_over_http_2_both_ways() -> None:
    wide = [(f"x-{n}", "Y" * 500) for n in range(200)]

    async def app(peer: Peer2) -> None:
        while True:
            peer.head(await peer.request(), [(":status", "200"), ("set-cookie", "s" * 15000), *wide], end=True)

    number = free_port()
    async with Server2(app) as server, running(port(number, server.port)), client2(number) as client:
        answer = await client.answer(client.ask("/", fields=[("cookie", "s" * 15000), *wide]))
        assert (answer.status, answer.head["x-199"]) == (200, "Y" * 500)


# ------------------------------------------------------------------ bodies and time, over HTTP/2


async def test_over_http_2_a_client_that_waits_for_leave_is_not_too_slow_before_it_has_it() -> None:
    async with Stage(listener={"body_grace": 2}) as stage, client2(stage.port) as client:
        number = client.ask("/", "POST", [("expect", "100-continue"), ("content-length", "9")], end=False)
        server = await stage.server()
        await server.head()
        stage.tick(200)
        await server.says(b"HTTP/1.1 100 Continue\r\n\r\n")
        await client.until(lambda: client.streams[number].heads)
        stage.tick(201)
        client.send(number, b"123456789", end=True)
        assert await server.hears(9) == b"123456789"
        await server.says(OK)
        assert (await client.answer(number)).status == 200


@pytest.mark.parametrize("two", [False, True])
async def test_without_a_100_the_time_of_a_body_runs_from_its_first_byte(two: bool) -> None:
    """Who asks for leave and does not wait for it for ever (RFC 9110 10.1.1)."""
    async with Stage(listener={"body_grace": 2}) as stage, client2(stage.port) as client:
        if two:
            number = client.ask("/", "POST", [("expect", "100-continue"), ("content-length", "9")], end=False)
        else:
            one = await stage.client()
            await one.says(POST + b"expect: 100-continue\r\n\r\n")
        server = await stage.server()
        await server.head()
        stage.tick(200)

        async def says(data: bytes) -> None:
            client.send(number, data) if two else await one.says(data)
            await server.hears(len(data))

        await says(b"1")
        stage.tick(200.5)
        stage.tick(202)
        await says(b"23456789")
        await server.says(OK)
        assert (await client.answer(number)).status == 200 if two else (await one.head()).startswith(b"HTTP/1.1 200 ")


async def test_over_http_2_no_rate_is_asked_of_a_body_whose_answer_has_begun_and_it_may_rest_for_the_idle_time() -> None:
    async with Stage(listener={"body_grace": 1}) as stage, client2(stage.port) as client:
        number = client.ask("/", "POST", end=False)
        server = await stage.server()
        await server.head()
        await server.says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n1\r\n")
        await client.until(lambda: client.streams[number].body == b"1")
        for later in (100, 200, 290):
            stage.tick(later)
            client.send(number, b"2")
            await server.until(b"2\r\n")
        client.send(number, b"", end=True)
        await server.until(b"0\r\n\r\n")
        await server.says(b"0\r\n\r\n")
        assert (await client.answer(number)).body == b"1"
    async with Stage(listener={"body_min_rate": 0, "idle_timeout": 30}) as stage, client2(stage.port) as client:
        number = client.ask("/", "POST", end=False)
        server = await stage.server()
        await server.head()
        for n in range(3):
            stage.tick(n * 29)
            client.send(number, b"x")
            await server.until(b"x\r\n")
        stage.tick(58)
        stage.tick(100)
        assert (await client.answer(number)).status == 504


async def test_a_slow_upload_passes_a_port_of_gefyra() -> None:
    """10 bytes a second for an hour, as the port's clock has it."""
    number = free_port()
    got = bytearray()

    async def app(peer: Any) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        while len(got) < 40:
            got.extend(await peer.reader.read(100))
        peer.send(OK)

    async with tcp_server(app) as server, running(port(number, server.port)) as proxy, tcp(number) as client:
        client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 40\r\nconnection: close\r\n\r\n")
        (listener,) = proxy.listeners.values()
        now = asyncio.get_running_loop().time()
        for n in range(4):
            client.send(b"0123456789")
            await wait_until(lambda n=n: len(got) == 10 * n + 10)
            listener.tick(now + 1000 * (n + 1))
        assert (await client.read_all()).startswith(b"HTTP/1.1 200 ")
