"""How a request of HTTP/1.1 is answered: heads, chunks, the end of the connection, in as few writes as there are wake-ups."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from carrier.core.stream import DESTROYED, NOWHERE, Stream
from carrier.errors import Error
from carrier.wire.h1.chunked import LAST_CHUNK, chunk, last_chunk
from carrier.wire.h1.reader import RequestReader
from carrier.wire.h1.text import as_chunked, text_of, without_chunked, without_length
from carrier.wire.http import CHUNKED, CLOSE, NONE, Head
from listeners.http.request import Request

if TYPE_CHECKING:
    from listeners.http.routing import Port

RST = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset, so that a body that ends with its connection does not look complete."""
DISCARD = 256 * 1024
"""Bytes of a request that are read and dropped behind an early answer, so that its connection can go on."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Answering1(Request):
    """The half of a connection of HTTP/1.1 that writes; the one that reads is listeners/http/h1.py.

    out: pieces of this wake-up. chunked: the answer's body is framed in chunks. closing: no further request will be served. paused: nothing
    is read. quiet: between requests, and the reader has nothing: the memo may be asked. strained: since it last was quiet, more bytes came
    or a side was full.
    """

    __slots__ = ("bound_to", "chunked", "closing", "out", "paused", "quiet", "reader", "strained", "transport", "write")

    transport: asyncio.Transport
    write: Callable[[bytes], None]
    reader: RequestReader

    def __init__(self, listener: Port) -> None:
        super().__init__(listener)
        self.out: list[bytes] = []
        self.bound_to: Any = None
        self.chunked = self.closing = self.paused = self.strained = False
        self.quiet = True

    def bind(self, upstream: Any) -> bool:
        before, self.bound_to = self.bound_to, upstream
        if before is not None and before is not upstream and before.session is None:
            before.close()
        return True

    def _after(self, to: Stream) -> None:
        """What comes after an answer."""
        raise NotImplementedError

    # ------------------------------------------------------------------ heads and content

    def send_continue(self) -> None:
        self._write(CONTINUE)

    def send_interim(self, head: Head) -> None:
        if self.asked is not None and self.asked.version != "1.0":
            self._write(text_of(head))

    def send_switch(self, head: Head) -> None:
        self._write(text_of(head))
        if self.session is not None:
            self.session.source_done = False  # of the request only
        self.reader.tunnel()
        self.resume()

    def send_head(self, head: Head, more: bytes, last: bool) -> None:
        asked = self.asked
        assert asked is not None
        text = head.text or text_of(head)
        chunked = False
        if head.body >= CHUNKED and asked.method != b"HEAD":
            if asked.version != "1.0":
                chunked = True
                if head.body == CLOSE:
                    text = as_chunked(text)
            else:
                text = without_chunked(text)
                self.closing = True
        elif head.body == NONE and asked.method == b"HEAD":
            text = without_length(head)
        self.chunked = chunked
        if more:
            text = text[:-2] + more + b"\r\n"
        if not asked.keep_alive or self.closing or (not self.body_done and self._leaves(asked)):
            self.closing = True
            text = text[:-2] + b"connection: close\r\n\r\n"
        elif asked.version == "1.0":
            text = text[:-2] + b"connection: keep-alive\r\n\r\n"
        if last:
            if chunked:
                text += LAST_CHUNK
            self._finish(text)
        else:
            self.out.append(text)

    def _leaves(self, asked: Head) -> bool:
        """The answer is early. Is its client to be told that no other request is served here, because not all of this one may be read?"""
        if asked.expect and not self.body_bytes:
            return True  # it may, or may not, send the body that it was not asked for
        return asked.body == CHUNKED or asked.length - self.body_bytes > DISCARD

    def message(self, head: Head, body: bytes) -> None:
        session, asked = self.session, self.asked
        if session is None or asked is None:
            return
        if not (head.whole and session.on_lane and (asked.simple or asked.parting or self._is_read(asked))):
            super().message(head, body)
            return
        if self.closing and not asked.parting:
            super().message(head, body)
            return
        text = head.text or text_of(head)
        if self.listener.tells:
            text = text[:-2] + self.listener.told(session, head) + b"\r\n"
        if asked.parting:  # the codec may have read it, which leaves it to the answer to say so
            self.closing = True
            text = text[:-2] + b"connection: close\r\n\r\n"
        data = text + body
        self.session = None
        self.to = self.back = NOWHERE
        self.bytes_out += len(data)
        write = self.write  # a slot is faster to read than to call
        write(data)
        session.served(head)
        if self.strained:
            self._after(NOWHERE)
        else:
            self.since = self.listener.now
            self.quiet = True

    def _is_read(self, asked: Head) -> bool:
        """Has a request with a body been read, and may any whole answer follow it as it is?"""
        plain = asked.keep_alive and asked.version == "1.1" and not asked.upgrade and not asked.explain
        return self.body_done and plain and asked.method != b"HEAD"

    def send(self, data: bytes, last: bool) -> None:
        if self.tunnel:
            self._write(data)
            return
        if self.chunked:
            data = chunk(data)
        if not last:
            self.out.append(data)
            return
        if self.chunked:
            data += LAST_CHUNK
        out = self.out
        if out:
            out.append(data)
            data = b"".join(out)
            self.out = []
        self._finish(data)

    def send_end(self, trailer: Any) -> None:
        if self.chunked:
            self.out.append(last_chunk(trailer or ()))
        out, self.out = self.out, []
        self._finish(b"".join(out))

    def end_tunnel(self) -> None:
        self.flush()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        if self.session is not None and self.session.source_done:
            self._close()
        else:
            self.closing = True

    def flush(self) -> None:
        if self.out:
            out, self.out = self.out, []
            self._write(out[0] if len(out) == 1 else b"".join(out))

    def _write(self, data: bytes) -> None:
        transport = self.transport
        if not transport.is_closing():
            self.bytes_out += len(data)
            transport.write(data)

    def _finish(self, data: bytes) -> None:
        """The last bytes of an answer: the session ends, and the next request may begin."""
        session = self.session
        to = self.to
        self.session = None
        self.sent = False
        self.to = self.back = NOWHERE  # before writing, which may say that the transport is full: the upstream serves others by now
        transport = self.transport
        if data and not transport.is_closing():
            self.bytes_out += len(data)
            transport.write(data)
        if session is not None:
            session.close(session.error)
        self._after(to)

    # ------------------------------------------------------------------ ends

    def cut(self, error: Error) -> None:
        """Close so that the peer sees that something is missing."""
        self.out.clear()
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self.transport.is_closing():
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
            except OSError:
                pass  # the socket is beyond options; closing it says enough
        self.transport.abort()

    def _close(self) -> None:
        session = self.session
        if session is not None and session.status != DESTROYED:
            self.session = None
            session.close()
        if not self.transport.is_closing():
            self.transport.close()

    # ------------------------------------------------------------------ flow

    @property
    def held(self) -> bool:
        return self.paused

    def pause(self) -> None:
        if not self.paused and not self.transport.is_closing():
            self.paused = self.strained = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused and not (self.body_done and self.reader.held and self.reader.pending):
            self.paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def status(self) -> str:
        return "END" if self.transport.is_closing() else "READY"
