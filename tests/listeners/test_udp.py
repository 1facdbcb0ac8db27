"""The UDP listener on loopback: sessions per peer, modes, limits, counters, batches."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket

import pytest

from carrier.errors import Error
from carrier.hops import pace
from carrier.model import Listener
from listeners.udp import UdpListener
from tests.ports import free_port
from tests.support import cluster, config, echo, listener, port_of, running, tcp_server, udp, udp_server, wait_until


def front(destination="echo", **fields):
    return listener("in", destination, protocol="UDP", **fields)


def echoed(**fields):
    return config(clusters=[echo()], listeners=[front(**fields)])


def through(upstream: int, **fields):
    return config(clusters=[cluster("up", upstream, protocol="UDP")], listeners=[front("up", **fields)])


def raw_udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.bind(("127.0.0.1", 0))
    return sock


async def test_every_peer_has_a_session_and_gets_only_its_own_answers():
    async with (
        udp_server() as server,
        running(through(server.port)) as proxy,
        udp(port_of(proxy, "in")) as john,
        udp(port_of(proxy, "in")) as jane,
    ):
        for n in range(20):
            john.send(b"john %d" % n)
            jane.send(b"jane %d" % n)
        assert [await john.read() for _ in range(20)] == [b"john %d" % n for n in range(20)]
        assert [await jane.read() for _ in range(20)] == [b"jane %d" % n for n in range(20)]
        assert len(proxy.listeners["in"].live) == 2
        names = {session.name.rsplit("-", 1)[0] for session in proxy.sessions()}
        assert names == {f"UDP:127.0.0.1:{peer.port}-127.0.0.1:0" for peer in (john, jane)}


async def test_sizes_from_nothing_to_the_largest_pass_unchanged_one_at_a_time_and_in_batches():
    sizes = [0, 1, 64, 64, 64, 512, 1400, 1400, 0, 9000, 9000, 60_000, 65_507, 3, 3, 2]
    sent = [bytes([n % 251]) * size for n, size in enumerate(sizes)]
    loop = asyncio.get_running_loop()
    with raw_udp() as server, raw_udp() as client:  # asyncio's datagram transports send nothing empty
        loop.add_reader(server, lambda: server.sendto(*server.recvfrom(65_535)))
        async with running(through(server.getsockname()[1])) as proxy:
            client.connect(("127.0.0.1", port_of(proxy, "in")))
            for data in sent:
                client.send(data)
                assert await loop.sock_recv(client, 65_535) == data
            assert not proxy.listeners["in"].adaptive.batching
            for _ in range(10):
                for data in sent:
                    client.send(data)
                assert [await loop.sock_recv(client, 65_535) for _ in sent] == sent
            assert proxy.listeners["in"].adaptive.batching
            assert proxy.listeners["in"].datagrams() == {"received": 11 * len(sent), "sent": 11 * len(sent)}
        loop.remove_reader(server)


async def test_batches_stop_when_datagrams_come_alone_again():
    async with udp_server() as server, running(through(server.port)) as proxy, udp(port_of(proxy, "in")) as client:
        adaptive = proxy.listeners["in"].adaptive
        for _ in range(6):
            client.send(b"two")
            client.send(b"two")
            await client.read()
            await client.read()
        assert adaptive.batching
        for _ in range(20):
            client.send(b"one")
            await client.read()
        assert not adaptive.batching


async def batching(proxy, *clients):
    """Send in pairs until batches are taken at both ends of each session."""
    for _ in range(20):
        for client in clients:
            client.send(b"two")
            client.send(b"two")
            assert [await client.read(), await client.read()] == [b"two", b"two"]
    assert proxy.listeners["in"].adaptive.batching
    assert all(session.destination.adaptive.batching for session in proxy.sessions())


@pytest.fixture
def ticking(monkeypatch):
    """Those that take batches are soon looked at by ticks, and go on so."""
    monkeypatch.setattr(pace, "MANY", 0)
    monkeypatch.setattr(pace, "FEW", 0)
    monkeypatch.setattr(pace, "LOOKS", 4)


async def test_when_ticks_look_at_batches_every_peer_gets_its_own_answers_in_order(ticking):
    async with (
        udp_server() as server,
        running(through(server.port)) as proxy,
        udp(port_of(proxy, "in")) as john,
        udp(port_of(proxy, "in")) as jane,
    ):
        await batching(proxy, john, jane)
        (ticks,) = [each.ticks for each in pace._paces.values()]
        assert len(ticks.fds) == 3
        for n in range(100):
            john.send(b"john %d" % n)
            jane.send(b"jane %d" % n)
        assert [await john.read() for _ in range(100)] == [b"john %d" % n for n in range(100)]
        assert [await jane.read() for _ in range(100)] == [b"jane %d" % n for n in range(100)]
        for n in range(40):  # alone
            john.send(b"%d" % n)
            assert await john.read() == b"%d" % n
        assert not proxy.listeners["in"].adaptive.batching
    assert not pace._paces


async def test_sessions_that_end_while_they_take_batches_leave_nothing_behind(ticking):
    async with udp_server() as server, running(through(server.port)) as proxy, udp(port_of(proxy, "in")) as client:
        for _ in range(3):
            await batching(proxy, client)
            (session,) = proxy.sessions()
            session.kill()
            (left,) = pace._paces.values()
            assert len(left.callbacks) == 1  # the listener


async def test_a_listener_that_takes_batches_is_replaced_and_removed_like_any_other(ticking):
    async with udp_server() as server, running() as proxy:
        with raw_udp() as sock:
            port = sock.getsockname()[1]
        await proxy.apply(through(server.port, port=port))
        async with udp(port) as client:
            await batching(proxy, client)
            before = proxy.listeners["in"]
            await proxy.apply(through(server.port, port=port, options={"idle_timeout": 99}))
            assert proxy.listeners["in"] is not before
            await batching(proxy, client)
            (session,) = proxy.sessions()
            session.kill()  # the last one of the old listener, which lets go of what it has handed over
            assert before.bound == []
            await batching(proxy, client)
            await proxy.apply(config())
            for session in proxy.sessions():
                session.kill()
            assert not pace._paces


async def test_an_upstream_that_takes_batches_can_be_paused_and_resumed(ticking):
    async with udp_server() as server, running(through(server.port)) as proxy, udp(port_of(proxy, "in")) as client:
        await batching(proxy, client)
        (session,) = proxy.sessions()
        session.destination.pause()
        client.send(b"waits")
        await wait_until(lambda: kernel_holds(session.destination.sock))
        await asyncio.sleep(0.005)
        assert client.inbox.empty()
        session.destination.resume()
        assert await client.read() == b"waits"
        session.destination.pause()
        session.kill()
        assert len(next(iter(pace._paces.values())).callbacks) == 1


def kernel_holds(sock) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


async def test_without_recvmmsg_the_plain_calls_do(monkeypatch):
    monkeypatch.setattr("listeners.udp.receiver", lambda family: None)
    monkeypatch.setattr("clusters.udp.receiver", lambda family: None)
    async with udp_server() as server, running(through(server.port)) as proxy, udp(port_of(proxy, "in")) as client:
        for n in range(200):
            client.send(b"%d" % n)
        assert [await client.read() for _ in range(200)] == [b"%d" % n for n in range(200)]


async def test_a_transform_sees_every_datagram_of_a_batch(tmp_path):
    file = tmp_path / "log"
    logger = {"name": "log", "spec": {"protocol": "Logger", "log_file": str(file), "log_prefix": "p"}}
    async with udp_server() as server:
        conf = config(clusters=[cluster("up", server.port, protocol="UDP"), logger], listeners=[front("up", ingress=["log"])])
        async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
            for _ in range(5):
                for n in range(8):
                    client.send(b"%d;" % n)
                assert [await client.read() for _ in range(8)] == [b"%d;" % n for n in range(8)]
    wanted = b"".join(b"p: %d;" % n for n in range(8)) * 5
    await wait_until(lambda: file.read_bytes() == wanted, "for what was logged")


async def test_ipv6_peers_are_served_alone_and_in_batches():
    conf = echoed(spec={"address": "::1"})
    loop = asyncio.get_running_loop()
    async with running(conf) as proxy:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(("::1", port_of(proxy, "in")))
            for _ in range(5):
                for n in range(8):
                    client.send(b"%d" % n)
                assert [await loop.sock_recv(client, 99) for _ in range(8)] == [b"%d" % n for n in range(8)]
            (session,) = proxy.sessions()
            assert session.metadata["IP"] == {"src_addr": "::1", "dst_addr": "::1"}


async def test_on_the_double_address_ipv4_is_shown_plainly():
    async with running(echoed(spec={"address": "::"})) as proxy, udp(port_of(proxy, "in")) as client:
        for _ in range(5):
            client.send(b"a")
            client.send(b"b")
            assert [await client.read(), await client.read()] == [b"a", b"b"]
        (session,) = proxy.sessions()
        assert session.metadata["IP"]["src_addr"] == "127.0.0.1"


async def test_the_double_address_is_ipv4_alone_where_the_kernel_has_no_ipv6(monkeypatch):
    made = socket.socket

    def without_ipv6(family, *more):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return made(family, *more)

    monkeypatch.setattr("listeners.udp.socket.socket", without_ipv6)
    async with running(echoed(spec={"address": "::"})) as proxy:
        monkeypatch.undo()
        async with udp(port_of(proxy, "in")) as client:
            client.send(b"a")
            assert await client.read() == b"a"


async def test_a_half_specified_connect_lets_only_its_peers_in():
    async with udp_server(None) as known, running() as proxy:
        for connect, dropped in (({"port": known.port}, 1), ({"address": "127.0.0.9"}, 1), ({"address": "127.0.0.1"}, 0)):
            await proxy.apply(config())
            await proxy.apply(echoed(spec={"connect": connect}))
            async with udp(port_of(proxy, "in")) as client:
                client.send(b"x")
                if dropped:
                    await wait_until(lambda: proxy.listeners["in"].dropped == {"filtered": 1})
                else:
                    assert await client.read() == b"x"
        await proxy.apply(config())
        await proxy.apply(echoed(spec={"connect": {"port": known.port}}))
        known.transport.sendto(b"me", ("127.0.0.1", port_of(proxy, "in")))
        assert await known.read() == b"me"


async def test_a_singleton_has_its_one_session_from_the_start_and_nobody_else_gets_one():
    async with udp_server(None) as peer, udp_server(None) as upstream:
        conf = through(upstream.port, spec={"connect": {"address": "127.0.0.1", "port": peer.port}})
        async with running(conf) as proxy:
            (session,) = proxy.sessions()
            async with udp(port_of(proxy, "in")) as stranger:
                stranger.send(b"let me in")
                await wait_until(lambda: proxy.listeners["in"].dropped == {"filtered": 1})
            peer.transport.sendto(b"hello", ("127.0.0.1", port_of(proxy, "in")))
            assert await upstream.read() == b"hello"
            upstream.transport.sendto(b"back", session.destination.sock.getsockname())
            assert await peer.read() == b"back"
            proxy.listeners["in"].tick(asyncio.get_running_loop().time() + 10_000)
            assert list(proxy.sessions()) == [session]


def test_a_singleton_without_a_peer_is_refused():
    with pytest.raises(Error, match="Singleton mode requested"):
        UdpListener(Listener("in", {"protocol": "UDP", "port": 0, "options": {"mode": "singleton"}}, "r"), None)


async def test_sessions_end_when_idle_and_sooner_when_nobody_answered():
    async with (
        udp_server(lambda data: data if data != b"silence" else None) as server,
        running(through(server.port)) as proxy,
        udp(port_of(proxy, "in")) as heard,
        udp(port_of(proxy, "in")) as ignored,
    ):
        heard.send(b"x")
        assert await heard.read() == b"x"
        ignored.send(b"silence")
        listening = proxy.listeners["in"]
        await wait_until(lambda: len(listening.live) == 2)
        now = asyncio.get_running_loop().time()
        listening.tick(now)
        listening.tick(now + 29)
        assert len(listening.live) == 2
        listening.tick(now + 31)
        assert [s.source.address[1] for s in listening.live] == [heard.port]
        listening.tick(now + 59)
        heard.send(b"y")
        assert await heard.read() == b"y"
        listening.tick(now + 61)
        assert len(listening.live) == 1
        listening.tick(now + 122)
        assert not listening.live
        heard.send(b"again")
        assert await heard.read() == b"again"


async def test_when_full_the_oldest_that_was_never_answered_goes_and_then_the_answered_one_that_is_idle_longest():
    async with (
        udp_server(lambda data: data if data != b"silence" else None) as server,
        running(through(server.port, options={"max_sessions": 3})) as proxy,
        contextlib.AsyncExitStack() as stack,
    ):
        listening = proxy.listeners["in"]
        clients = [await stack.enter_async_context(udp(port_of(proxy, "in"))) for _ in range(5)]
        for n, words in enumerate((b"a", b"silence", b"silence")):
            clients[n].send(words)
            await wait_until(lambda n=n: len(listening.live) == n + 1)
        assert await clients[0].read() == b"a"
        clients[3].send(b"d")
        assert await clients[3].read() == b"d"
        assert {s.source.address[1] for s in listening.live} == {clients[n].port for n in (0, 2, 3)}
        clients[4].send(b"e")
        assert await clients[4].read() == b"e"
        clients[1].send(b"f")
        assert await clients[1].read() == b"f"
        assert {s.source.address[1] for s in listening.live} == {clients[n].port for n in (1, 3, 4)}
        assert listening.dropped == {"evicted": 2}


async def test_one_source_gets_so_many_new_sessions_a_second_and_no_more():
    async with running(echoed(options={"max_new_sessions_per_second": 2})) as proxy, contextlib.AsyncExitStack() as stack:
        listening = proxy.listeners["in"]
        clients = [await stack.enter_async_context(udp(port_of(proxy, "in"))) for _ in range(3)]
        for client in clients:
            client.send(b"x")
        await wait_until(lambda: listening.dropped == {"rate": 1})
        assert len(listening.live) == 2
        listening.tick(asyncio.get_running_loop().time())
        clients[2].send(b"x")
        assert await clients[2].read() == b"x"
        clients[0].send(b"known")
        assert [await clients[0].read(), await clients[0].read()] == [b"x", b"known"]


async def test_a_killed_session_is_gone_and_the_next_datagram_makes_a_new_one():
    async with running(echoed()) as proxy, udp(port_of(proxy, "in")) as client:
        client.send(b"a")
        assert await client.read() == b"a"
        (session,) = proxy.sessions()
        session.kill()
        assert not proxy.listeners["in"].peers
        client.send(b"b")
        assert await client.read() == b"b"
        (again,) = proxy.sessions()
        assert again.number == session.number + 1


async def test_a_session_counts_messages_and_bytes_both_ways():
    async with udp_server() as server, running(through(server.port)) as proxy, udp(port_of(proxy, "in")) as client:
        for _ in range(3):
            client.send(b"12345")
            await client.read()
        (session,) = proxy.sessions()
        counters = session.dump()["counters"]
        assert {name: counters[name] for name in ("bytes_in", "bytes_out", "messages_in", "messages_out")} == {
            "bytes_in": 15,
            "bytes_out": 15,
            "messages_in": 3,
            "messages_out": 3,
        }


async def test_a_port_in_use_is_refused_in_l7mps_words():
    async with udp_server() as taken, running() as proxy:
        with pytest.raises(Error, match=f"Could not bind to 127.0.0.1:{taken.port}: bind EADDRINUSE"):
            await proxy.apply(echoed(port=taken.port))


async def test_a_change_that_fails_gives_the_port_back():
    async with udp_server(None) as taken, running() as proxy:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        two = [front(port=port), {**front(port=taken.port), "name": "other"}]
        with pytest.raises(Error):
            await proxy.apply(config(clusters=[echo()], listeners=two))
        await proxy.apply(echoed(port=port))


async def test_a_removed_listener_serves_its_sessions_and_no_new_ones_and_then_closes():
    async with running(echoed()) as proxy, udp(port_of(proxy, "in")) as old:
        listening, port = proxy.listeners["in"], port_of(proxy, "in")
        old.send(b"a")
        assert await old.read() == b"a"
        await proxy.apply(config(clusters=[echo()]))
        async with udp(port) as new:
            new.send(b"x")
            await wait_until(lambda: listening.dropped == {"stopped": 1})
        old.send(b"b")
        assert await old.read() == b"b"
        (session,) = proxy.sessions()
        session.kill()
        assert listening.bound == []


async def test_a_replaced_listener_keeps_its_peers_and_the_new_one_gets_the_others():
    async with udp_server() as server, running() as proxy:
        base = through(server.port)
        await proxy.apply(base)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        await proxy.apply(through(server.port, port=port))
        before = proxy.listeners["in"]
        async with udp(port) as old, udp(port) as new:
            old.send(b"a")
            assert await old.read() == b"a"
            (session,) = proxy.sessions()
            await proxy.apply(through(server.port, port=port, options={"idle_timeout": 99}))
            after = proxy.listeners["in"]
            assert after is not before
            for n in range(10):
                old.send(b"%d" % n)
                old.send(b"%d" % n)
                new.send(b"n")
                assert [await old.read(), await old.read(), await new.read()] == [b"%d" % n, b"%d" % n, b"n"]
            assert session in after.live and session.listener is after
            assert {s.source.address[1] for s in after.live} == {old.port, new.port}
            assert before.bound == [] and not before.live
            session.kill()
            old.send(b"now mine")
            assert await old.read() == b"now mine"
            assert len(after.live) == 2


async def test_answers_that_bounce_harm_nobody():
    async with udp_server(None) as server, running(through(server.port)) as proxy:
        async with udp(port_of(proxy, "in")) as gone:
            gone.send(b"x")
            assert await server.read() == b"x"
        (session,) = proxy.sessions()
        for _ in range(3):
            server.transport.sendto(b"late", session.destination.sock.getsockname())
        await wait_until(lambda: session.source.messages_out == 3)
        async with udp(port_of(proxy, "in")) as other:
            other.send(b"y")
            assert await server.read() == b"y"


async def test_datagrams_become_a_byte_stream_in_order_and_its_end_ends_the_session():
    async with tcp_server() as server:
        conf = config(clusters=[cluster("up", server.port)], listeners=[front("up")])
        async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
            for n in range(10):
                client.send(b"%d" % n)
            upstream = await server.peer()
            assert await upstream.read(10) == b"0123456789"
            upstream.send(b"answer")
            assert await client.read() == b"answer"
            upstream.end()
            await wait_until(lambda: not proxy.listeners["in"].live)
            assert await upstream.read_all() == b""


async def test_a_finished_peer_does_not_leave_its_byte_stream_open():
    async with tcp_server() as server:
        conf = config(clusters=[cluster("up", server.port)], listeners=[front("up")])
        async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
            client.send(b"x")
            upstream = await server.peer()
            assert await upstream.read(1) == b"x"
            listening = proxy.listeners["in"]
            now = asyncio.get_running_loop().time()
            (session,) = listening.live
            destination = session.destination
            listening.tick(now)
            listening.tick(now + 1000)
            assert await upstream.read_all() == b""
            await wait_until(lambda: destination.closed)


async def test_two_thousand_sessions_at_once_are_each_answered():
    with contextlib.ExitStack() as stack:
        async with running(echoed()) as proxy:
            loop = asyncio.get_running_loop()
            clients = []
            for n in range(2000):
                client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                client.setblocking(False)
                client.connect(("127.0.0.1", port_of(proxy, "in")))
                client.send(b"%d" % n)
                clients.append(client)
                if n % 100 == 99:
                    await asyncio.sleep(0)
            for n, client in enumerate(clients):
                assert await asyncio.wait_for(loop.sock_recv(client, 99), 2) == b"%d" % n
            assert len(proxy.listeners["in"].live) == 2000


def test_options_that_are_unknown_or_no_numbers_are_found():
    found = UdpListener.check_options({"max_sessions": -1, "colour": 1, "idle_timeout": 5}, "$.options")
    assert [problem.path for problem in found] == ["$.options.colour", "$.options.max_sessions"]


def test_a_spec_is_checked():
    bad = {"protocol": "UDP", "port": 99999, "connect": {"port": 0}, "options": {"mode": "both"}}
    assert [problem.path for problem in UdpListener.check(bad, "$")] == ["$.port", "$.connect.port", "$.options.mode"]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("connect", {"address": 5}, "$.connect.address: expected an address, got 5 (allowed: an IP address or a host name)"),
        ("connect", {"address": ["127.0.0.1"]}, "$.connect.address"),
        ("connect", {"address": "1.2.3.4.5"}, "$.connect.address"),
        ("connect", {"port": True}, "$.connect.port: expected a port 1..65535, got True (allowed: 1..65535)"),
        ("connect", {"adress": "::1"}, "$.connect.adress: unknown field 'adress' (allowed: address, port); did you mean 'address'?"),
        ("options", {"mod": "server"}, "$.options.mod: unknown field 'mod' (allowed: mode); did you mean 'mode'?"),
        ("options", "server", "$.options: expected an object, got 'server' (allowed: {mode})"),
    ],
)
def test_of_the_peer_and_the_mode_every_wrong_value_is_named(field, value, said):
    (problem,) = UdpListener.check({"protocol": "UDP", "port": 1, field: value}, "$")
    assert str(problem).startswith(said)


def test_peers_are_addresses_or_names_that_may_be_left_out():
    for connect in (None, {}, {"address": "::1"}, {"address": "peer-1.example", "port": 9}, {"port": 9, "address": None}):
        assert UdpListener.check({"protocol": "UDP", "port": 1, "connect": connect, "options": {}}, "$") == []


async def test_of_a_peer_that_has_asked_two_addresses_one_session_is_left_when_there_is_one() -> None:
    port = free_port()
    async with udp_server() as server:
        base = config(clusters=[cluster("up", server.port, protocol="UDP")])
        async with running(base) as proxy:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(5)
                client.bind(("127.0.0.1", 0))
                for address, hosts in (("0.0.0.0", ("127.0.0.1", "127.0.0.2")), ("127.0.0.1", ("127.0.0.1",))):
                    front = listener("in", "up", protocol="UDP", port=port, spec={"address": address})
                    await proxy.apply(config(listeners=[front], base=proxy.config))
                    for host in hosts:
                        client.sendto(host.encode(), (host, port))
                        assert await asyncio.to_thread(client.recvfrom, 99) == (host.encode(), (host, port))
                    assert len(proxy.listeners["in"].live) == len(proxy.listeners["in"].peers) == len(hosts)
