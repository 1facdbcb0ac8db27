"""The page: `GET /` for a browser, and the files that it is made of (carrier/admin/web).

What is served here is the same for everybody and says nothing about this proxy, so it needs no token: the page asks the API, with the
token that its reader types, and the gate decides there. Each file is read once, packed once, and has a tag, so that a second visit
costs a 304. The policy lets nothing run or be looked at that is not one of these files, and forbids every way of making HTML from text
(Content Security Policy level 3; Trusted Types): what requests bring stays text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
"""By the end of a file's name. Nothing else is served."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "cache-control": "no-cache",  # kept, and asked for again with its tag: a new version is seen at once
    "vary": "accept, accept-encoding",
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class File(NamedTuple):
    """One file as it is sent: plain and packed."""

    type: str
    body: bytes
    packed: bytes
    tag: str


FOLDER = Path(__file__).with_name("web")
SCRIPTS = "/web/page.js"
PATHS = {"/": ("index.html",), SCRIPTS: ("*.js",), "/web/page.css": ("style.css", "parts.css"), "/web/icon.svg": ("icon.svg",)}
"""All that is sent, and what of the folder it is made of. So a browser asks four times before the page is there, and not twenty times."""
IMPORT = re.compile(r'^import (?:\* as (?P<all>\w+)|(?P<names>\{ .* \})) from "\./(?P<module>\w+)\.js";$', re.MULTILINE)
EXPORT = re.compile(r"^export (?P<kind>(?:async )?function|const|class) (?P<name>[\w$]+)", re.MULTILINE)


@cache
def file(path: str) -> File:
    """What is sent for one of PATHS, made when it is asked for first: all at once would hold the event loop."""
    names = PATHS[path]
    return _read(names[0], _scripts() if path == SCRIPTS else b"".join((FOLDER / name).read_bytes() for name in names))


def _scripts() -> bytes:
    """All modules as one, each after those that it imports. A module becomes a function that is called once and returns what it exports.
    They are written so that this is easy (an import is one line, nothing is exported by default), which a test holds."""
    from graphlib import TopologicalSorter  # as gzip below: only who looks at the page needs it

    texts = {each.stem: each.read_text() for each in sorted(FOLDER.glob("*.js"))}
    needs = {name: {found["module"] for found in IMPORT.finditer(text)} for name, text in texts.items()}
    parts = [_as_function(name, texts[name]) for name in TopologicalSorter(needs).static_order()]
    return "".join(parts).encode()


def _as_function(name: str, text: str) -> str:
    exported = [found["name"] for found in EXPORT.finditer(text)]
    body = EXPORT.sub(r"\g<kind> \g<name>", IMPORT.sub(_taken, text))
    return f"const ${name} = (() => {{\n{body}return {{ {', '.join(exported)} }};\n}})();\n"


def _taken(found: re.Match[str]) -> str:
    """An import, where the module is a value."""
    return f"const {found['all'] or found['names'].replace(' as ', ': ')} = ${found['module']};"


def _read(name: str, body: bytes) -> File:
    import gzip

    packed = gzip.compress(body, mtime=0)
    return File(TYPES[name.rpartition(".")[2]], body, packed, hashlib.sha256(body).hexdigest()[:20])


def wants(method: str, path: str, headers: Mapping[str, str]) -> bool:
    """Is this call for the page, and none of the API's? headers: names in lower case. A program gets the list of calls."""
    return method in ("GET", "HEAD") and path in PATHS and (path != "/" or "text/html" in headers.get("accept", ""))


def answer(path: str, headers: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
    """Status, fields and content: a file, for a call that `wants` has found to be for one; 304 for who has it (RFC 9110 section 13.1.2)."""
    found = file(path)
    packed = _takes_gzip(headers.get("accept-encoding", ""))
    tag = f'"{found.tag}{"-gzip" if packed else ""}"'
    fields = {**HEADERS, "etag": tag}
    known = headers.get("if-none-match", "")
    if known.strip() == "*" or tag in (each.strip().removeprefix("W/") for each in known.split(",")):
        return 304, fields, b""
    fields["content-type"] = found.type
    if packed:
        fields["content-encoding"] = "gzip"
    return 200, fields, found.packed if packed else found.body


def _takes_gzip(accepted: str) -> bool:
    return any(name in ("gzip", "*") and quality > 0 for name, quality in _qualities(accepted))


def _qualities(accepted: str) -> Iterator[tuple[str, float]]:
    """Codings and how much they are wanted (RFC 9110 section 12.5.3)."""
    for member in accepted.lower().split(","):
        name, _, parameter = member.partition(";")
        try:
            yield name.strip(), float(parameter.partition("=")[2] or 1)
        except ValueError:
            yield name.strip(), 0.0
