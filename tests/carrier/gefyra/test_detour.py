"""Where Services lead while containers of their pods change: elsewhere, all at once, and back, whoever was ended or meddled in between."""

import asyncio
import json
import time

import pytest

from carrier.gefyra.clone import DUPLICATION
from carrier.gefyra.detour import BRIDGED, DETOUR, Detour
from carrier.gefyra.installing import uid_of
from carrier.gefyra.mount import CarrierMount
from tests.carrier.gefyra.test_provider import CONTAINER, LABELS, deployment, mount_of, shadow_runs, unshare
from tests.carrier.gefyra.world import IMAGE, World

SHADOW = {DUPLICATION: "d-1"}


@pytest.fixture
async def world(tmp_path):
    found = World(tmp_path)
    deployment(found)
    for i in range(2):
        found.add_pod(f"web-{i}", LABELS, CONTAINER)
    try:
        yield found
    finally:
        await found.close()


def service(world, name="web", selector=LABELS, **spec):
    return world.add("Service", name, spec={"selector": dict(selector), "ports": [{"port": 80}], **spec})


def pods(world):
    return [obj for (kind, _, _), obj in world.objects.items() if kind == "Pod"]


def detour(world):
    return Detour(world, "default", "mount-a")


def selector(world, name="web"):
    return world.objects["Service", "default", name]["spec"]["selector"]


async def test_services_lead_to_the_shadow_and_back(world):
    service(world)
    service(world, "elsewhere", {"app": "shop"})
    assert await detour(world).begin(pods(world), "d-1") == (["web"], True)
    assert selector(world) == SHADOW
    assert selector(world, "elsewhere") == {"app": "shop"}
    assert await detour(world).end() == ["web"]
    assert selector(world) == LABELS
    assert DETOUR not in world.objects["Service", "default", "web"]["metadata"]["annotations"]
    assert await detour(world).end() == []


async def test_pods_that_are_bridged_already_are_preferred_by_their_label(world):
    service(world)
    await detour(world).begin(pods(world), "")
    assert selector(world) == {**LABELS, BRIDGED: "mount-a"}
    await detour(world).end()
    assert selector(world) == LABELS


async def test_an_operator_that_was_ended_in_between_is_followed_by_one_that_leads_back(world):
    service(world)
    await detour(world).begin(pods(world), "d-1")
    assert await detour(world).begin(pods(world), "d-2") == (["web"], True)  # on its detour already, and stays on it
    assert selector(world) == SHADOW
    await Detour(world, "default", "mount-b").end()  # somebody else's is nobody's business
    assert selector(world) == SHADOW
    await detour(world).end()
    assert selector(world) == LABELS


@pytest.mark.parametrize(
    ("meddled", "back"),
    [
        ({"app": "web", **SHADOW}, {"app": "web"}),  # kubectl apply: its own again, ours beside it
        ({"app": "other"}, {"app": "other"}),
        ({"app": "web", "tier": "x"}, {"app": "web", "tier": "x"}),
        ({}, {"app": "web"}),
    ],
)
async def test_a_hand_that_changed_the_selector_meanwhile_is_respected(world, meddled, back):
    service(world)
    await detour(world).begin(pods(world), "d-1")
    world.objects["Service", "default", "web"]["spec"]["selector"] = dict(meddled)
    await detour(world).end()
    assert selector(world) == back


@pytest.mark.parametrize(
    "spec",
    [
        {"clusterIP": "None"},
        {"publishNotReadyAddresses": True},
        {"externalTrafficPolicy": "Local"},
        {"internalTrafficPolicy": "Local"},
    ],
)
async def test_a_service_for_which_another_pod_is_not_as_good_stays(world, spec):
    service(world, **spec)
    service(world, "second")
    assert await detour(world).begin(pods(world), "d-1") == (["second"], False)
    assert selector(world) == LABELS
    assert selector(world, "second") == SHADOW


async def test_a_service_that_leads_to_another_workload_s_pods_too_stays(world):
    service(world)
    own = pods(world)
    other = world.add_pod("canary-0", LABELS, CONTAINER)
    assert await detour(world).begin(own, "d-1") == ([], False)
    other["status"]["phase"] = "Failed"  # it has ended, and nobody has swept it away
    assert await detour(world).begin(own, "d-1") == (["web"], True)


async def test_a_note_that_nobody_can_read_is_none(world):
    for text in ("{", "[]", '{"mount": "mount-a"}'):
        service(world)["metadata"]["annotations"] = {DETOUR: text}
        assert await detour(world).on() == []


@unshare
async def test_a_mount_leads_its_services_elsewhere_until_its_pods_serve(world):
    service(world)
    seen = []
    patch = world.patch

    async def watched(kind, namespace, name, body):
        if kind == "Pod" and "spec" in body:
            seen.append(dict(selector(world)))
        await patch(kind, namespace, name, body)

    world.patch = watched
    mount = mount_of(world)
    await mount.prepare()
    shadow_runs(world)
    await mount.install()
    duplication = world.objects["Service", "default", "web-web-gefyra-svc"]["spec"]["selector"]
    assert seen == [duplication, duplication]
    assert world.taken_out == []  # no Service led to them
    assert selector(world) == LABELS
    assert [reason for reason, _, _ in world.events] == [
        "Services led elsewhere",
        "Proxy installed",
        "Proxy installed",
        "Services lead back",
    ]
    assert [pod["metadata"]["labels"].get(BRIDGED) for pod in pods(world)] == ["mount-a", "mount-a", None]
    # One more pod: those that are bridged serve meanwhile, with their bridges.
    seen.clear()
    world.add_pod("web-9", LABELS, CONTAINER)
    world.known.detoured = False
    world.add("gefyrabridgemount", "mount-a", "gefyra", state="ACTIVE")
    assert await mount.ready()
    assert seen == [{**LABELS, BRIDGED: "mount-a"}]
    assert selector(world) == LABELS


@unshare
async def test_where_services_may_not_be_changed_pods_are_taken_out_by_their_condition(world):
    service(world)
    patch = world.patch

    async def refused(kind, namespace, name, body):
        if kind == "Service":
            raise PermissionError("services: patch")
        await patch(kind, namespace, name, body)

    world.patch = refused
    mount = mount_of(world)
    await mount.prepare()
    shadow_runs(world)
    await mount.install()
    assert world.taken_out == ["web-0", "web-1"]
    assert "Services stay" in [reason for reason, _, _ in world.events]


@unshare
async def test_services_stay_with_the_shadow_while_no_pod_of_the_workload_serves(world):
    service(world)
    mount = mount_of(world)
    await mount.prepare()
    shadow_runs(world)
    assert await mount._lead_elsewhere(pods(world)[:2])
    for i in range(2):
        world.readiness(f"web-{i}", False)
    await mount._lead_back()
    assert selector(world) != LABELS
    world.readiness("web-1", True)
    await mount._lead_back()
    assert selector(world) == LABELS


@unshare
async def test_services_lead_back_as_soon_as_a_pod_serves_that_the_proxy_could_not_start_in(world):
    service(world)
    mount = mount_of(world)
    await mount.prepare()
    shadow_runs(world)
    own = pods(world)[:2]
    assert await mount._lead_elsewhere(own)
    for i, pod in enumerate(own):
        world.known.hopeless[uid_of(pod)] = (time.monotonic() + 60, "no image")
        world.readiness(f"web-{i}", False)
    with pytest.raises(RuntimeError, match="no image"):
        await mount.install()
    assert selector(world) != LABELS
    world.readiness("web-1", True)
    with pytest.raises(RuntimeError, match="no image"):
        await mount.install()
    assert selector(world) == LABELS


@unshare
async def test_a_lone_pod_is_given_back_behind_a_detour(world):
    service(world, "lone", {"app": "lone"})
    pod = world.add_pod("lone", {"app": "lone"}, CONTAINER)
    mount = CarrierMount(world, "mount-a", "default", "pod/lone", "web", IMAGE, event=world.tell, pause=0.02, known=world.known)
    await mount.prepare()
    world.objects["Pod", "default", "lone-gefyra"]["status"] = json.loads(json.dumps(pod["status"]))
    await mount.install()
    assert pod["metadata"]["labels"][BRIDGED] == "mount-a"
    leaving = asyncio.create_task(mount.uninstall())
    await asyncio.sleep(1.0)
    assert selector(world, "lone") != {"app": "lone"}
    assert not leaving.done()  # its status shows the proxy still
    pod["status"]["containerStatuses"][0]["restartCount"] += 1
    await leaving
    assert pod["spec"]["containers"][0]["image"] == "app:1"
    assert BRIDGED not in pod["metadata"]["labels"]
    assert selector(world, "lone") == {"app": "lone"}
    assert ("Pod", "default", "lone-gefyra") not in world.objects
