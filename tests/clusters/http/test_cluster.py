"""The HTTP cluster behind a real proxy: the bound of its connections, retries by status, probes, options."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace

import pytest

from carrier import model as c
from clusters.http import h1
from clusters.http.cluster import HttpCluster
from clusters.http.exchange import keeps
from clusters.http.h2_pool import SharedEndpoint
from tests.conversation import Stage
from tests.e2e.test_h2 import to
from tests.e2e.test_http_bodies import GET, OK, answered
from tests.pki import Pki, pki
from tests.support import http, port_of

__all__ = ["pki"]

BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy"
NO_BODY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


async def test_requests_beyond_the_bound_wait_for_a_connection_to_come_free() -> None:
    async with Stage(cluster={"max_per_endpoint": 1}) as stage:
        first, server, _ = await stage.both(GET)
        second = await stage.client()
        await second.says(GET)
        assert await server.silent(0.05) and stage.accepted.empty()
        await server.says(OK)
        assert (await answered(first))[1] == b"ok"
        await server.head()
        await server.says(OK)
        assert (await answered(second))[1] == b"ok"
        assert stage.cluster.pools[stage.cluster.endpoints[0]].open == 1


@pytest.mark.parametrize("lost", [True, False])
async def test_a_host_that_acknowledges_nothing_is_not_waited_for_until_the_answers_time_is_over(
    monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    monkeypatch.setattr(h1, "UNACKNOWLEDGED", 2.5)
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        (upstream,) = stage.cluster.shared.busy
        monkeypatch.setattr(h1, "quiet_since", lambda sock, before, now: (before or now) if lost else 0.0)
        began = stage.cluster.shared.now
        for second in range(1, 8):
            stage.cluster.tick(began + second)
        if lost:
            head, body = await answered(client)
            assert head.startswith(b"HTTP/1.1 504 ") and b"its host has acknowledged nothing for 2.5 s" in body
        else:
            assert upstream.session is not None
            await server.says(OK)
            await answered(client)


async def test_a_server_at_a_breakpoint_that_reads_nothing_is_waited_for() -> None:
    """Its host acknowledges, and answers each probe of the closed window. TCP_USER_TIMEOUT, which was 10 s, takes that for silence."""
    async with Stage() as stage:
        head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8000000\r\n\r\n"
        client, _, _ = await stage.both(head)
        upload = asyncio.ensure_future(client.says(b"x" * 8_000_000))
        await asyncio.sleep(0.5)  # the window is closed
        (upstream,) = stage.cluster.shared.busy
        sock = upstream.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
        began = stage.cluster.shared.now
        for second in range(1, 40):
            stage.cluster.tick(began + second)
            await asyncio.sleep(0.02)
        assert upstream.session is not None
        upload.cancel()


async def test_a_full_queue_is_503_at_once() -> None:
    async with Stage(cluster={"max_per_endpoint": 1, "max_waiting": 1}) as stage:
        first, server, _ = await stage.both(GET)
        second, third = await stage.client(), await stage.client()
        await second.says(GET)
        await stage.becomes(lambda: len(stage.listener.live) == 2)
        await asyncio.sleep(0.02)
        await third.says(GET)
        head, body = await answered(third)
        assert head.startswith(b"HTTP/1.1 503 ") and b"retry-after" in head and b"max_waiting" in body
        server.goes()
        await answered(first)
        await (await stage.server()).head()


async def test_a_client_that_leaves_the_queue_is_forgotten() -> None:
    async with Stage(cluster={"max_per_endpoint": 1}) as stage:
        first, server, _ = await stage.both(GET)
        second = await stage.client()
        await second.says(GET)
        await stage.becomes(lambda: len(stage.listener.live) == 2)
        second.breaks()
        await stage.becomes(lambda: len(stage.listener.live) == 1)
        await server.says(OK)
        assert (await answered(first))[1] == b"ok"
        pool = stage.cluster.pools[stage.cluster.endpoints[0]]
        assert not pool.waiting and pool.opening == 0 and len(stage.cluster.endpoints[0].idle) == 1


@pytest.mark.parametrize("idle_timeout", [55, 0])
@pytest.mark.parametrize(("said", "kept"), [(b"keep-alive: timeout=5, max=100\r\n", 2.5), (b"keep-alive: max=3\r\n", 50), (b"", 50)])
async def test_an_idle_connection_is_given_up_before_its_server_would(said: bytes, kept: float, idle_timeout: float) -> None:
    """A request that meets the server's end halfway is lost, unless it may be sent again."""
    async with Stage(cluster={"idle_timeout": idle_timeout}) as stage:
        client, server, _ = await stage.both(GET)
        await server.says(OK.replace(b"\r\n", b"\r\n" + said, 1))
        await answered(client)
        began = stage.cluster.shared.now
        stage.cluster.tick(began + kept)
        assert await server.silent(0.02)
        if kept < 5 or idle_timeout:
            stage.cluster.tick(began + kept + 6)
            assert await server.closed()


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        (b"timeout=5", 5),
        (b"max=2, Timeout = 72", 72),
        (b'timeout="9"', 9),
        (b"timeout=5s", 5),
        (b"notimeout=5", 0),
        (b"timeout=12345678", 0),
        (None, 0),
    ],
)
def test_a_keep_alive_field_tells_its_seconds(field: bytes | None, seconds: int) -> None:
    assert keeps(field) == seconds


async def test_connections_beyond_max_idle_close() -> None:
    async with Stage(cluster={"max_idle": 1}) as stage:
        first, server1, _ = await stage.both(GET)
        second, server2, _ = await stage.both(GET)
        await server1.says(OK)
        await answered(first)
        await server2.says(OK)
        await answered(second)
        assert await server2.closed() and await server1.silent(0.02)


async def test_what_a_stale_connection_has_cost_is_sent_again_on_a_new_one_and_not_on_the_next_stale_one() -> None:
    async with Stage() as stage:
        first, idle, _ = await stage.both(GET)
        second, stale, _ = await stage.both(GET)
        for client, server in ((first, idle), (second, stale)):
            await server.says(OK)
            await answered(client)
        await first.says(GET)
        await stale.head()
        stale.goes()
        anew = await stage.server()
        await anew.head()
        await anew.says(OK)
        assert (await answered(first))[1] == b"ok"
        assert await idle.silent(0.02)


async def test_it_is_sent_again_on_a_new_one_also_where_it_has_to_wait_for_another_to_come_free() -> None:
    async with Stage(cluster={"max_per_endpoint": 1}) as stage:
        first, stale, _ = await stage.both(GET)
        await stale.says(OK)
        await answered(first)
        await first.says(GET)
        await stale.head()
        second = await stage.client()
        await second.says(GET)
        await stage.becomes(lambda: len(stage.cluster.pools[stage.cluster.endpoints[0]].waiting) == 1)
        stale.goes()
        other = await stage.server()
        await other.head()
        await other.says(OK)
        assert (await answered(second))[1] == b"ok"
        anew = await stage.server()
        await anew.head()
        await anew.says(OK)
        assert (await answered(first))[1] == b"ok"
        assert await other.closed()


@pytest.mark.parametrize("answer", [BUSY, NO_BODY])
async def test_a_status_that_the_route_retries_is_asked_for_again(answer: bytes) -> None:
    async with Stage(route={"retry_statuses": [503]}, retry={"num_retries": 2}) as stage:
        client, server, _ = await stage.both(GET)
        await server.says(answer)
        server = await stage.server()
        await server.head()
        await server.says(OK)
        assert (await answered(client))[1] == b"ok"
        await client.says(GET)
        await server.head()
        for _ in range(2):
            await server.says(answer)
            server = await stage.server()
            await server.head()
        await server.says(answer)
        assert (await answered(client))[0].startswith(b"HTTP/1.1 503 ")


async def test_a_refused_connection_is_tried_again_when_the_route_says_so_also_with_a_body() -> None:
    async with Stage(retry={"retry_on": "connect-failure", "num_retries": 20, "timeout": 50}) as stage:
        stage.shuts()
        client = await stage.client()
        await client.says(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello")
        await stage.becomes(lambda: any(session.retries for session in stage.listener.live))
        await stage.opens()
        server = await stage.server()
        await server.head()
        assert await server.hears(5) == b"hello"
        await server.says(OK)
        assert (await answered(client))[1] == b"ok"


async def test_a_post_is_not_asked_again_whatever_its_status() -> None:
    async with Stage(route={"retry_statuses": [503]}) as stage:
        client, server, _ = await stage.both(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
        await server.says(BUSY)
        assert (await answered(client))[1] == b"busy" and stage.accepted.empty()


async def test_a_status_is_retried_on_another_endpoint() -> None:
    async with Stage() as other:
        endpoints = (c.EndPoint("a", {"address": "127.0.0.1"}), c.EndPoint("b", {"address": "127.0.0.1", "port": other.backend_port}))
        async with Stage(route={"retry_statuses": [503]}) as stage:
            two = c.Cluster("up", {"protocol": "HTTP", "port": stage.backend_port}, endpoints)
            await stage.proxy.apply(stage.config(clusters={"up": two}, listeners=stage.proxy.config.listeners))
            client, server, _ = await stage.both(GET)
            await server.says(BUSY)
            second = await other.server()
            await second.head()
            await second.says(OK)
            assert (await answered(client))[1] == b"ok"


async def test_an_endpoint_that_cannot_be_connected_to_is_replaced_and_goes_down() -> None:
    async with Stage() as good:
        endpoints = (c.EndPoint("a", {"address": "127.0.0.1"}), c.EndPoint("b", {"address": "127.0.0.1", "port": good.backend_port}))
        async with Stage() as stage:
            stage.shuts()
            options = {"health": {"failures": 2}, "max_idle": 0}
            two = c.Cluster("up", {"protocol": "HTTP", "port": stage.backend_port}, endpoints, options=options)
            await stage.proxy.apply(stage.config(clusters={"up": two}, listeners=stage.proxy.config.listeners))
            client = await stage.client()
            for _ in range(4):
                await client.says(GET)
                server = await good.server()
                await server.head()
                await server.says(OK)
                assert (await answered(client))[1] == b"ok"
            a, b = stage.cluster.endpoints
            assert (a.up, a.failed, b.up) == (False, 2, True)


async def test_when_all_is_down_the_fallback_serves_without_trying_until_a_probe_connects() -> None:
    async with Stage() as shadow:
        more = {
            "other": c.Cluster("other", {"protocol": "HTTP", "port": shadow.backend_port}, (c.EndPoint("o", {"address": "127.0.0.1"}),))
        }
        async with Stage(fallback="other", clusters=more, cluster={"health": {"failures": 1}}) as stage:
            stage.shuts()
            client = await stage.client()
            server = None
            for _ in range(2):  # the first one found out, the second was not tried
                await client.says(GET)
                server = server or await shadow.server()
                await server.head()
                await server.says(OK)
                assert b"x-carrier-fallback: refused" in (await answered(client))[0]
            assert stage.cluster.endpoints[0].failed == 1
            await stage.opens()
            stage.tick(2)
            await stage.becomes(lambda: not stage.cluster.down)
            await client.says(GET)
            own = await stage.server()  # the probe
            while b"GET" not in await own.reader.read(100):
                own = await stage.server()
            await own.says(OK)
            assert b"x-carrier-fallback" not in (await answered(client))[0]


async def test_an_http_probe_asks_for_its_path_and_wants_a_good_status() -> None:
    health = {"active": "HTTP", "path": "/healthz", "host": "app", "unhealthy": 1, "healthy": 1, "interval": 0}
    async with Stage(cluster={"health": health}) as stage:
        for later, status, up in ((1, b"500 No", False), (3, b"204 Fine", True), (5, b"HTTP", False)):
            stage.tick(later)
            server = await stage.server()
            assert (await server.head()).startswith(b"GET /healthz HTTP/1.1\r\nhost: app\r\n")
            await server.says(b"HTTP/1.1 " + status + b"\r\n\r\n")
            await stage.becomes(lambda up=up: stage.cluster.endpoints[0].up is up)


async def test_an_endpoint_that_is_removed_closes_its_connections_also_busy_ones_when_they_are_done() -> None:
    async with Stage() as stage:
        idle_client, idle, _ = await stage.both(GET)
        await idle.says(OK)
        await answered(idle_client)
        await idle_client.says(GET)
        await idle.head()
        client, busy, _ = await stage.both(GET)
        await idle.says(OK)
        await answered(idle_client)
        new = c.Cluster("up", {"protocol": "HTTP", "port": stage.backend_port}, (c.EndPoint("two", {"address": "localhost"}),))
        await stage.proxy.apply(stage.config(clusters={"up": new}, listeners=stage.proxy.config.listeners))
        assert await idle.closed()
        await busy.says(OK)
        assert (await answered(client))[1] == b"ok" and await busy.closed()


def test_options_are_checked() -> None:
    good = {
        "max_idle": 1,
        "max_per_endpoint": 2,
        "max_waiting": 3,
        "max_connections": 4,
        "answer_timeout": 0.5,
        "health": {"active": "TCP"},
    }
    assert HttpCluster.check_options(good, "options") == []
    for bad in ({"max_idle": "x"}, {"idle": 3}, {"health": {"active": "PING"}}, {"health": None}):
        (problem,) = HttpCluster.check_options(bad, "options")
        assert problem.path.startswith("options.")


def test_streams_of_one_connection_count_as_one_connection() -> None:
    endpoint = SharedEndpoint("e", "127.0.0.1", 1, 1)
    endpoint.active = 4
    assert endpoint.connections == 4
    connection = SimpleNamespace(engine=SimpleNamespace(streams={1: None, 3: None, 5: None}))
    endpoint.pool = SimpleNamespace(connections=[connection])  # type: ignore[assignment]
    endpoint.idle.append(None)
    assert endpoint.connections == 3, "one of HTTP/2, one of HTTP/1.1 that is in use, and one that is idle"


async def test_a_server_of_tls_is_told_the_end_of_each_connection(pki: Pki) -> None:
    """OpenSSL takes an end without close_notify for an attack, and servers log it as an error."""
    told: list[object] = []

    def serve(listening: socket.socket) -> None:
        sock = pki.server().wrap_socket(listening.accept()[0], server_side=True, suppress_ragged_eofs=False)
        with sock:
            while b"\r\n\r\n" not in sock.recv(65536):
                pass
            sock.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")
            try:
                told.append(sock.recv(1))
            except OSError as exc:
                told.append(exc)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.ensure_future(asyncio.to_thread(serve, listening))
        async with to(listening.getsockname()[1], tls={"ca": pki.ca, "sni": "localhost"}) as proxy:
            assert (await http(port_of(proxy, "in")))[2] == b"ok"
            await asyncio.wait_for(serving, 5)
    assert told == [b""]
