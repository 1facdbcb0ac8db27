"""How the demo asks: requests of HTTP/1.1 and HTTP/2, calls of gRPC, a WebSocket, datagrams, and many requests at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import h2.config
import h2.connection
import h2.events
import h11
import msgspec
import wsproto
from wsproto import events as ws

from carrier.cli.demo_peers import HOST, framed

REQUESTS = 2000
CONNECTIONS = 8


class Reply(NamedTuple):
    """An answer. headers: lower-case names."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def who(self) -> str:
        """Which workload it came from."""
        return self.body.partition(":")[0]


class Client:
    """A keep-alive HTTP/1.1 connection to a port of the loopback interface. `async with Client(port) as client`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.http = h11.Connection(h11.CLIENT)

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection(HOST, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def ask(self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Reply:
        """Send a request and read its answer. Raises OSError or h11.ProtocolError when there is none."""
        fields = {"host": f"{HOST}:{self.port}", **(headers or {}), "content-length": str(len(body))}
        if not body:
            del fields["content-length"]
        parts = (h11.Request(method=method, target=target, headers=list(fields.items())), h11.Data(data=body), h11.EndOfMessage())
        self.writer.write(b"".join(self.http.send(part) or b"" for part in parts))
        head: h11.Response | None = None
        found: list[bytes] = []
        while not isinstance(event := self.http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                self.http.receive_data(await self.reader.read(65536))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                found.append(bytes(event.data))
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionResetError("the connection was closed without an answer")
        assert head is not None
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        decoded = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        return Reply(head.status_code, decoded, b"".join(found).decode("utf-8", "replace"))


async def ask(port: int, method: str, target: str, headers: dict[str, str] | None = None, body: Any = None) -> Reply:
    """One request on a connection of its own; body: sent as JSON."""
    headers = dict(headers or {})
    if body is not None:
        headers["content-type"] = "application/json"
    async with Client(port) as client:
        return await client.ask(method, target, headers, msgspec.json.encode(body) if body is not None else b"")


async def talk(port: int, headers: dict[str, str], text: str, look: Callable[[], str]) -> tuple[int, str, str]:
    """A WebSocket conversation (RFC 6455): status of the handshake, the answer to `text`, and what `look()` says meanwhile."""
    reader, writer = await asyncio.open_connection(HOST, port)
    client = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    extra = [(name.encode(), value.encode()) for name, value in headers.items()]
    try:
        writer.write(client.send(ws.Request(host=f"{HOST}:{port}", target="/live", extra_headers=extra)))
        seen = ""
        while True:
            data = await reader.read(65536)
            client.receive_data(data or None)
            for event in client.events():
                if isinstance(event, ws.AcceptConnection):
                    writer.write(client.send(ws.TextMessage(text)))
                elif isinstance(event, ws.RejectConnection):
                    return event.status_code, "", seen
                elif isinstance(event, ws.TextMessage):
                    seen = look()
                    writer.write(client.send(ws.CloseConnection(1000, "bye")))
                    return 101, event.data, seen
            if not data:
                return 0, "", seen
    finally:
        writer.close()


class Run:
    """REQUESTS requests over CONNECTIONS keep-alive connections. answered: who answered how many."""

    def __init__(self, port: int, headers: dict[str, str]) -> None:
        self.port = port
        self.headers = headers
        self.answered: Counter[str] = Counter()
        self.left = iter(range(REQUESTS))
        self.over = False
        self.turn = asyncio.Event()

    async def all(self) -> None:
        """Send them all."""
        try:
            await asyncio.gather(*(self._one_connection() for _ in range(CONNECTIONS)))
        finally:
            self.over = True
            self.turn.set()

    async def _one_connection(self) -> None:
        async with Client(self.port) as client:
            for number in self.left:
                reply = await client.ask("GET", "/", self.headers)
                self.answered[reply.who if reply.status == 200 else f"status {reply.status}"] += 1
                if number % 50 == 0:
                    self.turn.set()

    async def some(self) -> None:
        """Wait until some more were answered, or all."""
        if not self.over:
            self.turn.clear()
            await self.turn.wait()


class Datagrams(asyncio.DatagramProtocol):
    """Keeps what comes in, in a queue."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.came.put_nowait(data)


async def ask2(port: int, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Reply:
    """One request of HTTP/2 with prior knowledge, on a connection of its own. The reply's headers: also its trailers."""
    reader, writer = await asyncio.open_connection(HOST, port)
    http: Any = h2.connection.H2Connection(h2.config.H2Configuration())
    try:
        http.initiate_connection()
        pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", f"{HOST}:{port}")]
        http.send_headers(1, [*pseudo, *(headers or {}).items()], end_stream=not body)
        if body:
            http.send_data(1, body, end_stream=True)
        found: dict[str, str] = {}
        content, ended = b"", False
        while not ended:
            writer.write(http.data_to_send())
            data = await reader.read(65536)
            if not data:
                raise ConnectionResetError("the connection was closed without an answer")
            for event in http.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    found |= {name.decode(): value.decode("latin-1") for name, value in event.headers}
                elif isinstance(event, h2.events.DataReceived):
                    content += event.data
                ended = ended or isinstance(event, h2.events.StreamEnded | h2.events.StreamReset)
        return Reply(int(found.get(":status", 0)), found, content.decode("utf-8", "replace"))
    finally:
        writer.close()


async def call(port: int, method: str, headers: dict[str, str]) -> tuple[str, str]:
    """A unary call of gRPC with an empty message: its status as a number, and the message that answers it."""
    asked = {"content-type": "application/grpc", "te": "trailers", **headers}
    reply = await ask2(port, "POST", method, asked, framed(b""))
    return reply.headers.get("grpc-status", f"HTTP {reply.status}"), reply.body[5:]
