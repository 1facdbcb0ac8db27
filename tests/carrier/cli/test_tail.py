"""`carrier tail` against a running carrier, and what its lines look like."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from carrier.cli.page import Page
from carrier.cli.tail import events, shown
from tests import forked
from tests.ports import free_port


class Carrier:
    """One that runs, and can be ended and begun again."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.web, self.admin = free_port(), free_port()
        rules = "[{name: all, action: {route: {destination: {name: sh, spec: {protocol: Echo}}}}}]"
        file.write_text(f"listeners: [{{name: web, spec: {{protocol: HTTP, port: {self.web}}}, rules: {rules}}}]\n")
        self.begin()

    def begin(self) -> None:
        where = ["--admin", f"127.0.0.1:{self.admin}", "--admin-socket", "off"]
        command = [sys.executable, "-m", "carrier", "run", "-c", str(self.file), *where]
        self.process = forked.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None and any("ready" in line for line in self.process.stderr)

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=20)


@pytest.fixture
def carrier(tmp_path: Path) -> Iterator[Carrier]:
    found = Carrier(tmp_path / "c.yaml")
    yield found
    found.end()


@pytest.fixture
def ports(carrier: Carrier) -> tuple[int, int]:
    return carrier.web, carrier.admin


def asking(verb: str, admin: int, *arguments: str) -> subprocess.Popen[str]:
    """A command that goes on until it is ended."""
    command = [sys.executable, "-m", "carrier", verb, "--admin", f"127.0.0.1:{admin}", *arguments]
    return forked.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def watched(admin: int, line: bytes = b"carrier_event_viewers 1") -> None:
    """Wait until the metrics say so: somebody watches."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as answer:
            if line in answer.read():
                return
        time.sleep(0.1)
    raise AssertionError(f"never {line!r}")


def test_requests_are_lines_until_ctrl_c(ports: tuple[int, int]) -> None:
    web, admin = ports
    process = asking("tail", admin, "--path", "/mine")
    try:
        watched(admin)
        for path in ("/other", "/mine/1"):
            urllib.request.urlopen(f"http://127.0.0.1:{web}{path}", timeout=10).close()
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " 200 GET /mine/1  web all -> sh" in line
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def test_json_is_an_event_a_line_and_an_end_is_told(ports: tuple[int, int]) -> None:
    web, admin = ports
    process = asking("tail", admin, "--json")
    try:
        watched(admin)
        urllib.request.urlopen(f"http://127.0.0.1:{web}/", timeout=10).close()
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["rule"] == "all"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def test_a_carrier_that_starts_again_is_waited_for(carrier: Carrier) -> None:
    process = asking("tail", carrier.admin, "--listener", "wep", "--errors")
    try:
        watched(carrier.admin)
        carrier.end()
        assert process.stderr is not None
        assert "there is no listener 'wep' now; did you mean 'web'?" in process.stderr.readline()
        assert "waiting for it to come back" in process.stderr.readline()
        carrier.begin()
        watched(carrier.admin)
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert not said, "it is told once"


def test_a_filter_that_cannot_hold_is_refused(ports: tuple[int, int]) -> None:
    process = asking("tail", ports[1], "--status", "many")
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1 and "expected a status or a class" in said


def test_lines_of_a_stream_are_events_whatever_stands_between() -> None:
    lines = [": comment", "retry: 2000", "", "id: 1", "event: request", 'data: {"event": "request"}', "", ":", ""]
    assert list(events(iter(lines))) == [{"event": "request"}]


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"event": "request", "status": 503, "method": "GET", "path": "/x", "rule": "r", "error": "refused"}, "503 GET /x  r"),
        ({"event": "session", "error": "reset", "session": "TCP:a-b", "rule": "r"}, "reset TCP:a-b  r"),
        ({"event": "opened", "session": "TCP:a-b", "rule": "r", "cluster": "c"}, "opened TCP:a-b r -> c"),
        ({"event": "session", "protocol": "TCP", "client": "10.0.0.7:1", "rule": "r"}, "ended TCP 10.0.0.7:1  r"),
        (
            {
                "event": "refused",
                "status": 400,
                "protocol": "HTTP",
                "client": "a:1",
                "request": "GET /a b",
                "listener": "web",
                "why": "refused, x",
            },
            "400 HTTP a:1 GET /a b  web  refused, x",
        ),
        ({"event": "lost", "events": 7}, "7 more events were not told"),
        ({"event": "endpoint", "level": "warn", "what": "endpoint is down", "endpoint": "e:1"}, "endpoint is down endpoint=e:1"),
        ({"event": "request", "status": 200, "method": "GET", "path": "/", "user": "john", "fallback": "refused"}, "fallback: refused"),
    ],
)
def test_each_kind_of_event_is_a_line(event: dict[str, object], words: str) -> None:
    assert words in shown(event, Page())


@pytest.mark.parametrize(("us", "said"), [(900, "0.9 ms"), (1_500_000, "1.50 s"), (600_000_000, "10 min"), (36_000_000_000, "10 h")])
def test_a_duration_is_in_its_own_unit(us: int, said: str) -> None:
    assert shown({"event": "session", "protocol": "TCP", "duration_us": us}, Page()).endswith(f"  {said}")


def test_a_line_has_the_moment_of_its_event_and_no_second_one() -> None:
    line = shown({"event": "log", "time": "2026-01-01T00:12:34.567Z", "what": "sessions failed", "kind": "refused"}, Page())
    assert line[2:6] == ":12:" and line.endswith("sessions failed kind=refused")


def test_a_call_of_grpc_shows_its_version_and_how_it_went() -> None:
    event = {"event": "request", "time": "2026-01-01T00:00:00Z", "status": 200, "method": "POST", "path": "/a.B/C", "version": "2"}
    assert "POST /a.B/C h2 UNAVAILABLE" in shown({**event, "grpc": {"service": "a.B", "method": "C", "status": "UNAVAILABLE"}}, Page())
    assert "POST /a.B/C h2 no status" in shown({**event, "grpc": {"service": "a.B", "method": "C", "status": ""}}, Page())
    page = Page()
    page.colours = True
    told = [shown({**event, "grpc": {"status": status}}, page)[9:13] for status in ("OK", "NOT_FOUND", "UNAVAILABLE")]
    assert told == ["\x1b[32", "\x1b[33", "\x1b[31"]  # though the status of HTTP is 200
    opened = {"event": "opened", "session": "S", "version": "2", "stream": 3, "rule": "all", "cluster": "up"}
    assert "S h2 #3 all" in shown(opened, Page())
