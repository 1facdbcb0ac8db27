"""What the command takes as a duration, a size, a number, a field, a path."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest

from carrier.cli import arguments
from carrier.cli.arguments import between, seconds
from carrier.cli.parser import parser


@pytest.mark.parametrize(("text", "wanted"), [("10", 10), ("0.5", 0.5), ("90s", 90), ("1m30s", 90), ("8h", 28_800), ("300ms", 0.3)])
def test_seconds_are_a_number_or_a_duration(text: str, wanted: float) -> None:
    assert seconds(text) == pytest.approx(wanted)


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "8 hours", "h", "1e12"])
def test_what_is_no_duration_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"such as 8h, 30m or 3600, 0\.001 s at least"):
        seconds(text)


def test_each_option_has_its_bounds() -> None:
    assert between(0, 60)("0") == 0 and between(0, 60)("1m") == 60
    for text in ("61", "2m"):
        with pytest.raises(argparse.ArgumentTypeError, match="60 s at most"):
            between(0, 60)(text)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["run", "--drain", "1m"], "drain", 60),
        (["run", "--drain-delay", "0"], "drain_delay", 0),
        (["top", "--interval", "500ms"], "interval", 0.5),
        (["status", "--watch", "5s"], "watch", 5),
        (["status", "--watch"], "watch", 2),
        (["gather", "--seconds", "1m"], "seconds", 60),
        (["bridges", "renew", "john", "--expires", "8h"], "expires", 28_800),
        (["replay", "f", "--to", "h:1", "--timeout", "300ms"], "timeout", 0.3),
        (["record", "--rule", "r", "--bodies", "0"], "bodies", 0),
        (["record", "--rule", "r", "--size", "1GiB"], "size", 1 << 30),
    ],
)
def test_wherever_a_duration_or_a_size_is_wanted_both_spellings_will_do(words: list[str], name: str, value: float) -> None:
    assert getattr(parser().parse_args(words), name) == pytest.approx(value)


@pytest.mark.parametrize(("text", "size"), [("4096", 4096), ("64Ki", 65_536), ("64k", 64_000), ("1MiB", 1 << 20), ("0", 0)])
def test_sizes_are_bytes_or_have_a_unit(text: str, size: int) -> None:
    assert arguments.size(text) == size


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (arguments.size, "many"),
        (arguments.size, "-1"),
        (arguments.size, "1" * 16),
        (arguments.count, "0"),
        (arguments.count, "1.5"),
        (arguments.field, "no colon"),
        (arguments.field, ": value"),
        (arguments.cookie, "no equals"),
        (arguments.path, "cart"),
        (arguments.method, "two words"),
    ],
)
def test_what_is_wrong_is_quoted_beside_what_is_expected(kind: Callable[[str], Any], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as error:
        kind(text)
    assert "expected" in str(error.value) and repr(text) in str(error.value)


def test_fields_and_cookies_are_pairs_without_the_space_around_them() -> None:
    assert arguments.field("X-User:  john ") == ("X-User", "john")
    assert arguments.cookie("user=a=b") == ("user", "a=b")
