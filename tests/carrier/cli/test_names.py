"""Completion knows the names of what runs."""

from __future__ import annotations

import pytest

from carrier.cli.client import Refused
from carrier.cli.main import main
from carrier.cli.manual import KINDS
from carrier.cli.names import names

STATUS = {
    "listeners": [{"name": "web", "rules": [{"rule": "bridge/john"}, {"rule": "all"}]}, {"name": "api", "rules": []}],
    "bridges": [{"name": "john", "user": "johnny"}],
}


def answering(self: object, method: str, path: str) -> object:
    return [{"name": "TCP:b"}, {"name": "TCP:a"}] if path == "sessions" else STATUS


def test_names_are_those_of_the_running_carrier(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("carrier.cli.client.Client.call", answering)
    wanted = {
        "bridges": ["john"],
        "users": ["johnny"],
        "listeners": ["api", "web"],
        "rules": ["all", "bridge/john"],
        "sessions": ["TCP:a", "TCP:b"],
    }
    assert {kind: names(kind) for kind in KINDS} == wanted
    assert main(["completion", "--names", "listeners"]) == 0
    assert capsys.readouterr().out == "api\nweb\n"


def test_where_no_carrier_answers_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object) -> object:
        raise Refused(0, "no carrier answers")

    monkeypatch.setattr("carrier.cli.client.Client.call", nobody)
    assert names("bridges") == [] == names("sessions")


def test_without_a_shell_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion"]) == 2
    assert "which shell?" in capsys.readouterr().err
