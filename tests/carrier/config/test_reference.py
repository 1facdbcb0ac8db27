"""The reference, the schema and the checker know the same fields; every example is taken."""

import re
from typing import Any

import pytest

from carrier.bridges.asked import FIELDS as BRIDGE_FIELDS
from carrier.config import accesslog
from carrier.config.inspector import Inspector, inspect
from carrier.config.jsonschema import options_of
from carrier.config.reference import MATCHES, OBJECTS, OPTIONS, Field, fields_of
from carrier.core import health, registry
from carrier.errors import ConfigError
from carrier.hops.certificates import CLIENT_FIELDS, SERVER_FIELDS, check_client, check_server
from carrier.rules.notation import compile_match

ROUTE = {"destination": {"spec": {"protocol": "Echo"}}}
WHOLE: dict[str, dict[str, Any]] = {
    "listener": {"name": "web", "spec": {"protocol": "HTTP", "port": 1}, "rules": []},
    "rulelist": {"rules": []},
    "rule": {"action": {"route": ROUTE}},
    "route": dict(ROUTE),
    "cluster": {"spec": {"protocol": "HTTP", "port": 1}},
    "endpoint": {"spec": {"address": "127.0.0.1"}},
    "admin": {},
}
"""The least that the checker takes of each kind."""
INSIDE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "action": ("rule", "action", {"route": ROUTE}),
    "endpoint_spec": ("endpoint", "spec", {"address": "127.0.0.1"}),
    "retry": ("route", "retry", {"retry_on": "never"}),
    "loadbalancer": ("cluster", "loadbalancer", {"policy": "sticky", "key": "/IP/src_addr"}),
    "access_log": ("admin", "access_log", {"path": "stdout"}),
    "traces": ("admin", "traces", {"endpoint": "http://collector:4318"}),
}
"""Objects that are checked as a member of another one."""


def allowed_in(kind: str) -> set[str]:
    """The fields that the checker names when it is shown one that nobody has."""
    if kind in INSIDE:
        outer, member, least = INSIDE[kind]
        body = {**WHOLE[outer], member: {**least, "no-such": 1}}
    else:
        outer, body = kind, {**WHOLE[kind], "no-such": 1}
    (problem,) = [p for p in inspect(outer, body, "$") if p.path.endswith(".no-such")]
    return set(problem.allowed.split(", "))


@pytest.mark.parametrize("kind", [*WHOLE, *INSIDE])
def test_every_field_that_the_checker_takes_has_a_row_and_no_other(kind: str) -> None:
    assert allowed_in(kind) == set(fields_of(kind))


def test_the_sections_of_the_configuration_have_rows() -> None:
    from carrier.config.document import from_document

    with pytest.raises(ConfigError) as error:
        from_document({"no-such": 1})
    assert set(error.value.problems[0].allowed.split(", ")) >= set(fields_of("configuration"))


@pytest.mark.parametrize(
    "kind, names",
    [
        ("access_log", accesslog.FIELDS),
        ("health", (*health.OPTIONS, *health.TEXTS)),
        ("server_tls", SERVER_FIELDS),
        ("client_tls", CLIENT_FIELDS),
        ("bridge", BRIDGE_FIELDS),
    ],
)
def test_tables_elsewhere_have_the_same_fields(kind: str, names: Any) -> None:
    assert set(fields_of(kind)) == set(names)


def test_every_condition_has_its_keys() -> None:
    with pytest.raises(ConfigError) as error:
        compile_match({"matchNothing": {}}, path="$")
    assert set(error.value.problems[0].allowed.split(", ")) - {"any", "op"} == set(MATCHES)
    for name, (_text, fields) in MATCHES.items():
        with pytest.raises(ConfigError) as error:
            compile_match({name: {"no-such": 1}}, path="$")
        assert set(error.value.problems[0].allowed.split(", ")) == {field.name for field in fields}, name


def examples() -> Any:
    for kind, (_text, fields) in OBJECTS.items():
        if kind in WHOLE or kind in INSIDE:
            yield from [pytest.param(kind, field, id=f"{kind}.{field.name}") for field in fields if field.example is not None]


@pytest.mark.parametrize("kind, field", list(examples()))
def test_every_example_is_taken(kind: str, field: Field) -> None:
    if kind in INSIDE:
        outer, member, least = INSIDE[kind]
        body = {**WHOLE[outer], member: {**least, field.name: field.example}}
        if field.name == "apply":
            body[member] = {"apply": field.example}
    else:
        outer, body = kind, {**WHOLE[kind], field.name: field.example}
        if field.name == "cluster":
            body = {"cluster": field.example}
    inspector = Inspector(registry)
    getattr(inspector, outer)(body, "$")
    assert [str(problem) for problem in inspector.problems] == []


@pytest.mark.parametrize("name", MATCHES)
def test_every_condition_of_the_examples_compiles(name: str) -> None:
    fields = MATCHES[name][1]
    least = {field.name: field.example for field in fields if field.required}
    compile_match({name: least}, path="$")
    for field in fields:
        if field.name == "type":
            for kind in field.schema["enum"]:
                compile_match({name: {**least, "type": kind}}, path="$")


@pytest.mark.parametrize("field", fields_of("health").values(), ids=str)
def test_every_example_of_health_is_taken(field: Field) -> None:
    assert health.check({field.name: field.example, "active": "HTTP"}, "$") == []


def test_examples_of_tls_are_taken() -> None:
    for field in fields_of("server_tls").values():
        alone = field.name in ("passthrough", "self_signed")
        body = {field.name: field.example} if alone else {"certificate": "c", "key": "k", "ca": "a", field.name: field.example}
        assert check_server(body, "$") == [], field.name
    for field in fields_of("client_tls").values():
        both = {"certificate": "c", "key": "k"} if field.name in ("certificate", "key") else {}
        assert check_client({**both, field.name: field.example}, "$") == [], field.name


def protocols() -> Any:
    return [("listener", name) for name in registry.listener_names()] + [("cluster", name) for name in registry.cluster_names()]


@pytest.mark.parametrize("side, protocol", protocols())
def test_every_option_that_a_protocol_names_is_described(side: str, protocol: str) -> None:
    body = {"name": "x", "spec": {"protocol": protocol}, "options": {"no-such": 1}} | ({"rules": []} if side == "listener" else {})
    named: set[str] = set()
    for problem in inspect(side, body, "$"):
        if problem.path == "$.options.no-such":
            named |= set(re.split(r",\s*", problem.allowed))
    assert named <= set(OPTIONS) | {"0 or more"}


def test_defaults_are_those_that_the_protocols_use() -> None:
    assert options_of("listener", "HTTP")["header_timeout"] == 10
    assert options_of("listener", "UDP")["idle_timeout"] == 60
    assert options_of("cluster", "HTTP")["max_idle"] == 256
