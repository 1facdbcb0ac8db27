"""The other side of `protocol: auto`: HTTP requests go to the endpoint in the version that they came in, every other session as a plain TCP
connection.

With `spec.tls` what was decrypted here is encrypted again; a TLS session that was only relayed is relayed on as it is. Whether the
endpoint takes HTTP/2 inside (ALPN) is learnt by a handshake, and again from time to time, so that a port of `auto` offers clients no
more than that. A request of HTTP/2 goes on in HTTP/1.1 to an endpoint that agrees on nothing else.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from carrier import model as config
from carrier.errors import Error
from carrier.hops.tls import HANDSHAKE, Tls
from carrier.wire.introduction import LOCAL
from clusters.http.cluster import HttpCluster
from clusters.http.h2_pool import MirroringEndpoint
from clusters.tcp import TcpCluster

if TYPE_CHECKING:
    from carrier.core.endpoint import Endpoint
    from carrier.core.env import Env
    from carrier.core.session import Session
    from carrier.core.stream import Socket, Stream


KNOWN, UNKNOWN = 60.0, 2.0
"""Seconds between two handshakes that only ask what an endpoint agrees on: when it was told, and when it was not."""


class Asked(asyncio.Protocol):
    """A connection that was made to know what TLS agrees on."""

    def __init__(self, agreed: str | None) -> None:
        self.agreed = agreed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()

    def close(self) -> None:
        """It is closed anyway."""


class AutoCluster(HttpCluster):
    """`spec: {protocol: auto, port, tls}`; `options` as for HTTP."""

    protocol = "auto"
    endpoint_class = MirroringEndpoint
    spoken = ()

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        super().__init__(conf, env)
        self.version = 1
        spec = {name: value for name, value in conf.spec.items() if name != "tls"}
        self.plain = TcpCluster(config.Cluster(conf.name, spec), env)
        self.over_tls = TcpCluster(config.Cluster(conf.name, dict(conf.spec)), env)
        self.learnt: bool | None = None
        """Did an endpoint agree on HTTP/2 when that was last looked at? None: nobody was there."""
        self.ask_at = 0.0
        """Monotonic seconds when it is to be asked again."""
        self.asking: asyncio.Task[None] | None = None

    def lead_for_a_bridge(self, fenced: bool) -> None:
        super().lead_for_a_bridge(fenced)
        for cluster in (self.plain, self.over_tls):
            cluster.lead_for_a_bridge(fenced)

    def speaks(self, session: Session) -> int:
        request = session.request
        if request is None or request.version != "2":
            return 1
        return 2 if self.offered else 0  # 0: if TLS agrees on it

    def takes_h2(self) -> bool:
        if self.offered == 0 and self.endpoints and self.asking is None and (now := self.env.loop.time()) >= self.ask_at:
            self.ask_at = now + UNKNOWN
            self.asking = self.env.loop.create_task(self._ask(self.endpoints[0]))
        return self.learnt is True

    def first_asked(self) -> asyncio.Task[None] | None:
        return self.asking if self.learnt is None else None

    async def _ask(self, endpoint: Endpoint) -> None:
        """Shake hands once, and hang up."""
        try:
            async with asyncio.timeout(HANDSHAKE):
                self._note(endpoint, (await self._dial(endpoint, self.tls, Asked, LOCAL.get(self.introduces, b""))).agreed == "h2")
        except (Error, TimeoutError):
            pass  # it is asked again
        finally:
            self.asking = None

    def _note(self, endpoint: Endpoint, h2: bool) -> None:
        if h2 is not self.learnt:
            self.env.note(
                "the endpoint takes HTTP/2" if h2 else "the endpoint takes no HTTP/2", cluster=self.name, endpoint=endpoint.address
            )
        self.learnt, self.ask_at = h2, self.env.loop.time() + KNOWN

    def _agreed(self, endpoint: Endpoint, protocol: str | None, version: int) -> int:
        found = super()._agreed(endpoint, protocol, version)
        if not version:
            self._note(endpoint, found == 2)
        return found

    def close(self) -> None:
        if self.asking is not None:
            self.asking.cancel()
        super().close()

    def tunnels(self, session: Session) -> bool:
        return session.request is not None

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
