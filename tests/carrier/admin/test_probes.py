"""The address for health and metrics: what it serves, and that it serves nothing else."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from carrier.admin.calls import Answer
from carrier.admin.probes import SHOWN, Probes


class FakeApi:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []

    async def call(self, method: str, path: str, query: str = "", headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
        self.calls.append((method, path, query))
        return Answer(200, {}, b"{}")


@pytest.mark.parametrize("path", SHOWN)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_health_and_metrics_are_the_apis_own(path: str, method: str) -> None:
    api = FakeApi()
    assert (await Probes(api).call(method, path, "format=terse")).status == 200
    assert api.calls == [("GET", path, "format=terse")]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/config", 404),
        ("GET", "/healthz/", 404),
        ("GET", "/metrics/../api/v1/config", 404),
        ("GET", "/%68ealthz", 404),
        ("POST", "/healthz", 405),
        ("DELETE", "/metrics", 405),
        ("PUT", "/api/v1/bridges/x", 405),
    ],
)
async def test_nothing_else_reaches_the_api(method: str, path: str, status: int) -> None:
    api = FakeApi()
    assert (await Probes(api).call(method, path)).status == status
    assert not api.calls
