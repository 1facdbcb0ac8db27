"""Who may record what, and what a recording of nothing is told."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from carrier.admin.api import Api
from carrier.model import Action, Bridge, Config, Rule
from carrier.observe.record import RECORDINGS, Recorder


async def _nobody() -> str:
    return "it has shown nothing"


def api(said: list[Any] | None = None) -> Api:
    """An API with a rule, and bridges of john and jane; one of john's comes from the file."""
    bridges = {name: Bridge(name, name, {}, "web", (f"bridge/{name}",)) for name in ("john", "jane")}
    rules = {name: Rule(name, None, Action()) for name in ("all", "bridge/john", "bridge/jane")}
    of_file = {"0-of-file": Bridge("of-file", "john", {}, "web")}
    config = Config(rules=rules, bridges=bridges, revision=1)
    env: Any = SimpleNamespace(bridges_of_file=lambda config: of_file)
    log: Any = SimpleNamespace(notice=lambda event, **values: said.append((event, values)) if said is not None else None)
    found = Api(SimpleNamespace(config=config, env=env, strict=False), log=log)
    found.recorder = Recorder(env)
    return found


async def status(role: str, query: str, standing: Any = None, of: Api | None = None) -> tuple[int, str]:
    answer = await (of or api()).call("GET", "/api/v1/record", query, {}, b"", "tests", role=role, standing=standing)
    return answer.status, answer.body.decode()


@pytest.mark.parametrize(
    "role, query, wanted",
    [
        ("", "rule=all", 200),
        ("", "bridge=john", 200),
        ("", "bridge=of-file", 200),
        ("read", "rule=all", 403),
        ("read", "bridge=john&bodies=0", 403),
        ("user=john", "bridge=john", 200),
        ("user=john", "bridge=of-file", 200),
        ("user=john", "bridge=jane", 403),
        ("user=john", "rule=all", 403),
        ("user=john", "rule=bridge/john", 403),
        ("user=john", "bridge=nobody", 403),
    ],
)
async def test_a_token_that_reads_records_nothing_and_one_of_a_user_his_own_bridges(role: str, query: str, wanted: int) -> None:
    assert (await status(role, query))[0] == wanted


async def test_secrets_take_a_caller_who_has_shown_who_it_is() -> None:
    assert (await status("", "rule=all&secrets=true"))[0] == 200
    code, text = await status("", "rule=all&secrets=true", _nobody)
    assert code == 403 and "it has shown nothing" in text
    assert (await status("", "rule=all", _nobody))[0] == 200


@pytest.mark.parametrize(
    "query, place",
    [
        ("", "?bridge"),
        ("rule=all&bridge=john", "?bridge"),
        ("rule=al", "?rule"),
        ("bridge=jon", "?bridge"),
        ("rule=all&bodies=many", "?bodies"),
        ("rule=all&bodies=1048577", "?bodies"),
        ("rule=all&secrets=1", "?secrets"),
        ("rule=all&ruel=x", "?ruel"),
    ],
)
async def test_what_is_wrong_is_said_before_the_answer_begins(query: str, place: str) -> None:
    code, text = await status("", query)
    assert code == 400 and json.loads(text)["content"][0]["path"] == place


async def test_a_recording_is_a_line_of_the_log_and_they_are_bounded() -> None:
    said: list[Any] = []
    of = api(said)
    await status("user=john", "bridge=john", of=of)
    assert said == [("a recording begins", {"bridge": "john", "rule": None, "peer": "tests"})]
    of.recorder.recordings = dict.fromkeys(range(RECORDINGS))
    assert (await status("", "rule=all", of=of))[0] == 503


async def test_a_bridge_is_recorded_by_its_rules_as_they_are_now() -> None:
    from carrier.admin.recording import _rules

    of: Any = api()
    assert _rules(of, "john") == ["bridge/john"] and _rules(of, "of-file") == ["0-of-file"]
    of.proxy.config = Config()
    assert _rules(of, "john") == []
