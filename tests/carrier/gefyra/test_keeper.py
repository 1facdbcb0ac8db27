"""Who watches over a mount between the operator's looks: what it asks the API server for, and when."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from carrier.gefyra import keeper as keeper_module
from carrier.gefyra.keeper import Keeper
from carrier.gefyra.mount import CarrierMount
from carrier.gefyra.wanted import MOUNT_LABEL
from tests.carrier.gefyra.world import World


class Watched(World):
    """A cluster without pods, which says what changes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.watches = {}

    def watch(self, kind, namespace, changed):
        self.watches[kind] = changed
        return lambda: None

    def bridge(self, name, state, **more):
        found = self.add("gefyrabridge", name, "gefyra", labels={MOUNT_LABEL: "mount-a"}, state=state, **more)
        self.watches["gefyrabridge"]()
        return found


@pytest.fixture
async def world(tmp_path, monkeypatch):
    monkeypatch.setattr(keeper_module, "QUIET", 0.0)
    found = Watched(tmp_path)
    active = {"state": "ACTIVE", "stateTransitions": {"ACTIVE": "2026-01-01T00:00:00Z"}}
    found.add("gefyrabridgemount", "mount-a", "gefyra", target="deploy/web", targetNamespace="default", **active)
    mount = CarrierMount(found, "mount-a", "default", "deploy/web", "web", "proxy:1", known=found.known)

    async def level(thorough=False):
        return []

    mount.level = level
    found.keeper = Keeper(mount)
    found.keeper.start()
    await settled()
    yield found
    with contextlib.suppress(asyncio.CancelledError):
        await found.keeper.stop()


async def settled():
    for _ in range(50):
        await asyncio.sleep(0)


async def test_bridges_that_are_being_made_are_not_read_at_each_of_their_changes(world):
    """Twenty that are made at once change two hundred times, and their API server is the one that makes them."""
    world.bridge("bridge-0", "REQUESTED")
    await settled()
    world.asked.clear()
    for number in range(20):
        for state in ("REQUESTED", "INSTALLING", "INSTALLED", "CREATING", "ACTIVE"):
            world.bridge(f"bridge-{number}", state)
            await settled()
    assert world.asked == []


async def test_a_bridge_that_somebody_edits_is_read_at_once(world):
    world.bridge("bridge-0", "ACTIVE", providerParameter={"rules": [1]})
    await settled()
    world.known.uneven = False
    world.keeper.next = float("inf")
    world.bridge("bridge-0", "ACTIVE", providerParameter={"rules": [2]})
    await settled()
    assert world.known.uneven or world.keeper.next < float("inf")  # pods are looked at
    assert world.asked.count("gefyrabridge") == 3  # once a look, for whoever asks in it


async def test_what_the_keeper_reads_of_bridges_its_providers_need_not_read(world):
    world.bridge("bridge-0", "ACTIVE")
    await settled()

    async def read():
        raise AssertionError("it was read a moment ago")

    assert [one["metadata"]["name"] for one in await world.known.bridges.get(read)] == ["bridge-0"]
