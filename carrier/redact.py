"""What logs, reasons and refusals do not show, said once: values of secret fields, queries where they are to be left out, userinfo of
targets, the content of what was refused; and how bytes that would break a line or forge another are written.

`Hidden` is what one process hides: the fields that are secret in any case and those of `admin.access_log.redact`, and whether queries are
shown. Access log, session events, `x-carrier-why` and the process's log all ask here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

SECRET = frozenset(
    (
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "api-key",
        "x-api-key",
        "x-auth-token",
        "x-carrier-explain",
        "x-access-token",
        "x-session-token",
        "x-csrf-token",
        "x-xsrf-token",
        "x-vault-token",
        "private-token",
        "x-amz-security-token",
        "x-amzn-oidc-data",
        "x-amzn-oidc-accesstoken",
        "x-forwarded-access-token",
        "x-goog-iap-jwt-assertion",
        "cf-access-jwt-assertion",
    )
)
"""Fields whose values are never shown."""
REDACTED = "(redacted)"
JOIN = b"/.carrier/join/"
"""How the paths of join links begin (listeners/http/joining.py): their queries are secret."""
WIRE = frozenset(
    ("protocol-error", "bad-answer", "expectation", "misdirected", "uri-too-long", "headers-too-large", "not-implemented", "version")
)
"""Kinds of errors whose detail may quote what a peer has sent."""
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\.\.\.|$)|b?\'(?:[^\'\\]|\\.)*\'')
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_USER = re.compile(rb"\A((?:[A-Za-z][A-Za-z0-9+.-]*:)?/{2,})?[^/?#]*@")


class Hidden(NamedTuple):
    """fields: lower-case names whose values are not shown; query: those of queries are."""

    fields: frozenset[str] = SECRET
    query: bool = True


ALWAYS = Hidden()


def hidden(redact: tuple[str, ...] = (), query: bool = True) -> Hidden:
    """What a process hides that wants these fields redacted as well."""
    return Hidden(SECRET.union(name.lower() for name in redact), query) if redact or not query else ALWAYS


def target(value: bytes, query: bool = True) -> bytes:
    """A request's target without what names a user, and without its query where that is not to be seen. What follows a "?" of a target that
    is no target is a query, too."""
    if JOIN in value:
        query = False  # the bridge's token is in it
    if not value.startswith(b"/") and b"@" in value:
        value = _USER.sub(lambda match: (match[1] or b"") + b"(redacted)@", value)
    return value if query else value.partition(b"?")[0]


def refused(kind: str, detail: str, begun: bytes = b"") -> str:
    """The detail of an error without what it quotes of a peer: how much that was stands there, and where in `begun`, if it is found."""
    return _QUOTED.sub(lambda match: _measured(match[0], begun), detail) if kind in WIRE else detail


def _measured(quoted: str, begun: bytes) -> str:
    cut = not quoted.endswith(quoted[-1:] if quoted[:1] == "b" else quoted[:1]) or len(quoted) < 2 or quoted.endswith("...")
    try:
        text = json.loads(quoted.removesuffix("...") + '"' if cut else quoted).encode("latin-1", "replace")
    except ValueError:
        return "(not shown)"
    at = begun.find(text) if text and begun else -1
    size = "many bytes" if cut else f"{len(text)} bytes"
    return f"({size} at offset {at})" if at >= 0 else f"({size})"


def visible(text: str) -> str:
    """Text without control bytes: C0, DEL and C1 are written as \\xNN."""
    return text if text.isascii() and text.isprintable() else _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def quoted(text: str) -> str:
    """Text between quotes, in one line of printable ASCII: a quote and a backslash get a backslash, once."""
    inner = "".join(map(_written, text.replace("\\", "\\\\").replace('"', '\\"')))
    return f'"{inner}"'


def _written(char: str) -> str:
    if " " <= char <= "~":
        return char
    return f"\\x{ord(char):02x}" if ord(char) < 0xA0 else json.dumps(char)[1:-1]


# --- what is given away: a bundle for a bug report -----------------------------------------------------------------------------

_SECRETIVE = r"pass(?:word|wd|phrase)|secret|token|api[-_]?key|credential|authoriz|private|session|cookie|signature"
_NAMED = re.compile(_SECRETIVE, re.IGNORECASE)
_SAID = re.compile(rf'(\b(?:cookie \S+|[\w-]*(?:{_SECRETIVE})[\w-]*)[^"\n]{{0,40}}?)"(?:[^"\\]|\\.)*"', re.IGNORECASE)
_USERINFO = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s@]+@")
_MATCHED = ("matchHeader", "matchQuery", "matchBaggage", "matchTracestate")


def is_secretive(name: str) -> bool:
    """May what has this name be a secret?"""
    return name.lower() in SECRET or _NAMED.search(name) is not None


def text(value: str) -> str:
    """A text of ours (a reason, a line of the log) without what was compared with something secret, and without who logs in."""
    return _USERINFO.sub(rf"\1{REDACTED}@", _SAID.sub(rf'\1"{REDACTED}"', value))


def document(value: Any) -> Any:
    """A configuration, or what is shown of one, without values that may be secrets: of fields and parameters with such names, of all
    cookies, words of commands behind the first, bodies of fixed answers."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list | tuple):
        return [document(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {name: _member(str(name), inner, value) for name, inner in value.items()}


def _member(name: str, value: Any, of: Mapping[str, Any]) -> Any:
    if name == "matchCookie" or (name in _MATCHED and isinstance(value, Mapping) and is_secretive(str(value.get("name", "")))):
        return {key: REDACTED if key == "value" else inner for key, inner in value.items()} if isinstance(value, Mapping) else REDACTED
    if name == "value" and is_secretive(str(of.get("path", "")).rpartition("/")[2]):
        return REDACTED
    if name == "command" and isinstance(value, list) and len(value) > 1:
        return [value[0], f"({len(value) - 1} more, not shown)"]
    if isinstance(value, str) and (name == "body" or is_secretive(name)):
        return f"({len(value)} characters, not shown)"
    return document(value)
