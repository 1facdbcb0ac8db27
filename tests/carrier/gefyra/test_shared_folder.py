"""The daemon's files in a folder where others may write, as /tmp is: nobody leads it to another file, or speaks for our user."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from pathlib import Path

import pytest

from carrier import files
from carrier.gefyra.daemon import LogFile, Paths
from tests.carrier.gefyra.operator import Pod

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
busybox = pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def test_a_log_that_is_a_link_is_not_followed_there(shared: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    (shared / "carrier.log").symlink_to(victim)
    log = LogFile(echo=False)
    log.open(str(shared / "carrier.log"))
    log("a line\n")
    assert victim.read_text() == "precious\n" and log.descriptor < 0


def test_an_answer_goes_over_no_link_and_is_for_nobody_else(shared: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    paths = Paths(str(shared))
    paths.ack.symlink_to(victim)
    (shared / f"carrier2.{os.getpid()}").symlink_to(victim)
    paths.answer("word")
    assert victim.read_text() == "precious\n" and paths.ack.read_text() == "word ok\n"
    assert stat.S_IMODE(paths.ack.stat().st_mode) == 0o600


@pytest.mark.parametrize("what", ["a pipe", "a link", "a folder"])
def test_a_question_that_is_no_file_of_ours_is_none(what: str, shared: Path, tmp_path: Path) -> None:
    paths = Paths(str(shared))
    (tmp_path / "q").write_text("word info /tmp/x\n")
    {"a pipe": lambda: os.mkfifo(paths.ask), "a link": lambda: paths.ask.symlink_to(tmp_path / "q"), "a folder": paths.ask.mkdir}[what]()
    assert paths.asked() is None


@root
def test_what_another_user_has_put_there_is_not_ours(shared: Path) -> None:
    paths = Paths(str(shared))
    paths.ask.write_text("word info /tmp/x\n")
    assert paths.asked() == ("word", "info", "/tmp/x")
    os.chown(paths.ask, 4711, 4711)
    assert paths.asked() is None
    with pytest.raises(files.Unreadable, match="user 4711 has put it there"):
        files.read_now(str(paths.ask), ours=True)
    shared.chmod(0o755)  # nobody else can have put it there
    assert paths.asked() == ("word", "info", "/tmp/x")


@busybox
async def test_the_script_writes_over_no_link(shared: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    pod = Pod(shared)
    for name in ("carrier2.pid", "carrier2.ask", "carrier.log"):
        (shared / name).symlink_to(victim)
    try:
        said = await pod.type("carrier2 -c nothing.yaml -d\n")
        assert victim.read_text() == "precious\n"
        assert pod.pid and (shared / "carrier2.ask").read_text().endswith("/nothing.yaml\n"), said
    finally:
        if pod.pid:
            os.kill(pod.pid, signal.SIGTERM)


@busybox
async def test_the_script_waits_for_no_reader_of_a_pipe(shared: Path) -> None:
    pod = Pod(shared)
    os.mkfifo(shared / "carrier2.ask")
    os.mkfifo(shared / "carrier2.pid")
    os.mkfifo(shared / "carrier2.ack")
    try:
        await pod.type("carrier2 -c nothing.yaml -d\n")
        assert pod.pid
    finally:
        if pod.pid:
            os.kill(pod.pid, signal.SIGTERM)
