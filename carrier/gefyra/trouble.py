"""Why pods do not serve, in the words of whoever knows: the kubelet that cannot start a container, the scheduler that finds no node, the
controller that may not make a pod. Objects in, sentences out.

Kubernetes says it in three places: a pod's status, its workload's conditions, and events, where it stands in neither (a StatefulSet's
quota, a volume that cannot be mounted). A mount's owner sees none of them, for they are not about the mount.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from carrier.gefyra.access import Access, Object, name_of

LONGEST = 400
"""Characters of what somebody else says, at most: a kubelet tells the whole of a registry's answer."""
IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable")
START = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError", "PostStartHookError")
CRASH = "CrashLoopBackOff"


class Trouble(NamedTuple):
    """kind: what it is known by, however its words change (a kubelet says ErrImagePull and ImagePullBackOff by turns); text: a sentence;
    lasts: it does not go away by waiting a little."""

    kind: str
    text: str
    lasts: bool = True

    @property
    def crashed(self) -> bool:
        """Is nothing known but that the container ended?"""
        return self.kind.endswith("/crash")


def of_container(status: Mapping[str, Any], wanted: str = "") -> Trouble | None:
    """What a container's part of its pod's status says is wrong; None: it is ready, or there is nothing to say yet."""
    name, image = str(status.get("name", "")), wanted or str(status.get("image", ""))
    state = status.get("state") or {}
    waiting = state.get("waiting") or {}
    reason, message = str(waiting.get("reason") or ""), _cut(waiting.get("message"))
    if reason in IMAGE:
        return Trouble(f"{name}/image", f"container {name}: its image {image} cannot be had: {reason}{_after(message)}")
    if reason in START:
        return Trouble(f"{name}/start", f"container {name} cannot be started: {reason}{_after(message)}")
    ended = state.get("terminated") or (status.get("lastState") or {}).get("terminated") or {}
    if reason == CRASH or ("terminated" in state and ended.get("exitCode")):
        return Trouble(f"{name}/crash", f"container {name} ends again and again: {_how(ended)}", reason == CRASH)
    if "waiting" in state:
        return Trouble(f"{name}/waiting", f"container {name} is not there yet: {reason or 'nobody says why'}{_after(message)}", False)
    if "running" in state and not status.get("ready"):
        before = f", after {status['restartCount']} restarts ({_how(ended)})" if ended and status.get("restartCount") else ""
        return Trouble(f"{name}/ready", f"container {name} runs{before} and is not ready: what does its readiness probe get?", False)
    return None


def _how(ended: Mapping[str, Any]) -> str:
    if ended.get("reason") == "OOMKilled":
        return "it had no more memory (OOMKilled)"
    said = _cut(ended.get("message"))
    return f"the last time with exit code {ended.get('exitCode', '?')} ({ended.get('reason') or 'no reason given'}){_after(said)}"


def of_pod(pod: Object) -> Trouble | None:
    """What is wrong with a pod; what lasts comes first."""
    status = pod.get("status") or {}
    if status.get("phase") == "Failed":
        return Trouble("failed", f"it has failed: {status.get('reason') or 'no reason given'}{_after(_cut(status.get('message')))}")
    found = []
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            text = f"no node takes it: {condition.get('reason') or ''}{_after(_cut(condition.get('message')))}"
            found.append(Trouble("unschedulable", text))
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    found += [one for one in map(of_container, containers) if one is not None]
    return next((one for one in found if one.lasts), found[0] if found else None)


def of_pods(pods: Iterable[Object]) -> Trouble | None:
    """What is wrong with some of these, and with which."""
    found = [(name_of(pod), trouble) for pod in pods if (trouble := of_pod(pod)) is not None]
    if not found:
        return None
    name, worst = next((one for one in found if one[1].lasts), found[0])
    others = sum(trouble.kind == worst.kind for _, trouble in found) - 1
    return worst._replace(text=f"pod {name}{f' and {others} more' if others else ''}: {worst.text}")


def of_workload(workload: Object) -> Trouble | None:
    """What keeps a controller from making pods."""
    spec, status = workload.get("spec") or {}, workload.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return Trouble("quota", f"its pods cannot be made: {_cut(condition.get('message')) or condition.get('reason')}")
    if spec.get("replicas") == 0:
        return Trouble("none", "it has no pods: its replicas are 0")
    return None


async def of_events(access: Access, namespace: str, kind: str, name: str) -> Trouble | None:
    """The last warning that somebody has posted about an object. Nothing where events may not be read."""
    try:
        found = await access.list("Event", namespace, {}, {"regarding.kind": kind, "regarding.name": name, "type": "Warning"})
    except Exception:
        return None
    if not found:
        return None
    last = max(found, key=lambda one: str((one.get("series") or {}).get("lastObservedTime") or one.get("deprecatedLastTimestamp") or ""))
    text = f"{kind} {name}: {last.get('reason') or 'a warning'}{_after(_cut(last.get('note')))}"
    return Trouble(f"event/{last.get('reason')}", text, last.get("reason") == "FailedCreate")


def _after(text: str) -> str:
    return f": {text}" if text else ""


def _cut(text: object) -> str:
    """In one line, and not too long."""
    found = " ".join(str(text or "").split())
    return found if len(found) <= LONGEST else f"{found[: LONGEST - 3]}..."
