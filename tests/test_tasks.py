"""What docs/tasks.md has people type does what it says: each part is typed into a shell, on free ports."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from carrier.cli.demo_stage import free_ports

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "tasks.md").read_text()
PARTS = re.findall(r"^## (The [^\n]*)\n(.*?)(?=^## )", PAGE, re.M | re.S)
TASK = re.compile(r"^### (\d+)\. [^\n]*\n\n```sh\n(.*?)^```\n\n→ ([^\n]*)$", re.M | re.S)
PORTS = ("1234", "5000", "5432", "7000", "7001", "8080", "8081", "8082", "8443", "9000", "9001", "9002", "9090")
WAIT = """
listening() { for _ in $(seq 100); do (exec 3<>/dev/tcp/127.0.0.1/$1) 2>/dev/null && return; sleep 0.1; done; echo "nobody listens at $1"; }
ready() { for _ in $(seq 150); do [ "$(grep -c ' ready revision' carrier.log)" -ge $1 ] && return; sleep 0.1; done; cat carrier.log; }
"""
"""Who types waits until a prompt is there; a script has to ask."""


def typed(line: str, admin: str, runs: list[str]) -> str:
    """A line as a person would type it and wait: one that stays in the background is followed by what says that it is there."""
    if not line.endswith(" &") or line.startswith("timeout"):
        return line
    if line.startswith("carrier run"):
        runs.append(line)
        return f"{line[:-2]} --admin 127.0.0.1:{admin} 2>>carrier.log & ready {len(runs)}"
    port = re.search(r"-l:(\d+)|127\.0\.0\.1 (\d+) &", line)
    return line + (f" listening {port[1] or port[2]}" if port else "")


def test_there_are_ten_for_each() -> None:
    assert [len(TASK.findall(text)) for _, text in PARTS] == [10, 10, 10]
    assert [int(number) for _, text in PARTS for number, _, _ in TASK.findall(text)] == list(range(1, 31))


@pytest.mark.skipif(not all(map(shutil.which, ("bash", "curl", "openssl"))), reason="a shell, curl or openssl is not installed")
@pytest.mark.timeout(180)  # ten tasks, each of them several commands
@pytest.mark.parametrize("part", PARTS, ids=[name for name, _ in PARTS])
def test_its_lines_do_what_it_says(part: tuple[str, str], tmp_path: Path) -> None:
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))

    def here(text: str) -> str:
        return re.sub(r"(?<![\w-])(?:" + "|".join(PORTS) + r")\b", lambda found: ports[found[0]], text)

    (tmp_path / "docs" / "examples").mkdir(parents=True)
    for file in (ROOT / "docs" / "examples").glob("*.yaml"):
        (tmp_path / "docs" / "examples" / file.name).write_text(here(file.read_text()))
    tasks = TASK.findall(here(part[1]))
    runs: list[str] = []
    lines = [WAIT]
    for number, block, _ in tasks:
        lines.append(f"echo; echo @@ {number}")
        lines += [typed(line, ports["1234"], runs) for line in block.splitlines()]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "XDG_RUNTIME_DIR": str(tmp_path)}
    environment |= {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    script = tmp_path / "typed.sh"
    script.write_text("\n".join(lines) + "\n")
    with open(tmp_path / "said", "wb") as said:
        shell = subprocess.Popen(
            ["bash", str(script)], cwd=tmp_path, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            shell.wait(timeout=90)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)  # what it left in the background
    said_of = dict(re.findall(r"^@@ (\d+)\n(.*?)(?=^@@ |\Z)", (tmp_path / "said").read_text(errors="replace"), re.M | re.S))
    for number, _, wanted in tasks:
        for fragment in re.findall(r"`([^`]+)`", wanted):
            assert fragment in said_of[number], f"task {number}"
