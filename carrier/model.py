"""The configuration as frozen values. Nothing in a `Config` is changed after it was made, also not the dicts it holds."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class EndPoint(msgspec.Struct, frozen=True):
    """One upstream address. spec: `address` and, optionally, `port`; weight: its share of new sessions, 0 for none."""

    name: str
    spec: dict[str, Any]
    weight: int | float = 1


class LoadBalancer(msgspec.Struct, frozen=True):
    """How a cluster chooses: a name of POLICIES; `key` is the path into the session metadata that HashRing and sticky go by."""

    policy: str = "Trivial"
    key: str | None = None


class Cluster(msgspec.Struct, frozen=True):
    """A named group of endpoints that speak one protocol, or a virtual cluster, which has none."""

    name: str
    spec: dict[str, Any]
    endpoints: tuple[EndPoint, ...] = ()
    loadbalancer: LoadBalancer = LoadBalancer()
    options: dict[str, Any] = {}
    owner: str | None = None


class Route(msgspec.Struct, frozen=True):
    """Where a session goes: destination, the transforms on both ways, retry (l7mp: milliseconds), and who answers instead."""

    name: str
    destination: str
    ingress: tuple[str, ...] = ()
    egress: tuple[str, ...] = ()
    retry: dict[str, Any] = {}
    fallback: str | None = None
    options: dict[str, Any] = {}
    owner: str | None = None


class Rewrite(msgspec.Struct, frozen=True):
    """Set the metadata at `path` to `value`."""

    path: str
    value: Any


class Action(msgspec.Struct, frozen=True):
    """What a rule does: go on in rule list `apply`, or rewrite and take `route`."""

    rewrite: tuple[Rewrite, ...] = ()
    route: str | None = None
    apply: str | None = None


class Rule(msgspec.Struct, frozen=True):
    """A match as it was written, and an action. bridge: the user bridge that made the rule."""

    name: str
    match: Any
    action: Action
    owner: str | None = None
    bridge: str | None = None


class RuleList(msgspec.Struct, frozen=True):
    """Names of rules; order "first": the first that matches wins, "specific": the most specific one (Gateway API)."""

    name: str
    rules: tuple[str, ...]
    order: Literal["first", "specific"] = "first"
    owner: str | None = None


class Listener(msgspec.Struct, frozen=True):
    """A bound address; `rules` names its rule list."""

    name: str
    spec: dict[str, Any]
    rules: str
    options: dict[str, Any] = {}
    owner: str | None = None


class Bridge(msgspec.Struct, frozen=True):
    """A user bridge: what was put, and the names of what it stands on. expires: seconds of the wall clock (time.time), or None."""

    name: str
    user: str
    spec: dict[str, Any]
    listener: str
    rules: tuple[str, ...] = ()
    cluster: str = ""
    expires: float | None = None


class Admin(msgspec.Struct, frozen=True):
    """Settings of the process. options: fields that are none of l7mp's."""

    log_level: str = "info"
    strict: bool = False
    log_file: str | None = None
    access_log_path: str | None = None
    offload: str | bool | None = None
    offload_ifs: str | list[str] | None = None
    options: dict[str, Any] = {}


class Counters(msgspec.Struct, frozen=True):
    """The next number of each kind of implicit name; l7mp counts globally, and only when it makes a name."""

    rulelist: int = 0
    rule: int = 0
    route: int = 0
    cluster: int = 0
    endpoint: int = 0


class Config(msgspec.Struct, frozen=True):
    """Everything the proxy is told, at one revision."""

    admin: Admin = Admin()
    listeners: dict[str, Listener] = {}
    clusters: dict[str, Cluster] = {}
    rulelists: dict[str, RuleList] = {}
    rules: dict[str, Rule] = {}
    routes: dict[str, Route] = {}
    bridges: dict[str, Bridge] = {}
    counters: Counters = Counters()
    revision: int = 0

    def find_endpoint(self, name: str) -> tuple[Cluster, EndPoint] | None:
        """The endpoint and its cluster; endpoint names are global over clusters."""
        for cluster in self.clusters.values():
            for endpoint in cluster.endpoints:
                if endpoint.name == name:
                    return cluster, endpoint
        return None


def same(a: object, b: object) -> bool:
    """Deep equality of configuration values that keeps 1, 1.0 and true apart, as JSON does and Python's `==` does not."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        assert isinstance(b, dict)
        return len(a) == len(b) and all(key in b and same(value, b[key]) for key, value in a.items())
    if isinstance(a, (list, tuple)):
        assert isinstance(b, (list, tuple))
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, msgspec.Struct):
        return all(same(getattr(a, field), getattr(b, field)) for field in a.__struct_fields__)
    return bool(a == b)
