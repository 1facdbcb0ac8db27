"""Sync: sessions of one label are joined; each gets what the others send.

The label is what lies at `query` in the session's metadata; a session without it is refused. What a session sends before another of its
label is there waits, bounded, and goes to the first that comes. One that takes no more pauses all the others, or, with the option
`drop: true`, goes without what comes meanwhile, which is counted as dropped of its session. A session that has ended
still hears the others until they have ended too; one that has not waits for the next of its label.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.core.metadata import get_at
from carrier.core.stream import DESTROYED, NOWHERE, Backlog, Socket, Stream
from carrier.errors import Error, Problem
from carrier.options import check_numbers
from carrier.wire.jsonheader import compact

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.session import Session


class SyncCluster(Cluster):
    """`spec: {protocol: Sync, query: <path>}`. groups: the streams of each label."""

    protocol = "Sync"
    kind = "datagram"
    virtual = True
    default_policy = "None"
    fields = {"query": "a path into the metadata"}

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        super().__init__(conf, env)
        self.query = conf.spec.get("query")
        self.groups: dict[bytes, list[SyncStream]] = {}
        self.drops = conf.options.get("drop") is True

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        found = check_numbers(options, {}, path, ("drop",))
        if not isinstance(options.get("drop", False), bool):
            found.append(Problem("expected true or false", f"{path}.drop", seen=repr(options["drop"]), allowed="true, false"))
        return found

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        found = super().check(spec, path)
        if not isinstance(spec.get("query"), str):
            found.append(Problem("needs 'query'", f"{path}.query", seen=repr(spec.get("query")), allowed=cls.fields["query"]))
        return found

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream:
        label = get_at(session.metadata, self.query) if isinstance(self.query, str) else None
        if label is None:
            text = f'SyncCluster.stream: reject: Session: "{session.name}": query "{self.query}": empty label'
            raise Error("internal", text)
        key = compact(label)
        stream = SyncStream(self, key, session)
        self.groups.setdefault(key, []).append(stream)
        return stream


class SyncStream(Socket):
    """One session's place in its group. ended: its session sends no more. full: its session takes no more at the moment."""

    __slots__ = ("cluster", "ended", "full", "key", "owner", "waiting")

    def __init__(self, cluster: SyncCluster, key: bytes, session: Session) -> None:
        super().__init__()
        self.cluster = cluster
        self.key = key
        self.owner = session
        self.ended = self.full = False
        self.waiting: Backlog | None = None
        """What nobody has heard yet."""

    def others(self) -> list[SyncStream]:
        """The others of the label that are linked and alive."""
        return [
            one
            for one in self.cluster.groups.get(self.key, ())
            if one is not self and one.to is not NOWHERE and one.owner.status != DESTROYED
        ]

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        others = self.others()
        if others:
            self._play(others)
            for one in others:
                if one.full and self.cluster.drops:
                    one.owner.dropped += 1
                    continue
                one.to.data(data, kind)
                one.to.flush()
        else:
            self._wait(data, kind)
        if last:
            self.end()

    def _wait(self, data: bytes, kind: Any) -> None:
        if self.waiting is None:
            self.waiting = Backlog(datagram=self.owner.listener.kind == "datagram")
        self.waiting.back = self.back
        before = self.waiting.dropped
        self.waiting.data(data, kind)
        self.owner.dropped += self.waiting.dropped - before

    def _play(self, others: list[SyncStream]) -> None:
        """What has waited goes to whoever is there first."""
        waiting, self.waiting = self.waiting, None
        if waiting is None:
            return
        while waiting.calls:
            _, args = waiting.calls.popleft()
            for one in others:
                one.to.data(*args)
        for one in others:
            one.to.flush()
        if waiting.full and not any(one.full for one in others):
            self.back.resume()

    def flush(self) -> None: ...

    def resume(self) -> None:
        """This session is linked, or takes more again: what the others have waited with is for it."""
        others = self.others()
        for one in others:
            if one.waiting is not None:
                one._play([self])
        self._make_room(others)

    def _make_room(self, others: list[SyncStream]) -> None:
        """This one is not full any more; the others go on if none is."""
        self.full = False
        if not any(one.full for one in others):
            for one in others:
                one.back.resume()

    def pause(self) -> None:
        self.full = True
        for one in self.others() if not self.cluster.drops else ():
            one.back.pause()

    def end(self, trailer: Any = None) -> None:
        self.ended = True
        self._settle()

    def reset(self, error: Error) -> None:
        self.ended = True
        self.leave()
        if self.full:
            self._make_room(self.others())
        self._settle()

    def stop(self, error: Error | None = None) -> None:
        if error is not None:
            self.reset(error)
            self.back.stop(error)

    def leave(self) -> None:
        """The session is gone."""
        group = self.cluster.groups.get(self.key, [])
        if self in group:
            group.remove(self)
        if not group:
            self.cluster.groups.pop(self.key, None)

    def _settle(self) -> None:
        """Whoever has ended, and will hear nobody any more, is done."""
        group = [*self.others(), self]
        senders = [one for one in group if not one.ended]
        for one in group:
            if one.ended and not [other for other in senders if other is not one]:
                one.leave()
                one.to.end()
