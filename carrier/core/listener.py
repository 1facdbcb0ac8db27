"""What every protocol's listener shares: a bound address, the routing table in force, its sessions, those it still remembers.

A protocol file subclasses `Listener`, binds in `bind()` (which must fail cleanly: nothing is accepted before `start()`), makes a
`begin(source)` for each stream. The table is swapped at every change; a session keeps the decision it began with.

A listener that takes another's place (`take_over`) goes on with what that one had (`inherit`): its numbers and, if both are of one kind,
its sessions and connections, so that nobody notices that an option has changed.
"""

from __future__ import annotations

import socket
import ssl
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from carrier.core.address import Key, is_loopback
from carrier.core.decision import Decision, Hits
from carrier.core.ledger import LARGE
from carrier.core.resolve import literal
from carrier.core.session import Session
from carrier.core.spec import Specified, check_fields, check_port, check_text
from carrier.core.ways import MOST
from carrier.errors import Error, Problem
from carrier.options import numbers

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.decision import Needs, Table
    from carrier.core.env import Env
    from carrier.core.stream import Socket

WANTED = ("killed", "drain")
"""Errors that somebody here wanted: a session that ends so has not failed."""
TRACKED = 10_000
"""Ended sessions that one listener remembers at most (`options.track`)."""


class Listener(Specified):
    """A running listener. name, spec, options: from its frozen `config.Listener`."""

    transport: ClassVar[str] = "tcp"
    """Of what its `port` is a port."""
    waits: ClassVar[bool] = False
    """What finds no room waits in the kernel's queue (`hold`); False: it is told so, or dropped."""
    certificates: Any = None
    """The certificates that it shows (a ServerTls of carrier/hops/certificates.py); None: none."""
    dropped: Mapping[str, int] = {}
    """Datagrams that went nowhere, by reason."""
    gives_names: ClassVar[bool] = True
    """A session's name may be another's already (carrier/core/names.py); False: it is made of what the session is, and no other has it."""
    __slots__ = ("__dict__", "__weakref__", "counter", "env", "listed", "now", "track")  # read for each session: faster than the others

    def __init__(self, conf: config.Listener, env: Env) -> None:
        self.conf = conf
        self.env = env
        self.name = conf.name
        self.spec: Mapping[str, Any] = conf.spec
        self.options: Mapping[str, Any] = conf.options
        self.table: Table
        self.counter = 0
        """Sessions ever; each gets the next number."""
        self.failed = 0
        self._live: set[Session] = set()
        self.track = numbers(conf.options, {"track": 0})["track"]
        self.tracked: deque[Session] = deque(maxlen=TRACKED)
        self.bound: list[socket.socket] = []
        self.loopback = False
        """Bind loopback only, whatever the spec says: this listener leads into the API."""
        self.tls: ssl.SSLContext | None = None
        """TLS with what connects, or None."""
        self.listed = True
        """Its sessions are shown; those of the API's own listener are not."""
        self.limited: dict[str, int] = {}
        """How often a limit refused something or held it back, by its name."""
        self.before: Listener | None = None
        """The listener whose place this one takes, until it has."""
        self.heir: Listener | None = None
        """The listener that has taken this one's place."""

    # ------------------------------------------------------------------ configuration

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with a spec, by the strict standard (files, PUT, POST /config)."""
        found = check_fields(spec, path, cls.fields, cls.kind == "byte")
        if "port" in cls.fields:
            found += check_port(spec, path, required=True, least=0)
        address = spec.get("address")
        if "address" in cls.fields and address is not None and (not isinstance(address, str) or literal(address, 0) is None):
            found.append(Problem(f"expected an IP address, got {address!r}", f"{path}.address", seen=repr(address), allowed="IPv4 or IPv6"))
        if "path" in cls.fields:
            found += check_text(spec, path, "path")
        return found + cls.check_tls(spec, path)

    @classmethod
    def claim(cls, spec: Mapping[str, Any]) -> Key | None:
        """The port that a listener of this spec would ask for, so that a check sees two of one; None: none, or any that is free."""
        port = spec.get("port")
        return (cls.transport, str(spec.get("address") or "*"), port) if isinstance(port, int) and port else None

    @classmethod
    def refuses(cls, options: Mapping[str, Any], needs: Needs, metadata: Mapping[str, Any]) -> Error | None:
        """Why a listener with these options refuses a session of this metadata before it asks any rule; None: it does not. needs: what
        its rules look at."""
        return None

    def key(self) -> Key | None:
        """What this listener occupies, or None."""
        return None

    def local(self) -> bool:
        """Can only this machine reach it?"""
        address = self.spec.get("address")
        return self.loopback or (isinstance(address, str) and is_loopback(address))

    # ------------------------------------------------------------------ life

    async def bind(self) -> None:
        """Take the address, accept nothing yet. Raises Error("bind")."""
        raise NotImplementedError

    def use(self, table: Table) -> None:
        """Route new sessions by this table."""
        self.table = table

    @property
    def listening(self) -> bool:
        """Does it have its address? What listens at something else than a socket says so itself."""
        return bool(self.bound)

    def start(self) -> None:
        """Begin to accept."""

    def take_over(self, old: Listener) -> bool:
        """Use the bound sockets of the listener that this one replaces; False when they do not fit."""
        key = self.key()
        if key is None or key not in (old.key(), old.occupies()):
            return False
        self.bound = [sock.dup() for sock in old.bound]
        self.before = old
        return True

    def occupies(self) -> Key | None:
        """Its key, with the port that the kernel has chosen for it."""
        key = self.key()
        if key is None or key[2] != 0 or not self.bound:
            return key
        name = self.bound[0].getsockname()
        return (key[0], key[1], int(name[1])) if isinstance(name, tuple) else key  # the API's own has a file

    def blocks(self, key: Key | None) -> bool:
        """May what this listener occupies be what a listener of that key cannot have beside it: the same port or file?"""
        mine = self.occupies()
        if mine is None or key is None or mine[0].partition(" ")[0] != key[0].partition(" ")[0]:
            return False
        return mine[2] == key[2] > 0 or (key[2] < 0 and mine[1:] == key[1:])

    @property
    def ground(self) -> Listener:
        """Whose the sockets are: its own, or those of the listener that it is on top of."""
        return self

    def covers(self, other: Listener) -> bool:
        """May this one share the sockets of `other`, which has the same address, and hear in its place what comes, for as long as it is
        there? Only where l7mp lets two have one address, and the kernel gives what comes to the last one."""
        return False

    def cover(self, covered: bool) -> None:
        """Another one hears what comes from now on, or does so no more. Idempotent."""

    async def prepare(self) -> None:
        """Before an address is taken, by `bind` or from another listener: what has to be looked up. Raises Error."""

    def vacate(self) -> Callable[[], None] | None:
        """Give the address up for the listener that replaces this one, which goes on otherwise; returns what takes it back (which raises
        OSError). None: it cannot."""
        return None

    def continues(self, old: Listener) -> bool:
        """May what `old` has accepted go on here, as if nothing had changed?"""
        return type(self) is type(old) and self.name == old.name and self.spec.get("tls") == old.spec.get("tls")

    def inherit(self, old: Listener) -> None:
        """Go on with what the listener has whose place this one takes; called when this one has started and `old` has not been stopped."""
        self.before, old.heir = None, self
        if self.name == old.name:
            self.counter, self.failed = old.counter, old.failed  # no two sessions of one name, and no counter that falls
            self.limited = old.limited | self.limited
            self.tracked.extend(old.tracked)
            old.tracked.clear()
        if self.continues(old):
            live, old._live = old._live, set()
            self._live |= live
            for session in live:
                session.listener = self

    def farewell(self) -> None:
        """The end is near: from now on answers ask their clients to leave; everything is still accepted."""

    def hold(self) -> None:
        """Too much comes: accept nothing for now, where what comes can wait in the kernel."""

    def go_on(self) -> None:
        """Accept again."""

    def stop(self) -> None:
        """Accept no more and give the address back; live sessions go on."""
        self.release()

    def release(self) -> None:
        """Give the address back. Idempotent."""
        for sock in self.bound:
            sock.close()
        self.bound = []

    def tick(self, now: float) -> None:
        """Once a second (monotonic seconds): deadlines, tracked sessions that are due."""
        while self.tracked and self.tracked[0].ended_at + self.track <= now:
            self.tracked.popleft()

    # ------------------------------------------------------------------ connections

    @property
    def connections(self) -> Collection[Any]:
        """What is accepted and not gone; where nothing is accepted, the sources of its sessions."""
        return [session.source for session in self.live]

    @property
    def port(self) -> int | None:
        """The port that it is bound to, if it has one."""
        return None

    def datagrams(self) -> Mapping[str, int] | None:
        """What a listener of datagrams has received, sent and dropped; None: it is none."""
        return None

    def make_room(self) -> bool:
        """Close a connection that is of no use to anybody; False: there is none."""
        return False

    def hit(self, limit: str) -> None:
        """A limit refused something, or held it back: count it by its name."""
        self.limited[limit] = self.limited.get(limit, 0) + 1

    # ------------------------------------------------------------------ sessions

    def begin(self, source: Socket) -> Session:
        """The session of a source, routed by the table in force."""
        session = Session(self, source)
        self._live.add(session)
        ways = self.env.ways
        if ways.made and ways.rounds(session) >= MOST:
            self.hit("max_hops")
            decision = Decision("", "", Hits())
            decision.error = Error("loop", f"the session has passed {MOST} listeners of this proxy: it goes round", "downstream")
            decision.said = decision.error.detail
        else:
            decision = self.table.decide(session.metadata)
        session.begin(decision)
        return session

    @property
    def live(self) -> set[Session]:
        """The sessions that have not ended."""
        return self._live

    def sessions(self) -> Iterable[Session]:
        """Live sessions, then those that are only remembered."""
        yield from list(self.live)
        yield from list(self.tracked)

    def find(self, name: str) -> Session | None:
        """The live or remembered session of this name."""
        return next((session for session in self.sessions() if session.name == name), None)

    def session_name(self, session: Session) -> str:
        raise NotImplementedError

    def metadata(self, session: Session) -> dict[str, Any]:
        """The metadata tree of a session, without its name and before rewrites."""
        raise NotImplementedError

    def ended(self, session: Session) -> None:
        """Called by `Session.close`, once."""
        self._live.discard(session)
        if session.error is not None and session.error.kind not in WANTED:
            self.failed += 1
        source = session.source
        session.bytes_in = source.bytes_in
        session.bytes_out = source.bytes_out
        if self.kind == "message":  # a connection carries many
            source.bytes_in = source.bytes_out = 0
        ledger = self.env.ledger
        if ledger is not None and self.listed:
            ended = ledger.ended
            ended.append(session)
            if ledger.timer is None or len(ended) >= LARGE:
                ledger.due()
        if self.track > 0:
            self.tracked.append(session)
