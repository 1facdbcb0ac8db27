"""Counts beside each other, and what is said where they cannot be had."""

from __future__ import annotations

import pytest

from benchmarks.instructions import main, table


def test_each_count_stands_beside_its_ratio_to_the_first() -> None:
    text = table([("repeating", [20000.0, 25000.0]), ("h2 to h1", [40000.0, 30000.0])], ["off", "log"])
    assert [line.split() for line in text.splitlines()] == [
        ["off", "log"],
        ["repeating", "20,000", "25,000", "(1.250)"],
        ["h2", "to", "h1", "40,000", "30,000", "(0.750)"],
    ]


def test_without_valgrind_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["unique"]) == 1
    assert "valgrind is not installed" in capsys.readouterr().err


def test_a_case_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["uniqe"])
    assert "unknown: uniqe" in capsys.readouterr().err
