"""The TCP listener: who connects is a session; limits, addresses, and what happens when descriptors run short."""

from __future__ import annotations

import asyncio
import os
import resource
import socket

import pytest

from carrier.errors import Error
from carrier.model import Listener
from listeners.tcp import TcpListener
from tests.ports import free_port
from tests.support import cluster, config, echo, listener, port_of, running, tcp, tcp_server, wait_until


def echoed(**fields):
    return config(clusters=[echo()], listeners=[listener("in", **fields)])


async def roundtrip(port: int, host: str = "127.0.0.1") -> bool:
    async with tcp(port, host) as client:
        client.send(b"ping")
        return await client.read(4) == b"ping"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_without_an_address_it_serves_ipv4_and_ipv6(host):
    async with running(echoed(spec={"address": None})) as proxy:
        assert await roundtrip(port_of(proxy, "in"), host)


async def test_a_session_tells_both_addresses_and_ipv4_plainly():
    async with running(echoed(spec={"address": None})) as proxy, tcp(port_of(proxy, "in")) as client:
        await wait_until(lambda: proxy.listeners["in"].live)
        (session,) = proxy.sessions()
        port = port_of(proxy, "in")
        assert session.name == f"TCP:127.0.0.1:{client.port}-127.0.0.1:{port}"
        assert session.metadata["IP"] == {"src_addr": "127.0.0.1", "dst_addr": "127.0.0.1"}
        assert session.metadata["TCP"] == {"src_port": client.port, "dst_port": port}


async def test_a_port_in_use_is_refused_with_its_name():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with running() as proxy:
            with pytest.raises(Error, match="Could not bind") as caught:
                await proxy.apply(echoed(port=taken.getsockname()[1]))
            assert caught.value.kind == "bind"


async def test_a_stopped_listener_accepts_no_more_and_its_connections_live_on():
    async with running(echoed()) as proxy, tcp(port_of(proxy, "in")) as client:
        port = port_of(proxy, "in")
        client.send(b"a")
        assert await client.read(1) == b"a"
        await proxy.apply(config(clusters=[echo()]))
        with pytest.raises(ConnectionRefusedError):
            await roundtrip(port)
        client.send(b"b")
        assert await client.read(1) == b"b"


async def test_a_connection_that_no_rule_takes_is_closed():
    async with running(echoed(rules=[])) as proxy, tcp(port_of(proxy, "in")) as client:
        assert await client.read_all() == b""
        await wait_until(lambda: not proxy.listeners["in"].live)


async def test_at_the_limit_connections_wait_until_one_ends():
    async with running(echoed(options={"max_connections": 1})) as proxy:
        port = port_of(proxy, "in")
        async with tcp(port) as first:
            first.send(b"a")
            assert await first.read(1) == b"a"
            async with tcp(port) as second:
                second.send(b"b")
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(second.reader.read(1), 0.1)
                first.close()
                assert await second.read(1) == b"b"
        assert set(proxy.listeners["in"].limited) == {"max_connections"}


async def test_without_descriptors_accepting_pauses_and_takes_up_again():
    async with running(echoed()) as proxy, tcp(port_of(proxy, "in")) as old:
        port = port_of(proxy, "in")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        client = socket.socket()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
            hogs = []
            with pytest.raises(OSError):
                while True:
                    hogs.append(os.dup(0))
            client.connect(("127.0.0.1", port))
            client.setblocking(False)
            await wait_until(lambda: proxy.listeners["in"].limited)
            await asyncio.sleep(0.3)
            assert 1 <= proxy.listeners["in"].limited["descriptors"] <= 10  # no busy loop
            old.send(b"served")
            assert await old.read(6) == b"served"
            for fd in hogs:
                os.close(fd)
            await asyncio.get_running_loop().sock_sendall(client, b"me too")
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 6), 2) == b"me too"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            client.close()


async def test_without_a_descriptor_for_the_upstream_the_session_fails_as_overload():
    async with tcp_server() as server:
        conf = config(clusters=[cluster("up", server.port)], listeners=[listener("in", "up", options={"track": 60})])
        async with running(conf) as proxy:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            client = socket.socket()
            client.setblocking(False)
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
                hogs = []
                with pytest.raises(OSError):
                    while True:
                        hogs.append(os.dup(0))
                os.close(hogs.pop())  # one is left: for the accepted connection
                await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port_of(proxy, "in")))
                await wait_until(lambda: proxy.listeners["in"].tracked)
                for fd in hogs:
                    os.close(fd)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                client.close()
            assert proxy.listeners["in"].tracked[0].error.kind == "overload"


async def test_a_half_closed_connection_that_stands_still_is_ended_at_its_limit():
    async with tcp_server() as server:
        conf = config(clusters=[cluster("up", server.port)], listeners=[listener("in", "up", options={"half_close_timeout": 10})])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            upstream = await server.peer()
            client.end()
            assert await upstream.read_all() == b""
            front = proxy.listeners["in"]
            now = asyncio.get_running_loop().time()
            front.tick(now + 9)
            assert front.live
            upstream.send(b"x")
            assert await client.read(1) == b"x"
            front.tick(now + 15)  # it has moved
            assert front.live
            front.tick(now + 26)
            assert not front.live
            with pytest.raises(ConnectionResetError):
                await client.read_all()


async def test_an_idle_connection_is_ended_only_when_that_is_configured():
    for options, left in (({}, 1), ({"idle_timeout": 60}, 0)):
        async with running(echoed(options=options)) as proxy, tcp(port_of(proxy, "in")):
            front = proxy.listeners["in"]
            await wait_until(lambda front=front: front.live)
            front.tick(asyncio.get_running_loop().time())
            front.tick(asyncio.get_running_loop().time() + 100_000)
            assert len(front.live) == left


async def test_a_thousand_connections_come_and_go_and_leave_nothing():
    async with running(echoed()) as proxy:
        port = port_of(proxy, "in")
        for _ in range(10):
            assert all(await asyncio.gather(*(roundtrip(port) for _ in range(100))))
        await wait_until(lambda: not proxy.listeners["in"].live)
        assert proxy.listeners["in"].counter == 1000


def test_options_that_are_unknown_or_no_numbers_are_found():
    found = TcpListener.check_options({"max_connections": "many", "colour": 1, "track": 5}, "$.options")
    assert [problem.path for problem in found] == ["$.options.colour", "$.options.max_connections"]


async def test_a_port_that_is_none_fails_to_bind():
    from carrier.core.env import Env

    for port in ("eighty", 99999, None):
        made = TcpListener(Listener("in", {"protocol": "TCP", "port": port}, "rules"), Env(asyncio.get_running_loop()))
        assert made.key()[2] == -1
        with pytest.raises(Error):
            await made.bind()


async def test_a_free_port_may_be_asked_for():
    port = free_port()
    async with running(echoed(port=port)) as proxy:
        assert port_of(proxy, "in") == port
        assert await roundtrip(port)
