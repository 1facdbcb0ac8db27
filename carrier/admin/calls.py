"""A call of the REST API on its way, the kinds of operation that serve it, and what it is answered with when it fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from carrier.config import dump
from carrier.config.draft import Draft, Protocols
from carrier.config.given import refused
from carrier.config.source import Decoded, Syntax, decode, of_a_file
from carrier.core.slices import Steps
from carrier.errors import ConfigError, Error, Problem
from carrier.model import Config

if TYPE_CHECKING:
    from carrier.admin.gate import Limits
    from carrier.rules.table import Matchers

MAX_WARNING = 2048
"""Bytes of a `carrier-warning` header; what does not fit is counted."""
SYNTAXES: dict[str, Syntax] = {
    f"{top}/{x}{name}": "json" if name == "json" else "yaml"
    for top in ("application", "text")
    for x in ("", "x-")
    for name in ("json", "yaml")
}
"""Content type, without its parameters -> syntax of the body."""


class Serving(Protocol):
    """What an operation may ask of the API that serves it (carrier/admin/api.py)."""

    proxy: Any
    protocols: Protocols
    bridges: Any
    life: Any
    metrics: Any
    live: Any
    trail: Any
    recorder: Any
    log: Any
    lock: asyncio.Lock
    matchers: Matchers
    operations: Mapping[tuple[str, str], Operation]

    @property
    def config(self) -> Config: ...


class Answer(msgspec.Struct):
    """What a call is answered with."""

    status: int
    headers: dict[str, str]
    body: bytes
    watch: Callable[[Any], object] | None = None
    """The answer never ends: hands the stream (`write`) to whoever tells it something; it raises what refuses that."""
    unwatch: Callable[[Any], object] | None = None
    more: Iterator[bytes] | None = None
    """The rest of a large body, made while its reader takes it."""

    def whole(self) -> bytes:
        """All of the body."""
        self.body += b"".join(self.more or ())
        self.more = None
        return self.body

    def reason(self) -> str:
        """Why the call was refused, in one line: the first problem, and how many more there are."""
        content = msgspec.json.decode(self.body).get("content")
        if not isinstance(content, list):
            return str(content)[:500]
        first = content[0] if content else {}
        said = f"{first.get('path', first.get('dataPath', ''))}: {first.get('message', '')}".removeprefix(": ")
        return said[:500] + (f" (and {len(content) - 1} more)" if len(content) > 1 else "")


Standing = Callable[[], Awaitable[str]]
"""Why a caller has not shown who it is, or ""; asked only when it matters (carrier/admin/gate.py)."""


class Call(msgspec.Struct):
    """A call on its way. names: the path's variable parts, percent-decoded. decoded: the body, if the operation takes one."""

    names: list[str]
    query: dict[str, str]
    headers: dict[str, str]
    decoded: Decoded | None = None
    path: str = ""
    what: str = ""
    """Method and path after the prefix, for the audit line."""
    peer: str = ""
    standing: Standing | None = None
    """Asks why the caller may not have what is privileged; None: it may."""
    role: str = ""
    """`read` or `user=...`: what the caller's token binds him to."""
    token: str = ""
    """Of a bridge, as it was just made: it is in this answer and nowhere else."""

    @property
    def body(self) -> Any:
        return self.decoded.value if self.decoded is not None else None

    def flag(self, name: str) -> bool:
        """A boolean query parameter; only the literal `true` counts, as in l7mp."""
        return self.query.get(name) == "true"

    def wrapped(self, kind: str) -> Any:
        """The object of a body `{kind: object}`; None when there is none."""
        return self.body.get(kind) if isinstance(self.body, Mapping) else None

    def check_user(self, old: Config, new: Config) -> None:
        """A token that is bound to a user changes no other user's bridge. Raises Error("forbidden")."""
        if not self.role.startswith("user="):
            return
        mine, name = self.role.removeprefix("user="), self.names[0]
        for config in (old, new):
            bridge = config.bridges.get(name)
            if bridge is not None and bridge.user != mine:
                raise Error(
                    "forbidden", f"this token may only change the bridges of {mine}, and {name!r} is of {bridge.user}", "downstream"
                )

    async def check_standing(self, asked: str) -> None:
        """asked: what of the call is privileged, and why. Raises Error("forbidden") when the caller may not have it."""
        if asked and self.standing is not None and (why := await self.standing()):
            raise Error("forbidden", f"{asked}: {why}", "downstream")


Read = Callable[["Serving", Call], Any]
"""Gives what is shown, or a `Steps` that does."""
Edit = Callable[[Draft, Call], object]
Replaced = tuple[Config, Iterable[str]]
Replace = Callable[["Serving", Call, Config], Replaced | Steps[Replaced]]
Act = Callable[["Serving", Call], Any]


class Operation(NamedTuple):
    """One line of the table; exactly one of read, edit, replace and act is given.

    query: parameters that l7mp knows. body: the kind of object that the body wraps, for l7mp's schema. strict: our own standard.
    kind: of the one object that the path names, which has an ETag. writes: an act that changes something. text: what it does.
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
    text: str = ""
    stream: Callable[[Serving, Call], Answer | Awaitable[Answer]] | None = None
    """Instead of those four: an answer that never ends."""

    @property
    def is_write(self) -> bool:
        return self.writes or self.edit is not None or self.replace is not None


DONE = {"status": 200, "message": "OK"}
OK = dump.dumps(DONE)
BIG = 64 * 1024
"""Bytes of a body that is decoded beside the event loop: 1 MiB of YAML takes a second."""


def refusal(error: Error) -> Answer:
    """An error as an answer: how to log in, and when to come back, where that helps (RFC 9110 sections 10.2.3 and 11.6.1)."""
    answer = failure(error.status, error.detail)
    if error.status == 401:
        answer.headers["www-authenticate"] = 'Bearer realm="carrier"'
    elif error.status in (429, 503):
        answer.headers["retry-after"] = "1"
    return answer


def entity_tags(field: str) -> set[str]:
    """The entity tags of a list; strong and weak ones are the same here, because every change makes another one."""
    return {tag.strip().removeprefix("W/") for tag in field.split(",")}


def failure(status: int, content: object, message: str | None = None) -> Answer:
    """An error, as l7mp writes it: real status, JSON indented by four."""
    reason = message or HTTPStatus(status).phrase
    text = json.dumps({"status": status, "message": reason, "content": content}, ensure_ascii=False, indent=4)
    return Answer(status, {"content-type": "application/json"}, text.encode("utf-8", "backslashreplace"))


def decoded_body(body: bytes, syntax: Syntax, limits: Limits, path: str) -> Decoded:
    most = limits.most(path) or 1 << 40
    if syntax == "json" and len(body) <= most and not body.strip():
        raise ConfigError(Problem("the body is empty"))
    return decode(body, syntax, most, of_a_file(limits.objects, limits.depth))


def unreadable(problem: Problem) -> str:
    return f"{problem.message} (line {problem.line}, column {problem.column})" if problem.line else problem.message


def listed(error: ConfigError, call: Call) -> list[Any]:
    """Every problem, as JSON, with its place in the body."""
    problems = map(call.decoded.placed, error.problems) if call.decoded is not None else error.problems
    return [msgspec.to_builtins(problem) for problem in problems]


def warning_field(warnings: Iterable[str]) -> str:
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


def endpoint_names(config: Config) -> set[str]:
    return {endpoint.name for cluster in config.clusters.values() for endpoint in cluster.endpoints}


def session_named(api: Serving, call: Call) -> Any:
    session = api.proxy.find_session(call.names[0])
    if session is None:
        raise refused("No such session")
    return session
