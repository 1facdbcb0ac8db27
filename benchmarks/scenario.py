"""What a scenario is: a name, a protocol, and a function that puts load on a port for some seconds and says what came back."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.load.tally import Tally


@dataclass(frozen=True)
class Target:
    """Where the load goes: the proxy's port on 127.0.0.1, and the port of the sink for the scenario that asks it what arrived."""

    port: int
    sink: int = 0


@dataclass(frozen=True)
class Load:
    """What one burst of load did. Latencies in seconds, None where the scenario has none; `errors` counts lost and failed operations."""

    operations: float
    seconds: float
    p50: float | None = None
    p99: float | None = None
    errors: int = 0


@dataclass(frozen=True)
class Scenario:
    """One table of the report. `backend` is the server behind TCP and UDP proxies; `direct` adds a row without a proxy."""

    name: str
    protocol: str
    unit: str
    drive: Callable[[Target, float], Load]
    backend: str = "D"
    short: bool = True
    direct: bool = False


def from_tally(tally: Tally) -> Load:
    """The load generator's counters as a `Load`."""
    if not tally.answers:
        return Load(0, tally.seconds, errors=tally.failures)
    return Load(tally.answers, tally.seconds, tally.latency(0.5), tally.latency(0.99), tally.failures)
