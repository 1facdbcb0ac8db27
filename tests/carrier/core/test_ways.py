"""Sessions that come back to listeners of ours are ended after ten times, whatever they travel in."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from carrier.core.fence import Own
from carrier.core.ways import MOST, Ways
from carrier.proxy.proxy import Proxy
from tests.ports import free_port
from tests.sockets import client as unix
from tests.support import cluster, config, echo, listener, running, tcp, udp, wait_until

GREETING = b'{"JSONSocketVersion":1}'


def ports(kind: str, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A listener and the cluster that leads to it."""
    if kind != "JSONSocket":
        spec = {"framing": "lines"} if kind == "framed" else {}
        protocol = "TCP" if kind == "framed" else kind
        up = cluster("up", number, protocol=protocol)
        return listener("in", "up", protocol=protocol, port=number, spec=spec), {**up, "spec": {**up["spec"], **spec}}
    transport = {"protocol": "TCP", "port": number}
    front = {"name": "in", "spec": {"protocol": kind, "transport": {**transport, "address": "127.0.0.1"}}}
    up = {"name": "up", "spec": {"protocol": kind, "transport": transport}, "endpoints": [{"spec": {"address": "localhost"}}]}
    return {**front, "rules": [{"action": {"route": {"destination": "up"}}}]}, up


async def settled(proxy: Proxy) -> int:
    """How many sessions its listener has had, when there are no more to come."""
    front = proxy.listeners["in"]
    await wait_until(lambda: front.limited.get("max_hops"), "for the bound")
    await asyncio.sleep(0.05)
    return front.counter


@pytest.mark.parametrize("kind", ["TCP", "auto", "framed", "JSONSocket"])
async def test_a_stream_that_goes_round_ends_and_its_client_is_told(kind: str) -> None:
    number = free_port()
    front, up = ports(kind, number)
    async with running(config(clusters=[up], listeners=[front])) as proxy, tcp(number) as client:
        client.send(GREETING if kind == "JSONSocket" else b"\x01hello\n")
        assert await settled(proxy) in (MOST, MOST + 1)
        await wait_until(lambda: not list(proxy.sessions()), "for all of them to end")


async def test_a_stream_that_goes_round_as_the_content_of_requests_ends() -> None:
    number = free_port()
    up = cluster("up", number, protocol="HTTP")
    async with running(config(clusters=[up], listeners=[listener("in", "up", port=number)])) as proxy, tcp(number) as client:
        client.send(b"hello")
        assert await settled(proxy) <= MOST + 1
        await wait_until(lambda: not list(proxy.sessions()), "for all of them to end")


async def test_a_datagram_that_goes_round_is_ten_datagrams_and_counted() -> None:
    number = free_port(socket.SOCK_DGRAM)
    front, up = ports("UDP", number)
    async with running(config(clusters=[up], listeners=[front])) as proxy, udp(number) as client:
        client.send(b"x")
        assert await settled(proxy) == MOST + 1
        for n in range(2, 5):
            client.send(b"y")
            await wait_until(lambda n=n: (proxy.listeners["in"].datagrams() or {}).get("dropped: no-destination") == n)


@pytest.mark.parametrize("mode", ["stream", "seqpacket", "dgram"])
async def test_one_that_goes_round_by_a_file_ends(mode: str, tmp_path: Path) -> None:
    spec = {"protocol": "UnixDomainSocket", "mode": mode}
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "s")
    up = {"name": "up", "spec": spec, "endpoints": [{"spec": {"address": str(link)}}]}
    front = {"name": "in", "spec": {**spec, "filename": str(tmp_path / "s")}, "rules": [{"action": {"route": {"destination": "up"}}}]}
    async with running(config(clusters=[up], listeners=[front])) as proxy:
        with unix(tmp_path / "s", mode) as client:
            await client.send(b"x")
            assert await settled(proxy) == MOST + 1


@pytest.mark.parametrize("kind", ["TCP", "UDP"])
async def test_one_listener_after_the_other_is_as_good_as_ever(kind: str) -> None:
    """Nine of them, which end in an echo."""
    numbers = [free_port(socket.SOCK_DGRAM if kind == "UDP" else socket.SOCK_STREAM) for _ in range(MOST - 1)]
    clusters = [cluster(f"up{i}", number, protocol=kind) for i, number in enumerate(numbers) if i]
    fronts = [
        listener(f"in{i}", f"up{i + 1}" if i + 1 < len(numbers) else "echo", protocol=kind, port=number) for i, number in enumerate(numbers)
    ]
    async with running(config(clusters=[*clusters, echo()], listeners=fronts)) as proxy:
        if kind == "UDP":
            async with udp(numbers[0]) as peer:
                peer.send(b"hello")
                assert await peer.read() == b"hello"
            return
        for _ in range(3):
            async with tcp(numbers[0]) as client:
                client.send(b"hello")
                assert await client.read(5) == b"hello"
            await wait_until(lambda: not list(proxy.sessions()))


async def test_what_leads_elsewhere_is_not_noted_and_what_has_ended_is_forgotten() -> None:
    class Ended:
        status = "DESTROYED"

    ways = Ways()
    own = Own([("tcp", "*", 8080)])
    assert ways.lead_here(own, "tcp", "127.0.0.1", 8080) and not ways.lead_here(own, "udp", "127.0.0.1", 8080)
    assert not ways.lead_here(own, "tcp", "127.0.0.1", 8081) and not ways.lead_here(own, "tcp", "192.0.2.1", 8080)
    with socket.socket() as sock:
        for _ in range(1000):
            sock = socket.socket()
            with sock:
                sock.bind(("127.0.0.1", 0))
                ways.goes(Ended(), "tcp", sock)  # type: ignore[arg-type]
    assert len(ways.made) <= 256
    async with (
        running(config(clusters=[echo()], listeners=[listener("in", "echo")])) as proxy,
        tcp(proxy.listeners["in"].port or 0) as client,
    ):
        client.send(b"x")
        assert await client.read(1) == b"x"
        assert not proxy.env.ways.made
