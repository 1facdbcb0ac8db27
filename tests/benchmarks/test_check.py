import http.server
import socket
import threading

import pytest

from benchmarks import check
from benchmarks.check import WrongRoute
from benchmarks.peers import usual_job
from benchmarks.processes import Children, free_ports, start_backend

PORTS = {"A": 1, "B": 2, "D": 3}


class Stub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    routes = staticmethod(lambda path, user: "D")

    def do_GET(self):
        self.send_response(200)
        self.send_header("x-backend", self.routes(self.path, self.headers.get("x-user")))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def stub():
    server = http.server.HTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield lambda routes: (setattr(server, "RequestHandlerClass", type("S", (Stub,), {"routes": staticmethod(routes)})), server.server_port)[
        1
    ]
    server.shutdown()
    thread.join()
    server.server_close()


def right(path, user):
    return {"alice": "A", "bob": "B"}.get(user) or ("A" if path.startswith("/svc/") else "D")


def test_every_rule_is_asked_for_and_what_misses_each():
    asked = check.questions(usual_job("http", 1, PORTS))
    assert {wanted for _, _, wanted in asked} == {"A", "B", "D"}
    assert all(right(path, headers.get("x-user")) == wanted for path, headers, wanted in asked)


def test_a_proxy_that_routes_right_passes(stub):
    check.check(usual_job("http", stub(right), PORTS), routes=True)


def test_a_proxy_that_ignores_a_rule_is_refused_with_what_was_seen(stub):
    blind = stub(lambda path, user: "D")
    with pytest.raises(WrongRoute, match=r"GET / .'x-user': 'alice'.: wanted 200 from A, got 200 from D"):
        check.check(usual_job("http", blind, PORTS), routes=True)


def test_a_prefix_rule_that_beats_the_header_rules_is_refused(stub):
    with pytest.raises(WrongRoute, match=r"GET /svc/x .*wanted 200 from B, got 200 from A"):
        check.check(usual_job("http", stub(lambda path, user: "A" if path.startswith("/svc/") else right(path, user)), PORTS), routes=True)


def test_of_a_relay_only_its_default_is_asked(stub):
    check.check(usual_job("http", stub(lambda path, user: "D"), PORTS), routes=False)


def test_nobody_there_is_a_wrong_route():
    with pytest.raises(WrongRoute, match="no HTTP answer"):
        check.check(usual_job("http", free_ports(1)[0], PORTS), routes=True)


def test_an_http_answer_to_a_handshake_is_refused(stub):
    with pytest.raises(WrongRoute, match=r"WebSocket handshake: got b'HTTP/1\.1 200"):
        check.check(usual_job("websocket", stub(right), PORTS), routes=True)


def test_a_udp_port_that_does_not_echo_is_refused(monkeypatch):
    monkeypatch.setattr(check, "UDP_SECONDS", 0.2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        with pytest.raises(WrongRoute, match="no echo"):
            check.check_udp(deaf.getsockname()[1])
        with Children() as children, pytest.raises(WrongRoute, match="did not arrive"):
            check.wait_for_sink(deaf.getsockname()[1], start_backend(children, [])["sink"])


def test_the_real_servers_pass():
    with Children() as children:
        ports = start_backend(children, ["D"])
        check.check(usual_job("websocket", ports["D"], PORTS), routes=True)
        check.check(usual_job("tcp", ports["tcp"], PORTS), routes=True)
        check.check(usual_job("udp", ports["udp"], PORTS), routes=True)
        check.wait_for_sink(ports["sink"], ports["sink"])
