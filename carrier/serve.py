"""The proxy as a process: its parts put together, its start, its orderly end.

`start` builds a `Server` from a configuration: event loop, proxy, REST API and user bridges, in that order; it fails as a whole.
`run` is what `carrier run` does: start, say what is listened on, wait for SIGTERM or SIGINT, then accept nothing new, let what is
in flight finish for up to `drain` seconds, and end. A second signal ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import uvloop

from carrier.api import Api
from carrier.bridge import Bridges, Leases
from carrier.cluster import Env
from carrier.config import Config
from carrier.listener import Listener
from carrier.log import Log
from carrier.proxy import Proxy
from carrier.session import Session


class Settings(msgspec.Struct, frozen=True):
    """What the command line says about the process. admin: where the REST API listens, None: nowhere of its own; drain: seconds."""

    admin: tuple[str, int] | None = ("127.0.0.1", 1234)
    insecure_admin: bool = False
    drain: float = 10.0


class Server:
    """A running proxy and what belongs to it. `await start(...)` makes one, `close` ends it."""

    def __init__(self, log: Log, settings: Settings) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: _unforeseen(log, context))
        self.log = log
        self.env = Env(loop)
        self.env.insecure_admin = settings.insecure_admin
        self.proxy = Proxy(self.env, settings.admin)
        self.bridges = Bridges()
        self.env.api = Api(self.proxy, bridges=self.bridges)
        self.leases = Leases(self.proxy, self.bridges, log)
        if log.shows("verbose"):
            self.env.on_close.append(lambda session: _ended(log, session))

    async def close(self, drain: float = 0.0) -> int:
        """End: see Proxy.close. drain: seconds for what is in flight. Returns how many sessions were cut."""
        self.leases.stop()
        return await self.proxy.close(drain)


async def start(config: Config, log: Log, settings: Settings) -> Server:
    """Put `config` in force. Raises ConfigError or Error (kind "bind"); then nothing is left running."""
    server = Server(log, settings)
    try:
        async with server.proxy.lock:
            warnings = await server.proxy.apply(config)
    except BaseException:
        await server.close()
        raise
    server.leases.start()
    for warning in warnings:
        log.warn(warning)
    return server


def run(config: Config, log: Log, settings: Settings, began: float | None = None) -> int:
    """Serve until a signal comes; returns the exit status: 0, or 1 when a second signal cut sessions. began: time.monotonic()."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(config, log, settings, began if began is not None else time.monotonic()))


async def _run(config: Config, log: Log, settings: Settings, began: float) -> int:
    signals = Signals()
    try:
        server = await start(config, log, settings)
        _announce(server, began)
        # What is there now stays until the end: the garbage collector need not look at it again.
        gc.collect()
        gc.freeze()
        name = await signals.next()
        log.notice("ending", signal=name, sessions=sum(len(x.live) for x in server.proxy.listeners.values()), drain=settings.drain)
        return await _end(server, signals, settings.drain)
    finally:
        signals.close()


async def _end(server: Server, signals: Signals, drain: float) -> int:
    """Drain; a second signal cuts it short."""
    draining = asyncio.ensure_future(server.close(drain))
    second = asyncio.ensure_future(signals.next())
    await asyncio.wait([draining, second], return_when=asyncio.FIRST_COMPLETED)
    second.cancel()
    if draining.done():
        server.log.notice("ended", cut=draining.result())
        return 0
    draining.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await draining
    cut = await server.close()
    server.log.warn("ended at once by a second signal", cut=cut)
    return 1 if cut else 0


class Signals:
    """SIGTERM and SIGINT as something to wait for."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.came: asyncio.Queue[str] = asyncio.Queue()
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self.came.put_nowait, number.name)

    async def next(self) -> str:
        """The name of the next signal."""
        return await self.came.get()

    def close(self) -> None:
        """Give the signals back."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.remove_signal_handler(number)


def address_of(listener: Listener) -> str:
    """Where a listener listens, as people write it."""
    port = getattr(listener, "port", None)
    key = listener.key()
    if key is None:
        return listener.name
    if key[2] < 0:  # a file
        return key[1]
    host = f"[{key[1]}]" if ":" in key[1] else key[1]
    return f"{host}:{port if isinstance(port, int) else key[2]}"


def _announce(server: Server, began: float) -> None:
    log, proxy = server.log, server.proxy
    for listener in proxy.listeners.values():
        log.info("listening", listener=listener.name, protocol=listener.spec.get("protocol"), address=address_of(listener))
    if proxy.admin is not None:
        log.info("the REST API listens", address=address_of(proxy.admin))
    seconds = f"{time.monotonic() - began:.3f}s"
    log.notice("ready", revision=proxy.config.revision, listeners=len(proxy.listeners), rules=len(proxy.config.rules), after=seconds)


def _ended(log: Log, session: Session) -> None:
    decision = getattr(session, "decision", None)
    source = session.source
    log.verbose(
        "session ended",
        session=session.name,
        rule=decision.rule if decision is not None else None,
        cluster=session.cluster.name if session.cluster is not None else None,
        fallback=session.fallback,
        bytes_in=source.bytes_in,
        bytes_out=source.bytes_out,
        error=session.error.detail if session.error is not None else None,
    )


def _unforeseen(log: Log, context: Mapping[str, Any]) -> None:
    """An exception that nobody caught: a defect of ours. The process lives."""
    exc = context.get("exception")
    where = ""
    trace = exc.__traceback__ if exc is not None else None
    while trace is not None:
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    log.error("unforeseen", message=context.get("message"), exception=repr(exc) if exc is not None else None, where=where or None)
