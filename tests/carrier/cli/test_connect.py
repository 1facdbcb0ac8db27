"""`carrier connect`: what its ends mean, and that bytes pass."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from carrier.cli.connect import document
from carrier.cli.main import main
from carrier.config.document import from_document
from tests import forked
from tests.ports import free_port


def carrier(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return forked.run([sys.executable, "-m", "carrier", "connect", *arguments], input=given, capture_output=True, timeout=30)


@pytest.mark.parametrize(
    "source", ["tcp-l:8080", "tcp-l:0.0.0.0:8080", "tcp-l:[::1]:8080", "udp-l:5353", "http-l:80", "ws-l:80", "unix-l:/run/a.sock", "-"]
)
@pytest.mark.parametrize(
    "destination",
    [
        "tcp:a:1",
        "tcp:[::1]:1",
        "udp:a:1",
        "tls:a:443",
        "ws://a:1/x?y",
        "wss://a/",
        "http://a",
        "https://a:1",
        "unix:/a",
        "exec:sort -u",
        "echo:",
        "discard:",
    ],
)
def test_every_form_makes_a_good_configuration(source: str, destination: str) -> None:
    config, _ = from_document(document(source, destination))
    assert list(config.listeners) == ["from"] and list(config.clusters) == ["to"]


def test_only_this_machine_is_listened_to_unless_an_address_is_given() -> None:
    assert document("tcp-l:8080", "echo:")["listeners"][0]["spec"] == {"protocol": "TCP", "port": 8080, "address": "127.0.0.1"}
    assert document("tcp-l:0.0.0.0:8080", "echo:")["listeners"][0]["spec"]["address"] == "0.0.0.0"


@pytest.mark.parametrize(
    ("source", "destination", "said"),
    [
        ("tcpl:8080", "echo:", "'tcpl:8080' is nothing to listen at; did you mean 'tcp-l'?"),
        ("tcp-l:http", "echo:", "'tcp-l:http' has no port"),
        ("tcp-l:99999", "echo:", "has no port: a number 1..65535"),
        ("-", "tcp:80", "'tcp:80' is nothing to reach; "),
        ("-", "wsx://a/", "did you mean 'ws'?"),
        ("-", "exec:", "says no command"),
        ("-", "unix:", "says no path"),
    ],
)
def test_what_is_no_end_is_told_with_the_forms_there_are(
    source: str, destination: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["connect", source, destination]) == 2
    assert said in capsys.readouterr().err


def test_it_is_a_filter_and_ends_with_its_input() -> None:
    found = carrier("-", "exec:sort -u", given=b"b\na\nb\n")
    assert (found.returncode, found.stdout, found.stderr) == (0, b"a\nb\n", b"")
    assert carrier("-", "echo:", given=b"hello\n").stdout == b"hello\n"


def test_the_configuration_can_be_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", "udp-l:5353", "ws://127.0.0.1:8080/dns", "--print"]) == 0
    assert "{path: /HTTP/url/path, value: /dns}" in capsys.readouterr().out


def test_a_port_leads_to_a_socket_file_until_a_signal_comes(tmp_path: Path) -> None:
    port, file = free_port(), str(tmp_path / "a.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(file)
        server.listen()
        server.settimeout(20)
        process = forked.Popen([sys.executable, "-m", "carrier", "connect", f"tcp-l:{port}", f"unix:{file}"])
        try:
            client = reached(port)
            client.sendall(b"hello")
            connection, _ = server.accept()
            assert connection.recv(100) == b"hello"
            connection.close()
            client.close()
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


def reached(port: int) -> Any:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), 20)
        time.sleep(0.05)
    raise AssertionError("nobody listens")


def test_a_port_that_is_taken_is_exit_status_3() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = carrier(f"tcp-l:{taken.getsockname()[1]}", "echo:")
    assert found.returncode == 3 and b"carrier connect: " in found.stderr
