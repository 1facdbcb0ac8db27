"""The bridge-mount provider: makes the shadow of a workload, and puts the proxy in the place of its container, pod by pod.

Only the image of a container in a live pod can be changed. Pods are patched one at a time: the next one's turn comes when the status of
this one shows the proxy (and no longer the container before it) as ready, so the workload always has pods that serve. Meanwhile its
Services lead elsewhere (carrier/gefyra/detour.py), so that nobody's request finds a pod between two containers. Where one cannot be led
elsewhere, a pod that is not the only one is taken out of it by its condition, which its kubelet may contradict.

When the workload was rolled out anew, the shadow follows (carrier/gefyra/shadow.py), and only then its new pods are bridged. `level`
brings everything to what it should be: the operator asks for it once a minute (`ready`), our keeper (carrier/gefyra/keeper.py) as soon as
something changes.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

from carrier.errors import ConfigError
from carrier.gefyra import clone
from carrier.gefyra.access import Answer, Fleet, Object, is_ready, name_of, run_of
from carrier.gefyra.certificates import Certificates
from carrier.gefyra.format import read
from carrier.gefyra.shadow import PATIENCE, Gone, Shadowed
from carrier.gefyra.wanted import MOUNT_LABEL, is_ending, pods_of, wanted_of

ORIGINALS = "gefyra-carrier2-restore-configmap"
"""The ConfigMap that keeps what the proxy replaced: `<namespace>-<pod>-<container>` -> the container's image."""
LEAVING = 600.0
"""Seconds that a workload may take to run its own image again everywhere; its pods are served by the shadow as long."""
ROUTED = 2.0
"""Seconds until every node sends new connections where Services lead by now: a kube-proxy writes its rules once a second, when it can."""
SETTLED = 1.0
"""Seconds until whoever counts a Service's pods has heard that one is ready: it hears of pods and of Services on two ways."""


class CarrierMount(Shadowed):
    """One mount: its pods. For its arguments see Shadowed."""

    provider_type = "carrier2mount"

    # ------------------------------------------------------------------ the proxy in the pods

    async def install(self) -> None:
        """Put the proxy into every pod that does not run it, one after the other; Services lead to it when this returns."""
        async with self.known.work:
            if await self._install_all():
                await self._sleep(ROUTED)

    async def _install_all(self) -> bool:
        """Were Services led elsewhere, and back?"""
        pods = await pods_of(self.access, self.namespace, self.target)
        fresh = [pod for pod in pods if not self._runs_proxy(pod)]
        if not fresh:
            return False
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

        Raises `not_yet`, Gone.
        """
        name = name_of(pod)
        own = next((one for one in pod["spec"]["containers"] if one["name"] == self.container), None)
        if own is None:
            self._refuse([f"pod {name} has no container {self.container!r}"])
        assert own is not None
        before = run_of(pod, self.container)
        await self._keep(name, own["image"])
        out = before if not led and await self._take_out(name) else None
        began = time.monotonic()
        await self._patch_image(name, self.image)
        answer = await self._until(lambda: self._configured(name, out), f"pod {name}: its proxy does not take its configuration")
        served = time.monotonic()
        found = await self._until(lambda: self._renewed(name, before), f"pod {name}: it is not ready")
        self.known.runs[_uid(found)] = run_of(found, self.container)
        await self._mark(found)
        text = f"pod {name} runs the proxy at revision {answer.revision}; it did not serve for {served - began:.1f} s"
        await self.tell("Proxy installed", text)

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
            await self._sleep(ROUTED)
        return led

    async def _lead_back(self) -> bool:
        """Let Services lead to the pods again, when one of them serves; did any? Until then where they were led to serves."""
        if not await self.detour.on():
            self.known.detoured = False
            return False
        pods = await pods_of(self.access, self.namespace, self.target)
        if pods and not any(map(self._serves, pods)):
            return False
        await self._sleep(SETTLED)
        names = await self.detour.end()
        self.known.detoured = False
        await self.tell("Services lead back", f"{', '.join(names)}: to {self.target}")
        return True

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self.pause / 0.1)

    # ------------------------------------------------------------------ a pod out of its Services

    async def _take_out(self, name: str) -> bool:
        """Let no Service lead to a pod whose container is about to change, as long as another pod serves. Its kubelet puts it in again."""
        pods = await pods_of(self.access, self.namespace, self.target)
        if not any(name_of(pod) != name and self._serves(pod) for pod in pods):
            return False
        try:
            for _ in range(3):
                await self._say_not_ready(name)
                await self._sleep(ROUTED)
                if not _says_ready(await self.access.get("Pod", self.namespace, name)):
                    return True  # else its kubelet has just said what it knew
        except PermissionError:
            return False  # then a few requests fail while the container changes
        return True

    async def _say_not_ready(self, name: str) -> None:
        condition = {"type": "Ready", "status": "False", "reason": "BridgeMount", "message": "its container is about to be replaced"}
        await self.access.patch_status("Pod", self.namespace, name, {"status": {"conditions": [condition]}})

    async def _configured(self, name: str, out: str | None) -> Answer | None:
        """The answer of a pod's proxy to its configuration; None: it does not answer yet. Raises `refused`, Gone.

        out: the run of the container before, of a pod that was taken out of its Services. An app may take its time to end, and its kubelet
        may say meanwhile that the pod is ready.
        """
        pod = await self._living(name)
        if out is not None and _says_ready(pod) and run_of(pod, self.container) == out:
            await self._say_not_ready(name)
        if not self._runs_proxy(pod):
            return None
        (answer,) = await self.configure([pod])
        if 400 <= answer.status < 500 and answer.status != 404:
            self._refuse([f"pod {name} refuses its configuration: {answer.reason}"])
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
            if (bridge := by_name.get(name.rpartition(".")[0])) is not None:
                await self.access.event(
                    bridge, "Bridge restored", f"pod {answer.pod} lacked bridge {name}, or had it as it was before: it has it now"
                )
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

    def _tcp(self, workload: Object) -> list[int]:
        described = clone.container(workload, self.container) or {}
        return [port for port, protocol in clone.ports(described) if protocol != "UDP"]

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
        pods = await pods_of(self.access, self.namespace, self.target)
        proxies = [pod for pod in pods if self._runs_proxy(pod)]
        asked = [pod for pod in proxies if thorough or self.known.runs.get(_uid(pod)) != run_of(pod, self.container)]
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
                return [*lost, f"the shadow of {self.target} is not ready"]
            await self.tell("Pods replaced", f"{', '.join(fresh)}: new since the mount was made, and taken up now")
            await self._install_all()
        self._forget(pods)
        return lost

    async def _configure_all(self, pods: list[Object]) -> list[str]:
        lost = []
        for pod, answer in zip(pods, await self.configure(pods), strict=True):
            if answer.good:
                await self._mark(pod)
                if self.known.runs.get(_uid(pod)) not in (None, run_of(pod, self.container)):
                    await self.tell("Configuration restored", f"pod {name_of(pod)} was restarted: it has its configuration")
                self.known.runs[_uid(pod)] = run_of(pod, self.container)
            else:
                lost.append(f"{answer.pod}: {answer.reason}")
        return lost

    def _forget(self, pods: list[Object]) -> None:
        living = set(map(_uid, pods))
        for uid in [uid for uid in self.known.runs if uid not in living]:
            del self.known.runs[uid]

    async def ready(self) -> bool:
        """Is the shadow there, and does every pod run the proxy and serve? What is wanting is put right first. Raises `not_yet`.

        A mount that is ACTIVE stays it while it is put right: the operator would take it apart, and refuse new bridges meanwhile.
        """
        mount = await self.access.get("gefyrabridgemount", self.gefyra_namespace, self.name) or {}
        wanting = await self.level(thorough=True)
        if not wanting:
            pods = await pods_of(self.access, self.namespace, self.target)
            waiting = [name_of(pod) for pod in pods if not (self._runs_proxy(pod) and is_ready(pod, self.container))]
            if waiting or not pods:
                wanting = [f"not ready yet: {', '.join(waiting) or 'no pod runs'}"]
        if not await self._shadow_serves(0.0):
            wanting.append(f"the shadow of {self.target} is not ready")
        if wanting and mount.get("state") != "ACTIVE":
            raise self.failures.not_yet("; ".join(wanting))
        if wanting:
            await self.tell("Not complete", "; ".join(wanting), "Warning")
        return True

    # ------------------------------------------------------------------ the end

    async def uninstall(self) -> None:
        """Give the pods their own image back, by a rollout, a lone pod by a patch; when none leads to the shadow any more, delete it."""
        self.known.ending = True
        try:
            async with self.known.work:
                await self._uninstall()
        finally:
            self.known.ending = False
            self.known.runs.clear()

    async def _uninstall(self) -> None:
        kind, _, name = self._kind_and_place()
        workload = await self.access.get(*self._kind_and_place())
        if workload is not None:
            every = await pods_of(self.access, self.namespace, self.target)
            pods = [pod for pod in every if self._runs_proxy(pod)]
            if pods:
                await self._lead_elsewhere(every, to_shadow=True)
            if kind == "Pod":
                for pod in pods:
                    await self._give_back(pod)
            elif pods:
                stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                annotations = {"kubectl.kubernetes.io/restartedAt": stamp}
                await self.access.patch(kind, self.namespace, name, {"spec": {"template": {"metadata": {"annotations": annotations}}}})
            await self._left({name_of(pod): run_of(pod, self.container) for pod in pods})
            await self._sleep(SETTLED)
        if await self.detour.end():
            await self._sleep(ROUTED)
        await self.access.delete("HorizontalPodAutoscaler", self.namespace, clone.short(name))
        for hpa in await self._scalers({"kind": kind, "metadata": {"name": clone.short(name)}}):
            await self.access.delete("HorizontalPodAutoscaler", self.namespace, name_of(hpa))
        await self.access.delete(kind, self.namespace, clone.short(name))
        await self.access.delete("Service", self.namespace, clone.service_name(name, self.container))
        await self._forget_originals()

    async def _left(self, before: Mapping[str, str]) -> None:
        """Wait until no pod runs the proxy, and a lone pod serves again. before: the runs of the containers that are to end, by pod."""

        async def look() -> bool | None:
            workload = await self.access.get(*self._kind_and_place())
            if workload is None:
                return True
            workload = {"kind": self._kind_and_place()[0], **workload}
            pods = await pods_of(self.access, self.namespace, self.target)
            if workload["kind"] == "Pod" and any(before.get(name_of(pod)) == run_of(pod, self.container) for pod in pods):
                return None  # its status shows the proxy still
            served = workload["kind"] != "Pod" or all(map(self._serves, pods))
            return True if served and clone.is_rolled_out(workload) and not any(map(self._runs_proxy, pods)) else None

        deadline = time.monotonic() + LEAVING
        while await look() is None:
            if time.monotonic() > deadline:
                text = f"{self.target} does not run its own image everywhere after {LEAVING:g} s: its shadow is deleted all the same"
                await self.tell("Not rolled out", text, "Warning")
                return
            await asyncio.sleep(self.pause)

    async def _give_back(self, pod: Object) -> None:
        """A lone pod's own image, and nothing of ours for a later mount to begin with."""
        kept = await self.access.get("ConfigMap", self.gefyra_namespace, ORIGINALS) or {}
        original = (kept.get("data") or {}).get(f"{self.namespace}-{name_of(pod)}-{self.container}")
        if original:
            await self._patch_image(name_of(pod), str(json.loads(original)["image"]))
            await self.access.patch("Pod", self.namespace, name_of(pod), {"metadata": {"labels": dict.fromkeys(self.detour.bridged)}})

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
            if name_of(other) != own and _same_place(other, kind, name, namespace, container):
                reasons.append(f"container {container!r} of {kind} {name} is mounted already, by {name_of(other)!r}")
        self._refuse(reasons)

    def _runs_proxy(self, pod: Object) -> bool:
        """Is the image in its container ours?"""
        return any(one["name"] == self.container and one.get("image") == self.image for one in pod["spec"]["containers"])


def _uid(pod: Object) -> str:
    return str(pod["metadata"].get("uid") or name_of(pod))


def _says_ready(pod: Object | None) -> bool:
    conditions = ((pod or {}).get("status") or {}).get("conditions") or []
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _same_place(mount: Object, kind: str, name: str, namespace: str, container: str) -> bool:
    """Does a mount mean this container? `deploy/x` and `deployment/x` are one target."""
    try:
        place = clone.split_target(str(mount.get("target", "")))
    except ValueError:
        return False
    return (place, mount.get("targetNamespace"), mount.get("targetContainer")) == ((kind, name), namespace, container)
