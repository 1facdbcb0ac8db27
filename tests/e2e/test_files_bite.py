"""Whatever stands where a file should be, nobody waits: `carrier run` as a process, and at each name that a configuration or the command
line gives a named pipe, a folder, a device, a socket, far too much, nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests import forked
from tests.ports import free_port
from tests.soak.process import PATIENCE, Carrier, exchange, request
from tests.soak.process import forked as carrier

TOKEN = "correct-horse-battery"
QUICK = 2.0
"""Seconds that no answer may take."""


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        os.chdir(path.parent)  # its name is short enough so
        sock.bind(path.name)


THINGS: dict[str, Callable[[Path], object]] = {
    "a named pipe": lambda path: os.mkfifo(path, 0o600),
    "a folder": lambda path: path.mkdir(),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/tty"),
    "a socket": _socket,
    "far too much": lambda path: path.open("wb").truncate(1 << 36),
    "nothing": lambda path: None,
    "a link to itself": lambda path: path.symlink_to(path.name),
}


def put(path: Path, what: str) -> None:
    """Let this thing stand at `path` in one step, as whoever swaps files does it."""
    if path.is_symlink() or path.exists():
        path.unlink()
    here = os.getcwd()
    THINGS[what](path)
    os.chdir(here)


class Pki:
    """A CA, and a certificate of localhost in one file with its key."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.folder = folder
        self.ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        self.issue()

    def issue(self) -> None:
        path = self.folder / "new.pem"
        self.ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(path))
        path.rename(self.folder / "cert.pem")

    def serial(self, port: int) -> int:
        """Of the certificate that is shown at a port."""
        context = ssl.create_default_context(cadata=self.ca.cert_pem.bytes().decode())
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock, context.wrap_socket(sock, server_hostname="localhost") as tls:
            return int(tls.getpeercert()["serialNumber"], 16)  # type: ignore[index,arg-type]


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture(scope="module")
def plain() -> Iterator[Carrier]:
    with carrier({"listeners": []}) as one:
        yield one


def secured(port: int, folder: Path) -> dict[str, Any]:
    tls = {"certificate": str(folder / "cert.pem"), "key": str(folder / "cert.pem"), "ca": str(folder / "ca.pem"), "client_auth": False}
    return {
        "clusters": [{"name": "echo", "spec": {"protocol": "Echo"}}],
        "listeners": [
            {
                "name": "in",
                "spec": {"protocol": "TCP", "port": port, "address": "127.0.0.1", "tls": tls},
                "rules": [{"action": {"route": {"destination": "echo"}}}],
            }
        ],
    }


@pytest.mark.parametrize("what", THINGS)
@pytest.mark.parametrize("field", ["certificate", "key", "ca"])
def test_a_change_that_names_one_is_refused_at_once_with_the_reason(
    field: str, what: str, plain: Carrier, pki: Pki, tmp_path: Path
) -> None:
    put(tmp_path / "odd", what)
    conf = secured(free_port(), tmp_path)
    conf["listeners"][0]["spec"]["tls"][field] = str(tmp_path / "odd")
    conf["clusters"].append({"name": "up", "spec": {"protocol": "TCP", "port": 1, "tls": {field: str(tmp_path / "odd")}}})
    if field != "ca":
        conf["clusters"][1]["spec"]["tls"] |= {"certificate": str(tmp_path / "odd"), "key": str(tmp_path / "odd")}
    for body, path in (({"listener": conf["listeners"][0] | {"rules": []}}, "listeners"), ({"cluster": conf["clusters"][1]}, "clusters")):
        began = time.monotonic()
        status, said = plain.call("POST", f"/api/v1/{path}", body)
        assert time.monotonic() - began < QUICK
        assert status == 400 and str(tmp_path / "odd") in said["content"], said
    assert plain.call("GET", "/readyz")[0] == 200


@pytest.mark.parametrize("what", THINGS)
def test_one_that_takes_the_place_of_a_certificate_leaves_the_old_one_in_force_and_sigterm_ends(
    what: str, pki: Pki, tmp_path: Path
) -> None:
    port = free_port()
    with carrier(secured(port, tmp_path), "--drain", "0", "--drain-delay", "0") as one:
        before = pki.serial(port)
        put(tmp_path / "cert.pem", what)
        until = time.monotonic() + PATIENCE
        while "the old certificate stays in force" not in one.log.read_text():
            assert time.monotonic() < until
            began = time.monotonic()
            assert one.call("GET", "/readyz")[0] == 200
            assert time.monotonic() - began < QUICK
            time.sleep(0.1)
        assert pki.serial(port) == before
        one.signal(signal.SIGTERM)
        began = time.monotonic()
        assert one.wait() == 0
        assert time.monotonic() - began < 2 * QUICK


def test_the_certificate_of_the_api_is_read_again(pki: Pki, tmp_path: Path) -> None:
    port = free_port()
    files = ["--admin-cert", str(tmp_path / "cert.pem"), "--admin-ca", str(tmp_path / "ca.pem"), "--admin-tokens", str(tmp_path / "tokens")]
    (tmp_path / "tokens").write_text(f"ci {TOKEN}\n")
    (tmp_path / "tokens").chmod(0o600)
    with carrier({"listeners": []}, "--admin", f"127.0.0.1:{port}", *files) as one:
        before = pki.serial(port)
        pki.issue()
        wait(lambda: pki.serial(port) != before, "for the new certificate")
        after = pki.serial(port)
        put(tmp_path / "cert.pem", "a named pipe")
        wait(lambda: "the old certificate stays in force" in one.log.read_text(), "for the refusal")
        assert pki.serial(port) == after


def wait(true: Callable[[], object], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until, f"waited in vain {what}"
        time.sleep(0.05)


@pytest.mark.parametrize("what", THINGS)
def test_one_that_takes_the_place_of_the_tokens_leaves_them_in_force(what: str, tmp_path: Path) -> None:
    port, file = free_port(), tmp_path / "tokens"
    file.write_text(f"ci {TOKEN}\n")
    file.chmod(0o600)

    def status() -> int:
        with socket.create_connection(("127.0.0.1", port), QUICK) as sock:
            return exchange(sock, request("GET", "/api/v1/config", authorization=f"Bearer {TOKEN}"))[0]

    with carrier({"listeners": []}, "--admin", f"127.0.0.1:{port}", "--admin-tokens", str(file)) as one:
        assert status() == 200
        put(file, what)
        assert status() == 200
        assert "the tokens known stay in force" in one.log.read_text()


@pytest.mark.parametrize("what", THINGS)
def test_one_that_takes_the_place_of_the_configuration_changes_nothing(what: str) -> None:
    with carrier({"listeners": []}, "--drain", "0", "--drain-delay", "0") as one:
        put(one.file, what)
        one.signal(signal.SIGHUP)
        wait(lambda: "nothing has changed" in one.log.read_text(), "for the refusal")
        assert one.call("GET", "/readyz")[0] == 200
        one.signal(signal.SIGTERM)
        assert one.wait() == 0


@pytest.mark.parametrize("what", THINGS)
@pytest.mark.parametrize("option", ["-c", "--admin-tokens", "--admin-cert", "--admin-ca"])
def test_nobody_starts_with_one_and_the_reason_is_said(option: str, what: str, pki: Pki, tmp_path: Path) -> None:
    put(tmp_path / "odd", what)
    (tmp_path / "c.json").write_text('{"listeners": []}')
    options = {"-c": str(tmp_path / "c.json"), "--admin-cert": str(tmp_path / "cert.pem")} | {option: str(tmp_path / "odd")}
    command = [sys.executable, "-m", "carrier", "run", "--admin-socket", "off", "--admin", f"127.0.0.1:{free_port()}"]
    found = forked.run(
        [*command, *(word for pair in options.items() for word in pair)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )
    assert found.returncode == 2, found
    assert str(tmp_path / "odd") in found.stderr


def test_a_configuration_may_come_through_a_descriptor_that_is_open(tmp_path: Path) -> None:
    text = json.dumps({"listeners": []})
    command = f"{sys.executable} -m carrier check /dev/stdin; {sys.executable} -m carrier check <(echo '{text}')"
    found = subprocess.run(["bash", "-c", command], input=text, capture_output=True, text=True, timeout=PATIENCE)
    assert found.stdout.count("fine") == 2, found
