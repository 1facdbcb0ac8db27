"""What the providers need of a cluster: objects as plain dicts, and calls of the REST API in a pod. No kubernetes package is needed here.

`Access` is the interface; carrier/gefyra/kubernetes.py is the real one, tests have one over real proxies. `Fleet` calls all pods of a
workload at once: a change costs one call (one exec) a pod, and each pod acknowledges it with its revision.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

Object = dict[str, Any]
"""A Kubernetes object, as JSON has it."""

TIMEOUT = 10.0
"""Seconds that one pod may take to answer a call."""


class Answer(NamedTuple):
    """What a pod's proxy answered. status 0: nobody answered, `body` says why. revision: of the configuration in force there."""

    pod: str
    status: int
    revision: int
    body: Any

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def reason(self) -> str:
        """Why not, as a sentence."""
        body = self.body
        if isinstance(body, Mapping):
            body = body.get("content", body.get("message", body))
        if isinstance(body, Mapping) and "problems" in body:
            body = "; ".join(str(one.get("message", one)) if isinstance(one, Mapping) else str(one) for one in body["problems"])
        return body if isinstance(body, str) else json.dumps(body)


class Access(Protocol):
    """A cluster. kind: `Deployment`, `Pod`, `gefyrabridge`, ... ; methods raise `PermissionError` where the role does not allow it."""

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """The object, or None."""

    async def list(self, kind: str, namespace: str, labels: Mapping[str, str], fields: Mapping[str, str] = {}) -> list[Object]:
        """Every object with these labels, and with these values of fields that the API server selects by."""

    async def apply(self, obj: Object) -> None:
        """Create the object, or patch the one of its name to it."""

    async def replace(self, obj: Object) -> None:
        """Put the object in the place of the one of its name: what it does not have is gone. Raises `ValueError` when it may not."""

    async def patch(self, kind: str, namespace: str, name: str, patch: Object) -> None:
        """Merge `patch` into an object (strategic merge for those that have it)."""

    async def patch_status(self, kind: str, namespace: str, name: str, patch: Object) -> None:
        """Merge `patch` into an object's status; with a resourceVersion in it, only into the object at that version."""

    async def event(self, regarding: Object, reason: str, note: str, type: str = "Normal") -> None:
        """Tell an object's owner something. It never fails: an event that cannot be posted is lost."""

    def watch(self, kind: str, namespace: str, changed: Callable[[], object]) -> Callable[[], object]:
        """Call `changed` whenever one of these objects may have changed; returns what ends it."""

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete the object, if it is there."""

    async def call(self, pod: Object, container: str, method: str, path: str, body: object = None) -> Answer:
        """One call of the REST API of the proxy in a pod's container. Raises OSError when nobody answers."""


class Fleet:
    """The proxies in some pods."""

    def __init__(self, access: Access, pods: Sequence[Object], container: str) -> None:
        self.access = access
        self.pods = pods
        self.container = container

    async def call(self, method: str, path: str, body: object = None) -> list[Answer]:
        """The same call in every pod, at once; an answer for each, in their order."""
        return list(await asyncio.gather(*(self.one(pod, method, path, body) for pod in self.pods)))

    async def one(self, pod: Object, method: str, path: str, body: object = None) -> Answer:
        """A call in one pod; nobody there is an answer too, with status 0."""
        name = name_of(pod)
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self.access.call(pod, self.container, method, path, body)
        except TimeoutError:
            return Answer(name, 0, 0, f"no answer within {TIMEOUT:g} s")
        except OSError as exc:
            return Answer(name, 0, 0, str(exc))


def path(*parts: str) -> str:
    """A path of the API with its names quoted: `path("bridges", "a/b")`."""
    return "/".join(quote(part, safe="") for part in parts)


def name_of(obj: Object) -> str:
    return str(obj["metadata"]["name"])


def bad(answers: Iterable[Answer]) -> list[Answer]:
    """Those that did not do it."""
    return [answer for answer in answers if not answer.good]


def status_of(pod: Object, container: str) -> Object:
    """What a pod's status says of a container; {} when it says nothing yet."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return next((one for one in statuses if one.get("name") == container), {})


def run_of(pod: Object, container: str) -> str:
    """Which run of a container a pod's status is about: it is another one after each restart."""
    status = status_of(pod, container)
    return f"{status.get('containerID') or ''}/{status.get('restartCount', 0)}"


def is_ready(pod: Object, container: str) -> bool:
    """Does the pod run, and is its container ready?"""
    if pod["metadata"].get("deletionTimestamp") or (pod.get("status") or {}).get("phase", "Running") != "Running":
        return False
    return bool(status_of(pod, container).get("ready"))
