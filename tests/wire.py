"""A WebSocket client and server of frames: what tests say and hear is what is on the wire.

    async with websocket(port) as client:
        client.says(TEXT, b"hello")
        assert await client.hears() == (TEXT, b"hello")

It checks nothing that it is not asked to: it can break every rule of RFC 6455.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

from carrier.wire.frames import CLOSE, accept_key, build, close_payload, masked
from tests.support import Peer, TcpServer, tcp, tcp_server

Frame = tuple[int, bytes]
"""Opcode and unmasked payload; the first byte of a frame that is not final or has reserved bits, instead of the opcode."""


def frame(first: int, payload: bytes = b"", mask: bytes = b"mask", length: bytes | None = None) -> bytes:
    """One frame with any first byte; length: the length field with its mask bit instead of the right one."""
    whole = build(first & 0x0F, payload, mask)
    if length is not None:
        return bytes((first,)) + length + (mask + masked(payload, mask) if mask else payload)
    return bytes((first,)) + whole[1:]


class Wire:
    """One end of a WebSocket. masks: what we say is masked."""

    def __init__(self, peer: Peer, masks: bool) -> None:
        self.peer = peer
        self.masks = masks
        self.head = b""
        """What the other side said in the handshake."""

    def says(self, opcode: int, payload: bytes = b"", final: bool = True) -> None:
        self.raw(frame(opcode | (0x80 if final else 0), payload, os.urandom(4) if self.masks else b""))

    def closes(self, code: int, reason: str = "") -> None:
        self.says(CLOSE, close_payload(code, reason))

    def raw(self, data: bytes) -> None:
        self.peer.send(data)

    async def hears(self) -> Frame:
        """The next frame."""
        first, second = await self.peer.read(2)
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(await self.peer.read(2 if size == 126 else 8), "big")
        mask = await self.peer.read(4) if second & 0x80 else b""
        payload = await self.peer.read(size)
        return first & 0x0F if first & 0xF0 == 0x80 else first, masked(payload, mask) if mask else payload

    async def hears_close(self) -> tuple[int | None, str]:
        """The next frame is a close frame: its code and reason."""
        opcode, payload = await self.hears()
        assert opcode == CLOSE, (opcode, payload)
        return (int.from_bytes(payload[:2], "big"), payload[2:].decode()) if payload else (None, "")

    async def hears_end(self) -> None:
        """The connection ends, and nothing more came."""
        assert await self.peer.read_all() == b""


@contextlib.asynccontextmanager
async def websocket(port: int, path: str = "/", **headers: str) -> AsyncIterator[Wire]:
    """A client after its handshake; headers: further fields, "_" stands for "-"."""
    async with tcp(port) as peer:
        yield await shake(peer, path, **headers)


async def shake(peer: Peer, path: str = "/", **headers: str) -> Wire:
    """Do the client's handshake on a connection; it must succeed."""
    key = base64.b64encode(os.urandom(16))
    peer.send(request(path, key.decode(), **headers))
    wire = Wire(peer, True)
    wire.head = await asyncio.wait_for(peer.reader.readuntil(b"\r\n\r\n"), 5)
    assert wire.head.startswith(b"HTTP/1.1 101 "), wire.head
    assert accept_key(key) in wire.head
    return wire


def request(path: str = "/", key: str = "x3JJHMbDL1EzLkh9GBhXDw==", **headers: str) -> bytes:
    """An opening handshake; a header of the value "" is left out."""
    fields = {
        "host": "ws.example",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-key": key,
    }
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode()


def field(head: bytes, name: str) -> str | None:
    """A field of a head."""
    for line in head.decode("latin-1").split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name:
            return value.strip()
    return None


@contextlib.asynccontextmanager
async def websocket_server(serve: Callable[[Wire], Awaitable[None]] | None = None, *answer: str) -> AsyncIterator[WireServer]:
    """An upstream; answer: further lines of its 101."""
    found = WireServer(serve, answer)
    async with tcp_server(found.accepted) as server:
        found.server = server
        try:
            yield found
        finally:
            found.over.set()
            await asyncio.sleep(0)


class WireServer:
    """Upstream connections after their handshake, kept in `wires` for the test to play unless there is a `serve`."""

    server: TcpServer

    def __init__(self, serve: Callable[[Wire], Awaitable[None]] | None, answer: tuple[str, ...]) -> None:
        self.serve = serve
        self.answer = answer
        self.wires: asyncio.Queue[Wire] = asyncio.Queue()
        self.over = asyncio.Event()

    @property
    def port(self) -> int:
        return self.server.port

    async def accepted(self, peer: Peer) -> None:
        head = await peer.reader.readuntil(b"\r\n\r\n")
        lines = ["HTTP/1.1 101 Switching Protocols", "upgrade: websocket", "connection: upgrade", *self.answer]
        accept = accept_key((field(head, "sec-websocket-key") or "").encode()).decode()
        peer.send("\r\n".join([*lines, f"sec-websocket-accept: {accept}", "", ""]).encode())
        wire = Wire(peer, False)
        wire.head = head
        if self.serve is not None:
            await self.serve(wire)
            return
        self.wires.put_nowait(wire)
        await self.over.wait()

    async def wire(self) -> Wire:
        """The next connection."""
        return await asyncio.wait_for(self.wires.get(), 5)


async def echo_frames(wire: Wire) -> None:
    """Serve an echo of frames until a close frame, which is answered."""
    while True:
        opcode, payload = await wire.hears()
        wire.says(opcode, payload)
        if opcode == CLOSE:
            return
