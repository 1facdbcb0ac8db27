"""Where bridges may lead: addresses in every spelling."""

from __future__ import annotations

import pytest

from carrier.core.fence import Fence

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
