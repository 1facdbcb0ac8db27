"""SCTP cluster, one-to-one style: one association per session, messages with their limits kept (see listeners/sctp.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.address import check_bind, local_address
from carrier.core.cluster import Cluster, first_that_connects
from carrier.core.endpoint import Endpoint
from carrier.errors import Error, Problem, from_os
from carrier.hops.sctp import SctpSocket, missing, sctp_socket

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.resolve import Address
    from carrier.core.session import Session
    from carrier.core.spec import Kind
    from carrier.core.stream import Socket


class SctpCluster(Cluster):
    """`spec: {protocol: SCTP, port, bind: {address, port}}`."""

    protocol = "SCTP"
    kind: Kind = "datagram"
    transport = "sctp"
    fields = {"port": "1..65535", "bind": "{address, port}"}

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        reason = missing()
        if reason:
            raise Error("config", f'Cluster "{conf.name}": {reason}')
        super().__init__(conf, env)

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        return super().check(spec, path) + check_bind(spec, path)

    async def open(self, session: Session, endpoint: Endpoint) -> Socket:
        addresses = await self.addresses(endpoint)

        async def one(address: Address) -> SctpSocket:
            return await self._connect(session, endpoint, address)

        found: SctpSocket = await first_that_connects(addresses, one, self.env.resolver.failed)
        return found

    async def _connect(self, session: Session, endpoint: Endpoint, address: Address) -> SctpSocket:
        sock = None
        try:
            sock = sctp_socket(address[0])
            local = local_address(self.spec)
            if local is not None:
                sock.bind(local)
            await self.env.loop.sock_connect(sock, address[1])
        except OSError as exc:
            if sock is not None:
                sock.close()
            raise from_os(exc, "upstream", endpoint.address, "yes") from None
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        upstream = SctpSocket(self.env.loop, sock, "upstream", half=False)
        upstream.session = session
        return upstream
