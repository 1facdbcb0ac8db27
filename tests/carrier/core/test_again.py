"""Calls of gRPC that are asked again because of their status: which, how often, and with what."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from carrier.core.decision import check_statuses, retried
from carrier.proxy.proxy import Proxy
from tests.e2e.test_grpc import Echo, channel, counted, failure, grpc_server
from tests.h2peer import Peer2, Server2, client2
from tests.support import Peer, cluster, config, listener, port_of, running, tcp_server

UNAVAILABLE, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED


class Flaky(Echo):
    """Fails `times` with `code` before it answers; `begun`: with its initial metadata sent."""

    def __init__(self, times: int, code: grpc.StatusCode = UNAVAILABLE, begun: bool = False) -> None:
        super().__init__()
        self.left, self.code, self.begun = times, code, begun
        self.calls: list[bytes] = []

    async def unary(self, request: bytes, context: Any) -> bytes:
        self.calls.append(request)
        if self.left > 0:
            self.left -= 1
            if self.begun:
                await context.send_initial_metadata((("x-begun", "1"),))
            await context.abort(self.code, "not now")
        return b"echo " + request

    async def stream(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        if self.left > 0:
            self.left -= 1
            await context.abort(self.code, "not now")
        async for request in requests:
            yield b"echo " + request


@contextlib.asynccontextmanager
async def through(
    *servers: int, statuses: object = ("unavailable",), retries: int = 2, http: int = 2, **fields: Any
) -> AsyncIterator[tuple[Proxy, grpc.aio.Channel]]:
    endpoints = [{"name": f"e{i}", "spec": {"address": "127.0.0.1", "port": port}} for i, port in enumerate(servers)]
    up = {
        **cluster("up", protocol="HTTP", **fields),
        "spec": {"protocol": "HTTP", "http": http},
        "endpoints": endpoints,
        "loadbalancer": {"policy": "round_robin"},
    }
    retry = {"retry_on": "never", "num_retries": retries}
    route = {"destination": "up", "options": {"retry_statuses": list(statuses)}, "retry": retry}  # type: ignore[call-overload]
    conf = config(clusters=[up], listeners=[listener("in", protocol="HTTP", rules=[{"action": {"route": route}}])])
    async with running(conf) as proxy, channel(port_of(proxy, "in")) as ours:
        yield proxy, ours


async def test_a_call_is_asked_again_with_its_content_until_it_goes_well() -> None:
    flaky = Flaky(2)
    async with grpc_server(flaky) as server, through(server) as (proxy, ours):
        assert await ours.unary_unary("/a.Service/Unary")(b"x" * 1000) == b"echo " + b"x" * 1000
        assert flaky.calls == [b"x" * 1000] * 3
        assert counted(proxy) == {("Unary", "OK"): 1}
        assert proxy.clusters["up"].breaker.retries == 0


async def test_it_is_asked_again_so_often_and_no_oftener() -> None:
    flaky = Flaky(3)
    async with grpc_server(flaky) as server, through(server) as (proxy, ours):
        assert await failure(ours.unary_unary("/a.Service/Unary")(b"")) == ("UNAVAILABLE", "not now")
        assert len(flaky.calls) == 3 and proxy.clusters["up"].breaker.retries == 0


@pytest.mark.parametrize("flaky", [Flaky(1, EXHAUSTED), Flaky(1, begun=True)], ids=["another status", "an answer that has begun"])
async def test_what_the_route_does_not_name_and_what_has_begun_is_passed_on(flaky: Flaky) -> None:
    async with grpc_server(flaky) as server, through(server) as (_, ours):
        code, _ = await failure(ours.unary_unary("/a.Service/Unary")(b""))
        assert code == flaky.code.name and len(flaky.calls) == 1


async def test_a_call_with_more_content_than_is_kept_is_passed_on() -> None:
    flaky = Flaky(1)
    async with grpc_server(flaky) as server, through(server) as (_, ours):
        code, _ = await failure(ours.unary_unary("/a.Service/Unary")(b"x" * 70_000))
        assert code == "UNAVAILABLE" and len(flaky.calls) == 1


async def test_another_endpoint_is_asked_if_there_is_one() -> None:
    bad, good = Flaky(1000), Flaky(0)
    async with grpc_server(bad) as first, grpc_server(good) as second, through(first, second, retries=1) as (_, ours):
        for n in range(6):
            assert await ours.unary_unary("/a.Service/Unary")(b"%d" % n) == b"echo %d" % n
        assert 2 <= len(bad.calls) <= 4 and len(good.calls) == 6


async def test_a_stream_that_got_no_answer_yet_goes_on_at_the_next_one() -> None:
    async with grpc_server(Flaky(1)) as server, through(server) as (_, ours):
        call = ours.stream_stream("/a.Service/Stream")()
        for n in range(10):
            await call.write(b"%d" % n)
        for n in range(10):
            assert await call.read() == b"echo %d" % n
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("how", ["the stream", "the connection"])
async def test_a_server_that_breaks_off_is_asked_again_as_its_caller_would_be_told(how: str) -> None:
    async def serve(peer: Peer2) -> None:
        while True:
            number = await peer.request()
            found = peer.streams[number]
            await peer.until(lambda found=found: len(found.body) == 7)
            heard.append(found.body[5:])
            if len(heard) > 1:
                peer.head(number, [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "12")], end=True)
            elif how == "the stream":
                peer.reset(number)
            else:
                peer.close()

    heard: list[bytes] = []
    async with Server2(serve) as server, through(server.port, statuses=("cancelled", "unavailable")) as (_, ours):
        code, _ = await failure(ours.unary_unary("/a.Service/Unary")(b"hi"))
        assert code == "UNIMPLEMENTED"
        assert heard == [b"hi", b"hi"]


async def test_no_more_calls_are_tried_again_than_the_cluster_allows() -> None:
    flaky = Flaky(1)
    async with grpc_server(flaky) as server, through(server, options={"max_retries": 1}) as (proxy, ours):
        breaker = proxy.clusters["up"].breaker
        assert breaker.retry()
        assert await failure(ours.unary_unary("/a.Service/Unary")(b"")) == ("UNAVAILABLE", "not now")
        breaker.retried()
        flaky.left = 1
        assert await ours.unary_unary("/a.Service/Unary")(b"hi") == b"echo hi"
        assert breaker.tripped == {"max_retries": 1}


@pytest.mark.parametrize(
    ("written", "read"),
    [(503, 503), ("unavailable", "UNAVAILABLE"), ("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"), ("Deadline-Exceeded", "DEADLINE_EXCEEDED")],
)
def test_statuses_are_numbers_of_http_and_names_of_grpc(written: object, read: object) -> None:
    assert retried(written) == read and check_statuses({"retry_statuses": [written]}, "$") == []


@pytest.mark.parametrize("wrong", [99, 600, True, "ok", "unavailabel", 1.5, None])
def test_what_is_none_is_told_with_what_was_meant(wrong: object) -> None:
    (problem,) = check_statuses({"retry_statuses": [wrong]}, "$.options")
    assert problem.path == "$.options.retry_statuses" and "unavailable" in str(problem.allowed)
    assert (problem.hint == "did you mean 'unavailable'?") is (wrong == "unavailabel")


@pytest.mark.parametrize("http", [1, 2])
async def test_statuses_of_http_are_asked_again_over_http_2_too(http: int) -> None:
    answers = ["503", "200"]

    async def serve2(peer: Peer2) -> None:
        while True:
            number = await peer.request()
            peer.head(number, [(":status", answers.pop(0))], end=True)

    async def serve1(peer: Peer) -> None:
        while answers:
            await peer.reader.readuntil(b"\r\n\r\n")
            peer.send(b"HTTP/1.1 %b X\r\ncontent-length: 0\r\n\r\n" % answers.pop(0).encode())
        await peer.reader.read()

    async with (
        Server2(serve2) as two,
        tcp_server(serve1) as one,
        through(one.port if http == 1 else two.port, statuses=[503], http=http) as (proxy, _),
        client2(port_of(proxy, "in")) as client,
    ):
        assert (await client.get("/")).status == 200 and not answers
