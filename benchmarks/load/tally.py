"""What a run of the load generator saw: answers by answerer, latencies, errors by kind. Knows no sockets and no clock."""

from collections import Counter
from typing import Any

EXACT_BITS = 10  # latencies are kept to 1 part in 1,024, so that a long run does not fill the memory


class Tally:
    """Counters of one run; `record` is called once for each answer and has to be cheap."""

    def __init__(self) -> None:
        self.answered_by: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()  # "user-3 wanted X, got Y"
        self.errors: Counter[str] = Counter()
        self.latencies: dict[int, int] = {}  # microseconds -> count
        self.unsent = 0  # due, but its connection was busy or down until the end
        self.seconds = 0.0

    def record(self, user: str, expect: str | None, who: str, seconds: float) -> None:
        """One answer for `user` from `who` after `seconds`; with `expect` it should have come from there."""
        micros = int(seconds * 1e6)
        surplus = micros.bit_length() - EXACT_BITS
        if surplus > 0:
            micros = micros >> surplus << surplus
        self.latencies[micros] = self.latencies.get(micros, 0) + 1
        self.answered_by[who] += 1
        if expect is not None and who != expect:
            self.wrong[f"{user} wanted {expect}, got {who}"] += 1

    @property
    def answers(self) -> int:
        """How many answers came, right or wrong."""
        return self.answered_by.total()

    @property
    def failures(self) -> int:
        """Wrong answerers and errors."""
        return self.wrong.total() + self.errors.total()

    def latency(self, share: float) -> float:
        """Seconds within which `share` (0..1) of the answers came; 0.0 without answers."""
        wanted, seen = share * self.answers, 0
        for micros in sorted(self.latencies):
            seen += self.latencies[micros]
            if seen >= wanted:
                return micros / 1e6
        return 0.0

    def report(self) -> dict[str, Any]:
        """All of it, ready for JSON; latencies in milliseconds."""
        return {
            "seconds": round(self.seconds, 3),
            "answers": self.answers,
            "per_second": round(self.answers / self.seconds, 1) if self.seconds else 0.0,
            "latency_ms": {name: round(self.latency(share) * 1e3, 3) for name, share in SHARES.items()},
            "answered_by": dict(self.answered_by.most_common()),
            "wrong": dict(self.wrong.most_common(20)),
            "wrong_total": self.wrong.total(),
            "errors": dict(self.errors.most_common()),
            "errors_total": self.errors.total(),
            "unsent": self.unsent,
        }


SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
