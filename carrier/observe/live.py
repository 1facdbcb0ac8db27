"""What happens, as it happens: the events of `GET /api/v1/events` (server-sent events, WHATWG HTML section 9.2).

`Live` reads the ledger, watches refused requests and the process's log. While nobody watches it does nothing but forget: the ring of the
last events is kept from the first viewer on until `LINGER` seconds after the last one. Viewers of the same filters are one `Group`: what
is for them is encoded once, `MOST` events in `PERIOD` seconds at most, and what is beyond that, or what a viewer who does not read
cannot take, is counted as lost and told. No viewer slows the proxy.

An event's id is a number that grows by one; `Last-Event-ID` (or `?since=`) plays what the ring still has of those that came later.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from carrier.config.accesslog import Settings
from carrier.core.reuse import recorded
from carrier.errors import ConfigError, Problem, did_you_mean, shown
from carrier.observe.lines import Lines

if TYPE_CHECKING:
    from carrier.core.ledger import Refusal

PERIOD = 0.1
MOST = 50
RING = 512 * 1024
"""Bytes of events, and of what their sessions were routed by, that are kept for who comes back, or comes, or asks why."""
LINGER = 300.0
"""Seconds that they are kept after the last viewer has left."""
QUIET = 15.0
"""Seconds after which a viewer hears a comment, so that nothing between us and him gives the connection up."""
VIEWERS = 64
OPENED = 1000
"""Sessions that begin and are told in one look."""
FILTERS: Mapping[str, str] = {
    "user": "only sessions of this user's bridges",
    "rule": "only sessions that this rule decided",
    "listener": "only of this listener",
    "status": "only answers of this status, or class of them: 404, 5xx",
    "path": "only requests whose path begins so",
    "protocol": "only of listeners of this protocol",
    "errors": "true: only what failed, and answers from 500 on",
    "since": "the id of the last event that was seen",
}


class Viewer(Protocol):
    """One connection that watches. write: False when the reader has enough for now."""

    def write(self, data: bytes) -> bool: ...


class Wanted:
    """The filters of a viewer. Raises ConfigError when there is an unknown one, or one that cannot hold."""

    def __init__(self, query: Mapping[str, str]) -> None:
        problems = [
            Problem(f"unknown filter {name!r}", f"?{name}", allowed=", ".join(FILTERS), hint=did_you_mean(name, FILTERS))
            for name in query
            if name not in FILTERS
        ]
        status = query.get("status", "")
        self.status = status.lower().removesuffix("xx")
        if status and not (self.status.isdecimal() and len(self.status) in (1, 3)):
            problems.append(Problem("expected a status or a class", "?status", seen=shown(status), allowed="404, 5xx"))
        for name, allowed in (("errors", ("", "true", "false")), ("since", ())):
            value = query.get(name, "")
            if (allowed and value not in allowed) or (not allowed and value and not value.isdecimal()):
                problems.append(
                    Problem(f"cannot be {value!r}", f"?{name}", seen=shown(value), allowed=", ".join(filter(None, allowed)) or "a number")
                )
        if problems:
            raise ConfigError(*problems)
        self.key = tuple(sorted((name, value) for name, value in query.items() if name != "since" and value))
        self.user, self.rule, self.listener = query.get("user"), query.get("rule"), query.get("listener")
        self.path, self.protocol = query.get("path"), query.get("protocol")
        self.errors = query.get("errors") == "true"
        self.of_requests = any(name != "errors" for name, _ in self.key)
        """It asks for something that only sessions have."""

    def takes(self, event: Mapping[str, Any]) -> bool:
        """Is this decoded event for the viewer?"""
        if event["event"] not in ("request", "session", "opened", "refused"):
            return not self.of_requests and (not self.errors or event.get("level") != "notice")
        if self.errors and not (event.get("error") or event.get("reason") or int(event.get("status") or 0) >= 500):
            return False
        status = str(event.get("status") or "")
        if self.status and not (status.startswith(self.status) if len(self.status) == 1 else status == self.status):
            return False
        if self.path is not None and not str(event.get("path") or "").startswith(self.path):
            return False
        pairs = ((self.user, "user"), (self.rule, "rule"), (self.listener, "listener"), (self.protocol, "protocol"))
        return all(want is None or event.get(name) == want for want, name in pairs)


class Group:
    """Viewers with the same filters. left: events that may still be told in this period; lost: those beyond."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.viewers: dict[Viewer, int] = {}
        """Viewer -> events that he could not take."""
        self.left = MOST
        self.lost = 0
        self.frame: list[bytes] = []


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
        self.ring: deque[tuple[int, dict[str, Any], bytes]] = deque()
        self.size = 0
        self.seen: dict[int, tuple[dict[str, Any], int]] = {}
        """Event of the ring -> the metadata that its session was routed by, for who asks why, and its bytes."""
        self.number = 0
        self.told = self.lost = 0
        """Events that were told to a group, and those that were not because there were too many, ever."""
        self.timer: asyncio.TimerHandle | None = None
        self.gone = 0.0
        self.quiet = loop.time()
        self.known: dict[str, int] = {}
        """Listener -> number of the last session that was told as opened."""

    @property
    def viewers(self) -> int:
        return sum(len(group.viewers) for group in self.groups.values())

    # ------------------------------------------------------------------ who watches

    def join(self, viewer: Viewer, query: Mapping[str, str], last: str = "") -> None:
        """Begin to tell; what came after the event `last` first. Raises ConfigError; Error("overload") is the caller's to raise."""
        wanted = Wanted(query)
        since = last or query.get("since", "")
        if self.timer is None:
            self.known = {name: listener.counter for name, listener in self.listeners().items()}
            self._next()
        group = self.groups.setdefault(wanted.key, Group(wanted))
        missed = (
            [frame for number, event, frame in self.ring if number > int(since or 0) and wanted.takes(event)] if since.isdecimal() else []
        )
        viewer.write(b": carrier events\nretry: 2000\n\n" + b"".join(missed))
        group.viewers[viewer] = 0

    def leave(self, viewer: Viewer) -> None:
        """He is gone. Idempotent."""
        for key, group in list(self.groups.items()):
            if group.viewers.pop(viewer, None) is not None and not group.viewers:
                del self.groups[key]
        if not self.groups:
            self.gone = self.loop.time()

    # ------------------------------------------------------------------ what happens

    def read(self, ended: Sequence[Any]) -> None:
        """A reader of the ledger."""
        if self.timer is None:
            return
        if self.lines.is_off():
            self.lines.forget()
        room = MOST * (1 + len(self.groups))
        if len(ended) > room:  # more than anybody will be told: they are counted, not made
            self._lose(len(ended) - room, ended[room:])
            ended = ended[:room]
        for line, entry in zip(self.lines.json(ended).splitlines(), ended, strict=False):
            event = json.loads(line)
            if self._tell({"event": "request" if event.get("method") else "session", **event}):
                self._remember(entry)

    def refused(self, refusal: Refusal) -> None:
        """A watcher of refused requests."""
        if self.timer is not None:
            self._tell({"event": "refused", **json.loads(self.lines.refusal(refusal))})

    def logged(self, level: str, event: str, values: Mapping[str, object]) -> None:
        """A line of the process's log: endpoints, bridges, changes, trouble."""
        if self.timer is not None:
            said = {
                name: value if isinstance(value, bool | int | float) else str(value) for name, value in values.items() if value is not None
            }
            self._tell(
                {"event": _kind(event), "level": level, "what": event, **{k: v for k, v in said.items() if k not in ("event", "level")}}
            )

    def _lose(self, count: int, ended: Sequence[Any]) -> None:
        self.lost += count
        for group in self.groups.values():
            if not group.wanted.key:
                group.lost += count
            else:
                group.lost += sum(self._may_want(group.wanted, entry) for entry in ended)

    def _may_want(self, wanted: Wanted, entry: Any) -> bool:
        """The filters that cost nothing to ask, of a session that is only counted."""
        decision = entry[5] if entry.__class__ is tuple else entry.decision
        listener = entry[0] if entry.__class__ is tuple else entry.listener
        rule = decision.rule if decision is not None else ""
        if wanted.errors and entry.__class__ is tuple and entry[7].status < 500:
            return False
        return (
            wanted.rule in (None, rule)
            and wanted.listener in (None, listener.name)
            and wanted.protocol in (None, listener.protocol)
            and (wanted.user is None or self.users(rule) == wanted.user)
        )

    def _remember(self, entry: Any) -> None:
        """Keep what the session of the last event was routed by, as long as the ring has it."""
        session = recorded(entry) if entry.__class__ is tuple else entry
        metadata = session.listener.metadata(session)
        fields = metadata.get("HTTP", {}).get("headers", {})
        weight = len(self.ring[-1][2]) + sum(map(len, fields)) + sum(map(len, fields.values())) if self.ring else 0
        self.seen[self.number] = metadata, weight
        self.size += weight
        self._forget()

    def _forget(self) -> None:
        """Let go of the oldest, until the ring is as large as it may be."""
        while self.size > RING:
            number, _, frame = self.ring.popleft()
            self.size -= len(frame) + self.seen.pop(number, ({}, 0))[1]

    def find(self, number: int) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """An event that was told to somebody, and what its session was routed by; None: it is not kept."""
        kept = self.seen.get(number)
        event = next((event for known, event, _ in reversed(self.ring) if known == number), None)
        return (event, kept[0]) if event is not None and kept is not None else None

    def _tell(self, event: dict[str, Any]) -> bool:
        """Tell those who want it; was it told to anybody?"""
        self.number += 1
        told = False
        frame = b"id: %d\nevent: %b\ndata: %b\n\n" % (self.number, event["event"].encode(), json.dumps(event, ensure_ascii=False).encode())
        self.ring.append((self.number, event, frame))
        self.size += len(frame)
        self._forget()
        for group in self.groups.values():
            if group.wanted.takes(event):
                if group.left:
                    group.left -= 1
                    self.told += 1
                    told = True
                    group.frame.append(frame)
                else:
                    group.lost += 1
                    self.lost += 1
        return told

    # ------------------------------------------------------------------ ten times a second, while there are viewers

    def _next(self) -> None:
        self.timer = self.loop.call_later(PERIOD, self._beat)

    def _beat(self) -> None:
        now = self.loop.time()
        if not self.groups:
            if now - self.gone > LINGER:
                self.timer = None
                self.ring.clear()
                self.seen.clear()
                self.size = 0
                return
            self._next()
            return
        self._opened()
        quiet = now - self.quiet >= QUIET
        if quiet:
            self.quiet = now
        for group in list(self.groups.values()):
            self._send(group, quiet)
        self._next()

    def _send(self, group: Group, quiet: bool) -> None:
        """One frame for all viewers of a group."""
        frame, count = b"".join(group.frame), len(group.frame)
        lost, group.lost, group.left = group.lost, 0, MOST
        group.frame = []
        if quiet and not frame:
            frame = b":\n\n"
        for viewer, missed in list(group.viewers.items()):
            told = lost + missed
            data = frame + (b'event: lost\ndata: {"event": "lost", "events": %d}\n\n' % told if told else b"")
            if data and not viewer.write(data):
                group.viewers[viewer] = told + count
                self.lost += count
            elif told:
                group.viewers[viewer] = 0

    def _opened(self) -> None:
        """Sessions that have begun since the last look and are still there: connections, streams, long requests."""
        for name, listener in self.listeners().items():
            before, now = self.known.get(name, 0), listener.counter
            self.known[name] = now
            if now == before:
                continue
            fresh = [session for session in listener.live if session.number >= before][:OPENED]
            for session in fresh:
                if session.decision is not None:
                    http = session.metadata.get("HTTP") or {}
                    self._tell(
                        {
                            "event": "opened",
                            "session": session.name,
                            **{name: http[name] for name in ("version", "stream") if name in http},
                            "listener": name,
                            "protocol": listener.protocol,
                            "rule": session.decision.rule,
                            "user": self.users(session.decision.rule) or None,
                            "cluster": session.cluster.name if session.cluster is not None else None,
                        }
                    )

    def close(self) -> None:
        """The process ends."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.groups.clear()


def _kind(event: str) -> str:
    """The kind of event that a line of the log is."""
    for word, kind in (("endpoint", "endpoint"), ("bridge", "bridge"), ("change", "configuration"), ("reload", "configuration")):
        if event.startswith(word):
            return kind
    return "log"
