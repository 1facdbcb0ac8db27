"""The one accept loop: places, pauses, arrivals, the last connections of a queue."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from carrier import model
from carrier.core.accepting import Arrival, AtPort, has_spoken, somebody_waits
from carrier.core.address import Place, bind_stream
from carrier.core.env import Env
from tests.support import wait_until


class Source:
    """A connection that does nothing. used: it may not leave."""

    session = None

    def __init__(self, listener: Front, sock: socket.socket, used: bool = False) -> None:
        self.listener, self.sock, self.used = listener, sock, used
        self.ticks = 0
        self.left = False

    def tick(self, now: float) -> None:
        self.ticks += 1

    def standing(self, now: float) -> tuple[int, float] | None:
        return None if self.used else (0, 0.0)

    def give_way(self) -> None:
        self.sock.close()

    def leave(self) -> None:
        self.left = True

    def moved(self, listener: Any) -> None:
        self.listener = listener

    def close(self) -> None:
        self.sock.close()
        self.listener.gone(self)


SPEC = {"address": "127.0.0.1", "port": 0}


class Front(AtPort):
    """A listener whose connections are `Source`s, used or not."""

    used = True

    def accepted(self, connection: socket.socket) -> Any:
        return Source(self, connection, self.used)

    def enter(self, source: Any) -> None:
        self.connections.add(source)


class Hasty(Front):
    """Accepts, and says that there are too many."""

    waits = False


async def made(kind: type[Front] = Front, most: float = 3) -> Front:
    found = kind(model.Listener("in", SPEC, "rules"), Env(asyncio.get_running_loop()))
    found.max_connections = most
    await found.bind()
    found.start()
    return found


@pytest.fixture
async def clients() -> AsyncIterator[list[socket.socket]]:
    found: list[socket.socket] = []
    yield found
    for sock in found:
        sock.close()


def knock(front: Front, clients: list[socket.socket], count: int = 1) -> None:
    clients.extend(socket.create_connection(("127.0.0.1", front.port)) for _ in range(count))


async def test_many_are_accepted_in_one_turn(clients: list[socket.socket]) -> None:
    front = await made(most=99)
    knock(front, clients, 10)
    await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert len(front.connections) == 10
    front.stop()


async def test_who_finds_no_place_waits_in_the_queue_until_one_is_free(clients: list[socket.socket]) -> None:
    front = await made()
    knock(front, clients, 5)
    await wait_until(lambda: front.limited == {"max_connections": 1})
    assert len(front.connections) == 3 and not front.accepting
    next(iter(front.connections)).close()
    await wait_until(lambda: len(front.connections) == 3 and not front.accepting)
    front.stop()


async def test_nobody_leaves_for_a_client_that_is_not_there(clients: list[socket.socket]) -> None:
    front = await made()
    front.used = False
    knock(front, clients, 3)
    await wait_until(lambda: len(front.connections) == 3)
    await asyncio.sleep(0.02)
    assert len(front.connections) == 3 and front.accepting
    knock(front, clients)
    await asyncio.sleep(0.02)
    assert len(front.connections) == 3  # one has left for it
    front.stop()


async def test_a_protocol_that_can_say_so_accepts_also_who_is_too_many(clients: list[socket.socket]) -> None:
    front = await made(Hasty)
    knock(front, clients, 5)
    await wait_until(lambda: len(front.connections) == 5)
    front.stop()


async def test_short_descriptors_pause_the_loop_for_a_moment(clients: list[socket.socket]) -> None:
    front = await made(most=9)

    class Short:
        """A listening socket that has no descriptors twice."""

        def __init__(self) -> None:
            self.sock, self.left = front.bound[0], 2

        def __getattr__(self, name: str) -> Any:
            return getattr(self.sock, name)

        def _accept(self) -> Any:
            self.left -= 1
            if self.left >= 0:
                raise OSError(errno.EMFILE, "too many")
            return self.sock._accept()  # type: ignore[attr-defined]

    front._pause()
    front.bound = [Short()]  # type: ignore[list-item]
    front._go()
    knock(front, clients)
    await wait_until(lambda: front.connections)
    assert front.limited == {"descriptors": 2}
    front.stop()


async def test_hold_and_go_on_leave_what_is_there(clients: list[socket.socket]) -> None:
    front = await made()
    knock(front, clients)
    await wait_until(lambda: front.connections)
    front.hold()
    knock(front, clients)
    await asyncio.sleep(0.02)
    assert len(front.connections) == 1
    front.go_on()
    await wait_until(lambda: len(front.connections) == 2)
    front.stop()


async def test_a_stop_takes_in_who_waits_and_tells_all_to_leave(clients: list[socket.socket]) -> None:
    front = await made(most=99)
    knock(front, clients, 20)  # the loop has no turn in between
    port = front.port
    front.stop()
    assert len(front.connections) == 20 and all(source.left for source in front.connections)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=3)


async def test_a_listener_that_was_never_opened_takes_nobody_in(clients: list[socket.socket]) -> None:
    front = Front(model.Listener("in", SPEC, "rules"), Env(asyncio.get_running_loop()))
    await front.bind()
    knock(front, clients)
    front.stop()
    assert not front.connections


async def test_connections_move_to_the_listener_that_takes_the_place(clients: list[socket.socket]) -> None:
    front = await made(most=99)
    knock(front, clients, 2)
    await wait_until(lambda: len(front.connections) == 2)
    front.hit("x")
    front.counter = 7
    heir = Front(model.Listener("in", SPEC, "rules"), front.env)
    heir.bound = [sock.dup() for sock in front.bound]
    heir.start()
    heir.inherit(front)
    front.stop()
    assert not front.connections and len(heir.connections) == 2
    assert all(source.listener is heir and not source.left for source in heir.connections)
    assert (heir.counter, heir.limited, front.successor()) == (7, {"x": 1}, heir)
    knock(heir, clients)  # its socket is not closed to newcomers
    await wait_until(lambda: len(heir.connections) == 3)
    heir.stop()


async def test_an_address_that_was_vacated_can_be_taken_and_given_back(clients: list[socket.socket]) -> None:
    front = await made(most=99)
    port = front.port
    knock(front, clients)
    again = front.vacate()
    assert again is not None and len(front.connections) == 1
    (taken,) = bind_stream("other", None, port)
    taken.close()
    again()
    assert front.port == port
    knock(front, clients)
    await wait_until(lambda: len(front.connections) == 2)
    front.stop()


def test_a_place_is_bound_again_as_it_was() -> None:
    (sock,) = bind_stream("in", None, 0)
    place = Place(sock)
    sock.close()
    again = place.bind()
    assert (again.family, again.getsockname()) == (place.family, place.name)
    assert somebody_waits(again) is False
    with socket.create_connection(("127.0.0.1", again.getsockname()[1])):
        assert somebody_waits(again)
    again.close()


async def test_an_arrival_that_comes_to_nothing_is_closed_and_counted(clients: list[socket.socket]) -> None:
    front = await made(most=99)
    theirs, ours = socket.socketpair()

    async def fails(arrival: Arrival) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "gone")

    front.arrive(ours, fails)
    assert len(front.connections) == 1
    await wait_until(lambda: not front.connections)
    assert front.limited == {"handshake": 1} and ours.fileno() == -1
    theirs.close()
    front.stop()


async def test_an_arrival_becomes_a_source(clients: list[socket.socket]) -> None:
    front = await made(most=99)
    theirs, ours = socket.socketpair()

    async def becomes(arrival: Arrival) -> None:
        await asyncio.sleep(0)
        arrival.became(Source(front, arrival.sock))  # type: ignore[arg-type]

    front.arrive(ours, becomes)
    await wait_until(lambda: any(isinstance(one, Source) for one in front.connections))
    assert len(front.connections) == 1 and not front.limited
    theirs.close()
    ours.close()
    front.stop()


def test_the_kernel_knows_who_has_spoken() -> None:
    (sock,) = bind_stream("in", "127.0.0.1", 0)
    with socket.create_connection(sock.getsockname()) as client:
        ours, _ = sock.accept()
        assert not has_spoken(ours)
        client.sendall(b"x")
        assert ours.recv(1) == b"x" and has_spoken(ours)  # also what was read counts
        ours.close()
    sock.close()
    one, other = socket.socketpair()
    assert has_spoken(one)  # nobody can tell
    one.close()
    other.close()
