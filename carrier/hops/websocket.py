"""A WebSocket connection as a hop: what the listener's and the cluster's ends share, after the handshake (RFC 6455 sections 5 to 8).

Every read passes a `Scanner` (wire/frames.py), which holds the limits and finds the close frame. Then an end works in one of two ways:
- raw: the other end of the session speaks WebSocket too, both agreed on the same extensions and subprotocol, and nothing stands
  between. Then bytes go on as they came, masks, fragments, compression, pings and close frame included: a client's masked frame is
  what a server wants. A busy connection of which each read is one small message is read by a shortcut (`carrier/hops/bytesocket.py`).
- messages: wsproto puts frames together and checks UTF-8; each message is one `data()`, its `kind` TEXT or BINARY; pings are answered
  here; a close frame is `end(Closing)`. From a hop that is no WebSocket each `data()` is one binary message, and its end is code 1000.

A peer that breaks the rules is told so (1002, 1007, 1009) and the session fails. What fails behind us is told with a code as well:
`closing_of`. A peer that is silent is pinged, and given up when it does not answer (`tick`).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, MutableSet
from os import read, write
from typing import TYPE_CHECKING, Any

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from carrier.core.stream import NOWHERE, Stream
from carrier.errors import Error, Side, from_os
from carrier.hops.bytesocket import LAST_WORDS, READ, ByteSocket
from carrier.wire.frames import (
    ANY_RSV,
    BINARY,
    CLOSE,
    DEFLATE_RSV,
    MAX_MESSAGE,
    NO_CODE,
    PING,
    PONG,
    TEXT,
    TOO_BIG,
    Closing,
    Scanner,
    build,
    close_payload,
)

if TYPE_CHECKING:
    from carrier.wire.http import Head

OPTIONS: Mapping[str, float] = {
    "max_message": MAX_MESSAGE,
    "max_frame": MAX_MESSAGE,
    "ping_interval": 30,
    "ping_timeout": 30,
    "close_timeout": 5,
}
"""Limits of both ends (bytes, seconds; 0 for none) and their defaults (DESIGN section 7). max_message, max_frame: compressed ones as
they come. ping_interval: silence after which a peer is pinged; ping_timeout: what it has to answer. close_timeout: between the two close
frames, and until the connection is closed."""
NO_LIMIT = 1 << 63
LINGER = 2.0
"""Seconds that a peer whose session has failed gets to read why."""
NORMAL, GOING_AWAY, INTERNAL, TRY_LATER, BAD_GATEWAY = 1000, 1001, 1011, 1013, 1014


class Violation(Error):
    """A peer broke the protocol or a limit; code: what its connection is closed with."""

    def __init__(self, code: int, reason: str, side: Side) -> None:
        super().__init__("body-too-large" if code == TOO_BIG else "protocol-error", reason, side)
        self.code = code


def closing_of(error: Error) -> Closing:
    """How a WebSocket peer is told of an error. Without a route it is told nothing, as by l7mp (contract, section 3): code 1005."""
    if isinstance(error, Violation):
        return Closing(error.code, error.detail)
    if error.kind == "no-route":
        return Closing(NO_CODE, "")
    if error.kind in ("killed", "drain") or error.side == "downstream":
        return Closing(GOING_AWAY, error.detail)
    return Closing(TRY_LATER if error.status == 503 else INTERNAL, error.detail)


def reserved_bits(extensions: bytes | None) -> int:
    """The reserved bits that a Sec-WebSocket-Extensions of an answer allows in frames."""
    names = [part.partition(b";")[0].strip().lower() for part in (extensions or b"").split(b",")]
    used = {name for name in names if name}
    if not used:
        return 0
    return DEFLATE_RSV if used == {b"permessage-deflate"} else ANY_RSV


class WebSocketEnd(ByteSocket):
    """See the module. client: we are the client of this connection, so what we send is masked and what comes is not.

    raw: bytes go on as they are. inward, outward: the scans of what comes and, when raw, of what is sent: the other end's, or our own if
    that end is no WebSocketEnd (`scans`). messages: wsproto, unless raw, once it was needed. close_got, close_sent: close frames so
    far. gone: the session is over and this connection only waits to be closed. seen, best, since, pinged: bytes read, and taken by the
    peer, at the last tick that saw some, when that was (monotonic seconds), and whether we have asked since. limits: see OPTIONS. ends:
    where its owner keeps it.
    """

    __slots__ = (
        "best",
        "client",
        "close_got",
        "close_sent",
        "early",
        "ends",
        "gone",
        "inward",
        "limits",
        "messages",
        "outward",
        "parts",
        "pinged",
        "raw",
        "scans",
        "seen",
        "since",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, side: Side, limits: Mapping[str, float], ends: MutableSet[WebSocketEnd]
    ) -> None:
        super().__init__(loop, sock, side)
        self.client = side == "upstream"
        self.limits = limits
        self.raw = self.scans = self.gone = self.close_got = self.close_sent = self.pinged = False
        self.got = self.inward = self._scanner(not self.client)
        self.outward: Scanner | None = None
        self.messages: Connection | None = None
        self.parts: list[bytes] | None = None
        self.early = b""
        """Came together with the handshake, before somebody could take it."""
        self.seen = self.best = 0
        self.since = self.active_at
        self.ends = ends
        ends.add(self)

    def _scanner(self, masked: bool) -> Scanner:
        limits = self.limits
        return Scanner(masked, int(limits["max_message"]) or NO_LIMIT, frame_limit=int(limits["max_frame"]) or NO_LIMIT)

    def begin_raw(self, answer: Head, other: object) -> None:
        """The handshake is done from end to end, with this answer; `other`: the session's other end."""
        self.raw = True
        self.inward.rsv = reserved_bits(answer.get(b"sec-websocket-extensions"))
        self.scans = not isinstance(other, WebSocketEnd)
        if isinstance(other, WebSocketEnd):
            self.outward = other.inward
        else:
            self.outward = self._scanner(self.client)
            self.outward.rsv = self.inward.rsv

    # ------------------------------------------------------------------ reading

    def resume(self) -> None:
        if self.paused and not self.closed and not self.ended_in:
            super().resume()
            if self.early:
                self.loop.call_soon(self._play_early)  # before anything that is still to be read

    def _play_early(self) -> None:
        if self.early and not self.paused and not self.closed:
            data, self.early = self.early, b""
            self.took(data)

    def came(self, data: bytes) -> None:
        if not data:
            self._eof()
            return
        self.inward.bytes += len(data)
        if self.early:
            data, self.early = self.early + data, b""
        self.took(data)

    def shortcut_to(self, to: Stream) -> Callable[[], None] | None:
        return shortcut(self, to) if self.raw and isinstance(to, WebSocketEnd) and to.outward is self.inward else None

    def _pass(self, data: bytes) -> None:
        inward = self.inward
        if inward.over:
            return
        good = inward.feed(data)
        if good:
            to = self.to
            to.data(good)
            to.flush()
        if inward.over and not self.gone and not self.closed:
            self._over(inward)

    def took(self, data: bytes) -> None:
        """Bytes after the handshake."""
        if self.raw:
            self._pass(data)
            return
        if self.close_got or self.gone:
            return
        inward = self.inward
        good = inward.feed(data)
        if good:
            self._assemble(good)
        if inward.over and not self.gone and not self.closed:
            self._over(inward)

    def _assemble(self, data: bytes) -> None:
        """Pass on the messages that these frames complete."""
        messages = self.messages
        if messages is None:  # an idle connection does not pay for it
            messages = self.messages = Connection(ConnectionType.CLIENT if self.client else ConnectionType.SERVER)
        messages.receive_data(data)
        for event in messages.events():
            if isinstance(event, TextMessage):
                self._part(event.data.encode(), event.message_finished, TEXT)
            elif isinstance(event, BytesMessage):
                self._part(bytes(event.data), event.message_finished, BINARY)
            elif isinstance(event, Ping):
                if not self.full:  # a peer that pings and does not read gets no answers to keep for it
                    self._frame(PONG, bytes(event.payload))
            elif isinstance(event, CloseConnection):  # the scan takes close frames out: this is a fault that only the payload shows
                self._violated(int(event.code), str(event.reason))
            if self.gone or self.closed:
                return
        self.to.flush()

    def _part(self, data: bytes, finished: bool, kind: int) -> None:
        if not finished:
            if self.parts is None:
                self.parts = []
            self.parts.append(data)
            return
        if self.parts:
            self.parts.append(data)
            data = b"".join(self.parts)
            self.parts = None
        self.to.data(data, kind)

    def _over(self, inward: Scanner) -> None:
        """The peer has sent its close frame, or something wrong."""
        if inward.fault is not None:
            self._violated(*inward.fault)
            return
        closing = inward.close
        assert closing is not None
        self.close_got = True
        self.parts = None
        session = self.session
        if session is not None:
            session.event("CLOSE", self.side, f"{closing.code} {closing.reason}".strip())
            if session.source is self:
                session.source_done = True
        to = self.to
        if self.raw:
            to.data(inward.frame)
            to.flush()
            return
        to.end(closing)
        self._both_closed()

    def _eof(self) -> None:
        """FIN. In raw mode it goes on like everything else; before a close frame it is a failure (section 7.1.5: code 1006)."""
        if self.raw or self.gone:
            super()._eof()
        elif not self.close_got:
            self.broken(Error("closed", "the connection ended without a close frame", self.side))
        elif self.close_sent:
            self.close()
        else:
            self.broken(Error("closed", "the peer did not wait for the close frame", self.side))

    # ------------------------------------------------------------------ writing

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if self.raw:
            outward = self.outward
            assert outward is not None
            if self.scans:
                data = self._scan(outward, data)
            ByteSocket.data(self, data)  # super() costs as much again
            self.gave.messages = outward.messages
            if self.scans and outward.fault is not None:
                self._source_violated(Violation(*outward.fault, "downstream" if self.client else "upstream"))
        elif not self.close_sent:
            opcode = TEXT if kind == TEXT and _is_text(data) else BINARY
            super().data(build(opcode, data, os.urandom(4) if self.client else b""))
        if last:
            self.end()

    def _scan(self, outward: Scanner, data: bytes) -> bytes:
        """What may be sent of a tunnel's bytes, which nobody has looked at yet."""
        if outward.over:
            return b""
        data = outward.feed(data)
        return data + outward.frame if outward.close is not None else data

    def _write_failed(self, exc: OSError) -> None:
        """The peer takes no more. Its last words, most often a close frame, are in the kernel and worth passing on."""
        self.ended_out = True
        for _ in range(LAST_WORDS if not self.ended_in else 0):
            try:
                data = self.sock.recv(READ)
            except OSError:
                break
            if not data:
                break
            self.took(data)
            if self.closed or self.gone:
                return
        self.broken(from_os(exc, self.side))

    def _frame(self, opcode: int, payload: bytes) -> None:
        """A control frame of our own."""
        super().data(build(opcode, payload, os.urandom(4) if self.client else b""))
        self.gave.messages -= 1

    def end(self, trailer: Any = None) -> None:
        """trailer: a `Closing` (or such a pair) is passed on; anything else is an ordinary end."""
        if self.raw or self.gone:
            super().end()
            return
        code, reason = NORMAL, ""
        if isinstance(trailer, tuple) and len(trailer) == 2 and isinstance(trailer[0], int):
            code, reason = trailer
        self._say_close(code, reason)
        self._both_closed()

    def _say_close(self, code: int, reason: str) -> None:
        """Send a close frame, once, and where frames may begin: not inside one that is relayed."""
        if self.close_sent or self.ended_out:
            return
        self.close_sent = True
        if self.outward is None or not (self.outward.at or self.outward.close):
            self._frame(CLOSE, close_payload(code, str(reason)))

    def _both_closed(self) -> None:
        """After both close frames the server closes the connection first (section 7.1.1); a client waits for it, and so do we."""
        if self.close_sent and self.close_got and not self.client and not self.closed:
            super().end()

    # ------------------------------------------------------------------ ends

    def _violated(self, code: int, reason: str) -> None:
        self._fail(Violation(code, reason, self.side), Closing(code, reason))

    def _fail(self, error: Error, closing: Closing) -> None:
        """Our peer is at fault: tell it and both neighbours. As in `Descriptor.broken`, the one in front may replace this hop meanwhile."""
        to, back, session = self.to, self.back, self.session
        self._depart(closing)
        if session is not None and session.source is self:
            session.close(error)
            to.reset(error)
            return
        to.reset(error)
        if back.to is self:
            back.stop(error)

    def _source_violated(self, error: Violation) -> None:
        """The far peer of a raw relay broke the rules, and its own end does not look at frames: tell it through that end."""
        to, session = self.to, self.session
        if not self.inward.at:
            to.data(build(CLOSE, close_payload(error.code, error.detail), b"" if self.client else os.urandom(4)))
            to.flush()
        self._depart(closing_of(error))
        if session is not None:
            session.event("ERROR", "WebSocket", error.detail)
            if session.source is self:
                session.close(error)
        to.end()

    def _depart(self, closing: Closing) -> None:
        """Leave the session: say why, then close, in order and within LINGER. Idempotent."""
        if self.gone or self.closed:
            return
        self._say_close(*closing)
        self.gone = True
        self.to = self.back = NOWHERE
        self.session = None
        self.early = b""
        super().end()
        if not self.closed:
            WebSocketEnd.resume(self)
            self.loop.call_later(LINGER, self.close)

    def reset(self, error: Error) -> None:
        """The session failed: the peer is told with a code, if a frame may begin now; else it sees the connection end."""
        if self.closed or self.gone:
            return
        to, session = self.to, self.session
        theirs = isinstance(error, Violation) and error.side == "upstream" != self.side  # our peer has broken no rule
        self._depart(Closing(BAD_GATEWAY, error.detail) if theirs else closing_of(error))
        if session is not None and session.source is self:
            session.close(error)
            to.reset(error)

    def close(self, error: Error | None = None) -> None:
        self.ends.discard(self)
        super().close(error)

    def pipe_for_bulk(self) -> None:
        """Bytes of another stream become frames here: they cannot come through a pipe."""
        return

    # ------------------------------------------------------------------ time

    def taken(self) -> int:
        outer: ByteSocket | None = getattr(self.sock, "outer", None)  # TLS stands between (`hops.tls.decrypted`), and may hold megabytes
        return super().taken() if outer is None or outer.closed else outer.taken()

    def tick(self, now: float) -> None:
        """Once a second (monotonic seconds): what waits for the peer for too long."""
        limits = self.limits
        taken = self.taken()
        if self.bytes_in != self.seen or taken > self.best or self.paused:
            self.seen, self.best, self.since, self.pinged = self.bytes_in, max(taken, self.best), now, False
            return
        silent = now - self.since
        if self.close_got or self.close_sent or self.ended_in or self.ended_out:
            if silent >= limits["close_timeout"]:
                self._give_up()
        elif not limits["ping_interval"] or silent < limits["ping_interval"]:
            return
        elif not self.pinged:
            self.pinged = True
            if self.outward is None or not self.outward.at:
                self._frame(PING, b"")
        elif silent >= limits["ping_interval"] + limits["ping_timeout"]:
            detail = f"no answer to a ping within {limits['ping_timeout']:g} s"
            self._fail(Error("timeout", detail, self.side), Closing(INTERNAL, detail))

    def _give_up(self) -> None:
        """The other side of the closing handshake does not come: our close frame is due, and then the connection ends."""
        if self.close_got and not self.close_sent and not self.raw and self.inward.close is not None:
            self._say_close(*self.inward.close)
        session = self.session
        if session is not None and session.source is self:
            self._depart(Closing(NORMAL, ""))
            session.close(Error("killed", "the closing handshake was not finished in time", self.side))
        else:
            self.broken(Error("closed", "the closing handshake was not finished in time", self.side))


def shortcut(here: WebSocketEnd, there: WebSocketEnd) -> Callable[[], None]:
    """The reader of a busy end whose bytes go to another as they are: `hops.bytesocket.shortcut`, for reads that are one whole message
    in one frame and nothing else, which is seen by its length."""
    source, target = here.sock.fileno(), there.sock.fileno()
    inward, gave, pending = here.inward, there.gave, there.waiting()
    starts = b"\x81\x82\xc1\xc2" if inward.rsv & DEFLATE_RSV else b"\x81\x82"
    head = 2 + inward.key
    ahead, longer = inward.mask - head, inward.mask + 126
    least, short = head, head + inward.short
    head += 2
    least_long, most_long = head + 126, head + min(inward.frame_limit, 0xFFFF)

    def readable() -> None:
        try:
            data = read(source, READ)
        except OSError as exc:
            here.unread(exc)
            return
        size = len(data)
        if size < short:
            whole = size >= least and data[1] == size + ahead
        else:
            whole = least_long <= size <= most_long and data[1] == longer and data[2] << 8 | data[3] == size - head
        if not whole or not inward.between or data[0] not in starts or pending or here.to is not there:
            here.came(data)
            return
        inward.bytes += size
        inward.messages += 1
        try:
            sent = write(target, data)
        except OSError as exc:
            there.unsent(data, exc)
            return
        gave.bytes += size
        gave.messages += 1
        if sent < size:
            there.queue(memoryview(data)[sent:])

    return readable


def _is_text(data: bytes) -> bool:
    """Can it be sent as text? A transform may have made something else of it."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
