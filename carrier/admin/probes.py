"""Health and metrics for those who may only look: GET of /healthz, /readyz, /startupz and /metrics, and nothing else.

The REST API answers the first three as well. On an address of their own (`--health`) they may be opened to the cluster, to kubelets and
to Prometheus, while the API stays closed: what is served here cannot change anything and does not show the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carrier.admin.calls import Answer, failure
from carrier.admin.gate import HEALTH

SHOWN = (*HEALTH, "/metrics")


class Probes:
    """What the health address serves, in the place of `Env.api`. api: gives the answers."""

    def __init__(self, api: Any) -> None:
        self.api = api

    async def call(
        self, method: str, path: str, query: str = "", headers: Mapping[str, str] | None = None, body: bytes = b"", **_caller: object
    ) -> Answer:
        """Serve one call, whoever calls. Never raises."""
        if method not in ("GET", "HEAD"):
            return failure(405, "this address is for reading")
        if path not in SHOWN:
            return failure(404, f"there is {', '.join(SHOWN)}")
        found: Answer = await self.api.call("GET", path, query, headers or {}, b"")
        return found
