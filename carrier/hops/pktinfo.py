"""Which of our addresses a datagram came to, and how to answer from it (ip(7) IP_PKTINFO, ipv6(7) IPV6_PKTINFO).

A socket that is bound to every address has to ask for that, or its answers leave from whichever address the route suggests, and whoever
asked another one does not know them. A `Local` is what the kernel has told, fit to be given back; on an IPv6 socket IPv4 is mapped.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

IP_PKTINFO, IPV6_RECVPKTINFO, IPV6_PKTINFO = 8, 49, 50
WISH = {socket.AF_INET: (socket.IPPROTO_IP, IP_PKTINFO), socket.AF_INET6: (socket.IPPROTO_IPV6, IPV6_RECVPKTINFO)}
SENT = {socket.AF_INET: (socket.IPPROTO_IP, IP_PKTINFO), socket.AF_INET6: (socket.IPPROTO_IPV6, IPV6_PKTINFO)}
SIZE = {socket.AF_INET: 12, socket.AF_INET6: 20}
"""Bytes of struct in_pktinfo and in6_pktinfo."""
SPACE = {family: socket.CMSG_SPACE(size) for family, size in SIZE.items()}
"""Bytes of the control message that has them, padded."""
LINK_LOCAL, MULTICAST = (b"\xfe\x80", b"\xfe\x90", b"\xfe\xa0", b"\xfe\xb0"), b"\xff"


class Local(NamedTuple):
    """One of our addresses. control: for socket.sendmsg; raw: the same as the kernel wants it."""

    address: str
    control: list[tuple[int, int, bytes]]
    raw: bytes

    def __hash__(self) -> int:
        return hash(self.raw)


def wish(sock: socket.socket) -> bool:
    """Have the kernel tell, if the socket is bound to every address; False: it is not, or it cannot."""
    if sock.getsockname()[0] not in ("0.0.0.0", "::"):
        return False
    try:
        sock.setsockopt(*WISH[socket.AddressFamily(sock.family)], 1)
    except OSError:
        return False
    return True


def told(family: int, ancillary: list[tuple[int, int, bytes]]) -> Local | None:
    """What came with a datagram, as socket.recvmsg gives it."""
    wanted = SENT[socket.AddressFamily(family)]
    return next((local_of(family, data) for level, kind, data in ancillary if (level, kind) == wanted), None)


_KNOWN: dict[bytes, Local | None] = {}
MOST_KNOWN = 1024


def local_of(family: int, data: bytes) -> Local | None:
    """Of struct in_pktinfo or in6_pktinfo; None: it is no address to answer from."""
    if data in _KNOWN:
        return _KNOWN[data]
    if len(_KNOWN) >= MOST_KNOWN:
        _KNOWN.clear()
    found = _KNOWN[data] = _local(family, data)
    return found


def _local(family: int, data: bytes) -> Local | None:
    if family == socket.AF_INET:  # interface, our address, the one in the packet's head: for a broadcast they differ
        ours = data[4:8]
        if ours == bytes(4):
            return None
        return _made(socket.AF_INET, socket.inet_ntop(family, ours), struct.pack("=I4s4x", 0, ours))
    ours, interface = data[:16], data[16:20]
    if ours[:1] == MULTICAST or ours == bytes(16):
        return None
    scoped = ours[:2] in LINK_LOCAL  # of those there may be one on each interface
    return _made(socket.AF_INET6, socket.inet_ntop(family, ours), ours + (interface if scoped else bytes(4)))


def _made(family: socket.AddressFamily, address: str, data: bytes) -> Local:
    level, kind = SENT[family]
    raw = struct.pack("@Nii", socket.CMSG_LEN(len(data)), level, kind) + data
    return Local(address, [(level, kind, data)], raw.ljust(socket.CMSG_SPACE(len(data)), b"\0"))


def words(family: int) -> tuple[int, int, int]:
    """Where the words of 8 bytes that tell addresses apart are in a control message of recvmsg(2): its size in words, first, and behind
    the last."""
    return (4, 2, 3) if family == socket.AF_INET else (5, 2, 5)


def inside(family: int, raw: Any) -> bytes:
    """The struct in a control message."""
    return bytes(raw[16 : 16 + SIZE[socket.AddressFamily(family)]])
