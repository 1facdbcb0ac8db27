"""The running proxy: listeners and clusters of the configuration in force, and `apply`, the only way to change them.

`apply` takes a whole new frozen configuration: it builds what is new (clusters, tables, bound listeners) beside what runs, and only
when all of that has worked swaps it in, without awaiting in between; then the old is drained. On any error what was built is thrown
away and nothing has changed. What did not change is kept: listeners with their sockets and sessions, clusters with their idle
connections, tables with their memos. A live session keeps the decision it began with.

A listener that leads into the REST API binds loopback only (DESIGN section 8); while no configured listener does, the API has
one of its own, which is never listed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

import msgspec

from carrier import config as cfg
from carrier import framing, registry
from carrier.cluster import Cluster, Env, Plan
from carrier.errors import ConfigError, Error, Problem
from carrier.listener import Listener
from carrier.session import Session
from carrier.table import Hits, Matchers, Table, same

TICK = 1.0
"""Seconds between two looks at deadlines: one coarse timer for everything."""
ADMIN_HOST, ADMIN_PORT = "127.0.0.1", 1234


class Build:
    """A configuration made ready beside the one that runs; `undo` throws away what it made."""

    def __init__(self) -> None:
        self.clusters: dict[str, Cluster] = {}
        self.updates: list[tuple[Cluster, Plan]] = []
        self.tables: dict[str, Table] = {}
        self.listeners: dict[str, Listener] = {}
        self.fresh: list[Listener] = []
        self.made: list[Cluster] = []
        self.admin: Listener | None = None
        self.warnings: list[str] = []

    def undo(self, guard: Callable[..., None]) -> None:
        for listener in self.fresh:
            guard(f"undoing listener {listener.name}", listener.stop)
        for cluster in self.made:
            guard(f"undoing cluster {cluster.name}", cluster.close)


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
        self.applying = asyncio.Lock()
        """Held by `apply` itself, for those who call it without reading first."""
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
        async with self.applying:
            config = msgspec.structs.replace(config, revision=self.config.revision + 1)
            build = Build()
            try:
                self._build_clusters(config, build)
                self._build_tables(config, build)
                await self._build_listeners(config, build)
            except BaseException:
                build.undo(self.env.guard)
                raise
            self._commit(config, build)
            return tuple(build.warnings)

    def _build_clusters(self, config: cfg.Config, build: Build) -> None:
        problems: list[Problem] = []
        for name, conf in config.clusters.items():
            old = self.clusters.get(name)
            try:
                if old is not None and same(old.conf, conf):
                    build.clusters[name] = old
                elif old is not None and same((old.conf.spec, old.conf.options), (conf.spec, conf.options)):
                    build.clusters[name] = old
                    build.updates.append((old, old.plan(conf)))
                else:
                    build.clusters[name] = made = self._new_cluster(conf)
                    build.made.append(made)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(*problems)

    def _new_cluster(self, conf: cfg.Cluster) -> Cluster:
        """A cluster of a configuration. Raises ConfigError or Error."""
        kind = registry.cluster(conf.spec.get("protocol", ""))
        if kind is None:
            raise ConfigError(Problem(f"unknown protocol {conf.spec.get('protocol')!r}", f"clusters[{conf.name}].spec.protocol"))
        try:
            return framing.make_cluster(kind, conf, self.env)
        except Error:
            raise
        except Exception as exc:
            raise _odd("clusters", conf.name, exc) from exc

    def _build_tables(self, config: cfg.Config, build: Build) -> None:
        for name, conf in config.listeners.items():
            table = Table(config, conf.rules, build.clusters, self.matchers, self.hits)
            old = self.tables.get(name)
            build.tables[name] = old if old is not None and same(old.signature, table.signature) else table

    async def _build_listeners(self, config: cfg.Config, build: Build) -> None:
        to_api = any(leads_to_api(table) for table in build.tables.values())
        for name, conf in config.listeners.items():
            old = self.listeners.get(name)
            if old is not None and same((old.conf.spec, old.conf.options), (conf.spec, conf.options)):
                self._check_kept(old, build)
                build.listeners[name] = old
        leaving = [old for name, old in self.listeners.items() if name not in build.listeners]
        if to_api and self.admin is not None:
            leaving.append(self.admin)
        for name, conf in config.listeners.items():
            if name not in build.listeners:
                build.listeners[name] = await self._new_listener(conf, build, leaving)
        build.listeners = {name: build.listeners[name] for name in config.listeners}
        if self.admin_address is not None and not to_api:
            build.admin = self.admin or await self._own_admin(build, leaving)

    def _check_kept(self, old: Listener, build: Build) -> None:
        """A listener that stays as it is bound may lead somewhere else by now."""
        leads = leads_to_api(build.tables[old.name])
        if leads and not old.local() and not self.env.insecure_admin:
            raise Error("bind", f'Listener "{old.name}" is open to other machines: it cannot lead into the REST API')
        if old.loopback and not leads:
            build.warnings.append(f'listener "{old.name}" led into the REST API and stays on loopback until it is replaced')

    async def _new_listener(self, conf: cfg.Listener, build: Build, leaving: list[Listener]) -> Listener:
        """A bound listener that accepts nothing yet. Raises ConfigError or Error; `leaving` loses the one whose sockets it took over."""
        kind = registry.listener(conf.spec.get("protocol", ""))
        if kind is None:
            raise ConfigError(Problem(f"unknown protocol {conf.spec.get('protocol')!r}", f"listeners[{conf.name}].spec.protocol"))
        table = build.tables[conf.name]
        try:
            new = framing.make_listener(kind, conf, self.env)
            new.loopback = leads_to_api(table) and not self.env.insecure_admin
            new.use(table)
            self._check_free(new, [*build.listeners.values(), *([self.admin] if self.admin and self.admin not in leaving else [])])
            build.fresh.append(new)
            await self._bind(new, leaving)
        except Error:
            raise
        except Exception as exc:
            raise _odd("listeners", conf.name, exc) from exc
        return new

    def _check_free(self, new: Listener, others: Iterable[Listener]) -> None:
        key = new.key()
        taken = next((one for one in others if one.key() == key), None)
        if key is not None and key[2:] != (0,) and taken is not None:
            raise Error("bind", f'"{new.name}": Could not bind to {_spell(new)}: listener "{taken.name}" has it already')

    async def _bind(self, new: Listener, leaving: list[Listener]) -> None:
        for old in leaving:
            if new.take_over(old):
                leaving.remove(old)
                return
        await new.bind()

    async def _own_admin(self, build: Build, leaving: list[Listener]) -> Listener | None:
        """The API's own listener: HTTP, on loopback, with one rule. None, with a warning, when its address is taken."""
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
        listener.listed = False
        listener.use(Table(conf, "api", clusters, Matchers(), {}))
        try:
            self._check_free(listener, build.listeners.values())
            await self._bind(listener, leaving)
        except Error as error:
            build.warnings.append(f"the REST API has no TCP address: {error.detail}")
            return None
        build.fresh.append(listener)
        return listener

    def _commit(self, config: cfg.Config, build: Build) -> None:
        """Swap everything in. Nothing here awaits; what others' code does at its end or start cannot undo the change any more."""
        guard = self.env.guard
        for cluster, plan in build.updates:
            cluster.adopt(plan)
        old_clusters, self.clusters = self.clusters, build.clusters
        self.env.clusters = build.clusters
        old_listeners, self.listeners = self.listeners, build.listeners
        self.env.listeners = build.listeners
        old_admin, self.admin = self.admin, build.admin
        self.config = config
        self.tables = build.tables
        for name, listener in self.listeners.items():
            listener.conf = config.listeners[name]
            if listener.table is not build.tables[name]:
                guard(f"the new table of listener {name}", listener.use, build.tables[name])
        self.matchers.forget_all_but(config)
        for name in [name for name in self.hits if name not in config.rules]:
            del self.hits[name]
        gone = [old for name, old in old_listeners.items() if self.listeners.get(name) is not old]
        if old_admin is not None and old_admin is not self.admin:
            gone.append(old_admin)
        for listener in gone:
            guard(f"stopping listener {listener.name}", listener.stop)
            self.draining.append(listener)
        for name, cluster in old_clusters.items():
            if self.clusters.get(name) is not cluster:
                guard(f"closing cluster {name}", cluster.close)
        for listener in build.fresh:
            guard(f"starting listener {listener.name}", listener.start)
        if self.timer is None:
            self.timer = self.env.loop.call_later(TICK, self._tick)

    # ------------------------------------------------------------------ time

    def _tick(self) -> None:
        loop = self.env.loop
        self.timer = loop.call_later(TICK, self._tick)
        now = loop.time()
        for listener in self._all_listeners():
            self.env.guard(f"the tick of listener {listener.name}", listener.tick, now)
        for cluster in list(self.clusters.values()):
            self.env.guard(f"the tick of cluster {cluster.name}", cluster.tick, now)
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
            if listener.listed:
                yield from listener.sessions()

    def find_session(self, name: str) -> Session | None:
        return next((session for session in self.sessions() if session.name == name), None)

    # ------------------------------------------------------------------ end

    async def close(self, drain: float = 0.0) -> int:
        """Stop accepting, wait up to `drain` seconds for the live sessions, cut what is left; returns how many were cut."""
        listeners = list(self._all_listeners())
        guard = self.env.guard
        for listener in listeners:
            guard(f"stopping listener {listener.name}", listener.stop)
        if drain > 0:
            await self._drained(listeners, drain)
        live = sum(len(listener.live) for listener in listeners)
        for listener in listeners:
            for session in list(listener.live):
                guard(f"ending session {session.name}", session.kill, "the proxy ends")
        for cluster in self.clusters.values():
            guard(f"closing cluster {cluster.name}", cluster.close)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        await asyncio.sleep(0)
        return live

    async def _drained(self, listeners: list[Listener], most: float) -> None:
        """Wait until no session is live, `most` seconds at most."""
        done = asyncio.Event()

        def look(_session: Session | None = None) -> None:
            if not any(listener.live for listener in listeners):
                done.set()

        self.env.on_close.append(look)
        look()
        try:
            async with asyncio.timeout(most):
                await done.wait()
        except TimeoutError:
            pass
        finally:
            self.env.on_close.remove(look)


def _spell(listener: Listener) -> str:
    key = listener.key()
    if key is None:
        return listener.name
    return f"{key[1]}:{key[2]}" if key[2] >= 0 else key[1]


def _odd(kind: str, name: str, exc: Exception) -> ConfigError:
    """A protocol's class stumbled over a value that it did not expect: the change is refused, the process lives."""
    return ConfigError(Problem(f"cannot be made: {type(exc).__name__}: {exc}", f"{kind}[{name}]"))


def leads_to_api(table: Table) -> bool:
    """Does any rule of the table lead into the REST API?"""
    return any(
        cluster is not None and cluster.admin
        for _, decisions in table.lists.values()
        for decision in decisions
        for cluster in (decision.cluster, decision.fallback, *decision.ingress, *decision.egress)
    )
