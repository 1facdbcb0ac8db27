"""A cluster small enough for a test: objects in a dict, pods whose proxies are real processes, each in a network namespace of its own.

A pod's container runs "the app" until its image is the proxy's; then a daemon starts as the image's entry does, and what `carrierctl` does
in a pod is done to its socket.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import carrier.cli.carrierctl
from carrier.gefyra.access import Answer, name_of
from carrier.gefyra.known import Known
from carrier.gefyra.kubernetes import answer_of
from tests import forked

IMAGE = "proxy:1"


def merge(into: dict[str, Any], patch: dict[str, Any]) -> None:
    """A merge patch; lists of named things are merged by their names."""
    for key, value in patch.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        elif isinstance(value, list) and value and isinstance(value[0], dict) and "name" in value[0] and isinstance(into.get(key), list):
            for one in value:
                there = next((x for x in into[key] if x.get("name") == one["name"]), None)
                merge(there, one) if there is not None else into[key].append(one)
        else:
            into[key] = copy.deepcopy(value)


class World:
    """See the module. events: what was told; calls: (pod, method, path) of every exec."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.events: list[tuple[str, str, str]] = []
        self.calls: list[tuple[str, str, str]] = []
        self.asked: list[str] = []
        """Kinds that were read, one for each call of the API server."""
        self.patched: list[str] = []
        self.taken_out: list[str] = []
        self.known = Known()
        self.processes: dict[str, forked.Popen] = {}
        self.least_ready: list[int] = []
        """How many pods were ready at each patch of one."""

    def add(self, kind: str, name: str, namespace: str = "default", labels: dict[str, str] | None = None, **rest: Any) -> dict[str, Any]:
        found = {"kind": kind, "metadata": {"name": name, "namespace": namespace, "labels": dict(labels or {})}, **rest}
        self.objects[kind, namespace, name] = found
        return found

    async def tell(self, reason: str, message: str, type: str = "Normal") -> None:
        """The operator's function: a coroutine function."""
        self.events.append((reason, message, type))

    def add_pod(self, name: str, labels: dict[str, str], container: dict[str, Any]) -> dict[str, Any]:
        status = {"phase": "Running", "containerStatuses": [{"name": container["name"], "ready": True, "restartCount": 0}]}
        return self.add("Pod", name, labels=labels, spec={"containers": [copy.deepcopy(container)]}, status=status)

    # -- Access

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        self.asked.append(kind)
        return copy.deepcopy(self.objects.get((kind, namespace, name)))

    async def list(self, kind: str, namespace: str, labels: dict[str, str], fields: dict[str, str] | None = None) -> list[dict[str, Any]]:
        self.asked.append(kind)
        found = [obj for (k, n, _), obj in self.objects.items() if (k, n) == (kind, namespace)]
        return copy.deepcopy([obj for obj in found if labels.items() <= (obj["metadata"].get("labels") or {}).items()])

    async def apply(self, obj: dict[str, Any]) -> None:
        key = obj["kind"], obj["metadata"].get("namespace", "default"), name_of(obj)
        if key in self.objects:
            merge(self.objects[key], obj)
        else:
            self.objects[key] = copy.deepcopy(obj)

    async def patch(self, kind: str, namespace: str, name: str, patch: dict[str, Any]) -> None:
        if kind == "Pod" and "spec" in patch:
            self.patched.append(name)
            pods = [obj for (k, _, _), obj in self.objects.items() if k == "Pod"]
            self.least_ready.append(sum(obj["status"]["containerStatuses"][0]["ready"] for obj in pods))
        merge(self.objects[kind, namespace, name], patch)
        if (
            kind == "Pod"
            and "spec" in patch
            and any(one["image"] == IMAGE for one in self.objects[kind, namespace, name]["spec"]["containers"])
        ):
            self.readiness(name, False)
            self.objects[kind, namespace, name]["status"]["containerStatuses"][0]["restartCount"] += 1
            await self.start(name)

    async def replace(self, obj: dict[str, Any]) -> None:
        self.objects[obj["kind"], obj["metadata"].get("namespace", "default"), name_of(obj)] = copy.deepcopy(obj)

    async def patch_status(self, kind: str, namespace: str, name: str, patch: dict[str, Any]) -> None:
        self.taken_out.append(name)

    async def event(self, regarding: dict[str, Any], reason: str, note: str, type: str = "Normal") -> None:
        self.events.append((reason, note, type))

    def watch(self, kind: str, namespace: str, changed: Callable[[], object]) -> Callable[[], object]:
        return lambda: None

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        self.objects.pop((kind, namespace, name), None)

    async def call(self, pod: dict[str, Any], container: str, method: str, path: str, body: object = None) -> Answer:
        name = name_of(pod)
        self.calls.append((name, method, path))
        data = b"" if body is None else json.dumps(body).encode()
        try:
            status, revision, text = await asyncio.to_thread(carrier.cli.carrierctl.call, self.socket(name), method, path, data)
        except (OSError, ValueError) as exc:
            raise OSError(str(exc)) from exc
        answer = answer_of(name, status, revision, text)
        if (method, path) == ("PUT", "mount") and answer.good:
            self.readiness(name, True)
        return answer

    def readiness(self, pod: str, ready: bool) -> None:
        """What kubelet finds: a pod serves again when its proxy is configured."""
        self.objects["Pod", "default", pod]["status"]["containerStatuses"][0]["ready"] = ready

    # -- processes

    def socket(self, pod: str) -> str:
        return str(self.folder / pod / "carrier2-api.sock")

    async def start(self, pod: str) -> None:
        """The container restarts with the proxy."""
        await self.stop(pod)
        shutil.rmtree(self.folder / pod, ignore_errors=True)
        (self.folder / pod).mkdir()
        environment = {**os.environ, "CARRIER_RUN_DIR": str(self.folder / pod)}
        command = [sys.executable, "-m", "carrier.gefyra"]
        self.processes[pod] = forked.Popen(command, alone=True, env=environment, stderr=subprocess.DEVNULL)

    async def stop(self, pod: str) -> None:
        process = self.processes.pop(pod, None)
        if process is not None:
            process.kill()
            process.wait()
            Path(self.socket(pod)).unlink(missing_ok=True)

    async def close(self) -> None:
        for pod in list(self.processes):
            await self.stop(pod)
