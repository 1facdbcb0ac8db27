"""All four protocols against real servers, and what happens when the servers misbehave."""

import asyncio
import socket
import threading

import pytest
import uvloop

from benchmarks.http import request
from benchmarks.load.flow import User, answerer, message_of
from benchmarks.load.run import Plan, run
from benchmarks.processes import Children, free_ports, start_backend


@pytest.fixture(scope="module")
def ports():
    with Children() as children:
        yield start_backend(children, ["A", "B"])


def users(port, protocol, count=3, expect=None):
    end = b"\n" if protocol == "tcp" else b""
    names = [f"user-{number}" for number in range(count)]
    made = (request(b"GET", b"/", b"") if protocol == "http" else message_of(name, 64, end) for name in names)
    return [User(name, "127.0.0.1", port, message, expect, "/ws") for name, message in zip(names, made, strict=True)]


SERVERS = {"http": ("A", "A"), "websocket": ("B", "B"), "tcp": ("tcp", "echo"), "udp": ("udp", "echo")}


@pytest.mark.parametrize("protocol", SERVERS)
def test_a_closed_loop_keeps_every_user_busy_and_knows_who_answered(ports, protocol):
    server, who = SERVERS[protocol]
    tally = run(Plan(protocol, users(ports[server], protocol, expect=who), 0.3, in_flight=4))
    assert tally.answered_by.keys() == {who} and tally.answers > 100
    assert tally.failures == 0 and tally.unsent == 0


@pytest.mark.parametrize("protocol", SERVERS)
def test_an_open_loop_keeps_its_rate(ports, protocol):
    tally = run(Plan(protocol, users(ports[SERVERS[protocol][0]], protocol), 0.5, rate=400))
    assert 100 <= tally.answers <= 200 and tally.failures == 0  # a busy machine may be late, but never early


def test_the_wrong_answerer_is_found(ports):
    tally = run(Plan("http", users(ports["A"], "http", expect="B"), 0.1))
    assert tally.wrong.total() == tally.answers > 0


def test_nobody_there_is_an_error_each_time_it_is_tried():
    tally = run(Plan("tcp", users(free_ports(1)[0], "tcp", 1), 0.35))
    assert tally.answers == 0 and 2 <= tally.errors["connect: Connection refused"] <= 4


def test_a_udp_port_where_nobody_is_says_so():
    tally = run(Plan("udp", users(free_ports(1, socket.SOCK_DGRAM)[0], "udp", 1), 0.2))
    assert tally.errors["receive: Connection refused"] >= 1


class Server:
    """A TCP server in a thread that does `behave(reader, writer)` with each connection."""

    def __init__(self, behave):
        self.behave = behave
        self.ready = threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=lambda: uvloop.run(self.serve()))
        self.thread.start()
        self.ready.wait()
        return self.port

    async def serve(self):
        self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self.behave, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        await self.over.wait()
        server.close()

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join()


def saying(answer):
    async def behave(reader, writer):
        while await reader.read(4096):
            writer.write(answer)

    return behave


async def hang_up(reader, writer):
    await reader.read(4096)
    writer.close()


ANSWERS = [
    ("http", b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "status 503"),
    ("http", b"nonsense\r\n\r\n", "bad answer: no status line: b'nonsense'"),
    ("tcp", b"somebody else's line\n", "garbled answer"),
    ("websocket", b"HTTP/1.1 403 Forbidden\r\n\r\n", "handshake: status 403"),
]


@pytest.mark.parametrize(("protocol", "answer", "error"), ANSWERS)
def test_a_bad_answer_is_an_error_of_its_kind(protocol, answer, error):
    with Server(saying(answer)) as port:
        tally = run(Plan(protocol, users(port, protocol, 1), 0.25))
    assert tally.errors.keys() == {error} and tally.answers == 0


@pytest.mark.parametrize("protocol", ["http", "tcp", "websocket"])
def test_a_server_that_hangs_up_is_tried_again(protocol):
    with Server(hang_up) as port:
        tally = run(Plan(protocol, users(port, protocol, 1), 0.35))
    assert tally.errors.keys() == {"closed"} and tally.errors["closed"] >= 2


def test_a_server_that_says_nothing_times_out():
    with Server(saying(b"")) as port:
        tally = run(Plan("tcp", users(port, "tcp", 1), 0.5, timeout=0.1))
    assert tally.errors.keys() == {"timeout"}


def test_an_open_loop_counts_what_it_could_not_send():
    with Server(saying(b"")) as port:
        tally = run(Plan("tcp", users(port, "tcp", 1), 0.3, rate=100))
    assert 15 <= tally.unsent <= 30


def test_a_stall_shows_in_the_latency_of_all_that_was_due_meanwhile():
    async def stall(reader, writer):
        first = True
        while data := await reader.read(4096):
            await asyncio.sleep(0.3 if first else 0)
            first = False
            writer.write(data)

    with Server(stall) as port:
        tally = run(Plan("tcp", users(port, "tcp", 1), 0.6, rate=100))
    assert tally.latency(0.5) > 0.02  # a generator that counts from sending would see microseconds


def test_an_answer_may_carry_the_name_of_who_gave_it():
    message = message_of("john", 32)
    assert answerer(message, message) == "echo"
    assert answerer(b"laptop-1 " + message, message) == "laptop-1"
    assert answerer(b"x" * 32, message) is None


def test_messages_of_different_users_differ():
    assert message_of("john", 32, b"\n") != message_of("jane", 32, b"\n")
    assert len(message_of("john", 32, b"\n")) == 32 and message_of("john", 32, b"\n").endswith(b"\n")
