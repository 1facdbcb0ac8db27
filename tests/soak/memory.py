"""Peaks of memory, one after the other: clients that ask for much and read nothing, until memory gets short; then they leave.

Memory must stay below its limit, because who does not read is not read for (carrier/proxy/brake.py). If new requests are answered 503
while the peak lasts, readiness must say so; when it is over they must be served again within `AFTER` seconds, every time. The limit is
that of our manifest's container: 128 MiB, in a cgroup of the kernel's where one can be made (root), which the process finds by itself;
else nine tenths of it as `--limit memory`. After the peaks many TLS connections come and go at once, where no memory is short: what they
took must be handed back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import trustme

from carrier.proxy.brake import TIGHT
from tests.ports import free_port
from tests.soak.process import PATIENCE, Carrier, carrier, number, report

LIMIT = 128 * (1 << 20)
CGROUPS = (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max"))
"""Where cgroups of versions 1 and 2 are, and the file that has the limit."""
CLIENTS = 1500
HANDSHAKES = 10_000
GROWN = 1.3
"""Times the memory of before that may be resident after TLS connections have closed."""
AFTER = 5.0
"""Seconds after a peak by which a request must be answered 200."""
BODY = 4 << 20


async def large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each GET with `BODY` bytes, those of /small with two."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            size = 2 if b"/small" in head else BODY
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for start in range(0, size, 1 << 16):
                writer.write(XS[start : min(size, start + (1 << 16))])
                await writer.drain()
    writer.close()


XS = b"x" * BODY


@contextlib.contextmanager
def limited(memory: int) -> Iterator[Path | None]:
    """A cgroup with so many bytes; None: this kernel, or this user, makes none, or 0 was asked for."""
    made: Path | None = None
    for root, limit in CGROUPS if memory else ():
        folder = Path(root, f"carrier-soak-{os.getpid()}")
        with contextlib.suppress(OSError):
            folder.mkdir()
            try:
                (folder / limit).write_text(str(memory))
                made = folder
                break
            except OSError:
                folder.rmdir()
    try:
        yield made
    finally:
        for _ in range(100 if made is not None else 0):  # a process is in it for a moment after its end
            with contextlib.suppress(OSError):
                made.rmdir()  # type: ignore[union-attr]
                break
            time.sleep(0.05)


def resident(pid: int) -> int:
    """Bytes."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def status_of(port: int, path: str = "/small") -> int:
    """The status that a request on a new connection is answered with; 0: none."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            line = await reader.readline()
            writer.close()
            return int(line.split()[1]) if line else 0
    except (OSError, TimeoutError):
        return 0


async def within(seconds: float, ask: Callable[[], Awaitable[int]], wanted: int) -> None:
    """Ask until the answer is at most `wanted` and not 0, or the time is over."""
    began = time.monotonic()
    while not 0 < await ask() <= wanted:
        if time.monotonic() - began > seconds:
            return
        await asyncio.sleep(0.05)


async def glutton(port: int) -> socket.socket:
    """A client that asks for much and reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    with contextlib.suppress(OSError):
        sock.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
    return sock


async def peak(running: Carrier, port: int, clients: int, hold: float, limit: int) -> dict[str, Any]:
    """One peak; what was seen in it, and how many seconds after it a request was served. limit: bytes resident that are too much."""
    seen: dict[str, Any] = {"shed": 0, "ready": 0}
    before = resident(running.pid)
    most = 0
    socks = []
    for i in range(clients):
        with contextlib.suppress(OSError):
            socks.append(await glutton(port))
        if i % 100 == 99:
            await asyncio.sleep(0.05)
    began = time.monotonic()
    while time.monotonic() - began < (hold if seen["shed"] or most > limit * TIGHT else PATIENCE):
        seen["shed"] += await status_of(port) == 503
        seen["ready"] = max(seen["ready"], (await asyncio.to_thread(running.call, "GET", "/readyz"))[0])
        most = max(most, resident(running.pid))
        await asyncio.sleep(0.1)
    for sock in socks:
        sock.close()
    gone = time.monotonic()
    await within(2 * AFTER, lambda: status_of(port), 200)
    served = time.monotonic() - gone
    seen["after"] = (await asyncio.to_thread(running.call, "GET", "/readyz"))[0]
    mib = 1 << 20
    return {**seen, "served_after": round(served, 2), "before": before // mib, "most": most // mib, "now": resident(running.pid) // mib}


async def closed_again(running: Carrier, port: int, number: int) -> dict[str, int]:
    """MiB resident before, with, and after so many TLS connections that were idle, with one request each."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    before = resident(running.pid)
    writers = []
    for _ in range(number):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"\r\n\r\nxx")
        writers.append(writer)
    held = resident(running.pid)
    for writer in writers:
        writer.transport.abort()

    async def left() -> int:
        return resident(running.pid)

    await within(4 * AFTER, left, int(GROWN * before))
    return {"before": before >> 20, "with": held >> 20, "after": resident(running.pid) >> 20}


async def run(
    times: int, handshakes: int, clients: int = CLIENTS, limit: int = LIMIT, hold: float = 3, contained: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """So many peaks, then so many TLS connections; what was seen, and which claims did not hold. contained: in a cgroup, where one can be
    made."""
    server = await asyncio.start_server(large, "127.0.0.1", 0, backlog=4096)
    upstream = server.sockets[0].getsockname()[1]
    up = {"name": "up", "spec": {"protocol": "HTTP", "port": upstream}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="carrier-soak-") as folder:
        pem = Path(folder) / "server.pem"
        trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
        tls = [{"certificate": str(pem), "key": str(pem)}]
        plain, secured = free_port(), free_port()
        listeners = [
            {
                "name": f"on {port}".replace(" ", "-"),
                "spec": {"protocol": "HTTP", "address": "127.0.0.1", "port": port} | more,
                "rules": [{"action": {"route": {"destination": "up"}}}],
                "options": {"max_connections": 0},
            }
            for port, more in ((plain, {}), (secured, {"tls": tls}))
        ]
        conf = {"clusters": [up], "listeners": listeners}
        others = ("--limit", "lag=0", "--limit", "connections=0")
        with limited(limit if contained else 0) as cgroup, carrier(conf, *_said(cgroup, limit), *others, cgroup=cgroup) as running:
            figures["cgroup"] = cgroup is not None
            figures["peaks"] = [await peak(running, plain, clients, hold, limit * 9 // 10) for _ in range(times)]
        with carrier(conf, "--limit", "memory=0", "--limit", "lag=0", "--limit", "connections=0") as running:
            await closed_again(running, secured, 20)  # what the first ones load
            figures["tls"] = await closed_again(running, secured, handshakes)
    server.close()
    return figures, [*_broken(figures["peaks"], limit >> 20), *_grown(figures["tls"])]


def _said(cgroup: Path | None, limit: int) -> tuple[str, ...]:
    """What the command line says of the memory."""
    return () if cgroup is not None else ("--limit", f"memory={limit * 9 // 10}")


def _broken(peaks: list[dict[str, Any]], limit: int) -> Iterator[str]:
    """limit: MiB of the container."""
    for i, seen in enumerate(peaks):
        if seen["most"] < limit * TIGHT // 2:
            yield f"peak {i}: {seen['most']} MiB: it was no peak"
        if seen["most"] > limit:
            yield f"peak {i}: {seen['most']} MiB are resident, of {limit} that there are"
        if seen["shed"] and seen["ready"] != 503:
            yield f"peak {i}: readiness says {seen['ready']} while requests are refused"
        if seen["served_after"] > AFTER:
            yield f"peak {i}: served {seen['served_after']} s after"
        if seen["after"] != 200:
            yield f"peak {i}: readiness says {seen['after']} when it is over"


def _grown(seen: dict[str, int]) -> Iterator[str]:
    if seen["after"] > GROWN * seen["before"]:
        yield f"{seen['after']} MiB are resident after the connections have closed, {seen['before']} were before"


if __name__ == "__main__":
    sys.exit(report("memory", *asyncio.run(run(number(10), HANDSHAKES, contained=True))))
