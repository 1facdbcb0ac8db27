import socket

import pytest

from benchmarks.mmsg import Batch, Outbox


def bound():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(2)
    return sock


@pytest.fixture
def pair():
    server, client = bound(), bound()
    client.connect(server.getsockname())
    yield client, server
    client.close()
    server.close()


def test_all_datagrams_that_wait_are_received_at_once(pair):
    client, server = pair
    sent = [b"a", b"", b"c" * 2000]
    for message in sent:
        client.send(message)
    batch = Batch(8, 2048)
    assert batch.recv(server) == 3
    assert [batch.message(index) for index in range(3)] == sent


def test_nothing_to_receive_is_zero_and_does_not_block(pair):
    _, server = pair
    assert Batch(8, 64).recv(server) == 0


def test_more_than_fits_is_left_for_the_next_call(pair):
    client, server = pair
    for number in range(5):
        client.send(b"%d" % number)
    batch = Batch(3, 64)
    assert [batch.recv(server), batch.recv(server)] == [3, 2]
    assert batch.message(1) == b"4"


def test_a_reply_goes_back_whole_to_each_sender():
    server, first, second = bound(), bound(), bound()
    first.sendto(b"one", server.getsockname())
    second.sendto(b"number two", server.getsockname())
    batch = Batch(8, 64)
    assert batch.recv(server) == 2 and batch.reply(server) == 2
    assert (first.recv(64), second.recv(64)) == (b"one", b"number two")
    for sock in (server, first, second):
        sock.close()


def test_a_short_reply_does_not_shorten_what_is_received_later(pair):
    client, server = pair
    batch = Batch(4, 64)
    for message in (b"x", b"long enough"):
        client.send(message)
        batch.recv(server)
        batch.reply(server)
        assert client.recv(64) == message


def test_an_answer_goes_to_the_last_sender(pair):
    client, server = pair
    client.send(b"stats?")
    batch = Batch(4, 64)
    batch.recv(server)
    batch.answer_last(server, b"17")
    assert client.recv(64) == b"17"


def test_an_outbox_sends_the_chosen_messages_in_that_order(pair):
    client, server = pair
    outbox = Outbox([b"zero", b"one", b"two" * 100])
    assert outbox.send(client, [2, 0]) == 2
    assert [server.recv(512), server.recv(512)] == [b"two" * 100, b"zero"]
    assert outbox.send(client, []) == 0


def test_a_refusal_is_an_error(pair):
    client, server = pair
    server.close()
    client.send(b"anybody?")
    with pytest.raises(ConnectionRefusedError):
        Batch(1, 64).recv(client)
