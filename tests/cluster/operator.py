"""Gefyra's operator, as far as our providers meet it, against a real API server: which of their methods it calls, when, and what it does
with what they raise.

Written from the record of its interfaces and from what was seen of operator 2.5.4 that no interface tells:
- the mount's state machine awaits the property `_duplicated_pods_ready` while PREPARING, and `prepared()` afterwards;
- `post_event(reason, message, type)` is a coroutine function, and None in admission;
- whatever `add_proxy_route` raises puts a bridge into ERROR, and one that was never ACTIVE stays there;
- an ACTIVE mount is asked `target_exists`, `prepared` and `ready` at the start and every minute, an ACTIVE bridge `proxy_route_exists`;
  a mount that is not intact is prepared again, and waits for the next minute to be installed;
- one bridge of a mount is worked on at a time; ports are text; a provider is made for each access to a bridge's.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import ssl
import types
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trustme

from tests.carrier.gefyra.upstream import AdmissionError, TemporaryError, standing_in
from tests.cluster.control import ControlPlane

FINALIZER = "operator.gefyra.dev/kopf-finalizer"
IMAGE = ("localhost/carrier2", "latest")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Stowaway:
    """Destinations: a Service for each. reach: the address that a destination is reached at, by its port; else that of its Service."""

    def __init__(self, reach: dict[int, str] | None = None) -> None:
        self.reach = reach or {}
        self.known: dict[tuple[str, str, int], str] = {}

    async def destination_exists(self, peer_id: str, destination_ip: str, destination_port: int) -> bool:
        return (peer_id, destination_ip, destination_port) in self.known

    async def add_destination(self, peer_id: str, destination_ip: str, destination_port: int) -> str:
        port = 10_000 + len(self.known)
        where = self.reach.get(destination_port, f"gefyra-stowaway-proxy-{port}.gefyra.svc.cluster.local:{port}")
        self.known[peer_id, destination_ip, destination_port] = where
        return where

    async def get_destination(self, peer_id: str, destination_ip: str, destination_port: int) -> str:
        return self.known[peer_id, destination_ip, destination_port]

    async def remove_destination(self, peer_id: str, destination_ip: str, destination_port: int) -> None:
        self.known.pop((peer_id, destination_ip, destination_port), None)


class Operator:
    """See the module. period: seconds between two looks at what is ACTIVE; delays of retries are cut to `retry`; namespace: its own."""

    def __init__(
        self,
        control: ControlPlane,
        kubeconfig: Path,
        connection: Stowaway | None = None,
        period: float = 60.0,
        retry: float = 1.0,
        namespace: str = "gefyra",
        image: str = IMAGE[0],
    ) -> None:
        self.control = control
        self.kubeconfig = kubeconfig
        self.connection = connection or Stowaway()
        self.period = period
        self.retry = retry
        self.namespace = namespace
        self.locks: dict[str, asyncio.Lock] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.task: asyncio.Task[None] | None = None
        self.errors: list[str] = []
        """What a handler raised that the operator does not expect."""
        self.configuration = types.SimpleNamespace(NAMESPACE=namespace, CARRIER2_IMAGE=image, CARRIER2_IMAGE_TAG=IMAGE[1])
        self.logger = logging.getLogger("operator")

    # ------------------------------------------------------------------ its life

    async def start(self) -> None:
        """Import our module as docs/gefyra.md says, and begin to work."""
        import kubernetes

        self.client = kubernetes
        kubernetes.config.load_kube_config(str(self.kubeconfig))
        self.stack = contextlib.ExitStack()
        self.factories = self.stack.enter_context(standing_in())
        import carrier.gefyra.operator as ours

        self.ours = ours
        loop = asyncio.get_running_loop()
        self.changed = asyncio.Event()
        self.changed.set()
        self.unwatch = [
            self.control.watch(
                f"/apis/gefyra.dev/v1/namespaces/{self.namespace}/{kind}", lambda: loop.call_soon_threadsafe(self.changed.set)
            )
            for kind in ("gefyrabridgemounts", "gefyrabridges")
        ]
        self.task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End at once, as a process that is killed."""
        for end in self.unwatch:
            end()
        tasks = [task for task in (self.task, *self.tasks.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.ours.builders.close()
        self.stack.close()

    async def ask(self, method: str, path: str, body: object = None, content: str = "application/merge-patch+json") -> Any:
        status, text = await asyncio.to_thread(self.control.ask, method, path, body, content, False)
        return json.loads(text) if status in (200, 201) else None

    async def _run(self) -> None:
        while True:
            await self.changed.wait()
            self.changed.clear()
            for kind, work in (("gefyrabridgemounts", self._mount), ("gefyrabridges", self._bridge)):
                found = await self.ask("GET", f"/apis/gefyra.dev/v1/namespaces/{self.namespace}/{kind}")
                for obj in (found or {}).get("items", []):
                    key = f"{kind}/{obj['metadata']['name']}/{obj['metadata']['uid']}"
                    gone = bool(obj["metadata"].get("deletionTimestamp"))
                    if gone and f"{key}/end" not in self.tasks:
                        task = self.tasks.pop(key, None)
                        if task is not None:
                            task.cancel()
                        self.tasks[f"{key}/end"] = asyncio.create_task(self._end(kind, obj))
                    elif not gone and key not in self.tasks:
                        self.tasks[key] = asyncio.create_task(self._work(kind, obj, work))

    async def _work(self, kind: str, obj: dict[str, Any], work: Any) -> None:
        path = f"/apis/gefyra.dev/v1/namespaces/{self.namespace}/{kind}/{obj['metadata']['name']}"
        await self.ask("PATCH", path, {"metadata": {"finalizers": [FINALIZER]}})
        active = "ACTIVE" in (obj.get("stateTransitions") or {})
        while True:
            obj = await self.ask("GET", path)
            if obj is None:
                return
            try:
                await work(Thing(self, path, obj), active)
                active = "ACTIVE" in (obj.get("stateTransitions") or {}) or obj["state"] == "ACTIVE"
                await asyncio.sleep(self.period)
            except TemporaryError as error:
                await asyncio.sleep(min(error.delay, self.retry))
            except asyncio.CancelledError:
                raise
            except Exception as exc:
                self.errors.append(f"{kind}/{obj['metadata']['name']}: {exc!r}")
                await asyncio.sleep(self.retry)

    async def _end(self, kind: str, obj: dict[str, Any]) -> None:
        path = f"/apis/gefyra.dev/v1/namespaces/{self.namespace}/{kind}/{obj['metadata']['name']}"
        thing = Thing(self, path, obj)
        try:
            if kind == "gefyrabridgemounts":
                await thing.mount().uninstall()
                for bridge in (await self.ask("GET", path.rpartition("/")[0].replace("mounts", "s")) or {}).get("items", []):
                    if (bridge["metadata"].get("labels") or {}).get("gefyra.dev/bridge-mount") == thing.name:
                        await self.ask("DELETE", f"{path.rpartition('/')[0].replace('mounts', 's')}/{bridge['metadata']['name']}")
            else:
                async with self.locks.setdefault(str(obj.get("target")), asyncio.Lock()):
                    await self._teardown(thing)
        except Exception as exc:
            self.errors.append(f"{path}: {exc!r}")
        await self.ask("PATCH", path, {"metadata": {"finalizers": None}})

    # ------------------------------------------------------------------ a mount

    async def _mount(self, thing: Thing, was_active: bool) -> None:
        """REQUESTED, PREPARING, INSTALLING, ACTIVE; once it was ACTIVE, a look every period."""
        provider = thing.mount()
        if not was_active:
            if thing.state == "REQUESTED" or thing.state == "ERROR":
                await self._arrange(thing, provider)
            if thing.state == "PREPARING":
                if not await provider._duplicated_pods_ready:
                    raise TemporaryError("not yet prepared", 5)
                await self._install(thing, provider)
            if thing.state == "INSTALLING" and await provider.ready():
                await thing.to("ACTIVE")
            if thing.state != "ACTIVE":
                raise TemporaryError("not active yet", 10)
            return
        if not await provider.target_exists():
            if thing.state != "MISSING":
                await thing.to("MISSING")
                await provider.uninstall()
            return
        if thing.state == "MISSING":
            await thing.to("PREPARING")
        elif thing.state in ("PREPARING", "INSTALLING") and await provider.prepared():
            await self._install(thing, provider)
        if thing.state == "ACTIVE":
            try:
                intact = await provider.prepared() and await provider.ready()
            except Exception as exc:
                await thing.post_event("Not intact", f"not intact: {exc}", "Warning")
                intact = False
            if not intact:
                await thing.to("RESTORING")
                await self._arrange(thing, provider)

    async def _arrange(self, thing: Thing, provider: Any) -> None:
        await thing.to("PREPARING")
        try:
            await provider.prepare()
        except ValueError as exc:  # or the operator's own exceptions, which are none of ours
            await thing.post_event("Failed to install GefyraBridgeMount", str(exc), "Warning")
            await thing.to("ERROR")

    async def _install(self, thing: Thing, provider: Any) -> None:
        await thing.to("INSTALLING")
        try:
            await provider.install()
        except Exception as exc:
            await thing.post_event("Failed to install GefyraBridgeMount", str(exc), "Warning")
            await thing.to("ERROR")
            return
        if await provider.ready():
            await thing.to("ACTIVE")

    # ------------------------------------------------------------------ a bridge

    async def _bridge(self, thing: Thing, was_active: bool) -> None:
        async with self.locks.setdefault(thing.obj["target"], asyncio.Lock()):
            if not was_active:
                if thing.state in ("REQUESTED", "INSTALLING"):
                    await thing.to("INSTALLING")
                    await (await thing.bridge()).install()
                    if not await (await thing.bridge()).ready():
                        raise TemporaryError("waiting for the provider", 1)
                    await thing.to("INSTALLED")
                if thing.state == "INSTALLED":
                    await self._activate(thing)
                return
            if thing.state == "ERROR" or (thing.state == "ACTIVE" and not await self._is_intact(thing)):
                await thing.to("RESTORING")
                await thing.to("INSTALLED")
                await self._activate(thing)

    def _ports(self, thing: Thing) -> list[tuple[str, str]]:
        return [tuple(mapping.split(":")) for mapping in thing.obj["portMappings"]]

    async def _is_intact(self, thing: Thing) -> bool:
        for local, target in self._ports(thing):
            key = (thing.obj["client"], thing.obj["destinationIP"], int(local))
            if not await self.connection.destination_exists(*key):
                return False
            host, _, port = (await self.connection.get_destination(*key)).partition(":")
            if not await (await thing.bridge()).proxy_route_exists(target, host, port, thing.name):
                return False
        return True

    async def _activate(self, thing: Thing) -> None:
        await thing.to("CREATING")
        try:
            for local, target in self._ports(thing):
                key = (thing.obj["client"], thing.obj["destinationIP"], int(local))
                if not await self.connection.destination_exists(*key):
                    await self.connection.add_destination(*key)
                where = await self.connection.get_destination(*key)
                thing.obj = await self.ask("PATCH", thing.path, {"clusterEndpoint": {target: where}})
                host, _, port = where.partition(":")
                if not await (await thing.bridge()).proxy_route_exists(target, host, port, thing.name):
                    await (await thing.bridge()).add_proxy_route(target, host, port)
        except Exception as exc:
            await thing.post_event("Failed in state CREATING", str(exc), "Warning")
            await thing.to("ERROR")
        else:
            await thing.to("ACTIVE")
            await thing.post_event("Ready", f"GefyraBridge '{thing.name}' is now active")

    async def _teardown(self, thing: Thing) -> None:
        for local, target in self._ports(thing):
            key = (thing.obj["client"], thing.obj["destinationIP"], int(local))
            if await self.connection.destination_exists(*key):
                host, _, port = (await self.connection.get_destination(*key)).partition(":")
                if await (await thing.bridge()).proxy_route_exists(target, host, port, thing.name):
                    await (await thing.bridge()).remove_proxy_route(target, host, port)
                await self.connection.remove_destination(*key)

    # ------------------------------------------------------------------ admission

    async def admit(self, obj: dict[str, Any]) -> None:
        """What its webhook does with a new object; events cannot be posted there. Raises AdmissionError."""
        thing = Thing(self, "", obj)
        if obj["kind"] == "gefyrabridge":
            await (await thing.bridge(None)).validate(obj, {})
        else:
            await thing.mount(None).validate(obj, {})


class Webhook:
    """Admission as the API server asks for it (admission.k8s.io/v1): of new mounts and bridges, over TLS on loopback."""

    NAME = "gefyra"
    PATH = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"

    def __init__(self, operator: Operator) -> None:
        self.operator = operator

    async def start(self) -> None:
        """Listen, and be asked from now on."""
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        port = self.server.sockets[0].getsockname()[1]
        bundle = base64.b64encode(authority.cert_pem.bytes()).decode()
        hook = {
            "name": "gefyra.gefyra.dev",
            "clientConfig": {"url": f"https://127.0.0.1:{port}/", "caBundle": bundle},
            "rules": [{"apiGroups": ["gefyra.dev"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["*"]}],
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }
        kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
        await self.operator.ask("POST", self.PATH, {**kind, "metadata": {"name": self.NAME}, "webhooks": [hook]}, "application/json")

    async def stop(self) -> None:
        """Be asked no more."""
        await self.operator.ask("DELETE", f"{self.PATH}/{self.NAME}")
        self.server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        review = json.loads(await reader.readexactly(size))
        answer: dict[str, Any] = {"uid": review["request"]["uid"], "allowed": True}
        try:
            await self.operator.admit(review["request"]["object"])
        except AdmissionError as exc:
            answer |= {"allowed": False, "status": {"code": 403, "message": str(exc)}}
        except Exception as exc:  # a webhook that fails refuses, with nothing that helps anybody
            self.operator.errors.append(f"admission: {exc!r}")
            answer |= {"allowed": False, "status": {"code": 500, "message": f"{type(exc).__name__}: {exc}"}}
        body = json.dumps({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": answer}).encode()
        fields = f"content-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}"
        writer.write(f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()


class Thing:
    """A mount or bridge that is worked on, with its providers."""

    def __init__(self, operator: Operator, path: str, obj: dict[str, Any]) -> None:
        self.operator = operator
        self.path = path
        self.obj = obj
        self.name = str(obj["metadata"]["name"])

    @property
    def state(self) -> str:
        return str(self.obj.get("state", "REQUESTED"))

    async def to(self, state: str) -> None:
        """Be in another state, for everybody to see."""
        found = await self.operator.ask("PATCH", self.path, {"state": state, "stateTransitions": {state: _now()}})
        self.obj = found or {**self.obj, "state": state}

    async def post_event(self, reason: str, message: str, type: str = "Normal") -> None:
        metadata = self.obj["metadata"]
        regarding = {name: metadata[name] for name in ("name", "namespace", "uid", "resourceVersion")}
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{self.name}-{uuid.uuid4()}", "namespace": self.operator.namespace},
            "reason": reason,
            "note": message[:1024],
            "eventTime": _now(),
            "action": "State",
            "type": type,
            "reportingInstance": "gefyra-operator",
            "reportingController": "gefyra-operator",
            "regarding": {"apiVersion": self.obj["apiVersion"], "kind": self.obj["kind"], **regarding},
        }
        await self.operator.ask("POST", f"/apis/events.k8s.io/v1/namespaces/{self.operator.namespace}/events", event, "application/json")

    def mount(self, event: Any = ...) -> Any:
        """The mount's provider."""
        factory = self.operator.factories["bridge_mount"]
        return factory.get(
            next(iter(factory.builders)),
            configuration=self.operator.configuration,
            target_namespace=self.obj["targetNamespace"],
            target=self.obj["target"],
            target_container=self.obj["targetContainer"],
            name=self.name,
            post_event_function=self.post_event if event is ... else event,
            parameter=self.obj.get("providerParameter", {}),
            logger=self.operator.logger,
        )

    async def bridge(self, event: Any = ...) -> Any:
        """The bridge's provider, a new one each time."""
        factory = self.operator.factories["bridge"]
        return await factory.get(
            next(iter(factory.builders)),
            configuration=self.operator.configuration,
            name=self.name,
            target_namespace=self.obj["targetNamespace"],
            target_pod=self.obj["target"],
            target_container=self.obj["targetContainer"],
            post_event_function=self.post_event if event is ... else event,
            logger=self.operator.logger,
        )
