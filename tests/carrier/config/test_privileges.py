"""What is privileged, of specs, of whole configurations, of bodies; and what a change gives that was not there before."""

from __future__ import annotations

import time

from carrier.config.draft import Draft
from carrier.config.privileges import Reach, gained, of_document, of_spec
from carrier.core import registry
from tests.support import config, echo, listener, without

SH = {"name": "sh", "spec": {"protocol": "STDIO-fork", "command": ["cat"]}}
PRIVILEGED = {"STDIO-fork", "Stdio", "UnixDomainSocket", "PIPE", "AF_PACKET", "Logger"}


def test_each_protocol_says_whether_it_is_privileged_and_why() -> None:
    names = {*registry.listener_names(), *registry.cluster_names()}
    assert {name for name in names if of_spec({"protocol": name})} == PRIVILEGED
    assert of_spec(SH["spec"]) == "STDIO-fork runs commands"


def test_fields_that_name_files_are_and_those_beside_them_are_not() -> None:
    assert of_spec({"protocol": "HTTP", "tls": {"ca": "x"}}) == "HTTP with tls.ca reads a file"
    assert of_spec({"protocol": "TCP", "tls": [{"self_signed": True}, {"key": "x"}]}) == "TCP with tls.key reads a file"
    for tls in (True, {"sni": "x"}, {"verify": False}, {"self_signed": True}, {"passthrough": True}, None):
        assert of_spec({"protocol": "TCP", "tls": tls}) == ""


def test_odd_specs_are_not_privileged_and_break_nothing() -> None:
    for spec in (
        None,
        5,
        [],
        {},
        {"protocol": 5},
        {"protocol": "unknown"},
        {"protocol": "TCP", "tls": 5},
        {"protocol": "TCP", "tls": [[5]]},
    ):
        assert of_spec(spec) == ""


def test_a_spec_inside_another_counts_at_any_depth() -> None:
    spec: dict[str, object] = {"protocol": "PIPE"}
    for _ in range(5):
        spec = {"protocol": "JSONSocket", "transport": spec}
    assert of_spec(spec) == "PIPE reads and writes files"
    assert of_document({"listener": {"rules": [{"action": {"route": {"destination": {"spec": spec}}}}]}}) == "PIPE reads and writes files"


def test_what_leads_there_is_privileged_through_every_step() -> None:
    rules = [{"name": "jump", "action": {"apply": "deep"}}]
    conf = config(
        clusters=[echo(), SH, {"name": "copy", "spec": {"protocol": "Mirror", "cluster": "sh"}}],
        routes=[{"name": "r", "destination": "echo", "ingress": ["copy"]}],
        rules=[{"name": "leaf", "action": {"route": "r"}}],
        rulelists=[{"name": "deep", "rules": ["leaf"]}],
        listeners=[listener("in", rules=rules), listener("plain", "echo")],
    )
    reached = {(kind, name) for kind, name in Reach(conf).of if not name.startswith("in-")}
    assert {("cluster", "sh"), ("cluster", "copy"), ("route", "r"), ("rule", "leaf"), ("rulelist", "deep"), ("rule", "jump")} <= reached
    assert ("listener", "in") in reached and ("listener", "plain") not in reached and ("cluster", "echo") not in reached


def test_rules_that_go_round_end() -> None:
    rules = [{"name": "a", "action": {"apply": "one"}}, {"name": "b", "action": {"route": {"destination": "sh"}}}]
    conf = config(clusters=[SH], rules=rules, rulelists=[{"name": "one", "rules": ["a", "b"]}])
    assert ("rule", "a") in Reach(conf).of


def test_a_change_gains_what_is_new_or_other_and_nothing_by_taking_away() -> None:
    old = config(clusters=[echo(), SH], listeners=[listener("in", "sh"), listener("free", "echo")])
    assert gained(old, old) == ""
    assert gained(old, config(clusters=[echo("more")], base=old)) == ""
    assert gained(old, without(old, "listener", "in", recursive=True)) == ""
    assert gained(config(), old).startswith('Cluster "sh": STDIO-fork runs commands')
    changed = config(clusters=[SH | {"spec": {"protocol": "STDIO-fork", "command": ["sh"]}}], base=old)
    assert gained(old, changed) == 'Cluster "sh": STDIO-fork runs commands'
    assert 'leads to cluster "sh"' in gained(old, config(routes=[{"name": "r", "destination": "sh"}], base=old))


def test_a_rule_that_leads_nowhere_special_may_stand_beside_one_that_does() -> None:
    old = config(clusters=[echo(), SH], listeners=[listener("in", rules="rl")], rulelists=[{"name": "rl", "rules": []}])
    with_sh = config(rulelists=[{"name": "rl", "rules": [{"action": {"route": {"destination": "sh"}}}]}], base=old)
    draft = Draft(with_sh)
    draft.insert_rule("rl", 0, {"action": {"route": {"destination": "echo"}}})
    assert gained(with_sh, draft.done()) == ""
    draft = Draft(with_sh)
    draft.insert_rule("rl", 0, with_sh.rulelists["rl"].rules[0])
    assert "STDIO-fork" in gained(with_sh, draft.done())


def test_asking_takes_little_where_there_are_many() -> None:
    rules = [{"name": f"r{n}", "action": {"route": {"destination": "echo"}}} for n in range(2000)]
    conf = config(clusters=[echo(), SH], rulelists=[{"name": "rl", "rules": rules}])
    began = time.process_time()
    Reach(conf)
    assert time.process_time() - began < 0.1
