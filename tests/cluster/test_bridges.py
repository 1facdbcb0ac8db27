"""Bridges at level 2 against a real API server: admission, what their owners are told, many of them, and the end of one."""

import asyncio
import time

import pytest

from carrier.gefyra import report
from tests.cluster.operator import Stowaway, Webhook

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("cluster")]


async def mounted(cluster, replicas=2, **more):
    await cluster.deploy(replicas=replicas)
    operator = await cluster.operator(**more)
    await cluster.mount()
    return operator


async def test_rules_are_checked_in_admission_where_no_event_can_be_posted(cluster):
    operator = await mounted(cluster)
    await cluster.bridge("alice")
    path = {"rules": [{"match": [{"matchPath": {"path": "/cart", "type": "prefix"}}]}]}
    await operator.admit(cluster.bridge_object("carol", providerParameter=path))
    with pytest.raises(operator.ours.Refused, match=r"alice.* has the same rule already"):
        same = cluster.bridge_object("alice")["providerParameter"]
        await operator.admit(cluster.bridge_object("mallory", providerParameter=same))
    with pytest.raises(operator.ours.Refused, match="cannot be"):
        await operator.admit(cluster.bridge_object("dave", providerParameter={"rules": "all"}))
    with pytest.raises(operator.ours.Refused, match="is mounted already"):
        await operator.admit(cluster.mount_object("mount-b", target="deployment/web"))


async def test_the_api_server_asks_and_says_why_not(cluster):
    """A real admission call: what `kubectl` shows its user."""
    operator = await mounted(cluster)
    await cluster.bridge("alice")
    webhook = Webhook(operator)
    await webhook.start()
    try:
        await asyncio.sleep(1)  # until the API server knows of it
        with pytest.raises(RuntimeError, match=r"403.*has the same rule already"):
            await cluster.apply(cluster.bridge_object("mallory", providerParameter=cluster.bridge_object("alice")["providerParameter"]))
        await cluster.bridge("carol", providerParameter={"rules": [{"match": [{"matchPath": {"path": "/cart", "type": "prefix"}}]}]})
        assert operator.errors == []
    finally:
        await webhook.stop()


async def test_a_bridge_with_only_a_path_is_active_and_warned_of(cluster):
    await mounted(cluster)
    await cluster.bridge("carol", providerParameter={"rules": [{"match": [{"matchPath": {"path": "/cart", "type": "prefix"}}]}]})
    assert "takes everybody's requests" in await cluster.told("bridge-carol", "Wide rule")


async def test_a_laptop_that_is_not_there_is_told_in_plain_words_and_the_bridge_is_active_all_the_same(cluster):
    await mounted(cluster)
    began = time.monotonic()
    await cluster.bridge("alice")  # nobody listens at 127.0.0.1:9001 in the pods
    operator = cluster.operators[0]
    assert time.monotonic() - began < 10
    assert operator.errors == []
    note = await cluster.told("bridge-alice", "Endpoint not reached")
    assert "served by the shadow" in note


async def test_twenty_bridges_at_once_are_active_and_in_every_pod(cluster):
    await mounted(cluster)
    users = [f"user{i:02}" for i in range(20)]
    began = time.monotonic()
    await cluster.apply(*(cluster.bridge_object(user, ports=(f"{9100 + i}:8080",)) for i, user in enumerate(users)))
    for user in users:
        await cluster.state("gefyrabridge", f"bridge-{user}", "ACTIVE", 60)
    assert time.monotonic() - began < 40  # a quiet node takes a fifth of it
    await cluster.everywhere(*(f"bridge-{user}.8080" for user in users))


async def test_a_bridge_that_is_deleted_is_gone_everywhere_and_does_not_come_back(cluster):
    await mounted(cluster)
    await cluster.bridge("alice")
    await cluster.bridge("bob")
    await cluster.delete("gefyrabridge", "bridge-alice")
    await cluster.everywhere("bridge-bob.8080")
    await asyncio.sleep(3)
    await cluster.everywhere("bridge-bob.8080")


async def test_a_pod_that_restarts_while_a_bridge_is_made_costs_the_bridge_nothing(cluster):
    """What the provider raises then is an ERROR for good, when the bridge was never ACTIVE."""
    await mounted(cluster)
    pods = [pod["metadata"]["name"] for pod in await cluster.pods()]
    for pod in pods:
        await cluster.node.kill(pod)
    await cluster.bridge("alice")
    await cluster.everywhere("bridge-alice.8080")


async def test_what_becomes_of_a_bridge_is_told_without_exec(cluster, monkeypatch):
    monkeypatch.setattr(report, "UNMATCHED", (2.0, 600.0))
    monkeypatch.setattr(report, "OFTEN", 0.5)
    await mounted(cluster, replicas=1, connection=Stowaway({9001: "127.0.0.1:9001"}))
    await cluster.bridge("alice")
    pod = cluster.node.named((await cluster.pods())[0]["metadata"]["name"])

    async def ask(user):
        """A request from inside the pod's network."""
        code = "import http.client; c = http.client.HTTPConnection('127.0.0.1', 8080, timeout=5)\n"
        code += f"c.request('GET', '/cart', headers={{'x-user': '{user}'}}); c.getresponse().read()"
        process = pod.containers["web"].process
        await (await asyncio.create_subprocess_exec("nsenter", "-t", str(process.pid), "-n", "python3", "-c", code)).wait()

    await ask("Alice")
    note = await cluster.told("bridge-alice", "No request matched")
    assert "none of 1 requests matched" in note
    assert "differs only in case" in note
    await ask("alice")
    assert "the first request matched" in await cluster.told("bridge-alice", "First request")
    assert "refused: is your container listening on" in await cluster.told("bridge-alice", "Endpoint not reached")
    assert "1 of 1 requests of this bridge were served by the shadow" in await cluster.told("bridge-alice", "Served by the shadow")

    async def status():
        found = await cluster.get("/apis/gefyra.dev/v1/namespaces/gefyra/gefyrabridges/bridge-alice")
        return (found.get("status") or {}).get("carrier2", {}).get("matched") == 1

    await cluster.until("the status says it", status)
