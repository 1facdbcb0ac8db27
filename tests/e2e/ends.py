"""Both ends of every protocol, for the matrix: clients to a listener, echo servers behind a cluster, in one small vocabulary.

To add a protocol: a `Client` in CLIENTS that says how a listener is configured and connected to, a `Server` in SERVERS that says how a
cluster is configured and echoes. An `End` sends and receives messages, or pieces of a stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as ws_connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as ws_serve
from websockets.exceptions import ConnectionClosed

from carrier.hops.sctp import SCTP_NODELAY, sctp_socket
from carrier.hops.sctp import missing as no_sctp
from carrier.proxy.proxy import Proxy
from tests.ports import free_port
from tests.sockets import MODES, Pipe
from tests.support import PATIENCE

RST = struct.pack("ii", 1, 0)
HEADER = b'{"JSONSocketVersion":1}'
OK = b'{"JSONSocketVersion":1,"JSONSocketStatus":200,"JSONSocketMessage":"OK"}'
LOCAL = {"port": 0, "address": "127.0.0.1"}


class End:
    """One end of a conversation. messages: they keep their limits. ends: "half" (one direction at a time), "whole", or "" (never)."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family == socket.AF_INET and sock.type == socket.SOCK_STREAM:
            nodelay = (socket.IPPROTO_SCTP, SCTP_NODELAY) if sock.proto == socket.IPPROTO_SCTP else (socket.IPPROTO_TCP, socket.TCP_NODELAY)
            sock.setsockopt(*nodelay, 1)  # else Nagle and delayed acknowledgements wait for each other
        self.sock = sock
        self.loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.sock, data)

    async def recv(self) -> bytes:
        """The next message or piece; b"" at the end."""
        return await asyncio.wait_for(self.loop.sock_recv(self.sock, 1 << 18), PATIENCE)

    async def end(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Go away without a word."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
        self.sock.close()


class FramedEnd(End):
    """Messages with their length in front over another end."""

    def __init__(self, inner: End) -> None:
        self.inner = inner
        self.held = b""

    async def send(self, data: bytes) -> None:
        await self.inner.send(len(data).to_bytes(4, "big") + data)

    async def recv(self) -> bytes:
        while len(self.held) < 4 or len(self.held) < 4 + int.from_bytes(self.held[:4], "big"):
            more = await self.inner.recv()
            if not more:
                return b""
            self.held += more
        size = 4 + int.from_bytes(self.held[:4], "big")
        message, self.held = self.held[4:size], self.held[size:]
        return message

    async def end(self) -> None:
        await self.inner.end()

    def abort(self) -> None:
        self.inner.abort()


class WebSocketEnd(End):
    """A connection of the library websockets."""

    def __init__(self, ws: ClientConnection | ServerConnection) -> None:
        self.ws = ws

    async def send(self, data: bytes) -> None:
        await self.ws.send(data)

    async def recv(self) -> bytes:
        try:
            data = await asyncio.wait_for(self.ws.recv(), PATIENCE)
        except ConnectionClosed:
            return b""
        return data.encode() if isinstance(data, str) else data

    async def end(self) -> None:
        await self.ws.close()

    def abort(self) -> None:
        self.ws.transport.abort()


class PipeEnd(End):
    """A program at two named pipes."""

    def __init__(self, path: Path) -> None:
        self.reader = Pipe(path / "out", os.O_RDONLY)
        self.writer = Pipe(path / "in", os.O_WRONLY)

    async def send(self, data: bytes) -> None:
        await self.writer.write(data)

    async def recv(self) -> bytes:
        while True:
            try:
                data = os.read(self.reader.fd, 1 << 16)
                if data or self.reader.heard:
                    self.reader.heard = True
                    return data
            except BlockingIOError:
                pass
            await self.reader._ready(self.reader.loop.add_reader, self.reader.loop.remove_reader)
            self.reader.heard = True  # somebody writes, or has: from now on nothing is the end

    async def end(self) -> None:
        self.writer.close()

    def abort(self) -> None:
        self.reader.close()
        self.writer.close()


class Client:
    """How a listener of a protocol is configured, and connected to. waits: a client that is not read is paused, and loses nothing."""

    def __init__(
        self,
        spec: Callable[[Path], dict[str, Any]],
        connect: Callable[[Proxy, Path], Awaitable[End]],
        *,
        messages: bool = False,
        ends: str = "half",
        waits: bool = True,
        idles: bool = True,
    ) -> None:
        self.spec = spec
        self.dial = connect
        self.messages, self.ends, self.waits, self.idles = messages, ends, waits, idles

    async def connect(self, proxy: Proxy, path: Path, refused: bool = False) -> End:
        return await self.dial(proxy, path)


class JsonClient(Client):
    """The same with JSONSocket on top."""

    def __init__(self, under: Client) -> None:
        def spec(path: Path) -> dict[str, Any]:
            return {"protocol": "JSONSocket", "transport": under.spec(path)}

        super().__init__(spec, under.dial, messages=under.messages, ends=under.ends, waits=under.waits, idles=under.idles)

    async def connect(self, proxy: Proxy, path: Path, refused: bool = False) -> End:
        end = await self.dial(proxy, path)
        await end.send(HEADER)
        if not refused:
            assert await end.recv() == OK
        return end


def port(proxy: Proxy) -> int:
    """Of the listener "in"."""
    found: Any = proxy.listeners["in"]
    return int(found.port)


async def dial_tcp(proxy: Proxy, path: Path) -> End:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port(proxy)))
    return End(sock)


async def dial_udp(proxy: Proxy, path: Path) -> End:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.connect(("127.0.0.1", port(proxy)))
    return End(sock)


def dial_unix(mode: str) -> Callable[[Proxy, Path], Awaitable[End]]:
    async def dial(proxy: Proxy, path: Path) -> End:
        sock = socket.socket(socket.AF_UNIX, MODES[mode])
        if mode == "dgram":
            sock.bind("")
        sock.connect(str(path / "sock"))
        return End(sock)

    return dial


async def dial_sctp(proxy: Proxy, path: Path) -> End:
    sock = sctp_socket(socket.AF_INET)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port(proxy)))
    return End(sock)


async def dial_framed(proxy: Proxy, path: Path) -> End:
    return FramedEnd(await dial_tcp(proxy, path))


async def dial_websocket(proxy: Proxy, path: Path) -> End:
    return WebSocketEnd(await ws_connect(f"ws://127.0.0.1:{port(proxy)}/", proxy=None, compression=None))


async def dial_pipe(proxy: Proxy, path: Path) -> End:
    return PipeEnd(path)


def unix_spec(mode: str) -> Callable[[Path], dict[str, Any]]:
    return lambda path: {"protocol": "UnixDomainSocket", "filename": str(path / "sock"), "mode": mode}


CLIENTS: dict[str, Client] = {
    "TCP": Client(lambda _: {"protocol": "TCP", **LOCAL}, dial_tcp),
    "TCP framed": Client(lambda _: {"protocol": "TCP", **LOCAL, "framing": "length32"}, dial_framed, messages=True),
    "UDP": Client(lambda _: {"protocol": "UDP", **LOCAL}, dial_udp, messages=True, ends="", waits=False),
    "UNIX stream": Client(unix_spec("stream"), dial_unix("stream")),
    "UNIX seqpacket": Client(unix_spec("seqpacket"), dial_unix("seqpacket"), messages=True),
    "UNIX dgram": Client(unix_spec("dgram"), dial_unix("dgram"), messages=True, ends="", waits=False),
    "PIPE": Client(lambda p: {"protocol": "PIPE", "filename": str(p / "in"), "reply": str(p / "out")}, dial_pipe),
    "WebSocket": Client(lambda _: {"protocol": "WebSocket", **LOCAL}, dial_websocket, messages=True, ends="whole", idles=False),
}
if not no_sctp():
    CLIENTS["SCTP"] = Client(lambda _: {"protocol": "SCTP", **LOCAL}, dial_sctp, messages=True, ends="whole")
CLIENTS["JSONSocket/UDP"] = JsonClient(CLIENTS["UDP"])
CLIENTS["JSONSocket/TCP"] = JsonClient(CLIENTS["TCP"])
CLIENTS["JSONSocket/seqpacket"] = JsonClient(CLIENTS["UNIX seqpacket"])
CLIENTS["JSONSocket/WebSocket"] = JsonClient(CLIENTS["WebSocket"])


# ---------------------------------------------------------------------- servers


class Server:
    """An echo behind a cluster. gate: it reads only while that is set. live: conversations that have not ended. leaves: it ends
    ("end") or breaks off ("abort") each of them after its first message."""

    protocol = ""
    messages = False
    ends = "half"
    waits = True
    converses = False
    """Each conversation is an `echo` of ours, which notes what it hears and can leave."""
    aborts = False
    """It can break off so that the other side notices."""
    fields: dict[str, Any] = {}

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gate = asyncio.Event()
        self.gate.set()
        self.live = 0
        self.leaves = ""
        self.answered = asyncio.Event()
        self.heard: list[bytes] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def cluster(self, refused: bool = False) -> dict[str, Any]:
        """As it is configured; `refused`: where nobody listens."""
        address, number = ("127.0.0.1", free_port()) if refused else self.address()
        return {
            "name": "up",
            "spec": {"protocol": self.protocol, **({"port": number} if number else {}), **self.fields},
            "endpoints": [{"spec": {"address": address if number or not refused else str(self.path / "nobody")}}],
        }

    def address(self) -> tuple[str, int]:
        raise NotImplementedError

    async def start(self) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)  # type: ignore[arg-type]
        task.add_done_callback(self.tasks.discard)  # type: ignore[arg-type]

    async def echo(self, end: End) -> None:
        """One conversation."""
        self.live += 1
        try:
            with contextlib.suppress(OSError, TimeoutError, ConnectionClosed):
                while True:
                    await self.gate.wait()
                    data = await end.recv()
                    if not data:
                        break
                    self.heard.append(data)
                    with contextlib.suppress(OSError, ConnectionClosed):  # who takes no answer may have said more
                        await end.send(data)
                    if self.leaves == "abort":
                        await asyncio.wait_for(self.answered.wait(), PATIENCE)  # or an RST overtakes it
                        end.abort()
                        return
                    if self.leaves:
                        break
                await end.end()
        finally:
            self.live -= 1
            end.abort() if self.ends != "half" else self._close(end)

    def _close(self, end: End) -> None:
        inner = end.inner if isinstance(end, FramedEnd) else end
        inner.sock.close()


class TcpServer(Server):
    protocol = "TCP"
    converses = aborts = True

    def bound(self) -> socket.socket:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        return sock

    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.sock.getsockname()[1]

    async def start(self) -> None:
        self.sock = self.bound()
        self.sock.setblocking(False)
        self.sock.listen(16)
        self.spawn(self._accept())

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self.sock)
            self.spawn(self.echo(self.wrap(End(sock))))

    def wrap(self, end: End) -> End:
        return end

    async def stop(self) -> None:
        await super().stop()
        self.sock.close()


class SctpServer(TcpServer):
    protocol = "SCTP"
    messages = True
    ends = "whole"

    def bound(self) -> socket.socket:
        sock = sctp_socket(socket.AF_INET)
        sock.bind(("127.0.0.1", 0))
        return sock


class FramedServer(TcpServer):
    messages = True
    fields = {"framing": "length32"}

    def wrap(self, end: End) -> End:
        return FramedEnd(end)


class UnixServer(TcpServer):
    protocol = "UnixDomainSocket"
    aborts = False  # a UNIX socket knows no reset, only an end

    def bound(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, MODES[self.fields.get("mode", "stream")])
        sock.bind(str(self.path / "server"))
        return sock

    def cluster(self, refused: bool = False) -> dict[str, Any]:
        address = str(self.path / ("nobody" if refused else "server"))
        return {"name": "up", "spec": {"protocol": self.protocol, **self.fields}, "endpoints": [{"spec": {"address": address}}]}


class SeqpacketServer(UnixServer):
    messages = True
    fields = {"mode": "seqpacket"}


class DatagramServer(Server):
    """One socket that answers whoever asks; what cannot be sent yet is sent a moment later."""

    messages = True
    ends = ""

    def bound(self) -> socket.socket:
        raise NotImplementedError

    async def start(self) -> None:
        self.sock = self.bound()
        self.sock.setblocking(False)
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(self.sock, self._readable)

    async def stop(self) -> None:
        self.loop.remove_reader(self.sock)
        self.sock.close()

    def _readable(self) -> None:
        if not self.gate.is_set():
            self.loop.remove_reader(self.sock)
            self.spawn(self._later())
            return
        data, address = self.sock.recvfrom(1 << 18)
        self._answer(self.reply(data), address)

    def reply(self, data: bytes) -> bytes:
        return data

    async def _later(self) -> None:
        await self.gate.wait()
        self.loop.add_reader(self.sock, self._readable)

    def _answer(self, data: bytes, address: Any) -> None:
        if self.sock.fileno() < 0:
            return
        try:
            self.sock.sendto(data, address)
        except BlockingIOError:
            self.loop.remove_reader(self.sock)
            self.loop.call_later(0.001, self._again, data, address)
        except OSError:
            pass  # that client has gone

    def _again(self, data: bytes, address: Any) -> None:
        if self.sock.fileno() >= 0:
            self.loop.add_reader(self.sock, self._readable)
            self._answer(data, address)


class UdpServer(DatagramServer):
    protocol = "UDP"
    waits = False

    def bound(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        return sock

    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.sock.getsockname()[1]


class UnixDatagramServer(DatagramServer):
    protocol = "UnixDomainSocket"
    fields = {"mode": "dgram"}
    bound = UnixServer.bound  # type: ignore[assignment]
    cluster = UnixServer.cluster  # type: ignore[assignment]


class WebSocketServer(Server):
    protocol = "WebSocket"
    converses = aborts = True
    messages = True
    ends = "whole"

    def address(self) -> tuple[str, int]:
        number: int = next(iter(self.server.sockets)).getsockname()[1]
        return "127.0.0.1", number

    async def start(self) -> None:
        async def handler(ws: ServerConnection) -> None:
            await self.echo(WebSocketEnd(ws))

        self.server = await ws_serve(handler, "127.0.0.1", 0, compression=None, close_timeout=0.2)

    async def stop(self) -> None:
        self.server.close()
        await self.server.wait_closed()


class PipeServer(Server):
    """A program that reads one named pipe and writes another."""

    protocol = "PIPE"

    def cluster(self, refused: bool = False) -> dict[str, Any]:
        spec = {"protocol": "PIPE", "reply": str(self.path / "answers")}
        address = str(self.path / ("nobody" if refused else "questions"))
        return {"name": "up", "spec": spec, "endpoints": [{"spec": {"address": address}}]}

    async def start(self) -> None:
        for name in ("questions", "answers"):
            os.mkfifo(self.path / name)
        self.reader = Pipe(self.path / "questions", os.O_RDONLY)
        self.spawn(self._serve())

    async def stop(self) -> None:
        await super().stop()
        self.reader.close()

    async def _serve(self) -> None:
        end = PipeEnd.__new__(PipeEnd)
        end.reader = self.reader
        first = b""
        while not first:
            with contextlib.suppress(TimeoutError):
                first = await end.recv()
        end.writer = Pipe(self.path / "answers", os.O_WRONLY)
        try:
            while first:
                await end.send(first)
                await self.gate.wait()
                first = await end.recv()
        finally:
            end.writer.close()

    async def echo(self, end: End) -> None: ...


class ForkServer(Server):
    """cat, started by the cluster."""

    protocol = "STDIO-fork"

    def cluster(self, refused: bool = False) -> dict[str, Any]:
        command = [str(self.path / "nobody")] if refused else ["cat"]
        return {"name": "up", "spec": {"protocol": self.protocol, "command": command}}

    async def start(self) -> None: ...


class EchoServer(Server):
    """The pseudo cluster."""

    protocol = "Echo"
    messages = True

    def cluster(self, refused: bool = False) -> dict[str, Any]:
        return {"name": "up", "spec": {"protocol": "Echo"}}

    async def start(self) -> None: ...


def over_json(under: type[Server]) -> type[Server]:
    """A server whose conversations begin with JSONSocket's headers."""

    class JsonServer(under):  # type: ignore[misc,valid-type]
        def cluster(self, refused: bool = False) -> dict[str, Any]:
            made = super().cluster(refused)
            made["spec"] = {"protocol": "JSONSocket", "transport": made["spec"]}
            return dict(made)

        async def echo(self, end: End) -> None:
            with contextlib.suppress(OSError):
                assert await end.recv() in (HEADER, b"")
                await end.send(OK)
            await super().echo(end)

        def reply(self, data: bytes) -> bytes:
            return OK if data == HEADER else data

    return JsonServer


SERVERS: dict[str, type[Server]] = {
    "TCP": TcpServer,
    "TCP framed": FramedServer,
    "UDP": UdpServer,
    "UNIX stream": UnixServer,
    "UNIX seqpacket": SeqpacketServer,
    "UNIX dgram": UnixDatagramServer,
    "PIPE": PipeServer,
    "WebSocket": WebSocketServer,
    "STDIO-fork": ForkServer,
    "Echo": EchoServer,
    "JSONSocket/UDP": over_json(UdpServer),
    "JSONSocket/TCP": over_json(TcpServer),
    "JSONSocket/seqpacket": over_json(SeqpacketServer),
    "JSONSocket/WebSocket": over_json(WebSocketServer),
}
if not no_sctp():
    SERVERS["SCTP"] = SctpServer

ELSEWHERE = {
    "AF_PACKET": "frames, not streams: tests/listeners/test_afpacket.py",
    "SCTP": "here, on a kernel that has it: make sctp",
    "Stdio": "one per process: tests/listeners/test_stdio.py",
    "HTTP": "requests: tests/e2e/test_http_bodies.py and its neighbours",
    "auto": "tells others apart; no stream of its own",
    "Test": "for tests of the core",
}
"""Protocols that are no part of the matrix, and why."""
