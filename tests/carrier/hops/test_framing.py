"""Framing: messages over streams of bytes, however the bytes are cut."""

from __future__ import annotations

import socket

import pytest

from carrier import model as c
from carrier.core.stream import link
from carrier.errors import ConfigError
from carrier.hops.framing import MOST, Length32, Lines
from carrier.hops.joint import Joint
from tests.support import Ear, cluster, config, listener, port_of, running, tcp, tcp_server, udp, udp_server, wait_until


def linked(joint: Joint) -> tuple[Ear, Ear]:
    """A joint between a wire and a session."""
    wire, session = Ear(), Ear()
    link([wire, joint.near])
    link([session, joint.far])
    return wire, session


MESSAGES = [b"one", b"", b"three" * 1000, b"x"]


@pytest.mark.parametrize("kind", [Lines, Length32])
@pytest.mark.parametrize("piece", [1, 3, 7, 4096, 1 << 20])
def test_messages_survive_however_the_bytes_are_cut(kind: type[Joint], piece: int) -> None:
    sender, receiver = kind(), kind()
    wire, _ = linked(sender)
    for message in MESSAGES:
        sender.far.data(message)
    sent = b"".join(wire.heard)
    _, session = linked(receiver)
    for i in range(0, len(sent), piece):
        receiver.near.data(sent[i : i + piece])
    receiver.near.end()
    assert session.heard == [*MESSAGES, "end"]


def test_the_last_line_needs_no_line_feed() -> None:
    joint = Lines()
    _, session = linked(joint)
    joint.near.data(b"a\nb")
    joint.near.end()
    assert session.heard == [b"a", b"b", "end"]


def test_a_stream_that_ends_within_a_frame_is_broken() -> None:
    joint = Length32()
    wire, session = linked(joint)
    joint.near.data(b"\0\0\0\5ab")
    joint.near.end()
    assert session.heard == ["protocol-error"] and wire.heard == ["protocol-error"]


@pytest.mark.parametrize(("kind", "data"), [(Length32, b"\xff\0\0\0"), (Lines, b"x" * (MOST + 1))])
def test_a_frame_that_is_too_long_breaks_the_stream(kind: type[Joint], data: bytes) -> None:
    joint = kind()
    wire, session = linked(joint)
    joint.near.data(data)
    joint.near.data(b"more\n")
    assert session.heard == ["protocol-error"] and wire.heard == ["protocol-error"]


@pytest.mark.parametrize("framing", ["lines", "length32"])
async def test_datagrams_keep_their_limits_over_tcp(framing: str) -> None:
    """UDP -> framed TCP -> framed TCP -> UDP."""
    async with udp_server() as upstream:
        far = cluster("far", upstream.port, protocol="UDP")
        async with running(config(clusters=[far], listeners=[listener("out", "far", spec={"framing": framing})])) as second:
            near = cluster("near", port_of(second, "out"))
            near["spec"]["framing"] = framing
            async with running(config(clusters=[near], listeners=[listener("in", "near", protocol="UDP")])) as first:
                async with udp(port_of(first, "in")) as client:
                    sent = [b"m%d" % i * (i % 7 + 1) for i in range(200)]
                    for message in sent:
                        client.send(message)
                    assert [await client.read() for _ in sent] == sent
                session = next(iter(first.sessions()))
                assert session.name.startswith("UDP:") and next(iter(second.sessions())).name.startswith("TCP:")


async def test_a_framed_listener_speaks_first_pauses_and_ends_as_its_transport_does() -> None:
    async with tcp_server() as upstream:
        conf = config(clusters=[cluster("up", upstream.port)], listeners=[listener("in", "up", spec={"framing": "lines"})])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            server = await upstream.peer()
            server.send(b"hello")
            assert await client.read(6) == b"hello\n"
            client.send(b"a\nb\nrest")
            client.end()
            assert await server.read_all() == b"abrest"
            server.send(b"bye")
            server.end()
            assert await client.read_all() == b"bye\n"
            await wait_until(lambda: not proxy.listeners["in"].live, "for the session to end")


async def test_a_killed_session_closes_both_ends() -> None:
    async with tcp_server() as upstream:
        conf = config(clusters=[cluster("up", upstream.port)], listeners=[listener("in", "up", spec={"framing": "lines"})])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"x\n")
            server = await upstream.peer()
            assert await server.read(1) == b"x"
            next(iter(proxy.sessions())).kill()
            assert await client.read_all() == b""
            assert not list(proxy.sessions())


async def test_a_refused_upstream_ends_the_framed_connection() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        conf = config(
            clusters=[cluster("up", closed.getsockname()[1])],
            listeners=[listener("in", "up", spec={"framing": "lines"}, options={"track": 60})],
        )
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            with pytest.raises(ConnectionError):
                client.send(b"x\n")
                await client.read(1)
            (session,) = proxy.sessions()
            assert session.error is not None and session.error.kind == "refused"


async def test_a_framed_listener_is_replaced_without_losing_its_port() -> None:
    conf = config(clusters=[{"name": "echo", "spec": {"protocol": "Echo"}}], listeners=[listener("in", spec={"framing": "lines"})])
    async with running(conf) as proxy:
        port = port_of(proxy, "in")
        changed = config(base=conf, listeners=[listener("in", spec={"framing": "length32"})])
        await proxy.apply(changed)
        assert port_of(proxy, "in") == port
        async with tcp(port) as client:
            client.send(b"\0\0\0\2hi")
            assert await client.read(6) == b"\0\0\0\2hi"


@pytest.mark.parametrize(("protocol", "framing"), [("UDP", "lines"), ("TCP", "words")])
async def test_what_cannot_be_framed_is_refused(protocol: str, framing: str) -> None:
    with pytest.raises(ConfigError, match="framing"):
        async with running(config(listeners=[listener("in", protocol=protocol, spec={"framing": framing})])):
            pass


def test_the_strict_check_knows_framing() -> None:
    from clusters.tcp import TcpCluster
    from listeners.tcp import TcpListener
    from listeners.udp import UdpListener

    assert not TcpListener.check({"protocol": "TCP", "port": 1, "framing": "lines"})
    assert not TcpCluster.check({"protocol": "TCP", "port": 1, "framing": "none"})
    assert "unknown framing" in str(TcpListener.check({"protocol": "TCP", "port": 1, "framing": "x"})[0])
    assert "unknown field" in str(UdpListener.check({"protocol": "UDP", "port": 1, "framing": "lines"})[0])


def test_datagrams_into_a_framed_stream_are_nothing_to_warn_of() -> None:
    from carrier.config.findings import warnings

    def conf(framing: str) -> c.Config:
        up = cluster("up", 1)
        up["spec"]["framing"] = framing
        return config(clusters=[up], listeners=[listener("in", "up", protocol="UDP")])

    assert "limits between datagrams" in warnings(conf("none"))[0]
    assert not warnings(conf("lines"))
