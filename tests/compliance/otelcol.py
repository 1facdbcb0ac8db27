"""OpenTelemetry's own collector, built from Go's modules, takes our spans and shows what it understood: `make otelcol`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from carrier.config.traces import Settings
from carrier.core.ledger import Ledger
from carrier.core.trace import Tracer
from carrier.observe.spans import Spans
from tests.compliance.gotools import CACHE, built
from tests.conversation import Stage
from tests.ports import free_port

VERSION = "v0.165.0"
BUILDER = f"go.opentelemetry.io/collector/cmd/builder@{VERSION}"
PROGRAM = CACHE / f"otelcol-{VERSION}" / "otelcol"
MANIFEST = """
dist: {{name: otelcol, output_path: {folder}}}
receivers: [{{gomod: go.opentelemetry.io/collector/receiver/otlpreceiver {version}}}]
exporters: [{{gomod: go.opentelemetry.io/collector/exporter/debugexporter {version}}}]
"""
CONFIG = """
receivers: {{otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{port}"}}}}}}}}
exporters: {{debug: {{verbosity: detailed}}}}
service:
  pipelines: {{traces: {{receivers: [otlp], exporters: [debug]}}}}
  telemetry: {{metrics: {{level: none}}}}
"""
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def collector() -> Path:
    """The program, built if it is not there: some minutes, once. Ends the process, without failing, where that cannot be done."""
    if not PROGRAM.exists():
        builder = built(BUILDER) / "builder"
        with tempfile.TemporaryDirectory() as folder:
            manifest = Path(folder) / "manifest.yaml"
            manifest.write_text(MANIFEST.format(folder=Path(folder) / "made", version=VERSION))
            path = os.pathsep.join((os.environ["PATH"], "/usr/local/go/bin"))
            done = subprocess.run([builder, "--config", manifest], env={**os.environ, "PATH": path}, capture_output=True, timeout=1800)
            if done.returncode:
                print("skipped: the collector cannot be built here:", done.stderr.decode(errors="replace")[-500:])
                sys.exit(0)
            PROGRAM.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder) / "made" / "otelcol", PROGRAM)
    return PROGRAM


@contextlib.contextmanager
def collecting(program: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """A collector that runs: its URL, and the file of what it shows."""
    port, shown = free_port(), folder / "shown"
    (folder / "config.yaml").write_text(CONFIG.format(port=port))
    with open(shown, "wb") as out:
        process = subprocess.Popen([program, "--config", folder / "config.yaml"], stdout=out, stderr=subprocess.STDOUT)
    try:
        yield f"http://127.0.0.1:{port}", shown
    finally:
        process.terminate()
        process.wait(10)


async def shown_by(program: Path, folder: Path) -> str:
    """What the collector shows of one traced request."""
    with collecting(program, folder) as (url, shown):
        for _ in range(300):
            if "Everything is ready" in shown.read_text():
                break
            await asyncio.sleep(0.1)
        async with Stage() as stage:
            env = stage.proxy.env
            spans = Spans(Settings(url, 0), env.loop)
            env.ledger, env.tracer = Ledger(env.loop), Tracer(0)
            env.ledger.readers.append(spans.read)
            asks = f"GET /cart?item=1 HTTP/1.1\r\nhost: shop\r\ntraceparent: 00-{TRACE}-{SPAN}-01\r\n\r\n"
            client, server, _ = await stage.both(asks.encode())
            await server.says(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
            await client.head()
            client.goes()
            server.goes()
            env.ledger.settle()
            await asyncio.to_thread(spans.close, 20.0)
            assert (spans.sent, spans.failed, spans.dropped) == (2, 0, 0), spans.trouble
        for _ in range(100):
            if "http.response.status_code" in shown.read_text():
                break
            await asyncio.sleep(0.1)
        return shown.read_text()


def understood(text: str) -> list[str]:
    """What is missing in what the collector has shown."""
    wanted = [
        r"-> service\.name: Str\(carrier\)",
        rf"Trace ID\s*: {TRACE}",
        rf"Parent ID\s*: {SPAN}",
        r"Name\s*: GET all",
        r"Kind\s*: Server",
        r"Kind\s*: Client",
        r"Status code\s*: Error",
        r"Status message\s*: HTTP 503",
        r"-> http\.response\.status_code: Int\(503\)",
        r"-> url\.path: Str\(/cart\)",
        r"-> carrier\.rule: Str\(all\)",
    ]
    return [pattern for pattern in wanted if not re.search(pattern, text)]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        text = asyncio.run(shown_by(collector(), Path(folder)))
    missing = understood(text)
    print(text if missing else f"OpenTelemetry's collector {VERSION} understood both spans")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
