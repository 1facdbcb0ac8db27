"""A configuration made ready beside the one that runs: its clusters, its tables, and what is wrong with where they lead.

What takes long is done in slices (carrier/core/slices.py): of 400 new bridges, no session waits for more than a few. Nothing that runs is
changed; what did not change is taken over as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from carrier.core import registry
from carrier.core.fence import claimed
from carrier.core.resolve import is_here
from carrier.errors import ConfigError, Error, Problem
from carrier.hops import framing
from carrier.hops.unixsocket import identity
from carrier.model import same
from carrier.rules.table import Table

if TYPE_CHECKING:
    from carrier import model
    from carrier.core.cluster import Cluster, Plan
    from carrier.core.decision import Hits
    from carrier.core.decision import Table as Decides
    from carrier.core.env import Env
    from carrier.core.listener import Listener
    from carrier.core.slices import Steps
    from carrier.rules.table import Matchers


class Running(Protocol):
    """What runs now, as far as it matters here (carrier/proxy/proxy.py)."""

    env: Env
    clusters: dict[str, Cluster]
    tables: dict[str, Table]
    matchers: Matchers
    hits: dict[str, Hits]
    admin_address: tuple[str, int] | None


class Build:
    """See the module. `undo` throws away what it made."""

    def __init__(self, proxy: Running, config: model.Config) -> None:
        self.proxy = proxy
        self.config = config
        self.clusters: dict[str, Cluster] = {}
        self.updates: list[tuple[Cluster, Plan]] = []
        """Clusters that stay, and what changes about them."""
        self.tables: dict[str, Table] = {}
        self.listeners: dict[str, Listener] = {}
        self.fresh: list[Listener] = []
        """Listeners that are new."""
        self.vacated: list[tuple[Listener, Callable[[], None]]] = []
        """Listeners in force that have given up their address to one of `fresh`, and what gives it back to them."""
        self.made: list[Cluster] = []
        """Clusters that are new."""
        self.admin: Listener | None = None
        self.api_ports: frozenset[int] = frozenset()
        self.bridged: dict[str, bool] = {}
        """Clusters of user bridges; fenced: of those that were made by REST."""
        self.warnings: list[str] = []

    def undo(self, guard: Callable[..., None]) -> None:
        for listener in self.fresh:
            guard(f"undoing listener {listener.name}", listener.stop)
        for listener, again in self.vacated:
            guard(f"binding listener {listener.name} again", again)
        for cluster in self.made:
            guard(f"undoing cluster {cluster.name}", cluster.close)

    def ways(self) -> Steps[None]:
        """Everything that a session may go by. Raises ConfigError or Error."""
        yield from self._make_clusters()
        yield from self._make_tables()
        yield from self._check_endpoints()

    def _make_clusters(self) -> Steps[None]:
        problems: list[Problem] = []
        for name, conf in self.config.clusters.items():
            yield
            old = self.proxy.clusters.get(name)
            try:
                if old is not None and same(old.conf, conf):
                    self.clusters[name] = old
                elif old is not None and same((old.conf.spec, old.conf.options), (conf.spec, conf.options)):
                    self.clusters[name] = old
                    self.updates.append((old, old.plan(conf)))
                else:
                    self.clusters[name] = made = self._new_cluster(conf)
                    self.made.append(made)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(*problems)

    def _new_cluster(self, conf: model.Cluster) -> Cluster:
        """A cluster of a configuration. Raises ConfigError or Error."""
        kind = registry.cluster(conf.spec.get("protocol", ""))
        if kind is None:
            raise ConfigError(Problem(f"unknown protocol {conf.spec.get('protocol')!r}", f"clusters[{conf.name}].spec.protocol"))
        try:
            return framing.make_cluster(kind, conf, self.proxy.env)
        except Error:
            raise
        except Exception as exc:
            raise odd("clusters", conf.name, exc) from exc

    def _make_tables(self) -> Steps[None]:
        proxy, config = self.proxy, self.config
        for rule in config.rules.values():  # what takes longest: the rest finds it made
            proxy.matchers.conditions.get(rule.name, rule.match)
            yield
        for name, conf in config.listeners.items():
            old = proxy.tables.get(name)
            table = yield from Table.making(config, conf.rules, self.clusters, proxy.matchers, proxy.hits, old)
            self.tables[name] = old if old is not None and old.equals(table) else table
            yield

    def _check_endpoints(self) -> Steps[None]:
        """No cluster may lead to the API's own addresses. Raises ConfigError. Names that do are noticed when they are looked up."""
        proxy, config = self.proxy, self.config
        ports = {config.listeners[name].spec.get("port") for name, table in self.tables.items() if leads_to_api(table)}
        if proxy.admin_address is not None and not ports:
            ports = {proxy.admin_address[1]}
        self.api_ports = frozenset(port for port in ports if isinstance(port, int) and port)
        of_file = {bridge.cluster: False for bridge in proxy.env.bridges_of_file(config).values()}
        self.bridged = {
            name: fenced
            for name, fenced in (of_file | {bridge.cluster: True for bridge in config.bridges.values()}).items()
            if name in config.clusters
        }
        own = claimed(config.listeners.values(), registry.listener)
        problems = []
        for name, cluster in config.clusters.items():
            yield
            transport = self.clusters[name].transport
            for i, endpoint in enumerate(cluster.endpoints):
                address, port = str(endpoint.spec.get("address")), endpoint.spec.get("port", cluster.spec.get("port"))
                ours = isinstance(port, int) and port in self.api_ports and self.clusters[name].kind != "datagram"
                if self._is_api_file(address) or (ours and (is_here(address) or address.lower().rstrip(".") == "localhost")):
                    path = f"clusters[{name}].endpoints[{i}].spec"
                    text = f"{address} is where the REST API listens: no cluster leads there"
                    problems.append(Problem(text, path, hint="route to a cluster of protocol L7mpController"))
                elif name in self.bridged and own.at(transport, address, port, proxy.env.resolver.lookup.local()):
                    path = f"clusters[{name}].endpoints[{i}].spec"
                    problems.append(Problem(f"{address}:{port} is a listener of this proxy: a bridge to it would go round", path))
        if problems:
            raise ConfigError(*problems)

    def _is_api_file(self, address: str) -> bool:
        """Is it the file of the API's unix socket, by whatever name? Names that lead there only later are noticed when connecting."""
        files = self.proxy.env.api_files
        return bool(files) and identity(address) in files.values()


def leads_to_api(table: Decides, only: bool = False) -> bool:
    """Does any rule of the table lead into the REST API? only: does every one?"""
    found = [cluster.admin for cluster in table.reaches]
    return bool(found) and (all(found) if only else any(found))


def odd(kind: str, name: str, exc: Exception) -> ConfigError:
    """A protocol's class stumbled over a value that it did not expect: the change is refused, the process lives."""
    return ConfigError(Problem(f"cannot be made: {type(exc).__name__}: {exc}", f"{kind}[{name}]"))
