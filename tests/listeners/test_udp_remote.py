"""The remote of a singleton, which may go away and come back: what waits for it, what is tried, what is lost and counted."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import AsyncIterator
from typing import Any

from carrier.core.session import Session
from carrier.core.stream import CONNECTED, MANY
from carrier.proxy.proxy import Proxy
from listeners.udp import UdpListener
from listeners.udp_peers import Remote
from tests.ports import free_port
from tests.support import Datagrams, cluster, config, listener, running, udp_server, wait_until

ALWAYS = {"retry_on": "always", "num_retries": 1000, "timeout": 20}


async def the_session(proxy: Proxy) -> tuple[UdpListener, Session]:
    (session,) = proxy.sessions()
    await wait_until(lambda: session.status == CONNECTED)
    found = session.listener
    assert isinstance(found, UdpListener)
    return found, session


@contextlib.asynccontextmanager
async def between(remote: int, **fields: Any) -> AsyncIterator[tuple[Proxy, Datagrams]]:
    """A singleton for `remote`, and the upstream that it leads to."""
    spec = {"connect": {"address": "127.0.0.1", "port": remote}}
    async with udp_server(None) as upstream:
        up = cluster("up", upstream.port, protocol="UDP")
        conf = config(clusters=[up], listeners=[listener("in", "up", protocol="UDP", spec=spec, options={"track": 60}, **fields)])
        async with running(conf) as proxy:
            yield proxy, upstream


def say(upstream: Datagrams, session: Session, *messages: bytes) -> None:
    """The destination says something to the source."""
    sock = session.destination.sock  # type: ignore[attr-defined]
    for message in messages:
        upstream.transport.sendto(message, sock.getsockname())


def events(session: Session) -> list[str]:
    return [event for event, *_ in session.events]


async def test_what_is_said_while_the_remote_is_away_waits_for_it() -> None:
    remote = free_port(socket.SOCK_DGRAM)
    async with between(remote, retry=ALWAYS) as (proxy, upstream):
        _, session = await the_session(proxy)
        source = session.source
        assert isinstance(source, Remote)
        say(upstream, session, b"lost")
        await wait_until(lambda: source.waiting is not None, "for the refusal")
        assert session.dropped == 1 and "DISCONNECT" in events(session)
        sent = [b"m%d" % i for i in range(200)]
        say(upstream, session, *sent)
        await wait_until(lambda: source.waiting is not None and len(source.waiting) == 200 and source.tried > 2, "for tries")
        async with udp_server(None, remote) as peer:
            assert [await peer.read() for _ in sent] == sent
            assert session.status == CONNECTED and session.dropped == 1 and session.retries >= 3
            say(upstream, session, b"and on")
            assert await peer.read() == b"and on"
            assert events(session)[-1] == "CONNECT"


async def test_only_so_much_waits_and_the_rest_is_counted() -> None:
    remote = free_port(socket.SOCK_DGRAM)
    async with between(remote, retry=ALWAYS) as (proxy, _):
        running_listener, session = await the_session(proxy)
        source = session.source
        assert isinstance(source, Remote)
        source.send(b"lost")
        await wait_until(lambda: source.waiting is not None, "for the refusal")
        for _ in range(MANY + 100):
            source.send(b"x")
        assert len(source.waiting or ()) == MANY and session.dropped == 101
        assert running_listener.dropped == {"refused": 1, "source-away": 100}
        session.kill()
        assert session.dropped == 101 + MANY and running_listener.dropped["source-away"] == 100 + MANY


async def test_a_remote_that_stays_away_ends_the_session() -> None:
    remote = free_port(socket.SOCK_DGRAM)
    retry = {"retry_on": "disconnect", "num_retries": 3, "timeout": 10}
    async with between(remote, retry=retry) as (proxy, upstream):
        running_listener, session = await the_session(proxy)
        say(upstream, session, b"one", b"two", b"three")
        await wait_until(lambda: not running_listener.live, "for the end")
        assert session.error is not None and (session.error.kind, session.error.side) == ("refused", "downstream")
        assert session.retries == 3 and session.dropped == 3 and events(session).count("ERROR") == 3


async def test_a_remote_that_speaks_again_is_heard_as_the_same_session() -> None:
    remote = free_port(socket.SOCK_DGRAM)
    async with between(remote, retry=ALWAYS) as (proxy, upstream):
        running_listener, session = await the_session(proxy)
        say(upstream, session, b"lost")
        await wait_until(lambda: session.dropped, "for the refusal")
        async with udp_server(None, remote) as peer:
            peer.transport.sendto(b"hello", ("127.0.0.1", running_listener.port))
            assert await upstream.read() == b"hello"
            say(upstream, session, b"one", b"two")
            assert [await peer.read(), await peer.read()] == [b"one", b"two"]
            assert list(proxy.sessions()) == [session]


async def test_without_a_policy_a_refusal_is_counted_and_the_session_goes_on() -> None:
    remote = free_port(socket.SOCK_DGRAM)
    async with between(remote) as (proxy, upstream):
        running_listener, session = await the_session(proxy)
        for n in (1, 2, 3):
            say(upstream, session, b"lost")
            await wait_until(lambda: running_listener.dropped == {"refused": n}, f"for refusal {n}")  # noqa: B023 (awaited here)
        async with udp_server(None, remote) as peer:
            say(upstream, session, b"found")
            assert await peer.read() == b"found"
        assert session.dropped == 3 and session.status == CONNECTED and events(session) == ["INIT", "LOOKUP SUCCESS", "CONNECT"]


async def test_no_refusal_keeps_the_loop_busy() -> None:
    """The queue of errors is emptied: what is left in it would wake the loop again and again."""
    remote = free_port(socket.SOCK_DGRAM)
    async with between(remote, retry=ALWAYS) as (proxy, _):
        running_listener, session = await the_session(proxy)
        source = session.source
        assert isinstance(source, Remote)
        for _ in range(20):
            source.send(b"lost")
        await wait_until(lambda: source.waiting is not None)
        sock = running_listener.sock
        assert sock is not None
        await asyncio.sleep(0.05)
        errors = select.poll()
        errors.register(sock, 0)  # POLLERR, which a queue that is not empty shows, is always told
        await wait_until(lambda: not errors.poll(0))


async def test_a_refusal_is_heard_also_where_datagrams_are_taken_in_batches() -> None:
    remote = free_port(socket.SOCK_DGRAM)
    async with between(remote, retry=ALWAYS) as (proxy, upstream):
        running_listener, session = await the_session(proxy)
        source = session.source
        assert isinstance(source, Remote)
        async with udp_server(None, remote) as peer:
            for _ in range(1000):
                for _ in range(64):
                    peer.transport.sendto(b"x", ("127.0.0.1", running_listener.port))
                await asyncio.sleep(0)
                if running_listener.adaptive.batching:
                    break
            assert running_listener.adaptive.batching
        await asyncio.sleep(0.02)  # its socket is closed a moment later
        say(upstream, session, b"lost")
        await wait_until(lambda: source.waiting is not None, "for the refusal")
        say(upstream, session, b"kept")
        async with udp_server(None, remote) as peer:
            assert await peer.read() == b"kept"
