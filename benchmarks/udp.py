"""UDP scenarios: echo with 128 datagrams under way, echo with one, and a one-way blast at a fixed rate that counts what arrives."""

import socket
import time
from collections.abc import Callable
from itertools import cycle
from time import perf_counter

from benchmarks.check import ask
from benchmarks.load.flow import User, message_of
from benchmarks.load.run import Plan, run
from benchmarks.mmsg import Outbox
from benchmarks.scenario import Load, Scenario, Target, from_tally

FLOWS = 16
IN_FLIGHT = 8
LOST_SECONDS = 0.5
BLAST_RATE = 180_000  # datagrams a second, in all
BLAST_SIZE = 512
BURST = 8
LATE_SECONDS = 0.0005
SETTLE_SECONDS = 0.2


def echo(size: int, flows: int = FLOWS, in_flight: int = IN_FLIGHT) -> Callable[[Target, float], Load]:
    """What drives `flows` sources with `in_flight` datagrams of `size` bytes under way each. A lost one is an error."""

    def drive(target: Target, seconds: float) -> Load:
        names = [f"user-{number}" for number in range(flows)]
        users = [User(name, "127.0.0.1", target.port, message_of(name, size)) for name in names]
        return from_tally(run(Plan("udp", users, seconds, timeout=LOST_SECONDS, in_flight=in_flight)))

    return drive


def blast(target: Target, seconds: float) -> Load:
    """One way at `BLAST_RATE` from 16 sources in bursts of 8; operations are what the sink saw, errors what it did not."""
    ask(target.sink)  # sets it to zero
    sockets = [_connected(target.port) for _ in range(FLOWS)]
    started = perf_counter()
    sent = _send(sockets, started, seconds)
    elapsed = perf_counter() - started
    time.sleep(SETTLE_SECONDS)  # what is still in the proxy's buffer is not lost
    arrived = ask(target.sink)
    for sock in sockets:
        sock.close()
    return Load(arrived, elapsed, errors=sent - arrived)


def _send(sockets: list[socket.socket], started: float, seconds: float) -> int:
    """Send on all sockets in turn at no more than the rate; returns how many the kernel took."""
    outbox, sent, due, turn = Outbox([b"b" * BLAST_SIZE] * BURST), 0, started, cycle(sockets)
    while due < started + seconds:
        now = perf_counter()
        if due > now:
            time.sleep(due - now)
        elif now - due > LATE_SECONDS:
            due = now  # the core was elsewhere: what was missed is left out, a burst to catch up would be another test
        sent += outbox.send(next(turn), range(BURST))
        due += BURST / BLAST_RATE
    return sent


def _connected(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", port))
    return sock


UDP = (
    Scenario("udp echo 64", "udp", "datagram echoed", echo(64), backend="udp", direct=True),
    Scenario("udp echo 512", "udp", "datagram echoed", echo(512), backend="udp", short=False),
    Scenario("udp echo 1400", "udp", "datagram echoed", echo(1400), backend="udp", short=False),
    Scenario("udp one in flight", "udp", "datagram echoed", echo(64, 1, 1), backend="udp", short=False, direct=True),
    Scenario("udp blast", "udp", "datagram delivered", blast, backend="sink", short=False),
)
