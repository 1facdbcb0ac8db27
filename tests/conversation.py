"""A vocabulary for tests of proxies: clients and servers that say bytes and hear bytes, with a real proxy between them.

    async with Stage() as stage:
        client = await stage.client()
        await client.says(b"GET / HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n")
        server = await stage.server()
        assert (await server.head()).startswith(b"GET / ")

Nothing here knows HTTP beyond "a head ends with an empty line". Every wait is bounded, and leaving the stage checks that the proxy
holds no session and no connection any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any

from carrier import model as c
from carrier.core.env import Env
from carrier.core.listener import Listener
from carrier.proxy.proxy import Proxy

PATIENCE = 5.0


class Peer:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def says(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    async def head(self) -> bytes:
        """The next bytes up to an empty line."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def hears(self, n: int) -> bytes:
        """Exactly n bytes."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readexactly(n)

    async def until(self, end: bytes) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(end)

    async def rest(self) -> bytes:
        """Everything until the other side closes; ConnectionResetError if it did not do so in order."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    async def silent(self, seconds: float = 0.1) -> bool:
        """Does nothing come for so long?"""
        try:
            async with asyncio.timeout(seconds):
                return not await self.reader.read(1)
        except TimeoutError:
            return True

    async def closed(self) -> bool:
        """Does the connection end, in order or not, without another byte?"""
        try:
            return await self.rest() == b""
        except ConnectionError:
            return True

    def ends(self) -> None:
        """Send no more (half-close)."""
        self.writer.write_eof()

    def goes(self) -> None:
        self.writer.close()

    def breaks(self) -> None:
        """Reset the connection."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Stage:
    """A proxy with one listener in front of one cluster, whose endpoint is a server that the test plays.

    listener, cluster, route: options of each. rules: (match, cluster name, rewrites) before the last, which takes everything.
    """

    def __init__(
        self,
        listener: dict[str, Any] | None = None,
        cluster: dict[str, Any] | None = None,
        route: dict[str, Any] | None = None,
        retry: dict[str, Any] | None = None,
        fallback: str | None = None,
        protocol: str = "HTTP",
        upstream: str = "HTTP",
        rules: tuple[tuple[Any, str, tuple[c.Rewrite, ...]], ...] = (),
        clusters: dict[str, c.Cluster] | None = None,
        catch_all: bool = True,
    ) -> None:
        self.options = {"listener": listener or {}, "cluster": cluster or {}, "route": route or {}}
        self.retry, self.fallback, self.protocol, self.upstream = retry or {}, fallback, protocol, upstream
        self.rules, self.more, self.catch_all = rules, clusters or {}, catch_all
        self.accepted: asyncio.Queue[Peer] = asyncio.Queue()
        self.peers: list[Peer] = []
        self.backend: asyncio.Server | None = None
        self.backend_port = 0

    async def __aenter__(self) -> Stage:
        await self.opens()
        self.proxy = Proxy(Env(asyncio.get_running_loop()), None)
        await self.proxy.apply(self.config())
        for _ in range(100):
            listener: Any = self.listener
            if getattr(listener, "server", True) is not None:
                break
            await asyncio.sleep(0)
        return self

    async def opens(self) -> None:
        """The server begins to accept (again: on the same port)."""
        self.backend = await asyncio.start_server(self._accept, "127.0.0.1", self.backend_port, limit=1 << 22)
        self.backend_port = self.backend.sockets[0].getsockname()[1]

    def shuts(self) -> None:
        """The server accepts no more."""
        assert self.backend is not None
        self.backend.close()

    async def __aexit__(self, *exc: object) -> None:
        self.shuts()
        for peer in self.peers:
            with contextlib.suppress(Exception):
                peer.writer.transport.abort()
        if exc[0] is None:
            await self.empty()
        await self.proxy.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        self.accepted.put_nowait(peer)

    def config(self, **changed: Any) -> c.Config:
        """The configuration of this stage."""
        rules = {f"r{i}": c.Rule(f"r{i}", match, c.Action(rewrites, route=to)) for i, (match, to, rewrites) in enumerate(self.rules)}
        if self.catch_all:
            rules["all"] = c.Rule("all", None, c.Action(route="up"))
        endpoint = c.EndPoint("one", {"address": "127.0.0.1"})
        clusters = {
            "up": c.Cluster("up", {"protocol": self.upstream, "port": self.backend_port}, (endpoint,), options=self.options["cluster"]),
            **self.more,
        }
        routes = {name: c.Route(name, name) for name in clusters}
        routes["up"] = c.Route("up", "up", retry=self.retry, fallback=self.fallback, options=self.options["route"])
        spec = {"protocol": self.protocol, "port": 0, "address": "127.0.0.1"}
        listeners = {"front": c.Listener("front", spec, "rl", self.options["listener"])}
        parts: dict[str, Any] = {
            "clusters": clusters,
            "listeners": listeners,
            "rulelists": {"rl": c.RuleList("rl", tuple(rules))},
            "rules": rules,
            "routes": routes,
        }
        return c.Config(**{**parts, **changed})

    @property
    def listener(self) -> Listener:
        return self.proxy.listeners["front"]

    @property
    def cluster(self) -> Any:
        return self.proxy.clusters["up"]

    @property
    def port(self) -> int:
        listener: Any = self.listener
        return int(listener.port)

    async def client(self, **socket_options: int) -> Peer:
        """A connection to the proxy. socket_options: rcvbuf."""
        sock = socket.socket()
        sock.setblocking(False)
        if "rcvbuf" in socket_options:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, socket_options["rcvbuf"])
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        peer = Peer(*await asyncio.open_connection(sock=sock, limit=1 << 22))
        self.peers.append(peer)
        return peer

    async def server(self) -> Peer:
        """The next connection that the proxy made."""
        async with asyncio.timeout(PATIENCE):
            return await self.accepted.get()

    async def both(self, request: bytes) -> tuple[Peer, Peer, bytes]:
        """A client that has sent `request`, the server that got it, and its head."""
        client = await self.client()
        await client.says(request)
        server = await self.server()
        return client, server, await server.head()

    def tick(self, later: float) -> None:
        """Let the proxy look at its deadlines as if `later` seconds had passed."""
        now = asyncio.get_running_loop().time() + later
        self.listener.tick(now)
        for cluster in self.proxy.clusters.values():
            cluster.tick(now)

    async def becomes(self, what: Callable[[], object]) -> None:
        """Wait until `what` is true."""
        async with asyncio.timeout(PATIENCE):
            while not what():  # noqa: ASYNC110 - what is watched has no event
                await asyncio.sleep(0.005)

    async def empty(self) -> None:
        """Every client is gone: no session, no connection is left but idle ones, and those are in the pool."""
        listener: Any = self.listener
        await self.becomes(lambda: not listener.live and not getattr(listener, "connections", ()))
        for cluster in self.proxy.clusters.values():
            busy = getattr(cluster, "busy", None)
            if busy is not None:
                await self.becomes(lambda cluster=cluster, busy=busy: all(up in up.endpoint.idle for up in busy))
            assert all(endpoint.active == 0 for endpoint in cluster.endpoints)
