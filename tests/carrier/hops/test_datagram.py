"""Batches of datagrams: what recvmmsg brought, how it is cut into bursts, and what happens where the path refuses segments."""

from __future__ import annotations

import ctypes
import errno
import socket
import sys

import pytest

from carrier.hops import mmsg as batch
from carrier.hops.datagram import ALONE, LOOK, Adaptive, DatagramSocket
from carrier.hops.mmsg import COUNT, SEGMENTS, enlarge, kernel_drops, parts, receiver, run_length, sockaddr


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


def came(count, size):
    """As if a batch had brought so many datagrams of this size: what they are."""
    for n, part in enumerate(parts(0, count, size)):
        part[:] = bytes([n + 1]) * size
    return [bytes([n + 1]) * size for n in range(count)]


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
        assert [bytes(parts(i, 1, size)[0]) for i, size in enumerate(found.sizes(3))] == [b"one", b"", b"three"]
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
    assert bytes(parts(0, 1, 4)[0]) == b"back"
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
    sent = came(8, size)
    sender.burst(0, 8, size)
    assert taken(other) == sent
    assert (sender.messages_out, sender.bytes_out, sender.dropped) == (8, 8 * size, {})


def test_a_burst_is_of_the_slots_that_it_is_said_to_be_of_and_its_size_may_change(pair):
    one, other = pair
    sender = Sender(one)
    sent = came(8, 10)
    sender.burst(2, 3, 10)
    sender.burst(0, 2, 4)
    sender.burst(6, 2, 10)
    assert taken(other) == [*sent[2:5], sent[0][:4], sent[1][:4], *sent[6:]]


@pytest.mark.parametrize("family, host", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_bursts_to_addresses_go_there_in_turns(family, host):
    with (
        socket.socket(family, socket.SOCK_DGRAM) as here,
        socket.socket(family, socket.SOCK_DGRAM) as john,
        socket.socket(family, socket.SOCK_DGRAM) as jane,
    ):
        for sock in (here, john, jane):
            sock.bind((host, 0))
            sock.setblocking(False)
        to_john, to_jane = Sender(here, john.getsockname()), Sender(here, jane.getsockname())
        sent = came(6, 10)
        to_john.burst(0, 3, 10)
        to_jane.burst(3, 3, 10)
        to_john.burst(4, 2, 10)
        assert taken(john) == [*sent[:3], *sent[4:]]
        assert taken(jane) == sent[3:]


def test_addresses_have_the_kernels_form():
    assert sockaddr(socket.AF_INET, ("1.2.3.4", 258)) == socket.AF_INET.to_bytes(2, sys.byteorder) + b"\1\2\1\2\3\4" + bytes(8)
    raw = sockaddr(socket.AF_INET6, ("fe80::1", 258, 5, 3))
    assert raw[2:] == b"\1\2" + b"\0\0\0\5" + socket.inet_pton(socket.AF_INET6, "fe80::1") + (3).to_bytes(4, sys.byteorder)


@pytest.fixture
def refusing(monkeypatch):
    """Has sendmsg refuse datagrams above `most` bytes with `number`, as some paths do; what was tried is in `tried`."""

    class Refusing(Sender):
        most, number = 0, 0

        def _cut(self, size):
            cut = super()._cut(size)
            real, self.tried = cut.sendmsg, getattr(self, "tried", [])

            def sendmsg(*args):
                self.tried.append(size)
                if size <= self.most:
                    return real(*args)
                ctypes.set_errno(self.number)
                return -1

            monkeypatch.setattr(cut, "sendmsg", sendmsg)
            return cut

    return Refusing


def test_a_path_with_a_smaller_mtu_gets_single_datagrams_and_bursts_of_small_ones(pair, refusing):
    one, other = pair
    sender = refusing(one)
    sender.most, sender.number = 1000, errno.EMSGSIZE
    for size in (1400, 1400, 500):
        sent = came(4, size)
        sender.burst(0, 4, size)
        assert taken(other) == sent
    assert sender.tried == [1400, 500]  # 1400 was tried once, and not again
    assert (sender.messages_out, sender.dropped) == (12, {})


def test_a_device_that_knows_no_segments_is_not_asked_again(pair, refusing):
    one, other = pair
    sender = refusing(one)
    sender.number = errno.EIO
    for _ in range(3):
        came(4, 10)
        sender.burst(0, 4, 10)
        assert len(taken(other)) == 4
    assert sender.tried == [10]


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
    sender.burst(0, 3, 5)
    assert isinstance(sender.broken_by, ConnectionRefusedError)
    assert (sender.messages_out, sender.dropped) == (1, {"send-failed": 3})


def test_a_full_send_buffer_drops_and_counts(refusing):
    class Full:
        def send(self, data):
            raise BlockingIOError

        def fileno(self):
            return -1

    sender = refusing(Full())
    sender.number = errno.EAGAIN
    sender.send(b"x")
    sender.burst(0, 3, 5)
    assert (sender.dropped, sender.broken_by, sender.tried) == ({"send-buffer-full": 4}, None, [5])


def test_a_closed_socket_sends_nothing(pair):
    one, other = pair
    sender = Sender(one)
    sender.closed = True
    sender.send(b"x")
    sender.burst(0, 3, 5)
    assert taken(other) == []


def test_batches_go_on_until_datagrams_come_alone_for_a_while():
    adaptive = Adaptive()
    assert all(adaptive.goes_on(1) for _ in range(ALONE - 1))
    assert adaptive.goes_on(2)
    assert all(adaptive.goes_on(1) for _ in range(ALONE - 1))
    assert not adaptive.goes_on(1)


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
    monkeypatch.setattr(batch, "library", lambda: None)
    batch.receiver.cache_clear()
    assert batch.receiver(socket.AF_INET) is None
    batch.receiver.cache_clear()
