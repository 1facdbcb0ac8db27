"""What the hops share that own a descriptor: byte sockets, sockets of messages, pipes and files.

Two directions that end on their own; whom an end, a failure and the closing are told to; when so much waits to be written that the hop
behind has to pause. Reading and writing are the subclass's, and so is `release`, which gives the descriptors back.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from carrier.core.stream import CONNECTED, HIGH, NOWHERE, Socket, Stream

if TYPE_CHECKING:
    from carrier.errors import Error, Side


class Descriptor(Socket):
    """side: whose end this is, for the errors. ended_in: no more comes; ended_out: no more is taken. full: the hop behind is paused,
    because `size` bytes wait to be written."""

    __slots__ = ("closed", "ended_in", "ended_out", "full", "loop", "paused", "side", "size")

    def __init__(self, loop: asyncio.AbstractEventLoop, side: Side) -> None:
        super().__init__()
        self.loop = loop
        self.side: Side = side
        self.size = 0
        self.paused = True
        self.full = self.ended_in = self.ended_out = self.closed = False

    def status(self) -> str:
        return "END" if self.closed else "READY"

    def stop(self, error: Error | None = None) -> None:
        """The reader of what this hop reads is gone."""
        if error is not None:
            self.reset(error)
        else:
            self.pause()

    def reset(self, error: Error) -> None:
        self.close(error)

    def queued(self, size: int, crowded: bool = False) -> None:
        """That many bytes more wait to be written; the hop behind pauses when it is too much. crowded: it is, whatever the bytes."""
        self.size += size
        if (crowded or self.size >= HIGH) and not self.full:
            self.full = True
            self.back.pause()

    def eased(self, back: Stream, roomy: bool = True) -> None:
        """Less waits than before: the hop behind, which was `back` before this was written, goes on below half of too much."""
        if self.full and roomy and self.size < HIGH // 2:
            self.full = False
            back.resume()

    def end_in(self) -> None:
        """No more comes: tell the hop in front."""
        self.ended_in = True
        session = self.session
        if session is not None and session.source is self:
            session.source_done = True
            session.event("END", "source")
            self.to.end()
            return
        told = session is not None and session.status == CONNECTED and not session.decision.retry.on_disconnect
        if session is not None and told:  # before the session is over with it
            session.event("END", "destination")
        self.to.end()
        if session is not None and not told and self.session is session and session.status == CONNECTED:  # it was not replaced
            session.event("END", "destination")

    def broken(self, error: Error) -> None:
        """The descriptor failed: tell both neighbours. The one in front may have this hop replaced meanwhile (a reconnect, the fallback):
        then the hop behind has another one to write to, and lives on."""
        if self.closed:
            return
        to, back = self.to, self.back
        self.close(error)
        to.reset(error)
        if back.to is self:
            back.stop(error)

    def close(self, error: Error | None = None) -> None:
        """Give the descriptors back; the source's closing is the session's end. Idempotent."""
        if self.closed:
            return
        self.closed = self.paused = True
        self.release()
        session, to = self.session, self.to
        if session is not None and session.source is self:
            self.to = NOWHERE
            session.close(error)
            if error is not None:
                to.reset(error)
        self.detach()

    def release(self) -> None:
        """Watch and hold the descriptors no longer, and forget what waits to be written."""
        raise NotImplementedError
