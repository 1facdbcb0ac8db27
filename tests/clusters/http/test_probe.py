"""Health checks of endpoints in HTTP/2 and of gRPC's health service, beside those in HTTP/1.1."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from carrier.core.health import check
from carrier.proxy.proxy import Proxy
from clusters.http.probe import message
from tests.h2peer import Peer2, Server2
from tests.pki import Pki, pki
from tests.support import cluster, config, listener, running, wait_until

__all__ = ["pki"]

HEALTH = {"interval": 0, "healthy": 1, "unhealthy": 1}


@contextlib.asynccontextmanager
async def watched(port: int, spec: dict[str, Any], **health: Any) -> AsyncIterator[Proxy]:
    up = {**cluster("up", port, protocol="HTTP"), "options": {"health": {**HEALTH, **health}}}
    up["spec"] |= spec
    async with running(config(clusters=[up], listeners=[listener("in", "up", protocol="HTTP")])) as proxy:
        yield proxy


async def becomes(proxy: Proxy, up: bool, reason: str = "") -> None:
    (endpoint,) = proxy.clusters["up"].endpoints
    now = proxy.env.loop.time()

    def looked() -> bool:
        proxy.clusters["up"].tick(now)
        return endpoint.up is up

    await wait_until(looked, f"for up={up}")
    assert reason in proxy.clusters["up"].health.report()[0]["reason"]


class Site:
    """A server whose answer to /healthz the test chooses."""

    def __init__(self) -> None:
        self.status = "200"
        self.asked: list[dict[str, str]] = []

    async def serve(self, peer: Peer2) -> None:
        while True:
            number = await peer.request()
            self.asked.append(peer.streams[number].head)
            peer.head(number, [(":status", self.status)], end=True)


async def test_an_endpoint_of_http_2_is_asked_in_http_2() -> None:
    site = Site()
    async with Server2(site.serve) as server, watched(server.port, {"http": 2}, active="HTTP", path="/healthz", host="app") as proxy:
        await wait_until(lambda: proxy.clusters["up"].tick(proxy.env.loop.time()) or site.asked, "for a probe")
        head = site.asked[0]
        assert (head[":method"], head[":path"], head[":authority"], head[":scheme"]) == ("GET", "/healthz", "app", "http")
        site.status = "503"
        await becomes(proxy, False, "answered 503")
        site.status = "204"
        await becomes(proxy, True)


@pytest.mark.parametrize("spec", [{}, {"http": 2}], ids=["agreed on", "demanded"])
async def test_with_tls_it_is_asked_in_what_was_agreed_on(spec: dict[str, Any], pki: Pki) -> None:
    site = Site()
    async with Server2(site.serve, tls=pki.server("h2")) as server:
        tls = {"tls": {"ca": pki.ca, "sni": "localhost"}}
        async with watched(server.port, {**spec, **tls}, active="HTTP") as proxy:
            site.status = "500"
            await becomes(proxy, False, "answered 500")
            site.status = "200"
            await becomes(proxy, True)
            assert site.asked[0][":scheme"] == "https"


class Health(grpc.GenericRpcHandler):
    """grpc.health.v1.Health: states by service; who is not there is NOT_FOUND."""

    def __init__(self) -> None:
        self.states = {"": 1, "shop.Cart": 1}

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        async def answer(request: bytes, context: Any) -> bytes:
            service = request[2:].decode()
            if service not in self.states:
                await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
            return b"\x08" + bytes([self.states[service]]) if self.states[service] else b""

        return grpc.unary_unary_rpc_method_handler(answer) if details.method == "/grpc.health.v1.Health/Check" else None


@pytest.mark.parametrize("service", ["", "shop.Cart"])
async def test_a_server_of_grpc_is_asked_for_its_health(service: str) -> None:
    health = Health()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((health,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with watched(port, {"http": 2}, active="GRPC", service=service) as proxy:
            for state, said in ((2, "NOT_SERVING"), (0, "UNKNOWN")):
                health.states[service] = state
                await becomes(proxy, False, f"answered {said}")
                health.states[service] = 1
                await becomes(proxy, True)
            del health.states[service]
            await becomes(proxy, False, "answered NOT_FOUND")
    finally:
        await server.stop(None)


async def test_who_speaks_no_http_2_is_down_and_the_reason_says_so() -> None:
    async def http1(reader: Any, writer: Any) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(http1, "127.0.0.1", 0)
    try:
        async with watched(server.sockets[0].getsockname()[1], {"http": 2}, active="HTTP") as proxy:
            await becomes(proxy, False, "the peer speaks HTTP/1.1, not HTTP/2")
    finally:
        server.close()


def test_a_message_names_the_service() -> None:
    assert message("") == b"\0\0\0\0\0" and message("a.B") == struct.pack(">BI", 0, 5) + b"\x0a\x03a.B"


def test_a_service_with_a_name_that_cannot_be_sent_is_refused() -> None:
    assert check({"active": "GRPC", "service": "a.B"}, "h") == []
    for wrong in ("a b", 5, "x" * 128):
        (problem,) = check({"active": "GRPC", "service": wrong}, "h")
        assert problem.path == "h.service"
