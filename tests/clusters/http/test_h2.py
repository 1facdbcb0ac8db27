"""One upstream connection of HTTP/2: how long a peer that says nothing is waited for."""

from __future__ import annotations

import asyncio

import pytest

from clusters.http import h2
from tests.h2peer import Peer2, Server2
from tests.support import cluster, config, http, listener, port_of, running


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

    async with Server2(serve) as server:
        up = cluster("up", server.port, protocol="HTTP", options={"answer_timeout": 0})
        up["spec"]["http"] = 2
        async with running(config(clusters=[up], listeners=[listener("in", "up", protocol="HTTP")])) as proxy:
            answer = asyncio.ensure_future(http(port_of(proxy, "in")))
            await asyncio.wait_for(asked.wait(), 5)
            found = proxy.clusters["up"]
            now = proxy.env.loop.time()
            for second in range(1, 60):
                found.tick(now + second)
            go_on.set()
            status, _, body = await answer
    assert (status, body) == (200, b"ok") if not lost else status in (502, 504)
