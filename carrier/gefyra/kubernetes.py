"""`Access` by the `kubernetes` package, which the operator has anyway; imported when it is made, not before.

Objects are read and written as JSON, by the package's configuration and connections. Calls of the REST API go through an exec of
`carrierctl -l` in the pod, which the role allows (pods/exec) and which needs no open port and no secret. They go to its input, not into its
arguments: those stand in the API server's log, and a body may hold keys (carrier/gefyra/lines.py).

The package is synchronous, so each call is made in a thread, of which there are enough for many pods at once.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from carrier.gefyra.access import Answer, Object, name_of
from carrier.gefyra.lines import Exec, Line, Lines

KINDS = {
    "Deployment": ("/apis/apps/v1", "deployments"),
    "StatefulSet": ("/apis/apps/v1", "statefulsets"),
    "Pod": ("/api/v1", "pods"),
    "Service": ("/api/v1", "services"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Secret": ("/api/v1", "secrets"),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    "HorizontalPodAutoscaler": ("/apis/autoscaling/v2", "horizontalpodautoscalers"),
    "Event": ("/apis/events.k8s.io/v1", "events"),
    "gefyrabridge": ("/apis/gefyra.dev/v1", "gefyrabridges"),
    "gefyrabridgemount": ("/apis/gefyra.dev/v1", "gefyrabridgemounts"),
    "gefyraclient": ("/apis/gefyra.dev/v1", "gefyraclients"),
}
"""Kind -> (where its API is, what it is called there)."""
TIMEOUT = 10
"""Seconds of one call, and of one exec."""
WATCHED = 240
"""Seconds of one watch; then another one begins."""
THREADS = 24
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"


class KubernetesAccess:
    """A cluster, by the package's configuration in force. open_line: makes an exec, and ask: a call (tests hand in their own)."""

    def __init__(
        self,
        open_line: Callable[[str, str, str], Line] | None = None,
        ask: Callable[[str, str, Mapping[str, str], object, str], Any] | None = None,
    ) -> None:
        self.lines = Lines(open_line or Exec)
        self.ask = ask or Client().ask
        self.threads = ThreadPoolExecutor(THREADS, "carrier")

    async def _ask(self, method: str, path: str, body: object = None, content: str = "application/json", **query: str) -> Any:
        """The object that a call gives; None: there is none. Raises PermissionError, ValueError (it is not allowed to be that)."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.threads, self.ask, method, path, query, body, content)
        except Exception as exc:
            status = getattr(exc, "status", None)
            if status == 404:
                return None
            if status in (401, 403):
                reason = _reason(exc)
                whose = (
                    "a quota" if "exceeded quota" in reason else "the role of the operator" if " cannot " in reason else "the API server"
                )
                raise PermissionError(f"{whose} does not allow it: {method} {path}: {reason}") from exc
            if status == 422:
                raise ValueError(_reason(exc)) from exc
            raise

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        found: Object | None = await self._ask("GET", _path(kind, namespace, name))
        return found

    async def list(self, kind: str, namespace: str, labels: Mapping[str, str], fields: Mapping[str, str] = {}) -> list[Object]:
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        query = {one: ",".join(f"{name}={value}" for name, value in wanted.items()) for one, wanted in selectors.items() if wanted}
        found = await self._ask("GET", _path(kind, namespace), **query)
        return list(found["items"]) if found else []

    async def apply(self, obj: Object) -> None:
        kind, namespace, name = _place(obj)
        if await self.get(kind, namespace, name) is not None:
            await self.patch(kind, namespace, name, obj)
            return
        try:
            await self._ask("POST", _path(kind, namespace), _with_version(obj))
        except Exception as exc:
            if getattr(exc, "status", None) != 409:
                raise
            await self.patch(kind, namespace, name, obj)  # somebody was quicker

    async def replace(self, obj: Object) -> None:
        kind, namespace, name = _place(obj)
        await self._ask("PUT", _path(kind, namespace, name), _with_version(obj))

    async def patch(self, kind: str, namespace: str, name: str, patch: Object) -> None:
        await self._ask("PATCH", _path(kind, namespace, name), patch, MERGE if kind.startswith("gefyra") else STRATEGIC)

    async def patch_status(self, kind: str, namespace: str, name: str, patch: Object) -> None:
        try:
            await self._ask("PATCH", f"{_path(kind, namespace, name)}/status", patch, STRATEGIC)
        except Exception as exc:
            if getattr(exc, "status", None) != 409:
                raise  # else it is another one by now than the patch was meant for

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        await self._ask("DELETE", _path(kind, namespace, name))

    async def event(self, regarding: Object, reason: str, note: str, type: str = "Normal") -> None:
        metadata = regarding["metadata"]
        namespace = metadata.get("namespace", "default")
        about = {name: metadata[name] for name in ("name", "namespace", "uid", "resourceVersion") if name in metadata}
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{name_of(regarding)}-{uuid.uuid4()}", "namespace": namespace},
            "reason": reason,
            "note": note[:1024],
            "type": type,
            "action": "Carrier2",
            "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "reportingController": "gefyra-operator",
            "reportingInstance": "gefyra-operator",
            "regarding": {"apiVersion": regarding.get("apiVersion", "gefyra.dev/v1"), "kind": regarding["kind"], **about},
        }
        try:
            await self._ask("POST", _path("Event", namespace), body)
        except Exception:
            return

    def watch(self, kind: str, namespace: str, changed: Callable[[], object]) -> Callable[[], object]:
        loop = asyncio.get_running_loop()
        ended = threading.Event()

        def tell() -> None:
            if not ended.is_set():
                loop.call_soon_threadsafe(changed)

        threading.Thread(target=_watch, args=(_path(kind, namespace), tell, ended), name=f"watch-{kind}", daemon=True).start()
        return ended.set

    async def call(self, pod: Object, container: str, method: str, path: str, body: object = None) -> Answer:
        name, where = name_of(pod), (pod["metadata"].get("namespace", "default"), name_of(pod), container)
        data = b"" if body is None else json.dumps(body).encode()
        loop = asyncio.get_running_loop()
        try:
            status, revision, text = await loop.run_in_executor(self.threads, self.lines.call, where, method, path, data)
        except Exception as exc:  # whatever the package, or the kubelet, says
            raise OSError(f"pod {name}: {_reason(exc)}") from exc
        return answer_of(name, status, revision, text)


def _path(kind: str, namespace: str, name: str = "") -> str:
    root, plural = KINDS[kind]
    return f"{root}/namespaces/{quote(namespace)}/{plural}" + (f"/{quote(name)}" if name else "")


def _place(obj: Object) -> tuple[str, str, str]:
    return obj["kind"], obj["metadata"].get("namespace", "default"), name_of(obj)


def _with_version(obj: Object) -> Object:
    return {"apiVersion": KINDS[obj["kind"]][0].removeprefix("/apis/").removeprefix("/api/"), **obj}


def _reason(exc: Exception) -> str:
    """What the API server says in what the package raises."""
    try:
        return str(json.loads(getattr(exc, "body", ""))["message"])
    except (ValueError, KeyError, TypeError):
        return str(getattr(exc, "reason", None) or exc)


class Client:
    """Calls by the package's configuration. Threads share its connections."""

    def __init__(self) -> None:
        from kubernetes import client

        self.client = client.ApiClient()

    def send(self, method: str, path: str, query: Mapping[str, str], body: object, content: str, timeout: object) -> Any:
        """The answer as it comes. Raises what the package raises."""
        return self.client.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", **({"Content-Type": content} if body is not None else {})},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=timeout,
        )

    def ask(self, method: str, path: str, query: Mapping[str, str], body: object, content: str) -> Any:
        """The object that a call is answered with."""
        answer = self.send(method, path, query, body, content, TIMEOUT)
        return json.loads(answer.data)


def _watch(path: str, changed: Callable[[], object], ended: threading.Event) -> None:
    """Say so whenever one of these objects changes; also when it is not known, because a watch broke."""
    client = Client()
    while not ended.is_set():
        query = {"watch": "true", "timeoutSeconds": str(WATCHED), "allowWatchBookmarks": "false"}
        try:
            answer = client.send("GET", path, query, None, "", (TIMEOUT, WATCHED + TIMEOUT))
            for _ in answer.stream(65536):
                if ended.is_set():
                    answer.close()
                    return
                changed()
        except Exception:
            time.sleep(1.0)  # the API server is away; looks that need no watch go on
        if not ended.is_set():
            try:
                changed()
            except RuntimeError:
                return  # the loop is closed


def answer_of(pod: str, status: int, revision: str, text: bytes) -> Answer:
    """What `carrierctl` was answered. Raises OSError when nobody did."""
    said = text.decode("utf-8", "replace").strip()
    if not status:
        raise OSError(f"pod {pod}: {said[:200] or 'nobody answers'}")
    try:
        body = json.loads(said) if said else None
    except ValueError:
        body = said
    return Answer(pod, status, int(revision) if revision.isdigit() else 0, body)
