"""SIGTERM with requests, a WebSocket, an upgraded connection and a UDP session in flight: nobody is cut.

30 keep-alive clients are in the middle of a request that takes 0.5 s; a WebSocket client must get close code 1001, a UDP client its
answers until the process ends, a tunnel of another protocol may finish. nginx, haproxy and Envoy cut 30 of 30 requests (issue 6).
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from typing import Any

import uvloop
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.ports import free_port
from tests.soak.process import Client, carrier, number, report, upstream

SLOW = 0.5


def config(ports: dict[str, int], slow: int) -> dict[str, Any]:
    def listener(name: str, protocol: str, destination: str) -> dict[str, Any]:
        spec = {"protocol": protocol, "port": ports[name], "address": "127.0.0.1"}
        return {"name": name, "spec": spec, "rules": [{"action": {"route": {"destination": destination}}}]}

    slow_cluster = {"name": "slow", "spec": {"protocol": "HTTP", "port": slow}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
    return {
        "clusters": [slow_cluster, {"name": "echo", "spec": {"protocol": "Echo"}}],
        "listeners": [listener("web", "HTTP", "slow"), listener("ws", "WebSocket", "echo"), listener("udp", "UDP", "echo")],
    }


async def requests(port: int, count: int, failures: list[str], begun: asyncio.Event) -> int:
    """`count` clients, each in its second request on its connection when `begun` is set; how many were answered."""
    clients = [await Client.to(port) for _ in range(count)]
    await asyncio.gather(*[client.ask() for client in clients])
    asking = [asyncio.ensure_future(client.ask()) for client in clients]
    await asyncio.sleep(SLOW / 5)
    begun.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    failures += [f"a request in flight: {answer!r}" for answer in answers if isinstance(answer, BaseException) or answer[0] != 200]
    return sum(1 for answer in answers if not isinstance(answer, BaseException) and answer[0] == 200)


async def websocket(port: int, failures: list[str], begun: asyncio.Event) -> int:
    """The code that a WebSocket is closed with."""
    async with connect(f"ws://127.0.0.1:{port}/") as client:
        await client.send("x")
        if await client.recv() not in ("x", b"x"):
            failures.append("the WebSocket is no echo")
        await begun.wait()
        try:
            await asyncio.wait_for(client.recv(), 10)
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else 1006
    return 0


async def tunnel(port: int, failures: list[str], begun: asyncio.Event) -> bool:
    """A connection that was upgraded to something that knows no close frame: it goes on, and ends when its client ends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await begun.wait()
    await asyncio.sleep(SLOW)
    writer.write(b"still there")
    try:
        answer = await asyncio.wait_for(reader.readexactly(11), 5)
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as exc:
        failures.append(f"the tunnel was cut: {exc!r}")
        return False
    writer.close()
    return answer == b"still there"


async def datagrams(port: int, failures: list[str], begun: asyncio.Event) -> int:
    """A UDP session: its datagrams are answered after the signal as before; how many were."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", port))
        answered = 0
        for i in range(20):
            if i == 5:
                await begun.wait()
            await loop.sock_sendall(sock, b"%d" % i)
            try:
                answered += await asyncio.wait_for(loop.sock_recv(sock, 100), 2) == b"%d" % i
            except (OSError, TimeoutError) as exc:
                failures.append(f"datagram {i}: {exc!r}")
                break
            await asyncio.sleep(SLOW / 10)
        return answered


async def soak(count: int) -> tuple[dict[str, Any], list[str]]:
    ports = {"web": free_port(), "ws": free_port(), "udp": free_port(socket.SOCK_DGRAM)}
    failures: list[str] = []
    begun = asyncio.Event()
    async with upstream(b"slow", SLOW) as slow:
        with carrier(config(ports, slow), "-l", "info", "--drain", "4", "--drain-delay", "0.3") as one:
            doing = [
                asyncio.ensure_future(what)
                for what in (
                    requests(ports["web"], count, failures, begun),
                    websocket(ports["ws"], failures, begun),
                    tunnel(ports["web"], failures, begun),
                    datagrams(ports["udp"], failures, begun),
                )
            ]
            await begun.wait()
            signalled = time.monotonic()
            one.signal(signal.SIGTERM)
            await asyncio.sleep(0.05)
            ready = (await asyncio.to_thread(one.call, "GET", "/readyz"))[0]
            answered, code, tunnelled, datagram = await asyncio.gather(*doing)
            status = await asyncio.to_thread(one.wait)
            ended = time.monotonic() - signalled
    failures += [f"the WebSocket was closed with {code}, not 1001"] if code != 1001 else []
    failures += [f"/readyz said {ready} during the drain"] if ready != 503 else []
    failures += [f"exit status {status}"] if status else []
    figures = {
        "requests": f"{answered} of {count}",
        "websocket": code,
        "tunnel": tunnelled,
        "datagrams": f"{datagram} of 20",
        "exit": status,
        "seconds": round(ended, 2),
    }
    return figures, failures


def run(count: int) -> tuple[dict[str, Any], list[str]]:
    """SIGTERM with `count` requests in flight; figures and what was wrong."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(soak(count))


if __name__ == "__main__":
    sys.exit(report("drain", *run(number(30))))
