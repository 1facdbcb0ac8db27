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
from collections.abc import Callable, Generator, Iterable, Mapping
from inspect import isawaitable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote

import msgspec

from carrier.admin import page
from carrier.admin.calls import (
    BIG,
    OK,
    SYNTAXES,
    Answer,
    Call,
    Operation,
    Standing,
    decoded_body,
    endpoint_names,
    entity_tags,
    failure,
    listed,
    refusal,
    unreadable,
    warning_field,
)
from carrier.admin.documents import Weight, changes_between, weighing
from carrier.admin.gate import HEALTH, Limits
from carrier.admin.operations import OPERATIONS
from carrier.config import dump, privileges
from carrier.config import schema as openapi
from carrier.config.draft import Draft, Protocols
from carrier.config.findings import Finding, looking
from carrier.config.given import refused
from carrier.config.inspector import inspect
from carrier.config.source import Syntax
from carrier.core import registry
from carrier.core.slices import sliced
from carrier.errors import ConfigError, Error, Problem
from carrier.model import Config
from carrier.rules.table import Matchers

if TYPE_CHECKING:
    from carrier.admin.trail import Trail
    from carrier.log import Log
    from carrier.observe.metrics import Metrics

log = logging.getLogger("carrier.api")

PREFIX = ("api", "v1")
METHODS = ("GET", "POST", "PUT", "DELETE")
METRICS = "/metrics"
UNPROCESSABLE = "Unprocessable Entity: Input JSON schema validation failed"
AUDITED = 20
"""Objects that one audit line names."""
Audit = Callable[..., object]
"""Called with `revision`, `peer`, `call`, `result` and `names` of each write."""


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
        log: Log | None = None,
    ) -> None:
        self.proxy = proxy
        self.protocols = protocols
        self.bridges = bridges
        self.life = life
        self.limits = limits or Limits()
        self.audit = audit
        self.log = log
        """The process's, whose level may be changed."""
        self.operations: Mapping[tuple[str, str], Operation] = OPERATIONS
        self.live: Any = None
        """What serves /events; None: nobody does."""
        self.trail: Trail | None = None
        """What remembers changes; None: nobody does."""
        self.page = False
        """Is `/` a page for browsers?"""
        self.recorder: Any = None
        """What serves /record, likewise."""
        self.metrics: Metrics | None = None
        """What serves /metrics; None: nobody does."""
        self.matchers: Matchers = getattr(proxy, "matchers", None) or Matchers()
        self.lock: asyncio.Lock = getattr(proxy, "lock", None) or asyncio.Lock()
        self.schemas = openapi.bodies(protocols)
        self.showing = asyncio.Lock()
        """Held while the beginning of an answer is made."""
        self._weight: Weight | None = None
        """A configuration and its bytes, to weigh the next one by."""
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
        standing: Standing | None = None,
        role: str = "",
        own: bool = False,
    ) -> Answer:
        """Serve one call. path: as it came, percent-encoded, without the query; peer: who calls, for the audit; standing: asks why it may
        not have what is privileged; own: it came to the API's own address, not through a listener of the configuration, whose callers know
        l7mp's API and get its 404 for what it has not. Never raises."""
        try:
            fields = {name.lower(): value for name, value in (headers or {}).items()}
            if self.page and page.wants(method, path, fields):
                return Answer(*page.answer(path, fields))
            if own and (found := self._beyond(method, path)) is not None:
                return found
            return await self._call(method, path, query, fields, body, peer, standing, role)
        except Error as error:
            return refusal(error)
        except Exception as exc:
            log.exception("%s %s failed", method, path[:200])
            return failure(500, f"internal error: {type(exc).__name__}")

    async def _call(
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes, peer: str, standing: Standing | None, role: str
    ) -> Answer:
        if self.life is not None and path in HEALTH and method in ("GET", "HEAD"):
            status, shown = self.life.answer(path)
            return Answer(status, {"content-type": "application/json", "cache-control": "no-store"}, dump.dumps(shown, "space").encode())
        if self.metrics is not None and path == METRICS and method in ("GET", "HEAD"):
            kind, text = await self.metrics.text(headers.get("accept", ""))
            return Answer(200, {"content-type": kind, "cache-control": "no-store"}, text)
        operation, names = self._resolve(method, path)
        if operation is None:
            return failure(404, "Unknown API operation")
        call = Call(names, dict(parse_qsl(query, keep_blank_values=True)), headers, path=path, peer=peer, standing=standing, role=role)
        if role and operation.is_write and not (operation.kind == "bridge" and role.startswith("user=")):
            may = "read" if role == "read" else f"change the bridges of {role.removeprefix('user=')}"
            return refusal(Error("forbidden", f"this token may only {may}", "downstream"))
        if not operation.is_write:
            return await self._checked(operation, call, body)
        call.what = f"{method} /{'/'.join([part for part in path.split('/') if part][2:])}"[:200]
        old, refused = self.config, getattr(self.proxy, "refused", 0)
        answer = await self._checked(operation, call, body)
        if answer.status >= 400 and getattr(self.proxy, "refused", None) == refused:
            self.proxy.refused += 1  # before it came to be applied
        self._tell(call, answer, old)
        return answer

    def _beyond(self, method: str, path: str) -> Answer | None:
        """What l7mp answers 404: the list of calls for `GET /`, and which methods a path takes (RFC 9110 section 15.5.6); else None."""
        if method in ("GET", "HEAD") and tuple(part for part in path.split("/") if part) in ((), PREFIX):
            return self._answer(self._calls())
        others = [other for other in METHODS if self._resolve(other, path)[0] is not None]
        if (
            tuple(part for part in path.split("/") if part) in ((), PREFIX)
            or (path in HEALTH and self.life)
            or (path == METRICS and self.metrics)
        ):
            others = ["GET", "HEAD"]
        if not others or method in others:
            return None
        answer = failure(405, f"{path[:200]} takes {' and '.join(others)}, not {method}")
        answer.headers["allow"] = ", ".join(others)
        return answer

    def _calls(self) -> str:
        """GET / and GET /api/v1: the calls that there are, each on a line, as people read it first."""
        calls = [
            {
                "call": f"{method} /{'/'.join((*PREFIX, path)).replace('*', '{name}')}",
                "takes": operation.body or ("a body" if operation.takes_body else None),
                "parameters": list(operation.query),
                "does": operation.text,
            }
            for (method, path), operation in sorted(OPERATIONS.items(), key=lambda item: (item[0][1], item[0][0]))
        ]
        found = {"version": dump.version(), "revision": self.config.revision, "schema": "/api/v1/openapi.json"}
        lines = ",\n    ".join(json.dumps(call) for call in calls)
        return f'{json.dumps(found)[:-1]}, "calls": [\n    {lines}\n]}}\n'

    def _tell(self, call: Call, answer: Answer, old: Config) -> None:
        """The audit line of a write: names of objects, never what is in them; of one that was refused, why."""
        status = answer.status
        if self.audit is None:
            return
        names = [
            f"{sign}{section}/{name}"
            for section, change in (changes_between(old, self.config) if status < 300 and self.config is not old else {}).items()
            for what, sign in (("added", "+"), ("changed", "~"), ("removed", "-"))
            for name in change.get(what, ())
        ]
        shown = " ".join(names[:AUDITED]) + (f" and {len(names) - AUDITED} more" if len(names) > AUDITED else "")
        result = f"{status} dry run" if call.flag("dryRun") else str(status)
        more = {"refused": answer.reason()} if status >= 400 else {}
        self.audit(revision=self.config.revision, peer=call.peer or None, call=call.what, result=result, names=shown or None, **more)

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
                    decoding = asyncio.get_running_loop().run_in_executor(None, self._read, body, syntax, call)
                    asked = await decoding
                else:
                    asked = self._read(body, syntax, call)
            except ConfigError as error:
                return failure(error.status, f"Invalid {syntax.upper()} format in request: {unreadable(error.problems[0])}")
            await call.check_standing(asked)  # before anything in it is looked at: what is found wrong may tell of files
        if self.proxy.strict and not operation.strict:
            faults = self._faults(operation, call)
            if faults:
                return failure(422, faults, UNPROCESSABLE)
        try:
            return await self._serve(operation, call)
        except ConfigError as error:
            if operation.strict and call.decoded is not None:
                await sliced(call.decoded.locating(error.problems))
            if operation.strict and self.proxy.strict and error.status == 400:
                return failure(422, listed(error, call), UNPROCESSABLE)
            return failure(error.status, listed(error, call) if operation.strict else error.detail)

    def _read(self, body: bytes, syntax: Syntax, call: Call) -> str:
        """Decode a body; what of it is privileged, if the caller may be one who may not have it. Raises ConfigError."""
        call.decoded = decoded_body(body, syntax, self.limits, call.path)
        return privileges.of_document(call.body, self.protocols) if call.standing is not None else ""

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
        faults = openapi.validate_call(call.query, openapi.query_schema(*operation.query, *ours), at, schema, call.body)
        if faults or operation.edit is None or operation.body is None:
            return faults
        kind = "rule" if operation.body == "inserted rule" else operation.body
        raw = call.wrapped(kind)
        return openapi.beyond(inspect(kind, raw, f"$.{kind}", self.protocols), call.body) if isinstance(raw, Mapping) else []

    async def _serve(self, operation: Operation, call: Call) -> Answer:
        if operation.stream is not None:
            begun = operation.stream(self, call)
            return await begun if isawaitable(begun) else begun
        if operation.read is not None:
            async with self.showing:
                answer = await self._show(operation, call)
                if answer.more is not None:
                    await asyncio.sleep(0)  # one large answer is begun in a turn
                return answer
        if operation.act is not None:
            done = operation.act(self, call)
            if isinstance(done, Generator):
                done = await sliced(done)
            return self._answer(dump.dumps(await done if isawaitable(done) else done))
        async with self.lock:
            return await self._write(operation, call)

    async def _show(self, operation: Operation, call: Call) -> Answer:
        """Answer a read; 304 if the caller knows it already (RFC 9110 section 13.1.2)."""
        shown = operation.read(self, call)  # type: ignore[misc]
        if isinstance(shown, Generator):
            shown = await sliced(shown)
        tag = self._tag(operation, call, self.config)
        if tag is not None and tag in entity_tags(call.headers.get("if-none-match", "")):
            return Answer(304, {"etag": tag, "carrier-revision": str(self.config.revision)}, b"")
        chunks = dump.chunks(shown, call.query.get("format", "plain"))
        answer = self._answer(next(chunks))
        if second := next(chunks, b""):
            answer.body += second
            answer.more = chunks
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

    def _answer(self, text: str | bytes, warnings: Iterable[str] = ()) -> Answer:
        revision = self.config.revision
        headers = {"content-type": "application/json", "etag": f'"{revision}"', "carrier-revision": str(revision)}
        if header := warning_field(warnings):
            headers["carrier-warning"] = header
        return Answer(200, headers, text.encode() if isinstance(text, str) else text)

    # -- writes ------------------------------------------------------------------------------------------------------------------

    async def _write(self, operation: Operation, call: Call) -> Answer:
        """Make the next configuration and put it in force. The lock is held from reading the old one on."""
        old = self.config
        if getattr(self.proxy, "ending", False):
            raise Error("drain", "the proxy is ending: nothing is changed any more")
        self._check_tags(operation, call, old)
        made = self._edited(operation, call, old) if operation.edit else operation.replace(self, call, old)  # type: ignore[misc]
        new, said = await sliced(made) if isinstance(made, Generator) else made
        call.check_user(old, new)
        if call.standing is not None and new is not old:
            await call.check_standing(privileges.gained(old, new, self.protocols, operation.kind == "bridge"))
        await self._check_size(old, new)
        warnings = [*said, *await self._news(old, new, operation)]
        if call.flag("dryRun"):
            return self._answer(OK, warnings)
        if new is not old:
            warnings += await self._apply(new)
            if call.flag("recursive"):
                asyncio.get_running_loop().call_soon(self._end_sessions, old, self.config)
        answer = self._answer(self._made(operation, call) or OK, warnings)
        if tag := self._tag(operation, call, self.config):
            answer.headers["etag"] = tag
        if operation.kind == "bridge" and call.names[0] in self.config.bridges and call.names[0] not in old.bridges:
            answer.status = 201
            answer.headers["location"] = f"/api/v1/bridges/{quote(call.names[0], safe='')}"
        return answer

    async def _check_size(self, old: Config, new: Config) -> None:
        """Raise ConfigError when the whole configuration would be too large; what makes it smaller is always taken."""
        most = self.limits.total
        if not most or new is old:
            return
        if self._weight is None or self._weight[0] is not old:
            self._weight = await sliced(weighing(old, self._weight))
        weight = await sliced(weighing(new, self._weight))
        if most < weight[1] > self._weight[1]:
            text = f"the whole configuration would have {weight[1]} bytes, more than {most} (limit api.total)"
            raise ConfigError(Problem(text), kind="body-too-large")
        self._weight = weight

    def _made(self, operation: Operation, call: Call) -> str:
        """A bridge as it is now, with its status, for who made it; other writes answer l7mp's OK."""
        if operation.kind != "bridge" or call.names[0] not in self.config.bridges:
            return ""
        shown = self.bridges.dump(self.config, call.names[0], self.proxy.clusters)
        if call.token:
            shown["status"]["token"] = call.token
        return dump.dumps(shown)

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
            good = tag is not None or not operation.kind if wanted.strip() == "*" else bool(present & entity_tags(wanted))
            if not good:
                mine = f"; {call.names[0]!r} is {tag or 'not there'}" if operation.kind else ""
                raise Error("precondition-failed", f'the configuration is at revision "{config.revision}"{mine}, not at {wanted[:80]}')
        if unwanted is not None and (bool(present & entity_tags(unwanted)) or (unwanted.strip() == "*" and tag is not None)):
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

    async def _news(self, old: Config, new: Config, operation: Operation) -> list[str]:
        """What is odd about the new configuration and was not about the old one; a new loop, or a port of two, refuses a strict call."""
        before = await self._findings(old)
        after = await sliced(looking(new, self.matchers, self.protocols))
        self._known = (new, frozenset(after))
        fresh = [finding for finding in after if finding not in before]
        refused = [Problem(f.text) for f in fresh if f.code in ("loop", "shared")]
        if refused and operation.strict:
            raise ConfigError(*refused)
        return [str(f) for f in fresh if operation.edit is not None and f.code != "invalid"]

    async def _findings(self, config: Config) -> frozenset[Finding]:
        known = self._known
        if known[0] is not config and msgspec.structs.replace(known[0], revision=config.revision) != config:
            known = (config, frozenset(await sliced(looking(config, self.matchers, self.protocols))))
        return known[1]

    def _end_sessions(self, old: Config, new: Config) -> None:
        """A recursive delete ends the sessions of the listeners and clusters that went, and disconnects those of endpoints; after the
        answer is written."""
        listeners = set(old.listeners) - set(new.listeners)
        clusters = set(old.clusters) - set(new.clusters)
        endpoints = endpoint_names(old) - endpoint_names(new)
        for session in list(self.proxy.sessions()):
            shown = session.dump()
            to = shown["destination"]
            through = {to.get("origin"), *(stage["origin"] for stage in (*shown["ingress"], *shown["egress"]))}
            endpoint = to.get("endpoint")
            if shown["source"]["origin"] in listeners or through & clusters:
                session.kill()
            elif isinstance(endpoint, Mapping) and endpoint.get("name") in endpoints:
                session.disconnect(f"Traversed EndPoint {endpoint['name']} of destination cluster {to['origin']} is deleted from API")
