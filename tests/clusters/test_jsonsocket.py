"""JSONSocket cluster: header out, status in, then the stream; over TCP and UDP, and against our own listener."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from carrier.errors import Error
from clusters.jsonsocket import JsonSocketCluster, make_header
from tests.listeners.test_jsonsocket import js, only
from tests.sockets import is_reset
from tests.support import Peer, cluster, config, echo, listener, port_of, running, tcp, tcp_server, udp, udp_server, wait_until

META: dict[str, Any] = {"name": "s", "labels": {"id": 7}, "IP": {"src_addr": "1.2.3.4"}}
OK = b'{"JSONSocketVersion":1,"JSONSocketStatus":200}'


def js_cluster(name: str, port: int, transport: str = "TCP", **spec: Any) -> dict[str, Any]:
    """A JSONSocket cluster of one endpoint on loopback."""
    made = cluster(name)
    made["spec"] = {"protocol": "JSONSocket", "transport": {"protocol": transport, "port": port}, **spec}
    return made


@pytest.mark.parametrize(
    ("items", "header"),
    [
        ([], {}),
        ([{"path": "/labels"}], {"id": 7}),
        ([{"path": {"from": "/labels", "to": "/labels"}}], {"labels": {"id": 7}}),
        ([{"path": {"from": "IP/src_addr", "to": "/a/b"}}], {"a": {"b": "1.2.3.4"}}),
        ([{"path": {"from": "/labels"}}, {"path": "/IP"}], {"id": 7, "src_addr": "1.2.3.4"}),
        ([{"set": {"key": "/app", "value": "x"}}], {"app": "x"}),
        ([{"path": "/nothing"}, {"path": "/name"}], {}),
        ([{"set": {"key": "JSONSocketVersion", "value": 9}}], {}),
    ],
)
def test_the_header_is_made_of_its_items_and_the_version_comes_last(items: list[Any], header: dict[str, Any]) -> None:
    made = json.loads(make_header(items, META))
    assert made == {**header, "JSONSocketVersion": 1}
    assert list(made)[-1] == "JSONSocketVersion"


@pytest.mark.parametrize("item", ["x", {}, {"path": 5}, {"set": {"key": "/a"}}, {"path": {"to": "/x"}}])
def test_an_item_that_makes_no_sense_is_refused(item: Any) -> None:
    with pytest.raises(Error, match="Unknown JSONSocket header spec"):
        make_header([item], META)
    spec = {"protocol": "JSONSocket", "transport": {"protocol": "TCP", "port": 1}, "header": [item]}
    assert "unknown header item" in str(JsonSocketCluster.check(spec)[0])


@pytest.mark.parametrize("answer", [OK, OK + b"hello"])
async def test_over_tcp_the_stream_begins_behind_the_answer(answer: bytes) -> None:
    heard = []

    async def serve(peer: Peer) -> None:
        heard.append(json.loads(await peer.reader.readuntil(b'"JSONSocketVersion":1}')))
        peer.send(answer)
        heard.append(await peer.reader.readuntil(b"."))
        peer.send(b"bye")

    async with tcp_server(serve) as upstream:
        header = [{"path": {"from": "/IP", "to": "/from"}}, {"set": {"key": "/app", "value": "x"}}]
        conf = config(clusters=[js_cluster("up", upstream.port, header=header)], listeners=[listener("in", "up")])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"payload.")
            assert await client.read_all() == answer[len(OK) :] + b"bye"
            client.end()
            await wait_until(lambda: not list(proxy.sessions()), "for the session to end")
    assert heard == [{"from": {"src_addr": "127.0.0.1", "dst_addr": "127.0.0.1"}, "app": "x", "JSONSocketVersion": 1}, b"payload."]


async def test_over_udp_the_first_datagram_is_the_header() -> None:
    def answer(data: bytes) -> bytes:
        return OK if data.startswith(b"{") else data.upper()

    async with udp_server(answer) as upstream:
        conf = config(clusters=[js_cluster("up", upstream.port, "UDP")], listeners=[listener("in", "up", protocol="UDP")])
        async with running(conf) as proxy, udp(port_of(proxy, "in")) as client:
            for message in (b"a", b"b", b"c"):
                client.send(message)
            assert [await client.read() for _ in range(3)] == [b"A", b"B", b"C"]
            assert await upstream.read() == b'{"JSONSocketVersion":1}'


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b'{"JSONSocketVersion":1,"JSONSocketStatus":404,"JSONSocketMessage":"gone"}', "bad-answer"),
        (b"nonsense", "bad-answer"),
        (b"", "closed"),
    ],
)
async def test_any_other_answer_fails_the_session(answer: bytes, kind: str) -> None:
    async def serve(peer: Peer) -> None:
        await peer.reader.readuntil(b'"JSONSocketVersion":1}')
        peer.send(answer)

    async with tcp_server(serve) as upstream:
        conf = config(clusters=[js_cluster("up", upstream.port)], listeners=[listener("in", "up", options={"track": 60})])
        async with running(conf) as proxy:
            with contextlib.suppress(ConnectionError):
                async with tcp(port_of(proxy, "in")) as client:
                    assert await client.read_all() == b""
            assert only(proxy).error.kind == kind


async def test_a_server_that_never_answers_is_given_up_and_closed() -> None:
    async with tcp_server() as upstream:
        conf = config(
            clusters=[js_cluster("up", upstream.port)],
            listeners=[listener("in", "up", retry={"retry_on": "never", "timeout": 50}, options={"track": 60})],
        )
        async with running(conf) as proxy:
            await is_reset(port_of(proxy, "in"))
            assert only(proxy).error.kind == "timeout"
            assert (await (await upstream.peer()).reader.read()).startswith(b"{")


async def test_a_refused_header_is_tried_again_when_the_route_says_so() -> None:
    answers = [b'{"JSONSocketVersion":1,"JSONSocketStatus":503}', OK]

    async def serve(peer: Peer) -> None:
        await peer.reader.readuntil(b'"JSONSocketVersion":1}')
        peer.send(answers.pop(0))
        peer.send(await peer.reader.readexactly(2))

    async with tcp_server(serve) as upstream:
        retry = {"retry_on": "connect-failure", "num_retries": 2, "timeout": 20}
        conf = config(clusters=[js_cluster("up", upstream.port)], listeners=[listener("in", "up", retry=retry)])
        async with running(conf) as proxy, tcp(port_of(proxy, "in")) as client:
            client.send(b"hi")
            assert await client.read(2) == b"hi"


@pytest.mark.parametrize("transport", ["TCP", "UDP"])
async def test_our_cluster_and_our_listener_understand_each_other(transport: str) -> None:
    async with running(config(clusters=[echo()], listeners=[js("server", transport=transport)])) as second:
        up = js_cluster("up", port_of(second, "server"), transport, header=[{"set": {"key": "/user", "value": "ann"}}])
        conf = config(clusters=[up], listeners=[listener("in", "up", protocol="UDP")])
        async with running(conf) as first, udp(port_of(first, "in")) as client:
            client.send(b"hello")
            assert await client.read() == b"hello"
            assert only(second).metadata["JSONSocket"] == {"user": "ann", "JSONSocketVersion": 1}


async def test_the_api_is_no_transport() -> None:
    made = cluster("up")
    made["spec"] = {"protocol": "JSONSocket", "transport": {"protocol": "L7mpController"}}
    assert JsonSocketCluster.check(made["spec"])
    with pytest.raises(Error, match="unimplemented"):
        async with running(config(clusters=[made])):
            pass
