"""SCTP cluster: what needs no kernel support; the rest is in tests/listeners/test_sctp.py."""

from __future__ import annotations

import pytest

from carrier.errors import Error
from carrier.hops.sctp import missing
from clusters.sctp import SctpCluster
from tests.support import cluster, config, running


@pytest.mark.skipif(not missing(), reason="this kernel has SCTP")
async def test_this_kernel_lacks_it_and_the_configuration_is_refused_whole() -> None:
    async with running() as proxy:
        with pytest.raises(Error) as error:
            await proxy.apply(config(clusters=[cluster("up", 1, protocol="SCTP")]))
        assert error.value.kind == "config" and "SCTP needs a kernel that has it" in error.value.detail
        assert not proxy.clusters


def test_the_strict_check_wants_a_port() -> None:
    assert not SctpCluster.check({"protocol": "SCTP", "port": 5, "bind": {"address": "127.0.0.1"}})
    assert "needs 'port'" in str(SctpCluster.check({"protocol": "SCTP"})[0])
