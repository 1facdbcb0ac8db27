"""wrk as the HTTP load where it is installed: it costs less than our own generator, which leaves more of the core to the backend."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

from benchmarks.load.http import TRACE
from benchmarks.measure import LOAD_CORE
from benchmarks.scenario import Load, Target

SCRIPT = """
local before, after, n = {%(before)s}, {%(after)s}, 0
local format = string.format
request = function()
  n = n + 1
  local i = n %% #before + 1
  if after[i] == "" then return before[i] end
  return before[i] .. format("%%08x%%08x", n, n) .. after[i]
end
done = function(summary, latency)
  local e = summary.errors
  io.write(format('\\n{"requests": %%d, "micros": %%d, "p50": %%f, "p99": %%f, "errors": %%d}\\n', summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def installed() -> bool:
    """Whether wrk is on the PATH."""
    return shutil.which("wrk") is not None


def script(requests: Sequence[bytes]) -> str:
    """The Lua program that sends `requests` in turn; what follows `TRACE` in one makes it different each time."""
    parts = [request.partition(TRACE) for request in requests]
    return SCRIPT % {"before": ", ".join(quoted(part[0]) for part in parts), "after": ", ".join(quoted(part[2]) for part in parts)}


def quoted(data: bytes) -> str:
    """A Lua string literal."""
    return '"' + "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03d}" for byte in data) + '"'


def drive(target: Target, seconds: float, requests: Sequence[bytes], connections: int, scheme: str = "http") -> Load:
    """Run wrk for whole seconds on the load's core. Raises RuntimeError when it fails."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script(requests))
        file.flush()
        whole = str(max(1, round(seconds)))
        command = ["taskset", "-c", str(LOAD_CORE), "wrk", "-t1", f"-c{connections}", f"-d{whole}s", "-s", file.name]
        done = subprocess.run([*command, f"{scheme}://127.0.0.1:{target.port}/"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"wrk failed: {done.stderr or done.stdout}")
    return read(done.stdout)


def read(output: str) -> Load:
    """The line of our script in wrk's output."""
    found = json.loads(output.strip().rpartition("\n")[2])
    return Load(found["requests"], found["micros"] / 1e6, found["p50"] / 1e6, found["p99"] / 1e6, found["errors"])
