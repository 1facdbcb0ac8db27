"""A byte-stream socket as a hop: TCP and UNIX stream sockets, accepted or connected, on either end of a session or in its middle.

It owns the raw non-blocking socket and the loop's readiness calls, no transport: bulk relays take the descriptor over (DESIGN
section 6), and a transport's descriptor cannot be watched. One `recv` a wake-up; a write goes out at once, and what the kernel does
not take waits in `pending` while the hop behind is paused. Both directions close on their own (half-close); the socket is closed
when both have ended, and aborted (RST) on a reset.

Small and many: a socket that is busy and goes to another ByteSocket directly is read by `shortcut`, one function for reading, counting
and writing with nothing between. It does the usual and gives what is not to the ordinary way; a pause or a quiet moment ends it.

Bulk: a read that filled the whole buffer and goes to another ByteSocket directly, no transform between them, makes the next ones
go through a pipe in the kernel (carrier/hops/splice.py) until little comes again. The pipe belongs to the socket that is written to and
counts as its pending bytes, so that pausing, ending and failing are the same for both ways.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from os import read, write
from typing import Any

from carrier.core.address import HostPort, keep_alive
from carrier.core.stream import DESTROYED, Stream
from carrier.errors import Error, Side, from_os
from carrier.hops.descriptor import Descriptor
from carrier.hops.lookout import Lookout, has_error, lookout, unacknowledged
from carrier.hops.splice import POOL, Pipe
from carrier.wire.frames import Count, counter

READ = 64 * 1024
LITTLE = 16 * 1024
"""A splice that moved less than this goes back to recv and send: they are cheaper there."""
LAST_WORDS = 16
"""Reads, at most, of what a peer had sent before it broke the connection."""
GRACE = 30.0
"""Seconds that a peer may take nothing of the last bytes of a session that is gone."""
Told = Callable[[socket.socket], None] | None
LINGER_RST = struct.pack("ii", 1, 0)
ORDERLY = ("killed", "drain", "no-route", "closed")
"""Resets that close in order instead of aborting: nothing that was sent is wrong."""


class ByteSocket(Descriptor):
    """See the module. active_at: monotonic seconds when one direction ended. got, gave: what it has read and written."""

    __slots__ = (
        "active_at",
        "bulk",
        "gave",
        "got",
        "looked_at",
        "lookout",
        "pending",
        "pipe",
        "short",
        "sock",
        "watched",
    )
    bytes_in, messages_in = counter("got", "bytes"), counter("got", "messages")
    bytes_out, messages_out = counter("gave", "bytes"), counter("gave", "messages")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, side: Side) -> None:
        self.got, self.gave = Count(), Count()
        super().__init__(loop, side)
        self.sock = sock
        self.pending: deque[memoryview] | None = None
        """What waits to be written; made when first needed: most sockets never need it."""
        self.pipe: Pipe | None = None
        """What waits to be written, in the kernel; never beside `pending`."""
        self.bulk = False
        """This socket is read through the pipe of the one that it is relayed to."""
        self.lookout: Lookout = lookout(loop)
        self.watched = self.short = False
        """watched: something was read lately. short: it is read by a shortcut."""
        self.looked_at = 0
        """Bytes read at the last look (carrier/hops/lookout.py)."""
        self.active_at = time.monotonic()

    # ------------------------------------------------------------------ reading

    def resume(self) -> None:
        if self.paused and not self.closed and not self.ended_in:
            self.paused = self.short = False
            self._listen(self._readable)

    def _listen(self, reader: Callable[[], None]) -> None:
        """Have `reader` called when there is something to read."""
        try:
            self.loop.add_reader(self.sock, reader)
        except RuntimeError:  # uvloop has closed its handle, because of an error (carrier/hops/lookout.py), and must be told to forget it
            self.loop.remove_reader(self.sock)
            self.loop.add_reader(self.sock, reader)

    def pause(self) -> None:
        if not self.paused:
            self.paused = True
            self.loop.remove_reader(self.sock)

    def _received(self) -> bytes | None:
        """What there is to read now: b"" is the end, None is nothing, or a failure that has been told."""
        if not self.watched:
            self._watch()
        try:
            return self.sock.recv(READ)
        except OSError as exc:
            self.unread(exc)
            return None

    def unread(self, exc: OSError) -> None:
        """There was nothing to read, or the socket is broken."""
        if not isinstance(exc, (BlockingIOError, InterruptedError)):
            self.broken(from_os(exc, self.side))

    def _readable(self) -> None:
        busy = self.watched
        if self.bulk:
            if not busy:
                self._watch()
            if self._move():
                return
        data = self._received()
        if data is None:
            return
        self.came(data)
        if busy and not self.paused and not self.bulk:
            self._shorten()

    def came(self, data: bytes) -> None:
        """Read, the ordinary way; b"" is the end."""
        if not data:
            self._eof()
            return
        got = self.got
        got.bytes += len(data)
        got.messages += 1
        to = self.to
        to.data(data)
        to.flush()
        if len(data) == READ:
            self.bulk = True
            self._lengthen()

    def _shorten(self) -> None:
        """Read by a shortcut from now on, if there is one."""
        reader = self.shortcut_to(self.to)
        if reader is not None:
            self.short = True
            self._listen(reader)

    def _lengthen(self) -> None:
        """Read the ordinary way again."""
        if self.short and not self.paused:
            self.short = False
            self._listen(self._readable)

    def shortcut_to(self, to: Stream) -> Callable[[], None] | None:
        """A reader for what goes to `to`; None: that one is not written to as a ByteSocket is, or not at once."""
        return shortcut(self, to) if isinstance(to, ByteSocket) and type(to).data is ByteSocket.data and not to._waiting() else None

    def _move(self) -> bool:
        """Read in bulk; False when it must be, or may as well be, read the ordinary way."""
        to = self.to
        pipe = to.pipe_for_bulk() if isinstance(to, ByteSocket) else None
        if pipe is None:
            self.bulk = False
            return False
        assert isinstance(to, ByteSocket)
        try:
            moved = pipe.fill(self.sock.fileno())
        except (BlockingIOError, InterruptedError):
            to.leave_bulk()
            self.bulk = False
            return True
        except OSError as exc:
            to.leave_bulk()
            self.broken(from_os(exc, self.side))
            return True
        if not moved:
            to.leave_bulk()
            self._eof()
            return True
        self.got.bytes += moved
        self.got.messages += 1
        to.bulk_came(moved)
        if moved < LITTLE and not self.closed:
            to.leave_bulk()
            self.bulk = False
        return True

    def _eof(self) -> None:
        self.pause()
        self.end_in()
        if self.ended_out and not self._waiting():
            self.close()
        else:
            self.active_at = time.monotonic()

    def _watch(self) -> None:
        """Something was read: look again later."""
        self.watched = True
        self.lookout.add(self)

    def look(self) -> bool:
        """Quiet after reads: is there an error behind what was read, which nobody will tell us of? Then read up to it."""
        if self.bytes_in != self.looked_at and not self.closed:
            self.looked_at = self.bytes_in
            return True
        self.watched = False
        self._lengthen()
        if not self.paused and has_error(self.sock.fileno()):
            while not self.paused and self._more():
                self._readable()
        return False

    def _more(self) -> bool:
        """Is there a byte, an end or an error to be read at once?"""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as exc:
            self.broken(from_os(exc, self.side))
            return False
        return True

    # ------------------------------------------------------------------ writing

    def _waiting(self) -> bool:
        """Is there something left to write?"""
        return bool(self.pending) or (self.pipe is not None and self.pipe.held > 0)

    def untaken(self) -> int:
        return self.size + (self.pipe.held if self.pipe is not None else 0)

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if self.closed or self.ended_out:
            return
        size = len(data)
        gave = self.gave
        gave.bytes += size
        gave.messages += 1
        if self.pending or (self.pipe is not None and self.pipe.held):
            self.queue(memoryview(data))
        elif size:
            try:
                sent = self.sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as exc:
                self._write_failed(exc)
                return
            if sent < size:
                self.queue(memoryview(data)[sent:])
        if last:
            self.end()

    def unsent(self, data: bytes, exc: OSError) -> None:
        """A shortcut could not write this."""
        if isinstance(exc, (BlockingIOError, InterruptedError)):
            self.data(data)
        elif not self.closed and not self.ended_out:
            self._write_failed(exc)

    def queue(self, rest: memoryview) -> None:
        """The kernel did not take this: keep it, and pause the hop behind when it is too much."""
        pending = self.waiting()
        if not pending:
            self.loop.add_writer(self.sock, self._writable)
        pending.append(rest)
        self.queued(len(rest))

    def waiting(self) -> deque[memoryview]:
        """`pending`, made if it is not there."""
        if self.pending is None:
            self.pending = deque()
        return self.pending

    def _writable(self) -> None:
        back = self.back  # what is written last may close this hop, and the one behind has its own end to hear of
        try:
            if self.pipe is not None:
                self.pipe.drain(self.sock.fileno())
            if self.pending and (self.pipe is None or not self.pipe.held):
                self._send_pending(self.pending)
        except OSError as exc:
            self._write_failed(exc)
            return
        if not self._waiting():
            self.loop.remove_writer(self.sock)
            if self.ended_out:
                self.leave_bulk()
                self._shut()
        self.eased(back, self.pipe is None or not self.pipe.held)

    def _send_pending(self, pending: deque[memoryview]) -> None:
        """Write until the kernel takes no more. Raises OSError when the socket is broken."""
        try:
            while pending:
                sent = self.sock.send(pending[0])
                self.size -= sent
                if sent < len(pending[0]):
                    pending[0] = pending[0][sent:]
                    return
                pending.popleft()
        except (BlockingIOError, InterruptedError):
            pass

    def end(self, trailer: Any = None) -> None:
        if self.closed or self.ended_out:
            return
        self.ended_out = True
        if not self._waiting():
            self._shut()
        elif self._orphaned():
            self.loop.call_later(GRACE, self._last_bytes, self.taken())

    def _last_bytes(self, taken: int) -> None:
        """The last bytes are not sent yet: as long as the peer takes some, it is there."""
        if self.closed:
            return
        now = self.taken()
        if now > taken:
            self.loop.call_later(GRACE, self._last_bytes, now)
        else:
            self.close()

    def taken(self) -> int:
        """Of the bytes that were written, how many the peer has taken; it may be off by what TLS and frames add, and grows all the same."""
        waits = self.size + (self.pipe.held if self.pipe is not None else 0)
        return int(self.gave.bytes) - waits - unacknowledged(self.sock.fileno())

    def _shut(self) -> None:
        if self.ended_in or self._orphaned():  # closing says the same
            self.close()
            return
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self.broken(from_os(exc, self.side))
        else:
            self.active_at = time.monotonic()

    def _orphaned(self) -> bool:
        """The session is gone: nobody wants what this socket would still read."""
        session = self.session
        return session is not None and session.status == DESTROYED

    def _write_failed(self, exc: OSError) -> None:
        """The peer takes no more. What it said before (an early answer, then a close) is in the kernel and worth passing on."""
        self.ended_out = True
        for _ in range(LAST_WORDS if not self.ended_in else 0):
            try:
                data = self.sock.recv(READ)
            except OSError:
                break
            if not data:
                break
            self.heard(data)
            if self.closed:
                return
        self.broken(from_os(exc, self.side))

    def heard(self, data: bytes) -> None:
        """Last words of a peer that takes no more."""
        self.got.bytes += len(data)
        self.got.messages += 1
        self.to.data(data)

    # ------------------------------------------------------------------ bulk

    def pipe_for_bulk(self) -> Pipe | None:
        """An empty pipe that leads into this socket, or None: there are none left, or this socket cannot write at once."""
        if self._waiting() or self.closed or self.ended_out:
            return None
        if self.pipe is None:
            self.pipe = POOL.take()
        return self.pipe

    def bulk_came(self, moved: int) -> None:
        """`moved` bytes were put into the pipe: write them. What the kernel does not take is pending, and full enough to pause."""
        pipe = self.pipe
        assert pipe is not None
        self.gave.bytes += moved
        self.gave.messages += 1
        try:
            pipe.drain(self.sock.fileno())
        except OSError as exc:
            self._write_failed(exc)
            return
        if pipe.held:
            self.loop.add_writer(self.sock, self._writable)
            self.queued(0, crowded=True)

    def leave_bulk(self) -> None:
        """Give the pipe back unless something is in it. Idempotent."""
        if self.pipe is not None and not self.pipe.held:
            POOL.give_back(self.pipe)
            self.pipe = None

    # ------------------------------------------------------------------ ends

    def reset(self, error: Error) -> None:
        """Give up: what was sent is not complete, so the peer sees an RST, but for an orderly reason."""
        if self.closed:
            return
        if error.kind not in ORDERLY:
            try:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RST)
            except OSError:
                pass  # the socket is beyond options; closing it says enough
        self.close(error)

    def release(self) -> None:
        """Give the socket back, and the pipe."""
        self.loop.remove_reader(self.sock)
        self.loop.remove_writer(self.sock)
        self.sock.close()
        self._forget()
        if self.pipe is not None:
            POOL.give_back(self.pipe)
            self.pipe = None

    def _forget(self) -> None:
        """Nothing waits to be written any more. Whoever has seen the deque must not believe that this socket can be written to."""
        if self.pending is not None:
            self.pending.clear()
            self.pending.append(memoryview(b""))
            self.pending = None

    def takeover(self) -> socket.socket:
        self.loop.remove_reader(self.sock)
        self.loop.remove_writer(self.sock)
        self.closed = self.paused = True
        self._forget()
        self.leave_bulk()
        return self.sock


def shortcut(here: ByteSocket, there: ByteSocket) -> Callable[[], None]:
    """The reader of a busy socket that is relayed to another. Speed trick: what `ByteSocket` does in four calls; no attribute is looked up
    that can be looked up once; read(2) and write(2), which cost Python less than recv and send. Once a socket is closed its descriptor
    may be somebody else's: `here` is not read then, and the `pending` of `there` is not empty."""
    source, target = here.sock.fileno(), there.sock.fileno()
    got, gave, pending = here.got, there.gave, there.waiting()

    def readable() -> None:
        try:
            data = read(source, READ)
        except OSError as exc:
            here.unread(exc)
            return
        size = len(data)
        if not 0 < size < READ or pending or here.to is not there:
            here.came(data)
            return
        got.bytes += size
        got.messages += 1
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


async def connect(
    loop: asyncio.AbstractEventLoop, family: socket.AddressFamily, address: Any, where: str, bind: HostPort | None = None, told: Told = None
) -> socket.socket:
    """A connected non-blocking stream socket. told: hears of it when it has an address, and is not connected yet. Raises Error
    (retry "yes": nothing was sent)."""
    sock: socket.socket | None = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(sock)
        if bind is not None or told is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(bind is not None))
            sock.bind(bind or ("", 0))
        if told is not None:
            told(sock)
        await loop.sock_connect(sock, address)
    except BaseException as exc:
        if sock is not None:
            sock.close()
        if isinstance(exc, OSError):
            raise from_os(exc, "upstream", where, "yes") from None
        raise
    return sock
