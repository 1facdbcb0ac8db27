import pytest

from benchmarks.load.flow import Run, User
from benchmarks.load.http import TRACE, Answers, HttpFlow
from benchmarks.load.tally import Tally

PLAIN = b"HTTP/1.1 200 OK\r\nX-Backend: A\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nx-backend: B\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;a=b\r\nyou\r\n0\r\nt: x\r\n\r\n"
EMPTY = b"HTTP/1.1 204 No Content\r\nx-backend: A\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN


def reader():
    return Answers(b"x-backend")


@pytest.mark.parametrize(
    ("whole", "answer"),
    [(PLAIN, (200, "A", True)), (CHUNKED, (200, "B", True)), (EMPTY, (204, "A", True)), (INTERIM, (200, "A", True))],
)
def test_an_answer_is_found_however_it_is_cut(whole, answer):
    for cut in range(1, len(whole)):
        answers = reader()
        assert answers.feed(whole[:cut]) is None
        assert answers.feed(whole[cut:]) == answer
        assert not answers.started


def test_one_byte_at_a_time_is_enough():
    answers = reader()
    assert [answers.feed(CHUNKED[index : index + 1]) for index in range(len(CHUNKED))][-1] == (200, "B", True)


def test_an_answer_to_head_has_no_body():
    assert Answers(b"x-backend", head_only=True).feed(PLAIN[:-5]) == (200, "A", True)


def test_an_answer_without_a_length_ends_with_its_connection():
    answers = reader()
    assert answers.feed(b"HTTP/1.1 200 OK\r\nx-backend: A\r\nconnection: close\r\n\r\nsome") is None
    assert answers.closed() == (200, "A", False)


def test_a_cut_answer_is_none():
    answers = reader()
    answers.feed(PLAIN[:-1])
    assert answers.closed() is None


def test_bytes_after_the_answer_are_an_error():
    with pytest.raises(ValueError, match="bytes after"):
        reader().feed(PLAIN + b"x")


def test_what_is_no_answer_is_an_error():
    with pytest.raises(ValueError, match="no status line"):
        reader().feed(b"SSH-2.0-x\r\n\r\n")


class Wire:
    def __init__(self):
        self.heard = []

    def write(self, data):
        self.heard.append(data)

    def abort(self):
        pass


def test_a_trace_id_differs_from_request_to_request():
    user = User("john", "x", 1, b"GET / HTTP/1.1\r\nt: " + TRACE + b"\r\n\r\n")
    flow, wire = HttpFlow(user, Run(Tally(), True, 1.0)), Wire()
    flow.connection_made(wire)
    flow.data_received(PLAIN)
    first, second = wire.heard
    assert first != second and len(first) == len(second) == len(user.request) - len(TRACE) + 16


def test_answers_known_by_their_bytes_count_like_the_others():
    flow, wire = HttpFlow(User("john", "x", 1, b"GET", expect="B"), Run(Tally(), True, 1.0)), Wire()
    flow.connection_made(wire)
    for _ in range(3):
        flow.data_received(PLAIN)
    flow.data_received(CHUNKED)
    assert flow.run.tally.answered_by == {"A": 3, "B": 1} and flow.run.tally.wrong.total() == 3
    assert len(wire.heard) == 5
