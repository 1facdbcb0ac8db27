"""Raw frames of a network interface (packet(7)): the socket that both sides use."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from carrier.errors import Error, Problem, from_os

ETH_P_ALL = 3
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
FIELDS = {"ethertype": "0..65535; default: every one"}


def ethertype_of(spec: Mapping[str, Any]) -> int:
    """The protocol number that a spec names."""
    number = spec.get("ethertype")
    return number if isinstance(number, int) and 0 < number <= 0xFFFF else ETH_P_ALL


def check_ethertype(spec: Mapping[str, Any], path: str) -> list[Problem]:
    """Everything wrong with `spec.ethertype`, by the strict standard."""
    number = spec.get("ethertype", 0)
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= 0xFFFF:
        return []
    return [Problem(f"expected 0..65535, got {number!r}", f"{path}.ethertype", seen=repr(number), allowed=FIELDS["ethertype"])]


def packet_socket(interface: str, ethertype: int) -> socket.socket:
    """A socket for the frames of an interface. Raises Error (retry "yes")."""
    sock: socket.socket | None = None
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)  # it hears nothing before it is bound
        sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        sock.bind((interface, ethertype))
    except PermissionError:
        raise Error("unreachable", "AF_PACKET needs the privilege CAP_NET_RAW, which this process does not have", "upstream") from None
    except (OSError, ValueError) as exc:
        if sock is not None:
            sock.close()
        if not isinstance(exc, OSError):
            raise Error("unreachable", f"{interface!r}: {exc}", "upstream", "yes") from None
        raise from_os(exc, "upstream", f"interface {interface!r}", "yes") from None
    return sock


def privileged() -> str:
    """Why this process may not have raw frames, or nothing."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except OSError as exc:
        return f"AF_PACKET needs the privilege CAP_NET_RAW: {exc.strerror}"
    return ""
