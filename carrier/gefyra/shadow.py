"""The shadow of a mount's workload: the clone that serves everybody whose requests are nobody's, and how it keeps up with the workload.

One duplication id serves for the life of a mount: it is read back from the shadow, so preparing again changes nothing. What the shadow
was cloned from is written on it (`clone.MADE_OF`), so that one sees when the workload has become another.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from carrier.gefyra import clone
from carrier.gefyra.access import Access, Object, is_ready, name_of
from carrier.gefyra.certificates import Certificates
from carrier.gefyra.detour import Detour
from carrier.gefyra.known import Known
from carrier.gefyra.trouble import Trouble, of_events, of_pods, of_workload
from carrier.gefyra.wanted import Event, Failures, already_mounted, is_mount_of, tell

PATIENCE = 120.0
"""Seconds that a pod may take to restart with the proxy, and a shadow to be there."""
WAITED = 15.0
"""Seconds that the operator's state machine waits for a shadow before it is told that there is none yet."""
LOOK = 1.0
"""Seconds between two looks for what keeps a shadow from serving."""
SHADOW = "Shadow not ready"
ORIGINALS = "gefyra-carrier2-restore-configmap"
"""The ConfigMap that keeps what the proxy replaced: `<namespace>-<pod>-<container>` -> the container's image."""


class Gone(Exception):
    """The pod that is worked on ends, or the mount does."""


class Shadowed:
    """One mount: its shadow. target: such as "deploy/nginx"; parameter: of TLS; image: of the proxy; pause: seconds between two looks."""

    def __init__(
        self,
        access: Access,
        name: str,
        namespace: str,
        target: str,
        container: str,
        image: str,
        parameter: Mapping[str, Any] | None = None,
        event: Event | None = None,
        failures: Failures | None = None,
        gefyra_namespace: str = "gefyra",
        pause: float = 0.1,
        known: Known | None = None,
    ) -> None:
        self.access = access
        self.name = name
        self.namespace = namespace
        self.target = target
        self.container = container
        self.image = image
        self.certificates = Certificates(parameter, namespace)
        self.event = event
        self.failures = failures or Failures()
        self.gefyra_namespace = gefyra_namespace
        self.pause = pause
        self.known = known or Known()
        self.detour = Detour(access, namespace, name)

    async def tell(self, reason: str, message: str, type: str = "Normal") -> None:
        """Post an event of the mount."""
        await tell(self.event, reason, message, type)

    async def warn(self, reason: str, message: str, kind: str) -> None:
        """Post a warning, once for as long as its trouble is of the same kind."""
        if self.known.told.get(reason) != kind:
            self.known.told[reason] = kind
            await self.tell(reason, message, "Warning")

    # ------------------------------------------------------------------ the shadow

    async def prepare(self) -> None:
        """Make the shadow and its Service, or bring them to what the workload is by now. Raises `refused`: it cannot be cloned, or must
        not be."""
        async with self.known.work:
            workload = await self.access.get(*self._kind_and_place())
            if workload is None:
                self._refuse([self._missing()])
            if rival := await self._rival():
                self._refuse([rival])
            try:
                await self._prepare(await self._workload())
            except PermissionError as exc:
                raise self.failures.refused(str(exc)) from None

    async def _prepare(self, workload: Object) -> None:
        self._refuse(await self._refusals(workload))
        scalers = await self._scalers(workload)
        shadow = await self._shadow(workload)
        duplication = self._duplication(shadow) or str(uuid.uuid4())
        service = clone.service(workload, self.container, duplication)
        if service is not None:
            await self.access.apply(service)
        made = clone.cloned(await self._with_its_own_image(workload), duplication, bool(scalers))
        if shadow is None:
            await self.access.apply(made)
        elif not self._is_made_of(shadow, workload, scalers):
            if scalers and "replicas" in shadow.get("spec", {}):
                made["spec"]["replicas"] = shadow["spec"]["replicas"]
            _keep_selector(made, shadow)
            await self._replace(made)
        elif clone.MADE_OF not in (shadow["metadata"].get("annotations") or {}):  # the operator's own: it stays, and is known from now on
            note = {clone.MADE_OF: clone.hash_of(workload, bool(scalers))}
            await self.access.patch(shadow["kind"], self.namespace, name_of(shadow), {"metadata": {"annotations": note}})
        await self._scale_alike(workload, scalers)

    async def _scale_alike(self, workload: Object, scalers: list[Object]) -> None:
        """What scales the workload scales its shadow within the same limits, also when somebody changes them."""
        for made in [clone.scaler(hpa, workload) for hpa in scalers]:
            there = await self.access.get(made["kind"], self.namespace, name_of(made)) or {"metadata": {}}
            if (there["metadata"].get("annotations") or {}).get(clone.MADE_OF) != made["metadata"]["annotations"][clone.MADE_OF]:
                await self.access.apply(made)

    async def _replace(self, made: Object) -> None:
        """A shadow that cannot be changed into the new one, because other labels select its pods by now, say, makes way for it."""
        try:
            if made["kind"] == "Pod":
                raise ValueError("a pod cannot be changed")
            await self.access.replace(made)
        except ValueError:
            await self.access.delete(made["kind"], self.namespace, name_of(made))
            await self._until(lambda: self._is_gone(made["kind"], name_of(made)), f"{name_of(made)} does not end")
            await self.access.apply(made)

    async def _is_gone(self, kind: str, name: str) -> bool | None:
        return True if await self.access.get(kind, self.namespace, name) is None else None

    async def prepared(self) -> bool:
        """Is a pod of the shadow ready? A shadow that somebody has deleted is made again."""
        workload = await self._workload()
        shadow = await self._shadow(workload)
        if shadow is None:
            await self.prepare()
            return await self._duplicated_pods_ready
        return any(map(self._is_ready, await self._shadow_pods(shadow)))

    @property
    def _duplicated_pods_ready(self) -> Coroutine[Any, Any, bool]:
        """What the operator's state machine awaits before it installs: is the shadow there? It waits a while rather than say no."""
        return self._is_duplicated()

    async def _is_duplicated(self) -> bool:
        """Nobody but its owner's event says why the mount stays in PREPARING, in which a shadow is prepared once: whoever has changed the
        workload since, because its shadow could not start, is waited for here."""
        try:
            workload = await self.access.get(*self._kind_and_place())
            if workload is not None and clone.is_rolled_out(workload := {"kind": self._kind_and_place()[0], **workload}):
                async with self.known.work:
                    await self._prepare(workload)
            return await self._shadow_serves(WAITED) and await self._is_current()
        except (PermissionError, ValueError) as exc:
            await self.warn("Not prepared", str(exc), str(exc))
            return False

    async def _is_current(self) -> bool:
        """Is the shadow still made of what the workload is? One that was waited for may serve because the workload is another one by now,
        which has left it the room; to make it anew later would cost the requests that Services lead to it."""
        workload = await self._workload()
        shadow = await self._shadow(workload)
        return shadow is not None and self._is_made_of(shadow, workload, await self._scalers(workload))

    async def _shadow_serves(self, patience: float) -> bool:
        """Is the whole shadow what the workload is by now, and does it serve? Waits so many seconds for it, and tells what it waits for."""
        began = time.monotonic()
        looked = 0.0
        while True:
            workload = await self.access.get(*self._kind_and_place())
            if workload is None:
                await self.warn("Target missing", self._missing(), "missing")
                return False
            shadow = await self._shadow({"kind": self._kind_and_place()[0], **workload})
            if shadow is not None and clone.is_rolled_out(shadow) and any(map(self._is_ready, await self._shadow_pods(shadow))):
                self.known.told.pop(SHADOW, None)
                return True
            now = time.monotonic()
            over = now - began >= patience
            if patience and shadow is not None and (over or now - looked >= LOOK):
                looked = now
                trouble = await self._trouble(shadow, over)
                if trouble is not None and (trouble.lasts or over):
                    await self.warn(SHADOW, f"the shadow of {self.target} does not serve yet: {trouble.text}", trouble.kind)
            if over or self.known.ending:
                return False
            await asyncio.sleep(self.pause)

    async def _trouble(self, shadow: Object, late: bool) -> Trouble | None:
        """Why the shadow does not serve. late: what stands in no status is looked for in events, too."""
        pods = await self._shadow_pods(shadow)
        waiting = [pod for pod in pods if not self._is_ready(pod)]
        found = of_pods(waiting) or of_workload(shadow)
        if not late or (found is not None and found.lasts):
            return found
        kind, name = ("Pod", name_of(waiting[0])) if waiting else (shadow["kind"], name_of(shadow))
        return await of_events(self.access, self.namespace, kind, name) or found

    async def _shadow_pods(self, shadow: Object) -> list[Object]:
        return await self.access.list("Pod", self.namespace, {clone.DUPLICATION: self._duplication(shadow)})

    def _is_ready(self, pod: Object) -> bool:
        return is_ready(pod, self.container)

    async def _shadow(self, workload: Object) -> Object | None:
        found = await self.access.get(workload["kind"], self.namespace, clone.short(name_of(workload)))
        return None if found is None else {"kind": workload["kind"], **found}

    @staticmethod
    def _duplication(shadow: Object | None) -> str:
        """The id that the shadow has."""
        labels = (clone.template(shadow).get("metadata") or {}).get("labels") or {} if shadow is not None else {}
        return str(labels.get(clone.DUPLICATION) or "")

    @staticmethod
    def _is_made_of(shadow: Object, workload: Object, scalers: list[Object]) -> bool:
        made_of = (shadow["metadata"].get("annotations") or {}).get(clone.MADE_OF)
        if made_of is None:  # the operator's own provider made it, and says nothing: is it the same?
            return bool(clone.template(shadow)["spec"] == clone.template(workload)["spec"])
        return bool(made_of == clone.hash_of(workload, bool(scalers)))

    async def _scalers(self, workload: Object) -> list[Object]:
        if workload["kind"] == "Pod":
            return []
        found = await self.access.list("HorizontalPodAutoscaler", self.namespace, {})
        return [hpa for hpa in found if clone.scales(hpa, workload)]

    # ------------------------------------------------------------------ looking

    async def _until(self, look: Callable[[], Awaitable[Any]], otherwise: str, why: Callable[[], Awaitable[str]] | None = None) -> Any:
        """What `look` gives as soon as it gives something. Raises `not_yet` after PATIENCE. why: what else is to be said then."""
        deadline = time.monotonic() + PATIENCE
        while (found := await look()) is None:
            if time.monotonic() > deadline:
                reason = await why() if why is not None else ""
                raise self.failures.not_yet(f"{otherwise} after {PATIENCE:g} s{f': {reason}' if reason else ''}")
            await asyncio.sleep(self.pause)
        return found

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
            raise self.failures.not_yet(self._missing())
        return {"kind": kind, **workload}

    def _missing(self) -> str:
        kind, namespace, name = self._kind_and_place()
        return f"there is no {kind} {name} in namespace {namespace}"

    async def _with_its_own_image(self, workload: Object) -> Object:
        """A lone pod that runs the proxy is its own description no more: what its container ran is in what we kept."""
        described = clone.container(workload, self.container)
        if workload["kind"] != "Pod" or described is None or described.get("image") != self.image:
            return workload
        image = await self._original(name_of(workload))
        if image is None:
            self._refuse([f"pod {name_of(workload)} runs the proxy, and nobody knows what its container {self.container!r} ran before"])
        own = {**described, "image": image}
        containers = [own if one is described else one for one in workload["spec"]["containers"]]
        return {**workload, "spec": {**workload["spec"], "containers": containers}}

    async def _original(self, pod: str) -> str | None:
        """The image that the proxy replaced in a pod, as we kept it, or the operator's own provider."""
        kept = (await self.access.get("ConfigMap", self.gefyra_namespace, ORIGINALS) or {}).get("data") or {}
        for key in (f"{self.namespace}-{pod}-{self.container}", f"{self.namespace}-{pod}"):
            found = json.loads(kept.get(key) or "{}")
            image = (found.get("originalConfig") or found).get("image")
            if image and image != self.image:
                return str(image)
        return None

    async def _rival(self) -> str:
        """Why this mount is not the one of its workload, as a sentence; "": it is. Of two, it is the one that was made first."""
        mounts = await self.access.list("gefyrabridgemount", self.gefyra_namespace, {})
        own = next((_age(one) for one in mounts if name_of(one) == self.name), None)
        kind, _, name = self._kind_and_place()
        others = [one for one in mounts if name_of(one) != self.name and is_mount_of(one, kind, name, self.namespace)]
        first = min((one for one in others if own is None or _age(one) < own), key=_age, default=None)
        return "" if first is None else already_mounted(kind, name, first)

    def _kind_and_place(self) -> tuple[str, str, str]:
        kind, name = clone.split_target(self.target)
        return kind, self.namespace, name

    def _refuse(self, reasons: list[str]) -> None:
        if reasons:
            raise self.failures.refused("; ".join(reasons))


def _age(mount: Object) -> tuple[str, str]:
    """Orders mounts, the one that was made first before the others."""
    return str(mount["metadata"].get("creationTimestamp") or ""), name_of(mount)


def _keep_selector(made: Object, shadow: Object) -> None:
    """What selects a shadow's pods cannot be changed; the operator's own provider selects them without the duplication id."""
    there = ((shadow.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    labels = (clone.template(made).get("metadata") or {}).get("labels") or {}
    if there and there.items() <= labels.items():
        made["spec"]["selector"] = shadow["spec"]["selector"]
