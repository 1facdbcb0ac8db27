"""Where bridges may lead: addresses in every spelling."""

from __future__ import annotations

import socket

import pytest

from carrier.core.fence import Fence, Own
from carrier.core.lookup import Place

LINK = ["169.254.169.254", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "[fe80::1]", "fe80::1%eth0"]
LINK += ["64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "fd00:ec2::254"]


@pytest.mark.parametrize("host", LINK)
def test_the_metadata_service_of_a_cloud_is_refused_unless_it_is_named(host: str) -> None:
    assert not Fence().lets(host)
    assert not Fence(["0.0.0.0/0", "::/0"]).lets(host)
    assert Fence(["169.254.0.0/16", "fe80::/10", "fd00:ec2::/64"]).lets(host)


def test_others_are_let_where_nothing_is_said_and_else_only_those_named() -> None:
    for host in ("10.0.0.9", "127.0.0.1", "2001:db8::1", "name.example", "192.0.2.1"):
        assert Fence().lets(host)
    fence = Fence(["10.0.0.0/8", "2001:db8::/32"])
    assert fence.lets("10.1.2.3") and fence.lets("::ffff:10.1.2.3") and fence.lets("2001:db8::1")
    assert not fence.lets("11.0.0.1") and not fence.lets("127.0.0.1") and not fence.lets("2001:db9::1")
    assert not Fence([]).lets("10.0.0.1")


@pytest.mark.parametrize("networks", ["10.0.0.0/8", 5, ["nonsense"], ["10.0.0.1/8"], [None]])
def test_what_is_no_list_of_networks_is_refused(networks: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        Fence(networks)  # type: ignore[arg-type]


TCP = ("tcp", "*", 80)
NAMES = {"mine.example": [Place(socket.AF_INET, "127.0.0.1")], "theirs.example": [Place(socket.AF_INET, "192.0.2.77")]}
HERE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "::1",
    "[::1]",
    "::",
    "::ffff:127.0.0.1",
    "localhost",
    "LOCALHOST.",
    "a.localhost",
    "mine.example",
]


@pytest.mark.parametrize("host", [*HERE, socket.gethostname()])
def test_every_name_of_this_machine_leads_to_who_listens_at_all_addresses(host: str) -> None:
    for bound in ("*", "::"):
        assert Own([("tcp", bound, 80)]).at("tcp", host, 80, NAMES)
    assert not Own([TCP]).at("tcp", host, 81, NAMES) and not Own([TCP]).at("udp", host, 80, NAMES) and not Own().at("tcp", host, 80, NAMES)


@pytest.mark.parametrize("host", ["192.0.2.77", "2001:db8::9", "name.example", "theirs.example", "localhost.example", "", "<STALE>"])
def test_nobody_else_does(host: str) -> None:
    assert not Own([TCP, ("tcp", "127.0.0.1", 80), ("tcp", "0.0.0.0", 80)]).at("tcp", host, 80, NAMES)


def test_an_address_of_an_interface_is_one_of_ours() -> None:
    for family, anywhere in ((socket.AF_INET, "203.0.113.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            try:
                sock.connect((anywhere, 9))
            except OSError:
                continue  # this machine has no way out in this family
            mine = sock.getsockname()[0]
        assert Own([TCP]).at("tcp", mine, 80) and Own([("tcp", mine, 80)]).at("tcp", mine, 80)
        assert not Own([("tcp", "127.0.0.1", 80)]).at("tcp", mine, 80)


def test_who_listens_at_one_address_is_not_at_the_others() -> None:
    own = Own([("tcp", "127.0.0.1", 80)])
    assert own.at("tcp", "127.0.0.1", 80) and own.at("tcp", "0.0.0.0", 80) and own.at("tcp", "localhost", 80)
    assert not own.at("tcp", "127.0.0.2", 80) and not own.at("tcp", "::1", 80)
    assert Own([("tcp", "0.0.0.0", 80)]).at("tcp", "127.0.0.2", 80) and not Own([("tcp", "0.0.0.0", 80)]).at("tcp", "::1", 80)
