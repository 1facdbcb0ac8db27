"""The PROXY protocol towards endpoints of HTTP and of every other stream: whose connection it is, before everything else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from carrier.wire.introduction import LOCAL, Introduced, Introduction
from clusters.http.cluster import HttpCluster
from clusters.unix import UnixCluster
from tests.h2peer import Peer2, client2, echo
from tests.pki import Pki, pki
from tests.support import PATIENCE, cluster, config, listener, port_of, running, tcp, wait_until

__all__ = ["pki"]
VERSIONS = pytest.mark.parametrize("version", ["v1", "v2"])


class Server:
    """Reads a PROXY header from each connection; then TLS, if there is a context, and what was agreed on or what `http` says. An answer of
    HTTP/1.1 names the client's port, as the header has it."""

    def __init__(self, tls: ssl.SSLContext | None = None, http: int = 1) -> None:
        self.tls, self.http = tls, http
        self.said: list[Introduced | None] = []
        self.raw: list[bytes] = []
        self.closed = 0

    async def accepted(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        introduction = Introduction()
        while introduction.more:
            introduction.feed(await loop.sock_recv(sock, introduction.more))
        self.said.append(introduction.said)
        self.raw.append(introduction.held)
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock, ssl=self.tls)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            agreed = writer.get_extra_info("ssl_object").selected_alpn_protocol() if self.tls is not None else None
            if agreed == "h2" or self.http == 2:
                peer = Peer2(reader, writer, False)
                peer.start()
                await echo(peer)
            while True:
                await reader.readuntil(b"\r\n\r\n")
                text = str(introduction.said.peer[1] if introduction.said is not None else "nobody").encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))
        self.closed += 1
        writer.close()

    async def accepting(self, sock: socket.socket) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                accepted, _ = await asyncio.get_running_loop().sock_accept(sock)
                tasks.create_task(self.accepted(accepted))

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            sock.setblocking(False)
            task = asyncio.create_task(self.accepting(sock))
            yield sock.getsockname()[1]
            task.cancel()
            await asyncio.wait([task])


def through(port: int, version: str, down: dict[str, Any] | None = None, protocol: str = "HTTP", **spec: Any) -> Any:
    """A proxy. down: the spec of its listener; `options` in spec: of the cluster."""
    options = spec.pop("options", {})
    up = {**cluster("up", port, protocol=protocol), "options": options}
    up["spec"] |= {"proxy_protocol": version, **spec}
    return running(config(clusters=[up], listeners=[listener("in", "up", protocol=protocol, spec=down or {})]))


async def get(peer: Any) -> bytes:
    """The content that answers a request of HTTP/1.1."""
    peer.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    head = await asyncio.wait_for(peer.reader.readuntil(b"\r\n\r\n"), PATIENCE)
    return await peer.read(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))  # type: ignore[no-any-return]


@VERSIONS
@pytest.mark.parametrize("protocol", ["HTTP", "auto"])
async def test_a_connection_serves_the_client_that_it_has_named_and_nobody_else(version: str, protocol: str) -> None:
    server = Server()
    async with server.serving() as up, through(up, version, protocol=protocol) as proxy:
        port = port_of(proxy, "in")
        async with tcp(port) as first, tcp(port) as second:
            for _ in range(3):
                for client in (first, second):
                    assert await get(client) == b"%d" % client.port
            assert [said.peer[1] for said in server.said if said is not None] == [first.port, second.port]
            assert [said.local[1] for said in server.said if said is not None] == [port, port]


async def test_what_a_client_leaves_behind_is_closed() -> None:
    server = Server()
    async with server.serving() as up, through(up, "v2") as proxy:
        async with tcp(port_of(proxy, "in")) as client:
            await get(client)
        found: Any = proxy.clusters["up"]

        def looked() -> bool:
            found.tick(proxy.env.loop.time())
            return not found.clients and server.closed == 1

        await wait_until(looked, "for the connection to be closed")


async def test_streams_of_one_client_share_a_connection_of_http_2_and_two_clients_do_not() -> None:
    server = Server(http=2)
    async with server.serving() as up, through(up, "v2", http=2) as proxy:
        port = port_of(proxy, "in")
        async with client2(port) as first, client2(port) as second:
            numbers = [(client, client.ask(f"/{n}")) for n in range(5) for client in (first, second)]
            for client, number in numbers:
                assert (await client.answer(number)).status == 200
            ports = {client.writer.get_extra_info("sockname")[1] for client in (first, second)}
            assert len(server.said) == 2 and {said.peer[1] for said in server.said if said is not None} == ports


@pytest.mark.parametrize("alpn", [("h2",), ("http/1.1",)], ids=["h2", "http/1.1"])
async def test_it_stands_in_front_of_tls_and_tells_of_the_tls_that_ends_here(alpn: tuple[str, ...], pki: Pki) -> None:
    server = Server(pki.server("h2", "http/1.1"))
    down = {"tls": {**pki("ours", "localhost"), "ca": pki.ca, "client_auth": "required"}}
    mine = pki.authority.issue_cert("john@a.example", common_name="john")
    chain, key = pki.folder / "john.pem", pki.folder / "john.key"
    chain.write_bytes(b"".join(pem.bytes() for pem in mine.cert_chain_pems))
    mine.private_key_pem.write_to_path(str(key))
    context = pki.client({"certificate": str(chain), "key": str(key)}, *alpn)
    async with server.serving() as up, through(up, "v2", down, tls={"ca": pki.ca, "sni": "localhost"}) as proxy:
        port = port_of(proxy, "in")
        if alpn == ("h2",):
            async with client2(port, context) as client:
                assert (await client.get("/")).status == 200
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
            writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            writer.close()
        (said,) = server.said
        assert said is not None and (said.sni, said.alpn, said.tls, said.name) == ("localhost", alpn[0], "TLSv1.3", "john")


@VERSIONS
async def test_a_probe_is_of_the_proxy_itself(version: str) -> None:
    server = Server()
    health = {"health": {"active": "HTTP", "interval": 0}}
    async with server.serving() as up, through(up, version, options=health) as proxy:
        proxy.clusters["up"].tick(proxy.env.loop.time())
        await wait_until(lambda: server.raw, "for a probe")
        assert server.raw == [LOCAL[version]]


async def test_connections_are_bounded_and_who_waits_gives_way() -> None:
    server = Server()
    async with (
        server.serving() as up,
        through(up, "v2", options={"max_per_endpoint": 1}) as proxy,
        tcp(port_of(proxy, "in")) as first,
        tcp(port_of(proxy, "in")) as second,
    ):
        for client in (first, second, first):
            assert await get(client) == b"%d" % client.port


@VERSIONS
async def test_a_websocket_cluster_says_it_before_the_handshake(version: str) -> None:
    said: list[bytes] = []

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        introduction = Introduction()
        while introduction.more:
            introduction.feed(await reader.readexactly(introduction.more))
        said.append(introduction.held)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET / HTTP/1.1\r\n")
        writer.write(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n")

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    up = cluster("up", server.sockets[0].getsockname()[1], protocol="WebSocket")
    up["spec"]["proxy_protocol"] = version
    async with running(config(clusters=[up], listeners=[listener("in", "up")])) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"hello")
        await wait_until(lambda: said, "for a connection")
        assert (said[0] != LOCAL[version] and str(client.port).encode() in said[0]) or version == "v2"
    server.close()


@VERSIONS
async def test_a_unix_socket_and_a_json_socket_are_told_too(version: str, tmp_path: Path) -> None:
    heard: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        introduction = Introduction()
        while introduction.more:
            introduction.feed(await reader.readexactly(introduction.more))
        assert introduction.said is not None
        heard.put_nowait((introduction.said.peer[1], await reader.read(1000)))

    file = str(tmp_path / "s")
    unix = await asyncio.start_unix_server(accepted, file)
    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    told = {"proxy_protocol": version}
    clusters: list[dict[str, Any]] = [
        {"name": "unix", "spec": {"protocol": "UnixDomainSocket", **told}, "endpoints": [{"spec": {"address": file}}]},
        {
            "name": "json",
            "spec": {"protocol": "JSONSocket", "transport_spec": {"protocol": "TCP", "port": port, **told}, "header": []},
            "endpoints": [{"spec": {"address": "127.0.0.1"}}],
        },
    ]
    async with running(config(clusters=clusters, listeners=[listener("a", "unix"), listener("b", "json")])) as proxy:
        async with tcp(port_of(proxy, "a")) as client:
            client.send(b"hello")
            assert await asyncio.wait_for(heard.get(), PATIENCE) == (client.port, b"hello")
        async with tcp(port_of(proxy, "b")) as client:
            number, first = await asyncio.wait_for(heard.get(), PATIENCE)
            assert number == client.port and first.startswith(b"{")
    unix.close()
    server.close()


@pytest.mark.parametrize("made", [HttpCluster, UnixCluster])
def test_another_version_is_refused(made: Any) -> None:
    found = made.check({"protocol": made.protocol, "proxy_protocol": "v3"}, "spec")
    assert [problem.allowed for problem in found if problem.path == "spec.proxy_protocol"] == ["v1, v2"]


def test_datagrams_do_not_begin_with_a_header() -> None:
    (problem,) = UnixCluster.check({"protocol": "UnixDomainSocket", "mode": "dgram", "proxy_protocol": "v2"}, "spec")
    assert "stream" in problem.message
