"""Tokens of user bridges: whose they are, what is kept of them, how long they live."""

from __future__ import annotations

import json
from typing import Any

import pytest

from carrier.bridges import tokens
from carrier.bridges.edits import Bridges
from carrier.errors import ConfigError
from carrier.model import Config
from tests import support as s

JOHN = {"matchCookie": {"name": "user", "value": "john"}}


def pod() -> Config:
    return s.config(
        clusters=[s.echo("shadow")],
        listeners=[s.listener(name, "shadow", protocol="HTTP", port=port) for name, port in (("web", 8080), ("other", 8081))],
    )


def put(config: Config, name: str, token: object, port: int = 8080, user: str = "john") -> Config:
    match = {"matchCookie": {"name": "user", "value": name}}
    return Bridges().put(config, name, {"user": user, "port": port, "match": match, "endpoint": "127.0.0.1:1", "token": token})


def test_a_token_leads_to_its_bridge_on_its_listener_as_long_as_that_is_there():
    fresh = tokens.make()
    configs = [put(pod(), "john", fresh.digest)]
    found = tokens.Tokens(lambda: configs[-1])
    sent = fresh.token.encode()
    bridge = found.bridge("web", sent)
    assert bridge is not None and bridge.name == "john" and found.bridges("web") == [bridge] and found.user("john") == "john"
    assert found.bridge("other", sent) is None and found.bridge("web", sent + b"x") is None and found.bridge("web", b"") is None
    assert found.bridge("web", fresh.digest.encode()) is None  # what is shown of it is no token
    configs.append(Bridges().delete(configs[-1], "john"))
    assert found.bridge("web", sent) is None and found.bridges("web") == [] and found.user("john") == ""


def test_nobody_takes_a_token_over_by_putting_its_digest():
    fresh = tokens.make()
    config = put(put(pod(), "john", fresh.digest), "mallory", fresh.digest, user="mallory")
    bridge = tokens.Tokens(lambda: config).bridge("web", fresh.token.encode())
    assert bridge is not None and bridge.name == "john"


def test_two_tokens_are_not_the_same_and_need_no_quoting():
    one, two = tokens.make(), tokens.make()
    assert one.token != two.token and one.token.replace("-", "").replace("_", "").isalnum() and len(one.token) == 24


def test_what_get_shows_put_takes_and_changes_nothing():
    config = put(pod(), "john", tokens.make().digest)
    shown = Bridges().dump(config, "john")
    assert Bridges().put(config, "john", shown) is config


@pytest.mark.parametrize("wrong", ["secret", "sha256:12", 5, False])
def test_only_a_digest_is_kept(wrong: Any):
    with pytest.raises(ConfigError, match="token") as refused:
        put(pod(), "john", wrong)
    assert "secret" not in str(refused.value)


def test_a_wish_for_one_that_nobody_fulfils_leaves_none():
    assert "token" not in json.dumps(Bridges().dump(put(pod(), "john", True), "john"))
