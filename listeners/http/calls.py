"""Calls of gRPC that have ended, counted by service and method.

Callers name what they like, so names are bounded: `METHODS` of them are kept apart, the rest is summed up as `OTHER`. A method gets its
name with the first call that its server did not say to be UNIMPLEMENTED, so that nobody fills the table with what does not exist.
"""

from __future__ import annotations

import re

from carrier.observe.meter import OTHER, Times
from carrier.wire.grpc import NAMES, UNIMPLEMENTED, UNKNOWN

METHODS = 100
"""Methods of one listener that are kept apart."""
LONG = 200
"""Bytes of a path that names one."""
_PATH = re.compile(rb"/([\w.]+)/(\w+)", re.ASCII)
_NO_NAME = (NAMES[UNIMPLEMENTED], "")


class Counted:
    """What is counted of one method. statuses: calls by the name of their status; times: how long they took."""

    __slots__ = ("statuses", "times")

    def __init__(self) -> None:
        self.statuses: dict[str, int] = {}
        self.times = Times()


class Calls:
    """See the module. methods: by service and method."""

    def __init__(self) -> None:
        self.methods: dict[tuple[str, str], Counted] = {}
        self._known: dict[bytes, Counted] = {}

    def count(self, target: bytes, status: str, seconds: float) -> None:
        """A call has ended. target: its path; status: the name of what was said of it, "" if nothing was."""
        counted = self._known.get(target) or self._counted(target, status)
        if status not in NAMES:
            status = NAMES[UNKNOWN]
        counted.statuses[status] = counted.statuses.get(status, 0) + 1
        counted.times.add(seconds)

    def _counted(self, target: bytes, status: str) -> Counted:
        found = _PATH.fullmatch(target) if len(target) <= LONG else None
        if found is None or status in _NO_NAME or len(self._known) >= METHODS:
            return self.methods.setdefault((OTHER, OTHER), Counted())
        counted = self._known[target] = self.methods[found[1].decode(), found[2].decode()] = Counted()
        return counted
