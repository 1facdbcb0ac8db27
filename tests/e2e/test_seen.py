"""The command, seen from outside: one access log that goes on after SIGUSR1, metrics on both addresses, and one reason in all places."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from carrier.cli.demo_stage import free_ports
from tests import forked

FILE = """
admin: {{access_log: {{path: {log}, headers: [x-user]}}}}
listeners:
  - name: web
    spec: {{protocol: HTTP, port: {web}, address: 127.0.0.1}}
    rules:
      - {{name: john, match: {{matchHeader: {{name: x-user, value: john}}}}, action: {{route: {{destination: laptop, fallback: shadow}}}}}}
      - {{name: everybody, action: {{route: {{destination: shadow}}}}}}
clusters:
  - {{name: laptop, spec: {{protocol: HTTP, port: {nobody}}}, endpoints: [{{spec: {{address: 127.0.0.1}}}}]}}
  - {{name: shadow, spec: {{protocol: Echo}}}}
"""


class Running:
    """A `carrier run` of its own."""

    def __init__(self, folder: Path) -> None:
        self.web, self.admin, self.health, self.nobody = free_ports(4)
        self.log = folder / "access.log"
        file = folder / "c.yaml"
        file.write_text(FILE.format(log=self.log, web=self.web, nobody=self.nobody))
        command = [sys.executable, "-m", "carrier", "run", "-c", str(file), "--admin", f"127.0.0.1:{self.admin}", "--admin-socket", "off"]
        command += ["--health", f"127.0.0.1:{self.health}", "--drain-delay", "0"]
        self.process = forked.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        assert any("ready" in line for line in self.process.stderr)

    def get(self, port: int, path: str, **headers: str) -> tuple[http.client.HTTPResponse, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer, text


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    found = Running(tmp_path)
    yield found
    found.process.terminate()
    found.process.communicate(timeout=15)


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_reason_is_the_same_in_header_log_session_and_explain(running: Running) -> None:
    answer, _ = running.get(running.web, "/cart", x_user="john", x_carrier_explain="1")
    why = answer.headers["x-carrier-why"]
    assert why.startswith('rule john: header x-user is "john"; fallback shadow, because refused (127.0.0.1:')
    wait_for(lambda: running.log.exists() and running.log.read_text())
    line = json.loads(running.log.read_text())
    assert line["why"] == why and line["rule"] == answer.headers["x-carrier-rule"] and line["headers"] == {"x-user": "john"}
    command = [sys.executable, "-m", "carrier", "explain", "/cart", "-H", "x-user: john", "--admin", f"127.0.0.1:{running.admin}", "--json"]
    said = json.loads(forked.run(command, capture_output=True, check=True, timeout=10).stdout)
    assert why.startswith(said["why"]) and said["fallback"]["cluster"] == "shadow"


def test_sigusr1_goes_on_in_a_new_file_and_no_line_is_lost(running: Running) -> None:
    for number in range(20):
        running.get(running.web, f"/{number}")
        if number == 9:
            wait_for(running.log.exists)
            running.log.rename(running.log.with_suffix(".1"))
            running.process.send_signal(signal.SIGUSR1)
            wait_for(running.log.exists)
    running.process.terminate()
    running.process.communicate(timeout=15)
    before, after = (file.read_text().splitlines() for file in (running.log.with_suffix(".1"), running.log))
    assert [json.loads(line)["path"] for line in before + after] == [f"/{number}" for number in range(20)] and before and after


def test_metrics_are_on_the_api_s_address_and_on_that_of_health(running: Running) -> None:
    running.get(running.web, "/")
    for port in (running.admin, running.health):
        answer, text = running.get(port, "/metrics")
        assert answer.status == 200 and 'carrier_sessions_total{cluster="shadow",code="2xx",listener="web",rule="everybody"} 1.0' in text
        assert "process_cpu_seconds_total" in text and "carrier_access_log_lines_total" in text
    with socket.create_connection(("127.0.0.1", running.health)) as plain:
        plain.sendall(b"POST /metrics HTTP/1.0\r\n\r\n")
        assert b" 405 " in plain.recv(4096)
