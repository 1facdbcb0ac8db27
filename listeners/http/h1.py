"""One downstream connection of HTTP/1.1: the source of its sessions, one after the other.

The hot path: one read that is exactly one known head without a body (the memo) becomes a session with a memoised decision, and goes to
an idle upstream connection, all in this wake-up: no task, no future, no timer. Everything else goes through the codec
(wire/h1/reader.py), which calls `on_head`, `on_data`, `on_end`. Requests of one connection are served in order: what comes early waits,
bounded. An answer's pieces of one wake-up leave in one write. Deadlines are looked at once a second (`tick`).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from carrier.core.address import is_loopback, plain
from carrier.core.ledger import refused
from carrier.core.room import IDLE, PATIENCE, UNFINISHED, YOUNG
from carrier.core.session import Session, blank
from carrier.core.stream import DESTROYED, HIGH, NOWHERE, Socket, Stream
from carrier.errors import Error
from carrier.hops.certificates import describe
from carrier.wire.forwarding import make_id, trusts
from carrier.wire.frames import ANY_RSV, Scanner
from carrier.wire.h1 import reader as http1
from carrier.wire.http import CHUNKED, CLOSE, LENGTH, NONE, Fields, Head
from carrier.wire.making import date_field
from listeners.http.answers import answer_fields, error_answer, fine, misdirected

if TYPE_CHECKING:
    from listeners.http.listener import HttpListener

MISSES = 8
"""Straight misses of the memo after which a connection asks for shapes only: its heads differ every time. It begins anew with its ids."""
IDS = 4096
TAILS = [b"%03x\r\n\r\n" % number for number in range(IDS)]
"""The ends of request ids, and of the heads that they end."""
HEAD_MAX = 4096
"""Bytes of a read that may be a known head: longer ones are not hashed."""
DISCARD = 256 * 1024
"""Bytes of a request body that are read and dropped after an early answer, to keep the connection."""
LINGER = 2.0
"""Seconds to let a client read its answer when its request will not be read to the end."""
FLUSH = 30.0
"""Seconds that a closed connection's last bytes may take to be sent."""
RST = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset, so that a body that ends with its connection does not look complete."""
GOING_AWAY = b"\x88\x02\x03\xe9"
"""A WebSocket close frame with code 1001."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpConnection(Socket, asyncio.Protocol):
    """One downstream connection. Between requests `session` is None.

    sent: the answer's final head was written or waits in `out`. chunked: the answer's body is framed in chunks. body_done: the
    request was read to its end. closing: no further request will be served. since: monotonic seconds (coarse) at which the present
    state began: accepted, idle, reading a head, reading a body, waiting for the answer. full: the transport holds enough of what the
    downstream does not read; no further request is begun then. quiet: between requests, and the reader has nothing: the memo may be
    asked. strained: since it last was quiet, more bytes came or a side was full. spare: the last session, for `Session.begin_again`.
    ask: what knows heads, misses: how often in a row it did not, missed: the `number` of the last time.
    special: what is added to a request depends on more than the connection. frames: where the frames of a WebSocket in a tunnel begin
    that the downstream gets; departing: it is to be told that the process ends. client: the peer as the access log writes it, which keeps
    that here.
    """

    __slots__ = (
        "ask",
        "body_bytes",
        "body_done",
        "chunked",
        "client",
        "closing",
        "departing",
        "discard",
        "fields",
        "fields_and_id",
        "frames",
        "full",
        "listener",
        "local",
        "missed",
        "misses",
        "number",
        "out",
        "paused",
        "peer",
        "quiet",
        "reader",
        "refusal",
        "request",
        "seen",
        "sent",
        "since",
        "spare",
        "special",
        "strained",
        "transport",
        "trusted",
        "tunnel",
        "write",
    )

    session: Session | None
    ask: Callable[[bytes], Head | None]
    transport: asyncio.Transport

    def __init__(self, listener: HttpListener) -> None:
        super().__init__()
        self.listener = listener
        self.request: Head | None = None
        self.out: list[bytes] = []
        self.sent = self.chunked = self.closing = self.paused = self.tunnel = self.trusted = self.full = False
        self.body_done = self.quiet = True
        self.strained = False
        self.frames: Scanner | None = None
        self.departing = False
        self.discard = 0
        self.body_bytes = 0
        self.missed = 0
        self.refusal: Error | None = None
        self.spare: Session | None = None
        self.since = listener.env.loop.time()
        self.seen = 0
        self.client = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        listener = self.listener
        peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        self.peer = (plain(peer[0]), peer[1]) if isinstance(peer, tuple) else ("", 0)
        self.local = (plain(local[0]), local[1]) if isinstance(local, tuple) else (str(local), 0)
        self.trusted = bool(listener.networks) and trusts(listener.networks, self.peer[0])
        self.fields = b"x-forwarded-for: " + self.peer[0].encode() + b"\r\n" if self.peer[0] else b""
        self.number = self._new_ids()
        self.reader = http1.RequestReader(listener.memo, listener.limits, self)
        tls = listener.certificates
        self.special = self.trusted or listener.forwarded or (tls is not None and tls.guarded)
        self.learn()
        self.write = self.transport.write
        self.transport.set_write_buffer_limits(HIGH)
        self.closing = listener.leaving
        full = 0 < listener.max_connections <= len(listener.connections) and not listener.make_room()
        listener.connections.add(self)
        if full:
            listener.hit("max_connections")
            self._refuse(Error("overload", f"more than {listener.max_connections:g} connections (options.max_connections)"))

    def learn(self) -> None:
        """The listener's routing has changed: from the next request on, ask the new memo."""
        listener = self.listener
        self.reader.memo = listener.trusted_memo if self.trusted else listener.memo
        self.spare = None  # it knows the old routes
        self._ask_memo()

    def _ask_memo(self) -> None:
        """Look for whole heads first."""
        self.ask = self.reader.memo.heads.get
        self.misses = 0

    # ------------------------------------------------------------------ what the downstream sends

    def data_received(self, data: bytes) -> None:
        size = len(data)
        self.bytes_in += size
        if self.quiet and size <= HEAD_MAX:
            head = self.ask(data) or self._missed(data)
            if head is not None and head.simple:
                self._begin(head, True)
                return
        if self.quiet and self._whole(data):
            return
        reader = self.reader
        if self.session is None:
            if not reader.pending:
                self.since = max(self.since, self.listener.now)  # a new connection is not older than it is
        elif self.body_done and not self.tunnel:
            reader.held = True  # the reader does not know of a request that the memo knew
        self.quiet = False
        self.strained = True
        try:
            reader.feed(data)
        except Error as error:
            self._refuse(error)
            return
        if self.session is not None:
            if reader.held and reader.pending:
                self.pause()
            self.to.flush()
        else:
            self._rest()

    def _whole(self, data: bytes) -> bool:
        """If a read is one known head and all of its body, it is served without the codec."""
        end = data.find(b"\r\n\r\n", 0, HEAD_MAX) + 4
        body = len(data) - end
        if end == 3 or not body:
            return False
        raw = data[:end]
        head = self.ask(raw) or self._missed(raw)
        if head is None or head.body != LENGTH or head.length != body or not head.keep_alive or head.minor != 1:
            return False
        most = self.listener.limits.body
        if head.expect or head.upgrade or head.explain or head.method == b"CONNECT" or 0 < most < body:
            return False
        self._begin(head, False)
        session = self.session
        if session is not None:
            session.source_done = True
            self.to.data(data[end:], None, True)
        return True

    def _missed(self, data: bytes) -> Head | None:
        """The head that a read is, by its shape; None: the codec has to look at it."""
        if self.misses >= MISSES:  # so it was the shapes that did not know it
            return None
        if self.number - self.missed > 1:
            self.misses = 0
        self.missed = self.number
        self.misses += 1
        like = self.reader.memo.like
        if self.misses == MISSES:
            self.ask = like
        return like(data, True)

    def on_head(self, head: Head) -> None:
        """The codec has read a request's head."""
        reader = self.reader
        reader.held = True
        self.body_done = head.body == NONE
        self.body_bytes = 0
        self.since = self.listener.now
        if head.method == b"CONNECT":  # a reverse proxy leads to its clusters, not to where the client says (RFC 9110 section 9.3.6)
            self.body_done = True
            self._refuse(Error("not-implemented", "CONNECT is not served here", "downstream"), head.raw)
            return
        self._begin(head, self.body_done)
        if head.expect and self.session is not None and self.session.fallback is None:
            cluster = self.session.decision.cluster
            if cluster is not None:
                self._go_ahead(cluster.kind == "message")

    def falls_back(self, reads_heads: bool) -> None:
        """The fallback serves: a client that waits for leave to send its body has not been given it by a server that was not there."""
        if self.request is not None and self.request.expect and not self.body_done and not self.body_bytes:
            self._go_ahead(reads_heads)

    def _go_ahead(self, reads_heads: bool) -> None:
        """Say 100 Continue (RFC 9110 section 10.1.1) where nobody behind the cluster would say so."""
        if not reads_heads and not self.sent:
            self._write(CONTINUE)

    def _begin(self, head: Head, last: bool) -> None:
        """Start the session of a request."""
        listener = self.listener
        self.request = head
        self.quiet = False
        decision, onward = head.decision or listener.route(self, head)
        onward = onward or head
        if self.special:
            if self._misdirected(head):
                return
            profile = listener.trusting if self.trusted else listener.profile
            fields = profile.extra(head, self.peer[0].encode(), make_id()) + b"\r\n"
        elif head.named:
            fields = self.fields + b"\r\n"
        else:
            number = self.number
            if number == IDS:
                number = self._new_ids()
                self._ask_memo()
            self.number = number + 1
            fields = self.fields_and_id + TAILS[number]
        spare = self.spare
        if spare is None or not spare.usual:
            self.spare = spare = blank(listener, self)
        if not spare.begin_again(decision, onward, last, fields):
            session = Session(listener, self)
            session.fields = fields
            session.begin(decision, onward, last)

    def _misdirected(self, head: Head) -> bool:
        """Refuse a request for a name that demands a client certificate which this connection's handshake did not ask for."""
        tls = self.listener.certificates
        if tls is None or not tls.misdirected(self.transport.get_extra_info("ssl_object"), head.host.decode("latin-1")):
            return False
        self.body_done = True
        self._refuse(misdirected(head.host), head.raw)
        return True

    def _new_ids(self) -> int:
        """The first part of the ids of the next IDS requests; returns the first number."""
        self.fields_and_id = self.fields + b"x-request-id: " + make_id()[:29]
        return 0

    def on_data(self, data: bytes) -> None:
        """The codec has read a piece of the request's body, or of a tunnel."""
        if self.session is not None:
            self.body_bytes += len(data)
            self.to.data(data)
        elif self.discard:
            self.discard -= len(data)
            if self.discard <= 0:
                self._linger()

    def on_end(self, trailers: Fields) -> None:
        """The codec has read the request to its end."""
        if self.tunnel:
            self._ended()
            return
        if self.body_done:
            return
        self.body_done = True
        self.since = self.listener.now
        if self.session is not None:
            self.session.source_done = True
            self.to.end(trailers or None)
        elif not self.closing and not self.full:
            self.discard = 0
            self.reader.held = False

    def eof_received(self) -> bool:
        """The downstream has half-closed: what it asked for is still served (RFC 9112 section 9.6)."""
        try:
            self.reader.finish()
        except Error:
            return False
        if self.session is None:
            return False
        self.closing = True
        return True

    def _ended(self) -> None:
        """A tunnel's downstream sends no more."""
        session = self.session
        if session is not None:
            session.source_done = True
            self.to.end()
            if self.closing:
                self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.listener.connections.discard(self)
        session, to = self.session, self.to
        self.detach()
        self.reader.detach()
        self.spare = None
        if session is not None:
            error = Error("reset", "the downstream closed the connection", "downstream")
            session.close(error)
            to.reset(error)

    # ------------------------------------------------------------------ what the upstream answers

    def head(self, head: Head, last: bool = False) -> None:
        request = self.request
        if self.session is None or request is None or self.sent:
            return
        status = head.status
        if status < 200:
            self._interim(head)
            return
        self.sent = True
        session = self.session
        if session is not None:
            session.answer = head
            if session.hops:  # a transform may change the length
                head = head.as_chunked()
        wire = head.wire
        chunked = False
        if head.body >= CHUNKED:
            if request.method == b"HEAD":
                last = True
            elif request.minor:
                chunked = True
                if head.body == CLOSE:
                    wire = wire[:-2] + b"transfer-encoding: chunked\r\n\r\n"
            else:
                wire = head.wire_without_chunked
                self.closing = True
        self.chunked = chunked
        if session is not None and session.fallback is not None:
            wire = b"%bx-carrier-fallback: %b\r\n\r\n" % (wire[:-2], session.fallback.encode())
        if request.explain and session is not None and self._may_ask(request):
            wire = wire[:-2] + answer_fields(session) + b"\r\n"
        if not request.keep_alive or self.closing or (request.expect and not self.body_done and not self.body_bytes):
            self.closing = True  # also when the client may, or may not, send the body that it was not asked for
            wire = wire[:-2] + b"connection: close\r\n\r\n"
        elif not request.minor:
            wire = wire[:-2] + b"connection: keep-alive\r\n\r\n"
        if last:
            if chunked:
                wire += http1.LAST_CHUNK
            self._finish(wire)
        else:
            self.out.append(wire)

    def _may_ask(self, request: Head) -> bool:
        """Is this peer to be told why? Who is on this machine, unless as a proxy for somebody else, and who is in `options.explain`."""
        host = self.peer[0]
        if self.listener.explained and trusts(self.listener.explained, host):
            return True
        passed_on = any(request.get(name) is not None for name in (b"x-forwarded-for", b"forwarded", b"via"))
        return (not host or is_loopback(host)) and not passed_on

    def _interim(self, head: Head) -> None:
        request = self.request
        assert request is not None
        if head.status == 101:
            self._write(head.wire)
            self.sent = self.tunnel = True
            if head.upgrade == b"websocket":
                self.frames = Scanner(False, 1 << 62, ANY_RSV)
            if self.session is not None:
                self.session.answer = head
                self.session.event("UPGRADE", (head.upgrade or b"").decode("latin-1"))
            self.reader.tunnel()
            self.resume()
        elif request.minor:
            self._write(head.wire)

    def _is_read(self, request: Head) -> bool:
        """Has a request with a body been read, and may any whole answer follow it as it is?"""
        plain = request.keep_alive and request.minor == 1 and not request.upgrade and not request.explain
        return self.body_done and plain and request.method != b"HEAD"

    def message(self, head: Head, body: bytes) -> None:
        session, request = self.session, self.request
        if session is None or request is None:
            return
        if not (head.whole and session.usual and (request.simple or self._is_read(request))) or self.closing:
            super().message(head, body)
            return
        self.session = None
        self.to = self.back = NOWHERE
        data = head.wire + body
        self.bytes_out += len(data)
        write = self.write  # a slot is faster to read than to call
        write(data)
        session.served(head)
        if self.strained:
            self._after(NOWHERE)
        else:
            self.since = self.listener.now
            self.quiet = True

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if self.session is None or self.request is None:
            return
        if not self.sent:
            self.head(fine(date_field()))
        if self.tunnel:
            self._write(data)
            if self.frames is not None:
                self.frames.feed(data)
                if self.departing:
                    self._say_goodbye()
            return
        if self.request.method == b"HEAD":
            if last:
                self.end()
            return
        if data:
            if self.chunked:
                data = http1.chunk(data)
            if last:
                if self.chunked:
                    data += http1.LAST_CHUNK
                out = self.out
                if out:
                    out.append(data)
                    data = b"".join(out)
                    self.out = []
                self._finish(data)
            else:
                self.out.append(data)
        elif last:
            self.end()

    def end(self, trailer: Any = None) -> None:
        if self.session is None:
            return
        if self.tunnel:
            self.flush()
            if self.transport.can_write_eof() and not self.transport.is_closing():
                self.transport.write_eof()
            if self.session is not None and self.session.source_done:
                self._close()
            else:
                self.closing = True
            return
        if not self.sent:
            self.head(fine(date_field()), False)
        if self.chunked:
            self.out.append(http1.last_chunk(trailer or ()))
        out, self.out = self.out, []
        self._finish(b"".join(out))

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

    def _after(self, to: Stream) -> None:
        """What comes after an answer: the next request, the rest of this one, or the end."""
        self.since = self.listener.now
        if self.refusal is not None:
            self._refuse(self.refusal)
        elif not self.body_done:
            self._early(to)
        elif self.closing:
            self._close()
        elif not self.full:
            self._next()

    def _next(self) -> None:
        """Go on with what has come meanwhile."""
        reader = self.reader
        reader.held = False
        if self.paused:
            self.resume()
        if reader.pending:
            try:
                reader.resume()
            except Error as error:
                self._refuse(error)
        if self.session is None:
            self._rest()

    def _rest(self) -> None:
        """Nothing is being served: may the memo be asked for what comes next?"""
        self.quiet = self.reader.idle and not self.closing and not self.full and not self.paused
        self.strained = not self.quiet

    def _early(self, to: Stream) -> None:
        """The answer is out before the request was read: drop the rest of the request, or close if that is too much of it."""
        to.reset(Error("closed", "answered before the request was read", "upstream"))
        if self.closing:
            self._linger()
            return
        self.discard = DISCARD
        if self.paused:
            self.resume()

    # ------------------------------------------------------------------ ends

    def reset(self, error: Error) -> None:
        """The session failed: say so in HTTP if nothing was said yet, else cut, so that no half of an answer passes as a whole."""
        if self.session is None:
            return
        if self.sent:
            self.session, session = None, self.session
            self.out.clear()
            if session is not None:
                session.close(error)
            self._cut()
            return
        head, body = error_answer(error)
        self.head(head)
        self.data(body, None, True)

    def _cut(self) -> None:
        """Close so that the peer sees that something is missing."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self.transport.is_closing():
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
            except OSError:
                pass  # the socket is beyond options; closing it says enough
        self.transport.abort()

    def stop(self, error: Error | None = None) -> None:
        """The destination takes no more of the request; what it has answered, or will, still counts."""
        if error is not None and not self.sent:
            self.reset(error)

    def _refuse(self, error: Error, begun: bytes = b"") -> None:
        """A request that the codec will not take, or a connection beyond a limit: answer in turn, and close. `begun`: its first bytes, if
        the reader has done with them."""
        if self.tunnel or self.transport.is_closing():
            self.transport.abort()
            return
        if self.session is not None and not self.body_done:
            self.closing = True  # the request that is being served is itself broken
            self.refusal = None
            self.body_done = True
            to, session = self.to, self.session
            if self.sent:
                self.reset(error)
            else:
                self.session = None
                self.to = self.back = NOWHERE
                session.answer = self._say(error)
                session.close(error)
                to.reset(error)
                self._linger()
            return
        if self.session is not None:
            self.refusal = error
            return
        self._turn_away(error, begun)
        self._linger()

    def _turn_away(self, error: Error, begun: bytes = b"") -> None:
        """Answer what became no session, and tell the ledger of it, because no session will."""
        begun = begun or self.reader.begun
        self._say(error)
        refused(self.listener, self, begun, error, self.since)

    def _say(self, error: Error) -> Head:
        """Answer with an error, as the last thing that is said; returns the head of it."""
        self.refusal = None
        self.closing = True
        self.reader.stop()
        self.listener.hit(error.kind)
        head, body = error_answer(error)
        self.out.clear()
        self._write(head.wire[:-2] + b"connection: close\r\n\r\n" + body)
        return head

    def standing(self, now: float) -> tuple[int, float] | None:
        """See `Occupant` of carrier/core/room.py."""
        if self.session is not None or self.transport.is_closing():
            return None
        if self.closing:
            return IDLE, self.since  # it lingers, after its last answer
        if self.request is not None and not self.reader.pending and not self.discard:
            return IDLE, self.since
        return (UNFINISHED if now - self.since >= PATIENCE else YOUNG), self.since

    def give_way(self) -> None:
        """Its place is needed. A head that was begun is answered; a client that keeps an idle connection expects that it may close."""
        if self.reader.pending and not self.closing:
            self.listener.hit("max_connections_unfinished")
            self._turn_away(Error("overload", "no whole head, and its place was needed: there are too many connections"))
        else:
            self.listener.hit("max_connections_idle")
        if self.full or self.listener.tls is not None:  # TLS would wait for the peer to say goodbye too, and keep the descriptor
            self.transport.abort()
        else:
            self._close()

    def depart(self) -> None:
        """The process ends: a WebSocket in a tunnel is told so, code 1001, as soon as no frame is half sent (RFC 6455 section 7.4.1)."""
        if self.frames is not None:
            self.departing = True
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        frames, session = self.frames, self.session
        if session is None or frames is None or frames.at or frames.part or frames.over:
            return
        self._write(GOING_AWAY)
        error = Error("drain", "the proxy ends")
        self.session = None
        to, self.to, self.back = self.to, NOWHERE, NOWHERE
        session.close(error)
        to.reset(error)
        self._linger()

    def leave(self) -> None:
        """The listener is gone: close now if idle, else after the present answer."""
        self.closing = True
        if self.session is None and not self.reader.pending:
            self._close()

    def _linger(self) -> None:
        """Close without losing the answer: a client that is still sending would see a reset before it reads it (RFC 9112 section 9.6)."""
        self.closing = True
        self.quiet = False
        self.reader.stop()
        self.discard = 0
        if self.paused:
            self.resume()
        self.since = self.listener.now
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()  # `tick` closes
        else:
            self._close()

    def _close(self) -> None:
        session = self.session
        if session is not None and session.status != DESTROYED:
            self.session = None
            session.close()
        if not self.transport.is_closing():
            self.transport.close()

    def tick(self, now: float) -> None:
        """Deadlines, once a second."""
        if self.session is None:
            self._tick_between(now - self.since)
        elif self.tunnel:
            return
        elif not self.body_done:
            self._tick_body(now)
        else:
            self._tick_idle(now)

    def _tick_between(self, waited: float) -> None:
        """No request is being served: one is being read, dropped or waited for, or the connection ends."""
        listener = self.listener
        if self.transport.is_closing():
            if waited >= FLUSH:
                self.transport.abort()
        elif self.closing or self.discard:
            if waited >= LINGER:
                self._close()
        elif self.reader.pending and not self.full:
            if waited >= listener.header_timeout > 0:
                listener.hit("header_timeout")
                self._refuse(
                    Error("request-timeout", f"no whole head within {listener.header_timeout:g} s (options.header_timeout)", "downstream")
                )
        elif self.request is None and waited >= listener.header_timeout > 0:
            listener.hit("header_timeout")
            self._close()  # it never said a word: it did not ask for an answer
        elif waited >= listener.keepalive_timeout > 0:
            self._close()

    def _tick_body(self, now: float) -> None:
        listener = self.listener
        if self.paused:  # it may not send: that is not its fault
            self.since = max(self.since, now - listener.body_grace)
            return
        late = now - self.since - listener.body_grace
        if late > 0 and self.body_bytes < late * listener.body_min_rate:
            listener.hit("body_min_rate")
            self._refuse(
                Error("request-timeout", f"the body comes slower than {listener.body_min_rate:g} B/s (options.body_min_rate)", "downstream")
            )

    def _tick_idle(self, now: float) -> None:
        listener = self.listener
        moved = self.bytes_in + self.bytes_out
        if moved != self.seen:
            self.seen = moved
            self.since = now
        elif now - self.since >= listener.idle_timeout > 0:
            listener.hit("idle_timeout")
            error = Error("timeout", f"nothing moved for {listener.idle_timeout:g} s (options.idle_timeout)")
            to = self.to
            self.reset(error)
            to.reset(error)

    # ------------------------------------------------------------------ flow

    def pause(self) -> None:
        if not self.paused and not self.transport.is_closing():
            self.paused = self.strained = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused and not (self.body_done and self.reader.held and self.reader.pending):
            self.paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def pause_writing(self) -> None:
        self.full = self.strained = True
        self.back.pause()

    def resume_writing(self) -> None:
        self.full = False
        if self.session is not None:
            self.back.resume()
        elif self.body_done and not self.closing:
            self._next()

    def status(self) -> str:
        return "END" if self.transport.is_closing() else "READY"

    def metadata(self, head: Head | None) -> dict[str, Any]:
        """The session's metadata as l7mp lays it out, without its name."""
        found = {
            "IP": {"src_addr": self.peer[0], "dst_addr": self.local[0]},
            "TCP": {"src_port": self.peer[1], "dst_port": self.local[1]},
            "HTTP": head.metadata() if head is not None else {},
        }
        tls = self.transport.get_extra_info("ssl_object")
        if tls is not None:
            found["TLS"] = describe(tls)
        return found
