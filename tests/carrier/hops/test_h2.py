"""What both sides of HTTP/2 do with their sockets (carrier/hops/h2.py); the rest is tested where they are."""

from __future__ import annotations

import asyncio
from typing import Any

from carrier.hops.h2 import Connection


class Transport:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.said.append("pause")

    def resume_reading(self) -> None:
        self.said.append("resume")


class Engine:
    def __init__(self) -> None:
        self.said: list[str] = []

    def hold(self) -> None:
        self.said.append("hold")

    def release(self) -> None:
        self.said.append("release")


class Ours(Connection):
    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop())
        self.transport: Any = Transport()
        self.engine: Any = Engine()
        self.written = 0
        self.read: list[bytes] = []

    def write(self) -> None:
        self.due = False
        self.written += 1

    def data_received(self, data: bytes) -> None:
        self.read.append(data)


async def test_what_many_write_in_one_wake_up_is_sent_once() -> None:
    connection = Ours()
    connection.soon()
    connection.soon()
    assert connection.written == 0
    await asyncio.sleep(0)
    assert connection.written == 1


async def test_while_the_engine_is_fed_nothing_is_sent_behind_its_back() -> None:
    connection = Ours()
    connection.fed = True
    connection.soon()
    await asyncio.sleep(0)
    assert connection.written == 0


async def test_the_rest_of_a_wake_up_is_handled_in_the_next_one_and_nothing_is_read_meanwhile() -> None:
    connection = Ours()
    connection.rest()
    assert (connection.transport.said, connection.read) == (["pause"], [])
    await asyncio.sleep(0)
    assert (connection.transport.said, connection.read) == (["pause", "resume"], [b""])


async def test_a_connection_that_closes_reads_no_rest() -> None:
    connection = Ours()
    connection.rest()
    connection.transport.closing = True
    await asyncio.sleep(0)
    connection.rest()
    assert (connection.transport.said, connection.read) == (["pause"], [])


async def test_a_full_socket_holds_the_engine_and_an_empty_one_goes_on() -> None:
    connection = Ours()
    connection.pause_writing()
    assert (connection.engine.said, connection.due) == (["hold"], False)
    connection.resume_writing()
    assert (connection.engine.said, connection.due) == (["hold", "release"], True)


async def test_an_end_of_one_direction_ends_the_connection() -> None:
    assert Ours().eof_received() is False
