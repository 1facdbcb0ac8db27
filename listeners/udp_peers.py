"""The two ends of a UDP listener: a peer that sent something, and the remote of a singleton."""

from __future__ import annotations

import asyncio
import errno
import re
import resource
import socket
from collections import deque
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from carrier.core.address import authority
from carrier.core.decision import stands
from carrier.core.resolve import literal
from carrier.core.room import PATIENCE
from carrier.core.spec import check_members, check_port
from carrier.core.stream import HIGH, MANY
from carrier.errors import Error, Problem
from carrier.hops.datagram import DatagramSocket
from carrier.hops.pktinfo import Local

if TYPE_CHECKING:
    from carrier.core.env import Env
    from carrier.core.session import Session

FORGOTTEN, DONE, RESTING, WAITING, PAUSING = range(5)
"""Ranks of peers whose places are needed, the first to leave first."""
OVERTAKEN = 0.6
"""Who is not answered when so much of all places was taken since will hardly be, where there are few."""
FEW = 256
"""Places that one wake-up of a flood may fill."""
RESTED = 10.0
"""Seconds of silence after which who talks for longer has to go before somebody who waits for his first answer."""
SLICE = 64
"""Peers whose routes are looked at in one turn of the loop."""
PARTING = 1.0
"""Seconds that an answer may take of a destination that nothing is sent to any more."""
PROBED = 1.0
"""Seconds after which a datagram that nobody has refused is taken for delivered, at most."""


HOST_NAME = re.compile(r"(?![\d.]+$)[\w.-]+")
"""A name that can be looked up (RFC 1123, and "_"); digits and dots that are no IPv4 address are no name either."""


def check_peer(host: object, path: str) -> list[Problem]:
    """Is it the address of a peer: an IP address, or a name that is looked up when the socket is bound? None: it is not given."""
    good = isinstance(host, str) and (literal(host, 0) is not None or HOST_NAME.fullmatch(host) is not None)
    if host is None or good:
        return []
    return [Problem(f"expected an address, got {host!r}", path, seen=repr(host), allowed="an IP address or a host name")]


def check_connect(spec: Mapping[str, Any], path: str) -> list[Problem]:
    """Everything wrong with `connect` and `options.mode` of a listener's spec, by the strict standard."""
    found: list[Problem] = []
    connect = spec.get("connect")
    if connect is not None and not isinstance(connect, dict):
        found.append(Problem(f"expected an object, got {connect!r}", f"{path}.connect", seen=repr(connect), allowed="{address, port}"))
    elif connect:
        found += check_members(connect, f"{path}.connect", ("address", "port"))
        found += check_port(connect, f"{path}.connect", required=False)
        found += check_peer(connect.get("address"), f"{path}.connect.address")
    options = spec.get("options")
    if options is not None and not isinstance(options, dict):
        return [*found, Problem(f"expected an object, got {options!r}", f"{path}.options", seen=repr(options), allowed="{mode}")]
    found += check_members(options or {}, f"{path}.options", ("mode",))
    mode = (options or {}).get("mode")
    if mode not in (None, "server", "singleton"):
        found.append(Problem(f"unknown mode {mode!r}", f"{path}.options.mode", seen=repr(mode), allowed="server, singleton"))
    if mode == "singleton" and not (isinstance(connect, dict) and {"address", "port"} <= connect.keys()):
        text = "singleton mode needs connect.address and connect.port: there is no remote to connect to"
        found.append(Problem(text, f"{path}.options.mode", seen=repr(mode), allowed="server, or give both"))
    return found


@lru_cache(1)
def share() -> int:
    """How many descriptors peers may have, of those that the process may: the rest is for whoever comes over TCP, and for us."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 2 // 3


class UdpPort(Protocol):
    """The listener as its ends know it."""

    env: Env
    counter: int
    places: float
    """How many peers there can be."""
    idle_timeout: float
    answer_timeout: float
    responses: float
    exchange_timeout: float
    peers: dict[Any, UdpPeer]
    keys: dict[Any, UdpPeer]
    parting: set[UdpPeer]
    received: int
    sent: int

    def drop(self, reason: str, count: int = 1) -> None:
        """Count datagrams that go nowhere."""

    def meet(self, address: Any, local: Local | None = None) -> UdpPeer | None:
        """The session of a new peer, if it may have one."""

    def take_errors(self) -> None:
        """A singleton's remote is to be told which of its datagrams were refused."""


class UdpPeer(DatagramSocket):
    """One peer of the listener: the source of its session. It has no descriptor of its own.

    place: what it is known by: its address, and that of ours which it asked, where there are several. key: the same as the receiver has it.
    born: monotonic seconds. seen, active_at: messages at the last tick, and since when that many.
    """

    __slots__ = ("active_at", "born", "held", "key", "listener", "place", "seen")
    anew = True
    session: Session | None

    def __init__(self, listener: UdpPort, sock: socket.socket, address: Any, local: Local | None = None) -> None:
        super().__init__(sock, address)
        self.listener = listener
        self.local = local
        self.place = address if local is None else (address, local)
        self.key: Any = None
        self.held = False
        self.born = self.active_at = listener.env.loop.time()
        self.seen = 0

    def came(self, first: int, count: int, size: int) -> None:
        """A batch has brought `count` datagrams of `size` bytes each, in the slots from `first` on."""
        self.messages_in += count
        self.bytes_in += size * count
        if self.held:
            self.drop("upstream-full", count)
        else:
            self.pass_on(first, count, size)

    def drop(self, reason: str, count: int = 1) -> None:
        if self.session is not None:
            self.session.dropped += count
        self.listener.drop(reason, count)

    def failed(self, exc: OSError) -> None:
        """The shared socket is sound: whatever it was, it was about this peer's address, and its timeout ends it."""

    def end(self, trailer: Any = None) -> None:
        """The destination has ended: so does this peer's session; its next datagram makes a new one."""
        self.finish()

    def reset(self, error: Error) -> None:
        self.finish(error)

    def stop(self, error: Error | None = None) -> None:
        if error is not None:
            self.finish(error)

    def standing(self, now: float) -> tuple[int, float] | None:
        """When its place is needed (carrier/core/room.py): first who was never answered, unless an answer may just be on its way; then who
        has had the answer to his one question, then who has been idle longest; who is being served stays."""
        session, listener = self.session, self.listener
        if self.closed or session is None:
            return None
        if not self.messages_out:
            overtaken = listener.places <= FEW and listener.counter - session.number > listener.places * OVERTAKEN
            return (FORGOTTEN if overtaken or now - self.born >= PATIENCE else WAITING), self.born
        if self.messages_in == 1:
            return DONE, self.born
        moved = self.messages_in + self.messages_out != self.seen
        idle = 0.0 if moved else now - self.active_at
        return (RESTING if idle >= RESTED else PAUSING, self.active_at) if idle >= PATIENCE else None

    def idle_for(self, now: float) -> tuple[float, float]:
        """How long nothing has moved, and how long that may be: seconds."""
        listener = self.listener
        if not self.messages_out:
            return now - self.active_at, listener.answer_timeout
        done = 0 < listener.responses * self.messages_in <= self.messages_out
        return now - self.active_at, listener.exchange_timeout if done else listener.idle_timeout

    def pause(self) -> None:
        """Datagrams cannot wait: while the next hop is full, what comes is dropped and counted."""
        self.held = True

    def resume(self) -> None:
        self.held = False

    def status(self) -> str:
        return "END" if self.closed else "READY"

    def part(self, why: str) -> None:
        """What comes from now on makes another session; an answer that is on its way to this one is waited for."""
        listener, session = self.listener, self.session
        if session is None or self.closed or self in listener.parting:
            return
        if self.messages_in <= self.messages_out or len(listener.peers) + len(listener.parting) > share() // 2:
            session.kill(why, "drain")  # there is none, or those to come need the descriptors
            return
        del listener.peers[self.place]
        listener.keys.pop(self.key, None)
        listener.parting.add(self)
        listener.env.loop.call_later(PARTING, session.kill, why, "drain")

    def finish(self, error: Error | None = None) -> None:
        """Forget the peer. Idempotent."""
        if self.closed:
            return
        self.closed = True
        listener = self.listener
        if self in listener.parting:
            listener.parting.remove(self)
        else:
            listener.peers.pop(self.place, None)
            listener.keys.pop(self.key, None)
        listener.received += self.messages_in
        listener.sent += self.messages_out
        session, to = self.session, self.to
        if session is not None:
            session.close(error)
        self.detach()
        if error is not None:
            to.reset(error)


class Remote(UdpPeer):
    """The remote of a singleton: a source that can be reconnected, if the route wants that on disconnect (contract, section 4).

    It is disconnected when it refuses a datagram (ICMP port unreachable). From then on what the session says waits, bounded, and what
    finds no room is dropped and counted. The oldest one is tried at once and then again `timeout` apart, `num_retries` times in all, until
    it is not refused; then the rest follows. Without such a policy a refused datagram is counted, and that is all.

    waiting: what has not been sent since the remote has gone; None: it is there. tried: how often the oldest one was. timer: until the
    next try, or until a try counts as good; out: one is on its way. told: the kernel has not sent, but told of a refusal of before.
    """

    __slots__ = ("out", "size", "timer", "told", "tried", "waiting")

    def __init__(self, listener: UdpPort, sock: socket.socket, address: Any) -> None:
        super().__init__(listener, sock, address)
        self.waiting: deque[bytes] | None = None
        self.size = self.tried = 0
        self.timer: asyncio.TimerHandle | None = None
        self.out = self.told = False

    part = DatagramSocket.part  # there is one of it at a time

    def refused(self, count: int) -> None:
        """So many datagrams came back."""
        session = self.session
        if session is None or self.closed:
            return
        retry = session.decision.retry
        lost = count - self.out
        if lost:
            self.drop("refused", lost)
        if not retry.on_disconnect:
            return
        if self.waiting is None:
            self.waiting = deque()
            self.tried = 0
            session.event("DISCONNECT", "source", "the remote refuses datagrams")
        elif self.out:
            self._cancel()
            session.event("ERROR", "Could not reconnect", "the remote refuses datagrams")
            if self.tried >= retry.num_retries:
                self.finish(Error("refused", f"{authority(*self.address[:2])}: Connection refused", "downstream"))
            else:
                self.timer = self.listener.env.loop.call_later(retry.timeout, self._try)

    def failed(self, exc: OSError) -> None:
        """The kernel tells of a refusal of before in place of sending."""
        if exc.errno == errno.ECONNREFUSED:
            self.told = True
            self.listener.take_errors()
        else:
            super().drop("send-failed")

    def drop(self, reason: str, count: int = 1) -> None:
        if reason != "send-failed":  # `failed` comes after it, and says what it was
            super().drop(reason, count)

    def send(self, data: bytes | memoryview) -> None:
        if self.waiting is None:
            super().send(data)
            if self.told:  # not sent yet: it waits, or is tried once more
                self.told = False
                self.send(data)
        elif self.size >= HIGH or len(self.waiting) >= MANY:
            self.drop("source-away")
        else:
            self.waiting.append(bytes(data))
            self.size += len(data)
            if self.timer is None:
                self._try()

    def burst(self, first: int, count: int, size: int) -> None:
        """One by one: a refusal is about one."""
        self._one_by_one(first, count, size)

    def _try(self) -> None:
        """Send the oldest one; it is good when nobody has refused it in time."""
        session = self.session
        assert self.waiting and session is not None
        self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # what was refused before is not this one
        self.listener.take_errors()
        self.tried += 1
        session.retries += 1
        self.out = True
        self.timer = self.listener.env.loop.call_later(min(session.decision.retry.timeout, PROBED), self._arrived)
        super().send(self.waiting[0])

    def _arrived(self) -> None:
        """The remote is back: it gets the rest."""
        self._cancel()
        waiting, self.waiting, self.size = self.waiting, None, 0
        assert waiting and self.session is not None
        self.session.event("CONNECT", "source")
        waiting.popleft()
        for data in waiting:
            self.send(data)

    def _cancel(self) -> None:
        self.out = False
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def finish(self, error: Error | None = None) -> None:
        self._cancel()
        if self.waiting and self.session is not None and not self.closed:
            self.drop("source-away", len(self.waiting))
        super().finish(error)


def dismiss(peers: Iterable[UdpPeer], why: str) -> None:
    """End the sessions of all these."""
    for peer in list(peers):
        peer.part(why)


def reroute(listener: Any, peers: list[UdpPeer], table: Any) -> None:
    """End the sessions that this table of a UDP listener would route otherwise, a few in each turn of the loop: their rule is gone or leads
    elsewhere, or another one stands before it now, such as a new bridge's."""
    for peer in peers[:SLICE]:
        session = peer.session
        if table is not listener.table or peer.closed or session is None or peer.listener is not listener:
            continue
        now = table.decide({"name": session.name, **session.listener.metadata(session)})
        if not stands(session.decision, now if now.error is None else None):
            address, local, remote = peer.address, peer.local, isinstance(peer, Remote)
            peer.part("its route is another by now: the next datagram is routed anew")
            if remote:  # that session is there from the start
                listener.meet(address, local)
    if len(peers) > SLICE:
        listener.env.loop.call_soon(reroute, listener, peers[SLICE:], table)
