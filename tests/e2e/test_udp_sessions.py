"""Sessions of datagrams from end to end: answers from the address that was asked, who leaves when there are too many, routes that change,
destinations that refuse; with real sockets, and addresses of network namespaces where they are to be had."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from carrier.config.draft import Draft
from carrier.observe.metrics import Metrics
from carrier.observe.overview import overview
from tests.ports import free_port
from tests.support import Datagrams, cluster, config, echo, listener, port_of, running, tcp, udp, udp_server, wait_until, without

ANY = {"address": "0.0.0.0"}


def front(destination: Any = "up", **fields: Any) -> dict[str, Any]:
    return listener("in", destination, protocol="UDP", **fields)


def up(port: int, *addresses: str, **fields: Any) -> dict[str, Any]:
    return cluster("up", port, *addresses, protocol="UDP", **fields)


@contextlib.contextmanager
def asking(host: str, port: int, *, connected: bool = True, source: str | None = None) -> Any:
    """A client that hears answers from that very address only, as most do."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3)
        if source:
            sock.bind((source, 0))
        if connected:
            sock.connect((host, port))
        yield sock


async def answered(sock: socket.socket, data: bytes) -> bytes:
    def talk() -> bytes:
        sock.send(data)
        return sock.recv(65536)

    return await asyncio.to_thread(talk)


# -- the address that was asked


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
async def test_an_answer_leaves_from_the_address_that_was_asked(address: str) -> None:
    """All of 127/8 is ours; without being told, the kernel would answer from 127.0.0.1."""
    async with running(config(clusters=[echo()], listeners=[front("echo", spec={"address": address})])) as proxy:
        for host in ("127.0.0.1", "127.0.0.2", "127.9.9.9"):
            with asking(host, port_of(proxy, "in")) as sock:
                assert await answered(sock, b"hello") == b"hello"
                (session,) = [s for s in proxy.listeners["in"].live if s.source.address[1] == sock.getsockname()[1]]
                assert session.metadata["IP"] == {"src_addr": sock.getsockname()[0], "dst_addr": host}


async def test_an_answer_leaves_from_the_ipv6_address_that_was_asked() -> None:
    async with running(config(clusters=[echo()], listeners=[front("echo", spec={"address": "::"})])) as proxy:
        with asking("::1", port_of(proxy, "in")) as sock:
            assert await answered(sock, b"hello") == b"hello"
            assert next(iter(proxy.listeners["in"].live)).metadata["IP"]["dst_addr"] == "::1"


async def test_one_peer_that_asks_two_addresses_has_two_sessions_alone_and_in_batches() -> None:
    async with udp_server() as server, running(config(clusters=[up(server.port)], listeners=[front(spec=ANY)])) as proxy:
        port = port_of(proxy, "in")
        with asking("127.0.0.1", port, connected=False, source="127.0.0.1") as sock:
            sock.setblocking(False)
            heard: dict[str, list[bytes]] = {"127.0.0.2": [], "127.0.0.3": []}
            for i in range(100):
                for host in heard:
                    for n in range(4):
                        sock.sendto(f"{host} {i} {n}".encode(), (host, port))
                for _ in range(8):
                    data, (host, _) = await asyncio.wait_for(received(sock), 3)
                    heard[host].append(data)
        assert len(proxy.listeners["in"].live) == 2
        for host, data in heard.items():
            assert data == [f"{host} {i} {n}".encode() for i in range(100) for n in range(4)]


async def received(sock: socket.socket) -> tuple[bytes, tuple[str, int]]:
    while True:
        with contextlib.suppress(BlockingIOError):
            return sock.recvfrom(65536)
        await asyncio.sleep(0.001)


# -- too many of them


async def one_shots(port: int, number: int, at_once: int = 100) -> int:
    """So many clients, each with one question of a socket of its own; how many were answered."""
    loop = asyncio.get_running_loop()
    answers = 0

    async def ask() -> None:
        nonlocal answers
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(("127.0.0.1", port))
            await loop.sock_sendall(sock, b"?")
            with contextlib.suppress(TimeoutError):
                heard = await asyncio.wait_for(loop.sock_recv(sock, 100), 3)
                answers += heard == b"?"

    for i in range(0, number, at_once):
        await asyncio.gather(*(ask() for _ in range(min(at_once, number - i))))
    return answers


async def test_one_question_clients_keep_nobody_out_and_cost_nobody_who_stays() -> None:
    async with udp_server() as server:
        conf = config(clusters=[up(server.port)], listeners=[front(options={"max_sessions": 200}), listener("tcp", echo("other"))])
        async with running(conf) as proxy, contextlib.AsyncExitStack() as stack:
            port = port_of(proxy, "in")
            stayers = [await stack.enter_async_context(udp(port)) for _ in range(20)]
            for _ in range(2):
                for one in stayers:
                    one.send(b"stay")
                    assert await one.read() == b"stay"
            there = {session.source.address for session in proxy.listeners["in"].live}
            assert await one_shots(port, 2000, 50) == 2000
            assert there <= {session.source.address for session in proxy.listeners["in"].live}
            async with tcp(port_of(proxy, "tcp")) as client:
                client.send(b"x")
                assert await client.read(1) == b"x"
            assert not proxy.listeners["in"].dropped


async def test_who_is_never_answered_makes_room_first() -> None:
    async with udp_server(lambda data: None if data == b"flood" else data) as server:
        conf = config(clusters=[up(server.port)], listeners=[front(options={"max_sessions": 50})])
        async with running(conf) as proxy, contextlib.AsyncExitStack() as stack:
            port = port_of(proxy, "in")
            friend = await stack.enter_async_context(udp(port))
            friend.send(b"x")
            assert await friend.read() == b"x"
            (address,) = [session.source.address for session in proxy.listeners["in"].live]
            with asking("127.0.0.1", port, connected=False):
                for _ in range(300):
                    with asking("127.0.0.1", port) as sock:
                        sock.send(b"flood")
                        await asyncio.sleep(0.001)
            assert address in {session.source.address for session in proxy.listeners["in"].live}
            assert proxy.listeners["in"].dropped["evicted"] > 200


async def test_a_session_of_one_question_ends_soon_where_that_is_asked_for() -> None:
    conf = config(clusters=[echo()], listeners=[front("echo", options={"responses": 1, "exchange_timeout": 1})])
    async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
        client.send(b"?")
        assert await client.read() == b"?"
        now = asyncio.get_running_loop().time()
        proxy.listeners["in"].tick(now)
        proxy.listeners["in"].tick(now + 1.1)
        assert not proxy.listeners["in"].live


def test_the_limit_of_descriptors_is_raised_at_the_start(tmp_path: Path) -> None:
    code = (
        "import resource; soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE); "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)); from carrier.process.serve import raise_descriptors; raise_descriptors();"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=Path.cwd()).stdout == b"True\n"


LOAD = """
import asyncio, json, resource, sys, threading, time
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
sys.path.insert(0, ".")
import uvloop
from tests.support import cluster, config, listener, running, port_of, udp_server, echo

async def main():
    async with udp_server() as server:
        up = cluster("up", server.port, protocol="UDP")
        conf = config(clusters=[up], listeners=[listener("in", "up", protocol="UDP"), listener("tcp", echo())])
        async with running(conf) as proxy:
            print(port_of(proxy, "in"), port_of(proxy, "tcp"), flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
            found = proxy.listeners["in"]
            print(json.dumps({"dropped": found.dropped, "stayed": sum(session.number < 50 for session in found.live)}), flush=True)
uvloop.run(main())
"""


async def test_two_thousand_new_peers_a_second_with_1024_descriptors() -> None:
    """A shorter form of `make soak` and of the minute of CARRIER_UDP_SECONDS=60: all are answered, who stays stays, TCP is served."""
    seconds = float(os.environ.get("CARRIER_UDP_SECONDS", "1.5"))
    rate = int(os.environ.get("CARRIER_UDP_RATE", "2000"))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", LOAD, stdin=-1, stdout=-1)
    assert process.stdout is not None and process.stdin is not None
    try:
        udp_port, tcp_port = map(int, (await asyncio.wait_for(process.stdout.readline(), 20)).split())
        async with contextlib.AsyncExitStack() as stack:
            stayers = [await stack.enter_async_context(udp(udp_port)) for _ in range(50)]
            for _ in range(2):
                for one in stayers:
                    one.send(b"stay")
                    await one.read()
            flooding = asyncio.ensure_future(flood(udp_port, rate, seconds))
            while not flooding.done():
                await asyncio.wait((flooding,), timeout=5)  # they say something now and then: else they would be idle
                for one in stayers:
                    one.send(b"still here")
                    assert await one.read() == b"still here"
            asked, heard = flooding.result()
            for one in stayers:
                one.send(b"still here")
                assert await one.read() == b"still here"
            async with tcp(tcp_port) as client:
                client.send(b"x")
                assert await client.read(1) == b"x"
        process.stdin.close()
        said = await asyncio.wait_for(process.stdout.read(), 10)
        assert heard == asked, said
        assert b'"stayed": 50}' in said
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


AT_ONCE = 200
"""Questions without an answer yet, at most: a machine that is too busy for the rate gets fewer."""
BURST = 50
"""New peers at once, at most: who was kept waiting by a busy machine does not make up for it in one moment."""


async def flood(port: int, rate: int, seconds: float) -> tuple[int, int]:
    """New sockets at this rate, each with one question; how many asked, and were answered within 2 s."""
    loop = asyncio.get_running_loop()
    heard = asked = 0
    waiting: dict[int, tuple[socket.socket, float]] = {}

    def came(sock: socket.socket) -> None:
        nonlocal heard
        with contextlib.suppress(OSError):
            heard += sock.recv(100) == b"?"
        close(sock)

    def close(sock: socket.socket) -> None:
        if waiting.pop(sock.fileno(), None) is not None:
            loop.remove_reader(sock)
            sock.close()

    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        for _ in range(min(BURST, int(passed * rate) - asked, AT_ONCE - len(waiting))):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.connect(("127.0.0.1", port))
            waiting[sock.fileno()] = sock, passed
            loop.add_reader(sock, came, sock)
            sock.send(b"?")
            asked += 1
        for sock, at in list(waiting.values()):
            if passed - at < 2:
                break
            close(sock)
        await asyncio.sleep(0.002)
    deadline = time.monotonic() + 2
    with contextlib.suppress(AssertionError):
        await wait_until(lambda: not waiting or time.monotonic() > deadline)
    for sock, _ in list(waiting.values()):
        close(sock)
    return asked, heard


# -- routes that change


async def test_a_session_whose_route_changed_ends_and_the_next_datagram_is_routed_anew() -> None:
    async with udp_server(lambda data: b"old") as old, udp_server(lambda data: b"new") as new:
        clusters = [cluster("old", old.port, protocol="UDP"), cluster("new", new.port, protocol="UDP")]
        base = config(clusters=clusters, listeners=[front("old")])
        async with running(base) as proxy, udp(port_of(proxy, "in")) as client:
            client.send(b"?")
            assert await client.read() == b"old"
            await proxy.apply(config(clusters=clusters, listeners=[listener("in", "new", protocol="UDP", port=0)], base=base))
            client.send(b"?")
            assert await client.read() == b"new"


@pytest.mark.parametrize("change", ["rule", "endpoint", "options"])
async def test_an_answer_that_is_on_its_way_when_the_route_changes_arrives(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("listeners.udp_peers.PARTING", 60)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as old:
        old.bind(("127.0.0.1", 0))
        old.settimeout(5)
        async with udp_server(lambda data: b"new") as new:
            port = old.getsockname()[1]
            base = config(clusters=[at(port)], listeners=[front()])
            async with running(base) as proxy, udp(port_of(proxy, "in")) as client:
                client.send(b"?")
                _, asker = await asyncio.to_thread(old.recvfrom, 99)
                if change == "rule":
                    clusters = [at(port), {**at(new.port), "name": "other"}]
                    await proxy.apply(config(clusters=clusters, listeners=[front("other")], base=base))
                else:
                    more = {"options": {"half_close_timeout": 3}} if change == "options" else {}
                    await proxy.apply(config(clusters=[{**at(new.port), **more}], base=base))
                client.send(b"?")
                assert await client.read() == b"new"
                old.sendto(b"old", asker)
                assert await client.read() == b"old"
                client.send(b"?")
                assert await client.read() == b"new"
                counted = proxy.listeners["in"].datagrams()
                assert counted == {"received": 3, "sent": 3}
                assert len(proxy.listeners["in"].live) == 2


async def test_an_answer_that_does_not_come_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("listeners.udp_peers.PARTING", 0.05)
    async with udp_server(None) as old, udp_server(None) as new:
        base = config(clusters=[at(old.port)], listeners=[front()])
        async with running(base) as proxy, udp(port_of(proxy, "in")) as client:
            client.send(b"?")
            assert await old.read() == b"?"
            counted = proxy.listeners["in"].datagrams()
            await proxy.apply(config(clusters=[at(new.port)], base=base))
            assert proxy.listeners["in"].live and not proxy.listeners["in"].peers
            await wait_until(lambda: not proxy.listeners["in"].live, "the end of the session that was left")
            assert proxy.listeners["in"].datagrams() == counted == {"received": 1, "sent": 0}


async def test_nobody_waits_for_answers_where_descriptors_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    async with udp_server(None) as old, udp_server(lambda data: b"new") as new:
        clusters = [cluster("old", old.port, protocol="UDP"), cluster("new", new.port, protocol="UDP")]
        base = config(clusters=clusters, listeners=[front("old")])
        async with running(base) as proxy, udp(port_of(proxy, "in")) as client:
            client.send(b"?")
            assert await old.read() == b"?"
            monkeypatch.setattr("listeners.udp_peers.share", lambda: 1)
            await proxy.apply(config(clusters=clusters, listeners=[front("new")], base=base))
            assert not proxy.listeners["in"].live
            client.send(b"?")
            assert await client.read() == b"new"


async def test_a_session_whose_route_is_as_it_was_lives_on_through_other_changes() -> None:
    async with udp_server() as server:
        base = config(clusters=[up(server.port)], listeners=[front()])
        async with running(base) as proxy, udp(port_of(proxy, "in")) as client:
            client.send(b"?")
            await client.read()
            (session,) = proxy.listeners["in"].live
            await proxy.apply(config(clusters=[echo("more")], listeners=[listener("other", "more")], base=base))
            assert proxy.listeners["in"].live == {session}
            proxy.shed("too much")
            proxy.shed("")
            assert proxy.listeners["in"].live == {session}


async def test_a_bridge_that_ends_gives_its_peer_back_to_the_shadow() -> None:
    async with udp_server(lambda data: b"shadow") as shadow, udp_server(lambda data: b"laptop") as laptop:
        port = free_port(socket.SOCK_DGRAM)
        base = config(clusters=[up(shadow.port)], listeners=[front(port=port)])
        async with running(base) as proxy:
            made = bridged(base, laptop.port)
            async with udp(port) as before:
                before.send(b"?")
                assert await before.read() == b"shadow"
                await proxy.apply(made)  # a peer that never rests would never come to the laptop
                before.send(b"?")
                assert await before.read() == b"laptop"
            async with udp(port) as client:
                client.send(b"?")
                assert await client.read() == b"laptop"
                await proxy.apply(base)
                client.send(b"?")
                assert await client.read() == b"shadow"


def bridged(base: Any, port: int) -> Any:
    """A rule in front of the others, as a bridge makes one, with the shadow as fallback."""
    clusters = [cluster("laptop", port, protocol="UDP")]
    rules = [
        {
            "name": "john",
            "match": {"matchSource": {"cidr": "127.0.0.0/8"}},
            "action": {"route": {"destination": "laptop", "fallback": "up"}},
        },
    ]
    draft = Draft(base)
    draft.replace("cluster", "laptop", clusters[0])
    draft.insert_rule(base.listeners["in"].rules, 0, rules[0])
    return draft.done()


async def test_a_session_ends_when_its_endpoint_is_taken_away() -> None:
    async with udp_server(lambda data: b"one") as one, udp_server(lambda data: b"two", port=0) as two:
        base = config(clusters=[at(one.port)], listeners=[front()])
        async with running(base) as proxy, udp(port_of(proxy, "in")) as client:
            client.send(b"?")
            assert await client.read() == b"one"
            await proxy.apply(config(clusters=[at(two.port)], base=base))
            await wait_until(lambda: not proxy.listeners["in"].live)
            client.send(b"?")
            assert await client.read() == b"two"


HELLO, OK = b'{"JSONSocketVersion":1}', b'{"JSONSocketVersion":1,"JSONSocketStatus":200,"JSONSocketMessage":"OK"}'
OVER = {"protocol": "JSONSocket", "spec": {"transport": {"protocol": "UDP", "port": 0, "address": "127.0.0.1"}}}


@pytest.mark.parametrize("change", ["endpoint", "options"])
async def test_who_says_only_once_who_he_is_goes_on_at_another_endpoint(change: str) -> None:
    """A header of JSONSocket comes once: ended, its session could not be routed anew by what comes next."""
    async with udp_server(lambda data: b"one") as one, udp_server(lambda data: b"two", port=0) as two:
        base = config(clusters=[at(one.port, two.port)], listeners=[listener("in", "up", **OVER)])
        async with running(base) as proxy, udp(port_of(proxy, "in")) as client:
            for sent, wanted in ((HELLO, OK), (b"?", b"one")):
                client.send(sent)
                assert await client.read() == wanted
            (session,) = proxy.sessions()
            if change == "endpoint":
                await proxy.apply(config(clusters=[at(two.port)], base=base))
            else:
                await proxy.apply(config(clusters=[{**at(two.port), "options": {"half_close_timeout": 3}}], base=base))
            for _ in range(2):
                client.send(b"?")
                assert await client.read() == b"two"
            assert list(proxy.sessions()) == [session]
            assert [e[0] for e in session.events][-3:] == ["CONNECT", "DISCONNECT", "CONNECT"]
            await proxy.apply(config(clusters=[at()], base=base))
            await wait_until(lambda: not list(proxy.sessions()), "the end of whom nobody serves")


async def test_who_says_only_once_who_he_is_goes_to_the_shadow_when_his_rule_is_gone_with_its_cluster() -> None:
    async with udp_server(lambda data: b"laptop") as laptop, udp_server(lambda data: b"shadow") as shadow:
        match = {"op": "test", "path": "/JSONSocket/user", "value": "ann"}
        everybody = {"action": {"route": {"destination": "up"}}}
        anns = {"match": match, "action": {"route": {"destination": "laptop"}}}
        base = config(clusters=[up(shadow.port)], listeners=[listener("in", rules=[everybody], **OVER)])
        hers = config(clusters=[cluster("laptop", laptop.port, protocol="UDP")], base=base)
        both = config(listeners=[listener("in", rules=[anns, everybody], **OVER)], base=hers)
        async with running(both) as proxy, udp(port_of(proxy, "in")) as client:
            for sent, wanted in ((b'{"JSONSocketVersion":1,"user":"ann"}', OK), (b"?", b"laptop")):
                client.send(sent)
                assert await client.read() == wanted
            (session,) = proxy.sessions()
            await proxy.apply(
                config(listeners=[listener("in", rules=[everybody], **OVER)], base=without(proxy.config, "cluster", "laptop"))
            )
            client.send(b"?")
            assert await client.read() == b"shadow"
            assert list(proxy.sessions()) == [session]


async def test_a_stream_that_a_fallback_serves_goes_back_without_an_end() -> None:
    async with udp_server(lambda data: b"laptop") as laptop, udp_server(lambda data: b"shadow") as shadow:
        laptop.transport.close()
        health = {"health": {"failures": 1, "down": 0.2}}
        clusters = [cluster("laptop", laptop.port, protocol="UDP", options=health), up(shadow.port)]
        conf = config(clusters=clusters, listeners=[listener("in", "laptop", fallback="up", **OVER)])
        async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
            for sent, wanted in ((HELLO, OK), (b"?", b"shadow")):
                client.send(sent)
                assert await client.read() == wanted
            (session,) = proxy.sessions()
            async with udp_server(lambda data: b"laptop", port=laptop.port):
                await wait_until(lambda: session.fallback is None, "its return to the laptop")
                client.send(b"?")
                assert await client.read() == b"laptop"
            assert list(proxy.sessions()) == [session]


def laptop_first(port: int, shadow: int, **fields: Any) -> Any:
    """Everything goes to the laptop, and to the shadow when that is not there."""
    return config(clusters=[cluster("laptop", port, protocol="UDP", **fields), up(shadow)], listeners=[front("laptop", fallback="up")])


def at(*ports: int) -> dict[str, Any]:
    endpoints = [{"name": f"e{port}", "spec": {"address": "127.0.0.1", "port": port}} for port in ports]
    return {"name": "up", "spec": {"protocol": "UDP", "port": 1}, "endpoints": endpoints}


# -- destinations that refuse


async def test_what_a_dead_laptop_refuses_goes_to_the_shadow_thirty_of_thirty() -> None:
    async with udp_server(lambda data: b"shadow " + data) as shadow:
        dead = free_port(socket.SOCK_DGRAM)
        conf = laptop_first(dead, shadow.port)
        async with running(conf) as proxy:
            for n in range(30):
                async with udp(port_of(proxy, "in")) as client:
                    client.send(b"%d" % n)
                    assert await client.read() == b"shadow %d" % n
            assert proxy.clusters["laptop"].down
            session = next(s for s in proxy.listeners["in"].live if s.events)
            assert session.fallback == "refused"
            assert not proxy.listeners["in"].dropped


async def test_what_one_endpoint_refuses_goes_to_another() -> None:
    async with udp_server() as server:
        dead = free_port(socket.SOCK_DGRAM)
        async with running(config(clusters=[at(dead, server.port)], listeners=[front()])) as proxy, udp(port_of(proxy, "in")) as client:
            for n in range(3):
                client.send(b"%d" % n)
            assert sorted([await client.read() for _ in range(3)]) == [b"0", b"1", b"2"]
            assert proxy.clusters["up"].endpoints[0].failed == 1


@pytest.mark.parametrize("who", ["endpoint", "fallback"])
@pytest.mark.parametrize("transform", ["Metric", "JSONEncap"])
async def test_what_has_passed_a_transform_and_is_refused_goes_to_another_as_it_is(transform: str, who: str) -> None:
    async with udp_server() as server:
        dead = free_port(socket.SOCK_DGRAM)
        counts = {"name": "t", "spec": {"protocol": transform}}
        if who == "endpoint":
            conf = config(clusters=[at(dead, server.port), counts], listeners=[front(ingress=["t"])])
        else:
            laptop = cluster("laptop", dead, protocol="UDP")
            conf = config(clusters=[laptop, up(server.port), counts], listeners=[front("laptop", fallback="up", ingress=["t"])])
        async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
            for n in range(1, 4):
                client.send(b"%d" % n)
                came = await client.read()
                assert came == b"%d" % n if transform == "Metric" else json.loads(came)["payload"] == b64encode(b"%d" % n).decode()
            (session,) = proxy.sessions()
            assert session.dropped == 0


async def test_a_destination_that_dies_in_mid_session_is_replaced_and_loses_nothing() -> None:
    async with (
        udp_server(lambda data: b"shadow " + data) as shadow,
        running() as proxy,
        udp_server(lambda data: b"laptop " + data) as laptop,
    ):
        await proxy.apply(laptop_first(laptop.port, shadow.port))
        async with udp(port_of(proxy, "in")) as client:
            client.send(b"1")
            assert await client.read() == b"laptop 1"
            laptop.transport.close()
            await asyncio.sleep(0.01)
            client.send(b"2")
            assert await client.read() == b"shadow 2"
            client.send(b"3")
            assert await client.read() == b"shadow 3"


async def test_without_anybody_else_a_refusal_ends_the_session_and_is_told() -> None:
    dead = free_port(socket.SOCK_DGRAM)
    async with running(config(clusters=[up(dead)], listeners=[front(options={"track": 60})])) as proxy, udp(port_of(proxy, "in")) as client:
        client.send(b"?")
        await wait_until(lambda: list(proxy.listeners["in"].tracked))
        (session,) = proxy.listeners["in"].tracked
        assert session.error.kind == "refused"


async def test_an_endpoint_that_comes_back_is_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusters.udp.PROBE", 0.02)
    port = free_port(socket.SOCK_DGRAM)
    async with udp_server() as shadow:
        options = {"health": {"failures": 1, "interval": 0.05}}
        conf = laptop_first(port, shadow.port, options=options)
        async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
            client.send(b"1")
            assert await client.read() == b"1"
            assert proxy.clusters["laptop"].down
            async with udp_server(port=port):
                await wait_until(lambda: not proxy.clusters["laptop"].down, "for the probe")


async def test_the_peer_that_a_fallback_serves_goes_back_when_the_laptop_is_back() -> None:
    """It stayed with the shadow for as long as it sent something once a minute."""
    port = free_port(socket.SOCK_DGRAM)
    async with contextlib.AsyncExitStack() as stack:
        shadow = await stack.enter_async_context(udp_server(lambda data: b"shadow"))
        proxy = await stack.enter_async_context(running(laptop_first(port, shadow.port)))
        client = await stack.enter_async_context(udp(port_of(proxy, "in")))
        for _ in range(3):
            client.send(b"?")
            assert await client.read() == b"shadow"
            proxy.clusters["up"].tick(0.0)
        await stack.enter_async_context(udp_server(lambda data: b"laptop", port=port))
        for endpoint in proxy.clusters["laptop"].endpoints:
            endpoint.up = True  # it is tried again
        proxy.clusters["up"].tick(0.0)
        client.send(b"?")
        assert await client.read() == b"laptop"


# -- what is no failure


async def test_a_datagram_that_is_too_long_for_the_path_is_one_datagram_less() -> None:
    async with (
        udp_server() as server,
        running(config(clusters=[up(server.port)], listeners=[front()])) as proxy,
        udp(port_of(proxy, "in")) as client,
    ):
        client.send(b"1")
        assert await client.read() == b"1"
        (session,) = proxy.listeners["in"].live
        upstream: Any = session.destination
        upstream.failed(OSError(90, "Message too long"))
        assert session in proxy.listeners["in"].live
        assert session.dropped == 1
        client.send(b"2")
        assert await client.read() == b"2"
        assert overview(proxy)["clusters"][0]["dropped"] == {"too-long": 1}
        text = (await Metrics(proxy).text())[1].decode()
        assert 'carrier_cluster_datagrams_dropped_total{cluster="up",reason="too-long"} 1.0' in text


async def test_what_waits_too_long_for_a_destination_is_counted_everywhere() -> None:
    """The name server does not answer: of what comes meanwhile as much waits as has room."""
    async with running(config(clusters=[up(9, "never.invalid")], listeners=[front(options={"track": 60})])) as proxy:
        asked = asyncio.Event()

        async def find(host: str) -> Any:
            await asked.wait()
            from carrier.errors import Error

            raise Error("dns", "nobody knows", "upstream", "yes")

        proxy.env.resolver.lookup.find = find  # type: ignore[method-assign]
        async with udp(port_of(proxy, "in")) as client:
            for _ in range(30):
                client.send(b"x" * 5000)
                await asyncio.sleep(0.001)
            await wait_until(lambda: proxy.listeners["in"].live)
            asked.set()
            await wait_until(lambda: list(proxy.listeners["in"].tracked))
        (session,) = proxy.listeners["in"].tracked
        assert session.dropped == 30
        assert proxy.listeners["in"].dropped == {"no-destination": 30}


# -- more options


async def test_an_answer_may_take_thirty_seconds_by_default() -> None:
    async with (
        udp_server(None) as server,
        running(config(clusters=[up(server.port)], listeners=[front()])) as proxy,
        udp(port_of(proxy, "in")) as c,
    ):
        c.send(b"?")
        await server.read()
        now = asyncio.get_running_loop().time()
        proxy.listeners["in"].tick(now)
        proxy.listeners["in"].tick(now + 29)
        assert proxy.listeners["in"].live
        proxy.listeners["in"].tick(now + 31)
        assert not proxy.listeners["in"].live


async def test_how_long_answers_may_come_after_the_end_of_a_stream_is_an_option() -> None:
    async with udp_server(None) as server:
        conf = config(clusters=[up(server.port, options={"half_close_timeout": 0.2})], listeners=[listener("in", "up")])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"?")
            client.end()
            began = time.monotonic()
            assert await client.read_all() == b""
            assert 0.15 < time.monotonic() - began < 1.5


async def test_broadcasts_are_sent_where_that_is_asked_for() -> None:
    """To loopback's broadcast address; who answers from his own is heard."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: Datagrams(lambda data: data), local_addr=("0.0.0.0", 0))
    try:
        port = transport.get_extra_info("sockname")[1]
        conf = {**up(port, "127.255.255.255"), "spec": {"protocol": "UDP", "port": port, "broadcast": True}}
        async with running(config(clusters=[conf], listeners=[front()])) as proxy, udp(port_of(proxy, "in")) as client:
            client.send(b"anybody?")
            assert await client.read() == b"anybody?"
        assert await server.read() == b"anybody?"
    finally:
        transport.close()
