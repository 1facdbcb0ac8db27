"""How a collector is spoken to: one that is busy is asked again, one that leads elsewhere is not followed."""

from __future__ import annotations

import threading
import time

import pytest

from carrier.config.traces import Settings
from carrier.observe import collector as module
from carrier.observe.collector import Collector
from carrier.wire.otlp import Span, export
from tests.otlp import receiver

SPAN = export({}, ("a", "b"), [Span("a", True, bytes(16), bytes(8), b"", 0, 0, {}, "", "")])


def test_one_that_is_busy_is_asked_again_and_then_has_what_it_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.05)
    with receiver() as found:
        found.status = 503
        threading.Timer(0.12, lambda: setattr(found, "status", 200)).start()
        Collector(Settings(found.url)).take(SPAN)
        assert len(found.spans) == 1 and found.calls >= 3 and found.fields["content-type"] == "application/x-protobuf"


def test_one_that_stays_busy_costs_no_more_than_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.05)
    with receiver() as found:
        found.status = 429
        began = time.monotonic()
        with pytest.raises(OSError, match="answers 429"):
            Collector(Settings(found.url, timeout=0.3)).take(SPAN)
        assert time.monotonic() - began < 2 and 2 <= found.calls <= 6


@pytest.mark.parametrize("status", [301, 307, 400, 404])
def test_one_that_refuses_or_leads_elsewhere_is_asked_once(status: int) -> None:
    with receiver() as found:
        found.status = status
        with pytest.raises(OSError, match=f"answers {status}"):
            Collector(Settings(found.url)).take(SPAN)
        assert found.calls == 1


def test_one_that_is_not_there_or_silent_is_told_with_the_reason() -> None:
    with pytest.raises(OSError, match=r"not reached: .*refused"):
        Collector(Settings("http://127.0.0.1:9")).take(SPAN)
    with receiver() as found:
        found.silent.set()
        with pytest.raises(OSError, match="timed out"):
            Collector(Settings(found.url, timeout=0.2)).take(SPAN)


def test_its_end_does_not_wait_for_another_try() -> None:
    with receiver() as found:
        found.status = 503
        asked = Collector(Settings(found.url))
        threading.Timer(0.1, asked.leaving.set).start()
        began = time.monotonic()
        with pytest.raises(OSError, match="503"):
            asked.take(SPAN)
        assert time.monotonic() - began < 0.45
