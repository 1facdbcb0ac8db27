"""The second look: at what was read lately, once, and again while it says so."""

import asyncio
import socket
import struct

from carrier.hops.lookout import Lookout, has_error
from tests.support import wait_until


class Thing:
    def __init__(self, more: int) -> None:
        self.looks = 0
        self.more = more

    def look(self) -> bool:
        self.looks += 1
        return self.looks <= self.more


async def test_each_is_looked_at_until_it_has_enough_and_then_nothing_runs(monkeypatch):
    monkeypatch.setattr("carrier.hops.lookout.PERIOD", 0.001)
    lookout = Lookout(asyncio.get_running_loop())
    once, thrice = Thing(0), Thing(2)
    lookout.add(once)
    lookout.add(thrice)
    await wait_until(lambda: thrice.looks == 3)
    await asyncio.sleep(0.01)
    assert (once.looks, thrice.looks, lookout.recent) == (1, 3, [])


def test_an_error_is_seen_and_left_where_it_is():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        with socket.create_connection(listening.getsockname()) as here:
            there, _ = listening.accept()
            assert not has_error(here.fileno())
            there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            there.close()
            assert has_error(here.fileno())
            assert has_error(here.fileno())
