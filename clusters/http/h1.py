"""One upstream connection of HTTP/1.1: idle in its endpoint's pool, or the destination of a session, one request at a time.

Its answer is read strictly (wire/h1/reader.py); after one that is wrong the connection is never used again. A kept-alive connection that
dies before it answered breaks with retry "if_reused": the session repeats a request once, if that may be done.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, cast

from carrier.core.address import UNACKNOWLEDGED, quiet_since
from carrier.core.stream import HIGH, NOWHERE
from carrier.errors import Error, from_os
from carrier.hops.bytesocket import GRACE
from carrier.wire.h1.chunked import chunk, last_chunk
from carrier.wire.h1.reader import AnswerReader
from carrier.wire.h1.text import text_of
from carrier.wire.http import CHUNKED, LENGTH, NONE, Fields, Head, authenticates_connections
from clusters.http.exchange import PATIENCE, Exchange, Shared, keeps, named

if TYPE_CHECKING:
    from carrier.core.endpoint import Endpoint
    from carrier.core.pool import Pool
    from carrier.core.session import Session
    from carrier.core.stream import Socket

SHORT = 4096
"""Bytes of an answer that is worth remembering whole."""
MISSES = 8
"""Straight misses of the memo after which a connection does not ask it for the next REST answers: they differ every time."""
REST = 4096
LAST_WORDS = 16
"""Pieces of what a server said before its connection broke that are still read."""
PIECE = 48 * 1024
"""Bytes of one read of an answer that is large, or of which nobody knows how large it is. Two are held for who does not read."""
LARGE = 64 * 1024
"""Bytes of an answer that may be read at once: of who does not read, one is held whole. Reading it in pieces costs half as much again."""


class Bulk(asyncio.BufferedProtocol):
    """Stands before an upstream that has begun a large answer, and reads it in small pieces: the loop's own reads are of 256 KiB, and of a
    slow downstream one whole piece is held. It stays for the connection's life."""

    buffer = memoryview(bytearray(PIECE))
    """One for all: what was read is copied out before the loop reads again."""

    def __init__(self, upstream: Upstream1) -> None:
        self.upstream = upstream

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, n: int) -> None:
        self.upstream.data_received(bytes(self.buffer[:n]))

    def eof_received(self) -> bool:
        return self.upstream.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.upstream.connection_lost(exc)

    def pause_writing(self) -> None:
        self.upstream.pause_writing()

    def resume_writing(self) -> None:
        self.upstream.resume_writing()


class Upstream1(Exchange, asyncio.Protocol):
    """One upstream connection, and the exchange on it.

    full: the transport holds enough of what the upstream does not read. bulk: large reads are taken in pieces. misses: heads in a row that
    the memo did not know. holder: the client that it was authenticated for, and serves from then on. quiet: since when its host
    acknowledges nothing.
    """

    __slots__ = ("bulk", "chunked", "full", "holder", "misses", "out", "paused", "place", "pool", "quiet", "reader", "transport", "write")

    transport: asyncio.Transport

    def __init__(self, shared: Shared, endpoint: Endpoint, pool: Pool) -> None:
        super().__init__(shared, endpoint)
        self.pool = pool
        self.holder: Socket | None = None
        self.misses = 0
        self.quiet = 0.0
        self.out: list[bytes] = []
        self.chunked = self.paused = self.full = self.bulk = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.reader = AnswerReader(self.shared.memo, self.shared.limits, self)
        self.write = self.transport.write
        peer = transport.get_extra_info("peername")
        self.place: str = peer[0] if isinstance(peer, tuple) else ""
        self.transport.set_write_buffer_limits(HIGH)
        self.shared.busy.add(self)
        self.pool.came()

    # ------------------------------------------------------------------ the request

    def head(self, head: Head, last: bool = False) -> None:
        session = self.session
        if session is None or not self.usable:
            self.gone()
            return
        if not session.on_lane:
            head = self.sent(head)
        if head.grpc:
            self.refuse_grpc()
            return
        if head.binds:
            self._hold(session)
        self.request = head
        wire = (head.stem or text_of(head)[:-2]) + session.fields
        if self.holder is not None:
            self._expect(head)  # so that it never is in the pool, not even between two calls
        if last:
            write = self.write  # a slot is faster to read than to call
            write(wire)
            return
        self.since = self.shared.now
        self.request_done = head.body == NONE
        self.chunked = head.body == CHUNKED
        self.out.append(wire)

    def _hold(self, session: Session) -> None:
        """It is this client's from now on."""
        if self.holder is None:
            self.holder = session.source
            self.holder.bind(self)

    def spared(self) -> None:
        self.session = None
        self.to = self.back = NOWHERE
        if self.holder is None and not self.pool.put(self):
            self.close()

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if self.tunnel and self.request_done:
            self._write(data)
            return
        if self.request_done and not self.makes_head():
            return
        if data:
            self.out.append(chunk(data) if self.chunked else data)
        if last:
            self.end()

    def end(self, trailer: Any = None) -> None:
        if self.tunnel and self.request_done:
            self.flush()
            if self.half:
                self._over()
            elif self.transport.can_write_eof() and not self.transport.is_closing():
                self.half = True
                self.transport.write_eof()
            return
        if self.request_done and not self.makes_head():
            return
        self.request_done = True
        self.since = self.shared.now
        if self.chunked:
            self.out.append(last_chunk(trailer or ()))
        self.flush()

    def flush(self) -> None:
        if self.out:
            out, self.out = self.out, []
            self._write(out[0] if len(out) == 1 else b"".join(out))

    def _write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    # ------------------------------------------------------------------ the answer

    def data_received(self, data: bytes) -> None:
        request = self.request
        if request is not None:
            if (request.simple or (self.request_done and request.method != b"HEAD")) and not self.plain:
                # most often one read is one whole answer with a known head
                shared = self.shared
                same, head, body = shared.known
                if data != same:
                    head, body = self._read_whole(data)
                session = self.session
                if head is not None and session is not None:
                    to = session.source if session.on_lane else self.to  # nothing stands between
                    self.request = self.session = None
                    self.to = self.back = NOWHERE
                    self.used = True
                    self.since = shared.now
                    pool = self.pool
                    if pool.roomy:  # free before the answer is passed on: a next request may take it
                        pool.idle.append(self)
                    elif not pool.put(self):
                        self.close()
                    if self.paused:
                        self.resume()
                    to.message(head, body)
                    return
            self._expect(request)
        session = self.session
        if session is None:  # bytes that nobody asked for
            self.usable = False
            self.pool.forget(self)
            self.transport.abort()
            return
        try:
            self.reader.feed(data)
        except Error as error:
            if not self.reader.heard:  # perhaps left over from the answer before: an empty line too many, a body behind HEAD
                error.retry = "if_reused"
            self.broken(named(self.endpoint, error))
            return
        if self.session is session:
            self.to.flush()

    def _read_whole(self, data: bytes) -> tuple[Head | None, bytes]:
        """The head and the body of a read that is one whole answer, if its head is known; else None: the codec has to look at it."""
        i = data.find(b"\r\n\r\n") + 4
        head = self._known(data[:i]) if i > 3 else None
        if head is None or not head.whole or len(data) != i + head.length:
            return None, b""
        body = data[i:]
        if len(data) <= SHORT and self.misses < MISSES:
            self.shared.known = data, head, body
        return head, body

    def _known(self, raw: bytes) -> Head | None:
        """A head, by the memo or by its shape; None: the codec has to look at it."""
        if self.misses >= MISSES or len(raw) > SHORT:
            self.misses += 1
            if self.misses > REST:
                self.misses = 0
            return self.shared.memo.like(raw)
        head = self.shared.memo.heads.get(raw)
        if head is not None:
            self.misses = 0
            return head
        self.misses += 1
        return self.shared.memo.like(raw, True)

    def _expect(self, request: Head) -> None:
        """The codec takes over: tell it what was asked."""
        self.request = None
        self.waiting = True
        self.reader.expect(request.method, request.upgrade)

    def _kept(self) -> bool:
        """Its holder has it, or the pool."""
        return self.holder.bound_to is self if self.holder is not None else self.pool.put(self)

    def on_head(self, head: Head) -> None:
        if not self.used and head.status >= 200:
            self.shared.keep = keeps(head.get(b"keep-alive"))
        if head.status == 401 and self.session is not None and authenticates_connections([head.get(b"www-authenticate") or b""]):
            self._hold(self.session)
        if head.status >= 200 and not head.tunnel and not self.plain and (head.body > LENGTH or head.length > LARGE) and not self.bulk:
            self._read_pieces()
        self.answered(head)

    def _read_pieces(self) -> None:
        self.bulk = True
        transport = self.transport
        if not transport.is_closing():
            transport.pause_reading()  # only a new start looks at the kind of protocol
            transport.set_protocol(Bulk(self))
            if not self.paused:
                transport.resume_reading()

    def on_data(self, data: bytes) -> None:
        self.to.data(data)

    def on_end(self, trailers: Fields) -> None:
        """The answer is complete: first free the connection, then pass the end on, so that a next request may take it."""
        to = self.to
        if self.tunnel:
            if self.half:
                self._over()
            self.half = True
            to.end()
            return
        done = self.request_done
        self.session = None
        self.to = self.back = NOWHERE
        self.used = True
        self.plain = False
        if not done or not self.reader.reusable or self.transport.is_closing() or not self._kept():
            self.close()
        else:
            self.since = self.shared.now
            if self.paused:
                self.resume()
        to.end(trailers or None)

    def _over(self) -> None:
        """Both directions of a tunnel have ended: close in order, when what is left to write is written, or GRACE seconds are over."""
        self.usable = False
        self.session = None
        self.to = self.back = NOWHERE
        waiting = self.transport.get_write_buffer_size()
        self.transport.close()
        if waiting:  # the peer may never read again
            asyncio.get_running_loop().call_later(GRACE, self.transport.abort)

    def eof_received(self) -> bool:
        """The upstream sends no more."""
        if self.session is None:
            self.usable = False
            self.pool.forget(self)
            return False
        if self.request is not None:
            self._expect(self.request)
        try:
            self.reader.finish()
        except Error as error:
            self.broken(named(self.endpoint, error))
            return False
        return self.tunnel and self.session is not None

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self.shared.busy.discard(self)
        self.pool.left(self)
        if isinstance(exc, OSError) and self.session is not None:
            self._last_words(isinstance(exc, BrokenPipeError))
        if self.session is None:
            self.reader.detach()
            return
        if isinstance(exc, OSError):
            error = from_os(exc, "upstream", self.endpoint.address)
        else:
            error = Error("closed", f"{self.endpoint.address}: the connection was closed", "upstream")
        if self.used and (self.waiting or self.request is not None):
            error.retry = "if_reused"
        self.broken(error)
        self.reader.detach()

    def _last_words(self, in_order: bool) -> None:
        """What it said before it would take no more, and the event loop has not read: an early answer (413), as a rule, and then a close
        that became a reset, because the request was not read to its end. in_order: the end came before the reset (tcp(7): EPIPE)."""
        sock = self.transport.get_extra_info("socket")
        if sock is None or self.transport.get_extra_info("ssl_object") is not None:  # TLS reads them itself (carrier/hops/tls.py)
            return
        if self.request is not None:
            self._expect(self.request)  # and never back to the pool
        for _ in range(LAST_WORDS):
            try:
                data = os.read(sock.fileno(), PIECE)
            except OSError:
                return
            if not data and in_order:
                self.eof_received()
            elif data and self.session is not None:
                self.data_received(data)
            if not data or self.session is None:
                return

    # ------------------------------------------------------------------ ends

    def tick(self, now: float) -> None:
        if self.session is None or now - self._waits_since() < PATIENCE:
            self.quiet = 0.0
        else:
            self.quiet = quiet_since(self.transport.get_extra_info("socket"), self.quiet, now)
            if self.quiet and now - self.quiet >= UNACKNOWLEDGED:
                detail = f"{self.endpoint.address}: its host has acknowledged nothing for {UNACKNOWLEDGED:g} s"
                self.broken(Error("timeout", detail, "upstream", "if_reused" if self.waiting or self.request is not None else "no"))
                return
        super().tick(now)

    def close(self) -> None:
        super().close()
        self.out.clear()
        self.reader.stop()
        transport = self.transport
        if transport.is_closing():
            return
        if transport.get_extra_info("ssl_object") is not None and not transport.get_write_buffer_size():
            transport.close()  # says close_notify, without which servers log an error (RFC 8446 section 6.1)
        else:
            transport.abort()

    # ------------------------------------------------------------------ flow

    def pause(self) -> None:
        if not self.paused and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def pause_writing(self) -> None:
        self.full = True
        self.back.pause()

    def resume_writing(self) -> None:
        self.full = False
        self.back.resume()

    def status(self) -> str:
        return "END" if self.transport.is_closing() else "READY"
