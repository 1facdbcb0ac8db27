"""Connections of HTTP/2 to an endpoint that goes while it is used: whoever chose it is served, and none is left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from carrier.proxy.proxy import Proxy
from tests.clusters.http.test_h2 import before
from tests.e2e.test_h2 import to
from tests.h2peer import Peer2, Server2, client2, echo
from tests.support import PATIENCE, cluster, config, listener, port_of, running, wait_until, without


async def test_an_endpoint_that_goes_while_it_is_connected_to_serves_whom_it_was_chosen_for_and_keeps_nothing() -> None:
    async with Server2(echo) as up, to(up.port, http=2, cluster={}) as proxy, client2(port_of(proxy, "in")) as client:
        for n in range(10):
            numbers = [client.ask(f"/{n}/{i}") for i in range(5)]
            await asyncio.sleep(0.0005 * n)
            await moved(proxy, up.port, f"c{n}")
            for i, number in enumerate(numbers):
                assert (await client.answer(number)).body == f"GET /{n}/{i} ".encode()
        await proxy.apply(without(proxy.config, "listener", "in"))
        for name in list(proxy.config.clusters):
            await proxy.apply(without(proxy.config, "cluster", name))
        await wait_until(lambda: all(peer.closed for peer in up.peers), "for connections to close")
        assert len(up.peers) <= 60


async def moved(proxy: Proxy, port: int, name: str) -> None:
    """The route leads to a new cluster, and the old one is gone."""
    conf: Any = proxy.config
    old = conf.routes[conf.rules["all"].action.route].destination
    new = {**cluster(name, port, protocol="HTTP"), "spec": {"protocol": "HTTP", "port": port, "http": 2}}
    rule = {"name": "all", "action": {"route": {"destination": name}}}
    await proxy.apply(config(clusters=[new], rules=[rule], base=conf))
    await proxy.apply(without(proxy.config, "cluster", old))


async def test_who_waits_for_a_place_goes_elsewhere_when_its_connection_is_told_to_end() -> None:
    """Its streams go on, for as long as they like."""

    async def serve(peer: Peer2) -> None:
        if len(server.peers) > 1:
            await echo(peer)
        await peer.request()
        asked.set()
        await told.wait()
        peer.h2.close_connection(last_stream_id=1)
        peer.flush()

    asked, told = asyncio.Event(), asyncio.Event()
    async with (
        Server2(serve, {3: 1}) as server,
        before(server, max_per_endpoint=1) as (proxy, found),
        client2(port_of(proxy, "in")) as client,
    ):
        first = client.ask("/long")
        await asyncio.wait_for(asked.wait(), PATIENCE)
        second = client.ask("/waits")
        (pool,) = found.pools2.values()
        await wait_until(lambda: pool.waiting, "for a place")
        told.set()
        assert (await client.answer(second)).body == b"GET /waits "
        assert not client.streams[first].ended


@pytest.mark.parametrize("size", [0, 100, 50_000])
async def test_who_waits_for_a_place_at_a_laptop_that_goes_is_served_by_the_fallback(size: int) -> None:
    """Nothing was sent of it. Its user was told that the laptop refuses."""

    async def serve(peer: Peer2) -> None:
        await peer.request()
        asked.set()
        await gone.wait()
        laptop.server.close()
        peer.close()

    asked, gone = asyncio.Event(), asyncio.Event()
    content = b"x" * size
    async with Server2(serve, {3: 1}) as laptop, Server2(echo) as shadow:
        ends = [cluster(name, port, protocol="HTTP") for name, port in (("laptop", laptop.port), ("shadow", shadow.port))]
        for end in ends:
            end["spec"]["http"] = 2
        ends[0]["options"] = {"max_per_endpoint": 1}
        into = listener("in", "laptop", protocol="HTTP")
        into["rules"][0]["action"]["route"]["fallback"] = "shadow"
        async with running(config(clusters=ends, listeners=[into])) as proxy, client2(port_of(proxy, "in")) as client:
            client.ask("/long", "POST")
            await asyncio.wait_for(asked.wait(), PATIENCE)
            number = client.ask("/waits", "POST", end=not size)
            if size:
                await client.send_all(number, content)
            (pool,) = proxy.clusters["laptop"].pools2.values()
            await wait_until(lambda: pool.waiting and pool.waiting[0].size == size, "for a place")
            gone.set()
            answer = await client.answer(number)
            assert answer.head["x-carrier-fallback"] == "refused" and answer.body == b"POST /waits " + content
