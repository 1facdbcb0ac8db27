"""Options change twenty times under 64 busy clients of every kind: nobody is reset, nothing is lost."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trustme
import websockets

from carrier.model import Config
from carrier.proxy.proxy import Proxy
from tests.support import Peer, cluster, config, echo, listener, port_of, running, tcp, tcp_server, udp

CHANGES = 20
KINDS = {"http": 12, "auto": 12, "tcp": 10, "tls": 10, "ws": 10, "udp": 10}
"""Clients of each kind: 64 in all."""
OPTIONS = {"http": "header_timeout", "auto": "raw_idle_timeout", "tcp": "idle_timeout", "tls": "idle_timeout", "ws": "ping_interval"}
REQUEST = b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n%04d"

Talk = Callable[[int], Awaitable[bytes]]
"""Says a number, and returns what is answered."""


async def answering(peer: Peer) -> None:
    """An upstream of HTTP that sends back the four bytes of a body."""
    while True:
        await peer.reader.readuntil(b"\r\n\r\n")
        body = await peer.reader.readexactly(4)
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n" + body)


def configuration(upstream: int, tls: dict[str, str], number: int) -> Config:
    def one(name: str, protocol: str, destination: str = "echo", **spec: Any) -> dict[str, Any]:
        return listener(name, destination, protocol=protocol, spec=spec, options={OPTIONS.get(name, "idle_timeout"): 100 + number})

    return config(
        clusters=[echo(), cluster("up", upstream, protocol="HTTP")],
        listeners=[
            one("http", "HTTP", "up"),
            one("auto", "auto", "up"),
            one("tcp", "TCP"),
            one("tls", "TCP", tls=tls),
            one("ws", "WebSocket"),
            one("udp", "UDP"),
        ],
    )


async def client(kind: str, proxy: Proxy, trust: ssl.SSLContext, stop: asyncio.Event) -> int:
    """Talk until `stop`; how often. Any answer that is not what was said, and any end, is an error."""
    port = port_of(proxy, kind)
    if kind == "udp":
        async with udp(port) as peer:

            async def by_datagrams(number: int) -> bytes:
                peer.send(b"%04d" % number)
                return await peer.read()

            return await talk(by_datagrams, stop)
    if kind == "ws":
        async with websockets.connect(f"ws://127.0.0.1:{port}/", proxy=None) as socket:

            async def by_messages(number: int) -> bytes:
                await socket.send(b"%04d" % number)
                return bytes(await asyncio.wait_for(socket.recv(), 10))  # type: ignore[arg-type]

            return await talk(by_messages, stop)
    if kind == "tls":
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname="app.test")

        async def inside(number: int) -> bytes:
            writer.write(b"%04d" % number)
            return await asyncio.wait_for(reader.readexactly(4), 10)

        try:
            return await talk(inside, stop)
        finally:
            writer.transport.abort()
    async with tcp(port) as plain:

        async def by_bytes(number: int) -> bytes:
            if kind == "tcp":
                plain.send(b"%04d" % number)
            else:
                plain.send(REQUEST % number)
                assert b" 200 " in await asyncio.wait_for(plain.reader.readuntil(b"\r\n\r\n"), 10)
            return await asyncio.wait_for(plain.reader.readexactly(4), 10)

        return await talk(by_bytes, stop)


async def talk(say: Talk, stop: asyncio.Event) -> int:
    said = 0
    while not stop.is_set():
        assert await say(said % 10_000) == b"%04d" % (said % 10_000)
        said += 1
    return said


async def test_twenty_changes_of_options_reset_nobody_and_lose_nothing(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("app.test")
    tls = {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    issued.cert_chain_pems[0].write_to_path(tls["certificate"])
    issued.private_key_pem.write_to_path(tls["key"])
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    stop = asyncio.Event()
    async with tcp_server(answering) as upstream, running(configuration(upstream.port, tls, 0)) as proxy:
        tasks = [asyncio.create_task(client(kind, proxy, trust, stop)) for kind, count in KINDS.items() for _ in range(count)]
        await asyncio.sleep(0.3)
        for number in range(1, CHANGES + 1):
            before = dict(proxy.listeners)
            await proxy.apply(configuration(upstream.port, tls, number))
            assert not any(proxy.listeners[name] is one for name, one in before.items())
            await asyncio.sleep(0.05)
        assert not [old.name for old in proxy.draining if old.connections]
        assert proxy.connections() == sum(KINDS.values())
        stop.set()
        said = await asyncio.gather(*tasks)
        assert min(said) > 0
        assert sum(KINDS.values()) == 64 and proxy.listeners["http"].failed == 0
