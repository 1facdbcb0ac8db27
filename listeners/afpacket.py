"""AF_PACKET listener: raw frames of a network interface, header and all (packet(7)); what is answered is sent as a frame there.

An interface is one peer: a session begins with a frame, and takes every further one until it ends. Frames that this machine sends are
not seen, so that an echo does not hear itself. Needs CAP_NET_RAW.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.address import Key
from carrier.core.listener import Listener
from carrier.errors import Error, Problem
from carrier.hops.afpacket import FIELDS, check_ethertype, ethertype_of, packet_socket
from carrier.hops.packetsocket import PacketSocket

if TYPE_CHECKING:
    from carrier.core.session import Session


class PacketListener(Listener):
    """`spec: {protocol: AF_PACKET, interface, ethertype}`."""

    protocol = "AF_PACKET"
    privileged = {"protocol": "reads and writes raw frames"}
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

    def inherit(self, old: Listener) -> None:
        super().inherit(old)
        if self.live:  # it takes the frames, and `tick` waits for its end
            self.env.loop.remove_reader(self.bound[0])

    def release(self) -> None:
        for sock in self.bound:
            self.env.loop.remove_reader(sock)
        super().release()

    def _came(self) -> None:
        self.env.loop.remove_reader(self.bound[0])
        source = PacketSocket(self.env.loop, self.bound[0].dup(), "downstream", ends=False, half=False)
        self.begin(source)

    def tick(self, now: float) -> None:
        """The next session begins at a tick, so that a destination that fails is not tried for each frame."""
        super().tick(now)
        if self.bound and not self.live:
            self.start()

    def session_name(self, session: Session) -> str:
        return self.env.names.give(session, f"PACKET:{self.name}-{session.number}")

    def metadata(self, session: Session) -> dict[str, Any]:
        return {"PACKET": {"interface": self.spec.get("interface"), "ethertype": ethertype_of(self.spec)}}
