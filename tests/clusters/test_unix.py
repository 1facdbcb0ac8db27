"""UNIX cluster in its three modes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from clusters.unix import UnixCluster
from tests.sockets import MODES, is_reset, peer_of, server
from tests.support import config, listener, port_of, running, tcp, udp, wait_until

ALL = sorted(MODES)


def unix_cluster(path: Path, mode: str, *more: Path) -> dict[str, Any]:
    """A cluster whose endpoints are these files."""
    endpoints = [{"spec": {"address": str(p)}} for p in (path, *more)]
    return {"name": "up", "spec": {"protocol": "UnixDomainSocket", "mode": mode}, "endpoints": endpoints}


@pytest.mark.parametrize("mode", ALL)
async def test_datagrams_reach_a_socket_file_and_are_answered(mode: str, tmp_path: Path) -> None:
    with server(tmp_path / "s", mode) as upstream:
        conf = config(clusters=[unix_cluster(tmp_path / "s", mode)], listeners=[listener("in", "up", protocol="UDP")])
        async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
            client.send(b"hello")
            peer, said = await peer_of(upstream, mode)
            with peer:
                assert said == b"hello"
                for message in (b"a", b"b" * 2000):
                    await peer.send(message)
                    assert await client.read() == message
                if mode != "stream":
                    sent = [b"m%d" % i for i in range(100)]
                    for message in sent:
                        client.send(message)
                    assert [await peer.read() for _ in sent] == sent


@pytest.mark.parametrize("mode", ["stream", "seqpacket"])
async def test_ends_pass_in_both_directions(mode: str, tmp_path: Path) -> None:
    with server(tmp_path / "s", mode) as upstream:
        conf = config(clusters=[unix_cluster(tmp_path / "s", mode)], listeners=[listener("in", "up")])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"ask")
            client.end()
            peer, said = await peer_of(upstream, mode)
            with peer:
                assert said == b"ask"
                assert await peer.read() == b""
                await peer.send(b"answer")
            assert await client.read_all() == b"answer"
            await wait_until(lambda: not list(proxy.sessions()), "for the session to end")


@pytest.mark.parametrize("mode", ALL)
async def test_a_file_that_is_not_there_is_a_refusal_and_another_endpoint_serves(mode: str, tmp_path: Path) -> None:
    with server(tmp_path / "s", mode) as upstream:
        made = unix_cluster(tmp_path / "missing", mode, tmp_path / "s")
        async with running(config(clusters=[made], listeners=[listener("in", "up")])) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"hello")
            peer, said = await peer_of(upstream, mode)
            with peer:
                assert said == b"hello"
    alone = config(clusters=[unix_cluster(tmp_path / "missing", mode)], listeners=[listener("in", "up", options={"track": 60})])
    async with running(alone) as proxy:
        await is_reset(port_of(proxy, "in"))
        (session,) = proxy.sessions()
        assert session.error is not None and session.error.kind == "refused"


async def test_a_datagram_server_that_is_slow_gets_everything(tmp_path: Path) -> None:
    """Unlike UDP nothing is lost: the downstream is paused while the upstream's queue is full."""
    with server(tmp_path / "s", "dgram") as upstream:
        conf = config(clusters=[unix_cluster(tmp_path / "s", "dgram")], listeners=[listener("in", "up", spec={"framing": "lines"})])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            count = 5000
            client.send(b"".join(b"%d\n" % i for i in range(count)))
            await wait_until(lambda: proxy.listeners["in"].live)
            await asyncio.sleep(0.05)
            assert [await upstream.read() for _ in range(count)] == [b"%d" % i for i in range(count)]


async def test_a_server_that_goes_away_is_told_to_the_downstream(tmp_path: Path) -> None:
    upstream = server(tmp_path / "s", "dgram")
    conf = config(clusters=[unix_cluster(tmp_path / "s", "dgram")], listeners=[listener("in", "up", options={"track": 60})])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"x")
        assert await upstream.read() == b"x"
        upstream.sock.close()
        client.send(b"y")
        with pytest.raises(ConnectionError):
            await client.read_all()
        (session,) = proxy.sessions()
        assert session.error is not None and session.error.kind == "refused"


async def test_a_message_that_is_too_long_is_dropped_and_counted(tmp_path: Path) -> None:
    with server(tmp_path / "s", "seqpacket") as upstream:
        conf = config(clusters=[unix_cluster(tmp_path / "s", "seqpacket")], listeners=[listener("in", "up", spec={"framing": "length32"})])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            big = b"x" * 900_000
            client.send(len(big).to_bytes(4, "big") + big + b"\0\0\0\0" + b"\0\0\0\2hi")
            peer, said = await peer_of(upstream, "seqpacket")
            with peer:
                assert said == b"hi"
                assert next(iter(proxy.sessions())).dropped == 2  # the long one, and the empty one that would read as the end


def test_the_strict_check_names_what_is_wrong() -> None:
    assert not UnixCluster.check({"protocol": "UnixDomainSocket"})
    assert "unknown mode" in str(UnixCluster.check({"protocol": "UnixDomainSocket", "mode": "x"})[0])
