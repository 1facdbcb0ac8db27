"""Many datagrams a system call, through ctypes: recvmmsg(2) and sendmmsg(2) of Linux.

The load and the backend share one core, so a datagram has to cost them less than it costs the proxy. `Batch` owns the buffers; what was
received can be sent back as it lies there (`recv` then `reply`), which is all that an echo needs. `Outbox` keeps messages ready to go.
"""

import ctypes
import errno
import os
import socket
from collections.abc import Iterable, Sequence

_libc = ctypes.CDLL(None, use_errno=True)
ADDRESS_SIZE = 28  # sockaddr_in6, the larger one


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


class _Header(ctypes.Structure):
    """struct mmsghdr: struct msghdr and the length that came."""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("parts", ctypes.c_void_p),
        ("part_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("padding", ctypes.c_uint32),  # of the inner struct
        ("size", ctypes.c_uint32),
    ]


class Batch:
    """Room for up to `count` received datagrams of up to `size` bytes, on sockets that never block."""

    def __init__(self, count: int, size: int):
        self.count = count
        self.size = size
        self._memory = ctypes.create_string_buffer(count * size)
        self._view = memoryview(self._memory).cast("B")
        self._names = ctypes.create_string_buffer(count * ADDRESS_SIZE)
        self._parts = (_Iovec * count)()
        self._headers = (_Header * count)()
        for index in range(count):
            self._parts[index].base = ctypes.addressof(self._memory) + index * size
            self._headers[index].parts = ctypes.addressof(self._parts[index])
            self._headers[index].part_count = 1
            self._headers[index].name = ctypes.addressof(self._names) + index * ADDRESS_SIZE
        self._touched = count

    def recv(self, sock: socket.socket) -> int:
        """Take what waits, return how many; 0 when nothing does. Raises OSError (a refused connected socket: ECONNREFUSED)."""
        for index in range(self._touched):
            self._parts[index].size = self.size
            self._headers[index].name_size = ADDRESS_SIZE
        self._touched = _checked(_libc.recvmmsg(sock.fileno(), self._headers, self.count, socket.MSG_DONTWAIT, None))
        return self._touched

    def message(self, index: int) -> bytes:
        """Datagram `index` of the last `recv`."""
        start = index * self.size
        return bytes(self._view[start : start + self._headers[index].size])

    def reply(self, sock: socket.socket) -> int:
        """Send what the last `recv` took back to where each came from; returns how many the kernel took."""
        for index in range(self._touched):
            self._parts[index].size = self._headers[index].size
        return _sendmmsg(sock, self._headers, self._touched)

    def answer_last(self, sock: socket.socket, message: bytes) -> None:
        """Send `message` to the peer of the last datagram of the last `recv` (IPv4)."""
        last = self._headers[self._touched - 1]
        address = ctypes.string_at(last.name, last.name_size)
        port, host = int.from_bytes(address[2:4], "big"), socket.inet_ntoa(address[4:8])
        sock.sendto(message, (host, port))


class Outbox:
    """Messages that do not change, sent again and again on connected sockets: `send` says which of them."""

    def __init__(self, messages: Sequence[bytes]):
        self.count = len(messages)
        self._messages = [ctypes.create_string_buffer(message, len(message)) for message in messages]
        self._places = [(ctypes.addressof(memory), len(memory)) for memory in self._messages]
        self._parts = (_Iovec * self.count)()
        self._headers = (_Header * self.count)()
        for index in range(self.count):
            self._headers[index].parts = ctypes.addressof(self._parts[index])
            self._headers[index].part_count = 1

    def send(self, sock: socket.socket, indices: Iterable[int]) -> int:
        """Send the messages at `indices` (each at most once); returns how many the kernel took."""
        count = 0
        for index in indices:
            part = self._parts[count]
            part.base, part.size = self._places[index]
            count += 1
        return _sendmmsg(sock, self._headers, count)


def _sendmmsg(sock: socket.socket, headers: "ctypes.Array[_Header]", count: int) -> int:
    return _checked(_libc.sendmmsg(sock.fileno(), headers, count, socket.MSG_DONTWAIT)) if count else 0


def _checked(result: int) -> int:
    if result >= 0:
        return result
    number = ctypes.get_errno()
    if number in (errno.EAGAIN, errno.EINTR):
        return 0
    raise OSError(number, os.strerror(number))
