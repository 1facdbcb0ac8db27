"""The conversion matrix: every listener in front of every cluster, and what must be true of each pair.

Echo, large, many, the end of one direction, reset, a refused upstream, back-pressure, idle. What one end keeps apart and the other does
too must arrive so, in order; where one of them is a stream of bytes, only the bytes count.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from carrier.core import registry
from carrier.proxy.proxy import Proxy
from tests.e2e.ends import CLIENTS, ELSEWHERE, SERVERS, Client, End, Server
from tests.support import PATIENCE, config, running, wait_until

PAIRS = [(c, s) for c in CLIENTS for s in SERVERS]
IDS = [f"{c}-{s}" for c, s in PAIRS]
every_pair = pytest.mark.parametrize(("into", "out"), PAIRS, ids=IDS)
GONE = ("refused", "unreachable", "closed", "reset")


def pairs(true: Any) -> Any:
    """Those pairs only for which `true(client, server)`."""
    found = [(c, s) for c, s in PAIRS if true(CLIENTS[c], SERVERS[s])]
    return pytest.mark.parametrize(("into", "out"), found, ids=[f"{c}-{s}" for c, s in found])


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Datagrams have no end: how long answers may still come is cut short."""
    monkeypatch.setattr("clusters.udp.LINGER", 0.05)
    monkeypatch.setattr("carrier.hops.packetsocket.LINGER", 0.05)


@contextlib.asynccontextmanager
async def between(
    into: str, out: str, path: Path, *, refused: bool = False, track: int = 60
) -> AsyncIterator[tuple[Proxy, Client, Server]]:
    """A proxy between a client of one protocol and an echo server of another."""
    client, server = CLIENTS[into], SERVERS[out](path)
    await server.start()
    options = {"track": track, **({"idle_timeout": 5} if client.idles else {})}
    listener = {"name": "in", "spec": client.spec(path), "rules": [{"action": {"route": {"destination": "up"}}}], "options": options}
    try:
        async with running(config(clusters=[server.cluster(refused)], listeners=[listener])) as proxy:
            yield proxy, client, server
    finally:
        await server.stop()


async def gather(end: End, messages: list[bytes], apart: bool) -> list[bytes]:
    """So many messages, or at least so many bytes."""
    got: list[bytes] = []
    while len(got) < len(messages) if apart else sum(map(len, got)) < sum(map(len, messages)):
        data = await end.recv()
        if not data:
            break
        got.append(data)
    return got


async def converse(end: End, messages: list[bytes], apart: bool, window: int) -> None:
    """Send and hear everything again, `window` messages at a time: what cannot wait must not be flooded."""
    for i in range(0, len(messages), window):
        some = messages[i : i + window]
        sending = asyncio.ensure_future(send_all(end, some))
        got = await gather(end, some, apart)
        await asyncio.wait_for(sending, PATIENCE)
        assert got == some if apart else b"".join(got) == b"".join(some)


async def send_all(end: End, messages: list[bytes]) -> None:
    for message in messages:
        await end.send(message)


def apart(client: Client, server: Server) -> bool:
    return client.messages and server.messages


def live(proxy: Proxy) -> int:
    return len(proxy.listeners["in"].live)


@every_pair
async def test_echo_large_and_many(into: str, out: str, tmp_path: Path) -> None:
    async with between(into, out, tmp_path) as (proxy, client, server):
        end = await client.connect(proxy, tmp_path)
        keeps = apart(client, server)
        await converse(end, [b"hello"], keeps, 1)
        await converse(end, [b"%d." % i * (i % 7 + 1) for i in range(200)], keeps, 20)
        large = [os.urandom(8000) for _ in range(12)] if client.messages or server.messages else [os.urandom(1_000_000)]
        await converse(end, large, keeps, 4)
        (session,) = proxy.sessions()
        assert session.dropped == 0 and session.error is None
        end.abort()


@pairs(lambda c, s: not (c.messages and s.messages))
async def test_a_stream_of_bytes_is_cut_into_messages_that_fit(into: str, out: str, tmp_path: Path) -> None:
    """More at once than a datagram holds (65,507 bytes), and not more than waits in a socket's buffer: a datagram cannot wait."""
    async with between(into, out, tmp_path) as (proxy, client, _):
        end = await client.connect(proxy, tmp_path)
        await converse(end, [b"hello"], False, 1)
        if client.messages:
            await converse(end, [os.urandom(30_000) for _ in range(3)], False, 3)
        else:
            await converse(end, [os.urandom(100_000)], False, 1)
        (session,) = proxy.sessions()
        assert session.dropped == 0 and session.error is None
        end.abort()


@pairs(lambda c, s: c.ends == "half")
async def test_who_has_ended_still_hears_the_answer_and_its_end(into: str, out: str, tmp_path: Path) -> None:
    """An upstream that can only end as a whole has answered before."""
    async with between(into, out, tmp_path) as (proxy, client, server):
        end = await client.connect(proxy, tmp_path)
        messages = [b"x" * 1000] * 5
        if server.ends == "whole":
            await converse(end, messages, apart(client, server), 5)
            messages = []
        await send_all(end, messages)
        await end.end()
        got = b""
        while data := await end.recv():
            got += data
        assert got == b"".join(messages)
        await wait_until(lambda: not live(proxy), "for the session to end")
        assert all(session.error is None for session in proxy.sessions())
        end.abort()


@pairs(lambda c, s: c.ends == "whole" and s.converses)
async def test_who_ends_as_a_whole_has_said_all_before(into: str, out: str, tmp_path: Path) -> None:
    async with between(into, out, tmp_path) as (proxy, client, server):
        end = await client.connect(proxy, tmp_path)
        messages = [b"%d" % i * 100 for i in range(10)]
        await send_all(end, messages)
        await gather(end, messages[:1], False)
        await end.end()
        await wait_until(lambda: sum(map(len, server.heard)) == 10 * 100, "for all that was said")
        await wait_until(lambda: not live(proxy) and not server.live, "for the end on both sides")
        assert all(session.error is None for session in proxy.sessions())
        end.abort()


@pairs(lambda c, s: c.ends and s.ends and s.converses)
async def test_an_upstream_that_ends_is_heard_to_end_after_its_last_word(into: str, out: str, tmp_path: Path) -> None:
    async with between(into, out, tmp_path) as (proxy, client, server):
        server.leaves = "end"
        end = await client.connect(proxy, tmp_path)
        await end.send(b"hello")
        got = b""
        while data := await end.recv():
            got += data
        assert got == b"hello"
        with contextlib.suppress(OSError):
            await end.end()
        await wait_until(lambda: not live(proxy) and not server.live, "for the end on both sides")
        assert all(session.error is None for session in proxy.sessions())
        end.abort()


@pairs(lambda c, s: c.ends and s.aborts)
async def test_an_upstream_that_breaks_off_ends_the_client_too(into: str, out: str, tmp_path: Path) -> None:
    async with between(into, out, tmp_path) as (proxy, client, server):
        server.leaves = "abort"
        end = await client.connect(proxy, tmp_path)
        await converse(end, [b"hello"], False, 1)
        server.answered.set()
        with contextlib.suppress(ConnectionError):  # a reset says it as well as an end
            while await end.recv():
                pass
        await wait_until(lambda: not live(proxy), "for the session to end")
        (session,) = proxy.sessions()
        if into != "WebSocket" or out != "WebSocket":  # there the bytes are relayed, and so is an end without a word
            assert session.error is not None and session.error.side == "upstream" and session.error.kind in GONE, session.error
        end.abort()


@pairs(lambda c, s: c.ends)
async def test_a_client_that_breaks_off_leaves_nothing_behind(into: str, out: str, tmp_path: Path) -> None:
    async with between(into, out, tmp_path) as (proxy, client, server):
        end = await client.connect(proxy, tmp_path)
        await converse(end, [b"hello"], False, 1)
        end.abort()
        await wait_until(lambda: not live(proxy), "for the session to end")
        await wait_until(lambda: not server.live, "for the upstream to be told")


@pairs(lambda c, s: not c.ends)
async def test_a_killed_session_leaves_nothing_behind(into: str, out: str, tmp_path: Path) -> None:
    async with between(into, out, tmp_path) as (proxy, client, server):
        end = await client.connect(proxy, tmp_path)
        await converse(end, [b"hello"], False, 1)
        next(iter(proxy.sessions())).kill()
        assert not live(proxy)
        await wait_until(lambda: not server.live, "for the upstream to be told")
        end.abort()


@pairs(lambda c, s: s.protocol != "Echo")
async def test_a_refused_upstream_is_said_and_nothing_is_left(into: str, out: str, tmp_path: Path) -> None:
    async with between(into, out, tmp_path, refused=True) as (proxy, client, _):
        end: End | None = None
        sent = False
        with contextlib.suppress(ConnectionError, ConnectionClosed):
            end = await client.connect(proxy, tmp_path, refused=True)
            await end.send(b"hello")
            sent = True
        await wait_until(lambda: any(s.error for s in proxy.sessions()) and not live(proxy), "for the session to fail")
        error = next(s.error for s in proxy.sessions() if s.error)
        assert error.kind in GONE, error
        if end is not None and client.ends and sent:
            with contextlib.suppress(ConnectionError):  # a reset says it as well as an end; silence does not
                while await end.recv():
                    pass  # what a protocol says before it closes
        if end is not None:
            end.abort()


@pairs(lambda c, s: c.waits and s.waits and s.protocol not in ("Echo", "STDIO-fork"))
async def test_an_upstream_that_does_not_read_pauses_the_client_and_loses_nothing(into: str, out: str, tmp_path: Path) -> None:
    async with between(into, out, tmp_path) as (proxy, client, server):
        end = await client.connect(proxy, tmp_path)
        await converse(end, [b"hello"], False, 1)
        server.gate.clear()
        messages = [os.urandom(4000)] * 1000
        sending = asyncio.ensure_future(send_all(end, messages))
        (session,) = proxy.sessions()
        await asyncio.wait([sending], timeout=0.03)
        sizes = [getattr(hop, "size", 0) for hop in (session.destination, session.source)]
        assert max(sizes) < 600_000, "the proxy holds what it should have paused"
        server.gate.set()
        got = await gather(end, messages, apart(client, server))
        assert b"".join(got) == b"".join(messages)
        await asyncio.wait_for(sending, PATIENCE)
        end.abort()


@pairs(lambda c, s: not (c.waits and s.waits) and s.protocol not in ("Echo", "STDIO-fork"))
async def test_a_flood_of_what_cannot_wait_harms_nobody(into: str, out: str, tmp_path: Path) -> None:
    async with between(into, out, tmp_path) as (proxy, client, server):
        end = await client.connect(proxy, tmp_path)
        await converse(end, [b"hello"], False, 1)
        server.gate.clear()
        sending = asyncio.ensure_future(send_all(end, [b"x" * 1000] * 1000))
        await asyncio.wait([sending], timeout=0.03)
        assert all(getattr(hop, "size", 0) < 600_000 for s in proxy.sessions() for hop in (s.destination, s.source))
        server.gate.set()
        last = b"last"

        async def until_last() -> None:
            while not (await end.recv()).endswith(last):
                pass

        hearing = asyncio.ensure_future(until_last())
        while not hearing.done():
            with contextlib.suppress(OSError):
                await end.send(last)
            await asyncio.wait([hearing], timeout=0.01)
        await hearing
        sending.cancel()
        end.abort()


@pairs(lambda c, s: c.idles)
async def test_an_idle_session_ends_on_both_sides(into: str, out: str, tmp_path: Path) -> None:
    async with between(into, out, tmp_path) as (proxy, client, server):
        end = await client.connect(proxy, tmp_path)
        await converse(end, [b"hello"], False, 1)
        now = proxy.env.loop.time()
        for later in (0, 4):
            proxy.listeners["in"].tick(now + later)
        assert live(proxy) == 1
        proxy.listeners["in"].tick(now + 6)
        await wait_until(lambda: not live(proxy), "for the session to end")
        await wait_until(lambda: not server.live, "for the upstream to be told")
        end.abort()


def test_every_protocol_is_in_the_matrix_or_says_where_else() -> None:
    def spoken(specs: list[dict[str, Any]]) -> set[str]:
        return {spec["protocol"] for spec in specs}

    path = Path("/")
    assert set(registry.listener_names()) <= spoken([c.spec(path) for c in CLIENTS.values()]) | ELSEWHERE.keys()
    connected = {name for name in registry.cluster_names() if not registry.cluster(name).virtual}  # type: ignore[union-attr]
    assert connected <= {s.protocol for s in SERVERS.values()} | {"JSONSocket"} | ELSEWHERE.keys()
