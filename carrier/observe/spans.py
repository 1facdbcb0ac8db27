"""Spans of requests that are traced, for an OTLP collector: one of each request, and one of each of its attempts.

`Spans` reads the ledger. What a span says is copied when the request has ended; everything else is done in a thread that is there only
while something is sent: OpenTelemetry's own exporter writes protobuf there and speaks HTTP. Nobody waits for it. It is loaded before the
first listener opens, or, where traces are asked for later, in that thread (see `load`). What finds no
room (`admin.traces.queue`) is dropped, what the collector does not take in time has failed; both are counted, and said in the log.

Attributes have the names of OpenTelemetry's semantic conventions (HTTP, RPC), and `carrier.*` what only we know.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from carrier import redact
from carrier.config.dump import version
from carrier.core.shown import why
from carrier.wire import grpc
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
LOGGER = "opentelemetry"
TEXT = 1024
"""Characters of an attribute."""


class Span(NamedTuple):
    """What is to be sent. trace, span, parent: as numbers, parent 0 for none; began, ended: nanoseconds since 1970; failed: why it counts
    as an error; state: its tracestate."""

    name: str
    server: bool
    trace: int
    span: int
    parent: int
    began: int
    ended: int
    attributes: dict[str, Any]
    failed: str
    state: str


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
        self.exporter: Any = None
        self.make: Callable[[Span], Any] = lambda span: span
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
        self.writer.add(self._close)

    def close(self, timeout: float = LEAVING) -> None:
        """The process ends: what waits is sent if that takes no longer than this."""
        self._stop()
        self.writer.add(self._close)
        self.writer.close(timeout)
        self.closed = True
        if self.sending and self.exporter is not None:  # a collector that is silent: what it was sent is lost
            self.exporter.shutdown()

    def _stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self._start()

    # ------------------------------------------------------------------ the thread's side

    def _export(self) -> None:
        """Send what waits, a batch at a time."""
        try:
            if self.exporter is None:
                self.load()
            while self.waiting and not self.closed:
                batch = [self.waiting.popleft() for _ in range(min(BATCH, len(self.waiting)))]
                self._export_one(batch)
        except Exception as exc:
            self.trouble = f"{type(exc).__name__}: {exc}"
        finally:
            self.sending = False

    def _export_one(self, batch: list[Span]) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        done = False
        try:
            made = []
            for span in batch:
                made.append(self.make(span))
                time.sleep(0)  # the event loop goes first
            done = self.exporter.export(made) is SpanExportResult.SUCCESS
        finally:
            if done:
                self.sent += len(batch)
                self.trouble = ""
            else:
                self.failed += len(batch)
                self.trouble = self.trouble or "the collector did not take them"

    def load(self) -> None:
        """Load the exporter, which costs a second of processor time and 12 MiB: at the start, or in the thread. There the event loop, which
        waits for each of its turns until the thread lets go, is to wait a tenth of the usual time."""
        patience = sys.getswitchinterval()
        sys.setswitchinterval(patience / 10)
        try:
            self._open()
        finally:
            sys.setswitchinterval(patience)

    def _open(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        heard = logging.getLogger(LOGGER)
        heard.handlers = [_Heard(self)]
        heard.propagate = False
        settings = self.settings
        self.make = _maker(settings)
        self.exporter = OTLPSpanExporter(endpoint=settings.url, headers=settings.headers or None, timeout=settings.timeout)

    def _close(self) -> None:
        if self.exporter is not None:
            self.exporter.shutdown()


class _Heard(logging.Handler):
    """What the exporter says goes where ours is said, once, and not to standard error."""

    def __init__(self, spans: Spans) -> None:
        super().__init__(logging.WARNING)
        self.spans = spans

    def emit(self, record: logging.LogRecord) -> None:
        self.spans.trouble = redact.visible(record.getMessage())[:TEXT]


def _maker(settings: Settings) -> Callable[[Span], Any]:
    """What makes the SDK's spans."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
    from opentelemetry.trace.span import TraceState
    from opentelemetry.trace.status import Status, StatusCode

    resource = Resource.create({"service.name": settings.service, "service.version": version(), **settings.resource})
    scope = InstrumentationScope("carrier2", version())
    sampled = TraceFlags(TraceFlags.SAMPLED)

    def make(span: Span) -> ReadableSpan:
        state = TraceState.from_header([span.state]) if span.state else None
        return ReadableSpan(
            span.name,
            SpanContext(span.trace, span.span, False, sampled, state),
            SpanContext(span.trace, span.parent, span.server, sampled) if span.parent else None,
            resource,
            span.attributes,
            kind=SpanKind.SERVER if span.server else SpanKind.CLIENT,
            status=Status(StatusCode.ERROR, span.failed) if span.failed else Status(StatusCode.UNSET),
            start_time=span.began,
            end_time=span.ended,
            instrumentation_scope=scope,
        )

    return make


# --- what a span says ---------------------------------------------------------------------------------------------------------------------


def spans_of(session: Session, trace: Trace, users: Callable[[str], str], hidden: redact.Hidden) -> list[Span]:
    """The span of a request that has ended, and those of its attempts."""
    offset = time.time_ns() - int(time.monotonic() * 1e9)
    request, error = session.request, session.error
    state = _text(request.get(b"tracestate")) if request is not None and trace.parent else ""
    number, own = int(trace.trace, 16), int(trace.span, 16)
    said = _of_request(session, users, hidden)
    status = said.get("http.response.status_code", 0)
    failed = f"{error.kind}: {redact.refused(error.kind, error.detail)}" if error is not None else f"HTTP {status}" if status >= 500 else ""
    if failed:
        said["error.type"] = error.kind if error is not None else str(status)
    method = said.get("http.request.method", "")
    parent = int(trace.parent, 16) if trace.parent else 0
    name = f"{said['rpc.service']}/{said['rpc.method']}" if "rpc.service" in said else f"{method} {session.decision.rule}".strip()
    began, ended = offset + int(session.started * 1e9), offset + int(session.ended_at * 1e9)
    if trace.more:
        said["carrier.attempts.not_shown"] = trace.more
    found = [Span(name, True, number, own, parent, began, ended, said, failed, state)]
    last = trace.attempts[-1] if trace.attempts else None
    for count, attempt in enumerate(trace.attempts):
        attributes, why_not = _of_attempt(attempt, count, attempt is last, session, said)
        at = offset + int(attempt.began * 1e9), offset + int((attempt.ended or session.ended_at) * 1e9)
        found.append(Span(method or name, False, number, int(attempt.span, 16), own, *at, attributes, why_not, state))
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
