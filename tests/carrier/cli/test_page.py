"""How answers look: names of streams, tables, screens that are drawn again."""

from __future__ import annotations

import pytest

from carrier.cli.page import Page, stream, wide


def test_a_stream_of_http_2_is_named_and_nothing_else() -> None:
    assert stream({"version": "2", "stream": 5}, " ") == " h2 #5" and stream({"version": "2"}, "") == "h2"
    assert stream({"version": "1.1"}, " ") == stream({}, " ") == ""


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Page:
    """One of 20 columns and 6 lines."""
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "6")
    page = Page()
    page.terminal = True
    return page


def test_a_screen_that_is_drawn_again_never_rolls_away(terminal: Page, capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.screen():
        for number in range(9):
            print(f"line {number}")
    begin, text = capsys.readouterr().out.split("\x1b[H\x1b[J")
    assert not begin and text.splitlines() == [*(f"line {number}" for number in range(4)), "and 5 more lines: the terminal is too small"]


def test_a_line_that_is_too_long_for_the_screen_takes_several(terminal: Page, capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.screen():
        print("\x1b[1m" + "x" * 41 + "\x1b[0m")
        print("y")
        print("z")
    assert capsys.readouterr().out.endswith("y\nz\n")
    with terminal.screen():
        print("x" * 41)
        print("y\nz\nw")
    assert "z" not in capsys.readouterr().out.partition("x")[2].partition("and")[0]


def test_what_is_asked_for_once_and_what_no_terminal_shows_is_left_as_it_is(terminal: Page, capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.screen(False):
        print("a\n" * 20)
    terminal.terminal = False
    with terminal.screen():
        print("b\n" * 20)
    assert capsys.readouterr().out == "a\n" * 20 + "\n" + "b\n" * 20 + "\n"


def test_columns_stand_below_each_other_whatever_the_letters(capsys: pytest.CaptureFixture[str]) -> None:
    Page().table(("who", "x"), [("日本", 1), ("e\u0301", 2), ("john", 3)])
    lines = capsys.readouterr().out.splitlines()
    assert len({wide(line[: line.rindex(" ")]) for line in lines}) == 1, lines
