"""TCP cluster: one upstream connection per session, to the port of the endpoint or else of the cluster."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from carrier.config import draft as config
from carrier.core.cluster import Cluster, Endpoint, Env, check_members, first_that_connects
from carrier.core.resolve import Address, literal
from carrier.core.session import Session
from carrier.errors import Error, Problem
from carrier.hops.bytesocket import ByteSocket, connect
from carrier.hops.tls import client_of, upstream


class TcpCluster(Cluster):
    """`spec: {protocol: TCP, port, bind: {address, port}, tls}`. bind: the local address to connect from; tls: see carrier/hops/tls.py."""

    protocol = "TCP"
    fields = {"port": "1..65535", "bind": "{address, port}", "tls": "true or {sni, verify, ca, certificate, key}"}

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        return super().check(spec, path) + check_bind(spec, path)

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        self.tls = client_of(conf.spec)
        super().__init__(conf, env)

    async def open(self, session: Session, endpoint: Endpoint) -> ByteSocket:
        sock = await self.connect(endpoint)
        opened: ByteSocket
        if self.tls is not None:
            opened = await upstream(self.env.loop, sock, self.tls, endpoint.host, endpoint.address)
        else:
            opened = ByteSocket(self.env.loop, sock, "upstream")
        opened.session = session
        return opened

    def tick(self, now: float) -> None:
        super().tick(now)
        if self.tls is not None:
            self.tls.refresh()

    async def connect(self, endpoint: Endpoint) -> socket.socket:
        """A connected socket to the endpoint. Raises Error."""
        if not 0 < endpoint.port < 65536:
            raise Error("no-endpoint", f"{endpoint.name}: {self.spec.get('port')!r} is not a port", "upstream", "yes")
        addresses = await self.env.resolver.resolve(endpoint.host, endpoint.port)
        local = local_address(self.spec)

        async def one(address: Address) -> socket.socket:
            return await connect(self.env.loop, address[0], address[1], endpoint.address, local)

        try:
            found: socket.socket = await first_that_connects(addresses, one)
        except Error:
            self.env.resolver.forget(endpoint.host)
            raise
        return found


def local_address(spec: Mapping[str, Any]) -> tuple[str, int] | None:
    """The `spec.bind` of a cluster as a socket address, or None; parts that make no sense count as not given."""
    bind = spec.get("bind")
    if not isinstance(bind, dict):
        return None
    host, port = bind.get("address"), bind.get("port")
    return host if isinstance(host, str) else "", port if isinstance(port, int) and 0 <= port <= 65535 else 0


def check_bind(spec: Mapping[str, Any], path: str) -> list[Problem]:
    """Everything wrong with `spec.bind`, by the strict standard."""
    bind = spec.get("bind")
    if bind is None:
        return []
    if not isinstance(bind, dict):
        return [Problem(f"expected an object, got {bind!r}", f"{path}.bind", seen=repr(bind), allowed="{address, port}")]
    host, port = bind.get("address", ""), bind.get("port", 0)
    found = check_members(bind, f"{path}.bind", ("address", "port"))
    if not isinstance(host, str) or (host and literal(host, 0) is None):
        found.append(Problem(f"expected an IP address, got {host!r}", f"{path}.bind.address", seen=repr(host), allowed="IPv4 or IPv6"))
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        found.append(Problem(f"expected a port 0..65535, got {port!r}", f"{path}.bind.port", seen=repr(port), allowed="0..65535"))
    return found
