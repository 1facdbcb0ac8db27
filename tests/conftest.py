"""Tests run on the event loop that the proxy runs on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import uvloop

signal.signal(signal.SIGINT, signal.default_int_handler)  # of a script's background jobs it is ignored, and so by all that they start


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], Any]]:
    return {"uvloop": uvloop.new_event_loop}
