"""SCTP, listener and cluster: messages, ends, refusals on a kernel that has it; the refusal with its reason on one that has not."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from carrier.errors import Error
from clusters.sctp import SctpCluster
from listeners.sctp import SctpListener, missing, sctp_socket
from tests.sockets import Unix
from tests.support import cluster, config, echo, listener, port_of, running, udp, wait_until

kernel = pytest.mark.skipif(bool(missing()), reason=missing())


@kernel
async def test_messages_are_echoed_with_their_limits() -> None:
    async with running(config(clusters=[echo()], listeners=[listener("in", protocol="SCTP")])) as proxy:
        sock = sctp_socket(socket.AF_INET)
        with Unix(sock) as client:
            await client.loop.sock_connect(sock, ("127.0.0.1", port_of(proxy, "in")))
            sent = [b"one", os.urandom(20_000), *(b"m%d" % i for i in range(100))]
            sending = asyncio.create_task(asyncio.wait_for(all_of(client, sent), 5))
            assert [await client.read() for _ in sent] == sent
            await sending
            (session,) = proxy.sessions()
            assert session.name.startswith("SCTP:127.0.0.1:") and session.metadata["SCTP"]["dst_port"] == port_of(proxy, "in")
        await wait_until(lambda: not list(proxy.sessions()), "for the session to end")


@kernel
async def test_a_cluster_reaches_a_listener_of_another_proxy() -> None:
    async with running(config(clusters=[echo()], listeners=[listener("out", protocol="SCTP")])) as second:
        up = cluster("up", port_of(second, "out"), protocol="SCTP")
        conf = config(clusters=[up], listeners=[listener("in", "up", protocol="UDP")])
        async with running(conf) as first, udp(port_of(first, "in")) as client:
            sent = [b"m%d" % i for i in range(50)]
            for message in sent:
                client.send(message)
            assert [await client.read() for _ in sent] == sent


async def all_of(one: Unix, messages: list[bytes]) -> None:
    for message in messages:
        await one.send(message)


async def test_a_kernel_without_it_refuses_the_configuration_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(_: int) -> None:
        raise OSError(93, "Protocol not supported")

    monkeypatch.setattr("listeners.sctp.sctp_socket", lacking)
    async with running() as proxy:
        for conf in (
            config(clusters=[cluster("up", 1, protocol="SCTP")]),
            config(clusters=[echo()], listeners=[listener("in", protocol="SCTP")]),
        ):
            with pytest.raises(Error, match="SCTP needs a kernel that has it: Protocol not supported"):
                await proxy.apply(conf)


def test_the_strict_check_is_that_of_ports() -> None:
    assert not SctpListener.check({"protocol": "SCTP", "port": 1, "address": "::1"})
    assert SctpCluster.check({"protocol": "SCTP"})
