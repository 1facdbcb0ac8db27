"""What a proxy keeps for its next start: whole or not at all, its own user's, by its container's name."""

import os
import stat

from carrier.gefyra.kept import Keep, Kept, own_name, write
from carrier.model import Bridge, Config


def test_what_was_kept_is_there_again(tmp_path):
    keep = Keep(tmp_path, str(tmp_path))
    assert keep.load() is None
    config = Config(bridges={"a.80": Bridge("a.80", "john", {"endpoint": "h:1"}, "port/80", ("r",), "c", 5.0)}, revision=7)
    kept = Kept(config, "mark", {"proxy": []}, True, {"cert.pem": "PEM"})
    keep.save(kept)
    assert keep.load() == kept
    assert keep.path.stat().st_mode & 0o777 == 0o600


def test_what_is_damaged_or_somebody_elses_is_nothing(tmp_path):
    keep = Keep(tmp_path, str(tmp_path))
    keep.save(Kept(Config()))
    data = keep.path.read_bytes()
    keep.path.write_bytes(data[:-1])
    assert keep.load() is None
    keep.path.write_bytes(data)
    assert keep.load() == Kept(Config())
    keep.path.rename(tmp_path / "elsewhere")
    keep.path.symlink_to(tmp_path / "elsewhere")
    assert keep.load() is None
    keep.path.unlink()
    if os.geteuid() == 0:
        keep.path.write_bytes(data)
        os.chown(keep.path, 12345, 12345)
        assert keep.load() is None


def test_a_container_is_known_by_the_name_that_its_kubelet_gave_it(tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "30 20 0:5 / /proc rw - proc proc rw\n"
        "31 20 8:1 /var/lib/kubelet/pods/1a-2b/containers/web-app/0f3c /dev/termination-log rw - ext4 /dev/sda rw\n"
    )
    assert own_name(str(mounts)) == "web-app"
    mounts.write_text("30 20 0:5 / /proc rw - proc proc rw\n")
    assert own_name(str(mounts)) == "own"
    assert own_name(str(tmp_path / "none")) == "own"


def test_a_pipe_in_its_place_holds_no_start_up(tmp_path):
    keep = Keep(tmp_path, str(tmp_path))
    os.mkfifo(keep.path)
    assert keep.load() is None
    keep.save(Kept(Config()))
    assert keep.load() == Kept(Config()) and stat.S_ISREG(keep.path.lstat().st_mode)


def test_a_file_is_never_made_in_one_that_somebody_has_put_there(tmp_path, monkeypatch):
    """It would be his, and he would read what we write, which may be a key."""
    monkeypatch.setattr(os, "urandom", lambda size: bytes(size))
    other = tmp_path / f".secret.{bytes(8).hex()}"
    for put in (lambda: other.write_text("his"), lambda: os.mkfifo(other), lambda: other.symlink_to(tmp_path / "his")):
        put()
        try:
            write(tmp_path / "secret", b"ours")
        except OSError:
            pass
        else:
            raise AssertionError("it was written")
        assert not (tmp_path / "secret").exists() and not (tmp_path / "his").exists()
        other.unlink()
    write(tmp_path / "secret", b"ours")
    assert (tmp_path / "secret").read_bytes() == b"ours" and list(tmp_path.iterdir()) == [tmp_path / "secret"]
