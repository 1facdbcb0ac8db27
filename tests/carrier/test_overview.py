"""What runs, told: where each kind of listener listens, and that no kind stands in the way of the overview."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from carrier.overview import address_of, overview
from tests.support import config, echo, listener, port_of, running


@pytest.mark.parametrize(("protocol", "address"), [("TCP", "127.0.0.1"), ("HTTP", "127.0.0.1"), ("UDP", "127.0.0.1"), ("TCP", "::1")])
async def test_a_port_that_the_kernel_chose_is_told(protocol: str, address: str) -> None:
    async with running(config(clusters=[echo()], listeners=[listener("in", protocol=protocol, spec={"address": address})])) as proxy:
        host = f"[{address}]" if ":" in address else address
        assert address_of(proxy.listeners["in"]) == f"{host}:{port_of(proxy, 'in')}"


@pytest.mark.parametrize("mode", ["stream", "dgram", "seqpacket"])
async def test_a_listener_at_a_file_is_told_by_the_file(mode: str, tmp_path: Path) -> None:
    path = str(tmp_path / "tcp.sock")
    at: dict[str, Any] = {"name": "in", "spec": {"protocol": "UnixDomainSocket", "filename": path, "mode": mode}, "rules": []}
    async with running(config(listeners=[at])) as proxy:
        assert address_of(proxy.listeners["in"]) == path
        assert re.search(re.escape(path), str(overview(proxy)["listeners"]))


async def test_an_abstract_name_is_told_as_it_is_written() -> None:
    name = "@carrier-overview-test"
    async with running(
        config(listeners=[{"name": "in", "spec": {"protocol": "UnixDomainSocket", "filename": name}, "rules": []}])
    ) as proxy:
        assert address_of(proxy.listeners["in"]) == name
