"""One control plane for all tests of a worker; namespaces, a kubelet and an operator for each test that begins with nothing (`cluster`),
and a workload that is mounted already for those that do not care how it came to be (`mounted`)."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from carrier.gefyra import installing, provider
from tests.cluster import control, gefyra, kubelet
from tests.cluster.control import ControlPlane
from tests.cluster.kubelet import Kubelet
from tests.cluster.operator import Operator, Stowaway

_number = itertools.count(1)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    if reason := control.why_not() or kubelet.why_not():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="carrier2-"))
    plane = ControlPlane(folder)
    try:
        # The API server passes exec on as it comes, rather than in the protocol of older kubelets.
        plane.start("--feature-gates=TranslateStreamCloseWebsocketRequests=false", "--enable-priority-and-fairness=false")
        plane.write_kubeconfig(folder / "operator", gefyra.install(plane))
        yield plane
    finally:
        plane.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Cluster:
    """A namespace, its kubelet and the operator, and what a user does there. gefyra: the namespace of the operator."""

    def __init__(self, plane: ControlPlane, node: Kubelet, namespace: str, gefyra: str = "gefyra") -> None:
        self.plane = plane
        self.node = node
        self.namespace = namespace
        self.gefyra = gefyra
        self.operators: list[Operator] = []
        self.connection = Stowaway()

    async def operator(self, **more: Any) -> Operator:
        """Start one; destinations are there as long as the cluster is."""
        self.connection = more.setdefault("connection", self.connection)
        found = Operator(self.plane, self.plane.path / "operator", namespace=self.gefyra, **more)
        await found.start()
        self.operators.append(found)
        return found

    async def call(self, method: str, path: str, body: object = None, content: str = "application/merge-patch+json") -> Any:
        return await asyncio.to_thread(self.plane.call, method, path, body, content)

    async def apply(self, *documents: Any) -> None:
        await asyncio.to_thread(self.plane.apply, *documents)

    async def get(self, path: str) -> Any:
        """The object there, or None."""
        status, text = await asyncio.to_thread(self.plane.ask, "GET", path, None, "", False)
        return json.loads(text) if status == 200 else None

    async def until(self, what: str, look: Any, patience: float = 30.0) -> Any:
        """What `look` gives as soon as it gives something."""
        found: Any = None

        async def wait() -> None:
            nonlocal found
            while not (found := await look()):  # noqa: ASYNC110 - what is waited for is another process's
                await asyncio.sleep(0.1)

        try:
            await asyncio.wait_for(wait(), patience)
        except TimeoutError:
            raise AssertionError(f"{what}: not within {patience:g} s; {await self.story()}") from None
        return found

    async def story(self) -> str:
        """What the operator told, for a failed test."""
        events = await self.get(f"/apis/events.k8s.io/v1/namespaces/{self.gefyra}/events")
        told = sorted(
            f"{(one['eventTime'] or one['metadata']['creationTimestamp'])[11:23]} {one['reason']}: {one.get('note', '')}"
            for one in events["items"]
        )
        for kind in ("gefyrabridgemounts", "gefyrabridges"):
            found = await self.get(f"/apis/gefyra.dev/v1/namespaces/{self.gefyra}/{kind}")
            told += [f"{one['metadata']['name']} is {one.get('state')}" for one in found["items"]]
        for pod in (await self.get(f"/api/v1/namespaces/{self.namespace}/pods"))["items"]:
            status = pod.get("status", {})
            told += [file.read_text("utf-8", "replace")[-600:] for file in self.node.path.rglob("carrier.log")]
            told.append(f"pod {pod['metadata']['name']} {pod['spec']['containers'][0]['image']} {status.get('containerStatuses')}")
        return "\n".join([*told, *self.node.errors, *(error for one in self.operators for error in one.errors)])

    # -- workloads

    async def deploy(self, name: str = "web", replicas: int = 2, version: str = "v1", **container: Any) -> None:
        """A Deployment, and its Service."""
        labels = {"app": name}
        env = [{"name": f"IS_{version.upper()}", "value": "yes"}]  # which no other version has
        described = {"name": "web", "image": f"app:{version}", "ports": [{"containerPort": 8080}], "env": env, **container}
        template = {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 3, "containers": [described]}}
        spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
        metadata = {"name": name, "namespace": self.namespace}
        service = {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}
        await self.apply(
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {**metadata, "labels": labels}, "spec": spec},
            {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
        )

    async def selector(self, name: str = "web") -> Any:
        """What a Service selects."""
        return (await self.get(f"/api/v1/namespaces/{self.namespace}/services/{name}"))["spec"]["selector"]

    async def deployment(self, name: str = "web") -> Any:
        return await self.get(f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{name}")

    async def pods(self, shadow: bool = False) -> list[Any]:
        """Those of the workload, or of its shadow, that do not end."""
        found = (await self.get(f"/api/v1/namespaces/{self.namespace}/pods"))["items"]
        found = [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]
        return [pod for pod in found if ("bridge.gefyra.dev/duplication-id" in pod["metadata"]["labels"]) == shadow]

    async def rolled_out(self, name: str = "web", patience: float = 30.0) -> None:
        from carrier.gefyra.clone import is_rolled_out

        async def look() -> bool:
            found = await self.deployment(name)
            return found is not None and is_rolled_out({"kind": "Deployment", **found})

        await self.until(f"{name} is rolled out", look, patience)

    # -- mounts and bridges

    def mount_object(self, name: str = "mount-a", **more: Any) -> dict[str, Any]:
        return {
            "apiVersion": "gefyra.dev/v1",
            "kind": "gefyrabridgemount",
            "metadata": {"name": name, "namespace": self.gefyra},
            "provider": "carrier2mount",
            "targetNamespace": self.namespace,
            "target": "deploy/web",
            "targetContainer": "web",
            **more,
        }

    def bridge_object(self, user: str, mount: str = "mount-a", ports: tuple[str, ...] = ("9001:8080",), **more: Any) -> dict[str, Any]:
        labels = {"gefyra.dev/bridge-mount": mount, "gefyra.dev/client": f"client-{user}"}
        return {
            "apiVersion": "gefyra.dev/v1",
            "kind": "gefyrabridge",
            "metadata": {"name": f"bridge-{user}", "namespace": self.gefyra, "labels": labels},
            "provider": "carrier2",
            "connectionProvider": "stowaway",
            "client": f"client-{user}",
            "targetNamespace": self.namespace,
            "target": mount,
            "targetContainer": "web",
            "destinationIP": "127.0.0.1",
            "portMappings": list(ports),
            "providerParameter": {"rules": [{"match": [{"matchHeader": {"name": "x-user", "value": user, "type": "exact"}}]}]},
            **more,
        }

    async def state(self, kind: str, name: str, state: str, patience: float = 30.0) -> Any:
        """Wait until an object is in a state."""

        async def look() -> Any:
            found = await self.get(f"/apis/gefyra.dev/v1/namespaces/{self.gefyra}/{kind}s/{name}")
            return found if found is not None and found.get("state") == state else None

        return await self.until(f"{kind} {name} is {state}", look, patience)

    async def mount(self, **more: Any) -> Any:
        await self.apply(self.mount_object(**more))
        return await self.state("gefyrabridgemount", "mount-a", "ACTIVE")

    async def bridge(self, user: str, **more: Any) -> Any:
        await self.apply(self.bridge_object(user, **more))
        return await self.state("gefyrabridge", f"bridge-{user}", "ACTIVE")

    async def delete(self, kind: str, name: str) -> None:
        path = f"/apis/gefyra.dev/v1/namespaces/{self.gefyra}/{kind}s/{name}"
        await self.call("DELETE", path)
        await self.until(f"{name} is gone", lambda: self._is_gone(path))

    async def _is_gone(self, path: str) -> bool:
        return await self.get(path) is None

    async def events(self, name: str) -> list[tuple[str, str]]:
        """(reason, note) of what an object's owner was told."""
        found = (await self.get(f"/apis/events.k8s.io/v1/namespaces/{self.gefyra}/events"))["items"]
        return [(one["reason"], one.get("note", "")) for one in found if one["regarding"]["name"] == name]

    async def told(self, name: str, reason: str, patience: float = 15.0, of: str = "") -> str:
        """What was told with this reason, as soon as it is. of: what it names."""

        async def look() -> str | None:
            return next((note for why, note in await self.events(name) if why == reason and of in note), None)

        return str(await self.until(f"{name} is told {reason!r}", look, patience))

    # -- proxies

    async def ctl(self, pod: str, method: str, path: str, body: object = None) -> Any:
        """A call of the REST API in a pod."""
        import carrier.cli.carrierctl as ctl

        socket = str(self.node.named(pod).containers["web"].folder / "carrier2-api.sock")
        data = b"" if body is None else json.dumps(body).encode()
        _, _, text = await asyncio.to_thread(ctl.call, socket, method, path, data)
        return json.loads(text)

    async def bridges(self, pod: str) -> list[str]:
        """The names of the bridges in force in a pod; none: nobody answers."""
        try:
            found = await self.ctl(pod, "GET", "bridges")
        except (OSError, ValueError, LookupError):
            return []
        return sorted(one["name"] for one in found if one["status"]["state"] == "in force")

    async def everywhere(self, *names: str, patience: float = 30.0, replicas: int = 2) -> None:
        """Wait until every pod of the workload has these bridges, and no others."""

        async def look() -> bool:
            pods = await self.pods()
            return len(pods) == replicas and all([await self.bridges(pod["metadata"]["name"]) == sorted(names) for pod in pods])

        await self.until(f"every pod has {names}", look, patience)

    # -- the end

    async def close(self) -> None:
        """Leave nothing that runs."""
        for one in self.operators:
            await one.stop()
        self.operators.clear()
        ask = self.plane.ask
        for kind in ("deployments", "statefulsets"):
            path = f"/apis/apps/v1/namespaces/{self.namespace}/{kind}"
            await asyncio.to_thread(ask, "DELETE", path, {"propagationPolicy": "Background"}, "application/json", False)
        await self.node.stop()
        for pod in (await self.get(f"/api/v1/namespaces/{self.namespace}/pods"))["items"]:
            path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}?gracePeriodSeconds=0"
            await asyncio.to_thread(ask, "DELETE", path, None, "", False)
        shutil.rmtree(self.node.path, ignore_errors=True)


async def _begin(plane: ControlPlane) -> Cluster:
    """A namespace for workloads and one for Gefyra, and a kubelet."""
    number = next(_number)
    for name in (f"shop-{number}", f"gefyra-{number}"):
        await asyncio.to_thread(plane.apply, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    folder = Path(tempfile.mkdtemp(prefix="c2-"))  # short: names of unix sockets have 107 bytes at most
    found = Cluster(plane, Kubelet(plane, folder, f"shop-{number}"), f"shop-{number}", f"gefyra-{number}")
    await found.node.start()
    return found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kube-proxy is to be waited for here, nor a laptop that is not there."""
    monkeypatch.setattr(installing, "ROUTED", 0.2)
    monkeypatch.setattr(installing, "SETTLED", 0.1)
    monkeypatch.setattr(provider, "PATIENCE", 0.2)


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(control_plane: ControlPlane, quick: None) -> AsyncIterator[Cluster]:
    """One of a test's own, with nothing in it."""
    found = await _begin(control_plane)
    try:
        yield found
    finally:
        await found.close()


class Standing:
    """A workload of two pods that is mounted, with its operator: handed from test to test, because one takes seconds to make."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.cluster: Cluster | None = None

    async def take(self) -> Cluster:
        """It, as it is found by everybody: mounted, without bridges. One that a test has left otherwise is made anew."""
        if self.cluster is not None:
            try:
                await self._tidy(self.cluster)
            except (AssertionError, RuntimeError):
                await self.close()
        if self.cluster is None:
            self.cluster = await _begin(self.plane)
            await self.cluster.deploy()
            await self.cluster.operator()
            await self.cluster.mount()
        return self.cluster

    @staticmethod
    async def _tidy(found: Cluster) -> None:
        if not found.operators:
            await found.operator()
        for one in found.operators:
            one.errors.clear()
        found.connection.reach.clear()
        bridges = (await found.get(f"/apis/gefyra.dev/v1/namespaces/{found.gefyra}/gefyrabridges"))["items"]
        await asyncio.gather(*(found.delete("gefyrabridge", one["metadata"]["name"]) for one in bridges))
        path = f"/apis/apps/v1/namespaces/{found.namespace}/deployments/web"
        await found.call("PATCH", path, {"spec": {"replicas": 2}})
        await asyncio.to_thread(found.plane.ask, "DELETE", f"/apis/events.k8s.io/v1/namespaces/{found.gefyra}/events", None, "", False)
        await found.state("gefyrabridgemount", "mount-a", "ACTIVE")
        await found.everywhere()

        async def followed() -> bool:
            return len(await found.pods(shadow=True)) == 2

        await found.until("the shadow has as many pods as its workload", followed)

    async def close(self) -> None:
        """End it."""
        found, self.cluster = self.cluster, None
        if found is not None:
            await found.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def standing(control_plane: ControlPlane) -> AsyncIterator[Standing]:
    found = Standing(control_plane)
    try:
        yield found
    finally:
        await found.close()


@pytest_asyncio.fixture(loop_scope="session")
async def mounted(standing: Standing, quick: None) -> Cluster:
    """A mounted workload of two pods, without bridges."""
    return await standing.take()
