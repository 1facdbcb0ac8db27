"""Conditions that no request can meet as they are written, and the spelling that requests have.

Paths and host names travel as ASCII: a path's other characters as escapes of their UTF-8 bytes (RFC 3986 section 2.5), a host's as
`xn--` labels (RFC 5891). A path begins with "/", and methods are in capitals. People write what they read in the address bar, expressions
for more than is looked at (the query, a port), a number for a text, a member of the metadata by another name. What can be met in some way
is none of these: an expression with alternatives, a class of characters.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from carrier.core.resolve import literal
from carrier.errors import did_you_mean
from carrier.redact import ALWAYS
from carrier.rules.checks import is_number
from carrier.rules.condition import Group, Leaf, Node
from carrier.rules.inputs import HEADERS, METHOD, METHODS, RAW_PATH
from carrier.rules.target import normal_path

_SAFE = "/?%:@!$&'()*+,;=~-._[]"
_NEVER_SENT = re.compile(r"[^!-~]")
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\.")
_OPEN = re.compile(r"\||[^!-~][?*{]")
_HOSTS = (("HTTP", "url", "host"), (*HEADERS, "host"), ("TLS", "sni"))
_PARTS = re.compile(r"(?:\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.)(?:[*+?]\??|\{[^}]*\}\??)?", re.S)
"""An expression taken apart: characters, escapes and classes, each with how often it is wanted."""
_MEMBERS: dict[tuple[str, ...], tuple[str, ...]] = {
    (): ("HTTP", "IP", "TCP", "UDP", "SCTP", "TLS", "UNIX", "JSONSocket", "PIPE", "STDIO", "name"),
    ("HTTP",): ("version", "method", "url", "headers"),
    ("HTTP", "url"): ("url", "href", "protocol", "host", "port", "path", "query"),
    ("IP",): ("src_addr", "dst_addr"),
    **{(transport,): ("src_port", "dst_port") for transport in ("TCP", "UDP", "SCTP")},
}
"""What the metadata of sessions has; of what is not named here nobody knows."""
_TEXTS = (("HTTP", "version"), METHOD, ("IP", "src_addr"), ("IP", "dst_addr"), ("TLS", "sni"), ("UNIX", "filename"), ("name",))
"""What of it is text, as all headers and all of the url are."""


def spelled(leaf: Leaf) -> tuple[object, str] | None:
    """What is wanted and never comes, and what would; None: it may come."""
    wanted = leaf.want
    if leaf.source.kind == "header" and leaf.op == "test":  # as nearly all are
        return None
    if leaf.source.kind in ("value", "address"):
        found = _member(leaf) or _type(leaf)
        if found is not None:
            return found
    if not isinstance(wanted, str):
        return None
    if leaf.op == "starts" and leaf.source.kind in ("header", "headers", "tracestate") and wanted[:1] in (" ", "\t"):
        return None if leaf.source.is_hidden(ALWAYS) else _write(wanted, wanted.lstrip(" \t"))
    if leaf.source.kind == "tracestate":
        return _write(wanted, wanted.partition(",")[0]) if leaf.op in ("test", "starts") and "," in wanted else None
    if leaf.source.kind in ("host", "sni") or (len(leaf.source.reads) == 1 and leaf.source.reads[0] in _HOSTS):
        return _host(leaf, wanted)
    if leaf.source.kind != "query" and leaf.source.reads == (RAW_PATH,):
        return _path(leaf, wanted)
    if leaf.source.reads == (METHOD,) and leaf.op == "test" and not leaf.fold and wanted != wanted.upper() in METHODS:
        return _write(wanted, wanted.upper())
    return None


def _write(wanted: object, sent: object) -> tuple[object, str]:
    return wanted, f"write {sent!r}"


# -- l7mp's predicates -----------------------------------------------------------------------------------------------------------------


def _member(leaf: Leaf) -> tuple[object, str] | None:
    """It looks at a place of the metadata that none has, which is a near miss of one that they have."""
    pieces = leaf.source.reads[0] if leaf.source.reads else ()
    if leaf.absent:
        return None
    right: list[str] = []
    for i, piece in enumerate(pieces):
        known = _MEMBERS.get(tuple(right))
        if tuple(right) == HEADERS and i == len(pieces) - 1:
            right.append(piece.lower())
            break
        if known is None:
            right += pieces[i:]
            break
        found = piece if piece in known else _near(piece, known)
        if found is None and piece in _MEMBERS["HTTP",] + _MEMBERS["HTTP", "url"]:  # a step was left out
            right = ["HTTP", "url"] if piece in _MEMBERS["HTTP", "url"] and piece != "url" else ["HTTP"]
            found = piece
        if found is None:
            return None
        right.append(found)
    written = "/" + "/".join(pieces)
    return _write(written, "/" + "/".join(right)) if right != list(pieces) else None


def _near(piece: str, known: tuple[str, ...]) -> str | None:
    same = [name for name in known if name.lower() == piece.lower()]
    if same:
        return same[0]
    hint = did_you_mean(piece, known)
    return next((name for name in known if f"{name!r}" in hint), None)


def _type(leaf: Leaf) -> tuple[object, str] | None:
    """It wants a number of what is text, or the other way round: equality is JSON's, without coercion."""
    pieces, want = leaf.source.reads[0] if leaf.source.reads else (), leaf.want
    number = len(pieces) == 2 and pieces[1] in _MEMBERS["TCP",]
    text = pieces in _TEXTS or (len(pieces) == 3 and pieces[:2] in (HEADERS, ("HTTP", "url")))
    if not (number or text) or leaf.source.is_hidden(ALWAYS):
        return None
    if leaf.op in ("less", "more"):
        return (want, "it is text, and only numbers are less or more") if text else None
    if leaf.op in ("contained", "intersects"):
        return want, "it is no list"
    if number and leaf.op in ("starts", "ends", "contains", "matches"):
        return want, "it is a number, and only of text there are parts"
    if leaf.op not in ("test", "in"):
        return None
    listed = want if isinstance(want, list) else [want]
    if leaf.source.kind == "address" and all(isinstance(one, str) and literal(one, 0) is None for one in listed):
        return want, "it is one address: write matchSource for a network"
    wrong = [one for one in listed if isinstance(one, str) is number and (isinstance(one, str) or is_number(one))]
    if not wrong or len(wrong) < len(listed):
        return None
    right = [int(str(one)) if number and str(one).isascii() and str(one).isdigit() else str(one) for one in wrong]
    return _write(want, right if isinstance(want, list) else right[0]) if right != wrong else (want, "it is a number")


# -- paths ----------------------------------------------------------------------------------------------------------------------------


def _plain(pattern: str) -> list[str] | None:
    """An expression all of whose parts are wanted, one after the other; None: it leaves a choice."""
    parts: list[str] = _PARTS.findall(pattern)
    return None if any(part[0] in "|()" for part in parts) else parts


def _pattern(wanted: str) -> tuple[object, str] | None:
    """An expression on the normal form of a path, which has no query, escapes in capitals and only those that are needed, and single
    slashes."""
    parts = _plain(wanted)
    if parts is None:
        return None
    for i, part in enumerate(parts):
        if part in ("\\?", "[?]", "\\?+"):
            return wanted, f"the path is matched without its query: write {''.join(parts[:i])!r}, and matchQuery beside it"
    if parts[:1] == ["^"] and len(parts) > 1 and re.fullmatch(r"[A-Za-z0-9_~%-]\+?", parts[1]):
        return _write(wanted, "^/" + wanted[1:])
    always = "".join(part if len(part) == 1 else "\0" * len(part) for part in parts)
    return _write(wanted, _normal(wanted)) if _normal(always) != always else None


def _normal(text: str) -> str:
    """The escapes and slashes of an expression as a path has them."""
    text = re.sub(r"%[0-9A-Fa-f]{2}", lambda found: (normal_path("/" + found[0]) or "/" + found[0])[1:], text)
    return re.sub("//+(?![?*{])", "/", text)


def _path(leaf: Leaf, wanted: str) -> tuple[object, str] | None:
    if leaf.op not in ("test", "starts", "ends", "contains", "matches"):
        return None
    if leaf.op in ("test", "starts") and wanted and (wanted[0] not in "/*" or "#" in wanted):  # what is behind "#" stays in the browser
        return _write(wanted, quote(wanted.partition("#")[0] if wanted[0] in "/*" else "/" + wanted, safe=_SAFE))
    looked_at = _CLASS.sub("", wanted) if leaf.op == "matches" else wanted
    if not _NEVER_SENT.search(looked_at) or (leaf.op == "matches" and _OPEN.search(looked_at)):
        return _pattern(wanted) if leaf.op == "matches" and leaf.source.kind == "path" else None
    if leaf.op != "matches":
        return _write(wanted, quote(wanted, safe=_SAFE))
    return _write(wanted, _NEVER_SENT.sub(lambda found: quote(found[0]), wanted))


# -- hosts ----------------------------------------------------------------------------------------------------------------------------


def _host(leaf: Leaf, wanted: str) -> tuple[object, str] | None:
    text = wanted if leaf.op != "matches" else _CLASS.sub("", wanted)
    if text.isascii() and leaf.op == "matches" and leaf.source.kind in ("host", "sni") and (parts := _plain(wanted)):
        lower = "".join(part.lower() if len(part) == 1 else part for part in parts)  # names have no case: they are looked at in this one
        sent = re.sub(r":\d+(?=\$?$)", "", lower)
        return _write(wanted, sent) if sent != wanted else None
    if text.isascii() or (leaf.op == "matches" and _OPEN.search(text)):
        return None
    try:  # what a header holds stands here as Latin-1 text of its bytes
        plain = wanted.encode("latin-1").decode("utf-8")
    except UnicodeError:
        plain = wanted
    try:
        return _write(plain, ".".join(label.encode("idna").decode() if label else "" for label in plain.split(".")))
    except UnicodeError:
        return plain, "write a host name of ASCII"


def misspelt(node: Node) -> list[tuple[object, str]]:
    """All of a condition; what is said to be absent need not be there."""
    if isinstance(node, Group):
        return [found for part in node.parts for found in misspelt(part)] if node.op != "none" else []
    found = spelled(node)
    return [found] if found is not None else []
