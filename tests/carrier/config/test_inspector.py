"""Objects looked at one by one; whole documents are tests/carrier/config/test_document.py's."""

from __future__ import annotations

from typing import Any

import pytest

from carrier.config.inspector import inspect


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "HTTP", "WebSocket", "UnixDomainSocket", "Echo", "auto"])
def test_a_cluster_takes_the_breakers_options_and_health_and_no_unknown_one(protocol: str) -> None:
    def problems(options: dict[str, Any]) -> list[str]:
        spec = {"protocol": protocol} | ({"port": 80} if protocol not in ("UnixDomainSocket", "Echo") else {})
        return [problem.path for problem in inspect("cluster", {"spec": spec, "options": options}, "$")]

    assert problems({"max_connections": 5, "max_pending": 1, "max_retries": 0, "health": {"active": "TCP", "interval": "5s"}}) == []
    assert problems({"healt": {}}) == ["$.options.healt"]
    assert problems({"health": {"intervall": 5}}) == ["$.options.health.intervall"]


def test_a_jsonsockets_options_are_its_transports() -> None:
    spec = {"protocol": "JSONSocket", "transport": {"protocol": "WebSocket", "port": 80}}
    assert inspect("cluster", {"spec": spec, "options": {"ping_interval": "10s"}}, "$") == []
    assert [p.path for p in inspect("cluster", {"spec": spec, "options": {"ping_interval": "often"}}, "$")] == ["$.options.ping_interval"]


def test_a_cluster_needs_no_port_when_every_endpoint_has_one() -> None:
    endpoints: list[Any] = [{"spec": {"address": "10.0.0.1", "port": 80}}, {"spec": {"address": "10.0.0.2", "port": 81}}]
    assert inspect("cluster", {"spec": {"protocol": "HTTP"}, "endpoints": endpoints}, "$") == []
    del endpoints[1]["spec"]["port"]
    assert [p.message for p in inspect("cluster", {"spec": {"protocol": "HTTP"}, "endpoints": endpoints}, "$")] == ["needs 'port'"]


def test_the_file_of_a_unix_socket_may_be_said_either_way() -> None:
    for field in ("filename", "address"):
        assert inspect("endpoint", {"spec": {field: "/run/a.sock"}}, "$") == []
        listener = {"name": "l", "spec": {"protocol": "UnixDomainSocket", field: "/run/a.sock"}, "rules": []}
        assert inspect("listener", listener, "$") == []
    assert inspect("endpoint", {"spec": {}}, "$") != []
