from __future__ import annotations

import socket
from itertools import count

import pytest

from tests import ports
from tests.ports import free_port, free_ports


def test_a_port_is_not_given_twice_and_is_none_that_a_client_could_get() -> None:
    found = free_ports(200, socket.SOCK_STREAM, socket.SOCK_DGRAM)
    assert len(set(found)) == 200 and all(1024 < port < 32_768 for port in found)


def test_a_port_that_is_bound_on_another_address_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.2", free_port())) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(ports, "_next", count(port - 10_000))
        assert free_port() > port
