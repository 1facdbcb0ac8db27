"""The L7mpController pseudo cluster: an HTTP request that is routed here is a REST call.

The gate (admin/gate.py) looks at the caller when the head is there, before anything of the body is held. The body is collected, up to
the API's limit and within the time that a request may take; everything else is the API's (carrier/admin/api.py). A stream that is not
HTTP gets an end.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from carrier.admin.gate import Limits, caller_of
from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.core.slices import SLICE
from carrier.core.stream import DESTROYED, Stream
from carrier.errors import Error
from carrier.wire.http import CLOSE
from carrier.wire.making import answer_head, date_field

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.admin.calls import Standing
    from carrier.core.env import Env
    from carrier.core.session import Session


class ControllerCluster(Cluster):
    """`spec: {protocol: L7mpController}`."""

    protocol = "L7mpController"
    virtual = True
    admin = True
    kind = "message"
    default_policy = "None"

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        super().__init__(conf, env)
        self.writers: deque[ControllerStream] = deque()
        """Calls with large answers whose readers wait for the next piece."""
        self.turn: asyncio.Handle | None = None

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream:
        return ControllerStream(session, self.env, self)

    def later(self, stream: ControllerStream) -> None:
        """Let a call write the next piece of its answer, after those that ask already: pieces cost time, which all share."""
        self.writers.append(stream)
        if self.turn is None:
            self.turn = self.env.loop.call_soon(self._write)

    def _write(self) -> None:
        until = time.perf_counter() + SLICE
        while self.writers and time.perf_counter() < until:
            self.writers.popleft().go_on()
        self.turn = self.env.loop.call_soon(self._write) if self.writers else None


class ControllerStream(Stream):
    """One REST call. env.api: has `async call(method, path, query, headers, body)`; a gate's caller is handed to it as `peer`."""

    __slots__ = (
        "api",
        "asks",
        "body",
        "cluster",
        "done",
        "gate",
        "held",
        "limits",
        "more",
        "most",
        "peer",
        "request",
        "role",
        "session",
        "size",
        "standing",
        "task",
        "timer",
        "unwatch",
    )

    def __init__(self, session: Session, env: Env, cluster: ControllerCluster) -> None:
        super().__init__()
        self.cluster = cluster
        self.session = session
        self.api = env.api
        self.gate = env.gate
        self.limits: Limits = env.gate.limits if env.gate is not None else Limits()
        self.most = self.limits.body
        """Bytes that the body may have."""
        self.peer = ""
        self.standing: Standing | None = None
        self.role = ""
        self.request: Any = None
        self.body: list[bytes] = []
        self.size = 0
        self.done = False
        """The call is answered, or on its way: what still comes is dropped."""
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.more: Iterator[bytes] | None = None
        """The rest of a large answer."""
        self.asks = False
        """The next of it is about to be written."""
        self.held = False
        self.unwatch: Callable[[Any], object] | None = None
        """Called when an answer that never ends has lost its reader."""

    def head(self, head: Any, last: bool = False) -> None:
        self.request = head
        self.most = self.limits.most(head.target.decode("latin-1").partition("?")[0])
        if self.gate is not None:
            method, path, _, headers = self._parts()
            try:
                caller = caller_of(self.session, self.gate)
                self.peer = self.gate.admit(caller, method, path, headers)
                self.standing = self.gate.standing(caller, headers)
                self.role = self.gate.role(caller, headers)
            except Error as error:
                self._refuse(error)
                return
        if last:
            self.end()
        elif self.limits.request_timeout:
            self.timer = asyncio.get_running_loop().call_later(self.limits.request_timeout, self._late)

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        if self.done:
            return
        self.size += len(data)
        if self.size > self.most > 0:
            name = "body" if self.most == self.limits.body else "total"
            self._refuse(Error("body-too-large", f"the body has more than {self.most} bytes (limit {name})", "downstream"))
            return
        self.body.append(data)
        if last:
            self.end()

    def flush(self) -> None: ...

    def reset(self, error: Error) -> None:
        """The caller is gone; a change that is under way is finished all the same: it is atomic."""
        self._over()
        self.more = None
        self._unwatch()

    def stop(self, error: Error | None = None) -> None:
        self.more = None
        self._unwatch()

    def pause(self) -> None:
        self.held = True

    def resume(self) -> None:
        self.held = False
        self._soon()

    def end(self, trailer: Any = None) -> None:
        if self.done:
            return
        self._over()
        if self.request is None or self.api is None:
            self.to.end()
        else:
            self.task = asyncio.get_running_loop().create_task(self._call())

    def _over(self) -> None:
        self.done = True
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _late(self) -> None:
        timeout = self.limits.request_timeout
        self._refuse(Error("request-timeout", f"the request took more than {timeout:g} s to come (limit request_timeout)", "downstream"))

    def _refuse(self, error: Error) -> None:
        from carrier.admin.calls import refusal

        self._over()
        self.body.clear()
        self._answer(refusal(error))

    def _parts(self) -> tuple[str, str, str, dict[str, str]]:
        """Method, path, query and headers (lower case) of the call."""
        request = self.request
        path, _, query = request.target.decode("latin-1").partition("?")
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in request.fields}
        return request.method.decode("latin-1"), path, query, headers

    async def _call(self) -> None:
        method, path, query, headers = self._parts()
        more: dict[str, Any] = {"peer": self.peer, "standing": self.standing, "role": self.role} if self.peer else {}
        if not self.session.listener.listed:
            more["own"] = True
        answer = await self.api.call(method, path, query, headers, b"".join(self.body), **more)
        if self.session.status != DESTROYED:
            self._answer(answer)

    def _answer(self, answer: Any) -> None:
        fields = [(name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in answer.headers.items()]
        fields.insert(0, date_field())
        if answer.watch is not None:
            self._watch(answer, fields)
            return
        self.more = answer.more
        if self.more is not None:
            self.to.head(answer_head(answer.status, fields, framing=CLOSE))
            self.to.data(answer.body)
            self.to.flush()
            self._soon()
            return
        self.to.head(answer_head(answer.status, fields, answer.body), not answer.body)
        if answer.body:
            self.to.data(answer.body, None, True)

    def _watch(self, answer: Any, fields: list[tuple[bytes, bytes]]) -> None:
        """An answer that never ends: events are written to it until its reader goes."""
        self.unwatch = answer.unwatch
        self.to.head(answer_head(answer.status, fields, framing=CLOSE))
        self.to.flush()
        answer.watch(self)

    def write(self, data: bytes) -> bool:
        """Something to tell who watches; False when he has enough for now, and nothing was written."""
        if self.held or self.session.status == DESTROYED:
            return False
        self.to.data(data)
        self.to.flush()
        return True

    def forget(self) -> None:
        super().forget()
        self._unwatch()

    def _unwatch(self) -> None:
        """Nobody watches any more. Idempotent."""
        unwatch, self.unwatch = self.unwatch, None
        if unwatch is not None:
            unwatch(self)

    def _soon(self) -> None:
        if self.more is not None and not self.held and not self.asks:
            self.asks = True
            self.cluster.later(self)

    def go_on(self) -> None:
        """Write the next piece of a large answer, unless the reader has enough."""
        self.asks = False
        if self.more is None or self.held or self.session.status == DESTROYED:
            return
        try:
            piece = next(self.more, b"")
        except Exception as exc:
            self.more = None
            self.to.reset(Error("internal", f"the answer cannot be written to its end: {type(exc).__name__}: {exc}"))
            return
        if not piece:
            self.more = None
            self.to.end()
            return
        self.to.data(piece)
        self.to.flush()
        self._soon()
