"""TCP cluster: one upstream connection per session, to the port of the endpoint or else of the cluster."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from carrier.core.address import check_bind, local_address
from carrier.core.cluster import Cluster, first_that_connects
from carrier.core.endpoint import Endpoint
from carrier.errors import Error, Problem
from carrier.hops import introduce
from carrier.hops.bytesocket import ByteSocket, connect
from carrier.hops.certificates import check_client, client_of, renew
from carrier.hops.tls import upstream

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.resolve import Address
    from carrier.core.session import Session


class TcpCluster(Cluster):
    """`spec: {protocol: TCP, port, bind: {address, port}, tls}`. bind: the local address to connect from; tls: see carrier/hops/tls.py."""

    protocol = "TCP"
    fields = {
        "port": "1..65535",
        "bind": "{address, port}",
        "tls": "true or {sni, verify, ca, certificate, key, alpn}",
        "proxy_protocol": introduce.FIELD,
    }

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        return super().check(spec, path) + check_bind(spec, path) + introduce.check_version(spec, path)

    @classmethod
    def check_tls(cls, spec: Mapping[str, Any], path: str) -> list[Problem]:
        return check_client(spec.get("tls"), f"{path}.tls") if "tls" in cls.fields else []

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        self.tls = client_of(conf.spec)
        self.introduces = str(conf.spec.get("proxy_protocol") or "")
        """The version of the PROXY header that each connection begins with, v1 or v2; "" for none."""
        super().__init__(conf, env)

    async def open(self, session: Session, endpoint: Endpoint) -> ByteSocket:
        sock = await self.connect(session, endpoint)
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
            renew(self.tls, self.env, f"cluster/{self.name}")

    async def connect(self, session: Session, endpoint: Endpoint) -> socket.socket:
        """A connected socket to the endpoint, which knows whose session it is if it wants to. Raises Error."""
        addresses = await self.addresses(endpoint)
        local = local_address(self.spec)
        ways = self.env.ways

        async def one(address: Address) -> socket.socket:
            here = ways.lead_here(self.env.own, self.transport, address[1][0], endpoint.port)
            told = partial(ways.goes, session, self.transport) if here else None
            return await connect(self.env.loop, address[0], address[1], endpoint.address, local, told)

        try:
            found: socket.socket = await first_that_connects(addresses, one, self.env.resolver.failed)
        except Error:
            self.env.resolver.forget(endpoint.host)
            raise
        if self.introduces:
            await introduce.introduce(self.env.loop, found, introduce.introduction(session, self.introduces), endpoint.address)
        return found
