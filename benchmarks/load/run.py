"""A whole run: open all flows, pace them, stop, count. `run(plan)` blocks; it starts and ends its own event loop."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import uvloop

from benchmarks.load.flow import Flow, Run, User
from benchmarks.load.http import HttpFlow
from benchmarks.load.tally import Tally
from benchmarks.load.tcp import TcpFlow
from benchmarks.load.udp import UdpFlow
from benchmarks.load.websocket import WebSocketFlow

FLOWS: dict[str, type[Flow] | type[UdpFlow]] = {"http": HttpFlow, "tcp": TcpFlow, "udp": UdpFlow, "websocket": WebSocketFlow}
CHECK_SECONDS = 0.1
PACE_SECONDS = 0.001


@dataclass(frozen=True)
class Plan:
    """What to do: `rate` messages a second in all (None: closed loop) for `seconds`."""

    protocol: str  # a key of FLOWS
    users: Sequence[User]
    seconds: float
    rate: float | None = None
    timeout: float = 5.0
    in_flight: int = 1
    answer_header: str = "x-backend"


def run(plan: Plan) -> Tally:
    """Carry out `plan` and return what it saw."""
    return uvloop.run(_run(plan))


async def _run(plan: Plan) -> Tally:
    shared = Run(Tally(), plan.rate is None, plan.timeout, plan.answer_header.lower().encode(), plan.in_flight)
    flows = [FLOWS[plan.protocol](user, shared) for user in plan.users]
    started = perf_counter()
    timers = _Timers(flows, plan.rate, started)
    await asyncio.gather(*(flow.open() for flow in flows))
    await asyncio.sleep(max(0.0, plan.seconds - (perf_counter() - started)))
    shared.tally.seconds = perf_counter() - started
    shared.stopping = True
    timers.stop()
    for flow in flows:
        flow.finish()
    shared.tally.errors = +shared.tally.errors  # without the kinds that stayed at zero
    return shared.tally


class _Timers:
    """The two clocks of a run: one looks for what takes too long, one lets messages fall due (open loop)."""

    def __init__(self, flows: "Sequence[Flow | UdpFlow]", rate: float | None, started: float):
        self.flows = flows
        self.rate = rate or 0.0
        self.started = started
        self.count = 0
        self.loop = asyncio.get_running_loop()
        self.checking = self.loop.call_later(CHECK_SECONDS, self.check)
        self.pacing = self.loop.call_soon(self.pace) if rate else None

    def check(self) -> None:
        now = perf_counter()
        for flow in self.flows:
            flow.check(now)
        self.checking = self.loop.call_later(CHECK_SECONDS, self.check)

    def pace(self) -> None:
        """All that fell due since the last call, spread over the flows in turn."""
        for number in range(self.count, int((perf_counter() - self.started) * self.rate)):
            self.flows[number % len(self.flows)].due(self.started + number / self.rate)
            self.count = number + 1
        self.pacing = self.loop.call_later(PACE_SECONDS, self.pace)

    def stop(self) -> None:
        self.checking.cancel()
        if self.pacing:
            self.pacing.cancel()
