"""The bridge-mount provider: makes the shadow of a workload (carrier/gefyra/shadow.py), puts the proxy in the place of its container in
each pod (carrier/gefyra/installing.py), keeps both what they should be, and gives the workload back at the end.

When the workload was rolled out anew, the shadow follows, and only then its new pods are bridged. `level` brings everything to what it
should be: the operator asks for it once a minute (`ready`), our keeper (carrier/gefyra/keeper.py) as soon as something changes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from carrier.gefyra import clone
from carrier.gefyra.access import Object, is_ready, name_of, run_of
from carrier.gefyra.certificates import Certificates
from carrier.gefyra.installing import Installing, uid_of
from carrier.gefyra.shadow import ORIGINALS, PATIENCE, Gone
from carrier.gefyra.wanted import already_mounted, is_ending, is_mount_of, pods_of

LEAVING = 600.0
"""Seconds that a workload may take to run its own image again everywhere; its pods are served by the shadow as long."""

INCOMPLETE = "Not complete"


class CarrierMount(Installing):
    """One mount. For its arguments see Shadowed."""

    provider_type = "carrier2mount"

    # ------------------------------------------------------------------ all as it should be

    async def level(self, thorough: bool = False) -> list[str]:
        """Bring pods and shadow to what they should be; what is still wanting, in sentences. thorough: ask pods that seem to be well, too.

        While the workload is rolled out its old pods are left alone with the old shadow, and its new ones serve by themselves.
        """
        async with self.known.work:
            try:
                return await self._level(thorough)
            except Gone:
                return [f"{self.target} is going"]

    async def _level(self, thorough: bool) -> list[str]:
        if self.known.detoured:
            await self._lead_back()
        workload = await self._workload()
        pods = await pods_of(self.access, self.namespace, self.target, workload)
        proxies = [pod for pod in pods if self._runs_proxy(pod)]
        asked = [pod for pod in proxies if thorough or self.known.runs.get(uid_of(pod)) != run_of(pod, self.container)]
        lost = await self._configure_all(asked)
        fresh = [name_of(pod) for pod in pods if not self._runs_proxy(pod)]
        if not clone.is_rolled_out(workload):
            return [*lost, *([f"{self.target} is being rolled out"] if fresh else [])]
        scalers = await self._scalers(workload)
        shadow = await self._shadow(workload)
        if shadow is not None and self._is_made_of(shadow, workload, scalers):
            if clone.MADE_OF not in (shadow["metadata"].get("annotations") or {}):
                await self._prepare(workload)
            await self._scale_alike(workload, scalers)
        else:
            await self.tell("Shadow renewed", f"{self.target} is another one than its shadow was made of: it is made anew")
            await self._prepare(workload)
        if fresh:
            if not await self._shadow_serves(PATIENCE):
                return [*lost, await self._not_ready()]
            await self.tell("Pods replaced", f"{', '.join(fresh)}: new since the mount was made, and taken up now")
            await self._install_all()
        self._forget(pods)
        return lost

    async def _configure_all(self, pods: list[Object]) -> list[str]:
        lost = []
        before = dict(self.known.runs)
        for pod, answer in zip(pods, await self.configure(pods), strict=True):
            if answer.good:
                await self._mark(pod)
                if before.get(uid_of(pod)) not in (None, run_of(pod, self.container)):
                    await self.tell("Configuration restored", f"pod {name_of(pod)} was restarted: it has its configuration")
            else:
                lost.append(f"{answer.pod}: {answer.reason}")
        return lost

    def _forget(self, pods: list[Object]) -> None:
        living = set(map(uid_of, pods))
        for known in (self.known.runs, self.known.hopeless):
            for uid in [uid for uid in known if uid not in living]:
                del known[uid]

    async def ready(self) -> bool:
        """Is the shadow there, and does every pod run the proxy and serve? What is wanting is put right first. Raises `not_yet`.

        A mount that is ACTIVE stays it while it is put right: the operator would take it apart, and refuse new bridges meanwhile.
        """
        mount = await self.access.get("gefyrabridgemount", self.gefyra_namespace, self.name) or {}
        try:
            wanting = await self.level(thorough=True)
        except PermissionError as exc:
            wanting = [str(exc)]
        if not wanting:
            pods = await pods_of(self.access, self.namespace, self.target)
            waiting = [name_of(pod) for pod in pods if not (self._runs_proxy(pod) and is_ready(pod, self.container))]
            if waiting or not pods:
                wanting = [f"not ready yet: {', '.join(waiting) or 'no pod runs'}"]
        if not await self._shadow_serves(0.0):
            wanting.append(await self._not_ready())
        if not wanting:
            self.known.told.pop(INCOMPLETE, None)
            return True
        text = "; ".join(wanting)
        await self.warn(INCOMPLETE, text, text)
        if mount.get("state") != "ACTIVE":
            raise self.failures.not_yet(text)
        return True

    async def _not_ready(self) -> str:
        """That the shadow is not, and why."""
        shadow = await self._shadow(await self._workload())
        trouble = await self._trouble(shadow, late=True) if shadow is not None else None
        return f"the shadow of {self.target} is not ready{f': {trouble.text}' if trouble is not None else ''}"

    # ------------------------------------------------------------------ the end

    async def uninstall(self) -> None:
        """Give the pods their own image back, by a rollout, or by a patch where nobody would replace them; when none leads to the shadow
        any more, delete it."""
        self.known.ending = True
        try:
            async with self.known.work:
                await self._uninstall()
        finally:
            self.known.ending = False
            self.known.runs.clear()

    async def _uninstall(self) -> None:
        if await self._rival():
            return  # another mount has the workload: nothing of it is ours
        kind, _, name = self._kind_and_place()
        workload = await self.access.get(*self._kind_and_place())
        if workload is not None:
            every = await pods_of(self.access, self.namespace, self.target)
            pods = [pod for pod in every if self._runs_proxy(pod)]
            if pods:
                await self._lead_elsewhere(every, to_shadow=True)
            if not clone.rolls_out({"kind": kind, **workload}):
                pods = [pod for pod in pods if await self._give_back(pod)]
            elif pods:
                stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                annotations = {"kubectl.kubernetes.io/restartedAt": stamp}
                await self.access.patch(kind, self.namespace, name, {"spec": {"template": {"metadata": {"annotations": annotations}}}})
            await self._left({name_of(pod): run_of(pod, self.container) for pod in pods})
            await self._settled()
        if await self.detour.end():
            await self._routed()
        await self.access.delete("HorizontalPodAutoscaler", self.namespace, clone.short(name))
        for hpa in await self._scalers({"kind": kind, "metadata": {"name": clone.short(name)}}):
            await self.access.delete("HorizontalPodAutoscaler", self.namespace, name_of(hpa))
        await self.access.delete(kind, self.namespace, clone.short(name))
        await self.access.delete("Service", self.namespace, clone.service_name(name, self.container))
        await self._forget_originals()

    async def _left(self, before: Mapping[str, str]) -> None:
        """Wait until no pod runs the proxy, and those that had their image back serve again. before: the runs that are to end, by pod."""

        async def look() -> bool | None:
            workload = await self.access.get(*self._kind_and_place())
            if workload is None:
                return True
            workload = {"kind": self._kind_and_place()[0], **workload}
            pods = await pods_of(self.access, self.namespace, self.target)
            if clone.rolls_out(workload):
                return True if clone.is_rolled_out(workload) and not any(map(self._runs_proxy, pods)) else None
            given = [pod for pod in pods if name_of(pod) in before]
            if any(before[name_of(pod)] == run_of(pod, self.container) for pod in given):
                return None  # its status shows the proxy still
            return True if all(map(self._serves, given)) else None

        deadline = time.monotonic() + LEAVING
        while await look() is None:
            if time.monotonic() > deadline:
                text = f"{self.target} does not run its own image everywhere after {LEAVING:g} s: its shadow is deleted all the same"
                await self.tell("Not rolled out", text, "Warning")
                return
            await asyncio.sleep(self.pause)

    async def _give_back(self, pod: Object) -> bool:
        """The own image of a pod that nobody replaces, and nothing of ours for a later mount to begin with."""
        image = await self._original(name_of(pod))
        if image is None:
            text = f"pod {name_of(pod)} keeps the proxy: nobody knows what its container {self.container!r} ran before. Make the pod anew"
            await self.tell("Not given back", text, "Warning")
            return False
        await self._patch_image(name_of(pod), image)
        await self.access.patch("Pod", self.namespace, name_of(pod), {"metadata": {"labels": dict.fromkeys(self.detour.bridged)}})
        return True

    async def _forget_originals(self) -> None:
        """Take what was kept of pods that are this workload's, or no more there, out of the ConfigMap."""
        kept = await self.access.get("ConfigMap", self.gefyra_namespace, ORIGINALS)
        kind, _, name = self._kind_and_place()
        before, after = f"{self.namespace}-", f"-{self.container}"
        found = [key for key in (kept or {}).get("data") or {} if key.startswith(before) and key.endswith(after)]
        pods = {key[len(before) : -len(after)]: key for key in found}
        if kind != "Pod":
            there = {name_of(pod) for pod in await self.access.list("Pod", self.namespace, {}) if not is_ending(pod)}
            own = {name_of(pod) for pod in await pods_of(self.access, self.namespace, self.target)}
            pods = {pod: key for pod, key in pods.items() if pod.startswith(f"{name}-") and (pod in own or pod not in there)}
        else:
            pods = {pod: key for pod, key in pods.items() if pod == name}
        if pods:
            await self.access.patch("ConfigMap", self.gefyra_namespace, ORIGINALS, {"data": dict.fromkeys(pods.values())})

    # ------------------------------------------------------------------ questions

    async def target_exists(self) -> bool:
        """Is the workload there?"""
        return await self.access.get(*self._kind_and_place()) is not None

    async def validate(self, bridge_request: dict[str, Any], hits: dict[str, Any] | None) -> None:
        """Can this be mounted? Raises `refused` with every reason."""
        target = str(bridge_request.get("target") or self.target)
        namespace = str(bridge_request.get("targetNamespace") or self.namespace)
        container = str(bridge_request.get("targetContainer") or self.container)
        try:
            kind, name = clone.split_target(target)
        except ValueError as exc:
            raise self.failures.refused(str(exc)) from None
        workload = await self.access.get(kind, namespace, name)
        if workload is None:
            raise self.failures.refused(f"there is no {kind} {name} in namespace {namespace}")
        workload = {"kind": kind, **workload}
        reasons = await self._refusals(workload, container)
        described = clone.container(workload, container) or {}
        certificates = Certificates(bridge_request.get("providerParameter") or self.certificates.parameter, namespace)
        tcp = [port for port, protocol in clone.ports(described) if protocol != "UDP"]
        problems = certificates.problems(tcp)
        if not problems:
            try:
                await certificates.read(self.access, tcp)
            except LookupError as exc:
                problems = [str(exc)]
        reasons += problems
        own = bridge_request.get("metadata", {}).get("name")
        for other in await self.access.list("gefyrabridgemount", self.gefyra_namespace, {}):
            if name_of(other) != own and is_mount_of(other, kind, name, namespace):
                reasons.append(already_mounted(kind, name, other))
        self._refuse(reasons)
