"""Conditions that no request can meet as they are written, and the spelling that requests have.

Paths and host names travel as ASCII: a path's other characters as escapes of their UTF-8 bytes (RFC 3986 section 2.5), a host's as
`xn--` labels (RFC 5891). A path begins with "/", and methods are in capitals. People write what they read in the address bar. What can be
met in some way is none of these: an expression with alternatives, a class of characters.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from carrier.rules.condition import Group, Leaf, Node
from carrier.rules.inputs import HEADERS, METHOD, METHODS, RAW_PATH

_SAFE = "/?%:@!$&'()*+,;=~-._[]"
_NEVER_SENT = re.compile(r"[^!-~]")
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\.")
_OPEN = re.compile(r"\||[^!-~][?*{]")
_HOSTS = (("HTTP", "url", "host"), (*HEADERS, "host"), ("TLS", "sni"))


def spelled(leaf: Leaf) -> tuple[str, str] | None:
    """What is wanted and never comes, and the spelling that would; None: it may come."""
    wanted = leaf.want
    if not isinstance(wanted, str):
        return None
    if leaf.source.kind in ("host", "sni") or (len(leaf.source.reads) == 1 and leaf.source.reads[0] in _HOSTS):
        return _host(leaf, wanted)
    if leaf.source.kind != "query" and leaf.source.reads == (RAW_PATH,):
        return _path(leaf, wanted)
    if leaf.source.reads == (METHOD,) and leaf.op == "test" and not leaf.fold and wanted != wanted.upper() in METHODS:
        return wanted, wanted.upper()
    return None


def _path(leaf: Leaf, wanted: str) -> tuple[str, str] | None:
    if leaf.op not in ("test", "starts", "ends", "contains", "matches"):
        return None
    if leaf.op in ("test", "starts") and wanted and (wanted[0] not in "/*" or "#" in wanted):  # what is behind "#" stays in the browser
        return wanted, quote(wanted.partition("#")[0] if wanted[0] in "/*" else "/" + wanted, safe=_SAFE)
    looked_at = _CLASS.sub("", wanted) if leaf.op == "matches" else wanted
    if not _NEVER_SENT.search(looked_at) or (leaf.op == "matches" and _OPEN.search(looked_at)):
        return None
    if leaf.op != "matches":
        return wanted, quote(wanted, safe=_SAFE)
    return wanted, _NEVER_SENT.sub(lambda found: quote(found[0]), wanted)


def _host(leaf: Leaf, wanted: str) -> tuple[str, str] | None:
    text = wanted if leaf.op != "matches" else _CLASS.sub("", wanted)
    if text.isascii() or (leaf.op == "matches" and _OPEN.search(text)):
        return None
    try:  # what a header holds stands here as Latin-1 text of its bytes
        plain = wanted.encode("latin-1").decode("utf-8")
    except UnicodeError:
        plain = wanted
    try:
        return plain, ".".join(label.encode("idna").decode() if label else "" for label in plain.split("."))
    except UnicodeError:
        return plain, "a host name of ASCII"


def misspelt(node: Node) -> list[tuple[str, str]]:
    """All of a condition; what is said to be absent need not be there."""
    if isinstance(node, Group):
        return [found for part in node.parts for found in misspelt(part)] if node.op != "none" else []
    found = spelled(node)
    return [found] if found is not None else []
