"""Calls of the REST API at a pod's own address, with a token: for proxies that were started with one (`CARRIER_ADMIN`, `CARRIER_TOKENS`).

What is in a live pod cannot be given a secret, so the providers exec `carrierctl` there; a proxy that is a Deployment of its own, as one
for destinations is, can. Everything but `call` is the other access's.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Mapping
from typing import Any

from carrier.gefyra.access import Access, Answer, Object, name_of

TIMEOUT = 10.0
"""Seconds for one call."""


class DirectAccess:
    """An access whose calls go to `port` of a pod's address. token: the bearer token (RFC 6750 section 2.1)."""

    def __init__(self, access: Access, port: int, token: str) -> None:
        self.access = access
        self.port = port
        self.token = token

    def __getattr__(self, name: str) -> Any:
        return getattr(self.access, name)

    async def call(self, pod: Object, container: str, method: str, path: str, body: object = None) -> Answer:
        """See Access."""
        address = (pod.get("status") or {}).get("podIP")
        if not address:
            raise OSError(f"pod {name_of(pod)} has no address yet")
        status, headers, text = await asyncio.to_thread(self._ask, str(address), method, path, body)
        revision = headers.get("carrier-revision", "")
        try:
            answer = json.loads(text) if text.strip() else None
        except ValueError:
            answer = text.strip()
        return Answer(name_of(pod), status, int(revision) if revision.isdigit() else 0, answer)

    def _ask(self, address: str, method: str, path: str, body: object) -> tuple[int, Mapping[str, str], str]:
        """Raises OSError."""
        connection = http.client.HTTPConnection(address, self.port, timeout=TIMEOUT)
        headers = {"authorization": f"Bearer {self.token}"}
        if body is not None:
            headers["content-type"] = "application/json"
        try:
            connection.request(method, f"/api/v1/{path}", None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, text
        except http.client.HTTPException as exc:
            raise OSError(f"{address}:{self.port}: {exc!r}") from exc
        finally:
            connection.close()
