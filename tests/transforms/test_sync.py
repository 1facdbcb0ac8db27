"""Sync: sessions of one label hear each other."""

from __future__ import annotations

import asyncio
from typing import Any

from carrier.proxy.proxy import Proxy
from tests.sockets import is_reset
from tests.support import config, listener, port_of, running, tcp, udp, wait_until
from transforms.sync import SyncCluster

SYNC = {"name": "sync", "spec": {"protocol": "Sync", "query": "/label"}}


def labelled(name: str, label: object, protocol: str = "TCP", **fields: Any) -> dict[str, Any]:
    """A listener whose sessions get a label."""
    action = {"rewrite": [{"path": "/label", "value": label}], "route": {"destination": "sync", **fields}}
    return listener(name, protocol=protocol, rules=[{"action": action}])


def sync(proxy: Proxy) -> SyncCluster:
    found = proxy.clusters["sync"]
    assert isinstance(found, SyncCluster)
    return found


async def test_every_session_of_a_label_hears_the_others_and_not_itself() -> None:
    conf = config(clusters=[SYNC], listeners=[labelled("a", 1), labelled("u", 1, "UDP"), labelled("b", "1")])
    async with (
        running(conf) as proxy,
        tcp(port_of(proxy, "a")) as one,
        tcp(port_of(proxy, "a")) as two,
        tcp(port_of(proxy, "b")) as other,
        udp(port_of(proxy, "u")) as three,
    ):
        three.send(b"first")
        await wait_until(lambda: len(list(proxy.sessions())) == 4)
        assert await one.read(5) == b"first"  # it came when nobody else, or only one, was there
        one.send(b"hello")
        assert await two.read(5) in (b"hello", b"first")
        assert await three.read() == b"hello"
        other.send(b"alone")
        await asyncio.sleep(0.01)
        assert not other.reader._buffer  # type: ignore[attr-defined]
    await wait_until(lambda: not sync(proxy).groups, "for the groups to be forgotten")


async def test_what_comes_before_a_partner_waits_for_it() -> None:
    async with running(config(clusters=[SYNC], listeners=[labelled("a", 1, "UDP")])) as proxy, udp(port_of(proxy, "a")) as one:
        one.send(b"early")
        one.send(b"bird")
        await wait_until(lambda: list(proxy.sessions()) and next(iter(proxy.sessions())).source.messages_in == 2)
        async with udp(port_of(proxy, "a")) as two:
            two.send(b"hi")
            assert [await two.read(), await two.read()] == [b"early", b"bird"]
            assert await one.read() == b"hi"


async def test_waiting_is_bounded() -> None:
    listeners = [labelled("t", 1), labelled("u", 2, "UDP")]
    async with (
        running(config(clusters=[SYNC], listeners=listeners)) as proxy,
        tcp(port_of(proxy, "t")) as one,
        udp(port_of(proxy, "u")) as two,
    ):
        one.send(b"x" * 4_000_000)
        for _ in range(100):
            two.send(b"y" * 1000)
        await wait_until(lambda: sum(s.dropped for s in proxy.sessions()) >= 34, "for datagrams to be dropped")
        (stream,) = next(iter(proxy.listeners["t"].live)).destination.cluster.groups[b"1"]  # type: ignore[attr-defined]
        await wait_until(lambda: stream.waiting is not None and stream.waiting.full)
        assert stream.waiting.size < 300_000
        async with tcp(port_of(proxy, "t")) as partner:
            assert await partner.read(4_000_000) == b"x" * 4_000_000


async def test_a_slow_listener_pauses_the_others() -> None:
    async with (
        running(config(clusters=[SYNC], listeners=[labelled("t", 1)])) as proxy,
        tcp(port_of(proxy, "t")) as one,
        tcp(port_of(proxy, "t")) as two,
    ):
        await wait_until(lambda: len(list(proxy.sessions())) == 2)
        one.send(b"x" * 20_000_000)
        slow = next(s for s in proxy.sessions() if s.source.peer[1] == two.port)  # type: ignore[attr-defined]
        await wait_until(lambda: slow.source.full, "for a full socket")  # type: ignore[attr-defined]
        assert slow.source.size < 300_000  # type: ignore[attr-defined]
        assert await two.read(20_000_000) == b"x" * 20_000_000


async def test_whoever_has_ended_hears_the_others_to_their_end() -> None:
    async with running(config(clusters=[SYNC], listeners=[labelled("t", 1)])) as proxy:
        async with tcp(port_of(proxy, "t")) as one, tcp(port_of(proxy, "t")) as two:
            await wait_until(lambda: len(list(proxy.sessions())) == 2)
            one.send(b"question")
            one.end()
            assert await two.read(8) == b"question"
            two.send(b"answer")
            two.end()
            assert await one.read_all() == b"answer"
            assert await two.read_all() == b""
        await wait_until(lambda: not list(proxy.sessions()), "for the sessions to end")
        assert not sync(proxy).groups


async def test_a_session_whose_partner_is_killed_waits_for_the_next() -> None:
    async with running(config(clusters=[SYNC], listeners=[labelled("t", 1)])) as proxy, tcp(port_of(proxy, "t")) as one:
        async with tcp(port_of(proxy, "t")) as two:
            await wait_until(lambda: len(list(proxy.sessions())) == 2)
            next(s for s in proxy.sessions() if s.source.peer[1] == two.port).kill()  # type: ignore[attr-defined]
            assert await two.read_all() == b""
        one.send(b"for the next")
        async with tcp(port_of(proxy, "t")) as three:
            assert await three.read(12) == b"for the next"


async def test_a_partner_behind_a_chain_hears_what_has_waited() -> None:
    encap = {"name": "encap", "spec": {"protocol": "JSONEncap"}}
    listeners = [labelled("t", 1), labelled("u", 1, "UDP", ingress=["encap"])]
    async with running(config(clusters=[SYNC, encap], listeners=listeners)) as proxy, tcp(port_of(proxy, "t")) as one:
        one.send(b"early")
        await wait_until(lambda: sync(proxy).groups)
        async with udp(port_of(proxy, "u")) as two:
            two.send(b"x")
            assert await two.read() == b"early"
            assert (await one.read(12)) == b'{"metadata":'


async def test_a_session_without_the_label_is_refused() -> None:
    conf = config(clusters=[SYNC], listeners=[listener("t", "sync", options={"track": 60})])
    async with running(conf) as proxy:
        await is_reset(port_of(proxy, "t"))
        (session,) = proxy.sessions()
        assert session.error is not None
        assert session.error.detail == f'SyncCluster.stream: reject: Session: "{session.name}": query "/label": empty label'
    assert "needs 'query'" in str(SyncCluster.check({"protocol": "Sync"})[0])


async def test_with_drop_a_member_that_does_not_read_holds_nobody_up() -> None:
    conf = config(clusters=[{**SYNC, "options": {"drop": True}}], listeners=[labelled("a", 1)])
    async with running(conf) as proxy, tcp(port_of(proxy, "a")) as slow, tcp(port_of(proxy, "a")) as one, tcp(port_of(proxy, "a")) as two:
        for end in (slow, one, two):
            end.send(b"x")
        await wait_until(lambda: len(list(proxy.sessions())) == 3)
        slow.reader._transport.pause_reading()  # type: ignore[attr-defined]
        got = 0
        for number in range(1, 301):  # more than the kernel and two buffers hold for the slow one
            one.send(bytes(65536))
            while got < number * 65536 - 65536:
                got += len(await asyncio.wait_for(two.reader.read(1 << 20), 10))
        assert any(session.dump()["counters"]["dropped"] for session in proxy.sessions())


def test_drop_is_true_or_false() -> None:
    (problem,) = SyncCluster.check_options({"drop": "yes"}, "$.options")
    assert problem.path == "$.options.drop" and problem.allowed == "true, false"
    assert SyncCluster.check_options({"dorp": True}, "$.options")[0].hint == "did you mean 'drop'?"
