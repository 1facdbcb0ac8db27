"""The proxy in the pods of a mount: patched in, pod by pod, and configured.

Only the image of a container in a live pod can be changed. Pods are patched one at a time: the next one's turn comes when the status of
this one shows the proxy (and no longer the container before it) as ready, so the workload always has pods that serve. Meanwhile its
Services lead elsewhere (carrier/gefyra/detour.py), so that nobody's request finds a pod between two containers. Where one cannot be led
elsewhere, a pod that is not the only one is taken out of it by its condition, which its kubelet may contradict.

A pod in which the proxy cannot start, because its image cannot be had, say, is given its own image back, and left alone for a while: the
mount says why, and nobody goes without an app for it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping

from carrier.errors import ConfigError
from carrier.gefyra import clone
from carrier.gefyra.access import Answer, Fleet, Object, is_ready, name_of, run_of, status_of
from carrier.gefyra.format import read
from carrier.gefyra.shadow import ORIGINALS, PATIENCE, Gone, Shadowed
from carrier.gefyra.trouble import Trouble, of_container, of_pod
from carrier.gefyra.wanted import MOUNT_LABEL, pods_of, wanted_of, was_active

ROUTED = 2.0
"""Seconds until every node sends new connections where Services lead by now: a kube-proxy writes its rules once a second, when it can."""
SETTLED = 1.0
"""Seconds until whoever counts a Service's pods has heard that one is ready: it hears of pods and of Services on two ways."""
STUCK = 10.0
"""Seconds after which a container that cannot start is given up: a registry may be away for a moment."""
CRASHED = 60.0
"""Seconds after which one is given up that is said to crash: a kubelet that has started it a moment ago waits before it does so again."""
HOPELESS = 300.0
"""Seconds until the proxy is tried again in a pod in which it could not start."""


class Stuck(Exception):
    """The proxy cannot start in a pod."""


class Installing(Shadowed):
    """One mount: the proxy in its pods. For its arguments see Shadowed."""

    # ------------------------------------------------------------------ the proxy in the pods

    async def install(self) -> None:
        """Put the proxy into every pod that does not run it, one after the other; Services lead to it when this returns."""
        async with self.known.work:
            if await self._install_all():
                await self._routed()

    async def _install_all(self) -> bool:
        """Were Services led elsewhere, and back?"""
        pods = await pods_of(self.access, self.namespace, self.target)
        fresh = [pod for pod in pods if not self._runs_proxy(pod)]
        if not fresh:
            return False
        if reason := next(filter(None, map(self.known.hopeless_of, map(uid_of, fresh))), ""):
            if self.known.detoured:  # when it was given its own image back it did not serve yet
                await self._lead_back()
            raise self.failures.not_yet(reason)
        await self._base(await self._workload())  # what cannot be given to a pod is said before one is touched
        led = await self._lead_elsewhere(pods)
        try:
            for pod in fresh:
                if self.known.ending:
                    return False
                try:
                    await self._install(pod, led)
                except Gone:
                    continue
        except Exception:
            await self._lead_back()
            raise
        return await self._lead_back()

    async def _install(self, pod: Object, led: bool) -> None:
        """One pod: patch it, wait until the proxy answers, configure it, wait until it is ready. led: no Service leads to it.

        Raises `not_yet`, Gone. What makes it `not_yet` leaves the pod with its own image.
        """
        name = name_of(pod)
        own = next((one for one in pod["spec"]["containers"] if one["name"] == self.container), None)
        if own is None:
            self._refuse([f"pod {name} has no container {self.container!r}"])
        assert own is not None
        before = run_of(pod, self.container)
        await self._keep(name, own["image"])
        out = before if not led and await self._take_out(name) else None
        seen: list[Trouble | None] = [None]
        began = time.monotonic()
        await self._patch_image(name, self.image)
        try:
            while (answer := await self._configured(name, out, time.monotonic() - began, seen)) is None:  # noqa: ASYNC110 - it is a kubelet's
                await asyncio.sleep(self.pause)
        except Stuck as exc:
            await self._patch_image(name, own["image"])
            text = f"the proxy cannot start in pod {name}, which has its own image back, and is left alone for {HOPELESS / 60:g} min: {exc}"
            self.known.hopeless[uid_of(pod)] = (began + HOPELESS, text)
            raise self.failures.not_yet(text) from None
        served = time.monotonic()
        found = await self._until(lambda: self._renewed(name, before), f"pod {name}: it is not ready", lambda: self._why_not(name))
        self.known.runs[uid_of(found)] = run_of(found, self.container)
        await self._mark(found)
        text = f"pod {name} runs the proxy at revision {answer.revision}; it did not serve for {served - began:.1f} s"
        await self.tell("Proxy installed", text)

    async def _why_not(self, name: str) -> str:
        """What a pod's status says is wrong with it."""
        trouble = of_pod(await self.access.get("Pod", self.namespace, name) or {})
        return trouble.text if trouble is not None else ""

    async def _mark(self, pod: Object) -> None:
        """Let Services find it while others change."""
        mark = self.detour.bridged
        if not mark.items() <= (pod["metadata"].get("labels") or {}).items():
            await self.access.patch("Pod", self.namespace, name_of(pod), {"metadata": {"labels": mark}})

    # ------------------------------------------------------------------ Services meanwhile

    async def _lead_elsewhere(self, pods: list[Object], to_shadow: bool = False) -> bool:
        """Let the Services of these pods lead to some that stay as they are; False: to some of them one may still lead."""
        mark = self.detour.bridged.items()
        marked = [pod for pod in pods if mark <= (pod["metadata"].get("labels") or {}).items() and self._runs_proxy(pod)]
        shadow = ""
        if to_shadow or not any(map(self._serves, marked)):
            found = await self._shadow(await self._workload())
            shadow = self._duplication(found)
            if not shadow or not await self._shadow_serves(0.0):
                return False
        self.known.detoured = True
        try:
            names, led = await self.detour.begin(pods, shadow)
        except PermissionError as exc:
            await self.tell("Services stay", f"they lead to pods while their containers change: {exc}", "Warning")
            return False
        if names:
            where = "the shadow" if shadow else "pods that run the proxy already"
            await self.tell("Services led elsewhere", f"{', '.join(names)}: to {where}, while containers of {self.target} change")
            await self._routed()
        return led

    async def _lead_back(self) -> bool:
        """Let Services lead to the pods again, when one of them serves; did any? Until then where they were led to serves."""
        if not await self.detour.on():
            self.known.detoured = False
            return False
        pods = await pods_of(self.access, self.namespace, self.target)
        if pods and not any(map(self._serves, pods)):
            return False
        await self._settled()
        names = await self.detour.end()
        self.known.detoured = False
        await self.tell("Services lead back", f"{', '.join(names)}: to {self.target}")
        return True

    async def _routed(self) -> None:
        await asyncio.sleep(ROUTED * self.pause / 0.1)

    async def _settled(self) -> None:
        await asyncio.sleep(SETTLED * self.pause / 0.1)

    # ------------------------------------------------------------------ a pod out of its Services

    async def _take_out(self, name: str) -> bool:
        """Let no Service lead to a pod whose container is about to change, as long as another pod serves. Its kubelet puts it in again."""
        pods = await pods_of(self.access, self.namespace, self.target)
        if not any(name_of(pod) != name and self._serves(pod) for pod in pods):
            return False
        try:
            for _ in range(3):
                await self._say_not_ready(name)
                await self._routed()
                if not _says_ready(await self.access.get("Pod", self.namespace, name)):
                    return True  # else its kubelet has just said what it knew
        except PermissionError:
            return False  # then a few requests fail while the container changes
        return True

    async def _say_not_ready(self, name: str) -> None:
        condition = {"type": "Ready", "status": "False", "reason": "BridgeMount", "message": "its container is about to be replaced"}
        await self.access.patch_status("Pod", self.namespace, name, {"status": {"conditions": [condition]}})

    async def _configured(self, name: str, out: str | None, since: float, seen: list[Trouble | None]) -> Answer | None:
        """The answer of a pod's proxy to its configuration; None: it does not answer yet. Raises Gone, Stuck.

        out: the run of the container before, of a pod that was taken out of its Services. An app may take its time to end, and its kubelet
        may say meanwhile that the pod is ready. since: seconds since the pod was patched. seen: what was wrong with it so far.
        """
        pod = await self._living(name)
        trouble = of_container(status_of(pod, self.container), self.image)  # a kubelet shows the image before
        if trouble is not None and trouble.lasts:
            # A kubelet that has tried once says CrashLoopBackOff until it tries again, whatever was wrong, and by turns what it was.
            told = seen[0] = trouble if not seen[0] or seen[0].crashed else seen[0]
            if since > (CRASHED if told.crashed else STUCK):
                raise Stuck(told.text)
        if out is not None and _says_ready(pod) and run_of(pod, self.container) == out:
            await self._say_not_ready(name)
        if not self._runs_proxy(pod):
            return None  # what we have read is older than our patch
        (answer,) = await Fleet(self.access, [pod], self.container).call("GET", "drain")  # no bridge waits while we wait for its proxy
        if answer.good:
            (answer,) = await self.configure([pod])
        if 400 <= answer.status < 500 and answer.status != 404:
            raise Stuck(f"it refuses its configuration: {answer.reason}")
        if not answer.good and since > PATIENCE:
            raise Stuck(f"it does not take its configuration within {PATIENCE:g} s: {trouble.text if trouble else answer.reason}")
        return answer if answer.good else None

    async def _renewed(self, name: str, before: str) -> Object | None:
        """The pod, when its status shows another container than before as ready."""
        pod = await self._living(name)
        return pod if run_of(pod, self.container) != before and self._serves(pod) else None

    def _serves(self, pod: Object) -> bool:
        """Is the container ready, and do Services lead to the pod?"""
        conditions = (pod.get("status") or {}).get("conditions") or []
        return is_ready(pod, self.container) and (_says_ready(pod) or not any(one.get("type") == "Ready" for one in conditions))

    async def _living(self, name: str) -> Object:
        pod = await self.access.get("Pod", self.namespace, name)
        if pod is None or pod["metadata"].get("deletionTimestamp") or self.known.ending:
            raise Gone(name)
        return pod

    async def _patch_image(self, pod: str, image: str) -> None:
        self.known.pods.forget()
        await self.access.patch("Pod", self.namespace, pod, {"spec": {"containers": [{"name": self.container, "image": image}]}})

    async def _keep(self, pod: str, image: str) -> None:
        """Remember what the proxy replaces."""
        data = {f"{self.namespace}-{pod}-{self.container}": json.dumps({"image": image})}
        metadata = {"name": ORIGINALS, "namespace": self.gefyra_namespace}
        await self.access.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})

    # ------------------------------------------------------------------ the configuration

    async def configure(self, pods: list[Object]) -> list[Answer]:
        """Give the proxies of these pods all they should have: ports, certificates, the mount's bridges. Raises `refused`, `not_yet`."""
        if not pods:
            return []
        workload = await self._workload()
        async with self.known.bridging:
            objects = await self.access.list("gefyrabridge", self.gefyra_namespace, {MOUNT_LABEL: self.name})
            wanted, odd = wanted_of(objects, self.known.routes)
            body = {**await self._base(workload), "bridges": wanted}
            answers = await Fleet(self.access, pods, self.container).call("PUT", "mount", body)
            for pod, answer in zip(pods, answers, strict=True):
                if answer.good:  # here, where no bridge can be put into the others meanwhile that this pod was not given
                    self.known.runs[uid_of(pod)] = run_of(pod, self.container)
        by_name = {name_of(one): one for one in objects}
        for name, reason in odd.items():
            await self.access.event(by_name[name], "Bridge stale", f"bridge {name} cannot be read: {reason}", "Warning")
        for answer in answers:
            await self._tell_bridges(answer, by_name)
        return answers

    async def _tell_bridges(self, answer: Answer, by_name: Mapping[str, Object]) -> None:
        if not answer.good or not isinstance(answer.body, Mapping):
            return
        for name in answer.body.get("given") or []:
            bridge = by_name.get(name.rpartition(".")[0])
            if bridge is not None and was_active(bridge):
                text = f"pod {answer.pod} lacked bridge {name}, or had it as it was before: it has it now"
                await self.access.event(bridge, "Bridge restored", text)
        for name, reason in (answer.body.get("lost") or {}).items():
            if (bridge := by_name.get(name.rpartition(".")[0])) is not None:
                await self.access.event(bridge, "Bridge stale", f"pod {answer.pod} does not take bridge {name}: {reason}", "Warning")

    async def _base(self, workload: Object) -> Object:
        """What a pod's proxy has without bridges, as `PUT /mount` takes it. Raises `refused`, `not_yet`."""
        tcp = self._tcp(workload)
        self._refuse(self.certificates.problems(tcp))
        try:
            files, names = await self.certificates.read(self.access, tcp)
        except LookupError as exc:
            raise self.failures.not_yet(str(exc)) from None

        def tls(port: int) -> Object | None:
            found = self.certificates.of(port)
            return {**found, "sni": names[port]} if found is not None and port in names else found

        document = clone.base_config(workload, self.container, tls)
        try:
            read(document)
        except ConfigError as error:
            raise self.failures.refused(error.detail) from None
        return {"document": document, "files": files}

    def _runs_proxy(self, pod: Object) -> bool:
        """Is the image in its container ours?"""
        return any(one["name"] == self.container and one.get("image") == self.image for one in pod["spec"]["containers"])

    def _tcp(self, workload: Object) -> list[int]:
        described = clone.container(workload, self.container) or {}
        return [port for port, protocol in clone.ports(described) if protocol != "UDP"]


def uid_of(pod: Object) -> str:
    return str(pod["metadata"].get("uid") or name_of(pod))


def _says_ready(pod: Object | None) -> bool:
    conditions = ((pod or {}).get("status") or {}).get("conditions") or []
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
