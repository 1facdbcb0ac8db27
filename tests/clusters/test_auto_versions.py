"""A port of `auto` with TLS: HTTP/2 is offered to clients if the shadow takes it, and each request goes on in the version it came in."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest

from carrier.proxy.proxy import Proxy
from tests.h2peer import Peer2, client2, echo
from tests.pki import Pki, pki
from tests.support import PATIENCE, config, listener, looked, port_of, running, tcp_server, wait_until

__all__ = ["pki"]


class Shadow:
    """A server with TLS that speaks what it agrees on; `alpn` may be changed."""

    def __init__(self, pki: Pki, *alpn: str, name: str = "shadow") -> None:
        self.context = pki.server(*alpn)
        self.name = name.encode()
        self.spoken: list[str | None] = []
        self.heard: list[str | None] = []
        """The protocols of connections, and of those of them on which something was said."""
        self.server: asyncio.Server | None = None
        self.port = 0

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        agreed = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        self.spoken.append(agreed)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            if agreed == "h2":
                peer = Peer2(reader, writer, False)
                peer.start()
                await echo(peer)
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.heard.append(agreed)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(self.name), self.name))

    async def up(self) -> None:
        self.server = await asyncio.start_server(self.accepted, "127.0.0.1", self.port, ssl=self.context)
        self.port = self.server.sockets[0].getsockname()[1]

    async def __aenter__(self) -> Shadow:
        await self.up()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.server is not None:
            self.server.close()


@contextlib.asynccontextmanager
async def port(pki: Pki, shadow: int, laptop: int = 1, **options: Any) -> AsyncIterator[Proxy]:
    def cluster(name: str, at: int) -> dict[str, Any]:
        spec = {"protocol": "auto", "port": at, "tls": {"verify": False, "sni": "localhost"}}
        return {"name": name, "spec": spec, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}

    match = {"matchHeader": {"name": "x-user", "value": "john"}}
    rules = [{"match": match, "action": {"route": {"destination": "laptop"}}}, {"action": {"route": {"destination": "shadow"}}}]
    ours = listener("in", protocol="auto", rules=rules, spec={"tls": pki("ours", "localhost")}, options=options)
    async with running(config(clusters=[cluster("shadow", shadow), cluster("laptop", laptop)], listeners=[ours])) as proxy:
        yield proxy


async def learnt(proxy: Proxy) -> None:
    """What is asked in the background is known."""
    cluster: Any = proxy.clusters["shadow"]
    await wait_until(lambda: cluster.asking is None, "for a handshake")
    await looked(proxy)
    proxy.listeners["in"].tick(proxy.env.loop.time())
    await looked(proxy)


async def agreed(proxy: Proxy, context: ssl.SSLContext) -> str | None:
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(proxy, "in"), ssl=context, server_hostname="localhost")
    found: str | None = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.close()
    return found


async def get1(proxy: Proxy, context: ssl.SSLContext, user: str = "") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(proxy, "in"), ssl=context, server_hostname="localhost")
    writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-user: %b\r\n\r\n" % user.encode())
    answer = await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()
    return answer.rpartition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(("takes", "offered"), [(("h2", "http/1.1"), "h2"), (("http/1.1",), "http/1.1"), ((), "http/1.1")])
async def test_clients_are_offered_what_the_shadow_takes(takes: tuple[str, ...], offered: str, pki: Pki) -> None:
    async with Shadow(pki, *takes) as shadow, port(pki, shadow.port) as proxy:
        await learnt(proxy)
        assert await agreed(proxy, pki.client(None, "h2", "http/1.1")) == offered


async def test_who_comes_before_the_shadow_was_asked_is_offered_what_it_takes(pki: Pki) -> None:
    """For a second after the start it was HTTP/1.1 alone, and a client of gRPC, which speaks nothing else, was relayed past all rules."""
    for protocols in (["h2"], ["h2", "http/1.1"]):
        async with (
            Shadow(pki, "h2") as shadow,
            Shadow(pki, name="laptop") as laptop,
            port(pki, shadow.port, laptop.port) as proxy,
            client2(port_of(proxy, "in"), pki.client(None, *protocols)) as client,
        ):
            assert (await client.get("/a", fields=[("x-user", "john")])).body == b"laptop"
            assert (await client.get("/a")).body == b"GET /a "


async def test_nobody_waits_for_a_shadow_that_is_silent(pki: Pki) -> None:
    async with tcp_server() as silent, port(pki, silent.port) as proxy:
        assert await agreed(proxy, pki.client(None, "h2", "http/1.1")) == "http/1.1"


async def test_each_request_goes_on_in_its_version(pki: Pki) -> None:
    async with Shadow(pki, "h2", "http/1.1") as shadow, port(pki, shadow.port) as proxy:
        await learnt(proxy)
        assert await get1(proxy, pki.client(None, "http/1.1")) == b"shadow"
        async with client2(port_of(proxy, "in"), pki.client(None, "h2")) as client:
            for path in ("/a", "/b"):
                assert (await client.get(path)).body == b"GET " + path.encode() + b" "
        assert await get1(proxy, pki.client()) == b"shadow"
        assert shadow.spoken == ["h2", "http/1.1", "h2"] and shadow.heard == ["http/1.1", "http/1.1"]


async def test_a_laptop_that_takes_no_http_2_gets_the_request_in_http_1(pki: Pki) -> None:
    async with (
        Shadow(pki, "h2", "http/1.1") as shadow,
        Shadow(pki, "http/1.1", name="laptop") as laptop,
        port(pki, shadow.port, laptop.port) as proxy,
    ):
        await learnt(proxy)
        async with client2(port_of(proxy, "in"), pki.client(None, "h2")) as client:
            for _ in range(2):
                assert (await client.get("/", fields=[("x-user", "john")])).body == b"laptop"
            assert (await client.get("/")).body == b"GET / "
        assert laptop.heard == ["http/1.1"] * 2


async def test_what_is_learnt_is_learnt_again(pki: Pki) -> None:
    """A shadow that is deployed anew, and takes less: clients are offered no more, and the listener keeps its connections."""
    async with Shadow(pki, "h2", "http/1.1") as shadow, port(pki, shadow.port) as proxy:
        await learnt(proxy)
        both = pki.client(None, "h2", "http/1.1")
        async with client2(port_of(proxy, "in"), both) as client:
            assert (await client.get("/a")).body == b"GET /a "
            shadow.context.set_alpn_protocols(["http/1.1"])
            for takes, offered in ((("http/1.1",), "http/1.1"), (("h2", "http/1.1"), "h2")):
                shadow.context.set_alpn_protocols(list(takes))
                proxy.clusters["shadow"].ask_at = 0.0  # type: ignore[attr-defined]
                proxy.listeners["in"].tick(proxy.env.loop.time())
                await learnt(proxy)
                assert await agreed(proxy, both) == offered
            assert (await client.get("/b")).body == b"GET /b "


async def test_a_shadow_that_is_not_there_yet_is_asked_until_it_is(pki: Pki) -> None:
    shadow = Shadow(pki, "h2")
    await shadow.up()
    assert shadow.server is not None
    shadow.server.close()
    async with port(pki, shadow.port) as proxy:
        await learnt(proxy)
        both = pki.client(None, "h2", "http/1.1")
        assert await agreed(proxy, both) == "http/1.1"
        await shadow.up()
        try:
            proxy.clusters["shadow"].ask_at = 0.0  # type: ignore[attr-defined]
            proxy.listeners["in"].tick(proxy.env.loop.time())
            await learnt(proxy)
            assert await agreed(proxy, both) == "h2"
        finally:
            shadow.server.close()


async def test_a_port_that_is_told_to_speak_http_1_offers_nothing_else(pki: Pki) -> None:
    async with Shadow(pki, "h2", "http/1.1") as shadow, port(pki, shadow.port, protocols=["h1"]) as proxy:
        await learnt(proxy)
        assert await agreed(proxy, pki.client(None, "h2", "http/1.1")) == "http/1.1"
        assert not shadow.spoken  # nobody has to know
