"""Who has an address already? Linux tells it in /proc: the inode of the socket by port (proc(5), net/tcp), then the process that holds it.

Asked once, when the process does not start because of it. Processes of other users are visible to root only: then there is no answer.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

LISTEN = "0A"
"""State of a listening TCP socket in /proc/net/tcp."""


def occupant(port: int, udp: bool = False, root: str = "/proc") -> str:
    """ "NAME (process ID)" of a process that has this port; "" when nobody visible has it. root: where /proc is."""
    inodes = {f"socket:[{inode}]" for inode in _inodes(port, udp, root)}
    for process in _processes(root) if inodes else ():
        with contextlib.suppress(OSError):  # it is another user's, or gone by now
            folder = f"{root}/{process}/fd"
            if any(_link(f"{folder}/{descriptor}") in inodes for descriptor in os.listdir(folder)):
                return f"{_name(process, root)} (process {process})"
    return ""


def _inodes(port: int, udp: bool, root: str) -> Iterator[str]:
    """Of the sockets that are bound to the port, in TCP those that listen."""
    wanted = f":{port:04X}"
    for family in ("udp", "udp6") if udp else ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"{root}/net/{family}", encoding="ascii") as lines:
            for fields in map(str.split, lines):
                if fields[1].endswith(wanted) and (udp or fields[3] == LISTEN):
                    yield fields[9]


def _processes(root: str) -> list[str]:
    return [name for name in os.listdir(root) if name.isdigit()]


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _name(process: str, root: str) -> str:
    with open(f"{root}/{process}/comm", encoding="utf-8", errors="replace") as comm:
        return comm.read().strip()
