"""What the daemon's REST API has more than the proxy's: a mount as a whole, for the provider that leads it.

    PUT  /mount         {"document": ..., "bridges": {NAME: BRIDGE}, "files": {NAME: PEM}}
    GET  /mount         how its bridges are: served, by whom instead, nearest misses
    PUT  /mount/NAME    a bridge, as PUT /bridges/NAME takes it; in force when its endpoint was reached, or after ?patience= seconds (0:
                        at once, and the shadow serves until a probe has reached it); with hold=1 one that is new and was not reached
                        is not put in force: `held` says so

`PUT /mount` puts in force, at once and as one revision, the ports of a pod (a document in Gefyra's format, without bridges), its
certificates, and exactly these bridges; those that a hand made, whose names are no provider's (OBJECT.PORT), stay. The same again changes
nothing. It says which bridges it gave because they were lacking, and which it could not give, and why. A pod that was led by a file is
taken over in the same step. `PUT /mount/NAME` is refused with 409 by a pod that no provider has configured since its container began. It
waits with its rule, because a Service is routed up to a second after it is made: until then every request would wait for a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from carrier import model
from carrier.admin.calls import Call, Operation, Serving
from carrier.admin.operations import OPERATIONS
from carrier.bridges.shown import plainly
from carrier.config.document import from_document
from carrier.core import registry
from carrier.errors import ConfigError, Error, Problem, shown
from carrier.gefyra.format import read
from carrier.hops.framing import make_cluster
from carrier.model import Config

if TYPE_CHECKING:
    from pathlib import Path

    from carrier.core.cluster import Cluster
    from carrier.gefyra.tally import Tally
    from carrier.process.serve import Server

PATIENCE = 10.0
"""Seconds that a caller may wait for an endpoint, at most."""
TRY = 0.3
"""Seconds for one attempt to reach it; its route may be a second in coming, and until then nothing answers at all."""
PAUSE = 0.1
UNTRIED = Error("unreachable", "nobody has looked for it yet", "upstream", "yes"), ""
FILE = re.compile(r"from_k8s_secret_(cert|key)_([0-9]{1,5}|all)\.pem")
"""Names of the files that certificates from a Secret have, as the operator gives them."""
_FIELDS = ("document", "bridges", "files")


class Leader(Protocol):
    """What the operations need of the daemon (carrier/gefyra/daemon.py)."""

    server: Server
    tally: Tally
    mounted: bool

    @property
    def folder(self) -> Path: ...

    def give_files(self, files: Mapping[str, str]) -> None: ...

    def mount(self, document: Any, files: dict[str, str]) -> None: ...

    async def refresh(self) -> None: ...

    async def keep(self, config: Config) -> None: ...


class Mounted:
    """The operations; `serve` adds them to the API's. daemon: whose proxy it is."""

    def __init__(self, daemon: Leader) -> None:
        self.daemon = daemon

    def serve(self) -> None:
        """Take calls from now on."""
        OPERATIONS["GET", "mount"] = Operation(read=self.show, strict=True)
        OPERATIONS["PUT", "mount"] = Operation(act=self.put, strict=True, takes_body=True, writes=True)
        OPERATIONS["PUT", "mount/*"] = Operation(act=self.put_bridge, strict=True, takes_body=True, writes=True)

    # ------------------------------------------------------------------ GET

    def show(self, api: Serving, _call: Call) -> Any:
        """How every bridge is."""
        proxy, tally = self.daemon.server.proxy, self.daemon.tally
        found = []
        for bridge in proxy.config.bridges.values():
            body = api.bridges.dump(proxy.config, bridge.name, clusters=proxy.clusters)
            found.append({"name": bridge.name, "user": bridge.user, "endpoint": body.get("endpoint"), **body["status"], **tally.of(bridge)})
        return {"mounted": self.daemon.mounted, "requests": tally.requests, "bridges": found}

    # ------------------------------------------------------------------ PUT /mount

    async def put(self, api: Serving, call: Call) -> Any:
        """All of it. Raises ConfigError, Error: then nothing has changed but files."""
        body = _body(call)
        problems = [Problem(f"unknown field {name!r}", f"$.{name}", allowed=", ".join(_FIELDS)) for name in body if name not in _FIELDS]
        document, bridges, files = body.get("document"), body.get("bridges") or {}, body.get("files") or {}
        for name, value in (("document", document), ("bridges", bridges), ("files", files)):
            if not isinstance(value, Mapping):
                problems.append(Problem(f"expected an object, got {shown(value)}", f"$.{name}", seen=shown(value)))
        if isinstance(files, Mapping):
            for name, text in files.items():
                if not FILE.fullmatch(str(name)) or not isinstance(text, str):
                    problems.append(Problem("no certificate's file", f"$.files.{name}", seen=shown(name), allowed=FILE.pattern))
        if problems:
            raise ConfigError(*problems)
        assert isinstance(document, Mapping)
        document = self._with_paths(document, files)
        self.daemon.give_files(files)
        found = read(document, probes_first=True)
        async with api.lock:
            return await self._level(api, document, found, bridges, dict(files))

    def _with_paths(self, document: Mapping[str, Any], files: Mapping[str, str]) -> Mapping[str, Any]:
        """The document with certificates that are given along named by where they are put."""
        if not files:
            return document
        ports = []
        for port in document.get("proxy") or []:
            tls = port.get("tls") if isinstance(port, Mapping) else None
            if isinstance(tls, Mapping):
                named = {key: str(self.daemon.folder / value) if value in files else value for key, value in tls.items()}
                port = {**port, "tls": named}
            ports.append(port)
        return {**document, "proxy": ports}

    async def _level(self, api: Serving, document: Any, found: Any, wanted: Mapping[str, Any], files: dict[str, str]) -> Any:
        daemon = self.daemon
        old = daemon.server.proxy.config
        bare = old
        for name in old.bridges:
            bare = api.bridges.delete(bare, name)
        new, warnings = from_document(found, base=bare, protocols=api.protocols)
        bodies = {name: api.bridges.dump(old, name) for name in old.bridges if not is_providers(name)}
        bodies |= {name: self._wanted(api, old, name, body) for name, body in wanted.items() if name not in api.bridges.gone}
        lost = {}
        for name, body in bodies.items():
            try:
                new = api.bridges.put(new, name, body)
            except ConfigError as error:
                lost[name] = "; ".join(map(str, error.problems))
            except Error as error:
                lost[name] = error.detail
        given = [name for name in wanted if name in new.bridges and new.bridges[name] != old.bridges.get(name)]
        said = [*map(str, warnings)]
        daemon.mount(document, files)
        if msgspec.structs.replace(new, revision=old.revision) != old:
            said += await daemon.server.proxy.apply(new)
        else:
            await daemon.keep(old)
        await daemon.refresh()
        for name in given:
            daemon.tally.made(new.bridges[name])
        daemon.tally.forget(new.bridges)
        return {"given": given, "lost": lost, "warnings": said}

    def _wanted(self, api: Serving, old: Config, name: str, body: Any) -> Any:
        """A lease runs from when it was given: one that is there as it is wanted keeps its end."""
        there = old.bridges.get(name)
        if there is None or not isinstance(body, Mapping):
            return body
        spec = {key: value for key, value in body.items() if key not in ("name", "status", "expires") and value is not None}
        return api.bridges.dump(old, name) if there.spec == spec and there.user == body.get("user") else body

    # ------------------------------------------------------------------ PUT /mount/NAME

    async def put_bridge(self, api: Serving, call: Call) -> Any:
        """One bridge. Raises ConfigError, Error."""
        name, body = call.names[0], _body(call)
        daemon, patience, hold = self.daemon, _seconds(call.query.get("patience", "0")), call.query.get("hold") == "1"
        self._check_mounted()
        before = daemon.server.proxy.config
        wanted = api.bridges.put(before, name, body)  # what would be refused is refused at once
        error: tuple[Error, str] | None = UNTRIED
        if patience:
            error = await self._reached(wanted.clusters[wanted.bridges[name].cluster], patience)
        if hold and error is not None and name not in daemon.server.proxy.config.bridges:
            return {"held": True, "reached": False, "reason": error[1]}
        async with api.lock:
            self._check_mounted()
            old = daemon.server.proxy.config
            new = wanted if old is before else api.bridges.put(old, name, body)
            if new is not old:
                await daemon.server.proxy.apply(new)
            if old.bridges.get(name) != new.bridges[name]:
                daemon.tally.made(new.bridges[name])
                self._begin_down(new.bridges[name].cluster, error)
        reason = error[1] if error is not None else ""
        return {"reached": error is None, "reason": reason, "warnings": api.bridges.warnings(new, name)}

    def _begin_down(self, cluster_name: str, error: tuple[Error, str] | None) -> None:
        """Nobody's request is to wait for an endpoint that was just looked for and is not there: probes find it when it is."""
        cluster = self.daemon.server.proxy.clusters.get(cluster_name)
        if cluster is not None and error is not None:
            for endpoint in cluster.endpoints:
                for _ in range(int(cluster.health.failures)):
                    cluster.health.failed(endpoint, error[0])

    def _check_mounted(self) -> None:
        if not self.daemon.mounted:
            raise Error("conflict", "this proxy has no mount: its container has begun anew, or it is led by a file. PUT /mount first")

    async def _reached(self, conf: model.Cluster, patience: float) -> tuple[Error, str] | None:
        """Try a bridge's endpoint until somebody is there; None, or why not, also in plain words.

        Attempts overlap: one that began before its route was there hangs until its end, and the next does not wait for it.
        """
        kind = registry.cluster(str(conf.spec.get("protocol")))
        if kind is None:
            return None
        deadline = time.monotonic() + patience
        cluster = make_cluster(kind, conf, self.daemon.server.env)
        reached = asyncio.Event()
        errors = [UNTRIED]
        attempts: list[asyncio.Task[None]] = []

        async def attempt() -> None:
            error = await _try(cluster)
            if error is None:
                reached.set()
            else:
                errors.append(error)

        try:
            while not reached.is_set():
                attempts.append(asyncio.create_task(attempt()))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PAUSE):
                        await reached.wait()
                if time.monotonic() + PAUSE > deadline:
                    await attempts[0]
                    break
            return None if reached.is_set() else errors[-1]
        finally:
            for one in attempts:
                one.cancel()
            cluster.close()


async def _try(cluster: Cluster) -> tuple[Error, str] | None:
    """Is somebody at one of a cluster's endpoints? None, or why not."""
    found = None
    for endpoint in cluster.endpoints:
        try:
            async with asyncio.timeout(TRY):
                await cluster.probe(endpoint, cluster.health)
            return None
        except TimeoutError:
            error = Error("unreachable", f"{endpoint.address}: no connection within {TRY:g} s", "upstream", "yes")
        except Error as exc:
            error = Error(exc.kind, exc.detail, "upstream", "yes")
        found = error, plainly(endpoint, error)
    return found


def is_providers(name: str) -> bool:
    """Is it a name that a provider gives: OBJECT.PORT?"""
    owner, _, port = name.rpartition(".")
    return bool(owner) and port.isascii() and port.isdigit()


def _seconds(text: str) -> float:
    try:
        return min(PATIENCE, max(0.0, float(text)))
    except ValueError:
        raise ConfigError(Problem(f"expected seconds, got {shown(text)}", "?patience", allowed=f"0..{PATIENCE:g}")) from None


def _body(call: Call) -> Mapping[str, Any]:
    assert call.decoded is not None
    if call.decoded.problems:
        raise ConfigError(*call.decoded.problems)
    if not isinstance(call.body, Mapping):
        raise ConfigError(Problem(f"expected an object, got {shown(call.body)}", "$", seen=shown(call.body)))
    return call.body
