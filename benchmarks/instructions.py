"""How many instructions a request takes in our process, without the kernel: `python -m benchmarks.instructions [CASE ...] [--with NAME]`.

A count is the same on a busy machine and on a quiet one, to half a hundredth; so it shows a change of a hundredth where a clock shows
none. It is no time: what waits for memory counts as what does not. Counted by valgrind's callgrind, over one round of benchmarks/inside.py.
With `--other TREE` (a worktree of an older commit, after `make venv` there) the same of that tree, and the ratio.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.inside import CASES
from benchmarks.live import OFF, VARIANTS

TREE = Path(__file__).parent.parent
ENV = {**os.environ, "PYTHONHASHSEED": "0"}
TOTAL = re.compile(r"^(?:totals|summary): (\d+)$", re.MULTILINE)


def count(tree: Path, case: str, variant: str) -> float:
    """Instructions a request. Raises RuntimeError when it cannot be counted."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "counted")
        python = sys.executable if tree == TREE else str(tree / ".venv" / "bin" / "python")
        program = [python, "-P", str(TREE / "benchmarks" / "inside.py"), str(tree), case, variant, "--wait"]
        command = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={file}", *program]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV
        ) as process:
            assert process.stdin and process.stdout and process.stderr
            said = process.stdout.readline().split()
            if said[:1] != ["ready"]:
                raise RuntimeError(process.stderr.read())
            subprocess.run(["vgdb", f"--pid={process.pid}", "instrumentation", "on"], check=True, capture_output=True)
            print(file=process.stdin, flush=True)
            if process.stdout.readline() != "done\n":
                raise RuntimeError(process.stderr.read())
            subprocess.run(["vgdb", f"--pid={process.pid}", "dump"], check=True, capture_output=True)
            process.communicate("\n")
        dumped = [int(found) for part in Path(folder).iterdir() for found in TOTAL.findall(part.read_text("latin-1"))]
        return max(dumped) / int(said[1])


def table(rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str]) -> str:
    """As text: each count, and beside the first one of a row its ratio to that."""
    wide = max(len(name) for name, _ in rows)
    lines = [f"{'':{wide}s}" + "".join(f" {name:>22s}" for name in names)]
    for name, counts in rows:
        told = [f"{counts[0]:,.0f}", *(f"{found:,.0f} ({found / counts[0]:.3f})" for found in counts[1:])]
        lines.append(f"{name:{wide}s}" + "".join(f" {text:>22s}" for text in told))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Count and print; 0, or 1 without valgrind."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description="Instructions a request, without the kernel.")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {'; '.join(CASES)} (default: all)")
    parser.add_argument("--with", dest="variants", action="append", metavar="NAME", help=f"of {', '.join(VARIANTS).replace('%', '%%')}")
    parser.add_argument("--other", type=Path, metavar="TREE", help="another tree, to be counted too")
    options = parser.parse_args(argv)
    variants = options.variants or [OFF]
    if unknown := (set(options.cases) - set(CASES)) | (set(variants) - set(VARIANTS)):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if shutil.which("valgrind") is None:
        print("valgrind is not installed", file=sys.stderr)
        return 1
    sides = [(name, TREE) for name in variants] + [(f"{name}, other", options.other) for name in variants if options.other is not None]
    rows = [(case, [count(tree, case, name.removesuffix(", other")) for name, tree in sides]) for case in options.cases or CASES]
    print(table(rows, [name for name, _ in sides]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
