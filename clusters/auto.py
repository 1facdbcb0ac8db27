"""The other side of `protocol: auto`: HTTP requests go to the endpoint in the version that they came in, every other session as a plain TCP
connection.

With `spec.tls` what was decrypted here is encrypted again; a TLS session that was only relayed is relayed on as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from carrier import model as config
from carrier.hops.tls import Tls
from clusters.http.cluster import HttpCluster
from clusters.http.h2_pool import MirroringEndpoint
from clusters.tcp import TcpCluster

if TYPE_CHECKING:
    from carrier.core.endpoint import Endpoint
    from carrier.core.env import Env
    from carrier.core.session import Session
    from carrier.core.stream import Socket, Stream


class AutoCluster(HttpCluster):
    """`spec: {protocol: auto, port, tls}`; `options` as for HTTP."""

    protocol = "auto"
    endpoint_class = MirroringEndpoint

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        super().__init__(conf, env)
        self.version = 1
        spec = {name: value for name, value in conf.spec.items() if name != "tls"}
        self.plain = TcpCluster(config.Cluster(conf.name, spec), env)
        self.over_tls = TcpCluster(config.Cluster(conf.name, dict(conf.spec)), env)

    def speaks(self, session: Session) -> int:
        request = session.request
        return 2 if request is not None and request.version == "2" else 1

    def tunnels(self, session: Session) -> bool:
        return False

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream | None:
        # The HTTP listener asks before its session is whole: what has no source yet is a request's.
        bytes_only = getattr(session, "source", None) is not None and session.request is None
        return None if bytes_only else super().ready(session, endpoint)

    async def open(self, session: Session, endpoint: Endpoint) -> Socket:
        if session.request is not None:
            return await super().open(session, endpoint)
        source = session.source
        decrypted = isinstance(source, Tls) or source.transport is not None
        return await (self.over_tls if decrypted else self.plain).open(session, endpoint)

    def tick(self, now: float) -> None:
        super().tick(now)
        self.over_tls.tick(now)
