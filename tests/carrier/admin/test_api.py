"""The REST API without a socket: calls in, answers out, a fake proxy behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from carrier.admin.api import Api
from carrier.admin.calls import Answer
from carrier.admin.gate import Limits
from carrier.admin.operations import OPERATIONS
from carrier.bridges.edits import Bridges
from carrier.config.draft import Draft
from carrier.errors import Error
from carrier.log import Log
from carrier.model import Admin, Config

CONTROLLER = {
    "name": "controller-listener",
    "spec": {"protocol": "HTTP", "port": 1234},
    "rules": [{"action": {"route": {"destination": {"name": "l7mp-controller", "spec": {"protocol": "L7mpController"}}}}}],
}


class FakeSession:
    def __init__(self, name: str, listener: str, cluster: str, endpoint: str = "e") -> None:
        self.name = name
        self.shown = {
            "name": name,
            "source": {"origin": listener},
            "destination": {"origin": cluster, "endpoint": {"name": endpoint}},
            "ingress": [],
            "egress": [],
        }
        self.killed = False
        self.why = ""

    def dump(self) -> dict[str, Any]:
        return self.shown

    def kill(self) -> None:
        self.killed = True

    def disconnect(self, why: str) -> None:
        self.why = why


class FakeProxy:
    def __init__(self) -> None:
        draft = Draft(Config())
        draft.add_listener(CONTROLLER)
        self.config = draft.done()
        self.live: list[FakeSession] = []
        self.applied: list[Config] = []
        self.refuses: Exception | None = None
        self.refused = 0
        self.clusters: dict[str, object] = {}

    @property
    def strict(self) -> bool:
        return self.config.admin.strict

    async def apply(self, config: Config) -> tuple[str, ...]:
        await asyncio.sleep(0)
        if self.refuses is not None:
            raise self.refuses
        self.config = msgspec.structs.replace(config, revision=self.config.revision + 1)
        self.applied.append(self.config)
        return ()

    def sessions(self) -> Iterator[FakeSession]:
        return iter(self.live)

    def find_session(self, name: str) -> FakeSession | None:
        return next((s for s in self.live if s.name == name), None)


class Client:
    """`await client("GET", "/listeners")` -> (status, body, headers)."""

    def __init__(self, strict: bool = False, bridges: Any = None, **more: Any) -> None:
        self.proxy = FakeProxy()
        if strict:
            self.proxy.config = msgspec.structs.replace(self.proxy.config, admin=Admin(strict=True))
        self.api = Api(self.proxy, bridges=bridges, **more)

    async def raw(self, method: str, path: str, body: bytes = b"", own: bool = True, **headers: str) -> Answer:
        path, _, query = path.partition("?")
        return await self.api.call(method, path, query, {k.replace("_", "-"): v for k, v in headers.items()}, body, own=own)

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        encoded = b"" if body is None else json.dumps(body).encode()
        if body is not None:
            headers.setdefault("content_type", "application/json")
        answer = await self.raw(method, f"/api/v1{path}", encoded, **headers)
        return answer.status, json.loads(answer.body), answer.headers

    async def content(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The reason of a refusal; nothing has changed."""
        before = self.proxy.config
        status, answer, _ = await self(method, path, body, **headers)
        assert status >= 400
        assert self.proxy.config is before
        return answer["content"]


@pytest.fixture
def client() -> Client:
    return Client()


def cluster(name: str = "c", **more: Any) -> dict[str, Any]:
    return {"cluster": {"name": name, "spec": {"protocol": "Echo"}, **more}}


# -- paths and content types ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/v1/clusters", "/api/v1/clusters/", "//api/v1//clusters"])
async def test_trailing_and_double_slashes_are_taken(client: Client, path: str) -> None:
    assert (await client.raw("GET", path)).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/bogus"),
        ("GET", "/io.l7mp.api.v1/api/v1/config"),
        ("GET", "/api/v1/endpoints"),
        ("GET", "/api/v1/rulelists/x/rules"),
        ("GET", "/api/v1/bridges"),
        ("GET", "/api/v1/" + "a/" * 1000),
    ],
)
async def test_an_unknown_path_is_404(client: Client, method: str, path: str) -> None:
    answer = await client.raw(method, path)
    assert (answer.status, json.loads(answer.body)["content"]) == (404, "Unknown API operation")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/api/v1/listeners/x", "GET, PUT, DELETE"),
        ("PUT", "/api/v1/listeners", "GET, POST"),
        ("HEAD", "/api/v1/config", "GET, POST"),
        ("get", "/api/v1/config", "GET, POST"),
        ("GET", "/api/v1/validate", "POST"),
        ("POST", "/api/v1/status", "GET"),
    ],
)
async def test_a_method_that_a_path_does_not_take_is_405_and_told_those_it_does(
    client: Client, method: str, path: str, allowed: str
) -> None:
    answer = await client.raw(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    assert json.loads(answer.body)["content"] == f"{path} takes {allowed.replace(', ', ' and ')}, not {method}"


@pytest.mark.parametrize(("method", "path"), [("PATCH", "/api/v1/listeners/x"), ("GET", "/"), ("GET", "/api/v1")])
async def test_through_a_listener_of_the_configuration_it_is_l7mps_404(client: Client, method: str, path: str) -> None:
    answer = await client.raw(method, path, own=False)
    assert (answer.status, json.loads(answer.body)["content"]) == (404, "Unknown API operation")


@pytest.mark.parametrize("path", ["/", "/api/v1", "/api/v1/"])
async def test_the_calls_are_listed_for_who_does_not_know_them(client: Client, path: str) -> None:
    answer = await client.raw("GET", path)
    calls = {call["call"]: call for call in json.loads(answer.body)["calls"]}
    assert answer.body.count(b"\n") > len(calls), "a line for each: people read it"
    assert answer.status == 200 and calls["PUT /api/v1/bridges/{name}"]["does"].startswith("make or replace a user bridge")
    assert len(calls) == len(OPERATIONS) and all(call["does"] for call in calls.values())


async def test_names_with_slashes_spaces_and_letters_of_all_countries_come_percent_encoded(client: Client) -> None:
    name = "/l7mp.io/v1/VirtualService/default/ü:x"
    assert (await client("POST", "/clusters", cluster(name)))[0] == 200
    encoded = "%2Fl7mp.io%2Fv1%2FVirtualService%2Fdefault%2F%C3%BC:x"
    assert (await client("GET", f"/clusters/{encoded}"))[1]["name"] == name
    assert (await client("DELETE", f"/clusters/{encoded}"))[0] == 200
    assert await client.content("GET", f"/clusters/{encoded}") == "Not Found"


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "text/x-json", "application/x-yaml;q=1", "text/yaml"]
)
async def test_content_types_are_taken_with_parameters_and_in_any_case(client: Client, kind: str) -> None:
    assert (await client("POST", "/clusters", cluster(), content_type=kind))[0] == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "json"])
async def test_other_content_types_are_415(client: Client, kind: str) -> None:
    status, answer, _ = await client("POST", "/clusters", cluster(), content_type=kind)
    assert (status, answer["message"]) == (415, "Unsupported Media Type")


async def test_reads_and_deletes_take_any_content_type(client: Client) -> None:
    await client("POST", "/clusters", cluster())
    assert (await client("GET", "/clusters", content_type="text/plain"))[0] == 200
    assert (await client("DELETE", "/clusters/c", content_type="text/plain"))[0] == 200


async def test_answers_are_json_with_the_revision_as_etag(client: Client) -> None:
    revision = client.proxy.config.revision
    _, _, headers = await client("GET", "/clusters")
    assert headers == {"content-type": "application/json", "etag": f'"{revision}"', "carrier-revision": str(revision)}
    _, answer, headers = await client("POST", "/clusters", cluster())
    assert (answer, headers["etag"]) == ({"status": 200, "message": "OK"}, f'"{revision + 1}"')


async def test_errors_are_indented_by_four_and_carry_the_real_status(client: Client) -> None:
    answer = await client.raw("GET", "/api/v1/clusters/nope")
    assert answer.body == b'{\n    "status": 400,\n    "message": "Bad Request",\n    "content": "Not Found"\n}'


async def test_the_format_of_an_answer_can_be_chosen(client: Client) -> None:
    answer = await client.raw("GET", "/api/v1/rulelists?format=terse")
    assert answer.body == b'[{"name":"controller-listener-RuleList-0","rules":["controller-listener-RuleList-0-Rule-0"]}]'


# -- bad bodies ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"cluster": ' * 50,
        b'{"cluster": NaN}',
        b"null",
        b"5",
        b'"str"',
        b"[]",
        b"{}",
        b'{"cluster": {"name": "\\ud800", "spec": {"protocol": "Echo"}}}',
        b'{"cluster": {"name": "x", "spec": {"protocol": ["Echo"]}}}',
        b'{"cluster": {"name": {}, "spec": {"protocol": "Echo"}}}',
        b'{"cluster": {"name": "x", "spec": []}}',
        b'{"cluster": {"name": "x", "spec": {"protocol": "TCP"}, "endpoints": {"a": 1}}}',
        b'{"cluster": {"name": "x", "spec": {"protocol": "TCP"}, "endpoints": [5]}}',
        b'{"cluster": {"name": "x", "spec": {"protocol": "TCP"}, "loadbalancer": 5}}',
        b'{"cluster": {"name": "x", "spec": {"protocol": "Echo"}, "endpoints": [{"spec": {"address": "a"}}]}}',
    ],
)
async def test_a_bad_body_is_400_with_a_reason_and_changes_nothing(client: Client, body: bytes) -> None:
    before = client.proxy.config
    answer = await client.raw("POST", "/api/v1/clusters", body, content_type="application/json")
    assert answer.status == 400
    content = json.loads(answer.body)["content"]
    assert content and "Traceback" not in content and "internal" not in content
    assert client.proxy.config is before


async def test_a_body_over_a_mebibyte_is_413(client: Client) -> None:
    answer = await client.raw("POST", "/api/v1/clusters", b" " * (Limits().body + 1), content_type="application/json")
    assert answer.status == 413


async def test_an_alias_bomb_is_refused(client: Client) -> None:
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    answer = await client.raw("POST", "/api/v1/clusters", bomb.encode(), content_type="text/yaml")
    assert answer.status == 400


async def test_what_nobody_foresaw_is_500_without_a_trace_of_it(client: Client) -> None:
    client.proxy.refuses = ZeroDivisionError("secret")
    status, answer, _ = await client("POST", "/clusters", cluster())
    assert (status, answer["content"]) == (500, "internal error: ZeroDivisionError")


# -- l7mp's calls --------------------------------------------------------------------------------------------------------------------------


async def test_an_object_can_be_added_read_and_deleted(client: Client) -> None:
    listener = {"name": "l", "spec": {"protocol": "TCP", "port": 15000}, "rules": [{"action": {"route": {"destination": "x"}}}]}
    assert (await client("POST", "/listeners", {"listener": listener}))[0] == 200
    assert (await client("GET", "/listeners/l"))[1]["rules"] == "l-RuleList-1"
    shown = (await client("GET", "/listeners/l?recursive=true"))[1]
    assert shown["rules"][0]["action"]["route"]["destination"] == "x:<STALE>"
    assert (await client("GET", "/listeners/l?recursive=1"))[1]["rules"] == "l-RuleList-1"
    assert (await client("DELETE", "/listeners/l?recursive=true"))[0] == 200
    assert (await client("GET", "/rulelists"))[1] == [
        {"name": "controller-listener-RuleList-0", "rules": ["controller-listener-RuleList-0-Rule-0"]}
    ]


async def test_endpoints_can_be_read_by_name(client: Client) -> None:
    tcp = {"name": "t", "spec": {"protocol": "TCP", "port": 1}, "endpoints": [{"name": "e", "spec": {"address": "127.0.0.1"}}]}
    await client("POST", "/clusters", {"cluster": tcp})
    assert (await client("GET", "/endpoints/e"))[1] == {"name": "e", "spec": {"address": "127.0.0.1"}, "weight": 1}
    assert (await client("POST", "/clusters/t/endpoints", {"endpoint": {"spec": {"address": "::1"}}}))[0] == 200
    assert [e["name"] for e in (await client("GET", "/clusters/t/endpoints"))[1]] == ["e", "t-EndPoint-0"]
    assert (await client("DELETE", "/endpoints/e"))[0] == 200
    assert await client.content("GET", "/endpoints/e") == "Not Found"
    assert await client.content("GET", "/clusters/nope/endpoints") == "No such cluster: nope"


async def test_rules_are_inserted_read_and_taken_out_by_position(client: Client) -> None:
    await client("POST", "/rulelists", {"rulelist": {"name": "rl", "rules": []}})
    assert (await client("POST", "/rulelists/rl/rules/0", {"rule": {"name": "a", "action": {}}}))[0] == 200
    assert (await client("POST", "/rulelists/rl/rules/1", {"rule": "ghost"}))[0] == 200
    assert (await client("GET", "/rulelists/rl/rules/0"))[1] == {"name": "a", "match": {"match": "*"}, "action": {}}
    assert await client.content("GET", "/rulelists/rl/rules/1") == "Not Found"
    assert await client.content("GET", "/rulelists/rl/rules/2") == 'No rule at position 2 in RuleList "rl"'
    assert await client.content("POST", "/rulelists/rl/rules/9", {"rule": "x"}) == "Cannot insert rule at position 9 into rulelist"
    assert await client.content("POST", "/rulelists/nope/rules/0", {"rule": "x"}) == "Bad Request"
    assert (await client("DELETE", "/rulelists/rl/rules/ghost"))[0] == 200
    assert (await client("GET", "/rulelists/rl"))[1]["rules"] == ["a"]


async def test_what_l7mp_takes_is_taken_with_a_warning(client: Client) -> None:
    odd = {"cluster": {"name": "odd", "spec": {"protocol": "TCP", "port": "80"}, "foo": "bar"}}
    status, _, headers = await client("POST", "/clusters", odd)
    assert status == 200
    assert "$.cluster.spec.port" in headers["carrier-warning"] and "'foo'" in headers["carrier-warning"]


async def test_a_match_that_cannot_be_compiled_is_taken_with_one_warning(client: Client) -> None:
    rule = {"name": "r", "match": {"op": "matches", "path": "/x", "value": "(?=a)"}, "action": {}}
    status, _, headers = await client("POST", "/rulelists", {"rulelist": {"name": "rl", "rules": [rule]}})
    assert status == 200
    assert headers["carrier-warning"].count("RE2 regular expression") == 1


async def test_a_warning_is_told_when_it_comes_up_and_not_again(client: Client) -> None:
    route = {"route": {"name": "r", "destination": "nowhere"}}
    assert "'nowhere'" in (await client("POST", "/routes", route))[2]["carrier-warning"]
    assert "carrier-warning" not in (await client("POST", "/clusters", cluster()))[2]
    assert "'c'" not in (await client("POST", "/routes", {"route": {"name": "s", "destination": "c"}}))[2].get("carrier-warning", "")
    assert "'c'" in (await client("DELETE", "/clusters/c"))[2]["carrier-warning"]


async def test_warnings_are_plain_ascii_and_bounded(client: Client) -> None:
    routes = [{"name": f"r{i}", "action": {"route": "ü→\r\nx: y" + str(i)}} for i in range(200)]
    header = (await client("POST", "/rulelists", {"rulelist": {"name": "rl", "rules": routes}}))[2]["carrier-warning"]
    assert len(header) < 2200 and header.isascii() and header.isprintable()
    assert " more" in header


async def test_a_failed_apply_is_answered_with_its_reason(client: Client) -> None:
    client.proxy.refuses = Error("bind", '"l": Could not bind to *:15000: Address already in use')
    listener = {"listener": {"name": "l", "spec": {"protocol": "TCP", "port": 15000}, "rules": []}}
    assert await client.content("POST", "/listeners", listener) == '"l": Could not bind to *:15000: Address already in use'


async def test_settings_cannot_be_changed(client: Client) -> None:
    assert (await client("POST", "/admin", {"admin": {"log_level": "warn"}}))[0] == 501


async def test_no_change_is_lost_when_many_come_at_once(client: Client) -> None:
    answers = await asyncio.gather(*(client("POST", "/clusters", cluster(f"c{i}")) for i in range(20)))
    assert {status for status, _, _ in answers} == {200}
    assert len(client.proxy.config.clusters) == 21
    assert len({headers["etag"] for _, _, headers in answers}) == 20


# -- strict --------------------------------------------------------------------------------------------------------------------------------


async def test_strict_mode_answers_with_ajvs_list() -> None:
    client = Client(strict=True)
    status, answer, _ = await client("POST", "/listeners", {"listener": {"name": "x"}})
    assert (status, answer["message"]) == (422, "Unprocessable Entity: Input JSON schema validation failed")
    assert answer["content"] == [
        {
            "keyword": "required",
            "dataPath": ".requestBody.listener",
            "schemaPath": "#/properties/requestBody/properties/listener/required",
            "params": {"missingProperty": "spec"},
            "message": "should have required property 'spec'",
        }
    ]
    assert (await client("GET", "/listeners?recursive=yes"))[0] == 422
    assert (await client("GET", "/rulelists/controller-listener-RuleList-0/rules/abc"))[1]["content"][0]["dataPath"] == ".path.position"
    assert (await client("POST", "/clusters?dryRun=true", cluster()))[0] == 200


HTTP_CLUSTER = {"name": "c", "spec": {"protocol": "HTTP", "port": 80}, "endpoints": [{"spec": {"address": "10.0.0.9"}}]}
HTTP_LISTENER = {"name": "l", "spec": {"protocol": "HTTP", "port": 8080}, "rules": []}


@pytest.mark.parametrize(
    ("kind", "body", "at"),
    [
        ("cluster", {**HTTP_CLUSTER, "spec": {"protocol": "HTTP", "port": "eighty"}}, ".spec.port"),
        ("cluster", {**HTTP_CLUSTER, "spec": {"protocol": "HTTP"}}, ".spec"),
        ("cluster", {**HTTP_CLUSTER, "spec": {"protocol": "HTTP", "port": 80, "tsl": True}}, ".spec.tsl"),
        ("cluster", {**HTTP_CLUSTER, "options": {"answer_timeout": "never"}}, ".options.answer_timeout"),
        ("cluster", {"name": "c", "spec": {"protocol": "TCP", "port": 80, "framing": "words"}, "endpoints": []}, ".spec.framing"),
        ("listener", {**HTTP_LISTENER, "options": {"max_line": -1}}, ".options.max_line"),
        ("listener", {**HTTP_LISTENER, "spec": {"protocol": "HTTP", "port": 80, "tls": {"certificate": 5}}}, ".spec.tls"),
        ("listener", {**HTTP_LISTENER, "spec": {"protocol": "SCTP", "port": "x"}}, ".spec.port"),
        ("route", {"name": "r", "destination": "c", "fallback": 5}, ".fallback"),
        ("rulelist", {"name": "r", "rules": [], "order": "last"}, ".order"),
        ("rule", {"name": "r", "match": {"matchHeader": {"name": "x"}}, "action": {"route": "r"}}, ".match"),
        ("rule", {"name": "r", "action": {"route": {"destination": {"spec": {"protocol": "HTTP", "port": 0}}}}}, ".action.route.dest"),
    ],
)
async def test_what_we_have_beyond_l7mp_is_answered_422_in_strict_mode_too(kind: str, body: dict[str, Any], at: str) -> None:
    client = Client(strict=True)
    path = "/listeners" if kind == "listener" else f"/{kind}s"
    status, answer, _ = await client("POST", path, {kind: body})
    assert (status, answer["message"]) == (422, "Unprocessable Entity: Input JSON schema validation failed"), answer
    assert answer["content"][0]["dataPath"].startswith(f".requestBody.{kind}{at}") and answer["content"][0]["message"]
    assert not client.proxy.applied
    assert (await Client()("POST", path, {kind: body}))[0] != 422


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("cluster", {"name": "c", "spec": {"protocol": "TCP", "port": 80, "unknown": 1}, "endpoints": [], "more": 2}),
        ("rule", {"name": "r", "match": {"op": "no such"}, "action": {"route": "r"}}),
        ("cluster", HTTP_CLUSTER),
        ("listener", HTTP_LISTENER),
    ],
)
async def test_what_l7mp_lets_pass_in_strict_mode_passes(kind: str, body: dict[str, Any]) -> None:
    assert (await Client(strict=True)("POST", f"/{kind}s", {kind: body}))[0] == 200


async def test_calls_that_l7mp_has_not_are_422_in_strict_mode_when_their_body_is_wrong() -> None:
    for strict, expected in ((True, 422), (False, 400)):
        client = Client(strict=strict)
        status, answer, _ = await client("PUT", "/clusters/c", {"cluster": {"spec": {"protocol": "HTTP", "port": "x"}}})
        assert status == expected and answer["content"][0]["path"] == "$.cluster.spec.port"


@pytest.mark.parametrize("path", ["/", "/api/v1", "/api/v1/", "//api//v1"])
async def test_the_list_of_calls_is_only_read(client: Client, path: str) -> None:
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        answer = await client.raw(method, path)
        assert answer.status == 405 and answer.headers["allow"] == "GET, HEAD"
    assert (await client.raw("GET", path)).status == 200


# -- the strict standard: PUT, POST /config, /validate -----------------------------------------------------------------------------------


async def test_put_adds_replaces_and_is_idempotent(client: Client) -> None:
    assert (await client("PUT", "/clusters/c", cluster()))[0] == 200
    _, _, first = await client("PUT", "/clusters/c", cluster(spec={"protocol": "TCP", "port": 80}))
    _, _, second = await client("PUT", "/clusters/c", cluster(spec={"protocol": "TCP", "port": 80}))
    assert first["etag"] == second["etag"]
    assert len(client.proxy.applied) == 2


async def test_put_refuses_everything_odd_and_lists_it(client: Client) -> None:
    odd = {"cluster": {"name": "odd", "spec": {"protocol": "TCP", "port": "80"}, "foo": "bar"}, "extra": 1}
    content = await client.content("PUT", "/clusters/odd", odd)
    assert {p["path"] for p in content} == {"$.cluster.spec.port", "$.cluster.foo", "$.extra"}
    assert all(p["line"] == 1 and p["column"] for p in content)


async def test_put_refuses_a_key_that_is_set_twice(client: Client) -> None:
    body = b'{"cluster": {"name": "c", "name": "c", "spec": {"protocol": "Echo"}}}'
    assert (await client.raw("PUT", "/api/v1/clusters/c", body, content_type="application/json")).status == 400
    assert (await client.raw("POST", "/api/v1/clusters", body, content_type="application/json")).status == 200


async def test_put_refuses_a_rule_list_that_applies_itself_and_post_warns(client: Client) -> None:
    loop = {"rulelist": {"name": "rl", "rules": [{"action": {"apply": "rl"}}]}}
    assert "circle" in (await client.content("PUT", "/rulelists/rl", loop))[0]["message"]
    assert "circle" in (await client("POST", "/rulelists", loop))[2]["carrier-warning"]


async def test_post_config_replaces_everything_at_once(client: Client) -> None:
    document = {"listeners": [CONTROLLER], "clusters": [{"name": "new", "spec": {"protocol": "Echo"}}]}
    status, _, headers = await client("POST", "/config", document)
    assert (status, set(client.proxy.config.clusters)) == (200, {"l7mp-controller", "new"})
    assert (await client("POST", "/config", document))[2]["etag"] == headers["etag"]


async def test_post_config_refuses_all_of_a_bad_one_with_every_reason(client: Client) -> None:
    document = {"listeners": [{**CONTROLLER, "rules": "gone"}], "clusters": [{"name": "x", "spec": {"protocol": "Ecko"}}]}
    content = await client.content("POST", "/config", document)
    assert [(p["path"], p["message"]) for p in content] == [
        ("$.clusters[0].spec.protocol", "unknown protocol 'Ecko'"),
        ("$.listeners[0].rules", "rule list 'gone' is not defined"),
    ]
    del document["clusters"]
    assert (await client("POST", "/config?allowDangling=true", document))[2]["carrier-warning"].endswith("'gone' is not defined")


@pytest.mark.parametrize("body", [{}, {"admin": {}}, [], None, 5])
async def test_post_config_without_a_section_is_refused(client: Client, body: Any) -> None:
    await client.content("POST", "/config", body, content_type="application/json")


async def test_a_document_that_was_read_can_be_posted_again(client: Client) -> None:
    await client("POST", "/clusters", cluster())
    document = (await client("GET", "/config?document=true"))[1]
    before = client.proxy.config
    assert (await client("POST", "/config", document))[0] == 200
    assert client.proxy.config is before


async def test_validate_says_what_would_happen_and_does_nothing(client: Client) -> None:
    before = client.proxy.config
    document = {
        "listeners": [{**CONTROLLER, "spec": {"protocol": "HTTP", "port": 1235}}],
        "clusters": [{"name": "n", "spec": {"protocol": "Echo"}}],
    }
    status, answer, _ = await client("POST", "/validate", document)
    assert (status, answer["valid"]) == (200, True)
    assert answer["changes"] == {"clusters": {"added": ["n"]}, "listeners": {"changed": ["controller-listener"]}}
    _, answer, _ = await client("POST", "/validate", {"clusters": [{"name": "n"}]})
    assert (answer["valid"], answer["problems"][0]["path"]) == (False, "$.clusters[0]")
    assert client.proxy.config is before


# -- change control ------------------------------------------------------------------------------------------------------------------------


async def test_a_dry_run_says_the_same_and_changes_nothing(client: Client) -> None:
    before = client.proxy.config
    assert (await client("POST", "/clusters?dryRun=true", cluster()))[0] == 200
    assert (await client("DELETE", "/clusters/nope?dryRun=true"))[0] == 400
    assert client.proxy.config is before


async def test_an_overtaken_change_is_412(client: Client) -> None:
    etag = (await client("GET", "/clusters"))[2]["etag"]
    assert (await client("POST", "/clusters", cluster("a"), if_match=etag))[0] == 200
    assert (await client("POST", "/clusters", cluster("b"), if_match=etag))[0] == 412
    assert (await client("POST", "/clusters", cluster("b"), if_match=f'"999", "{client.proxy.config.revision}"'))[0] == 200
    assert (await client("DELETE", "/clusters/b", if_match="*"))[0] == 200


# -- sessions ------------------------------------------------------------------------------------------------------------------------------


async def test_sessions_are_listed_read_and_ended(client: Client) -> None:
    client.proxy.live = [FakeSession("TCP:1", "l", "c")]
    assert [s["name"] for s in (await client("GET", "/sessions"))[1]] == ["TCP:1"]
    assert (await client("GET", "/sessions/TCP:1"))[1]["source"] == {"origin": "l"}
    assert (await client("DELETE", "/sessions/TCP%3A1"))[1] == {"status": 200, "message": "OK"}
    assert client.proxy.live[0].killed
    assert await client.content("GET", "/sessions/nope") == "No such session"
    assert await client.content("DELETE", "/sessions/nope") == "No such session"


async def test_a_recursive_delete_ends_or_disconnects_the_sessions_of_what_went_after_it_was_answered(client: Client) -> None:
    tcp = {"name": "t", "spec": {"protocol": "TCP", "port": 1}, "endpoints": [{"name": "e1", "spec": {"address": "a"}}]}
    await client("POST", "/clusters", {"cluster": tcp})
    ends, stays = FakeSession("1", "l", "t", "e1"), FakeSession("2", "l", "other", "e2")
    client.proxy.live = [ends, stays]
    await client("DELETE", "/endpoints/e1")
    await asyncio.sleep(0)
    assert not ends.why
    await client("POST", "/clusters/t/endpoints", {"endpoint": {"name": "e1", "spec": {"address": "a"}}})
    await client("DELETE", "/endpoints/e1?recursive=true")
    assert not ends.why
    await asyncio.sleep(0)
    assert (ends.why, stays.why) == ("Traversed EndPoint e1 of destination cluster t is deleted from API", "")
    await client("DELETE", "/clusters/t?recursive=true")
    await asyncio.sleep(0)
    assert (ends.killed, stays.killed) == (True, False)


# -- bridges -------------------------------------------------------------------------------------------------------------------------------


WEB = {
    "name": "web",
    "spec": {"protocol": "HTTP", "port": 8080},
    "rules": [{"action": {"route": {"destination": {"name": "shadow", "spec": {"protocol": "Echo"}}}}}],
}
JOHN = {"port": 8080, "user": "john", "match": {"matchHeader": {"name": "x-user", "value": "john"}}, "endpoint": "127.0.0.1:9000"}


async def test_bridges_are_put_read_and_deleted() -> None:
    client = Client(bridges=Bridges())
    await client("POST", "/listeners", {"listener": WEB})
    status, made, headers = await client("PUT", "/bridges/john", JOHN)
    assert (status, headers["location"], made["name"], made["status"]["state"]) == (201, "/api/v1/bridges/john", "john", "in force")
    assert (await client("PUT", "/bridges/john", JOHN))[0] == 200, "it is there already"
    assert (await client("GET", "/bridges/john"))[1]["user"] == "john"
    assert [b["name"] for b in (await client("GET", "/bridges"))[1]] == ["john"]
    assert (await client("PUT", "/bridges/jane", {**JOHN, "user": "jane"}))[0] == 409
    assert (await client("DELETE", "/bridges/john"))[0] == 200
    assert (await client("GET", "/bridges/john"))[0] == 404


async def test_bridges_outlive_a_whole_configuration_as_far_as_they_fit() -> None:
    client = Client(bridges=Bridges())
    await client("POST", "/listeners", {"listener": WEB})
    await client("PUT", "/bridges/john", JOHN)
    document = (await client("GET", "/config?document=true"))[1]
    assert "john" not in json.dumps(document)
    document["clusters"].append({"name": "more", "spec": {"protocol": "Echo"}})
    assert (await client("POST", "/config", document))[0] == 200
    assert set(client.proxy.config.bridges) == {"john"}
    assert "more" in client.proxy.config.clusters
    header = (await client("POST", "/config", {"listeners": [CONTROLLER]}))[2]["carrier-warning"]
    assert "bridge 'john' is gone" in header
    assert client.proxy.config.bridges == {}


# -- tags ----------------------------------------------------------------------------------------------------------------------------------


async def test_an_object_has_its_own_tag_which_changes_with_it_and_with_what_is_in_it_only(client: Client) -> None:
    await client("POST", "/clusters", cluster("a"))
    tags = {path: (await client("GET", path))[2]["etag"] for path in ("/clusters/a", "/listeners/controller-listener")}
    await client("POST", "/clusters", cluster("b"))
    assert {path: (await client("GET", path))[2]["etag"] for path in tags} == tags
    await client("POST", "/rulelists/controller-listener-RuleList-0/rules/0", {"rule": {"name": "new", "action": {}}})
    assert (await client("GET", "/clusters/a"))[2]["etag"] == tags["/clusters/a"]
    assert (await client("GET", "/listeners/controller-listener"))[2]["etag"] != tags["/listeners/controller-listener"]


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_a_write_by_an_overtaken_tag_is_412_and_by_the_present_one_is_done(client: Client, method: str) -> None:
    body = cluster("a", options={"max_connections": 1}) if method == "PUT" else None
    await client("POST", "/clusters", cluster("a"))
    old = (await client("GET", "/clusters/a"))[2]["etag"]
    await client("PUT", "/clusters/a", cluster("a", options={"max_connections": 2}))
    assert "not at" in await client.content(method, "/clusters/a", body, if_match=old)
    await client("POST", "/clusters", cluster("unrelated"))
    now = (await client("GET", "/clusters/a"))[2]["etag"]
    assert (await client(method, "/clusters/a", body, if_match=f'"other", {now}'))[0] == 200


async def test_the_revision_is_taken_as_a_tag_of_every_object(client: Client) -> None:
    await client("POST", "/clusters", cluster("a"))
    revision = client.proxy.config.revision
    assert (await client("DELETE", "/clusters/a", if_match=f'"{revision - 1}"'))[0] == 412
    assert (await client("DELETE", "/clusters/a", if_match=f'"{revision}"'))[0] == 200


async def test_any_tag_means_that_the_object_must_be_there_and_none_that_it_must_not(client: Client) -> None:
    assert (await client("PUT", "/clusters/a", cluster("a"), if_match="*"))[0] == 412
    assert (await client("PUT", "/clusters/a", cluster("a"), if_none_match="*"))[0] == 200
    assert (await client("PUT", "/clusters/a", cluster("a"), if_none_match="*"))[0] == 412
    assert (await client("PUT", "/clusters/a", cluster("a"), if_match="*"))[0] == 200


async def test_who_knows_an_object_already_is_told_so(client: Client) -> None:
    await client("POST", "/clusters", cluster("a"))
    tag = (await client("GET", "/clusters/a"))[2]["etag"]
    answer = await client.raw("GET", "/api/v1/clusters/a", if_none_match=f"W/{tag}")
    assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
    await client("PUT", "/clusters/a", cluster("a", options={"max_connections": 1}))
    assert (await client.raw("GET", "/api/v1/clusters/a", if_none_match=tag)).status == 200


async def test_put_answers_with_the_new_tag_and_is_idempotent(client: Client) -> None:
    _, _, headers = await client("PUT", "/clusters/a", cluster("a"))
    before = client.proxy.config
    assert (await client("PUT", "/clusters/a", cluster("a")))[2] == headers
    assert client.proxy.config is before
    assert (await client("GET", "/clusters/a"))[2]["etag"] == headers["etag"]


async def test_a_dry_run_of_every_kind_of_write_changes_nothing() -> None:
    client = Client(bridges=Bridges())
    web = {"listener": {"name": "web", "spec": {"protocol": "HTTP", "port": 8080}, "rules": []}}
    await client("POST", "/listeners", web)
    await client("POST", "/clusters", {"cluster": {"name": "c", "spec": {"protocol": "TCP", "port": 1}, "endpoints": [ENDPOINT]}})
    client.proxy.live = [FakeSession("s", "web", "c")]
    bridge = {"port": 8080, "user": "j", "match": {"matchHeader": {"name": "a", "value": "b"}}, "endpoint": "127.0.0.1:9"}
    before = client.proxy.config
    for method, path, body in [
        ("POST", "/clusters", cluster("new")),
        ("PUT", "/clusters/c", cluster("c")),
        ("DELETE", "/clusters/c", None),
        ("POST", "/clusters/c/endpoints", {"endpoint": {"spec": {"address": "127.0.0.2"}}}),
        ("PUT", "/endpoints/e", {"endpoint": {"spec": {"address": "127.0.0.3"}}}),
        ("DELETE", "/endpoints/e", None),
        ("POST", "/rulelists/web-RuleList-1/rules/0", {"rule": {"action": {}}}),
        ("POST", "/config", {"listeners": []}),
        ("PUT", "/bridges/j", bridge),
        ("DELETE", "/sessions/s", None),
        ("DELETE", "/listeners/web?recursive=true", None),
    ]:
        mark = "&" if "?" in path else "?"
        status, answer, headers = await client(method, f"{path}{mark}dryRun=true", body)
        assert (status, headers["carrier-revision"]) == (200, str(before.revision)), (method, path, answer)
        assert client.proxy.config is before and not client.proxy.live[0].killed
    assert (await client("DELETE", "/listeners/nope?dryRun=true"))[0] == 400


ENDPOINT = {"name": "e", "spec": {"address": "127.0.0.1"}}


async def test_drains_are_unknown_where_nobody_can_drain(client: Client) -> None:
    for method, path in (("POST", "/drain"), ("GET", "/drain"), ("POST", "/listeners/controller-listener/drain")):
        assert (await client(method, path))[0] == 404


async def test_a_large_body_is_decoded_beside_the_event_loop(client: Client) -> None:
    text = "".join(f"- {{name: r{i}, action: {{}}}}\n" for i in range(4000))
    call = asyncio.ensure_future(client.raw("POST", "/api/v1/config", f"rules:\n{text}- [\n".encode(), content_type="text/yaml"))
    turns = 0
    while not call.done():
        await asyncio.sleep(0)
        turns += 1
    assert call.result().status == 400
    assert turns > 20, "the loop stood still meanwhile"


async def test_a_large_body_that_is_bad_is_refused_with_its_place(client: Client) -> None:
    body = b"rules:\n" + b"- r\n" * 20_000 + b"- [\n"
    answer = await client.raw("POST", "/api/v1/config", body, content_type="text/yaml")
    assert answer.status == 400 and b"line 20003" in answer.body


async def test_the_level_of_the_log_is_shown_and_changed() -> None:
    lines: list[str] = []
    client = Client(log=Log("info", lines.append))
    assert (await client("GET", "/log"))[1] == {"level": "info"}
    assert (await client("PUT", "/log", {"level": "debug"}))[1] == {"level": "debug", "before": "info"}
    assert client.api.log is not None and client.api.log.level == "debug"
    for body in ({"level": "loud"}, {"level": 3}, {}, [], {"level": "info", "more": 1}):
        assert (await client("PUT", "/log", body))[0] == 400
    await client("PUT", "/log?dryRun=true", {"level": "error"})
    assert client.api.log.level == "debug"


async def test_a_change_that_is_refused_is_told_with_its_reason_and_counted() -> None:
    told: list[dict[str, Any]] = []
    client = Client(audit=lambda **values: told.append(values))
    before = client.proxy.refused
    await client("PUT", "/listeners/x", {"listener": {"spec": {"protocol": "HTP"}, "rules": []}})
    assert told[0]["refused"].startswith("$.listener.spec.protocol: unknown protocol 'HTP'") and told[0]["result"] == "400"
    assert client.proxy.refused == before + 1
    await client("POST", "/listeners", {"listener": WEB})
    assert "refused" not in told[1] and client.proxy.refused == before + 1


async def as_role(client: Client, role: str, method: str, path: str, body: Any = None) -> int:
    sent, headers = (json.dumps(body).encode(), {"content-type": "application/json"}) if body is not None else (b"", {})
    return (await client.api.call(method, f"/api/v1{path}", "", headers, sent, "tests", role=role)).status


async def test_a_token_that_may_only_read_changes_nothing() -> None:
    client = Client(bridges=Bridges())
    await client("POST", "/listeners", {"listener": WEB})
    before = client.proxy.config
    assert await as_role(client, "read", "GET", "/config") == 200
    assert await as_role(client, "read", "POST", "/validate", {"listeners": []}) == 200
    writes = [(method, path) for (method, path), operation in OPERATIONS.items() if operation.is_write and "drain" not in path]
    for method, path in writes:
        assert await as_role(client, "read", method, f"/{path.replace('*', 'web')}", {}) == 403, (method, path)
    assert client.proxy.config is before and len(writes) > 20


async def test_a_token_of_a_user_changes_his_bridges_and_nothing_else() -> None:
    client = Client(bridges=Bridges())
    await client("POST", "/listeners", {"listener": WEB})
    mine, theirs = "user=john", "user=jane"
    assert await as_role(client, mine, "PUT", "/bridges/john", JOHN) == 201
    assert await as_role(client, mine, "POST", "/bridges/john", {"expires": 60}) == 200
    for method, body in (("PUT", {**JOHN, "user": "jane"}), ("POST", {"expires": 60}), ("DELETE", None)):
        assert await as_role(client, theirs, method, "/bridges/john", body) in (403, 409)
    assert client.proxy.config.bridges["john"].user == "john"
    more = {**JOHN, "match": {"matchHeader": {"name": "x-other", "value": "1"}}}
    assert await as_role(client, theirs, "PUT", "/bridges/more", more) == 403, "a bridge in another's name"
    assert await as_role(client, mine, "DELETE", "/listeners/web") == 403
    assert await as_role(client, mine, "DELETE", "/bridges/john") == 200
