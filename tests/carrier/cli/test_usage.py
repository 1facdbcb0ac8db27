"""The command's line: words where people put them."""

from __future__ import annotations

import pytest

from carrier.cli.main import main
from carrier.cli.manual import commands as commands_of
from carrier.cli.parser import parser
from carrier.cli.usage import placed


@pytest.mark.parametrize(
    ("line", "action", "name", "left"),
    [
        ("bridges add john --port web", "add", "john", []),
        ("bridges add --port web john", "add", "john", []),
        ("bridges --port web add john", "add", "john", []),
        ("bridges add --port web john jane", "add", "john", ["jane"]),
        ("bridges add john --port web --nope", "add", "john", ["--nope"]),
    ],
)
def test_a_name_may_stand_behind_options(line: str, action: str, name: str, left: list[str]) -> None:
    top = parser()
    options, rest = top.parse_known_args(line.split())
    assert placed(commands_of(top)["bridges"], options, rest) == left
    assert (options.action, options.name) == (action, name)


def test_an_unknown_command_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rum"])
    assert capsys.readouterr().err.splitlines()[0] == "carrier: there is no command 'rum'; did you mean 'run'?"


def test_a_bridge_without_a_name_is_asked_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bridges", "add", "--port", "8080"]) == 2
    assert "give it a name: carrier bridges add NAME" in capsys.readouterr().err
