import pytest

from benchmarks import check
from benchmarks.check import WrongRoute
from benchmarks.h2check import Client
from benchmarks.peers import Job
from benchmarks.processes import Children, free_ports, start_backend


def test_a_server_that_routes_nothing_is_found_out():
    with Children() as children:
        port = start_backend(children, ["D"])["D"]
        check.check(Job("h2", port, {"D": port}, prefix_to="D"), routes=True)
        check.check(Job("grpc", port, {"D": port}, prefix_to="D"), routes=True)
        with pytest.raises(WrongRoute, match="wanted 200 from A, got 200 from D"):
            check.check(Job("h2", port, {"D": port}, users={"alice": "A"}), routes=True)


def test_who_speaks_no_http_2_is_found_out():
    with Children() as children:
        port = start_backend(children, ["D"])["tcp"]
        with pytest.raises(WrongRoute, match="no answer over HTTP/2"):
            check.check(Job("h2", port, {"D": port}), routes=True)
    with pytest.raises(OSError):
        Client(free_ports(1)[0], 1)
