"""UDP cluster: a connected socket per session, so that only the endpoint's own datagrams come back.

`bind: {address, port}` fixes the local address (two sessions of one bind port to one endpoint cannot be told apart: the kernel gives what
comes back to the later one, as with l7mp). A refused datagram (ICMP) is a failure of the endpoint: another one gets it, or the route's
fallback (`Session.once_more`). One that is too long for the path is dropped, and that is all. With `broadcast: true` the socket is not
connected, so that an endpoint may be a broadcast address, and whoever answers is heard.

Where nobody should send any more, because the endpoint is gone, down or has moved, sessions end, and what their peers send next is routed
anew; sessions whose peers would notice go on at another endpoint (`Session.moves_on`).
While wake-ups find more than one datagram they are received in batches, and sent on as bursts when the session's source writes
datagrams too and nothing stands between (carrier/hops/datagram.py).
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from carrier.core import health
from carrier.core.address import check_bind, local_address
from carrier.core.breaker import BREAKER
from carrier.core.cluster import Cluster, first_that_connects
from carrier.core.endpoint import Endpoint
from carrier.core.resolve import Address, literal
from carrier.core.stream import DESTROYED, Socket
from carrier.errors import Error, Problem, from_os
from carrier.hops.datagram import LOOK, Adaptive, DatagramReader, DatagramSocket
from carrier.hops.mmsg import LONGEST, Receiver, enlarge, kernel_drops, receiver, run_length
from carrier.options import check_numbers, numbers

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.cluster import Plan
    from carrier.core.env import Env
    from carrier.core.health import Health
    from carrier.core.session import Session

BUFFER = 1 << 20
"""Receive and send buffer asked of the kernel, in bytes; it may grant less."""
LINGER = 2.0
"""Seconds that answers may still take after a byte-stream source has ended, unless `half_close_timeout` says otherwise."""
OPTIONS: Mapping[str, float] = {"half_close_timeout": LINGER}
KEPT = 16
"""Datagrams that nobody has answered yet and that are kept, in case that they are refused."""
PROBE = 0.25
"""Seconds that a refusal of a probe may take."""


class UdpCluster(Cluster):
    """`spec: {protocol: UDP, port, bind: {address, port}, broadcast}`. `options`: see OPTIONS."""

    protocol = "UDP"
    kind = "datagram"
    transport = "udp"
    fields = {"port": "1..65535", "bind": "{address, port}", "broadcast": "true: endpoints may be broadcast addresses"}

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        self.linger = numbers(conf.options, {"half_close_timeout": LINGER})["half_close_timeout"]
        self.broadcast = conf.spec.get("broadcast") is True
        self.upstreams: set[UdpUpstream] = set()
        super().__init__(conf, env)
        self.dropped: dict[str, int] = {}
        """Datagrams dropped, by reason; those that an upstream's receive buffer had no room for when its session has ended."""

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        found = super().check(spec, path) + check_bind(spec, path)
        if not isinstance(spec.get("broadcast", False), bool):
            found.append(Problem("expected true or false", f"{path}.broadcast", seen=repr(spec["broadcast"])))
        return found

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        found = check_numbers(options, {**OPTIONS, **BREAKER}, path, ("health",))
        return found + (health.check(options["health"], f"{path}.health") if "health" in options else [])

    def ready(self, session: Session, endpoint: Endpoint | None) -> Socket | None:
        """A literal address needs no waiting: connect() of a datagram socket only notes the address."""
        assert endpoint is not None
        address = literal(endpoint.host, endpoint.port)
        return None if address is None else self._connect(session, endpoint, address)

    async def open(self, session: Session, endpoint: Endpoint) -> Socket:
        addresses = await self.addresses(endpoint, socket.SOCK_DGRAM)
        if session.tried:  # connect() asks nobody: what refuses is found when something was sent (`UdpUpstream.elsewhere`)
            addresses = [address for address in addresses if at(endpoint, address[1][0]) not in session.tried] or addresses

        async def one(address: Address) -> Socket:
            return self._connect(session, endpoint, address)

        found = await first_that_connects(addresses, one)
        assert isinstance(found, Socket)
        return found

    def _connect(self, session: Session, endpoint: Endpoint, address: Address) -> UdpUpstream:
        if not 0 < endpoint.port < 65536:
            raise Error("no-endpoint", f"{endpoint.name}: {self.spec.get('port')!r} is not a port", "upstream", "yes")
        sock: socket.socket | None = None
        try:
            sock = socket.socket(address[0], socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            enlarge(sock, BUFFER)
            local = local_address(self.spec)
            if local is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(local)
            if self.broadcast:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            else:
                sock.connect(address[1])
        except OSError as exc:
            if sock is not None:
                sock.close()
            raise from_os(exc, "upstream", endpoint.address, "yes") from None
        if self.env.ways.lead_here(self.env.own, self.transport, address[1][0], endpoint.port):
            self.env.ways.goes(session, self.transport, sock)
        upstream = UdpUpstream(self, sock, endpoint, address)
        upstream.session = session
        return upstream

    def follow(self, endpoint: Endpoint, places: frozenset[str]) -> None:
        self._leave(f"{endpoint.host} has moved", lambda upstream: upstream.endpoint is endpoint and upstream.place not in places)

    def drop(self, reason: str, count: int = 1) -> None:
        """Count datagrams that go nowhere."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def adopt(self, plan: Plan) -> None:
        super().adopt(plan)
        self._leave("its endpoint is gone", lambda upstream: upstream.endpoint not in self.endpoints)

    def close(self) -> None:
        super().close()
        self._leave("its cluster is gone", lambda upstream: True)

    def tick(self, now: float) -> None:
        super().tick(now)
        others = any(endpoint.up for endpoint in self.endpoints)
        self._leave("its endpoint is down", lambda upstream: not upstream.endpoint.up and (others or upstream.may_fall_back()))
        self._leave("its endpoint may be back", UdpUpstream.stands_in)

    def _leave(self, why: str, which: Callable[[UdpUpstream], bool]) -> None:
        for upstream in [upstream for upstream in self.upstreams if which(upstream)]:
            upstream.leave(why)

    async def probe(self, endpoint: Endpoint, health: Health) -> None:
        """An empty datagram that nobody refuses. Raises Error."""
        family, address = (await self.addresses(endpoint, socket.SOCK_DGRAM))[0]
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            try:
                sock.connect(address)
                sock.send(b"")
                await asyncio.sleep(PROBE)
                sock.send(b"")
            except OSError as exc:
                self.env.resolver.failed((family, address))  # the next probe asks another one, if the name has several
                raise from_os(exc, "upstream", endpoint.address) from None


def at(endpoint: Endpoint, address: object) -> str:
    """One address of an endpoint's name, as `Session.tried` has it."""
    return f"{endpoint.name} at {address}"


class UdpUpstream(DatagramSocket, DatagramReader):
    """The connected end of a UDP session. place: the address that it is connected to. kept: datagrams that may have been refused."""

    __slots__ = ("adaptive", "cluster", "endpoint", "kept", "loop", "place", "receiver", "unsent", "watching")
    sock: socket.socket
    session: Session | None

    def __init__(self, cluster: UdpCluster, sock: socket.socket, endpoint: Endpoint, address: Address) -> None:
        super().__init__(sock, address[1] if cluster.broadcast else None)
        self.kept: list[bytes] = []
        self.unsent = 0
        """Of what was to be sent last, how much the kernel has refused."""
        self.cluster = cluster
        self.loop: asyncio.AbstractEventLoop = cluster.env.loop
        self.endpoint = endpoint
        self.place = str(address[1][0])
        cluster.upstreams.add(self)
        self.watching = False
        self.adaptive = Adaptive()
        self.receiver = None
        self.resume()

    # ------------------------------------------------------------------ reading

    def resume(self) -> None:
        if not self.closed:
            self.watch()

    def pause(self) -> None:
        """The reader is full: let the kernel's buffer hold, and drop, what comes."""
        self.unwatch()

    def _readable(self) -> None:
        if not self._take_one() or self.messages_in % LOOK:
            return
        if self._take_one() and (batch := receiver(socket.AF_UNSPEC)) is not None:
            self.receiver = batch
            self.switch(True)

    def _take_one(self) -> bool:
        """Read one datagram the plain way; False when there is none or none is wanted."""
        if not self.watching:
            return False
        try:
            data = self.sock.recv(LONGEST)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as exc:
            self.failed(exc)
            return False
        if not self.messages_in:
            self.cluster.health.connected(self.endpoint)
        self.kept = []
        self.messages_in += 1
        self.bytes_in += len(data)
        to = self.to
        to.data(data)
        to.flush()
        return True

    def deliver(self, batch: Receiver, count: int) -> bool:
        """Pass on the datagrams of a batch, those of one size together."""
        sizes = batch.sizes(count)
        if not self.messages_in:
            self.cluster.health.connected(self.endpoint)
        self.kept = []
        self.messages_in += count
        self.bytes_in += sum(sizes)
        first = 0
        while first < count:
            run = run_length(sizes, first, count)
            self.pass_on(first, run, sizes[first])
            first += run
        return True

    # ------------------------------------------------------------------ writing

    def send(self, data: bytes | memoryview) -> None:
        kept = self.kept
        if not self.messages_in or not kept:
            if len(kept) < KEPT:
                kept.append(bytes(data))
        else:
            kept[0] = bytes(data)
        super().send(data)

    def drop(self, reason: str, count: int = 1) -> None:
        if reason == "send-failed":  # `failed` comes after it, and knows whether somebody else gets it
            self.unsent = count
            return
        if self.session is not None:
            self.session.dropped += count
        self.cluster.drop(reason, count)

    # ------------------------------------------------------------------ ends

    def may_fall_back(self) -> bool:
        """Would another cluster serve if this one could not?"""
        session = self.session
        return session is not None and session.decision.fallback is not None and session.fallback is None

    def stands_in(self) -> bool:
        """Is it the fallback of a cluster that has somebody again, perhaps? Routed anew, its peer loses nothing if that is not so."""
        session = self.session
        if session is None or session.fallback is None or session.cluster is not self.cluster:
            return False
        wanted = session.decision.cluster
        return wanted is not None and any(endpoint.up and endpoint.name not in wanted.drained for endpoint in wanted.endpoints)

    def failed(self, exc: OSError) -> None:
        """An ICMP error, or worse: somebody else gets what was refused, or both neighbours are told."""
        unsent, self.unsent = self.unsent, 0
        if exc.errno == errno.EMSGSIZE:  # the path has become narrower (ICMP, fragmentation needed): that was one datagram
            self.drop("too-long")
            self.look_again()
            return
        error = from_os(exc, "upstream", self.endpoint.address, "yes")
        session, to, back, kept = self.session, self.to, self.back, len(self.kept)
        lost = (
            self.messages_out + unsent if not self.messages_in else kept + unsent if unsent > 1 else max(unsent, kept)
        )  # no burst is kept
        here = self.elsewhere(session) if session is not None else ""
        whole = not self.messages_in and lost == kept
        again = session is not None and session.destination is self and session.once_more(error, self.kept, here, whole)
        if session is not None and lost > kept * again:
            session.dropped += lost - kept * again
            self.cluster.drop(error.kind, lost - kept * again)
        if again:
            return
        error.retry = "no"
        self.close()
        to.reset(error)
        if back.to is self:  # else the session has replaced this end: the hop behind has another one to write to
            back.stop(error)

    def troubled(self, exc: OSError) -> None:
        self.failed(exc)

    def elsewhere(self, session: Session) -> str:
        """Nobody is at its address: what `tried` has of it if the endpoint's name leads to another one, which was not tried, as where a
        server has IPv4 and its name IPv6 too. Nothing: it does not."""
        endpoint, resolver = self.endpoint, self.cluster.env.resolver
        if not endpoint.named:
            return ""
        resolver.failed((self.sock.family, (self.place, endpoint.port)))
        left = (resolver.places(endpoint.host) or frozenset()) - {self.place}
        return at(endpoint, self.place) if any(at(endpoint, place) not in session.tried for place in left) else ""

    def leave(self, why: str) -> None:
        """It leads to where nothing is sent any more: the session ends, and the next datagram of its peer is routed anew; or it goes on
        elsewhere, if its source is a stream, or has said what is said only once (a header of JSONSocket)."""
        session = self.session
        if session is None or self.closed:
            return
        if session.source.anew:
            session.source.part(why)
        elif session.destination is not self or not session.moves_on(why):
            session.kill(why, "drain")

    def end(self, trailer: Any = None) -> None:
        """Datagrams have no end to send. A byte-stream source that has only half-closed may still want what is on its way back."""
        session = self.session
        if session is None or session.status == DESTROYED:
            self.close()
        elif not self.closed:
            self.loop.call_later(self.cluster.linger, self._ended)

    def _ended(self) -> None:
        """No more answers are waited for, but those that wait until there is room for them."""
        if not self.closed and not self.watching:
            self.loop.call_later(self.cluster.linger, self._ended)
        elif not self.closed:
            to = self.to
            self.close()
            to.end()

    def reset(self, error: Error) -> None:
        self.close()

    def stop(self, error: Error | None = None) -> None:
        self.close()

    def status(self) -> str:
        return "END" if self.closed else "READY"

    def close(self) -> None:
        """Release the descriptor. Idempotent."""
        if not self.closed:
            self.closed = True
            self.cluster.upstreams.discard(self)
            lost = kernel_drops(self.sock)
            if lost:
                self.drop("receive-buffer-full", lost)
            self.unwatch()
            self.sock.close()
            self.detach()
