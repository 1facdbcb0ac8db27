"""What rules can tell of a client's address."""

from __future__ import annotations

from carrier.rules.match import Matcher
from carrier.rules.places import networks_of


def matcher(*matches: object) -> Matcher:
    return Matcher([(f"r{i}", match) for i, match in enumerate(matches)])


def test_addresses_in_the_same_networks_are_the_same_to_the_rules() -> None:
    nets = [{"matchSource": {"cidr": cidr}} for cidr in ("10.0.0.0/8", ["10.1.0.0/16", "2001:db8::/32"], "10.0.0.0/8")]
    found = networks_of([matcher(*nets)])
    assert found is not None
    places = {address: found.around(address) for address in ("10.2.0.1", "10.1.0.1", "::ffff:10.1.0.2", "2001:db8::1", "192.0.2.1", "x")}
    assert places["10.1.0.1"] == places["::ffff:10.1.0.2"]
    assert len(set(places.values())) == 4 and places["192.0.2.1"] == places["x"] == ()


def test_rules_that_look_at_more_of_a_connection_or_at_nothing_of_it_have_no_places() -> None:
    assert networks_of([matcher({"matchHeader": {"name": "a", "value": "b"}})]) is None
    source = {"matchSource": {"cidr": "10.0.0.0/8"}}
    assert networks_of([matcher(source), matcher({"op": "test", "path": "/TCP/src_port", "value": 1})]) is None
    assert networks_of([matcher([source, {"matchSni": {"sni": "a.org"}}])]) is None
