"""Many datagrams a system call, through ctypes: recvmmsg(2) to receive, one sendmsg(2) with UDP_SEGMENT to send (Linux, udp(7)).

All receivers share `COUNT` slots: a `Receiver` takes up to that many datagrams at once, and what it returns is looked at and sent on
before anybody receives again. Consecutive datagrams of one size for one peer go out as a burst, from the slots that they came into;
the kernel cuts it into datagrams again. Both cost more than they save when a datagram comes alone, so `Adaptive` starts with the plain
calls and takes batches while wake-ups find more than one. Where the platform has none of this, the plain calls are all there is.

The calls never block, so they keep the interpreter's lock (PyDLL): to give it away and take it back costs more.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
from typing import Any

from carrier.core.address import NO_IPV6
from carrier.core.stream import Socket
from carrier.hops.mmsg import COUNT, COUNTED, LONGEST, NAME, PLACE, Cut, Receiver, _cut, enlarge, parts, sockaddr
from carrier.hops.pace import unwatch, watch
from carrier.hops.pktinfo import Local

MOST = 65_507
"""Payload of a UDP datagram over IPv4 at most (RFC 768, RFC 791)."""
BATCHES = 4
"""Batches taken in one wake-up, so that a flood on one socket does not starve the others."""
ALONE = 16
"""Straight wake-ups that found one datagram only, after which the plain calls are taken again."""
LOOK = 5
"""Every so many wake-ups that take the plain calls a second datagram is looked for; until then it makes the next wake-up. Odd,
so that a peer that sends in pairs is found out."""
REFUSES_SEGMENTS = (errno.EMSGSIZE, errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP)
"""A path with a smaller MTU than the segment, a device without checksums, an old kernel."""


class Adaptive:
    """Whether a socket's next wake-up takes a batch. State: `batching`, and `alone`, how many in a row brought one datagram."""

    __slots__ = ("alone", "batching")

    def __init__(self) -> None:
        self.batching = False
        self.alone = 0

    def due(self) -> bool:
        """Is it time to look for a second datagram? Not at each one that came alone: to look in vain costs as much as to receive."""
        self.alone = (self.alone + 1) % LOOK
        return self.alone == 0

    def goes_on(self, count: int) -> bool:
        """A batch brought `count` datagrams; False when the plain calls do again."""
        self.alone = self.alone + 1 if count == 1 else 0
        if self.alone < ALONE:
            return True
        self.alone = 0
        return False


class DatagramReader:
    """How a datagram socket is read: one datagram a wake-up, or batches while wake-ups find more than one.

    Whoever reads `sock` has `_take_one` read a datagram the plain way, says in `deliver` where those of a batch go, in `troubled` what an
    error means, and starts with `watching` false. It has a `receiver` at latest when it asks for batches (`switch`).
    """

    __slots__ = ()
    sock: socket.socket | None
    loop: asyncio.AbstractEventLoop
    watching: bool
    adaptive: Adaptive
    receiver: Receiver | None

    def _readable(self) -> None:
        """One datagram is there, or more."""
        raise NotImplementedError

    def deliver(self, batch: Receiver, count: int) -> bool:
        """Pass on the datagrams of a batch. False: no more are taken in this wake-up."""
        raise NotImplementedError

    def troubled(self, exc: OSError) -> None:
        """The operating system has an error instead of datagrams."""
        raise NotImplementedError

    def watch(self) -> None:
        """Be called when datagrams are there. Idempotent."""
        if self.watching:
            return
        assert self.sock is not None
        self.watching = True  # type: ignore[misc]  # the slot is its subclass's
        if self.adaptive.batching:
            watch(self.loop, self.sock.fileno(), self._take_batches)
        else:
            self.loop.add_reader(self.sock, self._readable)

    def unwatch(self) -> None:
        """No more, until `watch`; to be said before the socket is closed. Idempotent."""
        if not self.watching:
            return
        assert self.sock is not None
        self.watching = False  # type: ignore[misc]
        if self.adaptive.batching:
            unwatch(self.loop, self.sock.fileno())
        else:
            self.loop.remove_reader(self.sock)

    def look_again(self) -> None:
        """The loop has let go of a descriptor with an error."""
        if self.watching:
            self.unwatch()
            self.watch()

    def switch(self, batching: bool) -> None:
        """Take batches from now on, or one datagram a wake-up."""
        if self.watching:
            self.unwatch()
            self.adaptive.batching = batching
            self.watch()

    def _take_batches(self) -> int:
        """Take and pass on what waits; how many datagrams that was."""
        batch, adaptive = self.receiver, self.adaptive
        assert batch is not None
        taken = 0
        for _ in range(BATCHES):
            if not self.watching:
                return taken
            try:
                count = batch.receive(self.sock.fileno())  # type: ignore[union-attr]  # it is there while it is watched
            except (BlockingIOError, InterruptedError):
                return taken
            except OSError as exc:
                self.troubled(exc)
                return taken
            taken += count
            if not self.deliver(batch, count):
                return taken
            if count < COUNT:
                if (count == 1 or adaptive.alone) and not adaptive.goes_on(count):
                    self.switch(False)
                return taken
        return taken


class DatagramSocket(Socket):
    """A hop that writes datagrams on `sock`: to `address`, or, if that is None, to the one peer that it is connected to.

    It counts what it sends; a subclass says in `drop` where to count what it could not send, and in `failed` what a broken socket means.
    local: the address of ours that it sends from; None: the kernel chooses.
    """

    __slots__ = ("address", "closed", "cut", "largest", "local", "name", "sock", "sockaddr")

    def __init__(self, sock: socket.socket, address: Any) -> None:
        super().__init__()
        self.sock = sock
        self.address = address
        self.local: Local | None = None
        self.sockaddr: ctypes.Array[ctypes.c_char] | None = None
        """The address as the kernel wants it, made for the first burst; `name` is where it lies."""
        self.name = 0
        self.cut: Cut | None = None
        """What sent the last burst; the next one is nearly always of the same size."""
        self.largest = LONGEST
        """Datagrams above this are not sent in bursts: the path has refused it."""
        self.closed = False

    @property
    def peer(self) -> Any:
        """Where its datagrams go."""
        return self.address or ("", 0)

    def drop(self, reason: str, count: int = 1) -> None:
        """Count datagrams that go nowhere."""
        raise NotImplementedError

    def failed(self, exc: OSError) -> None:
        """The operating system refused to send, and not because of this datagram; that it was dropped is counted already."""
        raise NotImplementedError

    def send(self, data: bytes | memoryview) -> None:
        """Write one datagram; count it as sent or as dropped."""
        if self.closed:
            return
        try:
            if self.address is None:
                self.sock.send(data)
            elif self.local is not None:
                self.sock.sendmsg((data,), self.local.control, 0, self.address)
            else:
                self.sock.sendto(data, self.address)
        except (BlockingIOError, InterruptedError):
            self.drop("send-buffer-full")
        except OSError as exc:
            if exc.errno == errno.EMSGSIZE:
                if len(data) > MOST and of_bytes(self):
                    for i in range(0, len(data), MOST):
                        self.send(data[i : i + MOST])
                else:
                    self.drop("too-long")
            else:
                self.drop("send-failed")
                self.failed(exc)
        else:
            self.messages_out += 1
            self.bytes_out += len(data)

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        self.send(data)
        if last:
            self.end()

    def pass_on(self, first: int, count: int, size: int) -> None:
        """Hand on the datagrams in `count` slots from `first` on, `size` bytes each: as a burst if the next hop writes datagrams."""
        to = self.to
        if isinstance(to, DatagramSocket):
            to.burst(first, count, size)
            return
        for part in parts(first, count, size):
            self.to.data(bytes(part))
        self.to.flush()

    def burst(self, first: int, count: int, size: int) -> None:
        """Write the datagrams in `count` slots from `first` on, `size` bytes each, at once."""
        if count == 1 or not 0 < size <= self.largest or self.closed:
            self._one_by_one(first, count, size)
            return
        cut = self.cut
        if cut is None or cut.size != size:
            cut = self.cut = self._cut(size)
        words = cut.words
        if self.name:
            words[NAME] = self.name
        words[PLACE] = cut.places[first]
        words[COUNTED] = count
        if cut.sendmsg(self.sock.fileno(), cut.pointer, 0) >= 0:
            self.messages_out += count
            self.bytes_out += size * count
        else:
            self._refused(ctypes.get_errno(), first, count, size)

    def _cut(self, size: int) -> Cut:
        if self.address is None:
            return _cut(size, 0)
        if self.sockaddr is None:
            raw = sockaddr(self.sock.family, self.address)
            self.sockaddr = ctypes.create_string_buffer(raw, len(raw))
            self.name = ctypes.addressof(self.sockaddr)
        return _cut(size, len(self.sockaddr), self.local.raw if self.local is not None else b"")

    def _one_by_one(self, first: int, count: int, size: int) -> None:
        for part in parts(first, count, size):
            self.send(part)

    def _refused(self, number: int, first: int, count: int, size: int) -> None:
        """A burst was not sent, for the reason `number`: nothing of it was."""
        if number in (errno.EAGAIN, errno.EINTR):
            self.drop("send-buffer-full", count)
        elif number in REFUSES_SEGMENTS:
            self.largest = size - 1 if number == errno.EMSGSIZE else 0
            self._one_by_one(first, count, size)
        else:
            self.drop("send-failed", count)
            self.failed(OSError(number, os.strerror(number)))


def of_bytes(end: Socket) -> bool:
    """Does this end of a session write what was read of a stream of bytes? Then what is too long for a datagram may be cut; a message
    may not (and nothing that a transform has made)."""
    session: Any = end.session
    if session is None or session.hops:
        return False
    joint = session.destination.joint
    if joint is not None and session.source is end:  # another protocol on top of the datagrams (carrier/hops/joint.py): its session knows
        return of_bytes(joint.far)
    other: Any = session.listener if session.source is not end else session.cluster
    return other is not None and not other.keeps_borders(other.spec)


def bound(address: tuple[int, Any], every: bool, buffer: int) -> socket.socket:
    """A bound socket with kernel buffers of so many bytes. every: of "::", IPv6 and IPv4, or IPv4 alone where the kernel has nothing
    else. Raises OSError."""
    sock: socket.socket | None = None
    try:
        sock = socket.socket(address[0], socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        enlarge(sock, buffer)
        if address[0] == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if every else 1)
        sock.bind(address[1])
    except OSError as exc:
        if sock is not None:
            sock.close()
        if every and exc.errno in NO_IPV6:
            return bound((socket.AF_INET, ("0.0.0.0", address[1][1])), False, buffer)
        raise
    return sock
