"""What people call objects that nobody named: "rule 1 of tcp", "HTTP 10.0.0.9:8000". Calls, metrics and the access log keep their names."""

from __future__ import annotations

import re
from collections.abc import Sequence

_IMPLICIT = re.compile(r"(?:^|-)(?:RuleList|Rule|Route|Cluster|EndPoint)-?\d+$")
_OWN_LIST = re.compile(r"-RuleList-\d+$")


def is_implicit(name: str) -> bool:
    """Is it a name that nobody gave?"""
    return _IMPLICIT.search(name) is not None


def of_rule(name: str, rulelist: str, index: int) -> str:
    """A rule, by its place in its list from 0 on; a listener's own list is called as the listener."""
    return f"rule {index + 1} of {_OWN_LIST.sub('', rulelist)}" if is_implicit(name) else name


def of_cluster(name: str, protocol: object, addresses: Sequence[str]) -> str:
    """A cluster, by its protocol and first address."""
    if not is_implicit(name):
        return name
    return " ".join([str(protocol), *addresses[:1]]) + (", ..." if len(addresses) > 1 else "")
