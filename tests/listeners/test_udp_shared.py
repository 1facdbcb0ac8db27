"""Two UDP listeners at one address, as l7mp lets them: the last one hears what comes, until it is removed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from carrier.admin.api import Api
from carrier.config.source import loads
from carrier.errors import ConfigError, Error
from carrier.proxy.proxy import Proxy
from tests.compat.test_siblings import CONTROLLER
from tests.ports import free_port
from tests.support import cluster, config, listener, running, udp, udp_server, wait_until, without

JSON = {"content-type": "application/json"}


def said(word: bytes) -> Any:
    return udp_server(lambda data: word + data)


def front(name: str, port: int, **fields: Any) -> dict[str, Any]:
    return listener(name, fields.pop("to", name), protocol="UDP", port=port, **fields)


@asynccontextmanager
async def api(proxy: Proxy) -> AsyncIterator[Any]:
    served = Api(proxy)

    async def call(method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else b""
        return await served.call(method, f"/api/v1/{path}", "", JSON if body is not None else {}, data)

    yield call


async def test_the_last_one_hears_what_comes_and_when_it_is_gone_the_one_before() -> None:
    port = free_port()
    async with said(b"a") as one, said(b"b") as two:
        clusters = [cluster("a", one.port, protocol="UDP"), cluster("b", two.port, protocol="UDP")]
        first = config(clusters=clusters, listeners=[front("a", port)])
        async with running(first) as proxy, udp(port) as old, udp(port) as new:
            old.send(b"1")
            assert await old.read() == b"a1"
            both = config(listeners=[front("b", port)], base=proxy.config)
            await proxy.apply(both)
            assert not list(proxy.sessions()), "who has spoken to the first one is routed anew"
            for client in (old, new):
                client.send(b"2")
                assert await client.read() == b"b2"
            await proxy.apply(config(listeners=[front("a", port, options={"idle_timeout": 9})], base=proxy.config))
            new.send(b"3")
            assert await new.read() == b"b3", "a change of the first one is none of the second"
            await proxy.apply(without(proxy.config, "listener", "b"))
            for client in (old, new):
                client.send(b"4")
                assert await client.read() == b"a4"
            assert [s.listener.name for s in proxy.sessions()] == ["a", "a"]
            assert not proxy.draining or not any(gone.bound for gone in proxy.draining)


async def test_the_first_one_may_go_and_nobody_notices() -> None:
    port = free_port()
    async with said(b"a") as one, said(b"b") as two:
        clusters = [cluster("a", one.port, protocol="UDP"), cluster("b", two.port, protocol="UDP")]
        async with running(config(clusters=clusters, listeners=[front("a", port), front("b", port)])) as proxy, udp(port) as client:
            client.send(b"1")
            assert await client.read() == b"b1"
            (session,) = proxy.sessions()
            await proxy.apply(without(proxy.config, "listener", "a"))
            client.send(b"2")
            assert await client.read() == b"b2"
            assert list(proxy.sessions()) == [session]


async def test_a_singleton_begins_when_it_is_its_turn() -> None:
    port = free_port()
    async with said(b"a") as one, said(b"b") as two, udp(port) as remote:
        spec = {"connect": {"address": "127.0.0.1", "port": remote.port}}
        clusters = [cluster("a", one.port, protocol="UDP"), cluster("b", two.port, protocol="UDP")]
        async with running(config(clusters=clusters, listeners=[front("a", port, spec=spec), front("b", port)])) as proxy:
            remote.send(b"1")
            assert await remote.read() == b"b1"
            await proxy.apply(without(proxy.config, "listener", "b"))
            remote.send(b"2")
            assert await remote.read() == b"a2"
            assert proxy.listeners["a"].live


async def test_one_of_them_may_be_a_json_socket() -> None:
    """Seen with l7mp 0.5.7: what comes is a header for as long as the JSON socket is there, and a datagram before and behind that."""
    port = free_port()
    over = {"spec": {"transport": {"protocol": "UDP", "port": port, "address": "127.0.0.1"}}, "protocol": "JSONSocket"}
    hello, ok = b'{"JSONSocketVersion":1}', b'{"JSONSocketVersion":1,"JSONSocketStatus":200,"JSONSocketMessage":"OK"}'
    async with said(b"a") as one, said(b"b") as two:
        clusters = [cluster("a", one.port, protocol="UDP"), cluster("b", two.port, protocol="UDP")]
        async with running(config(clusters=clusters, listeners=[front("a", port)])) as proxy, udp(port) as client:
            client.send(hello)
            assert await client.read() == b"a" + hello
            await proxy.apply(config(listeners=[listener("b", "b", **over)], base=proxy.config))
            for sent, wanted in ((hello, ok), (b"1", b"b1")):
                client.send(sent)
                assert await client.read() == wanted
            await proxy.apply(config(listeners=[listener("c", "a", **over)], base=proxy.config))
            for sent, wanted in ((hello, ok), (b"2", b"a2")):
                client.send(sent)
                assert await client.read() == wanted
            for name in ("c", "b"):
                await proxy.apply(without(proxy.config, "listener", name))
                sent, wanted = (hello, ok) if name == "c" else (b"3", b"a3")
                client.send(sent)
                assert await client.read() == wanted
            assert [s.listener.name for s in proxy.sessions()] == ["a"]
            await proxy.apply(config(listeners=[listener("b", "b", **over)], base=proxy.config))
            await proxy.apply(config(listeners=[front("d", port, to="b")], base=proxy.config))
            client.send(hello)
            assert await client.read() == b"b" + hello


async def test_l7mps_calls_take_it_with_a_warning_and_ours_refuse_it() -> None:
    """The calls of its own test 21-listeners: five at one port, in strict mode, then all of them away again."""
    port = free_port()
    async with running() as proxy:
        for strict in (False, True):
            conf = loads(CONTROLLER).config
            await proxy.apply(msgspec.structs.replace(conf, admin=msgspec.structs.replace(conf.admin, strict=strict)))
            async with api(proxy) as call:
                for i in range(1, 6):
                    inner = {"destination": "user-1-2-c", "ingress": [{"name": f"Echo-{i}", "spec": {"protocol": "Echo"}}]}
                    rules = [{"action": {"route": {**inner, "retry": {"retry_on": "always", "num_retries": 10, "timeout": 2000}}}}]
                    posted = {"listener": {"name": f"test-listener-{i}", "spec": {"protocol": "UDP", "port": port}, "rules": rules}}
                    answer = await call("POST", "listeners", posted)
                    assert answer.status == 200
                    warned = f"of listener 'test-listener-{i - 1}': until it is removed" in answer.headers.get("carrier-warning", "")
                    assert warned is (i > 1)
                simple = [{"action": {"route": {"destination": "Echo-1"}}}]
                refused = await call("PUT", "listeners/sixth", {"listener": {**posted["listener"], "name": "sixth", "rules": simple}})
                assert refused.status in (400, 422) and b"has port %d" % port in refused.body
                assert len(json.loads((await call("GET", "listeners")).body)) == 6
                for i in range(1, 6):
                    assert (await call("DELETE", f"listeners/test-listener-{i}")).status == 200
                assert len(json.loads((await call("GET", "listeners")).body)) == 1
        await wait_until(lambda: not any(gone.bound for gone in proxy.draining))


def test_a_file_of_l7mps_may_say_it_and_another_may_not() -> None:
    rules = [{"action": {"route": {"destination": {"name": "e", "spec": {"protocol": "Echo"}}}}}]
    more = [{**rules[0], "action": {"route": {"destination": "e"}}}]
    two = [{"name": name, "spec": {"protocol": "UDP", "port": 15000}, "rules": r} for name, r in (("a", rules), ("b", more))]
    with pytest.raises(ConfigError, match="port 15000 is taken by listener 'a'"):
        loads(json.dumps({"listeners": two}))
    to_api = {"destination": {"name": "c", "spec": {"protocol": "L7mpController"}}}
    controller = {"name": "c", "spec": {"protocol": "HTTP", "port": 1234}, "rules": [{"action": {"route": to_api}}]}
    loaded = loads(json.dumps({"admin": {"strict": False}, "listeners": [controller, *two]}))
    assert [w for w in map(str, loaded.warnings) if "listener 'b' has port 15000 of listener 'a'" in w]
    streams = [{**one, "spec": {"protocol": "TCP", "port": 15000}} for one in two]
    with pytest.raises(ConfigError, match="port 15000 is taken"):
        loads(json.dumps({"admin": {"strict": False}, "listeners": [controller, *streams]}))


async def test_the_port_of_another_process_or_of_another_transport_is_refused_as_ever() -> None:
    async with udp_server(None) as other, running() as proxy:
        echo = {"name": "e", "spec": {"protocol": "Echo"}}
        with pytest.raises(Error, match="EADDRINUSE"):
            await proxy.apply(config(clusters=[echo], listeners=[front("a", other.port, to="e")]))
        port = free_port()
        tcp = [listener(name, "e", port=port) for name in ("a", "b")]
        with pytest.raises(Error, match='listener "a" has it already'):
            await proxy.apply(config(clusters=[echo], listeners=tcp))
        assert not proxy.listeners
        await asyncio.sleep(0)
