"""The L7mpController pseudo cluster: an HTTP request that is routed here is a REST call.

The body is collected, up to the API's limit; everything else is the API's (carrier/api.py). A stream that is not HTTP gets an end.
"""

from __future__ import annotations

import asyncio
from typing import Any

from carrier.cluster import Cluster, Endpoint
from carrier.errors import Error
from carrier.http import answer_head, canned
from carrier.session import DESTROYED, Session
from carrier.stream import Stream

MAX_BODY = 1 << 20


class ControllerCluster(Cluster):
    """`spec: {protocol: L7mpController}`."""

    protocol = "L7mpController"
    virtual = True
    admin = True
    kind = "message"
    default_policy = "None"

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream:
        return ControllerStream(session, self.env.api)


class ControllerStream(Stream):
    """One REST call. api: has `async call(method, path, query, headers, body)`."""

    __slots__ = ("api", "body", "request", "session", "size", "task")

    def __init__(self, session: Session, api: Any) -> None:
        super().__init__()
        self.session = session
        self.api = api
        self.request: Any = None
        self.body: list[bytes] = []
        self.size = 0
        self.task: asyncio.Task[None] | None = None

    def head(self, head: Any, last: bool = False) -> None:
        self.request = head
        if last:
            self.end()

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        self.size += len(data)
        if self.size <= MAX_BODY:
            self.body.append(data)
        if last:
            self.end()

    def flush(self) -> None: ...

    def reset(self, error: Error) -> None:
        """The caller is gone; a change that is under way is finished all the same: it is atomic."""

    def stop(self, error: Error | None = None) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...

    def end(self, trailer: Any = None) -> None:
        if self.request is None or self.api is None:
            self.to.end()
        elif self.size > MAX_BODY:
            head, body = canned(413, f"the body has {self.size} bytes; at most {MAX_BODY} are taken")
            self.to.head(head)
            self.to.data(body)
            self.to.end()
        else:
            self.task = asyncio.get_running_loop().create_task(self._call())

    async def _call(self) -> None:
        request = self.request
        path, _, query = request.target.decode("latin-1").partition("?")
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in request.fields}
        answer = await self.api.call(request.method.decode("latin-1"), path, query, headers, b"".join(self.body))
        if self.session.status == DESTROYED:
            return
        fields = [(name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in answer.headers.items()]
        self.to.head(answer_head(answer.status, fields, answer.body), not answer.body)
        if answer.body:
            self.to.data(answer.body, None, True)
