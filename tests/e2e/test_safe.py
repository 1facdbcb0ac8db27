"""Safe to run, on processes of their own: signals, options, who reaches the API from outside. Soaks: tests/soak/test_soaks.py."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from carrier.admin.gate import Limits
from carrier.admin.operations import OPERATIONS
from carrier.cli.parser import LIMITS, parser
from carrier.core.breaker import BREAKER
from tests import forked
from tests.ports import free_port
from tests.soak import size
from tests.soak.process import PATIENCE, carrier

EMPTY = {"listeners": []}


def test_a_file_may_have_as_many_objects_as_the_command_line_says(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps(size.document(100)))
    command = [sys.executable, "-m", "carrier", "run", "-c", str(file), "--limit", "config.objects=300"]
    found = forked.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert found.returncode == 2 and "300 objects" in found.stderr


# -- signals


def echo(port: int) -> dict[str, object]:
    return {
        "clusters": [{"name": "echo", "spec": {"protocol": "Echo"}}],
        "listeners": [
            {
                "name": "in",
                "spec": {"protocol": "TCP", "port": port, "address": "127.0.0.1"},
                "rules": [{"action": {"route": {"destination": "echo"}}}],
            }
        ],
    }


def wait_for(true: object, what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not true():  # type: ignore[operator]
        assert time.monotonic() < until, f"waited in vain {what}"
        time.sleep(0.01)


def test_sighup_reads_the_file_again_and_live_connections_stay() -> None:
    first, second = free_port(), free_port()
    with carrier(echo(first)) as one, socket.create_connection(("127.0.0.1", first)) as live:
        live.sendall(b"x")
        assert live.recv(1) == b"x"
        one.file.write_text(json.dumps({"listeners": 5}))
        one.signal(signal.SIGHUP)
        wait_for(lambda: "nothing has changed" in one.log.read_text(), "for the refusal")
        more = echo(first)
        more["listeners"] += [dict(echo(second)["listeners"][0], name="second")]  # type: ignore[operator,index]
        one.file.write_text(json.dumps(more))
        one.signal(signal.SIGHUP)
        wait_for(lambda: len(one.call("GET", "/api/v1/listeners")[1]) == 2, "for the second listener")
        live.sendall(b"y")
        assert live.recv(1) == b"y"
        socket.create_connection(("127.0.0.1", second)).close()


def test_post_drain_with_exit_ends_the_process_and_cut_work_is_exit_status_5() -> None:
    port = free_port()
    with carrier(echo(port), "--drain", "0.2", "--drain-delay", "0") as one:
        with socket.create_connection(("127.0.0.1", port)) as live:
            live.sendall(b"x")
            assert live.recv(1) == b"x"
            assert one.call("POST", "/api/v1/drain?exit=true")[1]["state"] == "draining"
            assert one.wait() == 5
            assert live.recv(1) == b""
        assert not os.path.exists(one.socket)


def test_a_process_without_work_ends_with_status_0() -> None:
    with carrier(EMPTY, "--drain-delay", "0") as one:
        one.signal(signal.SIGTERM)
        assert one.wait() == 0


def test_a_socket_file_that_a_crash_has_left_is_no_obstacle() -> None:
    with carrier(EMPTY) as one:
        one.kill()
        assert os.path.exists(one.socket)
        one.start()
        assert one.call("GET", "/healthz")[0] == 200


# -- usage


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--admin", "0.0.0.0:0"], "open to other machines"),
        (["--admin-ca", "ca.pem"], "need --admin-cert"),
        (["--admin-tokens", "/nonexistent"], "/nonexistent"),
        (["--admin-cert", "/nonexistent"], "/nonexistent"),
        (["--limit", "nonsense=1"], "expected NAME=NUMBER"),
        (["--limit", "memory=many"], "expected NAME=NUMBER"),
        (["--state", "/proc/nowhere"], "cannot keep the state"),
    ],
)
def test_bad_options_are_refused_before_anything_listens(tmp_path: Path, arguments: list[str], said: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps(EMPTY))
    command = [sys.executable, "-m", "carrier", "run", "-c", str(file), "--admin-socket", "off", *arguments]
    found = forked.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert found.returncode == 2
    assert said in found.stderr


def test_limits_are_taken_from_the_command_line() -> None:
    with carrier(EMPTY, "--limit", "api.body=1Ki", "--limit", "memory=900Mi") as one:
        status, answer = one.call("POST", "/api/v1/config", {"listeners": ["x" * 2000]})
        assert status == 413 and "1024 bytes" in answer["content"]


# -- another machine


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, str]]:
    """A network namespace with a wire to this one: its name, and our address as seen from it."""
    name = f"carrier{os.getpid()}"
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs root and ip(8) for a network namespace")
    end = f"c{os.getpid()}"[:12]
    setup = [
        ["ip", "netns", "add", name],
        ["ip", "link", "add", f"{end}a", "type", "veth", "peer", "name", f"{end}b", "netns", name],
        ["ip", "addr", "add", "198.18.77.1/30", "dev", f"{end}a"],
        ["ip", "link", "set", f"{end}a", "up"],
        ["ip", "-n", name, "addr", "add", "198.18.77.2/30", "dev", f"{end}b"],
        ["ip", "-n", name, "link", "set", f"{end}b", "up"],
    ]
    try:
        for command in setup:
            if subprocess.run(command, capture_output=True).returncode:
                pytest.skip(f"no network namespace here: {' '.join(command)} fails")
        yield name, "198.18.77.1"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_from_another_network_namespace_only_what_was_opened_answers(elsewhere: tuple[str, str]) -> None:
    name, address = elsewhere
    admin, health, controller = free_port(), free_port(), free_port()
    config = {
        "listeners": [
            {
                "name": "ctl",
                "spec": {"protocol": "HTTP", "port": controller},
                "rules": [{"action": {"route": {"destination": {"spec": {"protocol": "L7mpController"}}}}}],
            }
        ]
    }

    def reached(port: int) -> bool:
        code = f"import socket; socket.create_connection(({address!r}, {port}), 3)"
        return subprocess.run(["ip", "netns", "exec", name, sys.executable, "-c", code], capture_output=True).returncode == 0

    with carrier(config, "--health", f"0.0.0.0:{health}"):
        socket.create_connection(("127.0.0.1", controller)).close()
        assert not reached(controller)
        assert reached(health)
    with carrier(EMPTY, "--admin", f"127.0.0.1:{admin}"):
        socket.create_connection(("127.0.0.1", admin)).close()
        assert not reached(admin)


# -- the guide

GUIDE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def test_the_guide_names_options_limits_paths_and_soaks_that_exist() -> None:
    run = next(action for action in parser()._actions if action.dest == "command").choices["run"]  # type: ignore[union-attr,index,call-overload]
    options = set(run._option_string_actions)
    assert set(re.findall(r"--(?:admin|insecure|health|state|watch|drain|limit)[a-z-]*", GUIDE)) <= options
    assert set(re.findall(r"`(?:--limit )?((?:api\.[a-z_]+|lag|memory|connections))[`=]", GUIDE)) == set(LIMITS)
    for method, path in re.findall(r"`(GET|POST|DELETE) /api/v1/([^`?]+)", GUIDE):
        assert (method, path.replace("NAME", "*")) in OPERATIONS
    for soak in re.findall(r"^\| `([a-z0-9]+) \d+`", GUIDE, re.M):
        assert (Path(__file__).parents[1] / "soak" / f"{soak}.py").exists()


def test_the_guide_tells_the_defaults() -> None:
    limits, defaults = Limits(), {name: f"{int(value)}" for name, value in BREAKER.items()}
    for text in ("`api.body` 1 MiB", f"`api.depth` {limits.depth}", f"`api.objects` {limits.objects:,}"):
        assert text in GUIDE
    assert f"`api.request_timeout` {limits.request_timeout:g} s" in GUIDE and f"`api.connections` {limits.connections}" in GUIDE
    assert f"`api.writes` {limits.writes:g} a second after `api.burst` {limits.burst}" in GUIDE
    for name, default in defaults.items():
        assert re.search(rf"`options\.{name}`.*\| {default} \|", GUIDE)
