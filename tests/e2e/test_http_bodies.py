"""HTTP/1.1 through a real proxy on real sockets: bodies of every framing, in order, with back-pressure, and cut where they are cut."""

from __future__ import annotations

import asyncio
import json

import pytest

from carrier import model as c
from tests.conversation import Peer, Stage

GET = b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def answered(client: Peer) -> tuple[bytes, bytes]:
    """The next answer with a content-length: its head, and its body."""
    head = await client.head()
    lower = head.lower()
    at = lower.index(b"content-length: ") + 16
    return head, await client.hears(int(lower[at : lower.index(b"\r\n", at)]))


async def test_a_request_reaches_the_server_and_its_answer_the_client() -> None:
    async with Stage() as stage:
        client, server, head = await stage.both(GET)
        assert (
            head.startswith(b"GET /a HTTP/1.1\r\nhost: a\r\n") and b"x-forwarded-for: 127.0.0.1\r\n" in head and b"x-request-id: " in head
        )
        await server.says(OK)
        assert await answered(client) == (OK[:-2], b"ok")


async def test_both_connections_are_kept_and_used_again() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        for _ in range(3):
            await server.says(OK)
            await answered(client)
            await client.says(GET)
            await server.head()
        assert stage.accepted.empty()


@pytest.mark.parametrize("whole", [True, False])
async def test_a_body_with_a_length_arrives_as_it_was_sent(whole: bool) -> None:
    async with Stage() as stage:
        head, body = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 70000\r\n\r\n", bytes(range(250)) * 280
        client = await stage.client()
        await client.says(head + body if whole else head)
        server = await stage.server()
        assert b"content-length: 70000\r\n" in await server.head()
        if not whole:
            await client.says(body)
        assert await server.hears(70000) == body
        await server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 70000\r\n\r\n" + body)
        assert (await answered(client))[1] == body


async def test_a_chunked_body_is_framed_again_and_keeps_its_trailers() -> None:
    async with Stage() as stage:
        client, server, head = await stage.both(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n")
        assert b"transfer-encoding: chunked\r\n" in head and b"content-length" not in head
        assert await server.hears(10) == b"5\r\nhello\r\n"
        await client.says(b"00003\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n")
        assert await server.until(b"0\r\nx-sum: 7\r\n\r\n") == b"3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n"
        await server.says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-end: 1\r\n\r\n")
        assert (await client.head()).endswith(b"transfer-encoding: chunked\r\n\r\n")
        assert await client.until(b"1\r\n\r\n") == b"2\r\nok\r\n0\r\nx-end: 1\r\n\r\n"
        await client.says(GET)
        assert (await server.head()).startswith(b"GET")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    ],
)
async def test_answers_without_a_body_leave_the_connections_usable(answer: bytes) -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        for _ in range(2):
            await server.says(answer)
            assert (await client.head()).startswith(answer[:12])
            await client.says(GET)
            await server.head()


@pytest.mark.parametrize("framing", [b"content-length: 1000", b"transfer-encoding: chunked"])
async def test_an_answer_to_head_has_no_body(framing: bytes) -> None:
    async with Stage() as stage:
        client, server, head = await stage.both(b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert head.startswith(b"HEAD ")
        await server.says(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        assert framing in await client.head()
        await client.says(GET)
        await server.head()
        await server.says(OK)
        assert (await answered(client))[1] == b"ok"


async def test_an_answer_that_ends_with_its_connection_is_chunked_for_the_client() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        await server.says(b"HTTP/1.1 200 OK\r\n\r\nall of ")
        assert b"transfer-encoding: chunked" in await client.head()
        await server.says(b"it")
        server.goes()
        assert await client.until(b"0\r\n\r\n") in (b"7\r\nall of \r\n2\r\nit\r\n0\r\n\r\n", b"9\r\nall of it\r\n0\r\n\r\n")
        await client.says(GET)
        assert (await (await stage.server()).head()).startswith(b"GET")


async def test_a_client_of_http_1_0_gets_a_plain_body_and_a_close() -> None:
    async with Stage() as stage:
        client, server, head = await stage.both(b"GET / HTTP/1.0\r\n\r\n")
        assert head.startswith(b"GET / HTTP/1.1\r\n") and b"\r\nhost: " in head
        await server.says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        head = await client.head()
        assert b"transfer-encoding" not in head and b"connection: close" in head
        assert await client.rest() == b"ok"


async def test_a_client_of_http_1_0_may_keep_its_connection() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
        await server.says(OK)
        assert b"connection: keep-alive" in (await answered(client))[0]
        await client.says(GET)
        await server.head()


async def test_a_server_of_http_1_0_is_understood_and_not_used_again() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        await server.says(b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok")
        assert (await answered(client))[1] == b"ok"
        assert await server.closed()
        await client.says(GET)
        await (await stage.server()).head()


async def test_connection_close_of_the_client_closes_after_the_answer() -> None:
    async with Stage() as stage:
        client, server, head = await stage.both(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert b"connection" not in head
        await server.says(OK)
        assert b"connection: close" in (await answered(client))[0]
        assert await client.closed()


async def test_expect_100_continue_is_asked_of_the_server_and_its_answer_passed() -> None:
    async with Stage() as stage:
        client, server, head = await stage.both(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        assert b"expect: 100-continue" in head
        await server.says(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 100 ")
        await client.says(b"body")
        assert await server.hears(4) == b"body"
        await server.says(OK)
        assert (await answered(client))[1] == b"ok"
        await client.says(GET)
        await server.head()


async def test_a_final_answer_instead_of_100_ends_the_connection_because_the_body_may_not_come() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        await server.says(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
        assert b"connection: close" in await client.head()
        assert await client.closed() and await server.closed()


async def test_a_destination_that_knows_no_http_never_says_100_so_the_proxy_does() -> None:
    more = {"echo": c.Cluster("echo", {"protocol": "Echo"})}
    async with Stage(rules=((None, "echo", ()),), clusters=more) as stage:
        client = await stage.client()
        await client.says(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 100 ")
        await client.says(b"body")
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        assert await client.until(b"0\r\n\r\n") == b"4\r\nbody\r\n0\r\n\r\n"


async def test_a_fallback_that_knows_no_http_says_100_once_also_when_the_endpoint_is_known_to_be_down() -> None:
    more = {"echo": c.Cluster("echo", {"protocol": "Echo"})}
    async with Stage(fallback="echo", clusters=more, cluster={"health": {"failures": 1}}) as stage:
        stage.shuts()
        client = await stage.client()
        for _ in range(2):  # refused; then not tried
            await client.says(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
            assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.says(b"body")
            assert b"x-carrier-fallback: refused" in await client.head()
            assert await client.until(b"0\r\n\r\n") == b"4\r\nbody\r\n0\r\n\r\n"


async def test_answers_of_our_own_have_a_date_and_those_of_others_are_not_given_one() -> None:
    more = {"echo": c.Cluster("echo", {"protocol": "Echo"}), "fixed": c.Cluster("fixed", {"protocol": "Answer", "body": "x"})}
    rules = tuple(({"matchHeader": {"name": "to", "value": name}}, name, ()) for name in more)
    async with Stage(rules=rules, clusters=more) as stage:
        for name in more:
            client = await stage.client()
            await client.says(b"GET / HTTP/1.1\r\nhost: a\r\nto: %b\r\n\r\n" % name.encode())
            assert (await client.head()).count(b"\r\ndate: ") == 1
        client, server, _ = await stage.both(GET)
        await server.says(OK)
        assert b"date: " not in (await answered(client))[0]
        broken = await stage.client()
        await broken.says(b"NONSENSE\r\n\r\n")
        head = await broken.head()
        assert head.startswith(b"HTTP/1.1 400 ") and head.count(b"\r\ndate: ") == 1


async def test_interim_answers_are_passed_before_the_final_one() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        await server.says(b"HTTP/1.1 103 Early Hints\r\nlink: </s.css>\r\n\r\n")
        assert b"link: </s.css>" in await client.head()
        await server.says(b"HTTP/1.1 102 Processing\r\n\r\n" + OK)
        assert (await client.head()).startswith(b"HTTP/1.1 102 ")
        assert (await answered(client))[1] == b"ok"


async def test_interim_answers_are_not_for_http_1_0() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(b"GET / HTTP/1.0\r\n\r\n")
        await server.says(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with Stage() as stage:
        client = await stage.client()
        bodies = [b"POST /%d HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc" % i for i in range(3)]
        await client.says(b"".join(bodies) + GET + GET)
        server = await stage.server()
        for i in range(5):
            head = await server.head()
            if i < 3:
                assert head.startswith(b"POST /%d " % i) and await server.hears(3) == b"abc"
            assert await server.silent(0.02)
            await server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % i)
            assert (await answered(client))[1] == b"%d" % i


async def test_a_bad_request_behind_a_good_one_is_refused_after_the_good_one_is_answered() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET + b"GET /bad HTTP/1.1\r\nhost : a\r\n\r\n" + GET)
        assert await client.silent()
        await server.says(OK)
        assert (await answered(client))[1] == b"ok"
        assert (await answered(client))[0].startswith(b"HTTP/1.1 400 ")
        assert await client.closed() and await server.silent(0.02)


async def test_after_a_refusal_nothing_is_served_not_even_what_the_memo_knows() -> None:
    async with Stage() as stage:
        first, server, _ = await stage.both(GET)
        await server.says(OK)
        await answered(first)
        client = await stage.client()
        await client.says(b"GET / HTTP/1.1\r\nhost : a\r\n\r\n")
        assert (await answered(client))[0].startswith(b"HTTP/1.1 400 ")
        await client.says(GET)
        assert await server.silent(0.05) and stage.accepted.empty()


async def test_many_pipelined_requests_without_a_reader_are_not_all_answered_into_memory() -> None:
    async with Stage() as stage:
        client = await stage.client(rcvbuf=4096)
        client.reader._limit = 1024  # type: ignore[attr-defined]  # it pauses its transport soon
        asked = 0

        async def serve() -> None:
            nonlocal asked
            server = await stage.server()
            while True:
                await server.head()
                asked += 1
                await server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n" + b"x" * 60000)

        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        task = asyncio.create_task(serve())
        await client.says(GET * 400)
        await asyncio.sleep(0.5)
        assert 1 <= asked < 100  # 24 MB were asked for; the kernel's buffers hold some MB
        seen = asked
        client.reader._limit = 1 << 22  # type: ignore[attr-defined]
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(400):
            await answered(client)
        assert asked == 400 > seen
        task.cancel()


async def test_an_early_answer_is_passed_and_the_rest_of_the_request_dropped() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 50000\r\n\r\nfirst")
        await server.says(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno")
        assert (await answered(client))[1] == b"no"
        assert await server.hears(5) == b"first" and await server.closed()
        await client.says(b"x" * (50000 - 5) + GET)
        assert (await (await stage.server()).head()).startswith(b"GET")


async def test_after_an_early_answer_a_huge_rest_ends_the_connection() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 50000000\r\n\r\nfirst")
        await server.says(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno")
        assert (await answered(client))[1] == b"no"
        client.writer.write(b"x" * 500_000)
        assert await client.closed()
        stage.tick(3)


async def test_after_an_early_answer_a_rest_that_does_not_come_ends_the_connection_soon() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5000\r\n\r\nfirst")
        await server.says(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno")
        await answered(client)
        stage.tick(0.5)
        assert await client.silent(0.05)
        stage.tick(3)
        assert await client.closed()


UPGRADE = b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"


async def test_after_a_101_both_directions_are_a_tunnel_and_the_client_was_held_until_then() -> None:
    async with Stage() as stage:
        client, server, head = await stage.both(UPGRADE + b"early")
        assert b"upgrade: websocket" in head
        await client.says(b" and more")
        assert await server.silent()
        await server.says(SWITCH + b"greeting")
        assert (await client.head()).startswith(b"HTTP/1.1 101 ") and await client.hears(8) == b"greeting"
        assert await server.hears(14) == b"early and more"
        big = bytes(range(256)) * 4000

        async def both_ways() -> None:
            await asyncio.gather(client.says(big), server.says(big))

        task = asyncio.create_task(both_ways())
        assert await server.hears(len(big)) == big and await client.hears(len(big)) == big
        await task
        assert len(list(stage.listener.sessions())) == 1
        client.ends()
        assert await server.closed()
        await server.says(b"last words")
        server.ends()
        assert await client.rest() == b"last words"


async def test_a_tunnel_may_be_ended_by_the_server_first() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(UPGRADE)
        await server.says(SWITCH)
        await client.head()
        server.ends()
        assert await client.closed()
        await client.says(b"late")
        assert await server.hears(4) == b"late"
        client.ends()
        assert await server.closed()


async def test_a_tunnel_whose_client_breaks_is_broken_for_the_server() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(UPGRADE)
        await server.says(SWITCH)
        await client.head()
        client.breaks()
        assert await server.closed()


async def test_a_refused_upgrade_is_an_ordinary_answer() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(UPGRADE + GET)
        await server.says(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno")
        assert (await answered(client))[1] == b"no"
        assert (await server.head()).startswith(b"GET /a ")


@pytest.mark.parametrize("request_", [GET, b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n"])
async def test_a_101_that_was_not_asked_for_is_a_bad_answer(request_: bytes) -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(request_)
        await server.says(SWITCH + b"GET /smuggled HTTP/1.1\r\n\r\n")
        assert (await answered(client))[0].startswith(b"HTTP/1.1 502 ")
        assert await server.closed()


async def test_h2c_is_not_passed_on() -> None:
    async with Stage() as stage:
        _, _, head = await stage.both(
            b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n\r\n"
        )
        assert b"upgrade" not in head and b"http2" not in head


async def test_connect_is_refused() -> None:
    async with Stage() as stage:
        client = await stage.client()
        await client.says(b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n")
        assert (await answered(client))[0].startswith(b"HTTP/1.1 501 ")
        assert await client.closed()


# ------------------------------------------------------------------ back-pressure


async def test_a_slow_reader_stops_the_server_not_the_memory() -> None:
    async with Stage() as stage:
        client = await stage.client(rcvbuf=4096)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.says(GET)
        server = await stage.server()
        await server.head()
        server.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 30000000\r\n\r\n" + b"x" * 30_000_000)
        upstream = next(iter(stage.cluster.shared.busy))
        await stage.becomes(lambda: upstream.paused)
        await asyncio.sleep(0.2)
        connection = next(iter(stage.listener.connections))  # type: ignore[attr-defined]
        assert connection.transport.get_write_buffer_size() < 600_000
        assert connection.bytes_out < 10_000_000  # the rest is in the kernel
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await client.head()
        assert len(await client.hears(30_000_000)) == 30_000_000


async def test_a_slow_server_stops_the_client_not_the_memory() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 30000000\r\n\r\n")
        server.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(b"x" * 30_000_000)
        connection = next(iter(stage.listener.connections))  # type: ignore[attr-defined]
        await stage.becomes(lambda: connection.paused)
        await asyncio.sleep(0.2)
        upstream = next(iter(stage.cluster.shared.busy))
        assert upstream.transport.get_write_buffer_size() < 600_000
        stage.tick(100)  # it may not send: its body is not too slow
        assert connection.session is not None
        server.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await server.hears(30_000_000)) == 30_000_000
        await server.says(OK)
        assert (await answered(client))[1] == b"ok"


# ------------------------------------------------------------------ cut


async def test_a_client_gone_in_the_middle_of_its_request_is_gone_for_the_server() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5000\r\n\r\nfirst")
        client.goes()
        assert await server.hears(5) == b"first" and await server.closed()
        assert stage.listener.failed == 1


async def test_a_client_that_breaks_while_it_waits_is_gone_for_the_server() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        client.breaks()
        assert await server.closed()


async def test_a_client_that_half_closes_gets_its_answer() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        client.ends()
        await asyncio.sleep(0.05)
        await server.says(OK)
        assert (await client.rest()).endswith(b"\r\n\r\nok")


CUTS = {
    "length": b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
    "chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    "chunk size": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhalf",
}


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize(
    ("answer", "how"), [(answer, how) for answer in CUTS for how in ("goes", "breaks", "garbage") if (answer, how) != ("length", "garbage")]
)  # what is longer than its length is complete
async def test_an_answer_cut_by_the_server_never_looks_complete(answer: str, how: str, version: bytes) -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(b"GET / HTTP/%b\r\nhost: a\r\n\r\n" % version)
        await server.says(CUTS[answer])
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 200 ")
        if how == "garbage":
            await server.says(b"\0\0more than was promised, and no chunk")
        else:
            getattr(server, how)()
        try:
            body = await client.rest()
        except ConnectionError:
            return  # seen
        assert (b"content-length: 10" in head and len(body) < 10) or (b"chunked" in head and not body.endswith(b"0\r\n\r\n"))


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_a_body_that_ends_with_a_broken_connection_never_looks_complete(version: bytes) -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(b"GET / HTTP/%b\r\nhost: a\r\n\r\n" % version)
        await server.says(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        head = await client.head()
        await client.until(b"half")
        server.breaks()
        try:
            body = await client.rest()
        except ConnectionError:
            return
        assert b"chunked" in head and not body.endswith(b"0\r\n\r\n")


# ------------------------------------------------------------------ other protocols


async def test_http_to_echo_and_discard() -> None:
    more = {"echo": c.Cluster("echo", {"protocol": "Echo"}), "discard": c.Cluster("discard", {"protocol": "Discard"})}
    rules = (({"matchPath": {"path": "/echo"}}, "echo", ()), ({"matchPath": {"path": "/discard"}}, "discard", ()))
    async with Stage(rules=rules, clusters=more) as stage:
        client = await stage.client()
        for _ in range(2):
            await client.says(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello")
            await client.head()
            assert await client.until(b"0\r\n\r\n") == b"5\r\nhello\r\n0\r\n\r\n"
            await client.says(b"POST /discard HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello")
            await client.head()
            assert await client.hears(5) == b"0\r\n\r\n"


async def test_http_to_tcp_the_body_is_the_stream_and_what_comes_back_is_the_answer() -> None:
    async with Stage(upstream="TCP") as stage:
        client = await stage.client()
        await client.says(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello")
        server = await stage.server()
        assert await server.rest() == b"hello"
        await server.says(b"world")
        server.goes()
        assert b"chunked" in await client.head() and await client.until(b"0\r\n\r\n") == b"5\r\nworld\r\n0\r\n\r\n"
        await client.says(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 500\r\n\r\nhello")
        server = await stage.server()
        assert await server.hears(5) == b"hello"
        server.goes()  # an early end
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        await stage.becomes(lambda: not stage.listener.live)


async def test_http_to_udp() -> None:
    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: object) -> None:
            self.transport.sendto(b"<" + data + b">", addr)  # type: ignore[attr-defined]

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Echo, ("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    more = {"udp": c.Cluster("udp", {"protocol": "UDP", "port": port}, (c.EndPoint("u", {"address": "127.0.0.1"}),))}
    async with Stage(rules=(({"matchPath": {"path": "/udp"}}, "udp", ()),), clusters=more) as stage:
        client = await stage.client()
        await client.says(b"POST /udp HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello")
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        assert await client.until(b">\r\n") == b"7\r\n<hello>\r\n"
        client.breaks()
        await stage.becomes(lambda: not stage.listener.live)
    transport.close()


async def test_tcp_to_http_the_stream_is_the_body_of_a_post() -> None:
    async with Stage(protocol="TCP") as stage:
        client = await stage.client()
        await client.says(b"hello")
        server = await stage.server()
        head = await server.head()
        assert head.startswith(b"POST / HTTP/1.1\r\nhost: 127.0.0.1:") and b"transfer-encoding: chunked" in head
        client.ends()
        assert await server.until(b"0\r\n\r\n") == b"5\r\nhello\r\n0\r\n\r\n"
        await server.says(OK)
        assert await client.rest() == b"ok"


async def test_tcp_to_http_an_early_answer_ends_the_stream() -> None:
    async with Stage(protocol="TCP") as stage:
        client = await stage.client()
        await client.says(b"hello")
        server = await stage.server()
        await server.head()
        await server.says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n")
        assert await client.rest() == b"yes"
        client.goes()


# ------------------------------------------------------------------ nothing is left


async def test_many_connections_leave_nothing_behind() -> None:
    async with Stage() as stage:

        async def serve() -> None:
            while True:
                server = await stage.server()
                tasks.add(asyncio.create_task(answer(server)))

        async def answer(server: Peer) -> None:
            try:
                while True:
                    await server.head()
                    await server.says(OK)
            except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
                pass

        tasks = {asyncio.create_task(serve())}
        for i in range(60):
            client = await stage.client()
            await client.says(GET if i % 3 else GET[:-5])
            if i % 3 == 1:
                assert (await answered(client))[1] == b"ok"
            client.breaks() if i % 2 else client.goes()
        await stage.becomes(lambda: not stage.listener.live and not stage.listener.connections)  # type: ignore[attr-defined]
        assert stage.listener.counter == 40
        for task in tasks:
            task.cancel()


async def test_a_live_request_is_listed_as_a_session() -> None:
    async with Stage() as stage:
        await stage.both(b"GET /a?b=1 HTTP/1.1\r\nhost: a\r\nx-user: me\r\n\r\n")
        (session,) = stage.proxy.sessions()
        shown = session.dump()
        assert shown["status"] == "CONNECTED" and shown["metadata"]["HTTP"]["headers"]["x-user"] == "me"
        assert shown["metadata"]["HTTP"]["url"]["path"] == "/a?b=1" and shown["metadata"]["IP"]["src_addr"] == "127.0.0.1"
        assert shown["destination"]["endpoint"]["name"] == "one" and shown["source"]["origin"] == "front"
        assert json.dumps(shown)
        session.kill()
