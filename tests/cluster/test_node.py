"""End to end on a whole node, under constant requests of three kinds: what users see while mounts and bridges come and go.

`make cluster-test NODE=1` runs it, as root, in a network of its own, with our image as `make image` built it.
"""

import asyncio
import contextlib
import os
import shutil
import ssl
import tempfile
import time
from pathlib import Path

import kubernetes
import pytest
import trustme

from carrier.gefyra.access import Fleet, is_ready, run_of
from carrier.gefyra.connection import LABELS, Destinations
from carrier.gefyra.kubernetes import KubernetesAccess
from tests.cluster import gefyra
from tests.cluster.control import encoded
from tests.cluster.node import LAPTOPS, Node, why_not_a_node
from tests.cluster.onnode import Datagrams, Gate, Kept, OnNode, constant, environment_of, first_processes, nothing_lost

REASON = "a node is asked for by `make cluster-test NODE=1`" if not os.environ.get("CARRIER_NODE") else why_not_a_node()
pytestmark = [
    pytest.mark.skipif(bool(REASON), reason=REASON or "none"),
    pytest.mark.timeout(400),
    pytest.mark.xdist_group("node"),
]


@pytest.fixture(scope="module")
def node():
    folder = Path(tempfile.mkdtemp(prefix="carrier2-"))
    plane = Node(folder, os.environ.get("CARRIER_IMAGE", "localhost/carrier2") + ":latest")
    try:
        plane.start()
        plane.write_kubeconfig(folder / "operator", gefyra.install(plane))
        yield plane
    finally:
        plane.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Nodeless:
    """There is a kubelet."""

    errors: list = []
    path = Path("/nonexistent")


@pytest.fixture
async def cluster(node):
    namespace = f"shop-{time.monotonic_ns() % 1_000_000}"
    node.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    found = OnNode(node, Nodeless(), namespace)
    try:
        yield found
    finally:
        for one in found.operators:
            await one.stop()
        for kind in ("gefyrabridges", "gefyrabridgemounts"):
            path = f"/apis/gefyra.dev/v1/namespaces/gefyra/{kind}"
            for obj in node.call("GET", path)["items"]:
                own = f"{path}/{obj['metadata']['name']}"
                node.ask("PATCH", own, {"metadata": {"finalizers": None}}, "application/merge-patch+json", False)
                node.ask("DELETE", own, None, "", False)
        for path in (f"/apis/apps/v1/namespaces/{namespace}/deployments", f"/api/v1/namespaces/{namespace}/pods"):
            node.ask("DELETE", f"{path}?gracePeriodSeconds=1", None, "", False)
        node.ask("DELETE", f"/api/v1/namespaces/{namespace}", None, "", False)
        with contextlib.suppress(AssertionError):  # what is left takes the next one's processor
            await asyncio.to_thread(node.until, "no pod is left", lambda: not node.call("GET", "/api/v1/pods")["items"], 30)
        for process in found.laptops.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def test_nobody_notices_a_mount_its_bridges_a_rollout_a_restart_and_the_end(cluster, record_property):
    told = {}
    await cluster.deploy()
    await cluster.rolled_out()
    for user in ("alice", "bob"):
        await cluster.laptop(user, 9001)
    operator = await cluster.operator(connection=Gate(cluster.plane))
    requests = await constant(cluster)

    began = time.monotonic()
    await cluster.mount()
    told["mount"] = round(time.monotonic() - began, 2)
    notes = [note for reason, note in await cluster.events("mount-a") if reason == "Proxy installed"]
    told["pods did not serve for"] = [float(note.rpartition(" for ")[2].removesuffix(" s")) for note in notes]
    await nothing_lost(cluster, requests, began, told)

    for user in ("alice", "bob"):
        began = time.monotonic()
        await cluster.bridge(user)
        told[f"{user} active"] = round(time.monotonic() - began, 2)
        told[f"{user} matched"] = await requests.until(user, user, began)

    rolled = time.monotonic()
    await cluster.deploy(version="v2")
    await asyncio.sleep(1)
    await cluster.rolled_out()
    began = time.monotonic()
    told["bridges after a rollout"] = max([await requests.until(user, user, began) for user in ("alice", "bob")])
    await nothing_lost(cluster, requests, rolled, told)
    # A kube-proxy leads to pods that end for a second more, and those answer.
    assert {version for _, kind, _, version in requests.since(began + 1.5) if kind == "nobody"} == {"v2"}

    pod = (await cluster.pods())[0]["metadata"]["name"]
    await operator.stop()
    cluster.operators.clear()
    began = time.monotonic()
    (process,) = [one for one in first_processes() if one[1] == "carrier2-entry" and pod in environment_of(one[0])]
    os.kill(process[0], 15)
    await asyncio.sleep(8)
    gone = requests.lost(began)
    told["container restart, seconds without one of two pods"] = round(gone[-1][0] - gone[0][0], 2) if gone else 0.0
    assert not gone or gone[-1][0] - gone[0][0] < 3
    assert {who for _, kind, who, _ in requests.since(began) if kind == "alice"} <= {"alice", *(one[2] for one in gone)}

    again = await cluster.operator(connection=operator.connection)
    began = time.monotonic()
    await cluster.delete("gefyrabridge", "bridge-bob")
    told["bridge deleted, by an operator that has just begun"] = await requests.until("bob", "app", began)
    await cluster.bridge("bob")
    await requests.until("bob", "bob", time.monotonic())
    began = time.monotonic()
    await cluster.delete("gefyrabridge", "bridge-bob")
    told["bridge deleted"] = await requests.until("bob", "app", began)

    began = time.monotonic()
    await cluster.delete("gefyrabridgemount", "mount-a")
    told["mount removed"] = round(time.monotonic() - began, 2)
    await requests.until("alice", "app", began)
    await asyncio.sleep(2)
    requests.seen = requests.since(began)
    await nothing_lost(cluster, requests, began, told)
    assert again.errors == []
    requests.task.cancel()
    told["requests"] = len(requests.seen)
    record_property("figures", told)
    print(told)


async def test_three_pods_twenty_bridges_and_a_laptop_that_dies_and_returns(cluster):
    await cluster.deploy(replicas=3)
    await cluster.rolled_out()
    laptop = await cluster.laptop("alice", 9001)
    operator = await cluster.operator(connection=Gate(cluster.plane))
    requests = await constant(cluster, 0.1)
    await cluster.mount()
    await cluster.bridge("alice")
    began = time.monotonic()
    await requests.until("alice", "alice", began)
    users = [f"user{i:02}" for i in range(20)]
    await cluster.laptop("others", "9100-9119")
    began = time.monotonic()
    await cluster.apply(*(cluster.bridge_object(user, ports=(f"{9100 + i}:8080",)) for i, user in enumerate(users)))
    for user in users:
        await cluster.state("gefyrabridge", f"bridge-{user}", "ACTIVE", 60)
    print("twenty bridges", round(time.monotonic() - began, 2))
    laptop.kill()
    await laptop.wait()
    began = time.monotonic()
    await requests.until("alice", "app", began)
    await cluster.laptop("alice", 9001)
    began = time.monotonic()
    assert await requests.until("alice", "alice", began) < 8  # a probe a second, and ten requests in a row
    await nothing_lost(cluster, requests, began, {})
    assert operator.errors == []
    requests.task.cancel()


async def test_a_lone_pod_loses_nothing_either(cluster):
    """Nor does the only one of a workload that serves without a readiness probe: its kubelet calls it ready as soon as it runs."""
    await cluster.deploy(replicas=1, readinessProbe=None)
    await cluster.rolled_out()
    operator = await cluster.operator(connection=Gate(cluster.plane))
    requests = await constant(cluster)
    for _ in range(2):
        began = time.monotonic()
        await cluster.mount()
        await asyncio.sleep(2)
        await cluster.delete("gefyrabridgemount", "mount-a")
        await asyncio.sleep(2)
        await nothing_lost(cluster, requests, began, {})
    assert operator.errors == []
    requests.task.cancel()


async def test_a_hardened_pod_with_a_hook_an_init_container_and_a_sidecar_is_bridged_and_ends_when_it_is_told_to(cluster):
    await cluster.deploy()
    tight = {"runAsNonRoot": True, "runAsUser": 1000, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False}
    web = {
        "name": "web",
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "sleep 2"]}}},
        "securityContext": {**tight, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        "ports": [{"name": "web", "containerPort": 8080}],
    }
    own = {"image": "localhost/app:1", "imagePullPolicy": "Never"}
    pod = {
        "terminationGracePeriodSeconds": 300,
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "initContainers": [{"name": "init", **own, "command": ["/opt/carrier/bin/python", "-c", "pass"]}],
        "containers": [{"name": "beside", **own, "args": [":7070", "beside"]}, web],
    }
    path = f"/apis/apps/v1/namespaces/{cluster.namespace}/deployments/web"
    await cluster.call("PATCH", path, {"spec": {"template": {"spec": pod}}}, "application/strategic-merge-patch+json")
    ports = {"spec": {"ports": [{"port": 80, "targetPort": "web"}]}}
    path = f"/api/v1/namespaces/{cluster.namespace}/services/web"
    await cluster.call("PATCH", path, ports, "application/strategic-merge-patch+json")
    await cluster.rolled_out()
    await cluster.until("its Service leads to its pods", cluster.routed)
    await cluster.laptop("alice", 9001)
    operator = await cluster.operator(connection=Gate(cluster.plane))
    requests = await constant(cluster)
    began = time.monotonic()
    await cluster.mount()
    await cluster.bridge("alice")
    await requests.until("alice", "alice", time.monotonic())
    await cluster.delete("gefyrabridgemount", "mount-a")

    async def gone():
        pods = (await cluster.get(f"/api/v1/namespaces/{cluster.namespace}/pods"))["items"]
        return not any(pod["metadata"].get("deletionTimestamp") for pod in pods)

    await cluster.until("nobody is left who does not end", gone)
    await requests.until("alice", "app", began)
    await nothing_lost(cluster, requests, began, {})
    assert operator.errors == []
    requests.task.cancel()


async def test_tls_from_a_secret_is_served_by_every_pod(cluster):
    authority = trustme.CA()
    made = authority.issue_cert("web.test")
    data = {"tls.crt": encoded(made.cert_chain_pems[0].bytes().decode()), "tls.key": encoded(made.private_key_pem.bytes().decode())}
    metadata = {"name": "tls", "namespace": cluster.namespace}
    await cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})
    await cluster.deploy(replicas=1, readinessProbe=None)
    await cluster.rolled_out()
    await cluster.operator(connection=Gate(cluster.plane))
    tls = {key: {"secret": {**metadata, "key": f"tls.{end}"}} for key, end in (("certificate", "crt"), ("key", "key"))}
    await cluster.mount(providerParameter={"8080": {"tls": tls}})
    context = ssl.create_default_context()
    authority.configure_trust(context)
    _, writer = await asyncio.open_connection(await cluster.address(), 80, ssl=context, server_hostname="web.test")
    assert writer.get_extra_info("peercert")["subjectAltName"] == (("DNS", "web.test"),)
    writer.close()


@pytest.mark.skipif(
    not os.environ.get("CARRIER_GEFYRA"), reason="level 1 needs Gefyra's own operator: `make cluster-test NODE=1 GEFYRA=FOLDER`"
)
async def test_bridges_of_level_1_go_on_at_level_2_and_back(cluster, node):
    await cluster.deploy()
    await cluster.rolled_out()
    for user in ("alice", "bob"):
        await cluster.laptop(user, 9001)
    await cluster.operator(level=1)
    await cluster.mount()
    for user in ("alice", "bob"):
        await cluster.bridge(user)
    requests = await constant(cluster)
    kubernetes.config.load_kube_config(str(node.path / "operator"))
    for level in (2, 1):
        await cluster.operators.pop().stop()
        began = time.monotonic()
        operator = await cluster.operator(level=level)
        answers = []

        async def led(level=level, answers=answers):
            answers[:] = await Fleet(KubernetesAccess(), await cluster.pods(), "web").call("GET", "mount")
            return all(one.good and one.body["mounted"] == (level == 2) for one in answers)

        if level == 2:
            await cluster.until("every pod is led by our provider", led)
            print("taken over", round(time.monotonic() - began, 2))
        await asyncio.sleep(12)  # the operator's own looks begin as soon as it runs
        for user in ("alice", "bob"):
            found = await cluster.state("gefyrabridge", f"bridge-{user}", "ACTIVE")
            assert "ERROR" not in found["stateTransitions"]
            assert {who for _, kind, who, _ in requests.since(began) if kind == user} == {user}
        await nothing_lost(cluster, requests, began, {"level": level})
        assert operator.errors == []
    requests.task.cancel()


@pytest.mark.skipif(bool(os.environ.get("CARRIER_GEFYRA")), reason="Gefyra's operator has Stowaway")
async def test_two_users_laptops_are_reached_by_tcp_and_udp_and_neither_notices_the_other(cluster, node):
    """The connection provider: a proxy of ours with destinations for both, through whose Services the bridges lead."""
    kubernetes.config.load_kube_config(str(node.path / "operator"))
    access = KubernetesAccess()
    labels = {"app": "gate"}
    gate = {"name": "gate", "image": "localhost/carrier2:latest", "imagePullPolicy": "Never"}
    template = {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [gate]}}
    metadata = {"name": "gate", "namespace": "gefyra"}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    await cluster.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})

    async def gates():
        return [pod for pod in await access.list("Pod", "gefyra", labels) if is_ready(pod, "gate")]

    await cluster.until("the gate runs", gates)
    destinations = Destinations(access, gates, "gate", labels)
    await cluster.deploy(replicas=1, ports=[{"containerPort": 8080}, {"containerPort": 5300, "protocol": "UDP"}])
    await cluster.rolled_out()
    for user in ("alice", "bob"):
        await cluster.laptop(user, 9001)
    operator = await cluster.operator(connection=destinations)
    requests = await constant(cluster)
    await cluster.mount()
    began = time.monotonic()
    await cluster.bridge("alice")
    udp = cluster.bridge_object("alice", ports=("9001:5300",), providerParameter={"type": "stream"})
    udp["metadata"]["name"] = "bridge-datagrams"
    await cluster.apply(udp)
    await cluster.state("gefyrabridge", "bridge-datagrams", "ACTIVE")
    print("alice by TCP", await requests.until("alice", "alice", began))
    (pod,) = await cluster.pods()
    datagrams = Datagrams(pod["status"]["podIP"], 5300)
    await cluster.until("alice by UDP", datagrams.answered_by("alice"))
    kept = await Kept.open(await cluster.address(), "alice")
    began, (before,) = time.monotonic(), await gates()
    await cluster.bridge("bob")
    print("bob by TCP", await requests.until("bob", "bob", began))
    await cluster.delete("gefyrabridge", "bridge-bob")
    print("bob gone", await requests.until("bob", "app", time.monotonic()))
    assert await kept.asked() > 5  # one connection all the time
    assert datagrams.others() == []
    (after,) = await gates()
    assert run_of(after, "gate") == run_of(before, "gate")
    assert {one["metadata"]["annotations"]["gefyra.dev/destination"] for one in await access.list("Service", "gefyra", LABELS)} == {
        f"{LAPTOPS[1]}:9001"  # one, for both of alice's bridges
    }
    await nothing_lost(cluster, requests, began, {})
    await cluster.delete("gefyrabridge", "bridge-datagrams")
    await cluster.until("the app by UDP", datagrams.answered_by("app"))
    assert await requests.until("alice", "alice", time.monotonic()) < 5  # her other bridge leads there still
    assert operator.errors == []
    for task in (requests.task, kept.task, datagrams.task):
        task.cancel()
    await cluster.call("DELETE", "/apis/apps/v1/namespaces/gefyra/deployments/gate")


async def test_what_cannot_start_is_told_in_the_words_of_scheduler_and_kubelet_and_costs_nobody_a_request(cluster):
    await cluster.deploy(replicas=1, resources={"requests": {"cpu": f"{600 * (os.cpu_count() or 1)}m"}})
    await cluster.rolled_out()
    operator = await cluster.operator(connection=Gate(cluster.plane), image="localhost/none")
    requests = await constant(cluster)
    began = time.monotonic()
    await cluster.apply(cluster.mount_object())
    told = {"shadow": await cluster.told("mount-a", "Shadow not ready")}
    assert "no node takes it: Unschedulable" in told["shadow"]
    assert "Insufficient cpu" in told["shadow"]
    await cluster.deploy(replicas=1)  # which asks for less: its shadow is made anew
    await cluster.rolled_out()
    await cluster.until("its Service leads to it, and to no pod of before", cluster.routed)
    requests.begin()  # the app ends as soon as it is told to, and whoever was led to it then was lost by its own rollout
    told["proxy"] = await cluster.told("mount-a", "Failed to install GefyraBridgeMount")
    assert "which has its own image back" in told["proxy"]
    assert "its image localhost/none:latest cannot be had: ErrImageNeverPull" in told["proxy"]
    (pod,) = await cluster.pods()
    assert pod["spec"]["containers"][0]["image"] == "localhost/app:1"
    told["back"] = await cluster.told("mount-a", "Services lead back")
    await asyncio.sleep(3)
    await nothing_lost(cluster, requests, began, told)
    print(told)
    assert operator.errors == []
    requests.task.cancel()


async def test_a_mount_keeps_up_with_an_autoscaler(cluster):
    """Whatever scales the workload scales its shadow, too; without metrics it holds the number of pods between its limits."""
    await cluster.deploy(replicas=1)
    await cluster.rolled_out()
    metric = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    kind = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "scaler", "namespace": cluster.namespace},
    }
    spec = {"scaleTargetRef": reference, "minReplicas": 1, "maxReplicas": 4, "metrics": [metric]}
    await cluster.apply({**kind, "spec": spec})
    operator = await cluster.operator(connection=Gate(cluster.plane))
    requests = await constant(cluster)
    began = time.monotonic()
    await cluster.mount()
    await cluster.apply({**kind, "spec": {**spec, "minReplicas": 2}})

    async def scaled():
        pods = await cluster.pods()
        return len(pods) == 2 and all(pod["spec"]["containers"][0]["image"].startswith("localhost/carrier2") for pod in pods)

    await cluster.until("two pods run the proxy", scaled)
    await cluster.until("so has the shadow", lambda: shadows(cluster, 2))
    await asyncio.sleep(2)
    await nothing_lost(cluster, requests, began, {})
    assert operator.errors == []
    requests.task.cancel()


async def shadows(cluster, count):
    return len(await cluster.pods(shadow=True)) == count
