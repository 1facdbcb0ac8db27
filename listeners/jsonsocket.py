"""JSONSocket listener: a stream with metadata in front of it, over any other protocol's listener (carrier/hops/joint.py).

The first message of the transport's session is the header; it becomes `/JSONSocket` in the metadata of the session that is routed.
The answer says 200 when the destination is connected, or the status of what failed, then the transport is closed. Header and payload
are read as carrier/wire/jsonheader.py says.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from carrier.core import registry
from carrier.core.stream import CONNECTED
from carrier.errors import Error, Problem
from carrier.hops.framing import make_listener
from carrier.hops.joint import Joint, Over, check_transport, transport_kind, transport_of
from carrier.options import numbers
from carrier.wire.jsonheader import LONGEST, End, Refused, answer, refusal, request

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.address import Key
    from carrier.core.env import Env
    from carrier.core.listener import Listener
    from carrier.core.session import Session
    from carrier.core.spec import Kind

OPTIONS: Mapping[str, float] = {"track": 0, "header_timeout": 10}
"""Seconds. Every other option is the transport's."""


class JsonSocketListener(Over):
    """`spec: {protocol: JSONSocket, transport: <a listener's spec>}` (or `transport_spec`), `options`: see OPTIONS."""

    protocol = "JSONSocket"
    fields = {"transport": "the spec of a listener", "transport_spec": "the same"}

    def __init__(self, conf: config.Listener, env: Env) -> None:
        spec = transport_of(conf.spec)
        if spec is None:
            raise Error("config", "JSONSocketListener: No transport specified")
        kind = registry.listener(spec.get("protocol"))
        if kind is None:
            raise Error("config", f'Listener.create:Unknown protocol: "{spec.get("protocol")}"')
        own = numbers(conf.options, OPTIONS)
        self.header_timeout = own["header_timeout"] or float("inf")
        super().__init__(conf, env, partial(make_listener, kind), spec)
        self.waiting: dict[Server, float] = {}
        """Joints whose header has not come, and since when."""

    @classmethod
    def check(cls, spec: Mapping[str, Any], path: str = "") -> list[Problem]:
        return super().check(spec, path) + check_transport(spec, path, registry.listener)

    @classmethod
    def check_options(cls, options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """The transport's options are known to the transport only: here they must be numbers."""
        return [
            Problem(f"expected a number, got {value!r}", f"{path}.{name}", seen=repr(value), allowed="0 or more")
            for name, value in options.items()
            if name != "proxy_protocol" and (not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0)
        ]

    @classmethod
    def check_inside(cls, spec: Mapping[str, Any], options: Mapping[str, Any], path: str = "") -> list[Problem]:
        """Who says first who has connected is the transport's to know: by a UNIX socket it is nobody with an address, by others it is."""
        inner = transport_of(spec) or {}
        kind = registry.listener(inner.get("protocol"))
        if kind is None or "proxy_protocol" not in options:
            return []
        return kind.check_inside(inner, options, path) or kind.check_options({"proxy_protocol": options["proxy_protocol"]}, path) or []

    @classmethod
    def claim(cls, spec: Mapping[str, Any]) -> Key | None:
        inner = transport_of(spec) or {}
        kind = registry.listener(inner.get("protocol"))
        return kind.claim(inner) if kind is not None else None

    @classmethod
    def kind_of(cls, spec: Mapping[str, Any]) -> Kind:
        return transport_kind(spec, registry.listener)

    def make(self, session: Session) -> Joint:
        joint = Server(self)
        self.waiting[joint] = self.env.loop.time()
        return joint

    def adopt(self, joint: Joint) -> None:
        super().adopt(joint)
        assert isinstance(joint, Server)
        joint.listener = self

    def inherit(self, old: Listener) -> None:
        super().inherit(old)
        if isinstance(old, JsonSocketListener) and self.continues(old):
            self.waiting |= old.waiting
            old.waiting.clear()
            for joint in self.waiting:
                self.adopt(joint)

    def greet(self, joint: Joint) -> None:
        """The client speaks first."""

    def tick(self, now: float) -> None:
        super().tick(now)
        for joint, since in list(self.waiting.items()):
            if joint.over or now - since > self.header_timeout:
                del self.waiting[joint]
                joint.say_no(408, f"no header within {self.header_timeout:g} s (options.header_timeout)")

    def session_name(self, session: Session) -> str:
        return self.env.names.give(session, f"JSONSocket:{self.name}-{session.number}")

    def metadata(self, session: Session) -> dict[str, Any]:
        joint = session.source.joint
        return {**super().metadata(session), "JSONSocket": joint.header}


class Server(Joint):
    """The server's end of one stream."""

    def __init__(self, listener: JsonSocketListener) -> None:
        super().__init__()
        self.listener = listener
        self.header: dict[str, Any] | None = None
        self.end = End()
        self.answered = False

    def arrived(self, data: bytes, kind: Any = None) -> None:
        if self.header is not None:
            self.deliver(data, kind)
        elif not self.over:
            self._header(data)

    def _header(self, data: bytes) -> None:
        end: int | None = len(data)
        if self.listener.kind == "byte":
            end = self.end.feed(data)
            if end is None and len(self.end.held) <= LONGEST:
                return
            data, self.end = bytes(self.end.held), End()
        try:
            self.header = request(data[:end])
        except Refused as refused:
            self.listener.waiting.pop(self, None)
            self._close(answer(refused.status, refused.reason))
            return
        self.listener.waiting.pop(self, None)
        self.listener.admit(self)
        if end is not None and len(data) > end:
            self.deliver(data[end:])

    def resumed(self) -> None:
        """The destination is connected: say so before anything of it is passed on."""
        session = self.far.session
        if not self.answered and session is not None and session.status == CONNECTED:
            self.answered = True
            self.near.to.data(answer(200, "OK"))
            self.near.to.flush()

    def send(self, data: bytes, kind: Any = None) -> None:
        self.resumed()
        super().send(data, kind)

    def refuse(self, error: Error) -> None:
        if self.answered or self.header is None:
            super().refuse(error)
        elif not self.over:
            self._close(refusal(error.status, error.detail))

    def ended(self, trailer: Any = None) -> None:
        """Without a header there will be none: nothing is left to wait for."""
        self.say_no(400, "the end came before the header")
        super().ended(trailer)

    def say_no(self, status: int, detail: str) -> None:
        """There was no header: tell the client, and close."""
        if self.header is None and not self.over:
            self._close(refusal(status, detail))

    def _close(self, last_word: bytes) -> None:
        self.answered = self.over = True
        self.near.to.data(last_word)
        self.near.to.flush()
        self.near.to.reset(Error("closed", "the header was refused"))
