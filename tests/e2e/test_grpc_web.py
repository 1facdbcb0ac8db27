"""gRPC-Web through a real proxy: frames of its two content types, in each version of HTTP on either side, and errors of ours in its form.

PROTOCOL-WEB.md of grpc/grpc: messages and trailers are frames of the content (the trailers' flag is 0x80); `-text` is the same in base64.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import Any

import h11
import pytest

from tests.h2peer import Peer2, Server2, client2
from tests.support import Peer, config, port_of, running, tcp, tcp_server

BYTES, TEXT = "application/grpc-web+proto", "application/grpc-web-text"
TYPES = pytest.mark.parametrize("kind", [BYTES, TEXT])
DOWN = pytest.mark.parametrize("down", [1, 2], ids=["from h1", "from h2"])
UP = pytest.mark.parametrize("up", [1, 2], ids=["to h1", "to h2"])
PATH = "/a.Service/Unary"


def frame(data: bytes, flags: int = 0) -> bytes:
    return struct.pack(">BI", flags, len(data)) + data


def written(kind: str, data: bytes) -> bytes:
    return base64.b64encode(data) if kind == TEXT else data


def read(kind: str, data: bytes) -> list[tuple[int, bytes]]:
    """Flags and content of each frame. Text may be several pieces of base64, each with its own end."""
    if kind == TEXT:
        assert len(data) % 4 == 0
        data = b"".join(base64.b64decode(data[i : i + 4]) for i in range(0, len(data), 4))
    found = []
    while data:
        flags, size = struct.unpack_from(">BI", data)
        found.append((flags, data[5 : 5 + size]))
        data = data[5 + size :]
    return found


class Web:
    """A server of gRPC-Web, of either version: echoes each message with its name, and waits for `go` before its trailers."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.go = asyncio.Event()
        self.go.set()
        self.asked: list[dict[str, str]] = []

    def said(self, kind: str, body: bytes) -> tuple[bytes, bytes]:
        ((flags, message),) = read(kind, body)
        assert flags == 0
        return written(kind, frame(self.name + b": " + message)), written(kind, frame(b"grpc-status:0\r\n", 0x80))

    async def serve1(self, peer: Peer) -> None:
        http = h11.Connection(h11.SERVER)
        body, head = b"", {}
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                data = await peer.reader.read(65536)
                http.receive_data(data)
            elif isinstance(event, h11.Request):
                head = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.asked.append(head)
                message, trailers = self.said(head["content-type"], body)
                fields = [("content-type", head["content-type"]), ("transfer-encoding", "chunked")]
                peer.send(http.send(h11.Response(status_code=200, headers=fields)) or b"")
                peer.send(http.send(h11.Data(data=message)) or b"")
                await self.go.wait()
                peer.send((http.send(h11.Data(data=trailers)) or b"") + (http.send(h11.EndOfMessage()) or b""))
                http.start_next_cycle()
                body = b""
            else:
                return

    async def serve2(self, peer: Peer2) -> None:
        while True:
            number = await peer.request()
            found = await peer.answer(number)
            self.asked.append(found.head)
            message, trailers = self.said(found.head["content-type"], found.body)
            peer.head(number, [(":status", "200"), ("content-type", found.head["content-type"])])
            peer.send(number, message)
            await self.go.wait()
            peer.send(number, trailers, True)


@contextlib.asynccontextmanager
async def server(web: Web, version: int) -> AsyncIterator[int]:
    if version == 1:
        async with tcp_server(web.serve1) as one:
            yield one.port
    else:
        async with Server2(web.serve2) as two:
            yield two.port


def proxy(laptop: int, shadow: int, version: int, **listener: Any) -> Any:
    """john's calls go to the laptop, all others to the shadow."""
    clusters = [
        {"name": name, "spec": {"protocol": "HTTP", "port": port, "http": version}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
        for name, port in (("laptop", laptop), ("shadow", shadow))
    ]
    match = {"matchHeader": {"name": "x-user", "value": "john"}}
    rules = [{"match": match, "action": {"route": {"destination": "laptop"}}}, {"action": {"route": {"destination": "shadow"}}}]
    spec = {"protocol": "HTTP", "port": 0, "address": "127.0.0.1"}
    return running(config(clusters=clusters, listeners=[{"name": "in", "spec": spec, "rules": rules, "options": listener}]))


async def call(port: int, version: int, kind: str, message: bytes, user: str = "", part: Any = None) -> tuple[dict[str, str], bytes]:
    """A call: the answer's head and content. part: called with each piece of content."""
    fields = [("content-type", kind), ("x-grpc-web", "1"), ("x-user", user)]
    body = written(kind, frame(message))
    if version == 2:
        async with client2(port) as client:
            number = client.ask(PATH, "POST", [*fields, ("te", "trailers")], end=False)
            client.send(number, body, True)
            found = client.streams[number]
            if part is not None:
                await client.until(lambda: found.body)
                part(found.body)
            await client.answer(number)
            return found.head, found.body
    async with tcp(port) as peer:
        http, came, head = h11.Connection(h11.CLIENT), b"", {}
        asked = h11.Request(method="POST", target=PATH, headers=[("host", "a"), *fields, ("content-length", str(len(body)))])
        peer.send((http.send(asked) or b"") + (http.send(h11.Data(data=body)) or b"") + (http.send(h11.EndOfMessage()) or b""))
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                http.receive_data(await asyncio.wait_for(peer.reader.read(65536), 5))
            elif isinstance(event, h11.Response):
                head = {":status": str(event.status_code), **{name.decode(): value.decode() for name, value in event.headers}}
            elif isinstance(event, h11.Data):
                came += event.data
                if part is not None:
                    part(came)
        return head, came


@TYPES
@DOWN
@UP
async def test_frames_pass_unchanged_by_matched_and_unmatched_routes(kind: str, down: int, up: int) -> None:
    john, all_others = Web("laptop"), Web("shadow")
    async with server(john, up) as laptop, server(all_others, up) as shadow, proxy(laptop, shadow, up) as running_proxy:
        for user, who in (("john", b"laptop"), ("jane", b"shadow"), ("", b"shadow")):
            head, body = await call(port_of(running_proxy, "in"), down, kind, b"\0\xff hello", user)
            assert (head[":status"], head["content-type"]) == ("200", kind)
            assert read(kind, body) == [(0, who + b": \0\xff hello"), (0x80, b"grpc-status:0\r\n")]
        assert [head["content-type"] for head in (*john.asked, *all_others.asked)] == [kind] * 3
        assert john.asked[0]["x-grpc-web"] == "1"


@TYPES
@DOWN
@UP
async def test_a_message_comes_before_its_stream_has_ended(kind: str, down: int, up: int) -> None:
    web = Web("shadow")
    web.go.clear()
    seen: list[bytes] = []

    def part(came: bytes) -> None:
        seen.append(came)
        web.go.set()

    async with server(web, up) as shadow, proxy(1, shadow, up) as running_proxy:
        _, body = await call(port_of(running_proxy, "in"), down, kind, b"hello", part=part)
        assert read(kind, seen[0]) == [(0, b"shadow: hello")] and len(read(kind, body)) == 2


@TYPES
@DOWN
@UP
async def test_nobody_there_is_said_in_its_form(kind: str, down: int, up: int) -> None:
    async with proxy(1, 1, up) as running_proxy:
        head, body = await call(port_of(running_proxy, "in"), down, kind, b"hello")
        assert (head[":status"], head["content-type"], head["grpc-status"], body) == ("200", kind, "14", b"")
        assert "127.0.0.1:1" in head["grpc-message"] and head["x-carrier-error"] == "refused"


async def test_a_message_that_is_too_large_is_resource_exhausted() -> None:
    async with server(Web("shadow"), 1) as shadow, proxy(1, shadow, 1, max_body=100) as running_proxy:
        head, _ = await call(port_of(running_proxy, "in"), 2, BYTES, b"x" * 200)
        assert head["grpc-status"] == "8" and "options.max_body" in head["grpc-message"]


@DOWN
async def test_what_is_none_of_it_gets_errors_of_http(down: int) -> None:
    async with proxy(1, 1, 1) as running_proxy:
        head, body = await call(port_of(running_proxy, "in"), down, "application/grpc-webby", b"hello")
        assert head[":status"] == "503" and "grpc-status" not in head and b"Connection refused" in body
