"""Bridges that expire: on time, whatever the disk says, and not again and again where one cannot be ended."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from carrier.errors import Error
from carrier.log import Log
from carrier.process import reload
from carrier.process.serve import Server, Settings, start
from tests.support import config, echo, full_disk, http, listener, port_of, wait_until


async def serving(lines: list[str], **settings: Any) -> Server:
    conf = config(clusters=[echo()], listeners=[listener("web", protocol="HTTP")])
    return await start(conf, Log("info", lines.append), Settings(admin=None, **settings))


async def bridge(server: Server, name: str, expires: float) -> None:
    match = {"matchHeader": {"name": "x-user", "value": name}}
    body = {"listener": "web", "user": name, "match": match, "endpoint": "127.0.0.1:9", "expires": expires, "fallback": "error"}
    config = server.bridges.put(server.proxy.config, name, body)
    await server.proxy.apply(config)
    server.leases.start()


async def test_a_lease_that_is_over_is_over_although_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "MIND", 0.1)
    lines: list[str] = []
    server = await serving(lines, state=str(tmp_path / "state"))
    folder = server.base.folder
    assert folder is not None
    try:
        await bridge(server, "john", 0.2)
        with full_disk():
            await wait_until(lambda: not server.proxy.config.bridges)
            await asyncio.sleep(0.5)
            status, *_ = await http(port_of(server.proxy, "web"), headers={"x-user": "john"}, method="POST", body=b"x")
            ready = server.life.answer("/readyz")
            shown = (await server.metrics.text())[1].decode()
        assert status == 200, "the shadow answers"
        assert ready[0] == 200 and "File too large" in ready[1]["reasons"][0]
        assert 'carrier_state_writes_total{outcome="failed"}' in shown
        assert len([line for line in lines if " error " in line]) <= 2, lines
        saved = folder.newest()
        assert saved is not None and saved.config.bridges, "not on disk yet"
        await wait_until(lambda: not server.proxy.unsaved)
        saved = folder.newest()
        assert saved is not None and not saved.config.bridges and saved.config == server.proxy.config
        assert any("on disk again" in line for line in lines)
    finally:
        await server.close()


async def test_a_bridge_that_cannot_be_taken_away_is_tried_once_a_second_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    server = await serving(lines)
    try:
        await bridge(server, "john", 0.1)
        tries = []

        async def refuse(*_: Any, **__: Any) -> None:
            tries.append(time.monotonic())
            raise Error("config", "it holds the house up")

        monkeypatch.setattr(server.proxy, "apply", refuse)
        await wait_until(lambda: len(tries) == 2)
        assert tries[1] - tries[0] > 0.8
        assert len([line for line in lines if "holds the house up" in line]) == 1
    finally:
        await server.close()


async def test_bridges_that_are_due_one_after_the_other_end_each_in_its_time() -> None:
    lines: list[str] = []
    server = await serving(lines)
    try:
        for i in range(3):
            await bridge(server, f"user{i}", 0.2 + i * 0.2)
        began = time.monotonic()
        await wait_until(lambda: not server.proxy.config.bridges)
        assert time.monotonic() - began < 0.95
    finally:
        await server.close()
