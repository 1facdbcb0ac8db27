"""The bridge provider over REST: the asynchronous methods that Gefyra's operator calls, each one call in every pod at once.

What should be there follows from the cluster's own objects (the mount's bridges), so nothing is remembered between calls, of which the
operator makes each on a new provider. A pod that is new, or was replaced, or missed a change lacks bridges that the others have:
`ready`, which the operator asks regularly, gives it what it lacks; an event says which. Ports arrive as text. A bridge of several
ports is one bridge a port, named NAME.PORT; names of that form are the provider's.

Nothing of Gefyra or kopf is imported: carrier/gefyra/operator.py, which runs in the operator, hands in the exceptions it expects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from carrier.core.address import authority
from carrier.errors import ConfigError
from carrier.gefyra.access import Access, Answer, Fleet, Object, bad, is_ready, name_of, path
from carrier.gefyra.clone import DUPLICATION, split_target
from carrier.gefyra.format import alternatives

MOUNT_LABEL, CLIENT_LABEL = "gefyra.dev/bridge-mount", "gefyra.dev/client"
LIVE = ("CREATING", "ACTIVE")
"""States of a bridge whose routes should be in the pods."""


class Failures:
    """The exceptions that the operator wants. not_yet: it asks again; refused: the request is answered with the text."""

    def __init__(self, not_yet: Callable[[str], Exception] = RuntimeError, refused: Callable[[str], Exception] = ValueError) -> None:
        self.not_yet = not_yet
        self.refused = refused


class CarrierProvider:
    """One bridge. mount: the name of its bridge mount; container: the one that is bridged; event: tells the bridge's events."""

    provider_type = "carrier2"

    def __init__(
        self,
        access: Access,
        name: str,
        namespace: str,
        mount: str,
        container: str,
        event: Callable[[str, str, str], object] = lambda reason, message, type: None,
        failures: Failures | None = None,
        gefyra_namespace: str = "gefyra",
    ) -> None:
        self.access = access
        self.name = name
        self.namespace = namespace
        self.mount = mount
        self.container = container
        self.event = event
        self.failures = failures or Failures()
        self.gefyra_namespace = gefyra_namespace

    async def _async_init_(self) -> None:
        """The operator's builder awaits this; there is nothing to prepare."""

    # ------------------------------------------------------------------ what the operator calls

    async def install(self, parameters: dict[Any, Any] | None = None) -> None:
        """The mount has put the proxy into the pods already."""

    async def installed(self) -> bool:
        """Does the proxy run in every pod?"""
        fleet = await self.fleet()
        return bool(fleet.pods) and not bad(await fleet.call("GET", "bridges"))

    async def ready(self) -> bool:
        """Does every pod's proxy answer, with the bridges it should have? Those that lag are brought up to date. Raises `not_yet`."""
        fleet = await self.fleet()
        if not fleet.pods:
            raise self.failures.not_yet(f"no pod of {self.mount} runs yet")
        waiting = [name_of(pod) for pod in fleet.pods if not is_ready(pod, self.container)]
        if waiting:
            raise self.failures.not_yet(f"not ready yet: {', '.join(waiting)}")
        lost = await self.bring_up_to_date(fleet)
        if lost:
            raise self.failures.not_yet("; ".join(lost))
        return True

    async def uninstall(self) -> None:
        """Take this bridge out of every pod, whichever ports it has."""
        fleet = await self.fleet()
        for answer in await fleet.call("GET", "bridges"):
            names = [bridge["name"] for bridge in _bridges(answer) if self._is_own(bridge["name"])]
            pod = next(pod for pod in fleet.pods if name_of(pod) == answer.pod)
            for name in names:
                await fleet.one(pod, "DELETE", path("bridges", name))

    async def add_proxy_route(
        self, container_port: int, destination_host: str, destination_port: int, parameters: dict[Any, Any] | None = None
    ) -> None:
        """Bridge a port, in all pods at once. Raises `refused` with a pod's reason, or `not_yet` when one did not answer."""
        bridge = await self.access.get("gefyrabridge", self.gefyra_namespace, self.name) or {}
        parameters = parameters if parameters is not None else bridge.get("providerParameter")
        user = str(bridge.get("client") or self.name)
        try:
            body = self.body(int(container_port), destination_host, int(destination_port), parameters or {}, user)
        except (ConfigError, ValueError) as exc:
            raise self.failures.refused(_why(exc)) from None
        self._raise(await (await self.fleet()).call("PUT", path("bridges", self._name(container_port)), body))

    async def remove_proxy_route(self, container_port: int, destination_host: str, destination_port: int) -> None:
        """Take a port's bridge away, in all pods at once; one that has it no more is as good."""
        answers = await (await self.fleet()).call("DELETE", path("bridges", self._name(container_port)))
        self._raise([answer for answer in answers if answer.status != 404])

    async def proxy_route_exists(self, container_port: int, destination_host: str, destination_port: int, name: str | None = None) -> bool:
        """Has every pod this bridge of this port, to this endpoint?"""
        answers = await (await self.fleet()).call("GET", path("bridges", self._name(container_port, name)))
        endpoint = authority(destination_host, int(destination_port))
        there = [answer.good and _state(answer.body) == "in force" and answer.body.get("endpoint") == endpoint for answer in answers]
        return bool(there) and all(there)

    async def validate(self, bridge_request: dict[str, Any], hints: dict[str, Any] | None) -> list[str]:
        """Would the proxy take this bridge? Returns warnings, each also an event; raises `refused` with every reason, in sentences."""
        labels = bridge_request.get("metadata", {}).get("labels") or {}
        missing = [label for label in (MOUNT_LABEL, CLIENT_LABEL) if not labels.get(label)]
        if missing:
            raise self.failures.refused(f"the bridge has no label {' and no label '.join(missing)}")
        mount = await self.access.get("gefyrabridgemount", self.gefyra_namespace, labels[MOUNT_LABEL])
        if mount is None:
            raise self.failures.refused(f"there is no bridge mount {labels[MOUNT_LABEL]!r}: make it first")
        if mount.get("state") != "ACTIVE":
            state = mount.get("state") or "not known yet"
            raise self.failures.refused(f"bridge mount {labels[MOUNT_LABEL]!r} is not active yet, but {state}")
        reasons, warnings = [], []
        try:
            wanted = self._wanted(bridge_request, labels[CLIENT_LABEL])
        except (ConfigError, ValueError) as exc:
            raise self.failures.refused(_why(exc)) from None
        if not wanted:
            reasons.append("the bridge names no port: its portMappings are empty")
        for body in wanted:
            found = await self._asked(body)
            reasons += found.get("reasons", [])
            warnings += found.get("warnings", [])
        if reasons:
            raise self.failures.refused("; ".join(dict.fromkeys(reasons)))
        for warning in warnings:
            self.event("Wide rule", warning, "Warning")
        return warnings

    # ------------------------------------------------------------------ pods

    async def fleet(self) -> Fleet:
        """The proxies of the mount's target, as its pods are by now."""
        mount = await self.access.get("gefyrabridgemount", self.gefyra_namespace, self.mount)
        if mount is None:
            raise self.failures.not_yet(f"there is no bridge mount {self.mount!r}")
        pods = await pods_of(self.access, mount.get("targetNamespace") or self.namespace, str(mount.get("target", "")))
        return Fleet(self.access, pods, self.container)

    async def bring_up_to_date(self, fleet: Fleet) -> list[str]:
        """Give every pod the bridges of this mount that it lacks, take away those whose object is gone; what failed, in sentences."""
        objects = await self.access.list("gefyrabridge", self.gefyra_namespace, {MOUNT_LABEL: self.mount})
        wanted = self.desired(objects)
        known = {name_of(one) for one in objects}
        answers = await fleet.call("GET", "bridges")
        lost = []
        for pod, answer in zip(fleet.pods, answers, strict=True):
            if not answer.good:
                lost.append(f"{answer.pod}: {answer.reason}")
                continue
            lost += await self._level(fleet, pod, answer, wanted, known)
        return lost

    async def _level(self, fleet: Fleet, pod: Object, answer: Answer, wanted: Mapping[str, Object], known: set[str]) -> list[str]:
        there = {bridge["name"]: bridge for bridge in _bridges(answer)}
        changes: list[tuple[str, str, Object | None]] = [("PUT", n, body) for n, body in wanted.items() if not _same(there.get(n), body)]
        changes += [("DELETE", name, None) for name in there if _is_orphan(name, known)]
        lost = []
        for method, name, body in changes:
            done = await fleet.one(pod, method, path("bridges", name), body)
            if method == "PUT" and done.good:
                self.event("Bridge restored", f"pod {answer.pod} lacked bridge {name}: it has it now", "Normal")
            elif not done.good and done.status != 404:
                lost.append(f"{answer.pod}: {done.reason}")
                self.event("Bridge stale", f"pod {answer.pod} does not take bridge {name}: {done.reason}", "Warning")
        return lost

    def desired(self, objects: list[Object]) -> dict[str, Object]:
        """Every bridge that the mount's pods should have, by its name there, as the cluster's objects say."""
        found = {}
        for bridge in objects:
            if str(bridge.get("state", "")).upper() not in LIVE:
                continue
            try:
                bodies = self._wanted(bridge, str(bridge.get("client") or name_of(bridge)))
            except (ConfigError, ValueError) as exc:  # it was changed since it was validated: it costs nobody else's bridges
                self.event("Bridge stale", f"bridge {name_of(bridge)} cannot be read: {_why(exc)}", "Warning")
                continue
            for body in bodies:
                found[body.pop("name")] = body
        return found

    # ------------------------------------------------------------------ bridges

    def body(self, port: int, host: str, target: int, parameters: Mapping[Any, Any], user: str) -> Object:
        """A bridge as the REST API takes it. Raises ConfigError: the rules cannot be read."""
        found: Object = {"port": port, "user": user, "endpoint": authority(host, target)}
        for name in ("fallback", "mirror", "expires", "answer_timeout", "tls", "type", "url"):
            if parameters.get(name) is not None:
                found[name] = parameters[name]
        if parameters.get("type") == "stream" or "url" in parameters:
            return found
        found["rules"] = [{"match": one} for one in alternatives(parameters.get("rules"))]
        return found

    def _wanted(self, bridge: Object, user: str) -> list[Object]:
        """The bridges of a `gefyrabridge` object, one a port; each with its name. Raises ConfigError, ValueError: it cannot be read."""
        found = []
        endpoints = bridge.get("clusterEndpoint") or {}
        name = bridge.get("metadata", {}).get("name") or self.name
        for mapping in bridge.get("portMappings") or []:
            local, _, target = str(mapping).partition(":")
            target = target or local
            if not (_is_port(local) and _is_port(target)):
                raise ValueError(f"port mapping {str(mapping)!r}: expected LOCAL:TARGET, two ports 1..65535")
            host, _, port = str(endpoints.get(target) or f"{bridge.get('destinationIP')}:{local}").rpartition(":")
            body = self.body(int(target), host.strip("[]"), int(port), bridge.get("providerParameter") or {}, user)
            found.append({"name": f"{name}.{target}", **body})
        return found

    async def _asked(self, body: Object) -> Mapping[str, Any]:
        """What the first pod that answers says of a bridge."""
        fleet = await self.fleet()
        reason = "no pod runs"
        for pod in fleet.pods:
            answer = await fleet.one(pod, "POST", "bridges:validate", body)
            if answer.good:
                found: Mapping[str, Any] = answer.body
                return found
            reason = answer.reason
        raise self.failures.refused(f"nobody can say whether this bridge is good: {reason}")

    def _name(self, port: int | str, name: str | None = None) -> str:
        return f"{name or self.name}.{int(port)}"

    def _is_own(self, name: str) -> bool:
        return name.rpartition(".")[0] == self.name

    def _raise(self, answers: list[Answer]) -> None:
        """A refusal is final, an absence is not."""
        failed = bad(answers)
        refused = [answer for answer in failed if 400 <= answer.status < 500]
        text = "; ".join(dict.fromkeys(answer.reason for answer in refused or failed))
        if refused:
            raise self.failures.refused(text)
        if failed:
            raise self.failures.not_yet(f"{', '.join(answer.pod for answer in failed)}: {text}")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65_535


def _why(exc: Exception) -> str:
    return "; ".join(str(problem) for problem in exc.problems) if isinstance(exc, ConfigError) else str(exc)


async def pods_of(access: Access, namespace: str, target: str) -> list[Object]:
    """The pods of a workload, by name; those of its shadow are not."""
    kind, name = split_target(target)
    workload = await access.get(kind, namespace, name)
    if workload is None:
        return []
    if kind == "Pod":
        return [workload]
    labels = (workload["spec"].get("selector") or {}).get("matchLabels") or {}
    found = [pod for pod in await access.list("Pod", namespace, labels) if DUPLICATION not in (pod["metadata"].get("labels") or {})]
    return sorted((pod for pod in found if not pod["metadata"].get("deletionTimestamp")), key=name_of)


def _is_orphan(name: str, known: set[str]) -> bool:
    """Is it a bridge that a provider made, of an object that is gone?"""
    owner, _, port = name.rpartition(".")
    return bool(owner) and port.isdigit() and owner not in known


def _bridges(answer: Answer) -> list[Object]:
    """The bridges in force that a pod has listed."""
    return [one for one in answer.body if _state(one) != "expired"] if answer.good and isinstance(answer.body, list) else []


def _state(bridge: Any) -> str:
    return str(bridge.get("status", {}).get("state", "")) if isinstance(bridge, Mapping) else ""


def _same(there: Object | None, wanted: Object) -> bool:
    """Is it the bridge that is wanted? When it ends is not compared: renewing is another matter."""
    return there is not None and all(there.get(name) == value for name, value in wanted.items() if name != "expires")
