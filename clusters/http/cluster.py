"""HTTP cluster: a true reverse proxy's upstream side. Here: options, pools, how a connection (clusters/http/h1.py) is made or checked."""

from __future__ import annotations

import socket
from asyncio import Protocol
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from carrier.core import health
from carrier.core.address import check_bind, keep_alive, local_address
from carrier.core.breaker import BREAKER
from carrier.core.cluster import Cluster, first_that_connects
from carrier.core.endpoint import Endpoint
from carrier.core.pool import Pool
from carrier.errors import Error, Problem, from_os
from carrier.hops import introduce
from carrier.hops.bytesocket import connect
from carrier.hops.certificates import ClientTls, check_client, client_of, renew
from carrier.hops.tls import connected_channel, unwatch
from carrier.hops.tlstransport import TlsTransport
from carrier.options import check_numbers, numbers
from carrier.wire.h1.head import Limits
from carrier.wire.introduction import LOCAL
from clusters.http.exchange import Exchange, Shared, no_grpc
from clusters.http.h1 import Upstream1
from clusters.http.h2 import Upstream2, Way2
from clusters.http.h2_exchange import Exchange2
from clusters.http.h2_pool import Pool2, SharedEndpoint
from clusters.http.private import Client, PrivateEndpoint, Who, who
from clusters.http.probe import GOOD, Probe1, Probe2

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.health import Health
    from carrier.core.resolve import Address
    from carrier.core.session import Session
    from carrier.core.stream import Socket, Stream

P = TypeVar("P", bound=Protocol)
OPTIONS: Mapping[str, float] = {
    "max_idle": 256,
    "max_per_endpoint": 0,
    "max_waiting": 1024,
    "max_streams": 100,
    "idle_timeout": 55,
    "answer_timeout": 60,
    "max_head": 32 * 1024,
    "max_fields": 100,
    "max_line": 16 * 1024,
}
"""Per endpoint: idle connections, connections in all, requests that wait for one; streams on one connection of HTTP/2. Seconds: an idle
connection is kept, the answer's head may take. Of an answer's head: bytes, fields, bytes of a line. 0 means none."""


ALPN = {0: ("h2", "http/1.1"), 1: ("http/1.1",), 2: ("h2",)}
"""What TLS offers for a version; 0: whichever is agreed on."""


class HttpCluster(Cluster):
    """`spec: {protocol: HTTP, port}`. `options`: see OPTIONS, and `health` (carrier/core/health.py)."""

    protocol = "HTTP"
    kind = "message"
    spoken: ClassVar[Sequence[str]] = ("h2", "http/1.1", "http/1.0")
    """What may be agreed on inside TLS; nothing: anything."""
    fields = {
        "port": "1..65535",
        "bind": "{address, port}",
        "tls": "true or {sni, verify, ca, certificate, key, alpn}",
        "http": "1 or 2: the version to speak; without it what TLS agrees on, and 1 without TLS",
        "proxy_protocol": introduce.FIELD,
    }

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        found = super().check(spec, path) + check_bind(spec, path) + introduce.check_version(spec, path)
        if "http" in cls.fields and spec.get("http", 1) not in (1, 2):
            found.append(Problem("no version of HTTP", f"{path}.http", seen=repr(spec["http"]), allowed="1, 2"))
        return found

    @classmethod
    def keeps_borders(cls, spec: Mapping[str, Any]) -> bool:
        return False  # of a body's bytes

    @classmethod
    def check_tls(cls, spec: Mapping[str, Any], path: str) -> list[Problem]:
        return check_client(spec.get("tls"), f"{path}.tls", cls.spoken) if "tls" in cls.fields else []

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        version = conf.spec.get("http")
        self.tls: ClientTls | None = client_of(conf.spec, ALPN[version] if version in (1, 2) else ALPN[0])
        self.version: int = version if version in (1, 2) else 0 if self.tls is not None and "h2" in self.tls.alpn else 1
        """The version that is spoken; 0: TLS agrees on it."""
        self.offered = self.version
        """The version that `tls` offers; 0: both."""
        self.introduces = str(conf.spec.get("proxy_protocol") or "")
        self.clients: dict[tuple[Endpoint, Who], Client] = {}
        """Whose connections are their own, because the endpoint is told who they are."""
        if self.introduces:
            self.endpoint_class = PrivateEndpoint
        elif self.version != 1 and self.endpoint_class is Endpoint:
            self.endpoint_class = SharedEndpoint
        self.single: dict[int, ClientTls | None] = {}
        """TLS that offers one version only, for those that are to be spoken whatever else could be agreed on."""
        self.pools: dict[Endpoint, Pool] = {}
        self.pools2: dict[Endpoint, Pool2] = {}
        self.closed = False
        self.agreed1: set[Endpoint] = set()
        """Endpoints that have agreed on HTTP/1.1 when they last were asked."""
        limits = numbers(conf.options, OPTIONS)
        self.max_idle, self.max_per_endpoint, self.max_waiting = (int(limits[n]) for n in ("max_idle", "max_per_endpoint", "max_waiting"))
        self.idle_timeout = limits["idle_timeout"]
        head, fields, line = (int(limits[name]) for name in ("max_head", "max_fields", "max_line"))
        self.shared = Shared(env.loop.time(), limits["answer_timeout"], Limits(head=head, fields=fields, line=line, options=True))
        self.way = Way2(self.shared, b"https" if self.tls is not None else b"http", int(limits["max_streams"]))
        super().__init__(conf, env)

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        found = check_numbers(options, {**OPTIONS, **BREAKER}, path, ("health",))
        return found + (health.check(options["health"], f"{path}.health") if "health" in options else [])

    def pool(self, endpoint: Endpoint, client: Client | None = None) -> Pool:
        """The connections of an endpoint, or of a client to it."""
        if client is not None:
            return client.pool
        found = self.pools.get(endpoint)
        if found is None:
            found = self.pools[endpoint] = Pool(endpoint, self.max_idle, self.max_per_endpoint, self.max_waiting)
        return found

    def pool2(self, endpoint: Endpoint, client: Client | None = None) -> Pool2:
        """The connections of HTTP/2 of an endpoint, or of a client to it."""
        found = self.pools2.get(endpoint) if client is None else client.pool2
        if found is None:
            found = Pool2(
                self.way,
                endpoint,
                lambda pool: self._connect(endpoint, self.offered and 2, client, pool=pool),
                self.max_per_endpoint,
                self.max_waiting,
                None if self.version == 2 else lambda: self._open1(endpoint, 1, client, sure=True),
            )
            if self.closed or endpoint not in self.endpoints:  # a session had chosen it before it went: it has one of its own
                found.closed = True
                return found
            if client is not None:
                client.pool2 = found
                return found
            self.pools2[endpoint] = found
            if isinstance(endpoint, SharedEndpoint):
                endpoint.pool = found
        return found

    def client(self, session: Session, endpoint: Endpoint) -> Client | None:
        """Whose connections a session may use; None: anybody's."""
        if not self.introduces:
            return None
        key = endpoint, who(session)
        found = self.clients.get(key)
        if found is None:
            header = introduce.introduction(session, self.introduces)
            found = self.clients[key] = Client(endpoint, key[1], header, self.max_idle)
        return found

    def takes_h2(self) -> bool:
        return self.version == 2

    def speaks(self, session: Session) -> int:
        """The version of HTTP in which a session is served; 0: TLS agrees on it."""
        return self.version

    def close(self) -> None:
        self.max_idle = 0
        self.closed = True
        super().close()

    def discard(self, endpoint: Endpoint) -> None:
        if isinstance(endpoint, SharedEndpoint):
            endpoint.pool = None
        own = [self.clients.pop(key) for key in list(self.clients) if key[0] is endpoint]
        for gone in (self.pools.pop(endpoint, None), self.pools2.pop(endpoint, None), *own):
            if gone is not None:
                gone.close()  # connections that still serve close when they have
        self.agreed1.discard(endpoint)
        super().discard(endpoint)

    def tunnels(self, session: Session) -> bool:
        return True

    def choose(self, session: Session, tried: Collection[str] = ()) -> Endpoint:
        bound = session.source.bound_to
        if bound is not None and bound.usable and bound.endpoint in self.selectable and bound.endpoint.name not in tried:
            return cast(Endpoint, bound.endpoint)
        return super().choose(session, tried)

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream | None:
        assert endpoint is not None
        version = self.speaks(session)
        client = self.client(session, endpoint)
        if version != 1:
            pool = self.pools2.get(endpoint) if client is None else client.pool2
            connection = pool.free() if pool is not None else None
            if pool is not None and connection is not None:
                exchange = pool.exchange(connection)
                exchange.session = session
                return exchange
            if version == 2 or endpoint not in self.agreed1:
                return None
        bound = session.source.bound_to
        if bound is not None and bound.endpoint is endpoint and bound.usable and bound.session is None and not session.retries:
            bound.session = session
            return cast("Stream", bound)
        idle = endpoint.idle if client is None else client.idle
        if session.retries or not idle:  # what broke one kept-alive connection may have broken them all
            return None
        found: Upstream1 = idle.pop()
        found.session = session
        return found

    async def open(self, session: Session, endpoint: Endpoint) -> Socket:
        self.check_port_of(endpoint)
        version, client = self.speaks(session), self.client(session, endpoint)
        if version == 1 and session.request is not None and session.request.grpc:
            raise no_grpc(endpoint)  # a server of gRPC alone would speak first, and in HTTP/2
        found: Any = None
        if version == 2 or (version == 0 and endpoint not in self.agreed1):
            found = await self.pool2(endpoint, client).open()
        if found is None:
            found = await self._open1(endpoint, version, client, session=session)
        found.session = session
        return cast("Socket", found)

    async def _open1(
        self, endpoint: Endpoint, version: int, client: Client | None, sure: bool = False, session: Session | None = None
    ) -> Exchange:
        """An exchange of HTTP/1.1; version 0: it may have become one of HTTP/2 meanwhile. sure: TLS has to agree on it."""
        pool = self.pool(endpoint, client)
        anew = session is not None and session.retries > 0  # as in `ready`: the next kept-alive one may be broken, too
        if version and pool.idle and not anew:
            return cast(Upstream1, pool.idle.pop())
        while (free := await pool.enter(endpoint.address)) is not None:
            if not anew:
                return cast(Upstream1, free)
            free.close()
        try:
            made = await self._connect(endpoint, version, client, sure, session=session)
        finally:
            pool.entered()
        return Exchange2(cast(Pool2, made.pool), endpoint, made) if isinstance(made, Upstream2) else made

    async def _connect(
        self,
        endpoint: Endpoint,
        version: int,
        client: Client | None,
        sure: bool = False,
        pool: Pool2 | None = None,
        session: Session | None = None,
    ) -> Upstream1 | Upstream2:
        """One connection, of this version; 0: of the one that TLS agrees on. sure: it has to agree on it, if there is TLS. pool: whose it
        is if it speaks HTTP/2. session: that it is made for, and no other one uses at once."""
        tls = self.tls_for(version)

        def make(agreed: str | None) -> Upstream1 | Upstream2:
            if sure and tls is not None and agreed not in ALPN[version]:
                raise Error("tls", f"{endpoint.address}: it agrees on no {ALPN[version][0]}", "upstream")
            return self._make(endpoint, self._agreed(endpoint, agreed, version) if tls is not None else version, client, pool)

        if client is not None:
            self._make_room(endpoint)
        try:
            return await self._dial(endpoint, tls, make, client.header if client is not None else b"", session)
        except Error:
            self.env.resolver.forget(endpoint.host)
            raise

    def _make_room(self, endpoint: Endpoint) -> None:
        """Where connections are one client's each, the one that is being made takes the place of one that waits. Raises Error."""
        own = [client for client in self.clients.values() if client.endpoint is endpoint]
        if 0 < self.max_per_endpoint < sum(client.connections for client in own) and not any(client.rest() for client in own):
            detail = f"{endpoint.address}: {self.max_per_endpoint} connections (options.max_per_endpoint), each of one client"
            raise Error("overload", detail, "upstream", "yes")

    async def _dial(
        self, endpoint: Endpoint, tls: ClientTls | None, make: Callable[[str | None], P], header: bytes, session: Session | None = None
    ) -> P:
        """A protocol of the event loop on a connection of its own, which begins with a header of the PROXY protocol if there is one; `make`
        is told what TLS has agreed on. Raises Error."""
        loop, where, local, ways = self.env.loop, endpoint.address, local_address(self.spec), self.env.ways

        async def one(address: Address) -> P:
            told = None
            if session is not None and ways.lead_here(self.env.own, self.transport, address[1][0], endpoint.port):
                told = partial(ways.goes, session, self.transport)  # to a listener that sees a stream where this is a request
            if tls is not None or header or told is not None:
                sock = await connect(loop, address[0], address[1], where, local, told)
                if header:
                    await introduce.introduce(loop, sock, header, where)
                return await self._inside(sock, endpoint, tls, make)
            try:
                transport, made = await loop.create_connection(lambda: make(None), *address[1][:2], family=address[0], local_addr=local)
            except OSError as exc:
                raise from_os(exc, "upstream", where, "yes") from None
            keep_alive(transport.get_extra_info("socket"))
            return made

        return cast("P", await first_that_connects(await self.addresses(endpoint), one, self.env.resolver.failed))

    async def _inside(self, sock: socket.socket, endpoint: Endpoint, tls: ClientTls | None, make: Callable[[str | None], P]) -> P:
        """The protocol on a connected socket, behind a handshake if there is TLS."""
        loop = self.env.loop
        if tls is None:
            _, plain = await loop.create_connection(lambda: make(None), sock=sock)
            return plain
        channel = await connected_channel(loop, sock, tls, endpoint.host, endpoint.address)
        try:
            made = make(channel.tls.selected_alpn_protocol())
        except Error:
            unwatch(loop, sock)
            sock.close()
            raise
        TlsTransport(loop, sock, channel, made, "upstream")
        return made

    def _make(self, endpoint: Endpoint, version: int, client: Client | None, pool: Pool2 | None) -> Upstream1 | Upstream2:
        if version == 2:
            return Upstream2(pool or self.pool2(endpoint, client), endpoint)
        return Upstream1(self.shared, endpoint, self.pool(endpoint, client))

    def _agreed(self, endpoint: Endpoint, protocol: str | None, version: int) -> int:
        """The version that TLS has agreed on. One that had to be holds also where a server knows no ALPN."""
        if not version:
            version = 2 if protocol == "h2" else 1
            if version == 1:
                self.agreed1.add(endpoint)
            else:
                self.agreed1.discard(endpoint)
        return version

    def tls_for(self, version: int) -> ClientTls | None:
        """The TLS that offers this version, and no other if it is not 0."""
        if self.tls is None or version == self.offered or self.spec.get("tls") is None:
            return self.tls
        if version not in self.single:
            raw = self.spec["tls"]
            self.single[version] = client_of({"tls": {**(raw if isinstance(raw, dict) else {}), "alpn": list(ALPN[version])}})
        return self.single[version]

    async def probe(self, endpoint: Endpoint, health: Health) -> None:
        """TCP: by connecting. HTTP: by a GET, in the version that requests are sent in, that has to be answered with 2xx or 3xx. GRPC: by
        a call of its health service, over HTTP/2, that has to be answered with SERVING."""
        if health.active not in ("HTTP", "GRPC"):
            await super().probe(endpoint, health)
            return
        service = health.service if health.active == "GRPC" else None
        version = self.offered if service is None else 2
        host, path = ((text or other).encode("latin-1", "replace") for text, other in ((health.host, endpoint.address), (health.path, "/")))
        tls = self.tls_for(version)

        def make(agreed: str | None) -> Probe1 | Probe2:
            if version == 2 or (version == 0 and agreed == "h2"):
                return Probe2(self.way, host, path, service)
            return Probe1(self.shared.limits, host, path)

        probe = await self._dial(endpoint, tls, make, LOCAL.get(self.introduces, b""))
        try:
            said = await probe.said
        finally:
            probe.close()
        if said not in GOOD:
            raise Error("bad-answer", f"{endpoint.address}{health.path if service is None else ' (gRPC)'} answered {said}", "upstream")

    def follow(self, endpoint: Endpoint, places: frozenset[str]) -> None:
        idle = [*endpoint.idle, *(one for client in self.clients.values() if client.endpoint is endpoint for one in client.idle)]
        for connection in [connection for connection in idle if connection.place not in places]:
            connection.close()

    def tick(self, now: float) -> None:
        super().tick(now)
        self.shared.now = now
        for tls in (self.tls, *self.single.values()):
            if tls is not None:
                renew(tls, self.env, f"cluster/{self.name}")
        idle = self.shared.idle_for(self.idle_timeout)
        if idle:
            for pool in list(self.pools.values()):
                pool.expire(now - idle)
        for pool2 in list(self.pools2.values()):
            pool2.tick(now, self.idle_timeout)
        for key, client in list(self.clients.items()):
            client.tick(now, idle)
            if client.gone:
                client.close()
                if not client.connections:
                    del self.clients[key]
        for upstream in list(self.shared.busy):
            upstream.tick(now)
