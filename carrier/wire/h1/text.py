"""The HTTP/1.1 text of a head: made by the codec that read it, or here from what another version's codec read (RFC 9112).

A text is a start line, the fields to be sent on, the one line that frames the body, and the empty line. It is kept with its head.
"""

from __future__ import annotations

from carrier.wire.http import CHUNKED, LENGTH, NONE, REASONS, Fields, Head, framing_field, hop_lines, join_fields

_NO_CONTENT = b"\r\ncontent-length: 0\r\n\r\n"


def request_text(
    method: bytes, target: bytes, fields: Fields, body: int, length: int, upgrade: bytes | None, host: bytes = b"", trailers: bool = False
) -> bytes:
    """The text of a request. fields: those to be sent on, checked; host: a Host that is not among them. upgrade: as it is to be written;
    trailers: they are welcome."""
    lines = join_fields(fields) + framing_field(body, length)
    if host:
        lines = b"host: " + host + b"\r\n" + lines
    lines += hop_lines(upgrade, trailers)
    return method + b" " + target + b" HTTP/1.1\r\n" + lines + b"\r\n"


def answer_text(status: int, reason: bytes, fields: Fields, body: int, length: int, upgrade: bytes | None = None) -> bytes:
    """The text of an answer."""
    lines = join_fields(fields) + framing_field(body, length) + hop_lines(upgrade)
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason, lines)


def text_of(head: Head) -> bytes:
    """The text of a head, which keeps it."""
    if not head.text:
        if head.status:
            reason = head.reason or REASONS.get(head.status, b"")
            body = LENGTH if _needs_length(head) else head.body
            head.text = answer_text(head.status, reason, head.sent_on(), body, head.length, head.upgrade)
        else:
            head.text = request_text(
                head.method,
                head.location or head.target,
                head.sent_on(),
                head.body,
                head.length,
                head.upgrade,
                head.authority,
                head.get(b"te") == b"trailers",
            )
        head.stem = head.text[:-2]
    return head.text


def _needs_length(head: Head) -> bool:
    """An answer of HTTP/2 may end with its head and tell no length; in HTTP/1.1 its client would wait for content."""
    if head.version != "2" or head.body != NONE or head.status < 200 or head.status in (204, 304) or head.tunnel:
        return False
    return all(name != b"content-length" for name, _ in head.sent_on())


def without_length(head: Head) -> bytes:
    """The text of an answer to HEAD, where that length would be one that nobody has told."""
    text = text_of(head)
    return text.replace(_NO_CONTENT, b"\r\n\r\n", 1) if _needs_length(head) else text


def without_chunked(text: bytes) -> bytes:
    """A text for an HTTP/1.0 peer, who must not see a transfer coding (RFC 9112 6.1): the body then ends with the connection."""
    return text.replace(b"\r\ntransfer-encoding: chunked\r\n", b"\r\n", 1)


def as_chunked(text: bytes) -> bytes:
    """The text of a body that ends with the connection, for one whose length is told in chunks."""
    return text[:-2] + framing_field(CHUNKED, 0) + b"\r\n"
