"""User bridges: what PUT makes, what it refuses and in which words, what DELETE and expiry leave behind."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from carrier.bridges.edits import Bridges
from carrier.config.document import from_document
from carrier.config.draft import Draft
from carrier.errors import ConfigError, Error
from carrier.log import Log
from carrier.model import Config
from carrier.process.leases import Leases
from carrier.rules.match import Matcher

NOW = 1_800_000_000.0


def to(port):
    return {"spec": {"protocol": "HTTP", "port": port}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}


def listener(name, protocol, port, *rules):
    return {"name": name, "spec": {"protocol": protocol, "port": port}, "rules": list(rules)}


@pytest.fixture
def base() -> Config:
    config, _ = from_document(
        {
            "clusters": [{"name": "shadow", **to(9000)}, {"name": "reports", **to(9001)}],
            "listeners": [
                listener(
                    "web",
                    "HTTP",
                    8080,
                    {
                        "name": "reports",
                        "match": {"matchPath": {"path": "/reports", "type": "prefix"}},
                        "action": {"route": {"destination": "reports"}},
                    },
                    {"name": "everybody", "action": {"route": {"name": "to-shadow", "destination": "shadow"}}},
                ),
                listener("dns", "UDP", 5353, {"action": {"route": {"destination": {"spec": {"protocol": "Echo"}}}}}),
                listener("api", "HTTP", 1234, {"action": {"route": {"destination": {"spec": {"protocol": "L7mpController"}}}}}),
            ],
        }
    )
    return config


@pytest.fixture
def bridges() -> Bridges:
    return Bridges(clock=lambda: NOW)


def header(name, value, **more):
    return {"matchHeader": {"name": name, "value": value, **more}}


def body(user, **more):
    return {"port": 8080, "user": user, "match": header("x-user", user), "endpoint": "10.0.0.9:8000", **more}


def order(config):
    return list(config.rulelists[config.listeners["web"].rules].rules)


def decides(config, **headers):
    """The rule that takes a request with these headers."""
    names = order(config)
    matcher = Matcher([(name, config.rules[name].match) for name in names])
    meta = {"HTTP": {"method": "GET", "url": {"path": headers.pop("path", "/")}, "headers": headers}}
    return names[matcher.first(meta)]


def test_a_bridge_is_a_rule_before_the_one_that_takes_everybody(base, bridges):
    config = bridges.put(base, "john", body("john"))
    assert order(config) == ["reports", "bridge/john", "everybody"]
    rule, route = config.rules["bridge/john"], config.routes["bridge/john"]
    assert (rule.bridge, rule.owner) == ("john", "bridge/john")
    assert (route.destination, route.fallback) == ("bridge/john", "shadow")
    cluster = config.clusters["bridge/john"]
    assert cluster.spec == {"protocol": "HTTP", "port": 8000}
    assert cluster.endpoints[0].spec == {"address": "10.0.0.9"}
    assert decides(config, **{"x-user": "john"}) == "bridge/john"
    assert decides(config, **{"x-user": "jane"}) == "everybody"


def test_the_configuration_it_was_made_from_is_unchanged(base, bridges):
    before = order(base), dict(base.clusters)
    config = bridges.put(base, "john", body("john"))
    assert (order(base), dict(base.clusters)) == before
    assert config.revision == base.revision + 1


def test_delete_takes_everything_away_again(base, bridges):
    config = bridges.delete(bridges.put(base, "john", body("john")), "john")
    for table in ("listeners", "clusters", "rulelists", "rules", "routes", "bridges", "counters"):
        assert getattr(config, table) == getattr(base, table), table


def test_delete_of_an_unknown_bridge_names_one_that_looks_like_it(base, bridges):
    config = bridges.put(base, "john", body("john"))
    with pytest.raises(Error, match="there is no bridge 'jon'; did you mean 'john'") as caught:
        bridges.delete(config, "jon")
    assert caught.value.status == 404


def test_put_replaces_and_keeps_the_place(base, bridges):
    config = bridges.put(bridges.put(base, "john", body("john")), "jane", body("jane"))
    again = bridges.put(config, "john", body("john", endpoint="10.0.0.9:9999"))
    assert order(again) == ["reports", "bridge/john", "bridge/jane", "everybody"]
    assert again.clusters["bridge/john"].spec["port"] == 9999
    assert len(again.bridges) == 2


def test_the_same_put_twice_changes_nothing(base, bridges):
    config = bridges.put(base, "john", body("john", expires="2027-01-15T09:00:00Z"))
    assert bridges.put(config, "john", body("john", expires="2027-01-15T09:00:00Z")) is config


def test_a_replaced_bridge_keeps_its_place_among_the_bridges(base, bridges):
    config = bridges.put(bridges.put(base, "john", body("john")), "jane", body("jane"))
    assert list(bridges.put(config, "john", body("john", endpoint="h:1")).bridges) == ["john", "jane"]


def test_a_port_that_shares_its_rules_with_another_is_not_bridged(bridges):
    base, _ = from_document(
        {
            "clusters": [{"name": "shadow", **to(9000)}],
            "rulelists": [{"name": "both", "rules": [{"action": {"route": {"destination": "shadow"}}}]}],
            "listeners": [{"name": n, "spec": {"protocol": "HTTP", "port": p}, "rules": "both"} for n, p in (("a", 8080), ("b", 8081))],
        }
    )
    with pytest.raises(Error, match="shares its rule list 'both' with b"):
        bridges.put(base, "john", body("john"))


def test_what_get_shows_can_be_put(base, bridges):
    config = bridges.put(base, "john", body("john", expires=60))
    shown = bridges.dump(config, "john")
    assert bridges.dump(bridges.put(config, "john", shown), "john") == shown
    assert shown["status"]["state"] == "in force"
    assert bridges.dump(config) == [shown]


def test_a_bridge_of_another_user_is_not_replaced(base, bridges):
    config = bridges.put(base, "dev", body("john"))
    with pytest.raises(Error, match="belongs to user john") as caught:
        bridges.put(config, "dev", body("jane"))
    assert caught.value.status == 409


def test_the_same_rule_of_another_user_is_a_conflict_that_names_her(base, bridges):
    config = bridges.put(base, "jane", body("jane"))
    with pytest.raises(Error, match="bridge 'jane' of user jane has the same rule already") as caught:
        bridges.put(config, "eve", {**body("eve"), "match": header("X-User", "jane")})
    assert (caught.value.kind, caught.value.status) == ("conflict", 409)


def test_a_narrower_rule_behind_a_wider_one_can_never_fire(base, bridges):
    config = bridges.put(base, "jane", {**body("jane"), "match": {"matchPath": {"path": "/cart", "type": "prefix"}}})
    narrow = [{"matchPath": {"path": "/cart/items", "type": "exact"}}, header("x-user", "eve")]
    with pytest.raises(Error, match=r"can never fire: bridge 'jane' of user jane .* comes first"):
        bridges.put(config, "eve", {**body("eve"), "match": narrow})


def test_a_rule_that_an_ordinary_rule_takes_is_refused_with_its_name(base, bridges):
    with pytest.raises(Error, match="rule 'reports'"):
        bridges.put(base, "eve", {**body("eve"), "match": {"matchPath": {"path": "/reports/q3", "type": "prefix"}}})


def test_each_alternative_must_be_able_to_fire(base, bridges):
    config = bridges.put(base, "jane", body("jane"))
    rules = [{"match": [header("x-user", "eve")]}, {"match": [header("x-user", "jane")]}]
    eve = {key: value for key, value in body("eve").items() if key != "match"}
    with pytest.raises(Error, match="bridge 'jane' of user jane"):
        bridges.put(config, "eve", {**eve, "rules": rules})


def test_a_wider_rule_may_come_behind_a_narrower_one_and_leaves_it_alone(base, bridges):
    config = bridges.put(base, "jane", {**body("jane"), "match": [header("x-user", "jane"), {"matchPath": {"path": "/cart"}}]})
    config = bridges.put(config, "joe", {**body("joe"), "match": header("x-user", "jane")})
    assert decides(config, path="/cart", **{"x-user": "jane"}) == "bridge/jane"
    assert decides(config, path="/", **{"x-user": "jane"}) == "bridge/joe"


def test_a_replaced_bridge_may_not_take_all_requests_of_a_later_one(base, bridges):
    config = bridges.put(base, "john", body("john"))
    config = bridges.put(config, "jane", {**body("jane"), "match": {"matchPath": {"path": "/cart"}}})
    with pytest.raises(Error, match="would take every request that bridge 'jane' of user jane gets") as caught:
        bridges.put(config, "john", {**body("john"), "match": {"matchPath": {"path": "/c", "type": "prefix"}}})
    assert caught.value.status == 409


def test_rules_are_alternatives_and_their_matches_ands(base, bridges):
    rules = [{"match": [header("x-user", "john"), {"matchPath": {"path": "/a"}}]}, {"match": header("x-team", "j")}]
    config = bridges.put(base, "john", {**{k: v for k, v in body("john").items() if k != "match"}, "rules": rules})
    assert decides(config, path="/a", **{"x-user": "john"}) == "bridge/john"
    assert decides(config, path="/b", **{"x-user": "john"}) == "everybody"
    assert decides(config, **{"x-team": "j"}) == "bridge/john"


@pytest.mark.parametrize(
    "match",
    [
        "*",
        [],
        {"match": "*"},
        {"matchPath": {"path": "/", "type": "prefix"}},
        {"matchPath": {"path": ".*", "type": "regex"}},
        header("host", "", type="prefix"),
        {"matchSource": {"cidr": "0.0.0.0/0"}},
        {"op": "defined", "path": "/HTTP"},
        {"op": "not", "apply": [{"op": "test", "path": "/HTTP/headers/x-user", "value": "jane"}]},
        {"any": [header("x-user", "john"), "*"]},
    ],
)
def test_a_catch_all_is_refused(base, bridges, match):
    with pytest.raises(ConfigError, match="takes every session of listener 'web', also everybody else's"):
        bridges.put(base, "john", {**body("john"), "match": match})


def test_a_regex_that_is_not_re2_is_refused_with_the_reason(base, bridges):
    with pytest.raises(ConfigError) as caught:
        bridges.put(base, "john", {**body("john"), "match": header("x-user", "(?<=a)b", type="regex")})
    problem = caught.value.problems[0]
    assert problem.path.startswith("$.match")
    assert "invalid perl operator" in problem.message


@pytest.mark.parametrize("value", ["jo\rhn", "john\n", "\0john"])
def test_a_value_that_no_header_can_have_is_refused_with_the_reason(base, bridges, value):
    with pytest.raises(ConfigError) as caught:
        bridges.put(base, "john", {**body("john"), "match": header("x-user", value)})
    problem = caught.value.problems[0]
    assert problem.path.startswith("$.match") and problem.path.endswith("matchHeader.value")
    assert problem.message.startswith("no header has CR, LF or NUL in its value (RFC 9110 section 5.5): this never matches")


def test_everything_wrong_is_told_at_once(base, bridges):
    with pytest.raises(ConfigError) as caught:
        bridges.put(
            base,
            "john",
            {
                "port": 8080,
                "usr": "john",
                "match": header("x", 1),
                "endpoint": "nowhere",
                "expires": -5,
                "fallback": "maybe",
                "options": [],
            },
        )
    assert {problem.path.split(".match")[0] for problem in caught.value.problems} >= {
        "$.usr",
        "$.user",
        "$.endpoint",
        "$.expires",
        "$.fallback",
        "$.options",
        "$",
    }
    assert any(problem.hint == "did you mean 'user'?" for problem in caught.value.problems)


@pytest.mark.parametrize("raw", [None, [], "x", 7])
def test_a_body_that_is_no_object_is_refused(base, bridges, raw):
    with pytest.raises(ConfigError, match="expected a bridge, an object"):
        bridges.put(base, "john", raw)


@pytest.mark.parametrize("endpoint", [None, "", ":80", "host", "host:0", "host:70000", "host:8o", "a b:80", "::1:80", {"port": 80}, 80, []])
def test_a_bad_endpoint_is_refused(base, bridges, endpoint):
    with pytest.raises(ConfigError) as caught:
        bridges.put(base, "john", body("john", endpoint=endpoint))
    assert caught.value.problems[0].path.startswith("$.endpoint")


def test_endpoints_may_be_names_and_ipv6(base, bridges):
    config = bridges.put(base, "john", body("john", endpoint="[2001:db8::9]:8000"))
    assert config.clusters["bridge/john"].endpoints[0].spec == {"address": "2001:db8::9"}
    config = bridges.put(base, "john", body("john", endpoint="laptop.john.example:8000"))
    assert config.clusters["bridge/john"].endpoints[0].spec == {"address": "laptop.john.example"}
    config = bridges.put(base, "john", body("john", endpoint={"address": "10.1.1.1", "port": 81}))
    assert config.clusters["bridge/john"].spec == {"protocol": "HTTP", "port": 81}


def test_an_unknown_port_is_answered_with_the_ports_there_are(base, bridges):
    with pytest.raises(Error, match="there is no port 8081; there is port 8080") as caught:
        bridges.put(base, "john", body("john", port=8081))
    assert caught.value.status == 404


def test_a_port_that_is_not_there_does_not_hide_what_else_is_wrong(base, bridges):
    with pytest.raises(ConfigError, match="there is no port 8081") as caught:
        bridges.put(base, "a b", body("john", port=8081, endpont="x", endpoint="bad host:80"))
    assert {problem.path for problem in caught.value.problems} == {"$.name", "$.port", "$.endpont", "$.endpoint"}


def test_a_port_of_a_wrong_type_does_not_hide_what_else_is_wrong(base, bridges):
    with pytest.raises(ConfigError, match="expected a port") as caught:
        bridges.put(base, "john", body("john", port="8080", endpont="x", match=[]))
    assert [problem.path for problem in caught.value.problems] == ["$.port", "$.endpont", "$.match"]


def test_of_an_unknown_listener_nothing_is_assumed(base, bridges):
    john = {key: value for key, value in body("john", endpoint="/run/john.sock").items() if key != "port"}
    with pytest.raises(Error, match='there is no listener "wbe"') as caught:
        bridges.put(base, "john", {**john, "listener": "wbe"})
    assert caught.value.kind == "not-found"


def test_an_endpoint_that_is_there_and_wrong_is_not_called_missing(base, bridges):
    with pytest.raises(ConfigError, match='"bad host:80" is no endpoint'):
        bridges.put(base, "john", body("john", endpoint="bad host:80"))
    with pytest.raises(ConfigError, match="a bridge needs 'endpoint'"):
        bridges.put(base, "john", body("john", endpoint=None))


@pytest.mark.parametrize("port", ["8080", 0, 70000, True, 8080.5])
def test_a_port_that_is_no_port_is_refused(base, bridges, port):
    with pytest.raises(ConfigError, match="expected a port"):
        bridges.put(base, "john", body("john", port=port))


def test_a_listener_can_be_named_instead(base, bridges):
    john = {key: value for key, value in body("john").items() if key != "port"}
    assert bridges.put(base, "john", {**john, "listener": "web"}).bridges["john"].listener == "web"


def test_the_rest_api_is_not_bridged(base, bridges):
    with pytest.raises(Error, match="leads into the REST API"):
        bridges.put(base, "john", body("john", port=1234))


def test_a_udp_port_is_bridged_by_address_and_in_udp(base, bridges):
    match = {"matchSource": {"cidr": "10.8.0.0/16"}}
    config = bridges.put(base, "john", {**body("john", port=5353, endpoint="10.0.0.9:53"), "match": match})
    assert config.clusters["bridge/john"].spec == {"protocol": "UDP", "port": 53}
    with pytest.raises(ConfigError, match="speaks UDP, which has no headers"):
        bridges.put(base, "john", body("john", port=5353))


def test_fallback_error_means_no_shadow(base, bridges):
    assert bridges.put(base, "john", body("john", fallback="error")).routes["bridge/john"].fallback is None


def test_without_a_rule_for_everybody_there_is_no_shadow(bridges):
    rule = {"name": "a", "match": header("a", "1"), "action": {"route": {"destination": to(1)}}}
    base, _ = from_document({"listeners": [listener("web", "HTTP", 8080, rule)]})
    config = bridges.put(base, "john", body("john"))
    assert order(config) == ["a", "bridge/john"]
    assert config.routes["bridge/john"].fallback is None
    with pytest.raises(ConfigError, match="no shadow to fall back to"):
        bridges.put(base, "john", body("john", fallback="shadow"))


def test_the_shadow_is_found_through_jumps(bridges):
    last = {"name": "last", "action": {"route": {"destination": {"name": "shadow", **to(9000)}}}}
    base, _ = from_document(
        {
            "rulelists": [{"name": "more", "rules": [last]}],
            "listeners": [listener("web", "HTTP", 8080, {"name": "jump", "action": {"apply": "more"}})],
        }
    )
    assert bridges.put(base, "john", body("john")).routes["bridge/john"].fallback == "shadow"


def test_a_name_of_somebody_elses_object_is_a_conflict(base, bridges):
    draft = Draft(base)
    draft.add_route({"name": "bridge/john", "destination": "shadow"})
    with pytest.raises(Error, match="already defined") as caught:
        bridges.put(draft.done(), "john", body("john"))
    assert caught.value.status == 409


def test_a_bridge_whose_rule_was_deleted_over_rest_can_be_deleted_and_made_again(base, bridges):
    draft = Draft(bridges.put(base, "john", body("john")))
    draft.delete_rule_from(base.listeners["web"].rules, "bridge/john")
    draft.delete("rule", "bridge/john")
    broken = draft.done()
    assert bridges.dump(broken, "john")["status"]["state"] != "in force"
    assert bridges.delete(broken, "john").clusters == base.clusters
    assert order(bridges.put(broken, "john", body("john"))) == ["reports", "bridge/john", "everybody"]


def test_a_bridge_whose_listener_is_gone_can_still_be_shown_and_deleted(base, bridges):
    draft = Draft(bridges.put(base, "john", body("john")))
    draft.delete("listener", "web", recursive=True)
    broken = draft.done()
    assert "gone" in bridges.dump(broken, "john")["status"]["state"]
    config = bridges.delete(broken, "john")
    assert not {"bridge/john"} & {*config.rules, *config.routes, *config.clusters}


def test_what_another_route_uses_outlives_the_bridge(base, bridges):
    draft = Draft(bridges.put(base, "john", body("john")))
    draft.add_route({"name": "mine", "destination": "bridge/john"})
    config = bridges.delete(draft.done(), "john")
    assert "bridge/john" in config.clusters
    assert "bridge/john" not in config.routes


@pytest.mark.parametrize(
    "expires, at",
    [(60, NOW + 60), (0.5, NOW + 0.5), ("2027-01-15T09:00:00Z", 1_800_003_600.0), ("2027-01-15T10:00:00+01:00", 1_800_003_600.0)],
)
def test_expiry_is_in_seconds_or_a_moment(base, bridges, expires, at):
    assert bridges.put(base, "john", body("john", expires=expires)).bridges["john"].expires == pytest.approx(at)


@pytest.mark.parametrize(
    "expires", [0, -1, float("inf"), float("nan"), True, "soon", "2020-01-01T00:00:00Z", "9999-01-01T00:00:00Z", [], 1e300]
)
def test_a_bad_expiry_is_refused(base, bridges, expires):
    with pytest.raises(ConfigError) as caught:
        bridges.put(base, "john", body("john", expires=expires))
    assert caught.value.problems[0].path == "$.expires"


def test_expire_takes_away_what_is_over_and_nothing_else(base, bridges):
    config = bridges.put(bridges.put(base, "john", body("john", expires=10)), "jane", body("jane"))
    assert bridges.expire(config, NOW + 9) is config
    later = bridges.expire(config, NOW + 10)
    assert list(later.bridges) == ["jane"]
    assert order(later) == ["reports", "bridge/jane", "everybody"]


@pytest.mark.parametrize("name", ["", "a b", "x" * 201, "a\nb"])
def test_a_bad_name_is_refused(base, bridges, name):
    with pytest.raises(ConfigError, match="expected a name"):
        bridges.put(base, name, body("john"))


def test_a_thousand_bridges_can_be_told_apart_quickly(base, bridges):
    config = base
    for i in range(200):
        config = bridges.put(config, f"u{i}", body(f"u{i}"))
    began = time.perf_counter()
    config = bridges.put(config, "last", body("last"))
    assert time.perf_counter() - began < 1
    assert decides(config, **{"x-user": "u77"}) == "bridge/u77"


class FakeProxy:
    """Has what Leases needs: a configuration, a lock, apply."""

    def __init__(self, config):
        self.env = SimpleNamespace(loop=asyncio.get_running_loop())
        self.config = config
        self.lock = asyncio.Lock()
        self.applied = asyncio.Event()
        self.refuse = False

    def sessions(self):
        return ()

    async def apply(self, config, unsaved=False):
        assert self.lock.locked()
        self.applied.set()
        if self.refuse:
            raise Error("bind", "no")
        self.config = config
        return ()


async def test_leases_apply_the_expiry_under_the_lock(base):
    bridges = Bridges()
    proxy = FakeProxy(bridges.put(base, "john", body("john", expires=0.05)))
    lines: list[str] = []
    leases = Leases(proxy, bridges, Log("info", lines.append))
    leases.start()
    await asyncio.wait_for(proxy.applied.wait(), 2)
    await asyncio.sleep(0)
    leases.stop()
    assert proxy.config.bridges == {}
    assert "bridge=john user=john" in lines[0]


async def test_a_lease_that_cannot_be_ended_is_told_and_does_not_end_the_looking(base):
    bridges = Bridges()
    proxy = FakeProxy(bridges.put(base, "john", body("john", expires=0.05)))
    proxy.refuse = True
    lines: list[str] = []
    leases = Leases(proxy, bridges, Log("info", lines.append))
    leases.start()
    await asyncio.wait_for(proxy.applied.wait(), 2)
    proxy.applied.clear()
    await asyncio.wait_for(proxy.applied.wait(), 2)
    leases.stop()
    assert "john" in proxy.config.bridges
    assert "cannot be taken away" in lines[0]
