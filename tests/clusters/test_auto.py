"""Servers of every kind behind a bridged port work as if nobody had bridged it: gRPC, TLS, one that speaks first."""

import asyncio
import contextlib
import ssl

import pytest
import trustme

from carrier.bridges.edits import Bridges
from tests.support import cluster, config, http, listener, port_of, running, tcp, tcp_server

MATCH = {"matchHeader": {"name": "x-user", "value": "john"}}


@contextlib.asynccontextmanager
async def bridged(shadow, laptop=1):
    """The port of a service on `shadow`, with a user's bridge on it."""
    base = config(clusters=[cluster("shadow", shadow, protocol="auto")], listeners=[listener("in", "shadow", protocol="auto")])
    bridge = {"listener": "in", "user": "john", "match": MATCH, "endpoint": f"127.0.0.1:{laptop}"}
    async with running(Bridges().put(base, "john", bridge)) as proxy:
        yield port_of(proxy, "in")


async def test_grpc_calls_of_all_four_kinds_pass():
    grpc = pytest.importorskip("grpc")

    async def unary(request, context):
        return request.upper()

    async def stream(requests, context):
        async for request in requests:
            yield request.upper()

    async def numbers(request, context):
        for i in range(200):
            yield b"%d" % i

    async def total(requests, context):
        return b"%d" % sum([len(request) async for request in requests])

    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
        "Numbers": grpc.unary_stream_rpc_method_handler(numbers),
        "Total": grpc.stream_unary_rpc_method_handler(total),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    shadow = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with bridged(shadow) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            metadata = (("x-user", "john"),)  # full HTTP/2 routing is to come: until then gRPC is the shadow's
            assert await channel.unary_unary("/test.Test/Unary")(b"hello", timeout=5, metadata=metadata) == b"HELLO"
            call = channel.stream_stream("/test.Test/Stream")(timeout=5)
            for word in (b"one", b"two"):
                await call.write(word)
                assert await call.read() == word.upper()
            await call.done_writing()
            assert len([n async for n in channel.unary_stream("/test.Test/Numbers")(b"", timeout=5)]) == 200
            pieces = [b"x" * 100_000] * 20
            assert await channel.stream_unary("/test.Test/Total")(iter(pieces), timeout=5) == b"2000000"
    finally:
        await server.stop(0)


async def test_a_tls_server_keeps_its_own_certificate():
    ca = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    ca.issue_cert("db.test").configure_cert(server)
    ca.configure_trust(client)

    async def echo(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    shadow = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server)
    try:
        async with bridged(shadow.sockets[0].getsockname()[1]) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="db.test")
            writer.write(b"hello")
            assert await asyncio.wait_for(reader.readexactly(5), 5) == b"hello"
            writer.close()
    finally:
        shadow.close()


async def test_a_database_that_greets_first_and_then_changes_to_tls_works():
    """As MySQL's and SMTP's STARTTLS: plain greeting, a request, and TLS on the same connection."""

    async def database(peer):
        peer.send(b"\x0a8.0.36\x00")
        assert await peer.read(4) == b"LOGN"
        peer.send(b"OK")
        peer.send(await peer.read(5))

    async with tcp_server(database) as shadow, bridged(shadow.port) as port, tcp(port) as client:
        assert await client.read(8) == b"\x0a8.0.36\x00"
        client.send(b"LOGN")
        assert await client.read(2) == b"OK"
        client.send(b"\x16\x03\x01\x00\x01")
        assert await client.read_all() == b"\x16\x03\x01\x00\x01"


async def test_http_on_the_same_port_is_still_bridged():
    async def laptop(peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nlaptop")

    async with tcp_server(laptop) as john, bridged(1, john.port) as port:
        assert (await http(port, headers={"x-user": "john"}))[2] == b"laptop"
