"""`Access` by the `kubernetes` package, which the operator has anyway; imported when it is made, not before.

Objects go through the package's dynamic client. A call of the REST API is one exec of `carrierctl` in the pod, which the role allows
(pods/exec) and which needs no open port and no secret: its output is the status and the revision, then the answer's body. The package is
synchronous, so each call is made in a thread.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from carrier.gefyra.access import Answer, Object, name_of

VERSIONS = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "Pod": "v1",
    "Service": "v1",
    "ConfigMap": "v1",
    "PersistentVolumeClaim": "v1",
    "gefyrabridge": "gefyra.dev/v1",
    "gefyrabridgemount": "gefyra.dev/v1",
    "gefyraclient": "gefyra.dev/v1",
}
TIMEOUT = 10
"""Seconds of one exec."""


class KubernetesAccess:
    """A cluster, by the package's configuration in force. run: makes an exec (tests hand in their own)."""

    def __init__(self, run: Callable[[str, str, str, list[str], bytes], bytes] | None = None, dynamic: Any = None) -> None:
        if dynamic is None:
            from kubernetes import client
            from kubernetes import dynamic as package

            dynamic = package.DynamicClient(client.ApiClient())
        self.dynamic = dynamic
        self.run = run or execute

    def _resource(self, kind: str) -> Any:
        return self.dynamic.resources.get(api_version=VERSIONS[kind], kind=kind)

    async def _ask(self, call: Callable[..., Any], **arguments: Any) -> Any:
        """The object that a call gives, as a dict; None: there is none. Raises PermissionError."""
        try:
            found = await asyncio.to_thread(call, **arguments)
        except Exception as exc:
            status = getattr(exc, "status", None)
            if status == 404:
                return None
            if status in (401, 403):
                raise PermissionError(f"the role of the operator does not allow it: {exc}") from exc
            raise
        return found.to_dict() if hasattr(found, "to_dict") else found

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        found: Object | None = await self._ask(self._resource(kind).get, name=name, namespace=namespace)
        return found

    async def list(self, kind: str, namespace: str, labels: Mapping[str, str]) -> list[Object]:
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        found = await self._ask(self._resource(kind).get, namespace=namespace, label_selector=selector)
        return list(found["items"]) if found else []

    async def apply(self, obj: Object) -> None:
        kind, namespace, name = obj["kind"], obj["metadata"].get("namespace", "default"), name_of(obj)
        body = {"apiVersion": VERSIONS[kind], **obj}
        if await self.get(kind, namespace, name) is None:
            await self._ask(self._resource(kind).create, body=body, namespace=namespace)
        else:
            await self.patch(kind, namespace, name, body)

    async def patch(self, kind: str, namespace: str, name: str, patch: Object) -> None:
        content = "application/merge-patch+json" if kind.startswith("gefyra") else "application/strategic-merge-patch+json"
        await self._ask(self._resource(kind).patch, body=patch, name=name, namespace=namespace, content_type=content)

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        await self._ask(self._resource(kind).delete, name=name, namespace=namespace)

    async def call(self, pod: Object, container: str, method: str, path: str, body: object = None) -> Answer:
        name, namespace = name_of(pod), pod["metadata"].get("namespace", "default")
        command = ["carrierctl", "-i", method, path]
        if body is not None:
            command.append(json.dumps(body))
        try:
            out = await asyncio.to_thread(self.run, name, namespace, container, command, b"")
        except OSError:
            raise
        except Exception as exc:  # whatever the package, or the kubelet, says
            raise OSError(f"pod {name}: {exc}") from exc
        return parse(name, out)


def parse(pod: str, out: bytes) -> Answer:
    """What `carrierctl -i` has printed. Raises OSError when nobody answered."""
    first, _, rest = out.decode("utf-8", "replace").partition("\n")
    status, _, revision = first.partition(" ")
    if not status.isdigit():
        raise OSError(f"pod {pod}: {out[:200].decode('utf-8', 'replace').strip() or 'carrierctl said nothing'}")
    try:
        body = json.loads(rest) if rest.strip() else None
    except ValueError:
        body = rest.strip()
    return Answer(pod, int(status), int(revision) if revision.isdigit() else 0, body)


def execute(pod: str, namespace: str, container: str, command: list[str], _stdin: bytes) -> bytes:
    """What a command in a container prints. Raises what the package raises."""
    from kubernetes import client, stream

    answer = stream.stream(
        client.CoreV1Api().connect_get_namespaced_pod_exec,
        pod,
        namespace,
        container=container,
        command=command,
        stderr=True,
        stdin=False,
        stdout=True,
        tty=False,
        _preload_content=False,
    )
    answer.run_forever(timeout=TIMEOUT)
    out = answer.read_stdout() + answer.read_stderr()
    answer.close()
    return out.encode() if isinstance(out, str) else bytes(out)
