"""Explain: what is said of sessions that did not happen, and to requests that ask."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from carrier.admin.api import Api
from carrier.admin.imagine import ask, offline
from carrier.cli.explained import render
from carrier.core.env import Env
from carrier.errors import ConfigError
from carrier.model import Config
from carrier.rules.explain import Explanation, choice
from carrier.rules.notation import compile_match
from listeners.http.answers import answer_fields
from tests.conversation import Stage
from tests.support import cluster, config, echo, http, listener, port_of, running

JOHN = {"name": "john", "match": {"matchHeader": {"name": "x-user", "value": "john"}}, "action": {"route": {"destination": "laptop"}}}
CART = [{"matchPath": {"path": "/cart"}}, {"matchHeader": {"name": "x-user", "value": "jane"}}]


def pod(*rules: dict[str, Any], fallback: str | None = "shadow", **laptop: Any) -> Config:
    """A pod's port: john's rule, others, everybody else to the shadow."""
    route = {"destination": "laptop"} | ({"fallback": fallback} if fallback else {})
    first = {**JOHN, "action": {"route": route}}
    last = {"name": "everybody", "action": {"route": {"destination": "shadow"}}}
    clusters = [cluster("laptop", 8000, protocol="HTTP", **laptop), cluster("shadow", 9000, protocol="HTTP")]
    return config(clusters=clusters, listeners=[listener("web", protocol="HTTP", port=8080, rules=[first, *rules, last])])


@pytest.fixture
async def env() -> Env:
    return Env(asyncio.get_running_loop())


def asked(conf: Config, env: Env, **body: Any) -> Explanation:
    return ask(body, conf, offline(conf, env))


async def test_every_rule_is_shown_with_what_was_seen_and_what_was_wanted(env: Env) -> None:
    said = asked(pod({"name": "jane", "match": CART, "action": {"route": "x"}}), env, path="/cart", headers={"X-User": "John"})
    john, jane, everybody = said.steps[0].rules
    assert (john.rule, john.matched, john.conditions[0].seen, john.conditions[0].wanted) == ("john", False, '"John"', '"john"')
    assert john.conditions[0].near == "differs only in case"
    assert [c.held for c in jane.conditions] == [True, False]
    assert everybody.chosen and said.rule == "everybody" and said.why == "rule everybody: anything"


@pytest.mark.parametrize(
    ("body", "near"),
    [
        ({"path": "/cart/", "headers": {"x-user": "jane"}}, "path matches without the trailing slash"),
        ({"path": "/CART", "headers": {"x-user": "jane"}}, "differs only in case"),
        ({"path": "/cart", "headers": {"x_user": "jane"}}, "there is no such header, but there is x_user"),
    ],
)
async def test_a_near_miss_is_told_in_plain_words(env: Env, body: dict[str, Any], near: str) -> None:
    text = render(asked(pod({"name": "jane", "match": CART, "action": {"route": "x"}}), env, **body))
    assert near in text


async def test_a_rule_that_can_never_fire_says_so(env: Env) -> None:
    again = {**JOHN, "name": "john-again"}
    text = render(asked(pod(again), env, path="/"))
    assert "rule 'john-again' can never fire: rule 'john' has the same conditions" in text


async def test_the_endpoint_and_the_fallback_are_named_with_their_reasons(env: Env) -> None:
    said = asked(pod(), env, headers={"x-user": "john"})
    assert said.destination is not None and said.fallback is not None
    assert (said.destination.address, said.destination.why) == ("127.0.0.1:8000", "its only endpoint")
    assert said.fallback.cluster == "shadow" and said.fallback_when.startswith("when laptop refuses or cannot be reached")
    assert asked(pod(fallback=None), env, headers={"x-user": "john"}).fallback is None


async def test_a_destination_that_is_down_is_served_by_the_fallback_now(env: Env) -> None:
    conf = pod()
    tables = offline(conf, env)
    laptop = tables["web"].decide({"HTTP": {"headers": {"x-user": "john"}}}).cluster
    assert laptop is not None
    laptop.endpoints[0].up, laptop.down = False, True
    said = ask({"headers": {"x-user": "john"}}, conf, tables)
    assert (said.serves, said.fallback_when) == ("fallback", "now: every endpoint of laptop is down")
    assert said.destination is not None and said.destination.down == ("127.0.0.1:8000",)


@pytest.mark.parametrize(
    ("balancing", "address", "why"),
    [
        ({"policy": "Trivial"}, "10.0.0.1:8000", "the first that is up"),
        ({"policy": "round_robin"}, "10.0.0.1:8000", "its turn among 10.0.0.1:8000, 10.0.0.2:8000"),
        ({"policy": "random"}, "", "by chance among 10.0.0.1:8000, 10.0.0.2:8000"),
        ({"policy": "least_sessions"}, "", "by chance among 10.0.0.1:8000, 10.0.0.2:8000, which have the fewest sessions"),
        ({"policy": "None"}, "", "it has no endpoint that may be chosen"),
        (
            {"policy": "HashRing", "key": "/HTTP/headers/x-no"},
            "",
            "by chance among 10.0.0.1:8000, 10.0.0.2:8000, because /HTTP/headers/x-no",
        ),
    ],
)
async def test_every_policy_says_whom_it_would_choose_and_why(env: Env, balancing: dict[str, str], address: str, why: str) -> None:
    conf = config(
        clusters=[cluster("two", 8000, "10.0.0.1", "10.0.0.2", loadbalancer=balancing)], listeners=[listener("in", "two", port=1)]
    )
    said = asked(conf, env)
    assert said.destination is not None
    assert said.destination.address == address and said.destination.why.startswith(why)


async def test_the_key_of_a_hash_ring_is_shown_and_the_choice_is_the_ring_s(env: Env) -> None:
    balancing = {"policy": "HashRing", "key": "/IP/src_addr"}
    conf = config(
        clusters=[cluster("two", 8000, "10.0.0.1", "10.0.0.2", loadbalancer=balancing)], listeners=[listener("in", "two", port=1)]
    )
    tables = offline(conf, env)
    found = {}
    for i in range(20):
        said = ask({"source": f"10.1.0.{i}:5"}, conf, tables)
        assert said.destination is not None and f"(10.1.0.{i})" in said.destination.why
        ring = tables["in"].decide(said.session).cluster
        assert ring is not None
        found[said.destination.address] = ring.balancer.choose(ring.endpoints, f"10.1.0.{i}")
        assert said.destination.endpoint == found[said.destination.address].name  # type: ignore[union-attr]
    assert len(found) == 2


async def test_asking_uses_up_nobody_s_turn(env: Env) -> None:
    conf = config(
        clusters=[cluster("two", 1, "10.0.0.1", "10.0.0.2", loadbalancer={"policy": "round_robin"})], listeners=[listener("in", "two")]
    )
    two = offline(conf, env)["in"].decide({}).cluster
    assert two is not None
    assert {choice(two, {}).address for _ in range(5)} == {"10.0.0.1:1"}
    two.balancer.choose(two.endpoints)
    assert choice(two, {}).address == "10.0.0.2:1"


async def test_tcp_and_udp_sessions_are_explained_by_address_and_server_name(env: Env) -> None:
    by_name = {"name": "sni", "match": {"matchSni": {"sni": "a.org"}}, "action": {"route": {"destination": "echo"}}}
    by_source = {"name": "lan", "match": {"matchSource": {"cidr": "10.0.0.0/8"}}, "action": {"route": {"destination": "echo"}}}
    conf = config(
        clusters=[echo()],
        listeners=[
            listener("tls", port=1, spec={"tls": {"passthrough": True}}, rules=[by_name]),
            listener("dns", protocol="UDP", port=53, rules=[by_source]),
        ],
    )
    tables = offline(conf, env)
    assert ask({"listener": "tls", "sni": "a.org"}, conf, tables).rule == "sni"
    udp = ask({"listener": "53", "source": "10.2.0.1:999"}, conf, tables)
    assert (udp.rule, udp.session["UDP"], udp.assumed) == ("lan", {"src_port": 999, "dst_port": 53}, ())
    lost = ask({"listener": "dns"}, conf, tables)
    assert lost.failure is not None and (lost.why, lost.failure.status) == (f"no rule of {lost.rulelist} matched", 404)
    assert "answer     404 (no-route): No route" in render(lost) and lost.assumed == ("it comes from 127.0.0.1",)


async def test_a_jump_is_followed_into_the_other_list(env: Env) -> None:
    lists = [{"name": "more", "rules": [{"name": "end", "action": {"route": {"destination": "echo"}}}]}]
    conf = config(
        clusters=[echo()], rulelists=lists, listeners=[listener("in", port=1, rules=[{"name": "jump", "action": {"apply": "more"}}])]
    )
    said = asked(conf, env)
    assert [(step.rulelist.startswith("in"), step.jump) for step in said.steps] == [(True, "more"), (False, "")]
    assert said.rule == "end"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "expected an object"),
        ({"pth": "/"}, "unknown field 'pth'"),
        ({"path": 1}, "$.path: expected text"),
        ({"headers": {"a": 1}}, "$.headers: expected an object of texts"),
        ({"headers": [["a"]]}, "$.headers: expected"),
        ({"source": "1.2.3.4:x"}, "$.source: expected host:port"),
        ({"listener": "wbe"}, "there is no listener 'wbe' (allowed: web (HTTP 8080))"),
        ({"path": "/\u20ac"}, '$.path: no request has the path "/\u20ac": target '),
        ({"path": "cart"}, '$.path: no request has the path "cart" (allowed: a path that begins with /, or a whole URL)'),
        ({"path": "/a b"}, '$.path: no request has the path "/a b": request line'),
        ({"path": "*"}, '$.path: no request has the path "*"'),
        ({"path": ""}, '$.path: no request has the path ""'),
        ({"method": "G ET"}, '$.method: expected a method, got "G ET" (allowed: GET, POST, ...)'),
        ({"method": ""}, '$.method: expected a method, got ""'),
        ({"headers": {"x user": "a"}}, '$.headers.x user: expected the name of a header, got "x user"'),
        ({"headers": {"x": "a\r\nb"}}, "no header has control characters in its value"),
        ({"metadata": 1}, "$.metadata: expected an object"),
    ],
)
async def test_what_cannot_be_a_session_is_refused_with_the_reason(env: Env, body: Any, words: str) -> None:
    conf = pod()
    with pytest.raises(ConfigError) as refused:
        ask(body, conf, offline(conf, env))
    assert words in refused.value.detail


async def test_everything_that_no_request_can_have_is_told_at_once(env: Env) -> None:
    with pytest.raises(ConfigError) as refused:
        asked(pod(), env, method="G ET", path="cart", headers={"x y": "a\0"})
    assert [problem.path for problem in refused.value.problems] == ["$.method", "$.path", "$.headers.x y", "$.headers.x y"]


def two_ports() -> Config:
    ports = [listener(f"at-{port}", "up", protocol="HTTP", port=port) for port in (80, 8080)]
    return config(clusters=[cluster("up", 1, protocol="HTTP")], listeners=ports)


async def test_of_several_listeners_the_way_to_name_one_is_told(env: Env) -> None:
    with pytest.raises(ConfigError, match=r"which listener is meant\?.*at-80 .*at-8080 .*--listener"):
        asked(two_ports(), env, path="/x")


@pytest.mark.parametrize(
    ("url", "name"),
    [("http://shop.example:8080/x", "at-8080"), ("http://shop.example/x", "at-80"), ("http://[::1]:8080?y", "at-8080")],
)
async def test_the_port_of_a_whole_url_says_which_listener_is_meant(env: Env, url: str, name: str) -> None:
    said = asked(two_ports(), env, path=url)
    assert said.listener == name


async def test_a_whole_url_says_the_host_too(env: Env) -> None:
    http = asked(two_ports(), env, path="http://shop.example:8080/x").session["HTTP"]
    assert (http["url"]["path"], http["headers"]["host"]) == ("/x", "shop.example:8080")


async def test_metadata_may_be_given_as_it_is(env: Env) -> None:
    match = {"op": "test", "path": "/labels/app", "value": "x"}
    conf = config(clusters=[echo()], listeners=[listener("in", port=1, rules=[{"name": "r", "match": match, "action": {"route": "none"}}])])
    said = asked(conf, env, metadata={"labels": {"app": "x"}})
    assert (said.rule, said.serves) == ("r", "nobody") and "Cannot find Route" in render(said)


async def test_the_answer_has_a_plain_form_for_other_alphabets(env: Env) -> None:
    assert render(asked(pod(), env), utf8=False).isascii()


async def test_the_api_explains_by_the_tables_in_force() -> None:
    conf = config(clusters=[cluster("up", 1, protocol="HTTP")], listeners=[listener("web", "up", protocol="HTTP")])
    async with running(conf) as proxy:
        api, json_type = Api(proxy), {"content-type": "application/json"}
        answer = await api.call("POST", "/api/v1/explain", "", json_type, b'{"path": "/x"}')
        said = json.loads(answer.body)
        assert answer.status == 200 and said["destination"]["cluster"] == "up" and said["revision"] == 1
        refused = await api.call("POST", "/api/v1/explain", "", json_type, b'{"patth": "/x"}')
        assert refused.status == 400 and json.loads(refused.body)["content"][0]["path"] == "$.patth"
        assert proxy.config.revision == 1 and not any(hits.count for hits in proxy.hits.values())
        other = b'{"cluster": {"name": "later", "spec": {"protocol": "Echo"}}}'  # none of this listener's rules
        assert (await api.call("POST", "/api/v1/clusters", "", json_type, other)).status == 200
        answer = await api.call("POST", "/api/v1/explain", "", json_type, b'{"path": "/x"}')
        assert json.loads(answer.body)["revision"] == 2


# --- what no rule is asked about ---------------------------------------------------------------------------------------------------------


def guarded(protocol: str = "HTTP", port: int = 8080, **options: Any) -> Config:
    admin = {"name": "admin", "match": {"matchPath": {"path": "/admin", "type": "prefix"}}, "action": {"route": {"destination": "echo"}}}
    last = {"name": "everybody", "action": {"route": {"destination": "echo"}}}
    return config(clusters=[echo()], listeners=[listener("web", protocol=protocol, port=port, rules=[admin, last], options=options)])


@pytest.mark.parametrize("target", ["/admin%00", "/x/..;/admin", "/x%2f..%2fadmin", "http://a/x/..;/admin?q"])
async def test_a_target_that_the_listener_refuses_is_explained_as_refused(env: Env, target: str) -> None:
    for protocol in ("HTTP", "auto"):
        said = asked(guarded(protocol), env, path=target)
        assert said.failure is not None and said.failure.status == 400 and "strict_path" in said.failure.detail
        assert (said.serves, said.rule, said.steps, said.destination) == ("nobody", "", (), None)
        text = render(said)
        assert "answer     400 (protocol-error): target" in text and "takes it" not in text
    assert asked(guarded(strict_path=0), env, path=target).rule == "everybody"
    assert asked(guarded(), env, path="/x%2Fadmin").rule == "everybody"


async def test_what_explain_says_is_what_the_listener_answers() -> None:
    async with running(guarded(port=0)) as proxy:
        api = Api(proxy)
        for target in ("/x/..;/admin", "/admin%00", "/admin/x", "/%zz"):
            answer = await api.call(
                "POST", "/api/v1/explain", "", {"content-type": "application/json"}, json.dumps({"path": target}).encode()
            )
            said = json.loads(answer.body)
            status, _, body = await http(port_of(proxy, "web"), target)
            if status == 200:
                assert said["rule"] in ("admin", "everybody")
            elif answer.status == 200:
                assert (said["failure"]["status"], said["failure"]["detail"]) == (status, json.loads(body)["content"])


async def test_a_request_that_has_gone_round_is_explained_as_refused(env: Env) -> None:
    said = asked(guarded(), env, path="/", headers={"X-Carrier-Hops": "10"})
    assert said.failure is not None and (said.failure.status, said.failure.kind) == (508, "loop") and "max_hops" in said.why
    assert asked(guarded(), env, path="/", headers={"X-Carrier-Hops": "9"}).failure is None
    assert asked(guarded(max_hops=0), env, path="/", headers={"X-Carrier-Hops": "10"}).failure is None


# --- x-carrier-explain -------------------------------------------------------------------------------------------------------------------

ASKS = b"GET /x HTTP/1.1\r\nhost: a\r\nX-Carrier-Explain: 1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


async def answer_to(stage: Stage, request: bytes, upstream: bool = True) -> bytes:
    client = await stage.client()
    await client.says(request)
    if upstream:
        server = await stage.server()
        await server.head()
        await server.says(OK)
    return (await client.head()).lower()


@pytest.mark.parametrize("times", [1, 2], ids=["for the first time", "from the memo"])
async def test_a_request_that_asks_is_told_rule_cluster_endpoint_and_reason(times: int) -> None:
    async with Stage() as stage:
        client = await stage.client()
        await client.says(ASKS)
        server = await stage.server()
        for turn in range(times):
            if turn:
                await client.says(ASKS)
            await server.head()
            await server.says(OK)
            head = (await client.head()).decode()
            assert await client.hears(2) == b"hi"
        assert "\r\nx-carrier-rule: all\r\n" in head and "\r\nx-carrier-cluster: up\r\n" in head
        assert f"\r\nx-carrier-endpoint: 127.0.0.1:{stage.backend_port}\r\n" in head
        assert "\r\nx-carrier-why: rule all: anything\r\n" in head


async def test_a_request_that_does_not_ask_is_not_told() -> None:
    async with Stage() as stage:
        assert b"x-carrier" not in await answer_to(stage, b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n")


async def test_a_proxy_on_this_machine_is_not_told_for_others() -> None:
    async with Stage() as stage:
        passed_on = ASKS[:-2] + b"x-forwarded-for: 203.0.113.9\r\n\r\n"
        assert b"x-carrier" not in await answer_to(stage, passed_on)


async def test_networks_that_the_listener_names_are_told_also_through_a_proxy() -> None:
    async with Stage(listener={"explain": ["127.0.0.0/8"]}) as stage:
        passed_on = ASKS[:-2] + b"x-forwarded-for: 203.0.113.9\r\n\r\n"
        assert b"\r\nx-carrier-rule: all\r\n" in await answer_to(stage, passed_on)


async def test_a_failure_says_why_too() -> None:
    async with Stage() as stage:
        stage.shuts()
        head = await answer_to(stage, ASKS, upstream=False)
        assert head.startswith(b"http/1.1 503 ") and b"x-carrier-why: rule all: anything; failed, refused: 127.0.0.1:" in head
    async with Stage(catch_all=False) as stage:
        head = await answer_to(stage, ASKS, upstream=False)
        assert head.startswith(b"http/1.1 404 ") and b"x-carrier-why: no rule of rl matched\r\n" in head


async def test_names_that_no_header_can_hold_are_made_safe() -> None:
    class Said:
        class decision:
            rule = "a\r\nset-cookie: x"

        cluster = endpoint = last_endpoint = None
        why = "ü"

    assert answer_fields(Said()) == b"x-carrier-rule: a??set-cookie: x\r\nx-carrier-why: ?\r\n"  # type: ignore[arg-type]


MUELLER = "m\u00fcller"


@pytest.mark.parametrize(
    ("condition", "header", "matches"),
    [
        ({"matchHeader": {"name": "x-user", "value": MUELLER}}, ("x-user", MUELLER), True),
        ({"matchHeader": {"name": "x-user", "value": "\u2603"}}, ("x-user", "\u2603"), True),
        ({"matchHeader": {"name": "x-user", "value": MUELLER}}, ("x-user", f"a, {MUELLER}"), True),
        ({"matchHeader": {"name": "x-user", "value": MUELLER}}, ("x-user", "muller"), False),
        ({"matchHeader": {"name": "x-user", "value": "m\u00fc", "type": "prefix"}}, ("x-user", MUELLER), True),
        ({"matchHeader": {"name": "x-user", "value": "\u00fcl", "type": "regex"}}, ("x-user", MUELLER), True),
        ({"matchHeader": {"name": "x-user", "value": "^m[\u00fc\u00dc]l{2}er$", "type": "regex"}}, ("x-user", MUELLER), True),
        ({"matchHeader": {"name": "x-user", "value": "^m.ller$", "type": "regex"}}, ("x-user", MUELLER), True),
        ({"matchHeader": {"name": "x-us.r", "value": "\u00fcl", "type": "regex", "raw": True}}, ("x-user", MUELLER), True),
        ({"matchHeader": {"name": "x-user", "value": MUELLER, "raw": True}}, ("x-user", MUELLER), True),
        ({"matchCookie": {"name": "user", "value": "voil\u00e0"}}, ("cookie", "a=b; user=voil\u00e0"), True),
        ({"matchBaggage": {"name": "user", "value": "voil\u00e0"}}, ("baggage", "user=voil\u00e0"), True),
        ({"matchBaggage": {"name": "user", "value": MUELLER}}, ("baggage", "user=m%C3%BCller;p=1"), True),
        ({"matchTracestate": {"name": "user", "value": MUELLER}}, ("tracestate", f"user={MUELLER}"), True),
        ({"op": "test", "path": "/HTTP/headers/x-user", "value": MUELLER}, ("x-user", MUELLER), False),
        ({"op": "test", "path": "/HTTP/headers/x-user", "value": "m\u00c3\u00bcller"}, ("x-user", MUELLER), True),
    ],
)
async def test_what_is_beyond_ascii_in_a_rule_means_its_utf8_bytes_for_requests_and_for_explanations(
    env: Env, condition: Any, header: tuple[str, str], matches: bool
) -> None:
    rules = [
        {"name": name, "match": match, "action": {"route": {"destination": {"spec": {"protocol": "Answer", "body": name}}}}}
        for name, match in (("own", condition), ("everybody", "*"))
    ]
    conf = config(listeners=[listener("web", protocol="HTTP", rules=rules)])
    async with running(conf) as proxy:
        _, _, body = await http(port_of(proxy, "web"), headers=dict([header]))
    said = asked(conf, env, headers=[list(header)])
    assert body.decode() == said.rule == ("own" if matches else "everybody")
    assert said.steps[0].rules[0].matched == matches


async def test_what_is_beyond_ascii_is_shown_as_it_was_written(env: Env) -> None:
    rule = {"name": "own", "match": {"matchHeader": {"name": "x-user", "value": MUELLER}}, "action": {"route": "x"}}
    text = render(asked(pod(rule), env, headers={"x-user": "J\u00fcrgen"}))
    assert f'header x-user is "{MUELLER}"   seen "J\u00fcrgen"   the header is there with another value' in text
    assert "x-user: J\u00fcrgen" in text


async def test_a_byte_that_is_no_utf8_is_read_as_latin1_by_expressions_and_is_not_its_utf8_text() -> None:
    meta = {"HTTP": {"headers": {"x-user": "m\u00fcller"}}}
    assert compile_match({"matchHeader": {"name": "x-user", "value": "^m.ller$", "type": "regex"}}).holds(meta)
    assert not compile_match({"matchHeader": {"name": "x-user", "value": MUELLER}}).holds(meta)
