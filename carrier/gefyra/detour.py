"""The detour of Services while containers of a workload change: for those seconds they lead to pods that nobody touches.

A pod cannot be held out of its Services by its own condition. Its kubelet writes down that it has seen the new image, and with that once
more that the pod is ready, in the moment in which it ends the container; a kube-proxy may believe that for a second. What a Service
selects, however, is nobody's but its owner's. So for the time of the change it selects others, in one step and without a gap:

- pods of the workload that run the proxy already, by a label that they were given when they served: users keep their bridges;
- where there is none, in a new mount or after a rollout, the shadow, which serves everybody's requests in a mount anyway.

What a Service selected is written on it (DETOUR), so an operator that was ended in between finds it and leads it back. A hand that changed
the selector meanwhile is respected: only what is ours is taken away, and what was there is put back where it lacks.

Left alone are Services for which another pod is not as good: headless ones and those that publish pods that are not ready (their users
want each pod by name), those that stay on a node (`externalTrafficPolicy: Local`), and those that lead to pods of other workloads too.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from carrier.gefyra.access import Access, Object, name_of
from carrier.gefyra.clone import DUPLICATION, short
from carrier.gefyra.wanted import is_ending

DETOUR = "bridge.gefyra.dev/detour"
"""Annotation of a Service: whose detour it is on, what it selected, and what it selects meanwhile."""
BRIDGED = "bridge.gefyra.dev/bridged"
"""Label of a pod: the mount whose proxy it runs, and serves with."""


class Detour:
    """Of one mount. pods: see `begin`."""

    def __init__(self, access: Access, namespace: str, mount: str) -> None:
        self.access = access
        self.namespace = namespace
        self.mount = mount

    @property
    def bridged(self) -> dict[str, str]:
        """The label of pods that run this mount's proxy."""
        return {BRIDGED: short(self.mount, "")}

    async def begin(self, pods: Collection[Object], shadow: str) -> tuple[list[str], bool]:
        """Lead Services of these pods of a workload elsewhere: to the shadow with this duplication id, or, where it is "", to those of
        them that have our label. Returns the names of the Services that are led elsewhere, and whether these are all that led to the pods.
        Raises PermissionError.
        """
        led, all_of_them = [], True
        names = set(map(name_of, pods))
        for service in await self.access.list("Service", self.namespace, {}):
            there = _noted(service)
            selector = there["selector"] if there else (service.get("spec") or {}).get("selector") or {}
            if not selector or not any(_selects(selector, pod) for pod in pods):
                continue
            if there and there["mount"] == self.mount:
                led.append(name_of(service))  # since before the operator was ended
            elif there or not _may_be_led(service) or await self._leads_to_others(selector, names):
                all_of_them = False
            else:
                await self._lead(service, selector, {DUPLICATION: shadow} if shadow else {**selector, **self.bridged})
                led.append(name_of(service))
        return led, all_of_them

    async def end(self) -> list[str]:
        """Lead every Service back that this mount has led elsewhere; their names."""
        found = []
        for service in await self.on():
            note = _noted(service)
            now = (service.get("spec") or {}).get("selector") or {}
            ours = {key: None for key, value in note["meanwhile"].items() if now.get(key) == value}
            lacking = {key: value for key, value in note["selector"].items() if key not in now or key in ours}
            patch = {"metadata": {"annotations": {DETOUR: None}}, "spec": {"selector": {**ours, **lacking}}}
            await self.access.patch("Service", self.namespace, name_of(service), patch)
            found.append(name_of(service))
        return found

    async def on(self) -> list[Object]:
        """The Services that this mount has led elsewhere."""
        services = await self.access.list("Service", self.namespace, {})
        return [one for one in services if _noted(one).get("mount") == self.mount]

    async def _lead(self, service: Object, selector: Mapping[str, str], meanwhile: Mapping[str, str]) -> None:
        note = json.dumps({"mount": self.mount, "selector": selector, "meanwhile": meanwhile})
        changed = {**{key: None for key in selector if key not in meanwhile}, **meanwhile}
        patch = {"metadata": {"annotations": {DETOUR: note}}, "spec": {"selector": changed}}
        await self.access.patch("Service", self.namespace, name_of(service), patch)

    async def _leads_to_others(self, selector: Mapping[str, str], names: Collection[str]) -> bool:
        found = await self.access.list("Pod", self.namespace, selector)
        return any(name_of(pod) not in names and not is_ending(pod) for pod in found)


def _noted(service: Object) -> dict[str, Any]:
    """What is written on a Service that is led elsewhere; {}: it is not."""
    try:
        found = json.loads((service["metadata"].get("annotations") or {}).get(DETOUR, "{}"))
    except ValueError:
        return {}
    whole = isinstance(found, dict) and all(isinstance(found.get(key), dict) for key in ("selector", "meanwhile"))
    return found if whole else {}


def _selects(selector: Mapping[str, str], pod: Object) -> bool:
    return selector.items() <= (pod["metadata"].get("labels") or {}).items()


def _may_be_led(service: Object) -> bool:
    """Is another pod as good to its users?"""
    spec = service.get("spec") or {}
    local = "Local" in (spec.get("externalTrafficPolicy"), spec.get("internalTrafficPolicy"))
    return spec.get("clusterIP") != "None" and not spec.get("publishNotReadyAddresses") and not local
