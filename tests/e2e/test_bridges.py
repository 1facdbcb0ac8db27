"""User bridges in a running proxy: who gets what while bridges come and go, over HTTP, TCP and UDP."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from carrier.bridges.edits import Bridges
from carrier.errors import ConfigError
from carrier.log import Log
from carrier.model import Config
from carrier.process.leases import Leases
from carrier.proxy.proxy import Proxy
from tests import support as s
from tests.ports import free_port

LOOPBACK = {"matchSource": {"cidr": "127.0.0.1/32"}}


async def bridged(proxy: Proxy, name: str, **body: object) -> None:
    """PUT a bridge, as the REST API does."""
    async with proxy.lock:
        await proxy.apply(Bridges().put(proxy.config, name, {"user": name, **body}))


async def unbridged(proxy: Proxy, name: str) -> None:
    async with proxy.lock:
        await proxy.apply(Bridges().delete(proxy.config, name))


def pod(protocol: str, shadow: int, port: int) -> Config:
    kind = s.cluster("shadow", shadow, protocol=protocol)
    return s.config(clusters=[kind], listeners=[s.listener("web", "shadow", protocol=protocol, port=port)])


async def says(port: int) -> bytes:
    async with s.tcp(port) as client:
        return await client.read_all()


async def test_a_tcp_bridge_takes_its_peers_and_gives_them_back():
    port = free_port()
    async with (
        s.tcp_server(s.saying(b"shadow")) as shadow,
        s.tcp_server(s.saying(b"laptop")) as laptop,
        s.running(pod("TCP", shadow.port, port)) as proxy,
    ):
        assert await says(port) == b"shadow"
        await bridged(proxy, "john", port=port, match=LOOPBACK, endpoint=f"127.0.0.1:{laptop.port}")
        assert await says(port) == b"laptop"
        await unbridged(proxy, "john")
        assert await says(port) == b"shadow"


@pytest.mark.parametrize(("fallback", "heard"), [("shadow", b"shadow"), ("error", b"")])
async def test_the_shadow_answers_for_a_laptop_that_is_away_unless_the_bridge_says_error(fallback, heard):
    port, away = free_port(), free_port()
    async with s.tcp_server(s.saying(b"shadow")) as shadow, s.running(pod("TCP", shadow.port, port)) as proxy:
        await bridged(proxy, "john", port=port, match=LOOPBACK, endpoint=f"127.0.0.1:{away}", fallback=fallback)
        with contextlib.suppress(ConnectionResetError):
            assert await says(port) == heard


async def test_a_session_goes_on_after_its_bridge_is_gone():
    port = free_port()
    async with (
        s.tcp_server(s.saying(b"shadow")) as shadow,
        s.tcp_server(s.echoing) as laptop,
        s.running(pod("TCP", shadow.port, port)) as proxy,
    ):
        await bridged(proxy, "john", port=port, match=LOOPBACK, endpoint=f"127.0.0.1:{laptop.port}")
        async with s.tcp(port) as client:
            client.send(b"one")
            assert await client.read(3) == b"one"
            await unbridged(proxy, "john")
            client.send(b"two")
            assert await client.read(3) == b"two"
        assert await says(port) == b"shadow"


async def test_a_udp_bridge_serves_its_peers_from_their_next_datagram_on():
    port = free_port()
    async with (
        s.udp_server(lambda data: b"shadow " + data) as shadow,
        s.udp_server(lambda data: b"laptop " + data) as laptop,
        s.running(pod("UDP", shadow.port, port)) as proxy,
        s.udp(port) as before,
    ):
        before.send(b"1")
        assert await before.read() == b"shadow 1"
        await bridged(proxy, "john", port=port, match=LOOPBACK, endpoint=f"127.0.0.1:{laptop.port}")
        before.send(b"2")
        assert await before.read() == b"laptop 2"
        async with s.udp(port) as after:
            after.send(b"3")
            assert await after.read() == b"laptop 3"


async def test_twenty_bridges_of_one_port_each_take_their_own_and_nobody_elses():
    port = free_port()
    config = s.config(clusters=[s.echo("shadow")], listeners=[s.listener("web", "shadow", protocol="HTTP", port=port)])
    async with s.tcp_server(_naming) as laptop, s.running(config) as proxy:
        users = [f"user-{i}" for i in range(20)]
        for user in users:
            match = {"matchHeader": {"name": "X-User", "value": user}}
            await bridged(proxy, user, port=port, match=match, endpoint=f"127.0.0.1:{laptop.port}")
        for user in users:
            assert (await s.http(port, headers={"x-user": user}))[2] == user.encode()
        assert (await s.http(port, "/", "POST", {"x-user": "nobody"}, b"shadow"))[2] == b"shadow"


async def _naming(peer: s.Peer) -> None:
    """A laptop that answers with the user that it was asked as."""
    request = await peer.reader.readuntil(b"\r\n\r\n")
    user = next(line.split(b": ")[1] for line in request.split(b"\r\n") if line.lower().startswith(b"x-user:"))
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(user), user))


async def test_a_bridge_that_is_over_takes_nothing_any_more():
    port = free_port()
    async with (
        s.tcp_server(s.saying(b"shadow")) as shadow,
        s.tcp_server(s.saying(b"laptop")) as laptop,
        s.running(pod("TCP", shadow.port, port)) as proxy,
    ):
        await bridged(proxy, "john", port=port, match=LOOPBACK, endpoint=f"127.0.0.1:{laptop.port}", expires=0.3)
        leases = Leases(proxy, Bridges(), Log("silent"))
        leases.start()
        try:
            assert await says(port) == b"laptop"
            await s.wait_until(lambda: not proxy.config.bridges, "for the bridge to end")
            assert await says(port) == b"shadow"
        finally:
            leases.stop()


async def test_a_refused_bridge_changes_nothing_that_runs():
    port = free_port()
    async with s.tcp_server(s.saying(b"shadow")) as shadow, s.running(pod("TCP", shadow.port, port)) as proxy:
        before = proxy.config
        for body in ({"match": "*"}, {"match": LOOPBACK, "endpoint": "x"}, {"match": {"matchHeader": {"name": "a", "value": "b"}}}):
            with pytest.raises(Exception, match=r"\$"):
                await bridged(proxy, "john", **{"port": port, "endpoint": "127.0.0.1:1", **body})
        assert proxy.config is before
        assert await asyncio.wait_for(says(port), 5) == b"shadow"


async def test_a_bridge_sets_the_host_for_its_laptop_and_not_for_the_shadow() -> None:
    heads: list[bytes] = []

    async def serve(peer: s.Peer) -> None:
        heads.append(await peer.reader.readuntil(b"\r\n\r\n"))
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    john = {"x-user": "john", "host": "shop.example"}
    async with s.tcp_server(serve) as laptop, s.tcp_server(serve) as shadow:
        port = free_port()
        async with s.running(pod("HTTP", shadow.port, port)) as proxy:
            match = {"matchHeader": {"name": "x-user", "value": "john"}}
            await bridged(proxy, "john", port=port, match=match, endpoint=f"127.0.0.1:{laptop.port}", host="app.example:8080")
            await s.http(port, headers=john)
            assert b"\r\nhost: app.example:8080\r\n" in heads[-1].lower()
            laptop.stop()
            await asyncio.sleep(0)
            await s.http(port, headers=john)
            assert b"\r\nhost: shop.example\r\n" in heads[-1].lower()


@pytest.mark.parametrize(
    "wrong", [{"options": {"retry_status": [502]}}, {"options": {"retry_statuses": [1]}}, {"host": "a b"}, {"host": "a", "mirror": True}]
)
async def test_options_and_hosts_that_a_bridge_cannot_have_are_refused(wrong: dict[str, object]) -> None:
    async with s.running(pod("HTTP", 1, free_port())) as proxy:
        port = proxy.config.listeners["web"].spec["port"]
        match = {"matchHeader": {"name": "x-user", "value": "ann"}}
        with pytest.raises(ConfigError):
            await bridged(proxy, "ann", port=port, match=match, endpoint="127.0.0.1:9", **wrong)
