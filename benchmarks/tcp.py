"""TCP scenarios: small messages to and fro on many connections, and large streams downstream.

Bulk costs its two ends next to nothing: the backend sends from a memory file (sendfile), the load throws away what comes without copying it
(MSG_TRUNC, tcp(7)). So the proxy's core is the one that is full.
"""

import socket
import threading
from time import perf_counter

from benchmarks.load.flow import User, message_of
from benchmarks.load.run import Plan, run
from benchmarks.scenario import Load, Scenario, Target, from_tally

CONNECTIONS = 64
MESSAGE_SIZE = 128
STREAMS = 4
READ = 1024 * 1024
MEBIBYTE = 1024 * 1024


def round_trips(target: Target, seconds: float) -> Load:
    """128-byte messages on 64 connections, one under way on each."""
    names = [f"user-{number}" for number in range(CONNECTIONS)]
    users = [User(name, "127.0.0.1", target.port, message_of(name, MESSAGE_SIZE, b"\n")) for name in names]
    return from_tally(run(Plan("tcp", users, seconds)))


def bulk(target: Target, seconds: float) -> Load:
    """4 streams as fast as they go."""
    counts: list[int] = []
    started = perf_counter()
    readers = [threading.Thread(target=_read, args=(target.port, started + seconds, counts)) for _ in range(STREAMS)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return Load(sum(counts) / MEBIBYTE, perf_counter() - started, errors=STREAMS - len(counts))


def _read(port: int, until: float, counts: list[int]) -> None:
    """Read one stream; its bytes are added to `counts` unless it failed."""
    buffer, count = bytearray(READ), 0
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.sendall(b"%d\n" % (1 << 40))
        while perf_counter() < until:
            taken = sock.recv_into(buffer, READ, socket.MSG_TRUNC)
            if not taken:
                return
            count += taken
    counts.append(count)


TCP = (
    Scenario("tcp round trips", "tcp", "round trip", round_trips, backend="tcp", direct=True),
    Scenario("tcp bulk", "bulk", "MiB", bulk, backend="bulk", direct=True),
)
