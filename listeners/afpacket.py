"""AF_PACKET listener: raw frames of a network interface, header and all (packet(7)); what is answered is sent as a frame there.

An interface is one peer: a session begins with a frame, and takes every further one until it ends. Frames that this machine sends are
not seen, so that an echo does not hear itself. Needs CAP_NET_RAW.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from carrier.core.listener import Key, Listener
from carrier.core.session import Session
from carrier.errors import Error, Problem, from_os
from carrier.hops.packetsocket import PacketSocket

ETH_P_ALL = 3
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
FIELDS = {"ethertype": "0..65535; default: every one"}


class PacketListener(Listener):
    """`spec: {protocol: AF_PACKET, interface, ethertype}`."""

    protocol = "AF_PACKET"
    kind = "datagram"
    fields = {"interface": "the name of a network interface", **FIELDS}

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        found = super().check(spec, path) + check_ethertype(spec, path)
        name = spec.get("interface")
        if not isinstance(name, str) or not name:
            found.append(Problem("needs 'interface'", f"{path}.interface", seen=repr(name), allowed=cls.fields["interface"]))
        return found

    def key(self) -> Key:
        return f"packet {ethertype_of(self.spec)}", str(self.spec.get("interface")), -1

    async def bind(self) -> None:
        try:
            self.bound = [packet_socket(str(self.spec.get("interface") or ""), ethertype_of(self.spec))]
        except Error as error:
            raise Error("bind", f'"{self.name}": {error.detail}') from None

    def start(self) -> None:
        self.env.loop.add_reader(self.bound[0], self._came)

    def stop(self) -> None:
        for sock in self.bound:
            self.env.loop.remove_reader(sock)
        super().stop()

    def _came(self) -> None:
        self.env.loop.remove_reader(self.bound[0])
        source = PacketSocket(self.env.loop, self.bound[0].dup(), "downstream", ends=False, half=False)
        session = Session(self, source)
        self.live.add(session)
        session.begin(self.table.decide(session.metadata))

    def tick(self, now: float) -> None:
        """The next session begins at a tick, so that a destination that fails is not tried for each frame."""
        super().tick(now)
        if self.bound and not self.live:
            self.start()

    def session_name(self, session: Session) -> str:
        return self.env.names.give(session, f"PACKET:{self.name}-{session.number}")

    def metadata(self, session: Session) -> dict[str, Any]:
        return {"PACKET": {"interface": self.spec.get("interface"), "ethertype": ethertype_of(self.spec)}}


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
