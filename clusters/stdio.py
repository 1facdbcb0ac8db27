"""Stdio cluster: what its sessions send is written to standard output; what comes on standard input goes to all of them.

Unlike l7mp's it needs no terminal. Standard input is read while at least one session is there; its end is the end of all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.core.stream import DESTROYED, Stream
from carrier.hops.filestream import FileStream

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.session import Session
    from carrier.errors import Error

STDIN, STDOUT = 0, 1


class StdioCluster(Cluster):
    """`spec: {protocol: Stdio}`."""

    protocol = "Stdio"
    privileged = {"protocol": "reads and writes the process's own streams"}
    virtual = True
    default_policy = "None"
    descriptors = (STDIN, STDOUT)

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        super().__init__(conf, env)
        self.reader: FileStream | None = None
        self.seats: list[Seat] = []

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream:
        seat = Seat(self, session)
        self.seats.append(seat)
        if self.reader is None:
            self.reader = FileStream(self.env.loop, self.descriptors[0], None, "upstream", owned=False)
            self.reader.to = self.reader.back = Spread(self)
            self.reader.resume()
        return seat

    def leave(self, seat: Seat) -> None:
        """One session less; without any, standard input is left alone."""
        if seat in self.seats:
            self.seats.remove(seat)
        if not self.seats and self.reader is not None:
            self.reader.close()
            self.reader = None

    def tick(self, now: float) -> None:
        """A session that was closed without a word is gone, too."""
        for seat in [seat for seat in self.seats if seat.owner.status == DESTROYED]:
            self.leave(seat)


class Spread(Stream):
    """Where standard input leads: to every session."""

    __slots__ = ("cluster",)

    def __init__(self, cluster: StdioCluster) -> None:
        super().__init__()
        self.cluster = cluster

    def data(self, data: bytes, kind: object = None, last: bool = False) -> None:
        for seat in list(self.cluster.seats):
            seat.to.data(data)

    def flush(self) -> None:
        for seat in list(self.cluster.seats):
            seat.to.flush()

    def end(self, trailer: object = None) -> None:
        for seat in list(self.cluster.seats):
            seat.heard_end()

    def reset(self, error: Error) -> None:
        self.end()

    def stop(self, error: Error | None = None) -> None: ...


class Seat(FileStream):
    """One session's place: it writes standard output itself, and is told what is read. A full one pauses standard input for all."""

    __slots__ = ("cluster", "owner")

    def __init__(self, cluster: StdioCluster, session: Session) -> None:
        super().__init__(cluster.env.loop, None, cluster.descriptors[1], "upstream", owned=False)
        self.cluster = cluster
        self.owner = self.session = session
        self.paused = False

    def pause(self) -> None:
        self.paused = True
        if self.cluster.reader is not None:
            self.cluster.reader.pause()

    def resume(self) -> None:
        self.paused = False
        if self.cluster.reader is not None and not any(seat.paused for seat in self.cluster.seats):
            self.cluster.reader.resume()

    def shut(self) -> None:
        """The session sends no more; standard output stays open, and input is still for it."""
        if self.writer is not None:
            self.loop.remove_writer(self.writer)
        self.writer = None
        if self.ended_in or self.owner.status == DESTROYED:
            self.close()

    def heard_end(self) -> None:
        """Standard input has ended."""
        self.ended_in = True
        self.to.end()
        if self.ended_out and not self.pending:
            self.close()

    def close(self, error: Error | None = None) -> None:
        if not self.closed:
            self.paused = False
            super().close(error)
            self.paused = False
            self.cluster.leave(self)
            if self.cluster.reader is not None and not any(seat.paused for seat in self.cluster.seats):
                self.cluster.reader.resume()
