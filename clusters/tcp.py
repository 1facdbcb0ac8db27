"""TCP cluster: one upstream connection per session, to the port of the endpoint or else of the cluster."""

from __future__ import annotations

import socket

from carrier.bytesocket import ByteSocket, connect
from carrier.cluster import Cluster, Endpoint, first_that_connects
from carrier.errors import Error
from carrier.resolve import Address
from carrier.session import Session


class TcpCluster(Cluster):
    """`spec: {protocol: TCP, port, bind: {address, port}}`. bind: the local address to connect from."""

    protocol = "TCP"
    fields = {"port": "1..65535", "bind": "{address, port}"}

    async def open(self, session: Session, endpoint: Endpoint) -> ByteSocket:
        upstream = ByteSocket(self.env.loop, await self.connect(endpoint), "upstream")
        upstream.session = session
        return upstream

    async def connect(self, endpoint: Endpoint) -> socket.socket:
        """A connected socket to the endpoint. Raises Error."""
        if not 0 < endpoint.port < 65536:
            raise Error("no-endpoint", f"{endpoint.name}: {self.spec.get('port')!r} is not a port", "upstream", "yes")
        addresses = await self.env.resolver.resolve(endpoint.host, endpoint.port)
        bind = self.spec.get("bind")
        local = (str(bind.get("address", "")), int(bind.get("port", 0))) if isinstance(bind, dict) else None

        async def one(address: Address) -> socket.socket:
            return await connect(self.env.loop, address[0], address[1], endpoint.address, local)

        try:
            found: socket.socket = await first_that_connects(addresses, one)
        except Error:
            self.env.resolver.forget(endpoint.host)
            raise
        return found
