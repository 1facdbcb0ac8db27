"""Mirror: passes everything on, and a copy to another cluster, whose answers are ignored and whose failures harm nobody.

The copy never slows the session. While the mirror connects, or takes no more, up to `copy_bytes` of a copy wait, and `copies_bytes` of all
copies of a cluster, each piece `PIECE` more: an upload is read faster than anybody connects; nginx keeps all of it, Envoy one MiB. Of what
finds no room datagrams are left out, and a copy of a stream of bytes is given up, because one with holes is none; the session's events say
so. A mirror may take `GRACE` seconds longer than its session.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.breaker import BREAKER
from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.core.stream import HIGH, MANY, NOWHERE, Socket, Stream, link
from carrier.errors import Error, Problem
from carrier.options import check_numbers, numbers

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.session import Session

GRACE = 30.0
OPTIONS = {"copy_bytes": 4 << 20, "copies_bytes": 32 << 20}
"""Bytes that wait of one copy, and of all copies; 0: without a bound."""
PIECE = 256
"""Bytes that each piece of a stream counts beside its own: what it costs to keep it, so that very many small ones are bounded, too."""


class MirrorCluster(Cluster):
    """`spec: {protocol: Mirror, cluster: <name>}`."""

    protocol = "Mirror"
    names_clusters = ("cluster",)
    kind = "datagram"
    virtual = True
    same_length = True
    default_policy = "None"
    fields = {"cluster": "the name of a cluster"}

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        super().__init__(conf, env)
        self.to = str(conf.spec.get("cluster") or "")
        limits = numbers(conf.options, OPTIONS)
        self.most, self.most_together = (limits[name] or float("inf") for name in OPTIONS)
        self.copies = self.held = 0
        """Copies begun, and bytes that wait of all copies."""
        self.dropped: dict[str, int] = {"mirror": 0}
        """Datagrams left out of copies."""
        self.hits = dict.fromkeys(OPTIONS, 0)
        """Copies of streams that were given up, by the limit."""

    @property
    def limited(self) -> Mapping[str, int]:
        return self.hits

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with the options, by the strict standard."""
        return check_numbers(options, {**OPTIONS, **BREAKER}, path, ("health",))

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        found = super().check(spec, path)
        if not isinstance(spec.get("cluster"), str) or not spec["cluster"]:
            found.append(Problem("needs 'cluster'", f"{path}.cluster", seen=repr(spec.get("cluster")), allowed=cls.fields["cluster"]))
        return found

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream:
        self.copies += 1
        return MirrorStream(self, session)


class MirrorStream(Stream):
    """One session's mirror. waiting, size: what waits, and its bytes. full: the mirror takes no more. over: there is nothing to copy to any
    more."""

    __slots__ = ("cluster", "datagram", "far", "full", "over", "session", "size", "task", "timer", "waiting")

    def __init__(self, cluster: MirrorCluster, session: Session) -> None:
        super().__init__()
        self.cluster = cluster
        self.session = session
        self.datagram = session.listener.kind == "datagram"
        self.far: Stream | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.waiting: deque[tuple[str, int, tuple[Any, ...]]] = deque()
        self.size = 0
        self.full = self.over = False

    def head(self, head: Any, last: bool = False) -> None:
        self._copy("head", head, last)
        self.to.head(head, last)

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        self._copy("data", data, kind, last)
        self.to.data(data, kind, last)

    def end(self, trailer: Any = None) -> None:
        self._copy("end", trailer)
        self.to.end(trailer)

    def flush(self) -> None:
        if self.far is not None:
            self.far.flush()
        self.to.flush()

    def reset(self, error: Error) -> None:
        """The session is over: in order, then the copy may go on to its end; or not."""
        if not self.over:
            if error.kind != "closed":
                self.give_up(error)
            elif self.timer is None:
                self.timer = self.cluster.env.loop.call_later(GRACE, self.give_up, error)
        self.to.reset(error)

    # ------------------------------------------------------------------ the copy

    def _copy(self, call: str, *args: Any) -> None:
        if self.over:
            return
        if self.far is not None and not self.full and not self.waiting:
            self.cluster.env.guard("a mirror", getattr(self.far, call), *args)
            return
        size = len(args[0]) + PIECE * (not self.datagram) if call == "data" else 0
        if call == "data" and self.datagram and (self.full or self.size + size > HIGH or len(self.waiting) >= MANY):
            self.cluster.dropped["mirror"] += 1  # those that have waited for long are of no use to anybody
            return
        if call == "data" and not self.datagram and (limit := self._lacks(size)):
            self.cluster.hits[limit] += 1
            wait = self.size if limit == "copy_bytes" else self.cluster.held
            self.give_up(Error("overload", f"the mirror is too slow for a whole copy: {wait} bytes wait (options.{limit})"), say=True)
            return
        self.size += size
        self.cluster.held += size
        self.waiting.append((call, size, args))
        if self.task is None:
            self.task = self.cluster.env.loop.create_task(self._reach())

    def _lacks(self, size: int) -> str:
        """The limit by which there is no room for so many bytes more; "": there is."""
        if self.size + size > self.cluster.most:
            return "copy_bytes"
        return "copies_bytes" if self.cluster.held + size > self.cluster.most_together else ""

    async def _reach(self) -> None:
        """Connect, and play what has waited."""
        try:
            far = await self._open()
        except Error as error:
            self.give_up(error, say=True)
            return
        except TimeoutError:
            self.give_up(Error("timeout", f"{self.cluster.to}: no connection in time"), say=True)
            return
        link([Tail(self), far])
        if isinstance(far, Socket):
            far.session = self.session
            far.resume()
        self.far = far
        self.play()

    def play(self) -> None:
        """What has waited, until the mirror takes no more."""
        far = self.far
        while far is not None and self.waiting and not self.full and not self.over:
            call, size, args = self.waiting.popleft()
            self.size -= size
            self.cluster.held -= size
            self.cluster.env.guard("a mirror", getattr(far, call), *args)
            far.flush()

    async def _open(self) -> Stream:
        """A destination of the mirror's cluster. Raises Error, TimeoutError."""
        cluster = self.cluster.env.clusters.get(self.cluster.to)
        if cluster is None or cluster.admin:
            raise Error("no-route", f"there is no cluster {self.cluster.to!r} to mirror to")
        endpoint = None if cluster.virtual else cluster.choose(self.session)
        found = cluster.ready(self.session, endpoint)
        if found is None:
            assert endpoint is not None
            async with asyncio.timeout(self.session.decision.retry.timeout):
                found = await cluster.open(self.session, endpoint)
        cluster.sessions_elsewhere += 1
        return found

    def give_up(self, error: Error, say: bool = False) -> None:
        """End the copy. Idempotent."""
        if self.over:
            return
        if say:
            self.session.event("ERROR", "Mirror", error.detail)
        self.done(error)
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()

    def done(self, error: Error | None = None) -> None:
        """There is nothing more to copy to: the mirror has ended by itself, or is given up."""
        self.over = True
        self.waiting.clear()
        self.cluster.held -= self.size
        self.size = 0
        if self.timer is not None:
            self.timer.cancel()
        far, self.far = self.far, None
        if far is not None:
            if error is not None:
                far.reset(error)
            elif far.back is not NOWHERE:  # else it is free already, and may serve another
                far.end()
            far.forget()


class Tail(Socket):
    """Where the mirror's answers end."""

    __slots__ = ("mirror",)

    def __init__(self, mirror: MirrorStream) -> None:
        super().__init__()
        self.mirror = mirror

    def head(self, head: Any, last: bool = False) -> None:
        if last:
            self.mirror.done()

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if last:
            self.mirror.done()

    def end(self, trailer: Any = None) -> None:
        self.mirror.done()

    def reset(self, error: Error) -> None:
        self.mirror.done()

    def stop(self, error: Error | None = None) -> None:
        self.mirror.done()

    def pause(self) -> None:
        self.mirror.full = True

    def resume(self) -> None:
        self.mirror.full = False
        self.mirror.play()
