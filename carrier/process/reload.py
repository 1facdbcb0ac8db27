"""The configuration file while the proxy runs: read again on SIGHUP, or when it changes (`--watch`); and what was changed since, on disk.

A reload is all or nothing: a file that is not good is reported with every reason, and what runs goes on. A file that says what it said
before changes nothing, so that changes made over REST stay; one that says something else is in force as it stands, with the user bridges
as far as they fit, and the log says which changes it has dropped.

The file is looked at once a second, through symbolic links: Kubernetes swaps the link of a whole folder, which a watch on the file
itself would never see. A change counts when it has stood still for one look, because editors and copies write in pieces.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from carrier.bridges.many import carried
from carrier.config import source
from carrier.config.bounds import FILE_OBJECTS
from carrier.core.slices import sliced
from carrier.errors import ConfigError, Error
from carrier.model import Config
from carrier.process.state import Folder, Saved, fingerprint, resumed, touched

if TYPE_CHECKING:
    from carrier.bridges.edits import Bridges
    from carrier.log import Log
    from carrier.proxy.proxy import Proxy

LOOK = 1.0
"""Seconds between two looks at the file."""
MIND = 5.0
"""Seconds between two looks at the state folder: is it ours, and is what is in force on disk?"""
Stamp = tuple[int, int, int] | None


class Base:
    """The file that the process was started with, and its state folder, if it has one.

    config, mark: what the file said when it was read last, and its fingerprint. adjust: what the command line has to add to it.
    """

    def __init__(
        self,
        proxy: Proxy,
        bridges: Bridges,
        log: Log,
        config: Config,
        text: str = "",
        path: str | None = None,
        allow_dangling: bool = False,
        adjust: Callable[[Config], Config] = lambda config: config,
    ) -> None:
        self.proxy = proxy
        self.bridges = bridges
        self.log = log
        self.config = config
        self.mark = fingerprint(text)
        self.path = path
        self.allow_dangling = allow_dangling
        self.objects: int | None = None
        self.adjust = adjust
        self.prepare: Callable[[Config], Callable[[], None]] = lambda config: lambda: None
        """Makes ready what a file says of the process, and returns what puts it in force. Raises ConfigError."""
        self.folder: Folder | None = None
        self.kept: Saved | None = None
        self.saving = asyncio.Lock()
        """One writer to the folder at a time."""
        self.writes = {"written": 0, "failed": 0}
        self.minder: asyncio.TimerHandle | None = None
        self.minding: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[bool] | None = None
        self.again = ""
        """Why the file is to be read once more when that is done; any number of askers are one."""
        self.stamp: Stamp = None
        self.changed: Stamp = None
        """How the file looked at the last look, if it is not as it was read."""
        self.reloads = self.failures = 0

    # ------------------------------------------------------------------ state

    def keep_in(self, folder: Folder) -> Config:
        """Keep every change in `folder` from now on; returns what to start with. Raises ConfigError."""
        self.folder = folder
        self.kept = folder.newest()
        config, said = resumed(self.kept, self.config, self.mark, self.bridges)
        for text in said:
            self.log.warn(text)
        if self.kept is not None:
            # The next revision that the proxy makes is the one that it had.
            self.proxy.config = Config(revision=config.revision - 1)
            changes, bridges = len(touched(self.config, config)), len(config.bridges)
            self.log.notice("state", folder=str(folder.path), revision=config.revision, bridges=bridges or None, changes=changes or None)
        self.proxy.persist = self._keep
        self._mind_later()
        return config

    async def _keep(self, config: Config) -> None:
        """Put a configuration on disk; called before it is in force. Raises Error("internal")."""
        try:
            await self._save(config)
        except Error as error:
            self.log.error(error.detail, revision=config.revision)  # the caller hears it too, but is not who can mend it
            raise

    async def _save(self, config: Config) -> None:
        async with self.saving:
            folder, loop = self.folder, asyncio.get_running_loop()
            assert folder is not None
            saved = Saved(config, self.mark, touched(self.config, config))
            if saved != self.kept or not await loop.run_in_executor(None, folder.stands):
                try:
                    await loop.run_in_executor(None, folder.save, saved)
                except Error:
                    self.writes["failed"] += 1
                    raise
                self.writes["written"] += 1
                self.kept = saved
            self.proxy.unsaved = ""

    def _mind_later(self) -> None:
        self.minder = asyncio.get_running_loop().call_later(MIND, self._mind)

    def _mind(self) -> None:
        self.minding = asyncio.get_running_loop().create_task(self._mind_the_folder())
        self._mind_later()

    async def _mind_the_folder(self) -> None:
        """Save what is in force if it could not be saved before, or if the folder has been moved away under us."""
        assert self.folder is not None
        before = self.proxy.unsaved
        if await asyncio.get_running_loop().run_in_executor(None, self.folder.stands) and not before:
            return
        async with self.proxy.lock:
            try:
                await self._save(self.proxy.config)
            except Error as error:
                self.proxy.unsaved = error.detail
                if error.detail != before:
                    self.log.error(error.detail, revision=self.proxy.config.revision)
            else:
                self.log.notice("the state is on disk again", folder=str(self.folder.path), revision=self.proxy.config.revision)

    # ------------------------------------------------------------------ reload

    def reload(self, why: str) -> None:
        """Read the file again, in a task: after the reading that is under way, which may have seen the file as it was before."""
        if self.task is not None and not self.task.done():
            self.again = why
            return
        self.task = asyncio.get_running_loop().create_task(self.read_again(why))
        self.task.add_done_callback(self._once_more)

    def _once_more(self, task: asyncio.Task[bool]) -> None:
        why, self.again = self.again, ""
        if why and not task.cancelled():
            self.reload(why)

    async def read_again(self, why: str) -> bool:
        """Put the file in force. False: it is not good, and nothing has changed."""
        if self.path is None:
            self.log.warn("there is no file to read again", why=why)
            return False
        stamp = stamp_of(self.path)
        try:
            load = asyncio.get_running_loop().run_in_executor(None, self._load, self.path)
            loaded = await load
            async with self.proxy.lock:
                await self._put_in_force(loaded, why)
        except Error as error:
            self.failures += 1
            self._report(error, why)
            return False
        finally:
            self.stamp = stamp
        return True

    def _load(self, path: str) -> source.Loaded:
        objects = FILE_OBJECTS if self.objects is None else self.objects
        return source.load(path, allow_dangling=self.allow_dangling, objects=objects)

    async def _put_in_force(self, loaded: source.Loaded, why: str) -> None:
        if self.proxy.ending:
            raise Error("drain", "the proxy is ending: nothing is changed any more")
        mark, before = fingerprint(loaded.text), (self.config, self.mark)
        if mark == self.mark:
            self.log.notice("the configuration file says what it said", why=why, file=self.path)
            return
        old = self.proxy.config
        dropped = touched(self.config, old)
        base = self.adjust(loaded.config)
        config, lost = await sliced(carried(self.bridges, old, base))
        put_in_force = self.prepare(base)
        self.config, self.mark = base, mark
        try:
            warnings = await self.proxy.apply(config, unsaved=True)
        except BaseException:
            self.config, self.mark = before
            raise
        put_in_force()
        self.reloads += 1
        if self.log.level != config.admin.log_level:
            self.log.set_level(config.admin.log_level)
        self.log.notice("reloaded", why=why, file=self.path, revision=self.proxy.config.revision)
        if dropped:
            self.log.warn("the configuration file has changed: changes made over REST are dropped", objects=" ".join(dropped))
        for text in (*map(str, loaded.warnings), *lost, *warnings):
            self.log.warn(text)

    def _report(self, error: Error, why: str) -> None:
        self.log.error("the configuration file is refused; nothing has changed", why=why, file=self.path)
        if not isinstance(error, ConfigError):
            self.log.error(error.detail)
            return
        for problem in error.problems:
            self.log.error(str(problem), line=problem.line or None, column=problem.column or None)

    # ------------------------------------------------------------------ watch

    def watch(self) -> None:
        """Look at the file once a second from now on."""
        if self.path is not None:
            self.stamp = self.stamp or stamp_of(self.path)
            self.timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _look(self) -> None:
        assert self.path is not None
        self.timer = asyncio.get_running_loop().call_later(LOOK, self._look)
        stamp = stamp_of(self.path)
        if stamp is None or stamp == self.stamp:  # gone for a moment, or as it was
            self.changed = None
        elif stamp == self.changed:
            self.changed = None
            self.reload("it has changed")
        else:
            self.changed = stamp

    def stop(self) -> None:
        """Look no more, keep no more."""
        for pending in (self.timer, self.minder, self.task, self.minding):
            if pending is not None:
                pending.cancel()
        self.timer = self.minder = None
        if self.folder is not None:
            self.folder.close()


def stamp_of(path: str) -> Stamp:
    """What changes when a file does, behind symbolic links; None: it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def with_admin(config: Config, log_level: str | None, strict: bool) -> Config:
    """The configuration with what the command line says of the process."""
    admin = config.admin
    admin = msgspec.structs.replace(admin, log_level=log_level or admin.log_level, strict=strict or admin.strict)
    return msgspec.structs.replace(config, admin=admin)
