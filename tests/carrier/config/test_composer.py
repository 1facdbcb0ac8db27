"""YAML composed: what words mean, where things stand, and how much of it there may be."""

from __future__ import annotations

from typing import Any

import pytest

from carrier.config.bounds import Bounds
from carrier.config.source import MAX_FILE, decode, of_a_file
from carrier.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", 1),
        ("a: -0x", "-0x"),
        ("a: 0x1F", 31),
        ("a: 0o17", 15),
        ("a: 1.5e3", 1500.0),
        ("a: true", True),
        ("a: yes", "yes"),
        ("a: on", "on"),
        ("a: ~", None),
        ("a:", None),
        ("a: 12:30", "12:30"),
        ("a: 2026-11-21", "2026-11-21"),
        ("a: 127.0.0.1", "127.0.0.1"),
        ("a: '5'", "5"),
        ("a: !!str 5", "5"),
        ("a: !!float 5", 5.0),
        ("a: [1, {b: c}]", [1, {"b": "c"}]),
        ("a: |\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_plain_words_follow_the_core_schema_of_yaml_1_2(text: str, value: Any) -> None:
    found = decode(text, "yaml", MAX_FILE).value["a"]
    assert found == value
    assert type(found) is type(value)


def test_anchors_aliases_and_merged_keys_work() -> None:
    text = "base: &b {x: 1, y: 2}\none: *b\ntwo: {<<: *b, y: 3}\nthree: {<<: [{x: 9}, *b]}"
    value = decode(text, "yaml", MAX_FILE).value
    assert (value["one"], value["two"], value["three"]) == ({"x": 1, "y": 2}, {"x": 1, "y": 3}, {"x": 9, "y": 2})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("listeners:\n\t- name: h\n", (2, 1, "indent with spaces: YAML takes no tabs there")),
        ("listeners: []\nadmin: '\x01'\n", (2, 9, "control characters are not allowed")),
        ("listeners: *x\n", (1, 12, "the alias *x refers to no anchor before it")),
        ("listeners: &x [*x]\n", (1, 16, "the alias *x stands inside what it refers to")),
        ("listeners:\n  - " + "[" * 40 + "]" * 40, (2, 35, "nested more than 32 levels deep")),
        ("a: &a [1, 2, 3]\nb: [*a, *a, *a, *a, *a]\n", (2, 13, "too many objects or values")),
        ("a: {port: " + "9" * 400 + "}\n", (1, 11, "$.a.port: the number 99999999999999999999... is too large")),
    ],
)
def test_whatever_is_wrong_with_a_text_is_said_with_its_place(text: str, said: tuple[int, int, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(text, "yaml", 1 << 20, Bounds(values=10))
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == said[:2]
    assert said[2] in str(problem)


def test_what_aliases_stand_for_is_bounded_and_what_is_written_is_not() -> None:
    bomb = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
        f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
    )
    with pytest.raises(ConfigError, match="of them by aliases"):
        decode(bomb, "yaml", MAX_FILE)
    honest = "a:\n" + "".join(f"  - {{name: r{i}, x: [1, 2, 3]}}\n" for i in range(15_000))
    assert len(decode(honest, "yaml", MAX_FILE, of_a_file()).value["a"]) == 15_000
    with pytest.raises(ConfigError, match="14000 objects"):
        decode(honest, "yaml", MAX_FILE, Bounds(objects=14_000))
