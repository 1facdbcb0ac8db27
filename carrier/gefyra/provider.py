"""The bridge provider over REST: the asynchronous methods that Gefyra's operator calls, each one call in every pod at once.

What should be there follows from the cluster's own objects (carrier/gefyra/wanted.py), so nothing is remembered between calls, of which
the operator makes each on a new provider. Ports arrive as text.

Whatever `add_proxy_route` raises is an ERROR of the bridge, and one that was never ACTIVE stays in it for good. So a pod that does not
answer, because its container restarts, is waited for, and one that is led by a file, or has nothing, is given everything first.

Nothing of Gefyra or kopf is imported: carrier/gefyra/operator.py, which runs in the operator, hands in the exceptions it expects.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from carrier.core.address import authority
from carrier.errors import ConfigError
from carrier.gefyra.access import Access, Answer, Fleet, Object, bad, is_ready, name_of, path
from carrier.gefyra.known import Known
from carrier.gefyra.lines import IDLE
from carrier.gefyra.mount import CarrierMount
from carrier.gefyra.wanted import (
    CLIENT_LABEL,
    MOUNT_LABEL,
    Event,
    Failures,
    asks,
    bodies_of,
    body_of,
    in_her_words,
    pods_of,
    tell,
    waits,
    was_active,
    why,
)

PATIENCE = 2.0
"""Seconds that a bridge waits for its laptop before it is ACTIVE without it. One that others wait behind does not wait."""
SLICE = 0.4
"""Seconds of it at once: then whoever has come meanwhile is looked for."""
AGAIN = 30.0
"""Seconds in which one pod at least has to take a bridge; a call that finds its container ending may be lost, and costs ten of them."""
PAUSE = 0.3


class CarrierProvider:
    """One bridge. mount: the name of its bridge mount; container: the one that is bridged; event: tells the bridge's events; image: of
    the proxy."""

    provider_type = "carrier2"

    def __init__(
        self,
        access: Access,
        name: str,
        namespace: str,
        mount: str,
        container: str,
        event: Event | None = None,
        failures: Failures | None = None,
        gefyra_namespace: str = "gefyra",
        image: str = "",
        known: Known | None = None,
    ) -> None:
        self.access = access
        self.name = name
        self.namespace = namespace
        self.mount = mount
        self.container = container
        self.event = event
        self.failures = failures or Failures()
        self.gefyra_namespace = gefyra_namespace
        self.image = image
        self.known = known or Known()

    async def _async_init_(self) -> None:
        """The operator's builder awaits this; there is nothing to prepare."""

    # ------------------------------------------------------------------ what the operator calls

    async def install(self, parameters: dict[Any, Any] | None = None) -> None:
        """The mount has put the proxy into the pods already."""

    async def installed(self) -> bool:
        """Does the proxy run in every pod?"""
        fleet = await self.fleet()
        return bool(fleet.pods) and not bad(await fleet.call("GET", "mount"))

    async def ready(self) -> bool:
        """Can bridges be made? The mount sees to the pods; one that serves is enough. Raises `not_yet`."""
        fleet = await self.fleet()
        if not any(is_ready(pod, self.container) for pod in fleet.pods):
            self.known.pods.forget()
            raise self.failures.not_yet(f"no pod of {self.mount} is ready yet")
        self._open(fleet)
        return True

    async def uninstall(self) -> None:
        """Take this bridge out of every pod, whichever ports it has."""
        async with self.known.bridging:
            fleet = await self.fleet()
            for pod, answer in zip(fleet.pods, await fleet.call("GET", "bridges"), strict=True):
                for bridge in answer.body if answer.good and isinstance(answer.body, list) else []:
                    if bridge["name"].rpartition(".")[0] == self.name:
                        await fleet.one(pod, "DELETE", path("bridges", bridge["name"]))

    async def add_proxy_route(
        self, container_port: int, destination_host: str, destination_port: int, parameters: dict[Any, Any] | None = None
    ) -> None:
        """Bridge a port, in all pods at once. Raises `refused` with a pod's reason, or `not_yet` when none answers.

        An operator that begins anew mends bridges first, also one that was deleted meanwhile: that is not given to pods once more.
        """
        bridge = await self._object(self.name) or {}
        if (bridge.get("metadata") or {}).get("deletionTimestamp"):
            return
        parameters = parameters if parameters is not None else bridge.get("providerParameter")
        user = str(bridge.get("client") or self.name)
        try:
            body = body_of(int(container_port), destination_host, int(destination_port), parameters or {}, user)
        except (ConfigError, ValueError) as exc:
            raise self.failures.refused(why(exc)) from None
        name = self._name(container_port)
        async with self.known.bridging:  # who is just saying which bridges there are has not heard of this one
            self.known.routes.add(name)
        began = time.monotonic()
        deadline = began + AGAIN
        while True:
            left = 0.0 if await self._others_wait() else max(0.0, began + PATIENCE - time.monotonic())
            answers = await self._put(name, body, min(left, SLICE), hold=left > SLICE)
            refused = [answer for answer in answers if 400 <= answer.status < 500]
            good = [answer for answer in answers if answer.good]
            if refused:
                await self._take_back(name)
                raise self.failures.refused("; ".join(dict.fromkeys(answer.reason for answer in refused)))
            if any(answer.body.get("held") for answer in good if isinstance(answer.body, Mapping)):
                continue
            if good:
                break
            if time.monotonic() > deadline:
                text = "; ".join(f"{answer.pod}: {answer.reason}" for answer in answers) or f"no pod of {self.mount} runs the proxy"
                raise self.failures.not_yet(f"no pod takes the bridge within {AGAIN:g} s: {text}")
            await asyncio.sleep(PAUSE)
        self.known.asked[self.name] = asks({**bridge, "providerParameter": parameters})
        lagging = [answer for answer in answers if not answer.good]
        where = authority(destination_host, int(destination_port))
        await self._tell(good, lagging, where, {**bridge, "clusterEndpoint": {str(container_port): where}})

    async def remove_proxy_route(self, container_port: int, destination_host: str, destination_port: int) -> None:
        """Take a port's bridge away, in all pods at once; one that has it no more is as good, one that does not answer has it no more when
        it does: it is given what it should have then."""
        await self._take_back(self._name(container_port))

    async def proxy_route_exists(self, container_port: int, destination_host: str, destination_port: int, name: str | None = None) -> bool:
        """Has every pod that answers this bridge of this port, to this endpoint? Pods that are led by a file are taken over first."""
        wanted = self._name(container_port, name)
        if wanted not in self.known.routes and await self._is_new(name or self.name):
            return False
        answers = await self._look(wanted)
        if any(answer.status == 404 for answer in answers) and not await self._is_new(name or self.name):
            await self._take_over()
            answers = await self._look(wanted)
        endpoint = authority(destination_host, int(destination_port))
        answered = [answer for answer in answers if answer.status]
        there = [answer.good and _state(answer.body) == "in force" and answer.body.get("endpoint") == endpoint for answer in answered]
        return bool(there) and all(there)

    async def validate(self, bridge_request: dict[str, Any], hints: dict[str, Any] | None) -> list[str]:
        """Would the proxy take this bridge? Returns warnings, each also an event; raises `refused` with every reason, in sentences."""
        labels = bridge_request.get("metadata", {}).get("labels") or {}
        missing = [label for label in (MOUNT_LABEL, CLIENT_LABEL) if not labels.get(label)]
        if missing:
            raise self.failures.refused(f"the bridge has no label {' and no label '.join(missing)}")
        mount = await self.access.get("gefyrabridgemount", self.gefyra_namespace, labels[MOUNT_LABEL])
        if mount is None:
            raise self.failures.refused(f"there is no bridge mount {labels[MOUNT_LABEL]!r}: make it first")
        if mount.get("state") != "ACTIVE":
            state = mount.get("state") or "not known yet"
            raise self.failures.refused(f"bridge mount {labels[MOUNT_LABEL]!r} is not active yet, but {state}")
        reasons, warnings = [], []
        try:
            wanted = bodies_of(bridge_request, labels[CLIENT_LABEL], self.name)
        except (ConfigError, ValueError) as exc:
            raise self.failures.refused(why(exc)) from None
        if not wanted:
            reasons.append("the bridge names no port: its portMappings are empty")
        for name, body in wanted.items():
            found = await self._asked({"name": name, **body})
            reasons += found.get("reasons", [])
            warnings += found.get("warnings", [])
        if reasons:
            raise self.failures.refused("; ".join(dict.fromkeys(reasons)))
        for warning in warnings:
            await tell(self.event, "Wide rule", warning, "Warning")
        return warnings

    # ------------------------------------------------------------------ pods

    async def fleet(self) -> Fleet:
        """The proxies of the mount's target, as its pods are by now; none when the mount is deleted."""
        return Fleet(self.access, await self.known.pods.get(self._pods), self.container)

    async def _pods(self) -> list[Object]:
        mount = await self.access.get("gefyrabridgemount", self.gefyra_namespace, self.mount)
        if mount is None:
            return []
        pods = await pods_of(self.access, mount.get("targetNamespace") or self.namespace, str(mount.get("target", "")))
        return [pod for pod in pods if self._runs_proxy(pod)]

    async def _call(self, method: str, path: str, body: object = None) -> list[Answer]:
        """A call in every pod, at once; who does not answer may be gone: then the others' answers count."""
        fleet = await self.fleet()
        answers = await fleet.call(method, path, body)
        if all(answer.status for answer in answers):
            return answers
        self.known.pods.forget()
        there = {name_of(pod) for pod in (await self.fleet()).pods}
        return [answer for answer in answers if answer.status or answer.pod in there]

    def _open(self, fleet: Fleet) -> None:
        """Have execs ready when this bridge is put into the pods, which is what the operator does next: one takes a tenth of a second."""
        if time.monotonic() - self.known.opened < IDLE / 2:
            return
        self.known.opened = time.monotonic()
        task = asyncio.get_running_loop().create_task(fleet.call("GET", "drain"))
        self.known.opening.add(task)
        task.add_done_callback(self.known.opening.discard)

    def _runs_proxy(self, pod: Object) -> bool:
        images = [one.get("image") for one in pod["spec"]["containers"] if one["name"] == self.container]
        return not self.image or self.image in images

    async def carrier_mount(self) -> CarrierMount:
        """The mount of this bridge, which knows what else its pods should have."""
        mount = await self.access.get("gefyrabridgemount", self.gefyra_namespace, self.mount)
        if mount is None:
            raise self.failures.not_yet(f"there is no bridge mount {self.mount!r}")
        return CarrierMount(
            self.access,
            self.mount,
            str(mount.get("targetNamespace") or self.namespace),
            str(mount.get("target", "")),
            str(mount.get("targetContainer") or self.container),
            self.image,
            mount.get("providerParameter"),
            None,
            self.failures,
            self.gefyra_namespace,
            known=self.known,
        )

    async def _take_over(self) -> None:
        """Give every pod all it should have: one that was led by a file, or began anew, has then its bridges at once."""
        fleet = await self.fleet()
        if fleet.pods:
            await (await self.carrier_mount()).configure(list(fleet.pods))

    async def _look(self, name: str) -> list[Answer]:
        return await self._call("GET", path("bridges", name))

    async def _is_new(self, name: str) -> bool:
        """Is it a bridge that was never ACTIVE? Then no pod can have it but those that it is just being put into."""
        bridge = await self._object(name)
        return bridge is not None and not was_active(bridge)

    async def _put(self, name: str, body: Object, patience: float, hold: bool) -> list[Answer]:
        """Put a bridge into every pod; one that has no mount yet is given it first, with all its bridges."""
        target = f"{path('mount', name)}?patience={patience:g}{'&hold=1' if hold else ''}"
        answers = await self._call("PUT", target, body)
        if any(answer.status == 409 and "has no mount" in answer.reason for answer in answers):
            await self._take_over()
            answers = await self._call("PUT", target, body)
        return answers

    async def _take_back(self, name: str) -> None:
        async with self.known.bridging:
            self.known.routes.discard(name)
            self.known.bridges.forget()  # its object says a moment ago, perhaps, that it waits for its turn
            answers = await self._call("DELETE", path("bridges", name))
            if any(not answer.status for answer in answers):
                self.known.look_again()  # who does not answer may have it still, and is looked at when he does

    async def _objects(self) -> list[Object]:
        """Those of the mount's bridges, as they were a moment ago."""
        return await self.known.bridges.get(
            lambda: self.access.list("gefyrabridge", self.gefyra_namespace, {MOUNT_LABEL: self.mount}),
        )

    async def _object(self, name: str) -> Object | None:
        """That of a bridge."""
        found = next((one for one in await self._objects() if name_of(one) == name), None)
        return found or await self.access.get("gefyrabridge", self.gefyra_namespace, name)

    async def _others_wait(self) -> bool:
        """Do other bridges of the mount wait for their turn?"""
        others = await self._objects()
        return any(name_of(one) != self.name and waits(one) for one in others)

    async def _tell(self, good: list[Answer], lagging: list[Answer], where: str, bridge: Object) -> None:
        """How the laptop is, what is odd about the rule, and which pods are late."""
        bodies = [answer.body for answer in good if isinstance(answer.body, Mapping)]
        if any(body.get("reached") for body in bodies):
            await tell(self.event, "Endpoint reached", in_her_words(f"{where} accepts connections", bridge))
        elif reason := next((str(body["reason"]) for body in bodies if body.get("reason")), ""):
            text = f"requests of this bridge are served by the shadow until its endpoint is reached. {in_her_words(reason, bridge)}"
            await tell(self.event, "Endpoint not reached", text, "Warning")
        for warning in dict.fromkeys(str(one) for body in bodies for one in body.get("warnings") or []):
            await tell(self.event, "Wide rule", warning, "Warning")
        for answer in lagging:
            self.known.look_again()
            await tell(self.event, "Pod late", f"pod {answer.pod} is given the bridge as soon as it answers: {answer.reason}", "Warning")

    # ------------------------------------------------------------------ questions

    async def _asked(self, body: Object) -> Mapping[str, Any]:
        """What the first pod that answers says of a bridge."""
        fleet = await self.fleet()
        reason = "no pod runs"
        for pod in fleet.pods:
            answer = await fleet.one(pod, "POST", "bridges:validate", body)
            if answer.good:
                found: Mapping[str, Any] = answer.body
                return found
            reason = answer.reason
        raise self.failures.refused(f"nobody can say whether this bridge is good: {reason}")

    def _name(self, port: int | str, name: str | None = None) -> str:
        return f"{name or self.name}.{int(port)}"


def _state(bridge: Any) -> str:
    return str(bridge.get("status", {}).get("state", "")) if isinstance(bridge, Mapping) else ""
