"""How the command's answers look: tables, colours, moments in words."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from carrier.cli.client import OK, Refused


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

    def table(self, heading: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "") -> None:
        """Rows of fields; None and "" are shown as "-"."""
        cells = [["-" if cell is None or cell == "" else str(cell) for cell in row] for row in rows]
        shown = [list(heading), *cells] if self.terminal else cells
        widths = [max((len(row[i]) for row in shown), default=0) for i in range(len(heading))]
        for number, row in enumerate(shown):
            line = indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            if self.width and len(line) > self.width:
                line = line[: self.width - 1] + ("…" if self.utf8 else "~")
            print(self.paint("1", line) if self.terminal and not number else line)


def ago(moment: str | None) -> str:
    """How long ago a moment (RFC 3339) was, in words."""
    if not moment:
        return "never"
    seconds = max(0, round((datetime.now(UTC) - datetime.fromisoformat(moment.replace("Z", "+00:00"))).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def show(options: argparse.Namespace, value: Any) -> bool:
    """Print the answer as JSON if that is asked for."""
    if options.json:
        print(json.dumps(value, indent=2, ensure_ascii=False))
    return bool(options.json)


def done(options: argparse.Namespace, answer: Any, text: str) -> int:
    """Say what was done; nothing when nobody watches."""
    if not show(options, answer) and sys.stdout.isatty():
        print(text)
    return OK


def complain(options: argparse.Namespace, error: Refused) -> None:
    problems = error.content if isinstance(error.content, list) else [error.content]
    for problem in problems:
        text = problem
        if isinstance(problem, Mapping):
            own = options.command in ("apply", "diff")  # else the text is ours, and nobody has seen its lines
            at = f"{problem['line']}:{problem.get('column', 0)}: " if own and problem.get("line") else ""
            text = f"{at}{problem.get('path', '')}: {problem.get('message', '')}"
            text += f" (allowed: {problem['allowed']})" if problem.get("allowed") else ""
            text += f"; {problem['hint']}" if problem.get("hint") else ""
        print(f"carrier {options.command}: {text}", file=sys.stderr)
