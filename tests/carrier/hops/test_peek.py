"""Looking at first bytes without taking them."""

import asyncio
import socket

import pytest

from carrier.hops.peek import MOST, peek


@pytest.fixture
def pair():
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    accepted, _ = server.accept()
    accepted.setblocking(False)
    yield client, accepted
    for sock in (client, accepted, server):
        sock.close()


async def looked(accepted, wanted):
    seen = []

    def look(data):
        seen.append(data)
        return data if len(data) >= wanted else None

    return await asyncio.wait_for(peek(asyncio.get_running_loop(), accepted, look), 5), seen


async def test_what_is_looked_at_is_still_there(pair):
    client, accepted = pair
    client.send(b"hello")
    assert (await looked(accepted, 5))[0] == b"hello"
    assert accepted.recv(10) == b"hello"


async def test_more_is_waited_for_and_not_polled(pair):
    client, accepted = pair
    loop = asyncio.get_running_loop()
    for i in range(4):
        loop.call_later(0.02 * (i + 1), client.send, b"ab")
    found, seen = await looked(accepted, 8)
    assert found == b"abababab"
    assert len(seen) <= 5
    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


async def test_an_end_before_enough_is_none(pair):
    client, accepted = pair
    client.send(b"abc")
    client.shutdown(socket.SHUT_WR)
    assert (await looked(accepted, 8))[0] is None
    assert accepted.recv(10) == b"abc"


async def test_no_more_than_so_much_is_looked_at(pair):
    client, accepted = pair
    client.setblocking(False)
    sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(client, b"x" * (MOST + 1000)))
    found, seen = await looked(accepted, MOST + 1)
    assert found is None
    assert len(seen[-1]) == MOST
    await sending


@pytest.fixture
def hasty():
    """A pair whose kernel wakes us with fewer bytes than it was told to wait for, as that of TCP does when its memory is short."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield theirs, ours
    ours.close()
    theirs.close()


async def test_who_is_woken_with_too_little_waits_for_the_rest(hasty):
    client, accepted = hasty
    client.send(b"a")
    loop = asyncio.get_running_loop()
    for i in range(3):
        loop.call_later(0.02 * (i + 1), client.send, b"bc")

    def look(data):
        return data if len(data) >= 7 else None

    found = await asyncio.wait_for(peek(loop, accepted, look, wanted=lambda data: 7), 5)
    assert found == b"abcbcbc"


async def test_who_is_woken_with_too_little_sees_the_end(hasty):
    client, accepted = hasty
    client.send(b"a")
    loop = asyncio.get_running_loop()
    loop.call_later(0.02, client.send, b"b")
    loop.call_later(0.05, client.shutdown, socket.SHUT_WR)
    assert await asyncio.wait_for(peek(loop, accepted, lambda data: None, wanted=lambda data: 7), 5) is None
