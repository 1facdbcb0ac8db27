"""UDP cluster: a connected socket per session, so that only the endpoint's own datagrams come back.

`bind: {address, port}` fixes the local address (two sessions of one bind port to one endpoint cannot be told apart by the kernel:
the second is refused). A refused port (ICMP) breaks the session with "refused"; the route's retry policy decides what follows.
While wake-ups find more than one datagram they are received in batches, and sent on as bursts when the session's source writes
datagrams too and nothing stands between (carrier/hops/datagram.py).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.address import check_bind, local_address
from carrier.core.cluster import Cluster, first_that_connects
from carrier.core.endpoint import Endpoint
from carrier.core.resolve import Address, literal
from carrier.core.stream import DESTROYED, Socket
from carrier.errors import Error, Problem, from_os
from carrier.hops.datagram import LOOK, Adaptive, DatagramSocket
from carrier.hops.mmsg import COUNT, LONGEST, Receiver, enlarge, kernel_drops, receiver, run_length
from carrier.hops.pace import unwatch, watch

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.session import Session

BATCHES = 4
"""Batches taken in one wake-up, so that one upstream does not starve the others."""
BUFFER = 1 << 20
"""Receive and send buffer asked of the kernel, in bytes; it may grant less."""
LINGER = 2.0
"""Seconds that answers may still take after a byte-stream source has ended."""


class UdpCluster(Cluster):
    """`spec: {protocol: UDP, port, bind: {address, port}}`."""

    protocol = "UDP"
    kind = "datagram"
    fields = {"port": "1..65535", "bind": "{address, port}"}

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        super().__init__(conf, env)
        self.dropped: dict[str, int] = {}
        """Datagrams dropped, by reason; those that an upstream's receive buffer had no room for when its session has ended."""
        self.upstreams: set[UdpUpstream] = set()

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        return super().check(spec, path) + check_bind(spec, path)

    def ready(self, session: Session, endpoint: Endpoint | None) -> Socket | None:
        """A literal address needs no waiting: connect() of a datagram socket only notes the address."""
        assert endpoint is not None
        address = literal(endpoint.host, endpoint.port)
        return None if address is None else self._connect(session, endpoint, address)

    async def open(self, session: Session, endpoint: Endpoint) -> Socket:
        addresses = await self.addresses(endpoint, socket.SOCK_DGRAM)

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
            sock.connect(address[1])
        except OSError as exc:
            if sock is not None:
                sock.close()
            raise from_os(exc, "upstream", endpoint.address, "yes") from None
        upstream = UdpUpstream(self, sock, endpoint, address)
        upstream.session = session
        return upstream

    def follow(self, endpoint: Endpoint, places: frozenset[str]) -> None:
        for upstream in [upstream for upstream in self.upstreams if upstream.endpoint is endpoint and upstream.place not in places]:
            upstream.leave(f"{endpoint.host} has moved")

    def drop(self, reason: str, count: int = 1) -> None:
        """Count datagrams that go nowhere."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count


class UdpUpstream(DatagramSocket):
    """The connected end of a UDP session. place: the address that it is connected to."""

    __slots__ = ("adaptive", "batch", "cluster", "endpoint", "loop", "paused", "place")

    def __init__(self, cluster: UdpCluster, sock: socket.socket, endpoint: Endpoint, address: Address) -> None:
        super().__init__(sock, None)
        self.cluster = cluster
        self.loop: asyncio.AbstractEventLoop = cluster.env.loop
        self.endpoint = endpoint
        self.place = str(address[1][0])
        cluster.upstreams.add(self)
        self.paused = True
        self.adaptive: Adaptive | None = None
        """Made, as `batch`, when a wake-up first finds a second datagram: most sessions are short."""
        self.batch: Receiver
        self.resume()

    # ------------------------------------------------------------------ reading

    def resume(self) -> None:
        if self.paused and not self.closed:
            self.paused = False
            self._watch()

    def pause(self) -> None:
        """The reader is full: let the kernel's buffer hold, and drop, what comes."""
        if not self.paused and not self.closed:
            self._unwatch()
            self.paused = True

    def _watch(self) -> None:
        """Be called when datagrams are there."""
        if self.adaptive is not None and self.adaptive.batching:
            watch(self.loop, self.sock.fileno(), self._take_batches)
        else:
            self.loop.add_reader(self.sock, self._readable)

    def _unwatch(self) -> None:
        if self.adaptive is not None and self.adaptive.batching:
            unwatch(self.loop, self.sock.fileno())
        else:
            self.loop.remove_reader(self.sock)

    def _switch(self, batching: bool) -> None:
        """Take batches from now on, or one datagram a wake-up."""
        assert self.adaptive is not None
        if not (self.paused or self.closed):
            self._unwatch()
            self.adaptive.batching = batching
            self._watch()

    def _readable(self) -> None:
        if not self._take_one() or self.messages_in % LOOK:
            return
        if self._take_one() and (batch := receiver(socket.AF_UNSPEC)) is not None:
            self.batch, self.adaptive = batch, self.adaptive or Adaptive()
            self._switch(True)

    def _take_one(self) -> bool:
        """Read one datagram the plain way; False when there is none or none is wanted."""
        if self.paused or self.closed:
            return False
        try:
            data = self.sock.recv(LONGEST)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as exc:
            self.failed(exc)
            return False
        self.messages_in += 1
        self.bytes_in += len(data)
        to = self.to
        to.data(data)
        to.flush()
        return True

    def _take_batches(self) -> int:
        """Take and pass on what waits; how many datagrams that was."""
        batch, adaptive = self.batch, self.adaptive
        assert adaptive is not None
        taken = 0
        for _ in range(BATCHES):
            if self.paused or self.closed:
                return taken
            try:
                count = batch.receive(self.sock.fileno())
            except (BlockingIOError, InterruptedError):
                return taken
            except OSError as exc:
                self.failed(exc)
                return taken
            taken += count
            self._deliver(batch, count)
            if count < COUNT:
                if (count == 1 or adaptive.alone) and not adaptive.goes_on(count):
                    self._switch(False)
                return taken
        return taken

    def _deliver(self, batch: Receiver, count: int) -> None:
        """Pass on the datagrams of a batch, those of one size together."""
        sizes = batch.sizes(count)
        self.messages_in += count
        self.bytes_in += sum(sizes)
        first = 0
        while first < count:
            run = run_length(sizes, first, count)
            self.pass_on(first, run, sizes[first])
            first += run

    # ------------------------------------------------------------------ writing

    def head(self, head: Any, last: bool = False) -> None:
        """Datagrams have no heads; only a message's end shows."""
        if last:
            self.end()

    def drop(self, reason: str, count: int = 1) -> None:
        self.cluster.drop(reason, count)

    # ------------------------------------------------------------------ ends

    def failed(self, exc: OSError) -> None:
        """An ICMP error, or worse: tell both neighbours."""
        error = from_os(exc, "upstream", self.endpoint.address)
        to, back = self.to, self.back
        self.close()
        to.reset(error)
        if back.to is self:  # else the session has replaced this end: the hop behind has another one to write to
            back.stop(error)

    def leave(self, why: str) -> None:
        """It leads to where nothing is sent any more: the session ends, and the next datagram of its peer is routed anew."""
        session = self.session
        if session is not None and not self.closed:
            session.kill(why, "drain")

    def end(self, trailer: Any = None) -> None:
        """Datagrams have no end to send. A byte-stream source that has only half-closed may still want what is on its way back."""
        session = self.session
        if session is None or session.status == DESTROYED:
            self.close()
        elif not self.closed:
            self.loop.call_later(LINGER, self._ended)

    def _ended(self) -> None:
        if not self.closed:
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
            if not self.paused:
                self._unwatch()
            self.sock.close()
            self.detach()
