"""How the command's answers look: tables, colours, moments in words."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

from carrier.cli.client import OK, Refused

NARROW = 12
"""Characters that a column is not made narrower than."""
_WORD = re.compile(r"[^\s-]+-?")
"""What is not broken as long as there is room: an address, a part of a name with hyphens."""


_PAINT = re.compile(r"\x1b\[\d*m")


def wide(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in text)


class Page:
    """Prints tables: padded columns, headings and colours on a terminal; what the reader's alphabet lacks is not used."""

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty()
        self.colours = self.terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        self.width = shutil.get_terminal_size().columns if self.terminal else 0

    def paint(self, code: str, text: str) -> str:
        """The text in a colour, where there are colours."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colours else text

    @contextlib.contextmanager
    def screen(self, redraws: bool = True) -> Iterator[None]:
        """What is printed within takes the place of what the terminal shows, as far as it has room, so that nothing rolls away above."""
        if not (redraws and self.terminal):
            yield
            return
        self.width, height = shutil.get_terminal_size()  # it may be another one by now
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            yield
        lines = printed.getvalue().splitlines()
        rows = [max(1, -(-wide(_PAINT.sub("", line)) // self.width)) for line in lines]
        left = len(lines)
        while left and sum(rows[:left]) > height - 1 - (left < len(lines)):
            left -= 1
        if left < len(lines):
            lines[left:] = [self.paint("33", f"and {count(len(lines) - left, 'more line')}: the terminal is too small")]
        print("\x1b[H\x1b[J" + "\n".join(lines), flush=True)

    def table(self, heading: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "") -> None:
        """Rows of fields under their headings; None and "" are shown as "-". What is too wide for the terminal is wrapped in its column."""
        cells = [["-" if cell is None or cell == "" else str(cell) for cell in row] for row in rows]
        if not cells:
            return
        shown = [list(heading), *cells]
        words = [max((wide(word) for row in shown for word in _WORD.findall(row[i])), default=0) for i in range(len(heading))]
        widths = self._fitted([max(wide(row[i]) for row in shown) for i in range(len(heading))], words, len(indent))
        for number, row in enumerate(shown):
            for line in _lines(row, widths):
                print(self.paint("1", indent + line) if not number else indent + line)

    def _fitted(self, widths: list[int], words: list[int], indent: int) -> list[int]:
        """The widths of columns that the terminal has room for. Where it is too narrow the widest column gives way that need not break a
        word (an address is one), and then the widest, down to NARROW."""
        while self.width and indent + sum(widths) + 2 * (len(widths) - 1) > self.width and max(widths) > NARROW:
            loose = [i for i, width in enumerate(widths) if width > max(words[i], NARROW)]
            widths[max(loose or range(len(widths)), key=widths.__getitem__)] -= 1
        return widths


def _lines(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """A row of cells as lines: a cell that is wider than its column goes on below."""
    columns = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, widths, strict=True)]
    for parts in zip_longest(*columns, fillvalue=""):
        yield "  ".join(part + " " * (width - wide(part)) for part, width in zip(parts, widths, strict=True)).rstrip()


def ago(moment: str | None) -> str:
    """How long ago a moment (RFC 3339) was, in words."""
    if not moment:
        return "never"
    seconds = max(0, round((datetime.now(UTC) - datetime.fromisoformat(moment.replace("Z", "+00:00"))).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def moment(text: str) -> str:
    """A moment (RFC 3339) as the clock on the wall here shows it."""
    at = datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone()
    return at.strftime("%H:%M" if at.date() == datetime.now().astimezone().date() else "%Y-%m-%d %H:%M")


def count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def stream(http: Mapping[str, Any], before: str) -> str:
    """Which stream of HTTP/2 a session or a request came on, behind `before`; nothing for other versions."""
    if http.get("version") != "2":
        return ""
    return f"{before}h2 #{http['stream']}" if http.get("stream") else f"{before}h2"


def rate(value: float) -> str:
    """So many a second."""
    return "0" if not value else f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 0.05 else "<0.1"


def show(options: argparse.Namespace, value: Any) -> bool:
    """Print the answer as JSON if that is asked for."""
    if options.json:
        print(json.dumps(value, indent=2, ensure_ascii=False))
    return bool(options.json)


def done(options: argparse.Namespace, answer: Any, text: str) -> int:
    """Say what was done."""
    if not show(options, answer):
        print(text)
    return OK


def complain(options: argparse.Namespace, error: Refused) -> None:
    """Say why the API refused. What is wrong with a file is shown as `carrier check` shows it, with its lines."""
    problems = error.content if isinstance(error.content, list) else [error.content]
    placed = [problem for problem in problems if isinstance(problem, Mapping)]
    if placed and options.command in ("apply", "diff"):
        import msgspec

        from carrier.config.source import render
        from carrier.errors import Problem

        found = sorted((msgspec.convert(problem, Problem) for problem in placed), key=lambda problem: (problem.line, problem.column))
        print(render(found, options.text, options.file), file=sys.stderr)
        print(f"{options.file}: refused ({count(len(found), 'error')}); nothing has changed", file=sys.stderr)
        return
    for problem in problems:
        text = problem
        if isinstance(problem, Mapping):  # of a body that we made: nobody has seen its fields
            field = re.sub(r"^\$\.?", "", problem.get("path", ""))
            text = f"{_FLAGS.get(field, field)}: {problem.get('message', '')}" if field else problem.get("message", "")
            text += f" (allowed: {problem['allowed']})" if problem.get("allowed") else ""
            text += f"; {problem['hint']}" if problem.get("hint") else ""
        print(f"carrier {options.command}: {text}", file=sys.stderr)


_FLAGS = {
    "user": "--user",
    "port": "--port",
    "listener": "--listener",
    "endpoint": "--to",
    "expires": "--expires",
    "fallback": "--fallback",
}
"""Field of a body -> the flag that it came from."""
