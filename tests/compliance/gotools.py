"""Programs of others that judge us, built from Go's modules once and kept in the user's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "carrier2-tools"


def built(*modules: str) -> Path:
    """The folder that has the programs of these modules (`path@version`). Ends the process, without failing, where Go is not at hand."""
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        print("skipped: no Go here to build it")
        sys.exit(0)
    folder = CACHE / "-".join(module.replace("/", ".") for module in modules)
    if not all((folder / module.partition("@")[0].rpartition("/")[2]).exists() for module in modules):
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run([go, "install", *modules], env={**os.environ, "GOBIN": str(folder)}, capture_output=True, timeout=600)
        if done.returncode:
            print("skipped: it cannot be built here:", done.stderr.decode(errors="replace")[-500:])
            sys.exit(0)
    return folder
