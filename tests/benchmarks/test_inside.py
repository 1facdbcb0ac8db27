"""Requests without sockets: every case is served to its end, with all on and with nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.inside import CASES, asked
from benchmarks.instructions import TREE
from benchmarks.live import KNOWN
from benchmarks.load.http import TRACE


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_served_to_its_end(case: str) -> None:
    program = [sys.executable, "-P", "benchmarks/inside.py", str(TREE), case, "everything", "--wait"]
    done = subprocess.run(program, cwd=TREE, input="\n\n", capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("ready 2048\ndone\n", "", 0)


def test_heads_that_are_to_be_unique_are_and_the_others_are_not() -> None:
    assert len(set(asked(CASES["unique"], KNOWN, TRACE))) == 2048
    assert len(set(asked(CASES["repeating"], KNOWN, TRACE))) == len(KNOWN)
