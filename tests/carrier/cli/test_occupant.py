"""Who has a port: this process, when it listens there."""

import os
import socket

from carrier.cli.occupant import occupant


def mine(found):
    return found.endswith(f"(process {os.getpid()})") and not found.startswith(" ")


def test_a_process_that_listens_is_found_by_its_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert mine(occupant(server.getsockname()[1]))


def test_a_process_that_listens_on_ipv6_is_found_too():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        assert mine(occupant(server.getsockname()[1]))


def test_a_datagram_socket_is_found_among_datagram_sockets_only():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        assert mine(occupant(port, udp=True)) and not mine(occupant(port))


def test_a_connection_from_a_port_does_not_have_it():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert occupant(client.getsockname()[1]) == ""


def test_a_system_that_tells_nothing_is_no_error(tmp_path):
    assert occupant(80, root=str(tmp_path)) == ""
