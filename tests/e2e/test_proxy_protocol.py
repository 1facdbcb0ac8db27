"""The PROXY protocol on real sockets: who a trusted proxy introduces is who the session comes from, and the next one is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from carrier.config.source import loads
from carrier.errors import ConfigError, Error
from carrier.log import Log
from carrier.observe.troubles import Troubles
from carrier.wire.introduction import version_1, version_2
from listeners.unix import UnixListener
from tests.h2peer import Peer2
from tests.pki import Pki, pki
from tests.support import cluster, config, listener, port_of, running, tcp, tcp_server, wait_until

__all__ = ["pki"]
CLIENT, PLACE = ("192.0.2.7", 4000), ("198.51.100.1", 443)
TRUSTED = {"proxy_protocol": ["127.0.0.0/8"]}


def through(port: int, protocol: str = "HTTP", **spec: Any) -> Any:
    """A proxy that trusts who connects from this machine. spec: of its listener."""
    ends = {"protocol": protocol, "options": TRUSTED, "spec": spec}
    return running(config(clusters=[cluster("up", port, protocol=protocol)], listeners=[listener("in", "up", **ends)]))


async def counting(peer: Any) -> None:
    """Answers a head with what it was."""
    head = await peer.reader.readuntil(b"\r\n\r\n")
    peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(head) + head)


@pytest.mark.parametrize("protocol", ["HTTP", "auto"])
@pytest.mark.parametrize("write", [version_1, version_2])
async def test_an_http_request_comes_from_whom_the_proxy_names(protocol: str, write: Any) -> None:
    async with tcp_server(counting) as server:
        conf = config(
            clusters=[cluster("up", server.port, protocol=protocol)], listeners=[listener("in", "up", protocol=protocol, options=TRUSTED)]
        )
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(write(CLIENT, PLACE) + b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            head = await client.reader.readuntil(b"\r\n\r\n")
            body = await client.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200") and b"x-forwarded-for: 192.0.2.7\r\n" in body


async def test_http_2_behind_a_header_is_http_2() -> None:
    async with tcp_server(counting) as server:
        conf = config(
            clusters=[cluster("up", server.port, protocol="HTTP")], listeners=[listener("in", "up", protocol="HTTP", options=TRUSTED)]
        )
        async with running(conf) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(proxy, "in"))
            writer.write(version_2(CLIENT, PLACE))
            client = Peer2(reader, writer, True)
            client.start()
            answer = await client.get()
            assert b"x-forwarded-for: 192.0.2.7\r\n" in answer.body
            client.close()


async def test_a_listener_with_tls_reads_it_before_the_handshake(pki: Pki) -> None:
    async with tcp_server(counting) as server, through(server.port, tls=pki("a", "localhost")) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(proxy, "in"))
        writer.write(version_1(CLIENT, PLACE))
        await writer.start_tls(pki.client(), server_hostname="localhost")
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert b"x-forwarded-for: 192.0.2.7\r\n" in await reader.readuntil(b"\r\n\r\n")
        writer.close()


@pytest.mark.parametrize(("version", "write"), [("v1", version_1), ("v2", version_2)])
async def test_a_tcp_cluster_passes_it_on(version: str, write: Any) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def listening(peer: Any) -> None:
        heard.put_nowait(await peer.reader.readuntil(b"hello"))

    async with tcp_server(listening) as server:
        up = cluster("up", server.port)
        up["spec"] = {**up["spec"], "proxy_protocol": version}
        conf = config(clusters=[up], listeners=[listener("in", "up", options=TRUSTED)])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(version_1(CLIENT, PLACE) + b"hello")
            assert await asyncio.wait_for(heard.get(), 5) == write(CLIENT, PLACE) + b"hello"
            (session,) = proxy.listeners["in"].live
            assert session.metadata["IP"]["src_addr"] == CLIENT[0] and session.name.startswith("TCP:192.0.2.7:4000-198.51.100.1:443")


async def test_who_is_not_trusted_introduces_nobody() -> None:
    options = {"proxy_protocol": ["203.0.113.0/24"]}
    conf = config(clusters=[{"name": "echo", "spec": {"protocol": "Echo"}}], listeners=[listener("in", "echo", options=options)])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n")
        assert await client.read(32) == b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n"
        (session,) = proxy.listeners["in"].live
        assert session.metadata["IP"]["src_addr"] == "127.0.0.1"


async def test_a_trusted_proxy_that_says_something_else_is_closed_and_counted() -> None:
    conf = config(clusters=[{"name": "echo", "spec": {"protocol": "Echo"}}], listeners=[listener("in", "echo", options=TRUSTED)])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        try:
            assert await client.read_all() == b""
        except ConnectionResetError:
            pass
        assert proxy.listeners["in"].limited == {"proxy_protocol": 1}


async def test_a_header_that_is_refused_is_told_in_the_log_at_its_usual_level() -> None:
    """A proxy that is set up wrongly shows in nobody's answers: a TCP client is closed, and there was no line about it."""
    lines: list[str] = []
    conf = config(clusters=[{"name": "echo", "spec": {"protocol": "Echo"}}], listeners=[listener("in", "echo", options=TRUSTED)])
    async with running(conf) as proxy:
        told = Troubles(proxy.env.loop, Log("notice", lines.append), lambda: proxy.listeners)
        proxy.env.trouble = told.note
        for said in (b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n", b""):
            async with tcp(port_of(proxy, "in")) as client:
                client.send(said)
                client.end()
                with contextlib.suppress(ConnectionResetError):
                    assert await client.read_all() == b""
        told.close()
    assert ["sessions failed listener=in kind=protocol-error" in line and "PROXY header" in line for line in lines] == [True, True]


@pytest.mark.parametrize("protocol", ["TCP", "HTTP", "auto", "WebSocket"])
async def test_what_a_proxy_says_of_the_tls_that_ended_there_can_be_matched(protocol: str) -> None:
    rules = [
        {"name": "shop", "match": {"matchSni": {"sni": "shop.example"}}, "action": {"route": {"destination": "echo"}}},
        {"name": "all", "action": {"route": {"destination": "echo"}}},
    ]
    conf = config(
        clusters=[{"name": "echo", "spec": {"protocol": "Echo"}}],
        listeners=[listener("in", protocol=protocol, rules=rules, options=TRUSTED)],
    )
    request = b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
    request += b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    async with running(conf) as proxy:
        for sni, rule in (("shop.example", "shop"), ("other.example", "all"), ("", "all")):
            async with tcp(port_of(proxy, "in")) as client:
                tls = "TLSv1.3" if sni else ""
                client.send(version_2(CLIENT, PLACE, sni, "http/1.1" if sni else "", tls, "john" if sni else "") + request)
                before = proxy.hits[rule].count
                await wait_until(lambda rule=rule, before=before: proxy.hits[rule].count > before, f"for {rule}")
                session = next(iter(proxy.listeners["in"].live), None)
                if session is not None and sni:
                    told = session.metadata["TLS"]
                    assert told == {"sni": sni, "version": "TLSv1.3", "alpn": "http/1.1", "client": {"commonName": "john"}}


@pytest.mark.parametrize("write", [version_1, version_2])
async def test_a_unix_socket_takes_whom_a_proxy_names(write: Any, tmp_path: Path) -> None:
    rules = [
        {"name": "client", "match": {"matchSource": {"cidr": "192.0.2.0/24"}}, "action": {"route": {"destination": "echo"}}},
        {"name": "all", "action": {"route": {"destination": "echo"}}},
    ]
    ours = {"name": "in", "spec": {"protocol": "UnixDomainSocket", "filename": str(tmp_path / "in")}, "rules": rules}
    conf = config(clusters=[{"name": "echo", "spec": {"protocol": "Echo"}}], listeners=[ours | {"options": {"proxy_protocol": ["unix"]}}])
    async with running(conf) as proxy:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "in"))
        writer.write(write(CLIENT, PLACE) + b"hello")
        assert await reader.readexactly(5) == b"hello"
        (session,) = proxy.listeners["in"].live
        assert session.metadata["IP"] == {"src_addr": CLIENT[0], "dst_addr": PLACE[0]} and session.metadata["UNIX"]
        assert proxy.hits["client"].count == 1 and session.source.peer == CLIENT
        writer.close()
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "in"))
        writer.write(b"hello, without a header")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert proxy.listeners["in"].limited == {"proxy_protocol": 1}
        writer.close()


async def test_who_comes_by_a_unix_socket_has_no_address_and_messages_have_no_header() -> None:
    found = UnixListener.check_options({"proxy_protocol": ["10.0.0.0/8"]}, "options")
    assert [problem.path for problem in found] == ["options.proxy_protocol"] and '["unix"]' in str(found[0])
    assert UnixListener.check_options({"proxy_protocol": ["unix"]}) == []
    ours = {"name": "in", "spec": {"protocol": "UnixDomainSocket", "filename": "@never", "mode": "seqpacket"}, "rules": []}
    with pytest.raises(Error, match="only a stream begins with a PROXY header"):
        async with running(config(listeners=[ours | {"options": {"proxy_protocol": ["unix"]}}])):
            pass


@pytest.mark.parametrize(
    ("transport", "said"),
    [
        ({"protocol": "TCP", "port": 9999}, ["unix"]),
        ({"protocol": "WebSocket", "port": 9999}, ["unix"]),
        ({"protocol": "UDP", "port": 9999}, ["unix"]),
        ({"protocol": "UDP", "port": 9999}, ["10.0.0.0/8"]),
        ({"protocol": "UnixDomainSocket", "filename": "@never"}, ["10.0.0.0/8"]),
        ({"protocol": "JSONSocket", "transport": {"protocol": "TCP", "port": 9999}}, ["unix"]),
        ({"protocol": "TCP", "port": 9999}, ["10.0.0.0/33"]),
    ],
)
def test_a_json_socket_is_told_by_whom_its_transport_can_be_told(transport: dict[str, Any], said: list[str]) -> None:
    """These were taken and did nothing."""
    spec = {"protocol": "JSONSocket", "transport": transport}
    rule = {"action": {"route": {"destination": {"spec": {"protocol": "Echo"}}}}}
    ours = {"name": "in", "spec": spec, "rules": [rule], "options": {"proxy_protocol": said}}
    with pytest.raises(ConfigError) as caught:
        loads(json.dumps({"listeners": [ours]}))
    assert [problem.path for problem in caught.value.problems] == ["$.listeners[0].options.proxy_protocol"]


async def test_a_json_socket_over_a_unix_socket_is_told_in_front_of_its_header(tmp_path: Path) -> None:
    spec = {"transport_spec": {"protocol": "UnixDomainSocket", "filename": str(tmp_path / "in")}}
    rule = {"name": "all", "action": {"route": {"destination": "echo"}}}
    ours = {"name": "in", "spec": {"protocol": "JSONSocket", **spec}, "rules": [rule], "options": {"proxy_protocol": ["unix"]}}
    conf = config(clusters=[{"name": "echo", "spec": {"protocol": "Echo"}}], listeners=[ours])
    async with running(conf) as proxy:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "in"))
        writer.write(version_2(CLIENT, PLACE) + b'{"JSONSocketVersion": 1}\n')
        assert b'"JSONSocketStatus":200' in await reader.readuntil(b"}")
        (session,) = proxy.listeners["in"].live
        assert "192.0.2.7" in str(session.metadata), session.metadata
        writer.close()


async def test_a_json_socket_is_told_in_front_of_its_header() -> None:
    spec = {"transport_spec": {"protocol": "TCP", "port": 0, "address": "127.0.0.1"}}
    rule = {"name": "all", "action": {"route": {"destination": "echo"}}}
    ours = {"name": "in", "spec": {"protocol": "JSONSocket", **spec}, "rules": [rule], "options": TRUSTED}
    conf = config(clusters=[{"name": "echo", "spec": {"protocol": "Echo"}}], listeners=[ours])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(version_2(CLIENT, PLACE) + b'{"JSONSocketVersion": 1}\n')
        assert b'"JSONSocketStatus":200' in await client.reader.readuntil(b"}")
        (session,) = proxy.listeners["in"].live
        assert "192.0.2.7" in str(session.metadata), session.metadata
