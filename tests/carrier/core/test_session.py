"""Sessions end to end: routing errors, retries, reconnects, fallback, failover, what people see of them."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import time
from typing import Any

import pytest

from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.core.env import Env
from carrier.core.session import Session
from carrier.core.shown import MAX_EVENTS
from carrier.core.stream import MANY, Socket
from carrier.errors import Error
from carrier.model import Config
from carrier.proxy.proxy import Proxy
from tests.ports import free_port
from tests.support import (
    ask,
    cluster,
    config,
    echo,
    echoing,
    http,
    listener,
    port_of,
    running,
    saying,
    tcp,
    tcp_server,
    udp,
    udp_server,
    wait_until,
)

TRACK: dict[str, Any] = {"options": {"track": 60}}


def only_session(proxy: Proxy) -> Session:
    (found,) = proxy.sessions()
    return found


def names(session: Session) -> list[str]:
    return [event for event, *_ in session.events]


# --- routing errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ("nowhere", 'Cannot find RuleList "nowhere"'),
        (["nobody"], 'Cannot find named rule "nobody" in RuleList "in-RuleList-0"'),
        ([], 'No route for session "{name}"'),
        (
            [{"match": {"op": "test", "path": "/IP/src_addr", "value": "9.9.9.9"}, "action": {"route": "r"}}],
            'No route for session "{name}"',
        ),
        ([{"action": {}}], 'Invalid route for session "{name}"'),
        ([{"action": {"route": "r"}}], 'Cannot find Route "r" for session "{name}"'),
        (
            [{"action": {"route": {"destination": "c"}}}],
            'Pipeline setup failed for session "{name}": Not Found: Cannot find cluster "c"',
        ),
    ],
)
async def test_a_session_without_a_way_ends_with_l7mps_text(rules: Any, text: str) -> None:
    async with running(config(listeners=[listener("in", rules=rules, **TRACK)])) as proxy:
        assert await ask(port_of(proxy, "in"), b"") == b""
        session = only_session(proxy)
        assert session.error is not None and session.error.kind == "no-route"
        assert session.error.detail == text.replace("{name}", session.name)
        assert session.status == "DESTROYED"
        assert proxy.listeners["in"].failed == 1
        told = [(e["event"], e["message"], e["content"]) for e in session.dump()["events"] if e["event"] in ("ERROR", "END", "DESTROY")]
        assert told == [("ERROR", "Not Found", session.error.detail), ("DESTROY", "Session destroyed", session.error.detail)]


async def test_a_cluster_without_endpoints_says_so() -> None:
    conf = config(clusters=[{"name": "c", "spec": {"protocol": "TCP", "port": 1}}], listeners=[listener("in", "c", **TRACK)])
    async with running(conf) as proxy:
        with pytest.raises(ConnectionResetError):
            await ask(port_of(proxy, "in"), b"x")
        error = only_session(proxy).error
        assert error is not None and error.detail.startswith("Not Found: No endpoint in cluster")


async def test_a_rule_list_that_applies_itself_fails_the_session_only() -> None:
    rules = [{"name": "again", "action": {"apply": "loop"}}]
    conf = config(rulelists=[{"name": "loop", "rules": rules}], listeners=[listener("in", rules="loop", **TRACK)])
    async with running(conf) as proxy:
        assert await ask(port_of(proxy, "in"), b"") == b""
        error = only_session(proxy).error
        assert error is not None and "applies itself" in error.detail


async def test_an_apply_jumps_and_never_comes_back_and_only_the_last_action_rewrites() -> None:
    inner = {
        "name": "inner",
        "rules": [{"name": "r", "action": {"rewrite": [{"path": "/b", "value": 2}], "route": {"destination": "echo"}}}],
    }
    outer = [{"action": {"rewrite": [{"path": "/a", "value": 1}], "route": "ignored", "apply": "inner"}}, {"action": {"route": "never"}}]
    async with running(config(clusters=[echo()], rulelists=[inner], listeners=[listener("in", rules=outer, **TRACK)])) as proxy:
        assert await ask(port_of(proxy, "in"), b"x") == b"x"
        session = only_session(proxy)
        assert session.metadata["b"] == 2 and "a" not in session.metadata
        assert (session.decision.rulelist, session.decision.rule) == ("inner", "r")


# --- metadata and what people see -------------------------------------------------------------------------------------------------


async def test_metadata_is_shown_with_the_rewrites_of_the_rule_also_below_objects_that_were_not_there() -> None:
    rewrite = [{"path": "/HTTP/headers/host", "value": "h"}, {"path": "IP/src_addr", "value": "1.2.3.4"}]
    conf = config(clusters=[echo()], listeners=[listener("in", rules=[{"action": {"rewrite": rewrite, "route": {"destination": "echo"}}}])])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"x")
        await client.read(1)
        shown = only_session(proxy).dump()["metadata"]
        assert shown["HTTP"] == {"headers": {"host": "h"}}
        assert shown["IP"] == {"src_addr": "1.2.3.4", "dst_addr": "127.0.0.1"}
        assert shown["TCP"] == {"src_port": client.port, "dst_port": port_of(proxy, "in")}
        assert "name" not in shown


async def test_a_rewrite_of_the_whole_tree_to_something_else_can_still_be_shown() -> None:
    rules = [{"action": {"rewrite": [{"path": "/", "value": 7}], "route": {"destination": "echo"}}}]
    async with running(config(clusters=[echo()], listeners=[listener("in", rules=rules, **TRACK)])) as proxy:
        assert await ask(port_of(proxy, "in"), b"x") == b"x"
        assert only_session(proxy).dump()["metadata"] == {"value": 7}


async def test_a_live_session_is_listed_as_l7mp_lists_it() -> None:
    async with tcp_server(echoing) as upstream:
        conf = config(clusters=[cluster("c", upstream.port)], listeners=[listener("in", "c")])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"hello")
            await client.read(5)
            port = port_of(proxy, "in")
            shown = only_session(proxy).dump()
            name = f"TCP:127.0.0.1:{client.port}-127.0.0.1:{port}"
            assert shown["name"] == name and proxy.find_session(name) is only_session(proxy)
            assert shown["source"] == {"origin": "in", "listener": conf.listeners["in"].spec, "status": "READY"}
            endpoint = {"name": "c-0", "spec": {"address": "127.0.0.1"}}
            assert shown["destination"] == {"origin": "c", "endpoint": endpoint, "status": "READY"}
            assert (shown["ingress"], shown["egress"], shown["status"]) == ([], [], "CONNECTED")
            assert [(e["event"], e["message"], e["content"]) for e in shown["events"]] == [
                ("INIT", f"Session {name} initialized", ""),
                (
                    "LOOKUP SUCCESS",
                    "Successfull lookup on rulelist:in-RuleList-0/rule:in-RuleList-0-Rule-0",
                    "rule 1 of in: anything",
                ),
                ("CONNECT", "Session successfully connected", ""),
            ]
            assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", e["timestamp"]) for e in shown["events"])
            assert shown["counters"] == {
                "bytes_in": 5, "bytes_out": 5, "messages_in": 1, "messages_out": 1, "retries": 0, "dropped": 0
            }  # fmt: skip


async def test_a_virtual_destination_and_transforms_are_listed_by_name() -> None:
    logger = {"name": "log", "spec": {"protocol": "Logger", "log_file": "/dev/null"}}
    conf = config(clusters=[echo(), logger], listeners=[listener("in", "echo", ingress=["log"], egress=["log"])])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"x")
        assert await client.read(1) == b"x"
        shown = only_session(proxy).dump()
        assert shown["destination"]["endpoint"] == {"name": "echo", "spec": {"address": "<VIRTUAL>"}}
        assert shown["ingress"] == shown["egress"] == [{"origin": "log", "status": "READY"}]


async def test_an_ended_session_is_remembered_while_it_is_tracked_and_not_else() -> None:
    conf = config(clusters=[echo()], listeners=[listener("in", **TRACK), listener("out")])
    async with running(conf) as proxy:
        await ask(port_of(proxy, "in"), b"x")
        await ask(port_of(proxy, "out"), b"x")
        session = only_session(proxy)
        assert session.listener.name == "in"
        assert session.dump()["status"] == "DESTROYED"
        assert names(session) == ["INIT", "LOOKUP SUCCESS", "CONNECT", "END", "DESTROY"]
        proxy.listeners["in"].tick(session.ended_at + 61)
        assert not list(proxy.sessions())


async def test_a_killed_session_closes_both_ends_in_order_and_says_who_did_it() -> None:
    async with tcp_server() as upstream:
        conf = config(clusters=[cluster("c", upstream.port)], listeners=[listener("in", "c", **TRACK)])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            peer = await upstream.peer()
            session = only_session(proxy)
            session.kill()
            session.kill()
            assert await client.read_all() == b""
            assert await peer.read_all() == b""
            assert names(session) == ["INIT", "LOOKUP SUCCESS", "CONNECT", "END", "DESTROY"]
            end = session.events[3]
            assert (end[2], end[3]) == ("OK", "Session removed from the API")
            assert proxy.listeners["in"].failed == 0
            assert not proxy.listeners["in"].live


async def test_the_history_of_a_session_is_bounded_and_keeps_its_beginning_and_its_end() -> None:
    async with running(config(clusters=[echo()], listeners=[listener("in")])) as proxy, tcp(port_of(proxy, "in")):
        await wait_until(lambda: proxy.listeners["in"].live)
        session = only_session(proxy)
        for n in range(5 * MAX_EVENTS):
            session.event("ERROR", str(n))
        kept = [message for event, _, message, _ in session.events if event == "ERROR"]
        assert len(kept) == MAX_EVENTS
        assert (kept[0], kept[-1]) == ("0", str(5 * MAX_EVENTS - 1))


async def test_a_deciding_rule_counts_its_hits() -> None:
    async with running(config(clusters=[echo()], listeners=[listener("in")])) as proxy:
        for _ in range(3):
            await ask(port_of(proxy, "in"), b"x")
        hits = proxy.hits["in-RuleList-0-Rule-0"]
        assert hits.count == 3
        assert 0 <= time.monotonic() - hits.last < 5


def _fail(session: Session) -> None:
    raise ZeroDivisionError(session.name)


async def test_a_reader_of_the_ledger_that_fails_keeps_no_session_alive_and_no_other_reader_from_it() -> None:
    loop = asyncio.get_running_loop()
    async with running(config(clusters=[echo()], listeners=[listener("in")])) as proxy:
        stray: list[str] = []
        loop.set_exception_handler(lambda _, context: stray.append(context["message"]))
        seen: list[Session] = []
        proxy.env.read(_fail)
        proxy.env.read(seen.extend)
        assert await ask(port_of(proxy, "in"), b"x") == b"x"
        await wait_until(lambda: seen)
        assert not proxy.listeners["in"].live
        assert len(stray) == 1 and "a reader of ended sessions failed" in stray[0]


# --- retry on setup ---------------------------------------------------------------------------------------------------------------


async def test_a_refused_connection_is_tried_again_at_a_constant_interval() -> None:
    retry = {"retry_on": "connect-failure", "num_retries": 3, "timeout": 30}
    conf = config(clusters=[cluster("c", free_port())], listeners=[listener("in", "c", retry=retry, **TRACK)])
    async with running(conf) as proxy:
        with pytest.raises(ConnectionResetError):
            await ask(port_of(proxy, "in"), b"x")
        session = only_session(proxy)
        tries = [at for event, at, message, _ in session.events if message == "Could not connect"]
        gaps = [b - a for a, b in itertools.pairwise(tries)]
        assert session.retries == len(gaps) == 3
        assert all(0.028 <= gap < 0.2 for gap in gaps), gaps


async def test_an_upstream_that_comes_up_while_a_session_retries_gets_everything_that_was_sent() -> None:
    port = free_port()
    retry = {"retry_on": "always", "num_retries": 100, "timeout": 10}
    conf = config(clusters=[cluster("c", port)], listeners=[listener("in", "c", retry=retry)])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"hello")
        await wait_until(lambda: list(proxy.sessions()) and only_session(proxy).retries > 1)
        async with tcp_server(echoing, port):
            assert await client.read(5) == b"hello"


async def test_a_cluster_that_is_added_while_a_session_retries_is_found() -> None:
    retry = {"retry_on": "connect-failure", "num_retries": 200, "timeout": 10}
    conf = config(listeners=[listener("in", "late", retry=retry)])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"hello")
        await wait_until(lambda: list(proxy.sessions()) and only_session(proxy).retries > 1)
        await proxy.apply(config(clusters=[echo("late")], base=proxy.config))
        assert await client.read(5) == b"hello"
        errors = [content for _, _, message, content in only_session(proxy).events if message == "Could not connect"]
        assert errors[0].endswith('Not Found: Cannot find cluster "late"')


async def test_a_missing_cluster_fails_at_once_without_a_retry_policy_and_at_last_with_one() -> None:
    retry = {"retry_on": "connect-failure", "num_retries": 2, "timeout": 5}
    conf = config(listeners=[listener("in", "late", **TRACK), listener("again", "late", retry=retry, **TRACK)])
    async with running(conf) as proxy:
        assert await ask(port_of(proxy, "in"), b"") == b""
        assert await ask(port_of(proxy, "again"), b"") == b""
        first, second = proxy.sessions()
        assert (first.retries, second.retries) == (0, 2)
        assert second.error is not None and second.error.detail.endswith('Cannot find cluster "late"')


@pytest.mark.parametrize(
    "retry",
    [
        {"timeout": "x"},
        {"retry_on": ["always"], "num_retries": None},
        {"retry_on": "always", "num_retries": "3", "timeout": -1},
        {"retry_on": "connect-failure", "num_retries": -1},
        {"retry_on": "connect-failure", "num_retries": 0, "timeout": float("inf")},
        {"retry_on": "connect-failure", "num_retries": 0, "timeout": 10**400},
        {"retry_on": "never", "num_retries": float("nan"), "timeout": True},
    ],
)
async def test_an_odd_retry_policy_serves_and_fails_like_any_other(retry: dict[str, Any]) -> None:
    dead = cluster("c", free_port())
    routes = [{"name": "dead", "destination": "c", "retry": {**retry, "timeout": 1}}]
    conf = config(
        clusters=[echo(), dead],
        routes=routes,
        listeners=[listener("in", retry=retry), listener("out", rules=[{"action": {"route": "dead"}}])],
    )
    async with running(conf) as proxy:
        assert await ask(port_of(proxy, "in"), b"x") == b"x"
        with pytest.raises(ConnectionResetError):
            await ask(port_of(proxy, "out"), b"x")
        assert not list(proxy.sessions())


# --- a protocol that fails in its own way -----------------------------------------------------------------------------------------


class Faulty(Cluster):
    """A third party's protocol with mistakes in it; `spec.where` says which."""

    protocol = "Faulty"

    def ready(self, session: Session, endpoint: Endpoint | None) -> None:
        if self.spec["where"] == "ready":
            raise ZeroDivisionError("in ready")

    async def open(self, session: Session, endpoint: Endpoint) -> Socket:
        raise KeyError("in open")


@pytest.mark.parametrize("where", ["ready", "open"])
@pytest.mark.parametrize("ingress", [(), ("echo2",)])
async def test_a_protocols_own_mistake_fails_the_session_and_is_reported(
    where: str, ingress: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = config(clusters=[cluster("c", 1), echo("echo2")], listeners=[listener("in", "c", ingress=list(ingress), **TRACK)])
    async with running(conf) as proxy:
        stray: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: stray.append(context))
        faulty = Faulty(conf.clusters["c"], proxy.env)
        faulty.spec = {"where": where}
        for _, decisions in proxy.listeners["in"].table.lists.values():
            decisions[0].cluster = faulty
        with pytest.raises(ConnectionResetError):
            await ask(port_of(proxy, "in"), b"x")
        session = only_session(proxy)
        assert session.error is not None and (session.error.kind, where in session.error.detail) == ("internal", True)
        assert len(stray) == 1 and not proxy.listeners["in"].live


# --- failover and fallback --------------------------------------------------------------------------------------------------------


async def test_an_endpoint_that_refuses_is_replaced_by_another_of_its_cluster_before_any_retry() -> None:
    async with tcp_server(saying(b"second")) as upstream:
        conf = config(clusters=[cluster("c", upstream.port, "127.0.0.2", "127.0.0.1")], listeners=[listener("in", "c", **TRACK)])
        async with running(conf) as proxy:
            assert await ask(port_of(proxy, "in"), b"") == b"second"
            first, second = proxy.clusters["c"].endpoints
            assert (first.failed, first.total, second.total, second.active) == (1, 0, 1, 0)
            assert only_session(proxy).dump()["destination"]["endpoint"]["name"] == "c-1"


async def test_a_refused_destination_is_answered_by_the_fallback() -> None:
    conf = config(clusters=[cluster("c", free_port()), echo()], listeners=[listener("in", "c", fallback="echo", **TRACK)])
    async with running(conf) as proxy:
        assert await ask(port_of(proxy, "in"), b"hello") == b"hello"
        shown = only_session(proxy).dump()
        assert shown["fallback"] == "refused"
        assert [e["event"] for e in shown["events"]] == ["INIT", "LOOKUP SUCCESS", "ERROR", "FALLBACK", "CONNECT", "END", "DESTROY"]


async def test_a_fallback_that_is_down_too_fails_the_session_once() -> None:
    conf = config(clusters=[cluster("c", free_port()), cluster("d", free_port())], listeners=[listener("in", "c", fallback="d", **TRACK)])
    async with running(conf) as proxy:
        with pytest.raises(ConnectionResetError):
            await ask(port_of(proxy, "in"), b"x")
        error = only_session(proxy).error
        assert error is not None and error.kind == "refused"


async def test_no_fallback_once_something_was_sent_on() -> None:
    async with tcp_server() as upstream:
        conf = config(clusters=[cluster("c", upstream.port), echo()], listeners=[listener("in", "c", fallback="echo")])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"x")
            peer = await upstream.peer()
            await peer.read(1)
            peer.reset()
            with pytest.raises(ConnectionResetError):
                await client.read_all()


async def test_counters_of_clusters_and_endpoints_come_back_to_zero_active() -> None:
    async with tcp_server(echoing) as upstream:
        conf = config(clusters=[cluster("c", upstream.port)], listeners=[listener("in", "c")])
        async with running(conf) as proxy:
            async with tcp(port_of(proxy, "in")) as a, tcp(port_of(proxy, "in")) as b:
                a.send(b"a")
                b.send(b"b")
                await a.read(1)
                await b.read(1)
                (endpoint,) = proxy.clusters["c"].endpoints
                assert (endpoint.active, endpoint.total, proxy.clusters["c"].sessions_total) == (2, 2, 2)
                a.reset()
            await wait_until(lambda: endpoint.active == 0)
            await wait_until(lambda: not list(proxy.sessions()))


# --- reconnects -------------------------------------------------------------------------------------------------------------------


PERSISTENT = {"retry_on": "always", "num_retries": 1000, "timeout": 10}


@pytest.mark.parametrize("end", ["reset", "close"])
async def test_a_destination_that_goes_away_is_connected_again_and_gets_what_was_sent_meanwhile(end: str) -> None:
    port = free_port()
    conf = config(clusters=[cluster("c", port)], listeners=[listener("in", "c", retry=PERSISTENT)])
    async with running(conf) as proxy:
        async with tcp(port_of(proxy, "in")) as client:
            async with tcp_server(port=port) as upstream:
                client.send(b"one")
                peer = await upstream.peer()
                assert await peer.read(3) == b"one"
                peer.send(b"first answer")
                assert await client.read(12) == b"first answer"
                session = only_session(proxy)
                upstream.stop()
                getattr(peer, end)()
                await wait_until(lambda: "DISCONNECT" in names(session))
                client.send(b"two")
                await wait_until(lambda: session.backlog is not None and session.backlog.size == 3)
            async with tcp_server(port=port) as upstream:
                peer = await upstream.peer()
                assert await peer.read(3) == b"two"
                peer.send(b"second answer")
                assert await client.read(13) == b"second answer"
                found = [name for name in names(session) if name != "ERROR"]
                assert found == ["INIT", "LOOKUP SUCCESS", "CONNECT", "DISCONNECT", "CONNECT"]
                (endpoint,) = proxy.clusters["c"].endpoints
                assert endpoint.active == 1
                client.end()
                assert await peer.read_all() == b""
                peer.end()
                assert await client.read_all() == b""
        await wait_until(lambda: not list(proxy.sessions()))


@pytest.mark.parametrize("end", ["reset", "close"])
async def test_a_reconnect_comes_at_once_after_an_rst_and_after_a_fin(end: str) -> None:
    async with tcp_server() as upstream:
        retry = {"retry_on": "always", "num_retries": 1, "timeout": 5000}
        conf = config(clusters=[cluster("c", upstream.port)], listeners=[listener("in", "c", retry=retry)])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            for n in range(4):
                peer = await upstream.peer(n)
                client.send(b"x")
                assert await peer.read(1) == b"x"
                peer.send(b"y")
                assert await client.read(1) == b"y"
                getattr(peer, end)()
            await upstream.peer(4)


async def test_a_session_whose_reconnects_all_fail_ends() -> None:
    retry = {"retry_on": "disconnect", "num_retries": 2, "timeout": 300}  # the first connection has no longer either
    async with tcp_server() as upstream:
        conf = config(clusters=[cluster("c", upstream.port)], listeners=[listener("in", "c", retry=retry, **TRACK)])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"x")
            peer = await upstream.peer()
            await peer.read(1)
            session = only_session(proxy)
            proxy.clusters["c"].endpoints[0].port = free_port()
            peer.reset()
            with pytest.raises(ConnectionResetError):
                await client.read_all()
            assert names(session).count("ERROR") == 3  # two attempts, and the end of the session
            assert not proxy.listeners["in"].live


async def test_what_is_sent_while_reconnecting_is_bounded_and_the_source_waits() -> None:
    port, size = free_port(), 4 << 20
    conf = config(clusters=[cluster("c", port)], listeners=[listener("in", "c", retry=PERSISTENT)])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        async with tcp_server(port=port) as upstream:
            client.send(b"x")
            await (await upstream.peer()).read(1)
            session = only_session(proxy)
        await wait_until(lambda: "DISCONNECT" in names(session))
        client.send(b"z" * size)
        await wait_until(lambda: session.backlog is not None and session.backlog.full)
        read = session.source.bytes_in
        tries = session.retries
        await wait_until(lambda: session.retries > tries + 3)
        assert session.backlog is not None and session.backlog.size <= 2 * 64 * 1024
        assert session.source.bytes_in == read
        async with tcp_server(port=port) as upstream:
            number = 0
            while not await (await upstream.peer(number)).reader.read(
                1
            ):  # on a busy machine a try is over before it is noticed to be there
                number += 1
            assert await upstream.peers[number].read(size - 1) == b"z" * (size - 1)


async def test_datagrams_wait_for_a_destination_as_far_as_there_is_room_and_the_rest_is_counted() -> None:
    port = free_port()
    conf = config(clusters=[cluster("c", port)], listeners=[listener("in", "c", protocol="UDP", retry=PERSISTENT)])
    async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
        async with tcp_server(port=port) as upstream:
            client.send(b"x")
            await (await upstream.peer()).read(1)
            session = only_session(proxy)
        await wait_until(lambda: "DISCONNECT" in names(session))
        for _ in range(MANY + 50):
            client.send(b"12345678")
        await wait_until(lambda: session.source.messages_in == 1 + MANY + 50, "for all of them")
        assert session.dump()["counters"]["dropped"] == 50
        async with tcp_server(port=port) as upstream:
            peer = await upstream.peer()
            assert await peer.read(8 * MANY) == b"12345678" * MANY
            assert session.dropped == 50 and session.dump()["counters"]["dropped"] == 50
            client.send(b"and on")
            assert await peer.read(6) == b"and on"


async def test_a_source_that_has_ended_is_not_reconnected() -> None:
    async with tcp_server() as upstream:
        retry = {"retry_on": "always", "num_retries": 5, "timeout": 10}
        conf = config(clusters=[cluster("c", upstream.port)], listeners=[listener("in", "c", retry=retry)])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"x")
            client.end()
            peer = await upstream.peer()
            assert await peer.read_all() == b"x"
            peer.reset()
            with pytest.raises(ConnectionResetError):
                await client.read_all()
            assert len(upstream.peers) == 1


async def test_a_udp_session_whose_upstream_refuses_is_connected_again() -> None:
    port = free_port(socket.SOCK_DGRAM)
    conf = config(clusters=[cluster("u", port, protocol="UDP")], listeners=[listener("in", "u", protocol="UDP", retry=PERSISTENT)])
    async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
        client.send(b"nobody hears this")
        await wait_until(lambda: list(proxy.sessions()) and "DISCONNECT" in names(only_session(proxy)))
        await wait_until(lambda: only_session(proxy).status == "CONNECTED")
        async with udp_server(port=port):
            client.send(b"2")
            assert await client.read() == b"2"
            assert names(only_session(proxy)) == ["INIT", "LOOKUP SUCCESS", "CONNECT", "DISCONNECT", "CONNECT"]


# --- nothing is left behind -------------------------------------------------------------------------------------------------------


async def test_a_session_that_is_killed_while_it_connects_leaves_no_socket_behind() -> None:
    """One stage is connected, the other one never answers: the first one must be closed with the session."""
    hole = socket.socket()
    hole.bind(("127.0.0.1", 0))
    hole.listen(0)
    fill = [socket.socket() for _ in range(3)]
    for sock in fill:
        sock.setblocking(False)
        sock.connect_ex(hole.getsockname())
    async with tcp_server() as upstream:
        conf = config(
            clusters=[cluster("c", hole.getsockname()[1]), cluster("t", upstream.port)],
            listeners=[listener("in", "c", ingress=["t"], retry={"timeout": 60_000})],
        )
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            peer = await upstream.peer()
            only_session(proxy).kill()
            assert await peer.read_all() == b""
            assert await client.read_all() == b""
            assert not list(proxy.sessions())
    for sock in (hole, *fill):
        sock.close()


async def test_a_stage_that_fails_closes_the_others() -> None:
    async with tcp_server() as upstream:
        conf = config(
            clusters=[cluster("c", free_port()), cluster("t", upstream.port)], listeners=[listener("in", "c", egress=["t"], **TRACK)]
        )
        async with running(conf) as proxy:
            while not upstream.peers:  # it may be given up before it is there
                with pytest.raises(ConnectionResetError):
                    await ask(port_of(proxy, "in"), b"x")
            assert await (await upstream.peer()).read_all() == b""


async def test_a_remote_transform_stands_in_the_middle_of_the_chain() -> None:
    async def upper(peer: Any) -> None:
        while data := await peer.reader.read(1000):
            peer.send(data.upper())

    async with tcp_server(upper) as transform, tcp_server(echoing) as upstream:
        conf = config(clusters=[cluster("c", upstream.port), cluster("t", transform.port)], listeners=[listener("in", "c", ingress=["t"])])
        async with running(conf) as proxy:
            assert await ask(port_of(proxy, "in"), b"hello") == b"HELLO"
            await wait_until(lambda: not list(proxy.sessions()))


def test_what_a_session_rarely_has_takes_no_room_until_it_is_set() -> None:
    loop = asyncio.new_event_loop()
    try:
        from listeners.tcp import TcpListener

        one = TcpListener(config(listeners=[listener("in")], base=Config()).listeners["in"], Env(loop))
        first, second = Session(one, Socket()), Session(one, Socket())
        assert (first.hops, first.dropped, first.fallback, first.task, first.rare) == ((), 0, None, None, None)
        first.dropped += 2
        first.fallback = "refused"
        assert (first.dropped, first.fallback, second.dropped, second.rare) == (2, "refused", 0, None)
        assert second.on_lane
        second.event("UPGRADE")
        assert not second.on_lane
    finally:
        loop.close()


def test_a_session_closes_once_and_its_counters_do_not_drift() -> None:
    loop = asyncio.new_event_loop()
    try:
        from listeners.tcp import TcpListener

        env = Env(loop)
        one = TcpListener(config(listeners=[listener("in")], base=Config()).listeners["in"], env)
        ended: list[Session] = []
        ledger = env.read(ended.extend)
        session = Session(one, Socket())
        session._name = "s"
        session.close(Error("reset"))
        session.close()
        session.fail(Error("closed"))
        session.kill()
        session.reset(Error("closed"))
        ledger.settle()
        assert (len(ended), one.failed, session.error and session.error.kind) == (1, 1, "reset")
    finally:
        loop.close()


@pytest.mark.parametrize("kind", ["echo", "turn"])
async def test_a_request_that_went_well_is_told_to_have_ended_as_in_l7mp(kind: str) -> None:
    """Its list of events said that it was destroyed, and not that it had ended as it should."""
    clusters = [echo(), {"name": "turn", "spec": {"protocol": "Metric"}}]
    async with running(config(clusters=clusters, listeners=[listener("in", kind, protocol="HTTP", **TRACK)])) as proxy:
        assert (await http(port_of(proxy, "in"), "/", "POST", body=b"x"))[2] == b"x"
        events = [(e["event"], e["message"]) for e in only_session(proxy).dump()["events"]]
    assert events[2:] == [("CONNECT", "Session successfully connected"), ("END", "Normal end"), ("DESTROY", "Session destroyed")]
