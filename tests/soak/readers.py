"""Clients that ask for much and read nothing: what each of them costs the proxy, in bytes of memory."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import sys
from typing import Any

import uvloop

from tests.ports import free_port
from tests.soak.process import Carrier, carrier, number, report

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
SIZE = 4 << 20
MOST = 128_000
"""Bytes that one may cost."""
PAGE = 4096


async def say_much(size: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An upstream whose answers are long."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + bytes(size))
        await reader.read()


async def silent(port: int) -> socket.socket:
    """A client that asks and reads nothing."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", port))
    await loop.sock_sendall(sock, REQUEST)
    return sock


def resident(one: Carrier) -> int:
    with open(f"/proc/{one.pid}/statm") as file:
        return int(file.read().split()[1]) * PAGE


async def settled(one: Carrier) -> int:
    """Bytes resident, once they grow no more."""
    last = 0
    while (now := resident(one)) > last:
        last = now
        await asyncio.sleep(0.5)
    return now


async def soak(clients: int, protocol: str, size: int) -> tuple[dict[str, Any], list[str]]:
    server = await asyncio.start_server(functools.partial(say_much, size), "127.0.0.1", 0)
    port = free_port()
    where = {"protocol": "TCP" if protocol == "TCP" else "HTTP", "port": server.sockets[0].getsockname()[1]}
    up = {"name": "up", "spec": where, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
    rules = [{"action": {"route": {"destination": "up"}}}]
    web = {"name": "web", "spec": {"protocol": protocol, "port": port, "address": "127.0.0.1"}, "rules": rules}
    with carrier({"clusters": [up], "listeners": [web]}) as one:
        held = [await silent(port) for _ in range(20)]  # what is there once, is there now
        before = await settled(one)
        held += [await silent(port) for _ in range(clients)]
        each = (await settled(one) - before) // clients
        for sock in held:
            sock.close()
    server.close()
    return {"protocol": protocol, "clients": clients, "bytes each": each}, [f"{each} bytes each, at most {MOST}"] if each > MOST else []


def run(clients: int, protocol: str = "HTTP", size: int = SIZE) -> tuple[dict[str, Any], list[str]]:
    """Figures and what was wrong."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(soak(clients, protocol, size))


if __name__ == "__main__":
    sys.exit(report("readers", *run(number(200), *sys.argv[2:3])))
