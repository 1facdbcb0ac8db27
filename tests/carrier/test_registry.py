"""Protocols by name: what is there, what is not, and what cannot be imported."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from carrier import registry
from carrier.cluster import Cluster
from carrier.errors import Error
from carrier.listener import Listener


def test_every_entry_point_is_a_class_of_its_side_that_knows_its_own_name() -> None:
    for name in registry.listener_names():
        listener = registry.listener(name)
        assert listener is not None and issubclass(listener, Listener) and listener.protocol == name
    for name in registry.cluster_names():
        cluster = registry.cluster(name)
        assert cluster is not None and issubclass(cluster, Cluster) and cluster.protocol == name


def test_names_are_sorted_and_transforms_are_clusters() -> None:
    assert registry.listener_names() == sorted(registry.listener_names())
    assert registry.cluster_names() == sorted(registry.cluster_names())
    assert {"TCP", "UDP", "HTTP"} <= set(registry.listener_names())
    assert {"TCP", "UDP", "HTTP", "Echo", "Logger"} <= set(registry.cluster_names())


@pytest.mark.parametrize("name", ["tcp", "Carrier pigeon", "", None, 5, ["TCP"], {}])
def test_what_is_no_protocol_is_none(name: object) -> None:
    assert registry.listener(name) is None
    assert registry.cluster(name) is None


def test_unknown_names_are_not_remembered() -> None:
    before = registry._loaded.cache_info().currsize
    for n in range(100):
        registry.cluster(f"unknown-{n}")
    assert registry._loaded.cache_info().currsize == before


def test_a_protocol_that_cannot_be_imported_says_which_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("Broken", "carrier.no_such_module:Broken", "carrier.clusters")
    monkeypatch.setattr(registry, "_group", lambda group: {"Broken": broken})
    with pytest.raises(Error, match=r"protocol Broken cannot be loaded from carrier.no_such_module:Broken: ModuleNotFoundError") as error:
        registry.cluster("Broken")
    assert error.value.status == 400
