"""What the cluster's objects say of bridges."""

import pytest

from carrier.gefyra.wanted import in_her_words

SERVICE = "gefyra-stowaway-proxy-10020.gefyra.svc.cluster.local:10020"
BRIDGE = {
    "portMappings": ["8000:80", "9000:90"],
    "destinationIP": "192.168.100.2",
    "clusterEndpoint": {"80": SERVICE, "90": "stowaway:10021"},
}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (f"{SERVICE} refused: is your container listening on 10020?", "192.168.100.2:8000 refused: is your container listening on 8000?"),
        ("stowaway:10021 cannot be reached", "192.168.100.2:9000 cannot be reached"),
        ("no TLS: does your container speak TLS on 10021, with", "no TLS: does your container speak TLS on 9000, with"),
        ("depends on 100200", "depends on 100200"),
        ("", ""),
    ],
)
def test_what_is_said_of_a_service_is_told_of_the_laptop_behind_it(said, told):
    assert in_her_words(said, BRIDGE) == told


def test_a_bridge_that_leads_straight_to_its_laptop_is_told_what_is_said():
    assert in_her_words("10.0.0.9:8000 refused", {"portMappings": ["8000:80"], "destinationIP": "10.0.0.9"}) == "10.0.0.9:8000 refused"
