"""Tests of the WebSocket listener on real sockets: the handshake, what destinations of any kind get and give, how sessions end."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from carrier.config.accesslog import Settings
from carrier.core.ledger import Ledger
from carrier.core.listener import Listener
from carrier.core.session import Session
from carrier.observe.access import AccessLog
from carrier.proxy.proxy import Proxy
from carrier.wire.frames import BINARY, CLOSE, PING, PONG, TEXT, build
from listeners.websocket import WebSocketListener
from tests.ports import free_port
from tests.support import Peer, cluster, config, echo, listener, port_of, running, saying, tcp, tcp_server, udp_server, wait_until
from tests.wire import field, frame, request, shake, websocket, websocket_server


def ws(name: str = "in", destination: object = "echo", **fields: Any) -> dict[str, Any]:
    return listener(name, destination, protocol="WebSocket", **fields)


def sessions(proxy: Proxy, name: str = "in") -> list[Session]:
    return list(proxy.listeners[name].sessions())


async def the_session(proxy: Proxy, name: str = "in") -> Session:
    await wait_until(lambda: sessions(proxy, name), "for a session")
    return sessions(proxy, name)[0]


async def answer(port: int, data: bytes) -> bytes:
    """What a request is answered with, to the end of the connection."""
    async with tcp(port) as client:
        client.send(data)
        return await client.read_all()


# --- the handshake ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", 426, b"Upgrade: websocket"),
        (request(upgrade="h2c"), 426, b"Upgrade: websocket"),
        (request(connection="close"), 426, b"Upgrade: websocket"),
        (request(sec_websocket_version="8"), 426, b"sec-websocket-version: 13"),
        (request(sec_websocket_version=""), 426, b"sec-websocket-version: 13"),
        (request(key="short"), 400, b"16 bytes"),
        (request(key=""), 400, b"16 bytes"),
        (request().replace(b"GET", b"PUT"), 405, b"GET"),
        (request().replace(b"HTTP/1.1", b"HTTP/1.0"), 426, b"HTTP/1.1"),
        (request(host=""), 400, b"Host"),
        (request(x="a\x01b"), 400, b""),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, b""),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 40_000, 431, b""),
        (b"GET /" + b"y" * 17_000, 414, b""),
    ],
)
async def test_what_is_no_opening_handshake_is_refused_in_http(sent: bytes, status: int, words: bytes) -> None:
    async with running(config(clusters=[echo()], listeners=[ws()])) as proxy:
        heard = await answer(port_of(proxy, "in"), sent)
        assert heard.startswith(b"HTTP/1.1 %d " % status)
        assert words in heard
        assert b"connection: close" in heard
        assert sessions(proxy) == []
        await wait_until(lambda: not proxy.listeners["in"].connections, "for the connection to go")  # type: ignore[attr-defined]


async def test_a_handshake_in_small_pieces_with_the_first_message_behind_it() -> None:
    async with running(config(clusters=[echo()], listeners=[ws()])) as proxy, tcp(port_of(proxy, "in")) as peer:
        for byte in request() + build(TEXT, b"early", b"mask"):
            peer.send(bytes((byte,)))
            await peer.writer.drain()
        assert b" 101 " in await peer.reader.readuntil(b"\r\n\r\n")
        assert await peer.read(7) == build(TEXT, b"early")


async def test_the_session_is_known_as_l7mp_knows_it() -> None:
    async with (
        running(config(clusters=[echo()], listeners=[ws()])) as proxy,
        websocket(port_of(proxy, "in"), "/p?q=1", x_user="alice") as client,
    ):
        session = await the_session(proxy)
        meta = session.metadata
        assert session.name == f"WS:127.0.0.1:{client.peer.port}-127.0.0.1:{port_of(proxy, 'in')}-0"
        assert meta["IP"] == {"src_addr": "127.0.0.1", "dst_addr": "127.0.0.1"}
        assert meta["TCP"] == {"src_port": client.peer.port, "dst_port": port_of(proxy, "in")}
        assert meta["HTTP"]["url"]["path"] == "/p?q=1"
        assert meta["HTTP"]["headers"]["x-user"] == "alice"


async def test_rules_look_at_the_handshake() -> None:
    async def upstream(peer: Peer) -> None:
        peer.send(b"A")
        await peer.read_all()

    rules = [
        {"match": {"matchHeader": {"name": "X-User", "value": "alice"}}, "action": {"route": {"destination": "a"}}},
        {"action": {"route": {"destination": "echo"}}},
    ]
    async with (
        tcp_server(upstream) as server,
        running(config(clusters=[echo(), cluster("a", server.port)], listeners=[ws(rules=rules)])) as proxy,
    ):
        async with websocket(port_of(proxy, "in"), x_user="alice") as client:
            assert await client.hears() == (BINARY, b"A")
        async with websocket(port_of(proxy, "in"), x_user="bob") as client:
            client.says(TEXT, b"me")
            assert await client.hears() == (TEXT, b"me")


async def test_the_first_subprotocol_is_taken_and_no_extension() -> None:
    async with running(config(clusters=[echo()], listeners=[ws()])) as proxy:
        offer = {"sec_websocket_protocol": "chat, superchat", "sec_websocket_extensions": "permessage-deflate"}
        async with websocket(port_of(proxy, "in"), **offer) as client:
            assert field(client.head, "sec-websocket-protocol") == "chat"
            assert field(client.head, "sec-websocket-extensions") is None


async def test_a_handshake_that_does_not_come_is_timed_out() -> None:
    async with running(config(clusters=[echo()], listeners=[ws()])) as proxy, tcp(port_of(proxy, "in")) as peer:
        peer.send(b"GET / HTTP/1.1\r\n")
        found = proxy.listeners["in"]
        await wait_until(lambda: found.connections, "for the connection")  # type: ignore[attr-defined]
        found.tick(time.monotonic() + 9)
        found.tick(time.monotonic() + 11)
        assert (await peer.read_all()).startswith(b"HTTP/1.1 408 ")


async def test_connections_beyond_the_limit_are_not_served_and_come_in_when_there_is_room() -> None:
    async with (
        running(config(clusters=[echo()], listeners=[ws(options={"max_connections": 1})])) as proxy,
        websocket(port_of(proxy, "in")) as first,
        tcp(port_of(proxy, "in")) as second,
    ):
        second.send(request())
        first.says(TEXT, b"still served")
        assert await first.hears() == (TEXT, b"still served")
        first.closes(1000)
        assert await first.hears_close() == (1000, "")
        first.peer.end()
        assert b" 101 " in await second.reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [({"max_mesage": 5}, "max_mesage"), ({"ping_interval": -1}, "ping_interval"), ({"max_message": "big"}, "max_message"), ({}, "")],
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    problems = WebSocketListener.check_options(options, "$.options")
    assert bool(problems) == bool(words)
    assert all(words in problem.path for problem in problems)


def test_the_path_that_is_ignored_is_a_text() -> None:
    (problem,) = WebSocketListener.check({"protocol": "WebSocket", "port": 1, "path": 7}, "$")
    assert str(problem) == "$.path: expected text, got 7 (allowed: text)"
    assert WebSocketListener.check({"protocol": "WebSocket", "port": 1, "path": "/chat"}, "$") == []


# --- no destination ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [[], [{"match": {"op": "defined", "path": "/nope"}, "action": {"route": {"destination": "echo"}}}]])
async def test_without_a_route_it_is_upgraded_and_closed_without_a_code(rules: list[Any]) -> None:
    async with running(config(clusters=[echo()], listeners=[ws(rules=rules)])) as proxy, websocket(port_of(proxy, "in")) as client:
        assert await client.hears_close() == (None, "")
        client.closes(1000)
        client.peer.end()
        await client.hears_end()


@pytest.mark.parametrize("protocol", ["TCP", "HTTP", "WebSocket"])
async def test_a_dead_upstream_is_told_with_a_code(protocol: str) -> None:
    dead = cluster("dead", free_port(), protocol=protocol)
    async with running(config(clusters=[dead], listeners=[ws(destination="dead", options={"track": 60})])) as proxy:
        async with websocket(port_of(proxy, "in")) as client:
            code, reason = await client.hears_close()
            assert code == 1013
            assert "127.0.0.1" in reason
        error = sessions(proxy)[0].error
        assert error is not None and error.kind == "refused"


async def test_a_fallback_serves_instead_of_a_dead_upstream() -> None:
    dead = cluster("dead", free_port(), protocol="WebSocket")
    async with (
        running(config(clusters=[dead, echo()], listeners=[ws(destination="dead", fallback="echo")])) as proxy,
        websocket(port_of(proxy, "in")) as client,
    ):
        client.says(TEXT, b"who?")
        assert await client.hears() == (TEXT, b"who?")
        assert (await the_session(proxy)).fallback == "refused"


# --- other protocols --------------------------------------------------------------------------------------------------------------


async def test_messages_become_the_bytes_of_a_tcp_stream_and_bytes_binary_messages() -> None:
    async with (
        tcp_server() as server,
        running(config(clusters=[cluster("a", server.port)], listeners=[ws(destination="a")])) as proxy,
        websocket(port_of(proxy, "in")) as client,
    ):
        upstream = await server.peer()
        client.says(TEXT, b"he", final=False)
        client.says(0, b"llo")
        client.says(BINARY, b" there")
        assert await upstream.read(11) == b"hello there"
        upstream.send(b"answer")
        assert await client.hears() == (BINARY, b"answer")
        found = (await the_session(proxy)).dump()["counters"]
        assert (found["messages_in"], found["messages_out"]) == (2, 1)


async def test_a_close_is_the_end_of_a_tcp_stream_whose_last_words_still_come() -> None:
    async with tcp_server() as server, running(config(clusters=[cluster("a", server.port)], listeners=[ws(destination="a")])) as proxy:
        async with websocket(port_of(proxy, "in")) as client:
            upstream = await server.peer()
            client.closes(3000, "done")
            assert await upstream.read_all() == b""
            upstream.send(b"last words")
            upstream.end()
            assert await client.hears() == (BINARY, b"last words")
            assert await client.hears_close() == (1000, "")
            client.peer.end()
            await client.hears_end()
        await wait_until(lambda: not sessions(proxy), "for the session to end")


async def test_the_end_of_a_tcp_stream_is_an_ordinary_close() -> None:
    async with tcp_server(saying(b"bye")) as server:
        conf = config(clusters=[cluster("a", server.port)], listeners=[ws(destination="a", options={"track": 60})])
        async with running(conf) as proxy, websocket(port_of(proxy, "in")) as client:
            assert await client.hears() == (BINARY, b"bye")
            assert await client.hears_close() == (1000, "")
            client.closes(1000)
            client.peer.end()
            await client.hears_end()
            await wait_until(lambda: not proxy.listeners["in"].live, "for the session to end")
            assert sessions(proxy)[0].error is None


async def test_a_reset_upstream_is_told_with_a_code() -> None:
    async with (
        tcp_server() as server,
        running(config(clusters=[cluster("a", server.port)], listeners=[ws(destination="a")])) as proxy,
        websocket(port_of(proxy, "in")) as client,
    ):
        (await server.peer()).reset()
        code, reason = await client.hears_close()
        assert (code, "reset" in reason) == (1011, True)


async def test_a_client_that_vanishes_ends_the_upstream() -> None:
    async with (
        tcp_server() as server,
        running(config(clusters=[cluster("a", server.port)], listeners=[ws(destination="a")])) as proxy,
        websocket(port_of(proxy, "in")) as client,
    ):
        upstream = await server.peer()
        client.peer.end()
        assert await upstream.read_all() == b""
        await wait_until(lambda: not sessions(proxy), "for the session to end")


async def test_a_message_is_a_datagram_and_a_datagram_a_message() -> None:
    async with udp_server(lambda data: data[::-1]) as upstream:
        conf = config(clusters=[cluster("a", upstream.port, protocol="UDP")], listeners=[ws(destination="a")])
        async with running(conf) as proxy, websocket(port_of(proxy, "in")) as client:
            for message in (b"one", b"", b"three" * 200):
                client.says(BINARY, message)
                assert await upstream.read() == message
                if message:  # asyncio sends no empty datagram back
                    assert await client.hears() == (BINARY, message[::-1])


async def test_pings_are_answered_where_messages_are_wanted() -> None:
    async with running(config(clusters=[echo()], listeners=[ws()])) as proxy, websocket(port_of(proxy, "in")) as client:
        client.says(PING, b"there?")
        assert await client.hears() == (PONG, b"there?")


# --- HTTP behind it ---------------------------------------------------------------------------------------------------------------


async def test_an_http_cluster_gets_the_handshake_and_its_answer_passes() -> None:
    async with websocket_server() as server:
        conf = config(clusters=[cluster("a", server.port, protocol="HTTP")], listeners=[ws(destination="a")])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as peer:
            shaking = asyncio.ensure_future(shake(peer, "/p?q", cookie="c=1"))
            upstream = await server.wire()
            client = await shaking
            assert upstream.head.startswith(b"GET /p?q HTTP/1.1\r\n")
            assert field(upstream.head, "cookie") == "c=1"
            client.says(TEXT, b"up")
            assert await upstream.hears() == (TEXT, b"up")
            upstream.says(TEXT, b"down")
            assert await client.hears() == (TEXT, b"down")
            upstream.raw(b"\x83\x00")  # what an upstream does wrong is seen here too
            assert (await client.hears_close())[0] == 1002


@pytest.mark.parametrize("protocol", ["HTTP", "WebSocket"])
@pytest.mark.parametrize(
    "refusal",
    [
        b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic\r\ncontent-length: 4\r\n\r\nkey?",
        b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic\r\ntransfer-encoding: chunked\r\n\r\n4\r\nkey?\r\n0\r\n\r\n",
        b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic\r\nconnection: close\r\n\r\nkey?",
    ],
)
async def test_a_refusal_passes_as_it_is(protocol: str, refusal: bytes) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(refusal)

    async with tcp_server(refuse) as server:
        conf = config(clusters=[cluster("a", server.port, protocol=protocol)], listeners=[ws(destination="a")])
        async with running(conf) as proxy:
            heard = await answer(port_of(proxy, "in"), request())
            assert heard.startswith(b"HTTP/1.1 401 ")
            assert b"\r\nwww-authenticate: Basic\r\n" in heard
            assert heard.endswith(b"\r\n\r\nkey?")
            await wait_until(lambda: not sessions(proxy), "for the session to end")


async def test_a_refusal_that_is_cut_shows_as_cut() -> None:
    async def refuse(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 10\r\n\r\nkey?")
        await peer.writer.drain()
        await asyncio.sleep(0.05)
        peer.reset()

    async with tcp_server(refuse) as server:
        conf = config(clusters=[cluster("a", server.port, protocol="HTTP")], listeners=[ws(destination="a")])
        async with running(conf) as proxy:
            assert (await answer(port_of(proxy, "in"), request())).endswith(b"\r\n\r\nkey?"), "and no frame behind it"


# --- ends -------------------------------------------------------------------------------------------------------------------------


async def test_a_session_removed_by_the_api_goes_away_with_a_code() -> None:
    async with running(config(clusters=[echo()], listeners=[ws()])) as proxy, websocket(port_of(proxy, "in")) as client:
        (await the_session(proxy)).kill()
        assert await client.hears_close() == (1001, "Session removed from the API")


async def test_sessions_outlive_their_listener() -> None:
    async with running(config(clusters=[echo()], listeners=[ws()])) as proxy, websocket(port_of(proxy, "in")) as client:
        await proxy.apply(config(clusters=[echo()]))
        client.says(TEXT, b"still here")
        assert await client.hears() == (TEXT, b"still here")


def ticks(found: Listener, *seconds: float) -> None:
    """Let time pass for a listener."""
    now = time.monotonic()
    for offset in seconds:
        found.tick(now + offset)


async def test_a_silent_peer_is_pinged_and_given_up_when_it_does_not_answer() -> None:
    async with (
        running(config(clusters=[echo()], listeners=[ws(options={"track": 60})])) as proxy,
        websocket(port_of(proxy, "in")) as client,
    ):
        found = proxy.listeners["in"]
        session = await the_session(proxy)
        ticks(found, 0, 29)
        ticks(found, 31)
        assert await client.hears() == (PING, b"")
        client.says(PONG)
        await wait_until(lambda: session.source.bytes_in > 0 and len(found.connections) == 1)  # type: ignore[attr-defined]
        before = session.source.bytes_in
        client.says(PONG)
        await wait_until(lambda: session.source.bytes_in > before)
        ticks(found, 62, 93)
        assert await client.hears() == (PING, b"")
        ticks(found, 123)
        code, reason = await client.hears_close()
        assert (code, reason) == (1011, "no answer to a ping within 30 s")
        assert session.error is not None and session.error.kind == "timeout"


async def test_a_close_that_nobody_answers_is_answered_here_in_time() -> None:
    async with (
        tcp_server() as server,
        running(config(clusters=[cluster("a", server.port)], listeners=[ws(destination="a")])) as proxy,
        websocket(port_of(proxy, "in")) as client,
    ):
        upstream = await server.peer()
        client.closes(3001, "enough")
        assert await upstream.read_all() == b""
        ticks(proxy.listeners["in"], 0, 6)
        assert await client.hears_close() == (3001, "enough")
        await wait_until(lambda: not sessions(proxy), "for the session to end")


async def test_a_client_that_reads_nothing_pauses_the_upstream() -> None:
    sent = 0

    async def flood(peer: Peer) -> None:
        nonlocal sent
        while True:
            peer.send(b"x" * 65_536)
            await peer.writer.drain()
            sent += 65_536

    async with (
        tcp_server(flood) as server,
        running(config(clusters=[cluster("a", server.port)], listeners=[ws(destination="a")])) as proxy,
        websocket(port_of(proxy, "in")) as client,
    ):
        source = (await the_session(proxy)).source
        client.peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await wait_until(lambda: source.full, "for the way to fill")  # type: ignore[attr-defined]
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.05)
        assert source.size < 256 * 1024  # type: ignore[attr-defined]
        client.peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        while sent < before + 1_000_000:
            opcode, payload = await client.hears()
            assert (opcode, payload.strip(b"x")) == (BINARY, b"")


async def test_a_peer_that_pings_and_does_not_read_gets_no_answers_kept_for_it() -> None:
    async with tcp_server() as server:
        conf = config(clusters=[cluster("a", server.port)], listeners=[ws(destination="a")])
        async with running(conf) as proxy, websocket(port_of(proxy, "in")) as client:
            source: Any = (await the_session(proxy)).source
            client.peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            pings = frame(0x80 | PING, b"p" * 125) * 1000
            for i in range(1, 101):
                client.raw(pings)
                await wait_until(lambda n=i: source.bytes_in >= n * len(pings), "for the pings to be read")  # type: ignore[misc]
            assert source.size < 256 * 1024


async def test_a_broken_message_ends_its_session_and_no_other() -> None:
    async with (
        running(config(clusters=[echo()], listeners=[ws()])) as proxy,
        websocket(port_of(proxy, "in")) as good,
        websocket(port_of(proxy, "in")) as bad,
    ):
        bad.raw(frame(0x81, b"\xff"))
        assert (await bad.hears_close())[0] == 1007
        bad.says(TEXT, b"ignored")
        bad.closes(1000)
        bad.peer.end()
        await bad.hears_end()
        good.says(CLOSE)
        assert await good.hears_close() == (None, "")


async def test_a_handshake_that_is_refused_has_its_line_in_the_access_log(tmp_path: Path) -> None:
    file = tmp_path / "log"
    async with running(config(clusters=[echo()], listeners=[ws()])) as proxy:
        log = AccessLog(Settings(str(file)), proxy.env.loop)
        proxy.env.ledger = Ledger(proxy.env.loop)
        proxy.env.ledger.watchers.append(log.turned_away)
        for raw in (b"GET /chat HTTP/1.1\r\nhost: a\r\n\r\n", b"GET /bad HTTP/1.1\r\nhost : a\r\n\r\n", b"GET /\0"):
            async with tcp(port_of(proxy, "in")) as client:
                client.send(raw)
                await client.read_all()
        log.close()
    plain, bad, cut = (json.loads(line) for line in file.read_text().splitlines())
    assert (plain["method"], plain["path"], plain["status"], plain["protocol"]) == ("GET", "/chat", 426, "WebSocket")
    assert (bad["method"], bad["path"], bad["status"], bad["error"]) == ("GET", "/bad", 400, "protocol-error")
    assert (cut["path"], cut["status"]) == ("/\\x00", 400) and plain["bytes_in"] > 0 < plain["bytes_out"]
