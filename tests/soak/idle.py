"""What connections cost that say nothing: bytes resident and processor time, plain and over TLS.

`python -m tests.soak.idle [CONNECTIONS]`; each has asked once. HTTPS at most 18 kB a connection, HTTP 2.75 kB. The clients are a process
of their own, so that theirs is not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
import tempfile
from pathlib import Path
from typing import Any

import trustme

from tests.ports import free_port
from tests.soak.memory import resident
from tests.soak.process import Carrier, carrier, number, report
from tests.soak.size import used

BYTES = {"http": 2750, "https": 18_000}
"""Bytes resident that one idle connection may cost."""
TICKS = 0.2
"""Microseconds of a processor that one idle connection may cost a second."""
WARM = 300
"""Connections that are there before: what the first ones load is not counted."""
REST = 20.0
"""Seconds over which processor time is counted."""
SETTLED = 5.0
"""Seconds after the last request before."""


async def ask(port: int, secure: bool, connections: int) -> list[asyncio.StreamWriter]:
    """So many connections, each with one request answered."""
    context = None
    if secure:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    held = []
    for _ in range(connections):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: soak\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        held.append(writer)
    return held


async def clients(port: int, secure: bool, connections: int) -> None:
    """Connect, say so on standard output, and stay until standard input ends."""
    held = await ask(port, secure, connections)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    del held


@contextlib.asynccontextmanager
async def crowd(port: int, secure: bool, connections: int) -> Any:
    """They are there while the block runs."""
    command = (sys.executable, "-m", "tests.soak.idle", "clients", str(port), str(int(secure)), str(connections))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    try:
        assert (await process.stdout.readline()).startswith(b"ready")
        yield
    finally:
        process.kill()
        await process.wait()


async def cost(running: Carrier, port: int, secure: bool, connections: int, rest: float) -> dict[str, float]:
    """Bytes that each keeps resident, and microseconds a second."""
    async with crowd(port, secure, WARM):
        await asyncio.sleep(SETTLED)
        before = resident(running.pid)
        began = used(running.pid)
        await asyncio.sleep(rest)
        base = used(running.pid) - began
        async with crowd(port, secure, connections):
            await asyncio.sleep(SETTLED)
            held = resident(running.pid)
            began = used(running.pid)
            await asyncio.sleep(rest)
            seconds = used(running.pid) - began - base
    each = (held - before) / connections
    return {"bytes": round(each), "us_a_second": round(seconds / rest / connections * 1e6, 3)}


async def run(connections: int, rest: float = REST) -> tuple[dict[str, Any], list[str]]:
    """What idle connections of each kind cost, and which claims do not hold."""
    figures: dict[str, Any] = {"connections": connections}
    with tempfile.TemporaryDirectory(prefix="carrier-soak-") as folder:
        pem = Path(folder) / "server.pem"
        trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
        for name, more in (("http", {}), ("https", {"tls": [{"certificate": str(pem), "key": str(pem)}]})):
            port = free_port()
            listener = {
                "name": "web",
                "spec": {"protocol": "HTTP", "address": "127.0.0.1", "port": port} | more,
                "rules": [{"action": {"route": {"destination": "echo"}}}],
                "options": {"max_connections": 0, "keepalive_timeout": 3600},
            }
            conf = {"clusters": [{"name": "echo", "spec": {"protocol": "Echo"}}], "listeners": [listener]}
            with carrier(conf, "--limit", "memory=0", "--limit", "connections=0") as running:
                figures[name] = await cost(running, port, bool(more), connections, rest)
    return figures, [
        f"{name}: {what} {figures[name][what]}, at most {most}"
        for name, bytes_ in BYTES.items()
        for what, most in (("bytes", bytes_), ("us_a_second", TICKS))
        if figures[name][what] > most
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["clients"]:
        asyncio.run(clients(int(sys.argv[2]), sys.argv[3] == "1", int(sys.argv[4])))
        sys.exit()
    sys.exit(report("idle", *asyncio.run(run(number(4000)))))
