"""Twenty SIGTERMs while clients keep opening connections: whoever got in is answered, whoever did not is refused, nobody is reset.

Half of the clients ask at once, half wait a moment with their request, so that a stop finds connections in the accept queue, some that have
said nothing, some with half a head, and some with a request in flight. Readiness is not honoured: they connect until nobody is there.
"""

from __future__ import annotations

import asyncio
import collections
import random
import signal
import sys
from typing import Any

import uvloop

from tests.ports import free_port
from tests.soak.process import carrier, number, report, upstream

CLIENTS = 48
REQUEST = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
AHEAD = 0.4
"""Seconds of load before the signal."""


def config(port: int, destination: int, protocol: str) -> dict[str, Any]:
    up = {"name": "up", "spec": {"protocol": "HTTP", "port": destination}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
    spec = {"protocol": protocol, "port": port, "address": "127.0.0.1"}
    return {"clusters": [up], "listeners": [{"name": "web", "spec": spec, "rules": [{"action": {"route": {"destination": "up"}}}]}]}


async def once(port: int, wait: float) -> str:
    """One connection and one request; what came of it."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return "refused"
    except OSError as exc:
        return f"reset while connecting: {exc!r}"
    try:
        half = len(REQUEST) // 2 if wait > 0.03 else 0
        if half:
            writer.write(REQUEST[:half])
        if wait:
            await asyncio.sleep(wait)
        writer.write(REQUEST[half:])
        answer = await asyncio.wait_for(reader.read(), 10)
        return "answered" if answer.startswith(b"HTTP/1.1 200") else f"an answer of {answer[:20]!r}"
    except (OSError, TimeoutError, RuntimeError) as exc:  # the loop's own word for writing to what is gone
        return f"reset: {exc!r}"
    finally:
        writer.transport.abort()


async def client(port: int, quick: bool, found: collections.Counter[str], stop: asyncio.Event) -> None:
    while not stop.is_set():
        came = await once(port, 0.0 if quick else random.uniform(0.0, 0.08))
        if came == "refused":
            await asyncio.sleep(0.01)
        found[came] += 1


async def soak(stops: int, protocol: str = "HTTP") -> tuple[dict[str, Any], list[str]]:
    """So many stops of one proxy after the other; figures and what was wrong."""
    found: collections.Counter[str] = collections.Counter()
    failures: list[str] = []
    async with upstream(b"up", 0.01) as destination:
        for _ in range(stops):
            port = free_port()
            with carrier(config(port, destination, protocol), "-l", "warn", "--drain", "5", "--drain-delay", "0") as one:
                stop = asyncio.Event()
                clients = [asyncio.ensure_future(client(port, bool(i % 2), found, stop)) for i in range(CLIENTS)]
                await asyncio.sleep(AHEAD)
                one.signal(signal.SIGTERM)
                status = await asyncio.to_thread(one.wait)
                stop.set()
                await asyncio.gather(*clients)
                if status:
                    failures.append(f"exit status {status}")
    lost = {came: count for came, count in found.items() if came not in ("answered", "refused")}
    if sum(lost.values()) > 1:
        failures.append(f"{sum(lost.values())} of {found['answered']} were not answered: {lost}")
    return {"stops": stops, "answered": found["answered"], "refused": found["refused"], "lost": sum(lost.values())}, failures


def run(stops: int, protocol: str = "HTTP") -> tuple[dict[str, Any], list[str]]:
    """See `soak`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(soak(stops, protocol))


if __name__ == "__main__":
    sys.exit(report("stops", *run(number(20), *sys.argv[2:3])))
