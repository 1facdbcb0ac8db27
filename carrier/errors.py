"""One error tree. An `Error` says what happened, on whose side, and whether trying again makes sense.

`OSError` is translated here, by `from_os`, at the socket and nowhere else. `STATUS` maps each kind to the HTTP status that a
downstream HTTP peer sees. Configuration errors carry all their problems at once, each with where, what was seen and what is allowed.
"""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from itertools import islice
from typing import Literal, Self

import msgspec

Side = Literal["downstream", "upstream", "carrier"]
Retry = Literal["no", "yes", "if_reused"]

STATUS: dict[str, int] = {
    "protocol-error": 400,
    "config": 400,
    "bind": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "no-route": 404,
    "not-found": 404,
    "request-timeout": 408,
    "conflict": 409,
    "precondition-failed": 412,
    "body-too-large": 413,
    "uri-too-long": 414,
    "unsupported-media-type": 415,
    "expectation": 417,
    "misdirected": 421,
    "too-many-requests": 429,
    "headers-too-large": 431,
    "internal": 500,
    "not-implemented": 501,
    "bad-answer": 502,
    "reset": 502,
    "closed": 502,
    "no-endpoint": 503,
    "refused": 503,
    "unreachable": 503,
    "tls": 503,
    "dns": 503,
    "overload": 503,
    "killed": 503,
    "drain": 503,
    "timeout": 504,
    "version": 505,
    "loop": 508,
}
"""Kind of an error -> HTTP status (RFC 9110 section 15; 508: RFC 5842 section 7.2)."""


class Error(Exception):
    """Why a session, a connection or a call failed.

    kind: a key of STATUS. side: whose fault. retry: "yes" (nothing reached the upstream), "if_reused" (a kept-alive
    connection died before it answered: safe requests may be sent again), "no". detail: one sentence for a person. reset_code: what an
    upstream's RST_STREAM said, if it was that (RFC 9113 section 7).
    """

    def __init__(self, kind: str, detail: str = "", side: Side = "carrier", retry: Retry = "no") -> None:
        super().__init__(detail or kind)
        self.kind = kind
        self.detail = detail or kind
        self.side: Side = side
        self.retry: Retry = retry
        self.reset_code: int | None = None

    def bare(self) -> Self:
        """This error without the frames that it was raised through: they hold much, and often the error itself."""
        self.__traceback__ = self.__context__ = self.__cause__ = None
        return self

    @property
    def status(self) -> int:
        return STATUS.get(self.kind, 500)

    @property
    def phrase(self) -> str:
        """The status in words."""
        return HTTPStatus(self.status).phrase

    def __repr__(self) -> str:
        return f"Error({self.kind!r}, {self.detail!r}, side={self.side!r}, retry={self.retry!r})"


MOST_PROBLEMS = 100
"""Problems of one configuration that are looked for."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing wrong with a configuration: where (path; line and column from 1, if a file), what was seen, what is allowed."""

    message: str
    path: str = ""
    line: int = 0
    column: int = 0
    seen: str = ""
    allowed: str = ""
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.path}: {self.message}" if self.path else self.message
        if self.allowed:
            text += f" (allowed: {self.allowed})"
        return f"{text}; {self.hint}" if self.hint else text


class ConfigError(Error):
    """A configuration that was refused as a whole; `problems` has every reason."""

    def __init__(self, *problems: Problem, kind: str = "config") -> None:
        super().__init__(kind, "; ".join(map(str, problems)), "carrier", "no")
        self.problems = problems


class Enough(ConfigError):
    """So many problems have been found that nobody would read more: the looking ends."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        super().__init__(*problems, Problem(f"there are more problems: the first {MOST_PROBLEMS} are listed", "$"))


class Problems(list[Problem]):
    """Problems as they are found, at most MOST_PROBLEMS: the next one raises Enough, so that a body of nothing but faults costs little."""

    def append(self, problem: Problem) -> None:
        if len(self) >= MOST_PROBLEMS:
            raise Enough(self)
        super().append(problem)

    def extend(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self.append(problem)

    def __iadd__(self, problems: Iterable[Problem]) -> Self:  # type: ignore[override, misc]
        self.extend(problems)
        return self


_KINDS = {
    errno.ECONNREFUSED: "refused",
    errno.ENOENT: "refused",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.EADDRNOTAVAIL: "unreachable",
    errno.EACCES: "unreachable",
    errno.EPERM: "unreachable",
    errno.ETIMEDOUT: "timeout",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.EADDRINUSE: "bind",
    errno.EMFILE: "overload",
    errno.ENFILE: "overload",
    errno.ENOBUFS: "overload",
    errno.ENOMEM: "overload",
}


def from_os(exc: OSError, side: Side, where: str = "", retry: Retry = "no") -> Error:
    """Translate what the operating system, or OpenSSL, said; `where` names the address, so that a person knows which one."""
    if isinstance(exc, ssl.SSLError):
        text = f"its certificate is not good: {exc.verify_message}" if isinstance(exc, ssl.SSLCertVerificationError) else ""
        text = text or f"TLS failed: {exc.reason or exc}"
        return Error("tls", f"{where}: {text}" if where else text, side, retry)
    kind = _KINDS.get(exc.errno or 0)
    if kind is None:
        kind = "timeout" if isinstance(exc, TimeoutError) else "unreachable" if retry == "yes" else "reset"
    reason = exc.strerror or str(exc) or type(exc).__name__
    if reason.startswith("Connect call failed"):  # asyncio's words, with the address once more
        reason = os.strerror(exc.errno or 0)
    return Error(kind, f"{where}: {reason}" if where else reason, side, retry)


# -- words for messages ------------------------------------------------------------------------------------------------------------------


def brief(name: object, most: int = 80) -> str:
    """A name as it stands in a message, cut to `most` characters."""
    text = str(name)
    return text if len(text) <= most else text[: most - 3] + "..."


def shown(value: object, most: int = 80) -> str:
    """A value as it stands in a message: JSON where it can be (bytes as Latin-1 text), cut to `most` characters."""
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value).decode("latin-1")
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        text = repr(value) if isinstance(value, str) else f"({type(value).__name__})"
    return text if len(text) <= most else text[: most - 3] + "..."


MISSPELT, NEAR, NAMES = 80, 8, 500
"""Characters of a name that may be misspelt, characters by which its length may differ, and names that it is compared with."""


def did_you_mean(seen: str, allowed: Iterable[str]) -> str:
    """A hint when something allowed looks like what was seen, whatever its case; else ""."""
    if len(seen) > MISSPELT:
        return ""
    return _nearest(seen, tuple(islice((n for n in allowed if abs(len(n) - len(seen)) <= NEAR), NAMES)))


@lru_cache(maxsize=128)
def _nearest(seen: str, allowed: tuple[str, ...]) -> str:
    """Remembered: what is misspelt once in a body is so a hundred times."""
    from difflib import get_close_matches  # only who has misspelt something needs it

    names = {name.lower(): name for name in allowed}
    near = get_close_matches(seen.lower(), names, 1, 0.6)
    return f"did you mean {names[near[0]]!r}?" if near else ""
