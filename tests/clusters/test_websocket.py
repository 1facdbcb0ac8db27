"""Tests of the WebSocket cluster on real sockets: the handshake that it makes or passes on, sources of any kind, upstreams that misbehave,
and that it gets along with another implementation (the `websockets` package) as client and as server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import CloseCode

from carrier.core.session import Session
from carrier.proxy.proxy import Proxy
from carrier.wire.frames import BINARY, PING, PONG, TEXT, build, close_payload
from clusters.websocket import WebSocketCluster
from tests.ports import free_port
from tests.support import Peer, ask, cluster, config, echo, http, listener, port_of, running, tcp, tcp_server, udp, wait_until
from tests.wire import Wire, echo_frames, field, frame, request, shake, websocket, websocket_server


def to(port: int, name: str = "up", **fields: Any) -> dict[str, Any]:
    """A WebSocket cluster."""
    return cluster(name, port, protocol="WebSocket", **fields)


def ws(name: str = "in", destination: object = "up", **fields: Any) -> dict[str, Any]:
    return listener(name, destination, protocol="WebSocket", **fields)


async def the_session(proxy: Proxy, name: str = "in") -> Session:
    await wait_until(lambda: list(proxy.listeners[name].sessions()), "for a session")
    return next(iter(proxy.listeners[name].sessions()))


@contextlib.asynccontextmanager
async def relayed(*answer: str, handshake: dict[str, str] | None = None, **fields: Any) -> AsyncIterator[tuple[Proxy, Wire, Wire]]:
    """A proxy between a WebSocket client and a WebSocket server, and those two. answer: lines of the server's; handshake: fields of the
    client's; fields: of the listener and its route."""
    async with websocket_server(None, *answer) as server:
        conf = config(clusters=[to(server.port)], listeners=[ws(**fields)])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as peer:
            shaking = asyncio.ensure_future(shake(peer, **(handshake or {})))
            upstream = await server.wire()
            yield proxy, await shaking, upstream


def rewriting(**values: Any) -> list[dict[str, Any]]:
    """Rules that route to `up` with these rewrites; "__" stands for "/"."""
    rewrite = [{"path": "/" + path.replace("__", "/").replace("_", "-"), "value": value} for path, value in values.items()]
    return [{"action": {"rewrite": rewrite, "route": {"destination": "up"}}}]


# --- sources that know no HTTP ----------------------------------------------------------------------------------------------------


async def test_a_datagram_becomes_a_message_the_readmes_example() -> None:
    async with websocket_server() as server:
        conf = config(clusters=[to(server.port)], listeners=[listener("in", "up", protocol="UDP")])
        async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
            client.send(b"hello")
            client.send(b"again")
            upstream = await server.wire()
            assert upstream.head.startswith(b"GET / HTTP/1.1\r\n")
            assert field(upstream.head, "host") == f"127.0.0.1:{server.port}"
            assert [await upstream.hears(), await upstream.hears()] == [(BINARY, b"hello"), (BINARY, b"again")]
            upstream.says(TEXT, b"text")
            upstream.says(BINARY, b"binary", final=False)
            upstream.says(0, b"...")
            assert [await client.read(), await client.read()] == [b"text", b"binary..."]


async def test_bytes_become_binary_messages_and_the_end_an_ordinary_close() -> None:
    async with websocket_server() as server:
        conf = config(clusters=[to(server.port)], listeners=[listener("in", "up")])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"hello")
            upstream = await server.wire()
            assert await upstream.hears() == (BINARY, b"hello")
            client.end()
            assert await upstream.hears_close() == (1000, "")
            upstream.says(BINARY, b"last words")
            upstream.closes(1000)
            upstream.peer.end()
            assert await client.read_all() == b"last words"
            await wait_until(lambda: not proxy.listeners["in"].live, "for the session to end")
            await wait_until(lambda: not proxy.clusters["up"].ends, "for the upstream to go")  # type: ignore[attr-defined]


async def test_large_transfers_through_messages_keep_every_byte() -> None:
    async with websocket_server(echo_frames) as server:
        conf = config(clusters=[to(server.port)], listeners=[listener("in", "up")])
        async with running(conf) as proxy:
            data = bytes(range(256)) * 20_000
            assert await ask(port_of(proxy, "in"), data) == data


async def test_a_request_without_upgrade_is_a_message_and_its_answer_the_messages_that_come() -> None:
    async with websocket_server(echo_frames) as server:
        conf = config(clusters=[to(server.port)], listeners=[listener("in", "up", protocol="HTTP")])
        async with running(conf) as proxy:
            status, _, body = await http(port_of(proxy, "in"), "/p", "POST", body=b"question")
            assert (status, body) == (200, b"question")


async def test_masks_cannot_be_foreseen() -> None:
    async with websocket_server() as server:
        conf = config(clusters=[to(server.port)], listeners=[listener("in", "up", protocol="UDP")])
        async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
            masks = set()
            for _ in range(20):
                client.send(b"x")
            upstream = await server.wire()
            for _ in range(20):
                head = await upstream.peer.read(7)
                assert head[1] & 0x80
                masks.add(head[2:6])
            assert len(masks) == 20


# --- the handshake ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["WebSocket", "HTTP"])
async def test_the_clients_handshake_goes_on_rewritten_by_its_rule(protocol: str) -> None:
    async with websocket_server() as server:
        rules = rewriting(HTTP__url__path="/new?q=2", HTTP__headers__x_new="n", HTTP__headers__x_old="changed")
        front = listener("in", protocol=protocol, rules=rules)
        async with running(config(clusters=[to(server.port)], listeners=[front])) as proxy, tcp(port_of(proxy, "in")) as peer:
            shaking = asyncio.ensure_future(shake(peer, "/old", x_old="o", cookie="c=1", origin="http://o", x_forwarded_for="6.6.6.6"))
            upstream = await server.wire()
            await shaking
            head = upstream.head
            assert head.startswith(b"GET /new?q=2 HTTP/1.1\r\n")
            assert (field(head, "x-new"), field(head, "x-old"), field(head, "cookie")) == ("n", "changed", "c=1")
            assert (field(head, "host"), field(head, "origin")) == ("ws.example", "http://o")
            assert (field(head, "x-forwarded-for"), field(head, "upgrade")) == ("127.0.0.1", "websocket")
            assert field(head, "x-request-id")


async def test_a_handshake_made_from_metadata_takes_over_path_and_headers() -> None:
    async with websocket_server() as server:
        rules = rewriting(HTTP__url__path="p/q", HTTP__headers__x_user="alice", HTTP__headers__connection="close")
        conf = config(clusters=[to(server.port)], listeners=[listener("in", protocol="UDP", rules=rules)])
        async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
            client.send(b"x")
            head = (await server.wire()).head
            assert head.startswith(b"GET /p/q HTTP/1.1\r\n")
            assert (field(head, "x-user"), field(head, "connection")) == ("alice", "upgrade")


@pytest.mark.parametrize("protocol", ["WebSocket", "HTTP", "TCP"])
async def test_a_rewritten_host_and_port_are_the_target(protocol: str) -> None:
    async with websocket_server() as server:
        rules = rewriting(HTTP__url__host="127.0.0.1", HTTP__url__port=server.port)
        conf = config(clusters=[to(free_port())], listeners=[listener("in", protocol=protocol, rules=rules)])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(request())
            assert (await server.wire()).head.startswith(b"GET / HTTP/1.1\r\n")


async def test_a_client_cannot_choose_the_target_by_its_own_url() -> None:
    async with websocket_server() as good, tcp_server() as evil:
        conf = config(clusters=[to(good.port)], listeners=[ws(rules=rewriting(HTTP__headers__x="y"))])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            where = f"127.0.0.1:{evil.port}"
            client.send(request(host=where).replace(b"GET /", f"GET http://{where}/".encode()))
            await good.wire()
            assert evil.peers == []


async def test_the_upstreams_subprotocol_and_extensions_are_the_clients() -> None:
    answer = ("sec-websocket-protocol: b", "sec-websocket-extensions: permessage-deflate")
    offer = {"sec_websocket_protocol": "a, b", "sec_websocket_extensions": "permessage-deflate; client_max_window_bits"}
    async with relayed(*answer, handshake=offer) as (_, client, upstream):
        assert field(upstream.head, "sec-websocket-extensions") == offer["sec_websocket_extensions"]
        assert field(client.head, "sec-websocket-protocol") == "b"
        assert field(client.head, "sec-websocket-extensions") == "permessage-deflate"
        client.raw(frame(0xC2, b"compressed"))
        assert await upstream.hears() == (0xC2, b"compressed")


async def test_behind_a_transform_no_extension_is_offered_and_the_subprotocol_still_passes(tmp_path: Any) -> None:
    logger = {"name": "log", "spec": {"protocol": "Logger", "log_file": str(tmp_path / "log")}}
    async with websocket_server(None, "sec-websocket-protocol: b") as server:
        conf = config(clusters=[to(server.port)], listeners=[ws(ingress=[logger])])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as peer:
            shaking = asyncio.ensure_future(shake(peer, sec_websocket_protocol="a, b", sec_websocket_extensions="permessage-deflate"))
            upstream = await server.wire()
            client = await shaking
            assert field(upstream.head, "sec-websocket-extensions") is None
            assert field(client.head, "sec-websocket-extensions") is None
            assert field(client.head, "sec-websocket-protocol") == "b"
            client.says(TEXT, b"h\xc3\xa9", final=False)
            client.says(0, b"llo")
            assert await upstream.hears() == (TEXT, b"h\xc3\xa9llo"), "a whole message, and text"
            client.closes(3333, "over")
            assert await upstream.hears_close() == (3333, "over")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: no\r\n\r\n", "Accept"),
        (b"HTTP/1.1 101 Switching\r\nupgrade: other\r\nconnection: upgrade\r\n\r\n", "switched"),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "switched"),
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "403"),
        (b"garbage\r\n\r\n", "status line"),
        (b"HTTP/1.1 101 " + b"x" * 40_000, "start line"),
        (b"", "ended"),
    ],
)
async def test_an_answer_that_is_none_fails_the_session_with_the_reason(answer: bytes, words: str) -> None:
    async def server(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(answer)

    async with tcp_server(server) as upstream:
        conf = config(clusters=[to(upstream.port)], listeners=[listener("in", "up", options={"track": 60})])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")):
            session = await the_session(proxy)
            await wait_until(lambda: session.error is not None, "for the session to fail")
            assert session.error is not None and words in session.error.detail
            assert f"127.0.0.1:{upstream.port}" in session.error.detail


@pytest.mark.parametrize(
    "line", ["sec-websocket-protocol: other", "sec-websocket-extensions: permessage-deflate", "sec-websocket-protocol: a, b"]
)
async def test_what_was_not_offered_is_not_accepted(line: str) -> None:
    async with relayed(line, handshake={"sec_websocket_protocol": "a, b"}) as (_, client, _):
        code, reason = await client.hears_close()
        assert (code, "not offered" in reason) == (1011, True)


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_an_upstream_that_hangs_up_before_it_answers_is_replaced_by_the_fallback(how: str) -> None:
    async def hang_up(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.end() if how == "end" else peer.reset()

    async with tcp_server(hang_up) as server:
        conf = config(clusters=[to(server.port), echo()], listeners=[ws(fallback="echo")])
        async with running(conf) as proxy, websocket(port_of(proxy, "in")) as client:
            client.says(TEXT, b"who?")
            assert await client.hears() == (TEXT, b"who?")


async def test_an_http_listener_passes_the_upgrade_and_a_refusal() -> None:
    async def refuse(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 403 Forbidden\r\nx-why: no\r\ncontent-length: 3\r\n\r\nno!")

    async with websocket_server() as server, tcp_server(refuse) as refusing:
        rules = [
            {"match": {"matchPath": {"path": "/no", "type": "exact"}}, "action": {"route": {"destination": "refusing"}}},
            {"action": {"route": {"destination": "up"}}},
        ]
        conf = config(clusters=[to(server.port), to(refusing.port, "refusing")], listeners=[listener("in", protocol="HTTP", rules=rules)])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as peer:
            peer.send(request("/no"))
            refused = await peer.reader.readuntil(b"no!")
            assert refused.startswith(b"HTTP/1.1 403 Forbidden\r\n") and b"\r\nx-why: no\r\n" in refused
            shaking = asyncio.ensure_future(shake(peer, "/yes"))  # the connection is still good
            upstream = await server.wire()
            client = await shaking
            upstream.says(TEXT, b"down")
            client.says(TEXT, b"up")
            assert (await client.hears(), await upstream.hears()) == ((TEXT, b"down"), (TEXT, b"up"))


# --- upstreams --------------------------------------------------------------------------------------------------------------------


BROKEN = {
    "masked": build(TEXT, b"x", b"mask"),
    "reserved opcode": b"\x83\x00",
    "too long": b"\x82\x7f" + (1 << 40).to_bytes(8, "big"),
    "no code": b"\x88\x01\x03",
}


@pytest.mark.parametrize("protocol", ["WebSocket", "HTTP", "TCP", "UDP"])
@pytest.mark.parametrize("name", BROKEN)
async def test_an_upstream_that_breaks_the_rules_is_told_and_the_session_fails(protocol: str, name: str) -> None:
    code = 1009 if name == "too long" else 1002
    async with websocket_server() as server:
        conf = config(clusters=[to(server.port)], listeners=[listener("in", "up", protocol=protocol, options={"track": 60})])
        async with running(conf) as proxy:
            if protocol == "UDP":
                async with udp(port_of(proxy, "in")) as source:
                    source.send(b"x")
                    await self_inflicted(await server.wire(), BROKEN[name], code, first=True)
            else:
                async with tcp(port_of(proxy, "in")) as peer:
                    shaking = asyncio.ensure_future(shake(peer)) if protocol != "TCP" else None
                    upstream = await server.wire()
                    client = await shaking if shaking else None
                    await self_inflicted(upstream, BROKEN[name], code)
                    if protocol == "WebSocket" and client is not None:
                        assert (await client.hears_close())[0] == 1014, "the client has broken no rule"
                    else:
                        with pytest.raises((ConnectionResetError, AssertionError)):
                            assert await peer.read_all() == b"something"
            session = await the_session(proxy)
            await wait_until(lambda: session.error is not None, "for the session to fail")


async def self_inflicted(upstream: Wire, data: bytes, code: int, first: bool = False) -> None:
    """The upstream says something wrong, and hears of it."""
    if first:
        assert await upstream.hears() == (BINARY, b"x")
    upstream.raw(data)
    assert (await upstream.hears_close())[0] == code


async def test_a_close_passes_both_ways_with_code_and_reason() -> None:
    async with relayed(options={"track": 60}) as (proxy, client, upstream):
        upstream.closes(4321, "très bien")
        assert await client.hears_close() == (4321, "très bien")
        client.closes(4322, "oui")
        assert await upstream.hears_close() == (4322, "oui")
        upstream.peer.end()
        await client.hears_end()
        client.peer.end()
        session = await the_session(proxy)
        await wait_until(lambda: session.ended_at, "for the session to end")
        assert session.error is None
        seen = [(e, m, c) for e, _, m, c in session.events if e == "CLOSE"]
        assert seen == [("CLOSE", "upstream", "4321 très bien"), ("CLOSE", "downstream", "4322 oui")]
        await wait_until(lambda: not proxy.clusters["up"].ends)  # type: ignore[attr-defined]


async def test_pings_and_fragments_pass_through_a_relay_untouched() -> None:
    async with relayed() as (_, client, upstream):
        client.says(TEXT, b"a", final=False)
        client.says(PING, b"?")
        client.says(0, b"b")
        assert [await upstream.hears() for _ in range(3)] == [(TEXT, b"a"), (PING, b"?"), (0, b"b")]


async def test_an_upstream_that_vanishes_in_mid_frame_ends_the_client_without_a_false_frame() -> None:
    async with relayed() as (_, client, upstream):
        upstream.raw(build(BINARY, b"x" * 1000)[:500])
        assert len(await client.peer.read(500)) == 500
        upstream.peer.reset()
        await client.hears_end()


async def test_when_the_process_ends_a_frame_that_is_relayed_is_whole_before_the_close() -> None:
    message = build(BINARY, b"x" * 1000)
    async with relayed() as (proxy, client, upstream):
        upstream.raw(message + message[:500])
        assert await client.hears() == (BINARY, b"x" * 1000)
        source = (await the_session(proxy)).source
        await wait_until(lambda: source.outward.at)  # type: ignore[attr-defined]
        source.depart()
        upstream.raw(message[500:900])
        await asyncio.sleep(0.01)
        assert source.session is not None
        upstream.raw(message[900:] + message)
        assert await client.hears() == (BINARY, b"x" * 1000)
        assert await client.hears_close() == (1001, "the proxy ends")


async def test_a_client_that_reads_nothing_holds_back_the_upstream_of_a_relay() -> None:
    async with relayed() as (proxy, client, upstream):
        source = (await the_session(proxy)).source
        client.peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        message = build(BINARY, b"x" * 100_000)
        sent = 0
        while not source.full:  # type: ignore[attr-defined]
            upstream.raw(message)
            sent += 1
            await asyncio.sleep(0)
        for _ in range(50):
            upstream.raw(message)
            sent += 1
        await asyncio.sleep(0.1)
        assert source.size < 256 * 1024  # type: ignore[attr-defined]
        assert upstream.peer.writer.transport.get_write_buffer_size() > 1_000_000, "what is not read stays with the sender"
        client.peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(sent):
            assert await client.hears() == (BINARY, b"x" * 100_000)


async def test_a_route_that_wants_reconnects_gets_them_and_loses_nothing() -> None:
    retry = {"retry_on": "always", "num_retries": 3, "timeout": 50}
    async with websocket_server() as server:
        conf = config(clusters=[to(server.port)], listeners=[ws(retry=retry)])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as peer:
            shaking = asyncio.ensure_future(shake(peer))
            upstream = await server.wire()
            client = await shaking
            client.says(TEXT, b"one")
            assert await upstream.hears() == (TEXT, b"one")
            upstream.peer.reset()
            again = await server.wire()
            client.says(TEXT, b"two")
            assert await again.hears() == (TEXT, b"two")
            again.says(TEXT, b"back")
            assert await client.hears() == (TEXT, b"back")


async def test_an_upstream_that_breaks_the_rules_is_connected_to_again_where_the_route_wants_that() -> None:
    retry = {"retry_on": "always", "num_retries": 3, "timeout": 50}
    async with websocket_server() as server:
        conf = config(clusters=[to(server.port)], listeners=[ws(retry=retry)])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as peer:
            shaking = asyncio.ensure_future(shake(peer))
            upstream = await server.wire()
            client = await shaking
            upstream.raw(b"\x83\x00")
            again = await server.wire()
            client.says(TEXT, b"still here")
            assert await again.hears() == (TEXT, b"still here")
            client.closes(3000, "enough")
            assert await again.hears_close() == (3000, "enough")
            again.closes(3001)
            assert await client.hears_close() == (3001, ""), "a client that has closed is not connected again"


async def test_a_fallback_behind_a_transform_gets_messages() -> None:
    dead = cluster("dead", free_port(), protocol="HTTP")
    discard = {"name": "log", "spec": {"protocol": "Logger", "log_file": "/dev/null"}}
    async with websocket_server() as server:
        conf = config(clusters=[dead, to(server.port)], listeners=[ws(destination="dead", fallback="up", ingress=[discard])])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as peer:
            shaking = asyncio.ensure_future(shake(peer, sec_websocket_extensions="permessage-deflate"))
            upstream = await server.wire()
            client = await shaking
            assert field(upstream.head, "sec-websocket-extensions") is None
            client.says(TEXT, b"a", final=False)
            client.says(0, b"b")
            assert await upstream.hears() == (TEXT, b"ab")


async def test_what_comes_together_with_the_upstreams_answer_is_not_lost() -> None:
    async def greet(wire: Wire) -> None:
        wire.says(TEXT, b"welcome")  # in the same wake-up as the 101
        await wire.hears()

    async with websocket_server(greet) as server:
        conf = config(clusters=[to(server.port)], listeners=[ws(), listener("tcp", "up")])
        async with running(conf) as proxy:
            async with websocket(port_of(proxy, "in")) as client:
                assert await client.hears() == (TEXT, b"welcome")
            async with tcp(port_of(proxy, "tcp")) as peer:
                assert await peer.read(7) == b"welcome"


async def test_a_silent_upstream_is_pinged_and_given_up() -> None:
    async with websocket_server() as server:
        conf = config(clusters=[to(server.port)], listeners=[ws(options={"track": 60})])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as peer:
            shaking = asyncio.ensure_future(shake(peer))
            upstream = await server.wire()
            client = await shaking
            found, now = proxy.clusters["up"], time.monotonic()
            found.tick(now)
            found.tick(now + 31)
            assert await upstream.hears() == (PING, b"")
            upstream.says(PONG)
            assert await client.hears() == (PONG, b""), "nobody asked for it, which is allowed (section 5.5.3)"
            found.tick(now + 32)
            found.tick(now + 63)
            assert await upstream.hears() == (PING, b"")
            found.tick(now + 93)
            assert await upstream.hears_close() == (1011, "no answer to a ping within 30 s")
            assert (await client.hears_close())[0] == 1011


@pytest.mark.parametrize(
    ("options", "path"),
    [({"max_mesage": 5}, ".max_mesage"), ({"ping_timeout": "x"}, ".ping_timeout"), ({}, None)],
)
def test_options_are_checked(options: dict[str, Any], path: str | None) -> None:
    assert [problem.path for problem in WebSocketCluster.check_options(options)] == ([path] if path else [])


# --- another implementation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["WebSocket", "HTTP"])
@pytest.mark.parametrize("upstream", ["WebSocket", "HTTP", "Echo"])
async def test_the_websockets_package_is_served_and_serves(protocol: str, upstream: str) -> None:
    if (protocol, upstream) == ("HTTP", "Echo"):
        pytest.skip("an echo of HTTP is no WebSocket")
    closed: asyncio.Queue[tuple[int | None, str | None]] = asyncio.Queue()

    async def play(server: ServerConnection) -> None:
        try:
            async for message in server:
                await server.send(message)
        except ConnectionClosed:
            pass
        closed.put_nowait((server.close_code, server.close_reason))

    async with serve(play, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        conf = config(
            clusters=[cluster("up", port, protocol=upstream) if upstream != "Echo" else echo("up")],
            listeners=[listener("in", "up", protocol=protocol)],
        )
        async with running(conf) as proxy, connect(f"ws://127.0.0.1:{port_of(proxy, 'in')}/x") as client:
            for message in ("", "häll♥", b"\x00\xff", "x" * 70_000, b"y" * 1_000_000):
                await client.send(message)
                assert await client.recv() == message
            await client.send(["frag", "ment", "ed"])
            assert await client.recv() == "fragmented"
            await asyncio.wait_for(await client.ping(b"p"), 5)
            deflates = any(isinstance(extension, PerMessageDeflate) for extension in client.protocol.extensions)
            assert deflates == (upstream != "Echo"), "compressed from end to end, or not at all"
            await client.close(CloseCode.GOING_AWAY, "bye")
            assert (client.close_code, client.close_reason) == (1001, "bye")
            if upstream != "Echo":
                assert await asyncio.wait_for(closed.get(), 5) == (1001, "bye")


# --- fuzz -------------------------------------------------------------------------------------------------------------------------


PIECES = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda first, payload, mask: frame(first, payload, mask),
        st.integers(0, 255),
        st.binary(max_size=130),
        st.sampled_from([b"", b"\0\0\0\0", b"mask"]),
    ),
    st.sampled_from(
        [frame(0x81, b"hello"), frame(0x01, b"he"), frame(0x80, b"llo"), frame(0x88, close_payload(1000)), build(TEXT, b"down")]
    ),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(up=st.lists(PIECES, max_size=6), down=st.lists(PIECES, max_size=6), front=st.sampled_from(["ws", "http", "tcp", "log"]))
def test_no_frames_from_either_side_stop_the_proxy(up: list[bytes], down: list[bytes], front: str) -> None:
    """Whatever both say, no exception reaches the loop (`running` checks that), sessions end, and the next client is served."""

    async def play() -> None:
        logger = {"name": "log", "spec": {"protocol": "Discard"}}
        async with websocket_server() as server:
            listeners = [
                ws("ws"),
                ws("log", egress=[logger]),
                listener("http", "up", protocol="HTTP"),
                listener("tcp", "up"),
                ws("echo", "echo"),
            ]
            async with running(config(clusters=[to(server.port), echo()], listeners=listeners)) as proxy:
                async with tcp(port_of(proxy, front)) as peer:
                    shaking = asyncio.ensure_future(shake(peer)) if front != "tcp" else None
                    upstream = await server.wire()
                    if shaking is not None:
                        await shaking
                    for piece in up:
                        peer.send(piece)
                    for piece in down:
                        upstream.raw(piece)
                    await asyncio.sleep(0)
                    peer.close()
                    upstream.peer.close()
                    await wait_until(lambda: not proxy.listeners[front].live, "for the session to end")
                async with websocket(port_of(proxy, "echo")) as client:
                    client.says(TEXT, b"next")
                    assert await client.hears() == (TEXT, b"next")

    asyncio.run(play())
