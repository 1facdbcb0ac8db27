"""h2load as the load of repeating heads over HTTP/2 where it is installed: it costs less than our own generator. Its fields are the same in
all requests, so rules are met by their paths."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

from benchmarks.measure import LOAD_CORE
from benchmarks.scenario import Load, Target


def installed() -> bool:
    """Whether h2load is on the PATH."""
    return shutil.which("h2load") is not None


def drive(target: Target, seconds: float, paths: Sequence[str], fields: Sequence[tuple[str, str]], connections: int, streams: int) -> Load:
    """Run it for whole seconds on the load's core, asking for `paths` in turn. Raises RuntimeError when it fails."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("".join(f"http://127.0.0.1:{target.port}{path}\n" for path in paths))
        file.flush()
        whole = max(1, round(seconds))
        more = [word for name, value in fields for word in ("-H", f"{name}: {value}")]
        command = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{whole}", "-i", file.name, *more]
        done = subprocess.run(["taskset", "-c", str(LOAD_CORE), *command], capture_output=True, text=True, check=False)
    if done.returncode or "finished in" not in done.stdout:
        raise RuntimeError(f"h2load failed: {done.stderr or done.stdout}")
    return read(done.stdout, whole)


def read(output: str, seconds: float) -> Load:
    """What h2load says at its end. It says no percentiles."""
    counts = re.search(r"(\d+) succeeded, (\d+) failed", output)
    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output)
    if counts is None or codes is None:
        raise RuntimeError(f"h2load says no counts: {output}")
    fine = int(codes[1])
    wrong = int(counts[2]) + sum(int(codes[i]) for i in (2, 3, 4))
    return Load(fine, seconds, errors=wrong)
