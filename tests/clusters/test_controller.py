"""The REST API's answers on their way: large ones in pieces, as their readers take them."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from carrier.log import Log
from carrier.model import Config
from carrier.process.serve import Server, Settings, start
from carrier.proxy.overload import Process
from tests.ports import free_port
from tests.support import cluster, config, http, listener, wait_until
from tests.turns import TURN, turns

RULES = 3_000


@pytest.fixture(scope="module")
def large() -> Config:
    rules = [
        {
            "name": f"rule-{i}",
            "match": {"matchHeader": {"name": "x-user", "value": f"user-{i}-{'x' * 200}"}},
            "action": {"route": {"destination": "up"}},
        }
        for i in range(RULES)
    ]
    return config(clusters=[cluster("up", 9, protocol="HTTP")], listeners=[listener("web", protocol="HTTP", rules=rules)])


async def serving(conf: Config) -> tuple[Server, int]:
    port = free_port()
    return await start(conf, Log("warn"), Settings(admin=("127.0.0.1", port))), port


async def test_a_large_answer_comes_in_pieces_and_is_the_same_in_every_format(large: Config) -> None:
    server, port = await serving(large)
    try:
        async with turns() as seen:
            status, headers, body = await http(port, "/api/v1/config")
        shown = json.loads(body)
        assert status == 200 and "content-length" not in headers
        assert [rule["name"] for rule in shown["rules"]] == list(large.rules) and len(body) > 1_000_000
        assert body == json.dumps(shown, indent=2, ensure_ascii=False).encode()
        assert seen.longest < 2 * TURN, "TURN on a quiet machine"
        for style in ("terse", "space", "lines", "diffy"):
            assert json.loads((await http(port, f"/api/v1/config?format={style}"))[2]) == shown
    finally:
        await server.close()


async def test_readers_that_do_not_read_hold_a_piece_each_and_nobody_else_up(large: Config) -> None:
    server, port = await serving(large)
    process = Process()
    readers: list[socket.socket] = []
    try:
        await http(port, "/api/v1/config")
        before = process.resident()
        async with turns() as seen:
            for _ in range(32):
                reader = socket.socket()
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                readers.append(reader)
                reader.setblocking(False)
                await asyncio.get_running_loop().sock_connect(reader, ("127.0.0.1", port))
                reader.send(b"GET /api/v1/config HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.sleep(1)
        assert process.resident() - before < 32 * 400_000
        assert seen.longest < 2 * TURN, "TURN on a quiet machine"
    finally:
        for reader in readers:
            reader.close()
        process.close()
        await server.close()


async def test_a_reader_that_leaves_in_the_middle_ends_the_writing(large: Config) -> None:
    server, port = await serving(large)
    try:
        admin: Any = server.proxy.admin
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /api/v1/config HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.read(100)
        writer.transport.abort()
        await wait_until(lambda: not admin.live)
        assert (await http(port, "/api/v1/admin"))[0] == 200
    finally:
        await server.close()
