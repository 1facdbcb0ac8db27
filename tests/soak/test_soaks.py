"""The bounded forms of the soaks beside this file: processes of their own, thousands of clients, a second or twenty each (`make soak`)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak import calls, churn, damaged, drain, kill9, memory, readers, size, stops, streams
from tests.soak.process import PATIENCE, carrier


def test_sigterm_with_requests_a_websocket_a_tunnel_and_a_udp_session_in_flight_cuts_nobody() -> None:
    figures, failures = drain.run(30)
    assert not failures, failures
    assert figures["requests"] == "30 of 30"


@pytest.mark.parametrize("protocol", ["HTTP", "auto"])
def test_sigterm_resets_nobody_who_got_in(protocol: str) -> None:
    figures, failures = stops.run(3, protocol)
    assert not failures, (failures, figures)
    assert figures["answered"] > 50 < figures["refused"]


@pytest.mark.parametrize(("protocol", "size"), [("HTTP", 4 << 20), ("HTTP", 64 << 10), ("auto", 4 << 20), ("TCP", 4 << 20)])
def test_a_reader_that_does_not_read_costs_128_kilobytes_at_most(protocol: str, size: int) -> None:
    figures, failures = readers.run(150, protocol, size)
    assert not failures, figures


def test_kill_9_loses_nothing_that_was_acknowledged_and_leaves_nothing_half() -> None:
    figures, failures = kill9.run(3)
    assert not failures, failures
    assert figures["acknowledged writes"] > 0


def test_changes_under_load_fail_nobody_and_hold_for_the_next_request() -> None:
    figures, failures = churn.run(1)
    assert not failures, failures
    assert figures["rounds of 4 changes"] > 1


def test_calls_and_streams_go_where_they_belong_while_bridges_come_and_go() -> None:
    figures, failures = calls.run(600, 8, 60)
    assert not failures, failures
    assert figures["changes of bridges"] > 1 and figures["messages each way"] == 8 * 60


def test_damaged_configurations_are_refused_with_reasons_and_nobody_notices() -> None:
    figures, failures = damaged.run(3 * len(damaged.DAMAGES))
    assert not failures, failures
    assert figures["requests meanwhile"] > 50


def test_after_a_peak_of_memory_requests_are_served_again_and_readiness_said_why() -> None:
    figures, failures = asyncio.run(memory.run(2, 1_000, clients=800, limit=64 << 20, hold=0.6))
    assert not failures, (failures, figures)


def test_ten_thousand_rules_start_soon_and_in_little_memory() -> None:
    figures, failures = size.run(10_000)
    assert not failures, (failures, figures)


def test_what_dump_gives_check_and_apply_take_however_many_rules_and_bridges(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "carrier"]
    with carrier(size.document(3_500)) as one:
        for i in range(3):
            match = {"matchHeader": {"name": "x-b", "value": f"b{i}"}}
            body = {"listener": "web", "user": f"b{i}", "match": match, "endpoint": "127.0.0.1:9"}
            assert one.call("PUT", f"/api/v1/bridges/b{i}", body)[0] == 201
        dumped = tmp_path / "dump.yaml"
        with dumped.open("wb") as file:
            subprocess.run([*command, "dump", "--admin", one.socket], stdout=file, check=True, timeout=2 * PATIENCE)
        for arguments in (["check", str(dumped)], ["apply", "--admin", one.socket, str(dumped)]):
            found = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=2 * PATIENCE)
            assert found.returncode == 0, found.stderr


async def test_idle_connections_and_open_streams_of_http_2_cost_little() -> None:
    figures, _ = await streams.run(300)
    assert figures["streams"] == 300
    assert figures["bytes of each"] <= 2 * streams.IDLE
    assert figures["bytes of each stream"] <= 2 * streams.OPEN, "few bear what a process takes for the first of them"
