"""Changes made over REST, kept through a crash: `--state DIR`.

Each revision is one file, `revision-N.json`: a line with the checksum of the rest, then the whole configuration with the hash of the
file it began from. `save` writes a temporary file, fsyncs it, renames it and fsyncs the folder before it returns, so that whoever got an
answer finds his change again after a `kill -9` or a power cut; the previous revision is kept beside, older ones go. `newest` reads
the newest file that is whole; a damaged one is renamed to `*.damaged`, reported, and the one before it serves.

The file of `-c` is the base, the state is what was changed since. While the base is what it was, the state is in force; a base that has
changed wins, and `dropped` says which objects were changed by REST and are gone with it. User bridges are nobody's file: they are
put into the new base again as far as they fit. A lease that ran out meanwhile is not revived.

A disk that is full or read-only keeps nobody from starting: then the folder has no lock, perhaps, and is taken when a `save` finds it
usable. So it is when somebody has moved it away and made it anew: the lock's inode tells. What is no regular file is never waited for.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from carrier.bridges.many import carried
from carrier.core.slices import whole
from carrier.errors import ConfigError, Error, Problem
from carrier.model import Config, RuleList

if TYPE_CHECKING:
    from carrier.bridges.edits import Bridges

FORMAT = 1
KEPT = 2
"""Revisions on disk: the newest and the one before it."""
LARGEST = 1 << 28
"""Bytes of a file that could be one of ours."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
"""What a disk says that takes nothing at the moment: no fault of who named the folder."""
_NAME = re.compile(r"revision-(\d{1,18})\.json")
_SECTIONS = ("listeners", "clusters", "rulelists", "rules", "routes")


class Saved(msgspec.Struct, frozen=True):
    """One revision on disk. base: hash of the file that it began from (`fingerprint`); touched: the objects, as `section/name`, that
    differ from what that file said."""

    config: Config
    base: str = ""
    touched: tuple[str, ...] = ()
    format: int = FORMAT

    @property
    def revision(self) -> int:
        return self.config.revision


class Folder:
    """The folder of one process. say: called with a sentence about everything that is odd.

    Raises ConfigError when it cannot be made, written or locked: another carrier uses it. A disk without room is said, and no reason.
    """

    def __init__(self, path: str | Path, say: Callable[[str], object]) -> None:
        self.path = Path(path)
        self.say = say
        self.lock = -1
        try:
            self._take()
        except OSError as exc:
            if exc.errno not in NO_ROOM:
                raise _unusable(self.path, exc.strerror or str(exc)) from None
            self.say(f"the state cannot be kept in {self.path}: {exc.strerror}; changes made over REST are refused meanwhile")

    def _take(self) -> None:
        """Make the folder, if it is not there, and lock it. Raises OSError, and ConfigError: another carrier has it."""
        self.close()
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = self.path / "lock"
        flags = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        try:
            lock = os.open(name, os.O_RDWR | os.O_CREAT | flags, 0o600)
        except OSError as exc:
            if exc.errno not in NO_ROOM:
                raise
            lock = os.open(name, os.O_RDONLY | flags)  # one that is there can be locked all the same
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise _unusable(self.path, "another carrier keeps its state there") from None
        self.lock = lock

    def stands(self) -> bool:
        """Is the folder still the one that we have locked?"""
        try:
            found = os.stat(self.path / "lock", follow_symlinks=False)
        except OSError:
            return False
        return self.lock >= 0 and os.path.samestat(found, os.fstat(self.lock))

    def close(self) -> None:
        """Let another process use the folder."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    def newest(self) -> Saved | None:
        """The newest revision that is whole. Damaged ones are set aside, and said."""
        for number, path in sorted(self._files(), reverse=True):
            try:
                saved = decode(_read(path))
                if saved.revision != number:
                    raise ValueError(f"it holds revision {saved.revision}")
                return saved
            except (OSError, ValueError) as exc:
                self.say(f"{path}: damaged ({exc}): set aside, the revision before it serves")
                self._set_aside(path)
        return None

    def save(self, saved: Saved) -> None:
        """Put a revision on disk; it is there when this returns. Raises Error("internal"): nothing has changed then."""
        target = self.path / f"revision-{saved.revision}.json"
        temporary = self.path / "revision.new"
        try:
            if not self.stands():
                self._take()
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()  # whatever it is: a fifo would be waited for
            try:
                _write(temporary, encode(saved))
                os.rename(temporary, target)
                self._sync()
            except OSError:
                with contextlib.suppress(OSError):
                    temporary.unlink()  # where there is no room, what is half there takes some
                raise
        except OSError as exc:
            raise Error("internal", f"the change cannot be kept in {self.path}: {exc.strerror or exc}") from None
        except ConfigError as error:
            raise Error("internal", error.detail) from None
        self._forget(saved.revision)

    def _forget(self, newest: int) -> None:
        """Remove revisions that nothing would fall back to, those of an abandoned future among them. What cannot be removed stays."""
        older = sorted((number, path) for number, path in self._files() if number < newest)
        gone = [path for _, path in older[: -(KEPT - 1)]] + [path for number, path in self._files() if number > newest]
        for path in gone:
            try:
                path.unlink()
            except OSError as exc:
                self.say(f"{path}: cannot be removed: {exc.strerror}")

    def _files(self) -> list[tuple[int, Path]]:
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:  # there is no room to make it
            return []
        except OSError as exc:
            raise _unusable(self.path, exc.strerror or str(exc)) from None
        return [(int(found[1]), self.path / name) for name in names if (found := _NAME.fullmatch(name))]

    def _set_aside(self, path: Path) -> None:
        try:
            path.rename(path.with_name(path.name + ".damaged"))
        except OSError as exc:
            self.say(f"{path}: cannot be renamed: {exc.strerror}")

    def _sync(self) -> None:
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _read(path: Path) -> bytes:
    """A file of ours. Raises OSError; ValueError: it is none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        if found.st_size > LARGEST:
            raise ValueError(f"it has {found.st_size} bytes, more than {LARGEST}")
        return file.read(LARGEST)


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(path: Path, reason: str) -> ConfigError:
    return ConfigError(Problem(f"cannot keep the state in {path}: {reason}"))


def encode(saved: Saved) -> bytes:
    """A revision as it stands in its file: the checksum in the first line."""
    body = msgspec.json.encode(saved)
    return b"sha256 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decode(data: bytes) -> Saved:
    """A file's revision. Raises ValueError when it is not what was written."""
    first, _, body = data.partition(b"\n")
    if first != b"sha256 " + hashlib.sha256(body).hexdigest().encode():
        raise ValueError("its checksum is wrong")
    try:
        saved = msgspec.json.decode(body, type=Saved)
    except msgspec.MsgspecError as exc:
        raise ValueError(str(exc)) from None
    if saved.format != FORMAT:
        raise ValueError(f"format {saved.format}, expected {FORMAT}")
    return saved


def fingerprint(data: bytes | str) -> str:
    """What a configuration file is known by."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def touched(base: Config, config: Config) -> tuple[str, ...]:
    """The objects, as `section/name`, in which a configuration differs from its base; user bridges and what they stand on apart."""
    bridges = [*base.bridges.values(), *config.bridges.values()]
    bridged = {"rules": {rule for bridge in bridges for rule in bridge.rules}}
    bridged["clusters"] = bridged["routes"] = {bridge.cluster for bridge in bridges}
    found = []
    for section in _SECTIONS:
        before: dict[str, Any] = getattr(base, section)
        after: dict[str, Any] = getattr(config, section)
        apart = bridged.get(section, set())
        names = [name for name in {**before, **after} if name not in apart]
        found += [f"{section}/{name}" for name in names if _differ(before.get(name), after.get(name), bridged["rules"])]
    return tuple(found)


def _differ(before: Any, after: Any, bridged: set[str]) -> bool:
    if isinstance(before, RuleList) and isinstance(after, RuleList):
        before, after = (
            msgspec.structs.replace(one, rules=tuple(rule for rule in one.rules if rule not in bridged)) for one in (before, after)
        )
    return bool(before != after)


def resumed(saved: Saved | None, base: Config, mark: str, bridges: Bridges) -> tuple[Config, list[str]]:
    """What to start with: the state if it began from this base (a file whose fingerprint is `mark`), else the base; and what to say.

    Settings of the process are always the base's. Leases that are over by `bridges.clock()` are not revived.
    """
    if saved is None:
        return base, []
    if saved.base == mark:
        config = msgspec.structs.replace(saved.config, admin=base.admin)
        return bridges.expire(config, bridges.clock()), []
    said = []
    if saved.touched:
        said = [f"the configuration file has changed: changes made over REST are dropped: {' '.join(saved.touched)}"]
    config, lost = whole(carried(bridges, bridges.expire(saved.config, bridges.clock()), base))
    return msgspec.structs.replace(config, revision=saved.revision + 1), said + lost
