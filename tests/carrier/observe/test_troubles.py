"""What goes wrong is told in the log, once in a while."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace as Thing
from typing import Any

import pytest

from carrier.errors import Error, Side
from carrier.log import Log
from carrier.observe import troubles
from carrier.observe.troubles import Troubles


@pytest.fixture
def lines() -> list[str]:
    return []


def made(lines: list[str], listeners: dict[str, Any] | None = None) -> Troubles:
    return Troubles(asyncio.get_running_loop(), Log("info", lines.append), lambda: listeners or {})


def failed(listener: str = "web", kind: str = "refused", detail: str = "10.0.0.1:80: Connection refused", side: Side = "upstream") -> Any:
    return Thing(listener=Thing(name=listener), cluster=Thing(name="shadow", label="shadow"), error=Error(kind, detail, side))


async def test_the_first_failure_is_told_at_once_and_the_next_ones_together(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(troubles, "PERIOD", 0.05)
    told = made(lines)
    told.read([failed()])
    assert len(lines) == 1 and 'sessions failed listener=web kind=refused cluster=shadow last="10.0.0.1:80: Connection refused"' in lines[0]
    told.read([failed(), failed(detail="the last one"), failed(kind="timeout")])
    assert len(lines) == 2 and "kind=timeout" in lines[1], "another kind is told at once too"
    await asyncio.sleep(0.2)
    assert len(lines) == 3 and 'sessions=2 last="the last one"' in lines[2]
    await asyncio.sleep(0.1)
    told.close()
    assert len(lines) == 3 and not told.kinds


async def test_what_went_well_and_what_somebody_wanted_is_not_told(lines: list[str]) -> None:
    told = made(lines)
    told.read([("a", "record", "of a good session"), Thing(error=None), Thing(error=Error("killed", "")), Thing(error=Error("drain", ""))])
    told.close()
    assert lines == []


async def test_a_client_that_went_away_is_no_failure_and_is_not_taken_for_an_upstream_that_did(lines: list[str]) -> None:
    told = made(lines)
    told.read([failed(kind="reset", side="downstream"), failed(kind="reset")])
    told.close()
    assert [(line.split()[1], "clients left" in line) for line in lines] == [("info", True), ("warn", False)]


async def test_what_is_untold_at_the_end_is_told_then(lines: list[str]) -> None:
    told = made(lines)
    told.read([failed()] * 5)
    told.close()
    assert [line.count("sessions=4") for line in lines] == [0, 1]


async def test_kinds_are_bounded(lines: list[str]) -> None:
    told = made(lines)
    told.read([failed(listener=f"l{i}") for i in range(troubles.KINDS + 50)])
    assert len(told.kinds) == troubles.KINDS + 1 and any("listener=(others)" in line for line in lines)
    told.close()


async def test_handshakes_that_failed_are_told_once_a_minute_by_listener(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(troubles, "HANDSHAKES", 0.03)
    web = Thing(limited={"handshake": 3})
    told = made(lines, {"web": web, "quiet": Thing(limited={})})
    await asyncio.sleep(0.08)
    web.limited["handshake"] = 5
    await asyncio.sleep(0.08)
    told.close()
    assert [line.partition("TLS handshakes failed ")[2].split()[:2] for line in lines] == [
        ["listener=web", "connections=3"],
        ["listener=web", "connections=2"],
    ]
