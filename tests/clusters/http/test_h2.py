"""One upstream connection of HTTP/2: how long a peer that says nothing is waited for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from carrier.errors import Error
from carrier.proxy.proxy import Proxy
from clusters.http import h2
from tests.h2peer import Peer2, Server2, client2, echo
from tests.support import cluster, config, http, listener, port_of, running, wait_until


@asynccontextmanager
async def before(server: Server2, **options: float) -> AsyncIterator[tuple[Proxy, Any]]:
    """A proxy whose listener "in" leads to this server by HTTP/2, and the cluster."""
    up = cluster("up", server.port, protocol="HTTP", options=options)
    up["spec"]["http"] = 2
    async with running(config(clusters=[up], listeners=[listener("in", "up", protocol="HTTP")])) as proxy:
        yield proxy, proxy.clusters["up"]


@pytest.mark.parametrize("lost", [False, True])
async def test_a_program_at_a_breakpoint_is_waited_for_and_a_host_that_is_gone_is_not(monkeypatch: pytest.MonkeyPatch, lost: bool) -> None:
    """It was given up when it had not answered a PING for 15 s. Whether its host acknowledges is what counts."""
    monkeypatch.setattr(h2, "quiet_since", lambda sock, before, now: (before or now) if lost else 0.0)
    asked = asyncio.Event()
    go_on = asyncio.Event()

    async def serve(peer: Peer2) -> None:
        number = await peer.request()
        asked.set()
        await go_on.wait()
        peer.head(number, [(":status", "200"), ("content-length", "2")])
        peer.send(number, b"ok", True)

    async with Server2(serve) as server, before(server, answer_timeout=0) as (proxy, found):
        answer = asyncio.ensure_future(http(port_of(proxy, "in")))
        await asyncio.wait_for(asked.wait(), 5)
        now = proxy.env.loop.time()
        for second in range(1, 60):
            found.tick(now + second)
        go_on.set()
        status, _, body = await answer
    assert (status, body) == (200, b"ok") if not lost else status in (502, 504)


async def test_a_server_that_has_nothing_to_say_is_not_pinged_and_its_host_is_asked() -> None:
    """gRPC's servers take more than two PINGs within five minutes for an attack: GOAWAY "too_many_pings", and every call broke off."""

    async def serve(peer: Peer2) -> None:
        peer.head(await peer.request(), [(":status", "200")])
        await go_on.wait()
        peer.send(1, b"at last", True)

    go_on = asyncio.Event()
    async with Server2(serve) as server, before(server) as (proxy, found), client2(port_of(proxy, "in")) as client:
        number = client.ask("/watch")
        await client.until(lambda: client.streams[number].heads)
        (connection,) = next(iter(found.pools2.values())).connections
        now = proxy.env.loop.time()
        for second in range(1, 300):
            found.tick(now + second)
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == h2.SILENCE
        go_on.set()
        answer = await client.answer(number)
        assert (answer.body, answer.reset) == (b"at last", None), "the time for an answer is that for its head"
        assert not server.peers[0].pings


@pytest.mark.parametrize("gone", [False, True])
async def test_an_answer_has_its_time_on_a_stream_too_and_when_the_endpoint_is_gone(gone: bool) -> None:
    asked = asyncio.Event()

    async def serve(peer: Peer2) -> None:
        await peer.request()
        asked.set()
        await asyncio.Event().wait()

    async with Server2(serve) as server, before(server, answer_timeout=5) as (proxy, found):
        answer = asyncio.ensure_future(http(port_of(proxy, "in")))
        await asyncio.wait_for(asked.wait(), 5)
        if gone:
            found.discard(found.endpoints[0])
        found.tick(proxy.env.loop.time() + 7)
        status, _, body = await answer
    assert status == 504 and b"no answer within 5 s" in body


async def test_who_waits_for_a_place_is_answered_in_time_as_well() -> None:
    async def serve(peer: Peer2) -> None:
        await asyncio.Event().wait()

    async with Server2(serve, settings={3: 1}) as server, before(server, answer_timeout=5, max_per_endpoint=1) as (proxy, found):
        answers = [asyncio.ensure_future(http(port_of(proxy, "in"))) for _ in range(2)]
        await wait_until(lambda: any(pool.waiting for pool in found.pools2.values()), "for one to wait")
        found.tick(proxy.env.loop.time() + 7)
        assert [(await answer)[0] for answer in answers] == [504, 504]
        assert not any(pool.waiting for pool in found.pools2.values())


async def test_an_exchange_that_ended_as_usual_serves_the_next_stream_of_its_connection() -> None:
    async with Server2(echo) as server, before(server) as (proxy, found):
        kept = []
        for path in ("/a", "/b", "/c"):
            assert (await http(port_of(proxy, "in"), path))[2] == f"GET {path} ".encode()
            (connection,) = next(iter(found.pools2.values())).connections
            kept += connection.spare
            connection.spare[-1].reset(Error("closed", "it comes late, and concerns nobody"))
        assert len(kept) == 3 and len(set(kept)) == 1
        found.tick(proxy.env.loop.time() + 1)
        assert not connection.spare
