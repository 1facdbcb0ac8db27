"""Recordings of real traffic through a real proxy: what an entry says, of every sort of session; who hears what; what is bounded."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from carrier import redact
from carrier.core.ledger import Ledger
from carrier.observe import record
from carrier.observe.record import Recorder, Wanted
from tests.carrier.observe.test_access import OK
from tests.conversation import Stage
from tests.e2e.test_grpc import channel, grpc_server
from tests.e2e.test_h2 import to
from tests.support import config, echo, listener, port_of, running, tcp, udp, wait_until


class Viewer:
    """Who records. full: he reads nothing."""

    def __init__(self) -> None:
        self.said = b""
        self.full = False

    def write(self, data: bytes) -> bool:
        if self.full:
            return False
        self.said += data
        return True

    def of(self, kind: str) -> list[dict[str, Any]]:
        events = [part.split(b"\ndata: ") for part in self.said.split(b"\n\n") if part.startswith(b"event: ")]
        return [json.loads(data) for name, data in events if name == b"event: " + kind.encode()]

    @property
    def entries(self) -> list[dict[str, Any]]:
        return self.of("entry")


@contextlib.asynccontextmanager
async def recording(env: Any, rule: str = "all", **wanted: Any) -> AsyncIterator[tuple[Recorder, Viewer]]:
    """Somebody records a rule meanwhile."""
    env.ledger = env.ledger or Ledger(env.loop)
    recorder, viewer = Recorder(env, lambda rule: "john"), Viewer()
    recorder.join(viewer, Wanted(lambda: (rule,), **wanted))
    try:
        yield recorder, viewer
        env.ledger.settle()
    finally:
        recorder.close()


def fields(part: dict[str, Any]) -> dict[str, str]:
    return {one["name"].lower(): one["value"] for one in part["headers"]}


async def ask(stage: Stage, request: bytes, answer: bytes = OK, body: int = 0) -> None:
    client = await stage.client()
    await client.says(request)
    server = await stage.server()
    await server.head()
    if body:
        await server.hears(body)
    await server.says(answer)
    await client.hears(len(answer))
    client.goes()
    server.goes()


async def test_a_request_is_an_entry_with_its_content_and_without_its_secrets() -> None:
    asks = b"POST /cart?item=1&token=hidden HTTP/1.1\r\nhost: shop:8080\r\ncookie: s=hidden\r\nx-a: b\r\n"
    asks += b"content-type: text/plain\r\ncontent-length: 5\r\n\r\nhello"
    tells = b"HTTP/1.1 201 Made\r\ncontent-type: application/json\r\nset-cookie: s=hidden\r\nlocation: /there\r\n"
    tells += b'content-length: 8\r\n\r\n{"a": 1}'
    async with Stage() as stage, recording(stage.proxy.env) as (_, viewer):
        await ask(stage, asks, tells, 5)
        await wait_until(lambda: viewer.entries or stage.proxy.env.ledger.settle())
    (entry,) = viewer.entries
    request, response, ours = entry["request"], entry["response"], entry["_carrier"]
    assert (request["method"], request["url"]) == ("POST", "http://shop:8080/cart?item=1&token=(redacted)")
    assert request["postData"] == {"mimeType": "text/plain", "text": "hello"} and request["bodySize"] == 5
    assert {"name": "item", "value": "1"} in request["queryString"]
    assert fields(request)["cookie"] == fields(response)["set-cookie"] == redact.REDACTED and fields(request)["x-a"] == "b"
    assert (response["status"], response["statusText"], response["redirectURL"]) == (201, "Made", "/there")
    assert response["content"] == {"size": 8, "mimeType": "application/json", "text": '{"a": 1}'}
    assert (ours["rule"], ours["user"], ours["cluster"], ours["listener"]) == ("all", "john", "up", "front") and "truncated" not in ours
    assert b"hidden" not in viewer.said and entry["time"] > 0 and min(entry["timings"][name] for name in ("send", "wait", "receive")) >= 0


async def test_secrets_are_shown_to_who_asks_for_them() -> None:
    async with Stage() as stage, recording(stage.proxy.env, secrets=True) as (_, viewer):
        await ask(stage, b"GET /?token=seen HTTP/1.1\r\nhost: a\r\ncookie: s=seen\r\n\r\n")
        await wait_until(lambda: viewer.entries or stage.proxy.env.ledger.settle())
    (entry,) = viewer.entries
    assert entry["request"]["cookies"] == [{"name": "s", "value": "seen"}] and entry["request"]["url"].endswith("token=seen")


async def test_compressed_content_is_shown_plain_and_bytes_as_base64() -> None:
    packed = gzip.compress(b"plain " * 50)
    tells = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b" % (len(packed), packed)
    raw = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n\xff\x00\xfe"
    async with Stage() as stage, recording(stage.proxy.env) as (_, viewer):
        await ask(stage, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", tells)
        await ask(stage, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", raw)
        await wait_until(lambda: len(viewer.entries) == 2 or stage.proxy.env.ledger.settle())
    first, second = viewer.entries
    assert first["response"]["content"]["text"] == "plain " * 50 and first["response"]["content"]["compression"] == 300 - len(packed)
    assert second["response"]["content"] == {"size": 3, "mimeType": "x-unknown", "text": "/wD+", "encoding": "base64"}


async def test_content_is_bounded_and_what_was_cut_is_said() -> None:
    async with Stage() as stage, recording(stage.proxy.env, bodies=4) as (_, viewer):
        await ask(stage, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789")
        await wait_until(lambda: viewer.entries or stage.proxy.env.ledger.settle())
    (entry,) = viewer.entries
    assert entry["response"]["content"]["text"] == "0123" and entry["response"]["bodySize"] == 10 and entry["_carrier"]["truncated"]


async def test_only_the_rule_that_is_recorded_leaves_the_lane() -> None:
    rules = (({"matchHeader": {"name": "x-user", "value": "john"}}, "up", ()),)
    async with Stage(rules=rules) as stage, recording(stage.proxy.env, "r0") as (_, viewer):
        ended: list[Any] = []
        stage.proxy.env.ledger.readers.append(ended.extend)  # type: ignore[union-attr]
        client = await stage.client()
        server = None
        for more in (b"", b"", b"x-user: john\r\n", b""):
            await client.says(b"GET / HTTP/1.1\r\nhost: a\r\n%b\r\n" % more)
            server = server or await stage.server()
            await server.head()
            await server.says(OK)
            await client.hears(len(OK))
        client.goes()
        await wait_until(lambda: viewer.entries or stage.proxy.env.ledger.settle())
        assert [entry.__class__ is tuple for entry in ended] == [False, True, False, True]
    assert len(viewer.entries) == 1 and stage.proxy.env.recorder is None and not stage.proxy.env.watched


async def test_a_request_that_nobody_served_is_an_entry_too() -> None:
    async with Stage() as stage, recording(stage.proxy.env) as (_, viewer):
        stage.shuts()
        client = await stage.client()
        await client.says(b"GET /gone HTTP/1.1\r\nhost: a\r\n\r\n")
        assert b" 503 " in await client.head()
        client.goes()
        await wait_until(lambda: viewer.entries or stage.proxy.env.ledger.settle())
    (entry,) = viewer.entries
    assert entry["response"]["status"] == 503 and entry["_carrier"]["error"] == "refused" and entry["request"]["url"].endswith("/gone")


async def test_a_request_that_is_asked_again_has_its_content_once() -> None:
    options: dict[str, Any] = {"route": {"retry_statuses": [503]}, "retry": {"retry_on": "always", "num_retries": 1}}
    async with Stage(**options) as stage, recording(stage.proxy.env) as (_, viewer):
        client, server, _ = await stage.both(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await server.says(b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno")
        server = await stage.server()
        await server.head()
        await server.says(OK)
        await client.hears(len(OK))
        client.goes()
        server.goes()
        await wait_until(lambda: viewer.entries or stage.proxy.env.ledger.settle())
    (entry,) = viewer.entries
    assert entry["response"]["status"] == 200 and entry["response"]["content"]["text"] == "hi" and entry["_carrier"]["retries"] == 1


def messages(entry: dict[str, Any], name: str = "_messages") -> list[tuple[str, bytes]]:
    return [(one["type"], base64.b64decode(one["data"]) if one["opcode"] != 1 else one["data"].encode()) for one in entry[name]]


async def test_a_call_of_grpc_has_messages_and_its_status() -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(grpc_server())
        proxy = await stack.enter_async_context(to(server, http=2))
        _, viewer = await stack.enter_async_context(recording(proxy.env))
        ours = await stack.enter_async_context(channel(port_of(proxy, "in")))
        assert await ours.unary_unary("/a.Service/Unary")(b"x") == b"echo x"
        await wait_until(lambda: viewer.entries or proxy.env.ledger.settle())
    (entry,) = viewer.entries
    assert messages(entry) == [("send", b"x"), ("receive", b"echo x")]
    assert entry["_carrier"]["grpc"] == {"service": "a.Service", "method": "Unary", "status": "OK"}
    assert {"name": "grpc-status", "value": "0"} in entry["response"]["_trailers"] and entry["request"]["httpVersion"] == "HTTP/2"


@pytest.mark.parametrize("protocol", ["HTTP", "WebSocket"])
@pytest.mark.parametrize("compression", ["deflate", None])
async def test_a_websocket_has_its_messages_whichever_listener_carries_it(protocol: str, compression: str | None) -> None:
    async def answer(peer: Any) -> None:
        async for message in peer:
            await peer.send(message)

    async with serve(answer, "127.0.0.1", 0, compression=compression) as server:  # type: ignore[arg-type]
        port = next(iter(server.sockets)).getsockname()[1]
        async with to(port, protocol=protocol) as proxy, recording(proxy.env) as (_, viewer):
            async with connect(f"ws://127.0.0.1:{port_of(proxy, 'in')}/", compression=compression) as client:  # type: ignore[arg-type]
                for message in ("text", b"\x00\xff", "more text more text"):
                    await client.send(message)
                    assert await client.recv() == message
            await wait_until(lambda: viewer.entries or proxy.env.ledger.settle())
    (entry,) = viewer.entries
    found = [one for one in messages(entry, "_webSocketMessages") if one[1][:2] != b"\x03\xe8"]
    wanted = [(way, text) for text in (b"text", b"\x00\xff", b"more text more text") for way in ("send", "receive")]
    assert found == wanted and entry["_resourceType"] == "websocket" and entry["response"]["status"] == 101


async def test_streams_of_bytes_and_datagrams_have_their_pieces() -> None:
    conf = config(
        clusters=[echo()],
        listeners=[
            listener("t", rules=[{"name": "all", "action": {"route": {"destination": "echo"}}}]),
            listener("u", protocol="UDP", rules=[{"name": "dns", "action": {"route": {"destination": "echo"}}}]),
        ],
    )
    async with running(conf) as proxy, recording(proxy.env) as (recorder, viewer):
        async with tcp(port_of(proxy, "t")) as client:
            client.send(b"hello")
            assert await client.read(5) == b"hello"
        await wait_until(lambda: viewer.entries or proxy.env.ledger.settle())
        (entry,) = viewer.entries
        assert messages(entry) == [("send", b"hello"), ("receive", b"hello")]
        assert entry["request"]["method"] == "TCP" and entry["request"]["url"] == f"tcp://127.0.0.1:{port_of(proxy, 't')}/"
        other = Viewer()
        recorder.join(other, Wanted(lambda: ("dns",)))
        async with udp(port_of(proxy, "u")) as client:
            client.send(b"one")
            assert await client.read() == b"one"
            for session in proxy.sessions():
                session.kill()
            await wait_until(lambda: other.entries or proxy.env.ledger.settle())
        assert messages(other.entries[0]) == [("send", b"one"), ("receive", b"one")] and len(viewer.entries) == 1


async def test_a_session_that_is_open_for_long_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "YOUNG", 0.1)  # and again after a time that this test does not wait for
    rules = [{"name": "all", "action": {"route": {"destination": "echo"}}}]
    async with running(config(clusters=[echo()], listeners=[listener("t", rules=rules)])) as proxy, recording(proxy.env) as (_, viewer):
        async with tcp(port_of(proxy, "t")) as client:
            client.send(b"hello")
            assert await client.read(5) == b"hello"
            await wait_until(lambda: viewer.entries, "for the open session to be told")
            assert viewer.entries[0]["_carrier"]["open"] and messages(viewer.entries[0])[0] == ("send", b"hello")
            await asyncio.sleep(0.4)
            assert len(viewer.entries) == 1
        await wait_until(lambda: not viewer.entries[-1]["_carrier"].get("open") or proxy.env.ledger.settle(), "for its end")
    assert {entry["_carrier"]["session"] for entry in viewer.entries} == {viewer.entries[0]["_carrier"]["session"]}


async def test_what_is_too_much_is_counted_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "PERIOD", 3600)
    async with Stage() as stage, recording(stage.proxy.env) as (recorder, viewer):
        recorder.left = 1
        for _ in range(3):
            await ask(stage, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await wait_until(lambda: viewer.entries or stage.proxy.env.ledger.settle())
        assert (recorder.told, recorder.lost) == (1, 2)
        viewer.full, recorder.left = True, 2
        await ask(stage, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await wait_until(lambda: recorder.lost == 3 or stage.proxy.env.ledger.settle(), "for a reader who reads nothing")
        viewer.full = False
        await ask(stage, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await wait_until(lambda: len(viewer.entries) == 2 or stage.proxy.env.ledger.settle())
        assert sum(event["entries"] for event in viewer.of("lost")) == 3


async def test_the_room_of_all_tapes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "HELD", 10)
    async with Stage() as stage, recording(stage.proxy.env) as (_, viewer):
        await ask(stage, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await wait_until(lambda: viewer.entries or stage.proxy.env.ledger.settle())
    (entry,) = viewer.entries
    assert entry["_carrier"]["truncated"] and "text" not in entry["response"]["content"] and entry["response"]["bodySize"] == 2


async def test_who_leaves_in_the_middle_of_a_session_holds_nothing() -> None:
    rules = [{"name": "all", "action": {"route": {"destination": "echo"}}}]
    conf = config(clusters=[echo()], listeners=[listener("t", rules=rules)])
    async with running(conf) as proxy, contextlib.AsyncExitStack() as stack:
        async with recording(proxy.env) as (recorder, _):
            client = await stack.enter_async_context(tcp(port_of(proxy, "t")))
            client.send(b"hello")
            assert await client.read(5) == b"hello"
            (tape,) = recorder.tapes.values()
        client.send(b"again")
        assert await client.read(5) == b"again"
        assert tape.body(True) == b"hello" and not recorder.tapes
