"""Which of our addresses a datagram came to: what the kernel says, and what it is given back."""

from __future__ import annotations

import socket

from carrier.hops.pktinfo import local_of, told, wish


def test_only_a_socket_that_is_bound_to_every_address_asks() -> None:
    for address, asks in (("0.0.0.0", True), ("127.0.0.1", False)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
            assert wish(sock) is asks


def test_what_came_with_a_datagram_sends_the_answer_from_there() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        server.bind(("0.0.0.0", 0))
        assert wish(server)
        client.bind(("127.0.0.1", 0))
        client.sendto(b"?", ("127.0.0.5", server.getsockname()[1]))
        data, ancillary, _, peer = server.recvmsg(100, 64)
        local = told(socket.AF_INET, ancillary)
        assert local is not None and local.address == "127.0.0.5"
        server.sendmsg((data,), local.control, 0, peer)
        assert client.recvfrom(100)[1][0] == "127.0.0.5"


def test_addresses_that_nobody_can_answer_from_are_none() -> None:
    assert local_of(socket.AF_INET, bytes(12)) is None
    assert local_of(socket.AF_INET6, bytes(20)) is None
    assert local_of(socket.AF_INET6, b"\xff\x02" + bytes(13) + b"\x01" + bytes(4)) is None


def test_link_local_addresses_are_of_their_interface() -> None:
    address = b"\xfe\x80" + bytes(13) + b"\x01"
    one, two = (local_of(socket.AF_INET6, address + bytes([n, 0, 0, 0])) for n in (1, 2))
    assert one is not None and two is not None and one.raw != two.raw
    plain = b"\xfd" + bytes(14) + b"\x01"
    assert local_of(socket.AF_INET6, plain + bytes([1, 0, 0, 0])) == local_of(socket.AF_INET6, plain + bytes([2, 0, 0, 0]))
