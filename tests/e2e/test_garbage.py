"""What has ended is gone at once: no session of any kind is left to the garbage collector, which comes when it likes.

In a busy proxy most objects are not the collector's, so it comes rarely; a connection that waits for it holds its buffers and heads.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import serve

from carrier.hops.lookout import lookout
from carrier.proxy.proxy import Proxy
from tests.e2e.ends import Client, Server
from tests.e2e.test_matrix import apart, between, converse, every_pair, live, short  # noqa: F401  (short is a fixture)
from tests.e2e.test_wss import NAME, Echo, Trust, client, upstream, wss
from tests.support import PATIENCE, Peer, cluster, config, echoing, listener, port_of, running, tcp, tcp_server, wait_until

OURS = ("carrier", "listeners", "clusters", "transforms")


def _is_ours(o: object) -> bool:
    return str(type(o).__module__).partition(".")[0] in OURS


@contextlib.contextmanager
def no_garbage() -> Iterator[None]:
    """What happens inside leaves nothing of ours in a ring that only the collector finds."""
    lookout(asyncio.get_running_loop())  # it is kept for the last loop only: here that of the test before would be found
    gc.disable()
    gc.collect()
    gc.freeze()  # what is there already is not looked at: it may be an earlier test's that becomes garbage only now, and it is much
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
        gc.collect()
        left = Counter(type(o).__qualname__ for o in gc.garbage if _is_ours(o))
    finally:
        gc.garbage.clear()
        gc.set_debug(0)
        gc.enable()
    assert not left, dict(left)


def test_a_ring_is_found() -> None:
    class Ring:
        pass

    Ring.__module__ = "carrier.ring"

    async def leave_one() -> None:
        with no_garbage():
            ring = Ring()
            ring.itself = ring  # type: ignore[attr-defined]
            del ring

    with pytest.raises(AssertionError, match=r"Ring': 1"):
        asyncio.run(leave_one())


async def until_gone(proxy: Proxy) -> None:
    await wait_until(lambda: not any(p.live or getattr(p, "connections", ()) for p in proxy.listeners.values()), "for the sessions to end")
    for _ in range(5):  # what was called soon holds what it is about
        await asyncio.sleep(0.002)


@every_pair
async def test_an_ended_session_leaves_no_garbage(into: str, out: str, tmp_path: Path) -> None:
    async with between(into, out, tmp_path, track=0) as (proxy, client, server):
        with no_garbage():
            await one_session(proxy, client, server, tmp_path)


async def one_session(proxy: Proxy, client: Client, server: Server, path: Path) -> None:
    end = await client.connect(proxy, path)
    await converse(end, [b"hello"], apart(client, server), 1)
    if client.ends == "half" and server.ends == "half":
        await end.end()
        while await end.recv():
            pass
    elif client.ends:
        with contextlib.suppress(OSError):
            await end.end()
    else:
        next(iter(proxy.sessions())).kill()
    await wait_until(lambda: not live(proxy), "for the session to end")
    end.abort()
    await wait_until(lambda: not server.live, "for the upstream's end")
    await until_gone(proxy)


# --- routes that do more, over TCP --------------------------------------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "transforms": {"ingress": ["log", "copy"], "egress": ["count", "log"]},
    "a remote transform": {"ingress": ["up"]},
    "joined": {"egress": ["joined"]},
    "a fallback": {"destination": "gone", "fallback": "up"},
    "a retry": {"destination": "gone", "retry": {"retry_on": "always", "num_retries": 2, "timeout": 10}},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("breaks", [False, True], ids=["in order", "broken off"])
async def test_a_route_that_does_more_leaves_no_garbage(way: str, breaks: bool, tmp_path: Path) -> None:
    route = {"destination": "up", **WAYS[way]}
    async with tcp_server(echoing) as server:
        clusters = [
            cluster("up", server.port),
            cluster("gone", 1),
            {"name": "log", "spec": {"protocol": "Logger", "log_file": str(tmp_path / "log")}},
            {"name": "count", "spec": {"protocol": "Metric"}},
            {"name": "joined", "spec": {"protocol": "Sync", "query": "/IP/dst_addr"}},
            {"name": "copy", "spec": {"protocol": "Mirror", "cluster": "up"}},
        ]
        async with running(config(clusters=clusters, listeners=[listener("in", **route)])) as proxy:
            with no_garbage():
                async with tcp(port_of(proxy, "in")) as client:
                    client.send(b"hello")
                    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                        await client.read(5 if way != "joined" else 0)
                        await wait_until(lambda: server.peers, "for the upstream")
                    if breaks:
                        client.writer.transport.abort()
                await until_gone(proxy)


def framed(name: str, port: int) -> dict[str, Any]:
    found = cluster(name, port)
    found["spec"]["framing"] = "lines"
    return found


AGAIN = {"retry": {"retry_on": "disconnect", "num_retries": 3, "timeout": 100}}
JOINED: dict[str, dict[str, Any]] = {
    "a framed transform": {"destination": "up", "ingress": ["framed"]},
    "a framed mirror": {"destination": "up", "ingress": ["copy"]},
    "a framed reconnect": {"destination": "framed", **AGAIN},
    "a plain reconnect": {"destination": "up", **AGAIN},
    "JSONSocket in frames": {"destination": "json"},
}


@pytest.mark.parametrize("way", JOINED)
async def test_protocols_on_top_of_others_leave_no_garbage(way: str) -> None:
    async def upstream(peer: Peer) -> None:
        if way.startswith("JSON"):
            await peer.reader.readline()
            peer.send(b'{"JSONSocketVersion":1,"JSONSocketStatus":200,"JSONSocketMessage":"OK"}\n')
        await echoing(peer)

    async with tcp_server(upstream) as server:
        transport = {"protocol": "TCP", "port": server.port, "framing": "lines"}
        clusters = [
            cluster("up", server.port),
            framed("framed", server.port),
            {"name": "copy", "spec": {"protocol": "Mirror", "cluster": "framed"}},
            {**cluster("json", server.port), "spec": {"protocol": "JSONSocket", "transport": transport}},
        ]
        front = listener("in", spec={"framing": "lines"}, **JOINED[way])
        async with running(config(clusters=clusters, listeners=[front])) as proxy:
            with no_garbage():
                async with tcp(port_of(proxy, "in")) as client:
                    client.send(b"hello\n")
                    await client.read(6 if way not in ("a framed mirror", "a plain reconnect") else 5)
                    if "reconnect" in way:
                        server.peers[0].close()
                        await wait_until(lambda: any(s.retries for s in proxy.sessions()), "for another connection")
                        client.send(b"again\n")
                        await wait_until(lambda: all(s.status == "CONNECTED" for s in proxy.sessions()), "for the connection")
                    client.end()
                    await asyncio.wait_for(client.reader.read(), PATIENCE)
                await until_gone(proxy)
                await wait_until(lambda: all(p.writer.is_closing() for p in server.peers), "for the upstream's end")


# --- HTTP ---------------------------------------------------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: chat\r\nconnection: Upgrade\r\n\r\n"
ASKED = {
    "requests": b"GET /%d HTTP/1.1\r\nhost: h\r\nx-trace: %d\r\n\r\n",
    "bodies": b"POST /%d HTTP/1.1\r\nhost: h\r\nx-trace: %d\r\ncontent-length: 3\r\n\r\nabc",
    "chunks": b"POST /%d HTTP/1.1\r\nhost: h\r\nx-trace: %d\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
}


async def answers(peer: Peer) -> None:
    while data := await peer.reader.read(65536):
        if b"upgrade: chat" in data:
            peer.send(SWITCHED)
        elif not data.endswith(b"cut"):
            peer.send(OK)


@contextlib.asynccontextmanager
async def web(**route: Any) -> AsyncIterator[Proxy]:
    """A proxy before a web server; the cluster "gone" is not there."""
    async with tcp_server(answers) as server:
        clusters = [cluster("up", server.port, protocol="HTTP"), cluster("gone", 1, protocol="HTTP")]
        rules = {"in": listener("in", protocol="HTTP", **{"destination": "up", **route})}
        async with running(config(clusters=clusters, listeners=list(rules.values()))) as proxy:
            yield proxy


async def asks(proxy: Proxy, *parts: bytes) -> bytes:
    """Send each part and read until something of an answer is there; returns the last."""
    got = b""
    async with tcp(port_of(proxy, "in")) as client:
        for part in parts:
            client.send(part)
            got = await asyncio.wait_for(client.reader.read(65536), PATIENCE)
    await until_gone(proxy)
    return got


@pytest.mark.parametrize("kind", ASKED)
@pytest.mark.parametrize("fallback", [False, True], ids=["", "with a fallback"])
async def test_ended_http_connections_leave_no_garbage(kind: str, fallback: bool) -> None:
    async with web(**({"destination": "gone", "fallback": "up"} if fallback else {})) as proxy:
        with no_garbage():
            for _ in range(3):
                got = await asks(proxy, *[ASKED[kind] % (i, i) for i in range(20)])
    assert got.startswith(b"HTTP/1.1 200 ")


async def test_heads_that_are_forgotten_leave_no_garbage() -> None:
    """The memo of whole heads is emptied when it is full: heads that hold each other would stay."""
    async with web() as proxy:
        memo = proxy.listeners["in"].routing.memo  # type: ignore[attr-defined]
        with no_garbage():
            head = b"GET /%d HTTP/1.1\r\nhost: h\r\nx-long: " + b"x" * 3000 + b"\r\n\r\n"
            most = 0
            for begin in range(0, 300, 20):
                await asks(proxy, *[head % i for i in range(begin, begin + 20)])
                most = max(most, len(memo.heads))
            assert 0 < len(memo.heads) < most


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([b"no request\r\n\r\n"], b"400"),
        ([b"GET / HTTP/1.1\r\n\r\n"], b"400"),
        ([b"GET / HTTP/1.1\r\nhost: h\r\nupgrade: chat\r\nconnection: upgrade\r\n\r\n"], b"101"),
        ([b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n"], b"200"),
    ],
)
async def test_http_that_is_out_of_the_ordinary_leaves_no_garbage(parts: list[bytes], status: bytes) -> None:
    async with web() as proxy:
        with no_garbage():
            got = await asks(proxy, *parts)
    assert got.startswith(b"HTTP/1.1 " + status)


async def test_a_refused_upstream_leaves_no_garbage() -> None:
    async with web(destination="gone") as proxy:
        with no_garbage():
            got = await asks(proxy, ASKED["requests"] % (1, 1))
    assert got.startswith(b"HTTP/1.1 503 ")


async def test_a_client_that_leaves_in_mid_request_leaves_no_garbage() -> None:
    async with web() as proxy:
        with no_garbage():
            async with tcp(port_of(proxy, "in")) as client:
                client.send(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\ncut")
                await wait_until(lambda: live(proxy), "for the session")
                await asyncio.sleep(0.02)
            await until_gone(proxy)


# --- TLS, and ports that find out what is spoken --------------------------------------------------------------------------------------

GET = b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"


async def either(peer: Peer) -> None:
    """Answer HTTP in HTTP, and anything else as it is."""
    data = await peer.reader.read(65536)
    peer.send(OK if data.startswith(b"GET ") else data)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("said", [GET, b"hello\n"], ids=["HTTP", "bytes"])
async def test_a_port_that_finds_out_what_is_spoken_leaves_no_garbage(said: bytes, secure: bool, tmp_path: Path) -> None:
    trust = Trust(tmp_path)
    tls = {"tls": trust.certificate} if secure else {}
    async with tcp_server(either) as server:
        clusters = [cluster("up", server.port, protocol="auto")]
        async with running(config(clusters=clusters, listeners=[listener("in", "up", protocol="auto", spec=tls)])) as proxy:
            context = {"ssl": trust.client, "server_hostname": NAME} if secure else {}
            with no_garbage():
                for _ in range(2):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(proxy, "in"), **context)
                    writer.write(said)
                    got = await asyncio.wait_for(reader.read(), PATIENCE)
                    writer.close()
                    await until_gone(proxy)
    assert got.endswith(b"ok" if said is GET else said)


async def test_websockets_over_tls_leave_no_garbage(tmp_path: Path) -> None:
    trust = Trust(tmp_path)
    async with serve(Echo(), "127.0.0.1", 0, ssl=trust.server, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with running(config(clusters=[upstream(trust, port)], listeners=[wss(trust, "up")])) as proxy:
            with no_garbage():
                async with client(trust, port_of(proxy, "in")) as ws:
                    await ws.send("hello")
                    assert await ws.recv() == "hello"
                await until_gone(proxy)
