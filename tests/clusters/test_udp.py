"""The UDP cluster: a connected socket per session, what ICMP says of it, and byte streams that become datagrams."""

from __future__ import annotations

import asyncio
import os
import resource
import socket

import pytest

from clusters import udp as module
from tests.support import cluster, config, free_port, listener, port_of, running, tcp, udp, udp_server, wait_until


def front(protocol="UDP", **fields):
    return listener("in", "up", protocol=protocol, options={"track": 60}, **fields)


def up(port, *addresses, **spec):
    made = cluster("up", port, *addresses, protocol="UDP")
    return {**made, "spec": {**made["spec"], **spec}}


async def test_only_the_endpoint_is_listened_to():
    async with (
        udp_server() as server,
        udp_server(None) as stranger,
        running(config(clusters=[up(server.port)], listeners=[front()])) as proxy,
        udp(port_of(proxy, "in")) as client,
    ):
        client.send(b"x")
        assert await client.read() == b"x"
        (session,) = proxy.listeners["in"].live
        stranger.transport.sendto(b"spoofed", session.destination.sock.getsockname())
        client.send(b"y")
        assert await client.read() == b"y"
        assert client.inbox.empty()


async def test_a_refused_port_ends_the_session_and_the_next_datagram_tries_again():
    port = free_port(socket.SOCK_DGRAM)
    async with running(config(clusters=[up(port)], listeners=[front()])) as proxy, udp(port_of(proxy, "in")) as client:
        client.send(b"anybody?")
        await wait_until(lambda: proxy.listeners["in"].tracked)
        (session,) = proxy.listeners["in"].tracked
        assert session.error.kind == "refused"
        async with udp_server(port=port):
            client.send(b"now?")
            assert await client.read() == b"now?"


async def test_a_refused_port_is_tried_again_when_the_route_says_so():
    port = free_port(socket.SOCK_DGRAM)
    retry = {"retry_on": "disconnect", "num_retries": 100, "timeout": 20}
    async with running(config(clusters=[up(port)], listeners=[front(retry=retry)])) as proxy, udp(port_of(proxy, "in")) as client:
        client.send(b"anybody?")
        await wait_until(lambda: any(session.retries for session in proxy.listeners["in"].live))
        (session,) = proxy.listeners["in"].live
        async with udp_server(port=port):
            client.send(b"now?")
            assert await client.read() == b"now?"
        assert list(proxy.listeners["in"].live) == [session]


async def test_names_and_ipv6_endpoints_work():
    async with (
        udp_server() as server,
        running(config(clusters=[up(server.port, "localhost")], listeners=[front()])) as proxy,
        udp(port_of(proxy, "in")) as client,
    ):
        for data in (b"a", b"b", b"c"):  # the first ones wait for the name
            client.send(data)
        assert [await client.read() for _ in range(3)] == [b"a", b"b", b"c"]
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
        six.setblocking(False)
        six.bind(("::1", 0))
        loop.add_reader(six, lambda: six.sendto(*six.recvfrom(99)))
        async with (
            running(config(clusters=[up(six.getsockname()[1], "::1")], listeners=[front()])) as proxy,
            udp(port_of(proxy, "in")) as client,
        ):
            client.send(b"six")
            assert await client.read() == b"six"
        loop.remove_reader(six)


async def test_it_sends_from_the_bound_port():
    port = free_port(socket.SOCK_DGRAM)
    seen = []
    async with udp_server(lambda data: seen.append(data) or data) as server:
        conf = config(clusters=[up(server.port, bind={"address": "127.0.0.1", "port": port})], listeners=[front()])
        async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
            client.send(b"x")
            assert await client.read() == b"x"
            (session,) = proxy.listeners["in"].live
            assert session.destination.sock.getsockname() == ("127.0.0.1", port)


async def test_a_byte_stream_becomes_datagrams_and_gets_answers_after_its_end():
    async with (
        udp_server(lambda data: b"<" + data + b">") as server,
        running(config(clusters=[up(server.port)], listeners=[front("TCP")])) as proxy,
        tcp(port_of(proxy, "in")) as client,
    ):
        client.send(b"one")
        assert await client.read(5) == b"<one>"
        client.send(b"two")
        client.end()
        assert await client.read(5) == b"<two>"


async def test_after_a_byte_stream_ended_the_session_lingers_and_then_ends(monkeypatch):
    monkeypatch.setattr(module, "LINGER", 0.05)
    async with udp_server(None) as server, running(config(clusters=[up(server.port)], listeners=[front("TCP")])) as proxy:
        async with tcp(port_of(proxy, "in")) as client:
            client.send(b"x")
            client.end()
            assert await client.read_all() == b""
        await wait_until(lambda: not proxy.listeners["in"].live)


async def test_a_chunk_too_long_for_a_datagram_is_cut():
    async with (
        udp_server() as server,
        running(config(clusters=[up(server.port)], listeners=[front("TCP")])) as proxy,
        tcp(port_of(proxy, "in")) as client,
    ):
        (session,) = [await _session(proxy)]
        session.source.to.data(bytes(65_536))
        assert proxy.clusters["up"].dropped == {}
        assert await client.read(65_536) == bytes(65_536)
        assert session.destination.messages_out == 2


async def _session(proxy):
    await wait_until(lambda: proxy.listeners["in"].live)
    (session,) = proxy.listeners["in"].live
    await wait_until(lambda: session.status == "CONNECTED")
    return session


async def test_a_slow_byte_stream_reader_makes_the_kernel_hold_and_drop_but_not_us():
    async with (
        udp_server(None) as server,
        running(config(clusters=[up(server.port)], listeners=[front("TCP")])) as proxy,
        tcp(port_of(proxy, "in")) as client,
    ):
        client.reader._limit = 1024
        client.send(b"hello")
        await server.read()
        session = await _session(proxy)
        where = session.destination.sock.getsockname()

        def full() -> bool:
            for _ in range(16):
                server.transport.sendto(bytes(8_000), where)
            return not session.destination.watching

        await wait_until(full, "for the upstream to be paused")
        for _ in range(1000):
            full()
        assert session.source.size < 1 << 20  # what one wake-up brings, above the 64 KiB
        session.kill()
        assert proxy.clusters["up"].dropped["receive-buffer-full"] > 1000


async def test_without_a_descriptor_the_session_fails_as_overload():
    async with (
        udp_server() as server,
        running(config(clusters=[up(server.port)], listeners=[front()])) as proxy,
        udp(port_of(proxy, "in")) as client,
    ):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        hogs = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
            with pytest.raises(OSError):
                while True:
                    hogs.append(os.dup(0))
            client.send(b"x")
            await wait_until(lambda: proxy.listeners["in"].tracked)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in hogs:
                os.close(fd)
        assert proxy.listeners["in"].tracked[0].error.kind == "overload"
        client.send(b"y")
        assert await client.read() == b"y"
