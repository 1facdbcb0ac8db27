"""Mirror: a copy whose answers are ignored and whose failures harm nobody."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from carrier.observe.metrics import Metrics
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
    wait_until,
)
from transforms.mirror import PIECE, MirrorCluster, MirrorStream


def mirror(to: str = "copy") -> dict[str, Any]:
    return {"name": "mirror", "spec": {"protocol": "Mirror", "cluster": to}}


async def web(peer: Peer) -> None:
    """A web server that answers one request after another."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        while head := await peer.reader.readuntil(b"\r\n\r\n"):
            assert head
            peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


async def test_a_tcp_stream_is_copied_with_its_end_and_the_answer_is_ignored() -> None:
    async with tcp_server() as copy:
        conf = config(clusters=[echo(), cluster("copy", copy.port), mirror()], listeners=[listener("in", ingress=["mirror"])])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"hello")
            assert await client.read(5) == b"hello"
            mirrored = await copy.peer()
            assert await mirrored.read(5) == b"hello"
            mirrored.send(b"who asked you?")
            client.send(b"bye")
            client.end()
            assert await client.read_all() == b"bye"
            assert await mirrored.read_all() == b"bye"
        assert proxy.clusters["copy"].sessions_total == 1


async def test_datagrams_and_answers_are_copied_as_messages() -> None:
    async with udp_server(lambda data: data.upper()) as up, udp_server(lambda data: b"no") as copy:
        clusters = [cluster("up", up.port, protocol="UDP"), cluster("copy", copy.port, protocol="UDP"), mirror()]
        conf = config(clusters=clusters, listeners=[listener("in", "up", protocol="UDP", egress=["mirror"])])
        async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
            for text in (b"one", b"two"):
                client.send(text)
                assert await client.read() == text.upper()
                assert await copy.read() == text.upper()


async def test_requests_are_mirrored_whole_and_answered_by_the_destination_only() -> None:
    async with tcp_server(web) as up, tcp_server(web) as copy:
        clusters = [cluster("up", up.port, protocol="HTTP"), cluster("copy", copy.port, protocol="HTTP"), mirror()]
        conf = config(clusters=clusters, listeners=[listener("in", "up", protocol="HTTP", ingress=["mirror"])])
        async with running(conf) as proxy:
            for _ in range(3):
                status, _, body = await http(port_of(proxy, "in"), "/a")
                assert (status, body) == (200, b"ok")
            found: Any = proxy.clusters["copy"]
            await wait_until(lambda: found.sessions_total == 3 and found.endpoints[0].idle, "for the mirrored requests to end")
            assert all(up.session is None for up in found.shared.busy)


async def test_a_mirror_that_is_not_there_harms_nobody() -> None:
    for clusters in ([echo(), mirror("nowhere")], [echo(), mirror(), cluster("copy", 1)], [echo(), mirror("mirror")]):
        conf = config(clusters=clusters, listeners=[listener("in", ingress=["mirror"])])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"hello")
            assert await client.read(5) == b"hello"
            (session,) = proxy.sessions()
            if clusters[1]["spec"]["cluster"] != "mirror":
                await wait_until(lambda session=session: any(e[1] == "Mirror" or e[2] == "Mirror" for e in session.events), "for the event")
            client.end()
            assert await client.read_all() == b""


async def test_a_mirror_that_is_too_slow_is_given_up_and_the_session_goes_on() -> None:
    async with tcp_server() as copy:
        conf = config(clusters=[echo(), cluster("copy", copy.port), mirror()], listeners=[listener("in", ingress=["mirror"])])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            size = 30_000_000
            client.send(b"x" * size)
            assert await client.read(size) == b"x" * size
            (session,) = proxy.sessions()
            assert any("too slow" in str(event) for event in session.events)


async def test_an_upload_that_comes_faster_than_its_mirror_connects_or_reads_is_copied_whole() -> None:
    """Above 64 KiB a copy was given up: a web app at the mirror got no request, or half of one."""
    size = 3_000_000

    async def upload(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.read(size)
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with tcp_server(upload) as up, tcp_server() as copy:
        clusters = [cluster("up", up.port, protocol="HTTP"), cluster("copy", copy.port, protocol="HTTP"), mirror()]
        conf = config(clusters=clusters, listeners=[listener("in", "up", protocol="HTTP", ingress=["mirror"])])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
            assert (await client.read(17)).startswith(b"HTTP/1.1 200 ")
            mirrored = await copy.peer()
            assert b"content-length: 3000000\r\n" in await mirrored.reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.05)  # it reads late
            assert await mirrored.read(size) == b"x" * size
            mirrored.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno")
            found: Any = proxy.clusters["mirror"]
            assert found.held == 0


@pytest.mark.parametrize(("options", "held", "given_up"), [({"copies_bytes": 100_000}, 60_000, 1), ({"copy_bytes": "50k"}, 0, 2)])
async def test_what_waits_of_copies_has_bounds_and_each_that_is_given_up_is_counted(
    options: dict[str, Any], held: int, given_up: int, monkeypatch: pytest.MonkeyPatch
) -> None:

    async def never(self: MirrorStream) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(MirrorStream, "_open", never)
    clusters = [echo(), cluster("copy", 80), {**mirror(), "options": options}]
    async with running(config(clusters=clusters, listeners=[listener("in", ingress=["mirror"])])) as proxy:
        found: Any = proxy.clusters["mirror"]
        async with tcp(port_of(proxy, "in")) as one, tcp(port_of(proxy, "in")) as two:
            for client in (one, two):
                client.send(b"x" * 60_000)
                assert await client.read(60_000) == b"x" * 60_000
            assert held <= found.held <= 1.2 * held  # a piece counts for a little more than its bytes
            (limit,) = options
            said = [any(f"bytes wait (options.{limit})" in str(event) for event in session.events) for session in proxy.sessions()]
            assert sum(said) == given_up == found.limited[limit]
            text = (await Metrics(proxy).text())[1].decode()
            assert f'carrier_limits_hit_total{{limit="{limit}",object="cluster/mirror"}} {given_up}.0' in text
        for stream in list(proxy.sessions()):
            stream.kill()
        await wait_until(lambda: not found.held, "for the room to be free again")


async def test_an_upload_in_very_many_small_pieces_waits_for_its_mirror_as_one_in_few_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind 1,024 pieces a copy was given up, whatever their size, and `copy_bytes` was said to be the limit."""
    ready, reach = asyncio.Event(), MirrorStream._open

    async def late(self: MirrorStream) -> Any:
        await ready.wait()
        return await reach(self)

    monkeypatch.setattr(MirrorStream, "_open", late)
    async with tcp_server() as copy:
        conf = config(clusters=[echo(), cluster("copy", copy.port), mirror()], listeners=[listener("in", ingress=["mirror"])])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            for _ in range(1100):
                client.send(b"x")
                assert await client.read(1) == b"x"
            found: Any = proxy.clusters["mirror"]
            assert found.held == 1100 * (PIECE + 1) and not any(found.limited.values())
            ready.set()
            assert await (await copy.peer()).read(1100) == b"x" * 1100
            await wait_until(lambda: not found.held)


def test_bounds_that_are_none_are_refused_by_name() -> None:
    problems = MirrorCluster.check_options({"copy_bytes": "much", "copy_byte": 1}, "$.options")
    assert [problem.path for problem in problems] == ["$.options.copy_byte", "$.options.copy_bytes"]


async def test_a_mirror_that_breaks_is_left_alone() -> None:
    async with tcp_server() as copy:
        conf = config(clusters=[echo(), cluster("copy", copy.port), mirror()], listeners=[listener("in", ingress=["mirror"])])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"a")
            mirrored = await copy.peer()
            mirrored.reset()
            for _ in range(5):
                client.send(b"b")
            assert await client.read(6) == b"abbbbb"


async def test_a_killed_session_ends_its_mirror() -> None:
    async with tcp_server() as copy:
        conf = config(clusters=[echo(), cluster("copy", copy.port), mirror()], listeners=[listener("in", ingress=["mirror"])])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"a")
            mirrored = await copy.peer()
            assert await mirrored.read(1) == b"a"
            next(iter(proxy.sessions())).kill()
            assert await mirrored.read_all() == b""


async def test_nothing_is_mirrored_into_the_rest_api() -> None:
    api = {"name": "api", "spec": {"protocol": "L7mpController"}}
    conf = config(clusters=[echo(), api, mirror("api")], listeners=[listener("in", ingress=["mirror"])])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"a")
        assert await client.read(1) == b"a"
        await wait_until(lambda: any("no cluster 'api'" in str(e) for s in proxy.sessions() for e in s.events))


def test_the_strict_check_wants_a_cluster() -> None:
    assert not MirrorCluster.check({"protocol": "Mirror", "cluster": "x"})
    assert "needs 'cluster'" in str(MirrorCluster.check({"protocol": "Mirror"})[0])
