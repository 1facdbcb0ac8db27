"""The access log: one line for each session that ends, of any protocol, as JSON or in Envoy's default text format; and one for each
request that was refused before it could become a session, with what is known of it.

    {"time":"2026-11-21T08:00:21.123Z","listener":"web","rule":"bridge/john","why":"rule bridge/john: header x-user is \\"john\\"", ...}

`AccessLog` is told of sessions that have ended (core/ledger.py). Lines are made from parts that are remembered (with the request's head,
by decision and endpoint, by path), and handed in batches to a thread that writes them: the event loop never waits for a disk or a reader.
What the thread cannot keep up with, beyond `MAX_WAITING` bytes, is dropped and counted. `reopen` (SIGUSR1) goes on in a new file after
somebody has moved the old one away. Filters (status, duration, user) leave lines out, and so does sampling, failures apart. Of header
fields only those that are named are written, secrets (`SECRET`) as "(redacted)".
"""

from __future__ import annotations

import _thread
import asyncio
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec

from carrier.core.session import recorded
from carrier.errors import ConfigError, Error, Problem, did_you_mean, shown
from carrier.rules.checks import is_number
from carrier.wire.http import TOKEN

if TYPE_CHECKING:
    from carrier.config.draft import Config
    from carrier.core.ledger import Record, Refusal
    from carrier.core.session import Session

FIELDS: Mapping[str, str] = {
    "path": "a file, stdout or stderr",
    "format": "json (default) or envoy",
    "status": "only answers of this status or above (default 0: all)",
    "duration": "only sessions of at least so many seconds (default 0)",
    "users": "only sessions of the bridges of these users (default: everybody's)",
    "sample": "the part of the lines that is written, 0 to 1 (default 1); failures are always written, refused requests are not",
    "headers": "names of request header fields to write (default: none)",
    "redact": "names of further fields whose value is not to be seen",
    "query": "false: paths are written without their query (default true)",
}
"""Fields of `admin.access_log`."""
SECRET = frozenset(("authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-auth-token", "x-amz-security-token"))
REDACTED = "(redacted)"
MAX_WAITING = 8 << 20
"""Bytes that may wait for the writer."""
BATCH = 512 << 10
"""Bytes that are handed over at once."""
DELAY = 0.25
"""Seconds that a line waits at most before it is handed over."""
SHOWN = 1024
"""Bytes of a refused request that are looked at for its first line."""
KEPT = 4096
"""Parts of lines that are remembered, of each kind."""
SHORT = 256
"""Bytes of a target that is remembered at most."""
OUR_ID = slice(-36, -4)
"""Where an HTTP/1 connection puts the id that it makes, in the fields that it adds to a request."""
SIZES = b',"bytes_in":%d,"bytes_out":%d,"status":%d,"id":"'
SEEN = (None,) * 8
"""What is remembered with a head that was seen once: that."""
_json = msgspec.json.encode


class Settings(msgspec.Struct, frozen=True):
    """See FIELDS."""

    path: str
    format: str = "json"
    status: int = 0
    duration: float = 0.0
    users: tuple[str, ...] = ()
    sample: float = 1.0
    headers: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    query: bool = True


def read(value: object, path: str = "$.admin.access_log") -> Settings:
    """The settings of a configuration: an object with FIELDS, or the path alone. Raises ConfigError with what is wrong."""
    if isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, Mapping):
        raise ConfigError(Problem(f"expected a path or an object, got {shown(value)}", path, seen=shown(value), allowed=", ".join(FIELDS)))
    problems = [
        Problem(
            f"unknown field {name!r}", f"{path}.{name}", seen=shown(name), allowed=", ".join(FIELDS), hint=did_you_mean(str(name), FIELDS)
        )
        for name in value
        if name not in FIELDS
    ]
    problems += [
        Problem(f"cannot be {shown(item)}", f"{path}.{name}", seen=shown(item), allowed=_GOOD[name][0])
        for name, item in value.items()
        if name in FIELDS and not _GOOD[name][1](item)
    ]
    if "path" not in value:
        problems.append(Problem("the access log needs 'path'", path, seen=", ".join(map(shown, value)) or "{}", allowed=FIELDS["path"]))
    if problems:
        raise ConfigError(*problems)
    found: dict[str, Any] = {name: tuple(item) if isinstance(item, list | tuple) else item for name, item in value.items()}
    return Settings(**found)


def _are_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


_GOOD: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "path": ("a file, stdout or stderr", lambda v: isinstance(v, str) and v != ""),
    "format": ("json, envoy", lambda v: v in ("json", "envoy")),
    "status": ("a whole number 0..999", lambda v: isinstance(v, int) and is_number(v) and 0 <= v <= 999),
    "duration": ("a number, 0 or more", lambda v: is_number(v) and v >= 0),
    "users": ("a list of texts", _are_texts),
    "sample": ("a number 0..1", lambda v: is_number(v) and 0 <= v <= 1),
    "headers": ("a list of texts", _are_texts),
    "redact": ("a list of texts", _are_texts),
    "query": ("true or false", lambda v: isinstance(v, bool)),
}
"""What is allowed in each field, in words and as a check."""


def settings_of(config: Config) -> Settings | None:
    """What a configuration says of the access log; None: there is none. Raises ConfigError."""
    value = config.admin.options.get("access_log", config.admin.access_log_path)
    return None if value is None else read(value)


# --- what went wrong, in Envoy's letters -------------------------------------------------------------------------------------------------

_UPSTREAM = {"refused": "UF", "unreachable": "UF", "dns": "DF", "timeout": "UT", "closed": "UC", "reset": "UR", "bad-answer": "UPE"}
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


# --- lines -------------------------------------------------------------------------------------------------------------------------------


class Lines:
    """Makes lines. users: rule -> the user whose bridge it is, "" for the others; asked once a decision."""

    def __init__(self, settings: Settings, users: Callable[[str], str]) -> None:
        self.settings = settings
        self.users = users
        self.headers = tuple((name.lower(), name.lower() in SECRET | {r.lower() for r in settings.redact}) for name in settings.headers)
        self.fixed: dict[tuple[object, ...], bytes] = {}
        self.asked: dict[bytes, tuple[bytes, bytes, bytes]] = {}
        """By target: method, host, and what the line says of a request of these three."""
        self.era = object()
        """Replaced when what was remembered may be wrong."""
        self.second = self.moment = -1
        self.date = self.stamp = b""
        self.ms = 0
        self.since = self.until = 0.0
        self.offset = time.time() - time.monotonic()

    def forget(self) -> None:
        """The configuration has changed, or the clock was set: what was remembered may be wrong."""
        self.fixed.clear()
        self.era = object()
        self.offset = time.time() - time.monotonic()

    def is_off(self) -> bool:
        """Has the wall clock been set since, by more than lines show?"""
        return abs(time.time() - time.monotonic() - self.offset) > 0.01

    def when(self, monotonic: float) -> bytes:
        """A moment as RFC 3339 has it, with milliseconds; it is the same from `since` until `until`."""
        moment = int((monotonic + self.offset) * 1000)
        if moment != self.moment:
            self.moment = moment
            second, self.ms = divmod(moment, 1000)
            if second != self.second:
                self.second = second
                self.date = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
            self.stamp = b"%b.%03dZ" % (self.date, self.ms)
            self.since = moment / 1000 - self.offset
            self.until = self.since + 0.001
        return self.stamp

    def peer(self, source: Any) -> bytes:
        """host:port of the client, or nothing."""
        key = getattr(source, "peer", None) or getattr(source, "address", None)
        if not isinstance(key, tuple) or not key[0]:
            return b""
        host = key[0].removeprefix("::ffff:") if "." in key[0] else key[0]
        return (f"[{host}]:{key[1]}" if ":" in host else f"{host}:{key[1]}").encode("utf-8", "replace")

    def _client(self, source: Any) -> bytes:
        """The same of an HTTP connection, which keeps it for its next request."""
        source.client = found = self.peer(source)
        return found

    def json(self, ended: Iterable[Session | Record]) -> bytes:
        """A line of JSON for each session. Written flat, and from parts that are remembered, best of all with a head that comes again (from
        its second time on, because most others never do): 0.5 us a line."""
        parts: list[bytes] = []
        fixed, targets = self.fixed, self.asked
        since, until, begin = 1.0, 0.0, b""
        era = self.era
        for entry in ended:
            try:
                _, source, started, at, request, decision, endpoint, answer, got, sent, fields = entry  # type: ignore[misc]
            except TypeError:  # what cannot be unpacked is a session
                parts.append(self._json(cast("Session", entry)))
                continue
            if not since <= at < until:
                begin = b'{"time":"%b","client":"' % self.when(at)
                since, until = self.since, self.until
            told = request.told
            status = answer.status
            if told is not None and told[0] is decision and told[1] is endpoint and told[2] is era:
                asked, end = told[3], b""
                same = got == told[4] and sent == told[5] and status == told[6]
                sizes = told[7] if same else SIZES % (got, sent, status)
            else:
                known = targets.get(request.target)
                same = known is not None and known[0] is request.method and known[1] is request.host
                asked = known[2] if same else self._asked(request)  # type: ignore[index]
                end = fixed.get((decision, decision.cluster, endpoint)) or self._end(recorded(cast("Record", entry)))
                sizes = SIZES % (got, sent, status)
                request.told = SEEN if told is None else (decision, endpoint, era, asked + end, got, sent, status, sizes)
            parts += (
                begin,
                source.client or self._client(source),
                b'","duration_us":%d' % ((at - started) * 1e6),
                sizes,
                request_id(request, fields) if request.named else fields[OUR_ID],
                asked,
                end,
            )
        return b"".join(parts)

    def _json(self, session: Session) -> bytes:
        request, answer = session.request, session.answer
        line = b'{"time":"%b","client":"%b","duration_us":%d,"bytes_in":%d,"bytes_out":%d,' % (
            self.when(session.ended_at),
            self.peer(session.source),
            (session.ended_at - session.started) * 1e6,
            session.bytes_in,
            session.bytes_out,
        )
        if request is not None:
            status = answer.status if answer is not None else 0
            line += b'"status":%d,"id":"%b%b' % (status, request_id(request, session.fields), self._asked(request))
        return line + self._end(session)

    def _asked(self, request: Any) -> bytes:
        """What a line says of a request, from the quote that ends its id."""
        method, target, host = request.method, request.target, request.host
        known = self.asked.get(target)
        if known is not None and known[0] == method and known[1] == host:
            return known[2]
        path = _json(self._path(target).decode("latin-1"))
        made = b'","method":%b,"path":%b,"host":%b,' % (_json(method.decode("latin-1")), path, _json(host.decode("latin-1")))
        if self.headers:
            return made + b'"headers":%b,' % _json(self.shown_headers(request))
        if len(target) <= SHORT:
            if len(self.asked) >= KEPT:
                self.asked.clear()
            self.asked[target] = method, host, made
        return made

    def _end(self, session: Session) -> bytes:
        """The end of a line: what all sessions of one decision and endpoint have in common, or what was special about this one."""
        usual = session.error is None and session.fallback is None and not session.retries and not session.dropped
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
            "why": session.why,
            "cluster": session.cluster.name if session.cluster is not None else "",
            "endpoint": endpoint.address if endpoint is not None else "",
        }
        special = {
            "user": self.users(decision.rule),
            "fallback": session.fallback,
            "retries": session.retries,
            "error": session.error.kind if session.error is not None else None,
            "flags": flags(session).replace("-", ""),
            "dropped": session.dropped,
        }
        return _json(found | {name: value for name, value in special.items() if value})[1:] + b"\n"

    def refusal(self, refusal: Refusal) -> bytes:
        """The line of a request that became no session. What its first line holds is shown as far as it can be told apart."""
        error, listener, ended = refusal.error, refusal.listener, refusal.ended
        method, target, version = first_line(refusal.begun)
        if self.settings.format == "envoy":
            what = f"{_plain(method)} {_plain(self._path(target))} {_plain(version)}"
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
        elif target:
            found["request"] = target.decode("latin-1")
        found |= {
            "listener": listener.name,
            "protocol": listener.spec.get("protocol"),
            "why": f"refused, {error.kind}: {error.detail}",
            "error": error.kind,
            "flags": _downstream(error),
        }
        return _json(found) + b"\n"

    def shown_headers(self, request: Any) -> dict[str, str]:
        """The fields that are to be written, secrets redacted."""
        found = {}
        for name, secret in self.headers:
            value = request.get(name.encode("latin-1", "replace"))
            if value is not None:
                found[name] = REDACTED if secret else value.decode("latin-1")
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
            got = max(0, got - len(request.raw or request.wire))
            what = f"{_plain(request.method)} {_plain(self._path(request.target))} HTTP/{request.version}"
            agent, host = _plain(request.get(b"user-agent")), _plain(request.host)
            passed = _plain(request.get(b"x-forwarded-for"))
            own = request_id(request, session.fields)
        if answer is not None:
            sent = max(0, sent - len(answer.wire))
        service = answer.get(b"x-envoy-upstream-service-time") if answer is not None else None
        milliseconds = round((session.ended_at - session.started) * 1000)
        return (
            f'[{self.when(session.started).decode()}] "{what}" {answer.status if answer is not None else 0} {flags(session)} {got} {sent} '
            f'{milliseconds} {_plain(service)} "{passed}" "{agent}" "{_plain(own)}" "{host}" '
            f'"{endpoint.address if endpoint is not None else "-"}"\n'
        ).encode("utf-8", "replace")

    def _path(self, target: bytes) -> bytes:
        return target if self.settings.query else target.partition(b"?")[0]


def first_line(begun: bytes) -> tuple[bytes, bytes, bytes]:
    """Method, target and version at the beginning of a request, each as far as it is there; a line that begins with no method is target."""
    line = begun[:SHOWN].partition(b"\n")[0].rstrip(b"\r")
    method, space, rest = line.partition(b" ")
    if not space or not TOKEN.fullmatch(method):
        return b"", line, b""
    target, _, version = rest.partition(b" ")
    return method, target, version


def request_id(request: Any, fields: bytes) -> bytes:
    """The x-request-id of a request: ours, among the fields that were added to it, or its own."""
    at = fields.find(b"x-request-id: ")
    if at >= 0:
        return fields[at + 14 : fields.find(b"\r", at + 14)]
    own: bytes | None = request.get(b"x-request-id") if request.named else None
    return b"" if own is None else own if _is_bare(own) else _json(own.decode("latin-1"))[1:-1]


def _is_bare(value: bytes) -> bool:
    """Does it stand in JSON text as it is? Ids usually do."""
    return value.replace(b"-", b"").isalnum()


def _plain(value: bytes | None) -> str:
    """A value between quotes: what would end it or the line is escaped."""
    if not value:
        return "-"
    return value.decode("latin-1").replace("\\", "\\\\").replace('"', '\\"')


# --- writing -----------------------------------------------------------------------------------------------------------------------------


class Writer:
    """Writes batches to a file descriptor in a thread of its own. `put` never blocks; it is the loop's side, `_run` the thread's.

    The thread is there only while there is something to write: while a process has a second one, each system call takes and returns its
    descriptor with atomic operations, which costs more than starting a thread for thousands of lines. put_in, done: bytes that were handed
    over, and that were dealt with; each is written by one side only. failed: what the system said when a batch could not be written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor = _open(path)
        self.jobs: deque[Callable[[], None]] = deque()
        self.put_in = self.done = 0
        self.written = self.lost = 0
        """Lines."""
        self.failed = ""
        self.state = threading.Condition()
        """Holds `runs` and who starts or ends the thread together."""
        self.runs = False

    def put(self, batch: bytes, lines: int) -> bool:
        """Hand a batch over; False when too much waits already: then it is not taken."""
        if self.put_in - self.done + len(batch) > MAX_WAITING:
            return False
        self.put_in += len(batch)
        self._add(partial(self._write, batch, lines))
        return True

    def reopen(self) -> None:
        """Go on in a new file of the same name, after what was put until now."""
        self._add(self._reopen)

    def close(self, timeout: float = 2.0) -> None:
        """Write what is left, for `timeout` seconds at most: after that, the thread is left to itself."""
        self._start()
        with self.state:
            if self.state.wait_for(lambda: not self.runs, timeout):
                self._close()

    def _add(self, job: Callable[[], None]) -> None:
        self.jobs.append(job)
        self._start()

    def _start(self) -> None:
        """Have a thread, if there is something to write. One that cannot be had now may be when the next batch comes."""
        with self.state:
            if self.jobs and not self.runs:
                try:
                    _thread.start_new_thread(self._run, ())
                    self.runs = True
                except RuntimeError as exc:
                    self.failed = str(exc)

    def _run(self) -> None:
        try:
            while job := self._next():
                job()
        except BaseException:
            self._ends()  # whatever it was, the next job has another thread
            raise

    def _next(self) -> Callable[[], None] | None:
        """What is to be done; None: nothing, and the thread ends."""
        with self.state:
            if self.jobs:
                return self.jobs.popleft()
            self._ends()
            return None

    def _ends(self) -> None:
        with self.state:
            self.runs = False
            self.state.notify_all()

    def _write(self, batch: bytes, lines: int) -> None:
        rest = memoryview(batch)
        try:
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
            self.written += lines
        except OSError as exc:  # no room, or the reader is gone: these lines are lost, the next may not be
            self.failed = exc.strerror or str(exc)
            self.lost += lines
        self.done += len(batch)

    def _reopen(self) -> None:
        try:
            new = _open(self.path)
        except ConfigError as error:  # the old file is better than none
            self.failed = error.detail
            return
        self._close()
        self.descriptor = new

    def _close(self) -> None:
        if self.descriptor > 2:
            os.close(self.descriptor)


def _open(path: str) -> int:
    if path in ("stdout", "-", "/dev/stdout"):
        return sys.stdout.fileno()
    if path in ("stderr", "/dev/stderr"):
        return sys.stderr.fileno()
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as exc:
        text = f"cannot write the access log {path!r}: {exc.strerror or exc}"
        raise ConfigError(
            Problem(text, "$.admin.access_log", seen=repr(path), allowed="stdout, stderr or a file that can be written")
        ) from None


class AccessLog:
    """See the module. users: rule -> user of its bridge; revision: that of the configuration. Raises ConfigError when the file cannot be
    written."""

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        users: Callable[[str], str] = lambda rule: "",
        revision: Callable[[], int] = lambda: 0,
    ) -> None:
        self.settings = settings
        self.loop = loop
        self.revision = revision
        self.seen = revision()
        self.lines = Lines(settings, users)
        self.make: Callable[[Iterable[Session | Record]], bytes] = self.lines.json if settings.format == "json" else self.lines.envoy
        self.filters = settings.status > 0 or settings.duration > 0 or bool(settings.users) or settings.sample < 1
        self.credit = 0.0
        self.batch: list[bytes] = []
        self.size = self.count = 0
        """Bytes and lines of the batch."""
        self.refused = 0
        self.timer: asyncio.TimerHandle | None = None
        self.writer = Writer(settings.path)

    @property
    def written(self) -> int:
        return self.writer.written

    @property
    def dropped(self) -> int:
        """Lines that the writer could not keep up with, or could not write."""
        return self.refused + self.writer.lost

    def write(self, ended: Sequence[Session | Record]) -> None:
        """A reader of `Ledger`: the lines of these sessions, as far as they are wanted."""
        wanted = [entry for entry in ended if self._wanted(entry)] if self.filters else ended
        try:
            text, count = self.make(wanted), len(wanted)
        except Exception:
            text, count = self._one_by_one(wanted)
        self._add(text, count)

    def turned_away(self, refusal: Refusal) -> None:
        """A watcher of `Ledger`: the line of a request that became no session, as far as it is wanted. Sampled like those that went well:
        whoever sends nonsense all day does not fill the disk with it."""
        settings, status = self.settings, refusal.status
        if status < settings.status or refusal.ended - refusal.began < settings.duration or settings.users or not self._sampled():
            return
        self._add(self.lines.refusal(refusal), 1)

    def _add(self, text: bytes, count: int) -> None:
        self.batch.append(text)
        self.count += count
        self.size += len(text)
        if self.size >= BATCH:
            self.flush()
        elif self.timer is None and count:
            self.timer = self.loop.call_later(DELAY, self.flush)

    def _one_by_one(self, ended: Iterable[Session | Record]) -> tuple[bytes, int]:
        """A session that no line can be made of, whatever it is, costs its own line alone; it is counted as dropped."""
        lines = []
        for entry in ended:
            try:
                lines.append(self.make((entry,)))
            except Exception as exc:
                self.refused += 1
                self.loop.call_exception_handler({"message": f"no access log line could be made: {exc}", "exception": exc})
        return b"".join(lines), len(lines)

    def _wanted(self, entry: Session | Record) -> bool:
        """By the filters, all of which must let it pass; then by sampling."""
        settings = self.settings
        if isinstance(entry, tuple):
            _, _, started, ended, _, decision, _, answer, *_ = entry
            error = None
        else:
            started, ended, decision, answer, error = entry.started, entry.ended_at, entry.decision, entry.answer, entry.error
        status = answer.status if answer is not None else 0
        failed = error is not None or status >= 500
        if status < settings.status and not (failed and answer is None):
            return False
        if ended - started < settings.duration:
            return False
        if settings.users and self.lines.users(decision.rule) not in settings.users:
            return False
        return failed or self._sampled()

    def _sampled(self) -> bool:
        """Is this one of those that are written?"""
        if self.settings.sample >= 1:
            return True
        self.credit += self.settings.sample
        if self.credit < 1:
            return False
        self.credit -= 1
        return True

    def flush(self) -> None:
        """Hand over what there is."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.revision() != self.seen or self.lines.is_off():
            self.seen = self.revision()
            self.lines.forget()
        if not self.batch:
            return
        text, count = b"".join(self.batch), self.count
        self.batch, self.size, self.count = [], 0, 0
        if not self.writer.put(text, count):
            self.refused += count

    def reopen(self) -> None:
        """Go on in a new file (SIGUSR1); lines of before go to the old one."""
        self.flush()
        self.lines.forget()
        self.writer.reopen()

    def close(self) -> None:
        """Write what is left and end the thread."""
        self.flush()
        self.writer.close()
