"""What a proxy in a pod keeps for its next start: its whole configuration, in the pod's shared memory.

A container that restarts begins with an empty file system, and the operator looks once a minute. `/dev/shm` belongs to the pod, not to
the container: it is there after a restart of the container, is writable for every user and on a read-only root, and goes with the pod.
One file for each container, known by the name that its kubelet gave it; only its own user reads it, because it holds keys of
certificates. Where there is no such folder the file is beside the daemon's other files, and is there after a crash of the daemon alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Any

import msgspec

from carrier.model import Config

FORMAT = 1
SHARED = "/dev/shm"
_CONTAINER = re.compile(r"/pods/[^/ ]+/containers/([^/ ]+)/")


class Kept(msgspec.Struct, frozen=True):
    """mark: what the operator's file said when this was in force; document: the base of it, in Gefyra's format, and whether a provider
    gave it (`mounted`); files: the certificates that a provider gave, by their names in the daemon's folder."""

    config: Config
    mark: str = ""
    document: Any = None
    mounted: bool = False
    files: dict[str, str] = {}
    format: int = FORMAT


class Keep:
    """The file. folder: of the daemon's other files."""

    def __init__(self, folder: Path, path: str | None = None) -> None:
        shared = path or os.environ.get("CARRIER_KEEP_DIR") or (None if os.environ.get("CARRIER_RUN_DIR") else SHARED)
        where = Path(shared) if shared and os.path.isdir(shared) and os.access(shared, os.W_OK) else folder
        self.path = where / f"carrier2-{own_name()}.kept"

    def load(self) -> Kept | None:
        """What was kept; None: nothing that is whole and ours."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                found = os.fstat(descriptor)
                if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode):
                    return None
                first, _, body = file.read().partition(b"\n")
        except OSError:
            return None
        if first != hashlib.sha256(body).hexdigest().encode():
            return None
        try:
            kept = msgspec.json.decode(body, type=Kept)
        except msgspec.MsgspecError:
            return None
        return kept if kept.format == FORMAT else None

    def save(self, kept: Kept) -> None:
        """Raises OSError."""
        body = msgspec.json.encode(kept)
        write(self.path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """A file that is whole whenever somebody reads it, and our own: it is made under a name that nobody knows, where nobody has put one.
    Raises OSError."""
    new = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def own_name(mounts: str = "/proc/self/mountinfo") -> str:
    """What this container is called in its pod: its kubelet mounts a file of that name into it. Elsewhere there is one."""
    try:
        found = _CONTAINER.search(Path(mounts).read_text("utf-8", "replace"))
    except OSError:
        found = None
    return found[1] if found else "own"
