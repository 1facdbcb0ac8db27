"""The man page and completions say what the parser says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from carrier.cli.main import main
from carrier.cli.manual import commands, completion, page
from carrier.cli.parser import parser


def complete(*words: str) -> list[str]:
    """What bash would offer for the last of these words."""
    line = " ".join(f"'{word}'" for word in words)
    script = (
        completion(parser(), "bash") + f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _carrier; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=10).stdout.split()


def test_bash_offers_the_commands() -> None:
    assert set(complete("carrier", "")) >= set(commands(parser()))
    assert complete("carrier", "st") == ["status"]


def test_bash_offers_options_choices_and_their_values() -> None:
    assert complete("carrier", "status", "--wa") == ["--watch"]
    assert complete("carrier", "bridges", "re") == ["renew"]
    assert complete("carrier", "bridges", "add", "x", "--fallback", "") == ["shadow", "error"]


def test_bash_offers_files_where_files_are_wanted(tmp_path: object) -> None:
    assert "pyproject.toml" in complete("carrier", "run", "-c", "pyproj")
    assert "pyproject.toml" in complete("carrier", "apply", "pyproj")
    assert complete("carrier", "bridges", "pyproj") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_names_every_command_and_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for name, command in commands(parser()).items():
        assert name in script
        for action in command._actions:
            for option in action.option_strings if action.help != "==SUPPRESS==" else ():
                assert option.lstrip("-") in script


def test_bash_can_read_its_completion() -> None:
    name = r'$(complete -p carrier | sed "s/.*-F \([^ ]*\).*/\1/")'
    asked = f'COMP_WORDS=(carrier expl); COMP_CWORD=1; COMP_LINE="carrier expl"; {name} carrier expl carrier'
    script = f'{completion(parser(), "bash")}\n{asked}\necho "${{COMPREPLY[@]}}"\n'
    said = subprocess.run(["bash"], input=script, text=True, capture_output=True, timeout=10)
    assert (said.stdout.strip(), said.stderr) == ("explain", "")


def test_the_man_page_has_every_command_and_is_good_roff(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manual"]) == 0
    text = capsys.readouterr().out
    assert text == page(parser())
    for name in commands(parser()):
        assert f".SH {name.upper()}\n" in text
    assert "==SUPPRESS==" not in text and r"\-\-access\-log" in text
    for tool in (["mandoc", "-T", "lint", "-W", "error"], ["groff", "-man", "-ww", "-z"]):
        if shutil.which(tool[0]):
            said = subprocess.run(tool, input=text, capture_output=True, text=True, timeout=20)
            assert not said.returncode and not said.stderr


def test_bash_completes_names_of_what_runs(tmp_path: Path) -> None:
    fake = tmp_path / "carrier"
    fake.write_text("#!/bin/sh\n[ \"$1 $2\" = 'completion --names' ] && printf '%s\\n' \"my-$3\" other\n")
    fake.chmod(0o755)
    for line, word in (
        ("carrier bridges rm my", "my-bridges"),
        ("carrier explain --user my", "my-users"),
        ("carrier sessions --listener my", "my-listeners"),
    ):
        words = line.split()
        script = (
            completion(parser(), "bash")
            + f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _carrier; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        found = subprocess.run(
            ["bash"], input=script, capture_output=True, text=True, timeout=10, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}
        )
        assert found.stdout.split() == [word], line
