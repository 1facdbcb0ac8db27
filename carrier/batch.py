"""Many datagrams a system call: recvmmsg(2) through ctypes to receive, one sendmsg(2) with UDP_SEGMENT to send (Linux, udp(7)).

A `Receiver` takes up to `COUNT` datagrams at once into buffers that all receivers share: what it returns is looked at and sent on
before anybody receives again. Consecutive datagrams of one size for one peer go out as a burst, which the kernel cuts into datagrams
again. Both cost more than they save when a datagram comes alone, so `Adaptive` starts with the plain calls and takes batches while
wake-ups find more than one. Where the platform has none of this, the plain calls are all there is.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
from functools import cache, lru_cache
from typing import Any

from carrier.stream import Socket

COUNT = 64
"""Datagrams that one call receives at most."""
LONGEST = 65_535
MOST = 65_507
"""Payload of a UDP datagram over IPv4 at most (RFC 768, RFC 791)."""
STRIDE = LONGEST + 1 + 2112
"""Bytes from one buffer to the next; only the pages that datagrams touch become resident. No multiple of a power of two: buffers
64 KiB apart fall on one line of the processor's cache each, and evict each other."""
ADDRESS = 32
"""Bytes per sender's address: sockaddr_in6 has 28."""
UDP_SEGMENT = 103
SEGMENTS = 64
"""Datagrams in a burst at most (UDP_MAX_SEGMENTS of older kernels)."""
BURST = 65_000
"""Bytes in a burst at most: it is one IP datagram until the kernel cuts it."""
ALONE = 16
"""Straight wake-ups that found one datagram only, after which the plain calls are taken again."""
LOOK = 5
"""Every so many wake-ups that take the plain calls a second datagram is looked for; until then it makes the next wake-up. Odd,
so that a peer that sends in pairs is found out."""
SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_MEMINFO = 32, 33, 55
DROPS = 8
"""Index of the datagrams that found the receive buffer full, among the counters of SO_MEMINFO."""
REFUSES_SEGMENTS = (errno.EMSGSIZE, errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP)
"""A path with a smaller MTU than the segment, a device without checksums, an old kernel."""


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


class _Header(ctypes.Structure):
    """struct msghdr (recvmsg(2))."""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("parts", ctypes.c_void_p),
        ("part_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _Message(ctypes.Structure):
    """struct mmsghdr (recvmmsg(2)): a header, padded, and the length that came."""

    _fields_ = [("header", _Header), ("size", ctypes.c_uint32)]


@cache
def _recvmmsg() -> Any:
    """The C library's function, or None."""
    try:
        return ctypes.CDLL(None, use_errno=True).recvmmsg
    except (OSError, AttributeError):
        return None


@cache
def _memory() -> mmap.mmap:
    """The buffers, one for all: there is one event loop, and it handles one wake-up at a time."""
    return mmap.mmap(-1, COUNT * STRIDE)


class Receiver:
    """Receives batches on sockets of one address family (AF_UNSPEC: connected ones, whose sender is known)."""

    def __init__(self, family: int) -> None:
        self.family = family
        view = memoryview(_memory())
        self.slots = [view[i * STRIDE : i * STRIDE + LONGEST] for i in range(COUNT)]
        self.prefixes: dict[int, list[memoryview]] = {}
        """Size -> every slot cut to that size: most datagrams of a moment are of few sizes."""
        base = ctypes.addressof(ctypes.c_char.from_buffer(_memory()))
        self._parts = (_Iovec * COUNT)(*(_Iovec(base + i * STRIDE, LONGEST) for i in range(COUNT)))
        self._names = ctypes.create_string_buffer(COUNT * ADDRESS)
        self._messages = (_Message * COUNT)()
        for i, message in enumerate(self._messages):
            header = message.header
            header.parts = ctypes.addressof(self._parts) + i * ctypes.sizeof(_Iovec)
            header.part_count = 1
            if family != socket.AF_UNSPEC:
                header.name = ctypes.addressof(self._names) + i * ADDRESS
                header.name_size = 16 if family == socket.AF_INET else 28
        words = memoryview(self._messages).cast("B").cast("I")
        self._sizes = words[_Message.size.offset // 4 :: ctypes.sizeof(_Message) // 4]
        self._raw = memoryview(self._names).cast("B")
        self._quads = self._raw.cast("Q")
        self._call = _recvmmsg()
        self._args = ctypes.byref(self._messages), ctypes.c_uint(COUNT), ctypes.c_int(socket.MSG_DONTWAIT), None

    def receive(self, fd: int) -> int:
        """Take what waits; how many datagrams that was. Raises OSError, BlockingIOError when nothing waits."""
        count: int = self._call(fd, *self._args)
        if count < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return count

    def sizes(self, count: int) -> list[int]:
        """The sizes of the first `count` datagrams."""
        return self._sizes[:count].tolist()

    def senders(self, count: int) -> list[Any]:
        """The senders of the first `count` datagrams, as keys that are equal when the addresses are."""
        if self.family == socket.AF_INET:  # family, port and address are 8 bytes, the rest is padding
            return self._quads[: count * 4 : 4].tolist()
        quads = self._quads[: count * 4].tolist()
        return list(zip(quads[0::4], quads[1::4], quads[2::4], quads[3::4], strict=True))

    def address(self, i: int) -> Any:
        """The sender of datagram `i`, as recvfrom gives it."""
        raw = bytes(self._raw[i * ADDRESS : (i + 1) * ADDRESS])
        (port,) = struct.unpack_from("!H", raw, 2)
        if self.family == socket.AF_INET:
            return socket.inet_ntop(socket.AF_INET, raw[4:8]), port
        (flow,) = struct.unpack_from("!I", raw, 4)
        (scope,) = struct.unpack_from("=I", raw, 24)
        return socket.inet_ntop(socket.AF_INET6, raw[8:24]), port, flow, scope

    def parts(self, first: int, last: int, size: int) -> list[memoryview]:
        """Datagrams first..last-1, each of `size` bytes; valid until the next `receive` of any receiver."""
        prefixes = self.prefixes.get(size)
        if prefixes is None:
            if len(self.prefixes) >= 16:
                self.prefixes.clear()
            prefixes = self.prefixes[size] = [slot[:size] for slot in self.slots]
        return prefixes[first:last]


@cache
def receiver(family: int) -> Receiver | None:
    """The receiver for sockets of this family, or None where the platform has no recvmmsg."""
    return Receiver(family) if _recvmmsg() is not None else None


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

    def found(self, count: int) -> None:
        """A batch brought `count` datagrams."""
        if count > 1:
            self.alone = 0
        else:
            self.alone += 1
            if self.alone >= ALONE:
                self.batching = False
                self.alone = 0


def run_length(sizes: list[int], first: int, last: int) -> int:
    """How many datagrams from `first` on, before `last`, are of one size and fit into one burst."""
    size = sizes[first]
    most = max(1, min(last - first, SEGMENTS, BURST // size)) if size else 1
    run = sizes[first : first + most]
    if run.count(size) == most:  # nearly always; the loop below is the same in ten times the time
        return most
    length = 1
    while run[length] == size:
        length += 1
    return length


@lru_cache(256)
def _segment(size: int) -> list[tuple[int, int, bytes]]:
    """The ancillary data that cuts a burst into datagrams of `size` bytes."""
    return [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", size))]


class DatagramSocket(Socket):
    """A hop that writes datagrams on `sock`: to `address`, or, if that is None, to the one peer that it is connected to.

    It counts what it sends; a subclass says in `drop` where to count what it could not send, and in `failed` what a broken socket means.
    """

    __slots__ = ("address", "closed", "largest", "sock")

    def __init__(self, sock: socket.socket, address: Any) -> None:
        super().__init__()
        self.sock = sock
        self.address = address
        self.largest = LONGEST
        """Datagrams above this are not sent in bursts: the path has refused it."""
        self.closed = False

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

    def burst(self, parts: list[memoryview], size: int) -> None:
        """Write datagrams of `size` bytes each at once; `parts` need only be valid until this returns."""
        count = len(parts)
        if count == 1 or not 0 < size <= self.largest or self.closed:
            for part in parts:
                self.send(part)
            return
        try:
            if self.address is None:
                self.sock.sendmsg(parts, _segment(size))
            else:
                self.sock.sendmsg(parts, _segment(size), 0, self.address)
        except (BlockingIOError, InterruptedError):
            self.drop("send-buffer-full", count)
        except OSError as exc:
            if exc.errno not in REFUSES_SEGMENTS:
                self.drop("send-failed", count)
                self.failed(exc)
                return
            self.largest = size - 1 if exc.errno == errno.EMSGSIZE else 0
            for part in parts:
                self.send(part)
        else:
            self.messages_out += count
            self.bytes_out += size * count


def of_bytes(end: Socket) -> bool:
    """Does this end of a session write what was read of a stream of bytes? Then what is too long for a datagram may be cut; a message
    may not (and nothing that a transform has made)."""
    session = end.session
    if session is None or session.hops:
        return False
    joint = getattr(session.destination, "joint", None)
    if joint is not None and session.source is end:  # another protocol on top of the datagrams (carrier/joint.py): its session knows
        return of_bytes(joint.far)
    other: Any = session.listener if session.source is not end else session.cluster
    return other is not None and (other.kind_of(other.spec) == "byte" or other.protocol == "HTTP")


def enlarge(sock: socket.socket, size: int) -> None:
    """Ask for buffers of `size` bytes; past the system's limit where we may (SO_RCVBUFFORCE, socket(7))."""
    for force, plain_option in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, size)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, plain_option, size)


def kernel_drops(sock: socket.socket) -> int:
    """Datagrams that the kernel dropped because the receive buffer of `sock` was full."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * (DROPS + 1))
        return int(struct.unpack_from("=I", raw, 4 * DROPS)[0])
    except (OSError, struct.error):
        return 0
