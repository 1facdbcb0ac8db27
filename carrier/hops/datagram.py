"""Many datagrams a system call, through ctypes: recvmmsg(2) to receive, one sendmsg(2) with UDP_SEGMENT to send (Linux, udp(7)).

All receivers share `COUNT` slots: a `Receiver` takes up to that many datagrams at once, and what it returns is looked at and sent on
before anybody receives again. Consecutive datagrams of one size for one peer go out as a burst, from the slots that they came into;
the kernel cuts it into datagrams again. Both cost more than they save when a datagram comes alone, so `Adaptive` starts with the plain
calls and takes batches while wake-ups find more than one. Where the platform has none of this, the plain calls are all there is.

The calls never block, so they keep the interpreter's lock (PyDLL): to give it away and take it back costs more.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
import sys
from array import array
from functools import cache, lru_cache
from typing import Any

from carrier.core.stream import Socket

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
    """Receives batches on sockets of one address family (AF_UNSPEC: connected ones, whose sender is known)."""

    def __init__(self, family: int) -> None:
        self.family = family
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
        words = memoryview(self._messages).cast("B").cast("I")
        self._sizes = words[_Message.size.offset // 4 :: ctypes.sizeof(_Message) // 4]
        self._raw = memoryview(self._names).cast("B")
        self._quads = self._raw.cast("Q")
        self._call = library().recvmmsg
        self._args = ctypes.byref(self._messages), COUNT, int(socket.MSG_DONTWAIT), None

    def receive(self, fd: int) -> int:
        """Take what waits; how many datagrams that was. Raises OSError, BlockingIOError when nothing waits."""
        messages, most, flags, no_timeout = self._args
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
def receiver(family: int) -> Receiver | None:
    """The receiver for sockets of this family, or None where the platform has no recvmmsg."""
    return Receiver(family) if library() is not None else None


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
    """

    def __init__(self, size: int, name_size: int) -> None:
        self.size = size
        self._iovecs = _iovecs(size)
        base, width = self._iovecs.buffer_info()[0], ctypes.sizeof(_Iovec)
        self.places = [base + i * width for i in range(COUNT)]
        """Where the parts of a burst begin, by its first slot."""
        control = struct.pack("@NiiH", socket.CMSG_LEN(2), socket.IPPROTO_UDP, UDP_SEGMENT, size).ljust(socket.CMSG_SPACE(2), b"\0")
        self._control = ctypes.create_string_buffer(control, len(control))
        header = _Header(name_size=name_size, control=ctypes.addressof(self._control), control_size=len(control))
        self.words = memoryview(header).cast("B").cast("L")
        self.pointer = ctypes.byref(header)
        self.sendmsg = library().sendmsg


@lru_cache(64)
def _cut(size: int, name_size: int) -> Cut:
    return Cut(size, name_size)


def sockaddr(family: int, address: Any) -> bytes:
    """The kernel's form of an address of recvfrom: struct sockaddr_in or sockaddr_in6."""
    head = struct.pack("=H", family) + struct.pack("!H", address[1])
    if family == socket.AF_INET:
        return head + socket.inet_pton(family, address[0]) + bytes(8)
    flow, scope = address[2:] if len(address) == 4 else (0, 0)
    return head + struct.pack("!I", flow) + socket.inet_pton(family, address[0]) + struct.pack("=I", scope)


class DatagramSocket(Socket):
    """A hop that writes datagrams on `sock`: to `address`, or, if that is None, to the one peer that it is connected to.

    It counts what it sends; a subclass says in `drop` where to count what it could not send, and in `failed` what a broken socket means.
    """

    __slots__ = ("address", "closed", "cut", "largest", "name", "sock", "sockaddr")

    def __init__(self, sock: socket.socket, address: Any) -> None:
        super().__init__()
        self.sock = sock
        self.address = address
        self.sockaddr: ctypes.Array[ctypes.c_char] | None = None
        """The address as the kernel wants it, made for the first burst; `name` is where it lies."""
        self.name = 0
        self.cut: Cut | None = None
        """What sent the last burst; the next one is nearly always of the same size."""
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
        return _cut(size, len(self.sockaddr))

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
    session = end.session
    if session is None or session.hops:
        return False
    joint = getattr(session.destination, "joint", None)
    if joint is not None and session.source is end:  # another protocol on top of the datagrams (carrier/hops/joint.py): its session knows
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
