import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Ping, Pong, Request

from benchmarks import frames

MASK = b"\x01\x80\xff\x7f"


def test_the_accept_value_is_that_of_rfc_6455_section_1_3():
    assert frames.accept(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
@pytest.mark.parametrize("mask", [b"", MASK])
def test_a_frame_of_any_size_comes_back_as_it_went(size, mask):
    payload = bytes(range(256)) * (size // 256 + 1)
    frame = frames.build(payload[:size], frames.TEXT, mask)
    assert frames.split(frame) == ([(frames.TEXT, payload[:size])], b"")


@pytest.mark.parametrize("size", [5, 200, 70000])
def test_a_frame_is_not_whole_before_its_last_byte(size):
    frame = frames.build(b"x" * size, mask=MASK)
    for cut in (1, 2, 3, 9, len(frame) - 1):
        assert frames.split(frame[:cut]) == ([], frame[:cut])


def test_an_echo_is_unmasked_and_leaves_the_rest():
    two = frames.build(b"one", mask=MASK) + frames.build(b"two", frames.TEXT, MASK)
    assert frames.echo(two + two[:4]) == (frames.build(b"one") + frames.build(b"two", frames.TEXT), two[:4])


def test_a_ping_gets_a_pong_and_a_pong_nothing():
    assert frames.echo(frames.build(b"!", frames.PING, MASK)) == (frames.build(b"!", frames.PONG), b"")
    assert frames.echo(frames.build(b"!", frames.PONG, MASK)) == (b"", b"")


def test_wsproto_understands_our_server():
    client = WSConnection(ConnectionType.CLIENT)
    head = client.send(Request(host="x", target="/ws"))
    client.receive_data(frames.switching(frames.upgrade_key(head), "A"))
    accepted = next(client.events())
    assert isinstance(accepted, AcceptConnection)
    answer, rest = frames.echo(client.send(BytesMessage(data=b"hello")) + client.send(Ping(b"?")))
    client.receive_data(answer)
    assert rest == b"" and [type(event) for event in client.events()] == [BytesMessage, Pong]


def test_wsproto_understands_our_client():
    server = WSConnection(ConnectionType.SERVER)
    head, accept = frames.request("x", "/ws", "x-user: john\r\n")
    server.receive_data(head)
    asked = next(server.events())
    assert asked.target == "/ws" and (b"x-user", b"john") in asked.extra_headers
    assert accept in server.send(AcceptConnection())
    server.receive_data(frames.build(b"hello", mask=MASK))
    assert next(server.events()).data == b"hello"


def test_a_request_without_a_key_is_no_upgrade():
    assert frames.upgrade_key(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") is None
