"""What goes wrong with mounts on a real API server, and where their owners read why; workloads of other kinds, and ends at bad moments."""

import asyncio

import pytest

from carrier.gefyra import installing, shadow
from tests.cluster.kubelet import PROXY

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("cluster"), pytest.mark.asyncio(loop_scope="session")]


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(shadow, "WAITED", 2.0)
    monkeypatch.setattr(installing, "STUCK", 0.5)


def images(pods, container="web"):
    return [one["image"] for pod in pods for one in pod["spec"]["containers"] if one["name"] == container]


@pytest.mark.parametrize("cure", ["the image is there", "the workload has another"])
async def test_a_shadow_whose_image_cannot_be_had_is_told_and_the_mount_goes_on_when_it_can(cluster, soon, cure):
    await cluster.deploy(replicas=1)
    await cluster.rolled_out()
    cluster.node.broken["app:v1"] = "not found"  # by nobody who does not have it already
    operator = await cluster.operator()
    await cluster.apply(cluster.mount_object())
    note = await cluster.told("mount-a", "Shadow not ready")
    assert "the shadow of deploy/web does not serve yet: pod web-gefyra-" in note
    assert "container web: its image app:v1 cannot be had: ImagePullBackOff: not found" in note
    assert images(await cluster.pods()) == ["app:v1"]
    if cure == "the image is there":
        cluster.node.broken.clear()
    else:
        await cluster.deploy(replicas=1, version="v2")
    await cluster.state("gefyrabridgemount", "mount-a", "ACTIVE")
    assert [reason for reason, _ in await cluster.events("mount-a")].count("Shadow not ready") == 1
    assert operator.errors == []


async def test_a_quota_that_has_no_place_for_the_shadow_is_told(cluster, soon):
    await cluster.deploy(replicas=1)
    await cluster.rolled_out()
    quotas = f"/api/v1/namespaces/{cluster.namespace}/resourcequotas"
    metadata = {"name": "small", "namespace": cluster.namespace}
    await cluster.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": {"pods": "1"}}})
    await cluster.call("PATCH", f"{quotas}/small/status", {"status": {"hard": {"pods": "1"}, "used": {"pods": "1"}}})
    await cluster.operator()
    await cluster.apply(cluster.mount_object())
    note = await cluster.told("mount-a", "Shadow not ready")
    assert "its pods cannot be made" in note
    assert "exceeded quota: small" in note


async def test_a_quota_is_told_of_a_stateful_set_too_whose_status_does_not_say_it(cluster, soon):
    await stateful(cluster)
    quotas = f"/api/v1/namespaces/{cluster.namespace}/resourcequotas"
    metadata = {"name": "small", "namespace": cluster.namespace}
    await cluster.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": {"pods": "2"}}})
    await cluster.call("PATCH", f"{quotas}/small/status", {"status": {"hard": {"pods": "2"}, "used": {"pods": "2"}}})
    await cluster.operator()
    await cluster.apply(cluster.mount_object(target="sts/web"))
    assert "exceeded quota: small" in await cluster.told("mount-a", "Shadow not ready")


async def test_a_proxy_that_cannot_be_pulled_leaves_every_pod_its_app(cluster, soon):
    await cluster.deploy()
    await cluster.rolled_out()
    cluster.node.broken[PROXY] = "no such host"
    await cluster.operator()
    await cluster.apply(cluster.mount_object())
    note = await cluster.told("mount-a", "Failed to install GefyraBridgeMount")
    assert "the proxy cannot start in pod web-" in note
    assert f"its image {PROXY} cannot be had: ImagePullBackOff: no such host" in note
    assert images(await cluster.pods()) == ["app:v1", "app:v1"]

    async def back():
        return await cluster.selector() == {"app": "web"}

    await cluster.until("the Service leads back", back)
    await asyncio.sleep(2)  # the operator tries it again and again
    assert sorted([pod["status"]["containerStatuses"][0]["restartCount"] for pod in await cluster.pods()]) == [0, 2]


async def stateful(cluster, **spec):
    """A StatefulSet of two pods with a sidecar, two ports, and its Service."""
    labels = {"app": "web"}
    ports = [{"containerPort": 8080}, {"containerPort": 9000}]
    containers = [{"name": "side", "image": "side:1"}, {"name": "web", "image": "app:v1", "ports": ports}]
    template = {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 3, "containers": containers}}
    metadata = {"name": "web", "namespace": cluster.namespace}
    whole = {"replicas": 2, "serviceName": "web", "selector": {"matchLabels": labels}, "template": template, **spec}
    service = {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}
    await cluster.apply(
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": whole},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
    )

    async def two():
        found = await cluster.get(f"/apis/apps/v1/namespaces/{cluster.namespace}/statefulsets/web")
        return found is not None and found["status"].get("readyReplicas") == 2

    await cluster.until("two pods are ready", two)


@pytest.mark.parametrize("strategy", ["RollingUpdate", "OnDelete"])
async def test_a_stateful_set_with_a_sidecar_is_mounted_a_bridge_has_two_ports_and_the_end_gives_it_back(cluster, strategy):
    await stateful(cluster, updateStrategy={"type": strategy})
    operator = await cluster.operator()
    await cluster.apply(cluster.mount_object(target="sts/web"))
    await cluster.state("gefyrabridgemount", "mount-a", "ACTIVE")
    await cluster.bridge("alice", ports=("9001:8080", "9002:9000"))
    await cluster.everywhere("bridge-alice.8080", "bridge-alice.9000")
    assert images(await cluster.pods(), "side") == ["side:1", "side:1"]
    await cluster.delete("gefyrabridge", "bridge-alice")
    await cluster.everywhere()
    await cluster.delete("gefyrabridgemount", "mount-a")
    assert images(await cluster.pods()) == ["app:v1", "app:v1"]
    assert await cluster.get(f"/apis/apps/v1/namespaces/{cluster.namespace}/statefulsets/web-gefyra") is None
    assert operator.errors == []


async def test_a_lone_pod_with_a_sidecar_is_mounted_and_given_back(cluster):
    containers = [
        {"name": "web", "image": "app:v1", "ports": [{"containerPort": 8080}]},
        {"name": "side", "image": "side:1", "ports": [{"containerPort": 9000}]},
    ]
    metadata = {"name": "web", "namespace": cluster.namespace, "labels": {"app": "web"}}
    await cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers}})
    operator = await cluster.operator()
    await cluster.apply(cluster.mount_object(target="pod/web"))
    await cluster.state("gefyrabridgemount", "mount-a", "ACTIVE")
    await cluster.bridge("alice")
    await cluster.everywhere("bridge-alice.8080", replicas=1)
    pod = f"/api/v1/namespaces/{cluster.namespace}/pods"
    await cluster.call("DELETE", f"{pod}/web-gefyra?gracePeriodSeconds=0")  # a shadow that somebody deletes is made again
    await operator.ours.builders.keepers["mount-a"].mount.prepared()
    assert images([await cluster.get(f"{pod}/web-gefyra")]) == ["app:v1"]
    await cluster.delete("gefyrabridgemount", "mount-a")
    assert images(await cluster.pods()) == ["app:v1"]
    assert operator.errors == []


async def test_a_mount_whose_target_goes_before_it_is_active_says_so_and_leaves_nothing(cluster, soon):
    await cluster.deploy(replicas=1)
    await cluster.rolled_out()
    cluster.node.broken["app:v1"] = "not found"
    await cluster.operator()
    await cluster.apply(cluster.mount_object())
    await cluster.told("mount-a", "Shadow not ready")
    path = f"/apis/apps/v1/namespaces/{cluster.namespace}/deployments"
    await cluster.call("DELETE", f"{path}/web", {"propagationPolicy": "Background"}, "application/json")
    assert "there is no Deployment web" in await cluster.told("mount-a", "Target missing")
    await cluster.delete("gefyrabridgemount", "mount-a")
    assert await cluster.get(f"{path}/web-gefyra") is None


async def test_a_second_mount_of_a_workload_is_refused_and_its_end_costs_the_first_nothing(mounted):
    operator = mounted.operators[0]
    with pytest.raises(operator.ours.Refused, match=r"is mounted already, by 'mount-a' \(container 'web'\)"):
        await operator.admit(mounted.mount_object("mount-b", targetContainer="side"))
    await mounted.apply(mounted.mount_object("mount-b", target="deployment/web"))  # nobody asked for admission
    assert "one mount at a time" in await mounted.told("mount-b", "Failed to install GefyraBridgeMount")
    before = [pod["metadata"]["uid"] for pod in [*await mounted.pods(), *await mounted.pods(shadow=True)]]
    await mounted.delete("gefyrabridgemount", "mount-b")
    assert [pod["metadata"]["uid"] for pod in [*await mounted.pods(), *await mounted.pods(shadow=True)]] == before
    assert set(images(await mounted.pods())) == {PROXY}


@pytest.mark.parametrize("moment", ["Services led elsewhere", "Proxy installed"])
async def test_an_operator_that_ends_in_the_middle_of_a_mount_is_gone_on_for_by_the_next(cluster, moment):
    await cluster.deploy()
    await cluster.rolled_out()
    operator = await cluster.operator()
    await cluster.apply(cluster.mount_object())
    await cluster.told("mount-a", moment)
    await operator.stop()
    cluster.operators.clear()
    again = await cluster.operator()
    await cluster.state("gefyrabridgemount", "mount-a", "ACTIVE")
    await cluster.bridge("alice")
    await cluster.everywhere("bridge-alice.8080")
    assert await cluster.selector() == {"app": "web"}
    assert again.errors == []


async def test_an_operator_that_ends_in_the_middle_of_a_mount_s_end_is_gone_on_for_by_the_next(cluster):
    await cluster.deploy()
    await cluster.rolled_out()
    operator = await cluster.operator()
    await cluster.mount()
    path = f"/apis/gefyra.dev/v1/namespaces/{cluster.gefyra}/gefyrabridgemounts/mount-a"
    await cluster.call("DELETE", path)

    async def rolling():
        return (await cluster.deployment())["metadata"]["generation"] > 1

    await cluster.until("it is rolled out", rolling)
    await operator.stop()
    cluster.operators.clear()
    again = await cluster.operator()
    await cluster.until("the mount is gone", lambda: cluster._is_gone(path))
    assert set(images(await cluster.pods())) == {"app:v1"}
    assert await cluster.selector() == {"app": "web"}
    assert await cluster.get(f"/apis/apps/v1/namespaces/{cluster.namespace}/deployments/web-gefyra") is None
    assert again.errors == []
