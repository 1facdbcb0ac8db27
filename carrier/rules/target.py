"""The path of a request target as every server behind a proxy reads it, so that no spelling slips past a rule.

`normal_path` gives one form for all spellings of a path, and none where servers differ about what the path is: such a request
matches no rule on paths, rather than the wrong one. Pure text; the query is not looked at.
"""

from __future__ import annotations

import re

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PLAIN = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/]*").fullmatch  # pchar and "/" but no escapes, RFC 3986 section 3.3
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]*(.*)", re.S).fullmatch
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})|([\"<>\[\]^`{|}])|(%|[^!-~]|[\\#])")
# Bytes that only an overlong UTF-8 form has, or begins with (RFC 3629 section 3): lenient decoders make ASCII of them.
_OVERLONG = re.compile(r"%C[01]|%E0%[89]|%F0%8")
# Escaped controls where a server that trims would lose them.
_EDGE = re.compile(r"(?:^|/|%2F|%5C)(?:%[01][0-9A-F]|%7F)|(?:%[01][0-9A-F]|%7F)(?:$|/|;|%2F|%5C)")
_HIDDEN_DOTS = re.compile(r"(?:^|/|%2F|%5C)\.\.?(?:$|/|;|%3B|%2F|%5C)")


def normal_path(raw: str, *, merge_slashes: bool = True) -> str | None:
    """The RFC 3986 normal form of a request target's path, without the query; None when it has none that all servers agree on.

    Escapes of unreserved characters are decoded, the others upper case (section 6.2.2); dot segments removed (5.2.4); `%2F` stays
    encoded; characters that only sloppy clients send bare (``"<>[]^`{|}``) become escapes; absolute form gives its path; "*" stays.
    Repeated slashes are one by default: most servers behind a proxy read `//admin` as `/admin`, and a rule must see what they see.

    None: broken escapes, controls, spaces, bytes above 127, "#", backslash, overlong UTF-8, neither "/" nor absolute; escaped controls at
    the edge of a segment, which some servers cut off, and NUL anywhere (within a segment they are as good as any other character);
    and what servers read differently: dot segments with parameters (`/..;/`, `/..%3B/`) or between encoded slashes (`/x%2F../`), and (when
    merging) `//..`. The query is not looked at.
    """
    path = raw if "?" not in raw else raw[: raw.index("?")]
    # The common case, in four C calls: nothing to decode, to merge or to remove.
    if path[:1] == "/" and "/." not in path and "//" not in path and _PLAIN(path):
        return path
    if path[:1] != "/":
        if path == "*":
            return path
        absolute = _ABSOLUTE(path)
        if absolute is None:
            return None
        path = absolute[1] or "/"
    return _normal(path, merge_slashes)


def _normal(path: str, merge: bool) -> str | None:
    bad = False

    def decoded(found: re.Match[str]) -> str:
        nonlocal bad
        digits, bare, wrong = found.groups()
        if bare:
            return f"%{ord(bare):02X}"
        byte = int(digits, 16) if digits else 0
        bad = bad or wrong is not None or (digits is not None and byte == 0)
        return chr(byte) if byte in _UNRESERVED else f"%{byte:02X}"

    path = _ESCAPE.sub(decoded, path)
    if bad or ("%" in path and (_OVERLONG.search(path) or _EDGE.search(path))):
        return None
    if "/." in path or "%2F." in path or "%5C." in path:
        plain = _without_dots(path)
        if _HIDDEN_DOTS.search(plain):
            return None
        if merge and "//" in path and _without_dots(_merged(path)) != _merged(plain):
            return None
        path = plain
    return _merged(path) if merge else path


def _merged(path: str) -> str:
    return re.sub("//+", "/", path) if "//" in path else path


def _without_dots(path: str) -> str:
    """RFC 3986 section 5.2.4 for a path that begins with "/"."""
    out: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del out[-1:]
        elif segment != ".":
            out.append(segment)
    if segments[-1] in (".", ".."):
        out.append("")
    return "/" + "/".join(out)
