"""What leads back to where it came from: requests that go round are noticed, by whatever way, and user bridges do not lead to ourselves."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from carrier import model as c
from carrier.bridges.edits import Bridges
from carrier.core.lookup import Found, Place
from carrier.errors import ConfigError
from carrier.gefyra.format import read
from tests.conversation import Stage
from tests.e2e.test_http_bodies import OK, answered
from tests.h2peer import client2
from tests.ports import free_port
from tests.support import cluster, config, echo, http, listener, running, tcp, udp, wait_until


def round_and_round(protocol: str = "HTTP", options: dict[str, Any] | None = None, **spec: Any) -> tuple[int, Any]:
    """A port whose cluster is the port itself; its number and the configuration."""
    port = free_port()
    up = cluster("itself", port, protocol=protocol)
    up["spec"] |= spec
    return port, config(clusters=[up], listeners=[listener("in", "itself", protocol=protocol, port=port, options=options or {})])


@pytest.mark.parametrize("protocol", ["HTTP", "auto"])
async def test_a_request_that_goes_round_is_508_after_ten_times(protocol: str) -> None:
    port, conf = round_and_round(protocol)
    async with running(conf) as proxy:
        for turn in range(1, 4):  # the second time on the lane, its head remembered
            status, _, body = await http(port)
            assert status == 508 and b"goes round" in body and b"max_hops" in body
            assert proxy.listeners["in"].counter == 11 * turn
        assert proxy.listeners["in"].limited["max_hops"] == 3


@pytest.mark.parametrize("protocol", ["HTTP", "auto"])
async def test_one_of_http_2_too(protocol: str) -> None:
    port, conf = round_and_round(protocol, http=2) if protocol == "HTTP" else round_and_round(protocol)
    async with running(conf) as proxy, client2(port) as client:
        for turn in range(1, 4):
            answer = await client.answer(client.ask("/"))
            assert answer.status == 508 and b"goes round" in answer.body
            assert proxy.listeners["in"].counter == 11 * turn


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ((), b"1"),
        ((b"1",), b"2"),
        ((b"9",), b"10"),
        ((b"007",), b"8"),
        ((b"3", b"5", b"4"), b"6"),
        ((b"3, 5 ,4",), b"6"),
        ((b"",), b"1"),
        ((b"-3",), b"1"),
        ((b"many",), b"1"),
        ((b"1.5",), b"1"),
        ((b"\xb2",), b"1"),
    ],
)
async def test_whoever_says_how_many_hops_there_were_it_is_one_more_and_said_once(said: tuple[bytes, ...], sent: bytes) -> None:
    async with Stage(listener={"trusted": ["127.0.0.0/8"]}) as trusting, Stage() as stage, client2(stage.port) as two:
        for one in (trusting, stage):
            for _ in range(3):
                lines = b"".join(b"X-Carrier-Hops: " + value + b"\r\n" for value in said)
                client, server, head = await one.both(b"GET / HTTP/1.1\r\nhost: a\r\n" + lines + b"\r\n")
                assert head.lower().count(b"x-carrier-hops:") == 1 and b"\r\nx-carrier-hops: " + sent + b"\r\n" in head
                await server.says(OK)
                await answered(client)
                server.breaks()
        if all(value.isascii() for value in said):
            two.ask("/", fields=[("x-carrier-hops", value.decode()) for value in said])
            head = await (await stage.server()).head()
            assert head.lower().count(b"x-carrier-hops:") == 1 and b"\r\nx-carrier-hops: " + sent + b"\r\n" in head


@pytest.mark.parametrize("said", [b"10", b"11", b"1, 10", b"999999999999999999999999", b"0000000000000000000000000010"])
async def test_who_says_that_there_were_too_many_is_believed(said: bytes) -> None:
    async with Stage() as stage, client2(stage.port) as two:
        client = await stage.client()
        for _ in range(3):
            await client.says(b"GET / HTTP/1.1\r\nhost: a\r\nx-carrier-hops: " + said + b"\r\n\r\n")
            head, _ = await answered(client)
            assert head.startswith(b"HTTP/1.1 508 Loop Detected\r\n") and b"x-carrier-error: loop\r\n" in head
        assert (await two.answer(two.ask("/", fields=[("x-carrier-hops", said.decode())]))).status == 508
        assert stage.accepted.empty() and stage.listener.limited["max_hops"] == 4


async def test_the_bound_is_an_option_and_without_it_nothing_is_counted() -> None:
    async with Stage(listener={"max_hops": 2}) as stage:
        client = await stage.client()
        for said, status in ((b"1", b"200"), (b"2", b"508")):
            await client.says(b"GET / HTTP/1.1\r\nhost: a\r\nx-carrier-hops: " + said + b"\r\n\r\n")
            if status == b"200":
                server = await stage.server()
                assert b"x-carrier-hops: 2\r\n" in await server.head()
                await server.says(OK)
            assert (await answered(client))[0].startswith(b"HTTP/1.1 " + status)
    async with Stage(listener={"max_hops": 0}) as stage:
        for lines in (b"", b"x-carrier-hops: 77\r\n"):
            _, _, head = await stage.both(b"GET / HTTP/1.1\r\nhost: a\r\n" + lines + b"\r\n")
            assert head.count(b"x-carrier-hops") == len(lines[:1]) and lines in head


@pytest.mark.parametrize(
    "rewrite", [None, c.Rewrite("/HTTP/headers", {"host": "a", "x-mine": "1"}), c.Rewrite("/HTTP/headers/x-carrier-hops", "0")]
)
async def test_neither_connection_nor_a_rule_takes_the_count_away(rewrite: c.Rewrite | None) -> None:
    async with Stage(rules=((None, "up", (rewrite,)),) if rewrite else ()) as stage:
        named = b"" if rewrite else b"connection: x-carrier-hops\r\n"
        _, _, head = await stage.both(b"GET / HTTP/1.1\r\nhost: a\r\n" + named + b"x-carrier-hops: 4\r\n\r\n")
        assert head.count(b"x-carrier-hops") == 1 and b"\r\nx-carrier-hops: 5\r\n" in head


KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HELLO = f"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n"


@pytest.mark.parametrize("protocol", ["WebSocket", "HTTP"])
@pytest.mark.parametrize("between", [[], [{"spec": {"protocol": "Logger"}}]])
async def test_a_websocket_that_goes_round_is_refused(protocol: str, between: list[Any]) -> None:
    port = free_port()
    front = listener("in", "itself", protocol=protocol, port=port, ingress=between)
    async with running(config(clusters=[cluster("itself", port, protocol="WebSocket")], listeners=[front])) as proxy:
        async with tcp(port) as client:
            client.send(f"GET / HTTP/1.1\r\nhost: a\r\n{HELLO}\r\n".encode())
            await wait_until(lambda: proxy.listeners["in"].limited.get("max_hops"))
        assert proxy.listeners["in"].counter <= 11


# ------------------------------------------------------------------ user bridges


def bridge(port: int, endpoint: Any, **more: Any) -> dict[str, Any]:
    match = {"matchHeader": {"name": "x-user", "value": "john"}}
    return {"port": port, "user": "john", "match": match, "endpoint": endpoint, **more}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]", socket.gethostname()])
def test_a_bridge_to_a_port_of_this_proxy_is_refused_by_whatever_name(host: str) -> None:
    base = config(
        clusters=[echo()], listeners=[listener("in", protocol="HTTP", port=8080, spec={"address": "::"}), listener("other", port=9090)]
    )
    bridges = Bridges()
    for port in (8080, 9090):
        address = {8080: host, 9090: "127.0.0.1"}[port]
        with pytest.raises(ConfigError, match="listener of this proxy") as refused:
            bridges.put(base, "john", bridge(8080, f"{address}:{port}"))
        assert refused.value.problems[0].path == "$.endpoint"
    assert bridges.validate(base, bridge(8080, f"{host}:8080"))["valid"] is False
    bridges.put(base, "john", bridge(8080, f"{host}:8081"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LocalHost.", "[::1]", "0.0.0.0"])
@pytest.mark.parametrize("protocol", ["auto", "http", "tcp", "udp"])
def test_one_of_gefyras_file_too(host: str, protocol: str) -> None:
    rules = [{"match": []}]
    ports = [{"port": 8080, "protocol": protocol, "bridges": {"john": {"endpoint": f"{host}:9090", "rules": rules}}}, {"port": 9090}]
    if protocol == "udp":
        ports[1]["protocol"] = "udp"
    with pytest.raises(ConfigError, match="would go round") as refused:
        read({"proxy": ports})
    assert refused.value.problems[0].path == "$.proxy[0].bridges.john.endpoint"
    read({"proxy": ports[:1]})  # without that port it is another program's


async def test_a_name_that_leads_here_later_is_noticed_when_connecting() -> None:
    """What is in force by then has an address that nobody could know: the shadow serves, and says why."""
    port = free_port()
    shadow = {"name": "shadow", "spec": {"protocol": "Echo"}}
    base = config(clusters=[shadow], listeners=[listener("in", "shadow", protocol="HTTP", port=port)])
    for protocol in ("HTTP", "auto"):
        base = config(clusters=[shadow], listeners=[listener("in", "shadow", protocol=protocol, port=port)])
        async with running(base) as proxy:
            await proxy.apply(Bridges().put(base, "john", bridge(port, f"john.example:{port}")))

            async def find(name: str) -> Found:
                assert name == "john.example"
                return Found([Place(socket.AF_INET, "127.0.0.1")], 60)

            proxy.env.resolver.lookup.find = find  # type: ignore[method-assign]
            status, head, _ = await http(port, headers={"x-user": "john"})
            assert status == 200 and head["x-carrier-fallback"] == "loop"
            shown = Bridges().dump(proxy.config, "john", proxy.clusters)["status"]
            assert "listener of this proxy" in str(shown), shown
            assert proxy.listeners["in"].counter == 1


@pytest.mark.parametrize("later", [True, False])
async def test_a_listener_that_comes_later_to_where_a_bridge_leads_is_not_connected_to(later: bool) -> None:
    port, other = free_port(), free_port()
    base = config(clusters=[echo()], listeners=[listener("in", protocol="HTTP", port=port)])
    async with running(base) as proxy:
        bridged = Bridges().put(base, "john", bridge(port, f"127.0.0.1:{other}"))
        await proxy.apply(bridged)
        with pytest.raises(ConfigError, match="go round"):  # a whole configuration is looked at as a whole
            await proxy.apply(config(base=bridged, listeners=[listener("second", protocol="HTTP", port=other)]))
        await proxy.apply(config(base=bridged, listeners=[listener("second", protocol="HTTP", port=0)]))
        assert (await http(port, headers={"x-user": "john"}))[1]["x-carrier-fallback"] == "refused"


async def test_a_bridge_of_a_socket_file_does_not_lead_to_a_file_of_ours(tmp_path: Path) -> None:
    path, link = str(tmp_path / "s"), str(tmp_path / "link")
    os.symlink(path, link)
    front = {
        "name": "in",
        "spec": {"protocol": "UnixDomainSocket", "filename": path},
        "rules": [{"action": {"route": {"destination": "echo"}}}],
    }
    base = config(clusters=[echo()], listeners=[front])
    body = {"listener": "in", "user": "john", "type": "stream", "endpoint": {"address": link}}
    async with running(base) as proxy:
        for endpoint in (path, link):
            with pytest.raises(ConfigError, match="listener of this proxy"):
                Bridges().put(base, "john", {**body, "endpoint": {"address": endpoint}})
        os.unlink(link)
        bridged = Bridges().put(base, "john", body)
        await proxy.apply(bridged)
        os.symlink(path, link)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"1")
        assert await asyncio.wait_for(reader.readexactly(1), 5) == b"1"  # the shadow's
        assert proxy.listeners["in"].counter == 1
        writer.close()


@pytest.mark.parametrize(("protocol", "spec"), [("TCP", {}), ("TCP", {"framing": "lines"}), ("auto", {}), ("UDP", {})])
async def test_nor_do_streams_and_datagrams_of_a_bridge_come_back_by_a_name(protocol: str, spec: dict[str, str]) -> None:
    """What carries other protocols inside knows whose it is, too."""
    port = free_port(socket.SOCK_DGRAM if protocol == "UDP" else socket.SOCK_STREAM)
    base = config(clusters=[echo()], listeners=[listener("in", protocol=protocol, port=port, spec=spec)])
    endpoint: Any = f"john.example:{port}" if not spec else {"address": "john.example", "port": port, **spec}
    body = {"port": port, "user": "john", "type": "stream", "endpoint": endpoint}
    async with running(base) as proxy:
        await proxy.apply(Bridges().put(base, "john", body))

        async def find(name: str) -> Found:
            return Found([Place(socket.AF_INET, "127.0.0.1")], 60)

        proxy.env.resolver.lookup.find = find  # type: ignore[method-assign]
        if protocol == "UDP":
            async with udp(port) as peer:
                peer.send(b"x\n")
                assert await peer.read() == b"x\n"
        else:
            async with tcp(port) as client:
                client.send(b"x\n")
                assert await client.read(2) == b"x\n"
        assert proxy.listeners["in"].counter == 1
