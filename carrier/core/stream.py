"""The one interface: everything that carries a session's bytes is a `Stream`.

A session's hops form a ring: source -> ingress... -> destination -> egress... -> source. Calls for bytes (`head`, `data`, `end`,
`reset`, `flush`) travel along `to`; calls about bytes (`pause`, `resume`, `stop`) travel along `back`. By default a hop passes
everything on, so a plain `Stream()` as destination is an echo, and a `Socket` in the middle of a chain is a remote transform.

Re-entrancy: a call to `to` or `back` may come back before it returns (an answer, a reset). After such a call a method touches no
state that it has not read again. `reset` is idempotent; `data` and `end` after a reset are ignored, by `Socket`, once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

from carrier.errors import Error

if TYPE_CHECKING:
    import socket

HIGH = 64 * 1024
"""Bytes that one direction may hold before the hop behind it is paused (DESIGN section 7)."""
MANY = 1024
"""Messages that one direction may hold: empty ones have no bytes to count."""


INIT, CONNECTED, DESTROYED = "INIT", "CONNECTED", "DESTROYED"
"""What a session may be."""


class Owner(Protocol):
    """The session that a socket is an end of, as far as a socket knows it. A class that asks more of it says that it is a Session."""

    status: str
    decision: Any
    source_done: bool
    connected_at: float

    @property
    def source(self) -> Socket: ...
    @property
    def hops(self) -> tuple[Stream, ...]: ...
    @property
    def name(self) -> str: ...
    @property
    def dropped(self) -> int: ...
    @dropped.setter
    def dropped(self, value: int) -> None: ...
    def event(self, event: str, message: str = "", content: Any = "") -> None: ...
    def fail(self, error: Error) -> None: ...
    def kill(self, detail: str = "", kind: str = "") -> None: ...
    def moves_on(self, why: str) -> bool: ...
    def close(self, error: Error | None = None) -> None: ...


class Stream:
    """One hop of one direction of a session. Bytes are pushed into it; by default it passes them on."""

    __slots__ = ("__weakref__", "back", "to")
    waits = False
    """It reads nothing before `resume()`."""
    joint: Any = None
    """What stands behind it is another protocol's stream (carrier/hops/joint.py)."""
    subprotocol: bytes | None = None
    """What the two ends of a tunnel have agreed on, if the destination chose."""
    to: Stream
    back: Stream

    def __init__(self) -> None:
        self.to = self.back = NOWHERE

    # forwards
    def head(self, head: Any, last: bool = False) -> None:
        """The start of a message (a `carrier.wire.http.Head`); informational (1xx) heads come before the final one."""
        self.to.head(head, last)

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        """Payload bytes; on a datagram stream one call is one message. kind: WebSocket text or binary."""
        self.to.data(data, kind, last)

    def end(self, trailer: Any = None) -> None:
        """No more comes in this direction; trailer: HTTP trailer fields, or a close code and reason."""
        self.to.end(trailer)

    def reset(self, error: Error) -> None:
        """This direction broke; what was passed on so far is not complete."""
        self.to.reset(error)

    def message(self, head: Any, body: bytes) -> None:
        """A whole message, when all of it is there: what `head` and `data` do, in one call. Whoever changes those need not know of it."""
        self.head(head, not body)
        if body:
            self.data(body, None, True)

    def complete(self, head: Any, body: bytes, trailer: Any) -> None:
        """The same of a message that ends with a trailer."""
        self.head(head)
        self.data(body)
        self.end(trailer)

    def flush(self) -> None:
        """The end of one wake-up: whoever batches sends now."""
        self.to.flush()

    def between(self, session: Owner) -> None:
        """It is one of the transforms of this session, and linked."""

    def forget(self) -> None:
        """The session whose destination this was has ended. A hop without a descriptor lets go of its neighbours here; one that has a
        descriptor does that when it closes."""

    # backwards
    def pause(self) -> None:
        """The hop in front is full: send no more until `resume`."""
        self.back.pause()

    def resume(self) -> None:
        self.back.resume()

    def stop(self, error: Error | None = None) -> None:
        """No more is wanted: an early answer (no error), or a reader that is gone (the error says why)."""
        self.back.stop(error)


class Replying(Stream):
    """Says what it has to say when the request is complete (`end`), so that the connection it came on can be kept."""

    __slots__ = ()

    def head(self, head: Any, last: bool = False) -> None:
        if last:
            self.end()

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if last:
            self.end()

    def flush(self) -> None: ...

    def reply(self, head: Any, body: bytes) -> None:
        self.to.head(head, not body)
        if body:
            self.to.data(body, None, True)


class Nowhere(Stream):
    """What an unlinked hop points at: takes every call and does nothing, so that late calls are harmless."""

    __slots__ = ()

    def __init__(self) -> None:
        self.to = self.back = self

    def head(self, head: Any, last: bool = False) -> None: ...
    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None: ...
    def end(self, trailer: Any = None) -> None: ...
    def reset(self, error: Error) -> None: ...
    def flush(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def stop(self, error: Error | None = None) -> None: ...


NOWHERE = Nowhere()


class Socket(Stream):
    """An end of a session that owns a transport: `data()` writes, what it reads goes to `self.to`.

    It starts paused: nothing is read before `resume()`. It counts its own bytes and messages; a session shows its source's.
    """

    peer: Any = ("", 0)
    local: Any = ("", 0)
    """Host and port of the other end, and of ours; empty: it has none, or nobody has to know."""
    transport: Any = None
    """The event loop's transport; None: it has its descriptor itself."""
    size = 0
    """Bytes that wait to be written."""
    anew = False
    """What comes from its peer when its session has ended makes another one: nobody has to be kept for it."""
    __slots__ = ("bytes_in", "bytes_out", "messages_in", "messages_out", "session", "waits")
    session: Owner | None
    bound_to: Any = None
    """An upstream connection that serves nobody else any more, because it was authenticated for this client."""

    def bind(self, upstream: Any) -> bool:
        """It is to be used for this client only, and closed with it. False: what this is cannot hold one."""
        return False

    def __init__(self) -> None:
        super().__init__()
        self.waits = True
        self.session = None
        self.bytes_in = self.bytes_out = self.messages_in = self.messages_out = 0

    def between(self, session: Owner) -> None:
        self.session = session

    def head(self, head: Any, last: bool = False) -> None:
        """Most protocols have no heads; only a message's end shows. A transform lets them pass by: who is behind it may need them."""
        session = self.session
        if session is not None and session.hops and self in session.hops:
            self.to.head(head, last)
        if last:
            self.end()

    def flush(self) -> None: ...

    def detach(self) -> None:
        """It is closed, and nothing comes or goes: let go of the session. A ring of what is closed would wait for the garbage collector,
        which may be seconds and thousands of sessions away."""
        self.session = None
        self.to = self.back = NOWHERE

    def status(self) -> str:
        """l7mp's stage status of this end: READY or END (contract, section 4)."""
        return "READY"

    def falls_back(self, reads_heads: bool) -> None:
        """Another cluster serves the session in place of the one that was decided. reads_heads: it speaks of messages, not of bytes."""

    def drop(self, reason: str, count: int = 1) -> None:
        """Datagrams of it go nowhere: where they are counted. By default with its session."""
        if self.session is not None:
            self.session.dropped += count

    def untaken(self) -> int:
        """Bytes that wait here for the peer to take them."""
        transport = self.transport
        return self.size if transport is None else int(transport.get_write_buffer_size())

    def part(self, why: str) -> None:
        """Its session leads to where nothing is to go any more, and what its peer says next makes another one (`anew`)."""
        if self.session is not None:
            self.session.kill(why, "drain")

    def depart(self) -> None:
        """The process is about to end, and takes nothing new: say so, if the protocol has a word for that in mid-stream."""

    def takeover(self) -> socket.socket:
        """Hand out the raw socket of an upgraded or spliced stream; this hop is dead afterwards."""
        raise Error("not-implemented", f"{type(self).__name__} cannot hand out its socket")


class Backlog(Stream):
    """Holds what comes before the destination is there, up to `limit` bytes and MANY messages, and plays it when it is.

    A byte stream is paused at the limit; of a datagram stream, which cannot wait, what comes later is dropped and counted.
    """

    __slots__ = ("calls", "datagram", "dropped", "full", "held", "limit", "lose", "parting", "size")

    def __init__(self, limit: int = HIGH, datagram: bool = False, lose: Callable[[str], None] | None = None) -> None:
        super().__init__()
        self.calls: deque[tuple[str, tuple[Any, ...]]] = deque()
        self.limit = limit
        self.size = 0
        self.datagram = datagram
        self.full = False
        self.dropped = 0
        self.lose = lose
        """Where what is dropped is counted, at once: nobody knows how long the destination takes."""
        self.held = False
        """The hop in front said `pause` while it was played to."""
        self.parting: Error | None = None
        """Of what the hop behind broke, when it had said all that there is here."""

    def head(self, head: Any, last: bool = False) -> None:
        self.calls.append(("head", (head, last)))

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if self.datagram and (self.size >= self.limit or len(self.calls) >= MANY):
            self.dropped += 1
            if self.lose is not None:
                self.lose("no-destination")
            return
        self.size += len(data)
        self.calls.append(("data", (data, kind, last)))
        if not self.datagram and (self.size >= self.limit or len(self.calls) >= MANY):
            self.full = True
            self.back.pause()  # each time: somebody may have resumed it meanwhile

    def end(self, trailer: Any = None) -> None:
        self.calls.append(("end", (trailer,)))

    def reset(self, error: Error) -> None:
        if self.parting is None:
            self.calls.clear()
            self.calls.append(("reset", (error,)))

    def outlives(self, error: Error) -> bool:
        """The hop behind broke. True: what it has said before waits here, and the failure is told behind it. Idempotent."""
        if error.kind != "reset" or error.side != "downstream":
            return False
        if self.parting is None and any(name == "data" for name, _ in self.calls):
            self.parting = error.bare()
            self.calls.append(("reset", (self.parting,)))
        return self.parting is not None

    def flush(self) -> None: ...

    def pause(self) -> None:
        self.held = True
        self.back.pause()

    def resume(self) -> None:
        self.held = False
        self.back.resume()

    def stop(self, error: Error | None = None) -> None:
        self.calls.clear()
        self.back.stop(error)

    def replay(self, to: Stream) -> None:
        """Play everything into `to`, step out of the ring, and let the hop behind go on unless `to` is full.

        What comes meanwhile is played in its turn. A destination that fails while it is played to may have been replaced by another
        backlog when the call returns: that one gets the rest.
        """
        back = self.back
        back.to, self.to, to.back = self, to, self
        self.held = False
        calls = self.calls
        while calls and back.to is self:
            name, args = calls.popleft()
            getattr(to, name)(*args)
        self.size, self.full = 0, False
        if back.to is self:
            back.to, to.back = to, back
            to.flush()
            if not self.held:
                back.resume()
        else:
            while calls:
                name, args = calls.popleft()
                getattr(back.to, name)(*args)


def link(hops: Iterable[Stream]) -> None:
    """Chain the hops into a ring, the last one to the first."""
    ring = list(hops)
    ring.append(ring[0])
    for hop, following in pairwise(ring):
        hop.to = following
        following.back = hop
