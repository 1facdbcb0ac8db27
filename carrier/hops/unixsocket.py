"""UNIX sockets: modes, addresses, and files that nobody answers at."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import socket
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
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


def check_file(options: Mapping[str, Any], path: str) -> list[Problem]:
    """Everything wrong with the options of a socket's file: `mode`, `user`, `group`."""
    found = []
    if "mode" in options and _mode(options["mode"]) is None:
        found.append(Problem("expected the mode of a file", f"{path}.mode", seen=repr(options["mode"]), allowed='octal, as "0660"'))
    for name, look in (("user", pwd.getpwnam), ("group", grp.getgrnam)):
        if name in options and _number(options[name], look) is None:
            found.append(Problem(f"there is no such {name}", f"{path}.{name}", seen=repr(options[name]), allowed="a name or a number"))
    return found


def _mode(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch("0?o?[0-7]{3,4}", value):
        return int(value.replace("o", ""), 8)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777 else None


def _number(value: Any, look: Callable[[str], Any]) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value if 0 <= value < 1 << 31 else None
    if not isinstance(value, str):
        return None
    if value.isascii() and value.isdigit():
        return int(value) if int(value) < 1 << 31 else None
    try:
        return int(look(value)[2])
    except KeyError:
        return None


def give(filename: str, options: Mapping[str, Any]) -> None:
    """Give a socket's file its mode, user and group. Raises OSError."""
    if filename[:1] == "@":
        return
    user, group, mode = (
        _number(options.get("user"), pwd.getpwnam),
        _number(options.get("group"), grp.getgrnam),
        _mode(options.get("mode")),
    )
    if user is not None or group is not None:
        os.chown(filename, -1 if user is None else user, -1 if group is None else group)
    if mode is not None:
        os.chmod(filename, mode)


@contextlib.contextmanager
def closed_to_others(options: Mapping[str, Any]) -> Iterator[None]:
    """A file that is made here is never open to more than its `mode` says, not even for a moment."""
    mode = _mode(options.get("mode"))
    before = os.umask(0o777 & ~mode) if mode is not None else None
    try:
        yield
    finally:
        if before is not None:
            os.umask(before)


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
