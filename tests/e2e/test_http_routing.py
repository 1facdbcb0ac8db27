"""HTTP/1.1 through a real proxy: where requests go, what is changed on the way, and what is said when it fails."""

from __future__ import annotations

import asyncio
import json

import pytest

from carrier import model
from tests.conversation import Peer, Stage
from tests.e2e.test_http_bodies import GET, OK, answered

HEADER = {"matchHeader": {"name": "x-user", "value": "me"}}


def endpoint(port: int) -> model.Cluster:
    return model.Cluster("other", {"protocol": "HTTP", "port": port}, (model.EndPoint("o", {"address": "127.0.0.1"}),))


async def asks(stage: Stage, request: bytes = GET) -> tuple[Peer, bytes, bytes]:
    client = await stage.client()
    await client.says(request)
    return client, *await answered(client)


# ------------------------------------------------------------------ statuses


async def test_a_request_that_no_rule_takes_is_404_in_l7mp_s_words() -> None:
    async with Stage(catch_all=False) as stage:
        client, head, body = await asks(stage)
        said = json.loads(body)
        assert head.startswith(b"HTTP/1.1 404 Not Found\r\n") and said["status"] == 404 and "No route for session" in said["content"]
        assert "HTTP:127.0.0.1:" in said["content"]
        await client.says(GET)
        assert (await answered(client))[0].startswith(b"HTTP/1.1 404 ")


async def test_the_body_of_a_request_that_no_rule_takes_is_dropped_and_the_connection_kept() -> None:
    async with Stage(catch_all=False) as stage:
        client, head, _ = await asks(stage, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello" + GET)
        assert head.startswith(b"HTTP/1.1 404 ")
        assert (await answered(client))[0].startswith(b"HTTP/1.1 404 ")


async def test_a_refused_connection_is_503_with_retry_after() -> None:
    async with Stage() as stage:
        stage.shuts()
        client, head, _body = await asks(stage)
        assert head.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1" in head and b"refused" in head
        await client.says(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello")
        assert (await answered(client))[0].startswith(b"HTTP/1.1 503 ")


async def test_a_cluster_without_endpoints_is_503() -> None:
    empty = {"none": model.Cluster("none", {"protocol": "HTTP", "port": 1})}
    async with Stage(rules=((None, "none", ()),), clusters=empty) as stage:
        _, head, _ = await asks(stage)
        assert head.startswith(b"HTTP/1.1 503 ") and b"no-endpoint" in head


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/2 200\r\n\r\n",
    ],
)
async def test_a_bad_answer_is_502_and_its_connection_never_used_again(answer: bytes) -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        await server.says(answer)
        assert (await answered(client))[0].startswith(b"HTTP/1.1 502 ")
        assert await server.closed()
        await client.says(GET)
        server = await stage.server()
        await server.head()
        await server.says(OK)
        assert (await answered(client))[1] == b"ok"


async def test_a_server_that_speaks_first_is_502_and_does_not_hang() -> None:
    async with Stage() as stage:
        client = await stage.client()
        await client.says(GET)
        server = await stage.server()
        await server.says(b"220 mail ready\r\n")
        assert (await answered(client))[0][9:12] in (b"502", b"503")


async def test_bytes_after_an_answer_end_the_idle_connection() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        await server.says(OK)
        await answered(client)
        await server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
        assert await server.closed()
        await client.says(GET)
        assert (await (await stage.server()).head()).startswith(b"GET")


@pytest.mark.parametrize("how", ["goes", "breaks"])
async def test_a_server_that_closes_before_it_answers_is_502(how: str) -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        getattr(server, how)()
        assert (await answered(client))[0].startswith(b"HTTP/1.1 502 ")


async def test_no_answer_in_time_is_504() -> None:
    async with Stage(cluster={"answer_timeout": 5}) as stage:
        client, server, _ = await stage.both(GET)
        stage.tick(4)
        assert await client.silent(0.05)
        stage.tick(6)
        assert (await answered(client))[0].startswith(b"HTTP/1.1 504 ")
        assert await server.closed()


# ------------------------------------------------------------------ stale connections


async def stale(stage: Stage, request: bytes) -> tuple[Peer, Peer]:
    """A client whose `request` meets a kept connection that the server closes at that moment."""
    client, server, _ = await stage.both(GET)
    await server.says(OK)
    await answered(client)
    await client.says(request)
    await server.head()
    server.breaks()
    return client, server


async def test_a_safe_request_on_a_stale_connection_is_repeated_once() -> None:
    async with Stage() as stage:
        client, _ = await stale(stage, GET)
        server = await stage.server()
        await server.head()
        await server.says(OK)
        assert (await answered(client))[1] == b"ok"
        await client.says(GET)
        await server.head()
        server.breaks()
        server = await stage.server()
        await server.head()
        server.breaks()
        assert (await answered(client))[0].startswith(b"HTTP/1.1 502 ")


async def test_a_post_on_a_stale_connection_is_not_repeated() -> None:
    async with Stage() as stage:
        client, _ = await stale(stage, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
        assert (await answered(client))[0].startswith(b"HTTP/1.1 502 ")
        assert stage.accepted.empty()


async def test_a_connection_that_the_server_has_closed_meanwhile_is_not_used() -> None:
    async with Stage() as stage:
        client, server, _ = await stage.both(GET)
        await server.says(OK)
        await answered(client)
        server.goes()
        await stage.becomes(lambda: not stage.cluster.endpoints[0].idle)
        await client.says(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
        server = await stage.server()
        assert (await server.head()).startswith(b"POST ")
        await server.says(OK)
        await answered(client)


# ------------------------------------------------------------------ fallback and changed rules


async def test_the_fallback_serves_and_says_so_when_the_destination_refuses() -> None:
    async with Stage() as shadow:
        more = {"other": endpoint(shadow.backend_port)}
        async with Stage(fallback="other", clusters=more) as stage:
            stage.shuts()
            client = await stage.client()
            await client.says(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello")
            server = await shadow.server()
            await server.head()
            assert await server.hears(5) == b"hello"
            await server.says(OK)
            head, body = await answered(client)
            assert b"x-carrier-fallback: refused\r\n" in head and body == b"ok"


async def test_the_fallback_does_not_serve_what_the_destination_has_seen_and_may_have_done() -> None:
    async with Stage() as shadow, Stage(fallback="other", clusters={"other": endpoint(shadow.backend_port)}) as stage:
        client, server, _ = await stage.both(GET.replace(b"GET", b"DELETE"))
        server.goes()
        assert (await answered(client))[0].startswith(b"HTTP/1.1 502 ")
        assert shadow.accepted.empty()


async def test_changed_rules_decide_the_next_request_of_a_live_connection() -> None:
    async with Stage() as other, Stage(clusters={"other": endpoint(other.backend_port)}) as stage:
        request = GET.replace(b"\r\n\r\n", b"\r\nx-user: me\r\n\r\n")
        client, server, _ = await stage.both(request)
        with_rule = stage.config(
            rules={
                "all": model.Rule("all", None, model.Action(route="up")),
                "mine": model.Rule("mine", HEADER, model.Action(route="other")),
            },
            rulelists={"rl": model.RuleList("rl", ("mine", "all"))},
            listeners=stage.proxy.config.listeners,
            clusters=stage.proxy.config.clusters,
        )
        await stage.proxy.apply(with_rule)
        await server.says(OK)
        await answered(client)  # the request that was under way keeps its route
        await client.says(request)
        mine = await other.server()
        assert b"x-user: me" in await mine.head()
        await mine.says(OK)
        await answered(client)
        await stage.proxy.apply(stage.config(clusters=stage.proxy.config.clusters, listeners=stage.proxy.config.listeners))
        await client.says(request)
        assert b"x-user: me" in await server.head()
        await server.says(OK)
        await answered(client)
        assert await mine.silent()
        client.goes()


async def test_a_removed_listener_closes_idle_connections_and_finishes_busy_ones() -> None:
    async with Stage() as stage:
        idle = await stage.client()
        listener = stage.listener
        client, server, _ = await stage.both(GET)
        await stage.becomes(lambda: len(listener.connections) == 2)  # type: ignore[attr-defined]
        await stage.proxy.apply(stage.config(listeners={}))
        assert await idle.closed()
        await server.says(OK)
        head, body = await answered(client)
        assert b"connection: close" in head and body == b"ok"
        assert await client.closed()
        await stage.becomes(lambda: not listener.live and not listener.connections)  # type: ignore[attr-defined]
        stage.proxy.listeners["front"] = listener


# ------------------------------------------------------------------ limits


DONE = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


async def test_connections_beyond_the_limit_get_503_while_all_the_others_are_used() -> None:
    async with Stage(listener={"max_connections": 2}) as stage:
        kept = [await stage.client() for _ in range(2)]
        for busy in kept:
            await busy.says(GET)
        servers = [await stage.server() for _ in kept]
        client = await stage.client()
        head, body = await answered(client)
        assert head.startswith(b"HTTP/1.1 503 ") and b"max_connections" in body
        assert await client.closed()
        for server in servers:
            await server.head()
            await server.says(DONE)
        for busy in kept:
            await answered(busy)
        assert stage.listener.limited == {"max_connections": 1, "overload": 1}  # type: ignore[attr-defined]


async def ask(stage: Stage, client: Peer) -> None:
    """A request and its answer, each on a connection of its own to the server."""
    await client.says(GET)
    server = await stage.server()
    await server.head()
    await server.says(DONE)
    await answered(client)


async def test_who_has_finished_no_head_for_longest_makes_room_in_a_full_listener() -> None:
    """As nginx does with idle connections: else whoever opens enough of them and says nothing keeps everybody else out."""
    async with Stage(listener={"max_connections": 3}) as stage:
        used, idle, slow = [await stage.client() for _ in range(3)]
        await used.says(GET)
        served = await stage.server()
        await ask(stage, idle)
        await slow.says(b"GET /slow HTTP/1.1\r\nhost:")
        connections = stage.listener.connections  # type: ignore[attr-defined]
        await stage.becomes(lambda: any(c.reader.pending for c in connections))
        for connection in connections:
            connection.since -= 2
        for leaver in (slow, idle):
            await ask(stage, await stage.client())
            said = await leaver.rest()
            assert said.startswith(b"HTTP/1.1 503 ") and b"its place was needed" in said if leaver is slow else said == b""
        assert len(connections) == 3
        assert stage.listener.limited == {"max_connections_unfinished": 1, "overload": 1, "max_connections_idle": 1}  # type: ignore[attr-defined]
        await served.says(DONE)
        await answered(used)


async def test_a_head_that_does_not_come_in_time_is_408() -> None:
    async with Stage(listener={"header_timeout": 3}) as stage:
        client = await stage.client()
        await client.says(b"GET / HTTP/1.1\r\nhost: a\r\nx-1:")
        await stage.becomes(lambda: any(k.reader.pending for k in stage.listener.connections))  # type: ignore[attr-defined]
        stage.tick(2)
        assert await client.silent(0.02)
        stage.tick(4)
        head, body = await answered(client)
        assert head.startswith(b"HTTP/1.1 408 ") and b"connection: close" in head and b"3 s" in body
        assert await client.closed()
        assert stage.listener.limited["header_timeout"] == 1  # type: ignore[attr-defined]


async def test_a_connection_that_never_says_a_word_is_closed_silently() -> None:
    async with Stage(listener={"header_timeout": 3}) as stage:
        client = await stage.client()
        await stage.becomes(lambda: stage.listener.connections)  # type: ignore[attr-defined]
        stage.tick(4)
        assert await client.closed()


async def test_an_idle_connection_is_closed_after_the_keepalive_timeout() -> None:
    async with Stage(listener={"keepalive_timeout": 20}, cluster={"idle_timeout": 30}) as stage:
        client, server, _ = await stage.both(GET)
        await server.says(OK)
        await answered(client)
        stage.tick(19)
        assert await client.silent(0.02)
        stage.tick(21)
        assert await client.closed() and await server.silent(0.02)
        stage.tick(31)
        assert await server.closed()


def asleep(stage: Stage) -> bool:
    (connection,) = stage.listener.connections  # type: ignore[attr-defined]
    return bool(connection.asleep)


async def test_who_says_nothing_sleeps_until_its_keepalive_is_over_and_is_served_like_everybody() -> None:
    async with Stage(listener={"keepalive_timeout": 60, "body_grace": 5, "body_min_rate": 100}, cluster={"idle_timeout": 0}) as stage:
        client, server, _ = await stage.both(GET)
        await server.says(OK)
        await answered(client)
        for at, request in ((10, GET), (20, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi")):
            stage.tick(at)
            assert asleep(stage)
            await client.says(request)
            assert (await server.head()).startswith(request[:4])
            if request is not GET:
                assert await server.hears(2) == b"hi"
            await server.says(OK)
            await answered(client)
            assert not asleep(stage)
        stage.tick(30)
        assert asleep(stage)
        await client.says(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5000\r\n\r\n")  # its deadlines hold, too
        await server.head()
        stage.tick(31)
        stage.tick(37)
        assert (await answered(client))[0].startswith(b"HTTP/1.1 408 ")


async def test_who_sleeps_goes_when_its_keepalive_is_over() -> None:
    async with Stage(listener={"keepalive_timeout": 20}, cluster={"idle_timeout": 0}) as stage:
        client, server, _ = await stage.both(GET)
        await server.says(OK)
        await answered(client)
        stage.tick(5)
        assert asleep(stage)
        stage.tick(19)
        assert asleep(stage) and await client.silent(0.02)
        stage.tick(22)
        assert await client.closed()


@pytest.mark.parametrize("what", ["farewell", "stop"])
async def test_who_sleeps_leaves_with_the_others(what: str) -> None:
    async with Stage(listener={"keepalive_timeout": 0}, cluster={"idle_timeout": 0}) as stage:
        client, server, _ = await stage.both(GET)
        await server.says(OK)
        await answered(client)
        stage.tick(5)
        assert asleep(stage)
        getattr(stage.listener, what)()
        for at in (6, 9, 12):
            stage.tick(at)
        assert await client.closed()


async def test_a_body_that_drips_is_cut_with_408_after_its_grace() -> None:
    async with Stage(listener={"body_grace": 5, "body_min_rate": 100}) as stage:
        client, server, _ = await stage.both(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5000\r\n\r\n" + b"x" * 300)
        assert len(await server.hears(300)) == 300
        stage.tick(7.5)  # 300 bytes are enough for 3 s after the grace
        assert await client.silent(0.02)
        stage.tick(9.5)
        assert (await answered(client))[0].startswith(b"HTTP/1.1 408 ")
        assert await client.closed() and await server.closed()


async def test_a_request_on_which_nothing_moves_is_504_or_cut() -> None:
    async with Stage(listener={"idle_timeout": 20}, cluster={"answer_timeout": 0}) as stage:
        client, server, _ = await stage.both(GET)
        stage.tick(0)
        stage.tick(21)
        assert (await answered(client))[0].startswith(b"HTTP/1.1 504 ")
        assert await server.closed()
        await client.says(GET)
        server = await stage.server()
        await server.head()
        await server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await client.head()
        stage.tick(40)
        stage.tick(61)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.hears(100)


@pytest.mark.parametrize(
    ("option", "request_", "status"),
    [
        ({"max_line": 100}, b"GET /" + b"x" * 200 + b" HTTP/1.1\r\nhost: a\r\n\r\n", b"414"),
        ({"max_line": 100}, b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"x" * 200 + b"\r\n\r\n", b"431"),
        ({"max_head": 1000}, b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 300 + b"\r\n", b"431"),
        ({"max_fields": 5}, b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 6 + b"\r\n", b"431"),
        ({"max_body": 10}, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\n", b"413"),
        ({"max_body": 10}, b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n", b"413"),
    ],
)
async def test_what_is_too_large_is_refused_with_its_status_and_the_option_that_would_take_it(
    option: dict[str, int], request_: bytes, status: bytes
) -> None:
    async with Stage(listener=option) as stage:
        client, head, body = await asks(stage, request_)
        assert head[9:12] == status and b"connection: close" in head
        assert f"(options.{next(iter(option))})".encode() in body
        assert await client.closed()


async def test_targets_as_sloppy_clients_write_them_pass_where_the_listener_allows_it() -> None:
    sloppy = b'GET /a|b?q={"c":`d^e`} HTTP/1.1\r\nhost: a\r\n\r\n'
    async with Stage() as stage:
        _, head, _ = await asks(stage, sloppy)
        assert head.startswith(b"HTTP/1.1 400 ")
    async with Stage(listener={"strict_target": 0}) as stage:
        client = await stage.client()
        await client.says(sloppy)
        server = await stage.server()
        assert (await server.head()).startswith(sloppy.partition(b"\r")[0])
        await server.says(DONE)
        await answered(client)
        for worse in (b"GET /a b HTTP/1.1", b"GET /a%zz HTTP/1.1", b"GET /a#b HTTP/1.1", b"GET /\xe9 HTTP/1.1"):
            _, head, _ = await asks(stage, worse + b"\r\nhost: a\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 "), worse


# ------------------------------------------------------------------ what is changed on the way


async def test_a_rule_rewrites_header_path_and_method() -> None:
    rewrites = (
        model.Rewrite("/HTTP/headers/x-team", "blue"),
        model.Rewrite("/HTTP/headers/x-user", "you"),
        model.Rewrite("/HTTP/url/path", "/v2/b?q=1"),
        model.Rewrite("/HTTP/method", "PUT"),
    )
    async with Stage(rules=((HEADER, "up", rewrites),)) as stage:
        client, server, head = await stage.both(b"POST /a HTTP/1.1\r\nhost: a\r\nx-user: me\r\ncontent-length: 2\r\n\r\nhi")
        assert head.startswith(b"PUT /v2/b?q=1 HTTP/1.1\r\n")
        assert b"x-team: blue\r\n" in head and b"x-user: you\r\n" in head and b"x-user: me" not in head
        assert b"content-length: 2\r\n" in head and await server.hears(2) == b"hi"
        (session,) = stage.proxy.sessions()
        assert session.dump()["metadata"]["HTTP"]["headers"]["x-team"] == "blue"
        await server.says(OK)
        await answered(client)


async def test_hop_by_hop_fields_are_cut_and_host_is_kept() -> None:
    async with Stage() as stage:
        _, _, head = await stage.both(
            b"GET / HTTP/1.1\r\nHost: b.example:8080\r\nConnection: keep-alive, x-mine\r\nKeep-Alive: 5\r\nTE: gzip\r\nX-Mine: 1\r\n"
            b"Proxy-Authorization: x\r\nX-Other: 2\r\n\r\n"
        )
        lower = head.lower()
        assert b"host: b.example:8080\r\n" in lower and b"x-other: 2\r\n" in lower and b"x-forwarded-host: b.example:8080\r\n" in lower
        assert not [n for n in (b"connection", b"keep-alive", b"x-mine", b"proxy-auth", b"\r\nte:") if n in lower]


async def test_claims_of_a_client_that_is_not_trusted_are_replaced() -> None:
    async with Stage() as stage:
        _, _, head = await stage.both(b"GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 1.2.3.4\r\nx-forwarded-proto: https\r\n\r\n")
        assert b"1.2.3.4" not in head and b"x-forwarded-for: 127.0.0.1\r\n" in head and b"x-forwarded-proto: http\r\n" in head


async def test_claims_of_a_trusted_client_are_kept_and_continued() -> None:
    async with Stage(listener={"trusted": ["127.0.0.0/8"]}) as stage:
        _, _, head = await stage.both(b"GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 1.2.3.4\r\nx-forwarded-proto: https\r\n\r\n")
        assert b"x-forwarded-for: 1.2.3.4, 127.0.0.1\r\n" in head and b"x-forwarded-proto: https\r\n" in head


async def test_forwarded_and_via_are_sent_when_configured() -> None:
    async with Stage(listener={"forwarded": True, "via": "edge"}) as stage:
        _, _, head = await stage.both(GET)
        assert b'forwarded: for=127.0.0.1;proto=http;host="a"\r\n' in head and b"via: 1.1 edge\r\n" in head


async def test_a_request_id_is_kept_or_made_anew_for_each_request() -> None:
    async with Stage() as stage:
        client, server, head = await stage.both(b"GET / HTTP/1.1\r\nhost: a\r\nx-request-id: mine\r\n\r\n")
        assert head.count(b"x-request-id") == 1 and b"x-request-id: mine\r\n" in head
        ids = set()
        for _ in range(3):
            await server.says(OK)
            await answered(client)
            await client.says(GET)
            head = await server.head()
            ids.add(head.split(b"x-request-id: ")[1].split(b"\r\n")[0])
        assert len(ids) == 3


async def test_a_transform_that_may_change_the_length_gets_a_body_without_one() -> None:
    more = {name: model.Cluster(name, {"protocol": name}) for name in ("JSONEncap", "JSONDecap")}
    both = tuple(more)  # what the one makes longer the other makes short again
    async with Stage(clusters=more) as stage:
        routes = {**stage.proxy.config.routes, "up": model.Route("up", "up", ingress=both, egress=both)}
        await stage.proxy.apply(stage.config(routes=routes, listeners=stage.proxy.config.listeners))
        client, server, head = await stage.both(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello")
        assert b"content-length" not in head and await server.until(b"0\r\n\r\n") == b"5\r\nhello\r\n0\r\n\r\n"
        await server.says(OK)
        head = await client.head()
        assert b"content-length" not in head and await client.until(b"0\r\n\r\n") == b"2\r\nok\r\n0\r\n\r\n"


async def test_a_route_that_retries_on_disconnect_does_not_send_a_finished_request_again() -> None:
    async with Stage(retry={"retry_on": "always", "num_retries": 2, "timeout": 100}) as stage:
        client, server, _ = await stage.both(GET)
        await server.says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        await client.until(b"0\r\n\r\n")
        assert await server.silent(0.05) and not stage.listener.live
        await client.says(GET)
        await server.head()
        server.goes()  # before the answer: it may be asked again
        server = await stage.server()
        await server.head()
        await server.says(OK)
        assert (await answered(client))[1] == b"ok"
