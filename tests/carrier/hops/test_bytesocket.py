"""Byte streams through a proxy on loopback: half-close, back-pressure, resets, bulk, and what is left when a session is killed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from carrier.core.stream import DESTROYED, HIGH, Stream, link
from carrier.hops import bytesocket, splice
from carrier.hops.bytesocket import ByteSocket
from carrier.hops.lookout import has_error
from carrier.hops.tls import Tls
from tests.support import Peer, ask, cluster, config, echo, echoing, listener, port_of, running, tcp, tcp_server, wait_until

MIB = 1 << 20


def relay(port: int, **route: object) -> object:
    return config(clusters=[cluster("up", port)], listeners=[listener("in", "up", **route)])


def only_session(proxy):
    (session,) = proxy.listeners["in"].live
    return session


def chunks(count: int, seed: int = 1) -> list[bytes]:
    """Pieces of all sizes, small ones and ones that fill many reads."""
    choose = random.Random(seed)
    return [choose.randbytes(choose.choice((1, 100, 4096, 65_536, 300_000, 1_500_000))) for _ in range(count)]


def digest(parts: list[bytes]) -> str:
    return hashlib.blake2b(b"".join(parts)).hexdigest()


async def test_a_half_closed_downstream_still_gets_its_answer():
    async def answer_at_the_end(peer: Peer) -> None:
        said = await peer.read_all()
        peer.send(b"heard " + said)

    async with tcp_server(answer_at_the_end) as server, running(relay(server.port)) as proxy:
        assert await ask(port_of(proxy, "in"), b"all of it") == b"heard all of it"
        await wait_until(lambda: not proxy.listeners["in"].live)


async def test_a_half_closed_upstream_still_hears_what_comes():
    async with tcp_server() as server, running(relay(server.port)) as proxy, tcp(port_of(proxy, "in")) as client:
        upstream = await server.peer()
        upstream.send(b"greeting")
        upstream.end()
        assert await client.read_all() == b"greeting"
        client.send(b"still here")
        client.end()
        assert await upstream.read_all() == b"still here"
        await wait_until(lambda: not proxy.listeners["in"].live)


async def test_a_reset_downstream_resets_the_upstream():
    async with tcp_server() as server, running(relay(server.port)) as proxy, tcp(port_of(proxy, "in")) as client:
        upstream = await server.peer()
        client.send(b"x")
        assert await upstream.read(1) == b"x"
        client.reset()
        with pytest.raises(ConnectionResetError):
            await upstream.read_all()
        await wait_until(lambda: not proxy.listeners["in"].live)


async def test_a_reset_upstream_resets_the_downstream():
    async with tcp_server() as server, running(relay(server.port)) as proxy, tcp(port_of(proxy, "in")) as client:
        upstream = await server.peer()
        client.send(b"x")
        assert await upstream.read(1) == b"x"
        upstream.reset()
        with pytest.raises(ConnectionResetError):
            await client.read_all()
        await wait_until(lambda: not proxy.listeners["in"].live)


async def test_an_early_answer_arrives_though_the_upstream_then_refuses_the_rest():
    async def answer_early(peer: Peer) -> None:
        await peer.read(1)
        peer.send(b"too much")
        peer.writer.transport.pause_reading()  # what is unread at close() makes the kernel send an RST
        await asyncio.sleep(0.05)

    async with tcp_server(answer_early) as server, running(relay(server.port)) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"x" * 100_000)
        assert await client.read(8) == b"too much"


async def test_a_slow_reader_holds_the_writer_up_and_loses_nothing():
    sent = [b"%08d" % i * 1024 for i in range(4096)]  # 32 MiB: more than the kernel's buffers

    async with tcp_server() as server, running(relay(server.port)) as proxy, tcp(port_of(proxy, "in")) as client:
        upstream = await server.peer()
        client.reader._limit = 1024  # the client's own reader stops at this: the kernel's buffers fill
        for part in sent:
            upstream.send(part)
        upstream.end()
        session = only_session(proxy)
        source, destination = session.source, session.destination
        await wait_until(lambda: source.full and destination.paused, "for the upstream to be paused")
        held = source.size + (source.pipe.held if source.pipe else 0)
        assert held <= max(2 * HIGH, splice.SIZE)
        before = destination.bytes_in
        await asyncio.sleep(0.05)
        assert destination.bytes_in == before < 32 * MIB  # nothing is read while nothing is written
        client.reader._limit = 65536
        assert hashlib.blake2b(await client.read_all()).hexdigest() == digest(sent)


@pytest.mark.parametrize("pipes", [0, 1, 64], ids=["no pipes", "one pipe for two directions", "pipes"])
async def test_bulk_in_pieces_of_all_sizes_arrives_whole_both_ways(pipes, monkeypatch):
    pool = splice.Pool(pipes)
    monkeypatch.setattr(bytesocket, "POOL", pool)
    up, down = chunks(60, 1), chunks(60, 2)

    async def both(peer: Peer) -> None:
        heard = asyncio.ensure_future(peer.reader.read(-1))
        for part in down:
            peer.send(part)
            await peer.writer.drain()
        peer.end()
        peer.heard = await heard

    async with tcp_server(both) as server, running(relay(server.port)) as proxy, tcp(port_of(proxy, "in")) as client:
        answer = asyncio.ensure_future(client.reader.read(-1))
        for part in up:
            client.send(part)
            await client.writer.drain()
        client.end()
        assert hashlib.blake2b(await asyncio.wait_for(answer, 20)).hexdigest() == digest(down)
        await wait_until(lambda: hasattr(server.peers[0], "heard"))
        assert hashlib.blake2b(server.peers[0].heard).hexdigest() == digest(up)
        await wait_until(lambda: not proxy.listeners["in"].live)
    assert pool.made == len(pool.idle) == min(pipes, pool.made)
    assert bool(pool.made) == bool(pipes)
    for pipe in pool.idle:
        pipe.close()


async def test_bulk_goes_through_a_pipe_and_the_pipe_comes_back():
    async with tcp_server() as server, running(relay(server.port)) as proxy, tcp(port_of(proxy, "in")) as client:
        upstream = await server.peer()
        out = splice.POOL.made - len(splice.POOL.idle)
        for _ in range(64):
            upstream.send(bytes(MIB))
        source = only_session(proxy).source
        await wait_until(lambda: source.pipe is not None, "for bulk")
        await client.read(64 * MIB)
        upstream.send(b"small again")
        assert await client.read(11) == b"small again"
        await wait_until(lambda: source.pipe is None, "for the pipe to be given back")
        assert splice.POOL.made - len(splice.POOL.idle) == out
        assert source.bytes_out == 64 * MIB + 11 == only_session(proxy).destination.bytes_in


async def test_a_transform_between_sees_every_byte_of_bulk(tmp_path):
    file = tmp_path / "log"
    logger = {"name": "log", "spec": {"protocol": "Logger", "log_file": str(file)}}
    sent = os.urandom(3 * MIB)
    async with tcp_server(echoing) as server:
        conf = config(clusters=[cluster("up", server.port), logger], listeners=[listener("in", "up", ingress=["log"])])
        async with running(conf) as proxy:
            assert await ask(port_of(proxy, "in"), sent) == sent
    await wait_until(lambda: file.stat().st_size == len(sent), "for the thread that writes")
    assert file.read_bytes() == sent


async def test_a_session_killed_in_mid_transfer_leaves_neither_pipe_nor_descriptor():
    def held() -> int:
        """Descriptors but for those of the pool, which keeps its pipes."""
        return len(os.listdir("/proc/self/fd")) - 2 * len(splice.POOL.idle)

    async with tcp_server():
        pass  # a loop that listens keeps a spare descriptor from then on
    descriptors = held()
    async with tcp_server() as server, running(relay(server.port)) as proxy:
        for _ in range(3):
            async with tcp(port_of(proxy, "in")) as client:
                client.reader._limit = 1024
                upstream = await server.peer(len(server.peers) if server.peers and server.peers[-1].writer.is_closing() else 0)
                for _ in range(32):
                    upstream.send(bytes(MIB))
                session = only_session(proxy)
                await wait_until(lambda s=session: s.source.full, "for a full pipe")
                session.kill()
                await wait_until(lambda: not proxy.listeners["in"].live)
                upstream.writer.transport.abort()
    await wait_until(lambda: held() <= descriptors, "for descriptors to be closed")


async def test_soak_many_streams_that_end_and_break_at_random_moments():
    """Every stream that ends in order has arrived whole; one that is cut is a prefix. Nothing is left when all are over."""

    async def server_side(peer: Peer) -> None:
        choose = random.Random(int(await peer.read(4)))
        body = choose.randbytes(choose.randrange(3 * MIB))
        cut = choose.random() < 0.3
        end = choose.randrange(len(body)) if cut else len(body)
        at = 0
        while at < end:
            size = choose.choice((10, 5000, 70_000, 400_000))
            peer.send(body[at : min(at + size, end)])
            at += size
            await peer.writer.drain()
        if cut:
            peer.reset()

    async def one(port: int, seed: int) -> None:
        choose = random.Random(seed)
        body = choose.randbytes(choose.randrange(3 * MIB))
        cut = choose.random() < 0.3
        heard = b""
        async with tcp(port) as client:
            client.send(b"%04d" % seed)
            try:
                heard = await client.read_all()
            except ConnectionResetError:
                assert cut
                return
        assert body.startswith(heard)
        assert cut or len(heard) == len(body)

    async with tcp_server(server_side) as server, running(relay(server.port)) as proxy:
        await asyncio.gather(*(one(port_of(proxy, "in"), seed) for seed in range(24)))
        await wait_until(lambda: not proxy.listeners["in"].live)


async def test_an_error_behind_the_last_bytes_is_found_though_the_loop_says_nothing():
    """uvloop calls the reader once for bytes and RST together, and never again (carrier/hops/lookout.py)."""
    async with tcp_server() as server, running(relay(server.port)) as proxy, tcp(port_of(proxy, "in")) as client:
        upstream = await server.peer()
        client.send(b"x")
        assert await upstream.read(1) == b"x"
        destination = only_session(proxy).destination
        destination.pause()  # so that both are there when it is read again
        upstream.send(b"last words")
        upstream.reset()
        await wait_until(lambda: has_error(destination.sock.fileno()), "for the RST")
        destination.resume()
        assert await client.read(10) == b"last words"
        with pytest.raises(ConnectionResetError):
            await client.read_all()


async def test_an_echo_paces_itself():
    async with running(config(clusters=[echo()], listeners=[listener("in")])) as proxy, tcp(port_of(proxy, "in")) as client:
        client.reader._limit = 1024
        for _ in range(16):
            client.send(bytes(MIB))
        source = only_session(proxy).source
        await wait_until(lambda: source.full and source.paused)
        assert source.size < 2 * HIGH + 65536
        client.reader._limit = 65536
        await client.read(16 * MIB)


async def test_it_counts_what_it_reads_and_writes():
    async with tcp_server(echoing) as server, running(relay(server.port)) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"12345")
        assert await client.read(5) == b"12345"
        counters = only_session(proxy).dump()["counters"]
        assert (counters["bytes_in"], counters["bytes_out"], counters["messages_in"], counters["messages_out"]) == (5, 5, 1, 1)


# --- the shortcut -----------------------------------------------------------------------------------------------------------------


class Pair:
    """Two byte sockets in a ring, each with a peer: what left says is read by here, written by there, and heard by right."""

    def __init__(self, left: tuple[socket.socket, socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        (near, self.left), (far, self.right) = left or socket.socketpair(), socket.socketpair()
        for sock in (near, far, self.left, self.right):
            sock.setblocking(False)
        self.here, self.there = ByteSocket(loop, near, "downstream"), ByteSocket(loop, far, "upstream")
        link([self.here, self.there])
        self.here.resume()
        self.there.resume()

    def close(self) -> None:
        for one in (self.here, self.there, self.left, self.right):
            one.close()

    def reader(self):
        """What the loop would call when here is readable."""
        found = self.here.shortcut_to(self.here.to)
        assert found is not None
        return found


@pytest.fixture
async def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


async def test_a_busy_relay_is_read_by_a_shortcut_until_it_is_quiet():
    async with tcp_server(echoing) as server, running(relay(server.port)) as proxy, tcp(port_of(proxy, "in")) as client:
        for i in range(5):
            client.send(b"%d" % i)
            assert await client.read(1) == b"%d" % i
            session = only_session(proxy)
            assert session.source.short == (i > 0), "from the second of two reads in a row on"
        assert session.destination.short
        counters = session.dump()["counters"]
        assert [counters[name] for name in ("bytes_in", "bytes_out", "messages_in", "messages_out")] == [5, 5, 5, 5]
        assert (session.destination.bytes_in, session.destination.messages_out) == (5, 5)
        await wait_until(lambda: not session.source.short and not session.destination.short, "for a quiet moment")
        client.send(b"again")
        assert await client.read(5) == b"again"


async def test_bulk_after_small_messages_goes_through_a_pipe_and_small_ones_after_it_do_not():
    async with tcp_server(echoing) as server, running(relay(server.port)) as proxy, tcp(port_of(proxy, "in")) as client:
        for _ in range(3):
            client.send(b"small")
            assert await client.read(5) == b"small"
        source = only_session(proxy).source
        assert source.short
        sent = os.urandom(4 * MIB)
        heard = asyncio.ensure_future(client.read(len(sent)))
        client.send(sent)
        await wait_until(lambda: source.bulk, "for bulk")
        assert not source.short
        assert await heard == sent
        for _ in range(4):
            client.send(b"small")
            assert await client.read(5) == b"small"
        assert source.short and not source.bulk
        assert source.bytes_in == source.bytes_out == 4 * MIB + 35


async def test_small_messages_for_a_slow_reader_wait_and_none_is_lost():
    async with tcp_server() as server, running(relay(server.port)) as proxy, tcp(port_of(proxy, "in")) as client:
        upstream = await server.peer()
        upstream.reader._limit = 1024
        sent = 0
        source, destination = only_session(proxy).source, only_session(proxy).destination
        while not destination.full:
            client.send(b"%07d " % sent * 100)
            sent += 1
            await client.writer.drain()
            await asyncio.sleep(0)
        assert source.paused and destination.size <= HIGH + 65536
        client.end()
        upstream.reader._limit = 1 << 20
        assert await upstream.read_all() == b"".join(b"%07d " % i * 100 for i in range(sent))
        assert destination.bytes_out == source.bytes_in == sent * 800


async def test_the_shortcut_leaves_to_the_ordinary_way_what_waits_behind_other_bytes(pair):
    readable = pair.reader()
    pair.there.queue(memoryview(b"first "))
    pair.left.send(b"second")
    readable()
    assert pair.there.size == 12
    await wait_until(lambda: not pair.there.size)
    assert pair.right.recv(99) == b"first second"


async def test_a_write_that_the_kernel_does_not_take_leaves_what_waits_as_it_is(pair):
    while not pair.there.size:
        pair.there.data(bytes(65536))
    waiting = list(pair.there.pending or ())
    pair.there._writable()
    assert list(pair.there.pending or ()) == waiting and pair.there.size == sum(map(len, waiting))


async def test_the_shortcut_follows_a_link_that_has_changed(pair):
    readable, other = pair.reader(), Pair()
    pair.here.to = other.there
    pair.left.send(b"x")
    readable()
    assert other.right.recv(9) == b"x" and pair.there.bytes_out == 0
    other.close()


async def test_the_shortcut_to_a_peer_that_is_gone_fails_as_the_ordinary_way_does(pair):
    readable = pair.reader()
    pair.right.send(b"last words")
    pair.right.close()
    pair.left.send(b"x")
    readable()
    assert pair.left.recv(99) == b"last words"
    assert pair.there.closed and pair.here.closed


@pytest.mark.parametrize("gone", ["close", "end"])
async def test_bytes_for_a_hop_that_takes_no_more_are_dropped(pair, gone):
    readable = pair.reader()
    getattr(pair.there, gone)()
    pair.left.send(b"late")
    readable()
    assert (pair.there.bytes_out, pair.here.bytes_in) == (0, 4)
    assert not pair.here.closed


@pytest.mark.parametrize("gone", ["close", "takeover"])
async def test_the_shortcut_does_not_write_to_the_next_owner_of_a_descriptor(pair, gone):
    readable, number = pair.reader(), pair.there.sock.fileno()
    near, far = socket.socketpair()
    with near, far:
        taken = getattr(pair.there, gone)()
        if taken is not None:
            taken.close()
        os.dup2(near.fileno(), number)
        far.setblocking(False)
        pair.left.send(b"for the old one")
        readable()
        os.close(number)
        with pytest.raises(BlockingIOError):
            far.recv(99)


async def test_the_shortcut_sees_the_end_and_says_so(pair):
    readable = pair.reader()
    readable()  # nothing there
    pair.left.shutdown(socket.SHUT_WR)
    readable()
    assert pair.here.ended_in and pair.right.recv(9) == b""


async def test_a_socket_that_was_closed_by_a_shortcut_is_looked_at_without_harm(pair):
    pair.here._watch()
    pair.here._shorten()
    assert pair.here.short
    pair.here.close()
    assert not pair.here.look()


@pytest.mark.parametrize("size", [10, 300_000], ids=["a little", "more than one read"])
async def test_an_error_behind_the_last_bytes_is_found_by_a_shortcut_too(size):
    """uvloop has given its handle up by then, and makes no new one unless it is told to forget the old."""
    troubles: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        left = socket.create_connection(listening.getsockname())
        pair = Pair((listening.accept()[0], left))
    for i in range(3):
        left.send(b"x")
        await wait_until(lambda n=i: pair.here.bytes_in > n)
    assert pair.here.short
    left.send(b"x" * size)
    left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytesocket.LINGER_RST)
    left.close()  # before the loop has seen what was said
    await wait_until(lambda: pair.here.closed, "for the second look")
    assert pair.there.closed
    assert troubles == []
    pair.close()


async def test_there_is_no_shortcut_to_a_hop_that_does_something_to_bytes(pair):
    class Secret(Tls):
        __slots__ = ("channel",)

    secret = Secret(asyncio.get_running_loop(), pair.there.sock, "upstream")
    assert pair.here.shortcut_to(secret) is None
    assert pair.here.shortcut_to(Stream()) is None
    pair.there.queue(memoryview(b"waits"))
    assert pair.here.shortcut_to(pair.there) is None


async def test_a_killed_session_ends_in_order_for_both():
    async with tcp_server() as server, running(relay(server.port)) as proxy, tcp(port_of(proxy, "in")) as client:
        upstream = await server.peer()
        client.send(b"x")
        assert await upstream.read(1) == b"x"
        only_session(proxy).kill()
        assert await client.read_all() == b""
        assert await upstream.read_all() == b""


async def test_a_closed_socket_takes_late_calls_without_harm():
    here, there = socket.socketpair()
    here.setblocking(False)
    end = ByteSocket(asyncio.get_running_loop(), here, "upstream")
    end.resume()
    end.close()
    end.close()
    end.pause()
    end.resume()
    end.data(b"late")
    end.end()
    assert end.status() == "END"
    assert there.recv(1) == b""
    there.close()


@pytest.mark.parametrize("reads", [True, False])
async def test_the_last_bytes_of_a_session_that_is_over_are_sent_for_as_long_as_the_peer_takes_some(
    reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carrier.hops.bytesocket.GRACE", 0.15)
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    hop = ByteSocket(loop, ours, "upstream")
    hop.session = SimpleNamespace(status=DESTROYED, source=None)  # type: ignore[assignment]
    hop.data(b"x" * 60_000)
    hop.end()
    assert not hop.closed
    found = 0
    while reads and (data := await loop.sock_recv(theirs, 3000)):
        found += len(data)
        await asyncio.sleep(0.03)
    await wait_until(lambda: hop.closed)
    assert found == (60_000 if reads else 0)
    theirs.close()
