"""Who is believed what: claims of clients about whom they speak for, answers that say why, and who may ask."""

from __future__ import annotations

import asyncio
import socket
from itertools import product

import pytest

from carrier.admin.gate import Gate
from tests.conversation import Stage
from tests.e2e.test_http_bodies import answered
from tests.h2peer import client2
from tests.support import wait_until

CLAIMS = [
    *(f"x-forwarded-{name}" for name in ("client-cert", "prefix", "ssl", "scheme", "server", "user", "proto", "host", "port", "for")),
    "front-end-https",
    "true-client-ip",
    "x-client-ip",
    "x-forwarded-email",
    "x-original-proto",
    "cf-connecting-ip",
    "proxy",
    "x-real-ip",
    "x-original-url",
    "x-original-host",
    "x-rewrite-url",
    "forwarded",
]


def spellings(name: str) -> list[str]:
    first, *others = name.split("-")
    return [first + "".join(map("".join, zip(between, others, strict=True))) for between in product("-_", repeat=len(others))]


@pytest.mark.parametrize("claim", CLAIMS)
async def test_a_claim_of_an_untrusted_peer_is_not_sent_on_however_it_is_spelt(claim: str) -> None:
    async with Stage() as stage:
        client = await stage.client()
        for name in spellings(claim):
            for spelt in (name, name.upper()):
                await client.says(f"GET / HTTP/1.1\r\nhost: a\r\n{spelt}: forged-one\r\n\r\n".encode())
                server = await stage.server()
                head = await server.head()
                assert b"forged-one" not in head, head
                await server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")
                await answered(client)


async def test_a_stream_of_http_2_is_believed_no_more() -> None:
    async with Stage() as stage, client2(stage.port) as client:
        for claim in CLAIMS:
            number = client.ask("/", fields=[(name, "forged-one") for name in spellings(claim)])
            server = await stage.server()
            head = await server.head()
            assert b"forged-one" not in head, head
            await server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")
            assert (await client.answer(number)).status == 200


@pytest.mark.parametrize("two", [False, True])
async def test_what_a_trusted_peer_claims_goes_on_as_it_came(two: bool) -> None:
    kept = [claim for claim in CLAIMS if claim not in ("x-forwarded-for", "forwarded")]
    async with Stage(listener={"trusted": ["127.0.0.0/8"]}) as stage, client2(stage.port) as client:
        if two:
            client.ask("/", fields=[(claim, f"said-{n}") for n, claim in enumerate(kept)])
        else:
            one = await stage.client()
            lines = "".join(f"{claim}: said-{n}\r\n" for n, claim in enumerate(kept))
            await one.says(f"GET / HTTP/1.1\r\nhost: a\r\n{lines}\r\n".encode())
        head = await (await stage.server()).head()
        for n, claim in enumerate(kept):
            assert f"\r\n{claim}: said-{n}\r\n".encode() in head


@pytest.mark.parametrize("times", [1, 4])
async def test_what_an_upstream_says_in_our_name_is_cut(times: int) -> None:
    async with Stage() as stage:
        client = await stage.client()
        for turn in range(times):
            await client.says(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            server = await stage.server()
            await server.head()
            ours = b"".join(b"X-Carrier-%b: forged-%d\r\n" % (name, turn) for name in (b"Why", b"rule", b"FALLBACK", b"error", b"else"))
            await server.says(b"HTTP/1.1 200 OK\r\n" + ours + b"x-kept: yes\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")
            head, body = await answered(client)
            assert b"forged" not in head and b"x-carrier" not in head.lower() and b"x-kept: yes" in head and body == b"hi"


async def test_what_an_upstream_says_in_our_name_in_trailers_is_cut() -> None:
    async with Stage() as stage:
        client = await stage.client()
        await client.says(b"GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\n\r\n")
        server = await stage.server()
        await server.head()
        await server.says(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-carrier-why: forged\r\nx-kept: 1\r\n\r\n"
        )
        found = b""
        while not found.endswith(b"\r\n\r\n") or b"0\r\n" not in found:
            found += await asyncio.wait_for(client.reader.read(65536), 5)
        assert b"forged" not in found and b"x-kept" in found


async def asked(stage: Stage, source: str) -> bytes:
    """The head of an answer to somebody at this address who asks why."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind((source, 0))
    await loop.sock_connect(sock, ("127.0.0.1", stage.port))
    await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\nhost: a\r\nx-carrier-explain: 1\r\n\r\n")
    server = await stage.server()
    await server.head()
    await server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")
    found = b""
    while b"\r\n\r\n" not in found:
        found += await asyncio.wait_for(loop.sock_recv(sock, 65536), 5)
    sock.close()
    await wait_until(lambda: True)
    return found


async def test_who_asks_why_is_told_on_127_0_0_1_and_not_elsewhere_in_its_network_nor_where_loopback_is_others_too() -> None:
    async with Stage() as stage:
        assert b"x-carrier-why" in await asked(stage, "127.0.0.1")
        assert b"x-carrier-why" not in await asked(stage, "127.0.0.6")
        stage.proxy.env.gate = Gate(trust_loopback="none")
        assert b"x-carrier-why" not in await asked(stage, "127.0.0.1")
        stage.proxy.env.gate = Gate(trust_loopback="uid")
        assert b"x-carrier-why" in await asked(stage, "127.0.0.1")
