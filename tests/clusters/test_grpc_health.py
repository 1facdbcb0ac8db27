"""kubelet's gRPC probe, asked by the library that kubelet's own is a port of, and by bytes."""

import asyncio

import pytest

from tests.support import config, listener, port_of, running, tcp

CONF = {"clusters": [{"name": "health", "spec": {"protocol": "GrpcHealth"}}], "listeners": [listener("in", "health")]}


async def test_check_is_serving_and_any_other_method_is_unimplemented():
    grpc = pytest.importorskip("grpc")
    async with running(config(**CONF)) as proxy, grpc.aio.insecure_channel(f"127.0.0.1:{port_of(proxy, 'in')}") as channel:
        for _ in range(3):
            assert await channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5) == b"\x08\x01"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/some.Service/Method")(b"", timeout=5)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_what_is_no_http2_is_cut():
    async with running(config(**CONF)) as proxy:
        async with tcp(port_of(proxy, "in")) as client:
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            try:
                await asyncio.wait_for(client.reader.read(), 5)
            except ConnectionResetError:
                pass
        assert not proxy.listeners["in"].live
