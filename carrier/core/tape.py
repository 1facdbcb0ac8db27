"""What passes in one session is copied, while somebody records it: two hops beside its source, which pass everything on.

Nothing of this is there for a session that nobody records. What is kept is bounded: `most` bytes of each direction, and all tapes together
by who made them (`room`); what is beyond passes on and is not kept, and `cut` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

from carrier.core.stream import NOWHERE, Stream
from carrier.errors import Error

PIECES = 4096
"""Pieces of one session that are kept, both directions together."""
OVERHEAD = 120
"""Bytes of a piece, beside its own."""


class Piece(NamedTuple):
    """at: monotonic seconds. sent: by the client. kind: of a WebSocket message, as in `Stream.data`."""

    at: float
    sent: bool
    kind: Any
    data: bytes


class Tape:
    """See the module. room: may so many more bytes be kept? sizes: bytes that passed, from the client and to it."""

    __slots__ = (
        "__weakref__",
        "answer",
        "closing",
        "cut",
        "most",
        "pieces",
        "request",
        "room",
        "sizes",
        "taps",
        "told",
        "trailer",
        "weight",
    )

    def __init__(self, most: int, room: Callable[[int], bool] = lambda size: True) -> None:
        self.most = most
        self.room = room
        self.pieces: list[Piece] = []
        self.sizes = [0, 0]
        self.weight = 0
        """Bytes that it holds."""
        self.request: Any = None
        self.answer: Any = None
        """Heads, of streams that have them."""
        self.trailer: Any = None
        """Of the answer."""
        self.closing: Any = None
        """How the client ended a WebSocket."""
        self.cut = False
        self.taps: tuple[Tap, Tap] | None = None
        self.told = 0.0
        """When its session was told while it was open."""

    def stand_beside(self, source: Stream, request: Any) -> None:
        """Copy from now on what `source`, which is linked, sends and gets. What was copied of an attempt that came to nothing is forgotten.
        request: the head that is sent first, perhaps past this."""
        self.leave()
        self.request = request
        if self.answer is None:
            self.pieces = [piece for piece in self.pieces if not piece.sent] if self.sizes[1] else []
            self.sizes[0] = 0 if not self.sizes[1] else self.sizes[0]
        out, back = self.taps = Tap(self, True), Tap(self, False)
        after, before = source.to, source.back
        out.back, out.to = source, after
        source.to = after.back = out
        back.back, back.to = before, source
        before.to = source.back = back

    def leave(self) -> None:
        """Let go of the hops that it stands between."""
        if self.taps is not None:
            for tap in self.taps:
                tap.to = tap.back = NOWHERE
            self.taps = None

    def keep(self, sent: bool, data: bytes, kind: Any) -> None:
        """A piece has passed."""
        side = 0 if sent else 1
        before = self.sizes[side]
        self.sizes[side] = before + len(data)
        left = self.most - before
        if left < len(data):
            self.cut = True
        if (left <= 0 and data) or len(self.pieces) >= PIECES:
            self.cut = True
            return
        kept = bytes(data[:left])
        if not self.room(len(kept) + OVERHEAD):
            self.cut = True
            return
        self.weight += len(kept) + OVERHEAD
        self.pieces.append(Piece(monotonic(), sent, kind, kept))

    def body(self, sent: bool) -> bytes:
        """What was kept of one direction."""
        return b"".join([piece.data for piece in self.pieces if piece.sent is sent])


class Tap(Stream):
    """One of the two hops. sent: it sees what the client sends."""

    __slots__ = ("sent", "tape")

    def __init__(self, tape: Tape, sent: bool) -> None:
        super().__init__()
        self.tape = tape
        self.sent = sent

    def head(self, head: Any, last: bool = False) -> None:
        if self.sent:
            self.tape.request = head
        elif head.status >= 200 or head.tunnel:
            self.tape.answer = head
        self.to.head(head, last)

    def message(self, head: Any, body: bytes) -> None:
        self.tape.answer = head
        if body:
            self.tape.keep(self.sent, body, None)
        self.to.message(head, body)

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if data or kind is not None:
            self.tape.keep(self.sent, data, kind)
        self.to.data(data, kind, last)

    def end(self, trailer: Any = None) -> None:
        if trailer is not None:
            if self.sent:
                self.tape.closing = trailer
            else:
                self.tape.trailer = trailer
        self.to.end(trailer)

    def reset(self, error: Error) -> None:
        self.to.reset(error)
