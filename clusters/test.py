"""Test cluster, as l7mp's: an endpoint echoes, or refuses, as the test has programmed it. Calls by the strict schema do not know it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from carrier.core.cluster import Cluster
from carrier.core.endpoint import Endpoint
from carrier.core.stream import Stream
from carrier.errors import Error

if TYPE_CHECKING:
    from carrier import model as config
    from carrier.core.env import Env
    from carrier.core.session import Session


class TestCluster(Cluster):
    """`spec: {protocol: Test}`. mode: what the next sessions get, in turn: "ok" or "fail"."""

    protocol = "Test"
    places = False
    __test__ = False

    def __init__(self, conf: config.Cluster, env: Env) -> None:
        super().__init__(conf, env)
        self.mode = ["ok"]
        self.round = 0

    def ready(self, session: Session, endpoint: Endpoint | None) -> Stream:
        mode = self.mode[self.round % len(self.mode)]
        self.round += 1
        if mode != "ok":
            raise Error("refused", "TestEndPoint.error", "upstream", "yes")
        return Stream()
