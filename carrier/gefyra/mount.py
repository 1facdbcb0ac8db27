"""The bridge-mount provider: makes the shadow of a workload, and puts the proxy in the place of its container, pod by pod.

Only the image of a container in a live pod can be changed. Pods are patched one at a time: the next one's turn comes when this one runs the
proxy, has its configuration and is ready, so the workload always has pods that serve; how long a pod did not serve is measured and
told. One duplication id serves for the life of a mount: it is read back from the shadow, so preparing again changes nothing. A pod that is
new, or was rolled out anew, runs the app itself again: `ready` finds it and takes it up.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from carrier.errors import ConfigError
from carrier.gefyra import clone
from carrier.gefyra.access import Access, Answer, Fleet, Object, is_ready, name_of
from carrier.gefyra.format import read
from carrier.gefyra.provider import Failures, pods_of

ORIGINALS = "gefyra-carrier2-restore-configmap"
"""The ConfigMap that keeps what the proxy replaced: `<namespace>-<pod>-<container>` -> the container's image."""
PATIENCE = 120.0
"""Seconds that a pod may take to restart with the proxy."""


class CarrierMount:
    """One mount. target: such as "deploy/nginx"; parameter: `{tls: ...}`; image: of the proxy; pause: seconds between two looks."""

    provider_type = "carrier2mount"

    def __init__(
        self,
        access: Access,
        name: str,
        namespace: str,
        target: str,
        container: str,
        image: str,
        parameter: Mapping[str, Any] | None = None,
        event: Callable[[str, str, str], object] = lambda reason, message, type: None,
        failures: Failures | None = None,
        gefyra_namespace: str = "gefyra",
        pause: float = 0.2,
    ) -> None:
        self.access = access
        self.name = name
        self.namespace = namespace
        self.target = target
        self.container = container
        self.image = image
        self.parameter = parameter or {}
        self.event = event
        self.failures = failures or Failures()
        self.gefyra_namespace = gefyra_namespace
        self.pause = pause

    # ------------------------------------------------------------------ the shadow

    async def prepare(self) -> None:
        """Make the shadow and its Service, or bring them to what the workload is by now. Raises `refused` when it cannot be cloned."""
        workload = await self._workload()
        self._refuse(await self._refusals(workload))
        duplication = await self._duplication(workload)
        service = clone.service(workload, self.container, duplication)
        if service is not None:
            await self.access.apply(service)
        await self.access.apply(clone.cloned(workload, duplication))

    async def prepared(self) -> bool:
        """Is a pod of the shadow ready?"""
        workload = await self._workload()
        duplication = await self._duplication(workload, "")
        if not duplication:
            return False
        pods = await self.access.list("Pod", self.namespace, {clone.DUPLICATION: duplication})
        return any(is_ready(pod, self.container) for pod in pods)

    async def _duplication(self, workload: Object, new: str | None = None) -> str:
        """The id that the shadow has; a new one when there is no shadow."""
        shadow = await self.access.get(workload["kind"], self.namespace, clone.short(name_of(workload)))
        labels = (clone.template(shadow).get("metadata") or {}).get("labels") or {} if shadow is not None else {}
        return str(labels.get(clone.DUPLICATION) or (str(uuid.uuid4()) if new is None else new))

    # ------------------------------------------------------------------ the proxy in the pods

    async def install(self) -> None:
        """Put the proxy into every pod that does not run it, one after the other."""
        workload = await self._workload()
        for pod in await pods_of(self.access, self.namespace, self.target):
            if not self._runs_proxy(pod):
                await self._install(workload, pod)

    async def _install(self, workload: Object, pod: Object) -> None:
        """One pod: patch it, wait until the proxy answers, configure it, wait until it is ready. Raises `not_yet`."""
        name = name_of(pod)
        own = next((one for one in pod["spec"]["containers"] if one["name"] == self.container), None)
        if own is None:
            self._refuse([f"pod {name} has no container {self.container!r}"])
        assert own is not None
        await self._keep(name, own["image"])
        began = time.monotonic()
        await self._patch_image(name, self.image)
        config = self.config(workload)
        answer = await self._until(name, lambda: self._configure(name, config), "its proxy does not take its configuration")
        served = time.monotonic()
        await self._until(name, lambda: self._is_ready(name), "it is not ready")
        text = f"pod {name} runs the proxy at revision {answer.revision}; it did not serve for {served - began:.1f} s"
        self.event("Proxy installed", text, "Normal")

    async def _configure(self, name: str, config: Object) -> Answer | None:
        pod = await self.access.get("Pod", self.namespace, name)
        if pod is None or not self._runs_proxy(pod):
            return None
        answer = await Fleet(self.access, [pod], self.container).one(pod, "POST", "config", config)
        if answer.status >= 400 and answer.status < 500:
            self._refuse([f"pod {name} refuses its configuration: {answer.reason}"])
        return answer if answer.good else None

    async def _is_ready(self, name: str) -> bool | None:
        pod = await self.access.get("Pod", self.namespace, name)
        return True if pod is not None and is_ready(pod, self.container) else None

    async def _until(self, name: str, look: Callable[[], Any], otherwise: str) -> Any:
        """What `look` gives as soon as it gives something. Raises `not_yet` after PATIENCE seconds."""
        deadline = time.monotonic() + PATIENCE
        while (found := await look()) is None:
            if time.monotonic() > deadline:
                raise self.failures.not_yet(f"pod {name}: {otherwise} after {PATIENCE:g} s")
            await asyncio.sleep(self.pause)
        return found

    async def _patch_image(self, pod: str, image: str) -> None:
        await self.access.patch("Pod", self.namespace, pod, {"spec": {"containers": [{"name": self.container, "image": image}]}})

    async def _keep(self, pod: str, image: str) -> None:
        """Remember what the proxy replaces."""
        data = {f"{self.namespace}-{pod}-{self.container}": json.dumps({"image": image})}
        metadata = {"name": ORIGINALS, "namespace": self.gefyra_namespace}
        await self.access.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})

    def config(self, workload: Object) -> Object:
        """The configuration of a pod's proxy without bridges, as `POST /config` takes it. Raises `refused`."""
        try:
            return read(clone.base_config(workload, self.container, self.parameter.get("tls")))
        except ConfigError as error:
            raise self.failures.refused(error.detail) from None

    async def ready(self) -> bool:
        """Is the shadow there, and does every pod run the proxy and serve? Those that run the app again are taken up. Raises `not_yet`."""
        if not await self.prepared():
            raise self.failures.not_yet(f"the shadow of {self.target} is not ready")
        pods = await pods_of(self.access, self.namespace, self.target)
        fresh = [name_of(pod) for pod in pods if not self._runs_proxy(pod)]
        if fresh:
            self.event("Pods replaced", f"{', '.join(fresh)}: new since the mount was made, and taken up now", "Normal")
            await self.install()
            pods = await pods_of(self.access, self.namespace, self.target)
        waiting = [name_of(pod) for pod in pods if not is_ready(pod, self.container)]
        if waiting or not pods:
            raise self.failures.not_yet(f"not ready yet: {', '.join(waiting) or 'no pod runs'}")
        answers = await Fleet(self.access, pods, self.container).call("GET", "listeners")
        workload = await self._workload()
        expected = {str(listener["name"]) for listener in self.config(workload)["listeners"]}
        for pod, answer in zip(pods, answers, strict=True):
            names = {str(one.get("name")) for one in answer.body} if answer.good and isinstance(answer.body, list) else set()
            if not expected <= names:  # its process was restarted, and knows nothing
                await self._until(name_of(pod), partial(self._configure, name_of(pod), self.config(workload)), "no configuration")
                self.event("Configuration restored", f"pod {name_of(pod)} had lost its configuration: it has it now", "Normal")
        return True

    # ------------------------------------------------------------------ the end

    async def uninstall(self) -> None:
        """Delete the shadow and its Service, and give the pods their own image back: by a rollout, a lone pod by a patch."""
        workload = await self.access.get(*self._kind_and_place())
        if workload is None:
            return
        kind, name = workload["kind"], name_of(workload)
        if kind == "Pod":
            kept = await self.access.get("ConfigMap", self.gefyra_namespace, ORIGINALS) or {}
            original = (kept.get("data") or {}).get(f"{self.namespace}-{name}-{self.container}")
            if original:
                await self._patch_image(name, str(json.loads(original)["image"]))
        else:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            annotations = {"kubectl.kubernetes.io/restartedAt": stamp}
            await self.access.patch(kind, self.namespace, name, {"spec": {"template": {"metadata": {"annotations": annotations}}}})
        await self.access.delete("Service", self.namespace, clone.service_name(name, self.container))
        await self.access.delete(kind, self.namespace, clone.short(name))

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
        reasons = await self._refusals({"kind": kind, **workload}, container)
        own = bridge_request.get("metadata", {}).get("name")
        for other in await self.access.list("gefyrabridgemount", self.gefyra_namespace, {}):
            if name_of(other) != own and _same_place(other, kind, name, namespace, container):
                reasons.append(f"container {container!r} of {kind} {name} is mounted already, by {name_of(other)!r}")
        self._refuse(reasons)

    async def _refusals(self, workload: Object, container: str | None = None) -> list[str]:
        volumes = clone.template(workload)["spec"].get("volumes") or []
        names = [volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume]
        namespace = workload["metadata"].get("namespace") or self.namespace
        claims = [await self.access.get("PersistentVolumeClaim", namespace, name) for name in names]
        return clone.refusals(workload, container or self.container, [claim for claim in claims if claim is not None])

    async def _workload(self) -> Object:
        kind, namespace, name = self._kind_and_place()
        workload = await self.access.get(kind, namespace, name)
        if workload is None:
            raise self.failures.not_yet(f"there is no {kind} {name} in namespace {namespace}")
        return {"kind": kind, **workload}

    def _kind_and_place(self) -> tuple[str, str, str]:
        kind, name = clone.split_target(self.target)
        return kind, self.namespace, name

    def _runs_proxy(self, pod: Object) -> bool:
        """Is the image in its container ours?"""
        return any(one["name"] == self.container and one.get("image") == self.image for one in pod["spec"]["containers"])

    def _refuse(self, reasons: list[str]) -> None:
        if reasons:
            raise self.failures.refused("; ".join(reasons))


def _same_place(mount: Object, kind: str, name: str, namespace: str, container: str) -> bool:
    """Does a mount mean this container? `deploy/x` and `deployment/x` are one target."""
    try:
        place = clone.split_target(str(mount.get("target", "")))
    except ValueError:
        return False
    return (place, mount.get("targetNamespace"), mount.get("targetContainer")) == ((kind, name), namespace, container)
