"""Spans as a collector gets them: real protobuf over real HTTP, from requests through a real proxy; and a collector that is no good."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from carrier.config.traces import Settings
from carrier.core.ledger import Ledger
from carrier.core.trace import Tracer
from carrier.observe.spans import Spans
from tests.carrier.observe.test_access import OK, request
from tests.conversation import Stage
from tests.e2e.test_grpc import channel, failure, grpc_server
from tests.e2e.test_h2 import to
from tests.otlp import Receiver, receiver, said
from tests.support import port_of, wait_until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"traceparent: 00-{TRACE}-{SPAN}-01"
SERVER, CLIENT, ERROR = 2, 3, 2


@contextlib.asynccontextmanager
async def traced(env: Any, url: str, ratio: float = 1.0, **more: Any) -> AsyncIterator[Spans]:
    """Requests are traced meanwhile; on leaving, all spans are sent."""
    told: list[Any] = []
    spans = Spans(
        Settings(url, ratio, **more), env.loop, lambda rule: "john" if rule == "all" else "", say=lambda *a, **k: told.append((a, k))
    )
    spans.said = told  # type: ignore[attr-defined]
    env.ledger = env.ledger or Ledger(env.loop)
    env.ledger.readers.append(spans.read)
    env.tracer = Tracer(ratio)
    try:
        yield spans
    finally:
        env.tracer = None
        env.ledger.settle()
        await asyncio.to_thread(spans.close, 20.0)


def parent_of(head: bytes) -> bytes:
    """What the upstream got as traceparent."""
    (line,) = [line for line in head.split(b"\r\n") if line.lower().startswith(b"traceparent:")]
    return line.partition(b": ")[2]


async def ask(stage: Stage, more: str, answer: bytes = OK) -> bytes:
    """One request; the head that the upstream got."""
    client, server, head = await stage.both(f"GET /a?b=1 HTTP/1.1\r\nhost: shop:8080\r\nuser-agent: test\r\n{more}\r\n".encode())
    await server.says(answer)
    await client.head()
    client.goes()
    server.goes()
    return head


async def test_a_request_is_a_span_below_its_callers_and_its_attempt_is_one_below_that() -> None:
    with receiver() as collector:
        async with Stage() as stage, traced(stage.proxy.env, collector.url, 0, service="edge", headers={"authorization": "Bearer x"}):
            head = await ask(stage, f"{PARENT}\r\ntracestate: x=1\r\n")
        version, trace, span, flags = parent_of(head).decode().split("-")
        assert (version, trace, flags) == ("00", TRACE, "01") and span != SPAN and b"tracestate: x=1" in head
        (server,) = [found for found in collector.spans if found.kind == SERVER]
        (client,) = [found for found in collector.spans if found.kind == CLIENT]
    assert server.trace_id.hex() == client.trace_id.hex() == TRACE and server.trace_state == "x=1"
    assert server.parent_span_id.hex() == SPAN and client.parent_span_id == server.span_id and client.span_id.hex() == span
    assert server.name == "GET all" and server.start_time_unix_nano <= client.start_time_unix_nano <= client.end_time_unix_nano
    assert abs(server.end_time_unix_nano / 1e9 - time.time()) < 10
    found = said(server)
    wanted = {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.path": "/a",
        "url.query": "b=1",
        "url.scheme": "http",
        "server.address": "shop",
        "server.port": 8080,
        "network.protocol.version": "1.1",
        "user_agent.original": "test",
        "client.address": "127.0.0.1",
        "carrier.rule": "all",
        "carrier.user": "john",
        "carrier.cluster": "up",
        "carrier.listener": "front",
        "carrier.why": "rule all: anything",
    }
    assert wanted.items() <= found.items() and server.status.code == 0
    assert said(client)["server.port"] == stage.backend_port and said(client)["http.response.status_code"] == 200
    assert collector.resource["service.name"] == "edge" and collector.fields["authorization"] == "Bearer x"
    assert collector.path == "/v1/traces"


async def test_without_a_sampled_parent_nothing_is_touched_and_nothing_is_told() -> None:
    with receiver() as collector:
        async with Stage() as stage, traced(stage.proxy.env, collector.url, 1) as spans:
            theirs = PARENT[:-2] + "00"
            head = await ask(stage, f"{theirs}\r\n")
            assert parent_of(head).decode() == theirs.partition(": ")[2]
        assert spans.sent == spans.dropped == spans.failed == 0 and collector.calls == 0


async def test_of_requests_without_a_parent_the_ratio_decides_and_a_bad_parent_begins_anew() -> None:
    with receiver() as collector:
        async with Stage() as stage, traced(stage.proxy.env, collector.url, 1):
            fresh = parent_of(await ask(stage, ""))
            anew = parent_of(await ask(stage, "traceparent: 00-nonsense-01\r\ntracestate: x=1\r\n"))
            stage.proxy.env.tracer = Tracer(0)
            assert b"traceparent" not in await ask(stage, "")
        assert len(collector.spans) == 4
        roots = [span for span in collector.spans if span.kind == SERVER]
        assert {root.trace_id.hex() for root in roots} == {fresh[3:35].decode(), anew[3:35].decode()}
        assert not any(root.parent_span_id or root.trace_state for root in roots)


async def test_an_attempt_that_fails_and_the_fallback_have_spans_of_their_own() -> None:
    with receiver() as collector:
        from carrier import model as c

        fallback = {"shadow": c.Cluster("shadow", {"protocol": "Answer", "status": 203}, ())}
        async with Stage(fallback="shadow", clusters=fallback) as stage, traced(stage.proxy.env, collector.url, 1):
            stage.shuts()
            await request(stage, "GET / HTTP/1.1\nhost: a", None)
        server, attempt = sorted(collector.spans, key=lambda span: span.kind)
    assert said(server)["carrier.fallback"] == "refused" and said(server)["http.response.status_code"] == 203
    assert attempt.status.code == ERROR and said(attempt)["error.type"] == "refused" and attempt.parent_span_id == server.span_id


async def test_an_answer_that_is_asked_again_is_one_attempt_of_two() -> None:
    with receiver() as collector:
        options = {"route": {"retry_statuses": [503]}, "retry": {"retry_on": "always", "num_retries": 1}}
        async with Stage(**options) as stage, traced(stage.proxy.env, collector.url, 1):  # type: ignore[arg-type]
            client, server, first = await stage.both(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            await server.says(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
            server = await stage.server()
            second = await server.head()
            await server.says(OK)
            await client.head()
            client.goes()
            server.goes()
        attempts = sorted((span for span in collector.spans if span.kind == CLIENT), key=lambda span: span.start_time_unix_nano)
    assert [said(span)["http.response.status_code"] for span in attempts] == [503, 200]
    assert said(attempts[1])["http.request.resend_count"] == 1
    assert [parent_of(head)[36:52].decode() for head in (first, second)] == [span.span_id.hex() for span in attempts]


async def test_a_call_of_grpc_says_service_method_and_status() -> None:
    with receiver() as collector:
        async with (
            grpc_server() as server,
            to(server, http=2) as proxy,
            traced(proxy.env, collector.url, 1),
            channel(port_of(proxy, "in")) as ours,
        ):
            assert await ours.unary_unary("/a.Service/Unary")(b"x") == b"echo x"
            assert (await failure(ours.unary_unary("/a.Service/Fail")(b"")))[0] == "FAILED_PRECONDITION"
        (good,) = [span for span in collector.named("a.Service/Unary") if span.kind == SERVER]
        (bad,) = [span for span in collector.named("a.Service/Fail") if span.kind == SERVER]
    assert said(good)["rpc.system"] == "grpc" and said(good)["rpc.grpc.status_code"] == 0 and said(good)["network.protocol.version"] == "2"
    assert (said(bad)["rpc.service"], said(bad)["rpc.method"], said(bad)["rpc.grpc.status_code"]) == ("a.Service", "Fail", 9)


async def test_what_finds_no_room_is_dropped_and_counted() -> None:
    with receiver() as collector:
        async with Stage() as stage, traced(stage.proxy.env, collector.url, 1, queue=2) as spans:
            for _ in range(3):
                await ask(stage, "")
            stage.proxy.env.ledger.settle()  # type: ignore[union-attr]
            assert spans.dropped == 4
        assert spans.sent == 2 == len(collector.spans)


async def refused_by(collector: Receiver, **more: Any) -> tuple[Any, float]:
    """A request whose spans nobody takes: who sends them, and seconds that the end took."""
    async with Stage() as stage, traced(stage.proxy.env, collector.url, 1, **more) as spans:
        await ask(stage, "")
        stage.proxy.env.ledger.settle()  # type: ignore[union-attr]
        spans._send()
        await wait_until(lambda: collector.calls, "for the collector to be asked")
        began = time.monotonic()
        await ask(stage, "")
        assert time.monotonic() - began < 1
        if not collector.silent.is_set():
            await wait_until(lambda: spans.failed >= 2, "for spans to fail")
            await wait_until(lambda: spans.said, "for the trouble to be said")  # type: ignore[attr-defined]
        began = time.monotonic()
        await asyncio.to_thread(spans.close, 0.3)
        return spans, time.monotonic() - began


async def test_a_collector_that_refuses_costs_its_spans_and_is_told_once() -> None:
    with receiver() as collector:
        collector.status = 400
        spans, _ = await refused_by(collector)
    assert spans.failed >= 2 and spans.sent == 0
    ((event,), values) = spans.said[0]
    assert event == "spans are lost" and values["collector"] == collector.url and values["reason"]


async def test_a_collector_that_is_silent_holds_nobody_up() -> None:
    with receiver() as collector:
        collector.silent.set()
        spans, took = await refused_by(collector, timeout=30)
        assert took < 2 and spans.sent == 0


async def test_a_collector_that_is_not_there_is_no_trouble_of_the_proxys(capsys: pytest.CaptureFixture[str]) -> None:
    async with Stage() as stage, traced(stage.proxy.env, "http://127.0.0.1:9", 1, timeout=0.2) as spans:
        await ask(stage, "")
    assert spans.failed == 2 and spans.trouble and capsys.readouterr().err == ""
