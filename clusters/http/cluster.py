"""HTTP cluster: a true reverse proxy's upstream side. Here: options, pools, how a connection (clusters/http/h1.py) is made or checked."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from carrier.core import health
from carrier.core.address import check_bind, local_address
from carrier.core.breaker import BREAKER
from carrier.core.cluster import Cluster, first_that_connects
from carrier.core.endpoint import Endpoint
from carrier.core.pool import Pool
from carrier.errors import Error, Problem, from_os
from carrier.hops.bytesocket import connect
from carrier.hops.certificates import check_client, client_of, renew
from carrier.hops.tls import HANDSHAKE
from carrier.hops.tlstransport import secure_upstream
from carrier.options import check_numbers, numbers
from carrier.wire.making import request_head
from clusters.http.exchange import Shared
from clusters.http.h1 import Upstream1
from clusters.http.probe import Probe

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.health import Health
    from carrier.core.resolve import Address
    from carrier.core.session import Session
    from carrier.core.stream import Socket, Stream

UNACKNOWLEDGED = 10_000
"""Milliseconds after which a connection is lost when the other host acknowledges nothing that was sent (RFC 5482, tcp(7)): a laptop that
has left the network says no goodbye, and its user need not wait for answer_timeout. A server that is only slow acknowledges."""
OPTIONS: Mapping[str, float] = {
    "max_idle": 256,
    "max_per_endpoint": 0,
    "max_waiting": 1024,
    "idle_timeout": 55,
    "answer_timeout": 60,
}
"""Per endpoint: idle connections, connections in all, requests that wait for one. Seconds: an idle connection is kept, the answer's head
may take. 0 means none."""


class HttpCluster(Cluster):
    """`spec: {protocol: HTTP, port}`. `options`: see OPTIONS, and `health` (carrier/core/health.py)."""

    protocol = "HTTP"
    kind = "message"
    fields = {"port": "1..65535", "bind": "{address, port}", "tls": "true or {sni, verify, ca, certificate, key, alpn}"}

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        return super().check(spec, path) + check_bind(spec, path)

    @classmethod
    def keeps_borders(cls, spec: Mapping[str, Any]) -> bool:
        return False  # of a body's bytes

    @classmethod
    def check_tls(cls, spec: Mapping[str, Any], path: str) -> list[Problem]:
        return check_client(spec.get("tls"), f"{path}.tls") if "tls" in cls.fields else []

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        self.tls = client_of(conf.spec)
        self.pools: dict[Endpoint, Pool] = {}
        limits = numbers(conf.options, OPTIONS)
        self.max_idle, self.max_per_endpoint, self.max_waiting = (int(limits[n]) for n in ("max_idle", "max_per_endpoint", "max_waiting"))
        self.idle_timeout = limits["idle_timeout"]
        self.shared = Shared(env.loop.time(), limits["answer_timeout"])
        super().__init__(conf, env)

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        found = check_numbers(options, {**OPTIONS, **BREAKER}, path, ("health",))
        return found + (health.check(options["health"], f"{path}.health") if "health" in options else [])

    def pool(self, endpoint: Endpoint) -> Pool:
        """The connections of an endpoint."""
        found = self.pools.get(endpoint)
        if found is None:
            found = self.pools[endpoint] = Pool(endpoint, self.max_idle, self.max_per_endpoint, self.max_waiting)
        return found

    def close(self) -> None:
        self.max_idle = 0
        super().close()

    def discard(self, endpoint: Endpoint) -> None:
        gone = self.pools.pop(endpoint, None)
        if gone is not None:
            gone.close()  # connections that still serve close when they have
        super().discard(endpoint)

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream | None:
        assert endpoint is not None
        if session.retries or not endpoint.idle:  # what broke one kept-alive connection may have broken them all
            return None
        found: Upstream1 = endpoint.idle.pop()
        found.session = session
        return found

    async def open(self, session: Session, endpoint: Endpoint) -> Socket:
        self.check_port_of(endpoint)
        pool = self.pool(endpoint)
        free = await pool.enter(endpoint.address)
        if free is None:
            try:
                free = await self._connect(endpoint, pool)
            finally:
                pool.entered()
        upstream = cast(Upstream1, free)
        upstream.session = session
        return upstream

    async def _connect(self, endpoint: Endpoint, pool: Pool) -> Upstream1:
        addresses = await self.addresses(endpoint)
        local = local_address(self.spec)

        async def one(address: Address) -> Upstream1:
            if self.tls is not None:
                sock = await connect(self.env.loop, address[0], address[1], endpoint.address, local)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED)
                made = Upstream1(self.shared, endpoint, pool)
                return await secure_upstream(self.env.loop, sock, self.tls, endpoint.host, endpoint.address, made)
            try:
                _, upstream = await self.env.loop.create_connection(
                    lambda: Upstream1(self.shared, endpoint, pool), *address[1][:2], family=address[0], local_addr=local
                )
                upstream.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED)
            except OSError as exc:
                raise from_os(exc, "upstream", endpoint.address, "yes") from None
            return upstream

        try:
            return cast(Upstream1, await first_that_connects(addresses, one, self.env.resolver.failed))
        except Error:
            self.env.resolver.forget(endpoint.host)
            raise

    def secured(self, endpoint: Endpoint) -> dict[str, Any]:
        """What the event loop needs to know to speak TLS to an endpoint; nothing without `spec.tls`."""
        if self.tls is None:
            return {}
        return {"ssl": self.tls.context, "server_hostname": self.tls.name(endpoint.host), "ssl_handshake_timeout": HANDSHAKE}

    async def probe(self, endpoint: Endpoint, health: Health) -> None:
        """TCP: by connecting. HTTP: by a GET that has to be answered with 2xx or 3xx."""
        if health.active != "HTTP":
            await super().probe(endpoint, health)
            return
        addresses = await self.addresses(endpoint)
        host = (health.host or endpoint.address).encode("latin-1", "replace")
        request = request_head(b"GET", health.path.encode("latin-1", "replace"), [(b"host", host), (b"user-agent", b"carrier2-health")])

        async def one(address: Address) -> socket.socket:
            return await connect(self.env.loop, address[0], address[1], endpoint.address)

        sock = await first_that_connects(addresses, one)
        try:
            transport, probe = await self.env.loop.create_connection(
                lambda: Probe(self.shared.limits, request), sock=sock, **self.secured(endpoint)
            )
        except OSError as exc:
            sock.close()
            raise from_os(exc, "upstream", endpoint.address) from None
        try:
            status = await probe.status
        finally:
            transport.abort()
        if not 200 <= status < 400:
            raise Error("bad-answer", f"{endpoint.address}{health.path} answered {status}", "upstream")

    def follow(self, endpoint: Endpoint, places: frozenset[str]) -> None:
        for connection in [connection for connection in endpoint.idle if connection.place not in places]:
            connection.close()

    def tick(self, now: float) -> None:
        super().tick(now)
        self.shared.now = now
        if self.tls is not None:
            renew(self.tls, self.env, f"cluster/{self.name}")
        if self.idle_timeout:
            for pool in list(self.pools.values()):
                pool.expire(now - self.idle_timeout)
        for upstream in list(self.shared.busy):
            upstream.tick(now)
