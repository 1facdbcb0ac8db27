"""Chains: transforms of any number on both ways, remote clusters among them; and retries on both sides."""

from __future__ import annotations

import asyncio
import json
import socket
from base64 import b64decode
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.ports import free_port
from tests.support import (
    Peer,
    cluster,
    config,
    echo,
    http,
    listener,
    port_of,
    running,
    tcp,
    tcp_server,
    udp,
    udp_server,
    unchunked,
    wait_until,
)


def metric(name: str) -> dict[str, Any]:
    return {"name": name, "spec": {"protocol": "Metric"}}


async def upper(peer: Peer) -> None:
    """A remote transform over TCP."""
    while data := await peer.reader.read(65536):
        peer.send(data.upper())


async def brackets(peer: Peer) -> None:
    """Another one, line by line."""
    while line := await peer.reader.readline():
        peer.send(b"<" + line[:-1] + b">\n")


@pytest.mark.parametrize("count", [1, 3, 12])
async def test_a_chain_of_any_length_passes_everything_in_order(count: int) -> None:
    names = [f"m{i}" for i in range(count)]
    conf = config(clusters=[echo(), *map(metric, names)], listeners=[listener("in", ingress=names, egress=names)])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        data = b"0123456789" * 50_000
        client.send(data)
        client.end()
        assert await client.read_all() == data
        for name in names:
            found: Any = proxy.clusters[name]
            assert sum(size for _, size, _ in found.sessions()) == 2 * len(data)


async def test_remote_tcp_transforms_stand_on_both_ways() -> None:
    async with tcp_server(upper) as one, tcp_server(brackets) as two:
        clusters = [echo(), cluster("upper", one.port), cluster("brackets", two.port), metric("m")]
        conf = config(clusters=clusters, listeners=[listener("in", ingress=["upper", "m"], egress=["m", "brackets"])])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"hello\n")
            assert await client.reader.readline() == b"<HELLO>\n"
            client.send(b"bye\n")
            client.end()  # the end goes round, too: through both remotes
            assert await client.read_all() == b"<BYE>\n"
            await wait_until(lambda: not list(proxy.sessions()), "for the session to end")


async def test_remote_udp_transforms_keep_datagrams_apart() -> None:
    async with udp_server(lambda data: b"[" + data + b"]") as one, udp_server(bytes.upper) as two:
        clusters = [echo(), cluster("one", one.port, protocol="UDP"), cluster("two", two.port, protocol="UDP")]
        conf = config(clusters=clusters, listeners=[listener("in", protocol="UDP", ingress=["one"], egress=["two"])])
        async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
            sent = [b"m%d" % i for i in range(50)]
            for message in sent:
                client.send(message)
            assert [await client.read() for _ in sent] == [b"[M%d]" % i for i in range(50)]


async def test_a_udp_remote_stands_in_a_tcp_chain() -> None:
    async with udp_server(bytes.upper) as remote:
        conf = config(clusters=[echo(), cluster("up", remote.port, protocol="UDP")], listeners=[listener("in", ingress=["up"])])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            for text in (b"one", b"two"):
                client.send(text)
                assert await client.read(3) == text.upper()


@pytest.mark.parametrize("way", ["ingress", "egress"])
async def test_a_remote_transform_that_breaks_ends_the_session(way: str) -> None:
    async with tcp_server() as remote, tcp_server() as upstream:
        clusters = [cluster("up", upstream.port), cluster("remote", remote.port)]
        conf = config(clusters=clusters, listeners=[listener("in", "up", options={"track": 60}, **{way: ["remote"]})])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            (await remote.peer()).reset()
            with pytest.raises(ConnectionError):
                await client.read_all()
            server = await upstream.peer()
            with pytest.raises(ConnectionError):
                await server.read_all()
            (session,) = proxy.sessions()
            assert session.error is not None and session.error.kind == "reset"


async def test_a_remote_transform_that_is_refused_fails_the_session_and_leaves_nothing_open() -> None:
    async with tcp_server() as upstream:
        clusters = [cluster("up", upstream.port), cluster("remote", free_port())]
        conf = config(clusters=clusters, listeners=[listener("in", "up", ingress=["remote"], options={"track": 60})])
        async with running(conf) as proxy:
            with pytest.raises(ConnectionError):
                async with tcp(port_of(proxy, "in")) as client:
                    await client.read_all()
            (session,) = proxy.sessions()
            assert session.error is not None and session.error.kind == "refused"
            for peer in upstream.peers:
                assert await peer.read_all() == b""


async def test_a_slow_remote_transform_pauses_the_client() -> None:
    async with tcp_server() as remote:
        conf = config(clusters=[echo(), cluster("remote", remote.port)], listeners=[listener("in", ingress=["remote"])])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            data = b"x" * 20_000_000
            client.send(data)
            server = await remote.peer()
            (session,) = proxy.sessions()
            stage: Any = session.hops[0]
            await wait_until(lambda: stage.full, "for a full transform")
            assert stage.size < 1_000_000
            assert await server.read(len(data)) == data


async def test_a_chain_is_made_anew_when_the_destination_comes_back() -> None:
    async with tcp_server(upper) as remote, tcp_server() as upstream:
        clusters = [cluster("up", upstream.port), cluster("upper", remote.port)]
        retry = {"retry_on": "disconnect", "num_retries": 3, "timeout": 2000}
        conf = config(clusters=clusters, listeners=[listener("in", "up", ingress=["upper"], retry=retry)])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            for n, text in enumerate((b"one", b"two")):
                client.send(text)
                server = await upstream.peer(n)
                assert await server.read(3) == text.upper()
                (session,) = proxy.sessions()
                server.close()
                await wait_until(lambda n=n, session=session: session.retries == n + 1 and session.task is None, "for the reconnect")
            await asyncio.sleep(0)


# --- requests through a transform of bytes --------------------------------------------------------------------------------------------


def keeping(heard: list[bytes], method: str, body: bytes) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """A server that keeps the head and the content of its request, and says 201."""

    async def app(peer: Any) -> None:
        head = await peer.reader.readuntil(b"\r\n\r\n")
        content = b""
        if b"transfer-encoding: chunked" in head:
            while not content.endswith(b"0\r\n\r\n"):
                content += await peer.reader.read(65536)
            content = unchunked(content)
        elif body:
            content = await peer.reader.readexactly(len(body))
        heard.extend((head, content))
        peer.send(b"HTTP/1.1 201 Made\r\ncontent-length: 2\r\nx-a: 1\r\n\r\n" + (b"" if method == "HEAD" else b"ok"))

    return app


@pytest.mark.parametrize("way", ["ingress", "egress"])
@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("HEAD", b""), ("POST", b"hello"), ("PUT", b"x" * 300_000)])
async def test_heads_pass_by_a_remote_transform_that_knows_bytes_only(way: str, method: str, body: bytes) -> None:
    """A server of TCP that changes letters: the request's content goes through it, its head does not, and the answer comes."""
    heard: list[bytes] = []

    async def shout(peer: Any) -> None:
        while data := await peer.reader.read(65536):
            peer.send(data.upper())
        peer.close()

    app = keeping(heard, method, body)

    async with tcp_server(shout) as transform, tcp_server(app) as server:
        clusters = [cluster("shout", transform.port), cluster("up", server.port, protocol="HTTP")]
        front = listener("in", "up", protocol="HTTP", **{way: ["shout"]})
        async with running(config(clusters=clusters, listeners=[front])) as proxy:
            status, fields, answer = await asyncio.wait_for(http(port_of(proxy, "in"), "/x", method, body=body), 5)
    assert heard[0].startswith(f"{method} /x HTTP/1.1\r\n".encode()) and heard[1] == (body.upper() if way == "ingress" else body)
    assert (status, fields["x-a"]) == (201, "1")
    assert answer == (b"" if method == "HEAD" else b"OK" if way == "egress" else b"ok")


TRANSFORMS = {
    "Echo": {"protocol": "Echo"},
    "UDP": {"protocol": "UDP"},
    "framed": {"protocol": "TCP", "framing": "length32"},
    "JSONSocket": {"protocol": "JSONSocket", "transport": {"protocol": "TCP"}},
    "JSONSocket/UDP": {"protocol": "JSONSocket", "transport": {"protocol": "UDP"}},
    "WebSocket": {"protocol": "WebSocket"},
}
"""Specs of remote transforms, without their port."""


@pytest.mark.parametrize("kind", TRANSFORMS)
@pytest.mark.parametrize("way", ["ingress", "egress"])
@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("HEAD", b""), ("POST", b"hello"), ("PUT", b"x" * 20_000)])
async def test_heads_pass_by_transforms_of_every_protocol(kind: str, way: str, method: str, body: bytes) -> None:
    """The request reached a JSONSocket, framed or UDP transform and nobody behind it. The transforms are listeners of our own that echo."""
    heard: list[bytes] = []

    app = keeping(heard, method, body)

    def spec(port: int) -> dict[str, Any]:
        made = dict(TRANSFORMS[kind])
        if "transport" in made:
            made["transport"] = {**made["transport"], "port": port, "address": "127.0.0.1"}
        elif kind != "Echo":
            made |= {"port": port, "address": "127.0.0.1"}
        return made

    async with tcp_server(app) as server:
        far = free_port(socket.SOCK_DGRAM if "UDP" in kind else socket.SOCK_STREAM)
        ends = [{"name": "e", "spec": {"address": "127.0.0.1"}}] if kind != "Echo" else []
        stage = {"name": "stage", "spec": {k: v for k, v in spec(far).items() if k != "address"}, "endpoints": ends}
        if "UDP" in kind:
            stage["options"] = {"half_close_timeout": 0.2}
        clusters = [stage, cluster("up", server.port, protocol="HTTP"), echo()]
        listeners = [listener("in", "up", protocol="HTTP", **{way: ["stage"]})]
        if kind != "Echo":
            listeners.append({"name": "far", "spec": spec(far), "rules": [{"action": {"route": {"destination": "echo"}}}]})
        async with running(config(clusters=clusters, listeners=listeners)) as proxy:
            status, fields, answer = await asyncio.wait_for(http(port_of(proxy, "in"), "/x", method, body=body), 5)
    assert heard[0].startswith(f"{method} /x HTTP/1.1\r\n".encode()) and heard[1] == body
    assert (status, fields["x-a"], answer) == (201, "1", b"" if method == "HEAD" else b"ok")


TURNS = ["Logger", "Metric", "Echo", "Mirror", "JSONDecap", "JSONEncap"]


@pytest.mark.parametrize("kind", TURNS)
@pytest.mark.parametrize("protocol", ["HTTP", "auto"])
@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("HEAD", b""), ("POST", b'{"payload": "aGk="}'), ("PUT", b"x" * 200_000)])
async def test_a_transform_that_is_the_destination_answers_with_the_content_and_no_request_comes_back(
    kind: str, protocol: str, method: str, body: bytes
) -> None:
    """The client read its own request's first line where the status line belongs; l7mp answers 200 and what the transform made."""
    spec = {"protocol": kind, **({"cluster": "echo"} if kind == "Mirror" else {})}
    parts = config(clusters=[echo(), {"name": "turn", "spec": spec}], listeners=[listener("in", "turn", protocol=protocol)])
    async with running(parts) as proxy:
        status, _, answer = await asyncio.wait_for(http(port_of(proxy, "in"), "/x", method, body=body), 5)
    assert status == 200
    if kind == "JSONEncap" and body:
        pieces = [json.loads(piece)["payload"] for piece in answer.replace(b'"}{"', b'"}\n{"').split(b"\n")]
        assert b"".join(map(b64decode, pieces)) == body
    elif kind == "JSONDecap" and method == "PUT":
        assert answer == b""
    else:
        assert answer == (b"hi" if kind == "JSONDecap" and body else b"" if method == "HEAD" else body)
