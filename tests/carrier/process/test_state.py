"""State on disk: what was saved is found again, whatever happens to the files; the base and the leases."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carrier.bridges.edits import Bridges
from carrier.errors import ConfigError, Error
from carrier.model import Config
from carrier.process.state import Folder, Saved, decode, encode, fingerprint, resumed, touched
from tests.support import cluster, config, echo, listener, without

MATCH = {"matchHeader": {"name": "x-user", "value": "john"}}


def at(revision: int, base: Config | None = None) -> Config:
    """A configuration of some size, at a revision."""
    found = config(
        clusters=[echo(), cluster("up", 9)], listeners=[listener("web", protocol="HTTP", spec={"port": 8080}), listener("in")], base=base
    )
    return msgspec.structs.replace(found, revision=revision)


def files(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name != "lock")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def folder(tmp_path: Path, said: list[str]) -> Folder:
    return Folder(tmp_path / "state", said.append)


# -- files


def test_what_was_saved_is_found_again(folder: Folder) -> None:
    assert folder.newest() is None
    saved = Saved(at(7), "mark", ("clusters/up",))
    folder.save(saved)
    assert folder.newest() == saved


def test_every_kind_of_object_survives_the_file() -> None:
    rule = {
        "name": "r",
        "match": {"op": "test", "path": "/a", "value": [1, 1.5, None, "ü"]},
        "action": {"rewrite": [{"path": "/x", "value": {}}]},
    }
    found = config(clusters=[echo()], rules=[rule], rulelists=[{"name": "l", "rules": ["r"], "order": "specific"}], base=at(1))
    found = Bridges().put(found, "john", {"port": 8080, "user": "john", "match": MATCH, "endpoint": "10.0.0.9:8000", "expires": 3600})
    assert decode(encode(Saved(found))).config == found


def test_the_newest_and_the_one_before_it_are_kept(folder: Folder) -> None:
    for revision in (1, 2, 5, 6):
        folder.save(Saved(at(revision)))
    assert files(folder.path) == ["revision-5.json", "revision-6.json"]


def test_only_we_can_read_it(folder: Folder) -> None:
    folder.save(Saved(at(1)))
    assert stat.S_IMODE(os.stat(folder.path).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(folder.path / "revision-1.json").st_mode) == 0o600


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "garbage", "other revision", "other format"])
def test_a_damaged_file_falls_back_to_the_one_before_it_loudly(folder: Folder, said: list[str], damage: str) -> None:
    folder.save(Saved(at(1)))
    folder.save(Saved(at(2)))
    newest = folder.path / "revision-2.json"
    good = newest.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    newest.write_bytes(
        {
            "cut": good[:-10],
            "empty": b"",
            "flipped": bytes(flipped),
            "garbage": b"\x00" * 100,
            "other revision": encode(Saved(at(3))),
            "other format": encode(Saved(at(2), format=99)),
        }[damage]
    )
    found = folder.newest()
    assert found is not None and found.revision == 1
    assert len(said) == 1 and "damaged" in said[0]
    assert "revision-2.json.damaged" in files(folder.path)
    folder.save(Saved(at(2)))
    assert folder.newest() == Saved(at(2))


def test_a_fifo_or_a_folder_in_the_place_of_a_file_hangs_nothing(folder: Folder, said: list[str]) -> None:
    folder.save(Saved(at(1)))
    os.mkfifo(folder.path / "revision-3.json")
    os.mkfifo(folder.path / "revision.new")
    (folder.path / "revision-2.json").mkdir()
    assert folder.newest() == Saved(at(1))
    assert "no regular file" in said[0] and len(said) == 2
    folder.save(Saved(at(4)))
    assert folder.newest() == Saved(at(4))


def test_a_folder_that_was_made_anew_is_noticed_and_taken_again(folder: Folder, tmp_path: Path) -> None:
    folder.save(Saved(at(1)))
    assert folder.stands()
    folder.path.rename(tmp_path / "away")
    assert not folder.stands()
    folder.save(Saved(at(2)))
    assert folder.stands() and files(folder.path) == ["revision-2.json"]
    with pytest.raises(ConfigError, match="another carrier"):
        Folder(folder.path, print)


def test_a_folder_that_another_carrier_has_taken_meanwhile_is_not_written_to(folder: Folder, tmp_path: Path) -> None:
    folder.path.rename(tmp_path / "away")
    other = Folder(folder.path, print)
    with pytest.raises(Error, match="another carrier keeps its state there"):
        folder.save(Saved(at(2)))
    assert files(folder.path) == []
    other.close()
    folder.save(Saved(at(2)))
    assert folder.stands()


@pytest.mark.parametrize("there", [True, False])
def test_a_read_only_disk_keeps_nobody_from_starting(tmp_path: Path, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    if there:
        first = Folder(path, print)
        first.save(Saved(at(1)))
        first.close()
    with monkeypatch.context() as disk:
        read_only(disk)
        said: list[str] = []
        found = Folder(path, said.append)
        assert found.newest() == (Saved(at(1)) if there else None)
        assert bool(said) != there and found.stands() == there
        with pytest.raises(Error, match="Read-only file system"):
            found.save(Saved(at(2)))
    found.save(Saved(at(2)))
    assert found.stands() and found.newest() == Saved(at(2))


def read_only(disk: pytest.MonkeyPatch) -> None:
    """Nothing can be made or opened for writing any more."""
    real = os.open

    def opened(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *more, **named)

    def made(path: Any, *more: Any) -> None:
        if os.path.exists(path):
            raise FileExistsError
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    disk.setattr(os, "open", opened)
    disk.setattr(os, "mkdir", made)


def test_a_write_that_was_cut_short_is_not_mistaken_for_a_revision(folder: Folder, said: list[str]) -> None:
    folder.save(Saved(at(1)))
    (folder.path / "revision.new").write_bytes(encode(Saved(at(2)))[:50])
    assert folder.newest() == Saved(at(1))
    assert not said
    folder.save(Saved(at(2)))
    assert folder.newest() == Saved(at(2))


def test_revisions_of_an_abandoned_future_do_not_come_back(folder: Folder) -> None:
    folder.save(Saved(at(9)))
    folder.save(Saved(at(3)))
    assert files(folder.path) == ["revision-3.json"]


def test_a_change_that_cannot_be_kept_is_an_error_and_the_old_one_stays(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.save(Saved(at(1)))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Error, match="No space left") as caught:
        folder.save(Saved(at(2)))
    assert caught.value.kind == "internal"
    assert folder.newest() == Saved(at(1))


def test_a_full_disk_is_not_left_fuller(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.save(Saved(at(1)))
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Error, match="No space left"):
        folder.save(Saved(at(2)))
    assert files(folder.path) == ["revision-1.json"]


def test_file_and_folder_are_synced_before_save_returns(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("dir" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"), fsync(fd)))
    monkeypatch.setattr(os, "rename", lambda a, b: (done.append("rename"), rename(a, b)))
    folder.save(Saved(at(1)))
    assert done == ["file", "rename", "dir"]


def test_two_carriers_cannot_share_a_folder(folder: Folder) -> None:
    with pytest.raises(ConfigError, match="another carrier"):
        Folder(folder.path, print)
    folder.close()
    Folder(folder.path, print).close()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot keep the state"):
        Folder(tmp_path / "file" / "state", print)


# -- the base


BASE = at(0)
MARK = fingerprint("the file")


def saved_from(changed: Config, base: Config = BASE, mark: str = MARK) -> Saved:
    return Saved(msgspec.structs.replace(changed, revision=41), mark, touched(base, changed))


def test_without_a_state_the_base_is_in_force() -> None:
    assert resumed(None, BASE, MARK, Bridges()) == (BASE, [])


def test_the_changes_since_the_same_base_are_in_force_again_at_their_revision() -> None:
    changed = config(clusters=[cluster("more", 1)], base=BASE)
    found, said = resumed(saved_from(changed), BASE, MARK, Bridges())
    assert (found.clusters, found.revision, said) == (changed.clusters, 41, [])


def test_settings_of_the_process_are_those_of_now() -> None:
    now = msgspec.structs.replace(BASE, admin=msgspec.structs.replace(BASE.admin, log_level="error"))
    assert resumed(saved_from(BASE), now, MARK, Bridges())[0].admin.log_level == "error"


def test_a_base_that_has_changed_wins_and_what_was_dropped_is_said() -> None:
    changed = without(config(clusters=[cluster("more", 1)], base=BASE), "cluster", "up")
    new = config(clusters=[cluster("new", 2)], base=BASE)
    found, (said,) = resumed(saved_from(changed), new, fingerprint("another"), Bridges())
    assert found.clusters == new.clusters
    assert found.revision == 42
    assert said.endswith("changes made over REST are dropped: clusters/up clusters/more")


def test_bridges_are_put_into_a_new_base_as_far_as_they_fit() -> None:
    put = Bridges().put
    bridged = put(BASE, "john", {"port": 8080, "user": "john", "match": MATCH, "endpoint": "10.0.0.9:8000"})
    assert touched(BASE, bridged) == ()
    new = config(clusters=[cluster("new", 2)], base=BASE)
    found, said = resumed(saved_from(bridged), new, "another", Bridges())
    assert list(found.bridges) == ["john"] and not said
    found, said = resumed(saved_from(bridged), without(BASE, "listener", "web", recursive=True), "another", Bridges())
    assert not found.bridges
    assert len(said) == 1 and "bridge 'john' is gone" in said[0]


@pytest.mark.parametrize("mark", [MARK, "another"])
def test_leases_that_ran_out_meanwhile_are_not_revived(mark: str) -> None:
    now = [1000.0]
    bridges = Bridges(clock=lambda: now[0])
    body = {"port": 8080, "user": "john", "match": MATCH, "endpoint": "10.0.0.9:8000"}
    bridged = bridges.put(BASE, "short", {**body, "expires": 60})
    bridged = bridges.put(bridged, "long", {**body, "expires": 600, "match": {"matchHeader": {"name": "x-user", "value": "jane"}}})
    now[0] += 100
    found, said = resumed(saved_from(bridged), BASE, mark, bridges)
    assert list(found.bridges) == ["long"] and not said
    assert found.bridges["long"].expires == 1600
