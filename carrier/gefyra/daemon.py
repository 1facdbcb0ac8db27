"""The daemon behind `carrier2`: the proxy, led by a file and a signal, as Gefyra's operator leads its own component.

It begins with what it kept of its last life in this pod (carrier/gefyra/kept.py), else with the file it is given, or idle until that file
is there. SIGQUIT means "read the file again": what is new is put in force in place, so sockets, sessions and unchanged listeners live on,
and what is not good changes nothing. The `carrier2` script leaves a line in carrier2.ask (a word that nobody used before, the log level,
the file); the answer goes to carrier2.ack, under the same word, with every reason when it is no. All these files are in one folder
(`CARRIER_RUN_DIR`, else /tmp), where anybody's UID may write.

The operator's own file is written anew after a change that would not fit into what the operator reads back of it, and after each change
that was made over REST (carrier/gefyra/compact.py): so the operator finds every bridge, whichever way it leads us next.

The log goes to the file that the configuration names (`error_log`), and in the foreground to stderr as well; it is cut at LOG_LIMIT
bytes. Lines that upstream's users look for keep their words: "Server starting", "Bootstrap starting", "Idle mode", the probe ports, the
request id.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from carrier import files
from carrier.bridges.many import carried
from carrier.config.source import MAX_FILE, Loaded, decode, loads, render
from carrier.core.slices import sliced
from carrier.errors import ConfigError, Error, Problem
from carrier.gefyra.compact import written
from carrier.gefyra.format import BridgesOfFile, is_everybodys, probe_ports
from carrier.gefyra.kept import Keep, Kept, write
from carrier.gefyra.mounted import Mounted, is_providers
from carrier.gefyra.tally import Tally
from carrier.hops.certificates import renewed
from carrier.log import LEVELS, Log
from carrier.model import Config
from carrier.observe.endings import Endings, Said
from carrier.process import serve
from carrier.process.serve import Server, Settings
from carrier.process.state import fingerprint
from carrier.redact import refused
from carrier.writer import to_descriptor

if TYPE_CHECKING:
    from carrier.core.session import Session
    from carrier.hops.certificates import ServerTls

LOOK = 0.5
"""Seconds between two looks for a configuration file that is not there yet."""
ACCEPTING = 2.0
"""Seconds that a pod that is to end goes on accepting: kube-proxies send it new connections for one second more. `CARRIER_ACCEPTING`."""
DRAIN = 25.0
"""Seconds that what is in flight has when a pod is to end, those among them: pods are killed after 30."""
ASKED = 64 * 1024
"""Bytes of a question."""
LOG_LIMIT = 8 * 1024 * 1024
"""Bytes of the log file, after which it begins anew: it is in a pod's memory, or on its node's disk."""
REQUEST_IDS = (b"opc-request-id", b"x-amzn-trace-id", b"x-cloud-trace-context", b"request-id", b"x-ms-request-id")
"""Fields that name a request, in the order in which upstream looks for them."""
ID_LIMIT = 200


class Paths:
    """The files between the daemon and its callers. folder: where they are."""

    def __init__(self, folder: str | None = None) -> None:
        self.folder = Path(folder or os.environ.get("CARRIER_RUN_DIR") or "/tmp")
        self.pid = self.folder / "carrier2.pid"
        self.ask = self.folder / "carrier2.ask"
        self.ack = self.folder / "carrier2.ack"
        self.log = self.folder / "carrier.log"
        self.socket = self.folder / "carrier2-api.sock"

    def asked(self) -> tuple[str, str, str] | None:
        """(word, log level, file) of the last question; None: there is none, or it is just being written."""
        try:
            if self.ask.is_symlink():
                return None
            text = files.read_now(str(self.ask), ASKED, ours=True)[0].decode("utf-8", "replace")
        except (OSError, files.Unreadable):
            return None
        parts = text[:-1].split(" ", 2) if text.endswith("\n") else []
        return (parts[0], parts[1], parts[2]) if len(parts) == 3 else None

    def answer(self, word: str, reasons: str = "") -> None:
        """Say yes, or no with reasons. The file is whole whenever somebody reads it."""
        write(self.ack, f"{word} {'refused' if reasons else 'ok'}\n{reasons}".encode("utf-8", "backslashreplace"))


class LogFile:
    """Where the daemon's lines go. echo: to stderr too. A file that cannot be written costs its lines, not the daemon."""

    def __init__(self, echo: bool) -> None:
        self.echo = to_descriptor(sys.stderr.fileno()) if echo else None
        self.path: str | None = None
        self.descriptor = -1
        self.size = 0

    def open(self, path: str) -> None:
        """Write to this file from now on."""
        if path == self.path:
            return
        try:
            links = os.O_NOFOLLOW if files.is_shared(path) else 0  # whoever may write there could have us write somewhere else
            new = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | links, 0o666)
        except (OSError, ValueError):
            self.close()
            if self.echo is None:
                self.echo = to_descriptor(sys.stderr.fileno())
            return
        if self.descriptor < 0:
            self.descriptor = new
        else:  # a thread may be writing: the number stays what it is
            os.dup2(new, self.descriptor, inheritable=False)
            os.close(new)
        self.path = path
        self.size = os.fstat(self.descriptor).st_size

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor, self.path = -1, None

    def __call__(self, text: str) -> None:
        if self.echo is not None:
            self.echo(text)
        if self.descriptor < 0:
            return
        data = text.encode("utf-8", "backslashreplace")
        try:
            if self.size > LOG_LIMIT:
                os.ftruncate(self.descriptor, 0)
                self.size = 0
            self.size += os.write(self.descriptor, data)
        except OSError:
            pass  # the disk is full: there is no other place to say so


class Daemon:
    """The proxy and its file. data: what the file held when it was last put in force; None: nothing is."""

    def __init__(self, paths: Paths, file: str, log: Log, log_file: LogFile) -> None:
        self.paths = paths
        self.file = file
        self.log = log
        self.log_file = log_file
        self.data: bytes | None = None
        self.document: Any = None
        self.mounted = False
        self.files: dict[str, str] = {}
        """What is in force, in Gefyra's words, without bridges made over REST; whether a provider gave it, and with which files."""
        self.wrote: bytes | None = None
        self.replaced = -1
        self.replaced_at = 0
        """The operator's file as it was before ours took its place, and when it was written: somebody may be writing to it still."""
        self.keeping = Keep(paths.folder)
        self.server: Server
        self.tally: Tally
        self.task: asyncio.Task[None] | None = None
        self.again = False
        self.seen: tuple[int, int] | None = None
        self.tried: tuple[int, int] | None = None
        """How the file looked at the last look, and when it was last found not to be good."""

    @property
    def folder(self) -> Path:
        """Where the daemon's files are."""
        return self.paths.folder

    # ------------------------------------------------------------------ begin

    def started(self, server: Server) -> None:
        """The proxy runs, with nothing in it: read the file, or wait for it."""
        self.server = server
        server.tell(Endings(self.log, "info", _ended, same=True))
        self.tally = Tally(server.proxy)
        server.env.read(self.tally.read)
        server.proxy.persist = self.keep
        server.env.bridges_of_file, server.env.file = BridgesOfFile(), self.file or None
        Mounted(self).serve()
        server.env.loop.add_signal_handler(signal.SIGQUIT, self.reload)
        self.log.info("Server starting", process=os.getpid())
        if not self.file or not os.path.exists(self.file):
            self.log.info("Idle mode", file=self.file or None)
        kept = self.keeping.load()
        if kept is not None and kept.mark == self._mark():
            self.task = server.env.loop.create_task(self._restore(kept))
            self.task.add_done_callback(self._reloaded)
        else:
            self.reload()
        if self.file:
            server.env.loop.call_later(LOOK, self._look)

    def _mark(self) -> str:
        """What the operator's file is known by; none is as good as what we wrote last: the container began anew."""
        try:
            return fingerprint(files.read_now(self.file, MAX_FILE, ours=True)[0])
        except files.Unreadable:
            kept = self.keeping.load()
            return kept.mark if kept is not None else ""

    async def _restore(self, kept: Kept) -> None:
        """Go on where the last life in this pod ended."""
        bridges, proxy = self.server.bridges, self.server.proxy
        before = self.document, self.mounted, self.files
        try:
            self.data = files.read_now(self.file, MAX_FILE, ours=True)[0]
        except files.Unreadable:
            pass  # the container began anew, and without it
        try:
            self.give_files(kept.files)
            self.document, self.mounted, self.files = kept.document, kept.mounted, kept.files
            async with proxy.lock:
                await proxy.apply(bridges.expire(kept.config, bridges.clock()))
        except Error as error:
            self.document, self.mounted, self.files = before
            self.data = None
            self.log.error("what was kept cannot be put in force", reason=error.detail)
            await self._reload()
            return
        for bridge in proxy.config.bridges.values():
            self.tally.made(bridge)
        self.log.notice("restored", bridges=len(proxy.config.bridges), mounted=self.mounted)
        self._announce(self.document)

    def _look(self) -> None:
        """Is the file there by now, and does it stand still? Once it is in force, signals tell when it changes."""
        if self.data is not None:
            return
        try:
            found = os.stat(self.file)
            stamp = found.st_mtime_ns, found.st_size
        except OSError:
            stamp = None
        if stamp is not None and stamp == self.seen and stamp != self.tried:
            self.tried = stamp
            self.reload()
        self.seen = stamp
        self.server.env.loop.call_later(LOOK, self._look)

    # ------------------------------------------------------------------ reload

    def reload(self) -> None:
        """Read the file again, after the reading that is under way."""
        if self.task is not None:
            self.again = True
            return
        self.task = self.server.env.loop.create_task(self._reload())
        self.task.add_done_callback(self._reloaded)

    def _reloaded(self, task: asyncio.Task[None]) -> None:
        self.task = None
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.log.error("reading the configuration failed", exception=repr(exc))
        if self.again:
            self.again = False
            self.reload()

    async def _reload(self) -> None:
        asked = self.paths.asked()
        if asked is not None:
            word, level, file = asked
            self.file = file or self.file
            if level in LEVELS and level != self.log.level:
                self.log.set_level(level)
        reasons = await self._read(asked is not None) if self.file and (asked is not None or os.path.exists(self.file)) else ""
        if asked is not None:
            try:
                self.paths.answer(word, reasons)
            except OSError as exc:
                self.log.error("cannot answer", file=str(self.paths.ack), reason=exc.strerror)

    async def _read(self, asked: bool) -> str:
        """Put the file in force; every reason why not, one a line, or "".

        Who asks finds the lines of the start in the log also when a signal was quicker: the operator's shell has emptied it meanwhile.
        """
        data = b""
        try:
            data = self._late() or b""
            if not data:
                read = partial(files.read_now, self.file, MAX_FILE, ours=True)
                data, _ = await asyncio.get_running_loop().run_in_executor(None, read)
            if data != self.data:
                await self._put_in_force(loads(data), data)
            elif asked:
                self._announce(self.document)
            await self.refresh()  # certificates may have changed all the same
        except files.Unreadable as exc:
            return self._refused(f"cannot read {self.file}: {exc}\n")
        except ConfigError as error:
            return self._refused(render(error.problems, data.decode("utf-8", "replace"), self.file) + "\n")
        except Error as error:
            return self._refused(error.detail + "\n")
        return ""

    async def refresh(self) -> None:
        """Read the files of certificates again that have changed; a bad one leaves what was there, and says so."""
        listeners = self.server.proxy.listeners.values()
        found: list[tuple[ServerTls | None, str]] = [(one.certificates, f"listener/{one.name}") for one in listeners]
        asked = [(tls, owner) for tls, owner in found if tls is not None]
        for tls, _ in asked:
            tls.told = ""  # who asks hears of trouble, also if it was said a moment ago into a log that his shell has emptied since
        await renewed(self.server.env, asked)

    def _refused(self, reasons: str) -> str:
        self.log.error("the configuration is refused; the one before stays in force", file=self.file)
        for line in reasons.splitlines():
            self.log.error(line)
        return reasons

    async def _put_in_force(self, loaded: Loaded, data: bytes) -> None:
        """Raises ConfigError or Error; then nothing has changed. The file says which bridges there are: a provider's that it lacks go."""
        proxy, bridges = self.server.proxy, self.server.bridges
        before = self.document, self.mounted, self.files, self.data
        document = decode(loaded.text, None, len(loaded.text)).value
        self.document = document if isinstance(document, Mapping) and ("proxy" in document or "probes" in document) else None
        self.mounted, self.files, self.data = False, {}, data
        try:
            async with proxy.lock:
                old = proxy.config
                for name in [name for name in old.bridges if self.document is not None and is_providers(name)]:
                    old = bridges.delete(old, name)
                config, lost = await sliced(carried(bridges, old, loaded.config))
                warnings = await proxy.apply(config)
        except BaseException:
            self.document, self.mounted, self.files, self.data = before
            raise
        self.log_file.open(loaded.config.admin.log_file or str(self.paths.log))
        self._announce(self.document)
        for text in (*map(str, loaded.warnings), *lost, *warnings):
            self.log.warn(text)

    def _announce(self, document: Any) -> None:
        """The lines that upstream's component writes when it starts."""
        for kind, scheme in (("httpGet", "HTTP"), ("httpsGet", "HTTPS")):
            ports = probe_ports(document).get(kind)
            if ports:
                numbers = ", ".join(f"Number({port})" for port in ports)
                self.log.info(f"Configured {kind} (scheme {scheme}) probe ports: [{numbers}]")
        config = self.server.proxy.config
        if any("tls" in listener.spec and listener.spec["protocol"] == "auto" for listener in config.listeners.values()):
            self.log.info("Running with tls config")
        self.log.info("Bootstrap starting", revision=config.revision, listeners=len(config.listeners), rules=len(config.rules))

    # ------------------------------------------------------------------ what is kept

    def mount(self, document: Any, files: dict[str, str]) -> None:
        """A provider leads from now on."""
        self.document, self.mounted, self.files = document, True, files

    def give_files(self, given: Mapping[str, str]) -> None:
        """Put certificates where the configuration looks for them. Raises Error("internal")."""
        for name, text in given.items():
            path, data = self.paths.folder / name, text.encode()
            try:
                there = files.read_now(str(path), ours=True)[0]
            except files.Unreadable:
                there = None
            try:
                if there != data:
                    write(path, data)
            except OSError as exc:
                raise Error("internal", f"cannot write {path}: {exc.strerror}") from None

    async def keep(self, config: Config) -> None:
        """Write down what is about to be in force; what cannot be written costs a later start, not this change."""
        bridges = [{"name": bridge.name, **bridge.spec} for bridge in config.bridges.values()]
        try:
            if self.document is not None and self.file == str(self.paths.folder / "config.yaml"):
                self._rewrite(written(self.document, bridges, None if self.mounted else self.data))
            self.keeping.save(Kept(config, fingerprint(self.data or b""), self.document, self.mounted, self.files))
        except OSError as exc:
            self.log.warn("what is in force cannot be kept for a later start", file=exc.filename, reason=exc.strerror)

    def _rewrite(self, data: bytes) -> None:
        """The operator's file. Raises OSError."""
        if data == self.data and self.replaced < 0:
            return
        if self.replaced >= 0:
            os.close(self.replaced)
        try:
            self.replaced = os.open(self.file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            self.replaced = -1
        else:
            self.replaced_at = os.fstat(self.replaced).st_mtime_ns
            found = os.pread(self.replaced, MAX_FILE, 0)
            if found == data == self.data or (self.data is not None and found not in (self.data, self.wrote) and not self.mounted):
                return  # the latter: it was changed since, and whoever did will ask us to read it
        write(Path(self.file), data, 0o666)
        self.data = self.wrote = data

    def _late(self) -> bytes | None:
        """What somebody wrote to the operator's file who had it open when ours took its place."""
        if self.replaced < 0 or (stamp := os.fstat(self.replaced)).st_mtime_ns == self.replaced_at:
            return None
        self.replaced_at = stamp.st_mtime_ns
        return os.pread(self.replaced, stamp.st_size, 0)


def _ended(session: Session) -> Said | None:
    """What the log says of a request that a bridge took, or that names itself."""
    if session.request is None:
        return None
    name = request_id(session.request.fields)
    rule = session.decision.rule if session.decision is not None else ""
    bridged = bool(rule) and not is_everybodys(rule)
    if not name and not bridged:
        return None
    what = f"Selected GefyraClient {rule}" if bridged else "Selected cluster upstream"
    cluster = session.cluster.name if session.cluster is not None else ""
    status = refused(session.error.kind, session.error.detail) if session.error is not None else None
    return f"({name}) {what}" if name else what, {"cluster": cluster, "fallback": session.fallback, "error": status}


def request_id(fields: Any) -> str:
    """`name:value` of the field that names a request, or ""."""
    found = {name: value for name, value in fields if name.lower() in REQUEST_IDS}
    for name in REQUEST_IDS:
        for given, value in found.items():
            if given.lower() == name:
                return f"{name.decode()}:{value[:ID_LIMIT].decode('latin-1')}"
    return ""


def main(arguments: Sequence[str]) -> int:
    """Run until a signal ends it; returns the exit status."""
    began = time.monotonic()
    background = "--background" in arguments
    if background:
        os.closerange(3, 1024)  # shells keep copies of what they redirect; whoever typed the command waits for their end
    files = [argument for argument in arguments if not argument.startswith("-")]  # -c FILE is taken as well, as the script has it
    os.umask(0o077)
    paths = Paths()
    log_file = LogFile(echo=not background)
    log_file.open(str(paths.log))
    level = os.environ.get("RUST_LOG", "info")
    log = Log(level if level in LEVELS else "info", log_file)
    _name_process()
    try:
        write(paths.pid, f"{os.getpid()}\n".encode())
    except OSError as exc:
        log.warn("cannot write the pid file: nobody can ask for a reload", file=str(paths.pid), reason=exc.strerror)
    if background and os.getpgid(0) != os.getpid():
        os.setsid()  # the shell that the operator typed into ends, and takes its group along
    daemon = Daemon(paths, files[0] if files else "", log, log_file)
    try:
        settings = settings_from(os.environ, str(paths.socket))
    except ConfigError as error:
        log.error(error.detail)
        return 2
    try:
        return serve.run(Config(), log, settings, began, daemon.started)
    except Error as error:
        if "cannot" not in error.detail and error.kind != "bind":
            log.error(error.detail)
            return 1
        log.warn("no REST API on a unix socket", reason=error.detail)
        return serve.run(Config(), log, msgspec.structs.replace(settings, socket=None), began, daemon.started)


def settings_from(environment: Mapping[str, str], socket: str | None) -> Settings:
    """The process's settings. CARRIER_ADMIN: HOST:PORT, where the REST API listens beside its unix socket; CARRIER_TOKENS: its file;
    CARRIER_ACCEPTING: seconds, see ACCEPTING.

    Raises ConfigError: one of them is none.
    """
    admin = None
    if environment.get("CARRIER_ADMIN"):
        host, _, port = environment["CARRIER_ADMIN"].rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise ConfigError(Problem(f"CARRIER_ADMIN: expected HOST:PORT, got {environment['CARRIER_ADMIN']!r}"))
        admin = host.strip("[]"), int(port)
    accepting = environment.get("CARRIER_ACCEPTING") or f"{ACCEPTING:g}"
    if not accepting.replace(".", "", 1).isdigit() or float(accepting) > DRAIN:
        raise ConfigError(Problem(f"CARRIER_ACCEPTING: expected seconds, 0..{DRAIN:g}, got {accepting!r}"))
    return Settings(
        admin=admin,
        socket=socket,
        drain=DRAIN,
        delay=float(accepting),
        tokens=environment.get("CARRIER_TOKENS") or None,
        trust_loopback="none",
    )


def _name_process() -> None:
    """Be `carrier2` in the process list, which is how the script knows a daemon from whoever got its number later."""
    try:
        Path("/proc/self/comm").write_text("carrier2")
    except OSError:
        pass  # then the script takes it for Python, which is as good
