"""JSONSocket listener over TCP, UDP and UNIX: header in, status out, then the stream."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from carrier.errors import ConfigError, Error
from carrier.proxy.proxy import Proxy
from listeners.jsonsocket import JsonSocketListener
from tests.ports import free_port
from tests.support import Datagrams, cluster, config, echo, listener, port_of, running, tcp, tcp_server, udp, udp_server, wait_until

OK = b'{"JSONSocketVersion":1,"JSONSocketStatus":200,"JSONSocketMessage":"OK"}'
HEADER = b'{"JSONSocketVersion":1,"user":"ann"}'


def js(name: str, destination: object = "echo", transport: str = "TCP", **fields: Any) -> dict[str, Any]:
    """A JSONSocket listener over a transport on loopback."""
    made = listener(name, destination, protocol="JSONSocket", **fields)
    made["spec"] = {"protocol": "JSONSocket", "transport": {"protocol": transport, "port": 0, "address": "127.0.0.1"}}
    return made


def only(proxy: Proxy) -> Any:
    (session,) = proxy.sessions()
    return session


@pytest.mark.parametrize("pieces", [[HEADER], [HEADER[:9], HEADER[9:]], [HEADER + b"hello"]])
async def test_over_tcp_a_header_in_any_pieces_begins_a_session(pieces: list[bytes]) -> None:
    async with running(config(clusters=[echo()], listeners=[js("in")])) as proxy, tcp(port_of(proxy, "in")) as client:
        for piece in pieces:
            client.send(piece)
            await client.writer.drain()
            await wait_until(lambda: True)
        assert await client.read(len(OK)) == OK
        if len(pieces[-1]) <= len(HEADER):
            client.send(b"hello")
        assert await client.read(5) == b"hello"
        session = only(proxy)
        assert session.name == "JSONSocket:in-0"
        assert session.metadata["JSONSocket"] == json.loads(HEADER)
        assert list(session.metadata) == ["name", "IP", "TCP", "JSONSocket"]
        client.end()
        assert await client.read_all() == b""
        await wait_until(lambda: not list(proxy.sessions()), "for the session to end")


async def test_over_udp_every_message_keeps_its_limits_and_the_header_routes() -> None:
    async with udp_server() as upstream:
        rules = [
            {"match": {"op": "test", "path": "/JSONSocket/user", "value": "ann"}, "action": {"route": {"destination": "up"}}},
        ]
        conf = config(clusters=[cluster("up", upstream.port, protocol="UDP")], listeners=[js("in", transport="UDP", rules=rules)])
        async with running(conf) as proxy:
            async with udp(port_of(proxy, "in")) as client:
                client.send(HEADER)
                assert await client.read() == OK
                for message in (b"one", b"two", b"three"):
                    client.send(message)
                assert [await client.read() for _ in range(3)] == [b"one", b"two", b"three"]
                assert only(proxy).dump()["source"]["listener"]["protocol"] == "JSONSocket"
            async with udp(port_of(proxy, "in")) as stranger:
                stranger.send(b'{"JSONSocketVersion":1}')
                answer = json.loads(await stranger.read())
                assert answer["JSONSocketStatus"] == 404
                assert answer["JSONSocketMessage"] == 'Not Found: No route for session "JSONSocket:in-1"'


@pytest.mark.parametrize(
    ("header", "status", "text"),
    [
        (b"hello", 400, "Bad Request: Invalid JSON header"),
        (b"{}", 400, "Bad Request: err"),
        (b'{"JSONSocketVersion":3}', 505, "Bad Request: Unsupported JSONSocket version in header: { JSONSocketVersion: 3 }"),
    ],
)
@pytest.mark.parametrize("transport", ["TCP", "UDP"])
async def test_a_bad_header_is_answered_and_the_transport_closed(transport: str, header: bytes, status: int, text: str) -> None:
    want = {"JSONSocketVersion": 1, "JSONSocketStatus": status, "JSONSocketMessage": text}
    async with running(config(clusters=[echo()], listeners=[js("in", transport=transport)])) as proxy:
        port = port_of(proxy, "in")
        if transport == "TCP":
            async with tcp(port) as client:
                client.send(header)
                assert json.loads(await client.read_all()) == want
        else:
            async with udp(port) as client:
                client.send(header)
                assert json.loads(await client.read()) == want
        assert not list(proxy.sessions())
        assert not proxy.listeners["in"].inner.live  # type: ignore[attr-defined]


@pytest.mark.parametrize("said", [b"", b'{"JSONSocketVersion"'])
async def test_who_ends_before_the_header_is_told_and_not_waited_for(said: bytes) -> None:
    async with running(config(clusters=[echo()], listeners=[js("in")])) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(said)
        client.end()
        assert json.loads(await client.read_all())["JSONSocketStatus"] == 400
        await wait_until(lambda: not proxy.listeners["in"].connections, "for the connection to be closed")


async def test_a_refused_destination_is_a_status_and_then_the_end() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        conf = config(clusters=[cluster("up", closed.getsockname()[1])], listeners=[js("in", "up")])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(HEADER)
            answer = json.loads(await client.read_all())
            assert answer["JSONSocketStatus"] == 503 and answer["JSONSocketMessage"].startswith("Service Unavailable: ")


async def test_ok_is_said_before_anything_that_the_destination_says() -> None:
    async with tcp_server() as upstream:
        conf = config(clusters=[cluster("up", upstream.port)], listeners=[js("in", "up")])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(HEADER)
            server = await upstream.peer()
            server.send(b"first")
            assert await client.read(len(OK) + 5) == OK + b"first"
            server.end()
            assert await client.reader.read() == b""
            client.send(b"late")
            client.end()
            assert await server.read_all() == b"late"
            await wait_until(lambda: not list(proxy.sessions()), "for the session to end")


async def test_who_sends_no_header_is_told_so_in_time() -> None:
    conf = config(clusters=[echo()], listeners=[js("in", options={"header_timeout": 3})])
    async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
        found = proxy.listeners["in"]
        assert isinstance(found, JsonSocketListener)
        await wait_until(lambda: found.waiting, "for the connection")
        found.tick(proxy.env.loop.time() + 2)
        assert found.waiting
        found.tick(proxy.env.loop.time() + 4)
        assert json.loads(await client.read_all())["JSONSocketStatus"] == 408


async def test_a_killed_session_closes_its_transport() -> None:
    async with running(config(clusters=[echo()], listeners=[js("in")])) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(HEADER)
        await client.read(len(OK))
        only(proxy).kill()
        assert await client.read_all() == b""


async def test_a_transport_that_breaks_ends_the_session() -> None:
    async with tcp_server() as upstream:
        conf = config(clusters=[cluster("up", upstream.port)], listeners=[js("in", "up", options={"track": 60})])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(HEADER + b"x")
            server = await upstream.peer()
            assert await server.read(1) == b"x"
            client.reset()
            with pytest.raises(ConnectionError):
                await server.read_all()
            assert only(proxy).error.kind == "reset"


async def test_framing_under_the_header_keeps_messages_over_tcp() -> None:
    made = js("in")
    made["spec"]["transport"]["framing"] = "lines"
    async with running(config(clusters=[echo()], listeners=[made])) as proxy, tcp(port_of(proxy, "in")) as client:
        client.send(HEADER + b"\none\ntwo\n")
        assert await client.read(len(OK) + 9) == OK + b"\none\ntwo\n"


@pytest.mark.parametrize("spec", [{}, {"transport": {"protocol": "Nope"}}, {"transport": {"protocol": "TCP", "port": 1, "framing": "x"}}])
async def test_a_transport_that_makes_no_sense_is_refused(spec: dict[str, Any]) -> None:
    made = js("in")
    made["spec"] = {"protocol": "JSONSocket", **spec}
    assert JsonSocketListener.check(made["spec"])
    with pytest.raises((Error, ConfigError)):
        async with running(config(clusters=[echo()], listeners=[made])):
            pass


async def test_a_listener_that_is_given_another_address_at_its_port_keeps_who_has_said_his_header() -> None:
    async with running() as proxy:
        port = free_port()
        for i, address in enumerate(("127.0.0.1", "0.0.0.0", "127.0.0.1", "0.0.0.0")):
            made = js("in", transport="UDP")
            made["spec"]["transport"] |= {"port": port, "address": address}
            await proxy.apply(config(clusters=[echo()], listeners=[made], base=proxy.config))
            if not i:
                client = (await asyncio.get_running_loop().create_datagram_endpoint(Datagrams, remote_addr=("127.0.0.1", port)))[1]
                client.send(HEADER)
                assert await client.read() == OK
                (session,) = proxy.sessions()
            client.send(b"%d" % i)
            assert await client.read() == b"%d" % i
            assert list(proxy.sessions()) == [session]
        client.transport.close()
