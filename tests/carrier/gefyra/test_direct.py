"""The REST API at a pod's own address: with its token, and not without."""

import pytest

from carrier.gefyra.access import Fleet
from carrier.gefyra.daemon import settings_from
from carrier.gefyra.direct import DirectAccess
from carrier.log import Log
from carrier.model import Config
from carrier.process import serve
from tests.carrier.gefyra.world import World
from tests.ports import free_port


@pytest.fixture
async def proxy(tmp_path):
    """(port, token) of a proxy whose API is open to those who have the token."""
    (tmp_path / "tokens").write_text("operator: s3cret-s3cret-s3cret-s3cret\n")
    (tmp_path / "tokens").chmod(0o600)
    port = free_port()
    environment = {"CARRIER_ADMIN": f"127.0.0.1:{port}", "CARRIER_TOKENS": str(tmp_path / "tokens")}
    server = await serve.start(Config(), Log("error"), settings_from(environment, None))
    try:
        yield port, "s3cret-s3cret-s3cret-s3cret"
    finally:
        await server.close()


def pod(**status):
    return {"metadata": {"name": "web-0"}, "status": status}


async def test_a_call_is_answered_with_its_revision(proxy, tmp_path):
    access = DirectAccess(World(tmp_path), *proxy)
    answer = await access.call(pod(podIP="127.0.0.1"), "web", "GET", "bridges")
    assert (answer.status, answer.body) == (200, [])
    listener = {"name": "in", "spec": {"protocol": "TCP", "port": free_port()}, "rules": []}
    answer = await access.call(pod(podIP="127.0.0.1"), "web", "POST", "listeners", {"listener": listener})
    assert answer.good
    assert answer.revision > 1
    assert await access.get("Pod", "default", "nobody") is None


async def test_without_the_token_nothing_is_answered(proxy, tmp_path):
    access = DirectAccess(World(tmp_path), proxy[0], "wrong")
    assert (await access.call(pod(podIP="127.0.0.1"), "web", "GET", "bridges")).status == 401


async def test_a_pod_without_an_address_or_a_proxy_is_an_answer_that_says_so(tmp_path):
    fleet = Fleet(DirectAccess(World(tmp_path), free_port(), "t"), [pod(), pod(podIP="127.0.0.1")], "web")
    first, second = await fleet.call("GET", "bridges")
    assert (first.status, first.reason) == (0, "pod web-0 has no address yet")
    assert second.status == 0
    assert "refused" in second.reason
