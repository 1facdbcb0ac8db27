"""UDP listener: one socket, a session per peer address; or `singleton`: one connected peer, one session from the start.

Modes as in l7mp (contract, section 2): `singleton` when `connect` names address and port, else `server`; a half-specified `connect`
filters peers. A session ends when it was idle for `idle_timeout`, or, while nobody has answered it, for `answer_timeout`, or, with
`responses`, when so many answers went for each datagram that came, for `exchange_timeout`. When the listener is full, or all of them
together have two thirds of the process's descriptors, the session that is of least use goes (`UdpPeer.standing`). One timer serves all.
Replies go only to the peer that asked, from the address that it asked (carrier/hops/pktinfo.py). The peer of a singleton may be waited for
when it refuses datagrams (`Remote`).

Datagrams know no connection that would have to be kept: a session that would be routed otherwise by now ends, and the next datagram is
routed anew.

While wake-ups find more than one datagram they are received in batches, and consecutive ones of one peer are sent on as a burst
when its destination writes datagrams too and nothing stands between (carrier/hops/datagram.py).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.address import Key, Place, authority, bind_error, plain
from carrier.core.listener import Listener
from carrier.core.resolve import literal
from carrier.core.room import Room
from carrier.core.session import Session
from carrier.errors import Error, Problem
from carrier.hops.datagram import Adaptive, DatagramReader, bound
from carrier.hops.mmsg import LONGEST, Receiver, enlarge, kernel_drops, receiver, run_length
from carrier.hops.pktinfo import Local, told, wish
from carrier.options import check_numbers, numbers, port_of
from listeners.udp_peers import Remote, UdpPeer, check_connect, dismiss, reroute, share

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.decision import Table
    from carrier.core.env import Env

BUFFER = 16 << 20
"""Receive and send buffer asked of the kernel, in bytes; it may grant less."""
OPTIONS: Mapping[str, float] = {
    "track": 0,
    "max_sessions": 4096,
    "max_new_sessions_per_second": 0,
    "idle_timeout": 60,
    "answer_timeout": 30,
    "responses": 0,
    "exchange_timeout": 1,
}
"""Limits (sessions, new sessions a second of one source address, seconds, answers to a datagram) and their defaults (DESIGN section 7); 0
means none."""
MANY_NEW = 16
"""New sessions of a batch after which no other is taken at once: what comes waits in the kernel, while those that are there are served."""
CONTROL = 64
"""Bytes of what the kernel tells beside a datagram."""
RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
"""IP_RECVERR, IPV6_RECVERR: have the kernel say which address refused a datagram."""
NODE_NAMES = {errno.EADDRINUSE: "EADDRINUSE", errno.EADDRNOTAVAIL: "EADDRNOTAVAIL", errno.EACCES: "EACCES"}
"""How l7mp's error texts call what the kernel says."""


class UdpListener(Listener, DatagramReader):
    """`spec: {protocol: UDP, port, address, connect: {address, port}, options: {mode}}`, `options`: see OPTIONS."""

    protocol = "UDP"
    kind = "datagram"
    transport = "udp"
    fields = {
        "port": "0..65535",
        "address": "IP address to bind to",
        "connect": "{address, port} of the only peer, or a filter",
        "options": "{mode: server | singleton}",
    }

    def __init__(self, conf: config.Listener, env: Env) -> None:
        super().__init__(conf, env)
        connect = conf.spec.get("connect")
        connect = connect if isinstance(connect, dict) else {}
        self.connect_host: str | None = connect.get("address")
        self.connect_port: int | None = connect.get("port")
        both = self.connect_host is not None and self.connect_port is not None
        options = conf.spec.get("options")
        mode = options.get("mode") if isinstance(options, dict) else None
        self.singleton = mode == "singleton" or (mode is None and both)
        if self.singleton and not both:
            raise Error(
                "config",
                "Singleton mode requested but either connect.address or connect.port is not defined (or neither): no remote to connect to",
            )
        limits = numbers(conf.options, OPTIONS)
        self.max_sessions = limits["max_sessions"] or float("inf")
        self.max_new = limits["max_new_sessions_per_second"] or float("inf")
        self.idle_timeout = limits["idle_timeout"] or float("inf")
        self.answer_timeout = limits["answer_timeout"] or float("inf")
        self.responses = limits["responses"]
        self.exchange_timeout = min(limits["exchange_timeout"] or float("inf"), self.idle_timeout)
        self.places = min(self.max_sessions, share())
        """How many peers there can be."""
        self.peers: dict[Any, UdpPeer] = {}
        """By address; the listener that this one replaced has left its peers here, and they live on."""
        self.parting: set[UdpPeer] = set()
        """Peers, as they were, whose sessions wait for nothing but an answer."""
        self.room: Room[UdpPeer] = Room()
        self.told = False
        """The kernel says which of our addresses a datagram came to."""
        self.keys: dict[Any, UdpPeer] = {}
        """The same peers by the receiver's keys."""
        self.fresh: dict[str, int] = {}
        """New sessions of this second, by source address."""
        self.allowed: frozenset[str] | None = None
        """Addresses that `connect.address` names; None: any."""
        self.dropped: dict[str, int] = {}
        """Datagrams dropped, by reason."""
        self.received = self.sent = 0
        """Datagrams of sessions that have ended."""
        self.sock = None
        self.draining = False
        self.loop = env.loop
        self.watching = False
        self.covered = False
        """Another listener has its port as well and hears what comes (`covers`)."""
        self.adaptive = Adaptive()
        self.receiver = None

    # ------------------------------------------------------------------ configuration

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        return super().check(spec, path) + check_connect(spec, path)

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        return check_numbers(options, OPTIONS, path)

    # ------------------------------------------------------------------ life

    @property
    def host(self) -> str:
        return "127.0.0.1" if self.loopback else str(self.spec.get("address") or "0.0.0.0")

    @property
    def port(self) -> int:
        """The bound port (the kernel's choice for port 0)."""
        return int(self.bound[0].getsockname()[1])

    def key(self) -> Key:
        return "udp", self.host, port_of(self.spec)

    async def bind(self) -> None:
        where = authority(self.host, self.spec.get("port"))
        address = literal(self.host, port_of(self.spec))
        if address is None or port_of(self.spec) < 0:
            raise Error("bind", f'"{self.name}": expected an IP address and a port to bind to, got {where}')
        try:
            self.bound = [bound(address, self.host == "::", BUFFER)]
        except OSError as exc:
            reason = NODE_NAMES.get(exc.errno or 0)
            if reason is None:
                raise bind_error(self.name, self.host, port_of(self.spec), exc) from None
            raise Error("bind", f'UDPListener.run: "{self.name}": Could not bind to {where}: bind {reason} {where}') from None

    async def prepare(self) -> None:
        """Which addresses `connect.address` means. Raises Error("dns")."""
        if self.connect_host is not None:
            found = await self.env.resolver.resolve(str(self.connect_host), 0, socket.SOCK_DGRAM)
            self.allowed = frozenset(str(address[0]) for _, address in found)

    def vacate(self) -> Callable[[], None] | None:
        self.unwatch()
        places = [Place(sock) for sock in self.bound]
        for sock in self.bound:
            sock.close()
        self.bound = []
        self.sock = None

        def again() -> None:
            self.bound = [place.bind() for place in places]
            self._open()
            for peer in (*self.peers.values(), *self.parting):
                peer.sock = self.bound[0]

        return again

    def covers(self, other: Listener) -> bool:
        return isinstance(other.ground, UdpListener) and other.key() == self.key()

    def cover(self, covered: bool) -> None:
        if covered is self.covered or self.sock is None:
            return
        self.covered = covered
        if covered:
            self.unwatch()
            dismiss(self.peers.values(), "another listener has its port by now: the next datagram is routed anew")
        else:
            self._open()
            self._call_remote()

    def continues(self, old: Listener) -> bool:
        """Also peers of another listener at this address are kept: their datagrams come here."""
        return isinstance(old, UdpListener)

    def start(self) -> None:
        self._open()
        if self.before is None:
            self._call_remote()

    def _open(self) -> None:
        self.sock = sock = self.bound[0]
        enlarge(sock, BUFFER)
        sock.setsockopt(*RECVERR[sock.family], int(self.singleton))
        self.told = wish(sock)
        self.receiver = receiver(sock.family, True) if self.told else receiver(sock.family)
        if not self.covered:
            self.watch()

    def _call_remote(self) -> None:
        """The session of a singleton is there from the start."""
        if self.singleton and self.allowed:
            peer = literal(min(self.allowed), int(self.connect_port or 0))
            assert peer is not None
            if peer[1] not in self.peers:
                self.meet(peer[1])

    def inherit(self, old: Listener) -> None:
        super().inherit(old)
        assert isinstance(old, UdpListener) and self.sock is not None
        old.unwatch()
        self.peers, self.keys = old.peers, old.keys
        self.parting, old.parting = old.parting, set()
        for peer in self.parting:
            peer.listener, peer.sock = self, self.sock
        if not self.told:
            asked, self.peers = self.peers, {}
            for peer in list(asked.values()):
                if self.peers.setdefault(peer.address, peer) is peer:
                    peer.place, peer.local = peer.address, None
                elif peer.session is not None:  # it had asked two addresses
                    peer.session.kill("its listener has one address by now", "drain")
        old.peers, old.keys = {}, {}
        self.received, self.sent, self.dropped = old.received, old.sent, old.dropped
        for peer in list(self.peers.values()):
            peer.listener, peer.sock = self, self.sock
            if isinstance(peer, Remote) is not self.singleton or self._filters(plain(peer.address[0]), peer.address[1]):
                assert peer.session is not None
                peer.session.kill("its listener has other peers by now", "drain")
        self._look_at_routes(self.table)
        self._call_remote()

    def stop(self) -> None:
        """New peers are not served any more; the socket lives until the last session has ended."""
        self.draining = True
        if not self.live:
            self._release()

    def ended(self, session: Session) -> None:
        super().ended(session)
        if self.draining and not self.live:
            self._release()

    def _release(self) -> None:
        self.unwatch()
        for sock in self.bound:
            sock.close()
        self.bound = []
        self.sock = None

    # ------------------------------------------------------------------ datagrams

    def _readable(self) -> None:
        if self._take_one() and self.adaptive.due() and self._take_one() and self.receiver is not None:
            self.switch(True)

    def _take_one(self) -> bool:
        """Read one datagram the plain way; False when there is none, or the socket is gone."""
        sock = self.sock
        if sock is None:
            return False
        local = None
        try:
            if self.told:
                data, ancillary, _, address = sock.recvmsg(LONGEST, CONTROL)
                local = told(sock.family, ancillary)
            else:
                data, address = sock.recvfrom(LONGEST)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as exc:
            self.troubled(exc)
            return True
        peer = self.peers.get(address if local is None else (address, local)) or self.meet(address, local)
        if peer is not None:
            peer.bytes_in += len(data)
            peer.messages_in += 1
            if peer.held:
                peer.drop("upstream-full")
                return True
            to = peer.to
            to.data(data)
            to.flush()
        return True

    def deliver(self, batch: Receiver, count: int) -> bool:
        """Pass on the datagrams of a batch, those that belong together together. False when many of them were of new peers."""
        known = self.counter
        sizes, senders = batch.sizes(count), batch.senders(count)
        first = 0
        while first < count:
            sender = senders[first]
            last = first + 1
            while last < count and senders[last] == sender:
                last += 1
            peer = self.keys.get(sender) or self._peer_of(batch, first, sender)
            if peer is None:
                first = last
                continue
            while first < last:
                run = run_length(sizes, first, last)
                peer.came(first, run, sizes[first])
                first += run
        return self.counter - known < MANY_NEW

    def troubled(self, exc: OSError) -> None:
        """An error of an earlier reply: that peer's session ends by its timeout."""
        self.take_errors()

    def take_errors(self) -> None:
        """A singleton's remote is told which of its datagrams were refused; the queue of errors must be emptied (ip(7), IP_RECVERR)."""
        if not self.singleton or self.sock is None:
            return
        self.look_again()
        refused = 0
        try:
            while True:
                self.sock.recvmsg(0, 0, socket.MSG_ERRQUEUE)
                refused += 1
        except OSError:
            pass  # it is empty
        for remote in list(self.peers.values()) if refused else ():
            if isinstance(remote, Remote):
                remote.refused(refused)

    def drop(self, reason: str, count: int = 1) -> None:
        """Count datagrams that go nowhere."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def datagrams(self) -> dict[str, int]:
        """Counters: datagrams received and sent by sessions, and dropped, by reason (`dropped: <reason>`)."""
        found = {"received": self.received, "sent": self.sent}
        for peer in (*self.peers.values(), *self.parting):
            if peer.listener is self:
                found["received"] += peer.messages_in
                found["sent"] += peer.messages_out
        found |= {f"dropped: {reason}": count for reason, count in self.dropped.items()}
        lost = kernel_drops(self.sock) if self.sock is not None else 0
        if lost:
            found["dropped: receive-buffer-full"] = lost
        return found

    # ------------------------------------------------------------------ peers

    def _peer_of(self, batch: Receiver, i: int, key: Any) -> UdpPeer | None:
        """The peer of a sender that has not been seen in a batch yet."""
        address, local = batch.address(i), batch.local(i)
        peer = self.peers.get(address if local is None else (address, local)) or self.meet(address, local)
        if peer is not None:
            self.keys.pop(peer.key, None)
            peer.key = key
            self.keys[key] = peer
        return peer

    def meet(self, address: Any, local: Local | None = None) -> UdpPeer | None:
        """The session of a new peer, if it may have one."""
        if local is not None and (known := self.peers.pop(address, None)) is not None:  # there was only one address that it could ask
            known.local, known.place = local, (address, local)
            self.peers[known.place] = known
            return known
        host = plain(address[0])
        refusal = self._refusal(host, address[1])
        if refusal or self.sock is None:
            self.drop(refusal)
            return None
        self.fresh[host] = self.fresh.get(host, 0) + 1
        peer = Remote(self, self.sock, address) if self.singleton else UdpPeer(self, self.sock, address, local)
        self.peers[peer.place] = peer
        self.begin(peer)
        if peer.closed:
            self.drop("no-destination")
            return None
        return peer

    def _refusal(self, host: str, port: int) -> str:
        """Why a new peer gets no session, or nothing."""
        if self.draining or self.sock is None:
            return "stopped"
        if self._filters(host, port):
            return "filtered"
        if self.fresh.get(host, 0) >= self.max_new:
            return "rate"
        if len(self.peers) >= self.max_sessions and not self._evict():
            return "full"
        if self._everywhere() >= share() and not (self._evict() or any(other._evict() for other in self._others())):
            return "descriptors"
        return ""

    def _filters(self, host: str, port: int) -> bool:
        """Does `connect` name other peers?"""
        return (self.allowed is not None and host not in self.allowed) or self.connect_port not in (None, port)

    def _others(self) -> list[UdpListener]:
        return [other for other in self.env.listeners.values() if isinstance(other, UdpListener) and other is not self]

    def _everywhere(self) -> int:
        """Peers of all listeners: each may need a descriptor towards its destination, and others want some, too."""
        return len(self.peers) + sum(len(other.peers) for other in self._others())

    def _evict(self) -> bool:
        """Make room: the session that is of least use goes; False: all are being used."""
        peer = self.room.choose(self.peers.values(), self.env.loop.time())
        if peer is None or peer.session is None:
            return False
        answered = peer.messages_out > 0
        if not answered:
            self.drop("evicted")
        peer.session.kill("made room for a new peer: it was " + ("answered and idle longest" if answered else "never answered"))
        return True

    def use(self, table: Table) -> None:
        super().use(table)
        self._look_at_routes(table)

    def _look_at_routes(self, table: Table) -> None:
        """A new table of rules; one without rules says that there is too much for who is new."""
        if getattr(table, "lists", {}) and self.peers:
            reroute(self, list(self.peers.values()), table)

    def tick(self, now: float) -> None:
        super().tick(now)
        self.fresh.clear()
        for peer in list(self.peers.values()):
            if peer.listener is not self:
                continue
            count = peer.messages_in + peer.messages_out
            if count != peer.seen:
                peer.seen = count
                peer.active_at = now
                continue
            idle, limit = peer.idle_for(now)
            if idle > limit and not self.singleton:
                peer.finish()

    # ------------------------------------------------------------------ sessions

    def session_name(self, session: Session) -> str:
        peer = session.source
        assert isinstance(peer, UdpPeer)
        name = f"UDP:{plain(peer.address[0])}:{peer.address[1]}-{self.host}:{self.spec['port']}-{session.number}"
        return self.env.names.give(session, name)

    def metadata(self, session: Session) -> dict[str, Any]:
        peer = session.source
        assert isinstance(peer, UdpPeer)
        return {
            "IP": {"src_addr": plain(peer.address[0]), "dst_addr": self.host if peer.local is None else plain(peer.local.address)},
            "UDP": {"src_port": peer.address[1], "dst_port": self.spec["port"]},
        }
