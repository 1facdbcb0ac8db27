"""Whoever does not read what we write holds nobody up: the log, the access log and Logger on pipes that are full, on a full disk, on named
pipes without a reader. `carrier run` as a process, and requests that are answered all the while."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.ports import free_port
from tests.soak.process import PATIENCE, call

QUICK = 2.0
"""Seconds that no answer may take."""


def logged(port: int, **admin: Any) -> dict[str, Any]:
    """An HTTP port whose bodies go through a Logger to standard output."""
    route = {"destination": {"spec": {"protocol": "Echo"}}, "ingress": [{"spec": {"protocol": "Logger", "log_file": "-"}}]}
    spec = {"protocol": "TCP", "port": port, "address": "127.0.0.1"}
    return {"admin": admin, "listeners": [{"name": "in", "spec": spec, "rules": [{"action": {"route": route}}]}]}


@contextmanager
def process(tmp_path: Path, conf: dict[str, Any], *arguments: str, stdout: Any, stderr: Any) -> Iterator[subprocess.Popen[bytes]]:
    file = tmp_path / "c.json"
    file.write_text(json.dumps(conf))
    where = str(tmp_path / "api.sock")
    command = [sys.executable, "-m", "carrier", "run", "-c", str(file), "--admin", "off", "--admin-socket", where, "--drain-delay", "0"]
    one = forked.Popen([*command, *arguments], stdout=stdout, stderr=stderr, cwd=Path(__file__).parents[2])
    try:
        wait(lambda: ready(where), "for it to be ready")
        yield one
    finally:
        one.kill()
        one.wait()


def ready(where: str) -> bool:
    try:
        return call(where, "GET", "/readyz")[0] == 200
    except OSError:
        return False


def wait(true: Callable[[], object], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until, f"waited in vain {what}"
        time.sleep(0.02)


def served(port: int, data: bytes, times: int) -> None:
    """Each connection is echoed, quickly."""
    for _ in range(times):
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            sock.settimeout(PATIENCE)
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            found = b"".join(iter(lambda: sock.recv(65536), b""))
        assert found == data
        assert time.monotonic() - began < QUICK


def test_a_pipe_that_nobody_reads_as_standard_output_stops_nothing(tmp_path: Path) -> None:
    port = free_port()
    reader, writer = os.pipe()
    with (tmp_path / "log").open("wb") as log, process(tmp_path, logged(port), stdout=writer, stderr=log) as one:
        os.close(writer)
        served(port, b"x" * 50_000, 10)  # a pipe holds 64 kB
        assert call(str(tmp_path / "api.sock"), "GET", "/readyz")[0] == 200
        wait(lambda: "its reader does not read" in (tmp_path / "log").read_text(), "for the log to say so")
        one.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert one.wait(PATIENCE) in (0, 5)
        assert time.monotonic() - began < 5 * QUICK
    os.close(reader)


def test_a_pipe_that_nobody_reads_as_standard_error_stops_nothing(tmp_path: Path) -> None:
    """A line for each session at this level: more than the pipe holds."""
    port = free_port()
    reader, writer = os.pipe()
    conf = logged(port, log_level="silly")
    conf["listeners"][0]["name"] = "in" * 200
    with process(tmp_path, conf, stdout=subprocess.DEVNULL, stderr=writer):
        os.close(writer)
        served(port, b"x", 400)
        assert call(str(tmp_path / "api.sock"), "GET", "/readyz")[0] == 200
        assert len(os.read(reader, 1 << 20)) > 0
    os.close(reader)


@pytest.mark.parametrize("held", [False, True], ids=["nobody has it open", "somebody has it open and does not read"])
def test_a_named_pipe_as_access_log_stops_nothing(tmp_path: Path, held: bool) -> None:
    port = free_port()
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDWR) if held else -1
    conf = logged(port, access_log={"path": str(tmp_path / "pipe")})
    conf["listeners"][0]["name"] = "in" * 200
    with (tmp_path / "log").open("wb") as log, process(tmp_path, conf, stdout=subprocess.DEVNULL, stderr=log):
        served(port, b"x", 200)
        if held:
            wait(lambda: select.select([reader], [], [], 0)[0], "for lines")
        else:
            wait(lambda: "lines of the access log are lost" in (tmp_path / "log").read_text(), "for the log to say so")
    if held:
        os.close(reader)


def test_a_full_disk_stops_nothing_and_is_said_and_counted(tmp_path: Path) -> None:
    port, health = free_port(), free_port()
    conf = logged(port, access_log={"path": "/dev/full"})
    with (
        (tmp_path / "log").open("wb") as log,
        process(tmp_path, conf, "--health", f"127.0.0.1:{health}", stdout=subprocess.DEVNULL, stderr=log),
    ):
        served(port, b"x", 20)
        wait(lambda: 'reason="No space left on device"' in (tmp_path / "log").read_text(), "for the log to say so")
        metrics = asked(health, b"GET /metrics HTTP/1.0\r\n\r\n")
        assert b'carrier_access_log_lines_total{outcome="dropped"} 0' not in metrics
        assert b'carrier_access_log_lines_total{outcome="dropped"}' in metrics


def asked(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(data)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def test_what_a_slow_reader_takes_late_comes_whole_and_in_order(tmp_path: Path) -> None:
    port = free_port()
    reader, writer = os.pipe()
    sent = [b"%07d|" % n * 5000 for n in range(5)]
    with process(tmp_path, logged(port), stdout=writer, stderr=subprocess.DEVNULL):
        os.close(writer)
        for data in sent:
            served(port, data, 1)
        found = b""
        while len(found) < sum(map(len, sent)):
            found += os.read(reader, 65536)
    os.close(reader)
    assert found == b"".join(sent)
