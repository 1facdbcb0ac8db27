"""What an HTTP/2 connection is between two reads: its streams, windows, settings, its budget, and how it ends (RFC 9113 sections 5 and 6).

The engine (engine.py) adds what reads frames. Here is what its owner and its streams call, and who is told what is read: a `Target`.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from carrier.errors import Error
from carrier.wire.h2.fields import Section
from carrier.wire.h2.frames import (
    CANCEL,
    ENABLE_CONNECT_PROTOCOL,
    ENABLE_PUSH,
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    FRAME_MAX,
    HEAD,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    NO_ERROR,
    PING,
    PREFACE,
    STREAM_MAX,
    WINDOW,
    Fault,
    frame,
    goaway_frame,
    rst_frame,
    settings_frame,
    window_frame,
)
from carrier.wire.h2.hpack import TABLE_SIZE, Table
from carrier.wire.h2.limits import (
    BAD_STREAM,
    DEFAULT,
    NEVER,
    SMALL,
    STREAM_EARNS,
    UNREAD,
    Limits,
)
from carrier.wire.h2.memo import Memo
from carrier.wire.h2.stream import Stream

_RESETS = 128  # streams that were reset, of which is known by whom
OURS, THEIRS = 1, 2  # who reset a stream
DRAIN_PING = b"draining"  # the PING that comes back when the peer has read the first GOAWAY


class Target(Protocol):
    """Who is told what an engine reads."""

    def on_head(self, stream: Stream, section: Section, last: bool, /) -> None:
        """A request, or an answer; 1xx answers come before the final one. `last`: nothing follows."""

    def on_data(self, stream: Stream, data: bytes, last: bool, /) -> None: ...

    def on_trailers(self, stream: Stream, section: Section, /) -> None:
        """Trailers: the peer's side of the stream has ended."""

    def on_drained(self, stream: Stream, /) -> None:
        """All that was held for want of window has gone."""

    def on_reset(self, stream: Stream, code: int, detail: str, /) -> None:
        """The stream is over: reset by the peer, or broken by it, or its connection is lost. With REFUSED_STREAM the peer has not looked at
        it, and it may be sent again."""

    def on_refused(self, stream: Stream, section: Section, kind: str, detail: str, /) -> None:
        """A request that does not become one; `section` has what was read of it. kind "protocol-error": it was reset. "overload": it is
        over the limit of streams, and was reset as not looked at. Where the stream is `refused` it waits for an answer, and the rest is
        dropped."""

    def on_goaway(self, last: int, code: int, detail: str, /) -> None:
        """The peer takes no more streams; those above `last` were told before, by on_reset."""

    def on_settings(self, /) -> None:
        """The peer's settings have come or changed: `room`, `peer_connect` and others."""


class _Nobody:
    """Whom the engine of a connection that is gone has to tell."""

    def on_head(self, stream: Stream, section: Section, last: bool) -> None: ...
    def on_data(self, stream: Stream, data: bytes, last: bool) -> None: ...
    def on_trailers(self, stream: Stream, section: Section) -> None: ...
    def on_drained(self, stream: Stream) -> None: ...
    def on_reset(self, stream: Stream, code: int, detail: str) -> None: ...
    def on_refused(self, stream: Stream, section: Section, kind: str, detail: str) -> None: ...
    def on_goaway(self, last: int, code: int, detail: str) -> None: ...
    def on_settings(self) -> None: ...


_NOBODY = _Nobody()


class Connection:
    """One connection; made as an `Engine`.

    streams: those that are open, by number. waiting: those of them that hold something. out: what is to be sent; `take` joins it. failure:
    why the connection is over, if it is. holding: the transport takes no more for now (`hold`). window, room: as in Stream, of the whole
    connection. frame_max, peer_window, peer_streams, peer_connect, peer_head: the peer's settings; peer_head is None if it said nothing
    of it. most: streams that a client may have open at once. welcome: a server that has fewer takes one more without further ado. spare:
    streams that have ended, each with its owner, for those to come. goaway: what the peer's GOAWAY said. draining: ours was sent. last: the
    highest stream that the side which may open some has opened.
    """

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_size",
        "_block_stream",
        "_block_wrong",
        "_buffer",
        "_final",
        "_forgotten",
        "_full",
        "_greeted",
        "_low",
        "_misses",
        "_need",
        "_next",
        "_pending",
        "_resets",
        "_shrunk",
        "_skipped",
        "_state",
        "_table",
        "_topped",
        "_unread",
        "begun_since",
        "client",
        "credit",
        "draining",
        "failure",
        "frame_max",
        "goaway",
        "holding",
        "last",
        "limits",
        "memo",
        "most",
        "now",
        "our_window",
        "out",
        "peer_connect",
        "peer_head",
        "peer_streams",
        "peer_window",
        "room",
        "settings_since",
        "spare",
        "streams",
        "table_update",
        "target",
        "waiting",
        "welcome",
        "window",
    )

    def __init__(self, target: Target, memo: Memo, limits: Limits = DEFAULT, *, client: bool = False, now: float = 0.0) -> None:
        if memo.client != client or memo.limits != limits:
            raise ValueError("the memo reads for the other side, or with other limits")
        self.target: Target = target
        self.memo, self.limits, self.client, self.now = memo, limits, client, now
        self.streams: dict[int, Stream] = {}
        self.waiting: dict[int, Stream] = {}
        self.spare: list[Stream] = []
        self.out: list[bytes] = []
        self.failure: Fault | None = None
        self.holding = False
        self.window = self.room = self.peer_window = self.our_window = WINDOW
        self.frame_max = FRAME_MAX
        self.peer_streams = self.most = STREAM_MAX
        self.peer_connect = False
        self.peer_head: int | None = None
        self.goaway: tuple[int, int, str] | None = None
        self.draining = False
        self.last = 0
        self.table_update = b""  # what the next block has to begin with: the peer's table may have become smaller
        self._shrunk = False  # our encoder has told the peer's table to have no entries
        self.credit = limits.budget
        self.begun_since = self.settings_since = now or NEVER
        self._topped = now  # when time last gave credit
        self._unread = 0  # bytes of replies since the transport takes no more
        self._final = STREAM_MAX  # the last stream that is taken
        self.welcome = 0
        self._next = 1
        self._state = memo.start
        self._table: Table | None = None  # in its place, once blocks are always new
        self._misses = 0
        self._buffer = bytearray()
        self._need = 0
        self._greeted = 0 if not client else 1  # 0: the preface is to come, 1: SETTINGS are, 2: all may come
        self._block: list[bytes] | None = None  # parts of a block whose CONTINUATION are to come
        self._block_stream = self._block_flags = self._block_size = 0
        self._block_wrong = ""
        self._resets: dict[int, int] = {}
        self._forgotten = 0  # the highest stream of those that `_resets` knew and does not know any more
        self._skipped: list[tuple[int, int]] = []
        values = {MAX_CONCURRENT_STREAMS: limits.streams, INITIAL_WINDOW_SIZE: limits.window, MAX_HEADER_LIST_SIZE: limits.head}
        if limits.table != TABLE_SIZE:
            values[HEADER_TABLE_SIZE] = limits.table
        if client:
            del values[MAX_CONCURRENT_STREAMS]
            values[ENABLE_PUSH] = 0
            self.out.append(PREFACE)
        elif limits.connect:
            values[ENABLE_CONNECT_PROTOCOL] = 1
        self._pending: deque[dict[int, int]] = deque((values,))
        self.out.append(settings_frame(values))
        if limits.connection_window > WINDOW:
            self.room = limits.connection_window
            self.out.append(window_frame(0, self.room - WINDOW))
        self._full = self.room
        self._low = self.room - (limits.connection_window + 1) // 2  # when it is given back what has come

    # -- for the owner ------------------------------------------------------------------------------------------------------------------

    def take(self) -> bytes:
        """What is to be sent now, in one piece; b"" if nothing is."""
        if not self.out:
            return b""
        data = b"".join(self.out)
        self.out.clear()
        return data

    @property
    def places(self) -> int:
        """How many streams a client may open now."""
        return max(0, self.most - len(self.streams))

    def bound(self) -> None:
        """What `most` depends on has changed."""
        over = self.goaway is not None or self.failure is not None or self.draining or self._next > STREAM_MAX
        self.most = 0 if over else self.peer_streams

    def invite(self) -> None:
        """What `welcome` depends on has changed. The first stream is none, as its number follows no other."""
        ends = self.client or not self.last or self._final != STREAM_MAX
        self.welcome = 0 if ends or self.peer_window < SMALL else self.limits.streams

    @property
    def begun(self) -> int:
        """Bytes of a head that has begun to come and is not whole."""
        if not self.begun_since:
            return 0
        return len(self._buffer) + (self._block_size if self._block is not None else 0)

    def request(
        self, block: bytes, last: bool = False, owner: object = None, *, head_only: bool = False, used: Stream | None = None
    ) -> Stream:
        """Open a stream with the head of a request, if there are `places`: a client's call. head_only: its method is HEAD. used: a stream
        that both sides have ended, of this connection, to be used again."""
        streams, number = self.streams, self._next
        if len(streams) >= self.most:
            raise Error(
                "overload", f"no place for a stream: {len(streams)} are open, the peer allows {self.peer_streams}", "upstream", "yes"
            )
        stream = streams[number] = Stream(self, number) if used is None else used.again(number)
        self.last = number
        self._next = number + 2
        if number + 2 > STREAM_MAX:
            self.bound()
        stream.owner, stream.head_only = owner, head_only
        n = len(block)
        if self.table_update or n > self.frame_max:
            stream.send_head(block, last)
        else:
            self.out += (HEAD.pack(n >> 8, n & 255, HEADERS, END_HEADERS | last, number), block)
            stream.ended = last
        return stream

    def hold(self) -> None:
        """The transport's buffer is full: content is held, replies are counted."""
        self.holding = True

    def release(self) -> None:
        """The transport takes more."""
        self.holding = False
        self._unread = 0
        if self.waiting:
            self._share()

    def change(self, values: dict[int, int]) -> None:
        """Announce other settings: INITIAL_WINDOW_SIZE, HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS; they hold once acknowledged."""
        self._pending.append(values)
        self.settings_since = self.settings_since or self.now or NEVER
        self.out.append(settings_frame(values))

    def drain(self, at_once: bool = False) -> None:
        """Take no more streams, let those that are open end (RFC 9113 6.8). A server says first that it will, and which stream is the last
        when the peer has read that, so that no request is lost. at_once: say it now."""
        if self.failure or self._final != STREAM_MAX:
            return
        if self.client or at_once:
            self.draining = True
            self.most = 0
            self._final = 0 if self.client else self.last
            self.invite()
            self.out.append(goaway_frame(self._final, NO_ERROR))
        elif not self.draining:
            self.draining = True
            self.out += (goaway_frame(STREAM_MAX, NO_ERROR), frame(PING, 0, 0, DRAIN_PING))

    def close(self, code: int = NO_ERROR, detail: str = "", reason: str = "closed") -> None:
        """End the connection with GOAWAY; open streams are told by on_reset."""
        if self.failure is None:
            self._fail(Fault(code, detail, reason))

    def lost(self, detail: str) -> None:
        """The transport is gone: open streams are told by on_reset, and the target is let go."""
        if self.failure is None:
            self.failure = Fault(NO_ERROR, detail, "lost")
            self.most = 0
            self._reset_all(CANCEL, detail)
        self.out.clear()
        self.spare.clear()
        self.target = _NOBODY

    # -- for streams --------------------------------------------------------------------------------------------------------------------

    def ended(self, stream: Stream) -> None:
        """Both sides have ended it."""
        if self.streams.pop(stream.id, None) is not None:
            stream.owner = None
            self.credit += STREAM_EARNS

    def cancel(self, stream: Stream, code: int) -> None:
        """We reset it."""
        if self.streams.get(stream.id) is stream:
            self._forget(stream, OURS)
            self.out.append(rst_frame(stream.id, code))
            stream.owner = None

    def _forget(self, stream: Stream, by: int) -> None:
        """The stream is over before its end."""
        del self.streams[stream.id]
        self.waiting.pop(stream.id, None)
        stream.held, stream.ended, stream.over, stream.blocked_since = None, True, True, 0.0
        self._note(stream.id, by)

    def _note(self, number: int, by: int) -> None:
        resets = self._resets
        if len(resets) >= _RESETS:
            first = next(iter(resets))
            del resets[first]
            self._forgotten = max(self._forgotten, first)
        resets[number] = by

    def _lose(self, stream: Stream, by: int, code: int, detail: str) -> None:
        """The stream is over before its end, and its owner is told; of one that was refused nobody has heard."""
        self._forget(stream, by)
        if not stream.refused:
            self.target.on_reset(stream, code, detail)
        stream.owner = None

    def _break(self, stream: Stream, code: int, detail: str) -> None:
        """The peer broke the rules of this stream."""
        self._lose(stream, OURS, code, detail)
        self._reply(rst_frame(stream.id, code))
        self._charge(BAD_STREAM)

    def _reset_all(self, code: int, detail: str) -> None:
        for stream in list(self.streams.values()):
            if self.streams.get(stream.id) is stream:
                self._lose(stream, OURS, code, detail)

    def _fail(self, fault: Fault) -> None:
        """GOAWAY, and nothing more is read."""
        self.failure = fault
        self.most = 0
        text = fault.reason if fault.code == ENHANCE_YOUR_CALM else fault.detail
        self.out.append(goaway_frame(0 if self.client else min(self.last, self._final), fault.code, text))
        self._buffer.clear()
        self._block = None
        self._reset_all(fault.code, f"connection: {fault.detail}")

    def _reply(self, data: bytes) -> None:
        self.out.append(data)
        if self.holding:
            self._unread += len(data)
            if self._unread > self.limits.replies and self.failure is None:
                raise Fault(ENHANCE_YOUR_CALM, f"{self._unread} bytes of replies are not read", UNREAD)

    def _share(self) -> None:
        """What streams hold goes out in turns, one frame each, as far as the windows allow."""
        turn = list(self.waiting.values())
        while turn:
            more = []
            for stream in turn:
                if stream.send_frame():
                    more.append(stream)
                    self.waiting[stream.id] = self.waiting.pop(stream.id)  # who was served stands last
                else:
                    self._drained(stream)
            turn = more

    def _drained(self, stream: Stream) -> None:
        """Tell, if the stream holds nothing any more."""
        if stream.held is None and self.streams.get(stream.id) is stream:
            if not stream.refused:
                self.target.on_drained(stream)
            if stream.tail is not None:
                stream.tail = None
                stream.end_now()

    @property
    def finished(self) -> bool:
        """Drained: no stream is open, and none will be."""
        return not self.streams and (self._final != STREAM_MAX or self.goaway is not None)

    def _charge(self, price: tuple[int, str]) -> None:
        cost, reason = price
        credit = min(self.credit, self.limits.budget) - cost
        if credit < 0:
            credit = min(self.limits.budget, credit + int((self.now - self._topped) * self.limits.refill))
            self._topped = max(self._topped, self.now)
            if credit < 0:
                raise Fault(ENHANCE_YOUR_CALM, f"too much of what costs only us: {reason}", reason)
        self.credit = credit
