"""gRPC while bridges come and go: unary calls and streams, half of them unmatched, through an `auto` port to a shadow and a laptop.

john's bridge stays; ida's is made and deleted all the time. Every call must be answered by whom its rule named: john's by the laptop, an
unmatched one by the shadow, ida's by the laptop or the shadow as her bridge was there or not when the call was made (either, if that
changed meanwhile). A stream stays with whom it began with, also when its bridge has gone. Nothing may fail. Client and servers are grpcio.

    python -m tests.soak.calls 100000 1000 1000     unary calls, streams, messages on each
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio

from tests.ports import free_port
from tests.soak.process import PATIENCE, Carrier, carrier, report

CHANNELS, CALLS, STREAMS = 4, 16, 8
"""Connections; on each of them calls at a time, and streams at a time."""
USERS = ("", "john", "", "ida")
"""Whose the calls are, in turn: half of them nobody's."""
PAUSE = 0.02
"""Seconds between two changes of ida's bridge."""


class Answering(grpc.GenericRpcHandler):
    """Answers each message with a name and the message."""

    def __init__(self, name: bytes) -> None:
        self.name = name

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method.endswith("/Stream"):
            return grpc.stream_stream_rpc_method_handler(self.stream)
        return grpc.unary_unary_rpc_method_handler(self.unary)

    async def unary(self, request: bytes, context: Any) -> bytes:
        return self.name + b" " + request

    async def stream(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield self.name + b" " + request


def serve(name: bytes, pipe: Any) -> None:
    """A server in a process of its own, until the pipe is closed."""

    async def serving() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Answering(name),))
        pipe.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await asyncio.get_running_loop().run_in_executor(None, pipe.poll, None)
        await server.stop(None)

    asyncio.run(serving())


@contextmanager
def server(name: bytes) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(name, theirs), daemon=True)
    process.start()
    try:
        assert ours.poll(PATIENCE), f"{name!r} did not start"
        yield ours.recv()
    finally:
        ours.close()
        process.terminate()
        process.join(PATIENCE)


class Ida:
    """The bridge that comes and goes. made: it is there; changes: how often one has begun; changing: one is under way."""

    def __init__(self, one: Carrier, body: dict[str, Any]) -> None:
        self.one, self.body = one, body
        self.made = self.changing = self.over = False
        self.changes = 0
        self.failures: list[str] = []

    async def come_and_go(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.over:
            self.changes += 1
            self.changing = True
            method, body = ("DELETE", None) if self.made else ("PUT", self.body)
            try:
                status, answer = await loop.run_in_executor(None, self.one.call, method, "/api/v1/bridges/ida", body)
            except OSError as error:  # nobody knows what became of it
                self.failures.append(
                    f"{method}, change {self.changes}: {error!r}; the process: {self.one.process and self.one.process.poll()}"
                )
                return
            if status not in (200, 201):
                self.failures.append(f"{method}: {status} {answer}")
            self.made = not self.made
            self.changing = False
            await asyncio.sleep(PAUSE)

    def seen(self) -> tuple[int, bool, bool]:
        return self.changes, self.made, self.changing

    def may_answer(self, user: str, before: tuple[int, bool, bool]) -> tuple[bytes, ...]:
        """Who may have answered a call that was made when things were so."""
        if user != "ida":
            return (b"laptop",) if user else (b"shadow",)
        changes, made, changing = before
        if changing or changes != self.changes:
            return b"laptop", b"shadow"
        return (b"laptop",) if made else (b"shadow",)


class Run:
    """The calls. answered: by whom, of whose; wrong: calls that failed or were misrouted, in words."""

    def __init__(self, ida: Ida, port: int) -> None:
        self.ida, self.port = ida, port
        self.answered: Counter[tuple[str, str]] = Counter()
        self.wrong: list[str] = []
        self.messages = 0

    async def unary(self, channel: grpc.aio.Channel, numbers: Iterator[int]) -> None:
        ask = channel.unary_unary("/soak.Calls/Unary")
        for n in numbers:
            user, before, message = USERS[n % len(USERS)], self.ida.seen(), b"%d" % n
            try:
                answer = await ask(message, metadata=(("x-user", user),), timeout=PATIENCE)
            except grpc.aio.AioRpcError as error:
                self.wrong.append(f"call {n} of {user or 'nobody'}: {error.code().name} {error.details()}")
                continue
            self.check(f"call {n}", user, before, answer, message)

    def check(self, what: str, user: str, before: tuple[int, bool, bool], answer: bytes, message: bytes) -> bytes:
        who, _, said = answer.partition(b" ")
        if said != message or who not in self.ida.may_answer(user, before):
            self.wrong.append(f"{what} of {user or 'nobody'}: {answer!r}, its bridge {before}, now {self.ida.seen()}")
        self.answered[user or "nobody", who.decode()] += 1
        return who

    async def streams(self, channel: grpc.aio.Channel, numbers: Iterator[int], messages: int) -> None:
        for n in numbers:
            user, before = USERS[n % len(USERS)], self.ida.seen()
            call = channel.stream_stream("/soak.Calls/Stream")(_all(n, messages), metadata=(("x-user", user),))
            who, count = b"", 0
            try:
                async for answer in call:
                    if not count:
                        who = self.check(f"stream {n}", user, before, answer, b"%d/0" % n)
                    elif answer != b"%b %d/%d" % (who, n, count):
                        self.wrong.append(f"stream {n} of {user or 'nobody'}: {answer!r} at {count}")
                    count += 1
            except grpc.aio.AioRpcError as error:
                self.wrong.append(f"stream {n} of {user or 'nobody'} at {count}: {error.code().name} {error.details()}")
            self.messages += count
            if count != messages:
                self.wrong.append(f"stream {n} of {user or 'nobody'}: {count} of {messages} messages")


async def _all(n: int, messages: int) -> AsyncIterator[bytes]:
    for i in range(messages):
        yield b"%d/%d" % (n, i)


async def soak(one: Carrier, port: int, laptop: int, calls: int, streams: int, messages: int) -> tuple[dict[str, Any], list[str]]:
    def bridge(user: str) -> dict[str, Any]:
        match = {"matchHeader": {"name": "x-user", "value": user}}
        return {"port": port, "user": user, "match": match, "endpoint": f"127.0.0.1:{laptop}"}

    status, answer = one.call("PUT", "/api/v1/bridges/john", bridge("john"))
    assert status == 201, answer
    ida = Ida(one, bridge("ida"))
    run = Run(ida, port)
    changing = asyncio.create_task(ida.come_and_go())
    own = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=own) for _ in range(CHANNELS)]
    began = time.monotonic()
    numbers = iter(range(calls))
    await asyncio.gather(*(run.unary(channel, numbers) for channel in channels for _ in range(CALLS)))
    between = time.monotonic()
    numbers = iter(range(streams))
    await asyncio.gather(*(run.streams(channel, numbers, messages) for channel in channels for _ in range(STREAMS)))
    ended = time.monotonic()
    ida.over = True
    await changing
    for channel in channels:
        await channel.close()
    figures = {
        "unary calls": calls,
        "streams": streams,
        "messages each way": run.messages,
        "changes of bridges": ida.changes,
        "answered": {f"{user} by {who}": n for (user, who), n in sorted(run.answered.items())},
        "seconds": [round(between - began, 1), round(ended - between, 1)],
        "wrong": len(run.wrong),
    }
    log = one.log.read_text().splitlines()
    return figures, run.wrong[:20] + ida.failures[:5] + (log[-10:] if run.wrong or ida.failures else [])


def run(calls: int, streams: int, messages: int) -> tuple[dict[str, Any], list[str]]:
    """So many calls, and streams of so many messages; figures, and what was wrong."""
    port = free_port()
    with server(b"shadow") as shadow, server(b"laptop") as laptop:
        config = {
            "clusters": [
                {"name": "shadow", "spec": {"protocol": "auto", "port": shadow}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
            ],
            "listeners": [
                {
                    "name": "in",
                    "spec": {"protocol": "auto", "port": port, "address": "127.0.0.1"},
                    "rules": [{"name": "everybody", "action": {"route": {"destination": "shadow"}}}],
                }
            ],
        }
        with carrier(config, "-l", "warn") as one:
            return asyncio.run(soak(one, port, laptop, calls, streams, messages))


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]] or [2000, 20, 100]
    sys.exit(report("calls", *run(*given)))
