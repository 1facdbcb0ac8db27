"""`carrier doctor`: ticks where all is well, a cross with a hint for each thing that is not."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from carrier.cli import doctor as d
from tests.carrier.cli.test_status import Pod, add_john, pod
from tests.ports import free_port

__all__ = ["pod"]


@pytest.fixture
def where() -> str:
    return f"127.0.0.1:{free_port()}"


async def checks(pod: Pod, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    status, text = await pod.carrier("doctor", "--json", *arguments)
    return status, {check["what"]: check for check in json.loads(text)["checks"]}


async def test_all_is_well_and_its_exit_status_says_so(pod: Pod) -> None:
    pod.server.watch.stop()  # a busy machine is late, which is a cross
    pod.server.watch.lag = 0.0
    status, text = await pod.carrier("doctor")
    assert status == 0 and text.endswith("all is well\n") and "✗" not in text and "NO " not in text
    for what in ("API", "version", "state", "admin", "listeners", "endpoints", "limits", "clock", "capabilities"):
        assert f" {what}: " in text


async def test_a_laptop_that_is_away_is_a_cross_with_a_hint(pod: Pod) -> None:
    await add_john(pod, f"127.0.0.1:{free_port()}")
    status, found = await checks(pod)
    assert status == 1 and found["endpoint"]["ok"] is False
    assert "bridge/john (bridge of john): Connection refused" in found["endpoint"]["said"] and "container" in found["endpoint"]["hint"]
    assert found["endpoints"]["said"] == "1 endpoint can be reached"


async def test_a_file_that_is_not_what_runs_is_a_cross(pod: Pod, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    (_, dumped) = await pod.carrier("dump")
    file.write_text(dumped)
    assert (await checks(pod, "--file", str(file)))[1]["file"]["ok"] is True
    file.write_text(dumped.replace("name: tcp", "name: other"))
    status, found = await checks(pod, "--file", str(file))
    assert status == 1 and "it would change +1 listener" in found["file"]["said"] and "carrier diff" in found["file"]["hint"]
    file.write_text("listeners: 5")
    assert "would not be taken" in (await checks(pod, "--file", str(file)))[1]["file"]["said"]
    missing = (await checks(pod, "--file", str(tmp_path / "none")))[1]["file"]
    assert missing["ok"] is None and "No such file" in missing["said"]


async def test_a_drained_listener_and_a_rule_that_cannot_fire_are_crosses(pod: Pod) -> None:
    pod.server.proxy.drain_listener("tcp")
    status, found = await checks(pod)
    assert status == 1 and found["listener"]["said"] == "tcp is drained"


async def test_what_does_not_reach_those_who_are_told_is_a_cross(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "traces" not in (await checks(pod))[1]
    spans = SimpleNamespace(trouble="the collector is not reached: Connection refused", close=lambda: None)
    monkeypatch.setattr(pod.server.metrics, "spans", spans)
    status, found = await checks(pod)
    assert status == 1 and "Connection refused" in found["traces"]["said"] and "collector" in found["traces"]["hint"]
    spans.trouble = ""
    assert (await checks(pod))[1]["traces"]["ok"]


async def test_nobody_there_is_one_cross() -> None:
    found = list(d.examined(d.Client(f"127.0.0.1:{free_port()}"), None))
    assert len(found) == 1 and found[0].ok is False and "no carrier answers" in found[0].said and "carrier run" in found[0].hint


def process(**more: Any) -> dict[str, Any]:
    return {
        "descriptors": {"open": 10, "limit": 65536},
        "connections": {"now": 1, "limit": 100},
        "memory": {"resident": 50 << 20, "limit": 512 << 20},
        "lag": 0.0,
        "capabilities": [],
        "user": 1000,
        "time": d.datetime.fromtimestamp(time.time(), d.UTC).isoformat(),
        "api": [{"address": "127.0.0.1:1234", "loopback": True, "lock": []}],
        **more,
    }


@pytest.mark.parametrize(
    "more",
    [
        {"descriptors": {"open": 10, "limit": 1024}},
        {"descriptors": {"open": 60_000, "limit": 65536}},
        {"connections": {"now": 95, "limit": 100}},
        {"memory": {"resident": 500 << 20, "limit": 512 << 20}},
        {"lag": 0.9},
    ],
)
def test_a_limit_that_is_near_is_a_cross(more: dict[str, Any]) -> None:
    assert [check.ok for check in d._limits(process())] == [True]
    (cross,) = d._limits(process(**more))  # and no tick beside it
    assert not cross.ok and cross.hint


def test_an_api_that_anybody_reaches_is_a_cross() -> None:
    assert [check.ok for check in d._exposed(process())] == [True]
    doors = [{"address": "0.0.0.0:1234", "loopback": False, "lock": []}, {"address": "/run/c.sock", "loopback": True, "lock": ["user"]}]
    (found,) = d._exposed(process(api=doors))
    assert found.ok is False and "0.0.0.0:1234 can be reached from other machines" in found.said
    assert [check.ok for check in d._exposed(process(api=[{**doors[0], "lock": ["tokens"]}]))] == [True]


def test_a_clock_that_is_off_and_a_capability_that_is_missing_are_crosses() -> None:
    now = time.time()
    assert d._clock(process(), now - 5, now + 5).ok and "ahead" in d._clock(process(time="2099-01-01T00:00:00Z"), now, now).said
    assert "3.0 s behind" in d._clock(process(time=d.datetime.fromtimestamp(now - 3, d.UTC).isoformat()), now, now + 60).said
    status: dict[str, Any] = {"listeners": [{"name": "raw", "protocol": "AF_PACKET"}], "clusters": []}
    assert d._capabilities(status, process()).ok is False and d._capabilities(status, process(capabilities=["net_raw"])).ok


def test_certificates_that_end_soon_or_are_no_good_are_crosses() -> None:
    def status(expires: str, trouble: str = "") -> dict[str, Any]:
        tls = {"trouble": trouble, "certificates": [{"file": "/c.pem", "expires": expires, "names": []}]}
        return {"listeners": [{"name": "web", "tls": tls}], "clusters": []}

    soon = d.datetime.fromtimestamp(time.time() + 86_400, d.UTC).isoformat()
    assert [check.ok for check in d._certificates(status("2099-01-01T00:00:00Z"))] == [True]
    assert [check.ok for check in d._certificates(status(soon))] == [False]
    assert [check.said for check in d._certificates(status(soon, "it is not good"))] == ["listener web: it is not good"]
