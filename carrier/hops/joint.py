"""Protocols on top of other protocols: a session whose socket is not on the wire but on another protocol's stream.

`Listener` and `Cluster` of a protocol do not know what their bytes travel in; `Over` and `OverCluster` make one that wraps another:
framing (carrier/hops/framing.py) over a byte stream, JSONSocket over anything. A `Joint` has two sides. Its `near` side stands in a ring
with the transport's socket, its `far` side is what the session sees. What is pushed into one side leaves at the other, and so do
pause, resume and stop; a protocol overrides `encode` and `decode`, or `arrived` where it has something to say first.

A wrapped listener is a whole listener with its own limits and sessions; its one route leads to the joint, and its sessions are not
listed. The session that people see has the joint's far side as source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from carrier import model as config
from carrier.core.address import Key
from carrier.core.cluster import Cluster, Plan
from carrier.core.decision import Decision, Fixed, Hits
from carrier.core.endpoint import Endpoint
from carrier.core.env import Env
from carrier.core.listener import Listener
from carrier.core.session import Session
from carrier.core.stream import DESTROYED, Socket, Stream, link
from carrier.errors import Error, Problem

if TYPE_CHECKING:
    import socket

    from carrier.core.health import Health
    from carrier.core.spec import Kind


class Side(Socket):
    """One side of a joint: what comes in here goes out at the `other` side."""

    __slots__ = ("joint", "other")
    joint: Joint
    other: Side

    def __init__(self, joint: Joint) -> None:
        super().__init__()
        self.joint = joint

    def flush(self) -> None:
        self.other.to.flush()

    def pause(self) -> None:
        self.other.back.pause()

    def resume(self) -> None:
        self.other.back.resume()

    def stop(self, error: Error | None = None) -> None:
        if error is not None:
            self.joint.broken = self.joint.broken or error
        self.other.back.stop(error)

    def status(self) -> str:
        return "END" if self.joint.over else "READY"


class Near(Side):
    """The side towards the transport: its data is decoded."""

    __slots__ = ()

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        joint = self.joint
        if joint.wrapper is not None and joint.far.session is None:
            joint.wrapper.greet(joint)
        joint.arrived(data, kind)
        if last:
            self.end()

    def end(self, trailer: Any = None) -> None:
        self.joint.ended(trailer)

    def reset(self, error: Error) -> None:
        self.joint.failed(error)

    def forget(self) -> None:
        inner = self.joint.inner
        if inner is not None and inner.status == DESTROYED:
            self.joint.closed(inner.error)


class Far(Side):
    """The side towards the session: its data is encoded."""

    __slots__ = ()

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        self.messages_out += 1
        self.bytes_out += len(data)
        self.joint.send(data, kind)
        if last:
            self.end()

    def end(self, trailer: Any = None) -> None:
        self.other.to.end(trailer)

    def reset(self, error: Error) -> None:
        self.joint.refuse(error)

    def resume(self) -> None:
        self.joint.resumed()
        super().resume()

    def forget(self) -> None:
        self.joint.forget()


class Joint:
    """See the module. wrapper, inner: the listener that made it and the transport's session. over: nothing more is passed on."""

    def __init__(self) -> None:
        self.near, self.far = Near(self), Far(self)
        self.near.other, self.far.other = self.far, self.near
        self.wrapper: Over | None = None
        self.inner: Session | None = None
        self.over = False
        self.ended_in = False
        self.broken: Error | None = None

    # ------------------------------------------------------------------ what a protocol overrides

    def encode(self, data: bytes) -> bytes:
        """What the transport carries for one message of the session."""
        return data

    def decode(self, data: bytes) -> Iterable[bytes]:
        """The messages that the transport's bytes complete. Raises Error("protocol-error")."""
        return (data,)

    def resumed(self) -> None:
        """The session reads: it was connected, or has room again."""

    def send(self, data: bytes, kind: Any = None) -> None:
        """The session says something."""
        self.near.to.data(self.encode(data), kind)

    def arrived(self, data: bytes, kind: Any = None) -> None:
        """The transport brought something."""
        try:
            for message in self.decode(data):
                self.deliver(message, kind)
        except Error as error:
            self.fail(error)

    def refuse(self, error: Error) -> None:
        """The session is told that it failed: so is the transport."""
        self.over = True
        self.near.to.reset(error)

    # ------------------------------------------------------------------ what happens to it

    def deliver(self, data: bytes, kind: Any = None) -> None:
        """Pass one message on to the session."""
        if not self.over:
            self.far.messages_in += 1
            self.far.bytes_in += len(data)
            self.far.to.data(data, kind)

    def fail(self, error: Error) -> None:
        """What came breaks the protocol: end the transport and the session."""
        if not self.over:
            self.over = True
            self.near.back.stop(error)
            self.near.to.reset(error)
            self.failed(error)

    def ended(self, trailer: Any = None) -> None:
        """The transport sends no more."""
        if not self.ended_in:
            self.ended_in = True
            session = self.far.session
            if session is not None and session.source is self.far:
                session.source_done = True
            self.far.to.end(trailer)

    def failed(self, error: Error) -> None:
        """The transport broke."""
        self.over = True
        session = self.far.session
        if session is None or session.source is not self.far:
            self.far.to.reset(error)
        else:
            session.close(error)

    def closed(self, error: Error | None) -> None:
        """The transport's session is over, and with it the one on top."""
        if error is None and not self.broken:
            self.ended()
        self.over = True
        session = self.far.session
        if session is not None and session.source is self.far:
            session.close(error or self.broken)
        self.forget()

    def forget(self) -> None:
        """Both sides let go of their neighbours, and all three of each other: the far side keeps the joint, for who asks about a session
        that has ended, and late calls go nowhere."""
        transport = self.near.to
        for side in (self.near, self.far):
            side.detach()
        self.near.joint, self.near.other, self.far.other = _GONE, _GONE.far, _GONE.near
        self.near, self.far = _GONE.near, _GONE.far
        transport.forget()  # it may be another joint's far side


_GONE = Joint()
_GONE.over = True


# ---------------------------------------------------------------------- listeners


def _one_way(cluster: Cluster) -> Fixed:
    """All sessions go to one cluster."""
    decision = Decision("", "", Hits())
    decision.cluster, decision.plain = cluster, True
    return Fixed(decision)


class _Entrance(Cluster):
    """Where a wrapped listener's sessions lead: the near sides of the joints that its wrapper makes."""

    protocol = "joint"
    virtual = True

    def __init__(self, wrapper: Over) -> None:
        super().__init__(config.Cluster(wrapper.name, {}), wrapper.inner.env)
        self.wrapper = wrapper

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream:
        joint = self.wrapper.make(session)
        joint.wrapper, joint.inner = self.wrapper, session
        self.env.loop.call_soon(self.wrapper.greet, joint)  # as soon as it is linked, also if the peer waits for us to speak first
        return joint.near


class Over(Listener):
    """A listener whose sessions travel in those of another one, `inner`; `make` gives the joint of each."""

    def __init__(self, conf: config.Listener, env: Env, inner: Callable[[config.Listener, Env], Listener], spec: Mapping[str, Any]) -> None:
        super().__init__(conf, env)
        own = Env(env.loop)
        own.resolver = env.resolver
        own.insecure_admin = env.insecure_admin
        own.ways = env.ways
        own.warn = lambda event, /, **values: env.warn(event, **values)
        own.note = lambda event, /, **values: env.note(event, **values)
        options = {name: value for name, value in conf.options.items() if name != "track"}
        self.inner = inner(config.Listener(conf.name, dict(spec), conf.rules, options), own)
        self.kind = self.inner.kind
        self.waits = self.inner.waits  # type: ignore[misc]  # of the class, for all but these
        self.entrance = _Entrance(self)

    def make(self, session: Session) -> Joint:
        """The joint for a new session of the transport."""
        raise NotImplementedError

    def greet(self, joint: Joint) -> None:
        """The transport's session is linked; by default the session on top begins now. Idempotent."""
        self.admit(joint)

    def admit(self, joint: Joint) -> None:
        """Make the session on top, and route it. Idempotent."""
        if joint.far.session is not None or joint.over or joint.inner is None or joint.inner.status == DESTROYED:
            return
        self.begin(joint.far)

    # -- everything about the address is the transport's

    @property
    def bound(self) -> list[socket.socket]:
        """The transport's sockets."""
        return self.inner.bound if hasattr(self, "inner") else []

    @bound.setter
    def bound(self, sockets: list[socket.socket]) -> None:
        if hasattr(self, "inner"):
            self.inner.bound = sockets

    ground = property(lambda self: self.inner.ground)
    listening = property(lambda self: self.inner.listening)
    port = property(lambda self: self.inner.port)
    certificates = property(lambda self: self.inner.certificates)
    connections = property(lambda self: self.inner.connections)
    dropped = property(lambda self: self.inner.dropped)

    @property
    def limited(self) -> dict[str, int]:
        return self.inner.limited if hasattr(self, "inner") else {}

    @limited.setter
    def limited(self, limited: dict[str, int]) -> None:
        if hasattr(self, "inner"):
            self.inner.limited = limited

    def datagrams(self) -> Mapping[str, int] | None:
        return self.inner.datagrams()

    def key(self) -> Key | None:
        self.inner.loopback = self.loopback
        return self.inner.key()

    def local(self) -> bool:
        return self.inner.local()

    async def bind(self) -> None:
        self.inner.loopback = self.loopback
        await self.inner.bind()

    async def prepare(self) -> None:
        await self.inner.prepare()

    def occupies(self) -> Key | None:
        return self.inner.occupies()

    def vacate(self) -> Callable[[], None] | None:
        return self.inner.vacate()

    def covers(self, other: Listener) -> bool:
        return self.inner.covers(other)

    def cover(self, covered: bool) -> None:
        self.inner.cover(covered)

    def take_over(self, old: Listener) -> bool:
        self.inner.loopback = self.loopback
        if not self.inner.take_over(old.inner if isinstance(old, Over) else old):
            return False
        self.before = old
        return True

    def continues(self, old: Listener) -> bool:
        """Bytes of one framing are none of another, and who has begun with one header has no other."""
        same = isinstance(old, Over) and type(self) is type(old) and self.conf.spec.get("framing") == old.conf.spec.get("framing")
        return same and isinstance(old, Over) and self.inner.continues(old.inner)

    def inherit(self, old: Listener) -> None:
        goes_on = self.continues(old)
        super().inherit(old)
        if goes_on and isinstance(old, Over):
            for session in self.live:
                self.adopt(_joint(session))
            self.inner.inherit(old.inner)

    def adopt(self, joint: Joint) -> None:
        """A joint of the listener whose place this one has taken."""
        joint.wrapper = self

    def start(self) -> None:
        old = self.before
        self.inner.before = old.inner if isinstance(old, Over) and self.continues(old) else None
        self.inner.use(_one_way(self.entrance))
        self.inner.start()

    def stop(self) -> None:
        self.inner.heir = self.inner.heir or self.heir  # who has taken the address need not be wrapped itself
        self.inner.stop()

    def tick(self, now: float) -> None:
        super().tick(now)
        self.inner.tick(now)

    def make_room(self) -> bool:
        return self.inner.make_room()

    def hold(self) -> None:
        self.inner.hold()

    def go_on(self) -> None:
        self.inner.go_on()

    def farewell(self) -> None:
        self.inner.farewell()

    def session_name(self, session: Session) -> str:
        inner = _joint(session).inner
        assert inner is not None
        return self.env.names.give(session, inner.name)

    def metadata(self, session: Session) -> dict[str, Any]:
        inner = _joint(session).inner
        assert inner is not None
        return self.inner.metadata(inner)


def _joint(session: Session) -> Joint:
    far = session.source
    assert isinstance(far, Far)
    return far.joint


# ---------------------------------------------------------------------- clusters


class OverCluster(Cluster):
    """A cluster whose sessions travel in those of another one, `inner`, to this one's endpoints; `make` gives the joint of each."""

    def __init__(self, conf: config.Cluster, env: Env, inner: Callable[[config.Cluster, Env], Cluster], spec: Mapping[str, Any]) -> None:
        self.inner_spec = dict(spec)
        self.inner = inner(msgspec.structs.replace(conf, spec=self.inner_spec, endpoints=()), env)
        self.inner.wrapped = True
        self.nowhere = Endpoint(conf.name, "<VIRTUAL>", 0, 1)
        super().__init__(conf, env)
        self.kind = self.inner.kind

    tls = property(lambda self: self.inner.tls)
    dropped = property(lambda self: self.inner.dropped)

    def make(self, session: Session) -> Joint:
        """The joint for a new session."""
        raise NotImplementedError

    async def opened(self, joint: Joint) -> None:
        """The transport is linked and being read; returns when the session may begin. Raises Error."""

    def plan(self, conf: config.Cluster) -> Plan:
        port = self.inner_spec.get("port")
        spec = conf.spec if port is None else {**conf.spec, "port": port}
        return super().plan(msgspec.structs.replace(conf, spec=spec))._replace(conf=conf)

    def lead_for_a_bridge(self, fenced: bool) -> None:
        super().lead_for_a_bridge(fenced)
        self.inner.lead_for_a_bridge(fenced)

    def choose(self, session: Session, tried: Any = ()) -> Endpoint:
        if type(self.inner).choose is not Cluster.choose:  # it knows better than by endpoints
            return self.inner.choose(session, tried)
        return self.nowhere if self.inner.virtual else super().choose(session, tried)

    async def open(self, session: Session, endpoint: Endpoint) -> Socket:
        transport = self.inner.ready(session, endpoint)
        if transport is None:
            transport = await self.inner.open(session, endpoint)
        joint = self.make(session)
        link([transport, joint.near])
        try:
            if isinstance(transport, Socket):
                transport.resume()
            await self.opened(joint)
        except BaseException:
            joint.over = True
            transport.reset(Error("closed", "the session did not begin"))
            raise
        if isinstance(transport, Socket):
            transport.pause()  # until the session is linked
        return joint.far

    def close(self) -> None:
        self.inner.close()
        super().close()

    def tick(self, now: float) -> None:
        super().tick(now)  # its endpoints are its own, and so is what is known of their health
        self.inner.tick(now)

    async def probe(self, endpoint: Endpoint, health: Health) -> None:
        await self.inner.probe(endpoint, health)


# ---------------------------------------------------------------------- transports in a spec


def transport_of(spec: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The transport's spec, or None."""
    found = spec.get("transport_spec") or spec.get("transport")
    return found if isinstance(found, Mapping) else None


def transport_kind(spec: Mapping[str, Any], classes: Any) -> Kind:
    """The kind of stream that its transport makes. classes: protocol -> class."""
    transport = transport_of(spec) or {}
    cls = classes(transport.get("protocol"))
    kind: Kind = cls.kind_of(transport) if cls is not None else "byte"
    return kind


def check_transport(spec: Mapping[str, Any], path: str, classes: Any) -> list[Problem]:
    """Everything wrong with the transport of a protocol over others. classes: protocol -> class."""
    transport = transport_of(spec)
    if transport is None:
        return [Problem("needs 'transport'", path, seen="nothing", allowed="{protocol: ..., ...}")]
    where = f"{path}.{'transport_spec' if spec.get('transport_spec') else 'transport'}"
    cls = classes(transport.get("protocol"))
    if cls is None or (issubclass(cls, Cluster) and cls.admin):
        return [Problem(f"no transport: {transport.get('protocol')!r}", f"{where}.protocol", seen=repr(transport.get("protocol")))]
    found: list[Problem] = cls.check(transport, where)
    return found
