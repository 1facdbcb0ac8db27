"""A byte-stream socket as a hop: TCP and UNIX stream sockets, accepted or connected, on either end of a session or in its middle.

It owns the raw non-blocking socket and the loop's readiness calls, no transport: bulk relays take the descriptor over (DESIGN
section 6), and a transport's descriptor cannot be watched. One `recv` a wake-up; a write goes out at once, and what the kernel does
not take waits in `pending` while the hop behind is paused. Both directions close on their own (half-close); the socket is closed
when both have ended, and aborted (RST) on a reset.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from typing import Any

from carrier.errors import Error, Side, from_os
from carrier.stream import HIGH, NOWHERE, Socket

READ = 64 * 1024
LINGER_RST = struct.pack("ii", 1, 0)
ORDERLY = ("killed", "drain", "no-route", "closed")
"""Resets that close in order instead of aborting: nothing that was sent is wrong."""


class ByteSocket(Socket):
    """See the module. side: whose end this is, for the errors."""

    __slots__ = ("active_at", "closed", "ended_in", "ended_out", "full", "loop", "paused", "pending", "side", "size", "sock")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, side: Side) -> None:
        super().__init__()
        self.loop = loop
        self.sock = sock
        self.side: Side = side
        self.pending: deque[memoryview] = deque()
        self.size = 0
        self.full = False
        self.paused = True
        self.ended_in = self.ended_out = self.closed = False
        self.active_at = time.monotonic()

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
        try:
            data = self.sock.recv(READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self.broken(from_os(exc, self.side))
            return
        if data:
            self.bytes_in += len(data)
            self.messages_in += 1
            self.to.data(data)
            self.to.flush()
        else:
            self._eof()

    def _eof(self) -> None:
        self.pause()
        self.ended_in = True
        session = self.session
        if session is not None and session.source is self:
            session.source_done = True
        self.to.end()
        if self.ended_out and not self.pending:
            self.close()
        else:
            self.active_at = time.monotonic()

    # ------------------------------------------------------------------ writing

    def head(self, head: Any, last: bool = False) -> None:
        """A byte stream has no heads; only a message's end shows."""
        if last:
            self.end()

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if self.closed or self.ended_out:
            return
        self.bytes_out += len(data)
        self.messages_out += 1
        if self.pending:
            self._queue(memoryview(data))
        elif data:
            try:
                sent = self.sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as exc:
                self.broken(from_os(exc, self.side))
                return
            if sent < len(data):
                self._queue(memoryview(data)[sent:])
        if last:
            self.end()

    def _queue(self, rest: memoryview) -> None:
        if not self.pending:
            self.loop.add_writer(self.sock, self._writable)
        self.pending.append(rest)
        self.size += len(rest)
        if self.size >= HIGH and not self.full:
            self.full = True
            self.back.pause()

    def _writable(self) -> None:
        pending = self.pending
        try:
            while pending:
                sent = self.sock.send(pending[0])
                self.size -= sent
                if sent < len(pending[0]):
                    pending[0] = pending[0][sent:]
                    break
                pending.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as exc:
            self.broken(from_os(exc, self.side))
            return
        if not pending:
            self.loop.remove_writer(self.sock)
            if self.ended_out:
                self._shut()
        if self.full and self.size < HIGH // 2:
            self.full = False
            self.back.resume()

    def end(self, trailer: Any = None) -> None:
        if self.closed or self.ended_out:
            return
        self.ended_out = True
        if not self.pending:
            self._shut()

    def _shut(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self.broken(from_os(exc, self.side))
            return
        if self.ended_in:
            self.close()
        else:
            self.active_at = time.monotonic()

    # ------------------------------------------------------------------ ends

    def status(self) -> str:
        return "END" if self.closed else "READY"

    def stop(self, error: Error | None = None) -> None:
        """The reader of what this socket reads is gone."""
        if error is not None:
            self.reset(error)
        else:
            self.pause()

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

    def broken(self, error: Error) -> None:
        """The socket failed: tell both neighbours."""
        if self.closed:
            return
        to, back = self.to, self.back
        self.close(error)
        to.reset(error)
        back.stop(error)

    def close(self, error: Error | None = None) -> None:
        """Release the descriptor; the source's closing is the session's end. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self.loop.remove_reader(self.sock)
        self.loop.remove_writer(self.sock)
        self.sock.close()
        self.pending.clear()
        session = self.session
        if session is not None and session.source is self:
            self.to, to = NOWHERE, self.to
            session.close(error)
            if error is not None:
                to.reset(error)

    def takeover(self) -> socket.socket:
        self.loop.remove_reader(self.sock)
        self.loop.remove_writer(self.sock)
        self.closed = True
        return self.sock


async def connect(
    loop: asyncio.AbstractEventLoop, family: socket.AddressFamily, address: Any, where: str, bind: tuple[str, int] | None = None
) -> socket.socket:
    """A connected non-blocking stream socket. Raises Error (retry "yes": nothing was sent)."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if bind is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(bind)
        await loop.sock_connect(sock, address)
    except OSError as exc:
        sock.close()
        raise from_os(exc, "upstream", where, "yes") from None
    except BaseException:
        sock.close()
        raise
    return sock
