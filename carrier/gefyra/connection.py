"""The connection provider's side: destinations in the client network, reached through our proxy by TCP and UDP.

A destination is one port of the proxy, the same number for TCP and for UDP, and a Service that leads to it. The Services say which
destination has which port, so that a restart of the operator forgets nothing, and one of the proxy neither: what a proxy lacks of what
the Services say, it gets again at the same port (`ready`, and each `add_destination`). Otherwise the next user would get the port, and
with it the requests, of one whose bridge still names it. Adding or removing one is a call of the REST API: nobody else's connections
notice. Names: `destination/PEER/IP:PORT`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from carrier.core.address import authority
from carrier.gefyra.access import Access, Answer, Fleet, Object, path
from carrier.gefyra.wanted import LIVE, Failures

FIRST_PORT, LAST_PORT = 10_000, 32_000
KINDS = ("TCP", "UDP")
LABELS = {"gefyra.dev/app": "stowaway", "gefyra.dev/role": "proxy"}
"""Of every Service that leads to a destination."""
PORT_LABEL, PEER_LABEL, TARGET = "gefyra.dev/proxy-port", "gefyra.dev/client-id", "gefyra.dev/destination"


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

    async def ready(self) -> bool:
        """Does every proxy serve every destination? One that was restarted, or is new, gets what it lacks. Raises `refused`, `not_yet`."""
        async with self.lock:
            await self._level(await self._fleet(), await self._services())
        return True

    async def add_destination(
        self, peer_id: str, destination_ip: str, destination_port: int, parameters: dict[Any, Any] | None = None
    ) -> str:
        """Make a destination, or find it; `NAME.NAMESPACE.svc.cluster.local:PORT`, where it is reached. Raises `refused`, `not_yet`."""
        name = _name(peer_id, destination_ip, destination_port)
        async with self.lock:
            fleet, wanted = await self._fleet(), await self._services()
            if name not in wanted:
                served = [port for there in await self._served(fleet) for port in there.values()]
                wanted[name] = _free({*wanted.values(), *served})
            await self._level(fleet, wanted)
            await self.access.apply(self._service(peer_id, destination_ip, int(destination_port), wanted[name]))
        return self._address(wanted[name])

    async def remove_destination(self, peer_id: str, destination_ip: str, destination_port: int) -> None:
        """Take a destination away; one that is gone is as good. It stays while another bridge of its user leads there."""
        name = _name(peer_id, destination_ip, destination_port)
        async with self.lock:
            fleet, services = await self._fleet(), await self._services()
            port = services.get(name)
            if port is not None and await self._is_used(port, destination_ip):
                return
            for kind in KINDS:
                answers = await fleet.call("DELETE", f"{path('listeners', f'{name}/{kind}')}?recursive=true")
                self._check([answer for answer in answers if answer.status not in (400, 404)])
            if port is not None:
                await self.access.delete("Service", self.namespace, f"{self.prefix}-{port}")

    async def destination_exists(self, peer_id: str, destination_ip: str, destination_port: int) -> bool:
        """Has it a Service, and does every proxy serve it?"""
        name = _name(peer_id, destination_ip, destination_port)
        port = (await self._services()).get(name)
        served = await self._served(await self._fleet())
        return port is not None and all(there.get((name, kind)) == port for there in served for kind in KINDS)

    async def get_destination(self, peer_id: str, destination_ip: str, destination_port: int) -> str:
        """Where the cluster reaches it. Raises `not_yet` when it is not there."""
        port = (await self._services()).get(_name(peer_id, destination_ip, destination_port))
        if port is None:
            raise self.failures.not_yet(f"there is no destination {authority(destination_ip, destination_port)} of {peer_id}")
        return self._address(port)

    # ------------------------------------------------------------------ what is there

    async def _fleet(self) -> Fleet:
        pods = await self.pods()
        if not pods:
            raise self.failures.not_yet("no proxy for destinations runs")
        return Fleet(self.access, pods, self.container)

    async def _services(self) -> dict[str, int]:
        """The port of every destination, as the Services say. One of somebody else's making has a port, and a name that nobody asks for."""
        found = {}
        for service in await self.access.list("Service", self.namespace, LABELS):
            labels, notes = service["metadata"].get("labels") or {}, service["metadata"].get("annotations") or {}
            port = str(labels.get(PORT_LABEL, ""))
            if port.isdigit():
                target = notes.get(TARGET)
                found[f"destination/{labels.get(PEER_LABEL)}/{target}" if target else f"service/{port}"] = int(port)
        return found

    async def _served(self, fleet: Fleet) -> list[dict[tuple[str, str], int]]:
        """For each proxy: (destination, TCP or UDP) -> port. Raises `not_yet`."""
        answers = await fleet.call("GET", "listeners")
        self._check(answers)
        found = []
        for answer in answers:
            ports = {str(one.get("name", "")): one.get("spec", {}).get("port") for one in answer.body}
            there = {tuple(name.rpartition("/")[::2]): port for name, port in ports.items() if name.startswith("destination/")}
            found.append({(name, kind): int(port) for (name, kind), port in there.items() if isinstance(port, int)})
        return found

    async def _level(self, fleet: Fleet, wanted: dict[str, int]) -> None:
        """Give every proxy what it lacks. Raises `refused`, `not_yet`."""
        for pod, there in zip(fleet.pods, await self._served(fleet), strict=True):
            for name, port in wanted.items():
                for kind in KINDS if name.startswith("destination/") else ():
                    if there.get((name, kind)) == port:
                        continue
                    if (name, kind) in there:
                        self._check([await fleet.one(pod, "DELETE", f"{path('listeners', f'{name}/{kind}')}?recursive=true")])
                    answer = await fleet.one(pod, "POST", "listeners", {"listener": self._listener(name, port, kind)})
                    self._check([answer] if "already defined" not in answer.reason else [])

    async def _is_used(self, port: int, ip: str) -> bool:
        """Does a bridge that lives lead to this port? The operator has written the address into it, where it stands still when its user
        comes back with another IP: then it is the bridge's no more.
        """
        bridges = await self.access.list("gefyrabridge", self.namespace, {})
        live = [one for one in bridges if one.get("state") in LIVE and not one["metadata"].get("deletionTimestamp")]
        return any(self._address(port) in (one.get("clusterEndpoint") or {}).values() and one.get("destinationIP") == ip for one in live)

    # ------------------------------------------------------------------ what is made

    def _listener(self, name: str, port: int, kind: str) -> Object:
        ip, _, target = name.rpartition("/")[2].rpartition(":")
        name = f"{name}/{kind}"
        cluster = {"name": name, "spec": {"protocol": kind, "port": int(target)}, "endpoints": [{"spec": {"address": ip.strip("[]")}}]}
        rules = [{"name": name, "action": {"route": {"name": name, "destination": cluster}}}]
        return {"name": name, "spec": {"protocol": kind, "port": port}, "rules": rules}

    def _service(self, peer: str, ip: str, target: int, port: int) -> Object:
        labels = {**LABELS, PORT_LABEL: str(port), PEER_LABEL: peer}
        ports = [{"name": kind.lower(), "port": port, "targetPort": port, "protocol": kind} for kind in KINDS]
        metadata = {"name": f"{self.prefix}-{port}", "namespace": self.namespace, "labels": labels}
        metadata["annotations"] = {TARGET: authority(ip, target)}
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
    return f"destination/{peer}/{authority(ip, int(port))}"


def _free(taken: set[int]) -> int:
    return next(port for port in range(FIRST_PORT, LAST_PORT) if port not in taken)
