"""Echo and Discard: clusters that are a hop and nothing else."""

from __future__ import annotations

import pytest

from tests.support import ask, config, echo, listener, port_of, running, tcp, udp, wait_until

DISCARD = {"name": "discard", "spec": {"protocol": "Discard"}}


def to(destination, protocol="TCP"):
    return config(clusters=[echo(), DISCARD], listeners=[listener("in", destination, protocol=protocol)])


async def test_echo_gives_a_stream_back_and_ends_when_it_ends():
    async with running(to("echo")) as proxy:
        assert await ask(port_of(proxy, "in"), b"all of it" * 100_000) == b"all of it" * 100_000
        await wait_until(lambda: not proxy.listeners["in"].live)


async def test_echo_gives_datagrams_back_one_by_one():
    async with running(to("echo", "UDP")) as proxy, udp(port_of(proxy, "in")) as client:
        for data in (b"one", b"three", b"seventeen"):
            client.send(data)
        assert [await client.read() for _ in range(3)] == [b"one", b"three", b"seventeen"]


async def test_discard_answers_a_stream_with_its_end_only():
    async with running(to("discard")) as proxy:
        assert await ask(port_of(proxy, "in"), b"into the void" * 100_000) == b""
        await wait_until(lambda: not proxy.listeners["in"].live)


async def test_discard_reads_on_as_long_as_something_comes():
    async with running(to("discard")) as proxy, tcp(port_of(proxy, "in")) as client:
        for _ in range(32):
            client.send(bytes(1 << 20))
        await wait_until(lambda: sum(s.source.bytes_in for s in proxy.listeners["in"].live) == 32 << 20)


@pytest.mark.parametrize("name", ["echo", "discard"])
async def test_they_have_no_endpoints_and_are_shown_as_virtual(name):
    async with running(to(name)) as proxy, tcp(port_of(proxy, "in")):
        await wait_until(lambda: proxy.listeners["in"].live)
        (session,) = proxy.sessions()
        assert session.dump()["destination"]["endpoint"]["spec"] == {"address": "<VIRTUAL>"}
