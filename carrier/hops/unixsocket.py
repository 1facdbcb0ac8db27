"""UNIX sockets: modes, addresses, and files that nobody answers at."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping
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
