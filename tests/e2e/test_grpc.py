"""gRPC through a real proxy, with grpcio as client and server: its trailers, its statuses, how long its callers wait."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest

from carrier.bridges.edits import Bridges
from carrier.config.accesslog import Settings
from carrier.core.reuse import ReusedSession
from carrier.observe.lines import Lines
from carrier.observe.metrics import Metrics
from tests.e2e.test_h2 import to
from tests.h2peer import Peer2, Server2, client2
from tests.support import config, port_of, running, tcp_server, wait_until

RAW = {"request_serializer": None, "response_deserializer": None}


class Echo(grpc.GenericRpcHandler):
    """Every method echoes: what its name says. Fail: a status and trailers of its own; Slow: after two seconds."""

    def __init__(self) -> None:
        self.timeouts: list[float | None] = []

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        method = details.method.rpartition("/")[2]
        if method == "Stream":
            return grpc.stream_stream_rpc_method_handler(self.stream)
        return grpc.unary_unary_rpc_method_handler(getattr(self, {"Break": "break_"}.get(method, method.lower()), self.unary))

    async def unary(self, request: bytes, context: Any) -> bytes:
        self.timeouts.append(context.time_remaining())
        await context.send_initial_metadata((("x-initial", "1"),))
        context.set_trailing_metadata((("x-last", "2"),))
        return b"echo " + request

    async def fail(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not so, 100 % sure")
        return b""

    async def slow(self, request: bytes, context: Any) -> bytes:
        await asyncio.sleep(2)
        return b"late"

    async def break_(self, request: bytes, context: Any) -> bytes:
        raise ValueError("broken")

    async def stream(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield b"echo " + request


@contextlib.asynccontextmanager
async def grpc_server(echo: Echo | None = None) -> AsyncIterator[int]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((echo or Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def channel(port: int) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as found:
        yield found


async def failure(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, caught.value.details() or ""


def counted(proxy: Any) -> dict[tuple[str, str], int]:
    """What the listener has counted, by method and status."""
    methods = proxy.listeners["in"].calls.methods.items()
    return {(method, status): count for (_, method), of in methods for status, count in of.statuses.items()}


async def test_unary_calls_keep_their_metadata_and_trailers() -> None:
    async with grpc_server() as server, to(server, http=2) as proxy, channel(port_of(proxy, "in")) as ours:
        call = ours.unary_unary("/a.Service/Unary")(b"x" * 100_000, metadata=(("x-user", "john"),))
        assert await call == b"echo " + b"x" * 100_000
        assert ("x-initial", "1") in tuple(await call.initial_metadata()) and ("x-last", "2") in tuple(await call.trailing_metadata())
        assert await failure(ours.unary_unary("/a.Service/Fail")(b"")) == ("FAILED_PRECONDITION", "not so, 100 % sure")
        assert counted(proxy) == {("Unary", "OK"): 1, ("Fail", "FAILED_PRECONDITION"): 1}


async def test_streams_go_both_ways_at_once() -> None:
    async with grpc_server() as server, to(server, http=2) as proxy, channel(port_of(proxy, "in")) as ours:
        call = ours.stream_stream("/a.Service/Stream")()
        for n in range(100):
            await call.write(b"%d" % n)
            assert await call.read() == b"echo %d" % n
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_a_stream_whose_caller_has_nothing_to_say_for_minutes_goes_on() -> None:
    """It was taken for an upload that drips, and its caller told DEADLINE_EXCEEDED after ten seconds."""
    async with grpc_server() as server, to(server, http=2) as proxy, channel(port_of(proxy, "in")) as ours:
        call = ours.stream_stream("/a.Service/Stream")()
        listener = proxy.listeners["in"]
        await wait_until(lambda: listener.live, "for the call")
        for second in range(0, 240, 10):
            listener.tick(proxy.env.loop.time() + second)
        await call.write(b"still here")
        assert await call.read() == b"echo still here"
        call.cancel()


async def test_an_auto_port_carries_it_to_the_server() -> None:
    async with grpc_server() as server, to(server, protocol="auto") as proxy, channel(port_of(proxy, "in")) as ours:
        assert await ours.unary_unary("/a.Service/Unary")(b"hi") == b"echo hi"
        (hit,) = (hits for rule, hits in proxy.hits.items() if rule == "all")
        assert hit.count == 1


async def test_nobody_there_is_unavailable_with_the_reason() -> None:
    async with to(1, http=2) as proxy, channel(port_of(proxy, "in")) as ours:
        code, details = await failure(ours.unary_unary("/a.Service/Unary")(b"", wait_for_ready=False))
        assert code == "UNAVAILABLE" and "127.0.0.1:1" in details


async def test_a_cluster_of_http_1_is_unimplemented_with_the_reason_and_its_connections_stay() -> None:
    async with tcp_server() as server, to(server.port) as proxy, channel(port_of(proxy, "in")) as ours:
        for _ in range(3):
            code, details = await failure(ours.unary_unary("/a.Service/Unary")(b""))
            assert code == "UNIMPLEMENTED" and "spec.http: 2" in details


async def test_a_callers_timeout_ends_the_call_and_is_passed_on_less_what_was_used() -> None:
    echo = Echo()
    async with grpc_server(echo) as server, to(server, http=2) as proxy, channel(port_of(proxy, "in")) as ours:
        assert await ours.unary_unary("/a.Service/Unary")(b"", timeout=5) == b"echo "
        (left,) = echo.timeouts
        assert left is not None and 3 < left < 5.1
        code, _ = await failure(ours.unary_unary("/a.Service/Slow")(b"", timeout=0.3))
        assert code == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("whole", [True, False])
async def test_a_stream_that_outlives_its_callers_timeout_ends_with_that_status(whole: bool) -> None:
    """The caller's own clock may be behind: what it saw was CANCELLED then."""

    async def serve(peer: Peer2) -> None:
        number = await peer.request()
        peer.head(number, [(":status", "200"), ("content-type", "application/grpc")])
        peer.send(number, b"\0\0\0\0\2hi")
        await peer.until(lambda: peer.streams[number].ended, "the end of the call")
        heard.append(peer.streams[number].reset)

    heard: list[int | None] = []
    async with Server2(serve) as server, to(server.port, http=2) as proxy, client2(port_of(proxy, "in")) as ours:
        call = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "200m")]
        number = ours.ask("/a.Service/Stream", "POST", call, end=whole)
        found = await ours.answer(number)
        assert found.body == b"\0\0\0\0\2hi" and found.trailers is not None and not found.reset
        assert found.trailers["grpc-status"] == "4" and "0.2 s is over" in found.trailers["grpc-message"]
        assert counted(proxy) == {("Stream", "DEADLINE_EXCEEDED"): 1}
        await wait_until(lambda: whole or heard == [8], "for the server to hear of it")


async def test_calls_that_nobody_said_the_end_of_are_counted_and_shown_by_method() -> None:
    async with grpc_server() as server, to(server, http=2) as proxy, channel(port_of(proxy, "in")) as ours:
        assert await ours.unary_unary("/a.Service/Slow")(b"") == b"late"
        call = ours.stream_stream("/a.Service/Stream")(timeout=0.5)
        await call.write(b"hi")
        assert await call.read() == b"echo hi"
        assert (await failure(call.read()))[0] == "DEADLINE_EXCEEDED"
        call = ours.stream_stream("/a.Service/Stream")()
        await call.write(b"hi")
        assert await call.read() == b"echo hi"
        call.cancel()
        call = ours.unary_unary("/a.Service/Slow")(b"")
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        want = {("Slow", "OK"): 1, ("Slow", "CANCELLED"): 1, ("Stream", "CANCELLED"): 2}
        await wait_until(lambda: sum(counted(proxy).values()) >= 4, "for the calls that were broken off")
        late = {**want, ("Stream", "CANCELLED"): 1, ("Stream", "DEADLINE_EXCEEDED"): 1}  # whose clock was first
        assert counted(proxy) in (want, late), counted(proxy)
        text = (await Metrics(proxy).text())[1].decode()
        assert 'carrier_grpc_calls_total{listener="in",method="Slow",service="a.Service",status="CANCELLED"} 1.0' in text
        assert 'carrier_grpc_call_seconds_bucket{le="1.0",listener="in",method="Slow",service="a.Service"} 1.0' in text


async def test_a_call_that_its_server_fails_is_no_session_that_went_well() -> None:
    """Its answer is 200 all the same, and was counted so: `carrier top` showed no errors, and no alert rang."""
    async with grpc_server() as server, to(server, http=2) as proxy, channel(port_of(proxy, "in")) as ours:
        metrics = Metrics(proxy)
        proxy.env.read(metrics.meter.read)
        assert await ours.unary_unary("/a.Service/Unary")(b"") == b"echo "
        assert (await failure(ours.unary_unary("/a.Service/Fail")(b"")))[0] == "FAILED_PRECONDITION"  # the caller's own fault
        assert (await failure(ours.unary_unary("/a.Service/Break")(b"")))[0] == "UNKNOWN"
        assert (await failure(ours.unary_unary("/a.Service/Slow")(b"", timeout=0.3)))[0] == "DEADLINE_EXCEEDED"
        await wait_until(lambda: sum(counted(proxy).values()) == 4, "for all calls to end")
        text = (await metrics.text())[1].decode()
        assert 'carrier_sessions_total{cluster="up",code="2xx",listener="in",rule="all"} 2.0' in text
        assert 'carrier_sessions_total{cluster="up",code="failed",listener="in",rule="all"}' in text


@pytest.mark.parametrize("again", [1, 3])
async def test_a_call_whose_answer_comes_at_once_is_told_and_counted_as_one_that_comes_in_pieces(again: int) -> None:
    begin, said, end = [(":status", "200"), ("content-type", "application/grpc")], b"\0\0\0\0\2hi", [("grpc-status", "0"), ("x-last", "2")]

    async def answer(peer: Peer2, number: int) -> None:
        await peer.until(lambda: peer.streams[number].ended, "the call")
        pieces = "x-pieces" in peer.streams[number].heads[0]
        peer.h2.send_headers(number, begin)
        for send in (lambda: peer.h2.send_data(number, said), lambda: peer.h2.send_headers(number, end, end_stream=True)):
            if pieces:
                peer.flush()
                await asyncio.sleep(0.02)
            send()
        peer.flush()

    async def serve(peer: Peer2) -> None:
        while True:
            await answer(peer, await peer.request())

    lines = Lines(Settings("-", headers=("te",)), lambda rule: "")
    async with Server2(serve) as server, to(server.port, http=2) as proxy, client2(port_of(proxy, "in")) as ours:
        ended: list[Any] = []
        proxy.env.read(ended.extend)
        for fields in [[], *[[]] * again, *[[("x-pieces", "1")]] * again]:
            call = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "5S"), *fields]
            number = ours.ask("/a.Service/Unary", "POST", call, end=False)
            ours.send(number, said, True)
            found = await ours.answer(number)
            assert (found.status, found.body, found.trailers) == (200, said, dict(end)) and not found.reset
        await wait_until(lambda: proxy.env.ledger.settle() or len(ended) == 1 + 2 * again, "for the calls to end")
        ended.pop(0)  # it waited for a connection
        assert [type(entry) for entry in ended] == [tuple] * again + [ReusedSession] * again
        told = [json.loads(line) for line in lines.json(ended).splitlines()]
        for line in told:
            del line["time"], line["id"], line["duration_us"]
            line["bytes_in"] -= len("x-pieces1") + 32 if line["bytes_in"] > told[0]["bytes_in"] else 0
        assert told == told[:1] * 2 * again
        assert told[0]["grpc"] == {"service": "a.Service", "method": "Unary", "status": "OK"}
        assert counted(proxy) == {("Unary", "OK"): 1 + 2 * again}
        text = (await Metrics(proxy).text())[1].decode()
        assert f'carrier_grpc_calls_total{{listener="in",method="Unary",service="a.Service",status="OK"}} {1 + 2 * again}.0' in text
        assert not next(iter(proxy.listeners["in"]._connections)).engine.streams


async def test_a_call_whose_answer_does_not_fit_the_callers_window_waits_for_it() -> None:
    async with grpc_server() as server, to(server, http=2) as proxy, client2(port_of(proxy, "in"), settings={4: 5}) as ours:
        number = ours.ask("/a.Service/Unary", "POST", [("content-type", "application/grpc"), ("te", "trailers")], end=False)
        ours.reads = False
        ours.send(number, b"\0\0\0\0\2hi", True)
        await ours.until(lambda: len(ours.streams[number].body) == 5, "what the window lets through")
        ours.h2.increment_flow_control_window(100, number)
        ours.flush()
        found = await ours.answer(number)
        assert found.body == b"\0\0\0\0\7echo hi" and found.trailers is not None and found.trailers["grpc-status"] == "0"


async def test_calls_are_counted_on_when_a_listener_is_replaced() -> None:
    async with grpc_server() as server, to(server, http=2) as proxy:
        async with channel(port_of(proxy, "in")) as ours:
            assert await ours.unary_unary("/a.Service/Unary")(b"hi") == b"echo hi"
        before = proxy.listeners["in"]
        conf = before.conf
        other = msgspec.structs.replace(conf, options={**conf.options, "answer_id": True})
        await proxy.apply(msgspec.structs.replace(proxy.config, listeners={"in": other}))
        assert proxy.listeners["in"] is not before and counted(proxy) == {("Unary", "OK"): 1}


async def test_a_matched_call_goes_to_the_laptop_and_to_the_shadow_while_that_is_down() -> None:
    match = {"matchHeader": {"name": "x-user", "value": "john"}}
    async with grpc_server() as shadow:
        conf = config(
            clusters=[
                {"name": name, "spec": {"protocol": "auto", "port": port}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
                for name, port in (("shadow", shadow), ("laptop", 1))
            ],
            listeners=[
                {
                    "name": "in",
                    "spec": {"protocol": "auto", "port": 0, "address": "127.0.0.1"},
                    "rules": [
                        {"name": "john", "match": match, "action": {"route": {"destination": "laptop", "fallback": "shadow"}}},
                        {"name": "all", "action": {"route": {"destination": "shadow"}}},
                    ],
                }
            ],
        )
        async with running(conf) as proxy, channel(port_of(proxy, "in")) as ours:
            call = ours.unary_unary("/a.Service/Unary")(b"hi", metadata=(("x-user", "john"),))
            assert await call == b"echo hi"
            assert ("x-carrier-fallback", "refused") in tuple(await call.initial_metadata())
            assert proxy.hits["john"].count == 1


async def test_a_head_that_is_too_large_is_resource_exhausted() -> None:
    async with grpc_server() as server, to(server, http=2, listener={"max_head": 2000}) as proxy, channel(port_of(proxy, "in")) as ours:
        code, details = await failure(ours.unary_unary("/a.Service/Unary")(b"", metadata=(("x-long", "x" * 3000),)))
        assert code == "RESOURCE_EXHAUSTED" and "field section" in details


async def test_a_bridge_speaks_the_version_of_the_shadows_cluster() -> None:
    class Laptop(Echo):
        async def unary(self, request: bytes, context: Any) -> bytes:
            return b"laptop"

    body = {"listener": "in", "user": "john", "match": {"matchHeader": {"name": "x-user", "value": "john"}}}
    async with grpc_server() as shadow, grpc_server(Laptop()) as laptop, to(shadow, http=2) as proxy, channel(port_of(proxy, "in")) as ours:
        await proxy.apply(Bridges().put(proxy.config, "john", {**body, "endpoint": f"127.0.0.1:{laptop}"}))
        call = ours.unary_unary("/a.Service/Unary")
        assert await call(b"hi", metadata=(("x-user", "john"),)) == b"laptop"
        assert await call(b"hi") == b"echo hi"
        own = {"address": "127.0.0.1", "port": laptop, "http": 1}
        await proxy.apply(Bridges().put(proxy.config, "john", {**body, "endpoint": own}))
        assert (await failure(call(b"hi", metadata=(("x-user", "john"),))))[0] == "UNIMPLEMENTED"


@pytest.mark.parametrize(("code", "status"), [(8, "CANCELLED"), (11, "RESOURCE_EXHAUSTED"), (12, "PERMISSION_DENIED"), (2, "INTERNAL")])
async def test_a_server_that_resets_a_call_is_what_its_caller_would_have_heard(code: int, status: str) -> None:
    async def serve(peer: Peer2) -> None:
        while True:
            peer.reset(await peer.request(), code)

    async with Server2(serve) as server, to(server.port, http=2) as proxy, channel(port_of(proxy, "in")) as ours:
        found, details = await failure(ours.unary_unary("/a.Service/Unary")(b""))
        assert found == status and "RST_STREAM" in details
