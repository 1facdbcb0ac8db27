"""The Answer pseudo cluster: every request gets the same answer, for probes and for pages that say "not here".

A source that knows no HTTP gets the body, if any, and an end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.core.stream import Replying, Stream
from carrier.errors import Problem
from carrier.wire.making import answer_head, date_field

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.session import Session
    from carrier.wire.http import Head


class AnswerCluster(Cluster):
    """`spec: {protocol: Answer, status: 200, body: "", type: "text/plain"}`."""

    protocol = "Answer"
    virtual = True
    kind = "message"
    fields = {"status": "200..599", "body": "text", "type": "the body's media type"}

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        super().__init__(conf, env)
        spec = conf.spec
        status, body, kind = spec.get("status", 200), spec.get("body", ""), spec.get("type", "text/plain; charset=utf-8")
        self.body = body.encode() if isinstance(body, str) else b""
        self.own = [(b"content-type", str(kind).encode("latin-1", "replace"))] if self.body else []
        self.status = status if isinstance(status, int) and 200 <= status <= 599 else 200
        self.made: tuple[tuple[bytes, bytes], Head] | None = None
        self.answer()

    def answer(self) -> Head:
        """The answer's head, made anew when its Date is another."""
        date = date_field()
        if self.made is None or self.made[0] is not date:
            self.made = date, answer_head(self.status, [date, *self.own], self.body)
        return self.made[1]

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Everything wrong with a spec, by the strict standard."""
        found = super().check(spec, path)
        status, body, kind = spec.get("status", 200), spec.get("body", ""), spec.get("type", "text/plain")
        if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
            found.append(Problem("cannot be a status", f"{path}.status", seen=repr(status), allowed="200..599"))
        if not isinstance(body, str):
            found.append(Problem("expected text", f"{path}.body", seen=repr(body)))
        if not isinstance(kind, str) or not kind.isprintable() or not kind.isascii():
            found.append(Problem("expected a media type", f"{path}.type", seen=repr(kind), allowed="such as text/html"))
        return found

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream:
        return AnswerStream(self, session.request is not None)


class AnswerStream(Replying):
    """What the session of such a request leads to."""

    __slots__ = ("cluster", "http")

    def __init__(self, cluster: AnswerCluster, http: bool) -> None:
        super().__init__()
        self.cluster = cluster
        self.http = http

    def end(self, trailer: Any = None) -> None:
        body = self.cluster.body
        if self.http:
            self.reply(self.cluster.answer(), body)
        else:
            self.to.data(body, None, True)
