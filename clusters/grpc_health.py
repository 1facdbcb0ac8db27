"""The GrpcHealth pseudo cluster: kubelet's gRPC probes (`grpc.health.v1.Health/Check`) are answered with SERVING.

It stands behind a byte-stream listener and speaks HTTP/2 with prior knowledge (hyper-h2); a probe is one request on a connection, so
speed does not matter. Any other method is UNIMPLEMENTED. `Watch` is not served: kubelet does not call it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.core.stream import Stream
from carrier.errors import Error

if TYPE_CHECKING:
    from carrier.core.session import Session

CHECK = b"/grpc.health.v1.Health/Check"
SERVING = b"\x00\x00\x00\x00\x02\x08\x01"
"""An uncompressed message of two bytes: field 1 (status), value 1 (SERVING)."""
UNIMPLEMENTED = "12"


class GrpcHealthCluster(Cluster):
    """`spec: {protocol: GrpcHealth}`."""

    protocol = "GrpcHealth"
    virtual = True

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream:
        return GrpcHealthStream()


class GrpcHealthStream(Stream):
    """One HTTP/2 connection, the server's side."""

    __slots__ = ("connection", "paths")

    def __init__(self) -> None:
        super().__init__()
        self.connection: Any = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self.connection.initiate_connection()
        self.paths: dict[int, bytes] = {}

    def data(self, data: bytes, kind: Any = None, last: bool = False) -> None:
        try:
            events = self.connection.receive_data(data)
            for event in events:
                self._take(event)
        except (h2.exceptions.ProtocolError, ValueError) as exc:
            self._send()  # a GOAWAY that says why
            self.to.reset(Error("protocol-error", f"gRPC probe: {exc}", "downstream"))
            return
        self._send()
        if last:
            self.end()

    def _take(self, event: Any) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self.paths[event.stream_id] = dict(event.headers).get(b":path", b"")
        elif isinstance(event, h2.events.DataReceived):
            self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.paths.pop(event.stream_id, None)
        if isinstance(event, h2.events.StreamEnded):
            self._answer(event.stream_id, self.paths.pop(event.stream_id, b""))

    def _answer(self, stream: int, path: bytes) -> None:
        head = [(":status", "200"), ("content-type", "application/grpc")]
        if path != CHECK:
            self.connection.send_headers(stream, [*head, ("grpc-status", UNIMPLEMENTED)], end_stream=True)
            return
        self.connection.send_headers(stream, head)
        self.connection.send_data(stream, SERVING)
        self.connection.send_headers(stream, [("grpc-status", "0")], end_stream=True)

    def _send(self) -> None:
        data = self.connection.data_to_send()
        if data:
            self.to.data(data)
            self.to.flush()

    def head(self, head: Any, last: bool = False) -> None: ...

    def flush(self) -> None: ...
