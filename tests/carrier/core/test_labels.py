"""What people call what nobody named, in status, reasons, logs and events."""

from __future__ import annotations

import pytest

from carrier.core.labels import of_cluster, of_rule
from tests import support as s
from tests.ports import free_port


@pytest.mark.parametrize(
    ("name", "rulelist", "index", "label"),
    [
        ("john", "web-RuleList-0", 0, "john"),
        ("web-RuleList-0-Rule-3", "web-RuleList-0", 1, "rule 2 of web"),
        ("Rule-7", "users", 0, "rule 1 of users"),
        ("my-Rule", "users", 0, "my-Rule"),
    ],
)
def test_a_rule_is_called_by_its_name_or_its_place(name: str, rulelist: str, index: int, label: str):
    assert of_rule(name, rulelist, index) == label


def test_a_cluster_is_called_by_its_name_or_by_what_it_leads_to():
    implicit = "web-RuleList-0-Rule-0-Route-0-Cluster-0"
    assert of_cluster("shadow", "HTTP", ["10.0.0.1:80"]) == "shadow" and of_cluster(implicit, "Echo", []) == "Echo"
    assert of_cluster(implicit, "HTTP", ["10.0.0.1:80"]) == "HTTP 10.0.0.1:80"
    assert of_cluster(implicit, "HTTP", ["10.0.0.1:80", "10.0.0.2:80"]) == "HTTP 10.0.0.1:80, ..."


async def test_a_rule_that_moves_is_called_by_its_new_place():
    def web(*rules: str) -> object:
        matches = [{"matchHeader": {"name": "x-user", "value": user}} for user in rules]
        action = {"route": {"destination": "echo"}}
        return s.listener(
            "web", protocol="HTTP", port=port, rules=[*({"match": match, "action": action} for match in matches), {"action": action}]
        )

    port = free_port()
    async with s.running(s.config(clusters=[s.echo()], listeners=[web("john")])) as proxy:
        last = s.config(clusters=[s.echo()], listeners=[web("john")]).rulelists["web-RuleList-0"].rules[-1]
        fields = {"x-carrier-explain": "1"}
        assert (await s.http(port, headers=fields))[1]["x-carrier-why"] == "rule 2 of web: anything"
        async with proxy.lock:
            rules = proxy.config.rulelists["web-RuleList-0"].rules
            await proxy.apply(s.config(base=proxy.config, rulelists=[{"name": "web-RuleList-0", "rules": list(rules[1:])}]))
        assert (await s.http(port, headers=fields))[1]["x-carrier-why"] == "rule 1 of web: anything"
        assert (await s.http(port, headers=fields))[1]["x-carrier-rule"] == last
