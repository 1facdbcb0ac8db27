"""HTTP/2 in tests as hyper-h2 speaks it: a client and a server on real sockets, who remember what they hear."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings

PATIENCE = 5.0
for _state in (h2.connection.ConnectionState.CLIENT_OPEN, h2.connection.ConnectionState.SERVER_OPEN):
    # hyper-h2 would read nothing behind GOAWAY, though streams go on (RFC 9113 6.8)
    h2.connection.H2ConnectionStateMachine._transitions[_state, h2.connection.ConnectionInputs.RECV_GOAWAY] = (None, _state)
Fields = list[tuple[str, str]]


class Answer:
    """What came on one stream."""

    def __init__(self) -> None:
        self.heads: list[dict[str, str]] = []
        self.body = b""
        self.trailers: dict[str, str] | None = None
        self.reset: int | None = None
        self.ended = False

    @property
    def head(self) -> dict[str, str]:
        return self.heads[-1]

    @property
    def status(self) -> int:
        return int(self.head[":status"])


class Peer2:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: bool) -> None:
        self.reader, self.writer = reader, writer
        config = h2.config.H2Configuration(
            client_side=client, header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(config)
        self.h2.decoder.max_header_list_size = 1 << 20
        self.streams: dict[int, Answer] = {}
        self.goaway: tuple[int, int] | None = None
        self.pings = 0
        self.closed = False
        self.reads = True
        self.news = asyncio.Event()
        self.arrived: asyncio.Queue[int] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None

    def start(self, settings: dict[int, int] | None = None) -> None:
        if settings:
            self.h2.local_settings = h2.settings.Settings(client=self.h2.config.client_side, initial_values=settings)  # type: ignore[arg-type]
        self.h2.initiate_connection()
        self.flush()
        self.task = asyncio.create_task(self._read())

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.writer.write(data)

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await self.reader.read(65536):
                for event in self.h2.receive_data(data):
                    self._note(event)
                self.flush()
                self.news.set()
        self.closed = True
        self.news.set()

    def _note(self, event: Any) -> None:
        number = getattr(event, "stream_id", None)
        if isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = event.last_stream_id or 0, int(event.error_code or 0)
            return
        self.pings += isinstance(event, h2.events.PingReceived)
        if not number:
            return
        found = self.streams.setdefault(number, Answer())
        if isinstance(event, (h2.events.RequestReceived, h2.events.ResponseReceived, h2.events.InformationalResponseReceived)):
            found.heads.append(dict(event.headers))  # type: ignore[arg-type]
            if isinstance(event, h2.events.RequestReceived):
                self.arrived.put_nowait(number)
        elif isinstance(event, h2.events.DataReceived):
            found.body += event.data
            if self.reads:
                self.h2.acknowledge_received_data(event.flow_controlled_length, number)
        elif isinstance(event, h2.events.TrailersReceived):
            found.trailers = dict(event.headers)  # type: ignore[arg-type]
        elif isinstance(event, h2.events.StreamReset):
            found.reset = int(event.error_code or 0)
        if isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
            found.ended = True

    async def until(self, true: Callable[[], Any], what: str = "") -> None:
        async with asyncio.timeout(PATIENCE):
            while not true():
                assert not self.closed, f"closed, GOAWAY {self.goaway}, while waiting for {what}"
                self.news.clear()
                await self.news.wait()

    # -- a client

    def ask(self, path: str = "/", method: str = "GET", fields: Fields | None = None, end: bool = True, **pseudo: str) -> int:
        number = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "a.example")]
        head += [(f":{name}", value) for name, value in pseudo.items()]
        self.h2.send_headers(number, head + (fields or []), end_stream=end)
        self.streams[number] = Answer()
        self.flush()
        return number

    async def answer(self, number: int) -> Answer:
        found = self.streams[number]
        await self.until(lambda: found.ended, f"the answer on {number}")
        return found

    async def get(self, path: str = "/", fields: Fields | None = None) -> Answer:
        return await self.answer(self.ask(path, fields=fields))

    # -- both

    def send(self, number: int, data: bytes, end: bool = False) -> None:
        self.h2.send_data(number, data, end_stream=end)
        self.flush()

    async def send_all(self, number: int, data: bytes) -> None:
        """Content of any length, as the windows let it, and its end."""
        await self.send_all_but_the_end(number, data)
        self.send(number, b"", True)

    async def send_all_but_the_end(self, number: int, data: bytes) -> None:
        while data:
            await self.until(lambda: self.h2.local_flow_control_window(number) > 0, "a window")
            room = min(self.h2.local_flow_control_window(number), 16384)
            self.send(number, data[:room])
            data = data[room:]

    def head(self, number: int, fields: Fields, end: bool = False) -> None:
        self.h2.send_headers(number, fields, end_stream=end)
        self.flush()

    def reset(self, number: int, code: int = 8) -> None:
        self.h2.reset_stream(number, code)
        self.flush()

    async def request(self) -> int:
        """The next request that came, as a server."""
        async with asyncio.timeout(PATIENCE):
            return await self.arrived.get()

    def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def client2(port: int, tls: ssl.SSLContext | None = None, settings: dict[int, int] | None = None) -> AsyncIterator[Peer2]:
    """A client with prior knowledge, or over TLS."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="localhost" if tls else None)
    peer = Peer2(reader, writer, True)
    peer.start(settings)
    try:
        yield peer
    finally:
        peer.close()


class Server2:
    """A server; each connection is put into `peers`. serve: called with each, as a task."""

    def __init__(
        self,
        serve: Callable[[Peer2], Awaitable[None]] | None = None,
        settings: dict[int, int] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.serve, self.settings, self.tls = serve, settings, tls
        self.peers: list[Peer2] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.news = asyncio.Event()

    async def __aenter__(self) -> Server2:
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self.tls)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.server.close()
        for task in self.tasks:
            task.cancel()
        for peer in self.peers:
            peer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer2(reader, writer, False)
        peer.start(self.settings)
        self.peers.append(peer)
        self.news.set()
        if self.serve is not None:
            self.tasks.append(asyncio.create_task(self.serve(peer)))  # type: ignore[arg-type]

    async def peer(self, number: int = 0) -> Peer2:
        """The connection of this number, once it is there."""
        async with asyncio.timeout(PATIENCE):
            while len(self.peers) <= number:
                self.news.clear()
                await self.news.wait()
        return self.peers[number]


async def echo(peer: Peer2) -> None:
    """Answers each request with its method, path and content."""
    async with asyncio.TaskGroup() as tasks:
        while True:
            tasks.create_task(_echo(peer, await peer.request()))


async def _echo(peer: Peer2, number: int) -> None:
    found = await peer.answer(number)
    text = f"{found.head[':method']} {found.head[':path']} ".encode() + found.body
    peer.head(number, [(":status", "200"), ("content-length", str(len(text)))])
    await peer.send_all(number, text)
