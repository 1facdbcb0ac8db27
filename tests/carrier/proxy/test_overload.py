"""Circuit breakers of clusters, and the watch on the whole process."""

from __future__ import annotations

import asyncio
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from carrier.core.endpoint import Endpoint
from carrier.core.session import Session
from carrier.core.stream import Socket
from carrier.log import Log
from carrier.proxy import overload
from carrier.proxy.overload import AGAIN, CALM, LASTING, STILL, TRIMS, Bounds, Process, Watch, _container_memory, own_bounds
from carrier.proxy.proxy import Proxy
from tests.conversation import Stage
from tests.support import (
    Peer,
    ask,
    cluster,
    config,
    echo,
    echoing,
    http,
    listener,
    port_of,
    running,
    tcp,
    tcp_server,
    udp,
    wait_until,
)

MIB = 1 << 20


# -- breakers


async def test_a_cluster_takes_no_more_connections_than_its_breaker_lets_it() -> None:
    async with tcp_server(echoing) as upstream:
        up = cluster("up", upstream.port, options={"max_connections": 2})
        async with running(config(clusters=[up], listeners=[listener("in", "up")])) as proxy:
            port = port_of(proxy, "in")
            async with tcp(port) as a, tcp(port) as b:
                for client in (a, b):
                    client.send(b"x")
                    assert await client.read(1) == b"x"
                async with tcp(port) as third:
                    with pytest.raises(ConnectionResetError):
                        await third.read_all()
                assert proxy.clusters["up"].breaker.tripped == {"max_connections": 1}
                assert len(upstream.peers) == 2
                a.end()
                assert await a.read_all() == b""
                await wait_until(lambda: len(proxy.listeners["in"].live) == 1)
                assert await ask(port, b"again") == b"again"


async def test_an_http_request_beyond_the_breaker_is_503_with_retry_after_and_the_reason() -> None:
    async with tcp_server() as upstream:
        up = cluster("up", upstream.port, protocol="HTTP", options={"max_connections": 1})
        async with running(config(clusters=[up], listeners=[listener("in", "up", protocol="HTTP")])) as proxy:
            first = asyncio.create_task(http(port_of(proxy, "in")))
            peer = await upstream.peer()
            status, headers, body = await http(port_of(proxy, "in"))
            assert (status, headers["retry-after"], headers["x-carrier-error"]) == (503, "1", "overload")
            assert b"options.max_connections" in body
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            assert (await first)[0] == 200


async def test_beyond_the_breaker_the_fallback_serves() -> None:
    async def shadow(peer: Peer) -> None:
        peer.send(b"shadow " + await peer.read(1))

    async with tcp_server(echoing) as upstream, tcp_server(shadow) as other:
        clusters = [cluster("up", upstream.port, options={"max_connections": 1}), cluster("other", other.port)]
        conf = config(clusters=clusters, listeners=[listener("in", "up", fallback="other")])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as first:
            first.send(b"x")
            assert await first.read(1) == b"x"
            assert await ask(port_of(proxy, "in"), b"y") == b"shadow y"


async def test_sessions_that_wait_for_a_connection_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    conf = config(clusters=[cluster("up", 9, options={"max_pending": 3})], listeners=[listener("in", "up")])
    async with running(conf) as proxy:

        async def hang(session: Session, endpoint: Endpoint) -> Socket:
            await asyncio.Event().wait()
            raise AssertionError

        monkeypatch.setattr(proxy.clusters["up"], "open", hang)
        breaker = proxy.clusters["up"].breaker
        clients = [await asyncio.open_connection("127.0.0.1", port_of(proxy, "in")) for _ in range(5)]
        await wait_until(lambda: breaker.tripped)
        await wait_until(lambda: len(proxy.listeners["in"].live) == 3)
        assert (breaker.pending, breaker.tripped) == (3, {"max_pending": 2})
        for _, writer in clients:
            writer.close()
        for session in list(proxy.listeners["in"].live):
            session.kill()
        await wait_until(lambda: not breaker.pending)


async def test_retries_are_bounded_and_counted_back() -> None:
    async with tcp_server() as gone:
        port = gone.port
    up = cluster("up", port, options={"max_retries": 2})
    retry = {"retry_on": "connect-failure", "num_retries": 50, "timeout": 20_000}
    async with running(config(clusters=[up], listeners=[listener("in", "up", retry=retry)])) as proxy:
        breaker = proxy.clusters["up"].breaker
        clients = [await asyncio.open_connection("127.0.0.1", port_of(proxy, "in")) for _ in range(4)]
        await wait_until(lambda: len(proxy.listeners["in"].live) == 2 and breaker.tripped)
        assert (breaker.retries, breaker.tripped) == (2, {"max_retries": 2})
        for session in list(proxy.listeners["in"].live):
            session.kill()
        await wait_until(lambda: not breaker.retries)
        for _, writer in clients:
            writer.close()


async def test_a_limit_of_zero_or_of_nonsense_is_no_limit_or_the_default() -> None:
    async with running(config(clusters=[cluster("a", 1, options={"max_connections": 0, "max_pending": "many"})])) as proxy:
        breaker = proxy.clusters["a"].breaker
        assert (breaker.max_connections, breaker.max_pending) == (float("inf"), 4096)


# -- bounds


@pytest.mark.parametrize(
    ("seen", "named"),
    [
        ((2.0, 0, 0), "event loop is 2.00 s late"),
        ((0, 200 * MIB, 0), "200 MiB of memory"),
        ((0, 0, 11), "11 connections"),
        ((0.9, 99 * MIB, 10), ""),
    ],
)
def test_the_limit_that_is_exceeded_is_named(seen: tuple[float, int, int], named: str) -> None:
    said = Bounds(lag=1.0, memory=100 * MIB, connections=10).over(*seen)
    assert named in said and bool(said) == bool(named)


def test_zero_is_no_limit() -> None:
    assert Bounds(0, 0, 0).over(1e9, 1 << 60, 1 << 30) == ""


def test_the_machines_own_bounds_are_sane() -> None:
    bounds = own_bounds()
    assert bounds.connections >= 64 and bounds.lag > 0
    process = Process()
    assert bounds.memory == 0 or bounds.memory > process.resident() / 10
    assert 5 * MIB < process.resident() < 10_000 * MIB
    process.close()


# -- the watch


class Seen:
    """A watch whose looks the test plays."""

    def __init__(self, bounds: Bounds) -> None:
        self.shed: list[str] = []
        self.lines: list[str] = []
        self.watch = Watch(bounds, lambda: 0, self.shed.append, Log("info", self.lines.append))

    def looks(self, *looks: tuple[float, int, int]) -> list[str]:
        for look in looks:
            self.watch.look(*look)
        return self.shed


def test_the_least_limit_of_our_cgroup_and_those_around_it_counts(tmp_path: Path) -> None:
    own = tmp_path / "own"

    def limit(cgroup: str, files: dict[str, str]) -> int:
        own.write_text(cgroup)
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text + "\n")
        return _container_memory(str(root), str(own))

    two, one = "0::/system.slice/carrier.service\n", "5:cpu,cpuacct:/a\n4:memory:/docker/1a\n0::/\n"
    assert limit("0::/\n", {"memory.max": "1000"}) == 1000  # a container
    assert limit(two, {"system.slice/carrier.service/memory.max": "500", "system.slice/memory.max": "max"}) == 500  # a unit of systemd's
    assert limit(two, {"system.slice/carrier.service/memory.max": "max", "system.slice/memory.max": "400"}) == 400
    assert limit(one, {"memory/docker/1a/memory.limit_in_bytes": "300", "memory/memory.limit_in_bytes": str(1 << 63)}) == 300
    assert limit(one, {"memory/memory.limit_in_bytes": "200"}) == 200  # a container, which sees its own as the root
    assert limit(two, {"system.slice/memory.max": "max"}) == limit("", {}) == 0


def test_one_long_moment_is_no_overload_a_lasting_lag_is() -> None:
    seen = Seen(Bounds(lag=1.0))
    assert seen.looks((5.0, 0, 0), (0.0, 0, 0), (5.0, 0, 0), (5.0, 0, 0), (0.1, 0, 0)) == []
    (reason,) = seen.looks(*[(2.0, 0, 0)] * LASTING)
    assert "late" in reason
    assert seen.looks((0.9, 0, 0)) == [reason]
    assert seen.looks((0.1, 0, 0)) == [reason, ""]
    assert [line.split()[1] for line in seen.lines] == ["warn", "notice"]
    assert seen.watch.times == 1


def test_memory_and_connections_count_at_once_and_end_well_below_the_limit() -> None:
    seen = Seen(Bounds(memory=100 * MIB, connections=10))
    assert len(seen.looks((0, 101 * MIB, 0))) == 1
    assert len(seen.looks((0, 90 * MIB, 0), (0, 101 * MIB, 0), (0, 81 * MIB, 0))) == 1
    assert seen.looks((0, 79 * MIB, 0))[1:] == [""]
    assert "11 connections" in seen.looks((0, 0, 11))[-1]


def test_memory_that_falls_no_more_ends_it_below_the_limit_whoever_is_there() -> None:
    seen = Seen(Bounds(memory=100 * MIB))
    assert len(seen.looks((0, 101 * MIB, 2000))) == 1
    falling = [(0.0, (100 - i) * MIB, 500) for i in range(10)]
    assert len(seen.looks(*falling)) == 1, "it falls yet"
    assert seen.looks(*[(0.0, 91 * MIB, 500)] * (STILL + 1))[1:] == [""]


def test_memory_that_rests_above_its_limit_ends_it_when_few_connections_are_left() -> None:
    seen = Seen(Bounds(memory=100 * MIB))
    assert len(seen.looks(*[(0.0, 130 * MIB, 1500)] * 3 * STILL)) == 1, "they hold it"
    assert seen.looks((0.0, 110 * MIB, 100), *[(0.0, 110 * MIB, 100)] * STILL)[1:] == [""], "nobody's memory"
    assert len(seen.looks(*[(0.0, 110 * MIB, 100)] * 50)) == 2
    grown = 110 * MIB + 100 * MIB // AGAIN + 1
    assert len(seen.looks((0.0, grown, 300))) == 3, "what has grown since is an overload again"
    assert "falls no more" in seen.lines[1]


def test_a_lag_or_too_many_connections_are_not_forgotten_for_memory_at_rest() -> None:
    seen = Seen(Bounds(memory=100 * MIB, connections=10))
    assert len(seen.looks((0, 101 * MIB, 0))) == 1
    assert len(seen.looks(*[(0.0, 99 * MIB, 11)] * 3 * STILL)) == 1
    assert seen.looks((0, 99 * MIB, 5))[-1] == ""


class Kept:
    """A process whose malloc keeps what was freed until it is asked for it."""

    def __init__(self, used: int, kept: int) -> None:
        self.used = used
        self.kept = kept
        self.trims = 0

    def resident(self) -> int:
        return self.used + self.kept

    def trim(self) -> None:
        self.trims += 1
        self.kept = 0


def test_what_malloc_keeps_is_asked_back_before_anybody_is_refused_and_again_after_a_while() -> None:
    seen = Seen(Bounds(memory=100 * MIB))
    process: Any = Kept(30 * MIB, 90 * MIB)
    assert seen.watch._resident(process, 10) == 30 * MIB
    process.used = 90 * MIB
    for _ in range(TRIMS + 1):
        seen.watch._resident(process, 10)
    assert process.trims == 2


def test_what_malloc_keeps_is_asked_back_when_many_have_gone_without_any_limit() -> None:
    process: Any = Kept(30 * MIB, 90 * MIB)
    watch = Watch(Bounds(memory=0), lambda: 0, lambda reason: None, Log())
    assert watch._resident(process, 10_000) == 120 * MIB
    assert watch._resident(process, 6_000) == 120 * MIB
    assert watch._resident(process, 4_000) == 30 * MIB
    for held in (3_000, 2_900, 3_000, 2_500):
        watch._resident(process, held)
    assert process.trims == 1


@pytest.mark.parametrize("held", [(1_000, 200, 0, 0), (1_000, 0, 0), (1_000, 400, 150, 3, 3)])
def test_what_the_last_of_many_held_is_asked_back_too_and_once(held: tuple[int, ...]) -> None:
    process: Any = Kept(30 * MIB, 0)
    watch = Watch(Bounds(memory=0), lambda: 0, lambda reason: None, Log())
    for number in held[:-1]:
        watch._resident(process, number)
        process.kept = MIB  # freed after the look
    assert watch._resident(process, held[-1]) == 30 * MIB
    process.kept = MIB
    assert watch._resident(process, held[-1]) == 31 * MIB


def test_freed_memory_between_kept_blocks_goes_back_to_the_kernel() -> None:
    process = Process()
    blocks = [bytearray(60_000) for _ in range(1_000)]
    pins = [bytearray(600)]
    for i in range(0, 1_000, 2):
        blocks[i] = bytearray(60_000)
        pins.append(bytearray(600))
    most = process.resident()
    blocks.clear()
    process.trim()
    assert process.resident() < most - 50 * MIB
    process.close()


def test_a_c_library_without_malloc_trim_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "_trim", None)
    process = Process()
    process.trim()
    process.close()


async def test_memory_is_looked_at_between_two_looks() -> None:
    shed: list[str] = []
    watch = Watch(Bounds(memory=Process().resident() // 2), lambda: 0, shed.append, Log())
    watch.start()
    watch.timer.cancel()  # type: ignore[union-attr]
    await wait_until(lambda: shed)
    assert "MiB of memory" in shed[0]
    watch.stop()


def test_connections_of_no_use_make_room_before_anybody_is_refused() -> None:
    held, asked = [150], []

    def make_room(number: int) -> None:
        asked.append(number)
        held[0] -= min(number, held[0] - 90)

    watch = Watch(Bounds(connections=100), lambda: held[0], lambda reason: None, Log(), make_room)
    assert watch._held() == 94
    assert asked == [56]
    assert watch._held() == 94
    assert asked == [56]


async def test_idle_connections_to_http_make_room_and_those_being_used_stay() -> None:
    async with Stage() as stage:
        used, idle, slow = [await stage.client() for _ in range(3)]
        await used.says(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        server = await stage.server()
        await slow.says(b"GET / HTTP/1.1\r\nhos")
        connections = stage.listener.connections  # type: ignore[attr-defined]
        await stage.becomes(lambda: any(c.reader.pending for c in connections))
        stage.proxy.make_room(99)
        assert (await slow.rest()).startswith(b"HTTP/1.1 503 ")
        assert await idle.closed()
        assert stage.proxy.connections() == 1
        await server.says(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        assert (await used.head()).startswith(b"HTTP/1.1 204 ")


async def test_the_watch_measures_the_lag_of_the_loop() -> None:
    watch = Watch(Bounds(), lambda: 0, lambda reason: None, Log())
    watch.start()
    loop = asyncio.get_running_loop()
    until = loop.time() + 0.6
    while loop.time() < until:  # the loop is busy: what this test is about
        pass
    await wait_until(lambda: watch.lag > 0.2)
    watch.stop()


# -- shedding


async def shedding(proxy: Proxy, reason: str = "too much of a test") -> None:
    proxy.shed(reason)
    await asyncio.sleep(0)


async def test_http_requests_are_answered_503_with_retry_after_on_new_and_on_existing_connections() -> None:
    conf = config(clusters=[echo()], listeners=[listener("in", protocol="HTTP")])
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(request)
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        await client.reader.readuntil(b"0\r\n\r\n")
        await shedding(proxy)
        client.send(request)
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503") and b"retry-after: 1\r\n" in head.lower()
        status, headers, body = await http(port_of(proxy, "in"))
        assert (status, headers["x-carrier-error"]) == (503, "overload") and b"too much of a test" in body
        await proxy.apply(config(clusters=[cluster("more", 1)], base=conf))
        assert (await http(port_of(proxy, "in")))[0] == 503, "a change does not end it"
        await shedding(proxy, "")
        assert (await http(port_of(proxy, "in"), method="POST", body=b"x"))[0] == 200


async def test_tcp_connections_wait_in_the_kernel_and_live_ones_go_on() -> None:
    async with running(config(clusters=[echo()], listeners=[listener("in")])) as proxy, tcp(port_of(proxy, "in")) as old:
        old.send(b"x")
        await old.read(1)
        await shedding(proxy)
        async with tcp(port_of(proxy, "in")) as new:
            new.send(b"waits")
            old.send(b"y")
            assert await old.read(1) == b"y"
            assert len(proxy.listeners["in"].live) == 1
            await shedding(proxy, "")
            assert await new.read(5) == b"waits"


async def test_new_datagram_peers_are_refused_and_known_ones_go_on() -> None:
    async with running(config(clusters=[echo()], listeners=[listener("in", protocol="UDP")])) as proxy, udp(port_of(proxy, "in")) as old:
        old.send(b"x")
        assert await old.read() == b"x"
        await shedding(proxy)
        async with udp(port_of(proxy, "in")) as new:
            new.send(b"lost")
            old.send(b"y")
            assert await old.read() == b"y"
            await shedding(proxy, "")
            new.send(b"served")
            assert await new.read() == b"served"


async def test_the_api_is_never_shed() -> None:
    api = {"name": "api", "spec": {"protocol": "L7mpController"}}
    async with running(config(clusters=[api], listeners=[listener("api", "api", protocol="HTTP")])) as proxy:
        table: Any = proxy.listeners["api"].table
        await shedding(proxy)
        assert proxy.listeners["api"].table is table
        assert proxy.connections() == 0


def test_descriptors_that_run_out_are_said_once_and_do_not_blind_the_watch() -> None:
    process = Process()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert process.has_descriptors()
        resource.setrlimit(resource.RLIMIT_NOFILE, (process.statm, before[1]))  # every number below it is taken or forbidden
        taken = []
        try:
            while True:
                taken.append(os.dup(process.statm))
        except OSError:
            pass
        assert not process.has_descriptors() and process.resident() > MIB
        for descriptor in taken:
            os.close(descriptor)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        process.close()
    lines: list[str] = []
    watch = Watch(Bounds(), lambda: 0, lambda reason: None, Log("info", lines.append))
    for free in (True, False, True, False, *[True] * CALM, True):
        watch.look_for_descriptors(free)
    assert [line.split()[1] for line in lines] == ["error", "notice"] and "ulimit -n" in lines[0]
