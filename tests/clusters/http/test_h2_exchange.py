"""A WebSocket for a server of HTTP/2 that offers no extended CONNECT: HTTP/1.1 takes its place where that is spoken too."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from carrier.wire.frames import accept_key
from clusters.http.h2_exchange import KEPT
from tests.clusters.http.test_h2 import before
from tests.e2e.test_h2 import HELLO, SWITCH, to
from tests.h2peer import Peer2, Server2, client2, echo
from tests.pki import Pki, pki
from tests.support import PATIENCE, port_of, tcp, wait_until

__all__ = ["pki"]

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


class Both:
    """A server with TLS that speaks HTTP/2 without extended CONNECT, and, if the client asks for that alone, WebSocket by HTTP/1.1."""

    def __init__(self, pki: Pki, *alpn: str) -> None:
        self.tls = pki.server(*alpn)
        self.spoken: list[str | None] = []

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        agreed = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        self.spoken.append(agreed)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            if agreed == "h2":
                peer = Peer2(reader, writer, False)
                peer.start()
                await echo(peer)
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                key = head.partition(b"sec-websocket-key: ")[2].partition(b"\r\n")[0]
                writer.write(SWITCH % accept_key(key))
                frame = await reader.readexactly(6)
                writer.write(b"\x81\x02" + frame[:2])

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self.accepted, "127.0.0.1", 0, ssl=self.tls)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()


async def says_hello(port: int) -> bytes:
    """The head that answers a WebSocket's handshake, and what answers a frame, or the content of a refusal."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(PATIENCE):
        writer.write(HELLO % KEY)
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 101 "):
            assert accept_key(KEY) in head
            writer.write(b"\x81\x80abcd")
            head += await reader.readexactly(4)
        else:
            head += await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        writer.close()
        return head


@pytest.mark.parametrize("before", [False, True], ids=["the first request", "behind others"])
async def test_it_goes_over_http_1_where_the_server_speaks_that_too(before: bool, pki: Pki) -> None:
    server = Both(pki, "h2", "http/1.1")
    async with server.serving() as up, to(up, tls={"ca": pki.ca, "sni": "localhost"}) as proxy:
        port = port_of(proxy, "in")
        if before:
            async with client2(port) as client:
                assert (await client.get("/")).status == 200
        for _ in range(2):
            assert (await says_hello(port)).endswith(b"\x81\x02\x81\x80")
        async with client2(port) as client:
            assert (await client.get("/x")).body == b"GET /x "
        assert server.spoken == ["h2", "http/1.1", "http/1.1"]


async def test_a_websocket_on_a_stream_goes_over_http_1_too(pki: Pki) -> None:
    server = Both(pki, "h2", "http/1.1")
    async with server.serving() as up, to(up, tls={"ca": pki.ca, "sni": "localhost"}) as proxy, client2(port_of(proxy, "in")) as client:
        number = client.ask("/chat", "CONNECT", [("sec-websocket-version", "13")], end=False, protocol="websocket")
        await client.until(lambda: client.streams[number].heads)
        assert client.streams[number].status == 200
        client.send(number, b"\x81\x80abcd")
        await client.until(lambda: client.streams[number].body == b"\x81\x02\x81\x80")


async def test_of_a_server_that_speaks_nothing_else_the_refusal_has_both_reasons(pki: Pki) -> None:
    server = Both(pki, "h2")
    async with server.serving() as up, to(up, tls={"ca": pki.ca, "sni": "localhost"}) as proxy:
        answer = await says_hello(port_of(proxy, "in"))
        assert answer.startswith(b"HTTP/1.1 501 ") and b"extended CONNECT" in answer and b"no http/1.1" in answer


async def test_where_http_2_is_demanded_it_is_not_implemented() -> None:
    async with Server2(echo) as up, to(up.port, http=2) as proxy:
        answer = await says_hello(port_of(proxy, "in"))
        assert answer.startswith(b"HTTP/1.1 501 ") and b"extended CONNECT" in answer


async def test_a_client_that_goes_while_another_connection_is_made_leaves_nothing_behind(pki: Pki) -> None:
    server = Both(pki, "h2", "http/1.1")
    async with server.serving() as up, to(up, tls={"ca": pki.ca, "sni": "localhost"}) as proxy:
        for _ in range(5):
            async with tcp(port_of(proxy, "in")) as client:
                client.send(HELLO % KEY)
                await asyncio.sleep(0.003)
                client.reset()
        await wait_until(lambda: not list(proxy.sessions()), "for sessions to end")
        assert not any(endpoint.active for endpoint in proxy.clusters["up"].endpoints)
        assert (await says_hello(port_of(proxy, "in"))).endswith(b"\x81\x02\x81\x80")


@pytest.mark.parametrize("size", [40_000, 65_000, 300_000])
@pytest.mark.parametrize("version", ["1", "2"])
async def test_an_upload_that_waits_for_a_place_is_whole_when_it_has_one(version: str, size: int) -> None:
    content = bytes(range(250)) * (size // 250)

    async def serve(peer: Peer2) -> None:
        first = await peer.request()
        waits.set()
        await go_on.wait()
        peer.head(first, [(":status", "204")], True)
        await echo(peer)

    waits, go_on = asyncio.Event(), asyncio.Event()
    async with Server2(serve, {3: 1}) as up, before(up, max_per_endpoint=1) as (proxy, found):
        port = port_of(proxy, "in")
        async with client2(port) as client, tcp(port) as peer, asyncio.timeout(PATIENCE):
            number = client.ask("/first")
            await waits.wait()
            (pool,) = found.pools2.values()
            if version == "1":
                peer.writer.write(b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(content) + content)
                second = asyncio.ensure_future(peer.reader.readuntil(b"\r\n\r\n"))
            else:
                other = client.ask("/x", "POST", end=False)
                sent = asyncio.ensure_future(client.send_all(other, content))
                second = asyncio.ensure_future(client.answer(other))
            await wait_until(lambda: pool.waiting and pool.waiting[0].size >= KEPT // 2, "for the upload to wait")
            go_on.set()
            assert (await client.answer(number)).status == 204
            answer = await second
            if version == "1":
                assert await peer.read(len(content) + 8) == b"POST /x " + content
            else:
                await sent
                assert answer.body == b"POST /x " + content


async def test_the_end_behind_an_answer_to_head_is_not_taken_for_an_answer_to_the_request_behind_it() -> None:
    """Servers may end such a stream with an empty frame of content. It was an answer to the next request of a client that pipelines."""

    async def serve(peer: Peer2) -> None:
        for fields in ([("content-length", "5")], [("x-number", "2")], [("x-number", "3")]):
            number = await peer.request()
            peer.head(number, [(":status", "200"), *fields])
            await asyncio.sleep(0.02)
            peer.send(number, b"", True)
        number = await peer.request()
        peer.head(number, [(":status", "200"), ("content-length", "2")])
        peer.send(number, b"ok", True)

    head = b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n"
    async with Server2(serve) as server, before(server) as (proxy, _), tcp(port_of(proxy, "in")) as client:
        client.writer.write(head * 3 + b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            heads, _, content = (await client.reader.read()).rpartition(b"\r\n\r\n")
    answers = [answer.split(b"\r\n") for answer in heads.split(b"\r\n\r\n")]
    assert [answer[1] for answer in answers] == [b"content-length: 5", b"x-number: 2", b"x-number: 3", b"content-length: 2"]
    assert content == b"ok"
