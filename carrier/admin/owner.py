"""Whose is the other end of a TCP connection of this machine? The kernel's table of TCP sockets tells it (proc(5), net/tcp).

It is the table of our own network namespace, and says who made the socket. A socket that nobody holds any more is listed as root's, with
no inode: it is nobody's. So is one of our own process: what comes from there came through one of our clusters.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys

TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
NOBODY = 65_534
"""What a user namespace shows of users that it does not know."""
EVERYBODY = ["0", "0", "4294967295"]
"""The map of a namespace that knows all of them."""


def of(peer: tuple[str, int], local: tuple[str, int], ours_is_nobody: bool = True) -> int | None:
    """The user whose socket is at `peer`, connected to `local`; None: it is not of this machine, nobody's, or cannot be told."""
    for table in TABLES:
        for version in (4, 6):
            ends = _spelled(peer, version), _spelled(local, version)
            if None in ends:
                continue
            found = _look_up(table, f" {ends[0]} {ends[1]} ".encode())
            if found is not None:
                uid, inode = found
                nobody = not inode or (uid == NOBODY and not _knows_everybody()) or (ours_is_nobody and _is_ours(inode))
                return None if nobody else uid
    return None


def _spelled(end: tuple[str, int], version: int) -> str | None:
    """An end as the tables write it: words of 32 bits in the order of this machine. version 6: of an IPv4 address, the mapped one."""
    try:
        ip = ipaddress.ip_address(end[0].partition("%")[0])
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    if version == 4:
        four = mapped or ip
        packed = four.packed if four.version == 4 else b""
    else:
        packed = ip.packed if ip.version == 6 else b"\0" * 10 + b"\xff\xff" + ip.packed
    words = [int.from_bytes(packed[i : i + 4], sys.byteorder) for i in range(0, len(packed), 4)]
    return f"{''.join(f'{word:08X}' for word in words)}:{end[1]:04X}" if words else None


def _look_up(table: str, ends: bytes) -> tuple[int, int] | None:
    """User and inode of the socket with these ends."""
    with contextlib.suppress(OSError), open(table, "rb") as file:
        while lines := file.readlines(1 << 16):
            text = b"".join(lines)
            at = text.find(ends)
            if at >= 0:
                fields = text[at : text.find(b"\n", at)].split()  # ends, state, queues, timer, retransmits, uid, timeout, inode
                return int(fields[6]), int(fields[8])
    return None


def _knows_everybody() -> bool:
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return file.read().split() == EVERYBODY
    except OSError:
        return False


def _is_ours(inode: int) -> bool:
    """Is a socket one of this process?"""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError, ValueError):
            if os.fstat(int(name)).st_ino == inode and os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                return True
    return False
