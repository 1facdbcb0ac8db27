"""Traces of the process: by the file, turned off by a reload, with a silent collector at its end; and a real one, where it was built."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carrier.cli.demo import free_ports
from tests.compliance.otelcol import PROGRAM, shown_by, understood
from tests.e2e.test_seen import Running
from tests.otlp import receiver, said

FILE = """
admin: {traces}
listeners:
  - name: web
    spec: {{protocol: HTTP, port: {web}, address: 127.0.0.1}}
    rules: [{{name: everybody, action: {{route: {{destination: {{name: shadow, spec: {{protocol: Answer, status: 200}}}}}}}}}}]
"""


class Traced(Running):
    """A `carrier run` whose file says this of traces."""

    def __init__(self, folder: Path, traces: str) -> None:
        self.web, self.admin = free_ports(2)
        self.file = folder / "c.yaml"
        self.says(traces)
        command = [sys.executable, "-m", "carrier", "run", "-c", str(self.file), "--admin", f"127.0.0.1:{self.admin}"]
        self.process = subprocess.Popen([*command, "--admin-socket", "off", "--drain-delay", "0"], stderr=subprocess.PIPE, text=True)
        self.reads("ready")

    def says(self, traces: str) -> None:
        self.file.write_text(FILE.format(traces=f"{{traces: {traces}}}" if traces else "{}", web=self.web))

    def reads(self, word: str) -> None:
        assert self.process.stderr is not None
        assert any(word in line for line in self.process.stderr)


def test_a_file_turns_traces_on_and_a_reload_off_and_the_metrics_name_a_trace(tmp_path: Path) -> None:
    with receiver() as collector:
        proxy = Traced(tmp_path, f"{{endpoint: '{collector.url}', ratio: 1, headers: {{x-token: do-not-show}}}}")
        try:
            assert proxy.get(proxy.web, "/a")[0].status == 200
            _, text = proxy.get(proxy.admin, "/metrics", accept="application/openmetrics-text")
            until = time.monotonic() + 20
            while not collector.spans and time.monotonic() < until:
                time.sleep(0.05)
            (span,) = collector.spans
            assert said(span)["url.path"] == "/a" and f'trace_id="{span.trace_id.hex()}"' in text
            assert collector.fields["x-token"] == "do-not-show"
            for path in ("/api/v1/config", "/api/v1/config?document=true", "/api/v1/admin", "/api/v1/status"):
                assert "do-not-show" not in proxy.get(proxy.admin, path)[1]
            proxy.says("")
            proxy.process.send_signal(signal.SIGHUP)
            proxy.reads("reload")
            assert proxy.get(proxy.web, "/b")[0].status == 200
            assert "carrier_trace_spans_total{" not in proxy.get(proxy.admin, "/metrics")[1]
        finally:
            proxy.process.terminate()
        assert proxy.process.wait(10) == 0 and len(collector.spans) == 1


def test_a_silent_collector_does_not_stop_the_end(tmp_path: Path) -> None:
    with receiver() as collector:
        collector.silent.set()
        proxy = Traced(tmp_path, f"{{endpoint: '{collector.url}', ratio: 1, timeout: 60}}")
        try:
            assert proxy.get(proxy.web, "/a")[0].status == 200
            until = time.monotonic() + 20
            while not collector.calls and time.monotonic() < until:
                time.sleep(0.05)
            assert proxy.get(proxy.web, "/b")[0].status == 200
        finally:
            began = time.monotonic()
            proxy.process.terminate()
        assert proxy.process.wait(10) == 0 and time.monotonic() - began < 8


@pytest.mark.skipif(not PROGRAM.exists(), reason="no collector was built here: make otelcol")
async def test_opentelemetrys_own_collector_understands_our_spans(tmp_path: Path) -> None:
    assert understood(await shown_by(PROGRAM, tmp_path)) == []
