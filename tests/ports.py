"""Ports for tests: free now, and nobody's a moment later either.

A port that the kernel gives for 0 is one of those that it also gives to every socket that connects, of this process and of its
neighbours: who binds it a moment later finds it taken now and then, or shares it with another test's server. These are from below that
range, in turn, from a place of this process's own, so that neighbours (pytest-xdist's workers, another run) ask for others.
"""

from __future__ import annotations

import os
import socket
from itertools import count

_FIRST, _NUMBER = 10_000, 22_000  # below 32,768, where Linux begins to give ports by itself (ip_local_port_range); above well-known ones
_next = count(os.getpid() * 7919)  # processes that are started one after the other begin far from each other


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of this machine that nobody has bound for sockets of this kind, on any address, and that was not given before."""
    return free_ports(1, kind)[0]


def free_ports(number: int, *kinds: socket.SocketKind) -> list[int]:
    """As many ports, each free for all of these kinds, or for TCP."""
    found: list[int] = []
    while len(found) < number:
        port = _FIRST + next(_next) % _NUMBER
        if all(_free(port, kind) for kind in kinds or (socket.SOCK_STREAM,)):
            found.append(port)
    return found


def _free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as sock:
        try:
            sock.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True
