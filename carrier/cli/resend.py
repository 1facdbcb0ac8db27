"""One request sent to an endpoint, and its answer: HTTP/1.1, HTTP/2 and gRPC, as `carrier replay` needs them. It blocks."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from carrier.wire.h2 import Engine, Limits, Memo, Section, Stream, code_name, encode

Fields = Sequence[tuple[str, str]]
HOP = frozenset(
    (
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    )
)
"""Fields that are of one connection, or that are written anew."""
LIMITS = Limits(head=1 << 20, fields=10_000, line=1 << 20, block=1 << 20, budget=1 << 40)
"""Of an answer of HTTP/2: who asks knows whom."""
PORTS = {"http": 80, "https": 443}


class Answer(NamedTuple):
    """What came: the status, its fields with those of the trailer behind, its content."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes


class Endpoint:
    """Where requests go. to: HOST:PORT or a URL, whose path stands before each target. Raises ValueError."""

    def __init__(self, to: str, timeout: float = 10.0, insecure: bool = False) -> None:
        parts = urlsplit(to if "://" in to else f"http://{to}")
        if parts.scheme not in PORTS or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"--to takes HOST:PORT or a URL as http://127.0.0.1:8000, got {to!r}")
        self.scheme, self.host, self.port = parts.scheme, parts.hostname, parts.port or PORTS[parts.scheme]
        self.before = parts.path.rstrip("/")
        self.timeout = timeout
        self.context: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self.context = ssl.create_default_context()
            if insecure:
                self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE

    def ask(self, method: str, target: str, host: str, fields: Fields, body: bytes, http: str) -> Answer:
        """Raises OSError, ValueError: there is no answer, or none of HTTP."""
        sent = [(name, value) for name, value in fields if name.lower() not in HOP and not name.startswith(":")]
        return (self._ask2 if http == "2" else self._ask1)(method, self.before + target, host, sent, body)

    def _ask1(self, method: str, target: str, host: str, fields: Fields, body: bytes) -> Answer:
        from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, parse_headers

        trailer: Fields = []

        class Whole(HTTPResponse):
            """With the fields of its trailer, which are else thrown away."""

            def _read_and_discard_trailer(self) -> None:
                nonlocal trailer
                trailer = list(parse_headers(self.fp).items())

        connection: HTTPConnection
        if self.context is not None:
            connection = HTTPSConnection(self.host, self.port, timeout=self.timeout, context=self.context)
        else:
            connection = HTTPConnection(self.host, self.port, timeout=self.timeout)
        try:
            connection.response_class = Whole
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            connection.putheader("host", host)
            for name, value in fields:
                connection.putheader(name, value.encode("latin-1", "replace"))
            if body or method in ("POST", "PUT", "PATCH"):
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            content = answer.read()
            return Answer(answer.status, [*answer.getheaders(), *trailer], content)
        except HTTPException as exc:
            if str(exc).startswith("\0\0"):  # the length of a first frame, SETTINGS
                raise ValueError("no answer of HTTP/1: it speaks HTTP/2 (--http 2)") from None
            raise ValueError(f"no answer of HTTP: {type(exc).__name__}: {exc}") from None
        finally:
            connection.close()

    def _ask2(self, method: str, target: str, host: str, fields: Fields, body: bytes) -> Answer:
        """By prior knowledge, or as TLS agrees (RFC 9113 section 3)."""
        with socket.create_connection((self.host, self.port), self.timeout) as plain:
            sock = plain
            if self.context is not None:
                self.context.set_alpn_protocols(["h2"])
                sock = self.context.wrap_socket(plain, server_hostname=self.host)
            head = [(":method", method), (":scheme", self.scheme), (":authority", host), (":path", target)]
            head += [(name.lower(), value) for name, value in fields]
            if any(name == "content-type" and value.startswith("application/grpc") for name, value in head):
                head.append(("te", "trailers"))
            return _talk(sock, [(name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in head], body)


class _Heard:
    """What an answer of HTTP/2 is until it is whole; the engine's target (carrier/wire/h2)."""

    def __init__(self) -> None:
        self.status = 0
        self.fields: list[tuple[str, str]] = []
        self.content: list[bytes] = []
        self.done = False
        self.broken = ""

    def on_head(self, stream: Stream, section: Section, last: bool) -> None:
        if section.status >= 200:
            self.status, self.done = section.status, last
            self._add(section)

    def on_trailers(self, stream: Stream, section: Section) -> None:
        self._add(section)
        self.done = True

    def _add(self, section: Section) -> None:
        self.fields += [(name.decode("latin-1"), value.decode("latin-1")) for name, value in section.fields]

    def on_data(self, stream: Stream, data: bytes, last: bool) -> None:
        self.content.append(data)
        self.done = last

    def on_reset(self, stream: Stream, code: int, detail: str) -> None:
        self.broken = detail or code_name(code)

    def on_drained(self, stream: Stream) -> None: ...
    def on_refused(self, stream: Stream, section: Section, kind: str, detail: str) -> None: ...
    def on_goaway(self, last: int, code: int, detail: str) -> None: ...
    def on_settings(self) -> None: ...


def _talk(sock: socket.socket, head: list[tuple[bytes, bytes]], body: bytes) -> Answer:
    """Send a request, its content as far as its reader takes it, and read the answer to its end."""
    heard = _Heard()
    engine = Engine(heard, Memo(LIMITS, client=True), LIMITS, client=True)
    stream = engine.request(encode(head), not body, head_only=head[0][1] == b"HEAD")
    if body:
        stream.send_data(body, True)
    while True:
        sock.sendall(engine.take())
        data = sock.recv(65_536)
        more = engine.feed(data, 0.0)
        while more:
            more = engine.feed(b"", 0.0)
        if heard.done:
            return Answer(heard.status, heard.fields, b"".join(heard.content))
        if engine.failure is not None:
            raise ValueError(f"no answer of HTTP/2: {engine.failure.detail}")
        if heard.broken:
            raise ValueError(f"the answer was broken off: {heard.broken}")
        if not data:
            raise ValueError("the connection was closed before the answer was whole")
