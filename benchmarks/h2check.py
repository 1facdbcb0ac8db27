"""Does a peer do its job over HTTP/2? Asked with hyper-h2, one request after the other on one connection."""

import socket

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.exceptions import ProtocolError

Pairs = list[tuple[str, str]]


class Client:
    """One connection in cleartext, with prior knowledge. Raises OSError, or ConnectionError with what the peer did."""

    def __init__(self, port: int, seconds: float):
        self.sock = socket.create_connection(("127.0.0.1", port), seconds)
        self.connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.connection.initiate_connection()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def ask(self, fields: Pairs, message: bytes = b"") -> tuple[dict[str, str], bytes, dict[str, str]]:
        """The head, the content and the trailers of an answer."""
        stream = self.connection.get_next_available_stream_id()
        self.connection.send_headers(stream, fields, end_stream=not message)
        if message:
            self.connection.send_data(stream, message, end_stream=True)
        head: dict[str, str] = {}
        trailers: dict[str, str] = {}
        body = b""
        while True:
            self.sock.sendall(self.connection.data_to_send())
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError("the connection was closed")
            for event in self._read(data):
                if isinstance(event, ResponseReceived):
                    head = dict(event.headers or ())
                elif isinstance(event, TrailersReceived):
                    trailers = dict(event.headers or ())
                elif isinstance(event, DataReceived):
                    body += event.data or b""
                    self.connection.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                elif isinstance(event, StreamReset | ConnectionTerminated):
                    raise ConnectionError(f"{type(event).__name__} {event.error_code}")
                elif isinstance(event, StreamEnded):
                    self.sock.sendall(self.connection.data_to_send())
                    return head, body, trailers

    def _read(self, data: bytes) -> list[Event]:
        try:
            return self.connection.receive_data(data)
        except ProtocolError as error:
            raise ConnectionError(f"no HTTP/2: {error}") from error
