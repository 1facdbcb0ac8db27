"""HTTP/2 through a real proxy on real sockets, with hyper-h2 as client and server: every version in, every version out."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from carrier import model as c
from carrier.wire.frames import accept_key
from tests.conversation import Stage
from tests.h2peer import Peer2, Server2, client2, echo
from tests.pki import Pki, pki
from tests.support import PATIENCE, config, port_of, running, tcp, tcp_server

__all__ = ["pki"]

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: %b\r\n\r\n"
HELLO = (
    b"GET /chat HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: %b\r\n\r\n"
)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def to(
    port: int, listener: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None, protocol: str = "HTTP", **spec: Any
) -> Any:
    """A proxy whose one listener leads to `port`. spec: of the cluster."""
    return running(
        config(
            clusters=[
                {
                    "name": "up",
                    "spec": {"protocol": protocol, "port": port, **spec},
                    "endpoints": [{"spec": {"address": "127.0.0.1"}}],
                }
            ],
            listeners=[
                {
                    "name": "in",
                    "spec": {"protocol": protocol, "port": 0, "address": "127.0.0.1"},
                    "rules": [{"name": "all", "action": {"route": {"destination": "up"}}}],
                    "options": listener or {},
                }
            ],
        )
    )


async def test_a_stream_becomes_a_request_of_http_1_and_its_answer_comes_back() -> None:
    async with Stage() as stage, client2(stage.port) as client:
        number = client.ask("/a?b", fields=[("x-user", "john"), ("cookie", "a=1"), ("cookie", "b=2")])
        server = await stage.server()
        head = await server.head()
        assert head.startswith(b"GET /a?b HTTP/1.1\r\nhost: a.example\r\n")
        assert b"\r\nx-user: john\r\n" in head and b"\r\ncookie: a=1; b=2\r\n" in head and b"x-forwarded-for: 127.0.0.1\r\n" in head
        await server.says(b"HTTP/1.1 201 Made\r\nx-a: 1\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok")
        answer = await client.answer(number)
        assert (answer.status, answer.body, answer.head["x-a"], answer.head["content-length"]) == (201, b"ok", "1", "2")
        assert "connection" not in answer.head


async def test_streams_are_answered_as_their_answers_come() -> None:
    async with Stage() as stage, client2(stage.port) as client:
        numbers = [client.ask(f"/{n}") for n in range(3)]
        servers = [await stage.server() for _ in numbers]
        heads = [await server.head() for server in servers]
        for n in (2, 0, 1):
            server = next(s for s, head in zip(servers, heads, strict=True) if head.startswith(b"GET /%d " % n))
            await server.says(OK)
            assert (await client.answer(numbers[n])).body == b"ok"
        assert len(stage.listener.live) == 0


async def test_content_goes_both_ways_with_trailers() -> None:
    async with Stage() as stage, client2(stage.port) as client:
        number = client.ask("/", "POST", end=False)
        server = await stage.server()
        assert b"transfer-encoding: chunked\r\n" in await server.head()
        client.send(number, b"hello")
        assert await server.until(b"hello\r\n") == b"5\r\nhello\r\n"
        client.head(number, [("x-sum", "7")], end=True)
        assert await server.until(b"\r\n\r\n") == b"0\r\nx-sum: 7\r\n\r\n"
        await server.says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\nx-end: 1\r\n\r\n")
        answer = await client.answer(number)
        assert (answer.body, answer.trailers) == (b"yes", {"x-end": "1"})


async def test_large_content_waits_for_windows_and_arrives_whole() -> None:
    async with Server2(echo) as up, to(up.port, http=2) as proxy, client2(port_of(proxy, "in")) as client:
        data = bytes(range(256)) * 2000
        number = client.ask("/large", "POST", end=False)
        await client.send_all(number, data)
        answer = await client.answer(number)
        assert answer.body == b"POST /large " + data


async def test_http_1_becomes_a_stream_and_many_requests_share_a_connection() -> None:
    async with Server2(echo) as up, to(up.port, http=2) as proxy:

        async def one(n: int) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(proxy, "in"))
            writer.write(b"POST /%d HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello" % n)
            data = await reader.read()
            writer.close()
            return data

        answers = await asyncio.gather(*(one(n) for n in range(50)))
        assert all(data.endswith(b"\r\n\r\nPOST /%d hello" % n) for n, data in enumerate(answers))
        assert len(up.peers) == 1


async def test_an_answer_that_ends_with_its_head_and_tells_no_length_has_an_end_in_http_1() -> None:
    """As Node's servers of HTTP/2 send it. In HTTP/1.1 nothing said where it ends: its client waited until the connection was closed."""

    async def serve(peer: Peer2) -> None:
        while True:
            number = await peer.request()
            status = peer.streams[number].head[":path"][1:]
            peer.head(number, [(":status", status), ("x-a", "b")], True)

    async with Server2(serve) as up, to(up.port, http=2) as proxy:
        async with tcp(port_of(proxy, "in")) as client:
            for method, status, told in (
                ("GET", 200, True),
                ("HEAD", 200, False),
                ("POST", 404, True),
                ("GET", 204, False),
                ("GET", 304, False),
                ("GET", 200, True),
            ):
                client.send(b"%b /%d HTTP/1.1\r\nhost: a\r\n\r\n" % (method.encode(), status))
                head = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE)
                assert head.startswith(b"HTTP/1.1 %d " % status) and (b"\r\ncontent-length: 0\r\n" in head) is told, head
        async with client2(port_of(proxy, "in")) as streams:
            for method in ("GET", "HEAD", "GET"):
                answer = await streams.answer(streams.ask("/200", method))
                assert answer.head == {":status": "200", "x-a": "b"}


@pytest.mark.parametrize(("method", "status"), [("GET", 204), ("GET", 304), ("HEAD", 200)])
async def test_an_answer_of_http_2_that_has_no_content_stands_whatever_comes_behind_it(method: str, status: int) -> None:
    """Content behind 204, 304 or an answer to HEAD: the stream is broken, and nobody got the answer. As in HTTP/1.1."""

    async def serve(peer: Peer2) -> None:
        for n in range(9):
            number = await peer.request()
            peer.head(number, [(":status", str(status if n % 2 == 0 else 200)), ("content-length", "4")])
            peer.send(number, b"null", True)

    async with Server2(serve) as up, to(up.port, http=2) as proxy:
        async with tcp(port_of(proxy, "in")) as client:
            client.send(b"%b / HTTP/1.1\r\nhost: a\r\n\r\n" % method.encode())
            head = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE)
            assert head.startswith(b"HTTP/1.1 %d " % status)
            client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await client.reader.readuntil(b"null")).startswith(b"HTTP/1.1 200 ")
        async with client2(port_of(proxy, "in")) as streams:
            answer = await streams.answer(streams.ask("/", method))
            assert (answer.status, answer.body, answer.reset) == (status, b"", None)
            assert (await streams.get("/")).body == b"null"


async def test_more_requests_than_a_peer_takes_at_once_wait_or_get_another_connection() -> None:
    async with Server2(echo, {3: 5}) as up, to(up.port, http=2) as proxy, client2(port_of(proxy, "in")) as client:
        numbers = [client.ask(f"/{n}") for n in range(40)]
        for n, number in enumerate(numbers):
            assert (await client.answer(number)).body == b"GET /%d " % n


async def test_goaway_of_an_upstream_loses_no_request() -> None:
    async with Server2() as up, to(up.port, http=2) as proxy, client2(port_of(proxy, "in")) as client:
        tasks = []
        asked = {}
        for n in range(4):
            number = client.ask("/", "POST", end=False)
            client.send(number, b"content of %d" % n, True)
            asked[number] = b"content of %d" % n

        async def serve() -> None:
            served = 0
            while served < 4:
                peer = await up.peer(served)
                number = await peer.request()
                await peer.until(lambda peer=peer, number=number: peer.streams[number].ended)  # type: ignore[misc]
                body = peer.streams[number].body
                peer.writer.write(b"\0\0\x08\x07\0\0\0\0\0" + number.to_bytes(4, "big") + b"\0\0\0\0")
                peer.head(number, [(":status", "200")])
                peer.send(number, body, True)
                served += 1

        tasks.append(asyncio.create_task(serve()))
        for number, body in asked.items():
            answer = await client.answer(number)
            assert answer.status == 200, answer.body
            assert answer.body == body
        assert len(up.peers) == 4
        await asyncio.gather(*tasks)


async def test_a_stream_that_is_not_read_stops_nobody_else() -> None:
    async with Stage() as stage, client2(stage.port) as client:
        client.reads = False
        slow = client.ask("/slow")
        server = await stage.server()
        await server.head()
        await server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 60_000)
        await client.until(lambda: len(client.streams[slow].body) >= 60_000, "what the window lets out")
        client.h2.increment_flow_control_window(1_000_000)  # of the connection, not of the stream
        client.reads = True
        client.flush()
        client.reads = False
        quick = client.ask("/quick")
        other = await stage.server()
        await other.head()
        await other.says(OK)
        assert (await client.answer(quick)).body == b"ok"
        assert not client.streams[slow].ended


@pytest.mark.parametrize("begun", [False, True])
async def test_a_stream_that_is_reset_ends_its_upstream(begun: bool) -> None:
    async with Stage() as stage, client2(stage.port) as client:
        number = client.ask("/")
        server = await stage.server()
        await server.head()
        if begun:
            await server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc")
            await client.until(lambda: client.streams[number].body, "the beginning")
        client.reset(number)
        assert await server.closed()
        assert (await client_still_works(stage, client)) == b"ok"


async def client_still_works(stage: Stage, client: Peer2) -> bytes:
    number = client.ask("/next")
    server = await stage.server()
    await server.head()
    await server.says(OK)
    return (await client.answer(number)).body


async def test_an_answer_that_breaks_off_is_reset_and_not_ended() -> None:
    async with Stage() as stage, client2(stage.port) as client:
        number = client.ask("/")
        server = await stage.server()
        await server.head()
        await server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc")
        await client.until(lambda: client.streams[number].body == b"abc", "the beginning")
        server.breaks()
        assert (await client.answer(number)).reset == 2


async def test_a_stream_that_the_upstream_resets_is_502_before_its_answer_and_a_reset_after() -> None:
    async with Server2() as up, to(up.port, http=2) as proxy, client2(port_of(proxy, "in")) as client:
        first = client.ask("/")
        peer = await up.peer()
        peer.reset(await peer.request(), 2)
        answer = await client.answer(first)
        assert answer.status == 502 and b"INTERNAL_ERROR" in answer.body
        second = client.ask("/")
        number = await peer.request()
        peer.head(number, [(":status", "200")])
        peer.send(number, b"abc")
        await client.until(lambda: client.streams[second].body == b"abc", "the beginning")
        peer.reset(number, 2)
        assert (await client.answer(second)).reset == 2


async def test_no_upstream_is_503_with_the_reason() -> None:
    async with to(1) as proxy, client2(port_of(proxy, "in")) as client:
        answer = await client.get()
        assert answer.status == 503 and answer.head["x-carrier-error"] == "refused" and b"127.0.0.1:1" in answer.body


async def test_head_has_no_content_and_its_length() -> None:
    async with Stage() as stage, client2(stage.port) as client:
        number = client.ask("/", "HEAD")
        server = await stage.server()
        assert (await server.head()).startswith(b"HEAD / ")
        await server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n")
        answer = await client.answer(number)
        assert (answer.status, answer.body, answer.head["content-length"]) == (200, b"", "1234")


async def test_the_head_of_an_upload_does_not_wait_for_its_content() -> None:
    """On a connection that has served a request before it did, so that who waits for 100 (Continue), or for the answer's head, had none."""
    async with Stage() as stage, client2(stage.port) as client:
        first = client.ask("/")
        server = await stage.server()
        await server.head()
        await server.says(OK)
        assert (await client.answer(first)).body == b"ok"
        for fields in ([("expect", "100-continue")], []):
            number = client.ask("/", "POST", [*fields, ("content-length", "2")], end=False)
            assert (await server.head()).startswith(b"POST / HTTP/1.1")
            await server.says(b"HTTP/1.1 100 Continue\r\n\r\n")
            client.send(number, b"hi", True)
            assert await server.hears(2) == b"hi"
            await server.says(OK)
            assert (await client.answer(number)).body == b"ok"


async def test_a_target_as_browsers_send_it_is_refused_with_the_reason_where_targets_are_strict() -> None:
    """As in HTTP/1.1. The stream was reset: a browser shows ERR_HTTP2_PROTOCOL_ERROR, and nobody knows why."""
    async with Stage() as stage, client2(stage.port) as client:
        for method in ("GET", "HEAD"):
            answer = await client.answer(client.ask("/css?family=A|B", method))
            assert answer.status == 400 and (method == "HEAD" or b"strict_target 0 takes it" in answer.body)
        number = client.ask("/a?b={c}", "POST", end=False)
        client.send(number, b"content", True)
        assert (await client.answer(number)).status == 400
        number = client.ask("/a#b")
        await client.until(lambda: client.streams[number].reset is not None, "what no browser sends is reset")


async def test_interim_answers_and_100_continue_pass() -> None:
    async with Stage() as stage, client2(stage.port) as client:
        number = client.ask("/", "POST", [("expect", "100-continue"), ("content-length", "5")], end=False)
        server = await stage.server()
        head = await server.head()
        assert b"expect: 100-continue\r\n" in head and b"content-length: 5\r\n" in head
        await server.says(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        await client.until(lambda: len(client.streams[number].heads) == 2, "interim answers")
        client.send(number, b"hello", True)
        assert await server.hears(5) == b"hello"
        await server.says(OK)
        answer = await client.answer(number)
        assert [head[":status"] for head in answer.heads] == ["103", "100", "200"]


async def test_what_comes_of_an_upload_behind_its_answer_is_no_part_of_the_next_request() -> None:
    """The request was used again while its old stream still led to it: another request of the connection got the rest of the upload."""
    async with Stage() as stage, client2(stage.port) as client:
        upload = client.ask("/", "POST", [("content-length", "60000")], end=False)
        client.send(upload, b"begin")
        server = await stage.server()
        await server.head()
        await server.says(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await client.until(lambda: client.streams[upload].heads, "the early answer")
        number = client.ask("/two", "POST", [("content-length", "5")], end=False)
        server = await stage.server()
        assert (await server.head()).startswith(b"POST /two ")
        client.send(upload, b"of an upload")
        client.send(number, b"hello", True)
        assert await server.hears(5) == b"hello"
        await server.says(OK)
        assert (await client.answer(number)).body == b"ok"


async def test_an_early_answer_ends_the_upload() -> None:
    async with Stage() as stage, client2(stage.port) as client:
        number = client.ask("/", "POST", [("content-length", "500000")], end=False)
        client.send(number, b"x" * 1000)
        server = await stage.server()
        await server.head()
        await server.says(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        answer = await client.answer(number)
        await client.until(lambda: answer.reset is not None, "that no more is wanted")
        assert (answer.status, answer.reset) == (413, 0)


async def test_rules_see_the_fields_of_a_stream_as_those_of_http_1() -> None:
    match = {"matchHeader": {"name": "x-user", "value": "john"}}
    clusters = {"echo": c.Cluster("echo", {"protocol": "Echo"})}
    async with Stage(rules=((match, "echo", ()),), clusters=clusters) as stage, client2(stage.port) as client:
        number = client.ask("/", "POST", [("x-user", "john")], end=False)
        client.send(number, b"back", True)
        assert (await client.answer(number)).body == b"back"
        answer = await client.get("/", [("x-user", "john"), ("x-carrier-explain", "1")])
        assert answer.head["x-carrier-rule"] == "r0"


@pytest.mark.parametrize("field", [("connection", "close"), ("transfer-encoding", "chunked"), ("X-Upper", "1"), ("te", "gzip")])
async def test_what_belongs_to_a_connection_is_refused(field: tuple[str, str]) -> None:
    async with Stage() as stage, client2(stage.port) as client:
        assert (await client.get("/", [field])).reset == 1


async def test_a_head_that_is_too_large_is_431() -> None:
    async with Stage(listener={"max_head": 2000}) as stage, client2(stage.port) as client:
        answer = await client.get("/", [("x-large", "y" * 3000)])
        assert answer.status == 431 and b"options.max_head" in answer.body


async def test_one_port_speaks_both_versions_and_only_those_that_it_is_told_to() -> None:
    async with Stage(listener={"protocols": ["h1"]}) as stage:
        client = await stage.client()
        await client.says(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 505 ")
    async with Stage(listener={"protocols": ["h2"]}) as stage:
        client = await stage.client()
        await client.says(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 505 ")
        async with client2(stage.port) as second:
            assert await client_still_works(stage, second) == b"ok"


async def test_a_preface_in_pieces_is_one() -> None:
    async with Stage() as stage:
        for cut in (1, 3, 17, 18, 23):
            client = await stage.client()
            whole = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
            await client.says(whole[:cut])
            await asyncio.sleep(0.02)
            await client.says(whole[cut:])
            assert (await client.hears(9))[3] == 4
            client.goes()


async def test_a_drain_takes_no_new_streams_and_lets_old_ones_end() -> None:
    async with Stage() as stage, client2(stage.port) as client:
        number = client.ask("/")
        server = await stage.server()
        await server.head()
        stage.listener.farewell()
        await client.until(lambda: client.goaway == (number, 0), "GOAWAY with the last stream")
        assert not client.closed
        await server.says(OK)
        assert (await client.answer(number)).body == b"ok"
        await stage.becomes(lambda: client.closed)


async def test_a_websocket_over_a_stream_reaches_an_http_1_server() -> None:
    async with Stage() as stage, client2(stage.port) as client:
        fields = [("sec-websocket-version", "13"), ("origin", "http://a")]
        number = client.ask("/chat", "CONNECT", fields, end=False, protocol="websocket")
        server = await stage.server()
        head = await server.head()
        assert head.startswith(b"GET /chat HTTP/1.1\r\n") and b"\r\nupgrade: websocket\r\n" in head
        key = head.partition(b"sec-websocket-key: ")[2].partition(b"\r\n")[0]
        await server.says(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: %b\r\n\r\n"
            % accept_key(key)
        )
        await client.until(lambda: client.streams[number].heads, "the switch")
        assert client.streams[number].status == 200 and "sec-websocket-accept" not in client.streams[number].head
        client.send(number, b"\x81\x85abcd\x09\x07\x0f\x08\x0e")
        assert await server.hears(11) == b"\x81\x85abcd\x09\x07\x0f\x08\x0e"
        await server.says(b"\x81\x02ok")
        await client.until(lambda: client.streams[number].body == b"\x81\x02ok", "a frame")
        (session,) = stage.listener.live
        assert session.request.upgrade == b"websocket"
        client.send(number, b"", True)
        server.goes()
        await client.answer(number)


async def test_a_websocket_of_http_1_becomes_an_extended_connect() -> None:
    async with Server2(settings={8: 1}) as up, to(up.port, http=2) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(proxy, "in"))
        key = b"dGhlIHNhbXBsZSBub25jZQ=="
        writer.write(HELLO % key)
        peer = await up.peer()
        number = await peer.request()
        head = peer.streams[number].head
        assert (head[":method"], head[":protocol"], head[":path"]) == ("CONNECT", "websocket", "/chat") and "sec-websocket-key" not in head
        peer.head(number, [(":status", "200")])
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 ") and b"sec-websocket-accept: " + accept_key(key) in answer
        writer.write(b"\x81\x80abcd")
        await peer.until(lambda: peer.streams[number].body == b"\x81\x80abcd", "a frame")
        peer.send(number, b"\x81\x02ok")
        assert await reader.readexactly(4) == b"\x81\x02ok"
        writer.close()


async def test_an_auto_port_speaks_to_the_server_what_the_client_spoke() -> None:
    async with Server2(echo) as up, to(up.port, protocol="auto") as proxy:
        async with client2(port_of(proxy, "in")) as client:
            assert (await client.get("/two")).body == b"GET /two "
        assert len(up.peers) == 1


@pytest.mark.parametrize(("offered", "spoken"), [(("h2", "http/1.1"), "2"), (("http/1.1",), "1.1"), ((), "1.1")])
async def test_tls_agrees_on_the_version_on_both_sides(pki: Pki, offered: tuple[str, ...], spoken: str) -> None:
    """Two proxies in a row, so that both sides are ours; the second one is asked what it heard."""
    tls = pki("server", "localhost", "127.0.0.1")
    async with Stage() as stage:
        inner = await running_tls(stage.backend_port, tls)
        async with inner as second, to(port_of(second, "in"), tls={"ca": pki.ca, "sni": "localhost"}) as first:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(first, "in"))
            writer.write(b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n")
            server = await stage.server()
            assert b"x-forwarded-proto: https\r\n" in await server.head()
            (session,) = second.listeners["in"].live
            assert session.request.version == "2"
            await server.says(OK)
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            writer.close()
            context = pki.client(None, *offered)
            if spoken == "2":
                async with client2(port_of(second, "in"), context) as client:
                    number = client.ask("/b")
                    await server.head()
                    (session,) = second.listeners["in"].live
                    assert (session.request.version, session.metadata["TLS"]["alpn"]) == ("2", "h2") or session.request.version == "2"
                    await server.says(OK)
                    assert (await client.answer(number)).body == b"ok"
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", port_of(second, "in"), ssl=context, server_hostname="localhost")
                writer.write(b"GET /b HTTP/1.1\r\nhost: a\r\n\r\n")
                await server.head()
                await server.says(OK)
                assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
                writer.close()


async def test_streams_are_served_by_requests_that_were_kept_and_an_idle_connection_keeps_none() -> None:
    async with tcp_server(answering) as up, to(up.port) as proxy, client2(port_of(proxy, "in")) as client:
        for number in [client.ask("/a") for _ in range(3)]:
            assert (await client.answer(number)).body == b"ok"
        listener = proxy.listeners["in"]
        (connection,) = listener._connections
        kept = {*connection.engine.spare}
        assert len(kept) == 3
        for number in [client.ask("/b") for _ in range(3)]:
            assert (await client.answer(number)).body == b"ok"
        assert {*connection.engine.spare} == kept
        connection.tick(connection.since + 5)
        assert not connection.engine.spare
        assert (await client.get("/c")).body == b"ok"


async def answering(peer: Any) -> None:
    while await peer.reader.read(4096):
        peer.send(OK)


async def running_tls(port: int, tls: dict[str, str]) -> Any:
    conf = config(
        clusters=[{"name": "up", "spec": {"protocol": "HTTP", "port": port}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}],
        listeners=[
            {
                "name": "in",
                "spec": {"protocol": "HTTP", "port": 0, "address": "127.0.0.1", "tls": tls},
                "rules": [{"name": "all", "action": {"route": {"destination": "up"}}}],
            }
        ],
    )
    return running(conf)


async def test_a_session_shows_its_version_and_its_stream_also_when_that_is_over() -> None:
    async with Stage(listener={"track": 60}) as stage, client2(stage.port) as client:
        first, second = client.ask("/a"), client.ask("/b", "POST", end=False)
        server = await stage.server()
        await server.head()
        await stage.server()
        await stage.becomes(lambda: len(stage.listener.live) == 2)
        shown = {session.dump()["metadata"]["HTTP"]["stream"] for session in stage.listener.live}
        assert shown == {first, second}
        await server.says(OK)
        await client.answer(first)
        third = client.ask("/c")
        await stage.becomes(lambda: len(stage.listener.live) == 2)
        ended = next(session for session in stage.listener.sessions() if session not in stage.listener.live)
        http = ended.dump()["metadata"]["HTTP"]
        assert http["version"] == "2" and http.get("stream") in (None, first) and third not in (first, second)
        client.reset(second)
        client.reset(third)


async def test_a_client_of_http_1_that_goes_cancels_its_stream() -> None:
    async with Server2() as up, to(up.port, http=2) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(proxy, "in"))
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        peer = await up.peer()
        number = await peer.request()
        peer.head(number, [(":status", "200")])
        peer.send(number, b"half")
        assert b"half" in await reader.readuntil(b"half")
        writer.transport.abort()
        await peer.until(lambda: peer.streams[number].reset is not None or peer.closed, "a reset")
        assert peer.streams[number].reset == 8 and not peer.closed  # CANCEL; the connection lives


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_an_answer_of_http_2_that_breaks_off_is_cut_for_a_client_of_http_1(version: str) -> None:
    async with Server2() as up, to(up.port, http=2) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(proxy, "in"))
        writer.write(f"GET / HTTP/{version}\r\nhost: a\r\n\r\n".encode())
        peer = await up.peer()
        number = await peer.request()
        peer.head(number, [(":status", "200")])
        peer.send(number, b"half")
        assert b"half" in await reader.readuntil(b"half")
        peer.reset(number, 2)
        rest = b""
        with contextlib.suppress(ConnectionResetError):
            rest = await asyncio.wait_for(reader.read(), 5)
        assert not rest.endswith(b"0\r\n\r\n")
        writer.close()


async def test_settings_that_change_in_mid_stream_hold_from_then_on() -> None:
    """Windows, the size of the table and the number of streams, from either side, while content is under way."""
    async with Server2(echo) as up, to(up.port, http=2) as proxy, client2(port_of(proxy, "in")) as client:
        body = b"x" * 300_000
        number = client.ask("/a", "POST", [("x-long", "y" * 500)], end=False)
        for size, streams in ((0, 10), (200, 5), (4096, 100)):
            client.h2.update_settings({1: size, 4: 1000 + size, 3: streams})
            client.flush()
            await client.send_all_but_the_end(number, body[:100_000])
            peer = await up.peer()
            peer.h2.update_settings({1: size, 4: 70_000 - size, 3: streams})
            peer.flush()
        client.send(number, b"", True)
        assert (await client.answer(number)).body == b"POST /a " + body
        for n in range(20):
            assert (await client.get(f"/{n}", [("x-long", "y" * 500), ("x-n", str(n))])).body == f"GET /{n} ".encode()


@pytest.mark.parametrize(("said", "heard"), [(8, 8), (11, 11), (12, 12), (2, 2), (0, 2), (5, 2)])
async def test_a_reset_in_mid_answer_is_passed_on_where_it_means_something_to_who_asked(said: int, heard: int) -> None:
    async with Server2() as up, to(up.port, http=2) as proxy, client2(port_of(proxy, "in")) as client:
        number = client.ask("/")
        peer = await up.peer()
        asked = await peer.request()
        peer.head(asked, [(":status", "200")])
        peer.send(asked, b"half")
        await client.until(lambda: client.streams[number].body == b"half")
        peer.reset(asked, said)
        assert (await client.answer(number)).reset == heard
