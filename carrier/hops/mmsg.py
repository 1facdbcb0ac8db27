"""Datagrams in batches: recvmmsg(2), sendmsg(2) with UDP_SEGMENT and the kernel's counters, through ctypes."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import sys
from array import array
from functools import cache, lru_cache
from typing import Any

from carrier.hops.pktinfo import SPACE, Local, inside, local_of, words

COUNT = 64
"""Datagrams that one call receives at most."""
LONGEST = 65_535
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
SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_MEMINFO = 32, 33, 55
DROPS = 8
"""Index of the datagrams that found the receive buffer full, among the counters of SO_MEMINFO."""


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


NAME, PLACE, COUNTED = (field.offset // ctypes.sizeof(ctypes.c_void_p) for field in (_Header.name, _Header.parts, _Header.part_count))
"""Words of struct msghdr that every burst fills in. (A view of words is written to in half the time that ctypes takes for a field.)"""


@cache
def library() -> Any:
    """The C library, or None where it is not one that has recvmmsg and the structures above."""
    try:
        library = ctypes.PyDLL(None, use_errno=True) if sys.platform == "linux" else None
        return library if hasattr(library, "recvmmsg") else None
    except OSError:
        return None


@cache
def _memory() -> mmap.mmap:
    """The slots, one for all: there is one event loop, and it handles one wake-up at a time."""
    return mmap.mmap(-1, COUNT * STRIDE)


@cache
def _slots() -> list[memoryview]:
    view = memoryview(_memory())
    return [view[i * STRIDE : i * STRIDE + LONGEST] for i in range(COUNT)]


def _iovecs(size: int) -> array[int]:
    """struct iovec of every slot, with this size: address and size are a word each."""
    base = ctypes.addressof(ctypes.c_char.from_buffer(_memory()))
    return array("L", (word for i in range(COUNT) for word in (base + i * STRIDE, size)))


def parts(first: int, count: int, size: int) -> list[memoryview]:
    """The datagrams in `count` slots from `first` on, each of `size` bytes; valid until the next `receive` of any receiver."""
    return [slot[:size] for slot in _slots()[first : first + count]]


class Receiver:
    """Receives batches on sockets of one address family (AF_UNSPEC: connected ones, whose sender is known). told: the kernel says which of
    our addresses a datagram came to (carrier/hops/pktinfo.py), and senders are kept apart by that, too."""

    def __init__(self, family: int, told: bool = False) -> None:
        self.family = family
        self.told = told
        self._space = SPACE[socket.AddressFamily(family)] if told else 0
        self._controls = ctypes.create_string_buffer(COUNT * self._space or 1)
        self._short = family == socket.AF_INET
        self._parts = _iovecs(LONGEST)
        self._names = ctypes.create_string_buffer(COUNT * ADDRESS)
        self._messages = (_Message * COUNT)()
        base, width = self._parts.buffer_info()[0], ctypes.sizeof(_Iovec)
        for i, message in enumerate(self._messages):
            header = message.header
            header.parts = base + i * width
            header.part_count = 1
            if family != socket.AF_UNSPEC:
                header.name = ctypes.addressof(self._names) + i * ADDRESS
                header.name_size = 16 if family == socket.AF_INET else 28
            if told:
                header.control = ctypes.addressof(self._controls) + i * self._space
        words = memoryview(self._messages).cast("B").cast("I")
        self._sizes = words[_Message.size.offset // 4 :: ctypes.sizeof(_Message) // 4]
        self._raw = memoryview(self._names).cast("B")
        self._quads = self._raw.cast("Q")
        self._told = memoryview(self._controls).cast("B")
        quads = memoryview(self._messages).cast("B").cast("Q")
        self._room = quads[_Header.control_size.offset // 8 :: ctypes.sizeof(_Message) // 8]
        self._whole = memoryview(array("Q", [self._space] * COUNT))
        self._call = library().recvmmsg
        self._args = ctypes.byref(self._messages), COUNT, int(socket.MSG_DONTWAIT), None

    def receive(self, fd: int) -> int:
        """Take what waits; how many datagrams that was. Raises OSError, BlockingIOError when nothing waits."""
        messages, most, flags, no_timeout = self._args
        if self.told:
            self._room[:] = self._whole  # the kernel has written there what it used
        count: int = self._call(fd, messages, most, flags, no_timeout)
        if count < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return count

    def sizes(self, count: int) -> list[int]:
        """The sizes of the first `count` datagrams."""
        return self._sizes[:count].tolist()

    def senders(self, count: int) -> list[Any]:
        """The senders of the first `count` datagrams, as keys that are equal when the addresses are."""
        if self.told:
            return list(zip(self._senders(count), self._locals(count), strict=True))
        return self._senders(count)

    def _locals(self, count: int) -> list[Any]:
        size, first, last = words(self.family)
        quads = self._told[: count * self._space].cast("Q")
        if last - first == 1:
            return quads[first::size].tolist()
        return list(zip(*(quads[i::size].tolist() for i in range(first, last)), strict=True))

    def local(self, i: int) -> Local | None:
        """Which of our addresses datagram `i` came to, if it was asked for."""
        if not self.told:
            return None
        return local_of(self.family, inside(self.family, self._told[i * self._space : (i + 1) * self._space]))

    def _senders(self, count: int) -> list[Any]:
        if self._short:  # family, port and address are 8 bytes, the rest is padding
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


@cache
def receiver(family: int, told: bool = False) -> Receiver | None:
    """The receiver for sockets of this family, or None where the platform has no recvmmsg."""
    return Receiver(family, told) if library() is not None else None


def run_length(sizes: list[int], first: int, last: int) -> int:
    """How many datagrams from `first` on, before `last`, are of one size and fit into one burst."""
    size, most = sizes[first], last - first
    if most > SEGMENTS or size * most > BURST or not size:
        most = max(1, min(most, SEGMENTS, BURST // size)) if size else 1
    run = sizes if most == len(sizes) else sizes[first : first + most]
    if run.count(size) == most:  # nearly always; the loop below is the same in ten times the time
        return most
    length = 1
    while run[length] == size:
        length += 1
    return length


class Cut:
    """What sends bursts from the slots, cut into datagrams of `size` bytes, to addresses of `name_size` bytes (0: on connected sockets).

    It is struct msghdr, in which each burst fills in address (where there is one), place and count: words[NAME], [PLACE] and [COUNTED].
    more: another control message.
    """

    def __init__(self, size: int, name_size: int, more: bytes = b"") -> None:
        self.size = size
        self._iovecs = _iovecs(size)
        base, width = self._iovecs.buffer_info()[0], ctypes.sizeof(_Iovec)
        self.places = [base + i * width for i in range(COUNT)]
        """Where the parts of a burst begin, by its first slot."""
        control = struct.pack("@NiiH", socket.CMSG_LEN(2), socket.IPPROTO_UDP, UDP_SEGMENT, size).ljust(socket.CMSG_SPACE(2), b"\0")
        control += more
        self._control = ctypes.create_string_buffer(control, len(control))
        header = _Header(name_size=name_size, control=ctypes.addressof(self._control), control_size=len(control))
        self.words = memoryview(header).cast("B").cast("L")
        self.pointer = ctypes.byref(header)
        self.sendmsg = library().sendmsg


@lru_cache(64)
def _cut(size: int, name_size: int, more: bytes = b"") -> Cut:
    return Cut(size, name_size, more)


def sockaddr(family: int, address: Any) -> bytes:
    """The kernel's form of an address of recvfrom: struct sockaddr_in or sockaddr_in6."""
    head = struct.pack("=H", family) + struct.pack("!H", address[1])
    if family == socket.AF_INET:
        return head + socket.inet_pton(family, address[0]) + bytes(8)
    flow, scope = address[2:] if len(address) == 4 else (0, 0)
    return head + struct.pack("!I", flow) + socket.inet_pton(family, address[0]) + struct.pack("=I", scope)


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
