"""AF_PACKET on loopback, with an ethertype of its own: listener and cluster; skipped without the privilege."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from carrier.errors import Error
from carrier.hops.afpacket import packet_socket, privileged
from clusters.afpacket import PacketCluster
from listeners.afpacket import PacketListener
from tests.support import config, echo, listener, port_of, running, udp, wait_until

privilege = pytest.mark.skipif(bool(privileged()), reason=privileged())
OURS, THEIRS = 0x88B5, 0x88B6
"""Ethertypes for local experiments (IEEE 802)."""


def frame(ethertype: int, text: bytes) -> bytes:
    """An Ethernet frame to and from nobody, as loopback has them, long enough not to be padded."""
    return bytes(12) + ethertype.to_bytes(2, "big") + text.ljust(60, b".")


def packet(name: str, destination: object = "echo", **spec: Any) -> dict[str, Any]:
    full = {"protocol": "AF_PACKET", "interface": "lo", "ethertype": OURS, **spec}
    return {"name": name, "spec": full, "rules": [{"action": {"route": {"destination": destination}}}]}


@privilege
async def test_a_frame_is_echoed_once_and_makes_a_session() -> None:
    async with running(config(clusters=[echo()], listeners=[packet("in")])) as proxy:
        with packet_socket("lo", OURS) as sock:  # it does not hear itself; of the echo it does, because that comes from another socket
            sent = frame(OURS, os.urandom(16))
            sock.send(sent)
            await wait_until(lambda: proxy.listeners["in"].live, "for the session")
            (session,) = proxy.sessions()
            assert session.metadata["PACKET"] == {"interface": "lo", "ethertype": OURS}
            await wait_until(lambda: session.source.messages_out >= 1, "for the echo")
            assert sock.recv(200) == sent
            session.kill()  # loopback brings each echo back as a new frame: that is what an echo on it is


@privilege
async def test_datagrams_are_sent_as_frames_and_frames_come_back() -> None:
    up = {"name": "up", "spec": {"protocol": "AF_PACKET", "ethertype": OURS}, "endpoints": [{"spec": {"address": "lo"}}]}
    conf = config(clusters=[up], listeners=[listener("in", "up", protocol="UDP")])
    async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
        with packet_socket("lo", THEIRS) as other:
            client.send(frame(THEIRS, b"out"))
            await wait_until(lambda: proxy.listeners["in"].live)
            other.setblocking(True)
            other.settimeout(5)
            assert other.recv(200) == frame(THEIRS, b"out")
            other.send(frame(OURS, b"back"))
            assert await client.read() == frame(OURS, b"back")


@privilege
@pytest.mark.parametrize("interface", ["no-such-if", "", "a\0b"])
async def test_an_interface_that_is_not_there_is_refused_with_its_name(interface: str) -> None:
    with pytest.raises(Error) as error:
        async with running(config(clusters=[echo()], listeners=[packet("in", interface=interface)])):
            pass
    assert error.value.kind == "bind" and '"in"' in error.value.detail


async def test_without_the_privilege_both_are_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any) -> Any:
        raise PermissionError(1, "Operation not permitted")

    up = {"name": "up", "spec": {"protocol": "AF_PACKET"}}
    real = socket.socket

    def socket_of(family: int = -1, *args: Any, **more: Any) -> Any:
        return forbidden() if family == socket.AF_PACKET else real(family, *args, **more)

    monkeypatch.setattr("carrier.hops.afpacket.socket.socket", socket_of)
    async with running() as proxy:
        for conf in (config(clusters=[up]), config(clusters=[echo()], listeners=[packet("in")])):
            with pytest.raises(Error, match="CAP_NET_RAW"):
                await proxy.apply(conf)
    monkeypatch.undo()


def test_the_strict_check_names_what_is_wrong() -> None:
    assert not PacketListener.check({"protocol": "AF_PACKET", "interface": "lo"})
    assert not PacketCluster.check({"protocol": "AF_PACKET", "ethertype": 5})
    assert "needs 'interface'" in str(PacketListener.check({"protocol": "AF_PACKET"})[0])
    assert "expected 0..65535" in str(PacketCluster.check({"protocol": "AF_PACKET", "ethertype": 70_000})[0])
