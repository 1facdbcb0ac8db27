"""The proxy as a process: its parts put together, its start, its orderly end.

`start` builds a `Server` from a configuration: event loop, proxy, REST API and its door, user bridges, state, the watch on what is too
much; it fails as a whole. `run` is what `carrier run` does: start, say what is listened on, and wait. SIGHUP reads the file again.
SIGTERM drains (carrier/proxy/life.py) and ends; SIGINT does so without the delay. A second signal ends at once.

What a next process could take over is in few places: listening sockets in `Listener.bound`, the rest in the frozen configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import uvloop

from carrier import redact
from carrier.admin import gate
from carrier.admin.api import Api
from carrier.admin.probes import Probes
from carrier.admin.trail import Trail
from carrier.admin.where import Door, UnixSocket, open_socket, own_listener
from carrier.bridges.edits import Bridges
from carrier.bridges.tokens import Tokens
from carrier.config import accesslog, traces
from carrier.core.env import Env
from carrier.core.fence import Fence
from carrier.core.trace import Tracer
from carrier.observe import access
from carrier.observe.endings import Endings, Said
from carrier.observe.live import Live
from carrier.observe.metrics import Metrics
from carrier.observe.overview import address_of, user_of
from carrier.observe.record import Recorder
from carrier.observe.spans import Spans
from carrier.observe.troubles import Troubles
from carrier.process.leases import Leases
from carrier.process.reload import Base
from carrier.process.state import Folder
from carrier.proxy.brake import Brake
from carrier.proxy.life import Life
from carrier.proxy.overload import Bounds, Watch, own_bounds
from carrier.proxy.proxy import Proxy

if TYPE_CHECKING:
    from carrier.core.session import Session
    from carrier.log import Log
    from carrier.model import Config
    from carrier.rules.match import Conditions

CUT = 5
"""Exit status of a process that ended with work cut."""


class Settings(msgspec.Struct, frozen=True):
    """What the command line says about the process.

    admin, health: where the REST API, and health and metrics, listen; None: nowhere. admin_asked: no start without it. socket: the unix
    socket, "" for the default path, None for none. tokens: a file; ca, certificate, key: files of TLS with client certificates; names:
    host names of the API; trust_loopback None: as the file says. drain, delay: seconds. file, text, allow_dangling, adjust: the
    configuration file, as it was read, for reloads; conditions: its matches. bounds None: those that fit the machine. metrics: count
    sessions for /metrics. access_log_of: what the command line and a file together say of it; without it, access_log or the file does.
    page: for browsers, unless the file says no.
    """

    admin: tuple[str, int] | None = ("127.0.0.1", 1234)
    admin_asked: bool = False
    insecure_admin: bool = False
    drain: float = 10.0
    delay: float = 0.0
    socket: str | None = None
    health: tuple[str, int] | None = None
    tokens: str | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    names: tuple[str, ...] = ()
    trust_loopback: str | None = None
    limits: gate.Limits = gate.Limits()
    bounds: Bounds | None = None
    state: str | None = None
    watch: bool = False
    file: str | None = None
    text: str = ""
    conditions: Conditions | None = None
    allow_dangling: bool = False
    objects: int | None = None
    """That the configuration file may hold (`--limit config.objects`); None: the default."""
    adjust: Callable[[Config], Config] | None = None
    access_log: accesslog.Settings | None = None
    access_log_of: Callable[[Config], accesslog.Settings | None] | None = None
    metrics: bool = True
    page: bool = True


class Server:
    """A running proxy and what belongs to it. `await start(...)` makes one, `close` ends it."""

    def __init__(self, config: Config, log: Log, settings: Settings) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: _unforeseen(log, context))
        self.log = log
        self.settings = settings
        raise_descriptors()
        self.env = Env(loop)
        self.env.warn = lambda event, /, **values: log.warn(event, **values)  # its level may change
        self.env.note = lambda event, /, **values: log.notice(event, **values)
        self.env.insecure_admin = settings.insecure_admin
        self.env.file = settings.file
        self.env.gate = open_gate(settings, log, config)
        self.proxy = Proxy(self.env, settings.admin, Door(self.env, settings.limits), settings.conditions)
        self.env.tokens = Tokens(lambda: self.proxy.config)
        self.bridges = Bridges(conditions=self.proxy.matchers.conditions)
        self.bridges.names = self.env.resolver.lookup.local
        self.life = Life(self.proxy, log, settings.delay, settings.drain)
        self.api = Api(self.proxy, bridges=self.bridges, life=self.life, limits=settings.limits, audit=_audit(log), log=log)
        self.env.api = self.api
        self.leases = Leases(self.proxy, self.bridges, log)
        self.base = Base(
            self.proxy, self.bridges, log, config, settings.text, settings.file, settings.allow_dangling, settings.adjust or _as_it_is
        )
        self.base.objects = settings.objects
        brake = Brake(self.proxy.streams)
        self.watch = Watch(settings.bounds or own_bounds(), self.proxy.connections, self.proxy.shed, log, self.proxy.make_room, brake)
        self.unix: UnixSocket | None = None
        self.metrics = Metrics(self.proxy, self.watch)
        if settings.state is not None:
            self.metrics.state_writes = self.base.writes
        self.api.metrics = self.metrics
        if settings.metrics:
            self.env.read(self.metrics.meter.read)
        self.live = Live(loop, lambda: self.proxy.listeners, lambda rule: user_of(self.proxy, rule))
        self.env.read(self.live.read).watchers.append(self.live.refused)
        self.trail = self.api.trail = Trail(self.proxy)
        log.tap = self._logged
        self.api.live = self.metrics.live = self.live
        self.api.recorder = self.metrics.recorder = Recorder(
            self.env, lambda rule: user_of(self.proxy, rule), lambda: self.proxy.config.revision
        )
        self.troubles = Troubles(loop, log, lambda: self.proxy.listeners)
        self.env.read(self.troubles.read)
        self.env.trouble = self.troubles.note
        self.endings: list[Endings] = []
        if log.shows("verbose"):
            self.tell(Endings(log, "verbose", _ended))

    async def start(self) -> None:
        """Health first, so that it can say "starting"; then the configuration; then the API's socket. Raises ConfigError or Error."""
        settings = self.settings
        if settings.health is not None:
            await self._open_health(*settings.health)
        config = self.base.config if settings.state is None else self.base.keep_in(Folder(settings.state, self.log.error))
        self._prepare(config)()
        self.base.prepare = self._prepare
        if settings.socket is not None:
            self.unix, warning = open_socket(self.env, settings.socket or None, settings.limits)
            if self.unix is not None:
                self.env.api_files[self.unix.path] = self.unix.identity
                self.proxy.others.append(self.unix.listener)
            else:
                self.log.warn(warning)
        async with self.proxy.lock:
            self.proxy.admin_asked = settings.admin_asked
            warnings = await self.proxy.apply(config, unsaved=True)
            self.proxy.admin_asked = False  # a later change does not fail because the address is somebody's by then
        if self.unix is not None:
            self.unix.listener.start()
        self.leases.start()
        self.watch.start()
        if settings.watch:
            self.base.watch()
        self.life.started = True
        self.trail.logged("notice", "started", {"file": settings.file})
        for warning in warnings:
            self.log.warn(warning)

    def _prepare(self, config: Config) -> Callable[[], None]:
        """Make ready what a configuration says of the process; returns what puts it in force. Raises ConfigError: nothing has changed."""
        settings, old = self.settings, self.metrics.access
        wanted = settings.access_log_of(config) if settings.access_log_of else settings.access_log or accesslog.settings_of(config)
        new = old
        if wanted != (old.settings if old is not None else None):
            proxy = self.proxy
            users, revision = partial(user_of, proxy), lambda: proxy.config.revision
            new = access.AccessLog(wanted, self.env.loop, users, revision, self.env.warn) if wanted is not None else None

        spans = self._spans_by(traces.settings_of(config))
        fence = Fence((config.admin.options.get("bridges") or {}).get("networks"))

        def put_in_force() -> None:
            self.env.gate.trust_loopback = trust_of(settings, config)
            self.env.gate.page = self.api.page = settings.page and config.admin.options.get("page", True) is not False
            self.env.fence = self.bridges.fence = fence
            self.env.hidden = redact.hidden(wanted.redact, wanted.query) if wanted is not None else redact.ALWAYS
            if new is not old:
                self._log_to(new, old)
            if spans is not self.metrics.spans:
                self._trace_to(spans)

        return put_in_force

    def _log_to(self, new: access.AccessLog | None, old: access.AccessLog | None) -> None:
        """Sessions that end from now on are the new log's."""
        self.metrics.settle()
        self.metrics.access = new
        if new is not None:
            self.env.read(new.write).watchers.append(new.turned_away)
        if old is not None and self.env.ledger is not None:
            self.env.ledger.readers.remove(old.write)
            self.env.ledger.watchers.remove(old.turned_away)
            if new is not None:
                new.carried = old.written, old.dropped
            old.leave()

    def _logged(self, level: str, event: str, values: Mapping[str, object]) -> None:
        """A line of the log, for those who watch and for the trail of changes."""
        self.live.logged(level, event, values)
        self.trail.logged(level, event, values)

    def _spans_by(self, wanted: traces.Settings | None) -> Spans | None:
        """Who sends spans by these settings; who does it already, if those are its own."""
        now = self.metrics.spans
        if wanted is None or (now is not None and now.settings == wanted):
            return now if wanted is not None else None
        return Spans(wanted, self.env.loop, partial(user_of, self.proxy), lambda: self.env.hidden, self.env.warn)

    def _trace_to(self, new: Spans | None) -> None:
        """Requests that begin from now on are traced by these settings; None: none is."""
        self.metrics.settle()
        old, self.metrics.spans = self.metrics.spans, new
        if old is not None and self.env.ledger is not None:
            self.env.ledger.readers.remove(old.read)
            old.leave()
        if new is not None:
            self.env.read(new.read)
        self.env.tracer = Tracer(new.settings.ratio) if new is not None else None

    def tell(self, endings: Endings) -> None:
        """Lines about sessions that end, until this does."""
        self.env.read(endings.read)
        self.endings.append(endings)

    def reopen_logs(self) -> None:
        """Go on in new files, after the old ones were moved away (SIGUSR1)."""
        self.log.reopen()
        if self.metrics.access is not None:
            self.metrics.settle()
            self.metrics.access.reopen()

    async def _open_health(self, host: str, port: int) -> None:
        """The address for health and metrics: an API of its own, in an environment of its own."""
        env = Env(self.env.loop)
        env.api = Probes(self.api)
        listener = own_listener(env, "(health)", host, port, self.settings.limits)
        await listener.bind()
        self.proxy.others.append(listener)
        listener.start()

    async def close(self, drain: float = 0.0) -> int:
        """End: see Proxy.close. drain: seconds for what is in flight. Returns how many sessions were cut."""
        self.leases.stop()
        self.watch.stop()
        cut = await self.proxy.close(drain)
        self.base.stop()
        self.metrics.settle()
        self.troubles.close()
        self.live.close()
        self.api.recorder.close()
        for endings in self.endings:
            endings.close()
        if self.metrics.access is not None:
            self.metrics.access.close()
        if self.metrics.spans is not None:
            self.metrics.spans.close()
        if self.unix is not None:
            self.unix.remove()
        return cut


def raise_descriptors() -> None:
    """As many file descriptors as we may have: the soft limit is 1,024 nearly everywhere, for programs that use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_gate(settings: Settings, log: Log, config: Config) -> gate.Gate:
    """The door of the REST API. Raises ConfigError: a file of tokens or certificates cannot be used."""
    tokens = gate.Tokens(settings.tokens, log.warn) if settings.tokens else None
    tls = None
    if settings.certificate:
        tls = gate.certificates(settings.certificate, settings.key, settings.ca, optional=tokens is not None)
    return gate.Gate(settings.limits, tokens, tls, settings.insecure_admin, settings.names, trust_of(settings, config))


def trust_of(settings: Settings, config: Config) -> str:
    """Which callers on loopback have shown who they are: as the command line says, else the file, else our own user's."""
    return settings.trust_loopback or config.admin.options.get("trust_loopback") or "uid"


def _audit(log: Log) -> Callable[..., None]:
    def write(*, refused: str | None = None, **values: object) -> None:
        if refused is None:
            log.notice("change", **values)
        else:
            log.warn("change refused", **values, reason=refused)

    return write


def _as_it_is(config: Config) -> Config:
    return config


async def start(config: Config, log: Log, settings: Settings, finish: Callable[[str], object] = lambda why: None) -> Server:
    """Put `config` in force. finish: ends the process. Raises ConfigError or Error (kind "bind"); then nothing is left running."""
    server = Server(config, log, settings)
    server.env.finish = finish
    try:
        await server.start()
    except BaseException:
        await server.close()
        raise
    return server


def run(
    config: Config, log: Log, settings: Settings, began: float | None = None, started: Callable[[Server], object] = lambda server: None
) -> int:
    """Serve until a signal comes; returns the exit status: 0, or CUT when sessions were cut.

    began: time.monotonic(). started: called with the server as soon as it serves.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(config, log, settings, began if began is not None else time.monotonic(), started))


async def _run(config: Config, log: Log, settings: Settings, began: float, started: Callable[[Server], object]) -> int:
    signals = Signals()
    server: Server | None = None
    try:
        server = await start(config, log, settings, signals.came.put_nowait)
        signals.loop.add_signal_handler(signal.SIGUSR1, server.reopen_logs)
        started(server)
        _announce(server, began)
        # What is there now stays until the end: the garbage collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.enable()
        name = await _wanted_end(server, signals)
        return await _end(server, signals, name)
    except BaseException:
        if server is not None:  # it serves already: its socket files would stay on the disk
            await server.close()
        raise
    finally:
        signals.close()


async def _wanted_end(server: Server, signals: Signals) -> str:
    """Wait until the process is to end; why. SIGHUP is served meanwhile."""
    asked = asyncio.ensure_future(server.life.ending.wait())
    try:
        while True:
            came = asyncio.ensure_future(signals.next())
            await asyncio.wait([came, asked], return_when=asyncio.FIRST_COMPLETED)
            if not came.done():
                came.cancel()
                return "POST /drain"
            if came.result() != "SIGHUP":
                return came.result()
            server.base.reload("SIGHUP")
    finally:
        asked.cancel()


async def _end(server: Server, signals: Signals, why: str) -> int:
    """Drain; a second signal cuts it short."""
    life = server.life
    life.begin_drain(why, None if why in ("SIGTERM", "POST /drain") else 0.0)
    draining = asyncio.ensure_future(life.drained())
    while not draining.done():
        second = asyncio.ensure_future(signals.next())
        await asyncio.wait([draining, second], return_when=asyncio.FIRST_COMPLETED)
        if second.done() and second.result() != "SIGHUP":
            server.log.warn("ending at once: a second signal", signal=second.result())
            life.end_at_once()
            await draining
        second.cancel()
    await server.close()
    cut = draining.result()
    server.log.notice("ended", cut=cut)
    return CUT if cut else 0


class Signals:
    """SIGTERM, SIGINT and SIGHUP as something to wait for."""

    NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.came: asyncio.Queue[str] = asyncio.Queue()
        for number in self.NUMBERS:
            self.loop.add_signal_handler(number, self.came.put_nowait, number.name)

    async def next(self) -> str:
        """The name of the next signal."""
        return await self.came.get()

    def close(self) -> None:
        """Give the signals back."""
        for number in (*self.NUMBERS, signal.SIGUSR1):
            self.loop.remove_signal_handler(number)


def _announce(server: Server, began: float) -> None:
    log, proxy = server.log, server.proxy
    for listener in proxy.listeners.values():
        log.info("listening", listener=listener.name, protocol=listener.spec.get("protocol"), address=address_of(listener))
    if proxy.admin is not None:
        log.info("the REST API listens", address=address_of(proxy.admin), tokens=_yes(server.env.gate.tokens), tls=_yes(proxy.admin.tls))
    if server.unix is not None:
        log.info("the REST API listens", address=server.unix.path)
    if server.settings.health is not None:
        log.info("health and metrics listen", address=address_of(proxy.others[0]))
    seconds = f"{time.monotonic() - began:.3f}s"
    log.notice("ready", revision=proxy.config.revision, listeners=len(proxy.listeners), rules=len(proxy.config.rules), after=seconds)


def _yes(value: object) -> str | None:
    return "yes" if value is not None else None


def _ended(session: Session) -> Said:
    """What `-l verbose` says of a session."""
    decision, error = session.decision, session.error
    return "session ended", {
        "session": session.name,
        "rule": decision.called_so if decision is not None else None,
        "cluster": session.cluster.label if session.cluster is not None else None,
        "fallback": session.fallback,
        "bytes_in": session.bytes_in,
        "bytes_out": session.bytes_out,
        "error": redact.refused(error.kind, error.detail) if error is not None else None,
    }


def _unforeseen(log: Log, context: Mapping[str, Any]) -> None:
    """An exception that nobody caught: a defect of ours. The process lives."""
    exc = context.get("exception")
    where = ""
    trace = exc.__traceback__ if exc is not None else None
    while trace is not None:
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    log.error("unforeseen", message=context.get("message"), exception=repr(exc) if exc is not None else None, where=where or None)
