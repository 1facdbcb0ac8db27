"""A socket of messages as a hop, on socket pairs: messages, queues, ends. In sessions: tests/listeners/test_unix.py."""

from __future__ import annotations

import asyncio
import socket

import pytest

from carrier.core.stream import link
from carrier.hops.packetsocket import PacketSocket
from tests.support import Neighbour, wait_until


def pair(kind: socket.SocketKind = socket.SOCK_SEQPACKET, **options: bool) -> tuple[Neighbour, PacketSocket, socket.socket]:
    """A hop with an ear around it, and the other end of its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    for sock in (ours, theirs):
        sock.setblocking(False)
    hop, ear = PacketSocket(asyncio.get_running_loop(), ours, "upstream", **options), Neighbour()
    link([ear, hop])
    return ear, hop, theirs


async def test_it_reads_messages_only_when_it_may() -> None:
    ear, hop, theirs = pair()
    theirs.send(b"one")
    theirs.send(b"two")
    await asyncio.sleep(0.01)
    assert ear.heard == []
    hop.resume()
    await wait_until(lambda: len(ear.heard) == 2)
    assert ear.heard == [b"one", b"two"] and (hop.messages_in, hop.bytes_in) == (2, 6)
    theirs.close()
    await wait_until(lambda: ear.heard[-1] == "end")
    hop.close()


async def test_what_the_kernel_does_not_take_waits_whole_and_pauses() -> None:
    ear, hop, theirs = pair()
    sent = [b"%d" % i * 1000 for i in range(300)]
    for message in sent:
        hop.data(message)
    hop.end()
    assert ear.heard == ["pause"] and hop.pending
    got = []
    while True:
        try:
            message = theirs.recv(1 << 17)
        except BlockingIOError:
            await asyncio.sleep(0)
            continue
        if not message:
            break
        got.append(message)
    assert got == sent and ear.heard == ["pause", "resume"] and hop.messages_out == 300
    hop.close()


async def test_an_empty_message_passes_only_where_it_is_not_the_end() -> None:
    _, hop, theirs = pair(socket.SOCK_DGRAM, ends=False, half=False)
    hop.data(b"")
    hop.data(b"x")
    assert [theirs.recv(9), theirs.recv(9)] == [b"", b"x"]
    _, connection, other = pair()
    connection.data(b"")
    connection.data(b"x")
    assert other.recv(9) == b"x"
    for one in (hop, connection):
        one.close()


async def test_a_peer_that_has_gone_is_told_to_both_neighbours() -> None:
    ear, hop, theirs = pair()
    theirs.close()
    hop.data(b"x")
    assert ear.heard == ["reset", "stop"] and hop.closed
    hop.data(b"y")
    hop.close()


async def test_without_half_ends_answers_may_come_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carrier.hops.packetsocket.LINGER", 0.03)
    ear, hop, theirs = pair(socket.SOCK_DGRAM, ends=False, half=False)

    class Session:
        """As much of one as is looked at."""

        status, source = "CONNECTED", None
        source_done = False

    hop.session = Session()  # type: ignore[assignment]
    hop.resume()
    hop.end()
    theirs.send(b"late")
    await wait_until(lambda: "end" in ear.heard)
    assert ear.heard == [b"late", "end"] and hop.closed
