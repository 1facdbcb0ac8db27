"""Tests run on the event loop that the proxy runs on."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import uvloop

from tests import forked

signal.signal(signal.SIGINT, signal.default_int_handler)  # of a script's background jobs it is ignored, and so by all that they start


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], Any]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Ten thousand tests are made, and none of them is garbage: the collector would look through all that is there again and again."""
    gc.disable()


def pytest_collection_finish() -> None:
    """They stay until the end: a test that collects looks only through what tests have made."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    forked.end()
