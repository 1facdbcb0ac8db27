"""`admin.traces`: what it may say."""

from __future__ import annotations

import pytest

from carrier.config import dump
from carrier.config.document import from_document
from carrier.config.traces import Settings, read, settings_of, unveiled, veiled
from carrier.errors import ConfigError
from carrier.model import Config

SECRET = "Bearer do-not-show-me"


def test_a_collector_is_enough() -> None:
    assert read({"endpoint": "http://collector:4318"}) == Settings("http://collector:4318")
    assert read({"endpoint": "http://collector:4318"}).url == "http://collector:4318/v1/traces"
    assert read({"endpoint": "https://x/otlp/v1/traces"}).url == "https://x/otlp/v1/traces"
    assert settings_of(Config()) is None


@pytest.mark.parametrize(
    "value, place",
    [
        ({"endpoint": "collector:4318"}, "$.admin.traces.endpoint"),
        ({"endpoint": "http://c:99999"}, "$.admin.traces.endpoint"),
        ({"endpoint": "http://c", "ratio": 2}, "$.admin.traces.ratio"),
        ({"endpoint": "http://c", "headers": {"x": "a\r\ny: b"}}, "$.admin.traces.headers"),
        ({"endpoint": "http://c", "resource": {"a": []}}, "$.admin.traces.resource"),
        ({"endpoint": "http://c", "queue": 0}, "$.admin.traces.queue"),
        ({"endpoint": "http://c", "timeout": 0}, "$.admin.traces.timeout"),
        ({"endpont": "http://c"}, "$.admin.traces.endpont"),
        ({}, "$.admin.traces"),
        ("http://c", "$.admin.traces"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(value: object, place: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(value)
    assert error.value.problems[0].path == place and error.value.problems[0].allowed


def test_a_secret_is_in_no_dump_and_in_no_problem() -> None:
    config = from_document({"admin": {"traces": {"endpoint": "http://c", "headers": {"authorization": SECRET}}}})[0]
    found = settings_of(config)
    assert found is not None and found.headers == {"authorization": SECRET}
    assert SECRET not in dump.dumps(dump.whole(config, []))
    with pytest.raises(ConfigError) as error:
        read({"endpoint": "http://c", "headers": {"authorization": SECRET + "\n"}})
    assert "do-not-show-me" not in str(error.value)


def test_what_was_shown_without_its_secret_means_what_is_in_force() -> None:
    document = {"admin": {"traces": {"endpoint": "http://c", "headers": {"authorization": SECRET, "x": "1"}}}, "listeners": []}
    shown = veiled(document)
    assert SECRET not in str(shown) and shown["listeners"] == [] and veiled({"admin": {}}) == {"admin": {}}
    assert unveiled(shown, from_document(document)[0]) == document
    assert unveiled({"admin": 3}, Config()) == {"admin": 3} and unveiled(shown, Config()) == shown
