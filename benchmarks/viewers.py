"""Who watches a carrier: `python -m benchmarks.viewers PORT [QUERY ...]` opens a stream of events for each QUERY ("" for all of them).

It prints "watching" when all of them have begun, reads until its stdin ends, and then prints what came: events, and those lost.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence

LOST = b'"events": '


class Seen:
    """events, lost: of all viewers together; bytes that came."""

    def __init__(self) -> None:
        self.events = self.lost = self.size = 0
        self.rest = b""

    def take(self, data: bytes) -> None:
        """A piece of a stream that begins where the last one has ended."""
        self.size += len(data)
        blocks = (self.rest + data).split(b"\n\n")
        self.rest = blocks.pop()
        for block in blocks:
            if block.startswith(b"event: lost"):
                self.lost += int(block.partition(LOST)[2].rstrip(b"}"))
            else:
                self.events += b"\ndata: " in block


async def watch(port: int, query: str, begun: asyncio.Semaphore, seen: Seen) -> None:
    """One viewer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(f"GET /api/v1/events{query and '?'}{query} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise SystemExit(f"{query}: {head.decode()}")
    begun.release()
    while data := await reader.read(1 << 18):
        seen.take(data)


async def run(port: int, queries: Sequence[str]) -> None:
    """All of them, until stdin ends."""
    begun = asyncio.Semaphore(0)
    seen = [Seen() for _ in queries]
    tasks = [asyncio.create_task(watch(port, query, begun, one)) for query, one in zip(queries, seen, strict=True)]
    for _ in queries:
        await begun.acquire()
    print("watching", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    total = {name: sum(getattr(one, name) for one in seen) for name in ("events", "lost", "size")}
    print(json.dumps(total), flush=True)


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]), sys.argv[2:]))
