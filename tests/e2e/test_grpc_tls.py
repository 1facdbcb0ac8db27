"""gRPC through a TCP listener that ends TLS: both sides agree on h2, because `alpn` says so (RFC 7301)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import pytest

from tests.pki import Pki, pki
from tests.support import cluster, config, listener, port_of, running

grpc = pytest.importorskip("grpc")
__all__ = ["pki"]


class Reverse(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request[::-1])


@pytest.fixture
def server() -> Iterator[int]:
    found = grpc.server(futures.ThreadPoolExecutor(2))
    found.add_generic_rpc_handlers((Reverse(),))
    port = found.add_insecure_port("127.0.0.1:0")
    found.start()
    yield port
    found.stop(0)


async def test_grpc_passes_a_tcp_listener_that_ends_tls(pki: Pki, server: int) -> None:
    tls = {**pki("a", "a.test"), "alpn": ["h2"]}
    conf = config(clusters=[cluster("up", server)], listeners=[listener("in", "up", spec={"tls": tls})])
    async with running(conf) as proxy:
        address = f"127.0.0.1:{port_of(proxy, 'in')}"

        def call() -> Any:
            with open(pki.ca, "rb") as file:
                trusted = grpc.ssl_channel_credentials(file.read())
            with grpc.secure_channel(address, trusted, [("grpc.ssl_target_name_override", "a.test")]) as channel:
                return channel.unary_unary("/x.Y/Reverse")(b"hello", timeout=5)

        assert await asyncio.to_thread(call) == b"olleh"
