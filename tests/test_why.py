"""The ten questions of docs/why.md are answered by the commands as the file says."""

import importlib.util
from pathlib import Path

from carrier.cli.manual import commands
from carrier.cli.parser import parser

FILE = Path(__file__).resolve().parent.parent / "docs" / "why.py"
spec = importlib.util.spec_from_file_location("why", FILE)
why = importlib.util.module_from_spec(spec)
spec.loader.exec_module(why)


def test_the_commands_say_what_the_file_says():
    assert why.FILE.read_text() == why.answers()


def test_there_are_ten_questions_each_with_one_command_of_ours_or_curl():
    assert len({question.text for question in why.QUESTIONS}) == 10
    for question in why.QUESTIONS:
        first, second, *_ = question.command.split()
        assert first == "curl" or second in commands(parser())
