"""Gefyra's operator as far as it matters here: what it types into a `busybox sh` in the pod, and what it looks for in the answer."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import yaml

SCRIPT = Path(__file__).resolve().parents[3] / "carrier" / "gefyra"


class Pod:
    """A folder in place of the pod's /tmp, and the shell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.log = folder / "carrier.log"
        self.took = 0.0
        """Seconds from the reload line to its end, the last time."""
        self.used = 0.0
        """Seconds of processor time that the daemon took for that; what others do on the machine is not in it."""
        self.environment = {
            **os.environ,
            "CARRIER_RUN_DIR": str(folder),
            "CARRIER_PYTHON": sys.executable,
            "PATH": f"{SCRIPT}:{os.environ['PATH']}",
        }

    @property
    def pid(self) -> int:
        """The daemon's process number; 0: there is none."""
        try:
            return int((self.folder / "carrier2.pid").read_text())
        except (OSError, ValueError):
            return 0

    def processor(self) -> float:
        """Seconds of processor time of the daemon so far."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> int:
        """KiB of resident memory of the daemon."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    async def type(self, text: str) -> str:
        """What a shell answers to what is typed into it."""
        shell = await asyncio.create_subprocess_exec(
            "busybox", "sh", stdin=-1, stdout=-1, stderr=asyncio.subprocess.STDOUT, env=self.environment, cwd=self.folder
        )
        out, _ = await asyncio.wait_for(shell.communicate(text.encode()), 30)
        return out.decode()

    async def commit(self, config: dict[str, Any] | str) -> str:
        """The operator's commit, with its heredoc and its reload line; what it reads at the end."""
        text = config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False)
        await self.type(f"cat <<'EOF' > {self.config}\n{text}\nEOF\n")
        arguments = f"-c {self.config} -d &> {self.log}"
        began, before = time.monotonic(), self.processor()
        await self.type(
            f"RUST_LOG=info; kill -SIGQUIT $(cat {self.folder}/carrier2.pid); "
            f"if [ $? -eq 0 ]; then RUST_LOG=info carrier2 -u {arguments}; else RUST_LOG=info carrier2 {arguments}; fi\n"
        )
        self.took, self.used = time.monotonic() - began, self.processor() - before
        return await self.type(f"cat {self.log}\n")

    async def until(self, text: str, patience: float = 8.0) -> str:
        """The log, as soon as it says `text`."""
        deadline = time.monotonic() + patience
        while text not in (said := self.log.read_text() if self.log.exists() else ""):
            assert time.monotonic() < deadline, f"no {text!r} in {said!r}"
            await asyncio.sleep(0.02)
        return said


def accepted(said: str) -> bool:
    """What the operator takes for success."""
    return "Bootstrap starting" in said and "thread 'main' panicked" not in said
