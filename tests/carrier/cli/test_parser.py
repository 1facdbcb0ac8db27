"""The command line: what it takes, and what it says to what it does not take."""

from __future__ import annotations

import pytest

from carrier import log
from carrier.admin.gate import Limits
from carrier.cli import arguments, parser
from carrier.cli.main import main
from carrier.cli.manual import commands
from carrier.cli.usage import EXAMPLES
from carrier.proxy.overload import Bounds


def test_every_command_has_examples_that_can_be_typed(capsys):
    top = parser.parser()
    assert set(EXAMPLES) >= {"", *commands(top)}
    for name in commands(top):
        with pytest.raises(SystemExit):
            main(["help", name])
        assert "examples:\n  " in capsys.readouterr().out


def test_the_levels_of_the_option_are_those_of_the_log():
    assert arguments.LEVELS == log.LEVELS


def test_the_limits_of_the_option_are_those_of_the_api_and_of_the_process():
    names = [f"api.{name}" for name in Limits.__struct_fields__] + list(Bounds.__struct_fields__)
    assert sorted(names) == sorted(parser.LIMITS)


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("2.5", 2.5), ("30s", 30), ("5m", 300), ("1h", 3600)])
def test_seconds_may_be_written_as_a_duration_everywhere(text: str, seconds: float) -> None:
    assert parser.parser().parse_args(["run", "--drain", text]).drain == seconds


@pytest.mark.parametrize("text", ["-1", "2d", "nan", "inf", "soon", ""])
def test_seconds_out_of_bounds_are_refused_with_what_is_allowed(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser.parser().parse_args(["run", f"--drain={text}"])
    assert "expected a duration such as 8h, 30m or 3600, 0 s at least and 86400 s at most, got" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "address"), [("1234", ("127.0.0.1", 1234)), ("[::1]:80", ("::1", 80)), ("example.org:1", ("example.org", 1)), ("off", None)]
)
def test_an_address_is_a_host_and_port_a_port_or_off(text: str, address: tuple[str, int] | None) -> None:
    assert parser.parser().parse_args(["run", "--admin", text]).admin == address
