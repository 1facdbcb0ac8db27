"""Protocols by name: what is there, what is not, and what cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from carrier.core import registry
from carrier.core.cluster import Cluster
from carrier.core.listener import Listener
from carrier.errors import Error


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
    broken = registry.Point("Broken", "carrier.no_such_module:Broken")
    monkeypatch.setattr(registry, "_group", lambda group: {"Broken": broken})
    with pytest.raises(Error, match=r"protocol Broken cannot be loaded from carrier.no_such_module:Broken: ModuleNotFoundError") as error:
        registry.cluster("Broken")
    assert error.value.status == 400


@pytest.mark.parametrize("group", ["listeners", "clusters", "transforms", "formats"])
def test_what_is_found_is_what_importlib_metadata_finds(group: str) -> None:
    theirs = {(point.name, point.value) for point in entry_points(group=f"carrier.{group}")}
    assert set(registry._group(group).values()) == theirs


def test_where_no_folder_has_any_importlib_metadata_is_asked() -> None:
    assert registry._zipped("carrier.listeners") == registry._group("listeners")


def test_comments_spaces_and_other_sections_are_read_as_the_standard_says() -> None:
    text = "a = out:side\n[other]\nb = x:y\n"
    text += "[ carrier.clusters ]\n# c = x:y\n;d = x:y\n\n E = my.mod : Cls [extra]\nF=m:G\n[carrier.more]\nH = x:y\n"
    assert list(registry.points(text, "carrier.clusters")) == [("E", "my.mod : Cls [extra]"), ("F", "m:G")]
    assert registry.Point("E", "carrier.errors : Error [extra]").load() is Error


def test_a_third_party_s_protocol_is_found_and_of_two_versions_the_first_on_the_path_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, version, value in (("one", "2.0", "carrier.errors:Error"), ("two", "1.0", "carrier.errors:Problem")):
        info = tmp_path / folder / f"Pigeon-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "entry_points.txt").write_text(f"[carrier.clusters]\nPigeon = {value}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "missing"), str(tmp_path / "one"), str(tmp_path / "two"), *sys.path])
    found = registry._group.__wrapped__("clusters")
    assert found["Pigeon"].load() is Error and "TCP" in found


CHECKS = "from carrier.cli.main import main; main(['check', 'odd.yaml'])"


@pytest.mark.parametrize("how", [["-m", "carrier", "check", "odd.yaml"], ["-c", CHECKS]])
def test_a_distribution_that_lies_in_the_working_directory_names_no_protocol(tmp_path: Path, how: list[str]) -> None:
    info = tmp_path / "Evil-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[carrier.clusters]\nEvil = evil:Cluster\n")
    (tmp_path / "evil.py").write_text("print('run')")
    (tmp_path / "odd.yaml").write_text("clusters: [{name: a, spec: {protocol: Evil}}]")
    found = subprocess.run([sys.executable, *how], capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert "unknown protocol 'Evil'" in found.stdout + found.stderr and "run" not in found.stdout.split()


def test_a_server_is_spared_what_it_does_not_use() -> None:
    unused = {"email", "zipfile", "re2", "prometheus_client", "difflib", "aioquic"}
    code = f"import sys, carrier.process.serve; print(*{unused} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=30, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert (found.stdout.strip(), found.stderr) == ("", "")


def test_the_working_directory_has_no_say_in_which_protocols_there_are(tmp_path):
    (tmp_path / "evil-1.dist-info").mkdir()
    (tmp_path / "evil-1.dist-info" / "entry_points.txt").write_text("[carrier.clusters]\nEvil = evil:Evil\n")
    (tmp_path / "evil.py").write_text("open('ran', 'w')\n")
    (tmp_path / "yaml.py").write_text("open('ran', 'w')\n")
    (tmp_path / "c.yaml").write_text("clusters: [{name: x, spec: {protocol: Evil}}]\n")
    found = subprocess.run([sys.executable, "-m", "carrier", "check", "c.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert found.returncode == 2 and "unknown protocol 'Evil'" in found.stderr
    assert not (tmp_path / "ran").exists()
