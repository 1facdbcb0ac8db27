"""A connected socket of messages as a hop: UNIX seqpacket and datagram sockets, SCTP, raw frames.

One `data()` is one message on the wire, both ways, and what the kernel does not take waits, whole, while the hop behind is paused:
unlike UDP nothing is dropped for want of room. A message that the socket can never take is dropped and counted in the session, also an
empty one where it would read as the end.

ends: the socket is a connection, whose end can be read. half: it can be ended in one direction; where it cannot, an `end` leaves
`LINGER` seconds for what is still on its way back.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from typing import Any

from carrier.core.stream import DESTROYED, MANY
from carrier.errors import Error, Side, from_os
from carrier.hops.descriptor import Descriptor

LONGEST = 1 << 18
"""Bytes of a message at most: more than the kernel's default send buffer lets through."""
READS = 64
"""Messages taken in one wake-up, so that one socket does not starve the others."""
LINGER = 2.0
BUFFER = memoryview(bytearray(LONGEST))
"""Where a message is received, by all sockets in turn: what is kept is copied."""


class PacketSocket(Descriptor):
    """See the module."""

    __slots__ = ("ends", "half", "parts", "pending", "sock")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, side: Side, *, ends: bool = True, half: bool = True) -> None:
        super().__init__(loop, side)
        self.sock = sock
        self.ends = ends
        self.half = half
        self.pending: deque[bytes] = deque()
        self.parts = b""
        """The beginning of a message that comes in parts (SCTP's partial delivery, RFC 6458 section 8.1.20)."""

    # ------------------------------------------------------------------ reading

    def resume(self) -> None:
        if self.paused and not self.closed and not self.ended_in:
            self.paused = False
            self.loop.add_reader(self.sock, self._readable)

    def pause(self) -> None:
        if not self.paused:
            self.paused = True
            self.loop.remove_reader(self.sock)

    def _readable(self) -> None:
        for _ in range(READS):
            if self.paused or self.closed:
                return
            try:
                message = self.receive()
            except (BlockingIOError, InterruptedError):
                break
            except OSError as exc:
                self.broken(from_os(exc, self.side))
                return
            if message is None:
                continue
            if self.ends and not message:
                self._eof()
                return
            self.messages_in += 1
            self.bytes_in += len(message)
            self.to.data(message)
        self.to.flush()

    def receive(self) -> bytes | None:
        """The next message, or None: it is not wanted, or not complete. Raises OSError."""
        size, _, _, _ = self.sock.recvmsg_into([BUFFER])
        return bytes(BUFFER[:size])

    def _eof(self) -> None:
        self.pause()
        self.end_in()
        if not self.half or (self.ended_out and not self.pending):
            self.close()

    # ------------------------------------------------------------------ writing

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if self.closed or self.ended_out:
            return
        if self.ends and not data:
            self.lost()
        elif self.pending or not self._sent(data):
            self._queue(data)
        if last:
            self.end()

    def transmit(self, data: bytes) -> None:
        """Write one message. Raises OSError."""
        self.sock.send(data)

    def _sent(self, data: bytes) -> bool:
        """Write one message now; False when the kernel has no room."""
        try:
            self.transmit(data)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as exc:
            if exc.errno == errno.ENOBUFS:
                return False
            if exc.errno in (errno.EMSGSIZE, errno.EINVAL):
                self.lost()
                return True
            self.broken(from_os(exc, self.side))
            return True
        self.messages_out += 1
        self.bytes_out += len(data)
        return True

    def lost(self) -> None:
        """A message that this socket cannot carry: count it."""
        if self.session is not None:
            self.session.dropped += 1

    def _queue(self, data: bytes) -> None:
        if self.closed:
            return
        if not self.pending:
            self.watch()
        self.pending.append(bytes(data))
        self.queued(len(data), crowded=len(self.pending) >= MANY)

    def watch(self) -> None:
        """Call `_writable` when the kernel has room."""
        self.loop.add_writer(self.sock, self._writable)

    def unwatch(self) -> None:
        """Nothing waits any more."""
        self.loop.remove_writer(self.sock)

    def _writable(self) -> None:
        back, pending = self.back, self.pending
        while pending and self._sent(pending[0]):
            if self.closed:
                return
            self.size -= len(pending.popleft())
        if not pending:
            self.unwatch()
            if self.ended_out:
                self._shut()
        self.eased(back, len(pending) < MANY // 2)

    def end(self, trailer: Any = None) -> None:
        if self.closed or self.ended_out:
            return
        self.ended_out = True
        if not self.pending:
            self._shut()

    def _shut(self) -> None:
        """Everything is written: tell the other side, as far as this socket can."""
        session = self.session
        if self.ended_in or session is None or session.status == DESTROYED:
            self.close()
        elif session.source is self and not self.half:
            self.finish()
        elif not self.half:
            self.loop.call_later(LINGER, self._lingered)
        else:
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError as exc:
                self.broken(from_os(exc, self.side))

    def _lingered(self) -> None:
        """No more answers are waited for, but those that wait until there is room for them."""
        if self.paused and not self.closed:
            self.loop.call_later(LINGER, self._lingered)
        else:
            self.finish()

    # ------------------------------------------------------------------ ends

    def finish(self) -> None:
        """Both directions end here. Idempotent."""
        if not self.closed:
            to = self.to
            session = self.session
            if session is not None and session.source is self:
                session.source_done = True
            ended, self.ended_in = self.ended_in, True
            if not ended:
                to.end()
            self.close()

    def close(self, error: Error | None = None) -> None:
        """Forget what waits, and close. Idempotent."""
        self.pending.clear()
        super().close(error)

    def release(self) -> None:
        """Give the socket back."""
        self.loop.remove_reader(self.sock)
        self.loop.remove_writer(self.sock)
        self.sock.close()
