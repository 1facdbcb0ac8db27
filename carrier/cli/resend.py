"""One request sent to an endpoint, and its answer: HTTP/1.1, HTTP/2 and gRPC, as `carrier replay` needs them. It blocks."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

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
        from http.client import HTTPConnection, HTTPException, HTTPSConnection

        connection: HTTPConnection
        if self.context is not None:
            connection = HTTPSConnection(self.host, self.port, timeout=self.timeout, context=self.context)
        else:
            connection = HTTPConnection(self.host, self.port, timeout=self.timeout)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            connection.putheader("host", host)
            for name, value in fields:
                connection.putheader(name, value.encode("latin-1", "replace"))
            if body or method in ("POST", "PUT", "PATCH"):
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return Answer(answer.status, [(name, value) for name, value in answer.getheaders()], answer.read())
        except HTTPException as exc:
            raise ValueError(f"no answer of HTTP: {type(exc).__name__}: {exc}") from None
        finally:
            connection.close()

    def _ask2(self, method: str, target: str, host: str, fields: Fields, body: bytes) -> Answer:
        """By prior knowledge, or as TLS agrees (RFC 9113 section 3)."""
        from h2.config import H2Configuration
        from h2.connection import H2Connection
        from h2.exceptions import ProtocolError

        with socket.create_connection((self.host, self.port), self.timeout) as plain:
            sock = plain
            if self.context is not None:
                self.context.set_alpn_protocols(["h2"])
                sock = self.context.wrap_socket(plain, server_hostname=self.host)
            connection = H2Connection(H2Configuration(header_encoding="latin-1"))
            try:
                connection.initiate_connection()
                head = [(":method", method), (":scheme", self.scheme), (":authority", host), (":path", target)]
                head += [(name.lower(), value) for name, value in fields]
                if any(name == "content-type" and value.startswith("application/grpc") for name, value in head):
                    head.append(("te", "trailers"))
                connection.send_headers(1, head, end_stream=not body)
                return _talk(connection, sock, body)
            except ProtocolError as exc:
                raise ValueError(f"no answer of HTTP/2: {type(exc).__name__}: {exc}") from None


def _talk(connection: object, sock: socket.socket, body: bytes) -> Answer:
    """Send the content as far as its reader takes it, and read the answer to its end."""
    from h2.connection import H2Connection
    from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived

    assert isinstance(connection, H2Connection)
    status, fields, content = 0, [], []
    rest = memoryview(body)
    while True:
        while rest and (room := min(connection.local_flow_control_window(1), connection.max_outbound_frame_size)) > 0:
            piece, rest = rest[:room], rest[room:]
            connection.send_data(1, bytes(piece), end_stream=not rest)
        sock.sendall(connection.data_to_send())
        data = sock.recv(65_536)
        if not data:
            raise ValueError("the connection was closed before the answer was whole")
        if data.startswith(b"HTTP/1") and not status:
            raise ValueError("no answer of HTTP/2: it speaks HTTP/1")
        for event in connection.receive_data(data):
            if isinstance(event, ResponseReceived | TrailersReceived):
                pairs = [(str(name), str(value)) for name, value in event.headers or ()]
                status = next((int(value) for name, value in pairs if name == ":status"), status)
                fields += [(name, value) for name, value in pairs if not name.startswith(":")]
            elif isinstance(event, DataReceived):
                content.append(event.data or b"")
                connection.acknowledge_received_data(event.flow_controlled_length or 0, 1)
            elif isinstance(event, StreamReset | ConnectionTerminated):
                raise ValueError(f"the answer was broken off, code {event.error_code}")
            elif isinstance(event, StreamEnded):
                sock.sendall(connection.data_to_send())
                return Answer(status, fields, b"".join(content))
