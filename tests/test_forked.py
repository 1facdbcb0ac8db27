"""A process of ours that is forked is seen as one that is started (tests/forked.py)."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests import forked
from tests.ports import free_port

COMMAND = [sys.executable, "-m", "carrier"]
BOTH = pytest.mark.parametrize("how", [subprocess, forked], ids=["started", "forked"])


@BOTH
def test_streams_status_and_working_directory_are_its_own(how: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"listeners": []}))
    found = how.run([*COMMAND, "check", "c.json"], cwd=tmp_path, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "") and found.stdout.startswith("c.json: fine")
    found = how.run([*COMMAND, "check", "/dev/stdin"], input=b"{", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert found.returncode == 2 and b"/dev/stdin" in found.stdout
    with pytest.raises(subprocess.CalledProcessError):
        how.run([*COMMAND, "check", "nothing.json"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@BOTH
def test_its_environment_is_what_it_is_given(how: ModuleType) -> None:
    narrow, wide = (
        how.run([*COMMAND, "--help"], env={"COLUMNS": columns}, capture_output=True, text=True).stdout for columns in ("40", "300")
    )
    assert len(narrow.splitlines()) > len(wide.splitlines())


@BOTH
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_signals_reach_it_and_its_end_is_told(how: ModuleType, sent: signal.Signals, status: int, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"listeners": []}))
    command = [*COMMAND, "run", "-c", "c.json", "--admin", "off", "--admin-socket", str(tmp_path / "s"), "--drain-delay", "0"]
    with how.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if " ready " in line:
                break
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert process.poll() is None
        process.send_signal(sent)
        assert process.wait(10) == process.returncode == status
        process.send_signal(sent)  # nobody is hit whose number it has now


def test_one_that_is_alone_has_a_loopback_of_its_own(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("no network namespaces here")
    port = free_port()
    (tmp_path / "c.json").write_text(json.dumps({"listeners": []}))
    command = [*COMMAND, "run", "-c", "c.json", "--admin", f"127.0.0.1:{port}", "--admin-socket", str(tmp_path / "s")]
    with forked.Popen(command, alone=True, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(" ready " in line for line in process.stderr)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        process.kill()


def test_what_is_not_ours_is_refused() -> None:
    for command in (["true"], [sys.executable, "-c", ""], [sys.executable, "-m", "http.server"]):
        with pytest.raises(AssertionError):
            forked.run(command)
