"""UNIX sockets for tests: clients and servers of every mode, in the words of tests/support.py."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support import PATIENCE, tcp

MODES = {"stream": socket.SOCK_STREAM, "seqpacket": socket.SOCK_SEQPACKET, "dgram": socket.SOCK_DGRAM}


class Unix:
    """A UNIX socket; one message (or what one read brings) at a time."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await asyncio.wait_for(self.loop.sock_sendall(self.sock, data), PATIENCE)

    async def read(self, size: int = 1 << 18) -> bytes:
        """The next message; of a stream what is there; b"" at the end."""
        return await asyncio.wait_for(self.loop.sock_recv(self.sock, size), PATIENCE)

    async def exactly(self, size: int) -> bytes:
        """So many bytes of a stream."""
        data = b""
        while len(data) < size:
            more = await self.read(size - len(data))
            if not more:
                break
            data += more
        return data

    def end(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()


def client(path: Path | str, mode: str = "stream", bound: bool = True) -> Unix:
    """A connected socket; a dgram one with an address to answer to, if `bound`."""
    sock = socket.socket(socket.AF_UNIX, MODES[mode])
    if mode == "dgram" and bound:
        sock.bind("")
    sock.connect(str(path))
    return Unix(sock)


def server(path: Path | str, mode: str = "stream") -> Unix:
    """A listening socket, or a bound one for dgram."""
    sock = socket.socket(socket.AF_UNIX, MODES[mode])
    sock.bind(str(path))
    if mode != "dgram":
        sock.listen(16)
    return Unix(sock)


async def accepted(listening: Unix) -> Unix:
    """The next connection."""
    sock, _ = await asyncio.wait_for(listening.loop.sock_accept(listening.sock), PATIENCE)
    return Unix(sock)


async def peer_of(listening: Unix, mode: str) -> tuple[Unix, bytes]:
    """The proxy's connection and the first thing that it says; a dgram server is connected to its first sender."""
    if mode != "dgram":
        peer = await accepted(listening)
        return peer, await peer.read()
    await wait_readable(listening)
    data, address = listening.sock.recvfrom(1 << 18)
    listening.sock.connect(address)
    return Unix(listening.sock.dup()), data


async def wait_readable(one: Unix) -> None:
    """Until something has come."""
    came: asyncio.Future[Any] = one.loop.create_future()
    one.loop.add_reader(one.sock, lambda: came.done() or came.set_result(None))
    try:
        await asyncio.wait_for(came, PATIENCE)
    finally:
        one.loop.remove_reader(one.sock)


async def is_reset(port: int) -> None:
    """A TCP connection to `port` is accepted and reset, at once or a moment later."""
    with pytest.raises(ConnectionError):
        async with tcp(port) as client:
            await client.read_all()


class Pipe:
    """One end of a named pipe. A writer waits for a reader to be there."""

    def __init__(self, path: Path, flags: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.fd = os.open(path, flags | os.O_NONBLOCK)

    async def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self.fd, rest) :]
            except BlockingIOError:
                await self._ready(self.loop.add_writer, self.loop.remove_writer)

    async def read(self, size: int) -> bytes:
        """So many bytes, or fewer at the end."""
        data = b""
        while len(data) < size:
            try:
                more = os.read(self.fd, size - len(data))
            except BlockingIOError:
                more = None
            if more == b"" and (data or self.heard):
                break
            if more:
                self.heard = True
                data += more
            else:
                await self._ready(self.loop.add_reader, self.loop.remove_reader)
                self.heard = True
        return data

    heard = False
    """Something has come: from then on nothing is the end, and not that nobody writes yet."""

    async def _ready(self, add: Any, remove: Any) -> None:
        ready: asyncio.Future[Any] = self.loop.create_future()
        add(self.fd, lambda: ready.done() or ready.set_result(None))
        try:
            await asyncio.wait_for(ready, PATIENCE)
        finally:
            remove(self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
