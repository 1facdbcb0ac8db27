"""The running proxy: listeners and clusters of the configuration in force, and `apply`, the only way to change them.

`apply` takes a whole new frozen configuration: it builds what is new (clusters, tables, bound listeners) beside what runs, and only
when all of that has worked swaps it in, without awaiting in between; then the old is drained. On any error what was built is thrown
away and nothing has changed. What did not change is kept: listeners with their sockets and sessions, clusters with their idle
connections, tables with their memos. A live session keeps the decision it began with.

A listener that leads into the REST API binds loopback when it names no address, and another address only if the gate is locked
(DESIGN section 8); while no configured listener leads there, the API has one of its own, which is never listed. No cluster
may name the API's addresses: what came through it would look like a call from this machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from carrier import files, model
from carrier.config.given import refused
from carrier.core import registry
from carrier.core.address import authority
from carrier.core.decision import Decision, Fixed, Hits
from carrier.core.fence import Own
from carrier.core.listener import Listener
from carrier.core.slices import sliced
from carrier.core.spec import files_of
from carrier.errors import ConfigError, Error, Problem
from carrier.hops import framing
from carrier.model import same
from carrier.proxy.build import Build, leads_to_api, odd
from carrier.rules.table import Matchers, Table

if TYPE_CHECKING:
    from carrier.core.cluster import Cluster
    from carrier.core.env import Env
    from carrier.core.session import Session
    from carrier.rules.match import Conditions

TICK = 1.0
"""Seconds between two looks at deadlines: one coarse timer for everything."""
LOOK = 0.02
"""Seconds between two looks whether sessions are left, at the end."""


class Door(Protocol):
    """The REST API's own way in (carrier/admin/where.py)."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Those of a listener that leads into the API and nowhere else."""

    def make(self, name: str, host: str, port: int) -> Listener:
        """A listener that leads there, bound to nothing yet. Raises Error("config")."""


class Proxy:
    """See the module. admin_address: where the API listens while no configured listener leads to it; None, or without a door: nowhere.
    conditions: what has been compiled of the first configuration."""

    def __init__(
        self, env: Env, admin_address: tuple[str, int] | None = None, door: Door | None = None, conditions: Conditions | None = None
    ) -> None:
        self.env = env
        self.door = door
        self.config = model.Config()
        self.listeners: dict[str, Listener] = {}
        self.clusters: dict[str, Cluster] = {}
        self.tables: dict[str, Table] = {}
        self.matchers = Matchers(conditions)
        self.refused = 0
        """Changes that were not put in force."""
        self.hits: dict[str, Hits] = {}
        self.lock = asyncio.Lock()
        """Held from reading the configuration to its replacement: one writer at a time."""
        self.applying = asyncio.Lock()
        """Held by `apply` itself, for those who call it without reading first."""
        self.draining: list[Listener] = []
        self.admin_address = admin_address if door is not None else None
        self.admin_asked = False
        """Somebody asked for that address: without it there is no start. Else the process serves without, and warns."""
        self.admin: Listener | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.unsaved = ""
        """Why what is in force is not on disk; empty: it is."""
        self.check: Callable[[model.Config], Iterable[str]] | None = None
        """Gives the warnings of a configuration."""
        self.persist: Callable[[model.Config], Awaitable[None]] | None = None
        """Puts a configuration on disk, before it is in force; raises Error if it cannot."""
        self.unsaved = ""
        """Why what is in force is not on disk; "": it is, or need not be."""
        self.others: list[Listener] = []
        """Listeners that are no part of the configuration and serve to the end: the unix socket, health."""
        self.drained: set[str] = set()
        """Names of listeners that were told to take nothing new."""
        self.drained_endpoints: set[str] = set()
        self.rebound: set[str] = set()
        """Listeners that are to be bound anew, though their configuration is as it was."""
        self.ending = False
        """It is being drained: whoever changes it for others refuses them; leases still run out."""
        self.unsaved = ""
        """Why what is in force is not on disk; empty: it is, or nobody keeps it there."""
        self.shedding = ""
        """Why new sessions are refused at the moment; empty: they are not."""

    @property
    def strict(self) -> bool:
        return self.config.admin.strict

    # ------------------------------------------------------------------ change

    async def apply(self, config: model.Config, unsaved: bool = False) -> tuple[str, ...]:
        """Put `config` in force as the next revision; returns warnings. Raises ConfigError or Error: then nothing has changed.

        unsaved: also when it cannot be put on disk (`self.unsaved` tells): what nobody waits for, the start, a reload, a lease's end."""
        async with self.applying:
            config = msgspec.structs.replace(config, revision=self.config.revision + 1)
            build = Build(self, config)
            try:
                with files.held(await self._read_files(config)):
                    await sliced(build.ways())
                    await self._build_listeners(config, build)
                await self._keep(config, unsaved)
            except BaseException:
                self.refused += 1
                build.undo(self.env.guard)
                raise
            self._commit(config, build)
            return tuple(build.warnings)

    async def _keep(self, config: model.Config, unsaved: bool) -> None:
        if self.persist is None:
            return
        try:
            await self.persist(config)
        except Error as error:
            if not unsaved:
                raise
            self.unsaved = error.detail

    async def _read_files(self, config: model.Config) -> dict[str, files.Content]:
        """What the files hold that new or changed clusters and listeners name, read in a thread: nobody waits for a disk."""
        running = ((config.clusters, self.clusters), (config.listeners, self.listeners))
        fresh = [conf.spec for confs, old in running for name, conf in confs.items() if name not in old or old[name].conf is not conf]
        names = {name for spec in fresh for name in files_of(spec)}
        return await self.env.loop.run_in_executor(None, files.read_all, names) if names else {}

    async def _build_listeners(self, config: model.Config, build: Build) -> None:
        to_api = any(leads_to_api(table) for table in build.tables.values())
        for name, conf in config.listeners.items():
            old = self.listeners.get(name)
            if old is not None and name not in self.rebound and same((old.conf.spec, old.conf.options), (conf.spec, conf.options)):
                self._check_kept(old, build)
                build.listeners[name] = old
        leaving = [old for name, old in self.listeners.items() if name not in build.listeners and old.listening]
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
        if leads and not old.local() and not self._may_open(old):
            raise Error("bind", f'Listener "{old.name}" is open to other machines: it cannot lead into the REST API')
        if old.loopback and not leads:
            build.warnings.append(f'listener "{old.name}" led into the REST API and stays on loopback until it is replaced')

    def _may_open(self, listener: Listener) -> bool:
        """May a listener that leads into the API be reached from other machines?"""
        gate = self.env.gate
        return self.env.insecure_admin or (gate is not None and gate.may_open(gate.secures(listener)))

    def _lead_to_api(self, new: Listener) -> None:
        """A new listener leads into the API: where may it be bound? Raises Error("bind")."""
        gate = self.env.gate
        if gate is not None and new.tls is None:
            gate.secure(new)
        new.loopback = not new.spec.get("address")
        if not new.local() and not self._may_open(new):
            address = new.spec.get("address")
            raise Error(
                "bind",
                f'Listener "{new.name}" leads into the REST API: {address} is open to other machines; '
                "give no address or a loopback one, a token file, a client CA, or say --insecure-admin",
            )

    async def _new_listener(self, conf: model.Listener, build: Build, leaving: list[Listener]) -> Listener:
        """A bound listener that accepts nothing yet. Raises ConfigError or Error; `leaving` loses the one whose sockets it took over."""
        kind = registry.listener(conf.spec.get("protocol", ""))
        if kind is None:
            raise ConfigError(Problem(f"unknown protocol {conf.spec.get('protocol')!r}", f"listeners[{conf.name}].spec.protocol"))
        table = build.tables[conf.name]
        try:
            if leads_to_api(table, only=True):
                conf = msgspec.structs.replace(conf, options={**(self.door.options if self.door is not None else {}), **conf.options})
            new = framing.make_listener(kind, conf, self.env)
            if leads_to_api(table):
                self._lead_to_api(new)
            new.use(table)
            self._check_free(new, [*build.listeners.values(), *([self.admin] if self.admin and self.admin not in leaving else [])])
            build.fresh.append(new)
            await self._bind(new, leaving, build)
        except Error:
            raise
        except Exception as exc:
            raise odd("listeners", conf.name, exc) from exc
        return new

    def _check_free(self, new: Listener, others: Iterable[Listener]) -> None:
        key = new.key()
        taken = next((one for one in others if one.key() == key and not new.covers(one)), None)
        if key is not None and key[2:] != (0,) and taken is not None:
            raise Error("bind", f'"{new.name}": Could not bind to {_spell(new)}: listener "{taken.name}" has it already')

    async def _bind(self, new: Listener, leaving: list[Listener], build: Build) -> None:
        """Give a new listener its address: from one that leaves, or beside all, or in the place of one that leaves and is in the way."""
        await new.prepare()
        for old in leaving:
            if new.take_over(old):
                leaving.remove(old)
                return
        beside = next((one for one in build.listeners.values() if new.covers(one)), None)
        if beside is not None:
            new.bound = [sock.dup() for sock in beside.bound]
            return
        old = next((old for old in leaving if old.blocks(new.key())), None)  # type: ignore[assignment]
        try:
            await new.bind()
        except Error:
            again = old.vacate() if old is not None else None
            if again is None:
                raise
            build.vacated.append((old, again))
            await new.bind()
        if old is not None:
            leaving.remove(old)
            new.before = old

    async def _own_admin(self, build: Build, leaving: list[Listener]) -> Listener | None:
        """The API's own listener: HTTP, with one rule. None, with a warning, when its address is taken and nobody asked for it."""
        assert self.admin_address is not None and self.door is not None
        listener = self.door.make("(admin)", *self.admin_address)
        if self.env.gate is not None:
            self.env.gate.secure(listener)
        try:
            self._check_free(listener, build.listeners.values())
            await self._bind(listener, leaving, build)
        except Error as error:
            if self.admin_asked:
                raise
            build.warnings.append(f"the REST API has no TCP address: {error.detail}")
            return None
        build.fresh.append(listener)
        return listener

    def _commit(self, config: model.Config, build: Build) -> None:
        """Swap everything in. Nothing here awaits; what others' code does at its end or start cannot undo the change any more."""
        guard = self.env.guard
        for cluster, plan in build.updates:
            cluster.adopt(plan)
        old_clusters, self.clusters = self.clusters, build.clusters
        self.env.clusters = build.clusters
        for name, fenced in build.bridged.items():
            build.clusters[name].lead_for_a_bridge(fenced)
        self.env.resolver.closed = build.api_ports
        old_listeners, self.listeners = self.listeners, build.listeners
        self.env.listeners = build.listeners
        self.env.own = Own(key for one in (*build.listeners.values(), build.admin, *self.others) if one and (key := one.occupies()))
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
        for listener in build.fresh:
            guard(f"starting listener {listener.name}", listener.start)
            if listener.before is not None:
                guard(f"handing over to listener {listener.name}", listener.inherit, listener.before)
        for listener in gone:
            guard(f"stopping listener {listener.name}", listener.stop)
            self.draining.append(listener)
        self._cover(gone)
        for name, cluster in old_clusters.items():
            if self.clusters.get(name) is not cluster:
                guard(f"closing cluster {name}", cluster.close)
        self.drained = {name for name in self.drained if old_listeners.get(name) is self.listeners.get(name) is not None}
        for cluster in self.clusters.values():
            if self.drained_endpoints or cluster.drained:
                cluster.drain(self.drained_endpoints)
        if self.shedding:
            self.shed(self.shedding)
        if self.timer is None:
            self.timer = self.env.loop.call_later(TICK, self._tick)

    def _cover(self, gone: Iterable[Listener]) -> None:
        """Of listeners that share an address (`Listener.covers`) the last one hears what comes; those that are gone hear nothing more."""
        last = {listener.key(): listener for listener in self.listeners.values()}
        for listener in (*gone, *self.listeners.values()):
            heir = last.get(listener.key(), listener)
            if heir is listener or heir.covers(listener):
                self.env.guard(f"listener {listener.name} beside {heir.name}", listener.cover, heir is not listener)

    # ------------------------------------------------------------------ drain and overload

    def working(self) -> list[Listener]:
        """The listeners that carry others' traffic, those that are being replaced among them; the API's own are none of them."""
        found = [listener for name, listener in self.listeners.items() if not leads_to_api(self.tables[name], only=True)]
        return [*found, *(listener for listener in self.draining if listener.listed and not leads_to_api(listener.table, only=True))]

    def say_goodbye(self) -> None:
        """Everything is still accepted; answers ask their clients to leave."""
        self.ending = True
        for listener in self.working():
            self.env.guard(f"the farewell of listener {listener.name}", listener.farewell)

    def stop_working(self) -> None:
        """Nothing new is taken any more; what is in flight goes on."""
        for listener in self.working():
            self.env.guard(f"stopping listener {listener.name}", listener.stop)
            for session in list(listener.live):
                self.env.guard(f"the departure of {session.name}", session.source.depart)

    def cut_work(self, detail: str) -> None:
        """End every session that is still there."""
        for listener in self.working():
            for session in list(listener.live):
                self.env.guard(f"ending session {session.name}", session.kill, detail, "drain")

    def drain_listener(self, name: str) -> None:
        """A listener takes nothing new; its sessions go on. Raises Error("config") when there is none of this name."""
        listener = self.listeners.get(name)
        if listener is None:
            raise refused(f'Unknown listener "{name}"')
        if name not in self.drained:
            self.drained.add(name)
            self.env.guard(f"the farewell of listener {name}", listener.farewell)
            self.env.guard(f"stopping listener {name}", listener.stop)

    async def resume_listener(self, name: str) -> None:
        """Bind a drained listener again, as the next revision. Raises Error."""
        if name not in self.drained:
            raise refused(f'Listener "{name}" is not drained')
        self.rebound = {name}
        try:
            await self.apply(self.config)
        finally:
            self.rebound = set()

    def drain_endpoint(self, name: str, drained: bool = True) -> None:
        """An endpoint gets no new sessions, also after other changes, until it is drained no more. Raises Error("config")."""
        if self.config.find_endpoint(name) is None:
            raise refused("Not Found")
        (self.drained_endpoints.add if drained else self.drained_endpoints.discard)(name)
        for cluster in self.clusters.values():
            cluster.drain(self.drained_endpoints)

    def shed(self, reason: str) -> None:
        """Refuse new sessions for this reason; an empty one: no more. Listeners that can hold connections back do that instead."""
        self.shedding = reason
        for name, listener in self.listeners.items():
            if leads_to_api(self.tables[name]):
                continue
            if listener.waits:
                self.env.guard(f"holding listener {name}", listener.hold if reason else listener.go_on)
            else:
                self.env.guard(f"shedding of listener {name}", listener.use, shed(reason) if reason else self.tables[name])

    def connections(self) -> int:
        """How many there are, of all listeners but the API's own."""
        return sum(len(listener.connections) for listener in self.working())

    def streams(self) -> Iterator[Session]:
        """The sessions of others' traffic that can wait: those of datagrams cannot."""
        for listener in self.working():
            if listener.datagrams() is None:
                yield from list(listener.live)

    def make_room(self, number: int) -> None:
        """Close so many connections that are of no use to anybody (carrier/core/room.py), as far as there are such."""
        for listener in self.working():
            while number > 0 and listener.make_room():
                number -= 1

    # ------------------------------------------------------------------ time

    def _tick(self) -> None:
        loop = self.env.loop
        self.timer = loop.call_later(TICK, self._tick)
        now = loop.time()
        for listener in self._all_listeners():
            self.env.guard(f"the tick of listener {listener.name}", listener.tick, now)
        for cluster in list(self.clusters.values()):
            self.env.guard(f"the tick of cluster {cluster.name}", cluster.tick, now)
        self.draining = [listener for listener in self.draining if listener.connections or any(True for _ in listener.sessions())]

    def _all_listeners(self) -> Iterator[Listener]:
        yield from list(self.listeners.values())
        if self.admin is not None:
            yield self.admin
        yield from self.others
        yield from list(self.draining)

    # ------------------------------------------------------------------ sessions

    def sessions(self) -> Iterator[Session]:
        """Every live or remembered session, those of the API's own listener apart."""
        for listener in self._all_listeners():
            if listener.listed:
                yield from listener.sessions()

    def find_session(self, name: str) -> Session | None:
        found = (listener.find(name) for listener in self._all_listeners() if listener.listed)
        return next((session for session in found if session is not None), None)

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
        until = self.env.loop.time() + most
        while any(listener.live for listener in listeners):
            if self.env.loop.time() >= until:
                return
            await asyncio.sleep(LOOK)


def _spell(listener: Listener) -> str:
    key = listener.key()
    if key is None:
        return listener.name
    return authority(key[1], key[2]) if key[2] >= 0 else key[1]


def shed(reason: str) -> Fixed:
    """A table that refuses every session: there is too much already."""
    decision = Decision("", "", Hits())
    decision.said = reason
    decision.error = Error("overload", reason)
    return Fixed(decision)
