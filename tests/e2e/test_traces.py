"""Traces of the process: by the file, turned off by a reload, with a silent collector at its end; and a real one, where it was built."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import forked
from tests.compliance.otelcol import PROGRAM, shown_by, understood
from tests.e2e.test_seen import Running
from tests.otlp import receiver, said

FILE = """
admin: {traces}
listeners:
  - name: web
    spec: {{protocol: HTTP, port: 0, address: 127.0.0.1}}
    rules: [{{name: everybody, action: {{route: {{destination: {{name: shadow, spec: {{protocol: Answer, status: 200}}}}}}}}}}]
"""


class Traced(Running):
    """A `carrier run` whose file says this of traces."""

    def __init__(self, folder: Path, traces: str) -> None:
        self.file = folder / "c.yaml"
        self.says(traces)
        command = [sys.executable, "-m", "carrier", "run", "-c", str(self.file), "--admin", "127.0.0.1:0"]
        self.process = forked.Popen([*command, "--admin-socket", "off", "--drain-delay", "0"], stderr=subprocess.PIPE, text=True)
        self.web = int(self.reads("listening listener=web").rpartition(":")[2])
        self.admin = int(self.reads("the REST API listens address=").rpartition(":")[2])
        self.reads("ready revision=")

    def says(self, traces: str) -> None:
        self.file.write_text(FILE.format(traces=f"{{traces: {traces}}}" if traces else "{}"))

    def reads(self, words: str) -> str:
        """The next line of the log that has these."""
        assert self.process.stderr is not None
        return next(line for line in self.process.stderr if words in line)


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
            for path in ("config", "config?document=true", "revisions/1", "admin", "status", "audit"):
                answer, text = proxy.get(proxy.admin, f"/api/v1/{path}")
                assert answer.status == 200 and "do-not-show" not in text, path
            proxy.says("")
            proxy.process.send_signal(signal.SIGHUP)
            proxy.reads("reloaded")
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
