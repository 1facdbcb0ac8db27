"""Mutated requests and answers through the whole proxy, on real sockets: `python tests/fuzz/soak_http.py [INPUTS] [SEED]`.

It says every EVERY inputs how far it is; Ctrl-C or SIGTERM ends it in order, with what was seen until then.

Each input is a client's bytes against a server's bytes; both begin as something valid, or as a case of a small set of dangerous ones, and
are then damaged: bytes changed, cut, doubled, spliced with others, sent in pieces, followed by silence, an end or a reset. What must
hold is not what is answered, but that the process lives, that nobody waits for ever, that no exception is unforeseen, that no
session and no connection is left, and that memory does not grow. A bounded form runs as a test.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import uvloop

from carrier import model as c
from carrier.core.env import Env
from carrier.proxy.proxy import Proxy

EVERY = 20_000
"""Inputs between two words of how far it is."""

REQUESTS = (
    b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /x?y=1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-user: me\r\ncookie: a=b\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\nhello world",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nx-sum: 1\r\n\r\n",
    b"PUT /a%20b HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc",
    b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nframes\x00\xff",
    b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET http://a/abs HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /more HTTP/1.1\r\nhost: a\r\n\r\n",
    b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
)
ANSWERS = (
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-end: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc",
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nframes",
    b"HTTP/1.0 200 OK\r\ncontent-length: 4\r\nconnection: keep-alive\r\n\r\nfour",
    b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nokX",
)
TOKENS = (
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"-1", b"ffffffffffffffff", b"\xff", b"%00", b"\r\n\r\n"),
    *(
        b"content-length: 7\r\n",
        b"transfer-encoding: chunked\r\n",
        b"transfer-encoding: identity\r\n",
        b"connection: close\r\n",
        b"host: b\r\n",
    ),
    *(b"upgrade: h2c\r\n", b"expect: 100-continue\r\n", b"HTTP/1.1", b"HTTP/0.9", b"HTTP/2.0", b"x" * 9000, b"x: y\r\n" * 120),
)
CLIENTS = 24
"""Conversations at the same time."""
PATIENCE = 0.15
"""Seconds that a client waits for the next byte, and a server for its next request, before they give up."""


@dataclass
class Tally:
    """What was seen."""

    inputs: int = 0
    statuses: dict[bytes, int] = field(default_factory=dict)
    unforeseen: list[str] = field(default_factory=list)
    left: int = 0
    growth: int = 0


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Damage some bytes: mostly a little, sometimes not at all."""
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 6))):
        at = rng.randrange(len(data) + 1)
        to = min(len(data), at + rng.choice((1, 1, 2, 5, 20)))
        kind = rng.randrange(7)
        if kind == 0:
            data = data[:at] + bytes((rng.randrange(256),)) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[to:]
        elif kind == 2:
            data = data[:at] + rng.choice(TOKENS) + data[at:]
        elif kind == 3:
            data = data[:at] + data[at:to] * rng.choice((2, 3, 50)) + data[to:]
        elif kind == 4:
            data = data[:at] + rng.choice(REQUESTS + ANSWERS)[-at:] + data[to:]
        elif kind == 5:
            data = data[:at]
        else:
            data = data[:at] + data[at:to].swapcase() + data[to:]
    return data


def pieces(rng: random.Random, data: bytes) -> list[bytes]:
    """The same bytes as one write, or as some."""
    if len(data) < 2 or rng.random() < 0.6:
        return [data]
    cuts = sorted(rng.sample(range(1, len(data)), min(len(data) - 1, rng.choice((1, 2, 4)))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


class Soak:
    """The proxy, the servers behind it and the clients before it."""

    def __init__(self, seed: int, told: Callable[[str], object] = lambda said: None) -> None:
        """told: is told how far it is."""
        self.rng = random.Random(seed)
        self.tally = Tally()
        self.told = told
        self.stopped = False

    async def run(self, inputs: int, settle: bool = True) -> Tally:
        """So many conversations."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.tally.unforeseen.append(repr(context)))
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        proxy = Proxy(Env(loop), None)
        await proxy.apply(self._config(server.sockets[0].getsockname()[1]))
        self.listener = listener = cast(Any, proxy.listeners["front"])
        await listener.serving
        self.port = listener.port
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        await self._converse(inputs // 4)
        gc.collect()
        before = len(gc.get_objects())
        await self._converse(inputs - inputs // 4)
        await self._alive()
        server.close()
        await self._empty(listener)
        gc.collect()
        self.tally.growth = len(gc.get_objects()) - before
        self.tally.left = len(listener.live) + len(listener.connections)
        self.tally.left += sum(endpoint.active for cluster in proxy.clusters.values() for endpoint in cluster.endpoints)
        await proxy.close()
        return self.tally

    def _config(self, port: int) -> c.Config:
        rules = {
            "echo": c.Rule("echo", {"matchPath": {"path": "/x", "type": "prefix"}}, c.Action(route="echo")),
            "user": c.Rule("user", {"matchHeader": {"name": "x-user", "value": "me"}}, c.Action(route="up")),
            "all": c.Rule("all", None, c.Action((c.Rewrite("/HTTP/headers/x-rewritten", "1"),), route="up")),
        }
        return c.Config(
            listeners={"front": c.Listener("front", {"protocol": "HTTP", "port": 0, "address": "127.0.0.1"}, "rl")},
            clusters={
                "up": c.Cluster("up", {"protocol": "HTTP", "port": port}, (c.EndPoint("e", {"address": "127.0.0.1"}),)),
                "echo": c.Cluster("echo", {"protocol": "Echo"}),
            },
            rulelists={"rl": c.RuleList("rl", tuple(rules))},
            rules=rules,
            routes={"up": c.Route("up", "up"), "echo": c.Route("echo", "echo")},
        )

    async def _converse(self, inputs: int) -> None:
        left = iter(range(inputs))
        await asyncio.gather(*(self._client(left) for _ in range(CLIENTS)))

    async def _client(self, left: Any) -> None:
        for _ in left:
            if self.stopped:
                return
            self.tally.inputs += 1
            if not self.tally.inputs % EVERY:
                self.told(self._so_far())
            with contextlib.suppress(OSError, RuntimeError):  # uvloop's word for writing to what the proxy has closed
                await self._one()

    def stop(self) -> None:
        """Let what is under way end, and begin nothing more."""
        self.stopped = True

    def _so_far(self) -> str:
        tally, listener = self.tally, self.listener
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        there = f"{len(listener.connections)} connections, {len(listener.live)} sessions"
        return f"{tally.inputs} inputs; resident {pages * resource.getpagesize() >> 10} KiB; {there}; unforeseen: {len(tally.unforeseen)}"

    async def _one(self) -> None:
        rng = self.rng
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            data = b"".join(mutate(rng, rng.choice(REQUESTS)) for _ in range(rng.choice((1, 1, 1, 2, 4))))
            for piece in pieces(rng, data):
                writer.write(piece)
                await asyncio.sleep(0)
            if rng.random() < 0.2:
                writer.write_eof()
            if rng.random() < 0.1:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    said = await reader.read(65536)
                    status = said[9:12] if said.startswith(b"HTTP/1.1 ") else said[:12]
                    self.tally.statuses[status] = self.tally.statuses.get(status, 0) + 1
                    while await reader.read(65536):
                        pass
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A server that answers whatever ends a head with something damaged."""
        rng = self.rng
        try:
            while True:
                async with asyncio.timeout(2):
                    await reader.readuntil(b"\r\n\r\n")
                for piece in pieces(rng, mutate(rng, rng.choice(ANSWERS))):
                    writer.write(piece)
                    await asyncio.sleep(0)
                if rng.random() < 0.15:
                    return
        except (OSError, RuntimeError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.transport.abort() if rng.random() < 0.5 else writer.close()

    async def _alive(self) -> None:
        """A good request still gets an answer. Raises when it does not."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nconnection: close\r\n\r\nalive")
        async with asyncio.timeout(5):
            assert b"alive" in await reader.read()
        writer.close()

    async def _empty(self, listener: Any) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while listener.live or listener.connections:  # noqa: ASYNC110 - what is watched has no event
                    await asyncio.sleep(0.02)


def soak(inputs: int, seed: int = 1, told: Callable[[str], object] = lambda said: None) -> Tally:
    """Run so many inputs in an event loop of their own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Soak(seed, told).run(inputs))


def main() -> int:
    inputs = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    began = time.monotonic()
    tally = soak(inputs, int(sys.argv[2]) if len(sys.argv) > 2 else 1, lambda said: print(said, flush=True))
    print(f"{tally.inputs} inputs in {time.monotonic() - began:.0f} s; answers {dict(sorted(tally.statuses.items()))}")
    print(f"left: {tally.left}; objects more: {tally.growth}; unforeseen: {len(tally.unforeseen)} {sorted(set(tally.unforeseen))[:5]}")
    return 1 if tally.left or tally.unforeseen else 0


if __name__ == "__main__":
    sys.exit(main())
