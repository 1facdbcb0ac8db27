"""AF_PACKET cluster: each message is a frame that is sent on the interface that the endpoint's address names; frames that come there
are the answers. Without the privilege it is refused when it is configured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.errors import Error, Problem
from carrier.hops.afpacket import FIELDS, check_ethertype, ethertype_of, packet_socket, privileged
from carrier.hops.packetsocket import PacketSocket

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.session import Session


class PacketCluster(Cluster):
    """`spec: {protocol: AF_PACKET, ethertype}`."""

    protocol = "AF_PACKET"
    privileged = {"protocol": "reads and writes raw frames"}
    kind = "datagram"
    fields = FIELDS

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        reason = privileged()
        if reason:
            raise Error("config", f'Cluster "{conf.name}": {reason}')
        super().__init__(conf, env)

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        return super().check(spec, path) + check_ethertype(spec, path)

    def ready(self, session: Session, endpoint: Endpoint | None) -> PacketSocket:
        assert endpoint is not None
        sock = packet_socket(endpoint.host, ethertype_of(self.spec))
        upstream = PacketSocket(self.env.loop, sock, "upstream", ends=False, half=False)
        upstream.session = session
        return upstream
