"""A kubelet small enough for a test, towards a real API server: pods run, restart, report and end as they do on a node.

What runs in a container is "the app" (nothing at all) until its image is the proxy's; then it is the image's entry, in a network namespace
of its own, with a folder in place of /tmp that is empty after each restart and one in place of the pod's /dev/shm that is not. The API
server reaches exec here as it does on a node. As on a node, a pod's status lags behind a patch (`lag`) and shows the old container
as ready meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme
import websockets

import carrier.cli.carrierctl
from carrier.gefyra.access import name_of
from tests.cluster.control import ControlPlane

ROOT = Path(__file__).resolve().parents[2]
PROXY = "localhost/carrier2:latest"
ENTRY = ROOT / "deploy" / "image" / "entry"


def why_not() -> str:
    """Why proxies cannot have a network of their own here, as a sentence; "" when they can."""
    if shutil.which("busybox") is None:
        return "busybox is not installed"
    found = subprocess.run([*_apart(), "true"], capture_output=True, check=False)
    return "" if found.returncode == 0 else "no network namespaces can be made here"


def _apart() -> list[str]:
    return ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]


class Container:
    """One container of a pod: what it runs, and what its status says."""

    def __init__(self, pod: Pod, spec: dict[str, Any]) -> None:
        self.pod = pod
        self.name = str(spec["name"])
        self.image = str(spec["image"])
        self.restarts = -1
        self.process: asyncio.subprocess.Process | None = None
        self.broken = False
        self.ready = False
        self.ready_at = 0.0
        self.shown: dict[str, Any] = {}
        self.shows_at = 0.0

    @property
    def folder(self) -> Path:
        return self.pod.folder / self.name

    @property
    def is_proxy(self) -> bool:
        return self.image == self.pod.kubelet.proxy

    def environment(self) -> dict[str, str]:
        """What a process in this container sees."""
        return {
            **os.environ,
            "CARRIER_RUN_DIR": str(self.folder),
            "CARRIER_KEEP_DIR": str(self.pod.folder / "shm"),
            "CARRIER_ACCEPTING": "0",  # no kube-proxy sends anything late
            "CARRIER_PYTHON": sys.executable,
            "CARRIER2": str(ROOT / "carrier" / "gefyra" / "carrier2"),
            "HOSTNAME": self.pod.name,
            "CONTAINER": self.name,
            "PATH": f"{self.pod.kubelet.programs}:{ROOT / 'carrier' / 'gefyra'}:{os.environ['PATH']}",
        }

    async def start(self) -> None:
        """(Re)start it: its files are gone, its status is the old one for a while."""
        await self.stop()
        self.restarts += 1
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        (self.pod.folder / "shm").mkdir(exist_ok=True)
        now = time.monotonic()
        self.ready = False
        self.broken = self.image in self.pod.kubelet.broken
        if self.broken:
            return
        self.ready_at = now + self.pod.kubelet.startup
        self.shows_at = now + (self.pod.kubelet.lag if self.restarts else 0.0)
        self.began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if self.is_proxy:
            self.process = await asyncio.create_subprocess_exec(
                *_apart(),
                *("sh", "-c", 'ip link set lo up 2>/dev/null; exec "$@"', "sh", "busybox", "sh", str(ENTRY)),
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    async def stop(self, grace: float = 0.0) -> None:
        """End it."""
        process, self.process = self.process, None
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if grace:
                process.terminate()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), grace)
            os.killpg(process.pid, 9)
        await process.wait()

    async def look(self) -> None:
        """Restart it when it ended, find out whether it is ready."""
        if self.broken:
            if self.image not in self.pod.kubelet.broken:
                await self.start()
            return
        if self.process is not None and self.process.returncode is not None:
            await self.start()
        if self.is_proxy:
            self.ready = await asyncio.to_thread(self._serves)
        else:
            self.ready = time.monotonic() >= self.ready_at

    def _serves(self) -> bool:
        try:
            status, _, body = carrier.cli.carrierctl.call(str(self.folder / "carrier2-api.sock"), "GET", "listeners", b"")
        except (OSError, ValueError):
            return False
        return status == 200 and any(str(one["name"]).startswith("port/") for one in json.loads(body))

    def status(self) -> dict[str, Any]:
        """Its part of the pod's status."""
        if self.broken:
            state = {"waiting": {"reason": "ImagePullBackOff", "message": self.pod.kubelet.broken.get(self.image, "")}}
            shown = {"name": self.name, "image": self.image, "imageID": "", "restartCount": self.restarts}
            return {**shown, "ready": False, "started": False, "state": state}
        if not self.shown or time.monotonic() >= self.shows_at:
            self.shown = {
                "name": self.name,
                "image": self.image,
                "imageID": f"sha256:{self.image}",
                "containerID": f"containerd://{self.pod.uid}-{self.restarts}",
                "restartCount": self.restarts,
                "ready": self.ready,
                "started": True,
                "state": {"running": {"startedAt": self.began}},
            }
        return self.shown


class Pod:
    """A pod on this node."""

    def __init__(self, kubelet: Kubelet, obj: dict[str, Any]) -> None:
        self.kubelet = kubelet
        self.name = name_of(obj)
        self.namespace = str(obj["metadata"]["namespace"])
        self.uid = str(obj["metadata"]["uid"])
        self.folder = kubelet.path / self.uid[:8]
        self.path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self.containers = {one["name"]: Container(self, one) for one in obj["spec"]["containers"]}
        self.address = f"10.244.0.{next(kubelet.addresses)}"  # nobody calls it, but a Service may not lead to loopback
        self.written: dict[str, Any] = {}
        self.began = False
        self.lock = asyncio.Lock()

    async def sync(self, obj: dict[str, Any]) -> None:
        """Bring the pod to what its object says, and its status to what it is."""
        if obj["metadata"].get("deletionTimestamp"):
            await asyncio.gather(*(one.stop(self.kubelet.grace) for one in self.containers.values()))
            await self.kubelet.ask("DELETE", self.path, {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}})
            return
        for spec in obj["spec"]["containers"]:
            one = self.containers[spec["name"]]
            if one.image != spec["image"] or not self.began:
                one.image = str(spec["image"])
                await one.start()
            await one.look()
        self.began = True
        await self._report()

    async def _report(self) -> None:
        statuses = [one.status() for one in self.containers.values()]
        ready = "True" if all(one["ready"] for one in statuses) else "False"
        conditions = [{"type": kind, "status": ready} for kind in ("Ready", "ContainersReady")]
        found = {"phase": "Running", "podIP": self.address, "containerStatuses": statuses, "conditions": conditions}
        if found != self.written:
            body = {"status": found}
            if (await self.kubelet.ask("PATCH", f"{self.path}/status", body, "application/strategic-merge-patch+json"))[0] == 200:
                self.written = json.loads(json.dumps(found))


class Kubelet:
    """See the module. namespace: whose pods run here; startup: seconds until an app is ready; lag: of a pod's status; grace: seconds to
    end a container in."""

    def __init__(
        self, control: ControlPlane, path: Path, namespace: str, startup: float = 0.2, lag: float = 0.3, grace: float = 1.0
    ) -> None:
        self.control = control
        self.path = path
        self.namespace = namespace
        self.node = f"node-of-{namespace}"
        self.path_of_pods = f"/api/v1/namespaces/{namespace}/pods"
        self.addresses = itertools.cycle(range(1, 255))
        self.changed = asyncio.Event()
        self.changed.set()
        self.startup = startup
        self.lag = lag
        self.grace = grace
        self.proxy = PROXY
        self.broken: dict[str, str] = {}
        """Images that cannot be had, and what a registry says of each."""
        self.pods: dict[str, Pod] = {}
        self.execs: list[tuple[str, list[str]]] = []
        """(pod, command) of every exec."""
        self.inside: set[asyncio.subprocess.Process] = set()
        """What execs run."""
        self.errors: list[str] = []
        self.programs = path / "programs"
        self.task: asyncio.Task[None] | None = None
        self.busy: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Serve exec, and become a node."""
        self.programs.mkdir(parents=True)
        ctl = self.programs / "carrierctl"
        ctl.write_text(f'#!/bin/sh\nexec {sys.executable} -ISB {carrier.cli.carrierctl.__file__} "$@"\n')
        ctl.chmod(0o755)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
        self.server = await websockets.serve(
            self._exec, "127.0.0.1", 0, ssl=context, subprotocols=[websockets.Subprotocol("v4.channel.k8s.io")], compression=None
        )
        port = next(iter(self.server.sockets)).getsockname()[1]
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node}}
        await self.ask("POST", "/api/v1/nodes", node)
        address = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}
        await self.ask("PATCH", f"/api/v1/nodes/{self.node}/status", {"status": address}, "application/merge-patch+json")
        loop = asyncio.get_running_loop()
        self.unwatch = self.control.watch(self.path_of_pods, lambda: loop.call_soon_threadsafe(self.changed.set))
        self.task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End everything that runs here."""
        self.unwatch()
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, *self.busy.values(), return_exceptions=True)
        for pod in self.pods.values():
            for one in pod.containers.values():
                await one.stop()
        for process in self.inside:
            with contextlib.suppress(ProcessLookupError):
                process.kill()  # who calls again and again keeps his exec for a while
        for peer in self.server.connections:
            peer.transport.abort()  # the API server answers no farewell
        self.server.close()
        await self.server.wait_closed()

    async def ask(self, method: str, path: str, body: object = None, content: str = "application/json") -> tuple[int, bytes]:
        return await asyncio.to_thread(self.control.ask, method, path, body, content, False)

    async def _run(self) -> None:
        found: dict[str, Any] = {}
        while True:
            if self.changed.is_set():
                self.changed.clear()
                status, text = await self.ask("GET", self.path_of_pods)
                found = {one["metadata"]["uid"]: one for one in json.loads(text)["items"]} if status == 200 else found
            for uid, obj in found.items():
                if uid not in self.pods:
                    self.pods[uid] = Pod(self, obj)
                if uid not in self.busy or self.busy[uid].done():
                    self.busy[uid] = asyncio.create_task(self._sync(self.pods[uid], obj))
            for uid in self.pods.keys() - found.keys():
                if uid not in self.busy or self.busy[uid].done():
                    gone = self.pods.pop(uid)
                    await asyncio.gather(*(one.stop() for one in gone.containers.values()))
            await asyncio.sleep(0.1)

    async def _sync(self, pod: Pod, obj: dict[str, Any]) -> None:
        if not obj["spec"].get("nodeName"):
            target = {"apiVersion": "v1", "kind": "Node", "name": self.node}
            body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod.name}, "target": target}
            await self.ask("POST", f"{pod.path}/binding", body)
            return
        try:
            await pod.sync(obj)
        except Exception as exc:
            self.errors.append(f"{pod.name}: {exc!r}")

    def named(self, name: str) -> Pod:
        """A pod by its name."""
        found = [pod for pod in self.pods.values() if pod.name == name]
        if not found:
            raise LookupError(f"pod {name} does not run yet")
        return found[0]

    async def kill(self, pod: str, container: str = "web") -> None:
        """What `kill 1` in a container does."""
        process = self.named(pod).containers[container].process
        assert process is not None
        os.killpg(process.pid, 9)

    # ------------------------------------------------------------------ exec

    async def _exec(self, peer: websockets.ServerConnection) -> None:
        """One exec in a container, over the channels of v4.channel.k8s.io: 0 input, 1 output, 2 errors, 3 how it ended."""
        split = urlsplit(peer.request.path if peer.request is not None else "")
        _, namespace, pod, name = split.path.strip("/").split("/")[:4]
        query = parse_qs(split.query)
        command = query.get("command", [])
        self.execs.append((pod, command))
        container = next((p.containers.get(name) for p in self.pods.values() if (p.namespace, p.name) == (namespace, pod)), None)
        if container is None or container.process is None or container.process.returncode is not None:
            await self._ended(peer, f'exec failed: "{command[0]}": executable file not found in $PATH')
            return
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=-1, stdout=-1, stderr=-1, env=container.environment(), cwd=container.folder
            )
        except Exception as exc:
            await self._ended(peer, f"exec failed: {exc}")
            return
        self.inside.add(process)
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        stdin = process.stdin
        if "input" not in query and "stdin" not in query:
            stdin.close()
        feeding = asyncio.create_task(self._feed(peer, stdin))
        with contextlib.suppress(websockets.ConnectionClosed):
            await asyncio.gather(self._pass(peer, 1, process.stdout), self._pass(peer, 2, process.stderr))
            status = await process.wait()
            await self._ended(peer, "" if status == 0 else f"command terminated with exit code {status}", status)
        feeding.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()
        self.inside.discard(process)

    async def _feed(self, peer: websockets.ServerConnection, stdin: asyncio.StreamWriter) -> None:
        with contextlib.suppress(websockets.ConnectionClosed, ConnectionError):
            async for message in peer:
                data = message if isinstance(message, bytes) else message.encode()
                if data[:1] == b"\0" and not stdin.is_closing():
                    stdin.write(data[1:])
                    await stdin.drain()

    async def _pass(self, peer: websockets.ServerConnection, channel: int, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(4096):
            await peer.send(bytes([channel]) + data)

    async def _ended(self, peer: websockets.ServerConnection, message: str, status: int = 1) -> None:
        found: dict[str, Any] = {"metadata": {}, "status": "Failure" if message else "Success"}
        if message:
            causes = [{"reason": "ExitCode", "message": str(status)}]
            found |= {"message": message, "reason": "NonZeroExitCode", "details": {"causes": causes}}
        with contextlib.suppress(websockets.ConnectionClosed):
            await peer.send(b"\x03" + json.dumps(found).encode())
            await peer.close()
