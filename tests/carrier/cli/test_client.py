"""The command and whoever answers it: where a token goes, and answers that are none."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from carrier.cli import carrierctl, client
from carrier.cli.client import Client, Refused
from carrier.cli.commands import _token
from tests import forked

TOKEN = "correct-horse-battery"


@contextmanager
def answering(sock: socket.socket, answer: bytes) -> Iterator[list[bytes]]:
    """Whoever listens there: says the same to everybody, and keeps what was asked."""
    heard: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                one, _ = sock.accept()
            except OSError:
                return
            with one:
                heard.append(one.recv(65536))
                one.sendall(answer)

    sock.listen()
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        sock.shutdown(socket.SHUT_RDWR)
        sock.close()
        thread.join(5)


def said(body: object) -> bytes:
    text = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text)


@pytest.fixture
def port() -> Iterator[tuple[int, socket.socket]]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1], sock


def test_a_token_goes_to_no_tcp_address_that_was_found_by_chance(port: tuple[int, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARRIER_ADMIN", raising=False)
    where = f"127.0.0.1:{port[0]}"
    monkeypatch.setattr(client, "_defaults", lambda: [where])
    with answering(port[1], said({})) as heard:
        Client(None, TOKEN).call("GET", "status")
        Client(where, TOKEN).call("GET", "status")
    assert TOKEN.encode() not in heard[0] and TOKEN.encode() in heard[-1]


def test_a_token_goes_over_a_unix_socket_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARRIER_ADMIN", raising=False)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    monkeypatch.setattr(client, "_defaults", lambda: [str(tmp_path / "s"), "127.0.0.1:1"])
    with answering(sock, said({})) as heard:
        Client(None, TOKEN).call("GET", "status")
    assert any(TOKEN.encode() in one for one in heard)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
def test_a_unix_socket_of_another_user_that_was_found_by_chance_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARRIER_ADMIN", raising=False)
    tmp_path.chmod(0o777)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    os.chmod(tmp_path / "s", 0o777)
    os.seteuid(4711)
    try:
        sock.listen()
    finally:
        os.seteuid(0)
    monkeypatch.setattr(client, "_defaults", lambda: [str(tmp_path / "s")])
    with sock:
        with pytest.raises(Refused, match="neither ours nor root"):
            Client(None, TOKEN).call("GET", "status")
        environment = os.environ | {"CARRIER_SOCKET": str(tmp_path / "s")}
        line = [sys.executable, "-ISB", carrierctl.__file__, "GET", "status"]
        found = subprocess.run(line, capture_output=True, text=True, timeout=30, env=environment)
        assert found.returncode == 3 and "user 4711 answers there" in found.stderr


@pytest.mark.parametrize("body", [[], "hello", 5, None, {"listeners": 5}, {"listeners": [5]}, [[]], {"content": {}}])
@pytest.mark.parametrize("command", ["status", "sessions", "bridges", "dump"])
def test_an_answer_that_is_none_is_one_sentence(command: str, body: object, port: tuple[int, socket.socket]) -> None:
    with answering(port[1], said(body)):
        line = [sys.executable, "-m", "carrier", command, "--admin", f"127.0.0.1:{port[0]}"]
        found = forked.run(line, capture_output=True, text=True, timeout=30)
    assert "Traceback" not in found.stderr and found.stderr.count("\n") <= 1, found


def test_the_token_of_a_file_is_its_first_whatever_stands_beside_it(tmp_path: Path) -> None:
    for text in (TOKEN, f"ci {TOKEN}", f"# mine\n\nci {TOKEN} privileged\nother other-token-0123\n"):
        (tmp_path / "t").write_text(text)
        assert _token(str(tmp_path / "t")) == TOKEN
    (tmp_path / "t").write_text("# nothing\n")
    with pytest.raises(ValueError, match="no token"):
        _token(str(tmp_path / "t"))
