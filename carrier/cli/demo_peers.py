"""Who plays in the demo beside Carrier2: workloads of HTTP/1.1, WebSocket and gRPC that say who they are, and echoes of TCP and UDP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h11
import wsproto
from wsproto import events as ws

HOST = "127.0.0.1"


class Workload:
    """A server that says who it is. It can go down, and come up again on its port. speaks: makes the protocol of a connection; by default
    HTTP/1.1, and WebSocket, whose messages are echoed."""

    def __init__(self, name: str, speaks: Callable[[Workload], asyncio.Protocol] | None = None) -> None:
        self.name = name
        self.speaks = speaks or WorkloadConnection
        self.port = 0
        self.server: asyncio.Server | None = None
        self.connections: set[asyncio.Transport] = set()
        self.version = ""
        """Of HTTP, in which it was last asked."""

    async def up(self) -> None:
        """Listen."""
        self.server = await asyncio.get_running_loop().create_server(lambda: self.speaks(self), HOST, self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Stop listening and close every connection, as a laptop that falls asleep."""
        if self.server is not None:
            self.server.close()
            self.server = None
        for transport in list(self.connections):
            transport.abort()


class WorkloadConnection(asyncio.Protocol):
    """One connection of a workload: HTTP/1.1 by h11, and WebSocket by wsproto after an Upgrade."""

    transport: asyncio.Transport

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.http = h11.Connection(h11.SERVER)
        self.request: h11.Request | None = None
        self.websocket: wsproto.WSConnection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.workload.connections.add(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.workload.connections.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        try:
            if self.websocket is not None:
                self._frames(data)
                return
            self.http.receive_data(data)
            while (event := self.http.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Request):
                    self.request, self.workload.version = event, event.http_version.decode()
                elif isinstance(event, h11.EndOfMessage):
                    self._answer()
        except h11.RemoteProtocolError:
            self.transport.close()

    def _answer(self) -> None:
        assert self.request is not None
        headers = dict(self.request.headers)
        if headers.get(b"upgrade", b"").lower() == b"websocket":
            self._upgrade()
            return
        body = f"{self.workload.name}: {self.request.method.decode()} {self.request.target.decode()}\n".encode()
        fields = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(body)))]
        head = self.http.send(h11.Response(status_code=200, headers=fields, reason=b"OK")) or b""
        content = self.http.send(h11.Data(data=b"" if self.request.method == b"HEAD" else body)) or b""
        self.http.send(h11.EndOfMessage())
        self.transport.write(head + content)
        if self.http.our_state is h11.MUST_CLOSE:
            self.transport.close()
        else:
            self.http.start_next_cycle()

    def _upgrade(self) -> None:
        """101 (RFC 6455 section 4.2.2); from now on frames."""
        assert self.request is not None
        self.websocket = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        self.websocket.initiate_upgrade_connection(list(self.request.headers), self.request.target.decode())
        self.transport.write(self.websocket.send(ws.AcceptConnection()))
        early, _ = self.http.trailing_data
        if early:
            self._frames(early)

    def _frames(self, data: bytes) -> None:
        assert self.websocket is not None
        self.websocket.receive_data(data)
        for event in self.websocket.events():
            if isinstance(event, ws.TextMessage):
                self.transport.write(self.websocket.send(ws.TextMessage(f"{self.workload.name}: {event.data}")))
            elif isinstance(event, ws.CloseConnection):
                self.transport.write(self.websocket.send(event.response()))
                self.transport.close()


class TcpEcho(asyncio.Protocol):
    """Sends back what it gets; an end is answered with an end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class UdpEcho(asyncio.DatagramProtocol):
    """Sends each datagram back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


class GrpcConnection(asyncio.Protocol):
    """One connection of a server of gRPC, HTTP/2 by hyper-h2: each call is answered with who the workload is (one message, UTF-8)."""

    transport: asyncio.Transport

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.http: Any = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.workload.connections.add(self.transport)
        self.http.initiate_connection()
        self.transport.write(self.http.data_to_send())

    def connection_lost(self, exc: Exception | None) -> None:
        self.workload.connections.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        try:
            for event in self.http.receive_data(data):
                if isinstance(event, h2.events.StreamEnded):
                    self.http.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
                    self.http.send_data(event.stream_id, framed(self.workload.name.encode()))
                    self.http.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
        except h2.exceptions.ProtocolError:
            self.transport.close()
        self.transport.write(self.http.data_to_send())


def framed(message: bytes) -> bytes:
    """A message of gRPC, uncompressed, with its prefix (PROTOCOL-HTTP2.md of grpc/grpc)."""
    return b"\0" + len(message).to_bytes(4, "big") + message
