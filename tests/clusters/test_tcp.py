"""The TCP cluster: connecting, what goes wrong with it, and how often it is tried again."""

from __future__ import annotations

import asyncio
import socket

import pytest

from carrier.admin.api import Api
from carrier.core.address import local_address
from clusters.tcp import TcpCluster
from tests.ports import free_port
from tests.support import ask, cluster, config, echoing, listener, port_of, running, saying, tcp, tcp_server, udp_server, wait_until


def front(**fields):
    return listener("in", "up", options={"track": 60}, **fields)


def ended(proxy):
    (session,) = proxy.listeners["in"].tracked
    return session


async def test_a_refused_upstream_closes_the_downstream_and_says_why():
    conf = config(clusters=[cluster("up", free_port())], listeners=[front()])
    async with running(conf) as proxy:
        async with tcp(port_of(proxy, "in")) as client:
            with pytest.raises(ConnectionResetError):
                assert await client.read_all()
        assert ended(proxy).error.kind == "refused"
        assert "127.0.0.1" in ended(proxy).error.detail


async def test_an_upstream_that_does_not_answer_the_handshake_is_given_up_in_time():
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]  # they fill the queue of one that never accepts
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        conf = config(clusters=[cluster("up", port)], listeners=[front(retry={"retry_on": "never", "timeout": 50})])
        async with running(conf) as proxy:
            async with tcp(port_of(proxy, "in")) as client:
                with pytest.raises(ConnectionResetError):
                    await client.read_all()
            assert ended(proxy).error.kind == "timeout"
        for sock in waiting:
            sock.close()


async def test_a_setup_that_fails_is_tried_again_until_the_upstream_is_there():
    port = free_port()
    conf = config(
        clusters=[cluster("up", port)], listeners=[front(retry={"retry_on": "connect-failure", "num_retries": 100, "timeout": 20})]
    )
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"patience")
        await wait_until(lambda: any(session.retries > 1 for session in proxy.listeners["in"].live))
        async with tcp_server(echoing, port):
            assert await client.read(8) == b"patience"


@pytest.mark.parametrize("orderly", [True, False], ids=["after an orderly end", "after a reset"])
async def test_a_disconnect_is_healed_and_what_came_meanwhile_is_kept(orderly):
    conf = {"retry": {"retry_on": "disconnect", "num_retries": 100, "timeout": 2000}}
    async with tcp_server() as server:
        made = config(clusters=[cluster("up", server.port)], listeners=[front(**conf)])
        async with running(made) as proxy, tcp(port_of(proxy, "in")) as client:
            first = await server.peer()
            client.send(b"one")
            assert await first.read(3) == b"one"
            first.send(b"answer")
            assert await client.read(6) == b"answer"
            if orderly:
                first.close()
            else:
                first.reset()
            (session,) = proxy.listeners["in"].live
            await wait_until(lambda: session.retries == 1)
            client.send(b"two")
            second = await server.peer(1)
            assert await second.read(3) == b"two"
            second.send(b"again")
            assert await client.read(5) == b"again"


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
@pytest.mark.parametrize("on", ["disconnect", "always", "never"])
async def test_who_wants_it_is_connected_again_when_its_endpoint_is_deleted_with_its_sessions(on, protocol):
    """l7mp's test/23: DELETE /endpoints/e1?recursive=true, and the session goes on at e2."""
    async with tcp_server(echoing) as tcp_one, tcp_server(echoing) as tcp_two, udp_server() as udp_one, udp_server() as udp_two:
        ports = (tcp_one.port, tcp_two.port) if protocol == "TCP" else (udp_one.port, udp_two.port)
        endpoints = [{"name": f"e{i}", "spec": {"address": "127.0.0.1", "port": port}} for i, port in enumerate(ports, 1)]
        up = {"name": "up", "spec": {"protocol": protocol, "port": 1}, "endpoints": endpoints}
        conf = config(clusters=[up], listeners=[front(retry={"retry_on": on, "num_retries": 1, "timeout": 100})])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"one")
            assert await client.read(3) == b"one"
            (session,) = proxy.listeners["in"].live
            assert session.endpoint.name == "e1"
            assert (await Api(proxy).call("DELETE", "/api/v1/endpoints/e1", "recursive=true", {}, b"")).status == 200
            if on == "never" and protocol == "TCP":
                assert await client.read_all() == b""
                assert ended(proxy).events[-1][3] == "Traversed EndPoint e1 of destination cluster up is deleted from API"
                return
            await wait_until(lambda: session.endpoint is not None and session.endpoint.name == "e2")
            client.send(b"two")
            assert await client.read(3) == b"two"


async def test_while_reconnecting_only_so_much_is_held_and_nothing_is_lost():
    port = free_port()
    conf = config(clusters=[cluster("up", port)], listeners=[front(retry={"retry_on": "always", "num_retries": 1000, "timeout": 20})])
    sent = bytes(range(256)) * 4096 * 8  # 8 MiB
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        async with tcp_server(port=port) as server:
            peer = await server.peer()
            client.send(b"x")
            assert await peer.read(1) == b"x"
        (session,) = proxy.listeners["in"].live
        await wait_until(lambda: session.backlog is not None)
        client.send(sent)
        await wait_until(lambda: session.source.paused, "for the source to be paused")
        assert session.backlog.size < 256 * 1024
        async with tcp_server(port=port) as server:
            peer = await server.peer()
            assert await peer.read(len(sent)) == sent


async def test_it_connects_from_the_bound_address():
    async with tcp_server(saying(b"hello")) as server:
        spec = {"protocol": "TCP", "port": server.port, "bind": {"address": "127.0.0.77"}}
        async with running(config(clusters=[{**cluster("up"), "spec": spec}], listeners=[front()])) as proxy:
            assert await ask(port_of(proxy, "in"), b"") == b"hello"
        assert server.peers[0].writer.get_extra_info("peername")[0] == "127.0.0.77"


async def test_a_name_is_resolved_and_ipv6_endpoints_work():
    async with (
        tcp_server(saying(b"hello")) as server,
        running(config(clusters=[cluster("up", server.port, "localhost")], listeners=[front()])) as proxy,
    ):
        assert await ask(port_of(proxy, "in"), b"") == b"hello"
    six = await asyncio.start_server(lambda _, writer: (writer.write(b"six"), writer.close()), "::1", 0)
    async with six, running(config(clusters=[cluster("up", six.sockets[0].getsockname()[1], "::1")], listeners=[front()])) as proxy:
        assert await ask(port_of(proxy, "in"), b"") == b"six"


async def test_a_port_that_is_none_is_no_endpoint():
    for port in (0, 99999, "eighty"):
        async with running(config(clusters=[cluster("up", port)], listeners=[front()])) as proxy:
            async with tcp(port_of(proxy, "in")) as client:
                with pytest.raises(ConnectionResetError):
                    await client.read_all()
            assert ended(proxy).error.kind == "no-endpoint"


def test_bind_is_checked_and_what_makes_no_sense_counts_as_not_given():
    bad = {"protocol": "TCP", "port": 1, "bind": {"address": "here", "port": "x"}}
    assert [problem.path for problem in TcpCluster.check(bad, "$")] == ["$.bind.address", "$.bind.port"]
    assert [problem.path for problem in TcpCluster.check({"protocol": "TCP", "port": 1, "bind": 5}, "$")] == ["$.bind"]
    (problem,) = TcpCluster.check({"protocol": "TCP", "port": 1, "bind": {"addres": "127.0.0.1"}}, "$")
    assert str(problem) == "$.bind.addres: unknown field 'addres' (allowed: address, port); did you mean 'address'?"
    assert local_address({"bind": {"address": 7, "port": "x"}}) == ("", 0)
    assert local_address({"bind": 5}) is None
