"""Gefyra's daemon with as many bridges as it may have to bear, made anew again and again."""

import shutil

import pytest

from tests.carrier.gefyra.operator import accepted
from tests.carrier.gefyra.test_daemon import answering, configured, pod, started
from tests.ports import free_port
from tests.support import tcp_server

__all__ = ["pod"]
pytestmark = pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed")


async def test_four_hundred_bridges_are_in_force_in_time_and_memory_does_not_grow_with_reloads(pod):
    port = free_port()
    pod.environment["CARRIER_PATIENCE"] = "1000"  # hundredths of a second; how long it took is judged below
    async with tcp_server(answering) as shadow:
        await started(pod, port, shadow.port)
        sizes, took = [], []
        for i in range(31):
            said = await pod.commit(configured(pod, port, shadow.port, 400 - i % 2))
            assert accepted(said), said
            took.append(pod.took)
            assert pod.used <= 0.8
            sizes.append(pod.resident())
        # The operator gives up after a second. What others do on this machine makes some wait for a processor, not all.
        assert min(took) <= 0.8
        assert sizes[-1] - sizes[10] < 1024, sizes
