"""A bridge's token, seen from outside: who has it learns why, and can join with a browser; it is in no log or file, and goes nowhere."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from carrier.cli.demo_stage import free_ports
from tests import forked

FILE = """
admin: {{log_level: debug}}
listeners:
  - name: web
    spec: {{protocol: {protocol}, port: {web}, address: 127.0.0.1}}
    options: {{join: true, track: 60}}
    rules: [{{name: everybody, action: {{route: {{destination: shadow}}}}}}]
clusters:
  - {{name: shadow, spec: {{protocol: HTTP, port: {shadow}}}, endpoints: [{{spec: {{address: 127.0.0.1}}}}]}}
"""
ELSEWHERE = "127.0.0.9"
"""An address that may not ask why."""

VERSIONS = ["--http1.1", "--http2-prior-knowledge"]


class App:
    """A laptop or a shadow: says its name, and remembers what it was asked."""

    def __init__(self, name: str) -> None:
        heard: list[str] = []
        self.heard = heard

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                heard.append(f"{self.requestline}\n{self.headers}")
                body = f"this is {name}\n".encode()
                self.send_response(200)
                self.send_header("content-type", "text/html")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


class Running:
    """A `carrier run`, a shadow, john's laptop and his bridge, made by the command."""

    def __init__(self, folder: Path, protocol: str) -> None:
        self.folder = folder
        self.versions = VERSIONS if protocol == "HTTP" else VERSIONS[:1]  # behind `auto` HTTP/2 goes on as HTTP/2
        self.shadow, self.laptop = App("shadow"), App("laptop")
        self.web, self.admin = free_ports(2)
        (folder / "c.yaml").write_text(FILE.format(protocol=protocol, web=self.web, shadow=self.shadow.port))
        self.log = (folder / "log").open("wb")
        command = ["run", "-c", str(folder / "c.yaml"), "--admin-socket", "off", "--state", str(folder / "state"), "--drain-delay", "0"]
        command += ["--admin", f"127.0.0.1:{self.admin}", "--access-log", str(folder / "access.log"), "--trust-loopback", "none"]
        self.process = forked.Popen([sys.executable, "-m", "carrier", *command], stderr=subprocess.PIPE)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.write(line)
            if b" ready " in line:
                break
        threading.Thread(target=self.follow, daemon=True).start()
        self.at = f"http://127.0.0.1:{self.web}"

    def follow(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.write(line)
            self.log.flush()

    def carrier(self, *words: str) -> str:
        command = [sys.executable, "-m", "carrier", *words, "--admin", f"127.0.0.1:{self.admin}"]
        return forked.run(command, capture_output=True, check=True, timeout=20, text=True).stdout

    def curl(self, *words: str) -> str:
        command = ["curl", "-s", "-i", "--max-time", "10", "--interface", ELSEWHERE, *words]
        return subprocess.run(command, capture_output=True, check=True, timeout=20, text=True).stdout

    def add(self, name: str = "john", *words: str) -> tuple[str, str]:
        """Make a bridge with the command; its token and its join link."""
        words = words or ("--cookie", f"user={name}")
        said = self.carrier(
            "bridges", "add", name, "--user", name, "--port", str(self.web), *words, "--to", f"127.0.0.1:{self.laptop.port}"
        )
        found = re.search(r"ask why, from anywhere: curl -i .*-H 'x-carrier-explain: (\S+)' http", said)
        link = re.search(r"join in a browser: (\S+)", said)
        assert found and link, said
        return found[1], link[1]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=15)
        for app in (self.shadow, self.laptop):
            app.server.shutdown()
            app.server.server_close()


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    found = Running(tmp_path, getattr(request, "param", "HTTP"))
    try:
        yield found
    finally:
        found.close()


@pytest.mark.parametrize("running", ["HTTP", "auto"], indirect=True)
def test_who_has_the_token_is_told_what_concerns_the_bridge_and_nothing_else(running: Running) -> None:
    token, _ = running.add()
    running.add("jane")
    ask = ("-H", f"x-carrier-explain: {token}", running.at)
    for version in running.versions:
        mine = running.curl(version, "-b", "user=john", *ask)
        assert "this is laptop" in mine and "x-carrier-rule: bridge/john" in mine and "x-carrier-why: rule bridge/john: cookie user" in mine
        assert f"x-carrier-endpoint: 127.0.0.1:{running.laptop.port}" in mine
        other = running.curl(version, "-b", "user=jane", *ask)
        said = [line for line in other.splitlines() if line.startswith("x-carrier-")]
        assert len(said) == 1 and said[0].startswith("x-carrier-why: not bridge/john: cookie user is") and "jane" not in said[0]
        assert "there is no such cookie" in running.curl(version, *ask)
        for wrong in (token[:-1], token + "x", "1", "", "x" * 3000):
            assert "x-carrier-" not in running.curl(version, "-H", f"x-carrier-explain: {wrong}", running.at)
    running.carrier("bridges", "rm", "john")
    assert "x-carrier-" not in running.curl(*ask)


def test_a_token_is_told_once_and_goes_nowhere(running: Running) -> None:
    token, link = running.add()
    for version in running.versions:
        for cookie in ("user=john", "user=nobody"):
            running.curl(version, "-b", cookie, "-H", f"X-Carrier-Explain: {token}", running.at)
        assert "303" in running.curl(version, link).splitlines()[0]
    shown = running.carrier("sessions", "--json") + running.carrier("status", "--json") + running.carrier("bridges", "--json")
    shown += running.carrier("dump")
    for path in ("config", "bridges/john", "events?since=0"):
        command = ["curl", "-s", "--max-time", "1", f"http://127.0.0.1:{running.admin}/api/v1/{path}"]
        shown += subprocess.run(command, capture_output=True, timeout=20, text=True).stdout
    assert '"token": "sha256:' in shown and "/.carrier/join/john" in shown
    running.process.terminate()
    running.process.wait(timeout=15)
    files = [file for file in running.folder.rglob("*") if file.is_file()]
    assert {"access.log", "log"} < {file.name for file in files} and any("state" in file.parts for file in files)
    written = "".join(file.read_text() for file in files)
    heard = "".join(running.shadow.heard + running.laptop.heard)
    assert "/.carrier/join/john" in written and len(running.shadow.heard) == len(running.laptop.heard) == 2
    assert token not in shown and token not in written and token not in heard and "x-carrier-explain" not in heard.lower()


def test_a_jar_of_cookies_joins_and_leaves(running: Running, tmp_path: Path) -> None:
    _, link = running.add("john", "--cookie", "user=john", "--expires", "10m")
    jar = ("-b", str(tmp_path / "jar"), "-c", str(tmp_path / "jar"))
    for version in running.versions:
        assert "this is shadow" in running.curl(version, *jar, running.at)
        assert "location: /\n" in running.curl(version, *jar, link)  # curl 7.88 follows none on a connection of HTTP/2
        assert "this is laptop" in running.curl(version, *jar, running.at)
        left = running.curl(version, *jar, f"{running.at}/.carrier/leave")
        assert "location: /\n" in left and "set-cookie: user=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax" in left
        (tmp_path / "jar").unlink()  # curl leaves it as it was when no cookie is left


def test_a_browser_joins_by_the_link_and_not_because_a_page_shows_it(running: Running, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    _, link = running.add()

    def sees(where: str) -> str:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom", where]
        return subprocess.run(command, capture_output=True, timeout=60, text=True).stdout

    page = f"<img src='{link}'><iframe src='{link}'></iframe><script>fetch('{link}', {{credentials: 'include', mode: 'no-cors'}})</script>"
    (tmp_path / "evil.html").write_text(page)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    evil = subprocess.Popen(
        [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        while True:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
        assert "iframe" in sees(f"http://localhost:{port}/evil.html")
        assert "this is laptop" in sees(link)  # which is where the link has sent it: to "/", with the cookie
    finally:
        evil.terminate()
        evil.communicate()

    def asked() -> list[int]:
        lines = map(json.loads, (tmp_path / "access.log").read_text().splitlines())
        return [line["status"] for line in lines if line["path"] == "/.carrier/join/john"]

    until = time.monotonic() + 10  # lines are written in batches
    while (joined := asked())[-1:] != [303] and time.monotonic() < until:
        time.sleep(0.05)
    assert joined == [403] * (len(joined) - 1) + [303] and len(joined) > 2
