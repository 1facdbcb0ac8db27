"""The connection provider's side: destinations in the client network, reached through our proxy by TCP and UDP.

A destination is one port of the proxy, the same number for TCP and for UDP, and a Service that leads to it. Adding or removing one is a
call of the REST API: nobody else's connections notice. What is there is read from the proxy itself, so a restart of the operator
forgets nothing. Names: `destination/PEER/IP:PORT`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from carrier.gefyra.access import Access, Answer, Fleet, Object, path
from carrier.gefyra.provider import Failures

FIRST_PORT, LAST_PORT = 10_000, 32_000
KINDS = ("TCP", "UDP")


class Destinations:
    """The destinations that one proxy serves. pods: finds the pods that it runs in; selector: their labels, for the Services."""

    def __init__(
        self,
        access: Access,
        pods: Callable[[], Any],
        container: str,
        selector: dict[str, str],
        namespace: str = "gefyra",
        prefix: str = "gefyra-stowaway-proxy",
        failures: Failures | None = None,
    ) -> None:
        self.access = access
        self.pods = pods
        self.container = container
        self.selector = selector
        self.namespace = namespace
        self.prefix = prefix
        self.failures = failures or Failures()
        self.lock = asyncio.Lock()
        """Held while a free port is looked for and taken."""

    async def add_destination(
        self, peer_id: str, destination_ip: str, destination_port: int, parameters: dict[Any, Any] | None = None
    ) -> str:
        """Make a destination, or find it; `NAME.NAMESPACE.svc.cluster.local:PORT`, where it is reached. Raises `refused`, `not_yet`."""
        async with self.lock:
            fleet, there = await self._there()
            port = there.get(_name(peer_id, destination_ip, destination_port)) or _free(set(there.values()))
            for protocol in KINDS:
                listener = self._listener(peer_id, destination_ip, int(destination_port), port, protocol)
                answers = await fleet.call("POST", "listeners", {"listener": listener})
                self._check([answer for answer in answers if "already defined" not in answer.reason])
        await self.access.apply(self._service(peer_id, destination_ip, int(destination_port), port))
        return self._address(port)

    async def remove_destination(self, peer_id: str, destination_ip: str, destination_port: int) -> None:
        """Take a destination away; one that is gone is as good."""
        fleet, there = await self._there()
        port = there.get(_name(peer_id, destination_ip, destination_port))
        if port is None:
            return
        for protocol in KINDS:
            name = f"{_name(peer_id, destination_ip, destination_port)}/{protocol}"
            answers = await fleet.call("DELETE", f"{path('listeners', name)}?recursive=true")
            self._check([answer for answer in answers if answer.status not in (400, 404)])
        await self.access.delete("Service", self.namespace, f"{self.prefix}-{port}")

    async def destination_exists(self, peer_id: str, destination_ip: str, destination_port: int) -> bool:
        """Is it served?"""
        _, there = await self._there()
        return _name(peer_id, destination_ip, destination_port) in there

    async def get_destination(self, peer_id: str, destination_ip: str, destination_port: int) -> str:
        """Where the cluster reaches it. Raises `not_yet` when it is not there."""
        _, there = await self._there()
        port = there.get(_name(peer_id, destination_ip, destination_port))
        if port is None:
            raise self.failures.not_yet(f"there is no destination {destination_ip}:{destination_port} of {peer_id}")
        return self._address(port)

    async def _there(self) -> tuple[Fleet, dict[str, int]]:
        """The proxies, and the ports of the destinations that they serve."""
        fleet = Fleet(self.access, await self.pods(), self.container)
        answers = await fleet.call("GET", "listeners")
        self._check(answers)
        if not answers:
            raise self.failures.not_yet("no proxy for destinations runs")
        found = {}
        for listener in answers[0].body:
            name, port = str(listener.get("name", "")), listener.get("spec", {}).get("port")
            if name.startswith("destination/") and isinstance(port, int):
                found[name.rpartition("/")[0]] = port
        return fleet, found

    def _listener(self, peer: str, ip: str, target: int, port: int, protocol: str) -> Object:
        name = f"{_name(peer, ip, target)}/{protocol}"
        cluster = {"name": name, "spec": {"protocol": protocol, "port": target}, "endpoints": [{"spec": {"address": ip}}]}
        rules = [{"name": name, "action": {"route": {"name": name, "destination": cluster}}}]
        return {"name": name, "spec": {"protocol": protocol, "port": port}, "rules": rules}

    def _service(self, peer: str, ip: str, target: int, port: int) -> Object:
        labels = {
            "gefyra.dev/app": "stowaway",
            "gefyra.dev/role": "proxy",
            "gefyra.dev/proxy-port": str(port),
            "gefyra.dev/client-id": peer,
        }
        ports = [{"name": kind.lower(), "port": port, "targetPort": port, "protocol": kind} for kind in KINDS]
        metadata = {"name": f"{self.prefix}-{port}", "namespace": self.namespace, "labels": labels}
        metadata["annotations"] = {"gefyra.dev/destination": f"{ip}:{target}"}
        return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": self.selector, "ports": ports}}

    def _address(self, port: int) -> str:
        return f"{self.prefix}-{port}.{self.namespace}.svc.cluster.local:{port}"

    def _check(self, answers: list[Answer]) -> None:
        for answer in answers:
            if 400 <= answer.status < 500:
                raise self.failures.refused(f"{answer.pod}: {answer.reason}")
            if not answer.good:
                raise self.failures.not_yet(f"{answer.pod}: {answer.reason}")


def _name(peer: str, ip: str, port: int | str) -> str:
    return f"destination/{peer}/{ip}:{int(port)}"


def _free(taken: set[int]) -> int:
    return next(port for port in range(FIRST_PORT, LAST_PORT) if port not in taken)
