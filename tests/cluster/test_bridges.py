"""Bridges at level 2 against a real API server: admission, what their owners are told, many of them, and the end of one."""

import asyncio
import json
import time

import pytest

from carrier.gefyra import report
from tests.cluster.operator import Webhook

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("cluster"), pytest.mark.asyncio(loop_scope="session")]


async def test_rules_are_checked_in_admission_where_no_event_can_be_posted(mounted):
    operator = mounted.operators[0]
    await mounted.bridge("alice")
    path = {"rules": [{"match": [{"matchPath": {"path": "/cart", "type": "prefix"}}]}]}
    await operator.admit(mounted.bridge_object("carol", providerParameter=path))
    with pytest.raises(operator.ours.Refused, match=r"alice.* has the same rule already"):
        same = mounted.bridge_object("alice")["providerParameter"]
        await operator.admit(mounted.bridge_object("mallory", providerParameter=same))
    with pytest.raises(operator.ours.Refused, match="cannot be"):
        await operator.admit(mounted.bridge_object("dave", providerParameter={"rules": "all"}))
    with pytest.raises(operator.ours.Refused, match="is mounted already"):
        await operator.admit(mounted.mount_object("mount-b", target="deployment/web"))


async def test_the_api_server_asks_and_says_why_not(mounted):
    """A real admission call: what `kubectl` shows its user."""
    operator = mounted.operators[0]
    await mounted.bridge("alice")
    webhook = Webhook(operator)
    await webhook.start()
    try:
        await asyncio.sleep(1)  # until the API server knows of it
        with pytest.raises(RuntimeError, match=r"403.*has the same rule already"):
            await mounted.apply(mounted.bridge_object("mallory", providerParameter=mounted.bridge_object("alice")["providerParameter"]))
        await mounted.bridge("carol", providerParameter={"rules": [{"match": [{"matchPath": {"path": "/cart", "type": "prefix"}}]}]})
        assert operator.errors == []
    finally:
        await webhook.stop()


async def test_a_bridge_with_only_a_path_is_active_and_warned_of(mounted):
    await mounted.bridge("carol", providerParameter={"rules": [{"match": [{"matchPath": {"path": "/cart", "type": "prefix"}}]}]})
    assert "takes everybody's requests" in await mounted.told("bridge-carol", "Wide rule")


async def test_a_laptop_that_is_not_there_is_told_in_plain_words_and_the_bridge_is_active_all_the_same(mounted):
    began = time.monotonic()
    await mounted.bridge("alice")  # nobody listens at 127.0.0.1:9001 in the pods
    operator = mounted.operators[0]
    assert time.monotonic() - began < 10
    assert operator.errors == []
    note = await mounted.told("bridge-alice", "Endpoint not reached")
    assert "served by the shadow" in note


async def test_twenty_bridges_at_once_are_active_and_in_every_pod(mounted):
    users = [f"user{i:02}" for i in range(20)]
    began = time.monotonic()
    await mounted.apply(*(mounted.bridge_object(user, ports=(f"{9100 + i}:8080",)) for i, user in enumerate(users)))
    for user in users:
        await mounted.state("gefyrabridge", f"bridge-{user}", "ACTIVE", 60)
    assert time.monotonic() - began < 40  # a quiet node takes a fifth of it
    await mounted.everywhere(*(f"bridge-{user}.8080" for user in users))


async def test_rules_that_are_edited_are_in_force_in_every_pod(mounted):
    """The operator itself does not look at them again; `kubectl apply` of a changed file says that it was configured."""
    await mounted.bridge("alice")
    await mounted.everywhere("bridge-alice.8080")
    match = [{"matchHeader": {"name": "x-team", "value": "blue"}}]
    await mounted.apply(mounted.bridge_object("alice", providerParameter={"rules": [{"match": match}]}))

    async def changed():
        found = [await mounted.ctl(pod["metadata"]["name"], "GET", "bridges/bridge-alice.8080") for pod in await mounted.pods()]
        return all("x-team" in json.dumps(one) and "x-user" not in json.dumps(one) for one in found)

    await mounted.until("it is the new rule", changed)


async def test_a_bridge_that_is_deleted_is_gone_everywhere_and_does_not_come_back(mounted):
    await mounted.bridge("alice")
    await mounted.bridge("bob")
    await mounted.delete("gefyrabridge", "bridge-alice")
    await mounted.everywhere("bridge-bob.8080")
    await asyncio.sleep(3)
    await mounted.everywhere("bridge-bob.8080")


async def test_a_pod_that_restarts_while_a_bridge_is_made_costs_the_bridge_nothing(mounted):
    """What the provider raises then is an ERROR for good, when the bridge was never ACTIVE."""
    pods = [pod["metadata"]["name"] for pod in await mounted.pods()]
    for pod in pods:
        await mounted.node.kill(pod)
    await mounted.apply(mounted.bridge_object("alice"))
    await mounted.state("gefyrabridge", "bridge-alice", "ACTIVE", 60)
    await mounted.everywhere("bridge-alice.8080")


async def test_what_becomes_of_a_bridge_is_told_without_exec(mounted, monkeypatch):
    monkeypatch.setattr(report, "UNMATCHED", (2.0, 600.0))
    monkeypatch.setattr(report, "OFTEN", 0.5)
    mounted.operators[0].connection.reach[9001] = "127.0.0.1:9001"
    await mounted.bridge("alice")
    pod = mounted.node.named((await mounted.pods())[0]["metadata"]["name"])

    async def ask(user):
        """A request from inside the pod's network."""
        code = "import http.client; c = http.client.HTTPConnection('127.0.0.1', 8080, timeout=5)\n"
        code += f"c.request('GET', '/cart', headers={{'x-user': '{user}'}}); c.getresponse().read()"
        process = pod.containers["web"].process
        await (await asyncio.create_subprocess_exec("nsenter", "-t", str(process.pid), "-n", "python3", "-c", code)).wait()

    await ask("Alice")
    note = await mounted.told("bridge-alice", "No request matched")
    assert "none of 1 requests matched" in note
    assert "differs only in case" in note
    await ask("alice")
    assert "the first request matched" in await mounted.told("bridge-alice", "First request")
    assert "refused: is your container listening on" in await mounted.told("bridge-alice", "Endpoint not reached")
    assert "1 of 1 requests of this bridge were served by the shadow" in await mounted.told("bridge-alice", "Served by the shadow")

    async def status():
        found = await mounted.get(f"/apis/gefyra.dev/v1/namespaces/{mounted.gefyra}/gefyrabridges/bridge-alice")
        return (found.get("status") or {}).get("carrier2", {}).get("matched") == 1

    await mounted.until("the status says it", status)
