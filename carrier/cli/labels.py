"""What people call objects that nobody named: "rule 1 of tcp", "Echo". The API's answers keep the implicit names, which calls need."""

from __future__ import annotations

import re
from collections.abc import Mapping

from carrier.cli.client import Dict

_IMPLICIT = re.compile(r"-(?:RuleList|Rule|Route|Cluster|EndPoint)-?\d+$|^(?:RuleList|Rule|Route|Cluster|EndPoint)-?\d+$")


def is_implicit(name: str) -> bool:
    """Is it a name that nobody gave?"""
    return _IMPLICIT.search(name) is not None


def labels(status: Dict) -> Mapping[str, str]:
    """Implicit name -> what to show, of rules and clusters; made of what GET /status shows."""
    found: dict[str, str] = {}
    for listener in status["listeners"]:
        for number, rule in enumerate(listener["rules"], 1):
            if is_implicit(rule["rule"]):
                found[rule["rule"]] = f"rule {number} of {listener['name']}"
    for cluster in status["clusters"]:
        if is_implicit(cluster["name"]):
            addresses = [endpoint["address"] for endpoint in cluster["endpoints"]]
            found[cluster["name"]] = " ".join([str(cluster["protocol"]), *addresses[:1]]) + (", ..." if len(addresses) > 1 else "")
    return found
