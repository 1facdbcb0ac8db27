"""JSONSocket cluster: puts a header in front of each stream, over any other protocol's cluster (carrier/hops/joint.py).

`header` says what the header carries: `{path: "/p"}` copies what lies at `/p` of the session's metadata, an object, into the root;
`{path: {from, to}}` copies it to another place; `{set: {key, value}}` sets a value. `JSONSocketVersion` comes last. The session begins
when the server has answered with a status 2xx, within the connect timeout of the route.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from carrier.core import registry
from carrier.core.metadata import get_at, set_at
from carrier.errors import Error, Problem
from carrier.hops.framing import make_cluster
from carrier.hops.joint import Joint, OverCluster, check_transport, transport_kind, transport_of
from carrier.options import check_numbers
from carrier.wire.jsonheader import LONGEST, VERSION, End, Refused, check_answer, compact, inspect

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.session import Session
    from carrier.core.spec import Kind


class JsonSocketCluster(OverCluster):
    """`spec: {protocol: JSONSocket, transport: <a cluster's spec>, header: [...]}` (or `transport_spec`); the endpoints are its own."""

    protocol = "JSONSocket"
    fields = {"transport": "the spec of a cluster", "transport_spec": "the same", "header": "[{path: ...} | {set: {key, value}}]"}

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        spec = transport_of(conf.spec)
        if spec is None:
            raise Error("config", "JSONSocketCluster: No transport specified")
        kind = registry.cluster(spec.get("protocol"))
        if kind is None or kind.admin:
            raise Error("config", f'Cluster.create: TODO: Protocol "{spec.get("protocol")}" unimplemented')
        items = conf.spec.get("header") or []
        self.items: list[Any] = items if isinstance(items, list) else [items]
        super().__init__(conf, env, partial(make_cluster, kind), spec)

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        found = super().check(spec, path) + check_transport(spec, path, registry.cluster)
        header = spec.get("header", [])
        if not isinstance(header, list):
            return [*found, Problem(f"expected a list, got {header!r}", f"{path}.header", seen=repr(header), allowed=cls.fields["header"])]
        return found + [
            Problem(f"unknown header item {item!r}", f"{path}.header[{i}]", seen=repr(item), allowed=cls.fields["header"])
            for i, item in enumerate(header)
            if _read(item) is None
        ]

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """The transport's options are known to the transport only: here they must be numbers, in any unit."""
        return [problem for name in options for problem in check_numbers({name: options[name]}, {name: 0}, path)]

    @classmethod
    def kind_of(cls, spec: Mapping[str, Any]) -> Kind:
        return transport_kind(spec, registry.cluster)

    def make(self, session: Session) -> Joint:
        return Client(self, make_header(self.items, session.metadata))

    async def opened(self, joint: Joint) -> None:
        assert isinstance(joint, Client)
        joint.near.to.data(joint.header)
        joint.near.to.flush()
        await joint.answer


def make_header(items: list[Any], metadata: Mapping[str, Any]) -> bytes:
    """The header for a session. Raises Error when an item makes no sense."""
    header: dict[str, Any] = {}
    for item in items:
        read = _read(item)
        if read is None:
            raise Error("config", f"Unknown JSONSocket header spec: {inspect(item, 4)}")
        source, value, to = read
        if source is not None:
            value = get_at(metadata, source)
        if value is None:
            continue
        if to.strip("/"):
            header = set_at(header, to, value)
        elif isinstance(value, Mapping):
            header = {**header, **value}
    header.pop("JSONSocketVersion", None)
    return compact({**header, "JSONSocketVersion": VERSION})


def _read(item: Any) -> tuple[str | None, Any, str] | None:
    """(path to copy from or None, value to set, path to put it at) of a header item, or None."""
    path = item.get("path") if isinstance(item, Mapping) else None
    if isinstance(path, str):
        return path, None, "/"
    if isinstance(path, Mapping) and isinstance(path.get("from"), str) and isinstance(path.get("to", "/"), str):
        return path["from"], None, path.get("to", "/")
    given = item.get("set") if isinstance(item, Mapping) else None
    if isinstance(given, Mapping) and isinstance(given.get("key"), str) and given.get("value") is not None:
        return None, given["value"], given["key"]
    return None


class Client(Joint):
    """The client's end of one stream. answer: done when the server has accepted, or failed with why it has not."""

    def __init__(self, cluster: JsonSocketCluster, header: bytes) -> None:
        super().__init__()
        self.cluster = cluster
        self.header = header
        self.answer: asyncio.Future[None] = cluster.env.loop.create_future()
        self.end = End()
        self.early: list[tuple[bytes, Any]] = []
        """What came behind the answer before the session was linked."""
        self.last: Callable[[], None] | None = None
        """How the transport ended before the session was linked."""
        self.reading = False

    def arrived(self, data: bytes, kind: Any = None) -> None:
        if self.reading:
            self.deliver(data, kind)
        elif self.answer.done():
            self.early.append((data, kind))
        else:
            self._answer(data)

    def _answer(self, data: bytes) -> None:
        end: int | None = len(data)
        if self.cluster.kind == "byte":
            end = self.end.feed(data)
            if end is None and len(self.end.held) <= LONGEST:
                return
            data, self.end = bytes(self.end.held), End()
        try:
            check_answer(data[:end])
        except Refused as refused:
            self.answer.set_exception(Error("bad-answer", refused.reason, "upstream", "yes"))
            return
        self.answer.set_result(None)
        if end is not None and len(data) > end:
            self.early.append((data[end:], None))

    def resumed(self) -> None:
        """The session is linked: what came early goes first."""
        self.reading = True
        early, self.early = self.early, []
        for data, kind in early:
            self.deliver(data, kind)
        last, self.last = self.last, None
        if last is not None:
            last()

    def ended(self, trailer: Any = None) -> None:
        if self.reading:
            super().ended(trailer)
        elif self.answer.done():
            self.last = self.last or self.ended
        else:
            self.answer.set_exception(Error("closed", "the server closed before it answered the header", "upstream", "yes"))

    def failed(self, error: Error) -> None:
        if self.reading:
            super().failed(error)
        elif self.answer.done():
            self.last = partial(super().failed, error)
        else:
            self.answer.set_exception(Error(error.kind, error.detail, "upstream", "yes"))
