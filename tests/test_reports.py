"""The page of public reports names a test for each line, and there is such a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> list[str]:
    """The lines of the tables that say something."""
    text = (ROOT / "docs/reports.md").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("|") and not line.startswith(("|---", "| input"))]


def test_every_line_names_a_test_that_there_is() -> None:
    assert len(rows()) >= 30
    tests: dict[str, set[str]] = {}
    for row in rows():
        found = NAMED.findall(row.rsplit("|", 2)[1])
        assert found, row
        for file, name in found:
            if file not in tests:
                tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
                tests[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
            assert name in tests[file], row
