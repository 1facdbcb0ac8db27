"""Samples to ratios, tables and JSON. Pure: samples in, text out.

ratio = the peer's CPU for one operation / ours, each round against the same round of ours, then the median: above 1, ours uses less.
growth = bytes of resident memory for one operation, from the end of the first round to the end of the last: what each leaves behind.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.measure import median


@dataclass(frozen=True)
class Sample:
    """One peer in one round. `cpu` is seconds of the proxy's process tree, None without a proxy; `rss` bytes; latencies seconds."""

    operations: float
    seconds: float
    cpu: float | None
    p50: float | None
    p99: float | None
    errors: int
    rss: int
    others: float  # share of the proxy's core that went to other programs meanwhile

    @property
    def cpu_per_operation(self) -> float | None:
        """CPU seconds for one operation, None when nothing was done."""
        return self.cpu / self.operations if self.cpu is not None and self.operations else None


@dataclass
class Result:
    """One scenario: rounds by peer, and why others are not in it."""

    scenario: str
    unit: str
    reference: str  # ratios compare with this peer
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def ratios(result: Result, peer: str) -> list[float]:
    """The peer's CPU per operation over the reference's, round by round; [] when one of them has none."""
    pairs = zip(result.samples.get(peer, ()), result.samples.get(result.reference, ()), strict=False)
    costs = [(theirs.cpu_per_operation, ours.cpu_per_operation) for theirs, ours in pairs]
    return [theirs / ours for theirs, ours in costs if theirs and ours]


def growth(samples: Sequence[Sample]) -> float | None:
    """Bytes of resident memory that one operation left behind after the first round; None with one round, or without a process."""
    operations = sum(sample.operations for sample in samples[1:])
    return (samples[-1].rss - samples[0].rss) / operations if operations and samples[0].rss else None


def row(result: Result, peer: str) -> dict[str, Any]:
    """The figures of one peer: medians over the rounds, errors in all, resident memory at its largest. Units are in the names."""
    samples = result.samples[peer]
    found = ratios(result, peer)
    cpu = median(s.cpu_per_operation for s in samples if s.cpu_per_operation is not None)
    p50, p99 = (median(v for v in values if v is not None) for values in ([s.p50 for s in samples], [s.p99 for s in samples]))
    return {
        "peer": peer,
        "ratio": median(found),
        "ratio_low": min(found, default=None),
        "ratio_high": max(found, default=None),
        "cpu_us": None if cpu is None else cpu * 1e6,
        "per_second": median(s.operations / s.seconds for s in samples),
        "p50_ms": None if p50 is None else p50 * 1e3,
        "p99_ms": None if p99 is None else p99 * 1e3,
        "rss_mib": max((s.rss for s in samples), default=0) / 2**20,
        "growth": growth(samples),
        "errors": sum(s.errors for s in samples),
        "others": max((s.others for s in samples), default=0.0),
    }


COLUMNS = (
    ("ratio", "ratio", "{:.2f}"),
    ("spread", "", ""),
    ("CPU µs", "cpu_us", "{:.2f}"),
    ("per second", "per_second", "{:,.0f}"),
    ("p50 ms", "p50_ms", "{:.2f}"),
    ("p99 ms", "p99_ms", "{:.2f}"),
    ("RSS MiB", "rss_mib", "{:.0f}"),
    ("growth B", "growth", "{:.1f}"),
    ("errors", "errors", "{:,}"),
    ("others", "others", "{:.0%}"),
)


def table(result: Result) -> str:
    """One scenario as a Markdown table, the reference first."""
    lines = [
        f"### {result.scenario}",
        f"per {result.unit}; ratio: CPU of the peer / CPU of {result.reference}",
        "",
        "| peer | " + " | ".join(title for title, _, _ in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    lines += [_line(row(result, peer)) for peer in sorted(result.samples, key=lambda name: name != result.reference)]
    lines += [f"\n{peer}: {why}" for peer, why in result.skipped.items()]
    return "\n".join(lines) + "\n"


def _line(figures: dict[str, Any]) -> str:
    """One row; what was not measured is a dash."""
    cells = [f"**{figures['peer']}**"]
    for title, key, form in COLUMNS:
        if title == "spread":
            known = figures["ratio_low"] is not None
            cells.append(f"{figures['ratio_low']:.2f}–{figures['ratio_high']:.2f}" if known else "–")
        else:
            cells.append("–" if figures[key] is None else form.format(figures[key]))
    return "| " + " | ".join(cells) + " |"


def summary(results: Sequence[Result]) -> str:
    """The ratios alone, scenarios down, peers across: what to look at first."""
    peers = list(dict.fromkeys(peer for result in results for peer in result.samples if peer != result.reference))
    lines = ["| ratio | " + " | ".join(peers) + " |", "|---" * (len(peers) + 1) + "|"]
    for result in results:
        found = {peer: median(ratios(result, peer)) for peer in peers}
        cells = ["–" if value is None else f"{value:.2f}" for value in found.values()]
        lines.append(f"| {result.scenario} (against {result.reference}) | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def as_json(results: Sequence[Result], machine: dict[str, Any]) -> dict[str, Any]:
    """Everything, with the single samples."""
    return {
        "machine": machine,
        "results": [
            {
                "scenario": result.scenario,
                "unit": result.unit,
                "reference": result.reference,
                "skipped": result.skipped,
                "rows": [row(result, peer) for peer in result.samples],
                "samples": {peer: [asdict(sample) for sample in samples] for peer, samples in result.samples.items()},
            }
            for result in results
        ],
    }
