"""UNIX sockets: modes, addresses, and files that nobody answers at."""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from carrier.errors import Problem

MODES = {"stream": socket.SOCK_STREAM, "seqpacket": socket.SOCK_SEQPACKET, "dgram": socket.SOCK_DGRAM}


def mode_of(spec: Mapping[str, Any]) -> str:
    """The mode that a spec means; one that makes no sense counts as not given."""
    mode = spec.get("mode")
    return mode if isinstance(mode, str) and mode in MODES else "stream"


def check_mode(spec: Mapping[str, Any], path: str) -> list[Problem]:
    """Everything wrong with `spec.mode`, by the strict standard."""
    mode = spec.get("mode", "stream")
    found = [] if mode in MODES else [Problem(f"unknown mode {mode!r}", f"{path}.mode", seen=repr(mode), allowed=", ".join(MODES))]
    if mode != "stream" and spec.get("framing", "none") != "none":
        found.append(Problem(f"mode {mode} keeps the limits of messages itself", f"{path}.framing", seen=repr(spec["framing"])))
    return found


def address_of(filename: str) -> str | bytes:
    """The socket address of a name. Raises ValueError."""
    if not filename or "\0" in filename:
        raise ValueError(f"expected a file name, got {filename!r}")
    return b"\0" + filename[1:].encode() if filename[0] == "@" else filename


def credentials(sock: socket.socket) -> tuple[int, int]:
    """Process and user at the other end, as the kernel knows them (SO_PEERCRED, unix(7)): whoever connected, or whoever listens."""
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return pid, uid


def leads_to(sock: socket.socket, files: Iterable[str]) -> bool:
    """Has a connected socket come to one of our own that is bound to one of these names? The kernel says who listens and what that
    name is, whatever name led there: a link, another spelling, a folder that is mounted twice."""
    return credentials(sock)[0] == os.getpid() and sock.getpeername() in files


def identity(filename: str) -> tuple[int, int] | None:
    """Device and inode of a file, through links; None: it is not there."""
    try:
        found = os.stat(filename)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def remove_stale(filename: str) -> None:
    """Remove a socket's file if nobody listens at it any more. Raises OSError."""
    if filename[:1] == "@":
        return
    try:
        if not stat.S_ISSOCK(os.stat(filename).st_mode):
            return
    except FileNotFoundError:
        return
    for mode in MODES.values():
        with socket.socket(socket.AF_UNIX, mode | socket.SOCK_NONBLOCK) as probe:
            try:
                probe.connect(filename)
            except ConnectionRefusedError:
                os.unlink(filename)
                return
            except OSError:
                continue  # of another mode, or its queue is full: it is in use
            return
