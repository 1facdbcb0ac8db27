"""A request that is traced: its span, those of its attempts, and who decides which requests are.

An unsampled request has none of this: nothing is made for it, and what it says of its trace goes on as it came. A sampled one's attempts
each have a span of their own, whose id goes upstream, so that the upstream's spans hang below the attempt that reached it.
"""

from __future__ import annotations

import math
import random
from time import monotonic
from typing import TYPE_CHECKING

from carrier.wire.trace import Context, context_of, new_span, new_trace, parent_line

if TYPE_CHECKING:
    from carrier.core.endpoint import Endpoint
    from carrier.errors import Error
    from carrier.wire.http import Head

ATTEMPTS = 32
"""Attempts of one request that have spans; a route may allow a million."""


class Attempt:
    """One try at one endpoint. began, ended: monotonic seconds, 0: not yet. failed: why; status: an answer that was asked again."""

    __slots__ = ("began", "cluster", "ended", "endpoint", "failed", "span", "status")

    def __init__(self, cluster: str, endpoint: Endpoint, began: float) -> None:
        self.span = new_span()
        self.cluster = cluster
        self.endpoint = endpoint
        self.began = began
        self.ended = 0.0
        self.failed: Error | None = None
        self.status = 0


class Trace:
    """See the module. trace, span, parent: ids in hex, parent b"" for a trace that begins here; state: its tracestate; fields: what the
    request's own lines are without ours; attempts beyond ATTEMPTS are only counted, in `more`."""

    __slots__ = ("attempts", "fields", "flags", "more", "parent", "span", "trace")

    def __init__(self, context: Context | None) -> None:
        self.trace = context.trace if context is not None else new_trace()
        self.parent = context.parent if context is not None else b""
        self.flags = (context.flags | 1) if context is not None else 3  # sampled, and random (level 2)
        self.span = new_span()
        self.fields = b"\r\n"
        self.attempts: list[Attempt] = []
        self.more = 0

    def attempt(self, cluster: str, endpoint: Endpoint, began: float = 0.0) -> bytes:
        """A new try: the field lines that go with it."""
        if len(self.attempts) >= ATTEMPTS:
            self.more += 1
            span = self.attempts[-1].span
        else:
            self.attempts.append(Attempt(cluster, endpoint, began or monotonic()))
            span = self.attempts[-1].span
        return parent_line(self.trace, span, self.flags) + self.fields

    def ended(self, error: Error | None, status: int = 0) -> None:
        """The last try has come to nothing."""
        if self.attempts and not self.attempts[-1].ended:
            last = self.attempts[-1]
            last.ended, last.failed, last.status = monotonic(), error, status or last.status


class Tracer:
    """Which requests are traced: those whose caller records them, none whose caller does not; of the others a part, at random.

    ratio: 0 to 1. left: of the requests without a word of it, how many are passed over before the next is traced; it was drawn, so that
    nothing need be drawn for each.
    """

    __slots__ = ("left", "ratio")

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self.left = passed_over(ratio)

    def is_next(self) -> bool:
        """A request that says nothing of a trace: is it to be sampled?"""
        self.left = left = self.left - 1
        return left < 0

    def sample(self, head: Head) -> Trace | None:
        """The trace of a request; None: it is not traced."""
        context = head.trace or (context_of(head) if head.trace is None else None)
        if context is None:
            if self.left >= 0 and not self.is_next():
                return None
            self.left = passed_over(self.ratio)
            return Trace(None)
        return Trace(context) if context.sampled else None


def passed_over(ratio: float) -> int:
    """How many requests go by before the next that is chosen, when each is with this probability: a draw of the geometric distribution."""
    if ratio <= 0:
        return 1 << 62
    return int(math.log(1 - random.random()) / math.log(1 - ratio)) if ratio < 1 else 0
