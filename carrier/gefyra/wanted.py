"""What the pods of a mount should have, as the cluster's objects say: its bridges, and which pods those are.

Nothing is remembered between calls. A bridge of several ports is one bridge a port, named NAME.PORT; names of that form are the
provider's. A bridge that was ACTIVE once is wanted until its object is deleted, whatever state it passes through meanwhile.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from carrier.core.address import authority
from carrier.errors import ConfigError
from carrier.gefyra.access import Access, Object, name_of
from carrier.gefyra.clone import DUPLICATION, split_target
from carrier.gefyra.format import alternatives

MOUNT_LABEL, CLIENT_LABEL = "gefyra.dev/bridge-mount", "gefyra.dev/client"
LIVE = ("CREATING", "ACTIVE")
"""States of a bridge whose routes should be in the pods."""
WAITING = ("REQUESTED", "INSTALLING", "INSTALLED")
"""States of a bridge whose turn is to come."""
FIELDS = ("fallback", "mirror", "expires", "answer_timeout", "tls", "type", "url")
"""What a bridge's `providerParameter` may have beside its rules."""

Event = Callable[[str, str, str], object]


class Failures:
    """The exceptions that the operator wants. not_yet: it asks again; refused: the request is answered with the text."""

    def __init__(self, not_yet: Callable[[str], Exception] = RuntimeError, refused: Callable[[str], Exception] = ValueError) -> None:
        self.not_yet = not_yet
        self.refused = refused


async def tell(event: Event | None, reason: str, message: str, type: str = "Normal") -> None:
    """Post an event by the operator's function: a coroutine function, or none at all, which is what it hands out in admission."""
    if event is not None and inspect.isawaitable(posting := event(reason, message, type)):
        await posting


def is_live(bridge: Object) -> bool:
    """Should the pods have it?"""
    if bridge["metadata"].get("deletionTimestamp"):
        return False
    return str(bridge.get("state", "")).upper() in LIVE or "ACTIVE" in (bridge.get("stateTransitions") or {})


def waits(bridge: Object) -> bool:
    """Is its turn to come?"""
    return str(bridge.get("state", "REQUESTED")).upper() in WAITING


def was_active(bridge: Object) -> bool:
    """Did every pod have it once? One that was not is just being given to them."""
    return bridge.get("state") == "ACTIVE" or "ACTIVE" in (bridge.get("stateTransitions") or {})


def body_of(port: int, host: str, target: int, parameters: Mapping[Any, Any], user: str) -> Object:
    """A bridge as the REST API takes it. Raises ConfigError: the rules cannot be read."""
    found: Object = {"port": port, "user": user, "endpoint": authority(host, target)}
    found |= {name: parameters[name] for name in FIELDS if parameters.get(name) is not None}
    if parameters.get("type") == "stream" or "url" in parameters:
        return found
    found["rules"] = [{"match": one} for one in alternatives(parameters.get("rules"))]
    return found


def bodies_of(bridge: Object, user: str, name: str = "") -> dict[str, Object]:
    """The bridges of a `gefyrabridge` object, one a port, by their names. Raises ConfigError, ValueError: it cannot be read."""
    found = {}
    endpoints = bridge.get("clusterEndpoint") or {}
    name = bridge.get("metadata", {}).get("name") or name
    parameters = _with_its_end(bridge)
    for mapping in bridge.get("portMappings") or []:
        local, _, target = str(mapping).partition(":")
        target = target or local
        if not (_is_port(local) and _is_port(target)):
            raise ValueError(f"port mapping {str(mapping)!r}: expected LOCAL:TARGET, two ports 1..65535")
        if f"{name}.{target}" in found:
            raise ValueError(f"port {target} is mapped twice: which container is to get its requests?")
        host, _, port = str(endpoints.get(target) or f"{bridge.get('destinationIP')}:{local}").rpartition(":")
        found[f"{name}.{target}"] = body_of(int(target), host.strip("[]"), int(port), parameters, user)
    return found


def in_her_words(text: str, bridge: Object) -> str:
    """What a proxy says of a bridge's endpoints, said of the laptop behind them: nobody knows the Services that lead there."""
    for mapping in bridge.get("portMappings") or []:
        local, _, target = str(mapping).partition(":")
        cluster = str((bridge.get("clusterEndpoint") or {}).get(target or local) or "")
        if cluster and bridge.get("destinationIP"):
            text = text.replace(cluster, authority(str(bridge["destinationIP"]), int(local)))
            text = re.sub(rf"\bon {cluster.rpartition(':')[2]}\b", f"on {local}", text)
    return text


def asks(bridge: Object) -> object:
    """What its user may edit of it."""
    return bridge.get("providerParameter") or {}, bridge.get("portMappings") or []


def _with_its_end(bridge: Object) -> Mapping[str, Any]:
    """Its parameters; a lease of so many seconds runs from when the object was made, not from when a pod began anew."""
    parameters: Mapping[str, Any] = bridge.get("providerParameter") or {}
    seconds, made = parameters.get("expires"), (bridge.get("metadata") or {}).get("creationTimestamp")
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and made:
        end = datetime.fromisoformat(str(made)) + timedelta(seconds=float(seconds))
        return {**parameters, "expires": end.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")}
    return parameters


def is_over(body: Object) -> bool:
    """Has its lease ended?"""
    expires = body.get("expires")
    return isinstance(expires, str) and datetime.fromisoformat(expires) <= datetime.now(UTC)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65_535


def why(exc: Exception) -> str:
    """What an exception says, in one line."""
    return "; ".join(str(problem) for problem in exc.problems) if isinstance(exc, ConfigError) else str(exc)


def wanted_of(objects: list[Object], routes: Collection[str] = ()) -> tuple[dict[str, Object], dict[str, str]]:
    """Every bridge that the pods should have, by its name there; and what is wrong with those that cannot be read, by their objects.

    routes: those that are just being put into the pods: the operator writes down that a bridge is being made when it has been made.
    """
    found: dict[str, Object] = {}
    odd = {}
    for bridge in objects:
        making = [route for route in routes if route.rpartition(".")[0] == name_of(bridge)]
        if not is_live(bridge) and (not making or bridge["metadata"].get("deletionTimestamp")):
            continue
        try:
            bodies = bodies_of(bridge, str(bridge.get("client") or name_of(bridge)))
        except (ConfigError, ValueError) as exc:  # it was changed since it was validated: it costs nobody else's bridges
            odd[name_of(bridge)] = why(exc)
            continue
        found |= {name: body for name, body in bodies.items() if not is_over(body)}
    return found, odd


async def pods_of(access: Access, namespace: str, target: str, workload: Object | None = None) -> list[Object]:
    """The pods of a workload, by name; those of its shadow are not, nor those that end or have ended. workload: it, if it is at hand."""
    kind, name = split_target(target)
    workload = workload or await access.get(kind, namespace, name)
    if workload is None:
        return []
    if kind == "Pod":
        return [] if is_ending(workload) else [workload]
    labels = (workload["spec"].get("selector") or {}).get("matchLabels") or {}
    found = [pod for pod in await access.list("Pod", namespace, labels) if DUPLICATION not in (pod["metadata"].get("labels") or {})]
    return sorted((pod for pod in found if not is_ending(pod)), key=name_of)


def is_mount_of(mount: Object, kind: str, name: str, namespace: str) -> bool:
    """Does a mount mean this workload? `deploy/x` and `deployment/x` are one target."""
    try:
        return (split_target(str(mount.get("target", ""))), mount.get("targetNamespace")) == ((kind, name), namespace)
    except ValueError:
        return False


def already_mounted(kind: str, name: str, mount: Object) -> str:
    """Why not again: a workload has one shadow, and one mount, as with Gefyra's own provider; whichever container it is of."""
    leaving = ", which is being removed: try again when it is gone" if mount["metadata"].get("deletionTimestamp") else ""
    of = f"container {mount.get('targetContainer')!r}"
    return f"{kind} {name} is mounted already, by {name_of(mount)!r} ({of}), and a workload has one mount at a time{leaving}"


def is_ending(pod: Object) -> bool:
    """Does a pod end, or has it ended?"""
    return bool(pod["metadata"].get("deletionTimestamp")) or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
