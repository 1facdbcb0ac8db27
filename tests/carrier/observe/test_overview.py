"""What is shown of a running proxy, and whether an endpoint is there."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

from carrier.admin.api import Api
from carrier.bridges.edits import Bridges
from carrier.errors import Error
from carrier.model import Config
from carrier.observe.overview import address_of, overview, probe, user_of
from tests.ports import free_port
from tests.support import cluster, config, echo, listener, port_of, running, tcp, tcp_server

SAME = [{"name": "r1", "action": {"route": {"destination": "echo"}}}, {"name": "r2", "action": {"route": {"destination": "echo"}}}]


def with_bridge(base: Config, port: int, endpoint: int) -> Config:
    match = {"matchHeader": {"name": "x-user", "value": "john"}}
    body = {"port": port, "user": "john", "match": match, "endpoint": f"127.0.0.1:{endpoint}", "expires": 60}
    return Bridges().put(base, "john", body)


def web(port: int) -> Config:
    return config(clusters=[cluster("shadow", 9, protocol="HTTP")], listeners=[listener("web", "shadow", protocol="HTTP", port=port)])


async def test_rules_are_shown_in_order_with_where_they_lead_and_what_they_did() -> None:
    async with running(config(clusters=[echo()], listeners=[listener("in", port=0, rules=SAME)])) as proxy:
        async with tcp(port_of(proxy, "in")) as client:
            client.send(b"x")
            await client.read(1)
            shown = overview(proxy)
        (one,) = shown["listeners"]
        assert (one["name"], one["protocol"], one["address"]) == ("in", "TCP", f"127.0.0.1:{port_of(proxy, 'in')}")
        assert (one["state"], one["sessions"], one["total"], one["failed"]) == ("listening", 1, 1, 0)
        first, second = one["rules"]
        assert (first["rule"], first["when"], first["to"], first["hits"]) == ("r1", "anything", "echo", 1)
        assert first["last_hit"].endswith("Z") and second["last_hit"] is None
        assert "rule 'r2' can never fire" in second["note"] and first["note"] == ""
        assert json.loads(json.dumps(shown)) == shown


async def test_jumps_and_names_that_lead_nowhere_are_shown() -> None:
    rules = [{"name": "jump", "action": {"apply": "more"}}]
    lists = [{"name": "more", "rules": [{"name": "lost", "action": {"route": {"destination": "gone"}}}]}]
    async with running(config(rulelists=lists, listeners=[listener("in", port=0, rules=rules)])) as proxy:
        jump, lost = overview(proxy)["listeners"][0]["rules"]
        assert jump["to"] == "rule list more"
        assert (lost["rulelist"], lost["to"]) == ("more", "") and 'Cannot find cluster "gone"' in lost["error"]


async def test_endpoints_are_shown_with_their_health_and_drains() -> None:
    async with running(config(clusters=[cluster("two", 9, "127.0.0.1", "127.0.0.2")])) as proxy:
        one, other = proxy.clusters["two"].endpoints
        one.up = False
        proxy.drain_endpoint(other.name)
        first, second = overview(proxy)["clusters"][0]["endpoints"]
        assert (first["address"], first["up"], second["drained"]) == ("127.0.0.1:9", False, True)


async def test_a_drained_listener_says_so() -> None:
    async with running(config(clusters=[echo()], listeners=[listener("in", port=free_port())])) as proxy:
        proxy.drain_listener("in")
        assert overview(proxy)["listeners"][0]["state"] == "drained"


async def test_a_bridge_is_shown_with_its_user_and_what_its_rules_did() -> None:
    port = free_port()
    async with running(with_bridge(web(port), port, 9)) as proxy:
        (shown,) = overview(proxy)["bridges"]
        assert (shown["name"], shown["user"], shown["listener"], shown["hits"], shown["last_hit"]) == ("john", "john", "web", 0, None)
        assert shown["expires"].endswith("Z") and shown["endpoints"][0]["address"] == "127.0.0.1:9"
        assert user_of(proxy, "bridge/john") == "john" and user_of(proxy, "nobody's") == ""


async def test_a_probe_says_whether_the_endpoint_is_there() -> None:
    port = free_port()
    async with tcp_server() as laptop, running(with_bridge(web(port), port, laptop.port)) as proxy:
        found: dict[str, Any] = await probe(proxy, "john")
        assert found["endpoints"][0]["reachable"] and found["endpoints"][0]["address"] == f"127.0.0.1:{laptop.port}"
        laptop.stop()
        await asyncio.sleep(0)
        (gone,) = (await probe(proxy, "john"))["endpoints"]
        assert not gone["reachable"] and gone["reason"]
        with pytest.raises(Error, match="there is no bridge 'jane'"):
            await probe(proxy, "jane")


async def test_the_api_serves_both() -> None:
    port = free_port()
    async with running(with_bridge(web(port), port, free_port())) as proxy:
        api = Api(proxy, bridges=Bridges())
        status = await api.call("GET", "/api/v1/status")
        assert status.status == 200 and json.loads(status.body)["revision"] == 1
        probed = await api.call("POST", "/api/v1/bridges/john/probe")
        assert probed.status == 200 and json.loads(probed.body)["endpoints"][0]["reachable"] is False
        assert (await api.call("POST", "/api/v1/bridges/jane/probe")).status == 404


def test_addresses_are_written_as_people_write_them() -> None:
    class Bound:
        name = "x"
        bound = [1]
        port = 80

        def __init__(self, key: Any) -> None:
            self.key = lambda: key

    assert address_of(Bound(("tcp", "::1", 0))) == "[::1]:80"  # type: ignore[arg-type]
    assert address_of(Bound(("unix", "/run/x", -1))) == "/run/x"  # type: ignore[arg-type]
    assert address_of(Bound(None)) == "x"  # type: ignore[arg-type]


async def test_an_endpoint_that_nobody_has_asked_is_not_said_to_be_up_and_one_that_failed_says_how() -> None:
    from carrier.cli.bridges import health

    base = config(clusters=[cluster("c", free_port())], listeners=[listener("in", "c", port=0)])
    async with running(base) as proxy:
        (endpoint,) = overview(proxy)["clusters"][0]["endpoints"]
        assert endpoint["up"] and not endpoint["tried"] and health(endpoint) == "not tried yet"
        async with tcp(port_of(proxy, "in")) as client:
            client.send(b"x")
            with contextlib.suppress(ConnectionError):
                await client.read_all()
        (endpoint,) = overview(proxy)["clusters"][0]["endpoints"]
        assert endpoint["up"] and endpoint["tried"] and health(endpoint) == "failed (Connection refused)"
