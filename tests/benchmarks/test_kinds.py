"""Rules of each kind: what each peer is given, which is checked without running it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import kinds
from carrier.config.source import loads
from carrier.rules.match import Matcher

META = {"IP": {"src_addr": "127.0.0.1"}, "TCP": {"src_port": 40_000}, "HTTP": {"method": "GET", "url": {"path": "/"}, "headers": {}}}


@pytest.mark.parametrize("name", kinds.KINDS)
def test_our_rules_are_good_and_take_no_request_of_the_load(name: str, tmp_path: Path) -> None:
    kind = kinds.KINDS[name]
    kinds.ours(kind, 50, 8080, 9, tmp_path)
    loaded = loads((tmp_path / "carrier.json").read_bytes())
    assert len(loaded.config.rules) == 51 and not loaded.warnings
    assert Matcher([(str(i), kind.match(i)) for i in range(50)]).first(META) is None


def test_nginx_and_haproxy_have_the_same_rules(tmp_path: Path) -> None:
    kind = kinds.KINDS["cidr"]
    kinds.nginx(kind, 300, 8080, 9, tmp_path)
    kinds.haproxy(kind, 300, 8080, 9, tmp_path)
    kinds.ours(kind, 300, 8080, 9, tmp_path)
    ours = json.loads((tmp_path / "carrier.json").read_text())["listeners"][0]["rules"]
    nets = [rule["match"]["matchSource"]["cidr"] for rule in ours[:-1]]
    assert len(set(nets)) == 300
    assert [line.split()[0] for line in (tmp_path / "rules.map").read_text().splitlines()] == nets
    assert all(f"{net} D;" in (tmp_path / "nginx.conf").read_text() for net in nets)
    assert f"src,map_ip({tmp_path}/rules.map,D)" in (tmp_path / "haproxy.cfg").read_text()


def test_a_peer_is_asked_for_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds.shutil, "which", lambda name: None if name == "nginx" else f"/bin/{name}")
    assert kinds.peers_of(kinds.KINDS["regex"]) == ["carrier", "haproxy"]
    assert kinds.peers_of(kinds.KINDS["not"]) == ["carrier"]


def test_an_unknown_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        kinds.main(["ciddr"])
    assert "unknown: ciddr" in capsys.readouterr().err
