"""Objects of named values: all that is wrong is said at once."""

from __future__ import annotations

import pytest

from carrier.config.settings import Check, are_texts, is_part, read_fields
from carrier.errors import ConfigError

GOOD: dict[str, Check] = {"names": ("a list of texts", are_texts), "part": ("a number 0..1", is_part)}


def test_lists_become_tuples() -> None:
    assert read_fields({"names": ["a"], "part": 0.5}, "$", GOOD, "names", "it") == {"names": ("a",), "part": 0.5}


def test_every_problem_is_told_at_once_with_what_was_meant() -> None:
    with pytest.raises(ConfigError) as error:
        read_fields({"nams": [], "part": True}, "$.x", GOOD, "names", "it")
    problems = error.value.problems
    assert [problem.path for problem in problems] == ["$.x.nams", "$.x.part", "$.x"] and "names" in problems[0].hint
