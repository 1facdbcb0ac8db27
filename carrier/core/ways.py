"""Sessions that come back to listeners of ours: a cluster may lead there, one listener after the other, but not for ever.

A stream or a datagram has no field in which its hops could be counted, as a request has (wire/forwarding.py). So the connections that
clusters make to ports and files of this very process are noted with the session that made them: whoever comes from there is one round
further than that one. Connections to elsewhere cost one look into a set.
"""

from __future__ import annotations

import socket
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from carrier.core.address import plain
from carrier.core.fence import is_address_of_ours
from carrier.core.resolve import is_here
from carrier.core.stream import DESTROYED

if TYPE_CHECKING:
    from carrier.core.fence import Own
    from carrier.core.session import Session

MOST = 10
"""Listeners of ours that a session may have passed before it comes to one more (as `options.max_hops` for requests)."""
FEW = 256
"""Ways that are noted before those of sessions that have ended are looked for."""
Way = tuple[str, object]
"""Transport, our end's port or the name of its socket."""


@lru_cache(1024)
def of_this_machine(host: str) -> bool:
    """Is a literal address one of this machine? Asked of the kernel once: whoever else has it later is counted a round too much."""
    return is_here(host) or is_address_of_ours(host)


class Ways:
    """See the module. made: by where they come from."""

    def __init__(self) -> None:
        self.made: dict[Way, Session] = {}
        self.look_at = FEW

    def lead_here(self, own: Own, transport: str, host: str, port: int) -> bool:
        """May a listener of ours be at this literal address?"""
        return (transport, port) in own.ports and of_this_machine(host)

    def goes(self, session: Session, transport: str, sock: socket.socket) -> None:
        """A session's connection, bound already, may come to a listener of ours. It is noted before it does."""
        here = sock.getsockname()
        if len(self.made) >= self.look_at:
            self.made = {way: maker for way, maker in self.made.items() if maker.status != DESTROYED}
            self.look_at = 2 * len(self.made) + FEW
        self.made[transport, here[1] if isinstance(here, tuple) else here] = session

    def rounds(self, session: Session) -> int:
        """How many listeners of ours it has passed before, MOST at most."""
        for count in range(MOST):
            way = _way(session)
            maker = self.made.get(way) if way is not None else None
            if maker is None or maker.status == DESTROYED:
                return count
            session = maker
        return MOST


def _way(session: Session) -> Way | None:
    """Where a session comes from; of one that travels in another one, where that does."""
    while (joint := getattr(session.source, "joint", None)) is not None:
        if joint.inner is None:
            return None
        session = joint.inner
    source: Any = session.source
    transport: str = getattr(session.listener, "transport", "")
    peer = source.peer if source.peer[0] else getattr(source, "address", None)
    if isinstance(peer, tuple):
        return (transport, peer[1]) if of_this_machine(plain(peer[0])) else None
    sock = getattr(source, "sock", None)
    if peer is None and isinstance(sock, socket.socket) and sock.family == socket.AF_UNIX:
        try:
            peer = sock.getpeername()
        except OSError:
            return None
    return (transport, peer) if isinstance(peer, bytes) else None
