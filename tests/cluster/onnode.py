"""What tests on a whole node have in common: a cluster with real pods and laptops, and constant requests of three kinds to judge it by."""

import asyncio
import contextlib
import itertools
import json
import os
import re
import socket
import sys
import time
from pathlib import Path

from tests.cluster.conftest import Cluster
from tests.cluster.node import APP, LAPTOPS
from tests.cluster.operator import Stowaway
from tests.cluster.upstream import Upstream

KINDS = ("nobody", "alice", "bob")


class Gate(Stowaway):
    """Destinations as they are on a cluster: a Service for each, which leads to the laptop. They stay when a test is over, so they are
    called otherwise than those of the connection provider."""

    def __init__(self, plane):
        super().__init__()
        self.plane = plane

    async def add_destination(self, peer_id, destination_ip, destination_port):
        port = 10_000 + len(self.known)
        name = f"gate-{port}"
        metadata = {"name": name, "namespace": "gefyra"}
        part = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": destination_port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [destination_ip], "conditions": {"ready": True}}],
        }
        service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": port}]}}
        await asyncio.to_thread(self.plane.apply, service, part)
        where = self.known[peer_id, destination_ip, destination_port] = f"{name}.gefyra.svc.cluster.local:{port}"
        return where


class Requests:
    """Constant requests of three kinds to a Service, each on a connection of its own: (moment, kind, who answered, version)."""

    def __init__(self, host, port=80, pause=0.05):
        self.host, self.port, self.pause = host, port, pause
        self.seen = []
        self.begun = 0.0
        """Those that began before (monotonic seconds) do not count."""
        self.task = asyncio.create_task(self._run())

    def begin(self):
        """Only what begins from now on counts: who asked before the Service was routed may still wait to be told so."""
        self.begun = time.monotonic()
        self.seen.clear()

    async def _run(self):
        running = set()
        while True:
            for kind in KINDS:
                task = asyncio.create_task(self._one(kind))
                running.add(task)
                task.add_done_callback(running.discard)
            await asyncio.sleep(self.pause)

    async def _one(self, kind):
        at = time.monotonic()
        try:
            async with asyncio.timeout(4):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                writer.write(f"GET /p HTTP/1.1\r\nhost: web\r\nx-user: {kind}\r\nconnection: close\r\n\r\n".encode())
                head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
                writer.close()
            status = head.split(b" ")[1:2]
            found = json.loads(body) if status == [b"200"] else {"who": f"status {status}"}
        except (OSError, TimeoutError, ValueError) as exc:
            found = {"who": f"lost: {type(exc).__name__}"}
        if at >= self.begun:
            self.seen.append((at, kind, found["who"], found.get("version", "")))

    def since(self, moment):
        return [one for one in self.seen if one[0] >= moment]

    def lost(self, moment=0.0):
        return [one for one in self.since(moment) if one[2] not in ("app", "alice", "bob")]

    async def until(self, kind, who, moment, patience=20.0):
        """Seconds after a moment until requests of a kind were answered by somebody, and by nobody else any more (for ten of them)."""
        deadline = time.monotonic() + patience
        while True:
            found = [one for one in self.since(moment) if one[1] == kind]
            last = next((i for i in range(len(found) - 1, -1, -1) if found[i][2] != who), -1)
            if len(found) - last > 10:
                return round(found[last + 1][0] - moment, 2)
            assert time.monotonic() < deadline, f"{kind} is not answered by {who}: {found[-3:]}"
            await asyncio.sleep(0.05)


class Datagrams:
    """Constant datagrams from one socket: who answered each, or nobody within a second."""

    def __init__(self, host, port):
        self.who = []
        self.task = asyncio.create_task(self._run(host, port))

    async def _run(self, host, port):
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.setblocking(False)
            peer.connect((host, port))
            for number in itertools.count():
                try:
                    await loop.sock_sendall(peer, b"%d" % number)
                    async with asyncio.timeout(1):
                        while True:
                            who, _, data = (await loop.sock_recv(peer, 2048)).decode().partition(" ")
                            if data == str(number):
                                break
                except OSError as exc:
                    who = type(exc).__name__
                self.who.append(who)
                await asyncio.sleep(0.05)

    def answered_by(self, who):
        """Waited for by `until`: the last five were."""

        async def look():
            return self.who[-5:] == [who] * 5

        return look

    def others(self):
        """Who else has answered since the first of whoever answered last."""
        last = self.who[-1]
        return [one for one in self.who[self.who.index(last) :] if one != last]


class Kept:
    """Requests of a user on one connection, as long as it lasts."""

    @classmethod
    async def open(cls, host, user):
        found = cls()
        found.answers = []
        found.streams = await asyncio.open_connection(host, 80)
        found.task = asyncio.create_task(found._run(user))
        return found

    async def _run(self, user):
        reader, writer = self.streams
        while True:
            writer.write(f"GET / HTTP/1.1\r\nhost: web\r\nx-user: {user}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.partition(b"content-length:")[2].split()[0])
            self.answers.append(json.loads(await reader.readexactly(size))["who"])
            assert self.answers[-1] == user
            await asyncio.sleep(0.1)

    async def asked(self):
        """How often by now; raises what ended it."""
        if self.task.done():
            self.task.result()
        return len(self.answers)


class OnNode(Cluster):
    """The cluster of a test, with real pods, which take their time on a busy machine: how long is told, and not judged here."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.laptops = {}

    async def operator(self, **more):
        """Our double; Gefyra's own where its source is at hand."""
        if not os.environ.get("CARRIER_GEFYRA"):
            return await super().operator(**more)
        found = Upstream(self.plane, self.plane.path / "operator", **more)
        await found.start()
        self.operators.append(found)
        return found

    async def until(self, what, look, patience=30.0):
        return await super().until(what, look, max(patience, 120.0))

    async def deploy(self, name="web", replicas=2, version="v1", **container):
        probe = {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 1}
        await super().deploy(
            name,
            replicas,
            version,
            **{
                "image": "localhost/app:1",
                "imagePullPolicy": "Never",
                "env": [{"name": "VERSION", "value": version}],
                "readinessProbe": probe,
                "livenessProbe": {"httpGet": {"path": "/live", "port": 9090}, "periodSeconds": 5},
                "resources": {"requests": {"cpu": "100m"}},  # who asks for nothing has a five-hundredth of what others have
                **container,
            },
        )

    async def address(self, name="web"):
        return (await self.get(f"/api/v1/namespaces/{self.namespace}/services/{name}"))["spec"]["clusterIP"]

    async def routed(self, name="web"):
        """Do this node's rules lead the Service to the pods that there are by now, and to no other?"""
        rules = await asyncio.create_subprocess_exec("iptables-save", "-t", "nat", stdout=asyncio.subprocess.PIPE)
        own = re.compile(rf'--comment "?{self.namespace}/{name}[": ].*--to-destination ([0-9.]+):')
        led = {found[1] for found in map(own.search, (await rules.communicate())[0].decode().splitlines()) if found}
        return led == {pod["status"].get("podIP") for pod in await self.pods()}

    async def laptop(self, user, port):
        """Start one; ends with the test. port: several as FIRST-LAST."""
        process = await asyncio.create_subprocess_exec(sys.executable, str(APP), f"{address_of(user)}:{port}", user)
        self.laptops[user] = process
        return process

    def bridge_object(self, user, mount="mount-a", ports=("9001:8080",), **more):
        return super().bridge_object(user, mount, ports, destinationIP=address_of(user), **more)


def address_of(user):
    """Of a user's laptop; whoever sends no constant requests shares one."""
    return LAPTOPS[KINDS.index(user)] if user in KINDS else LAPTOPS[-1]


async def constant(cluster, pause=0.05):
    """Requests from when the Service is routed on."""
    found = Requests(await cluster.address(), pause=pause)
    await found.until("nobody", "app", time.monotonic())
    found.begin()
    return found


async def nothing_lost(cluster, requests, began, told):
    """Not one request; else which, when after a moment (on the clock, too), and what was told meanwhile.

    A machine that is busy with more than twice what it can do has a kube-proxy that is seconds late: there it is told and not judged.
    """
    lost = [(round(at - began, 2), kind, who) for at, kind, who, _ in requests.lost()]
    at = time.strftime("%H:%M:%S", time.gmtime(time.time() - time.monotonic() + began))
    if lost and os.getloadavg()[0] > 2 * (os.cpu_count() or 1):
        print(f"not judged, the machine is busy: {len(lost)} of {len(requests.seen)} requests lost: {lost[:10]}")
        requests.seen = [one for one in requests.seen if one[2] in ("app", "alice", "bob")]
        return
    assert lost == [], f"{lost}\n{told}, begun at {at}\n{await cluster.story()}"


def first_processes():
    """(number, name) of every process; the name of those that are a container's first one of ours."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                yield int(entry.name), next((w.decode() for w in words if w.endswith(b"carrier2-entry")), "").rpartition("/")[2]


def environment_of(number):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{number}/environ").read_text("utf-8", "replace")
    return ""
