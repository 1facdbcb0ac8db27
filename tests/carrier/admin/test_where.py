"""The API's unix socket: where it is, who can reach its file, what is done with files that are there already."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from pathlib import Path

import pytest

from carrier.admin.gate import Limits
from carrier.admin.where import bind_unix, default_socket, open_socket, own_listener
from carrier.core.env import Env
from carrier.errors import Error


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private folder for sockets, as a login session has one."""
    folder = tmp_path / "run"
    folder.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_the_default_is_in_the_private_folder_of_the_session(runtime: Path) -> None:
    assert default_socket() == str(runtime / "carrier.sock")


def test_a_folder_that_others_can_write_is_not_used(runtime: Path) -> None:
    runtime.chmod(0o777)
    assert not default_socket().startswith(str(runtime))
    with pytest.raises(Error, match="not a folder of ours alone"):
        bind_unix(str(runtime / "carrier.sock"))


def test_a_link_in_place_of_the_folder_is_not_followed(runtime: Path) -> None:
    (runtime.parent / "link").symlink_to(runtime)
    with pytest.raises(Error, match="not a folder of ours alone"):
        bind_unix(str(runtime.parent / "link" / "carrier.sock"))


def test_without_a_session_root_uses_run_and_others_a_folder_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_socket() == "/run/carrier.sock"
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert default_socket() == "/tmp/carrier-1234/carrier.sock"


def test_the_folder_is_made_and_the_file_is_for_us_alone(tmp_path: Path) -> None:
    path = tmp_path / "carrier-1000" / "carrier.sock"
    before = os.umask(0o022)
    try:
        with bind_unix(str(path)):
            assert mode(path) == 0o600
            assert mode(path.parent) == 0o700
            os.umask(os.umask(0o022))
    finally:
        assert os.umask(before) == 0o022


def test_the_file_of_a_process_that_is_gone_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "carrier.sock")
    bind_unix(path, private=False).close()
    assert os.path.exists(path)
    bind_unix(path, private=False).close()


def test_the_file_of_a_process_that_answers_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "carrier.sock")
    with bind_unix(path, private=False):
        with pytest.raises(Error, match="Address already in use") as caught:
            bind_unix(path, private=False)
        assert caught.value.kind == "bind"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "carrier.sock"
    path.write_text("precious")
    with pytest.raises(Error, match="is no socket"):
        bind_unix(str(path), private=False)
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Error) as caught:
        bind_unix(str(tmp_path / ("x" * 120)), private=False)
    assert caught.value.kind == "bind"


async def test_a_second_carrier_opens_its_socket_beside_the_first_and_says_so(runtime: Path) -> None:
    env = Env(asyncio.get_running_loop())
    first, warning = open_socket(env, None, Limits())
    assert first is not None and not warning
    second, warning = open_socket(env, None, Limits())
    assert second is not None and second.path == str(runtime / f"carrier-{os.getpid()}.sock") and second.path in warning
    for one in (first, second):
        one.remove()
        one.remove()
        one.listener.stop()
    assert os.listdir(runtime) == []


async def test_a_socket_that_was_named_must_be_free(runtime: Path) -> None:
    env = Env(asyncio.get_running_loop())
    first, _ = open_socket(env, str(runtime / "mine.sock"), Limits())
    assert first is not None
    with contextlib.closing(first.listener.bound[0]), pytest.raises(Error, match="another carrier"):
        open_socket(env, first.path, Limits())


async def test_a_socket_that_another_process_has_put_there_since_is_not_removed(runtime: Path) -> None:
    first, _ = open_socket(Env(asyncio.get_running_loop()), None, Limits())
    assert first is not None
    os.unlink(first.path)
    with bind_unix(first.path):
        first.remove()
        assert os.path.exists(first.path)
    first.listener.stop()


async def test_own_listeners_are_not_listed_and_have_the_limits_of_the_api() -> None:
    found = own_listener(Env(asyncio.get_running_loop()), "(admin)", "127.0.0.1", 0, Limits(connections=7, request_timeout=3))
    assert not found.listed
    assert (found.max_connections, found.header_timeout) == (7, 3)  # type: ignore[attr-defined]
