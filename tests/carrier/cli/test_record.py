"""`carrier record` against a running carrier; its files are whole at every moment, and rotate."""

from __future__ import annotations

import json
import signal
import stat
import time
import urllib.request
from pathlib import Path

from carrier.cli.record import Archive
from tests.carrier.cli.test_tail import asking, carrier, ports, watched

__all__ = ["carrier", "ports"]


def entries(file: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(file.read_text())["log"]["entries"]
    return found


def test_an_archive_is_whole_at_every_moment_and_nobody_elses(ports: tuple[int, int], tmp_path: Path) -> None:
    web, admin = ports
    file = tmp_path / "x.har"
    process = asking("record", admin, "--rule", "all", "--out", str(file))
    watched(admin, b"carrier_recordings 1")
    until = time.monotonic() + 20
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.05)
    for n in range(3):
        urllib.request.urlopen(f"http://127.0.0.1:{web}/{n}", timeout=10).close()
        while len(entries(file)) <= n and time.monotonic() < until:
            time.sleep(0.05)
        assert len(entries(file)) == n + 1
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and out == "" and "3 entries in" in err and "200 GET http://127.0.0.1" in err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_so_many_entries_and_standard_output(ports: tuple[int, int]) -> None:
    web, admin = ports
    process = asking("record", admin, "--rule", "all", "--count", "1", "--bodies", "2")
    watched(admin, b"carrier_recordings 1")
    urllib.request.urlopen(f"http://127.0.0.1:{web}/", b"hello", timeout=10).close()
    out, _ = process.communicate(timeout=20)
    (entry,) = json.loads(out)["log"]["entries"]
    assert process.returncode == 0 and entry["request"]["postData"]["text"] == "he" and entry["_carrier"]["truncated"]


def test_what_is_not_there_leaves_no_file(ports: tuple[int, int], tmp_path: Path) -> None:
    file = tmp_path / "x.har"
    process = asking("record", ports[1], "--bridge", "nobody", "--out", str(file))
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1 and "there is no bridge 'nobody'" in err and not file.exists()
    process = asking("record", ports[1])
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2 and "one of --bridge NAME and --rule NAME" in err


def test_files_rotate_and_each_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "x.har"
    archive = Archive(file, 300, 3)
    for n in range(20):
        archive.add({"n": n, "text": "x" * 60})
    archive.close()
    numbers = [[entry["n"] for entry in entries(tmp_path / name)] for name in ("x.har.2", "x.har.1", "x.har")]
    assert sorted(tmp_path.iterdir()) == [file, tmp_path / "x.har.1", tmp_path / "x.har.2"]
    assert sum(numbers, []) == list(range(20 - sum(map(len, numbers)), 20)) and all(numbers)  # noqa: RUF017
    assert all((tmp_path / name).stat().st_size <= 300 + 100 for name in ("x.har", "x.har.1", "x.har.2"))
