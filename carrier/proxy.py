"""The running proxy: listeners and clusters of the configuration in force, and `apply`, the only way to change them.

`apply` takes a whole new frozen configuration: it builds what is new (clusters, tables, bound listeners) beside what runs, and only when all
of that has worked swaps it in, without awaiting in between; then the old is drained. On any error what was built is thrown away
and nothing has changed. What did not change is kept: listeners with their sockets and sessions, clusters with their idle
connections, tables with their memos. A live session keeps the decision it began with.

A listener that leads into the REST API binds loopback only (DESIGN section 8); while no configured listener does, the API has
one of its own, which is never listed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

import msgspec

from carrier import config as cfg
from carrier import registry
from carrier.cluster import Cluster, Env
from carrier.errors import ConfigError, Error, Problem
from carrier.listener import Listener
from carrier.session import Session
from carrier.table import Hits, Matchers, Table

TICK = 1.0
"""Seconds between two looks at deadlines: one coarse timer for everything."""
ADMIN_HOST, ADMIN_PORT = "127.0.0.1", 1234


class Build:
    """A configuration made ready beside the one that runs; `undo` throws away what it made."""

    def __init__(self) -> None:
        self.clusters: dict[str, Cluster] = {}
        self.updates: list[tuple[Cluster, cfg.Cluster]] = []
        self.tables: dict[str, Table] = {}
        self.listeners: dict[str, Listener] = {}
        self.fresh: list[Listener] = []
        self.made: list[Cluster] = []
        self.admin: Listener | None = None
        self.warnings: list[str] = []

    def undo(self) -> None:
        for listener in self.fresh:
            listener.stop()
        for cluster in self.made:
            cluster.close()


class Proxy:
    """See the module. admin_address: where the API listens while no configured listener leads to it; None: nowhere."""

    def __init__(self, env: Env, admin_address: tuple[str, int] | None = (ADMIN_HOST, ADMIN_PORT)) -> None:
        self.env = env
        self.config = cfg.Config()
        self.listeners: dict[str, Listener] = {}
        self.clusters: dict[str, Cluster] = {}
        self.tables: dict[str, Table] = {}
        self.matchers = Matchers()
        self.hits: dict[str, Hits] = {}
        self.lock = asyncio.Lock()
        """Held from reading the configuration to its replacement: one writer at a time."""
        self.draining: list[Listener] = []
        self.admin_address = admin_address
        self.admin: Listener | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.check: Callable[[cfg.Config], Iterable[str]] | None = None
        """Gives the warnings of a configuration."""

    @property
    def strict(self) -> bool:
        return self.config.admin.strict

    # ------------------------------------------------------------------ change

    async def apply(self, config: cfg.Config) -> tuple[str, ...]:
        """Put `config` in force as the next revision; returns warnings. Raises ConfigError or Error: then nothing has changed."""
        config = msgspec.structs.replace(config, revision=self.config.revision + 1)
        build = Build()
        try:
            self._build_clusters(config, build)
            self._build_tables(config, build)
            await self._build_listeners(config, build)
        except BaseException:
            build.undo()
            raise
        self._commit(config, build)
        return tuple(build.warnings)

    def _build_clusters(self, config: cfg.Config, build: Build) -> None:
        problems = []
        for name, conf in config.clusters.items():
            old = self.clusters.get(name)
            if old is not None and old.conf == conf:
                build.clusters[name] = old
                continue
            if old is not None and (old.conf.spec, old.conf.options) == (conf.spec, conf.options):
                build.clusters[name] = old
                build.updates.append((old, conf))
                continue
            kind = registry.cluster(conf.spec.get("protocol", ""))
            if kind is None:
                problems.append(Problem(f"unknown protocol {conf.spec.get('protocol')!r}", f"clusters[{name}].spec.protocol"))
                continue
            build.clusters[name] = made = kind(conf, self.env)
            build.made.append(made)
        if problems:
            raise ConfigError(*problems)

    def _build_tables(self, config: cfg.Config, build: Build) -> None:
        for name, conf in config.listeners.items():
            table = Table(config, conf.rules, build.clusters, self.matchers, self.hits)
            old = self.tables.get(name)
            build.tables[name] = old if old is not None and old.signature == table.signature else table

    async def _build_listeners(self, config: cfg.Config, build: Build) -> None:
        leaving = {name: old for name, old in self.listeners.items() if name not in config.listeners}
        for name, conf in config.listeners.items():
            old = self.listeners.get(name)
            leads = leads_to_api(build.tables[name]) and not self.env.insecure_admin
            if old is not None and (old.conf.spec, old.conf.options) == (conf.spec, conf.options):
                if leads and not old.loopback:
                    raise Error("bind", f'Listener "{name}" is open to other machines: it cannot lead into the REST API')
                build.listeners[name] = old
                continue
            kind = registry.listener(conf.spec.get("protocol", ""))
            if kind is None:
                raise ConfigError(Problem(f"unknown protocol {conf.spec.get('protocol')!r}", f"listeners[{name}].spec.protocol"))
            new = kind(conf, self.env)
            new.loopback = leads
            new.use(build.tables[name])
            replaced = [*([old] if old else []), *leaving.values(), *([self.admin] if self.admin else [])]
            taken = next((one for one in self.listeners.values() if one.key() == new.key() and one not in replaced), None)
            if taken is not None and new.key() is not None and new.key()[2:] != (0,):  # type: ignore[index]
                raise Error("bind", f'"{name}": Could not bind to {_spell(new)}: listener "{taken.name}" has it already')
            if not any(new.take_over(one) for one in replaced):
                await new.bind()
            build.fresh.append(new)
            build.listeners[name] = new
        if self.admin_address is not None and not any(leads_to_api(table) for table in build.tables.values()):
            build.admin = self.admin or await self._own_admin(build)

    async def _own_admin(self, build: Build) -> Listener | None:
        """The API's own listener: HTTP, on loopback, with one rule."""
        assert self.admin_address is not None
        host, port = self.admin_address
        conf = cfg.Config(
            clusters={"api": cfg.Cluster("api", {"protocol": "L7mpController"})},
            rulelists={"api": cfg.RuleList("api", ("api",))},
            rules={"api": cfg.Rule("api", None, cfg.Action(route="api"))},
            routes={"api": cfg.Route("api", "api")},
        )
        http, controller = registry.listener("HTTP"), registry.cluster("L7mpController")
        if http is None or controller is None:
            return None
        clusters = {"api": controller(conf.clusters["api"], self.env)}
        listener = http(cfg.Listener("(admin)", {"protocol": "HTTP", "port": port, "address": host}, "api"), self.env)
        listener.use(Table(conf, "api", clusters, Matchers(), {}))
        leaving = next((old for old in self.listeners.values() if old.key() == ("tcp", host, port)), None)
        if leaving is None or not listener.take_over(leaving):
            try:
                await listener.bind()
            except Error as error:
                build.warnings.append(f"the REST API has no TCP address: {error.detail}")
                return None
        build.fresh.append(listener)
        return listener

    def _commit(self, config: cfg.Config, build: Build) -> None:
        """Swap everything in. Nothing here awaits or may fail."""
        for cluster, conf in build.updates:
            cluster.update(conf)
        old_clusters, self.clusters = self.clusters, build.clusters
        old_listeners, self.listeners = self.listeners, build.listeners
        old_admin, self.admin = self.admin, build.admin
        self.config = config
        self.tables = build.tables
        for name, listener in self.listeners.items():
            listener.conf = config.listeners[name]
            if listener.table is not build.tables[name]:
                listener.use(build.tables[name])
        self.matchers.forget_all_but(config)
        for name in [name for name in self.hits if name not in config.rules]:
            del self.hits[name]
        gone = [old for name, old in old_listeners.items() if self.listeners.get(name) is not old]
        if old_admin is not None and old_admin is not self.admin:
            gone.append(old_admin)
        for listener in gone:
            listener.stop()
            self.draining.append(listener)
        for name, cluster in old_clusters.items():
            if self.clusters.get(name) is not cluster:
                cluster.close()
        for listener in build.fresh:
            listener.start()
        if self.timer is None:
            self.timer = self.env.loop.call_later(TICK, self._tick)

    # ------------------------------------------------------------------ time

    def _tick(self) -> None:
        loop = self.env.loop
        self.timer = loop.call_later(TICK, self._tick)
        now = loop.time()
        for listener in self._all_listeners():
            listener.tick(now)
        for cluster in self.clusters.values():
            cluster.tick(now)
        self.draining = [listener for listener in self.draining if any(True for _ in listener.sessions())]

    def _all_listeners(self) -> Iterator[Listener]:
        yield from list(self.listeners.values())
        if self.admin is not None:
            yield self.admin
        yield from list(self.draining)

    # ------------------------------------------------------------------ sessions

    def sessions(self) -> Iterator[Session]:
        """Every live or remembered session, those of the API's own listener apart."""
        for listener in self._all_listeners():
            if listener.name != "(admin)":
                yield from listener.sessions()

    def find_session(self, name: str) -> Session | None:
        return next((session for session in self.sessions() if session.name == name), None)

    # ------------------------------------------------------------------ end

    async def close(self, drain: float = 0.0) -> int:
        """Stop accepting, wait up to `drain` seconds for the live sessions, cut what is left; returns how many were cut."""
        listeners = list(self._all_listeners())
        for listener in listeners:
            listener.stop()
        deadline = self.env.loop.time() + drain
        while (live := sum(len(listener.live) for listener in listeners)) and self.env.loop.time() < deadline:
            await asyncio.sleep(0.05)
        for listener in listeners:
            for session in list(listener.live):
                session.kill("the proxy ends")
        for cluster in self.clusters.values():
            cluster.close()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        await asyncio.sleep(0)
        return live


def leads_to_api(table: Table) -> bool:
    """Does any rule of the table lead into the REST API?"""
    return any(
        cluster is not None and cluster.admin
        for _, decisions in table.lists.values()
        for decision in decisions
        for cluster in (decision.cluster, decision.fallback, *decision.ingress, *decision.egress)
    )


def _spell(listener: Listener) -> str:
    key = listener.key()
    return f"{key[1]}:{key[2]}" if key else listener.name
