"""What a call or a file gives for one object: its members looked at in l7mp's order, with l7mp's texts where scripts and its operator rely
on them (contract, section 1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from carrier.core.metadata import MISSING
from carrier.errors import Error
from carrier.model import LoadBalancer, Rewrite

Raw = Mapping[str, Any]
"""A decoded JSON or YAML object."""

POLICIES = {
    "Trivial": "Trivial",
    "None": "None",
    "HashRing": "HashRing",
    "ConsistentHash": "HashRing",
    "round_robin": "round_robin",
    "random": "random",
    "least_sessions": "least_sessions",
    "sticky": "sticky",
}
"""Policy as written -> policy as shown; l7mp echoes ConsistentHash as HashRing."""

NAME = re.compile(r"\S+").fullmatch
"""What a name of an object is."""
TITLES = {
    "listener": ("listener", "Listener"),
    "cluster": ("cluster", "Cluster"),
    "endpoint": ("endpoint", "Endpoint"),
    "rulelist": ("RuleList", "RuleList"),
    "rule": ("rule", "Rule"),
    "route": ("route", "Route"),
}
"""What l7mp's error texts call an object: after "Cannot add", and before its name."""

_AN_OBJECT = (dict,)
_A_LIST = (list,)
_MEMBERS: dict[str, tuple[tuple[str, bool, tuple[type, ...]], ...]] = {
    "listener": (("spec", True, (dict, list)), ("rules", True, (str, list, dict))),
    "cluster": (("spec", True, (dict, list)),),
    "rulelist": (("rules", True, _A_LIST),),
    "rule": (("action", True, _AN_OBJECT),),
    "route": (("ingress", False, _A_LIST), ("egress", False, _A_LIST), ("retry", False, _AN_OBJECT)),
    "endpoint": (("spec", True, _AN_OBJECT),),
}
"""Members that l7mp looks at before anything else, in its order: name, whether it must be there, what it may be. A list is an object to
JavaScript; a spec that is one has no protocol, and l7mp says so."""


def refused(text: str) -> Error:
    """A call that cannot be done, with the text that its caller sees (status 400)."""
    return Error("config", text)


def spelled(value: object) -> str:
    """A value as JavaScript puts it into a text (ECMA-262 ToString): l7mp's messages name what they saw. MISSING is its `undefined`."""
    if isinstance(value, str):
        return value
    if value is MISSING:
        return "undefined"
    if isinstance(value, dict):
        return "[object Object]"
    if isinstance(value, list):
        return ",".join("" if item is None else spelled(item) for item in value)
    return msgspec.json.encode(value).decode()


def object_of(kind: str, raw: object, *first: str) -> Raw:
    """The decoded object, if it is one and its members look like it. first: members that are looked at before the others ("name")."""
    cannot = f"Cannot add {TITLES[kind][0]}:"
    if not isinstance(raw, dict):
        raise refused(f"{cannot} An object (a set of key-value pairs) is expected")
    if "name" in first and "name" not in raw:
        raise refused(f"{cannot} Property name is required")
    if "name" in first or (kind == "endpoint" and raw.get("name")):
        name_of(kind, raw["name"])
    for member, required, types in _MEMBERS[kind]:
        if member not in raw:
            if required:
                raise refused(f"{cannot} Property {member} is required")
        elif not isinstance(raw[member], types):
            raise refused(f"{cannot} Property {member} is invalid")
    return raw


def spec_of(obj: Raw) -> dict[str, Any]:
    spec: object = obj["spec"]
    return spec if isinstance(spec, dict) else {}


def is_nothing(value: object) -> bool:
    """A member that l7mp takes for one that is not there: null, false, 0 and the empty text, but no empty list or object."""
    return value is None or (not value and not isinstance(value, dict | list))


def name_of(kind: str, raw: object) -> str:
    """A name: any text without white space. l7mp takes numbers too; they become text."""
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        raw = spelled(raw)
    if not isinstance(raw, str) or not NAME(raw):
        raise refused(f"Cannot add {TITLES[kind][0]}: Property name is invalid")
    return raw


def mapping_of(kind: str, obj: Raw, field: str) -> dict[str, Any]:
    value = obj.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise refused(f"Cannot add {TITLES[kind][0]}: Property {field} is invalid")
    return value


def list_of(kind: str, obj: Raw, field: str) -> list[Any]:
    value = obj.get(field)
    if value is None or (value == 0 and field == "endpoints"):  # a dump that is posted again says how many endpoints there are
        return []
    if not isinstance(value, list):
        raise refused(f"Cannot add {TITLES[kind][0]}: Property {field} is invalid")
    return value


def text_of(kind: str, obj: Raw, field: str) -> str | None:
    value = obj.get(field)
    if is_nothing(value):
        return None
    if not isinstance(value, str):
        raise refused(f"Cannot add {TITLES[kind][0]}: Property {field} is invalid")
    return value


def loadbalancer_of(obj: Raw, default: str) -> LoadBalancer:
    raw = obj.get("loadbalancer")
    if is_nothing(raw):
        return LoadBalancer(default)
    if not isinstance(raw, dict) or is_nothing(raw.get("policy")):
        raise refused("LoadBalancer.create: TODO: Policy undefined")
    policy = raw["policy"]
    if not isinstance(policy, str) or policy not in POLICIES:
        raise refused(f'LoadBalancer.create: TODO: Policy "{spelled(policy)}" unimplemented')
    key = None if is_nothing(raw.get("key")) else raw["key"]
    if key is not None and not isinstance(key, str):
        raise refused("Cannot add cluster: Property loadbalancer.key is invalid")
    return LoadBalancer(POLICIES[policy], key)


def weight_of(obj: Raw) -> int | float:
    weight = obj.get("weight")
    if weight is None:
        return 1
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < 1e9:
        raise refused("Cannot add endpoint: Property weight is invalid")
    return weight


def rewrite_of(raw: object) -> Rewrite:
    if not isinstance(raw, dict) or not isinstance(raw.get("path"), str):
        raise refused("Cannot add rule: Property rewrite is invalid")
    return Rewrite(raw["path"], raw.get("value"))


def position(raw: int | str) -> int | None:
    """A position in a rule list, or None if it is not a whole number."""
    text = str(raw)
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else None
