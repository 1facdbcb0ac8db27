"""Spans of requests that are traced, for an OTLP collector: one of each request, and one of each of its attempts.

`Spans` reads the ledger. What a span says is copied when the request has ended; everything else is done in a thread that is there only
while something is sent: protobuf is written there (carrier/wire/otlp.py), and HTTP spoken. Nobody waits for it. What finds no room
(`admin.traces.queue`) is dropped, what the collector does not take in time has failed; both are counted, and said in the log.

Attributes have the names of OpenTelemetry's semantic conventions (HTTP, RPC), and `carrier.*` what only we know.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from carrier import redact
from carrier.config.dump import version
from carrier.core.shown import why
from carrier.wire import grpc
from carrier.wire.otlp import Span, export
from carrier.writer import Writer

if TYPE_CHECKING:
    from carrier.config.traces import Settings
    from carrier.core.session import Session
    from carrier.core.trace import Attempt, Trace

DELAY = 1.0
"""Seconds that a span waits at most before it is sent."""
BATCH = 128
"""Spans of one export."""
LEAVING = 1.0
"""Seconds that the end of the process waits for what is being sent."""
MAKER = "carrier2"
"""Who has made the spans."""
TEXT = 1024
"""Characters of an attribute."""


class Spans:
    """See the module. users: rule -> the user whose bridge it is; hidden: what is not shown of requests; say: of the process's log."""

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        users: Callable[[str], str] = lambda rule: "",
        hidden: Callable[[], redact.Hidden] = lambda: redact.ALWAYS,
        say: Callable[..., object] = lambda event, /, **values: None,
    ) -> None:
        self.settings = settings
        self.loop = loop
        self.users = users
        self.hidden = hidden
        self.say = say
        self.waiting: deque[Span] = deque()
        self.sent = self.dropped = self.failed = 0
        """Spans: that the collector took; that found no room; that it did not take."""
        self.trouble = self.told = ""
        """Why the last export failed; what of that was said."""
        self.timer: asyncio.TimerHandle | None = None
        self.writer = Writer(sink=lambda data: None)
        from carrier.observe.collector import Collector  # few need it

        self.collector = Collector(settings)
        self.resource = resource_of(settings)
        self.sending = self.closed = False

    # ------------------------------------------------------------------ the event loop's side

    def read(self, ended: Sequence[Any]) -> None:
        """A reader of the ledger."""
        for entry in ended:
            if entry.__class__ is not tuple and entry.rare is not None and entry.trace is not None:
                self._add(entry, entry.trace)

    def _add(self, session: Session, trace: Trace) -> None:
        made = spans_of(session, trace, self.users, self.hidden())
        room = self.settings.queue - len(self.waiting)
        self.waiting.extend(made[:room] if room > 0 else ())
        self.dropped += max(0, len(made) - max(0, room))
        if self.timer is None:
            self.timer = self.loop.call_later(DELAY, self._send)

    def _send(self) -> None:
        """Once a second, while there is something to send or to say."""
        self.timer = None
        if self.trouble != self.told:
            self.told = self.trouble
            if self.told:
                self.say("spans are lost", collector=self.settings.endpoint, reason=self.told)
        if self.waiting or self.sending:
            self._start()
            self.timer = self.loop.call_later(DELAY, self._send)

    def _start(self) -> None:
        if not self.sending and self.waiting:
            self.sending = True
            self.writer.add(self._export)

    def leave(self) -> None:
        """Others take its place: what waits is sent, and nobody waits for that."""
        self._stop()

    def close(self, timeout: float = LEAVING) -> None:
        """The process ends: what waits is sent if that takes no longer than this. Once is enough."""
        if self.closed:
            return
        self._stop()
        self.writer.close(timeout)
        self.closed = True
        self.collector.leaving.set()  # of one that is silent: what it was sent is lost

    def _stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self._start()

    # ------------------------------------------------------------------ the thread's side

    def _export(self) -> None:
        """Send what waits, a batch at a time."""
        try:
            while self.waiting and not self.closed:
                batch = [self.waiting.popleft() for _ in range(min(BATCH, len(self.waiting)))]
                self._export_one(batch)
        except Exception as exc:
            self.trouble = f"{type(exc).__name__}: {exc}"
        finally:
            self.sending = False

    def _export_one(self, batch: list[Span]) -> None:
        done = False
        try:
            self.collector.take(export(self.resource, (MAKER, version()), batch))
            done = True
        except OSError as exc:
            self.trouble = redact.visible(str(exc))[:TEXT]
        finally:
            if done:
                self.sent += len(batch)
                self.trouble = ""
            else:
                self.failed += len(batch)


def resource_of(settings: Settings) -> dict[str, Any]:
    """What all spans say of this process; what its surroundings say of it (OTEL_RESOURCE_ATTRIBUTES), too."""
    pairs = (part.partition("=") for part in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
    found: dict[str, Any] = {name.strip(): unquote(value.strip()) for name, equals, value in pairs if equals and name.strip()}
    found |= {"telemetry.sdk.name": MAKER, "telemetry.sdk.language": "python", "telemetry.sdk.version": version()}
    return found | {"service.name": settings.service, "service.version": version(), **settings.resource}


# --- what a span says ---------------------------------------------------------------------------------------------------------------------


def spans_of(session: Session, trace: Trace, users: Callable[[str], str], hidden: redact.Hidden) -> list[Span]:
    """The span of a request that has ended, and those of its attempts."""
    offset = time.time_ns() - int(time.monotonic() * 1e9)
    request, error = session.request, session.error
    state = _text(request.get(b"tracestate")) if request is not None and trace.parent else ""
    number, own = bytes.fromhex(trace.trace.decode()), bytes.fromhex(trace.span.decode())
    said = _of_request(session, users, hidden)
    status = said.get("http.response.status_code", 0)
    failed = f"{error.kind}: {redact.refused(error.kind, error.detail)}" if error is not None else f"HTTP {status}" if status >= 500 else ""
    if failed:
        said["error.type"] = error.kind if error is not None else str(status)
    method = said.get("http.request.method", "")
    parent = bytes.fromhex(trace.parent.decode())
    name = f"{said['rpc.service']}/{said['rpc.method']}" if "rpc.service" in said else f"{method} {session.decision.rule}".strip()
    began, ended = offset + int(session.started * 1e9), offset + int(session.ended_at * 1e9)
    if trace.more:
        said["carrier.attempts.not_shown"] = trace.more
    found = [Span(name, True, number, own, parent, began, ended, said, failed, state)]
    last = trace.attempts[-1] if trace.attempts else None
    for count, attempt in enumerate(trace.attempts):
        attributes, why_not = _of_attempt(attempt, count, attempt is last, session, said)
        at = offset + int(attempt.began * 1e9), offset + int((attempt.ended or session.ended_at) * 1e9)
        found.append(Span(method or name, False, number, bytes.fromhex(attempt.span.decode()), own, *at, attributes, why_not, state))
    return found


def _of_request(session: Session, users: Callable[[str], str], hidden: redact.Hidden) -> dict[str, Any]:
    """Attributes of a request: HTTP server spans and RPC, and ours."""
    request, decision, answer = session.request, session.decision, session.answer
    source, endpoint = session.source, session.endpoint or session.last_endpoint
    found: dict[str, Any] = {
        "carrier.listener": session.listener.name,
        "carrier.rule": decision.rule,
        "carrier.why": why(session, hidden),
        "carrier.user": users(decision.rule),
        "carrier.cluster": session.cluster.name if session.cluster is not None else "",
        "carrier.endpoint": endpoint.address if endpoint is not None else "",
        "carrier.fallback": session.fallback or "",
        "carrier.retries": session.retries,
        "network.transport": "tcp",
    }
    peer = source.peer
    if isinstance(peer, tuple) and peer[0]:
        found |= {"client.address": peer[0].removeprefix("::ffff:"), "network.peer.address": peer[0], "network.peer.port": peer[1]}
    if request is not None:
        found |= _of_head(request, session, hidden)
    if answer is not None:
        found["http.response.status_code"] = answer.status
    return {name: value for name, value in found.items() if value != ""}


def _of_head(request: Any, session: Session, hidden: redact.Hidden) -> dict[str, Any]:
    host, _, port = request.authority.rpartition(b":")
    if not host or not port.isdigit():
        host, port = request.authority, b""
    path, _, query = redact.target(request.location, hidden.query).partition(b"?")
    agent = request.get(b"user-agent")
    found: dict[str, Any] = {
        "http.request.method": _text(request.method),
        "url.scheme": "https" if getattr(session.listener, "tls", None) is not None else "http",
        "url.path": _text(path),
        "url.query": _text(query),
        "server.address": _text(host),
        "server.port": int(port) if port else "",
        "network.protocol.name": "http",
        "network.protocol.version": request.version,
        "user_agent.original": redact.REDACTED if "user-agent" in hidden.fields and agent else _text(agent),
    }
    if request.grpc:
        service, method = grpc.call_of(request.target)
        found |= {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        if session.outcome in grpc.NAMES:
            found["rpc.grpc.status_code"] = grpc.NAMES.index(session.outcome)
    return found


def _of_attempt(attempt: Attempt, count: int, last: bool, session: Session, said: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Attributes of one attempt (HTTP client spans), and why it counts as an error. last: what the session came to is its own."""
    error = attempt.failed or (session.error if last else None)
    status = attempt.status or (said.get("http.response.status_code", 0) if last and error is None else 0)
    endpoint = attempt.endpoint
    found: dict[str, Any] = {
        name: said[name]
        for name in ("http.request.method", "rpc.system", "rpc.service", "rpc.method", "rpc.grpc.status_code")
        if name in said
    }
    found |= {"carrier.cluster": attempt.cluster, "carrier.endpoint": endpoint.name, "server.address": endpoint.host}
    if endpoint.port:
        found["server.port"] = endpoint.port
    if count:
        found["http.request.resend_count"] = count
    if status:
        found["http.response.status_code"] = status
    why_not = (
        f"{error.kind}: {redact.refused(error.kind, error.detail)}" if error is not None else f"HTTP {status}" if status >= 400 else ""
    )
    if why_not:
        found["error.type"] = error.kind if error is not None else str(status)
    return found, why_not


def _text(value: bytes | None) -> str:
    return redact.visible(value.decode("latin-1"))[:TEXT] if value else ""
