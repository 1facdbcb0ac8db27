"""Whose socket calls? Real sockets on loopback, of both families, and what the kernel says of them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from carrier.admin import owner


@contextmanager
def connected(host: str, uid: int | None = None) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client, whose socket is of this user, and the server's end."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        if uid is not None:
            os.seteuid(uid)
        client = socket.socket(family)
        if uid is not None:
            os.seteuid(0)
        with client:
            client.connect(server.getsockname())
            end, _ = server.accept()
            with end:
                yield client, end


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "127.0.0.9"])
def test_the_other_end_is_our_users(host: str) -> None:
    with connected(host) as (client, server):
        assert owner.of(client.getsockname()[:2], server.getsockname()[:2], False) == os.geteuid()


def test_an_address_that_is_written_as_ipv6_is_the_same() -> None:
    with connected("127.0.0.1") as (client, server):
        port, at = client.getsockname()[1], server.getsockname()[1]
        assert owner.of(("::ffff:127.0.0.1", port), ("::ffff:127.0.0.1", at), False) == os.geteuid()


def test_our_own_process_is_nobody() -> None:
    with connected("127.0.0.1") as (client, server):
        assert owner.of(client.getsockname(), server.getsockname()) is None


def test_who_is_not_in_the_table_is_nobody() -> None:
    assert owner.of(("127.0.0.1", 1), ("127.0.0.1", 2)) is None
    assert owner.of(("", 0), ("nonsense", 0)) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
def test_another_user_is_told_apart_and_a_socket_that_nobody_holds_is_nobodys() -> None:
    with connected("127.0.0.1", 4711) as (client, server):
        ends = client.getsockname(), server.getsockname()
        assert owner.of(*ends, False) == 4711
        client.shutdown(socket.SHUT_WR)
        assert owner.of(*ends, False) == 4711
        client.close()
        assert owner.of(*ends, False) is None
