import socket
import threading

from benchmarks.h2 import CALLS, REPEATING, UNIQUE, question
from benchmarks.h2wire import HELLO, frame
from benchmarks.load.h2 import plan, run, shown
from benchmarks.processes import Children, free_ports, start_backend


def test_each_kind_of_request_is_answered_and_who_answered_is_told():
    with Children() as children:
        port = start_backend(children, ["D"])["D"]
        for questions in (REPEATING, UNIQUE, CALLS):
            tally = run(plan(port, questions, 2, 4, 0.4))
            assert tally.answers > 20 and not tally.errors, tally.errors
            wrong = tally.wrong.total()
            assert (wrong == 0) if questions is CALLS else (0 < wrong < tally.answers), "only D is there"
            assert 0 < tally.latency(0.5) < 2


def test_a_server_that_is_not_there_or_goes_away_is_counted():
    assert run(plan(free_ports(1)[0], [question("GET", "/", [], "", "D")], 1, 1, 0.1)).errors
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def serve():
            connection, _ = server.accept()
            connection.recv(65536)
            connection.sendall(HELLO + frame(7, 0, 0, b"\0" * 8))
            connection.recv(65536)
            connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        tally = run(plan(server.getsockname()[1], [question("GET", "/", [], "", "D")], 1, 3, 0.05))
        thread.join()
    assert tally.errors == {"GOAWAY": 3} and not tally.answers


def test_an_answer_of_somebody_else_is_named():
    assert shown(b"answered by B\n") == "B" and shown(b"") == "nobody"
