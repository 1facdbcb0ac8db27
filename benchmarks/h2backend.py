"""The backend's HTTP/2: a GET gets the server's name, a request with content is a call of gRPC and gets its message back.

It looks at no field, as it answers everybody alike; it is made to cost less than a proxy. What it answers goes through the dynamic table,
as a usual server's answers do: each field is said once in full on a connection, the date again when it has changed.
"""

import asyncio
import time
from email.utils import formatdate

from hpack import Encoder

from benchmarks.h2wire import (
    ACK,
    AMPLE,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    HELLO,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    TABLE,
    TABLE_SIZE,
    WINDOW,
    WINDOW_UPDATE,
    Frames,
    frame,
    settings,
)


class H2Server(asyncio.Protocol):
    """One connection."""

    def __init__(self, name: str, transport: asyncio.Transport):
        self.name, self.transport = name, transport
        self.body = b"answered by " + name.encode() + b"\n"
        self.frames = Frames()
        self.encoder = Encoder()
        self.second = 0
        self.known: dict[tuple[str, int], bytes] = {}  # blocks by content type and length, which say nothing new to the table
        self.messages: dict[int, list[bytes]] = {}  # of calls that have not ended
        self.window = WINDOW
        self.held: list[tuple[int, bytes, bool]] = []  # answers that wait for the window: stream, message, of a call
        self.taken = 0  # bytes whose window was not given back
        self.greeted = False

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        out = []
        if not self.greeted:
            if len(self.frames.buffer) + len(data) < len(PREFACE):
                self.frames.buffer += data
                return
            data, self.frames.buffer = (self.frames.buffer + data)[len(PREFACE) :], b""
            self.greeted = True
            out.append(HELLO)
        if time.time() - self.second >= 1:
            self.second = int(time.time())
            self.known.clear()
        for kind, flags, stream, payload in self.frames.feed(data):
            if kind == HEADERS:
                if flags & END_STREAM and stream not in self.messages:
                    self.answer(out, stream, self.body, False)
                elif flags & END_STREAM:
                    self.answer(out, stream, b"".join(self.messages.pop(stream)), True)
                else:
                    self.messages[stream] = []
            elif kind == DATA:
                self.content(out, flags, stream, payload)
            elif kind == SETTINGS and not flags & ACK:
                out.append(frame(SETTINGS, ACK, 0))
                self.encoder.header_table_size = min(TABLE, settings(payload).get(TABLE_SIZE, self.encoder.header_table_size))
                self.known.clear()
            elif kind == PING and not flags & ACK:
                out.append(frame(PING, ACK, 0, payload))
            elif kind == WINDOW_UPDATE and not stream:
                self.window += int.from_bytes(payload, "big")
                held, self.held = self.held, []
                for number, message, call in held:
                    self.answer(out, number, message, call)
            elif kind == RST_STREAM:
                self.messages.pop(stream, None)
        if out:
            self.transport.write(b"".join(out))

    def content(self, out: list[bytes], flags: int, stream: int, payload: bytes) -> None:
        """A part of a call's message, or all of it."""
        parts = self.messages.get(stream)
        self.taken += len(payload)
        if self.taken >= AMPLE // 2:
            out.append(frame(WINDOW_UPDATE, 0, 0, self.taken.to_bytes(4, "big")))
            self.taken = 0
        if parts is not None:
            parts.append(payload)
            if flags & END_STREAM:
                del self.messages[stream]
                self.answer(out, stream, b"".join(parts), True)

    def answer(self, out: list[bytes], stream: int, message: bytes, call: bool) -> None:
        """Say it, or keep it until there is window for it."""
        if len(message) > self.window:
            self.held.append((stream, message, call))
            return
        self.window -= len(message)
        kind = "application/grpc" if call else "text/plain"
        out.append(frame(HEADERS, END_HEADERS, stream, self.block(kind, 0 if call else len(message))))
        out.append(frame(DATA, 0 if call else END_STREAM, stream, message))
        if call:
            out.append(frame(HEADERS, END_HEADERS | END_STREAM, stream, self.block("", 0)))

    def block(self, kind: str, size: int) -> bytes:
        """The block of an answer's head, or of a call's trailers (`kind` is empty)."""
        known = self.known.get((kind, size))
        if known is not None:
            return known
        if kind:
            fields = [(":status", "200"), ("server", "backend"), ("date", formatdate(self.second, usegmt=True)), ("x-backend", self.name)]
            fields += [("content-type", kind), *([("content-length", str(size))] if size else [])]
        else:
            fields = [("grpc-status", "0")]
        made: bytes = self.encoder.encode(fields)
        if self.encoder.encode(fields) == made:
            self.known[kind, size] = made
        else:
            self.known.clear()  # the table has moved on
        return made
