"""One request and its answer as the destination of one session, whatever version carries it upstream: here is the policy.

An exchange is what carries it: a connection of HTTP/1.1 is itself its one exchange, idle in its endpoint's pool or in use
(clusters/http/h1.py); one of HTTP/2 makes one for each stream. What is wrong before the first byte of an answer went on becomes a 502,
later a visible cut. Sources that know no HTTP (TCP, UDP) become the body of a request made for them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from carrier.core.stream import DESTROYED, NOWHERE, Socket
from carrier.errors import Error, Retry
from carrier.wire.h1.head import Limits
from carrier.wire.h1.memo import AnswerMemo
from carrier.wire.http import CHUNKED, NONE, Head
from carrier.wire.making import request_head

if TYPE_CHECKING:
    from carrier.core.endpoint import Endpoint
    from carrier.core.session import Session


PATIENCE = 2.0
"""Seconds that an upstream has to say something before its host is looked at."""


SOONER = 2
"""Seconds by which an idle connection is given up before its server would."""
_KEEPS = re.compile(rb"(?:^|[,; ])timeout\s*=\s*\"?([0-9]{1,6})(?![0-9])", re.I)


def keeps(field: bytes | None) -> int:
    """The seconds that a Keep-Alive field tells; 0: none."""
    found = _KEEPS.search(field) if field else None
    return int(found[1]) if found else 0


class Busy(Protocol):
    """An exchange, or a connection of many."""

    def tick(self, now: float, /) -> None:
        """Look at deadlines: once a second."""


class Shared:
    """What the exchanges of one cluster share. now: monotonic seconds of its last tick. busy: those that are looked at then.

    known: the last whole short answer, and what it is: the next one is often the same. answer_timeout: seconds, 0 for none. keep: seconds
    for which the servers keep an idle connection, as the last new one has said; 0: it has not.
    """

    __slots__ = ("answer_timeout", "busy", "keep", "known", "limits", "memo", "now")

    def __init__(self, now: float, answer_timeout: float, limits: Limits | None = None) -> None:
        self.now, self.answer_timeout = now, answer_timeout
        self.limits = limits or Limits()
        self.memo = AnswerMemo(self.limits)
        self.known: tuple[bytes, Head | None, bytes] = (b"", None, b"")
        self.busy: set[Busy] = set()
        self.keep = 0

    def idle_for(self, most: float) -> float:
        """For how many seconds a connection may be idle, `most` at most (0: no limit): given up before its server does, because a request
        that meets the server's end halfway is lost. (Ages are known to a second, and looked at once a second.)"""
        return min(most or self.keep, max(self.keep - SOONER, 0.001)) if self.keep else most


class Exchange(Socket):
    """See the module. It counts no bytes: the source does.

    request: its head, while the codec need not know of it. request_done: it was sent to its end. waiting: for the answer's head. since:
    monotonic seconds of the last step. plain: the source knows no HTTP. tunnel: another protocol has begun; half: one direction of it has
    ended. used: what carries it has carried a request before. usable: nothing has happened to that while idle.
    """

    __slots__ = ("endpoint", "half", "plain", "request", "request_done", "shared", "since", "tunnel", "usable", "used", "waiting")
    session: Session | None

    def __init__(self, shared: Shared, endpoint: Endpoint) -> None:
        super().__init__()
        self.shared = shared
        self.endpoint = endpoint
        self.waits = False
        self.request: Head | None = None
        self.used = self.tunnel = self.plain = self.half = False
        self.request_done = True
        self.usable = True
        self.waiting = False
        self.since = shared.now

    # ------------------------------------------------------------------ the request

    def sent(self, head: Head) -> Head:
        """The head as it is to be sent on."""
        session = self.session
        if session is not None and not session.on_lane and session.hops and head.body != NONE and session.resizes(session.decision.ingress):
            return head.as_chunked()  # a transform may change the length
        return head

    def refuse_grpc(self) -> None:
        """A call of gRPC came to where only HTTP/1.1 is spoken, which has no trailers that anybody sends on for sure."""
        to = self.to
        self.spared()
        to.reset(no_grpc(self.endpoint))

    def spared(self) -> None:
        """It was chosen and is not needed."""
        self.close()

    def gone(self) -> None:
        """It died between being chosen and being used."""
        to = self.to
        self.close()
        retry: Retry = "if_reused" if self.used else "yes"
        to.reset(Error("closed", f"{self.endpoint.address}: the connection was closed", "upstream", retry))

    def makes_head(self) -> bool:
        """If the source knows no HTTP, its bytes become the body of a request of our own."""
        session = self.session
        if session is None or session.request is not None or self.plain:
            return False
        self.plain = True
        where = self.endpoint.address.encode("latin-1", "replace")
        fields = [(b"host", where), (b"content-type", b"application/octet-stream")]
        self.head(request_head(b"POST", b"/", fields, body=CHUNKED))
        return True

    # ------------------------------------------------------------------ the answer

    def answered(self, head: Head) -> None:
        """The codec has read a head of an answer."""
        if head.tunnel:
            self.waiting = False
            self.tunnel = True
        elif head.status >= 200:
            self.waiting = False
            if self.plain:
                return
        else:
            self.since = self.shared.now  # it lives
        self.to.head(head)

    def broken(self, error: Error) -> None:
        """The exchange failed: both neighbours hear of it, and what carried it is gone."""
        if not self.used and error.retry == "if_reused":
            error.retry = "no"
        session = self.session
        to, back = self.to, self.back
        self.close()
        if session is not None:
            to.reset(error)
            if back.to is self:  # else the session has replaced this end: the hop behind has another one to write to
                back.stop(error)

    # ------------------------------------------------------------------ ends

    def reset(self, error: Error) -> None:
        """The source is gone."""
        self.close()

    def stop(self, error: Error | None = None) -> None:
        if error is not None:
            self.close()

    def close(self) -> None:
        """Never to be used again. Idempotent."""
        self.usable = False
        self.session = None
        self.to = self.back = NOWHERE
        self.request = None
        self.waiting = False
        self.request_done = True  # what may still come of the request is dropped
        self.shared.busy.discard(self)

    def tick(self, now: float) -> None:
        """Deadlines, once a second: the answer's head."""
        timeout = self.shared.answer_timeout
        session = self.session
        if session is not None and session.status == DESTROYED:  # cancelled in the very moment that it was connected
            self.close()
        elif self.tunnel:
            return
        elif self.owed() and self.request_done and 0 < timeout < now - self._waits_since():
            self.broken(Error("timeout", f"{self.endpoint.address}: no answer within {timeout:g} s (options.answer_timeout)", "upstream"))

    def owed(self) -> bool:
        """Is the head of an answer to come?"""
        return self.waiting or self.request is not None

    def _waits_since(self) -> float:
        """When the request was sent: monotonic seconds. `since` is only set at the end of a body, and when a connection becomes idle."""
        return max(self.since, self.session.connected_at) if self.session is not None else self.since


def no_grpc(endpoint: Endpoint) -> Error:
    """Why a call of gRPC does not go there."""
    detail = f"{endpoint.address}: gRPC needs HTTP/2, and this cluster speaks HTTP/1.1 with it (spec.http: 2 where it knows both)"
    return Error("not-implemented", detail, "upstream")


def named(endpoint: Endpoint, error: Error) -> Error:
    """The error, with whose it is."""
    error.detail = f"{endpoint.address}: {error.detail}"
    return error
