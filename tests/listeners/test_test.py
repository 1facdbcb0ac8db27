"""The Test protocol, as l7mp's own tests use it: sessions on demand, endpoints that fail as programmed, unknown to the strict schema."""

from __future__ import annotations

from typing import Any

from carrier.config.schema import bodies
from carrier.core.stream import CONNECTED, Socket
from clusters.test import TestCluster
from listeners.test import TestListener
from tests.support import config, running, wait_until


class Source(Socket):
    """Writes down what comes back."""

    __slots__ = ("heard",)

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        self.heard.append(data)

    def reset(self, error: Any) -> None:
        self.heard.append(error.detail)

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def stop(self, error: Any = None) -> None: ...


def conf(retry: dict[str, Any] | None = None) -> Any:
    route = {"destination": "t", "retry": retry or {}}
    rules = [{"match": {"op": "test", "path": "/a", "value": 1}, "action": {"route": route}}]
    return config(
        clusters=[{"name": "t", "spec": {"protocol": "Test"}, "endpoints": [{"spec": {"address": "x"}}]}],
        listeners=[{"name": "l", "spec": {"protocol": "Test"}, "rules": rules}],
    )


async def test_a_session_is_routed_by_its_metadata_and_echoed() -> None:
    async with running(conf()) as proxy:
        found = proxy.listeners["l"]
        assert isinstance(found, TestListener) and found.listening
        source = Source()
        session = found.emit(source, {"name": "me", "a": 1})
        source.to.data(b"hi")
        assert (session.name, session.status, source.heard) == ("Test:l-0", CONNECTED, [b"hi"])
        session.close()
        stray = Source()
        found.emit(stray, {"a": 2})
        assert "No route for session" in stray.heard[0]


async def test_endpoints_fail_as_programmed_and_are_tried_again() -> None:
    async with running(conf({"retry_on": "always", "num_retries": 3, "timeout": 5})) as proxy:
        found, up = proxy.listeners["l"], proxy.clusters["t"]
        assert isinstance(found, TestListener) and isinstance(up, TestCluster)
        up.mode = ["fail", "fail", "ok"]
        source = Source()
        session = found.emit(source, {"a": 1})
        await wait_until(lambda: session.status == CONNECTED)
        session.source.to.data(b"hi")
        assert source.heard == [b"hi"] and session.retries >= 1
        session.close()


def test_the_strict_schema_does_not_know_it() -> None:
    assert '"Test"' not in str(bodies()).replace("'", '"')
