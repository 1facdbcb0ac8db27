"""Level 2 against a real API server: mounts, rollouts, restarts, and the end, as the operator leads our providers.

The operator's own timers are off in most of these (a minute is longer than a test): what comes back comes back without them.
"""

import asyncio
import json
import time

import pytest
import trustme
import yaml

from carrier.gefyra.detour import Detour
from tests.cluster.control import encoded

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("cluster"), pytest.mark.asyncio(loop_scope="session")]


async def reasons(cluster, name="mount-a"):
    return [reason for reason, _ in await cluster.events(name)]


async def test_a_mount_and_two_bridges_become_active_on_every_pod(mounted):
    operator = mounted.operators[0]
    await mounted.bridge("alice")
    await mounted.bridge("bob")
    await mounted.everywhere("bridge-alice.8080", "bridge-bob.8080")
    assert operator.errors == []


async def test_pods_are_replaced_one_at_a_time_although_their_status_lags(cluster):
    """The status shows the container before as ready for a while: whoever believes it has no pod left that serves."""
    cluster.node.lag = 1.5
    await cluster.deploy(replicas=3)
    await cluster.rolled_out()
    await cluster.operator()
    least = []

    async def watch():
        while True:
            pods = [cluster.node.named(pod["metadata"]["name"]) for pod in await cluster.pods()]
            least.append(sum(pod.containers["web"].ready for pod in pods))
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    await cluster.mount()
    watching.cancel()
    assert min(least) == 2


async def test_after_a_rollout_the_shadow_is_the_new_version_before_its_pods_are_bridged(mounted):
    await mounted.bridge("alice")
    duplication = (await mounted.pods(shadow=True))[0]["metadata"]["labels"]["bridge.gefyra.dev/duplication-id"]
    await mounted.deploy(version="v2")
    await mounted.rolled_out()
    began = time.monotonic()

    async def bridged():
        pods = await mounted.pods()
        images = [pod["spec"]["containers"][0]["image"] for pod in pods]
        if any(image.endswith("carrier2:latest") for image in images):
            shadows = await mounted.pods(shadow=True)
            assert {pod["spec"]["containers"][0]["image"] for pod in shadows} == {"app:v2"}
            # What the version before had and this one has not is gone from the shadow, too.
            assert [pod["spec"]["containers"][0]["env"] for pod in shadows] == [[{"name": "IS_V2", "value": "yes"}]] * len(shadows)
        return all(image.endswith("carrier2:latest") for image in images)

    await mounted.until("bridged again", bridged)
    await mounted.everywhere("bridge-alice.8080")
    assert time.monotonic() - began < 25  # on a busy machine; without the operator's timers in any case
    labels = [pod["metadata"]["labels"]["bridge.gefyra.dev/duplication-id"] for pod in await mounted.pods(shadow=True)]
    assert set(labels) == {duplication}
    mount = await mounted.get(f"/apis/gefyra.dev/v1/namespaces/{mounted.gefyra}/gefyrabridgemounts/mount-a")
    assert mount["state"] == "ACTIVE"


async def test_a_container_that_restarts_comes_back_with_its_bridges_without_the_operator(mounted):
    operator = mounted.operators[0]
    await mounted.bridge("alice")
    await operator.stop()
    mounted.operators.clear()
    pod = (await mounted.pods())[0]["metadata"]["name"]
    await mounted.node.kill(pod)
    began = time.monotonic()
    await mounted.until("its process is gone", lambda: _without(mounted, pod))
    await mounted.everywhere("bridge-alice.8080")
    assert time.monotonic() - began < 8


async def _without(cluster, pod):
    return not await cluster.bridges(pod)


async def test_a_pod_that_forgot_everything_is_given_it_by_the_operator(mounted):
    """As where the pod's shared memory went, too, or is none."""
    await mounted.bridge("alice")
    pod = mounted.node.named((await mounted.pods())[0]["metadata"]["name"])
    for kept in (pod.folder / "shm").iterdir():
        kept.unlink()
    await mounted.node.kill(pod.name)
    await mounted.until("its process is gone", lambda: _without(mounted, pod.name))
    await mounted.everywhere("bridge-alice.8080")
    await mounted.told("bridge-alice", "Bridge restored", of=pod.name)


async def test_a_new_operator_takes_up_what_the_one_before_left(mounted):
    operator = mounted.operators[0]
    await mounted.bridge("alice")
    await operator.stop()
    mounted.operators.clear()
    pod = (await mounted.pods())[0]["metadata"]["name"]
    await mounted.call("DELETE", f"/api/v1/namespaces/{mounted.namespace}/pods/{pod}")
    again = await mounted.operator(connection=operator.connection)
    await mounted.everywhere("bridge-alice.8080")
    assert again.errors == []
    for kind, name in (("gefyrabridgemount", "mount-a"), ("gefyrabridge", "bridge-alice")):
        await mounted.state(kind, name, "ACTIVE")


async def test_no_service_leads_to_a_pod_while_its_container_changes(cluster):
    """Nor to nobody: what it leads to meanwhile serves."""
    await cluster.deploy()
    await cluster.operator()
    wrong, steps = [], []

    async def watch():
        while True:
            await asyncio.sleep(0.03)
            selector = await cluster.selector()
            pods = await cluster.pods() + await cluster.pods(shadow=True)
            if await cluster.selector() != selector:
                continue
            led = [pod for pod in pods if selector.items() <= pod["metadata"]["labels"].items()]
            for pod in led:
                image, status = pod["spec"]["containers"][0]["image"], (pod["status"].get("containerStatuses") or [{}])[0]
                if image != status.get("image", image):
                    wrong.append((pod["metadata"]["name"], image, status))
            if not led:
                wrong.append(selector)
            if selector not in steps[-1:]:
                steps.append(selector)

    watching = asyncio.create_task(watch())
    await cluster.mount()
    assert await cluster.selector() == {"app": "web"}
    assert (await reasons(cluster)).count("Proxy installed") == 2
    path = f"/apis/apps/v1/namespaces/{cluster.namespace}/deployments/web"
    await cluster.call("PATCH", path, {"spec": {"replicas": 3}})
    bridged = {"app", "bridge.gefyra.dev/bridged"}

    async def back():
        return [set(selector) for selector in steps[-2:]] == [bridged, {"app"}]

    await cluster.until("the third pod is bridged, too", back)
    watching.cancel()
    assert [set(selector) for selector in steps[:3]] == [{"app"}, {"bridge.gefyra.dev/duplication-id"}, {"app"}]
    assert wrong == []


async def test_a_service_that_an_ended_operator_led_elsewhere_is_led_back_by_the_next(mounted):
    async def back():
        return await mounted.selector() == {"app": "web"}

    await mounted.until("the Service leads to its pods", back)  # of the test before one may have been new
    operator = mounted.operators[0]
    await operator.stop()
    mounted.operators.clear()
    pods = await mounted.pods()
    shadow = (await mounted.pods(shadow=True))[0]["metadata"]["labels"]["bridge.gefyra.dev/duplication-id"]
    detour = Detour(operator.ours.builders.access(), mounted.namespace, "mount-a")
    assert await detour.begin(pods, shadow) == (["web"], True)
    assert await mounted.selector() == {"bridge.gefyra.dev/duplication-id": shadow}
    await mounted.operator(connection=operator.connection)
    await mounted.until("the Service leads back", back)


async def test_a_pod_that_is_added_has_the_same_bridges(mounted):
    await mounted.bridge("alice")
    path = f"/apis/apps/v1/namespaces/{mounted.namespace}/deployments/web"
    await mounted.call("PATCH", path, {"spec": {"replicas": 3}})
    await mounted.everywhere("bridge-alice.8080", replicas=3)


async def test_a_mount_that_goes_first_gives_the_workload_back_and_then_deletes_the_shadow_and_its_autoscaler(cluster):
    await cluster.deploy()
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    metric = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
    spec = {"scaleTargetRef": reference, "minReplicas": 2, "maxReplicas": 4, "metrics": [metric]}
    kind = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
    await cluster.apply({**kind, "metadata": {"name": "scaler", "namespace": cluster.namespace}, "spec": spec})
    operator = await cluster.operator()
    await cluster.mount()
    scalers = f"/apis/autoscaling/v2/namespaces/{cluster.namespace}/horizontalpodautoscalers"
    made = await cluster.get(f"{scalers}/scaler-gefyra")
    assert (made["spec"]["scaleTargetRef"]["name"], made["spec"]["maxReplicas"]) == ("web-gefyra", 4)
    await cluster.apply({**kind, "metadata": {"name": "scaler", "namespace": cluster.namespace}, "spec": {**spec, "maxReplicas": 5}})
    assert await operator.ours.builders.keepers["mount-a"].mount.level() == []
    assert (await cluster.get(f"{scalers}/scaler-gefyra"))["spec"]["maxReplicas"] == 5
    await cluster.bridge("alice")
    seen = []

    async def watch():
        while True:
            proxies = [pod for pod in await cluster.pods() if pod["spec"]["containers"][0]["image"].endswith("carrier2:latest")]
            service = await cluster.get(f"/api/v1/namespaces/{cluster.namespace}/services/web-web-gefyra-svc")
            seen.append((bool(proxies), len(await cluster.pods(shadow=True)) > 0 and service is not None))
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    await cluster.delete("gefyrabridgemount", "mount-a")
    watching.cancel()
    assert (True, False) not in seen  # nobody led to a shadow that was not there
    assert (False, True) in seen
    assert await cluster.get(f"/apis/apps/v1/namespaces/{cluster.namespace}/deployments/web-gefyra") is None
    kept = await cluster.get(f"/api/v1/namespaces/{cluster.gefyra}/configmaps/gefyra-carrier2-restore-configmap")
    assert not [key for key in kept.get("data") or {} if key.startswith(f"{cluster.namespace}-web")]
    assert operator.errors == []
    assert await cluster.get(f"{scalers}/scaler-gefyra") is None
    assert await cluster.get(f"{scalers}/scaler") is not None


async def test_a_mount_whose_target_went_leaves_no_shadow(cluster):
    await cluster.deploy(replicas=1)
    await cluster.operator(period=1.0)
    await cluster.mount()
    path = f"/apis/apps/v1/namespaces/{cluster.namespace}/deployments"
    await cluster.call("DELETE", f"{path}/web", {"propagationPolicy": "Background"}, "application/json")
    await cluster.state("gefyrabridgemount", "mount-a", "MISSING")
    await cluster.until("the shadow is gone", lambda: cluster._is_gone(f"{path}/web-gefyra"))
    await cluster.deploy(replicas=1, version="v2")
    await cluster.state("gefyrabridgemount", "mount-a", "ACTIVE")
    assert {pod["spec"]["containers"][0]["image"] for pod in await cluster.pods(shadow=True)} == {"app:v2"}


def pair():
    made = trustme.CA().issue_cert("app.test")
    return made.cert_chain_pems[0].bytes().decode(), made.private_key_pem.bytes().decode()


async def secret(cluster, name="tls"):
    certificate, key = pair()
    data = {"tls.crt": encoded(certificate), "tls.key": encoded(key)}
    metadata = {"name": name, "namespace": cluster.namespace}
    await cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})
    return certificate


def of_secret(cluster, key, name="tls"):
    return {"secret": {"namespace": cluster.namespace, "name": name, "key": key}}


@pytest.mark.parametrize("form", ["all", "port"])
async def test_tls_of_a_mount_comes_from_a_secret_and_follows_it(cluster, form):
    certificate = await secret(cluster)
    await cluster.deploy(replicas=1)
    await cluster.operator()
    tls = {"certificate": of_secret(cluster, "tls.crt"), "key": of_secret(cluster, "tls.key"), "sni": "app.test"}
    await cluster.mount(providerParameter={"tls": tls} if form == "all" else {"8080": {"tls": tls}})
    pod = (await cluster.pods())[0]["metadata"]["name"]
    listener = next(one for one in await cluster.ctl(pod, "GET", "listeners") if one["name"] == "port/8080")
    file = listener["spec"]["tls"]["certificate"]
    assert file.endswith(f"from_k8s_secret_cert_{'all' if form == 'all' else '8080'}.pem")
    with open(file) as there:
        assert there.read() == certificate
    assert "PRIVATE KEY" not in json.dumps([command for _, command in cluster.node.execs])  # those are in the API server's log
    renewed = await secret(cluster)
    await cluster.operators[0].ours.builders.keepers["mount-a"].mount.ready()
    with open(file) as there:
        assert there.read() == renewed
    tls["sni"] = "other.test"
    await cluster.apply(cluster.mount_object(providerParameter={"tls": tls} if form == "all" else {"8080": {"tls": tls}}))

    async def edited():
        return "other.test" in json.dumps(await cluster.ctl(pod, "GET", "clusters"))  # what the shadow is asked for

    await cluster.until("the other name is served", edited)


async def test_tls_that_cannot_be_is_told(cluster):
    await cluster.deploy()
    operator = await cluster.operator()
    refused = operator.ours.Refused
    for parameter, sentence in (
        ({"tls": {"certificate": of_secret(cluster, "tls.crt", "none"), "key": "/k"}}, "there is no Secret none"),
        ({"tls": {"certificate": "/c"}}, "key cannot be None"),
        ({"9999": {"tls": {"certificate": "/c", "key": "/k"}}}, "given for port 9999, which the container does not have; it has 8080"),
        ({"8080": {"certificate": "/c", "key": "/k"}}, "is no object with TLS"),
    ):
        with pytest.raises(refused, match=sentence):
            await operator.admit(cluster.mount_object(providerParameter=parameter))


async def test_a_pod_led_by_a_file_is_taken_over_with_its_bridges_and_given_back(mounted):
    """Level 1 to level 2 and back: the operator's file says the same all the time."""
    operator = mounted.operators[0]
    await mounted.bridge("alice")
    await operator.stop()
    mounted.operators.clear()
    pods = [mounted.node.named(pod["metadata"]["name"]) for pod in await mounted.pods()]
    for pod in pods:  # as level 1 leaves them: a file with the bridge in it
        container = pod.containers["web"]
        text = (container.folder / "config.yaml").read_text()
        found = yaml.safe_load(text)
        assert list(found["proxy"][0]["bridges"]) == ["bridge-alice"]
        (container.folder / "config.yaml").write_text(text + "\n")
        said = await commit(container)
        assert "Bootstrap starting" in said, said
        assert (await mounted.ctl(pod.name, "GET", "mount"))["mounted"] is False
        assert await mounted.bridges(pod.name) == []
        assert "8080/bridge-alice" in [one["name"] for one in await mounted.ctl(pod.name, "GET", "rules")]
    await mounted.operator(connection=operator.connection)
    await mounted.everywhere("bridge-alice.8080")
    events = await reasons(mounted, "bridge-alice")
    assert "Failed in state CREATING" not in events
    bridge = await mounted.get(f"/apis/gefyra.dev/v1/namespaces/{mounted.gefyra}/gefyrabridges/bridge-alice")
    assert bridge["state"] == "ACTIVE"


async def commit(container):
    """Level 1's reload, typed into the container."""
    shell = await asyncio.create_subprocess_exec(
        *("busybox", "sh"), stdin=-1, stdout=-1, stderr=asyncio.subprocess.STDOUT, env=container.environment(), cwd=container.folder
    )
    out, _ = await shell.communicate(f"carrier2 -c {container.folder}/config.yaml -u -d\n".encode())
    return out.decode()
