import socket
import sys

import pytest

from benchmarks.check import check, check_tcp, check_udp
from benchmarks.measure import PROXY_CORE
from benchmarks.peers import usual_job
from benchmarks.processes import Children, free_ports, start_backend, wait_for_port


def relay(children, kind, backend):
    port = free_ports(1)[0]
    child = children.start("ceiling", [sys.executable, "-m", "benchmarks.ceiling", kind, str(port), str(backend)], PROXY_CORE)
    if kind == "tcp":
        wait_for_port(port, child)
    return port


@pytest.fixture
def children():
    with Children() as children:
        yield children


def test_it_relays_tcp_and_http_without_a_look(children):
    ports = start_backend(children, ["D"])
    check_tcp(relay(children, "tcp", ports["tcp"]))
    check(usual_job("http", relay(children, "tcp", ports["D"]), {"D": ports["D"]}), routes=False)


def test_it_relays_udp_for_several_peers(children):
    port = relay(children, "udp", start_backend(children, [])["udp"])
    check_udp(port)
    check_udp(port)


def test_bytes_that_come_before_the_upstream_is_there_are_kept(children):
    port = relay(children, "tcp", start_backend(children, [])["tcp"])
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port), 2) as sock:
            sock.sendall(b"early")
            assert sock.recv(64) == b"early"


def test_a_refused_upstream_ends_the_connection(children):
    port = relay(children, "tcp", free_ports(1)[0])
    with socket.create_connection(("127.0.0.1", port), 2) as sock:
        assert sock.recv(1) == b""


def test_the_end_of_one_side_ends_the_other(children):
    port = relay(children, "tcp", start_backend(children, [])["bulk"])
    with socket.create_connection(("127.0.0.1", port), 2) as sock:
        sock.sendall(b"3\n")
        assert sock.makefile("rb").read() == b"\0\0\0"
