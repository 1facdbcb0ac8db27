import socket
import urllib.request

import pytest

from benchmarks import backend, frames
from benchmarks.backend import END, _Request
from benchmarks.processes import Children, start_backend

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"


@pytest.fixture(scope="module")
def ports():
    with Children() as children:
        yield start_backend(children, ["A", "B"])


def connect(port):
    return socket.create_connection(("127.0.0.1", port), 2)


@pytest.mark.parametrize("whole", [GET, POST, CHUNKED])
def test_a_request_is_found_however_it_is_cut(whole):
    for cut in range(1, len(whole)):
        request = _Request()
        first, second = request.feed(whole[:cut]), request.feed(whole[cut:])
        assert first + second == [whole[: whole.index(END) + 4]]
        assert not request.started


def test_requests_that_come_together_are_told_apart():
    heads = _Request().feed(POST + GET + CHUNKED)
    assert [head[:6] for head in heads] == [b"POST /", b"GET / ", b"POST /"]


@pytest.mark.parametrize("name", ["A", "B"])
def test_each_server_says_its_name(ports, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{ports[name]}/any") as answer:
        assert answer.headers["x-backend"] == name
        assert answer.read() == f"answered by {name}\n".encode()


def test_a_large_answer_has_64_kib(ports):
    with urllib.request.urlopen(f"http://127.0.0.1:{ports['A']}/64k") as answer:
        assert len(answer.read()) == backend.LARGE


def test_unique_answers_differ_in_their_heads_only(ports):
    seen = []
    for _ in range(2):
        with urllib.request.urlopen(f"http://127.0.0.1:{ports['A']}/unique") as answer:
            seen.append((answer.headers["x-request-id"], answer.headers["x-backend"], answer.read()))
    assert seen[0][0] != seen[1][0] and seen[0][1:] == seen[1][1:] == ("A", b"answered by A\n")


def test_a_post_in_pieces_is_answered_once_it_is_whole(ports):
    with connect(ports["A"]) as sock:
        for piece in (POST[:20], POST[20:-3], POST[-3:]):
            sock.sendall(piece)
        assert sock.recv(4096).count(b"HTTP/1.1 200 OK") == 1


def test_a_websocket_echoes(ports):
    head, accept = frames.request("x", "/ws")
    with connect(ports["B"]) as sock:
        sock.sendall(head)
        answer = sock.recv(4096)
        assert accept in answer and b"x-backend: B" in answer
        sock.sendall(frames.build(b"hello", mask=b"mask"))
        assert sock.recv(4096) == frames.build(b"hello")


def test_tcp_and_udp_echo(ports):
    with connect(ports["tcp"]) as sock:
        sock.sendall(b"stream")
        assert sock.recv(64) == b"stream"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect(("127.0.0.1", ports["udp"]))
        sock.send(b"datagram")
        assert sock.recv(64) == b"datagram"


def test_the_sink_counts_datagrams_once(ports):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect(("127.0.0.1", ports["sink"]))
        for _ in range(5):
            sock.send(b"one way")
        seen = []
        for _ in range(2):
            sock.send(b"stats?")
            seen.append(int(sock.recv(64)))
    assert seen == [5, 0]


def test_bulk_sends_as_much_as_asked(ports):
    wanted, count = backend.BULK_CHUNK + 12345, 0
    with connect(ports["bulk"]) as sock:
        sock.sendall(b"%d\n" % wanted)
        while data := sock.recv(1 << 20):
            count += len(data)
    assert count == wanted
