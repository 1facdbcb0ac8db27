"""The lane: which settings are on it, and that what goes over it is counted and told like everything else."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from carrier.config.accesslog import Settings
from carrier.core.reuse import ReusedSession, recorded
from carrier.log import Log
from carrier.observe.access import AccessLog
from carrier.observe.endings import Endings
from carrier.observe.meter import Meter
from carrier.proxy.proxy import Proxy
from tests.support import Peer, cluster, config, listener, port_of, running, tcp, tcp_server

GET = b"GET /a HTTP/1.1\r\nhost: a\r\nx-user: john\r\n\r\n"
ROUNDS = 12


async def answering(peer: Peer) -> None:
    """An HTTP server: who it is, to each request."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            await peer.reader.readuntil(b"\r\n\r\n")
            peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx")


@contextlib.asynccontextmanager
async def front(
    upstream: dict[str, Any], route: dict[str, Any], options: dict[str, Any], others: tuple[Any, ...] = ()
) -> AsyncIterator[Proxy]:
    clusters = [upstream, cluster("other", upstream["spec"]["port"], protocol="HTTP"), *others]
    web = listener("web", "up", protocol="HTTP", options=options, **route)
    async with running(config(clusters=clusters, listeners=[web])) as proxy:
        yield proxy


async def on_lane(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, rounds: int = ROUNDS) -> int:
    """How many of the last requests of a connection go over the lane."""
    begun: list[bool] = []
    begin_again = ReusedSession.begin_again

    def counted(session: ReusedSession, *args: Any) -> bool:
        begun.append(begin_again(session, *args))
        return begun[-1]

    monkeypatch.setattr(ReusedSession, "begin_again", counted)
    async with tcp(port_of(proxy, "web")) as client:
        for _ in range(3 * rounds):  # each endpoint gets its first connection by then
            client.send(GET)
            await client.reader.readuntil(b"\r\n\r\n")
            await client.read(1)
    return sum(begun[-rounds:])


def to_up(match: Any = None, rewrite: Any = None, options: Any = None) -> dict[str, Any]:
    """One rule to the cluster."""
    action = {"route": {"destination": "up", **({"options": options} if options else {})}, **({"rewrite": rewrite} if rewrite else {})}
    return {"rules": [{"action": action, **({"match": match} if match else {})}]}


BOTH = ("127.0.0.1", "127.0.0.1")
LANE: dict[str, tuple[bool, dict[str, Any]]] = {
    "nothing": (True, {}),
    "a fallback": (True, {"route": {"fallback": "other"}}),
    "a rule that matches": (True, {"route": to_up(match={"matchHeader": {"name": "x-user", "value": "john"}})}),
    "a rewrite": (True, {"route": to_up(rewrite=[{"path": "/HTTP/headers/x-team", "value": "blue"}])}),
    "retries of connections": (True, {"route": {"retry": {"retry_on": "connect-failure", "num_retries": 3, "timeout": 50}}}),
    "trusted peers": (True, {"options": {"trusted": ["127.0.0.0/8"]}}),
    "active health checks": (True, {"cluster": {"options": {"health": {"active": "TCP"}}}}),
    "a limit of connections": (True, {"cluster": {"options": {"max_connections": 100, "max_per_endpoint": 10}}}),
    "two endpoints, the first that is up": (True, {"addresses": BOTH}),
    "two endpoints, round robin": (True, {"addresses": BOTH, "policy": "round_robin"}),
    "two endpoints, by chance": (True, {"addresses": BOTH, "policy": "random"}),
    "two endpoints, the fewest sessions": (True, {"addresses": BOTH, "policy": "least_sessions"}),
    "two endpoints, a ring without a key": (True, {"addresses": BOTH, "policy": "HashRing"}),
    "ids and times in answers": (True, {"options": {"answer_id": True, "server_timing": True}}),
    "remembered sessions": (True, {"options": {"track": 60}}),
    "two endpoints, by a key of the session": (False, {"addresses": BOTH, "policy": "sticky", "key": "/HTTP/headers/x-user"}),
    "statuses that are asked again": (False, {"route": to_up(options={"retry_statuses": [503]})}),
    "a transform": (False, {"route": {"egress": ["seen"]}, "others": ({"name": "seen", "spec": {"protocol": "Metric"}},)}),
    "a destination that is reconnected": (False, {"route": {"retry": {"retry_on": "disconnect", "num_retries": 3, "timeout": 50}}}),
}


@pytest.mark.parametrize("setting", LANE)
async def test_which_settings_are_on_the_lane(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, with_ = LANE[setting]
    async with tcp_server(answering) as server:
        up = cluster("up", server.port, *with_.get("addresses", ()), protocol="HTTP", **with_.get("cluster", {}))
        if "policy" in with_:
            up["loadbalancer"] = {name: with_[name] for name in ("policy", "key") if name in with_}
        async with front(up, with_.get("route", {}), with_.get("options", {}), with_.get("others", ())) as proxy:
            assert await on_lane(proxy, monkeypatch) == (ROUNDS if expected else 0)


async def test_who_counts_and_who_writes_lines_reads_the_ledger_and_leaves_the_lane_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tcp_server(answering) as server, front(cluster("up", server.port, protocol="HTTP"), {}, {}) as proxy:
        written: list[str] = []
        meter = Meter()
        access = AccessLog(Settings(str(tmp_path / "log")), proxy.env.loop)
        endings = Endings(Log("verbose", written.append), "verbose", lambda session: ("ended", {"session": session.name}))
        for reader in (meter.read, access.write, endings.read):
            ledger = proxy.env.read(reader)
        assert await on_lane(proxy, monkeypatch) == ROUNDS
        ledger.settle()
        endings.close()
        access.close()
        (series,) = meter.known.values()
        assert series.codes[2] == len("".join(written).splitlines()) == len((tmp_path / "log").read_text().splitlines()) == 3 * ROUNDS


async def test_on_the_lane_turns_weights_and_drains_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async with tcp_server(answering) as server:
        up = cluster("up", server.port, *BOTH, protocol="HTTP", loadbalancer={"policy": "round_robin"})
        up["endpoints"][0]["weight"] = 3
        async with front(up, {}, {}) as proxy:
            heavy, light = proxy.clusters["up"].endpoints
            assert await on_lane(proxy, monkeypatch, 20) == 20
            assert (heavy.total, light.total) == (45, 15)
            proxy.drain_endpoint(light.name)
            assert await on_lane(proxy, monkeypatch, 20) == 20
            assert (heavy.total, light.total) == (105, 15)
            proxy.drain_endpoint(light.name, False)
            heavy.up = False
            assert await on_lane(proxy, monkeypatch, 20) == 20
            assert (heavy.total, light.total, heavy.active, light.active) == (105, 75, 0, 0)


async def test_many_clients_at_once_are_spread_as_the_policy_says() -> None:
    async with tcp_server(answering) as server:
        up = cluster("up", server.port, *("127.0.0.1",) * 8, protocol="HTTP", loadbalancer={"policy": "least_sessions"})
        async with front(up, {}, {}) as proxy:

            async def client() -> None:
                async with tcp(port_of(proxy, "web")) as peer:
                    for _ in range(25):
                        peer.send(GET)
                        await peer.reader.readuntil(b"\r\n\r\n")
                        await peer.read(1)

            await asyncio.gather(*(client() for _ in range(16)))
            found = Counter({endpoint.name: endpoint.total for endpoint in proxy.clusters["up"].endpoints})
            assert found.total() == 400 and min(found.values()) > 20
            assert not any(endpoint.active for endpoint in proxy.clusters["up"].endpoints)


async def test_a_record_becomes_a_session_that_says_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with tcp_server(answering) as server, front(cluster("up", server.port, protocol="HTTP"), {}, {}) as proxy:
        entries: list[Any] = []
        ledger = proxy.env.read(entries.extend)
        await on_lane(proxy, monkeypatch)
        ledger.settle()
        records = [entry for entry in entries if isinstance(entry, tuple)]
        assert len(records) >= ROUNDS
        session = recorded(records[-1])
        shown = session.dump()
        assert (shown["status"], shown["destination"]["status"], shown["counters"]["bytes_in"]) == ("DESTROYED", "END", len(GET))
        assert session.answer.status == 200 and session.request.target == b"/a" and session.endpoint is not None
