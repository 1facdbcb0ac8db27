"""Names of endpoints from end to end, with a name server and servers on loopback: silent ones, addresses that fail, names that move."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from carrier.core import lookup as module
from carrier.proxy.proxy import Proxy
from tests.nameserver import NameServer, name_server
from tests.ports import free_port
from tests.support import Datagrams, Peer, cluster, config, http, listener, port_of, running, tcp, udp, udp_server, wait_until


@contextlib.asynccontextmanager
async def proxied(folder: Path, server: NameServer, conf: Any) -> AsyncIterator[Proxy]:
    """A proxy whose names are looked up at this server."""
    async with running() as proxy:
        proxy.env.resolver.lookup = server.lookup(folder)
        await proxy.apply(conf)
        yield proxy


@contextlib.asynccontextmanager
async def says(host: str, port: int, text: bytes) -> AsyncIterator[list[Peer]]:
    """An HTTP server at one of loopback's addresses; who connected."""
    peers: list[Peer] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(Peer(reader, writer))
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))

    server = await asyncio.start_server(serve, host, port)
    try:
        yield peers
    finally:
        server.close()
        for peer in peers:
            peer.writer.transport.abort()


def web(name: str, port: int, **fields: Any) -> dict[str, Any]:
    return cluster("web", port, name, protocol="HTTP", **fields)


@contextlib.contextmanager
def deaf(host: str, port: int) -> Any:
    """A listening socket whose queue is full: who connects hears nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    sock.listen(0)
    held = []
    for _ in range(4):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex((host, port))
        held.append(one)
    try:
        yield
    finally:
        for one in (*held, sock):
            one.close()


async def test_a_silent_name_server_makes_nobody_wait_whose_name_is_known_or_needs_none(tmp_path: Path) -> None:
    port = free_port()
    async with name_server({("known.test", "A"): ["127.0.0.1"]}) as server, says("127.0.0.1", port, b"here"):
        server.silent = {f"n{i}.test" for i in range(40)}
        lost = [cluster(f"c{i}", port, f"n{i}.test", protocol="HTTP") for i in range(40)]
        rules = [
            {"match": {"matchPath": {"path": f"/{i}/", "type": "prefix"}}, "action": {"route": {"destination": f"c{i}"}}} for i in range(40)
        ]
        rules += [
            {"match": {"matchPath": {"path": "/literal"}}, "action": {"route": {"destination": "literal"}}},
            {"action": {"route": {"destination": "web"}}},
        ]
        clusters = [*lost, web("known.test", port), cluster("literal", port, protocol="HTTP")]
        conf = config(clusters=clusters, listeners=[listener("in", protocol="HTTP", rules=rules)])
        async with proxied(tmp_path, server, conf) as proxy:
            waiting = [asyncio.ensure_future(http(port_of(proxy, "in"), f"/{i}/x")) for i in range(40)]
            await asyncio.sleep(0.1)
            began = time.monotonic()
            assert (await http(port_of(proxy, "in"), "/"))[2] == b"here"
            assert (await http(port_of(proxy, "in"), "/literal"))[2] == b"here"
            assert time.monotonic() - began < 2
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


async def test_to_look_a_name_up_takes_none_of_the_time_to_connect(tmp_path: Path) -> None:
    port = free_port()
    async with name_server({("slow.test", "A"): ["127.0.0.1"]}) as server, says("127.0.0.1", port, b"here"):
        server.delay = 0.6
        conf = config(clusters=[web("slow.test", port)], listeners=[listener("in", "web", protocol="HTTP", retry={"timeout": 200})])
        async with proxied(tmp_path, server, conf) as proxy:
            assert (await http(port_of(proxy, "in")))[0] == 200


async def test_a_name_that_nobody_answers_for_is_a_failed_look_up_and_no_failed_connection(tmp_path: Path) -> None:
    async with name_server() as server:
        server.silent = True
        conf = config(clusters=[web("a.test", 1)], listeners=[listener("in", "web", protocol="HTTP")])
        async with proxied(tmp_path, server, conf) as proxy:
            proxy.env.resolver.lookup = server.lookup(tmp_path, "options timeout:1 attempts:1")
            status, fields, body = await http(port_of(proxy, "in"))
    assert (status, fields["x-carrier-error"]) == (503, "dns")
    assert b"no answer within 1 s" in body


@pytest.mark.parametrize("first", ["deaf", "refusing"])
async def test_the_next_address_is_tried_soon_and_remembered(tmp_path: Path, first: str) -> None:
    port = free_port()
    async with name_server({("a.test", "A"): ["127.0.0.2", "127.0.0.3"]}) as server, says("127.0.0.3", port, b"three") as peers:
        conf = config(
            clusters=[web("a.test", port), cluster("tcp", port, "a.test")],
            listeners=[listener("in", "web", protocol="HTTP"), listener("raw", "tcp")],
        )
        with deaf("127.0.0.2", port) if first == "deaf" else contextlib.nullcontext():
            async with proxied(tmp_path, server, conf) as proxy:
                began = time.monotonic()
                assert (await http(port_of(proxy, "in")))[2] == b"three"
                assert time.monotonic() - began < 1.5
                addresses = await proxy.env.resolver.resolve("a.test", port)
                assert [address[0] for _, address in addresses] == ["127.0.0.3", "127.0.0.2"]
                async with tcp(port_of(proxy, "raw")) as client:
                    client.send(b"GET / HTTP/1.1\r\n\r\n")
                    assert (await client.read(15)) == b"HTTP/1.1 200 OK"
                assert len(peers) == 2


async def test_a_health_check_asks_all_addresses(tmp_path: Path) -> None:
    port = free_port()
    async with name_server({("a.test", "A"): ["127.0.0.2", "127.0.0.3"]}) as server, says("127.0.0.3", port, b"three"):
        for active in ("TCP", "HTTP"):
            health = {"active": active, "interval": 0.1, "unhealthy": 1, "timeout": 1.5}
            conf = config(clusters=[web("a.test", port, options={"health": health})], listeners=[listener("in", "web", protocol="HTTP")])
            with deaf("127.0.0.2", port):
                async with proxied(tmp_path, server, conf) as proxy:
                    found = proxy.clusters["web"]
                    await asyncio.wait_for(found.probe(found.endpoints[0], found.health), 2)


async def test_when_a_name_moves_idle_connections_are_closed_and_requests_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    async with (
        name_server({("a.test", "A"): ["127.0.0.2"]}) as server,
        says("127.0.0.2", port, b"old") as old,
        says("127.0.0.3", port, b"new"),
    ):
        server.ttl = 1
        conf = config(clusters=[web("a.test", port)], listeners=[listener("in", "web", protocol="HTTP")])
        async with proxied(tmp_path, server, conf) as proxy:
            assert (await http(port_of(proxy, "in")))[2] == b"old"
            assert len(proxy.clusters["web"].endpoints[0].idle) == 1
            server.records[("a.test", "A")] = ["127.0.0.3"]
            await wait_until(lambda: not proxy.clusters["web"].endpoints[0].idle, "for the idle connection to be closed")
            await wait_until(lambda: old[0].reader.at_eof())
            assert (await http(port_of(proxy, "in")))[2] == b"new"


async def test_when_a_name_moves_peers_of_datagrams_follow(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    loop = asyncio.get_running_loop()
    places = {}
    for host, text in (("127.0.0.2", b"old"), ("127.0.0.3", b"new")):
        places[host], _ = await loop.create_datagram_endpoint(lambda text=text: Datagrams(lambda data: text), local_addr=(host, port))
    try:
        async with name_server({("a.test", "A"): ["127.0.0.2"]}) as server:
            server.ttl = 1
            conf = config(clusters=[cluster("up", port, "a.test", protocol="UDP")], listeners=[listener("in", "up", protocol="UDP")])
            async with proxied(tmp_path, server, conf) as proxy, udp(port_of(proxy, "in")) as client:
                client.send(b"?")
                assert await client.read() == b"old"
                server.records[("a.test", "A")] = ["127.0.0.3"]
                await wait_until(lambda: not proxy.listeners["in"].live, "for the session to end")
                client.send(b"?")
                assert await client.read() == b"new"
    finally:
        for transport in places.values():
            transport.close()


async def test_a_service_is_reached_at_its_own_port(tmp_path: Path) -> None:
    port = free_port()
    records: dict[tuple[str, str], list[Any]] = {("_web._tcp.a.test", "SRV"): [(1, 1, port, "b.test")], ("b.test", "A"): ["127.0.0.1"]}
    async with name_server(records) as server, says("127.0.0.1", port, b"here"):
        conf = config(clusters=[web("_web._tcp.a.test", 9)], listeners=[listener("in", "web", protocol="HTTP")])
        async with proxied(tmp_path, server, conf) as proxy:
            assert (await http(port_of(proxy, "in")))[2] == b"here"


def test_the_files_of_the_system_are_the_default() -> None:
    asks = module.Lookup()
    assert (asks.servers_file.path, asks.hosts_file.path) == ("/etc/resolv.conf", "/etc/hosts")


async def test_datagrams_that_one_address_of_a_name_refuses_go_to_the_next_which_is_remembered(tmp_path: Path) -> None:
    """A server of IPv4 whose name has IPv6 too, which comes first."""
    records = {("up.test", "A"): ["127.0.0.1"], ("up.test", "AAAA"): ["::1"]}
    async with name_server(records) as names, udp_server() as server:
        conf = config(clusters=[cluster("up", server.port, "up.test", protocol="UDP")], listeners=[listener("in", "up", protocol="UDP")])
        async with proxied(tmp_path, names, conf) as proxy:
            for retries in (1, 0):
                async with udp(port_of(proxy, "in")) as client:
                    client.send(b"hello")
                    assert await client.read() == b"hello"
                    assert [s.retries for s in proxy.sessions() if s.source.address[1] == client.port] == [retries]
            assert proxy.clusters["up"].endpoints[0].up


async def test_a_name_all_of_whose_addresses_refuse_is_refused(tmp_path: Path) -> None:
    records = {("up.test", "A"): ["127.0.0.1", "127.0.0.2"], ("up.test", "AAAA"): ["::1"]}
    async with name_server(records) as names:
        front = listener("in", "up", protocol="UDP", options={"track": 60})
        conf = config(clusters=[cluster("up", free_port(socket.SOCK_DGRAM), "up.test", protocol="UDP")], listeners=[front])
        async with proxied(tmp_path, names, conf) as proxy, udp(port_of(proxy, "in")) as client:
            client.send(b"hello")
            await wait_until(lambda: proxy.listeners["in"].tracked)
            (session,) = proxy.sessions()
            assert (session.retries, session.error.kind, session.dropped) == (2, "refused", 1)
