"""What every listener shares: binding, addresses, sessions that are live or remembered."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from carrier.core import address as module
from carrier.core.address import authority, bind_stream, is_loopback, plain
from carrier.core.listener import TRACKED
from carrier.errors import Error
from listeners.tcp import TcpListener
from tests.support import ask, config, echo, listener, port_of, running, tcp, wait_until


@pytest.fixture
def bound() -> Iterator[list[socket.socket]]:
    found: list[socket.socket] = []
    yield found
    for sock in found:
        sock.close()


def test_without_an_address_both_families_are_served(bound: list[socket.socket]) -> None:
    bound += bind_stream("l", None, 0)
    port = bound[0].getsockname()[1]
    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, port)) as client:
            assert client.getpeername()[:2] == (host, port)


def test_an_ipv6_address_serves_ipv6_only(bound: list[socket.socket]) -> None:
    bound += bind_stream("l", "::1", 0)
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", bound[0].getsockname()[1])):
        pass


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_machine_without_ipv6_serves_ipv4(code: int, bound: list[socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    bind = module._bind

    def no_ipv6(family: int, *rest: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(code, "no IPv6")
        return bind(family, *rest)

    monkeypatch.setattr(module, "_bind", no_ipv6)
    bound += bind_stream("l", None, 0)
    assert bound[0].family == socket.AF_INET


@pytest.mark.parametrize(
    ("host", "port", "text"),
    [
        ("nowhere.example", 0, "expected an IP address to bind to, got 'nowhere.example'"),
        ("127.0.0.1", 70000, "expected a port 0..65535, got 70000"),
        ("127.0.0.1", "80", "expected a port 0..65535, got '80'"),
        ("127.0.0.1", None, "expected a port 0..65535, got None"),
        ("203.0.113.1", 0, "Could not bind to 203.0.113.1:0"),
    ],
)
def test_an_address_that_cannot_be_bound_says_why(host: str, port: Any, text: str) -> None:
    with pytest.raises(Error) as error:
        bind_stream("l", host, port)
    assert error.value.kind == "bind" and text in error.value.detail and error.value.detail.startswith('"l": ')


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_only_a_literal_loopback_address_is_loopback(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


def test_a_mapped_ipv4_address_is_shown_plainly() -> None:
    assert [plain(a) for a in ("::ffff:1.2.3.4", "::1", "1.2.3.4", "::ffff:0:1")] == ["1.2.3.4", "::1", "1.2.3.4", "::ffff:0:1"]


def test_a_spec_is_checked_by_the_strict_standard() -> None:
    found = TcpListener.check({"protocol": "TCP", "port": "x", "address": "nowhere", "prot": 1}, "listeners[a].spec")
    assert [p.path for p in found] == ["listeners[a].spec.prot", "listeners[a].spec.port", "listeners[a].spec.address"]
    assert TcpListener.check({"protocol": "TCP", "port": 0}) == []
    assert [p.message for p in TcpListener.check({"protocol": "TCP"})] == ["needs 'port'"]


async def test_remembered_sessions_are_bounded_and_live_ones_come_first() -> None:
    async with running(config(clusters=[echo()], listeners=[listener("in", options={"track": 100})])) as proxy:
        one = proxy.listeners["in"]
        assert one.tracked.maxlen == TRACKED
        await ask(port_of(proxy, "in"), b"x")
        async with tcp(port_of(proxy, "in")) as client:
            client.send(b"x")
            await client.read(1)
            assert [s.status for s in one.sessions()] == ["CONNECTED", "DESTROYED"]


@pytest.mark.parametrize("track", [0, None, "5", -1, True, [], {}])
async def test_an_option_that_is_no_time_remembers_nothing(track: Any) -> None:
    async with running(config(clusters=[echo()], listeners=[listener("in", options={"track": track})])) as proxy:
        await ask(port_of(proxy, "in"), b"x")
        await wait_until(lambda: not proxy.listeners["in"].live)
        assert not proxy.listeners["in"].tracked


def test_an_ipv6_address_stands_in_brackets_before_its_port() -> None:
    assert (authority("::", 18080), authority("0.0.0.0", 80)) == ("[::]:18080", "0.0.0.0:80")


def test_an_ipv6_address_in_use_is_told_in_brackets() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken, pytest.raises(Error, match=r"bind to \[::1\]:\d+: "):
        bind_stream("web", "::1", taken.getsockname()[1])
