"""Batches of datagrams: what recvmmsg brought, how it is cut into bursts, and what happens where the path refuses segments."""

from __future__ import annotations

import errno
import socket

import pytest

from carrier import batch
from carrier.batch import ALONE, COUNT, LOOK, SEGMENTS, Adaptive, DatagramSocket, enlarge, kernel_drops, receiver, run_length


@pytest.fixture
def pair():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        for sock in (one, other):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        one.connect(other.getsockname())
        yield one, other


class Sender(DatagramSocket):
    """Counts what it drops; raises what breaks it."""

    def __init__(self, sock, address=None):
        super().__init__(sock, address)
        self.dropped = {}
        self.broken_by = None

    def drop(self, reason, count=1):
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def failed(self, exc):
        self.broken_by = exc


def views(count, size):
    return [memoryview(bytes([n]) * size) for n in range(count)]


def taken(sock):
    found = []
    while True:
        try:
            found.append(sock.recv(65_535))
        except BlockingIOError:
            return found


@pytest.mark.parametrize("family, host", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_batch_tells_sizes_bytes_and_senders_as_recvfrom_does(family, host):
    with (
        socket.socket(family, socket.SOCK_DGRAM) as here,
        socket.socket(family, socket.SOCK_DGRAM) as john,
        socket.socket(family, socket.SOCK_DGRAM) as jane,
    ):
        for sock in (here, john, jane):
            sock.bind((host, 0))
        for sock, data in ((john, b"one"), (john, b""), (jane, b"three")):
            sock.sendto(data, here.getsockname())
        found = receiver(family)
        assert found.receive(here.fileno()) == 3
        assert found.sizes(3) == [3, 0, 5]
        assert [bytes(found.parts(i, i + 1, size)[0]) for i, size in enumerate(found.sizes(3))] == [b"one", b"", b"three"]
        assert [found.address(i) for i in range(3)] == [john.getsockname(), john.getsockname(), jane.getsockname()]
        keys = found.senders(3)
        assert keys[0] == keys[1] != keys[2]
        with pytest.raises(BlockingIOError):
            found.receive(here.fileno())


def test_receivers_share_their_buffers_and_keep_their_senders_apart(pair):
    one, other = pair
    one.send(b"x")
    assert receiver(socket.AF_INET).receive(other.fileno()) == 1
    other.sendto(b"back", one.getsockname())
    connected = receiver(socket.AF_UNSPEC)
    assert connected.receive(one.fileno()) == 1
    assert bytes(connected.parts(0, 1, 4)[0]) == b"back"
    assert receiver(socket.AF_INET).address(0) == one.getsockname()


def test_a_batch_is_of_so_many_at_most_and_the_rest_waits(pair):
    one, other = pair
    for n in range(COUNT + 3):
        one.send(b"%d" % n)
    found = receiver(socket.AF_INET)
    assert [found.receive(other.fileno()), found.receive(other.fileno())] == [COUNT, 3]


@pytest.mark.parametrize(
    "sizes, runs",
    [
        ([5], [1]),
        ([5, 5, 5], [3]),
        ([5, 5, 6, 5], [2, 1, 1]),
        ([0, 0, 5], [1, 1, 1]),
        ([60_000, 60_000], [1, 1]),
        ([65_507, 65_507, 1], [1, 1, 1]),
        ([1400] * 64, [46, 18]),
        ([1] * (SEGMENTS + 2), [SEGMENTS, 2]),
    ],
)
def test_runs_are_of_one_size_and_fit_into_a_burst(sizes, runs):
    found, first = [], 0
    while first < len(sizes):
        found.append(run_length(sizes, first, len(sizes)))
        first += found[-1]
    assert found == runs


@pytest.mark.parametrize("size", [1, 64, 1400])
def test_a_burst_arrives_as_the_datagrams_that_it_was_made_of(pair, size):
    one, other = pair
    sender = Sender(one)
    sender.burst(views(8, size), size)
    assert taken(other) == [bytes(view) for view in views(8, size)]
    assert (sender.messages_out, sender.bytes_out, sender.dropped) == (8, 8 * size, {})


def test_a_burst_to_an_address_goes_there(pair):
    _, other = pair
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as third:
        third.bind(("127.0.0.1", 0))
        third.setblocking(False)
        Sender(other, third.getsockname()).burst(views(3, 10), 10)
        assert taken(third) == [bytes(view) for view in views(3, 10)]


class Refusing:
    """A socket whose path refuses segments above `most` bytes."""

    def __init__(self, sock, most, number):
        self.sock, self.most, self.number, self.calls = sock, most, number, 0

    def send(self, data):
        return self.sock.send(data)

    def sendmsg(self, parts, control):
        self.calls += 1
        if len(parts[0]) > self.most:
            raise OSError(self.number, "refused")
        return self.sock.sendmsg(parts, control)


def test_a_path_with_a_smaller_mtu_gets_single_datagrams_and_bursts_of_small_ones(pair):
    one, other = pair
    sender = Sender(Refusing(one, 1000, errno.EMSGSIZE))
    for size in (1400, 1400, 500):
        sender.burst(views(4, size), size)
        assert taken(other) == [bytes(view) for view in views(4, size)]
    assert sender.sock.calls == 2  # 1400 was tried once, and not again
    assert (sender.messages_out, sender.dropped) == (12, {})


def test_a_device_that_knows_no_segments_is_not_asked_again(pair):
    one, other = pair
    sender = Sender(Refusing(one, 0, errno.EIO))
    for _ in range(3):
        sender.burst(views(4, 10), 10)
        assert len(taken(other)) == 4
    assert sender.sock.calls == 1


def test_too_long_a_datagram_is_dropped_and_counted_and_breaks_nothing(pair):
    one, other = pair
    sender = Sender(one)
    sender.send(bytes(70_000))
    sender.send(b"fits")
    assert taken(other) == [b"fits"]
    assert (sender.dropped, sender.broken_by, sender.messages_out) == ({"too-long": 1}, None, 1)


def test_a_refused_port_breaks_the_socket_and_what_was_sent_is_counted_as_dropped(pair):
    one, other = pair
    other.close()
    sender = Sender(one)
    sender.send(b"x")
    sender.burst(views(3, 5), 5)
    assert isinstance(sender.broken_by, ConnectionRefusedError)
    assert (sender.messages_out, sender.dropped) == (1, {"send-failed": 3})


def test_a_full_send_buffer_drops_and_counts():
    class Full:
        def send(self, data):
            raise BlockingIOError

        def sendmsg(self, parts, control):
            raise BlockingIOError

    sender = Sender(Full())
    sender.send(b"x")
    sender.burst(views(3, 5), 5)
    assert (sender.dropped, sender.broken_by) == ({"send-buffer-full": 4}, None)


def test_a_closed_socket_sends_nothing(pair):
    one, other = pair
    sender = Sender(one)
    sender.closed = True
    sender.send(b"x")
    sender.burst(views(3, 5), 5)
    assert taken(other) == []


def test_batches_go_on_until_datagrams_come_alone_for_a_while():
    adaptive = Adaptive()
    adaptive.batching = True
    for _ in range(ALONE - 1):
        adaptive.found(1)
    adaptive.found(2)
    for _ in range(ALONE - 1):
        adaptive.found(1)
    assert adaptive.batching
    adaptive.found(1)
    assert not adaptive.batching


def test_what_the_kernel_had_no_room_for_is_counted(pair):
    one, other = pair
    other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(100):
        one.send(bytes(1000))
    received = len(taken(other))
    assert 0 < received < 100
    assert kernel_drops(other) == 100 - received


def test_buffers_are_as_large_as_asked_for_or_as_the_system_allows(pair):
    one, _ = pair
    before = one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    enlarge(one, 1 << 20)
    assert one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > before


def test_a_second_datagram_is_looked_for_now_and_then():
    adaptive = Adaptive()
    assert sum(adaptive.due() for _ in range(10 * LOOK)) == 10


def test_without_the_function_there_is_no_receiver(monkeypatch):
    monkeypatch.setattr(batch, "_recvmmsg", lambda: None)
    batch.receiver.cache_clear()
    assert batch.receiver(socket.AF_INET) is None
    batch.receiver.cache_clear()
