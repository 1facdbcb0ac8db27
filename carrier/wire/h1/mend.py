"""Answers that break the grammar of HTTP/1.1 and mean one thing all the same, in the one form that RFC 9112 has for it.

Browsers, curl and most proxies deliver them, so a developer behind a bridge has to see hers. Nobody can be fooled by it: what is sent on is
the plain form, which is read again as strictly as any other, and the connection is not used again, for its sender may have another idea of
where the answer ends. For requests there is none of this.
"""

from __future__ import annotations

import re

from carrier.wire.h1.head import tokens
from carrier.wire.http import join_fields

FOLD = re.compile(rb"\r?\n[ \t]+")
"""What goes on in the next line (RFC 9112 5.2)."""
_START = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
_CONTROL = re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")
_FRAMES = (b"transfer-encoding", b"content-length")


def head_end(data: bytes) -> int:
    """Where a head ends that has bare LF in it, or -1: all its lines end so, as scripts write them (RFC 9112 2.2), or some of them and not
    the empty one. Where that alone does, as when an answer is split, it is 0: nobody knows."""
    end, bare = data.find(b"\n\r\n") + 3, data.find(b"\n\n") + 2
    if bare > 1 and (end < 3 or bare < end):
        return bare if b"\r" not in data[:bare] else 0
    return end if end > 2 else -1


def mended(head: bytes) -> bytes:
    """The plain form of a whole answer head; the same bytes if there is none, or more than one.

    A bare LF ends a line. Folded lines become one (5.2). Control bytes of a value, but CR and NUL, become spaces (RFC 9110 5.5). A minor
    version that nobody has defined is read as the highest that we know (RFC 9110 2.5). What frames the content is said once (`_framing`).
    """
    first = head.find(b"\n") + 1
    if head.startswith((b" ", b"\t"), first):  # a field, or more of the reason: nobody knows
        return head
    start, *lines = (line.removesuffix(b"\r") for line in FOLD.sub(b" ", head).split(b"\n"))
    match = _START.fullmatch(start)
    parts = [line.partition(b":") for line in lines[:-2]]
    if match is None or not all(colon for _, colon, _ in parts):
        return head
    framing = _framing([(n, v if n.lower() in _FRAMES else _CONTROL.sub(b" ", v)) for n, _, v in parts])
    if framing is None:
        return head
    chunked, pairs = framing
    minor = 0 if match[1] == b"0" and not chunked else 1
    fields = join_fields((name, value.strip(b" \t")) for name, value in pairs)
    return b"HTTP/1.%d %b %b\r\n" % (minor, match[2], match[3] or b"") + fields + b"\r\n"


def _framing(pairs: list[tuple[bytes, bytes]]) -> tuple[bool, list[tuple[bytes, bytes]]] | None:
    """Is the content in chunks, and the fields with that or one length said once; None: they contradict each other.

    chunked several times, as apps say it behind frameworks that do; beside a length, which it wins over (RFC 9112 6.3); in HTTP/1.0.
    identity, which was a coding until RFC 7230. The same length several times (RFC 9110 8.6), or with zeros before it.
    """
    codings = {*tokens(value for name, value in pairs if name.lower() == b"transfer-encoding")} - {b"", b"identity"}
    lengths = {token.lstrip(b"0") or token[:1] for token in tokens(value for name, value in pairs if name.lower() == b"content-length")}
    if codings - {b"chunked"} or (not codings and len(lengths) > 1):
        return None
    others = [pair for pair in pairs if pair[0].lower() not in _FRAMES]
    if codings:
        return True, [*others, (b"Transfer-Encoding", b"chunked")]
    return False, [*others, *((b"Content-Length", length) for length in lengths)]
