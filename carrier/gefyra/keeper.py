"""Watches over a mount between the operator's own looks, of which there is one a minute.

The cluster says when a pod, or a workload, of the mount's namespace changes; then everything is brought to what it should be
(`CarrierMount.level`), which costs a few reads when nothing is wanting. It says when a bridge changes, too: that costs two. So a pod that a
rollout has made is bridged as soon as the rollout is over, a container that was restarted is looked after at once, and rules that somebody
edits are in force. And it tells the owner of each bridge what becomes of her requests (carrier/gefyra/report.py).

One keeper a mount lives in the operator's process, from when the operator first asks for the mount's provider until the mount's object
is deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from carrier.gefyra.access import Object, name_of
from carrier.gefyra.certificates import Certificates
from carrier.gefyra.mount import CarrierMount
from carrier.gefyra.report import Reports
from carrier.gefyra.wanted import MOUNT_LABEL, asks

LOOK = 30.0
"""Seconds between two looks when nobody says that something has changed."""
QUIET = 0.3
"""Seconds between two looks at least."""
AGAIN = 3.0
"""Seconds until the next look after one that left something wanting."""
BACKOFF = 30.0
"""Seconds at most until the next look, when looks go wrong."""


class Keeper:
    """See the module. mount: looks, and has the events posted."""

    def __init__(self, mount: CarrierMount) -> None:
        self.mount = mount
        self.access = mount.access
        self.known = mount.known
        self.reports = Reports(mount)
        self.changed = asyncio.Event()
        self.watches: list[Callable[[], object]] = []
        self.task: asyncio.Task[None] | None = None
        self.failed = 0
        self.next = 0.0
        """When pods are looked at although nothing of them has changed (monotonic seconds)."""

    @property
    def ended(self) -> bool:
        return self.task is not None and self.task.done()

    def start(self) -> None:
        """Begin, in the loop that runs."""
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Watch no more; what is under way is dropped."""
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task

    async def _run(self) -> None:
        kind, namespace, _ = self.mount._kind_and_place()
        try:
            gefyra = self.mount.gefyra_namespace
            for one, where in ((kind, namespace), ("Pod", namespace)):
                self.watches.append(self.access.watch(one, where, self._pods_changed))
            self.watches.append(self.access.watch("gefyrabridge", gefyra, self._bridges_changed))
            self.watches.append(self.access.watch("gefyrabridgemount", gefyra, self.changed.set))
            while True:
                self.changed.clear()
                mount = await self._object()
                if mount is None:
                    return
                wait = await self._look(mount)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self.changed.wait()
                await asyncio.sleep(QUIET)
        finally:
            for end in self.watches:
                end()

    def _pods_changed(self) -> None:
        self.known.pods.forget()
        self.known.uneven = True
        self.changed.set()

    def _bridges_changed(self) -> None:
        if not self.reports.busy:  # else each changes a dozen times, and whoever makes them waits for the same API server
            self.changed.set()

    async def _object(self) -> Object | None:
        """The mount's object; None: it is deleted, or about to be. One that cannot be asked for is waited for."""
        while True:
            try:
                mount = await self.access.get("gefyrabridgemount", self.mount.gefyra_namespace, self.mount.name)
            except Exception:
                await asyncio.sleep(AGAIN)
                continue
            return None if mount is None or mount["metadata"].get("deletionTimestamp") else mount

    async def _look(self, mount: Object) -> float:
        """Once; returns the seconds until the next look. A mount that was never ACTIVE is still the operator's to make."""
        if "ACTIVE" not in (mount.get("stateTransitions") or {}) or mount.get("state") in ("MISSING", "TERMINATED"):
            return 1.0
        try:
            bridges = await self._bridges()
            self._read_again(mount, bridges)
            now = time.monotonic()
            if self.known.uneven or now >= self.next:
                self.known.uneven = False
                self.next = now + (AGAIN if await self.mount.level() else LOOK)
            again = await self.reports.look(time.monotonic(), bridges)
            self.failed = 0
        except Exception as exc:  # whatever it is, the mount is not to be left alone for it
            self.failed += 1
            self.known.uneven = True
            if self.failed == 3:
                await self.mount.tell("Not complete", f"{type(exc).__name__}: {exc}", "Warning")
            return min(BACKOFF, AGAIN * self.failed)
        return max(0.0, min(self.next - time.monotonic(), again))

    async def _bridges(self) -> list[Object]:
        """The objects of the mount's bridges, for its providers as well."""
        began = time.monotonic()
        found = await self.access.list("gefyrabridge", self.mount.gefyra_namespace, {MOUNT_LABEL: self.mount.name})
        self.known.bridges.put(found, began)
        return found

    def _read_again(self, mount: Object, bridges: list[Object]) -> None:
        """Has somebody edited what a bridge, or the mount, asks for? Then every pod is given all it should have."""
        asked = {name_of(one): asks(one) for one in bridges}
        edited = any(self.known.asked.get(name, now) != now for name, now in asked.items())
        self.known.asked = asked
        parameter = mount.get("providerParameter") or {}
        if parameter != self.mount.certificates.parameter:
            self.mount.certificates = Certificates(parameter, self.mount.namespace)
            edited = True
        if edited:
            self.known.look_again()
