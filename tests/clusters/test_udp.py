"""The UDP cluster: a connected socket per session, what ICMP says of it, and byte streams that become datagrams."""

from __future__ import annotations

import asyncio
import os
import resource
import socket

import pytest

from clusters import udp as module
from tests.ports import free_port
from tests.support import cluster, config, listener, port_of, running, tcp, udp, udp_server, wait_until


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


@pytest.mark.parametrize("count", [1, 2, 20])
async def test_every_datagram_that_is_refused_is_counted_by_its_session_and_its_cluster(count):
    """Of two the kernel sends one, hears that it was refused, and says so instead of sending the other one: both are lost."""
    port = free_port(socket.SOCK_DGRAM)
    async with running(config(clusters=[up(port)], listeners=[front()])) as proxy, udp(port_of(proxy, "in")) as client:
        for _ in range(count):
            client.send(b"anybody?")
        found = proxy.clusters["up"].dropped
        await wait_until(lambda: sum(found.values()) >= count, f"for {count}")
        await asyncio.sleep(0.05)
        assert found == {"refused": count}
        assert sum(session.dropped for session in proxy.sessions()) == count


async def test_what_somebody_else_gets_is_not_counted_as_dropped():
    port = free_port(socket.SOCK_DGRAM)
    async with udp_server() as server:
        conf = config(clusters=[up(port), cluster("shadow", server.port, protocol="UDP")], listeners=[front(fallback="shadow")])
        async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
            client.send(b"x")
            assert await client.read() == b"x"
            assert proxy.clusters["up"].dropped == {}


async def test_what_finds_no_room_while_a_destination_is_tried_is_counted_at_once():
    port = free_port()
    retry = {"retry_on": "always", "num_retries": 100, "timeout": 1000}
    stream = {"name": "up", "spec": {"protocol": "TCP", "port": port}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
    async with running(config(clusters=[stream], listeners=[front(retry=retry)])) as proxy, udp(port_of(proxy, "in")) as client:
        for _ in range(100):
            client.send(b"x" * 5000)
            await asyncio.sleep(0)
        await wait_until(lambda: (proxy.listeners["in"].datagrams() or {}).get("received") == 100, "for all of them")
        (session,) = proxy.sessions()
        assert session.retries or session.task is not None, "it is being tried"
        waits = len(session.backlog.calls)
        assert proxy.listeners["in"].dropped == {"no-destination": 100 - waits}
        assert session.dropped == 100 - waits


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


@pytest.mark.parametrize("kind", ["UDP", "UnixDomainSocket"])
async def test_answers_that_a_full_source_keeps_waiting_outlast_its_end(monkeypatch, tmp_path, kind):
    monkeypatch.setattr("carrier.hops.packetsocket.LINGER", 0.02)
    file = str(tmp_path / "s")
    server = socket.socket(socket.AF_INET if kind == "UDP" else socket.AF_UNIX, socket.SOCK_DGRAM)
    server.settimeout(5)
    server.bind(("127.0.0.1", 0) if kind == "UDP" else file)
    if kind == "UDP":
        where = {**up(server.getsockname()[1]), "options": {"half_close_timeout": 0.02}}
    else:
        where = {"name": "up", "spec": {"protocol": kind, "mode": "dgram"}, "endpoints": [{"spec": {"address": file}}]}
    async with running(config(clusters=[where], listeners=[front("TCP")])) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"x")
        _, asker = await asyncio.to_thread(server.recvfrom, 99)
        (session,) = proxy.listeners["in"].live
        session.destination.pause()  # as a client makes it that takes nothing
        client.end()
        await wait_until(lambda: session.source_done)
        server.sendto(b"answer", asker)
        await asyncio.sleep(0.2)
        session.destination.resume()
        assert await client.read_all() == b"answer"
    server.close()


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


@pytest.mark.parametrize("fallback", [False, True])
async def test_a_stream_whose_first_words_are_refused_begins_anew_elsewhere(fallback):
    async with udp_server() as server:
        made = up(free_port(socket.SOCK_DGRAM))
        made["endpoints"] += [] if fallback else [{"name": "good", "spec": {"address": "127.0.0.1", "port": server.port}}]
        clusters = [made, cluster("shadow", server.port, protocol="UDP")]
        conf = config(clusters=clusters, listeners=[front("TCP", **({"fallback": "shadow"} if fallback else {}))])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            for word in (b"one", b"two"):
                client.send(word)
                assert await client.read(3) == word
            (session,) = proxy.listeners["in"].live
            assert session.dropped == 0


async def test_a_stream_of_which_something_is_lost_ends():
    async with udp_server() as server, udp_server() as other:
        made = up(server.port)
        made["endpoints"].append({"name": "good", "spec": {"address": "127.0.0.1", "port": other.port}})
        async with running(config(clusters=[made], listeners=[front("TCP")])) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"one")
            assert await client.read(3) == b"one"
            server.transport.close()
            await asyncio.sleep(0.01)
            client.send(b"two")
            await wait_until(lambda: proxy.listeners["in"].tracked)
            assert proxy.clusters["up"].endpoints[1].total == 0
