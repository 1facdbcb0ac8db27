"""TCP cluster: one upstream connection per session, to the port of the endpoint or else of the cluster."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.address import check_bind, local_address
from carrier.core.cluster import Cluster, first_that_connects
from carrier.core.endpoint import Endpoint
from carrier.errors import Error, Problem, from_os
from carrier.hops.bytesocket import ByteSocket, connect
from carrier.hops.certificates import check_client, client_of, renew
from carrier.hops.tls import upstream
from carrier.wire.introduction import version_1, version_2

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.resolve import Address
    from carrier.core.session import Session


async def introduce(loop: asyncio.AbstractEventLoop, sock: socket.socket, session: Session, version: str, where: str) -> None:
    """Say who the client of this session is, as the PROXY protocol does. Raises Error; then the socket is closed."""
    found = session.metadata
    address, port, tls = found.get("IP", {}), found.get("TCP") or found.get("UDP") or {}, found.get("TLS") or {}
    peer = str(address.get("src_addr", "")), int(port.get("src_port", 0))
    local = str(address.get("dst_addr", "")), int(port.get("dst_port", 0))
    if version == "v1":
        header = version_1(peer, local)
    else:
        alpn = tls.get("alpn")
        header = version_2(peer, local, str(tls.get("sni") or ""), alpn if isinstance(alpn, str) else "")
    try:
        await loop.sock_sendall(sock, header)
    except OSError as exc:
        sock.close()
        raise from_os(exc, "upstream", where, "yes") from None
    except BaseException:
        sock.close()
        raise


class TcpCluster(Cluster):
    """`spec: {protocol: TCP, port, bind: {address, port}, tls}`. bind: the local address to connect from; tls: see carrier/hops/tls.py."""

    protocol = "TCP"
    fields = {
        "port": "1..65535",
        "bind": "{address, port}",
        "tls": "true or {sni, verify, ca, certificate, key, alpn}",
        "proxy_protocol": "v1 or v2: say first who has connected (PROXY protocol)",
    }

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        found = super().check(spec, path) + check_bind(spec, path)
        if spec.get("proxy_protocol", "v1") not in ("v1", "v2"):
            found.append(Problem("no version of PROXY", f"{path}.proxy_protocol", seen=repr(spec["proxy_protocol"]), allowed="v1, v2"))
        return found

    @classmethod
    def check_tls(cls, spec: Mapping[str, Any], path: str) -> list[Problem]:
        return check_client(spec.get("tls"), f"{path}.tls") if "tls" in cls.fields else []

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        self.tls = client_of(conf.spec)
        self.introduces = str(conf.spec.get("proxy_protocol") or "")
        """The version of the PROXY header that each connection begins with, v1 or v2; "" for none."""
        super().__init__(conf, env)

    async def open(self, session: Session, endpoint: Endpoint) -> ByteSocket:
        sock = await self.connect(endpoint)
        if self.introduces:
            await introduce(self.env.loop, sock, session, self.introduces, endpoint.address)
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

    async def connect(self, endpoint: Endpoint) -> socket.socket:
        """A connected socket to the endpoint. Raises Error."""
        addresses = await self.addresses(endpoint)
        local = local_address(self.spec)

        async def one(address: Address) -> socket.socket:
            return await connect(self.env.loop, address[0], address[1], endpoint.address, local)

        try:
            found: socket.socket = await first_that_connects(addresses, one, self.env.resolver.failed)
        except Error:
            self.env.resolver.forget(endpoint.host)
            raise
        return found
