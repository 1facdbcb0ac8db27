"""How a session comes to a destination that is not there at once: stages, and what one that fails means to the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.core.stream import Socket
from carrier.errors import Error
from carrier.proxy.proxy import Proxy
from tests.ports import free_port
from tests.support import ask, cluster, config, listener, port_of, running, tcp, tcp_server, wait_until


@contextlib.asynccontextmanager
async def with_a_slow_stage(failing_port: int, monkeypatch: pytest.MonkeyPatch, opened: list[str], cut: list[str]) -> AsyncIterator[Proxy]:
    """A route through a transform that nobody listens at; its destination takes 30 s to be connected to."""
    open_ = Cluster.reach

    async def reach(self: Cluster, session: Any, endpoint: Endpoint, *more: Any) -> Socket:
        if self.name == "slow":
            opened.append("begun")
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cut.append("cancelled")
                raise
        return await open_(self, session, endpoint, *more)

    monkeypatch.setattr(Cluster, "reach", reach)
    clusters = [cluster("slow", free_port()), cluster("gone", failing_port)]
    async with running(config(clusters=clusters, listeners=[listener("in", "slow", ingress=["gone"])])) as proxy:
        yield proxy


async def test_a_stage_that_fails_ends_the_attempt_at_once_and_the_others_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    cut: list[str] = []
    async with with_a_slow_stage(free_port(), monkeypatch, opened, cut) as proxy:
        began = asyncio.get_running_loop().time()
        with pytest.raises(ConnectionResetError):
            await ask(port_of(proxy, "in"), b"x")
        assert asyncio.get_running_loop().time() - began < 3 and opened == ["begun"]
        await wait_until(lambda: cut == ["cancelled"])
        assert not proxy.listeners["in"].live


async def test_a_session_that_ends_while_it_connects_leaves_no_stage_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    cut: list[str] = []
    async with tcp_server() as other, with_a_slow_stage(other.port, monkeypatch, opened, cut) as proxy:
        async with tcp(port_of(proxy, "in")) as client:
            client.send(b"x")
            await wait_until(lambda: opened)
            (session,) = proxy.listeners["in"].live
            session.kill()
        await wait_until(lambda: cut)
        assert (session.task, session.status) == (None, "DESTROYED")


async def test_a_mistake_of_a_protocol_when_a_status_is_asked_again_fails_that_session_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answering(peer: Any) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await peer.reader.readuntil(b"\r\n\r\n")
                peer.send(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")

    async with tcp_server(answering) as server:
        route = {"destination": "up", "retry": {"retry_on": "always", "num_retries": 2}, "options": {"retry_statuses": [503]}}
        web = listener("web", "up", protocol="HTTP", rules=[{"action": {"route": route}}])
        conf = config(clusters=[cluster("up", server.port, "127.0.0.1", "127.0.0.1", protocol="HTTP")], listeners=[web])
        async with running(conf) as proxy, tcp(port_of(proxy, "web")) as client:
            stray: list[str] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: stray.append(context["message"]))
            choose = Cluster.choose

            def broken(self: Cluster, session: Any, tried: Any = ()) -> Endpoint:
                if tried:
                    raise ZeroDivisionError("a mistake")
                return choose(self, session, tried)

            monkeypatch.setattr(Cluster, "choose", broken)
            client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 500 ")
            assert len(stray) == 1 and "a mistake" in stray[0]


async def test_why_nobody_was_reached_is_what_the_last_endpoint_said() -> None:
    dead = cluster("up", free_port(), "127.0.0.1", "127.0.0.1")
    async with running(config(clusters=[dead], listeners=[listener("in", "up", options={"track": 60})])) as proxy:
        with pytest.raises(ConnectionResetError):
            await ask(port_of(proxy, "in"), b"x")
        (session,) = proxy.listeners["in"].tracked
        assert isinstance(session.error, Error) and session.error.kind == "refused"
        assert [endpoint.failed for endpoint in proxy.clusters["up"].endpoints] == [1, 1]
