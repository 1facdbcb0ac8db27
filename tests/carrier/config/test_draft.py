"""Edits of the configuration: names, owners, texts, and that nothing changes when one fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from carrier.config.draft import Draft
from carrier.errors import Error
from carrier.model import Config, Listener, LoadBalancer

ECHO = {"protocol": "Echo"}
TCP = {"protocol": "TCP", "port": 9000}


def edited(config: Config, *changes: Callable[[Draft], object]) -> Config:
    draft = Draft(config)
    for change in changes:
        change(draft)
    return draft.done()


def listener(name: str = "l", port: int = 15000, rules: Any = None) -> dict[str, Any]:
    return {"name": name, "spec": {"protocol": "TCP", "port": port}, "rules": [] if rules is None else rules}


def rule(destination: Any, **more: Any) -> dict[str, Any]:
    return {"action": {"route": {"destination": destination}}, **more}


def refusal(config: Config, change: Callable[[Draft], object]) -> str:
    with pytest.raises(Error) as caught:
        change(Draft(config))
    assert caught.value.status == 400
    return caught.value.detail


INLINE = listener(
    rules=[
        {
            "action": {
                "route": {
                    "destination": {"spec": TCP, "endpoints": [{"spec": {"address": "127.0.0.1"}}]},
                    "ingress": [{"spec": ECHO}],
                    "egress": [{"spec": ECHO}],
                    "fallback": {"spec": ECHO},
                }
            }
        }
    ]
)


def test_inline_objects_get_l7mps_names_and_the_object_they_were_written_in_as_owner() -> None:
    config = edited(Config(), lambda d: d.add_listener(INLINE))
    assert config.listeners["l"] == Listener("l", {"protocol": "TCP", "port": 15000}, "l-RuleList-0")
    assert config.rulelists["l-RuleList-0"].rules == ("l-RuleList-0-Rule-0",)
    assert config.rulelists["l-RuleList-0"].owner == "listener/l"
    assert config.rules["l-RuleList-0-Rule-0"].owner == "rulelist/l-RuleList-0"
    route = config.routes["l-RuleList-0-Rule-0-Route-0"]
    assert route.owner == "rule/l-RuleList-0-Rule-0"
    stem = "l-RuleList-0-Rule-0-Route-0"
    assert (route.destination, route.ingress, route.egress) == (
        f"{stem}-Cluster-0",
        (f"{stem}-ingress-Cluster-1",),
        (f"{stem}-egress-Cluster-2",),
    )
    assert route.fallback == f"{stem}-fallback-Cluster-3"
    assert [e.name for e in config.clusters[route.destination].endpoints] == [f"{stem}-Cluster-0-EndPoint-0"]
    assert {c.owner for c in config.clusters.values()} == {f"route/{stem}"}


def test_a_failed_change_uses_up_no_name_and_leaves_nothing_half_made() -> None:
    first = edited(Config(), lambda d: d.add_listener(listener("a", rules=[rule({"spec": ECHO})])))
    before = msgspec.json.encode(first)
    bad = listener("b", rules=[rule({"spec": ECHO}), rule({"spec": {"protocol": "Nope"}})])
    assert refusal(first, lambda d: d.add_listener(bad)) == 'Cluster.create: TODO: Protocol "Nope" unimplemented'
    assert msgspec.json.encode(first) == before
    second = edited(first, lambda d: d.add_listener(listener("b", rules=[])))
    assert second.listeners["b"].rules == "b-RuleList-1"
    assert second.revision == first.revision + 1


def test_an_implicit_name_that_is_taken_gets_a_number_behind_it() -> None:
    config = edited(
        Config(),
        lambda d: d.add_rulelist({"name": "l-RuleList-0", "rules": []}),
        lambda d: d.add_listener(listener()),
    )
    assert config.listeners["l"].rules == "l-RuleList-0_1"


def test_untouched_objects_keep_their_identity() -> None:
    first = edited(Config(), lambda d: d.add_listener(listener("a")), lambda d: d.add_cluster({"name": "c", "spec": ECHO}))
    second = edited(first, lambda d: d.add_cluster({"name": "d", "spec": ECHO}))
    assert second.listeners["a"] is first.listeners["a"]
    assert second.clusters["c"] is first.clusters["c"]


TEXTS: list[tuple[str, Any, str]] = [
    ("cluster", None, "Cannot add cluster: An object (a set of key-value pairs) is expected"),
    ("cluster", [], "Cannot add cluster: An object (a set of key-value pairs) is expected"),
    ("cluster", {"name": "x"}, "Cannot add cluster: Property spec is required"),
    ("cluster", {"spec": ECHO}, "Cannot add cluster: Property name is required"),
    ("cluster", {"name": "a b", "spec": ECHO}, "Cannot add cluster: Property name is invalid"),
    ("cluster", {"name": "", "spec": ECHO}, "Cannot add cluster: Property name is invalid"),
    ("cluster", {"name": "x", "spec": {}}, 'Cluster.create: TODO: Protocol "undefined" unimplemented'),
    ("cluster", {"name": "x", "spec": {"protocol": "ROHC"}}, 'Cluster.create: TODO: Protocol "ROHC" unimplemented'),
    (
        "cluster",
        {"name": "x", "spec": TCP, "loadbalancer": {"policy": "RoundRobin"}},
        'LoadBalancer.create: TODO: Policy "RoundRobin" unimplemented',
    ),
    ("cluster", {"name": "x", "spec": TCP, "loadbalancer": {}}, "LoadBalancer.create: TODO: Policy undefined"),
    (
        "cluster",
        {"name": "x", "spec": ECHO, "endpoints": [{"spec": {}}]},
        'Adding an endpoint to a cluster of type "Echo" is not supported',
    ),
    ("cluster", {"name": "x", "spec": TCP, "endpoints": 7}, "Cannot add cluster: Property endpoints is invalid"),
    ("cluster", {"name": "x", "spec": TCP, "endpoints": [{"spec": {}, "weight": -1}]}, "Cannot add endpoint: Property weight is invalid"),
    ("listener", {"name": "x", "spec": {"protocol": "QUIC"}, "rules": []}, 'Listener.create:Unknown protocol: "QUIC"'),
    ("listener", {"name": "x", "spec": {"protocol": "TCP"}}, "Cannot add listener: Property rules is required"),
    ("listener", {"name": "x", "spec": {"protocol": "TCP"}, "rules": 5}, "Cannot add listener: Property rules is invalid"),
    ("listener", {"name": "x", "spec": {"protocol": "TCP"}, "rules": {"action": {}}}, "Cannot add listener: Property rules is invalid"),
    ("rulelist", {"name": "x", "rules": {}}, "Cannot add RuleList: Property rules is invalid"),
    ("rule", {"name": "x"}, "Cannot add rule: Property action is required"),
    ("route", {"name": "x"}, "Cannot add route: Invalid destination"),
    ("route", {"name": "x", "destination": ""}, "Cannot add route: Invalid destination"),
    ("route", {"name": "x", "destination": 5}, "Cannot add route: Invalid destination"),
    ("route", {"name": "x", "destination": {}}, "Cannot add cluster: Property spec is required"),
    ("route", {"name": "x", "destination": "d", "ingress": None}, "Cannot add route: Property ingress is invalid"),
    ("route", {"name": "x", "destination": "d", "egress": [5]}, "Cannot add route: Invalid cluster"),
    ("route", {"name": "x", "destination": "d", "retry": None}, "Cannot add route: Property retry is invalid"),
    ("rule", {"name": "x", "action": {"route": 5}}, "Cannot add rule: Invalid route"),
    ("rule", {"name": "x", "action": None}, "Cannot add rule: Property action is invalid"),
    ("rulelist", {"name": "x", "rules": [5]}, "Cannot add rule to rulelist: Invalid rule"),
    # The name is looked at before what is not there, and a member that is null is there.
    ("cluster", {"name": "a b"}, "Cannot add cluster: Property name is invalid"),
    ("cluster", {"name": "x", "spec": None}, "Cannot add cluster: Property spec is invalid"),
    ("cluster", {"name": "x", "spec": []}, 'Cluster.create: TODO: Protocol "undefined" unimplemented'),
    ("cluster", {"name": "x", "spec": {"protocol": None}}, 'Cluster.create: TODO: Protocol "null" unimplemented'),
    ("cluster", {"name": "x", "spec": {"protocol": {"TCP": {}}}}, 'Cluster.create: TODO: Protocol "[object Object]" unimplemented'),
    ("cluster", {"name": "x", "spec": {"protocol": ["A", None, 5]}}, 'Cluster.create: TODO: Protocol "A,,5" unimplemented'),
    ("cluster", {"name": "x", "spec": TCP, "loadbalancer": {"policy": ""}}, "LoadBalancer.create: TODO: Policy undefined"),
]


@pytest.mark.parametrize(("kind", "raw", "text"), TEXTS)
def test_what_is_missing_or_wrong_is_said_in_l7mps_words(kind: str, raw: Any, text: str) -> None:
    assert refusal(Config(), lambda d: getattr(d, f"add_{kind}")(raw)) == text


@pytest.mark.parametrize(
    ("kind", "raw", "text"),
    [
        ("listener", listener("x"), 'Cannot add listener: Listener "x" already defined'),
        ("cluster", {"name": "x", "spec": ECHO}, 'Cannot add cluster: Cluster "x" already defined'),
        ("rulelist", {"name": "x", "rules": []}, 'Cannot add RuleList: RuleList "x" already defined'),
        ("rule", {"name": "x", "action": {}}, 'Cannot add rule: Rule "x" already defined'),
        ("route", {"name": "x", "destination": "d"}, 'Cannot add route: Route "x" already defined'),
    ],
)
def test_a_name_is_given_once(kind: str, raw: Any, text: str) -> None:
    config = edited(Config(), lambda d: getattr(d, f"add_{kind}")(raw))
    assert refusal(config, lambda d: getattr(d, f"add_{kind}")(raw)) == text


def test_endpoint_names_are_global_over_clusters() -> None:
    endpoints = [{"name": "e", "spec": {"address": "127.0.0.1"}}]
    config = edited(Config(), lambda d: d.add_cluster({"name": "a", "spec": TCP, "endpoints": endpoints}))
    text = 'Cannot add endpoint: Endpoint "e" already defined'
    assert refusal(config, lambda d: d.add_cluster({"name": "b", "spec": TCP, "endpoints": endpoints})) == text
    assert refusal(config, lambda d: d.add_endpoint("a", endpoints[0])) == text
    assert refusal(config, lambda d: d.add_endpoint("nope", endpoints[0])) == text  # l7mp looks for the cluster last
    assert refusal(config, lambda d: d.add_endpoint("nope", {"spec": {"address": "127.0.0.1"}})) == "Not Found"


def test_an_object_is_looked_at_as_a_whole_before_its_name_is_looked_for() -> None:
    config = edited(Config(), lambda d: d.add_cluster({"name": "x", "spec": ECHO}))
    assert refusal(config, lambda d: d.add_cluster({"name": "x", "spec": "Echo"})) == "Cannot add cluster: Property spec is invalid"


def test_members_that_are_nothing_to_javascript_are_taken_as_absent() -> None:
    action = {"route": {"name": "", "destination": "", "cluster": {"name": None, "spec": ECHO}}, "apply": ""}
    config = edited(Config(), lambda d: d.add_rulelist({"name": "rl", "rules": [{"name": "", "match": 0, "action": action}]}))
    rule = config.rules["rl-Rule-0"]
    assert (rule.match, rule.action.apply, rule.action.route) == ({"match": "*"}, None, "rl-Rule-0-Route-0")
    assert config.routes["rl-Rule-0-Route-0"].destination == "rl-Rule-0-Route-0-Cluster-0"
    config = edited(Config(), lambda d: d.add_rule({"name": "r", "action": {"route": False}}))
    assert config.rules["r"].action.route is None


def test_a_virtual_cluster_has_its_own_balancer_whatever_is_posted() -> None:
    config = edited(Config(), lambda d: d.add_cluster({"name": "e", "spec": ECHO, "loadbalancer": {"policy": "RoundRobin"}}))
    assert config.clusters["e"].loadbalancer == LoadBalancer("Trivial")


def test_an_empty_retry_policy_is_kept_as_it_was_posted() -> None:
    assert edited(Config(), lambda d: d.add_route({"name": "t", "destination": "d", "retry": {}})).routes["t"].retry == {}


def test_consistent_hash_is_hash_ring_and_controllers_choose_nothing() -> None:
    config = edited(
        Config(),
        lambda d: d.add_cluster({"name": "a", "spec": TCP, "loadbalancer": {"policy": "ConsistentHash", "key": "IP/src_addr"}}),
        lambda d: d.add_cluster({"name": "b", "spec": {"protocol": "L7mpController"}}),
        lambda d: d.add_cluster({"name": "c", "spec": TCP, "loadbalancer": {"policy": "least_sessions"}}),
    )
    assert [(c.loadbalancer.policy, c.loadbalancer.key) for c in config.clusters.values()] == [
        ("HashRing", "IP/src_addr"),
        ("None", None),
        ("least_sessions", None),
    ]


def test_the_old_name_of_a_destination_is_taken_and_names_bind_late() -> None:
    config = edited(Config(), lambda d: d.add_route({"name": "r", "cluster": "not-there-yet"}))
    assert config.routes["r"].destination == "not-there-yet"
    assert config.routes["r"].retry == {"retry_on": "never", "num_retries": 1, "timeout": 2000}


# -- rule lists ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def listed() -> Config:
    rules = [{"name": "a", "action": {}}, {"name": "b", "action": {}}]
    return edited(Config(), lambda d: d.add_rulelist({"name": "rl", "rules": rules}))


@pytest.mark.parametrize(("at", "want"), [(0, ("new", "a", "b")), ("1", ("a", "new", "b")), (2, ("a", "b", "new"))])
def test_a_rule_goes_before_the_position_that_is_named(listed: Config, at: int | str, want: tuple[str, ...]) -> None:
    config = edited(listed, lambda d: d.insert_rule("rl", at, {"name": "new", "action": {}}))
    assert config.rulelists["rl"].rules == want


@pytest.mark.parametrize("at", [3, -1, "abc", "1.5"])
def test_a_position_outside_the_list_is_refused(listed: Config, at: int | str) -> None:
    assert refusal(listed, lambda d: d.insert_rule("rl", at, "a")) == f"Cannot insert rule at position {at} into rulelist"


def test_positions_that_are_not_there_are_refused_when_deleting(listed: Config) -> None:
    assert refusal(listed, lambda d: d.delete_rule_from("rl", "2")) == "Cannot delete rule at position 2 from rulelist"
    assert refusal(listed, lambda d: d.delete_rule_from("rl", "nosuch")) == "No rule nosuch on rulelist rl"
    assert refusal(listed, lambda d: d.delete_rule_from("nope", "0")) == "No such rule list: nope"


def test_a_rule_leaves_a_list_by_position_or_name_and_stays_a_rule_unless_recursive(listed: Config) -> None:
    config = edited(listed, lambda d: d.delete_rule_from("rl", "0"))
    assert config.rulelists["rl"].rules == ("b",)
    assert config.rules["a"].owner is None
    assert "b" not in edited(config, lambda d: d.delete_rule_from("rl", "b", recursive=True)).rules


def test_a_rule_that_another_list_holds_survives_a_recursive_delete(listed: Config) -> None:
    config = edited(listed, lambda d: d.add_rulelist({"name": "other", "rules": ["a"]}))
    config = edited(config, lambda d: d.delete("rulelist", "rl", recursive=True))
    assert list(config.rules) == ["a"]
    assert config.rules["a"].owner is None


# -- deleting ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("listener", 'Cannot delete listener: Unknown listener "x"'),
        ("cluster", 'Cannot delete cluster: Unknown cluster "x"'),
        ("rulelist", 'Cannot delete RuleList: Unknown RuleList "x"'),
        ("rule", 'Cannot delete rule: Unknown rule "x"'),
        ("route", 'Cannot delete Route: Unknown Route "x"'),
        ("endpoint", "Not Found"),
    ],
)
def test_what_is_not_there_cannot_be_deleted(kind: str, text: str) -> None:
    assert refusal(Config(), lambda d: d.delete(kind, "x")) == text


def test_a_recursive_delete_takes_all_that_is_owned() -> None:
    empty = edited(Config(), lambda d: d.add_cluster({"name": "mine", "spec": ECHO}))
    full = edited(empty, lambda d: d.add_listener(INLINE))
    gone = edited(full, lambda d: d.delete("listener", "l", recursive=True))
    assert (gone.listeners, gone.rulelists, gone.rules, gone.routes, list(gone.clusters)) == ({}, {}, {}, {}, ["mine"])


def test_a_plain_delete_takes_the_object_alone_and_frees_its_children() -> None:
    config = edited(Config(), lambda d: d.add_listener(INLINE), lambda d: d.delete("listener", "l"))
    assert list(config.rulelists) == ["l-RuleList-0"]
    assert config.rulelists["l-RuleList-0"].owner is None


def test_a_cluster_that_another_route_names_survives_the_route_it_was_written_in() -> None:
    config = edited(
        Config(),
        lambda d: d.add_listener(listener("a", 1, [rule({"name": "api", "spec": {"protocol": "L7mpController"}})])),
        lambda d: d.add_listener(listener("b", 2, [rule("api")])),
        lambda d: d.delete("listener", "b", recursive=True),
    )
    assert "api" in config.clusters  # in l7mp it was gone, and with it the REST API
    config = edited(config, lambda d: d.add_listener(listener("b", 2, [rule("api")])), lambda d: d.delete("listener", "a", recursive=True))
    assert config.clusters["api"].owner is None


def test_a_cluster_that_its_own_route_names_twice_goes_with_it() -> None:
    route = {"name": "t", "destination": {"name": "c", "spec": ECHO}, "ingress": ["c"], "egress": ["c", "c"]}
    config = edited(Config(), lambda d: d.add_route(route), lambda d: d.delete("route", "t", recursive=True))
    assert (config.routes, config.clusters) == ({}, {})


def test_a_recursive_delete_of_a_list_takes_the_rules_that_were_posted_on_their_own_but_not_those_of_another_list() -> None:
    config = edited(
        Config(),
        lambda d: d.add_rule({"name": "own", "action": {"route": "t"}}),
        lambda d: d.add_rule({"name": "shared", "action": {"route": "t"}}),
        lambda d: d.add_route({"name": "t", "destination": "c"}),
        lambda d: d.add_rulelist({"name": "other", "rules": ["shared"]}),
        lambda d: d.add_rulelist({"name": "rl", "rules": ["own", "shared", "dangling"]}),
        lambda d: d.delete("rulelist", "rl", recursive=True),
    )
    assert (list(config.rules), list(config.routes)) == (["shared"], ["t"])


def test_what_one_deleted_rule_owned_and_another_deleted_one_used_goes_with_them() -> None:
    route = {"name": "t", "destination": {"name": "c", "spec": ECHO}}
    rules = [{"name": "a", "action": {"route": route}}, {"name": "b", "action": {"route": "t"}}]
    config = edited(Config(), lambda d: d.add_rulelist({"name": "rl", "rules": rules}), lambda d: d.delete("rulelist", "rl", True))
    assert (config.rules, config.routes, config.clusters) == ({}, {}, {})


def test_a_rule_that_is_not_there_cannot_leave_its_list_recursively() -> None:
    config = edited(Config(), lambda d: d.add_rulelist({"name": "rl", "rules": ["gone"]}))
    assert refusal(config, lambda d: d.delete_rule_from("rl", "0", recursive=True)) == 'Cannot delete rule: Unknown rule "gone"'
    assert edited(config, lambda d: d.delete_rule_from("rl", "0")).rulelists["rl"].rules == ()


def test_a_list_that_applies_itself_is_not_kept_by_its_own_rule() -> None:
    config = edited(Config(), lambda d: d.add_listener(listener(rules=[{"action": {"apply": "l-RuleList-0"}}])))
    config = edited(config, lambda d: d.delete("listener", "l", recursive=True))
    assert (config.rulelists, config.rules) == ({}, {})


def test_deleting_a_thousand_rules_is_one_pass() -> None:
    config = edited(Config(), lambda d: d.add_listener(listener(rules=[rule({"spec": ECHO}) for _ in range(1000)])))
    gone = edited(config, lambda d: d.delete("listener", "l", recursive=True))
    assert (gone.rules, gone.routes, gone.clusters) == ({}, {}, {})


# -- replacing -----------------------------------------------------------------------------------------------------------------------------


def test_the_same_put_twice_changes_nothing_not_even_the_revision() -> None:
    config = edited(Config(), lambda d: d.replace("listener", "l", INLINE))
    assert edited(config, lambda d: d.replace("listener", "l", INLINE)) is config


def test_a_put_gives_implicit_objects_their_old_names_and_drops_what_is_left_over() -> None:
    config = edited(Config(), lambda d: d.add_listener(INLINE))
    config = edited(config, lambda d: d.replace("listener", "l", listener(rules=[rule({"spec": ECHO})])))
    assert list(config.rulelists) == ["l-RuleList-0"]
    assert list(config.clusters) == ["l-RuleList-0-Rule-0-Route-0-Cluster-0"]
    assert config.counters.cluster == 4


def test_a_put_keeps_the_owner_and_the_place_of_what_it_replaces(listed: Config) -> None:
    config = edited(listed, lambda d: d.replace("rule", "a", {"match": {"op": "defined", "path": "/x"}, "action": {}}))
    assert config.rules["a"].owner == "rulelist/rl"
    assert list(config.rules) == ["a", "b"]
    assert config.rulelists["rl"] is listed.rulelists["rl"]


def test_an_endpoint_is_replaced_where_it_stands() -> None:
    endpoints = [{"name": n, "spec": {"address": "127.0.0.1"}} for n in ("e", "f")]
    config = edited(Config(), lambda d: d.add_cluster({"name": "c", "spec": TCP, "endpoints": endpoints}))
    config = edited(config, lambda d: d.replace("endpoint", "e", {"spec": {"address": "127.0.0.2"}, "weight": 5}))
    assert [(e.name, e.spec["address"], e.weight) for e in config.clusters["c"].endpoints] == [("e", "127.0.0.2", 5), ("f", "127.0.0.1", 1)]
    assert refusal(config, lambda d: d.replace("endpoint", "nope", {"spec": {}})) == "Not Found"


def test_a_put_under_another_name_is_refused(listed: Config) -> None:
    assert "the path says 'a'" in refusal(listed, lambda d: d.replace("rule", "a", {"name": "b", "action": {}}))
