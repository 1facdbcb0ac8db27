"""Whole configurations: every problem at once, with its path; and writing one so that it reads back as the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from carrier.config.document import from_document, to_document
from carrier.config.draft import Draft
from carrier.config.inspector import inspect
from carrier.errors import ConfigError
from carrier.model import Config

ECHO = {"name": "echo", "spec": {"protocol": "Echo"}}


def web(**more: Any) -> dict[str, Any]:
    return {"name": "web", "spec": {"protocol": "HTTP", "port": 8080}, "rules": [{"action": {"route": {"destination": "echo"}}}], **more}


def problems(document: Any, **more: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        from_document(document, **more)
    return {p.path: p.message + (f" [{p.hint}]" if p.hint else "") for p in caught.value.problems}


def test_a_good_document_becomes_a_configuration_without_a_warning() -> None:
    config, warnings = from_document({"admin": {"log_level": "warn", "strict": True}, "clusters": [ECHO], "listeners": [web()]})
    assert (config.admin.log_level, config.admin.strict) == ("warn", True)
    assert config.listeners["web"].rules == "web-RuleList-0"
    assert warnings == ()


def test_every_problem_is_found_at_once_with_path_and_near_miss() -> None:
    found = problems(
        {
            "listners": [],
            "listeners": [
                {"name": "a b", "spec": {"protocol": "HTPP"}, "rules": [], "options": {"trak": 1}},
                {
                    "name": "c",
                    "spec": {"protocol": "HTTP", "port": 99999},
                    "rules": [{"match": {"op": "strats"}, "action": {"apply": "lst"}}],
                },
                {"spec": {"protocol": "TCP", "port": 1}, "rules": 5},
            ],
            "clusters": [
                {"name": "e", "spec": {"protocol": "Echo"}, "endpoints": [{"spec": {"address": "x"}}]},
                {"name": "t", "spec": {"protocol": "TCP", "port": 1}, "endpoints": [{"spec": {"adress": "x"}, "weight": "3"}]},
                {"name": "l", "spec": {"protocol": "TCP", "port": 1}, "loadbalancer": {"policy": "RoundRobin"}},
            ],
            "rulelists": [{"name": "list", "rules": []}],
            "routes": [{"name": "r", "destination": "t", "retry": {"retry_on": "sometimes", "timeout": 0}}],
        }
    )
    assert found["$.listners"].endswith("[did you mean 'listeners'?]")
    assert found["$.listeners[0].spec.protocol"] == "unknown protocol 'HTPP' [did you mean 'HTTP'?]"
    assert "$.listeners[0].name" in found
    assert found["$.listeners[0].options.trak"].endswith("[did you mean 'track'?]")
    assert "99999" in found["$.listeners[1].spec.port"]
    assert any(path.startswith("$.listeners[1].rules[0].match") for path in found)
    assert found["$.listeners[1].rules[0].action.apply"] == "rule list 'lst' is not defined [did you mean 'list'?]"
    assert "$.listeners[2]" in found and "$.listeners[2].rules" in found
    assert "virtual" not in found["$.clusters[0].endpoints"]
    assert found["$.clusters[1].endpoints[0].spec.adress"].endswith("[did you mean 'address'?]")
    assert "$.clusters[1].endpoints[0].weight" in found
    assert "round_robin" in found["$.clusters[2].loadbalancer.policy"]
    assert "$.routes[0].retry.retry_on" in found and "$.routes[0].retry.timeout" in found


@pytest.mark.parametrize("document", [None, 5, [], "x"])
def test_what_is_no_object_is_refused(document: Any) -> None:
    assert list(problems(document)) == ["$"]


@pytest.mark.parametrize("section", ["listeners", "clusters", "rulelists", "rules", "routes"])
@pytest.mark.parametrize("bad", [5, {}, "x", [5], [None], [[]]])
def test_a_section_of_another_type_is_a_problem_not_a_crash(section: str, bad: Any) -> None:
    assert all(path.startswith(f"$.{section}") for path in problems({section: bad}))


def test_a_name_that_leads_nowhere_is_an_error_unless_it_is_allowed() -> None:
    path = "$.listeners[0].rules[0].action.route.destination"
    assert problems({"listeners": [web()]}) == {path: "cluster 'echo' is not defined"}
    config, warnings = from_document({"listeners": [web()]}, allow_dangling=True)
    assert config.routes["web-RuleList-0-Rule-0-Route-0"].destination == "echo"
    assert [(w.path, w.message) for w in warnings] == [(path, "cluster 'echo' is not defined")]


def test_an_object_that_is_refused_for_another_reason_does_not_make_its_name_dangle() -> None:
    found = problems({"listeners": [web()], "clusters": [{**ECHO, "options": 5}]})
    assert list(found) == ["$.clusters[0].options"]


def test_a_rule_list_that_applies_itself_is_refused() -> None:
    found = problems(
        {"rulelists": [{"name": "a", "rules": [{"action": {"apply": "b"}}]}, {"name": "b", "rules": [{"action": {"apply": "a"}}]}]}
    )
    assert found == {
        "$.rulelists[1].rules[0].action.apply": "rule 'b-Rule-1' closes a circle of rule lists that apply each other: a → b → a"
    }


def test_a_rule_that_can_never_fire_is_a_warning_with_its_place() -> None:
    rules = [{"action": {"route": {"destination": "echo"}}}, {"name": "late", "match": {"matchPath": {"path": "/a"}}, "action": {}}]
    _, warnings = from_document({"clusters": [ECHO], "listeners": [web(rules=rules)]})
    assert [w.path for w in warnings] == ["$.listeners[0].rules[1].match"]


def test_two_objects_of_one_name_are_refused_at_the_second() -> None:
    assert problems({"clusters": [ECHO, ECHO]}) == {"$.clusters[1]": 'Cannot add cluster: Cluster "echo" already defined'}


def test_other_problems_of_an_object_hide_neither_its_double_nor_missing_name_nor_a_port_that_is_taken() -> None:
    odd = {"rulez": []}
    found = problems({"clusters": [ECHO, {"spec": {}}], "listeners": [web(**odd), web(), web(name="other", **odd)]})
    assert found["$.listeners[1].name"] == "listener 'web' is already defined"
    assert found["$.listeners[2].spec.port"] == "port 8080 is taken by listener 'web'"
    assert found["$.clusters[1]"] == "a cluster needs 'name'"


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "::1", "[::1]", "fe80::1%lo", "app-gefyra-svc", "a_b.example.com.", "/run/x.sock", "./x y", "@name", "127.1.example"],
)
def test_an_address_is_an_ip_address_a_name_or_a_file(address: str) -> None:
    assert inspect("endpoint", {"spec": {"address": address}}, "$") == []


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("10.0.0.1:80", "address: '10.0.0.1', port: 80"),
        ("http://shop.example/", "address: 'shop.example'"),
        ("https://[::1]:8443", "address: '::1', port: 8443"),
        ("bad host", ""),
        ("1.2.3.400", ""),
        ("", ""),
        (7, ""),
    ],
)
def test_what_is_no_address_is_refused_with_what_was_probably_meant(address: Any, hint: str) -> None:
    assert [(p.path, p.hint) for p in inspect("endpoint", {"spec": {"address": address}}, "$")] == [("$.spec.address", hint)]


def listening(*specs: Mapping[str, Any]) -> dict[str, Any]:
    """A document with these listeners, named by their places."""
    return {"clusters": [ECHO], "listeners": [web(name=f"l{i}", spec=spec) for i, spec in enumerate(specs)]}


@pytest.mark.parametrize("protocol", ["HTTP", "TCP", "WebSocket", "auto"])
def test_two_listeners_on_one_port_of_one_transport_are_refused(protocol: str) -> None:
    found = problems(listening({"protocol": "HTTP", "port": 8080}, {"protocol": protocol, "port": 8080}))
    assert found == {"$.listeners[1].spec.port": "port 8080 is taken by listener 'l0'"}


def test_a_port_of_what_json_sockets_travel_in_is_taken_too() -> None:
    found = problems(
        listening({"protocol": "UDP", "port": 8080}, {"protocol": "JSONSocket", "transport": {"protocol": "UDP", "port": 8080}})
    )
    assert "port 8080 is taken by listener 'l0'" in found.values()


def test_listeners_on_one_port_of_several_transports_or_addresses_and_on_any_port_are_fine() -> None:
    ports = [{"protocol": protocol, "port": 8080} for protocol in ("HTTP", "UDP", "SCTP")]
    here = {"protocol": "TCP", "port": 8080, "address": "127.0.0.2"}
    free = {"protocol": "TCP", "port": 0}
    assert from_document(listening(*ports, here, free, free))[1] == ()


def test_what_is_equal_keeps_its_identity_and_the_same_document_changes_nothing() -> None:
    document = {"clusters": [ECHO], "listeners": [web()]}
    first, _ = from_document(document)
    assert from_document(document, base=first)[0] is first
    second, _ = from_document({**document, "clusters": [ECHO, {"name": "new", "spec": {"protocol": "Discard"}}]}, base=first)
    assert second.revision == first.revision + 1
    assert second.listeners["web"] is first.listeners["web"]
    assert second.clusters["echo"] is first.clusters["echo"]


def test_a_written_document_reads_back_as_the_same_objects_with_names_and_owners() -> None:
    draft = Draft(Config())
    draft.add_cluster(
        {"name": "c", "spec": {"protocol": "TCP", "port": 1}, "endpoints": [{"spec": {"address": "::1", "port": 2}, "weight": 0.5}]}
    )
    draft.add_rule(
        {
            "name": "free",
            "match": {"op": "defined", "path": "/x"},
            "action": {"rewrite": [{"path": "/a", "value": {"b": [1]}}], "apply": "other"},
        }
    )
    draft.add_rulelist({"name": "sub", "rules": ["free"], "order": "specific"})
    draft.add_rulelist({"name": "other", "rules": []})
    draft.add_listener(
        {
            "name": "l",
            "spec": {"protocol": "TCP", "port": 1},
            "options": {"track": 3},
            "rules": [
                "free",
                {"action": {"route": {"destination": {"spec": {"protocol": "Echo"}}, "fallback": "c", "retry": {"retry_on": "always"}}}},
            ],
        }
    )
    config = draft.done()
    copy, _ = from_document(to_document(config), base=config, allow_dangling=True)
    assert copy is config


def test_an_object_whose_owner_forgot_it_is_written_too() -> None:
    draft = Draft(Config())
    draft.add_rulelist({"name": "a", "rules": [{"name": "r", "action": {"route": {"name": "t", "destination": "c"}}}]})
    draft.replace("rule", "r", {"action": {}})
    draft.add_route({"name": "t", "destination": "c"})
    draft.routes["t"] = type(draft.routes["t"])("t", "c", owner="rule/r")
    assert [r["name"] for r in to_document(draft.done())["routes"]] == ["t"]


def test_the_strict_standard_refuses_what_l7mp_takes() -> None:
    bad = {"name": "x", "spec": {"protocol": "TCP", "port": "80", "zzz": 1}, "foo": "bar"}
    assert sorted(p.path for p in inspect("cluster", bad, "$.cluster")) == ["$.cluster.foo", "$.cluster.spec.port", "$.cluster.spec.zzz"]


def test_a_number_where_text_belongs_says_how_to_write_it() -> None:
    found = inspect("rule", {"action": {"rewrite": [{"path": 5, "value": 1}]}}, "$")
    assert found[0].hint == 'write it in quotes: "5"'


def test_sticky_needs_a_key() -> None:
    found = inspect("cluster", {"name": "x", "spec": {"protocol": "TCP", "port": 1}, "loadbalancer": {"policy": "sticky"}}, "$")
    assert [p.message for p in found] == ["policy 'sticky' needs 'key'"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"offload": 0}, "$.admin.offload: cannot be 0 (allowed: one of init, no_init, disable, true, false)"),
        ({"offload_ifs": 5}, '$.admin.offload_ifs: cannot be 5 (allowed: text); write it in quotes: "5"'),
        ({"offload_ifs": ["lo", None]}, "$.admin.offload_ifs[1]: cannot be null (allowed: text)"),
    ],
)
def test_settings_of_l7mp_that_do_nothing_here_are_of_their_type_all_the_same(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_document({"admin": settings, "listeners": []})
    assert [str(problem) for problem in caught.value.problems] == [said]
    from_document({"admin": {"offload": False, "offload_ifs": "lo,eth0"}, "listeners": []})


def test_a_port_of_gefyras_format_without_its_frame_is_told_where_it_belongs() -> None:
    with pytest.raises(ConfigError) as error:
        from_document({"port": 8080, "clusterUpstream": ["app:8080"], "bridges": {}})
    assert any("put it in a list under proxy:" in problem.hint for problem in error.value.problems)


# -- l7mp's files


def test_what_l7mp_ignores_is_a_warning_in_its_files_and_names_bind_late() -> None:
    """Its own test configuration: an endpoint with `mode` and no address, a cluster with a `port` that nobody reads."""
    to_api = {"action": {"route": {"destination": {"name": "api", "spec": {"protocol": "L7mpController"}}}}}
    test = {"name": "t", "spec": {"protocol": "Test"}, "endpoints": [{"name": "e", "mode": ["ok"], "timeout": 3001, "spec": {}}]}
    js = {"name": "js", "spec": {"protocol": "JSONSocket", "port": 15003, "transport": {"protocol": "UDP", "port": 15003}}}
    document = {
        "admin": {"log_level": "error", "log_file": "stdout", "strict": True},
        "listeners": [
            {"name": "l", "spec": {"protocol": "Test"}, "rules": [{"action": {"route": {"destination": test}}}]},
            {"name": "late", "spec": {"protocol": "UDP", "port": 1}, "rules": [{"action": {"route": {"destination": "comes-later"}}}]},
            {"name": "api", "spec": {"protocol": "HTTP", "port": 1234}, "rules": [to_api]},
        ],
        "clusters": [js],
    }
    config, warned = from_document(document)
    assert set(config.clusters) == {"t", "js", "api"}
    said = [str(problem) for problem in warned]
    for word in ("unknown field 'mode'", "unknown field 'timeout'", "unknown field 'port'", "comes-later"):
        assert any(word in text for text in said), (word, said)
    with pytest.raises(ConfigError, match="unknown field 'mode'"):  # a file of ours says what it means
        from_document({**document, "listeners": document["listeners"][:1], "clusters": []})
    with pytest.raises(ConfigError, match="did you mean"):
        from_document({**document, "clusters": [{"name": "x", "spec": {"protocol": "TCP", "port": 1}, "endpoint": []}]})
