"""Our providers as the operator uses them: mounts and bridges from REQUESTED to terminated, on pods with real proxies."""

import asyncio
import importlib
import inspect
import json
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from carrier.gefyra import installing, shadow
from carrier.gefyra import provider as provider_module
from carrier.gefyra.clone import DUPLICATION, MADE_OF
from carrier.gefyra.connection import Destinations
from carrier.gefyra.kubernetes import KubernetesAccess, answer_of
from carrier.gefyra.mount import CarrierMount
from carrier.gefyra.provider import CarrierProvider
from tests.carrier.gefyra import upstream
from tests.carrier.gefyra.upstream import standing_in
from tests.carrier.gefyra.world import IMAGE, World

INTERFACES = Path(__file__).resolve().parents[4] / "shared" / "data" / "gefyra" / "interfaces.json"
LABELS = {"app": "web"}
CONTAINER = {
    "name": "web",
    "image": "app:1",
    "ports": [{"containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 9000, "name": "admin"}],
    "readinessProbe": {"httpGet": {"port": 8081, "path": "/ready"}},
}
unshare = pytest.mark.skipif(
    subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode != 0, reason="no network namespaces here"
)


def deployment(world, name="web", **spec):
    template = {"metadata": {"labels": LABELS}, "spec": {"containers": [CONTAINER], **spec}}
    return world.add("Deployment", name, labels=LABELS, spec={"selector": {"matchLabels": LABELS}, "template": template})


@pytest.fixture
async def world(tmp_path, monkeypatch):
    monkeypatch.setattr(provider_module, "PATIENCE", 0.2)  # no laptop is there: a test that waits for one says how long
    found = World(tmp_path)
    deployment(found)
    for i in range(3):
        found.add_pod(f"web-{i}", LABELS, CONTAINER)
    mount = found.add("gefyrabridgemount", "mount-a", "gefyra", state="ACTIVE")
    mount.update(target="deploy/web", targetNamespace="default", targetContainer="web")
    try:
        yield found
    finally:
        await found.close()


def mount_of(world, target="deploy/web", **more):
    return CarrierMount(world, "mount-a", "default", target, "web", IMAGE, event=world.tell, pause=0.02, known=world.known, **more)


def shadow_runs(world):
    """What the cluster would do once the shadow was made: a pod of it becomes ready."""
    shadow = world.objects["Deployment", "default", "web-gefyra"]
    world.add_pod("web-gefyra-0", shadow["spec"]["template"]["metadata"]["labels"], CONTAINER)


def bridge_of(world, name):
    return CarrierProvider(world, name, "default", "mount-a", "web", world.tell, image=IMAGE, known=world.known)


def rules_of(user):
    return {"rules": [{"match": [{"matchHeader": {"name": "x-gefyra", "value": user}}]}]}


RULES = rules_of("john")


def request(world, name, client, parameters, ports=("8080:8080",), host="10.0.0.9"):
    labels = {"gefyra.dev/bridge-mount": "mount-a", "gefyra.dev/client": client}
    found = world.add("gefyrabridge", name, "gefyra", labels, state="REQUESTED", client=client, providerParameter=parameters)
    found.update(portMappings=list(ports), destinationIP=host, target="mount-a", clusterEndpoint={})
    return found


class Bridge:
    """The operator's state machine of a bridge, as far as it calls the provider: REQUESTED to ACTIVE to TERMINATED."""

    def __init__(self, world, obj):
        self.world, self.obj = world, obj
        self.name = obj["metadata"]["name"]

    def provider(self):
        return bridge_of(self.world, self.name)  # the operator makes one for every access

    async def create(self):
        await self.provider().validate(self.obj, None)
        self.obj["state"] = "INSTALLING"
        await self.provider().install()
        assert await self.provider().ready()
        self.obj["state"] = "INSTALLED"
        self.obj["state"] = "CREATING"
        for mapping in self.obj["portMappings"]:
            local, target = mapping.split(":")
            if not await self.provider().proxy_route_exists(target, self.obj["destinationIP"], local, self.name):
                await self.provider().add_proxy_route(target, self.obj["destinationIP"], local, self.obj["providerParameter"])
            assert await self.provider().proxy_route_exists(target, self.obj["destinationIP"], local, self.name)
        self.obj["state"] = "ACTIVE"

    async def terminate(self):
        self.obj["state"] = "TERMINATING"
        for mapping in self.obj["portMappings"]:
            local, target = mapping.split(":")
            await self.provider().remove_proxy_route(target, self.obj["destinationIP"], local)
            assert not await self.provider().proxy_route_exists(target, self.obj["destinationIP"], local, self.name)
        await self.provider().uninstall()
        del self.world.objects["gefyrabridge", "gefyra", self.name]


async def mounted(world):
    mount = mount_of(world)
    await mount.validate({"metadata": {"name": "mount-a"}}, None)
    await mount.prepare()
    shadow_runs(world)
    await mount.install()
    assert await mount.ready()
    return mount


@unshare
async def test_two_users_on_three_pods_from_requested_to_terminated(world, monkeypatch):
    await mounted(world)
    john = Bridge(world, request(world, "bridge-a", "john", RULES))
    jane = Bridge(
        world, request(world, "bridge-b", "jane", {"rules": [{"match": [{"matchHeader": {"name": "x-gefyra", "value": "jane"}}]}]})
    )
    await john.create()
    world.calls.clear()
    began = time.monotonic()
    monkeypatch.setattr(provider_module, "PATIENCE", 0.0)
    await jane.provider().add_proxy_route("8080", "10.0.0.9", "8000", jane.obj["providerParameter"])
    assert time.monotonic() - began < 0.8
    assert [method for _, method, _ in world.calls] == ["PUT"] * 3
    await jane.create()
    listed = await bridge_of(world, "bridge-b").fleet()
    for answer in await listed.call("GET", "bridges"):
        assert [bridge["user"] for bridge in answer.body] == ["john", "jane"]
        assert answer.revision > 1
    await john.terminate()
    await jane.terminate()
    for answer in await listed.call("GET", "bridges"):
        assert answer.body == []


@unshare
async def test_a_bridge_waits_for_its_laptop_until_another_one_s_turn_is_next(world, monkeypatch):
    monkeypatch.setattr(provider_module, "PATIENCE", 8.0)
    await mounted(world)
    john = request(world, "bridge-a", "john", RULES)
    john["state"] = "CREATING"
    began = time.monotonic()
    making = asyncio.create_task(bridge_of(world, "bridge-a").add_proxy_route("8080", "10.0.0.9", "8000"))
    await asyncio.sleep(0.6)
    assert not making.done()
    assert (await bridge_of(world, "x")._look("bridge-a.8080"))[0].status == 404  # no request waits for who is not there
    request(world, "bridge-b", "jane", RULES)
    await making
    assert 0.6 < time.monotonic() - began < provider_module.PATIENCE
    assert await bridge_of(world, "bridge-a").proxy_route_exists("8080", "10.0.0.9", "8000", "bridge-a")


@unshare
async def test_a_bridge_that_was_deleted_is_not_put_in_once_more_by_an_operator_that_mends_it_first(world):
    await mounted(world)
    bridge = request(world, "bridge-a", "john", RULES)
    bridge["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    bridge["stateTransitions"] = {"ACTIVE": "2026-01-01T00:00:00Z"}
    provider = bridge_of(world, "bridge-a")
    assert not await provider.proxy_route_exists("8080", "10.0.0.9", "8000", "bridge-a")
    await provider.add_proxy_route("8080", "10.0.0.9", "8000")
    assert [answer.status for answer in await provider._look("bridge-a.8080")] == [404, 404, 404]


@unshare
async def test_a_laptop_that_is_not_there_in_time_is_told_with_the_reason(world, monkeypatch):
    monkeypatch.setattr(provider_module, "PATIENCE", 1.0)
    await mounted(world)
    request(world, "bridge-a", "john", RULES, ports=("8000:8080",))["state"] = "CREATING"
    world.events.clear()
    await bridge_of(world, "bridge-a").add_proxy_route("8080", "127.0.0.1", "10000")
    (note,) = [message for reason, message, _ in world.events if reason == "Endpoint not reached"]
    assert "10.0.0.9:8000 refused: is your container listening on 8000?" in note  # she knows no Service, and none of its ports


@unshare
async def test_pods_are_patched_one_at_a_time_and_the_gap_is_told(world):
    await mounted(world)
    assert world.patched == ["web-0", "web-1", "web-2"]
    given = [pod for pod, method, path in world.calls if (method, path) == ("PUT", "mount")]
    assert given[:3] == world.patched  # each once, as soon as it answered; then all of them are looked at
    assert world.taken_out == []  # no Service leads to them
    assert world.least_ready == [4, 4, 4]  # the shadow's pod, and all three: the one before was ready when the next one's turn came
    assert [reason for reason, _, _ in world.events] == ["Proxy installed"] * 3
    assert all("did not serve for" in message for _, message, _ in world.events)
    kept = world.objects["ConfigMap", "gefyra", "gefyra-carrier2-restore-configmap"]["data"]
    assert json.loads(kept["default-web-0-web"]) == {"image": "app:1"}
    pods = await (await bridge_of(world, "x").fleet()).call("GET", "listeners")
    specs = {(one["name"], one["spec"]["protocol"], one["spec"]["port"]) for one in pods[0].body}
    assert specs == {("port/8080", "auto", 8080), ("port/53/udp", "UDP", 53), ("port/9000", "auto", 9000), ("probe-8081", "HTTP", 8081)}


@unshare
async def test_a_replaced_pod_and_a_restarted_proxy_are_taken_up_with_their_bridges(world):
    mount = await mounted(world)
    john = Bridge(world, request(world, "bridge-a", "john", RULES))
    await john.create()
    await world.stop("web-1")
    del world.objects["Pod", "default", "web-1"]
    world.add_pod("web-9", LABELS, CONTAINER)
    await world.start("web-2")  # the container restarted: same pod, nothing configured
    while not Path(world.socket("web-2")).exists():  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    world.events.clear()
    assert await mount.ready()
    assert await john.provider().ready()
    assert await john.provider().proxy_route_exists("8080", "10.0.0.9", "8080", "bridge-a")
    told = [reason for reason, _, _ in world.events]
    assert told.count("Bridge restored") == 2
    assert "Pods replaced" in told


@unshare
async def test_a_bridge_that_is_made_while_pods_are_configured_stays(world, monkeypatch):
    """Who configures a pod says which bridges there are, and those only: it must not say so of a moment ago."""
    monkeypatch.setattr(provider_module, "PATIENCE", 0.0)
    mount = await mounted(world)
    request(world, "bridge-a", "john", RULES)["state"] = "INSTALLED"  # as it is in the cluster until the bridge is made
    pods, called, go = list((await bridge_of(world, "x").fleet()).pods), asyncio.Event(), asyncio.Event()
    call = world.call

    async def slow(pod, container, method, path, body=None):
        if (method, path) == ("PUT", "mount") and not go.is_set():
            called.set()
            await go.wait()
        return await call(pod, container, method, path, body)

    monkeypatch.setattr(world, "call", slow)
    configuring = asyncio.create_task(mount.configure(pods))
    await called.wait()
    making = asyncio.create_task(bridge_of(world, "bridge-a").add_proxy_route("8080", "10.0.0.9", "8000"))
    await asyncio.sleep(0.5)
    go.set()
    await asyncio.gather(configuring, making)
    answers = await bridge_of(world, "bridge-a")._look("bridge-a.8080")
    assert [answer.status for answer in answers] == [200, 200, 200]


@unshare
async def test_a_bridge_that_is_just_being_made_is_not_told_to_be_restored(world):
    """Who looks at the pods in that moment may give it to one before its own provider does."""
    mount = await mounted(world)
    bridge = request(world, "bridge-a", "john", RULES)
    bridge["state"] = "CREATING"
    world.events.clear()
    pods = list((await bridge_of(world, "x").fleet()).pods)
    await mount.configure(pods)
    assert [answer.status for answer in await bridge_of(world, "bridge-a")._look("bridge-a.8080")] == [200, 200, 200]
    assert world.events == []
    bridge["state"] = "ACTIVE"
    await (await bridge_of(world, "x").fleet()).one(pods[0], "DELETE", "bridges/bridge-a.8080")
    await mount.configure(pods)
    assert [reason for reason, _, _ in world.events] == ["Bridge restored"]


@unshare
async def test_a_bridge_that_was_just_taken_away_is_none_that_waits_for_its_turn(world, monkeypatch):
    """Else nobody looks for the laptop of the one that comes then, and its user is told of that much later."""
    monkeypatch.setattr(provider_module, "PATIENCE", 0.3)
    monkeypatch.setattr(world.known.bridges, "age", 60.0)
    await mounted(world)
    going = request(world, "bridge-b", "ida", rules_of("ida"))
    assert len(await bridge_of(world, "bridge-b")._objects()) == 1
    going["metadata"]["deletionTimestamp"], going["state"] = "2026-11-28T14:00:00Z", "TERMINATING"
    await bridge_of(world, "bridge-b").remove_proxy_route(8080, "10.0.0.9", 8080)
    request(world, "bridge-a", "john", RULES, host="127.0.0.1")
    world.events.clear()
    await bridge_of(world, "bridge-a").add_proxy_route(8080, "127.0.0.1", 9, {**RULES})
    assert [reason for reason, _, _ in world.events] == ["Endpoint not reached"]


@unshare
async def test_a_pod_that_missed_a_bridge_is_looked_at_although_it_was_just_configured(world, monkeypatch):
    """What a pod has is written down where no bridge can be put into the others meanwhile."""
    monkeypatch.setattr(provider_module, "PATIENCE", 0.0)
    mount = await mounted(world)
    request(world, "bridge-a", "john", RULES)["state"] = "INSTALLED"
    call, mark = world.call, mount._mark
    made = []

    async def lost(pod, container, method, path, body=None):
        if path.startswith("mount/") and pod["metadata"]["name"] == "web-1":
            raise OSError("its container ends")
        return await call(pod, container, method, path, body)

    async def marking(pod):  # the last thing that a look does with a pod
        if not made:
            made.append(1)
            await bridge_of(world, "bridge-a").add_proxy_route("8080", "10.0.0.9", "8000")
        await mark(pod)

    monkeypatch.setattr(world, "call", lost)
    monkeypatch.setattr(mount, "_mark", marking)
    await mount.level(thorough=True)
    assert any(reason == "Pod late" for reason, _, _ in world.events)
    monkeypatch.setattr(world, "call", call)
    assert world.known.uneven
    assert await mount.level() == []
    assert [answer.status for answer in await bridge_of(world, "bridge-a")._look("bridge-a.8080")] == [200, 200, 200]


@unshare
async def test_many_bridges_ask_the_api_server_for_their_pods_once(world, monkeypatch):
    monkeypatch.setattr(provider_module, "PATIENCE", 0.0)
    await mounted(world)
    made = [request(world, f"bridge-{i}", f"user{i}", rules_of(f"user{i}")) for i in range(6)]
    world.asked.clear()
    for bridge in made:
        provider = bridge_of(world, bridge["metadata"]["name"])
        assert await provider.ready()
        assert not await provider.proxy_route_exists("8080", "10.0.0.9", "8000", bridge["metadata"]["name"])
        await provider.add_proxy_route("8080", "10.0.0.9", "8000")
        bridge["state"] = "ACTIVE"
    assert world.asked.count("Pod") <= 2
    assert len(world.asked) < 3 * len(made)


@unshare
async def test_a_pod_that_is_gone_costs_a_bridge_nothing_although_it_is_remembered(world, monkeypatch):
    monkeypatch.setattr(provider_module, "PATIENCE", 0.0)
    await mounted(world)
    request(world, "bridge-a", "john", RULES)
    assert await bridge_of(world, "bridge-a").ready()
    await world.stop("web-1")
    del world.objects["Pod", "default", "web-1"]
    await bridge_of(world, "bridge-a").add_proxy_route("8080", "10.0.0.9", "8000")
    assert [reason for reason, _, _ in world.events if reason == "Pod late"] == []
    assert [answer.pod for answer in await bridge_of(world, "bridge-a")._look("bridge-a.8080")] == ["web-0", "web-2"]


@unshare
async def test_a_pod_in_which_the_proxy_cannot_start_has_its_own_image_back_and_the_reason_is_told(world, monkeypatch):
    monkeypatch.setattr(installing, "STUCK", 0.1)
    mount = mount_of(world)
    await mount.prepare()
    shadow_runs(world)
    patch = world.patch

    async def patched(kind, namespace, name, change):
        if kind == "Pod" and "spec" in change and change["spec"]["containers"][0]["image"] == IMAGE:
            world.patched.append(name)
            status = world.objects["Pod", "default", name]["status"]["containerStatuses"][0]
            status.update(ready=False, image=IMAGE, state={"waiting": {"reason": "ImagePullBackOff", "message": "not found"}})
            asyncio.get_running_loop().call_later(0.08, status.update, {"state": {"waiting": {"reason": "CrashLoopBackOff"}}})
            world.objects["Pod", "default", name]["spec"]["containers"][0]["image"] = IMAGE
            return
        await patch(kind, namespace, name, change)

    monkeypatch.setattr(world, "patch", patched)
    sentence = r"cannot start in pod web-0, which has its own image back.*image proxy:1 cannot be had: ImagePullBackOff: not found"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=sentence):
            await mount.install()
    assert world.patched == ["web-0", "web-0"]  # once with the proxy, once with its own; nobody else's, and not again
    assert {world.objects["Pod", "default", f"web-{i}"]["spec"]["containers"][0]["image"] for i in range(3)} == {"app:1"}
    monkeypatch.setattr(installing, "HOPELESS", -1.0)


@unshare
async def test_what_a_pod_cannot_be_given_is_said_before_it_is_touched(world):
    mount = mount_of(world, parameter={"tls": {"certificate": {"secret": {"name": "tls", "key": "c"}}, "key": "/k"}})
    await mount.prepare()
    shadow_runs(world)
    with pytest.raises(RuntimeError, match="there is no Secret tls"):
        await mount.install()
    assert world.patched == []


@unshare
async def test_what_a_pod_does_not_take_is_a_stale_bridge_and_an_event(world):
    await mounted(world)
    john = Bridge(world, request(world, "bridge-a", "john", RULES))
    await john.create()
    jane = request(world, "bridge-b", "jane", RULES)
    jane["state"] = "ACTIVE"  # as if it had been made before there was a check
    await mount_of(world).ready()
    stale = [message for reason, message, _ in world.events if reason == "Bridge stale"]
    assert len(stale) == 3
    assert all("has the same rule already" in message for message in stale)


@unshare
async def test_validate_refuses_in_sentences(world):
    await mounted(world)
    await Bridge(world, request(world, "bridge-a", "john", RULES)).create()
    for parameters, sentence in (
        (RULES, "bridge 'bridge-a.8080' of user john has the same rule already"),
        ({"rules": [{"match": []}]}, "takes every session"),
        ({"rules": [{"match": [{"matchPath": {"path": "(", "type": "regex"}}]}]}, r"missing \)"),
        ({}, "at least one rule"),
    ):
        with pytest.raises(ValueError, match=sentence):
            await bridge_of(world, "bridge-b").validate(request(world, "bridge-b", "jane", parameters), None)
    fine = {"rules": [{"match": [{"matchHeader": {"name": "x-gefyra", "value": "jane"}}]}], "port": 1}
    assert await bridge_of(world, "bridge-b").validate(request(world, "bridge-b", "jane", fine), None) == []


@unshare
async def test_validate_warns_of_a_wide_rule_and_refuses_unknown_ports_and_mounts(world):
    await mounted(world)
    wide = request(world, "bridge-b", "jane", {"rules": [{"match": [{"matchPath": {"path": "/api", "type": "prefix"}}]}]})
    (warning,) = await bridge_of(world, "bridge-b").validate(wide, None)
    assert "takes everybody's requests with path" in warning
    with pytest.raises(ValueError, match="there is no port 7"):
        await bridge_of(world, "bridge-c").validate(request(world, "bridge-c", "jane", RULES, ("80:7",)), None)
    world.objects["gefyrabridgemount", "gefyra", "mount-a"]["state"] = "INSTALLING"
    with pytest.raises(ValueError, match="not active yet, but INSTALLING"):
        await bridge_of(world, "bridge-b").validate(wide, None)
    with pytest.raises(ValueError, match="has no label gefyra"):
        await bridge_of(world, "bridge-b").validate({"metadata": {"labels": {"gefyra.dev/bridge-mount": "mount-a"}}}, None)


@unshare
async def test_the_crd_s_global_bridge_and_path_prefix_are_bridges(world):
    await mounted(world)
    await Bridge(world, request(world, "all", "john", {"type": "stream"})).create()
    await Bridge(world, request(world, "api", "jane", {"type": "http", "url": "/api"})).create()


@unshare
async def test_destinations_are_tcp_and_udp_and_nobody_else_notices(world):
    world.add_pod("stowaway", {"app": "stowaway"}, {"name": "stowaway", "image": IMAGE})
    await world.start("stowaway")

    async def pods():
        return await world.list("Pod", "default", {"app": "stowaway"})

    made = Destinations(world, pods, "stowaway", {"app": "stowaway"})
    for _ in range(100):  # until its proxy answers
        try:
            one = await made.add_destination("john", "192.168.101.1", 8080)
            break
        except RuntimeError:
            await asyncio.sleep(0.05)
    assert one == "gefyra-stowaway-proxy-10000.gefyra.svc.cluster.local:10000"
    assert await made.add_destination("john", "192.168.101.1", "8080") == one
    two = await made.add_destination("jane", "192.168.101.2", 8080)
    assert two.endswith(":10001")
    assert await made.destination_exists("john", "192.168.101.1", 8080)
    assert await made.get_destination("jane", "192.168.101.2", "8080") == two
    service = world.objects["Service", "gefyra", "gefyra-stowaway-proxy-10000"]
    assert {port["protocol"] for port in service["spec"]["ports"]} == {"TCP", "UDP"}
    await made.remove_destination("john", "192.168.101.1", 8080)
    await made.remove_destination("john", "192.168.101.1", 8080)
    assert not await made.destination_exists("john", "192.168.101.1", 8080)
    assert await made.destination_exists("jane", "192.168.101.2", 8080)
    with pytest.raises(RuntimeError):
        await made.get_destination("john", "192.168.101.1", 8080)
    assert (await made.add_destination("kim", "192.168.101.3", 1)).endswith(":10000")


RELAYED = """
import socket, sys
kind, where, text = sys.argv[1], ("127.0.0.1", int(sys.argv[2])), sys.argv[3].encode()
with socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "TCP" else socket.SOCK_DGRAM) as peer:
    peer.settimeout(5)
    peer.connect(where)
    peer.sendall(text)
    print(peer.recv(100).decode(), end="", flush=True)
    for line in sys.stdin if len(sys.argv) > 4 else ():
        peer.sendall(line.strip().encode())
        print(peer.recv(100).decode(), end="", flush=True)
"""
LAPTOP = """
import socket, sys, threading
who, port = sys.argv[1].encode(), int(sys.argv[2])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("127.0.0.1", port))
tcp = socket.socket(); tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); tcp.bind(("127.0.0.1", port)); tcp.listen()
def datagrams():
    while True:
        data, peer = udp.recvfrom(100)
        udp.sendto(who + b" " + data, peer)
def serve(conn):
    while data := conn.recv(100):
        conn.sendall(who + b" " + data)
threading.Thread(target=datagrams, daemon=True).start()
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(tcp.accept()[0],), daemon=True).start()
"""


@unshare
async def test_two_users_destinations_carry_tcp_and_udp_and_neither_notices_the_other(world):
    """Real packets through the proxy, in its network: what Stowaway restarts for, costs nobody a connection here."""
    made = await stowaway(world, "stowaway")
    inside = ("nsenter", "-t", str(world.processes["stowaway"].pid), "-n", sys.executable, "-c")
    started = []

    async def start(*command, **pipes):
        started.append(await asyncio.create_subprocess_exec(*inside, *command, stdout=-1, stderr=-3, **pipes))
        return started[-1]

    async def said(kind, port, text):
        out, _ = await (await start(RELAYED, kind, port, text)).communicate()
        return out.decode()

    try:
        await patiently(lambda: made.ready())
        for user, port in (("john", "8001"), ("jane", "8002")):
            laptop = await start(LAPTOP, user, port)
            assert await laptop.stdout.readline() == b"ready\n"
        john = (await made.add_destination("john", "127.0.0.1", 8001)).rpartition(":")[2]
        stays = await start(RELAYED, "TCP", john, "one", "stay", stdin=-1)
        assert await stays.stdout.read(100) == b"john one"
        jane = (await made.add_destination("jane", "127.0.0.1", 8002)).rpartition(":")[2]
        for kind in ("TCP", "UDP"):
            assert await said(kind, john, "hello") == "john hello"
            assert await said(kind, jane, "hello") == "jane hello"
        await made.remove_destination("jane", "127.0.0.1", 8002)
        assert await said("TCP", jane, "hello") == ""
        stays.stdin.write(b"two\n")
        assert await asyncio.wait_for(stays.stdout.read(100), 5) == b"john two"
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def stowaway(world, *names):
    """Proxies for destinations, and the provider's side of them, as soon as they answer."""
    for name in names:
        world.add_pod(name, {"app": "stowaway"}, {"name": "stowaway", "image": IMAGE})
        await world.start(name)
    return Destinations(world, lambda: world.list("Pod", "default", {"app": "stowaway"}), "stowaway", {"app": "stowaway"})


async def patiently(call):
    """What a call gives as soon as the proxies answer."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await call()
            except RuntimeError:
                await asyncio.sleep(0.05)


def destination_ports(answer):
    return {one["name"]: one["spec"]["port"] for one in answer.body if one["name"].startswith("destination/")}


@unshare
async def test_a_restarted_proxy_gets_every_destination_back_at_its_own_port(world):
    """Otherwise the first who comes after the restart gets the port that another user's bridge leads to."""
    made = await stowaway(world, "stowaway-0", "stowaway-1")
    john = await patiently(lambda: made.add_destination("john", "192.168.101.1", 8080))
    jane = await made.add_destination("jane", "fd00::2", 8080)
    assert await made.destination_exists("jane", "fd00::2", "8080")
    await world.start("stowaway-1")
    kim = await patiently(lambda: made.add_destination("kim", "192.168.101.3", 8080))
    assert [where.rpartition(":")[2] for where in (john, jane, kim)] == ["10000", "10001", "10002"]
    fleet = await made._fleet()
    first, second = await fleet.call("GET", "listeners")
    assert destination_ports(first) == destination_ports(second) and len(destination_ports(first)) == 6
    await world.start("stowaway-0")
    await patiently(lambda: made.destination_exists("john", "192.168.101.1", 8080))
    assert not await made.destination_exists("john", "192.168.101.1", 8080)
    assert await made.ready()
    assert await made.destination_exists("john", "192.168.101.1", 8080)


@unshare
async def test_a_destination_stays_while_another_bridge_leads_there(world):
    made = await stowaway(world, "stowaway")
    where = await patiently(lambda: made.add_destination("john", "192.168.101.1", 8080))
    one, two = (request(world, name, "john", RULES, host="192.168.101.1") for name in ("one", "two"))
    for bridge in (one, two):
        bridge.update(state="ACTIVE", clusterEndpoint={"8080": where})
    one["state"] = "TERMINATING"
    await made.remove_destination("john", "192.168.101.1", 8080)
    assert await made.destination_exists("john", "192.168.101.1", 8080)
    two["destinationIP"] = "192.168.101.7"  # its user has come back with another address: the operator takes the old one away
    await made.remove_destination("john", "192.168.101.1", 8080)
    assert not await made.destination_exists("john", "192.168.101.1", 8080)


@unshare
async def test_a_bridge_to_an_ipv6_address_is_found_again(world):
    await mounted(world)
    await Bridge(world, request(world, "six", "john", RULES, host="fd00::9")).create()


@unshare
async def test_a_bridge_that_was_changed_into_nonsense_costs_nobody_elses(world):
    await mounted(world)
    await Bridge(world, request(world, "bridge-a", "john", RULES)).create()
    jane = request(world, "bridge-b", "jane", {"rules": [{"match": [{"matchHeader": {"name": "x-gefyra", "value": "jane"}}]}]})
    await Bridge(world, jane).create()
    jane["providerParameter"] = {"rules": [{"match": [{"matchHeader": {"name": "x", "value": "((", "type": "regex"}}]}]}
    assert await mount_of(world).ready()
    assert any(reason == "Bridge stale" and "bridge-b" in message for reason, message, _ in world.events)


@pytest.mark.parametrize(
    ("ports", "sentence"),
    [
        (["8080:x"], "port mapping '8080:x'"),
        (["0"], "port mapping '0'"),
        ([], "names no port"),
        (["9001:8080", "9002:8080"], "port 8080 is mapped twice"),
    ],
)
async def test_port_mappings_that_are_none_are_refused_in_a_sentence(world, ports, sentence):
    with pytest.raises(ValueError, match=sentence):
        await bridge_of(world, "odd").validate(request(world, "odd", "john", RULES, ports), None)


# -- mounts without a proxy


async def test_preparing_again_keeps_the_duplication_id(world):
    mount = mount_of(world)
    await mount.prepare()
    first = world.objects["Deployment", "default", "web-gefyra"]["spec"]["selector"]["matchLabels"]
    await mount.prepare()
    assert world.objects["Deployment", "default", "web-gefyra"]["spec"]["selector"]["matchLabels"] == first
    assert not await mount.prepared()
    shadow_runs(world)
    assert await mount.prepared()


async def test_a_shadow_that_the_operator_made_itself_stays_where_it_is(world):
    """Level 1 to level 2: a shadow that were made anew would be gone for seconds, and with it what serves everybody."""
    mount = mount_of(world)
    await mount.prepare()
    shadow = world.objects["Deployment", "default", "web-gefyra"]
    del shadow["metadata"]["annotations"][MADE_OF]
    del shadow["spec"]["selector"]["matchLabels"][DUPLICATION]  # as upstream selects
    replaced = []

    async def replace(obj):
        replaced.append(obj["spec"]["selector"]["matchLabels"])

    world.replace = replace
    await mount.prepare()
    assert replaced == []
    assert MADE_OF in world.objects["Deployment", "default", "web-gefyra"]["metadata"]["annotations"]
    world.objects["Deployment", "default", "web"]["spec"]["template"]["spec"]["containers"] = [{**CONTAINER, "image": "app:2"}]
    await mount.prepare()
    assert replaced == [{"app": "web-gefyra"}]


async def test_what_cannot_be_cloned_is_refused_with_the_reason(world):
    deployment(world, volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}])
    world.add("PersistentVolumeClaim", "data", spec={"accessModes": ["ReadWriteOnce"]})
    with pytest.raises(ValueError, match=r"uses the volume data \(ReadWriteOnce\)"):
        await mount_of(world).prepare()
    with pytest.raises(ValueError, match="is mounted already, by 'mount-a'"):
        await mount_of(world, "deployments/web").validate({"metadata": {"name": "mount-b"}, "targetNamespace": "default"}, None)
    with pytest.raises(ValueError, match="expected deploy/NAME"):
        await mount_of(world).validate({"target": "cronjob/x"}, None)
    with pytest.raises(ValueError, match="there is no Deployment nothing"):
        await mount_of(world).validate({"target": "deploy/nothing"}, None)


async def test_taking_a_mount_away_rolls_the_workload_and_deletes_the_shadow(world):
    mount = mount_of(world)
    await mount.prepare()
    container = world.objects["Pod", "default", "web-1"]["spec"]["containers"][0]
    container["image"] = IMAGE
    leaving = asyncio.create_task(mount.uninstall())
    await asyncio.sleep(0.1)
    assert ("Deployment", "default", "web-gefyra") in world.objects  # a pod leads to it still
    container["image"] = "app:1"
    await leaving
    assert ("Deployment", "default", "web-gefyra") not in world.objects
    assert not [key for key in world.objects if key[0] == "Service"]
    annotations = world.objects["Deployment", "default", "web"]["spec"]["template"]["metadata"]["annotations"]
    assert "kubectl.kubernetes.io/restartedAt" in annotations
    assert await mount.target_exists()
    del world.objects["Deployment", "default", "web"]
    assert not await mount.target_exists()
    await mount.uninstall()


async def test_a_workload_has_one_mount_whichever_of_its_containers_it_is_of(world):
    """As with Gefyra's own provider; two of them would share a shadow, and the first to go would take it along."""
    second = world.add("gefyrabridgemount", "mount-b", "gefyra", state="REQUESTED", targetContainer="side")
    second.update(target="deployment/web", targetNamespace="default")
    second["metadata"]["creationTimestamp"] = "2026-01-01T00:00:01Z"
    other = CarrierMount(world, "mount-b", "default", "deployment/web", "side", IMAGE, event=world.tell, pause=0.02)
    sentence = r"Deployment web is mounted already, by 'mount-a' \(container 'web'\), and a workload has one mount at a time"
    with pytest.raises(ValueError, match=sentence):
        await other.validate(second, None)
    with pytest.raises(ValueError, match=sentence):
        await other.prepare()  # where nobody asked for admission
    await mount_of(world).prepare()
    await other.uninstall()
    assert ("Deployment", "default", "web-gefyra") in world.objects
    world.objects["gefyrabridgemount", "gefyra", "mount-a"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    with pytest.raises(ValueError, match="which is being removed: try again when it is gone"):
        await other.prepare()
    del world.objects["gefyrabridgemount", "gefyra", "mount-a"]
    with pytest.raises(ValueError, match="has no container 'side'"):
        await other.prepare()


async def test_the_shadow_of_a_lone_pod_is_made_again_of_what_the_pod_ran(world):
    """While it is mounted the pod itself says that its image is the proxy's."""
    world.add_pod("lone", {"app": "lone"}, CONTAINER)
    mount = mount_of(world, "pod/lone")
    world.objects["gefyrabridgemount", "gefyra", "mount-a"]["target"] = "pod/lone"
    await mount.prepare()
    assert world.objects["Pod", "default", "lone-gefyra"]["spec"]["containers"][0]["image"] == "app:1"
    await mount._keep("lone", "app:1")
    world.objects["Pod", "default", "lone"]["spec"]["containers"][0]["image"] = IMAGE
    del world.objects["Pod", "default", "lone-gefyra"]
    await mount.prepare()
    assert world.objects["Pod", "default", "lone-gefyra"]["spec"]["containers"][0]["image"] == "app:1"
    kept = world.objects["ConfigMap", "gefyra", "gefyra-carrier2-restore-configmap"]["data"]
    kept.clear()
    kept["default-lone"] = json.dumps({"originalConfig": {"image": "app:7", "command": None}})  # as the operator's own provider keeps it
    del world.objects["Pod", "default", "lone-gefyra"]
    await mount.prepare()
    assert world.objects["Pod", "default", "lone-gefyra"]["spec"]["containers"][0]["image"] == "app:7"
    kept.clear()
    del world.objects["Pod", "default", "lone-gefyra"]
    with pytest.raises(ValueError, match="nobody knows what its container 'web' ran before"):
        await mount.prepare()


@pytest.mark.parametrize("held", [{"paused": True}, {"updateStrategy": {"type": "OnDelete"}}])
async def test_pods_that_no_rollout_replaces_are_given_their_image_back(world, held):
    """A Deployment that is paused, a StatefulSet that waits for somebody to delete its pods."""
    mount = mount_of(world)
    world.objects["Deployment", "default", "web"]["spec"].update(held)
    await mount.prepare()
    assert "paused" not in world.objects["Deployment", "default", "web-gefyra"]["spec"]
    for i in range(3):
        await mount._keep(f"web-{i}", "app:1")
        world.objects["Pod", "default", f"web-{i}"]["spec"]["containers"][0]["image"] = IMAGE
    leaving = asyncio.create_task(mount.uninstall())
    await asyncio.sleep(0.2)
    assert ("Deployment", "default", "web-gefyra") in world.objects  # their statuses show the proxy still
    for i in range(3):
        assert world.objects["Pod", "default", f"web-{i}"]["spec"]["containers"][0]["image"] == "app:1"
        world.objects["Pod", "default", f"web-{i}"]["status"]["containerStatuses"][0]["restartCount"] = 2
    await leaving
    assert ("Deployment", "default", "web-gefyra") not in world.objects
    assert "annotations" not in world.objects["Deployment", "default", "web"]["spec"]["template"]["metadata"]


async def test_what_the_api_server_does_not_allow_is_told_by_the_mount(world, monkeypatch):
    async def apply(obj):
        raise PermissionError("a quota does not allow it: POST deployments: exceeded quota")

    monkeypatch.setattr(world, "apply", apply)
    with pytest.raises(ValueError, match="exceeded quota"):
        await mount_of(world).prepare()


async def test_a_target_that_goes_while_its_shadow_is_waited_for_is_told(world):
    mount = mount_of(world)
    await mount.prepare()
    del world.objects["Deployment", "default", "web"]
    for _ in range(2):
        assert not await mount._duplicated_pods_ready
    assert [(reason, note) for reason, note, _ in world.events] == [("Target missing", "there is no Deployment web in namespace default")]
    with pytest.raises(ValueError, match="there is no Deployment web"):
        await mount.prepare()


async def test_why_a_shadow_does_not_serve_is_told_once(world, monkeypatch):
    monkeypatch.setattr(shadow, "WAITED", 0.1)
    mount = mount_of(world)
    await mount.prepare()
    shadow_runs(world)
    status = world.objects["Pod", "default", "web-gefyra-0"]["status"]["containerStatuses"][0]
    waiting = {"reason": "ImagePullBackOff", "message": "not found"}
    status.update(ready=False, image="app:1", state={"waiting": waiting})
    for reason in ("ImagePullBackOff", "ErrImagePull"):  # a kubelet says them by turns
        waiting["reason"] = reason
        assert not await mount._duplicated_pods_ready
    (told,) = [note for reason, note, _ in world.events if reason == "Shadow not ready"]
    assert "the shadow of deploy/web does not serve yet: pod web-gefyra-0: container web: its image app:1 cannot be had" in told
    status.update(ready=True, state={"running": {}})
    assert await mount._duplicated_pods_ready
    status.update(ready=False, state={"running": {}})
    assert not await mount._duplicated_pods_ready
    assert "is not ready: what does its readiness probe get?" in [note for _, note, _ in world.events][-1]


async def test_a_shadow_that_serves_after_the_workload_has_changed_is_made_anew_first(world, monkeypatch):
    """It had asked for more than a node has, until the workload asked for less: Services would have led to it while it was replaced."""
    monkeypatch.setattr(shadow, "WAITED", 1.0)
    mount = mount_of(world)
    await mount.prepare()
    shadow_runs(world)
    status = world.objects["Pod", "default", "web-gefyra-0"]["status"]["containerStatuses"][0]
    status.update(ready=False)
    waiting = asyncio.create_task(mount._is_duplicated())
    await asyncio.sleep(0.05)
    world.objects["Deployment", "default", "web"]["spec"]["template"]["spec"]["containers"][0]["image"] = "app:2"
    status.update(ready=True)
    assert not await waiting
    assert await mount._duplicated_pods_ready
    assert world.objects["Deployment", "default", "web-gefyra"]["spec"]["template"]["spec"]["containers"][0]["image"] == "app:2"


@pytest.mark.parametrize(
    ("target", "left"),
    [("deploy/web", ["default-api-1-web", "default-web-api-web", "shop-web-1-web"]), ("pod/web-1", ["default-web-api-web"])],
)
async def test_what_was_kept_of_others_pods_stays(world, target, left):
    """Names that begin like the workload's are no pods of it; nor are those of other containers and namespaces."""
    keys = ["web-0-web", "web-1-web", "web-gone-web", "web-api-web", "api-1-web", "web-1-other"]
    world.add_pod("web-api", {"app": "web-api"}, CONTAINER)
    data = dict.fromkeys([f"default-{key}" for key in keys] + ["shop-web-1-web"], "{}")
    world.add("ConfigMap", "gefyra-carrier2-restore-configmap", "gefyra", data=data)
    await mount_of(world, target)._forget_originals()
    kept = world.objects["ConfigMap", "gefyra", "gefyra-carrier2-restore-configmap"]["data"]
    assert set(left) <= set(kept)
    assert "default-web-1-web" not in kept
    assert ("default-web-gone-web" in kept) == (target == "pod/web-1")
    assert "default-web-1-other" in kept


# -- the operator's classes


async def test_one_import_registers_builders_that_make_our_providers(world):
    with standing_in() as factories:
        operator = importlib.import_module("carrier.gefyra.operator")
        operator.register(lambda: world)
        configuration = types.SimpleNamespace(CARRIER2_IMAGE="proxy", CARRIER2_IMAGE_TAG="1", NAMESPACE="gefyra")
        (bridge_builder,), (mount_builder,) = factories["bridge"].builders.values(), factories["bridge_mount"].builders.values()
        bridge = await bridge_builder(configuration, "bridge-a", "default", "mount-a", "web", world.tell, None, extra=1)
        mount = mount_builder(configuration, "mount-a", "default", "deploy/web", "web", None, None, None)
        assert isinstance(bridge, sys.modules["gefyra.bridge.abstract"].AbstractGefyraBridgeProvider)
        assert (bridge.provider_type, mount.provider_type, mount.image) == ("carrier2", "carrier2mount", IMAGE)
        with pytest.raises(upstream.AdmissionError):
            await bridge.validate({"metadata": {}}, None)
        with pytest.raises(upstream.TemporaryError):
            await bridge.ready()


def test_what_stands_in_for_the_operator_is_what_was_recorded_of_it():
    if not INTERFACES.exists():
        pytest.skip("the recorded interfaces are not at hand")
    recorded = json.loads(INTERFACES.read_text())
    for kind, methods in upstream.METHODS.items():
        assert recorded["abstract"][kind]["class"] == upstream.CLASSES[kind]
        assert [one["name"] for one in recorded["abstract"][kind]["abstract_methods"]] == list(methods)
        enum, members = upstream.TYPES[kind]
        assert recorded["provider_enums"][enum] == members
        assert recorded["factories"][kind]["get_async"] == (kind == "bridge")


@pytest.mark.parametrize(("kind", "ours"), [("bridge", CarrierProvider), ("bridge_mount", CarrierMount), ("connection", Destinations)])
def test_every_method_has_the_operator_s_signature(kind, ours):
    if not INTERFACES.exists():
        pytest.skip("the recorded interfaces are not at hand")
    for method in json.loads(INTERFACES.read_text())["abstract"][kind]["abstract_methods"]:
        if kind == "connection" and "destination" not in method["name"]:
            continue
        found = getattr(ours, method["name"])
        assert inspect.iscoroutinefunction(found), method["name"]
        names = [(p.name, p.default is p.empty) for p in inspect.signature(found).parameters.values()]
        assert names == [(p["name"], p["default"] == "<required>") for p in method["params"]], method["name"]


def test_the_core_needs_nothing_of_gefyra():
    code = "import sys, carrier.gefyra.provider, carrier.gefyra.mount, carrier.gefyra.connection, carrier.gefyra.kubernetes\n"
    code += "print([name for name in ('kopf', 'kubernetes', 'gefyra') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# -- exec


@pytest.mark.parametrize(("text", "body"), [(b'{"a": 1}\n', {"a": 1}), (b"no\n", "no"), (b"", None)])
def test_what_carrierctl_was_answered_is_an_answer(text, body):
    assert answer_of("p", 200, "7", text) == ("p", 200, 7, body)


async def test_an_exec_that_fails_is_an_oserror_with_the_pods_name():
    def open_line(namespace, pod, container):
        assert (namespace, pod, container) == ("default", "web-0", "web")
        raise RuntimeError("container not found")

    access = KubernetesAccess(open_line, ask=lambda *_: None)
    with pytest.raises(OSError, match="pod web-0: container not found"):
        await access.call({"metadata": {"name": "web-0"}}, "web", "PUT", "bridges/a", {})
    with pytest.raises(OSError, match="pod p: no such socket"):
        answer_of("p", 0, "-", b"no such socket")
