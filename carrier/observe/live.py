"""What happens, as it happens: the events of `GET /api/v1/events` (server-sent events, WHATWG HTML section 9.2).

`Live` reads the ledger, watches refused requests and the process's log. While nobody watches it does nothing but forget: the ring of the
last events is kept from the first viewer on until `LINGER` seconds after the last one. Viewers of the same filters are one `Group`: what
is for them is encoded once, `MOST` events in `PERIOD` seconds at most. For all groups together `MADE` are made, beyond which each group
still has its `SHARE`: so what watching costs has a bound, and who waits for a rare thing sees it beside those who watch a flood. What is
beyond that, or what a viewer who does not read cannot take, is counted as lost and told, and not made. No viewer slows the proxy.

An event's id is a number that grows by one, from the clock on: so those of a process come after those of the one before it.
`Last-Event-ID` (or `?since=`) plays what the ring still has of those that came later.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from carrier import redact
from carrier.config.accesslog import Settings
from carrier.core.reuse import recorded
from carrier.log import rfc3339
from carrier.observe.filters import Wanted
from carrier.observe.lines import SHORT, Lines, first_line
from carrier.wire.grpc import FAILURES

if TYPE_CHECKING:
    from carrier.core.ledger import Refusal
    from carrier.core.session import Session

PERIOD = 0.1
MOST = 50
"""Events that a group is told in a period."""
FEW = 10
"""Events of a period that the ring keeps although nobody is told them."""
MADE, SHARE = 100, 4
"""Events that are made in a period; of each group's so many first ones do not count."""
RING = 512 * 1024
"""Bytes of events, and of what their sessions were routed by, that are kept for who comes back, or comes, or asks why."""
LINGER = 300.0
"""Seconds that they are kept after the last viewer has left."""
QUIET = 15.0
"""Seconds after which a viewer hears a comment, so that nothing between us and him gives the connection up."""
VIEWERS = 64
AT_ONCE = 10
"""Viewers that are written to in one turn of the event loop."""
TREE = 1024
"""Bytes of what a session was routed by, beside its fields."""
AIMED = 4096
"""Decisions of which is remembered whom they concern; and kinds of their sessions, where filters ask for status or path."""


class Viewer(Protocol):
    """One connection that watches. write: False when the reader has enough for now."""

    def write(self, data: bytes) -> bool: ...


class Group:
    """Viewers with the same filters. left: events that may still be told in this period; lost: those beyond."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.viewers: dict[Viewer, int] = {}
        """Viewer -> events that he could not take."""
        self.left = MOST
        self.lost = 0
        self.frame: list[bytes] = []


class Taken:
    """Those to whom sessions of one decision are to be told that are alike in what filters ask. shut: nobody of them takes any more in this
    period, whatever it is; missed: how many have ended since."""

    __slots__ = ("groups", "missed", "shut")

    def __init__(self, groups: list[Group]) -> None:
        self.groups = groups
        self.missed = 0
        self.shut = False


class Aim(NamedTuple):
    """Whom the sessions of one decision concern. asks: some of them ask for more than that, paths: for the path, too. by: status, failure
    and target, as far as they are asked for -> to whom those are told."""

    groups: list[Group]
    asks: bool
    paths: bool
    by: dict[Any, Taken]


class Kept(NamedTuple):
    """An event of the ring: as it was sent; what its session was routed by, if it is of one, without its request's head, where that is kept
    beside it: few are asked for, and a tree of a browser's fields costs as much as all the rest; bytes of all that."""

    number: int
    frame: bytes
    metadata: dict[str, Any] | None
    head: Any
    size: int

    @property
    def event(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.frame[self.frame.index(b"data: ") + 6 : -2])
        return found

    @property
    def tree(self) -> dict[str, Any] | None:
        """All that its session was routed by."""
        if self.head is None or self.metadata is None:
            return self.metadata
        return {**self.metadata, "HTTP": {**self.head.metadata(), **self.metadata["HTTP"]}}


class Live:
    """See the module. listeners: gives those that run, by name; users: rule -> the user whose bridge it is."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, listeners: Callable[[], Mapping[str, Any]], users: Callable[[str], str] = lambda rule: ""
    ) -> None:
        self.loop = loop
        self.listeners = listeners
        self.lines = Lines(Settings("", headers=("user-agent",), fields=("trace", "upstream", "first_byte")), users)
        self.users = users
        self.groups: dict[tuple[Any, ...], Group] = {}
        self.keep = Group(Wanted({}))
        """What the ring keeps, whoever watches."""
        self.aimed: dict[tuple[Any, Any], Aim] = {}
        """Listener and decision -> those whom its sessions concern; forgotten when something changes."""
        self.met = 0
        """Entries of `by` in all of them."""
        self.full: list[Taken] = []
        """Those that are shut."""
        self.shut: dict[tuple[Any, Any], Taken] = {}
        """And those of them where nobody asks for more than the decision."""
        self.due: deque[tuple[Group, Viewer, bytes, int]] = deque()
        """What is to be written to whom, and how many events it is."""
        self.left = MADE
        self.ring: deque[Kept] = deque()
        self.size = 0
        self.number = time.time_ns() // 1000
        self.told = self.lost = 0
        """Events that were told to a group, and those that were not because there were too many, ever."""
        self.timer: asyncio.TimerHandle | None = None
        self.gone = 0.0
        self.quiet = loop.time()
        self.known: dict[str, tuple[int, int]] = {}
        """Listener -> number of its next session, at the look before the last one and at the last one."""

    @property
    def viewers(self) -> int:
        return sum(len(group.viewers) for group in self.groups.values())

    # ------------------------------------------------------------------ who watches

    def join(self, viewer: Viewer, query: Mapping[str, str], last: str = "") -> None:
        """Begin to tell; what came after the event `last` first. Raises ConfigError; Error("overload") is the caller's to raise."""
        wanted = Wanted(query)
        since = last or query.get("since", "")
        if not self.groups:
            self.known = {name: (listener.counter, listener.counter) for name, listener in self.listeners().items()}
        if self.timer is None:
            self._next()
        group = self.groups.setdefault(wanted.key, Group(wanted))
        self._aim_anew()
        due = set(group.frame)  # he gets it with the others
        missed = [kept for kept in self.ring if kept.number > int(since) and kept.frame not in due] if since.isdecimal() else []
        if wanted.key:
            missed = [kept for kept in missed if wanted.takes(kept.event)]
        viewer.write(b": carrier events\nretry: 2000\n\n" + b"".join(kept.frame for kept in missed))
        group.viewers[viewer] = 0

    def leave(self, viewer: Viewer) -> None:
        """He is gone. Idempotent."""
        for key, group in list(self.groups.items()):
            if group.viewers.pop(viewer, None) is not None and not group.viewers:
                del self.groups[key]
                self._aim_anew()
        if not self.groups:
            self.gone = self.loop.time()

    # ------------------------------------------------------------------ what happens

    def read(self, ended: Sequence[Any]) -> None:
        """A reader of the ledger."""
        if self.timer is None:
            return
        if not self.groups and not self.keep.left:
            return  # nobody is told, and the ring has enough of this period
        if self.lines.is_off():
            self.lines.forget()
        shut = self.shut
        for entry in ended:
            if entry.__class__ is not tuple:
                if takers := self._takers(entry, entry.listener, entry.decision):
                    kind = b"session" if entry.request is None else b"request"
                    self._add(kind, self._line(kind, entry), takers, entry.listener.metadata(entry))
            elif (taken := shut.get(key := (entry[0], entry[5]))) is not None:
                taken.missed += 1
            elif takers := self._takers(entry, *key):
                session = recorded(entry)
                head, session.request = session.request, None
                self._add(b"request", self._line(b"request", entry), takers, key[0].metadata(session), head)

    def _line(self, kind: bytes, entry: Any) -> bytes:
        """An event of a session that has ended."""
        return b'{"event":"%b",%b' % (kind, self.lines.json((entry,))[1:-1])

    def refused(self, refusal: Refusal) -> None:
        """A watcher of refused requests."""
        if self.timer is None:
            return
        listener = refusal.listener
        groups = [group for group in self._all() if group.wanted.concerns(listener.name, listener.protocol, "", "")]
        method, target, _ = first_line(refusal.begun)
        if takers := self._choose(groups, lambda: (refusal.status, True, _path(target) if method else "")):
            self._add(b"refused", b'{"event":"refused",' + self.lines.refusal(refusal)[1:-1], takers)

    def logged(self, level: str, event: str, values: Mapping[str, object]) -> None:
        """A line of the process's log: endpoints, bridges, changes, trouble."""
        if self.timer is None:
            return
        self._aim_anew()  # it may be a change
        said = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in values.items()
            if value is not None and name not in ("event", "level")
        }
        kind = _kind(event)
        told: dict[str, object] = {"event": kind, "time": rfc3339(time.time()), "level": level, "what": event, **said}
        if takers := self._choose([group for group in self._all() if group.wanted.takes(told)]):
            self._add(kind.encode(), json.dumps(told, ensure_ascii=False).encode("utf-8", "replace"), takers)

    def _all(self) -> tuple[Group, ...]:
        return (self.keep, *self.groups.values())

    def _takers(self, entry: Any, listener: Any, decision: Any) -> list[Group]:
        """To whom a session is to be told. Each that ends while somebody watches pays for this; an event costs much more."""
        if decision is None:  # it ended before it was routed
            return []
        key = listener, decision
        aim = self.aimed.get(key) or self._aim(key)
        about = _about(entry, aim.paths) if aim.asks else None
        taken = aim.by.get(about)
        if taken is None:
            taken = self._taken(aim, about, entry)
        elif taken.shut:
            taken.missed += 1
            return []
        takers = self._choose(taken.groups)
        if not takers:
            taken.shut = True
            self.full.append(taken)
            if not aim.asks:
                self.shut[key] = taken
        return takers

    def _aim(self, key: tuple[Any, Any]) -> Aim:
        listener, decision = key
        if len(self.aimed) >= AIMED:
            self._aim_anew()
        said = listener.name, listener.protocol, decision.rule, self.users(decision.rule)
        groups = [group for group in self._all() if group.wanted.concerns(*said)]
        asks, paths = any(group.wanted.asks for group in groups), any(group.wanted.path is not None for group in groups)
        aim = self.aimed[key] = Aim(groups, asks, paths, {})
        return aim

    def _taken(self, aim: Aim, about: tuple[int, bool, bytes] | None, entry: Any) -> Taken:
        groups = aim.groups
        if aim.asks:
            said = _said(entry)
            groups = [group for group in groups if not group.wanted.asks or group.wanted.passes(*said)]
        taken = Taken(groups)
        if about is None or len(about[2]) <= SHORT:
            self.met += 1
            if self.met > AIMED:  # it serves once more
                self._aim_anew()
            aim.by[about] = taken
        return taken

    def _aim_anew(self) -> None:
        """Somebody has come or gone, or something has changed."""
        self._reopen()
        self.aimed.clear()
        self.met = 0

    def _reopen(self) -> None:
        """Count what was not looked at."""
        for taken in self.full:
            for group in taken.groups:
                group.lost += taken.missed
            taken.missed, taken.shut = 0, False
        self.full.clear()
        self.shut.clear()

    def _choose(self, groups: Sequence[Group], of: Callable[[], tuple[int, bool, str]] | None = None) -> list[Group]:
        """Those who have room for an event; the others lose it. of: what `Wanted.passes` asks, where it is to be asked."""
        said = None
        takers = []
        for group in groups:
            if of is not None and group.wanted.asks:
                said = said or of()
                if not group.wanted.passes(*said):
                    continue
            if group.left and (self.left or group.left > MOST - SHARE):
                takers.append(group)
            else:
                group.lost += 1
        return takers

    def _add(self, kind: bytes, data: bytes, takers: Sequence[Group], metadata: dict[str, Any] | None = None, head: Any = None) -> None:
        """An event for the ring, and for those who watch."""
        self.number += 1
        frame = b"id: %d\nevent: %b\ndata: %b\n\n" % (self.number, kind, data)
        size = len(frame)
        if metadata is not None:
            size += TREE + (2 * len(head.text) if head is not None else _weight(metadata))
        self.ring.append(Kept(self.number, frame, metadata, head, size))
        self.size += size
        while self.size > RING:
            self.size -= self.ring.popleft().size
        self.left = max(0, self.left - 1)
        for group in takers:
            group.left -= 1
            if group is not self.keep:
                group.frame.append(frame)
                self.told += 1

    def find(self, number: int) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """An event of a session, and what that was routed by; None: it is not kept."""
        kept = next((kept for kept in reversed(self.ring) if kept.number == number), None)
        tree = kept.tree if kept is not None else None
        return (kept.event, tree) if kept is not None and tree is not None else None

    # ------------------------------------------------------------------ ten times a second, while there are viewers

    def _next(self) -> None:
        self.timer = self.loop.call_later(PERIOD, self._beat)

    def _beat(self) -> None:
        now = self.loop.time()
        if not self.groups:
            if now - self.gone > LINGER:
                self.timer = None
                self.ring.clear()
                self._aim_anew()
                self.size = 0
                return
        else:
            self._opened()
        quiet = now - self.quiet >= QUIET
        if quiet:
            self.quiet = now
        self._reopen()
        for group in self.groups.values():
            self._frame(group, quiet)
        self.keep.left = MOST if () in self.groups else FEW
        self.left = MADE
        self._send()
        self._next()

    def _frame(self, group: Group, quiet: bool) -> None:
        """One frame for all viewers of a group."""
        frame, count = b"".join(group.frame), len(group.frame)
        lost, group.lost, group.left = group.lost, 0, MOST
        self.lost += lost
        group.frame = []
        if quiet and not frame:
            frame = b":\n\n"
        usual = _with_lost(frame, lost)
        for viewer, missed in group.viewers.items():
            group.viewers[viewer] = told = lost + missed
            if data := _with_lost(frame, told) if missed else usual:
                self.due.append((group, viewer, data, count))

    def _send(self) -> None:
        """Write what is due, to some viewers in each turn: each takes as much of it as a request."""
        for _ in range(min(AT_ONCE, len(self.due))):
            group, viewer, data, count = self.due.popleft()
            if viewer not in group.viewers:
                continue
            if viewer.write(data):
                group.viewers[viewer] = 0
            else:
                group.viewers[viewer] += count
                self.lost += count
        if self.due:
            self.loop.call_soon(self._send)

    def _opened(self) -> None:
        """Sessions that had begun by the last look and are still there: connections, streams, long requests. Short ones are told at their
        end alone."""
        for name, listener in self.listeners().items():
            told, begun = self.known.get(name, (0, 0))
            self.known[name] = begun, listener.counter
            for session in [session for session in listener.live if told <= session.number < begun] if told < begun else ():
                if takers := self._takers(session, listener, session.decision):
                    self._add(b"opened", json.dumps(self._of_open(session)).encode(), takers)

    def _of_open(self, session: Session) -> dict[str, Any]:
        name, metadata = session.described()
        http = metadata.get("HTTP") or {}
        return {
            "event": "opened",
            "time": rfc3339(session.started - time.monotonic() + time.time()),
            "session": name,
            **{name: http[name] for name in ("version", "stream") if name in http},
            "listener": session.listener.name,
            "protocol": session.listener.protocol,
            "rule": session.decision.rule,
            "user": self.users(session.decision.rule) or None,
            "cluster": session.cluster.name if session.cluster is not None else None,
        }

    def close(self) -> None:
        """The process ends."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.groups.clear()
        self.due.clear()


def _about(entry: Any, paths: bool) -> tuple[int, bool, bytes]:
    """The same without what it costs to read a path."""
    if entry.__class__ is tuple:
        return entry[7].status, False, entry[4].target if paths else b""
    request, answer = entry.request, entry.answer
    return answer.status if answer is not None else 0, _failed(entry), request.target if paths and request is not None else b""


def _said(entry: Any) -> tuple[int, bool, str]:
    """Status, whether it failed, and the path, of a session that has ended."""
    if entry.__class__ is tuple:
        request, answer, failed = entry[4], entry[7], False
    else:
        request, answer, failed = entry.request, entry.answer, _failed(entry)
    return answer.status if answer is not None else 0, failed, _path(request.target) if request is not None else ""


def _failed(session: Session) -> bool:
    """Had it an error, or is it a call of gRPC that was answered with one? The status of HTTP does not tell."""
    request = session.request
    return session.error is not None or (request is not None and request.grpc and session.outcome in FAILURES)


def _path(target: bytes) -> str:
    """As an event tells it."""
    return redact.visible(redact.target(target).decode("latin-1"))


def _weight(metadata: Mapping[str, Any]) -> int:
    fields = metadata.get("HTTP", {}).get("headers", {})
    return sum(map(len, fields)) + sum(map(len, fields.values()))


def _with_lost(frame: bytes, lost: int) -> bytes:
    return frame + b'event: lost\ndata: {"event": "lost", "events": %d}\n\n' % lost if lost else frame


def _kind(event: str) -> str:
    """The kind of event that a line of the log is."""
    for word, kind in (("endpoint", "endpoint"), ("bridge", "bridge"), ("change", "configuration"), ("reload", "configuration")):
        if event.startswith(word):
            return kind
    return "log"
