"""The REST API: `Api.call(method, path, query, headers, body) -> Answer`, and a table of operations. It knows no sockets.

A read shows the configuration in force. A write makes a new one: decode, edit a `Draft`, hand the whole to `Proxy.apply`, which puts
all of it in force or nothing; one writer at a time. Two standards: l7mp's own calls take what l7mp takes, and say what is odd in a
`carrier-warning` header; PUT, `POST /config`, `/validate` and bridges refuse it, with every reason. With `strict` (l7mp's `-s`) calls are
checked against l7mp's schema first and answered with its 422 lists. Who may call is none of this file's business (carrier/admin/gate.py).

Paths, bodies and texts are l7mp's (contract, sections 1 and 12). Where it is wrong we are not: 415, 413 and 501 are answered as such, no
stack trace is shown, `GET /endpoints/{name}` works. One object's answer has the object's own ETag, which changes with anything in it;
every other answer the configuration's revision, which `carrier-revision` always tells. A write whose If-Match names neither the present
revision nor its object's present tag is refused (412). `?dryRun=true` does all but put the change in force. Each write is told to `audit`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, unquote

import msgspec

from carrier.admin.gate import HEALTH, Limits
from carrier.config import dump
from carrier.config import schema as openapi
from carrier.config.document import SECTIONS, from_document, inspect, to_document
from carrier.config.draft import Config, Draft, Protocols, position, refused
from carrier.config.findings import Finding, findings
from carrier.config.source import Bounds, Decoded, Syntax, decode, native
from carrier.core import registry
from carrier.errors import ConfigError, Error, Problem
from carrier.observe import overview
from carrier.rules import explain
from carrier.rules.table import Matchers

if TYPE_CHECKING:
    from carrier.observe.metrics import Metrics

log = logging.getLogger("carrier.api")

PREFIX = ("api", "v1")
MAX_WARNING = 2048
"""Bytes of a `carrier-warning` header; what does not fit is counted."""

SYNTAXES: dict[str, Syntax] = {
    f"{top}/{x}{name}": "json" if name == "json" else "yaml"
    for top in ("application", "text")
    for x in ("", "x-")
    for name in ("json", "yaml")
}
"""Content type, without its parameters -> syntax of the body."""

UNPROCESSABLE = "Unprocessable Entity: Input JSON schema validation failed"


class Answer(msgspec.Struct):
    """What a call is answered with."""

    status: int
    headers: dict[str, str]
    body: bytes


class Call(msgspec.Struct):
    """A call on its way. names: the path's variable parts, percent-decoded. decoded: the body, if the operation takes one."""

    names: list[str]
    query: dict[str, str]
    headers: dict[str, str]
    decoded: Decoded | None = None
    what: str = ""
    """Method and path after the prefix, for the audit line."""
    peer: str = ""
    proved: bool = True
    """The caller has shown who it is (carrier/admin/gate.py)."""

    @property
    def body(self) -> Any:
        return self.decoded.value if self.decoded is not None else None

    def flag(self, name: str) -> bool:
        """A boolean query parameter; only the literal `true` counts, as in l7mp."""
        return self.query.get(name) == "true"

    def wrapped(self, kind: str) -> Any:
        """The object of a body `{kind: object}`; None when there is none."""
        return self.body.get(kind) if isinstance(self.body, Mapping) else None


Read = Callable[["Api", Call], Any]
Edit = Callable[[Draft, Call], object]
Replace = Callable[["Api", Call, Config], tuple[Config, Iterable[str]]]
Act = Callable[["Api", Call], Any]
Audit = Callable[..., object]
"""Called with `revision`, `peer`, `call`, `result` and `names` of each write."""


class Operation(NamedTuple):
    """One line of the table; exactly one of read, edit, replace and act is given.

    query: parameters that l7mp knows. body: the kind of object that the body wraps, for l7mp's schema. strict: our own standard.
    kind: of the one object that the path names, which has an ETag. writes: an act that changes something.
    """

    read: Read | None = None
    edit: Edit | None = None
    replace: Replace | None = None
    act: Act | None = None
    query: tuple[str, ...] = ()
    body: str | None = None
    strict: bool = False
    takes_body: bool = False
    kind: str = ""
    writes: bool = False

    @property
    def is_write(self) -> bool:
        return self.writes or self.edit is not None or self.replace is not None


class Api:
    """The API of one proxy: it needs `config`, `async apply(config)`, `sessions()`, `find_session(name)`, `strict`.

    bridges: what serves `/bridges` (carrier/bridges/edits.py): `put(config, name, body) -> Config`, `delete(config, name) -> Config`,
    `dump(config, name=None)`; without it they are unknown operations. life: what serves /healthz, /readyz, /startupz and `/drain`
    (carrier/proxy/life.py), likewise. audit: told of every write.
    """

    def __init__(
        self,
        proxy: Any,
        protocols: Protocols = registry,
        bridges: Any = None,
        life: Any = None,
        limits: Limits | None = None,
        audit: Audit | None = None,
    ) -> None:
        self.proxy = proxy
        self.protocols = protocols
        self.bridges = bridges
        self.life = life
        self.limits = limits or Limits()
        self.audit = audit
        self.metrics: Metrics | None = None
        """What serves /metrics; None: nobody does."""
        self.matchers: Matchers = getattr(proxy, "matchers", None) or Matchers()
        self.lock: asyncio.Lock = getattr(proxy, "lock", None) or asyncio.Lock()
        self.schemas = openapi.bodies(protocols)
        self._known: tuple[Config, frozenset[Finding]] = (Config(), frozenset())

    @property
    def config(self) -> Config:
        config: Config = self.proxy.config
        return config

    async def call(
        self,
        method: str,
        path: str,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        peer: str = "",
        proved: bool = True,
    ) -> Answer:
        """Serve one call. path: as it came, percent-encoded, without the query; peer: who calls, for the audit; proved: and has
        shown it. Never raises."""
        try:
            return await self._call(method, path, query, {k.lower(): v for k, v in (headers or {}).items()}, body, peer, proved)
        except Error as error:
            return refusal(error)
        except Exception as exc:
            log.exception("%s %s failed", method, path[:200])
            return failure(500, f"internal error: {type(exc).__name__}")

    async def _call(self, method: str, path: str, query: str, headers: dict[str, str], body: bytes, peer: str, proved: bool) -> Answer:
        if self.life is not None and path in HEALTH and method in ("GET", "HEAD"):
            status, shown = self.life.answer(path)
            return Answer(status, {"content-type": "application/json", "cache-control": "no-store"}, dump.dumps(shown, "space").encode())
        if self.metrics is not None and path == "/metrics" and method in ("GET", "HEAD"):
            kind, text = await self.metrics.text(headers.get("accept", ""))
            return Answer(200, {"content-type": kind, "cache-control": "no-store"}, text)
        operation, names = self._resolve(method, path)
        if operation is None:
            return failure(404, "Unknown API operation")
        call = Call(names, dict(parse_qsl(query, keep_blank_values=True)), headers, peer=peer, proved=proved)
        if not operation.is_write:
            return await self._checked(operation, call, body)
        call.what = f"{method} /{'/'.join([part for part in path.split('/') if part][2:])}"[:200]
        old = self.config
        answer = await self._checked(operation, call, body)
        self._tell(call, answer.status, old)
        return answer

    def _tell(self, call: Call, status: int, old: Config) -> None:
        """The audit line of a write: names of objects, never what is in them."""
        if self.audit is None:
            return
        names = [
            f"{sign}{section}/{name}"
            for section, change in (_changes(old, self.config) if status == 200 and self.config is not old else {}).items()
            for what, sign in (("added", "+"), ("changed", "~"), ("removed", "-"))
            for name in change.get(what, ())
        ]
        shown = " ".join(names[:AUDITED]) + (f" and {len(names) - AUDITED} more" if len(names) > AUDITED else "")
        result = f"{status} dry run" if call.flag("dryRun") else str(status)
        self.audit(revision=self.config.revision, peer=call.peer or None, call=call.what, result=result, names=shown or None)

    async def _checked(self, operation: Operation, call: Call, body: bytes) -> Answer:
        """Decode and check a call, and serve it; what refuses it becomes its answer."""
        try:
            return await self._decoded(operation, call, body)
        except Error as error:
            return refusal(error)
        except Exception as exc:
            log.exception("%s failed", call.what or "a read")
            return failure(500, f"internal error: {type(exc).__name__}")

    async def _decoded(self, operation: Operation, call: Call, body: bytes) -> Answer:
        if operation.takes_body:
            syntax = SYNTAXES.get(call.headers.get("content-type", "").partition(";")[0].strip().lower())
            if syntax is None:
                return failure(415, f"Content-Type must be one of {', '.join(SYNTAXES)}")
            try:
                if len(body) > BIG:  # sessions are not to wait for it
                    decoding = asyncio.get_running_loop().run_in_executor(None, _decode, body, syntax, self.limits)
                    call.decoded = await decoding
                else:
                    call.decoded = _decode(body, syntax, self.limits)
            except ConfigError as error:
                return failure(error.status, f"Invalid {syntax.upper()} format in request: {_unreadable(error.problems[0])}")
        if self.proxy.strict and not operation.strict:
            faults = self._faults(operation, call)
            if faults:
                return failure(422, faults, UNPROCESSABLE)
        try:
            return await self._serve(operation, call)
        except ConfigError as error:
            return failure(error.status, _listed(error, call) if operation.strict else error.detail)

    def _resolve(self, method: str, path: str) -> tuple[Operation | None, list[str]]:
        """The operation, and the variable parts of the path: every second one after the prefix."""
        parts = [part for part in path.split("/") if part]
        if tuple(parts[:2]) != PREFIX:
            return None, []
        parts = parts[2:]
        names = [unquote(part) for part in parts[1::2]]
        template = "/".join("*" if i % 2 else part for i, part in enumerate(parts))
        operation = OPERATIONS.get((method, template))
        if operation is not None and template.startswith("bridges") and self.bridges is None:
            operation = None
        if operation is not None and template.endswith("drain") and self.life is None:
            operation = None
        return operation, names

    def _faults(self, operation: Operation, call: Call) -> list[openapi.Fault]:
        """What l7mp's strict mode finds in a call."""
        ours = ("dryRun",) if operation.is_write else ()
        at = call.names[1] if operation is OPERATIONS["GET", "rulelists/*/rules/*"] or operation.body == "inserted rule" else None
        schema = self.schemas[operation.body] if operation.body else None
        return openapi.validate_call(call.query, openapi.query_schema(*operation.query, *ours), at, schema, call.body)

    async def _serve(self, operation: Operation, call: Call) -> Answer:
        if operation.read is not None:
            return self._show(operation, call)
        if operation.act is not None:
            done = operation.act(self, call)
            return self._answer(dump.dumps(await done if isawaitable(done) else done))
        async with self.lock:
            return await self._write(operation, call)

    def _show(self, operation: Operation, call: Call) -> Answer:
        """Answer a read; 304 if the caller knows it already (RFC 9110 section 13.1.2)."""
        shown = operation.read(self, call)  # type: ignore[misc]
        tag = self._tag(operation, call, self.config)
        if tag is not None and tag in _tags(call.headers.get("if-none-match", "")):
            return Answer(304, {"etag": tag, "carrier-revision": str(self.config.revision)}, b"")
        answer = self._answer(dump.dumps(shown, call.query.get("format", "plain")))
        if tag is not None:
            answer.headers["etag"] = tag
        return answer

    def _tag(self, operation: Operation, call: Call, config: Config) -> str | None:
        """The ETag of the one object that a call names, with everything in it; None if it names none, or one that is not there."""
        shown: Any
        if not operation.kind:
            return None
        if operation.kind == "bridge":
            shown = config.bridges.get(call.names[0])
        elif operation.kind == "endpoint":
            found = config.find_endpoint(call.names[0])
            shown = found[1] if found is not None else None
        else:
            shown = dump.View(config, True, self.protocols).show(operation.kind, call.names[0])
        if shown is None or isinstance(shown, str):
            return None
        return f'"{operation.kind}-{hashlib.sha256(msgspec.json.encode(shown)).hexdigest()[:20]}"'

    def _answer(self, text: str, warnings: Iterable[str] = ()) -> Answer:
        revision = self.config.revision
        headers = {"content-type": "application/json", "etag": f'"{revision}"', "carrier-revision": str(revision)}
        if header := _warning(warnings):
            headers["carrier-warning"] = header
        return Answer(200, headers, text.encode())

    # -- writes ------------------------------------------------------------------------------------------------------------------

    async def _write(self, operation: Operation, call: Call) -> Answer:
        """Make the next configuration and put it in force. The lock is held from reading the old one on."""
        old = self.config
        if getattr(self.proxy, "ending", False):
            raise Error("drain", "the proxy is ending: nothing is changed any more")
        self._check_tags(operation, call, old)
        new, said = self._edited(operation, call, old) if operation.edit else operation.replace(self, call, old)  # type: ignore[misc]
        if not call.proved:
            self._check_commands(old, new)
        warnings = [*said, *self._news(old, new, operation)]
        if call.flag("dryRun"):
            return self._answer(OK, warnings)
        if new is not old:
            warnings += await self._apply(new)
            if call.flag("recursive"):
                asyncio.get_running_loop().call_soon(self._end_sessions, old, self.config)
        answer = self._answer(OK, warnings)
        if tag := self._tag(operation, call, self.config):
            answer.headers["etag"] = tag
        return answer

    def _check_commands(self, old: Config, new: Config) -> None:
        """Whoever may reach 127.0.0.1 must not run commands as us: a cluster that does needs a caller who has shown who it is."""
        for name, cluster in new.clusters.items():
            kind = self.protocols.cluster(str(cluster.spec.get("protocol")))
            if cluster is not old.clusters.get(name) and kind is not None and kind.runs_commands(cluster.spec):
                detail = f'Cluster "{name}": {kind.protocol} runs commands: call over the unix socket, or with a token'
                raise Error("forbidden", detail, "downstream")

    async def _apply(self, config: Config) -> tuple[str, ...]:
        try:
            said: tuple[str, ...] = await self.proxy.apply(config)
        except Error as error:
            if error.status < 500 or error.kind in ("drain", "internal"):
                raise
            raise refused(error.detail) from error  # a name that does not resolve, say: the configuration's fault, not ours
        return said

    def _check_tags(self, operation: Operation, call: Call, config: Config) -> None:
        """If-Match and If-None-Match of a write (RFC 9110 section 13.1). Raises Error("precondition-failed")."""
        wanted, unwanted = call.headers.get("if-match"), call.headers.get("if-none-match")
        if wanted is None and unwanted is None:
            return
        tag = self._tag(operation, call, config)
        present = {f'"{config.revision}"', tag} if tag is not None or not operation.kind else {f'"{config.revision}"'}
        if wanted is not None:
            good = tag is not None or not operation.kind if wanted.strip() == "*" else bool(present & _tags(wanted))
            if not good:
                mine = f"; {call.names[0]!r} is {tag or 'not there'}" if operation.kind else ""
                raise Error("precondition-failed", f'the configuration is at revision "{config.revision}"{mine}, not at {wanted[:80]}')
        if unwanted is not None and (bool(present & _tags(unwanted)) or (unwanted.strip() == "*" and tag is not None)):
            raise Error(
                "precondition-failed", f"{call.names[0] if call.names else 'the configuration'} is {tag or config.revision} already"
            )

    def _edited(self, operation: Operation, call: Call, old: Config) -> tuple[Config, Iterable[str]]:
        """Run an edit. By the strict standard everything odd about the object refuses it; else it becomes a warning."""
        problems: list[Problem] = []
        if call.decoded is not None and operation.body is not None:
            kind = "rule" if operation.body == "inserted rule" else operation.body
            raw = call.wrapped(kind)
            problems = list(call.decoded.problems)
            if not isinstance(raw, str) or operation.strict:
                problems += inspect(kind, raw, f"$.{kind}", self.protocols)
            if operation.strict and isinstance(call.body, Mapping):
                problems += [Problem(f"unknown field {name!r}", f"$.{name}", allowed=kind) for name in call.body if name != kind]
        if problems and operation.strict:
            raise ConfigError(*problems)
        draft = Draft(old, self.protocols)
        operation.edit(draft, call)  # type: ignore[misc]
        return draft.done(), map(str, problems)

    def _news(self, old: Config, new: Config, operation: Operation) -> list[str]:
        """What is odd about the new configuration and was not about the old one; a new loop refuses a strict call."""
        before = self._findings(old)
        after = findings(new, self.matchers, self.protocols)
        self._known = (new, frozenset(after))
        fresh = [finding for finding in after if finding not in before]
        loops = [Problem(f.text) for f in fresh if f.code == "loop"]
        if loops and operation.strict:
            raise ConfigError(*loops)
        return [str(f) for f in fresh if operation.edit is not None and f.code != "invalid"]

    def _findings(self, config: Config) -> frozenset[Finding]:
        known = self._known
        if known[0] is not config and msgspec.structs.replace(known[0], revision=config.revision) != config:
            known = (config, frozenset(findings(config, self.matchers, self.protocols)))
        return known[1]

    def _end_sessions(self, old: Config, new: Config) -> None:
        """A recursive delete ends the sessions of the listeners, clusters and endpoints that went; after the answer is written."""
        listeners = set(old.listeners) - set(new.listeners)
        clusters = set(old.clusters) - set(new.clusters)
        endpoints = _endpoint_names(old) - _endpoint_names(new)
        for session in list(self.proxy.sessions()):
            shown = session.dump()
            to = shown["destination"]
            through = {to.get("origin"), *(stage["origin"] for stage in (*shown["ingress"], *shown["egress"]))}
            endpoint = to.get("endpoint")
            ends = shown["source"]["origin"] in listeners or through & clusters
            if ends or (isinstance(endpoint, Mapping) and endpoint.get("name") in endpoints):
                session.kill()


DONE = {"status": 200, "message": "OK"}
OK = dump.dumps(DONE)
BIG = 64 * 1024
"""Bytes of a body that is decoded beside the event loop: 1 MiB of YAML takes a second."""
AUDITED = 20
"""Objects that one audit line names."""


def refusal(error: Error) -> Answer:
    """An error as an answer: how to log in, and when to come back, where that helps (RFC 9110 sections 10.2.3 and 11.6.1)."""
    answer = failure(error.status, error.detail)
    if error.status == 401:
        answer.headers["www-authenticate"] = 'Bearer realm="carrier"'
    elif error.status in (429, 503):
        answer.headers["retry-after"] = "1"
    return answer


def _tags(field: str) -> set[str]:
    """The entity tags of a list; strong and weak ones are the same here, because every change makes another one."""
    return {tag.strip().removeprefix("W/") for tag in field.split(",")}


def failure(status: int, content: object, message: str | None = None) -> Answer:
    """An error, as l7mp writes it: real status, JSON indented by four."""
    reason = message or HTTPStatus(status).phrase
    text = json.dumps({"status": status, "message": reason, "content": content}, ensure_ascii=False, indent=4)
    return Answer(status, {"content-type": "application/json"}, text.encode("utf-8", "backslashreplace"))


def _decode(body: bytes, syntax: Syntax, limits: Limits) -> Decoded:
    if syntax == "json" and len(body) <= limits.body and not body.strip():
        raise ConfigError(Problem("the body is empty"))
    return decode(body, syntax, limits.body or 1 << 40, Bounds(limits.depth, limits.objects))


def _unreadable(problem: Problem) -> str:
    return f"{problem.message} (line {problem.line}, column {problem.column})" if problem.line else problem.message


def _listed(error: ConfigError, call: Call) -> list[Any]:
    """Every problem, as JSON, with its place in the body."""
    problems = map(call.decoded.placed, error.problems) if call.decoded is not None else error.problems
    return [msgspec.to_builtins(problem) for problem in problems]


def _warning(warnings: Iterable[str]) -> str:
    """A header value: printable ASCII, bounded, warnings separated by semicolons."""
    said = ["".join(c if 31 < ord(c) < 127 else "?" for c in w.replace("→", "->")) for w in dict.fromkeys(warnings)]
    kept: list[str] = []
    size = 0
    for text in said:
        size += len(text) + 2
        if size > MAX_WARNING:
            break
        kept.append(text)
    if len(kept) < len(said):
        kept.append(f"and {len(said) - len(kept)} more")
    return "; ".join(kept)


def _endpoint_names(config: Config) -> set[str]:
    return {endpoint.name for cluster in config.clusters.values() for endpoint in cluster.endpoints}


# -- reads -------------------------------------------------------------------------------------------------------------------------------


def _view(api: Api, call: Call) -> dump.View:
    return dump.View(api.config, call.flag("recursive"), api.protocols)


def _all(kind: str) -> Read:
    return lambda api, call: _view(api, call).all(kind)


def _one(kind: str) -> Read:
    def read(api: Api, call: Call) -> Any:
        if call.names[0] not in getattr(api.config, kind + "s"):
            raise refused("Not Found")
        return _view(api, call).show(kind, call.names[0])

    return read


def _config(api: Api, call: Call) -> Any:
    """l7mp's dump; with `document=true` one that POST /config takes. Bridges are no part of it."""
    if call.flag("document"):
        return to_document(_bare(api, api.config))
    return dump.whole(api.config, _sessions(api, call), api.protocols)


def _admin(api: Api, call: Call) -> Any:
    return dump.admin(api.config.admin)


def _endpoints(api: Api, call: Call) -> Any:
    cluster = api.config.clusters.get(call.names[0])
    if cluster is None:
        raise refused(f"No such cluster: {call.names[0]}")
    return [dump.endpoint(e) for e in cluster.endpoints]


def _endpoint(api: Api, call: Call) -> Any:
    found = api.config.find_endpoint(call.names[0])
    if found is None:
        raise refused("Not Found")
    return dump.endpoint(found[1])


def _rule_at(api: Api, call: Call) -> Any:
    name, which = call.names
    rulelist = api.config.rulelists.get(name)
    if rulelist is None:
        raise refused(f"No such rule list: {name}")
    at = position(which)
    if at is None:
        raise refused("Not Found")
    if not 0 <= at < len(rulelist.rules):
        raise refused(f'No rule at position {at} in RuleList "{name}"')
    if rulelist.rules[at] not in api.config.rules:
        raise refused("Not Found")
    return _view(api, call).show("rule", rulelist.rules[at])


def _sessions(api: Api, call: Call) -> list[Any]:
    return [session.dump() for session in api.proxy.sessions()]


def _session_named(api: Api, call: Call) -> Any:
    session = api.proxy.find_session(call.names[0])
    if session is None:
        raise refused("No such session")
    return session


def _session(api: Api, call: Call) -> Any:
    return _session_named(api, call).dump()


def _bridges(api: Api, call: Call) -> Any:
    return api.bridges.dump(api.config, call.names[0] if call.names else None, clusters=api.proxy.clusters)


def _validate_bridge(api: Api, call: Call) -> Any:
    """POST /bridges:validate: would PUT take it, and if not why not; nothing is changed."""
    assert call.decoded is not None
    if call.decoded.problems:
        raise ConfigError(*call.decoded.problems)
    return api.bridges.validate(api.config, call.body)


def _no_admin(api: Api, call: Call) -> Any:
    raise Error("not-implemented", "settings cannot be changed while the proxy runs")


def _status(api: Api, call: Call) -> Any:
    """GET /status: what runs, for people."""
    watch = api.metrics.watch if api.metrics is not None else None
    return overview.overview(api.proxy, api.life.state if api.life is not None else "ready", watch.reason if watch is not None else "")


def _probe(api: Api, call: Call) -> Any:
    """POST /bridges/NAME/probe: is the user's container there? Nothing is changed."""
    return overview.probe(api.proxy, call.names[0])


def _explain(api: Api, call: Call) -> Any:
    """POST /explain: where a session that is described in the body would go, and why; nothing is changed."""
    assert call.decoded is not None
    if call.decoded.problems:
        raise ConfigError(*call.decoded.problems)
    return msgspec.to_builtins(explain.ask(call.body, api.config, api.proxy.tables))


def _validate(api: Api, call: Call) -> Any:
    """POST /validate: what POST /config would say and change; nothing is."""
    assert call.decoded is not None
    try:
        new, warnings = _whole(api, call, api.config)
    except ConfigError as error:
        return {"valid": False, "problems": _listed(error, call), "warnings": [], "changes": {}}
    return {"valid": True, "problems": [], "warnings": list(warnings), "changes": _changes(api.config, new)}


def _changes(old: Config, new: Config) -> dict[str, Any]:
    """Section -> names that would be added, changed and removed; sections without any are left out."""
    changes = {}
    for section in SECTIONS:
        before, after = getattr(old, section), getattr(new, section)
        change = {
            "added": [name for name in after if name not in before],
            "changed": [name for name in after if name in before and after[name] != before[name]],
            "removed": [name for name in before if name not in after],
        }
        if any(change.values()):
            changes[section] = {what: names for what, names in change.items() if names}
    return changes


# -- writes ------------------------------------------------------------------------------------------------------------------------------


def _add(kind: str) -> Edit:
    return lambda draft, call: getattr(draft, f"add_{kind}")(call.wrapped(kind))


def _put(kind: str) -> Edit:
    return lambda draft, call: draft.replace(kind, call.names[0], call.wrapped(kind))


def _delete(kind: str) -> Edit:
    return lambda draft, call: draft.delete(kind, call.names[0], call.flag("recursive"))


def _add_endpoint(draft: Draft, call: Call) -> object:
    return draft.add_endpoint(call.names[0], call.wrapped("endpoint"))


def _insert_rule(draft: Draft, call: Call) -> object:
    return draft.insert_rule(call.names[0], call.names[1], call.wrapped("rule"))


def _delete_rule_from(draft: Draft, call: Call) -> None:
    draft.delete_rule_from(call.names[0], call.names[1], call.flag("recursive"))


def _end_session(api: Api, call: Call) -> Any:
    session = _session_named(api, call)
    if not call.flag("dryRun"):
        session.kill()
    return DONE


def _drain(api: Api, call: Call) -> Any:
    """POST /drain: as SIGTERM, but the process stays, to be asked how far it is; with `exit=true` it ends when it is drained."""
    if not call.flag("dryRun"):
        api.life.begin_drain(f"{call.what} of {call.peer}")
        if call.flag("exit"):
            api.life.ending.set()
    return api.life.progress()


def _drain_listener(api: Api, call: Call) -> Any:
    if call.names[0] not in api.config.listeners:
        raise refused(f'Unknown listener "{call.names[0]}"')
    if not call.flag("dryRun"):
        api.proxy.drain_listener(call.names[0])
    return DONE


async def _resume_listener(api: Api, call: Call) -> Any:
    if call.names[0] not in api.proxy.drained:
        raise refused(f'Listener "{call.names[0]}" is not drained')
    if not call.flag("dryRun"):
        async with api.lock:
            await api.proxy.resume_listener(call.names[0])
    return DONE


def _drain_endpoint(drained: bool) -> Act:
    def act(api: Api, call: Call) -> Any:
        if api.config.find_endpoint(call.names[0]) is None:
            raise refused("Not Found")
        if not call.flag("dryRun"):
            api.proxy.drain_endpoint(call.names[0], drained)
        return DONE

    return act


def _drained(api: Api, call: Call) -> Any:
    """GET /drain: how far it is, and what was drained on its own."""
    return {**api.life.progress(), "listeners": sorted(api.proxy.drained), "endpoints": sorted(api.proxy.drained_endpoints)}


def _whole(api: Api, call: Call, old: Config) -> tuple[Config, Iterable[str]]:
    """POST /config: the body is the whole configuration, user bridges apart: those stay, as far as they fit into it."""
    assert call.decoded is not None
    document = native(call.body)
    if isinstance(document, Mapping) and not any(section in document for section in SECTIONS):
        allowed = ", ".join(SECTIONS)
        raise ConfigError(Problem("the configuration has no section; to remove everything, say listeners: []", "$", allowed=allowed))
    bare = _bare(api, old)
    try:
        new, warnings = from_document(document, base=bare, allow_dangling=call.flag("allowDangling"), protocols=api.protocols)
    except ConfigError as error:
        raise ConfigError(*call.decoded.problems, *error.problems) from None
    if call.decoded.problems:
        raise ConfigError(*call.decoded.problems)
    if new is bare:
        return old, map(str, warnings)
    said = list(map(str, warnings))
    for name in old.bridges if api.bridges is not None else ():
        try:
            new = api.bridges.put(new, name, api.bridges.dump(old, name))
        except Error as error:
            said.append(f"bridge {name!r} is gone: {error.detail}")
    return new, said


def _bare(api: Api, config: Config) -> Config:
    """The configuration without its user bridges."""
    for name in config.bridges if api.bridges is not None else ():
        config = api.bridges.delete(config, name)
    return config


def _put_bridge(api: Api, call: Call, old: Config) -> tuple[Config, Iterable[str]]:
    assert call.decoded is not None
    if call.decoded.problems:
        raise ConfigError(*call.decoded.problems)
    new = api.bridges.put(old, call.names[0], call.body)
    return new, api.bridges.warnings(new, call.names[0])


def _renew_bridge(api: Api, call: Call, old: Config) -> tuple[Config, Iterable[str]]:
    """POST /bridges/{name}: it lives on."""
    assert call.decoded is not None
    return api.bridges.renew(old, call.names[0], call.body), ()


def _delete_bridge(api: Api, call: Call, old: Config) -> tuple[Config, Iterable[str]]:
    return api.bridges.delete(old, call.names[0]), ()


# -- the table ---------------------------------------------------------------------------------------------------------------------------

_SHOWN = ("recursive", "format")


def _operations() -> dict[tuple[str, str], Operation]:
    table = {
        ("GET", "config"): Operation(read=_config, query=("format", "document")),
        ("POST", "config"): Operation(replace=_whole, strict=True, takes_body=True),
        ("POST", "validate"): Operation(act=_validate, strict=True, takes_body=True),
        ("POST", "explain"): Operation(act=_explain, strict=True, takes_body=True),
        ("GET", "status"): Operation(read=_status, query=("format",), strict=True),
        ("POST", "bridges/*/probe"): Operation(act=_probe, strict=True),
        ("GET", "admin"): Operation(read=_admin, query=("format",)),
        ("POST", "admin"): Operation(act=_no_admin, body="admin", takes_body=True),
        ("GET", "clusters/*/endpoints"): Operation(read=_endpoints, query=("format",)),
        ("POST", "clusters/*/endpoints"): Operation(edit=_add_endpoint, body="endpoint", takes_body=True),
        ("GET", "endpoints/*"): Operation(read=_endpoint, query=("format",), kind="endpoint"),
        ("PUT", "endpoints/*"): Operation(edit=_put("endpoint"), body="endpoint", strict=True, takes_body=True, kind="endpoint"),
        ("DELETE", "endpoints/*"): Operation(edit=_delete("endpoint"), query=("recursive",), kind="endpoint"),
        ("GET", "drain"): Operation(read=_drained, query=("format",), strict=True),
        ("POST", "drain"): Operation(act=_drain, strict=True, writes=True),
        ("POST", "listeners/*/drain"): Operation(act=_drain_listener, strict=True, writes=True),
        ("DELETE", "listeners/*/drain"): Operation(act=_resume_listener, strict=True, writes=True),
        ("POST", "endpoints/*/drain"): Operation(act=_drain_endpoint(True), strict=True, writes=True),
        ("DELETE", "endpoints/*/drain"): Operation(act=_drain_endpoint(False), strict=True, writes=True),
        ("GET", "rulelists/*/rules/*"): Operation(read=_rule_at, query=_SHOWN),
        ("POST", "rulelists/*/rules/*"): Operation(edit=_insert_rule, body="inserted rule", takes_body=True),
        ("DELETE", "rulelists/*/rules/*"): Operation(edit=_delete_rule_from, query=("recursive",)),
        ("GET", "sessions"): Operation(read=_sessions, query=("format",)),
        ("GET", "sessions/*"): Operation(read=_session, query=("format",)),
        ("DELETE", "sessions/*"): Operation(act=_end_session, writes=True),
        ("GET", "bridges"): Operation(read=_bridges, query=("format",), strict=True),
        ("GET", "bridges/*"): Operation(read=_bridges, query=("format",), strict=True, kind="bridge"),
        ("PUT", "bridges/*"): Operation(replace=_put_bridge, strict=True, takes_body=True, kind="bridge"),
        ("POST", "bridges/*"): Operation(replace=_renew_bridge, strict=True, takes_body=True, kind="bridge"),
        ("POST", "bridges:validate"): Operation(act=_validate_bridge, strict=True, takes_body=True),
        ("DELETE", "bridges/*"): Operation(replace=_delete_bridge, strict=True, kind="bridge"),
    }
    for section, kind in SECTIONS.items():
        table |= {
            ("GET", section): Operation(read=_all(kind), query=_SHOWN),
            ("POST", section): Operation(edit=_add(kind), body=kind, takes_body=True),
            ("GET", f"{section}/*"): Operation(read=_one(kind), query=_SHOWN, kind=kind),
            ("PUT", f"{section}/*"): Operation(edit=_put(kind), body=kind, strict=True, takes_body=True, kind=kind),
            ("DELETE", f"{section}/*"): Operation(edit=_delete(kind), query=("recursive",), kind=kind),
        }
    return table


OPERATIONS = _operations()
"""(method, path after /api/v1 with `*` for names) -> operation."""
