"""What stands behind every proxy: HTTP servers that say their name, and TCP, UDP and WebSocket echoes, in one uvloop process.

`python -m benchmarks.backend [NAME...]` listens on free ports of 127.0.0.1, prints them as one JSON line ({"A": 40001, ..., "tcp": ...,
"udp": ..., "sink": ..., "bulk": ...}) and runs until its stdin ends. It is made to cost less than a proxy, not to be a good server: a
request that comes in one piece without a body is answered after two looks at its bytes; only what does not fit goes through `_Request`. Who
begins with HTTP/2 is served by h2backend.py on the same port.
"""

import asyncio
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from email.utils import formatdate
from itertools import count
from typing import cast

import uvloop

from benchmarks import frames, h2wire
from benchmarks.h2backend import H2Server
from benchmarks.mmsg import Batch

LARGE = 64 * 1024  # the body of GET /64k
BULK_CHUNK = 4 * 1024 * 1024
IDS = count()
BUFFER_BYTES = 8 * 1024 * 1024
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
END = b"\r\n\r\n"


class Answers:
    """The ready answers of one server, their Date renewed each second."""

    def __init__(self, name: str):
        self.name = name
        self.small = self.large = b""
        self.before = self.after = b""
        self.renew()

    def renew(self) -> None:
        """Write the answers anew with the present time."""
        self.small = self.build(b"answered by " + self.name.encode() + b"\n")
        self.large = self.build(b"x" * LARGE)
        self.before, _, self.after = self.small.partition(b"content-type")

    def unique(self) -> bytes:
        """A small answer with a request id that no other has."""
        return b"%bx-request-id: %016x\r\ncontent-type%b" % (self.before, next(IDS), self.after)

    def to(self, head: bytes) -> bytes:
        """The answer to the request that begins with `head`."""
        if head.startswith(b"GET /64k"):
            return self.large
        return self.unique() if head.startswith(b"GET /unique") else self.small

    def build(self, body: bytes) -> bytes:
        """One whole answer with `body`."""
        head = (
            f"HTTP/1.1 200 OK\r\nserver: backend\r\ndate: {formatdate(usegmt=True)}\r\nx-backend: {self.name}\r\n"
            f"content-type: text/plain\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class HttpServer(asyncio.Protocol):
    """One connection: GET /64k gets 64 KiB, GET /unique a head that never repeats, an Upgrade an echo, all else the server's name; one that
    begins as HTTP/2 does is served as that."""

    def __init__(self, answers: Answers):
        self.answers = answers
        self.request = _Request()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if not self.request.started and data.endswith(END) and data.startswith(b"GET ") and not data.startswith(b"GET /ws"):
            self.transport.write(self.answers.to(data))
            return
        if data.startswith(h2wire.PREFACE[:16]) and not self.request.started:
            server = H2Server(self.answers.name, self.transport)
            self.transport.set_protocol(server)
            server.data_received(data)
            return
        for head in self.request.feed(data):
            self.answer(head)

    def answer(self, head: bytes) -> None:
        """Answer a request that did not come in one piece."""
        key = frames.upgrade_key(head)
        if key:
            self.transport.write(frames.switching(key, self.answers.name))
            self.transport.set_protocol(WebSocketEcho(self.transport))
        else:
            self.transport.write(self.answers.to(head))


class _Request:
    """Collects requests up to their end: by Content-Length, or up to the last chunk (of bodies without trailers)."""

    def __init__(self) -> None:
        self.buffer = b""
        self.head = b""
        self.left = 0  # body bytes that are still to come; -1: chunked

    @property
    def started(self) -> bool:
        """Whether part of a request is here."""
        return bool(self.buffer or self.head)

    def feed(self, data: bytes) -> list[bytes]:
        """The heads of the requests that end in `data`."""
        self.buffer += data
        done = []
        while self.buffer and (self.head or self.take_head()) and self.take_body():
            done.append(self.head)
            self.head = b""
        return done

    def take_head(self) -> bool:
        end = self.buffer.find(END)
        if end < 0:
            return False
        self.head, self.buffer = self.buffer[: end + 4], self.buffer[end + 4 :]
        lines = dict(line.lower().split(b":", 1) for line in self.head.split(b"\r\n")[1:-2])
        self.left = -1 if b"transfer-encoding" in lines else int(lines.get(b"content-length", b"0"))
        return True

    def take_body(self) -> bool:
        if self.left < 0:
            end = self.buffer.find(b"0\r\n\r\n")
            self.left = 0 if end >= 0 else -1
            self.buffer = self.buffer[end + 5 :] if end >= 0 else self.buffer[-4:]
            return end >= 0
        taken = min(self.left, len(self.buffer))
        self.left -= taken
        self.buffer = self.buffer[taken:]
        return not self.left


class WebSocketEcho(asyncio.Protocol):
    """Sends each whole message back, unmasked; answers pings and the close."""

    def __init__(self, transport: asyncio.Transport):
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        answer, self.buffer = frames.echo(self.buffer + data)
        if answer:
            self.transport.write(answer)


class TcpEcho(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.write = cast(asyncio.Transport, transport).write

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self.write(data)


def udp_echo(sock: socket.socket) -> Callable[[], None]:
    """What to do when `sock` is readable: all that waits goes back."""
    batch = Batch(128, 2048)

    def readable() -> None:
        if batch.recv(sock):
            batch.reply(sock)

    return readable


class Sink:
    """Counts datagrams; `stats?` gets the count as its answer and sets it to zero."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self.batch = Batch(256, 2048)
        self.count = 0

    def readable(self) -> None:
        """Take what waits."""
        taken = self.batch.recv(self.sock)
        self.count += taken
        if taken and self.batch.message(taken - 1) == b"stats?":
            self.report()

    def report(self) -> None:
        """Answer the peer that asked. Only the last datagram of a batch is looked at, so it asks when nothing else is under way."""
        self.batch.answer_last(self.sock, str(self.count - 1).encode())
        self.count = 0


def serve_bulk(sock: socket.socket) -> None:
    """Accept for ever; each connection gets a thread. Runs in a thread itself: bulk sending blocks."""
    while True:
        connection, _ = sock.accept()
        threading.Thread(target=send_bulk, args=(connection,), daemon=True).start()


def send_bulk(connection: socket.socket) -> None:
    """Read a decimal number of bytes and a newline, send as many, close. The bytes come from a memory file, without a copy on our side."""
    with connection, open(os.memfd_create("bulk"), "wb") as file:
        file.truncate(BULK_CHUNK)
        try:
            left = int(connection.recv(64))
            while left > 0:
                left -= os.sendfile(connection.fileno(), file.fileno(), 0, min(left, BULK_CHUNK))
        except (OSError, ValueError):
            pass  # the reader has gone; it knows why


def bound(kind: socket.SocketKind) -> socket.socket:
    """A socket on a free port of 127.0.0.1."""
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_DGRAM:
        sock.setblocking(False)
        enlarge_buffer(sock)
    else:
        sock.listen(4096)
    return sock


def enlarge_buffer(sock: socket.socket) -> None:
    """Ask for 8 MiB to receive into; without privilege the kernel gives what net.core.rmem_max allows (socket(7))."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)


async def listen(loop: asyncio.AbstractEventLoop, factory: Callable[[], asyncio.Protocol]) -> int:
    """Serve `factory` on a free port and return it."""
    sock = bound(socket.SOCK_STREAM)
    await loop.create_server(factory, sock=sock, backlog=4096)
    return int(sock.getsockname()[1])


async def start(names: Sequence[str]) -> dict[str, int]:
    """Start all servers in the running loop and return their ports by name."""
    loop = asyncio.get_running_loop()
    ports: dict[str, int] = {}
    for name in names:
        answers = Answers(name)
        ports[name] = await listen(loop, lambda answers=answers: HttpServer(answers))  # type: ignore[misc]
        _every_second(loop, answers.renew)
    ports["tcp"] = await listen(loop, TcpEcho)
    echo, sink, bulk = bound(socket.SOCK_DGRAM), bound(socket.SOCK_DGRAM), bound(socket.SOCK_STREAM)
    loop.add_reader(echo, udp_echo(echo))
    loop.add_reader(sink, Sink(sink).readable)
    threading.Thread(target=serve_bulk, args=(bulk,), daemon=True).start()
    return ports | {name: sock.getsockname()[1] for name, sock in (("udp", echo), ("sink", sink), ("bulk", bulk))}


def _every_second(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    def again() -> None:
        call()
        loop.call_later(1, again)

    loop.call_later(1, again)


async def main(names: Sequence[str]) -> None:
    """Serve until stdin ends."""
    print(json.dumps(await start(names)), flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, lambda: None if os.read(0, 4096) else ended.set())
    await ended.wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1:] or ["A", "B", "D"]))
