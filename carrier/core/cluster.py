"""What every protocol's cluster shares: endpoints, their choice, and the two ways to a destination.

A protocol file subclasses `Cluster` and gives `ready()` (a destination that is there at once: a virtual stream, an idle pooled
connection) or `open()` (a destination that must be connected). The class attributes say what it carries. A running cluster lives
on while its spec is unchanged; `update()` takes new endpoints and policy, and keeps what is known of the endpoints that stay.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from carrier.core.balance import KEYED, Balancer
from carrier.core.breaker import Breaker
from carrier.core.endpoint import Endpoint
from carrier.core.health import Health
from carrier.core.labels import of_cluster
from carrier.core.lookup import is_service
from carrier.core.metadata import get_at
from carrier.core.spec import Specified, check_fields, check_port
from carrier.errors import ConfigError, Error, Problem, from_os

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.resolve import Address
    from carrier.core.session import Session
    from carrier.core.stream import Socket, Stream

MAX_WEIGHT = 1e9
STAGGER = 0.25
"""Seconds that one address has to answer before the next one is tried as well (RFC 8305 section 8)."""
Connected = TypeVar("Connected")


class Plan(NamedTuple):
    """A cluster's next configuration, checked and ready, so that putting it in force cannot fail."""

    conf: config.Cluster
    endpoints: list[tuple[Endpoint, float]]
    """With their weights: an endpoint that stays gets its new one when the plan is carried out."""
    balancer: Balancer


class Cluster(Specified):
    """A running cluster. `name`, `spec` and the policy come from its frozen `config.Cluster`."""

    virtual: ClassVar[bool] = False
    """Has no endpoints: the stream is played here."""
    tls: Any = None
    """Its TLS towards endpoints (a ClientTls of carrier/hops/certificates.py); None or something else: none."""
    dropped: Mapping[str, int] = {}
    """Datagrams that went nowhere, by reason."""
    shows_endpoint: ClassVar[bool] = True
    """A virtual one is listed with an endpoint, as l7mp does."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Fields of the spec that are shown although nobody gave them."""
    messages_only: ClassVar[bool] = False
    """Takes a request of its own protocol or none: what only passes messages on is sent without one."""
    endpoint_class: type[Endpoint] = Endpoint
    places: ClassVar[bool] = True
    """Its endpoints are somewhere: each has an address."""
    default_policy: ClassVar[str] = "Trivial"
    admin: ClassVar[bool] = False
    """Leads into the REST API: a listener that routes here binds loopback only."""
    names_clusters: ClassVar[tuple[str, ...]] = ()
    """Fields of the spec that name other clusters."""
    transport: ClassVar[str] = "tcp"
    """Of what its endpoints' `port` is a port."""
    wrapped: bool = False
    """Its streams carry another protocol's (carrier/hops/joint.py): what comes from a source may not pass as it is."""
    same_length: ClassVar[bool] = False
    """As a transform it passes on what came, byte by byte: the length that a message declares still holds behind it."""
    failover: ClassVar[bool] = True
    """An endpoint that cannot be connected to is replaced by another of the cluster, before any retry."""

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        self.env = env
        self.name = conf.name
        self.sessions_elsewhere = 0
        """Sessions ever that none of the endpoints has counted: of a virtual cluster, of a transform, of endpoints that are gone."""
        self.down = False
        """All endpoints are down: a route's fallback serves at once."""
        options = conf.options.get("health")
        self.health = Health(self, options if isinstance(options, dict) else {})
        self.breaker = Breaker(conf.options)
        self.selectable: list[Endpoint] = []
        """The endpoints that are not drained: those that are chosen from."""
        self.ups = 0
        """Endpoints that are up."""
        self.fenced = self.outward = False
        """It is a user bridge's: it leads only where those that are made by REST may; and never to a listener of this process."""
        self.drained: frozenset[str] = frozenset()
        """Names of endpoints that get no new sessions."""
        self.endpoints: list[Endpoint] = []
        self.conf = conf
        self.update(conf)

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with a spec, by the strict standard (files, PUT, POST /config)."""
        found = check_fields(spec, path, cls.fields, cls.kind == "byte" and not cls.virtual)
        if "port" in cls.fields:
            found += check_port(spec, path, required=True)
        return found + cls.check_tls(spec, path)

    def update(self, conf: config.Cluster) -> None:
        """Take new endpoints and a new policy; sessions and idle connections of endpoints that stay are kept. Raises ConfigError."""
        self.adopt(self.plan(conf))

    def plan(self, conf: config.Cluster) -> Plan:
        """Everything of an update that can fail; changes nothing. Raises ConfigError."""
        problems = []
        if self.virtual and conf.endpoints:
            problems.append(Problem(f"a cluster of protocol {self.protocol} has no endpoints", f"clusters[{conf.name}].endpoints"))
        known = {(e.name, e.address): e for e in self.endpoints}
        port = conf.spec.get("port")
        endpoints = []
        for i, e in enumerate(conf.endpoints):
            if isinstance(e.weight, bool) or not isinstance(e.weight, (int, float)) or not 0 <= e.weight < MAX_WEIGHT:
                path = f"clusters[{conf.name}].endpoints[{i}].weight"
                problems.append(Problem(f"expected a number, got {e.weight!r}", path, seen=repr(e.weight), allowed="0 or more"))
            own = e.spec.get("port", port)
            new = self.endpoint_class(
                e.name, str(e.spec.get("address") or e.spec.get("filename", "")), own if isinstance(own, int) else 0, e.weight
            )
            endpoints.append((known.pop((new.name, new.address), new), e.weight))
        if problems:
            raise ConfigError(*problems)
        return Plan(conf, endpoints, Balancer(conf.loadbalancer.policy, conf.endpoints))

    def adopt(self, plan: Plan) -> None:
        """Put a plan in force."""
        self.conf = conf = plan.conf
        self.spec = conf.spec
        old = self.endpoints
        self.endpoints = []
        self.policy = conf.loadbalancer.policy
        self.key = conf.loadbalancer.key
        self.keyed = bool(self.key) and self.policy in KEYED
        self.balancer = plan.balancer
        for endpoint, weight in plan.endpoints:
            endpoint.weight = weight
            endpoint.watcher, endpoint.eager = self, self.policy == "least_sessions"
            self.endpoints.append(endpoint)
        for gone in set(old).difference(self.endpoints):
            gone.watcher, gone.eager = None, False
            self.sessions_elsewhere += gone.total
            self.discard(gone)
        self.ups = sum(endpoint.up for endpoint in self.endpoints)
        self.down = bool(self.endpoints) and not self.ups
        self._select()

    @property
    def label(self) -> str:
        """What people call it."""
        return of_cluster(self.name, self.spec.get("protocol"), [endpoint.address for endpoint in self.endpoints])

    @property
    def sessions_total(self) -> int:
        """Sessions ever."""
        return self.sessions_elsewhere + sum(endpoint.total for endpoint in self.endpoints)

    def _select(self) -> None:
        """Who may be chosen has changed."""
        undrained = [endpoint for endpoint in self.endpoints if endpoint.name not in self.drained]
        self.selectable = undrained if self.drained else self.endpoints
        self.balancer.changed()
        alone = len(self.endpoints) == 1 and self.policy != "None" and not self.drained
        self.only = self.endpoints[0] if alone else None

    def lead_for_a_bridge(self, fenced: bool) -> None:
        """It is a user bridge's. fenced: one that was made by REST."""
        self.outward, self.fenced = True, fenced

    def turned(self, endpoint: Endpoint) -> None:
        """See `Watcher` of carrier/core/endpoint.py."""
        self.ups += 1 if endpoint.up else -1
        self.down = not self.ups
        self.balancer.changed()

    def eased(self, endpoint: Endpoint) -> None:
        """See `Watcher`."""
        self.balancer.eased(endpoint)

    def drain(self, names: Collection[str]) -> None:
        """Endpoints of these names get no new sessions from now on; those that they have go on. The others are drained no more."""
        found = [endpoint for endpoint in self.endpoints if endpoint.name in names]
        self.drained = frozenset(endpoint.name for endpoint in found)
        self._select()
        for endpoint in found:
            self.discard(endpoint)

    def discard(self, endpoint: Endpoint) -> None:
        """An endpoint is gone: close its idle connections."""
        idle, endpoint.idle = endpoint.idle, []
        for connection in idle:
            self.env.guard(f"closing an idle connection of {endpoint.name}", connection.close)

    def close(self) -> None:
        """The cluster is gone from the configuration; sessions through it live on."""
        self.health.stop()
        for endpoint in self.endpoints:
            self.discard(endpoint)

    def choose(self, session: Session, tried: Collection[str] = ()) -> Endpoint:
        """An endpoint for the session by the cluster's policy. Raises Error("no-endpoint")."""
        if self.only is not None and not tried:
            return self.only
        key = None
        if self.keyed:
            value = get_at(session.metadata, self.key or "")
            key = None if value is None else str(value)
        found = self.balancer.choose(self.selectable, key, tried)
        if found is None:
            raise Error("no-endpoint", f"Not Found: No endpoint in cluster {self.name!r}", "upstream", "yes")
        return found

    @property
    def limited(self) -> Mapping[str, int]:
        """How often a limit of its own refused something, by its name."""
        return {}

    def takes_h2(self) -> bool:
        """Would its endpoints take HTTP/2 from who offers it to clients inside TLS, as far as that is known? Asked once a second."""
        return False

    def first_asked(self) -> asyncio.Task[None] | None:
        """Who is asking that now, if it was never known."""
        return None

    def tunnels(self, session: Session) -> bool:
        """Will the destination itself answer a session's request for another protocol, so that its bytes are relayed as they are?"""
        return False

    def whose_turn(self) -> Endpoint | None:
        """The endpoint that `choose` will say next; None: that depends on the session, or nobody may be chosen."""
        return None if self.keyed else self.balancer.peek(self.selectable)

    def turn_taken(self) -> None:
        """It got the session: the next turn is another's."""
        self.balancer.kept = None

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream | None:
        """A destination that is there at once, or None: then `open` must be awaited. Virtual clusters are always ready."""
        return None

    async def open(self, session: Session, endpoint: Endpoint) -> Socket:
        """Connect; the socket starts paused. Raises Error (retry "yes": nothing was sent on)."""
        raise NotImplementedError

    async def reach(self, session: Session, endpoint: Endpoint, timeout: float) -> Socket:
        """`open` within `timeout` seconds, as far as the breaker lets it; to look its name up takes its own time. Raises Error."""
        self.breaker.connect(self)
        try:
            if endpoint.named and "port" in self.fields:
                await self.env.resolver.resolve(endpoint.host, endpoint.port, socket.SOCK_DGRAM)
            async with asyncio.timeout(timeout):
                return await self.open(session, endpoint)
        except TimeoutError:
            raise Error("timeout", f"{endpoint.address}: no connection within {timeout:g} s", "upstream", "yes") from None
        finally:
            self.breaker.connected()

    def tick(self, now: float) -> None:
        """Once a second: health; idle connections and upstream deadlines; names that have moved."""
        self.health.tick(now)
        for endpoint in self.endpoints:
            if endpoint.named and (endpoint.idle or endpoint.active):
                places = self.env.resolver.places(endpoint.host)
                if places is not None:
                    self.follow(endpoint, places)

    def follow(self, endpoint: Endpoint, places: frozenset[str]) -> None:
        """The name of an endpoint leads to these addresses: keep nothing idle at others, and no peers of datagrams."""

    async def probe(self, endpoint: Endpoint, health: Health) -> None:
        """Is there somebody at the endpoint? Raises Error. By default: can one connect to it by TCP? What is not reached so cannot be asked
        without being served: if it has an address, the next session tries."""
        if "port" not in self.fields:
            return
        if self.transport != "tcp":
            await self.addresses(endpoint)
            return

        async def one(address: Address) -> socket.socket:
            sock = socket.socket(address[0], socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                await self.env.loop.sock_connect(sock, address[1])
            except (OSError, OverflowError) as exc:
                sock.close()
                raise from_os(exc, "upstream", endpoint.address) if isinstance(exc, OSError) else Error("no-endpoint", str(exc)) from None
            except BaseException:
                sock.close()
                raise
            return sock

        (await first_that_connects(await self.addresses(endpoint), one)).close()

    async def addresses(self, endpoint: Endpoint, kind: socket.SocketKind = socket.SOCK_STREAM) -> list[Address]:
        """Where an endpoint is. Raises Error: it has no port, its name is not known."""
        self.check_port_of(endpoint)
        found = await self.env.resolver.resolve(endpoint.host, endpoint.port, kind)
        if self.fenced:
            found = [address for address in found if self.env.fence.lets(str(address[1][0]))]
            if not found:
                text = f"{endpoint.address}: bridges may not lead there (bridges.networks: {self.env.fence})"
                raise Error("forbidden", text, "upstream", "yes")
        if self.outward:
            found = [address for address in found if not self.env.own.at(self.transport, str(address[1][0]), address[1][1])]
            if not found:
                text = f"{endpoint.address}: that is a listener of this proxy, and the session would go round"
                raise Error("loop", text, "upstream", "yes")
        return found

    def check_port_of(self, endpoint: Endpoint) -> None:
        """Raises Error: it has none, and is no service, which has one of its own."""
        if not 0 < endpoint.port < 65536 and not (endpoint.named and is_service(endpoint.host)):
            raise Error("no-endpoint", f"{endpoint.name}: {self.spec.get('port')!r} is not a port", "upstream", "yes")


async def first_that_connects(
    addresses: list[Any], connect: Callable[[Any], Coroutine[Any, Any, Connected]], slower: Callable[[Any], object] = lambda address: None
) -> Connected:
    """Connect to the first of the addresses where that works (RFC 8305 section 5): the next one is tried when one has failed, or has not
    answered after `STAGGER` seconds. `slower` is told of those before it that did not. Raises the last Error."""
    if len(addresses) == 1:
        return await connect(addresses[0])
    loop = asyncio.get_running_loop()
    left = list(addresses)
    tried: dict[asyncio.Task[Connected], Any] = {}
    failed: list[Any] = []
    failure = Error("dns", "the name has no address", "upstream", "yes")
    try:
        while left or tried:
            if left:
                address = left.pop(0)
                tried[loop.create_task(connect(address))] = address
            done, _ = await asyncio.wait(tried, timeout=STAGGER if left else None, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                address = tried.pop(task)
                exc = task.exception()
                if exc is None:
                    for other in (*failed, *tried.values()):
                        slower(other)
                    return task.result()
                if not isinstance(exc, Error):
                    raise exc
                failed.append(address)
                failure = exc
        raise failure
    finally:
        for task in tried:
            task.cancel()
            task.add_done_callback(_too_late)


def _too_late(task: asyncio.Task[Any]) -> None:
    """Another address was faster."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
