"""What a connection is, by its first line: HTTP, TLS, something else. Bytes in, a word out; no clock.

A line that ends in " HTTP/1.x" is a request's, whatever it begins with: whether it is a good one says who reads it as such. That of
HTTP/2 is known (RFC 9113 3.4). Before it ends,
what begins as a registered method does is likely one. Everything else cannot be told until the line ends, but that some bytes are in no
request at all: whoever waits need not wait for more then, and must look at the end of the line nevertheless.
"""

from __future__ import annotations

import re
from typing import Literal

Seen = Literal["http", "tls", "other", "likely", "strange", "unknown"]
"""likely: HTTP, as far as it has come. strange: nothing that HTTP has. After the other words but `unknown` nothing can change any more."""

METHODS = frozenset(
    b"ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT CONNECT COPY DELETE GET HEAD LABEL LINK LOCK MERGE MKACTIVITY MKCALENDAR MKCOL "
    b"MKREDIRECTREF MKWORKSPACE MOVE OPTIONS ORDERPATCH PATCH POST PRI PROPFIND PROPPATCH PUT QUERY REBIND REPORT SEARCH TRACE UNBIND "
    b"UNCHECKOUT UNLINK UNLOCK UPDATE UPDATEREDIRECTREF VERSION-CONTROL".split()
)
"""The registered ones (IANA, Hypertext Transfer Protocol (HTTP) Method Registry)."""
BEGINNINGS = frozenset(method[:i] for method in METHODS for i in range(1, len(method) + 1))
LONGEST = max(map(len, METHODS))
LINE = 8 * 1024
"""Bytes of a likely request line that are waited for before somebody reads it as one."""
WATCHED = 64 * 1024
"""Bytes of a first line that are looked at: no server takes a request line so long."""
BLANK = 64
"""Bytes of empty lines before the first one, at most (RFC 9112 section 2.2 asks for one line)."""
STRANGE = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
SECOND = b"PRI * HTTP/2.0"
VERSION = re.compile(rb" HTTP/1\.[0-9]\r?\Z")


class FirstLine:
    """Reads on, as bytes come; `held`: all that came. Each byte is looked at once. h2: HTTP/2 is HTTP, too."""

    __slots__ = ("h2", "held", "scanned", "start", "strange")

    def __init__(self, h2: bool = True) -> None:
        self.h2 = h2
        self.held = bytearray()
        self.start = self.scanned = 0
        """Where the first line begins; how far it was searched for its end."""
        self.strange = False

    def feed(self, data: bytes | bytearray) -> Seen:
        """What it is, with this behind what came before."""
        held, start = self.held, self.start
        held += data
        while start < len(held) and held[start] in (10, 13) and start <= BLANK:
            start += 1
        self.start = start
        if start > BLANK:
            return "other"
        if start == len(held):
            return "unknown"
        if not start and held[0] == 0x16:
            return "tls" if bytes(held[1:2]) in (b"", b"\x03") else "strange"
        scanned = max(start, self.scanned)
        end = held.find(b"\n", scanned)
        self.scanned = len(held)
        if end >= 0:
            second = self.h2 and not start and held[:end].rstrip(b"\r") == SECOND
            return "http" if second or VERSION.search(held[max(start, end - 16) : end]) else "other"
        size = len(held) - start
        word, space, _ = bytes(held[start : start + LONGEST + 1]).partition(b" ")
        if word in METHODS if space else word in BEGINNINGS:
            return "http" if size > LINE else "likely"
        if size > WATCHED:
            return "other"
        self.strange = self.strange or STRANGE.search(held, scanned) is not None
        return "strange" if self.strange else "unknown"


def classify(data: bytes | bytearray) -> Seen:
    """What a connection that begins with `data` is."""
    return FirstLine().feed(data)
