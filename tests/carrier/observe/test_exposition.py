"""Which format a scrape gets, and that nobody pays for the writer who is not scraped."""

from __future__ import annotations

import subprocess
import sys

import pytest

from carrier.observe.exposition import OPENMETRICS, TEXT, negotiate


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("application/openmetrics-text; version=1.0.0,text/plain;q=0.5", OPENMETRICS),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.9", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=x", TEXT),
    ],
)
def test_the_format_is_the_one_that_is_asked_for(accept: str, kind: str) -> None:
    assert negotiate(accept) == kind


def test_a_proxy_that_nobody_scrapes_does_not_load_prometheus_client() -> None:
    code = "import carrier.process.serve, carrier.observe.metrics, sys; print('prometheus_client' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (found.stdout, found.stderr) == ("False\n", "")
