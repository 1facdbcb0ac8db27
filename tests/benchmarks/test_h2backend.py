import asyncio

from benchmarks.h2check import Client
from benchmarks.h2wire import HELLO, PREFACE, frame
from benchmarks.processes import Children, start_backend

GET = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
CALL = [(":method", "POST"), *GET[1:], ("te", "trailers"), ("content-type", "application/grpc")]


def test_gets_get_the_name_and_calls_their_message_again_and_again():
    with Children() as children:
        port = start_backend(children, ["A"])["A"]
        with Client(port, 5) as client:
            for n in range(20):
                head, body, trailers = client.ask(GET)
                assert (head[":status"], head["x-backend"], body, trailers) == ("200", "A", b"answered by A\n", {})
                message = b"m" * (n * 3000 + 5)
                head, body, trailers = client.ask(CALL, message[:16000])
                assert (head["content-type"], body, trailers) == ("application/grpc", message[:16000], {"grpc-status": "0"})


def test_a_preface_in_pieces_is_one(monkeypatch):
    from benchmarks.h2backend import H2Server

    written = []

    class Transport(asyncio.Transport):
        def write(self, data):
            written.append(data)

    server = H2Server("A", Transport())
    server.data_received(PREFACE[:20])
    assert not written
    server.data_received(PREFACE[20:] + frame(4, 0, 0))
    assert written == [HELLO + frame(4, 1, 0)]
