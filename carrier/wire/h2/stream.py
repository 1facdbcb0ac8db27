"""One stream of an HTTP/2 connection, and what is sent on it (RFC 9113 section 5).

Content goes out as far as both windows let it. What they do not let out is held, and `send_data` says so: whoever sends has to wait until
`on_drained`. Streams that hold something take turns, one frame each, when the connection's window opens (`share`).
`pause` gives no window back for this stream: its peer stops when the window is used up, and no other stream notices.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from carrier.wire.h2.frames import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_MAX,
    HEAD,
    HEADERS,
    NO_ERROR,
    NUMBER,
    header_frames,
    window_frame,
)
from carrier.wire.h2.limits import FRAME_EARNS, NEVER, SMALL, STREAM_EARNS


class Engine(Protocol):
    """The connection, as far as a stream of it knows it (connection.py)."""

    credit: int
    frame_max: int
    holding: bool
    now: float
    our_window: int
    out: list[bytes]
    peer_window: int
    streams: dict[int, Stream]
    table_update: bytes
    waiting: dict[int, Stream]
    window: int

    def cancel(self, stream: Stream, code: int) -> None: ...
    def ended(self, stream: Stream) -> None: ...


class Stream:
    """A stream that is open, or half closed. Owners keep what they need of it in `owner`, which is None once it has closed.

    id: its number. window: bytes that we may send; room: that the peer may send. ended: we have said that we are done (calls that send are
    ignored then); over: the peer has. heard: its head (the final one) has come. left: bytes that its Content-Length still promises, -1
    without one. since: when it was opened; blocked_since: since when what is held has not moved, 0.0 if nothing is held. head_only: no
    content may come, we asked by HEAD. refused: its head is answered, what follows is dropped. stalled: it was opened without a window
    for its answer, and has got none yet.
    """

    __slots__ = (
        "at",
        "blocked_since",
        "ended",
        "engine",
        "head_only",
        "heard",
        "held",
        "id",
        "left",
        "over",
        "owed",
        "owner",
        "paused",
        "refused",
        "room",
        "since",
        "stalled",
        "tail",
        "window",
    )

    def __init__(self, engine: Engine, number: int) -> None:
        self.engine, self.id = engine, number
        self.owner: Any = None
        self.window = engine.peer_window
        self.room = engine.our_window
        self.since = engine.now
        self.left = -1
        self.owed = 0  # bytes that came and whose window was not given back
        self.held: deque[bytes] | None = None
        self.at = 0  # bytes of held[0] that are gone
        self.tail: bytes | None = None  # what follows all that is held: a block of trailers, or b"" for END_STREAM
        self.blocked_since = 0.0
        self.paused = self.ended = self.over = self.heard = self.head_only = self.refused = self.stalled = False

    def again(self, number: int) -> Stream:
        """It is used once more, as a new one, by the owner that it has; both sides have ended it."""
        engine = self.engine
        self.id, self.window, self.room, self.since = number, engine.peer_window, engine.our_window, engine.now
        self.paused = self.ended = self.over = self.heard = self.stalled = False
        self.left, self.owed = -1, 0
        return self

    # -- sending ------------------------------------------------------------------------------------------------------------------------

    def send_head(self, block: bytes, last: bool = False) -> None:
        """A head: a request, an answer, or a 1xx answer. `block` comes from hpack.encode (and may be kept and used again)."""
        if self.ended:
            return
        engine = self.engine
        if engine.table_update:
            block, engine.table_update = engine.table_update + block, b""
        n = len(block)
        if n <= engine.frame_max:
            engine.out += (HEAD.pack(n >> 8, n & 255, HEADERS, END_HEADERS | last, self.id), block)
        else:
            engine.out.append(header_frames(self.id, block, last, engine.frame_max))
        if last:
            self.end_now()

    def send_message(self, block: bytes, body: bytes, last: bool = True) -> bool:
        """A head and the content behind it, in one call: the usual answer. As `send_data`, False if some is held."""
        engine, m, n = self.engine, len(block), len(body)
        if (
            not 0 < n <= self.window
            or n > engine.window
            or m + n > FRAME_MAX
            or self.ended
            or self.held is not None
            or engine.holding
            or engine.table_update
        ):
            self.send_head(block, last and not n)
            return self.send_data(body, last) if n else True
        engine.out += (
            HEAD.pack(m >> 8, m & 255, HEADERS, END_HEADERS, self.id),
            block,
            HEAD.pack(n >> 8, n & 255, DATA, last, self.id),
            body,
        )
        self.window -= n
        engine.window -= n
        engine.credit += FRAME_EARNS
        if last:
            self.ended = True
            if self.over:
                engine.ended(self)
            elif self.refused:
                self.end_now()
        return True

    def send_call(self, block: bytes, body: bytes, trailers: bytes) -> bool:
        """The whole answer to a call that was read to its end, after which the stream is over. False: nothing was done."""
        engine, m, n, t = self.engine, len(block), len(body), len(trailers)
        if (
            n > self.window
            or n > engine.window
            or m + n + t > FRAME_MAX
            or self.ended
            or not self.over
            or engine.holding
            or engine.table_update
        ):
            return False
        number = self.id
        engine.out += (
            HEAD.pack(m >> 8, m & 255, HEADERS, END_HEADERS, number),
            block,
            HEAD.pack(n >> 8, n & 255, DATA, 0, number),
            body,
            HEAD.pack(t >> 8, t & 255, HEADERS, END_HEADERS | END_STREAM, number),
            trailers,
        )
        engine.window -= n
        engine.credit += FRAME_EARNS + STREAM_EARNS
        self.ended = True
        del engine.streams[number]
        return True

    def send_framed(self, framed: tuple[bytes, bytes, int], body: bytes) -> bool:
        """A whole answer to a request that was read to its end, after which the stream is over and may be used again. framed: see
        `framed_answer` (heads.py). False: nothing was done, this takes `send_message`."""
        engine, n = self.engine, len(body)
        if n > self.window or n > engine.window or self.ended or not self.over or engine.holding or engine.table_update:
            return False
        number = NUMBER(self.id)
        engine.out += (framed[0], number, framed[1], number, body)
        engine.window -= n
        engine.credit += FRAME_EARNS + STREAM_EARNS
        self.ended = True
        del engine.streams[self.id]
        return True

    def send_data(self, data: bytes, last: bool = False) -> bool:
        """Content. False: some of it is held, so send no more before `on_drained`; more is taken, but nothing bounds it then."""
        if self.ended:
            return True
        engine, n = self.engine, len(data)
        if 0 < n <= self.window and n <= engine.window and n <= engine.frame_max and self.held is None and not engine.holding:
            engine.out += (HEAD.pack(n >> 8, n & 255, DATA, last, self.id), data)
            self.window -= n
            engine.window -= n
            engine.credit += FRAME_EARNS
            if last:
                self.end_now()
            return True
        if self.held is not None:
            if n:
                self.held.append(data)
            if last:
                self._end_later(b"")
            return False
        if not n:
            if last:
                engine.out.append(HEAD.pack(0, 0, DATA, END_STREAM, self.id))
                self.end_now()
            return True
        self.held, self.at = deque((data,)), 0
        if last:
            self._end_later(b"")
        while self.send_frame():
            pass
        if self.held is None:
            if last:
                self.tail = None
                self.end_now()
            return True
        self.blocked_since = engine.now or NEVER
        engine.waiting[self.id] = self
        return False

    def send_trailers(self, block: bytes) -> None:
        """Trailers, which end the stream; behind what is held."""
        if self.ended:
            return
        if self.held is not None:
            self._end_later(block)
            return
        engine = self.engine
        if engine.table_update:
            block, engine.table_update = engine.table_update + block, b""
        engine.out.append(header_frames(self.id, block, True, engine.frame_max))
        self.end_now()

    def end(self) -> None:
        """Nothing more comes from us."""
        self.send_data(b"", True)

    def reset(self, code: int = CANCEL) -> None:
        """RST_STREAM: the stream is over in both directions, what is held is dropped, nothing more is called for it."""
        self.engine.cancel(self, code)

    def end_now(self) -> None:
        """END_STREAM has gone out."""
        self.ended = True
        if self.over:
            self.engine.ended(self)
        elif self.refused:
            self.engine.cancel(self, NO_ERROR)

    def _end_later(self, tail: bytes) -> None:
        self.ended, self.tail = True, tail

    def send_frame(self) -> bool:
        """One frame of what is held, if the windows let it. True: it went, and more might. With the last one `held` is None."""
        engine, held = self.engine, self.held
        if held is None or engine.holding:
            return False
        first = held[0]
        rest = len(first) - self.at
        n = min(rest, self.window, engine.window, engine.frame_max)
        if n <= 0:
            return False
        part = first if n == len(first) else first[self.at : self.at + n]
        self.at += n
        if n == rest:
            held.popleft()
            self.at = 0
        done = not held
        last = done and self.tail == b""
        engine.out += (HEAD.pack(n >> 8, n & 255, DATA, last, self.id), part)
        self.window -= n
        engine.window -= n
        if n == rest or n >= SMALL:
            engine.credit += FRAME_EARNS
        if not done:
            self.blocked_since = engine.now or NEVER
            return True
        self.held = None
        self.blocked_since = 0.0
        engine.waiting.pop(self.id, None)
        if self.tail:
            block, engine.table_update = engine.table_update + self.tail, b""
            engine.out.append(header_frames(self.id, block, True, engine.frame_max))
        return False

    # -- receiving ----------------------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Give no window back: at most `Limits.window` more bytes come."""
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self.give_back()

    def give_back(self) -> None:
        """WINDOW_UPDATE for what was read, once it is half a window."""
        engine = self.engine
        if self.owed and self.owed * 2 >= engine.our_window and not self.over:
            engine.out.append(window_frame(self.id, self.owed))
            self.room += self.owed
            self.owed = 0

    def __repr__(self) -> str:
        return f"Stream({self.id}, window={self.window}, room={self.room}, ended={self.ended}, over={self.over})"
