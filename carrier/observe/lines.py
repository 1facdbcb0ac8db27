"""Lines of the access log, joined from parts that are remembered."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import msgspec

from carrier import redact
from carrier.config.accesslog import MORE
from carrier.core.reuse import recorded
from carrier.core.shown import why
from carrier.wire.forwarding import id_of
from carrier.wire.grpc import call_of
from carrier.wire.http import TOKEN
from carrier.wire.trace import context_of

if TYPE_CHECKING:
    from carrier.config.accesslog import Settings
    from carrier.core.ledger import Record, Refusal
    from carrier.core.session import Session
    from carrier.errors import Error
    from carrier.wire.http import Kin


VERSION = re.compile(rb"HTTP/[0-9.]{1,4}")
SHOWN = 1024
"""Bytes of a refused request that are looked at for its first line."""
KEPT = 4096
"""Parts of lines that are remembered, of each kind."""
ALIKE = 512
"""The same of what heads of one shape share; a shape that is used no more may be kept by that, with 4 KiB."""
SHORT = 256
"""Bytes of a target that is remembered at most."""
OUR_ID = slice(-36, -4)
"""Where an HTTP/1 connection puts the id that it makes, in the fields that it adds to a request."""
SIZES = b',"bytes_in":%d,"bytes_out":%d,"status":%d,"id":"'
LONG = 1024
"""Bytes of what heads of one shape have in common in a line, and that is remembered, at most."""
SEEN = (None,) * 4
"""What is remembered with a head that was seen once: that."""
Line = tuple[bytes, int, int, int, bytes]
"""What lines of one head, decision and endpoint share: their end; bytes in and out and status of the first one, and the text of those."""
_json = msgspec.json.encode
_UPSTREAM = {
    **dict.fromkeys(("refused", "unreachable", "tls"), "UF"),
    "dns": "DF",
    "timeout": "UT",
    "closed": "UC",
    "reset": "UR",
    "bad-answer": "UPE",
}
_ANY = {"no-endpoint": "UH", "too-many-requests": "RL", "killed": "LR", "drain": "LR", "internal": "LR"}


def flags(session: Session) -> str:
    """Envoy's response flags of a session: "-" when all was well, else short names joined by commas."""
    error, decision = session.error, session.decision
    if error is None:
        return "-"
    if decision.error is not None and decision.error.kind == "no-route":
        return "NC" if decision.missing else "NR"
    found = _flag(session, error)
    return f"{found},URX" if session.retries and error.side == "upstream" else found


def _flag(session: Session, error: Error) -> str:
    if error.kind in _ANY:
        return _ANY[error.kind]
    if error.kind == "overload":
        return "UO" if session.cluster is not None or session.decision.error is None else "OM"
    if error.side == "upstream":
        return _UPSTREAM.get(error.kind, "UPE")
    return _downstream(error)


def _downstream(error: Error) -> str:
    if error.kind == "overload":
        return "OM"
    if error.side == "downstream":
        return {"timeout": "SI", "request-timeout": "SI", "reset": "DC", "closed": "DC"}.get(error.kind, "DPE")
    return "LR"


class Lines:
    """Makes lines. users: rule -> the user whose bridge it is, "" for the others; asked once a decision."""

    def __init__(self, settings: Settings, users: Callable[[str], str]) -> None:
        self.settings = settings
        self.users = users
        self.hidden = redact.hidden(settings.redact, settings.query)
        self.more = frozenset(settings.fields)
        self.tells = bool(settings.headers) or not self.more.isdisjoint(("trace", "agent"))
        """What a line says of a request depends on more than method, target and host."""
        times = [name for name in ("upstream", "first_byte") if name in self.more]
        self.took = b'","duration_us":%d' + b"".join(b',"%b":%%d' % MORE[name].encode() for name in times)
        self.times = 1 + len(times)
        """Of a request on the lane they are all the same: its destination was there, and its answer came in one piece."""
        self.tooks: dict[int, bytes] = {}
        """That, by microseconds: most requests take as long as one before."""
        self.headers = tuple((name.lower(), name.lower() in self.hidden.fields) for name in settings.headers)
        own = {"agent": b"user-agent", "trace": b"traceparent"}
        self.told_by = frozenset(name.encode("latin-1", "replace") for name, _ in self.headers) | {own[n] for n in own if n in self.more}
        """The fields that a line may tell."""
        self.request_id = _no_id if "x-request-id" in self.hidden.fields else request_id
        self.fixed: dict[tuple[object, ...], bytes] = {}
        self.asked: dict[bytes, tuple[bytes, bytes, bytes, str]] = {}
        """By target: method, host, and what the line says of a request of these three."""
        self.alike: dict[tuple[object, ...], Line] = {}
        """By what heads of one shape share, target, decision and endpoint; of targets that came before: others may never come again."""
        self.agents: dict[bytes, bytes] = {}
        """User agents as JSON."""
        self.era = object()
        """Replaced when what was remembered may be wrong."""
        self.second = self.moment = -1
        self.date = self.stamp = b""
        self.ms = 0
        self.until = 0.0
        self.offset = time.time() - time.monotonic()

    def forget(self) -> None:
        """The configuration has changed, or the clock was set: what was remembered may be wrong."""
        self.fixed.clear()
        self.alike.clear()
        self.era = object()
        self.offset = time.time() - time.monotonic()

    def is_off(self) -> bool:
        """Has the wall clock been set since, by more than lines show?"""
        return abs(time.time() - time.monotonic() - self.offset) > 0.01

    def when(self, monotonic: float) -> bytes:
        """A moment as RFC 3339 has it, with milliseconds; it is the same until `until`."""
        moment = int((monotonic + self.offset) * 1000)
        if moment != self.moment:
            self.moment = moment
            second, self.ms = divmod(moment, 1000)
            if second != self.second:
                self.second = second
                self.date = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
            self.stamp = b"%b.%03dZ" % (self.date, self.ms)
            self.until = (moment + 1) / 1000 - self.offset
        return self.stamp

    def peer(self, source: Any) -> bytes:
        """host:port of the client, or nothing."""
        key = source.peer
        if not isinstance(key, tuple) or not key[0]:
            return b""
        host = key[0].removeprefix("::ffff:") if "." in key[0] else key[0]
        return (f"[{host}]:{key[1]}" if ":" in host else f"{host}:{key[1]}").encode("utf-8", "replace")

    def _took(self, micro: int) -> bytes:
        """How long a request on the lane took: so many microseconds."""
        if len(self.tooks) >= KEPT:
            self.tooks.clear()
        found = self.tooks[micro] = self.took % ((micro,) * self.times)
        return found

    def _client(self, source: Any) -> bytes:
        """The same of an HTTP connection, which keeps it for its next request."""
        source.client = found = self.peer(source)
        return found

    def json(self, ended: Iterable[Session | Record]) -> bytes:
        """A line of JSON for each session. Written flat, and from parts that are remembered, best of all with a head that comes again (from
        its second time on, because most others never do), or that is like one before."""
        parts: list[bytes] = []
        tooks, alike, era = self.tooks, self.alike, self.era
        until, begin = 0.0, b""
        for entry in ended:
            if entry.__class__ is not tuple:
                parts.append(self._json(cast("Session", entry)))
                continue
            _, source, started, at, request, decision, endpoint, answer, got, sent, fields, _ = entry
            if at >= until:
                begin = b'{"time":"%b","client":"' % self.when(at)
                until = self.until
            line = None
            told = request.log_line
            if told is not None:
                its_decision, its_endpoint, its_era, line = told
                if its_decision is not decision or its_endpoint is not endpoint or its_era is not era:
                    line = None
            elif request.kin is not None:
                line = alike.get((request.kin, request.target, decision, endpoint))
            rest, usual_got, usual_sent, usual_status, sizes = line or self._line(entry)
            if got != usual_got or sent != usual_sent or answer.status != usual_status:
                sizes = SIZES % (got, sent, answer.status)
            parts += (
                begin,
                source.client or self._client(source),
                tooks.get(micro := int((at - started) * 1e6)) or self._took(micro),
                sizes,
                self.request_id(request, fields) if request.has_id else fields[OUR_ID],
                rest,
            )
        return b"".join(parts)

    def _line(self, record: Record) -> Line:
        """What is to be said of a request whose head is not known with this decision and endpoint; it may be from now on."""
        _, _, _, _, request, decision, endpoint, answer, got, sent, _, _ = record
        known = request.target in self.asked
        end = None if request.grpc else self.fixed.get((decision, decision.cluster, endpoint))
        rest = self._asked(request) + (end or self._end(recorded(record)))
        line = rest, got, sent, answer.status, SIZES % (got, sent, answer.status)
        first = request.log_line is None
        if not first or (known and self._is_alike(request, len(rest))):
            request.log_line = decision, endpoint, self.era, line
        else:
            request.log_line = SEEN
            return line
        if first:
            self.alike[request.kin, request.target, decision, endpoint] = line
        return line

    def _is_alike(self, request: Any, size: int) -> bool:
        """Are these bytes what the lines of all heads of its shape have in common, and to be remembered? There is room for them then."""
        kin: Kin | None = request.kin
        if kin is None or size > LONG or request.grpc:
            return False
        era, told = kin.told
        if self.tells and (era is not self.era or told is None):
            return False
        if len(self.alike) >= ALIKE:
            self.alike.clear()
        return True

    def _json(self, session: Session) -> bytes:
        request, answer = session.request, session.answer
        line = b'{"time":"%b","client":"%b","duration_us":%d,"bytes_in":%d,"bytes_out":%d,' % (
            self.when(session.ended_at),
            self.peer(session.source),
            (session.ended_at - session.started) * 1e6,
            session.bytes_in,
            session.bytes_out,
        )
        if self.times > 1:
            times = self._times(session)
            line += b"".join(b'"%b":%d,' % (MORE[name].encode(), times[name]) for name in times if name in self.more)
        trace = session.trace
        if trace is not None:
            line += b'"trace_id":"%b",' % trace.trace
        if request is not None:
            status = answer.status if answer is not None else 0
            asked = self._asked(request, trace is not None)
            line += b'"status":%d,"id":"%b%b' % (status, self.request_id(request, session.fields), asked)
        return line + self._end(session)

    @staticmethod
    def _times(session: Session) -> dict[str, int]:
        """Microseconds: from the connected destination to the end, and from the beginning to the first byte of an answer, if there was one.
        An answer that came in one piece came when the session ended."""
        found = {}
        if session.connected_at and session.cluster is not None:
            found["upstream"] = int((session.ended_at - session.connected_at) * 1e6)
        if session.answered or (session.answer is not None and session.error is None):
            found["first_byte"] = int(((session.answered_at if session.answered else session.ended_at) - session.started) * 1e6)
        return found

    def _asked(self, request: Any, traced: bool = False) -> bytes:
        """What a line says of a request, from the quote that ends its id. traced: its trace is told already."""
        made = self._said(request.method, request.target, request.authority, request.version)
        if not self.tells:
            return made
        kin = request.kin
        if kin is None or traced:
            return made + self._told(request, traced)
        era, told = kin.told
        if era is not self.era:
            told = self._told(request, False) if self.told_by.isdisjoint(kin.varies) else None
            kin.told = self.era, told
        return made + (self._told(request, False) if told is None else told)

    def _said(self, method: bytes, target: bytes, host: bytes, version: str) -> bytes:
        """Of these four, which come again and again."""
        known = self.asked.get(target)
        if known is not None and known[0] == method and known[1] == host and known[3] == version:
            return known[2]
        path = _text(self._path(target))
        made = b'","method":%b,"path":%b,"host":%b,"version":"%b",' % (_text(method), path, _text(redact.target(host)), version.encode())
        if len(target) <= SHORT:
            if len(self.asked) >= KEPT:
                self.asked.clear()
            self.asked[target] = method, host, made, version
        return made

    def _told(self, request: Any, traced: bool) -> bytes:
        """What else is told of a request."""
        found = b'"headers":%b,' % _json(self.shown_headers(request)) if self.headers else b""
        if "agent" in self.more and (agent := request.get(b"user-agent")) is not None:
            found += b'"agent":%b,' % self._agent(agent)
        if "trace" in self.more and not traced and (context := context_of(request)) is not None:
            found += b'"trace_id":"%b",' % context.trace
        return found

    def _agent(self, agent: bytes) -> bytes:
        known = self.agents.get(agent)
        if known is None:
            known = _text(agent) if "user-agent" not in self.hidden.fields else _json(redact.REDACTED)
            if len(agent) <= SHORT:
                if len(self.agents) >= KEPT:
                    self.agents.clear()
                self.agents[agent] = known
        return known

    def _end(self, session: Session) -> bytes:
        """The end of a line: what all sessions of one decision and endpoint have in common, or what was special about this one."""
        usual = session.error is None and session.fallback is None and not session.retries and not session.dropped
        usual = usual and (session.request is None or not session.request.grpc)
        key = session.decision, session.cluster, session.endpoint
        if usual and key in self.fixed:
            return self.fixed[key]
        made = self._made(session)
        if usual:
            if len(self.fixed) >= KEPT:
                self.fixed.clear()
            self.fixed[key] = made
        return made

    def _made(self, session: Session) -> bytes:
        decision, endpoint = session.decision, session.endpoint or session.last_endpoint
        found: dict[str, Any] = {
            "listener": session.listener.name,
            "protocol": session.listener.spec.get("protocol"),
            "rule": decision.rule,
            "why": why(session, self.hidden),
            "cluster": session.cluster.name if session.cluster is not None else "",
            "endpoint": endpoint.address if endpoint is not None else "",
        }
        special = {
            "user": self.users(decision.rule),
            "fallback": session.fallback,
            "retries": session.retries or (0 if "retries" in self.more else None),
            "error": session.error.kind if session.error is not None else None,
            "flags": flags(session).replace("-", ""),
            "dropped": session.dropped,
            "grpc": self._call(session),
        }
        return _line(found | {name: value for name, value in special.items() if value or (value == 0 and name == "retries")})[1:]

    def _call(self, session: Session) -> dict[str, str] | None:
        """Of a call of gRPC: what was called, and how it went."""
        if session.request is None or not session.request.grpc:
            return None
        service, method = call_of(session.request.target)
        return {"service": service, "method": method, "status": session.outcome}

    def refusal(self, refusal: Refusal) -> bytes:
        """The line of a request that became no session. What its first line holds is shown as far as it can be told apart."""
        error, listener, ended = refusal.error, refusal.listener, refusal.ended
        method, target, version = first_line(refusal.begun)
        if self.settings.format == "envoy":
            what = f"{_plain(method)} {_plain(self._path(target) if method else _size(target))} {_plain(version)}"
            return (
                f'[{self.when(refusal.began).decode()}] "{what}" {refusal.status} {_downstream(error)} 0 {refusal.bytes_out} '
                f'{round((ended - refusal.began) * 1000)} - "-" "-" "-" "-" "-"\n'
            ).encode("utf-8", "replace")
        found: dict[str, Any] = {
            "time": self.when(ended).decode(),
            "client": self.peer(refusal.source).decode(),
            "duration_us": int((ended - refusal.began) * 1e6),
            "bytes_in": refusal.bytes_in,
            "bytes_out": refusal.bytes_out,
            "status": refusal.status,
        }
        if method:
            found |= {"method": method.decode("latin-1"), "path": self._path(target).decode("latin-1")}
        elif target:  # a line that is no request's may be anything, a password too
            found["request"] = _size(target).decode()
        found |= {
            "listener": listener.name,
            "protocol": listener.spec.get("protocol"),
            "why": f"refused, {error.kind}: {redact.refused(error.kind, error.detail, refusal.begun)}",
            "error": error.kind,
            "flags": _downstream(error),
        }
        return _line(found)

    def shown_headers(self, request: Any) -> dict[str, str]:
        """The fields that are to be written, secrets redacted."""
        found = {}
        for name, secret in self.headers:
            value = request.get(name.encode("latin-1", "replace"))
            if value is not None:
                found[name] = redact.REDACTED if secret else redact.visible(value.decode("latin-1"))
        return found

    def envoy(self, ended: Iterable[Session | Record]) -> bytes:
        """A line of Envoy's default format for each session; bytes are those of bodies, "-" stands for what is not known."""
        return b"".join([self._envoy(recorded(entry) if isinstance(entry, tuple) else entry) for entry in ended])

    def _envoy(self, session: Session) -> bytes:
        request, answer = session.request, session.answer
        endpoint = session.endpoint or session.last_endpoint
        got, sent = session.bytes_in, session.bytes_out
        what, agent, host, passed, own = "- - -", "-", "-", "-", None
        if request is not None:
            got = max(0, got - len(request.raw or request.text))
            what = f"{_plain(request.method)} {_plain(self._path(request.target))} HTTP/{request.version}"
            agent = self._field("user-agent", request.get(b"user-agent"))
            host = self._field("host", request.authority)
            passed = self._field("x-forwarded-for", request.get(b"x-forwarded-for"))
            own = self.request_id(request, session.fields)
        if answer is not None:
            sent = max(0, sent - len(answer.text))
        times = self._times(session)
        service = answer.get(b"x-envoy-upstream-service-time") if answer is not None else None
        if service is None and "upstream" in self.more and "upstream" in times:
            service = b"%d" % (times["upstream"] // 1000)
        milliseconds = round((session.ended_at - session.started) * 1000)
        return (
            f'[{self.when(session.started).decode()}] "{what}" {answer.status if answer is not None else 0} {flags(session)} {got} {sent} '
            f'{milliseconds} {_plain(service)} "{passed}" "{agent}" "{_plain(own)}" "{host}" '
            f'"{_quotable(endpoint.address) if endpoint is not None else "-"}"{self._behind(session, times)}\n'
        ).encode("utf-8", "replace")

    def _behind(self, session: Session, times: dict[str, int]) -> str:
        """What Envoy's default format has no place for."""
        found = ""
        trace = session.trace or (context_of(session.request) if session.request is not None and "trace" in self.more else None)
        if trace is not None:
            found += f" trace_id={trace.trace.decode()}"
        if "first_byte" in self.more and "first_byte" in times:
            found += f" first_byte_us={times['first_byte']}"
        return found + f" retries={session.retries}" if "retries" in self.more else found

    def _path(self, target: bytes) -> bytes:
        return redact.target(target, self.settings.query)

    def _field(self, name: str, value: bytes | None) -> str:
        return redact.REDACTED if value and name in self.hidden.fields else _plain(value)


def first_line(begun: bytes) -> tuple[bytes, bytes, bytes]:
    """Method, target and version at the beginning of a request, each as far as it is there; a line that begins with no method is target."""
    line = begun[:SHOWN].partition(b"\n")[0].rstrip(b"\r")
    method, space, rest = line.partition(b" ")
    if not space or not TOKEN.fullmatch(method):
        return b"", line, b""
    target, _, version = rest.partition(b" ")
    return method, target, version if VERSION.fullmatch(version) else b""


def request_id(request: Any, fields: bytes) -> bytes:
    """The x-request-id of a request: its own, or ours, among the fields that were added to it."""
    own = (request.get(b"x-request-id") if request.has_id else None) or id_of(request, fields)
    return own if own.isalnum() or not own or _is_bare(own) else _text(own)[1:-1]


def _no_id(request: Any, fields: bytes) -> bytes:
    return redact.REDACTED.encode()


def _text(value: bytes) -> bytes:
    """A value of a request as JSON text, without control bytes."""
    return _json(redact.visible(value.decode("latin-1")))


def _line(found: dict[str, Any]) -> bytes:
    """An object as a line."""
    return _json(_visible(found)) + b"\n"


def _visible(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _visible(inner) for name, inner in value.items()}
    return redact.visible(value) if isinstance(value, str) else value


def _size(value: bytes) -> bytes:
    return b"(%d bytes)" % len(value)


def _is_bare(value: bytes) -> bool:
    """Does it stand in JSON text as it is? Ids usually do."""
    return value.replace(b"-", b"").isalnum()


def _plain(value: bytes | None) -> str:
    """A value between quotes: what would end it or the line is escaped."""
    return _quotable(value.decode("latin-1")) if value else "-"


def _quotable(text: str) -> str:
    return redact.visible(text.replace("\\", "\\\\").replace('"', '\\"'))
